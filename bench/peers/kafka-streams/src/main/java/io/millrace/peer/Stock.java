package io.millrace.peer;

import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import millrace.LevelCause;
import millrace.ShortLine;
import millrace.StockAdjustment;
import millrace.StockCommand;
import millrace.StockEvent;
import millrace.StockEventKind;
import millrace.StockLevel;
import millrace.StockLine;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** The ledger: the only writer of every balance. A group is granted whole or refused whole. */
final class Stock extends Stage {
    static final String BALANCES = "balances";
    static final String RESERVATIONS = "reservations";
    static final String ADJUSTED = "adjusted";

    private KeyValueStore<String, StockLevel> balances;
    private KeyValueStore<String, Reservation> reservations;
    private KeyValueStore<String, Long> adjusted;

    Stock(Map<String, String[]> routes) {
        super(routes);
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        super.init(context);
        balances = context.getStateStore(BALANCES);
        reservations = context.getStateStore(RESERVATIONS);
        adjusted = context.getStateStore(ADJUSTED);
    }

    @Override
    public void process(Record<String, SpecificRecord> record) {
        if (record.value() instanceof StockCommand command) {
            command(command);
        } else if (record.value() instanceof StockAdjustment adjustment) {
            adjustment(adjustment);
        }
    }

    private void command(StockCommand command) {
        Instant now = now();
        String name = command.getOrderId() + "/" + command.getAttempt();
        Reservation known = reservations.get(name);
        switch (command.getKind()) {
            case RESERVE -> {
                if (known == null) {
                    reserve(command, name, now);
                } else {
                    switch (known.getState()) {
                        case HELD -> answer(command, StockEventKind.RESERVED, lines(known), List.of(), now);
                        case RELEASED -> answer(command, StockEventKind.RELEASED, lines(known), List.of(), now);
                        case REFUSED -> answer(command, StockEventKind.INSUFFICIENT, List.of(), shorts(known), now);
                    }
                }
            }
            case RELEASE -> release(command, name, known, now);
            default -> { } // nothing ships on the measured path
        }
    }

    private void reserve(StockCommand command, String name, Instant now) {
        List<StockLine> wanted = command.getLines();
        List<StockLevel> found = new ArrayList<>(wanted.size());
        List<ReservedLine> refused = new ArrayList<>(0);
        for (StockLine line : wanted) {
            StockLevel level = balances.get(line.getSku());
            long available = level == null ? 0 : level.getOnHand() - level.getReserved();
            if (available < line.getQuantity()) {
                refused.add(new ReservedLine(line.getSku(), line.getQuantity(), available));
            }
            found.add(level);
        }
        if (!refused.isEmpty()) {
            Reservation reservation = new Reservation(ReservationState.REFUSED, refused);
            reservations.put(name, reservation);
            answer(command, StockEventKind.INSUFFICIENT, List.of(), shorts(reservation), now);
            return;
        }
        List<ReservedLine> held = new ArrayList<>(wanted.size());
        for (int at = 0; at < wanted.size(); at++) {
            StockLine line = wanted.get(at);
            StockLevel level = found.get(at);
            level.setReserved(level.getReserved() + line.getQuantity());
            publish(level, LevelCause.RESERVED, command.getOrderId(), now);
            held.add(new ReservedLine(line.getSku(), line.getQuantity(), 0L));
        }
        reservations.put(name, new Reservation(ReservationState.HELD, held));
        answer(command, StockEventKind.RESERVED, wanted, List.of(), now);
    }

    private void release(StockCommand command, String name, Reservation known, Instant now) {
        if (known == null) {
            reservations.put(name, new Reservation(ReservationState.RELEASED, List.of()));
            answer(command, StockEventKind.RELEASED, List.of(), List.of(), now);
            return;
        }
        switch (known.getState()) {
            case REFUSED -> answer(command, StockEventKind.RELEASED, List.of(), List.of(), now);
            case RELEASED -> answer(command, StockEventKind.RELEASED, lines(known), List.of(), now);
            case HELD -> {
                for (ReservedLine line : known.getLines()) {
                    StockLevel level = balances.get(line.getSku());
                    level.setReserved(level.getReserved() - line.getQuantity());
                    publish(level, LevelCause.RELEASED, command.getOrderId(), now);
                }
                known.setState(ReservationState.RELEASED);
                reservations.put(name, known);
                answer(command, StockEventKind.RELEASED, lines(known), List.of(), now);
            }
        }
    }

    private void adjustment(StockAdjustment adjustment) {
        Instant now = now();
        String id = adjustment.getSku() + "/" + adjustment.getAdjustmentId();
        if (adjusted.get(id) != null) {
            return;
        }
        StockLevel level = balances.get(adjustment.getSku());
        if (level == null) {
            level = new StockLevel();
            level.setSku(adjustment.getSku());
            level.setCauseId("");
        }
        long units = adjustment.getQuantity();
        LevelCause cause;
        switch (adjustment.getKind()) {
            case OPENING -> {
                level.setOpening(level.getOpening() + units);
                level.setOnHand(level.getOnHand() + units);
                cause = LevelCause.OPENING;
            }
            case RECEIPT -> {
                level.setReceived(level.getReceived() + units);
                level.setOnHand(level.getOnHand() + units);
                cause = LevelCause.RECEIPT;
            }
            case WRITE_OFF -> {
                level.setAdjusted(level.getAdjusted() - units);
                level.setOnHand(level.getOnHand() - units);
                cause = LevelCause.WRITE_OFF;
            }
            case COUNT -> {
                level.setAdjusted(level.getAdjusted() + units - level.getOnHand());
                level.setOnHand(units);
                cause = LevelCause.COUNT;
            }
            default -> {
                return;
            }
        }
        adjusted.put(id, now.toEpochMilli());
        publish(level, cause, adjustment.getAdjustmentId(), now);
    }

    private void publish(StockLevel level, LevelCause cause, String causeId, Instant now) {
        level.setVersion(level.getVersion() + 1);
        level.setCause(cause);
        level.setCauseId(causeId);
        level.setAt(now);
        balances.put(level.getSku(), level);
        emit(Topics.LEVELS, level.getSku(), level, now);
    }

    private void answer(
            StockCommand command, StockEventKind kind, List<StockLine> lines, List<ShortLine> shorts, Instant now) {
        emit(Topics.STOCK_EVENTS, command.getOrderId(),
                new StockEvent(command.getOrderId(), command.getAttempt(), partition(), kind,
                        command.getCommandId(), lines, shorts, now),
                now);
    }

    private static List<StockLine> lines(Reservation reservation) {
        List<StockLine> lines = new ArrayList<>(reservation.getLines().size());
        for (ReservedLine line : reservation.getLines()) {
            lines.add(new StockLine(line.getSku(), line.getQuantity()));
        }
        return lines;
    }

    private static List<ShortLine> shorts(Reservation reservation) {
        List<ShortLine> shorts = new ArrayList<>(reservation.getLines().size());
        for (ReservedLine line : reservation.getLines()) {
            shorts.add(new ShortLine(line.getSku(), line.getQuantity(), line.getAvailable()));
        }
        return shorts;
    }
}
