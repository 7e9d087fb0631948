package io.millrace.peer;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import millrace.CancelReason;
import millrace.CancelRequested;
import millrace.Group;
import millrace.GroupState;
import millrace.Money;
import millrace.OrderAccepted;
import millrace.OrderEvent;
import millrace.OrderEventKind;
import millrace.OrderStatus;
import millrace.PaymentCommand;
import millrace.PaymentCommandKind;
import millrace.PaymentEvent;
import millrace.PaymentState;
import millrace.PricedLine;
import millrace.ShortLine;
import millrace.StockCommand;
import millrace.StockCommandKind;
import millrace.StockEvent;
import millrace.StockLine;
import millrace.WaitsFor;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Keeps the order after payment: reserves its lines per stock partition, confirms it when all are
 * granted, otherwise lets go what was granted and gives the money back. Up to the confirmation and
 * for every way to cancelled; shipping is not on the measured path. Inputs may come in any order.
 */
final class Fulfillment extends Stage {
    static final String LINES = "lines";
    static final String ORDERS = "orders";
    private static final Duration RESERVATION_TIMEOUT = Duration.ofSeconds(30);
    private static final Duration PAYMENT_TIMEOUT = Duration.ofSeconds(20);
    private static final Duration CANCEL_TIMEOUT = Duration.ofSeconds(30);
    private static final Duration SHIPPING_TIMEOUT = Duration.ofDays(5);

    private final int stockPartitions;
    private KeyValueStore<String, OrderAccepted> lines;
    private KeyValueStore<String, OrderEvent> orders;

    Fulfillment(Map<String, String[]> routes, int stockPartitions) {
        super(routes);
        this.stockPartitions = stockPartitions;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        super.init(context);
        lines = context.getStateStore(LINES);
        orders = context.getStateStore(ORDERS);
    }

    @Override
    public void process(Record<String, SpecificRecord> record) {
        if (record.value() instanceof OrderAccepted accepted) {
            lines.put(accepted.getOrderId(), accepted);
            onAccepted(accepted);
        } else if (record.value() instanceof PaymentEvent payment) {
            onPayment(payment);
        } else if (record.value() instanceof StockEvent answer) {
            onStock(answer);
        } else if (record.value() instanceof CancelRequested request) {
            onCancel(request);
        }
    }

    private void onAccepted(OrderAccepted accepted) {
        OrderEvent order = orders.get(accepted.getOrderId());
        if (order == null || order.getStatus() != OrderStatus.AWAITING_ORDER) {
            return; // until the money is held, payment's event says whom the order waits for
        }
        knows(order, accepted);
        if (order.getCancelWanted()) {
            finish(order, OrderStatus.AWAITING_PAYMENT, OrderEventKind.NOTED, "order read, cancel wanted");
        } else {
            reserve(order, accepted);
        }
    }

    private void onPayment(PaymentEvent payment) {
        if (payment.getState() == PaymentState.UNKNOWN || payment.getState() == PaymentState.VOIDING) {
            return;
        }
        OrderEvent order = orders.get(payment.getOrderId());
        boolean unknown = order == null;
        boolean held = payment.getState() == PaymentState.AUTHORIZED;
        boolean asked = payment.getState() == PaymentState.AUTHORIZING;
        if (unknown && asked) {
            return;
        }
        if (unknown) {
            order = nothingKnown(payment.getOrderId());
        }
        if (rank(payment.getState()) <= rank(order.getPayment())) {
            return;
        }
        order.setPayment(payment.getState());
        if (order.getTotal() == null && !payment.getCurrency().isEmpty()) {
            order.setTotal(new Money(payment.getRequestedMinor(), payment.getCurrency()));
        }
        if (asked) {
            giveMoneyBack(order);
            finish(order, OrderStatus.AWAITING_PAYMENT, OrderEventKind.NOTED, "to be voided once authorized");
        } else if (held && unknown) {
            OrderAccepted accepted = lines.get(payment.getOrderId());
            if (accepted == null) {
                finish(order, OrderStatus.AWAITING_ORDER, OrderEventKind.NOTED, "authorized, order not read yet");
            } else {
                knows(order, accepted);
                reserve(order, accepted);
            }
        } else if (held) {
            cancel(order, CancelReason.CUSTOMER, "the money is given back", false);
        } else {
            switch (order.getStatus()) {
                case CANCELLING -> cancelledIfDone(order, "money given back", false);
                case CANCELLED -> finish(order, OrderStatus.CANCELLED, OrderEventKind.NOTED,
                        "payment " + payment.getState());
                default -> cancel(order, payment.getState() == PaymentState.DECLINED
                        ? CancelReason.PAYMENT_DECLINED : CancelReason.PAYMENT_EXPIRED,
                        "payment " + payment.getState(), false);
            }
        }
    }

    private void onStock(StockEvent answer) {
        OrderEvent order = orders.get(answer.getOrderId());
        if (order == null) {
            return;
        }
        Group group = null;
        for (Group asked : order.getGroups()) {
            if (asked.getStockPartition() == answer.getStockPartition() && asked.getAttempt() == answer.getAttempt()) {
                group = asked;
            }
        }
        if (group == null) {
            return;
        }
        boolean reserving = order.getStatus() == OrderStatus.RESERVING;
        boolean cancelling = order.getStatus() == OrderStatus.CANCELLING;
        switch (answer.getKind()) {
            case RESERVED -> {
                if (reserving && group.getState() == GroupState.REQUESTED) {
                    group.setState(GroupState.GRANTED);
                    boolean all = order.getGroups().stream().allMatch(g -> g.getState() == GroupState.GRANTED);
                    if (all) {
                        finish(order, OrderStatus.CONFIRMED, OrderEventKind.CONFIRMED, "");
                    } else {
                        finish(order, OrderStatus.RESERVING, OrderEventKind.NOTED, "group granted");
                    }
                }
            }
            case INSUFFICIENT, RELEASED -> {
                if (reserving && group.getState() == GroupState.REQUESTED) {
                    group.setState(GroupState.REFUSED);
                    cancel(order, CancelReason.OUT_OF_STOCK, shortage(answer), false);
                } else if (cancelling && group.getState() == GroupState.RELEASING) {
                    boolean refused = answer.getKind() == millrace.StockEventKind.INSUFFICIENT;
                    group.setState(refused ? GroupState.REFUSED : GroupState.RELEASED);
                    cancelledIfDone(order, refused ? "group was not granted" : "group released", false);
                }
            }
            default -> { }
        }
    }

    private void onCancel(CancelRequested request) {
        String why = "cancel " + request.getRequestId() + " by " + request.getRequestedBy() + ": " + request.getReason();
        OrderEvent order = orders.get(request.getOrderId());
        if (order == null) {
            order = nothingKnown(request.getOrderId());
            order.setCancelWanted(true);
            order.setCancelReason(CancelReason.CUSTOMER);
            OrderAccepted accepted = lines.get(request.getOrderId());
            if (accepted != null) {
                knows(order, accepted);
            }
            giveMoneyBack(order); // payment remembers it, whatever it knows of the order
            finish(order, accepted == null ? OrderStatus.AWAITING_ORDER : OrderStatus.AWAITING_PAYMENT,
                    OrderEventKind.CANCEL_REQUESTED, why);
            return;
        }
        boolean open = order.getStatus() == OrderStatus.RESERVING || order.getStatus() == OrderStatus.CONFIRMED
                || (order.getStatus() == OrderStatus.AWAITING_ORDER && !order.getCancelWanted());
        if (open) {
            order.setCancelWanted(true);
            cancel(order, CancelReason.CUSTOMER, why, true);
        }
    }

    /** One command per group of lines whose SKUs live on one stock partition. */
    private void reserve(OrderEvent order, OrderAccepted accepted) {
        TreeMap<Integer, List<StockLine>> grouped = new TreeMap<>();
        for (PricedLine line : accepted.getLines()) {
            byte[] sku = line.getSku().getBytes(StandardCharsets.UTF_8);
            int owner = Utils.toPositive(Utils.murmur2(sku)) % stockPartitions;
            grouped.computeIfAbsent(owner, partition -> new ArrayList<>())
                    .add(new StockLine(line.getSku(), line.getQuantity()));
        }
        List<Group> groups = new ArrayList<>(grouped.size());
        Instant now = now();
        grouped.forEach((partition, wanted) -> {
            Group group = new Group(partition, wanted.get(0).getSku(), GroupState.REQUESTED, 1);
            groups.add(group);
            tellStock(order, group, StockCommandKind.RESERVE, wanted, now);
        });
        order.setGroups(groups);
        finish(order, OrderStatus.RESERVING, OrderEventKind.RESERVATION_REQUESTED, "");
    }

    /** Takes the shortest way to cancelled: lets go what was asked for, gives the money back. */
    private void cancel(OrderEvent order, CancelReason reason, String detail, boolean asked) {
        if (order.getCancelReason() == null) {
            order.setCancelReason(reason);
        }
        Instant now = now();
        for (Group group : order.getGroups()) {
            if (group.getState() == GroupState.REQUESTED || group.getState() == GroupState.GRANTED) {
                group.setState(GroupState.RELEASING);
                tellStock(order, group, StockCommandKind.RELEASE, List.of(), now);
            }
        }
        giveMoneyBack(order);
        cancelledIfDone(order, detail, asked);
    }

    private void cancelledIfDone(OrderEvent order, String detail, boolean asked) {
        boolean done = rank(order.getPayment()) == GONE && order.getGroups().stream().allMatch(Fulfillment::isSettled);
        OrderEventKind kind = done ? OrderEventKind.CANCELLED
                : order.getStatus() == OrderStatus.CANCELLING ? OrderEventKind.NOTED
                : asked ? OrderEventKind.CANCEL_REQUESTED : OrderEventKind.CANCELLING;
        finish(order, done ? OrderStatus.CANCELLED : OrderStatus.CANCELLING, kind, detail);
    }

    private void giveMoneyBack(OrderEvent order) {
        if (rank(order.getPayment()) == GONE) {
            return;
        }
        Instant now = now();
        emit(Topics.PAYMENT_COMMANDS, order.getOrderId(),
                new PaymentCommand(order.getOrderId(), PaymentCommandKind.VOID, null, "cancelled", now), now);
    }

    private void tellStock(
            OrderEvent order, Group group, StockCommandKind kind, List<StockLine> wanted, Instant now) {
        emit(Topics.STOCK_COMMANDS, group.getKey(),
                new StockCommand(order.getOrderId(), group.getAttempt(), kind, "", wanted, now), now);
    }

    private void finish(OrderEvent order, OrderStatus status, OrderEventKind kind, String detail) {
        Instant now = now();
        WaitsFor before = order.getWaitsFor();
        boolean same = order.getStatus() == status;
        order.setStatus(status);
        order.setKind(kind);
        order.setVersion(order.getVersion() + 1);
        order.setDetail(detail);
        order.setAt(now);
        order.setWaitsFor(waitsFor(order));
        if (status == OrderStatus.CANCELLED) {
            order.setUntil(null);
        } else if (!same || order.getUntil() == null || order.getWaitsFor() != before) {
            Duration pause = switch (order.getWaitsFor()) {
                case WAREHOUSE -> SHIPPING_TIMEOUT;
                case STOCK -> status == OrderStatus.CANCELLING ? CANCEL_TIMEOUT : RESERVATION_TIMEOUT;
                default -> status == OrderStatus.CANCELLING ? CANCEL_TIMEOUT : PAYMENT_TIMEOUT;
            };
            order.setUntil(now.plus(pause));
        }
        orders.put(order.getOrderId(), order);
        emit(Topics.ORDER_EVENTS, order.getOrderId(), order, now);
    }

    private static WaitsFor waitsFor(OrderEvent order) {
        return switch (order.getStatus()) {
            case AWAITING_ORDER -> WaitsFor.INTAKE;
            case AWAITING_PAYMENT -> WaitsFor.PAYMENT;
            case RESERVING -> WaitsFor.STOCK;
            case CONFIRMED -> WaitsFor.WAREHOUSE;
            case CANCELLING -> order.getGroups().stream().allMatch(Fulfillment::isSettled)
                    ? WaitsFor.PAYMENT : WaitsFor.STOCK;
            case CANCELLED -> WaitsFor.NOBODY;
            default -> WaitsFor.UNKNOWN;
        };
    }

    private static boolean isSettled(Group group) {
        return group.getState() == GroupState.REFUSED || group.getState() == GroupState.RELEASED;
    }

    private static final int GONE = 4;

    /** What is known of the money, coarse enough that it only ever goes forward. */
    private static int rank(PaymentState state) {
        return switch (state) {
            case UNKNOWN -> 0;
            case AUTHORIZING -> 1;
            case AUTHORIZED, CAPTURING, VOIDING -> 2;
            case CAPTURED, REFUNDING -> 3;
            case DECLINED, VOIDED, REFUNDED, EXPIRED -> GONE;
        };
    }

    private static void knows(OrderEvent order, OrderAccepted accepted) {
        order.setCustomerId(accepted.getCustomerId());
        order.setTotal(accepted.getTotal());
    }

    private static String shortage(StockEvent event) {
        StringBuilder detail = new StringBuilder("short:");
        for (ShortLine line : event.getShort$()) {
            detail.append(' ').append(line.getSku()).append(" (wanted ").append(line.getWanted())
                    .append(", available ").append(line.getAvailable()).append(')');
        }
        return detail.toString();
    }

    private static OrderEvent nothingKnown(String orderId) {
        OrderEvent order = new OrderEvent();
        order.setOrderId(orderId);
        order.setKind(OrderEventKind.NOTED);
        order.setStatus(OrderStatus.UNKNOWN);
        order.setCustomerId("");
        order.setPayment(PaymentState.UNKNOWN);
        order.setGroups(new ArrayList<>(0));
        order.setProgress(List.of());
        order.setShipments(List.of());
        order.setWaitsFor(WaitsFor.UNKNOWN);
        order.setDetail("");
        return order;
    }
}
