package io.millrace.peer;

import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import millrace.Money;
import millrace.OrderAccepted;
import millrace.OrderLine;
import millrace.OrderPlaced;
import millrace.OrderRejected;
import millrace.PricedLine;
import millrace.Product;
import millrace.RejectReason;
import millrace.StockLevel;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Takes orders in: each id once, valid, priced from the catalog. */
final class Intake extends Stage {
    static final String SEEN = "seen";
    private static final int LINES_MAX = 2_000;
    private static final int QUANTITY_MAX = 1_000_000;
    private static final int SKUS_NAMED_MAX = 50;

    private final Deserializer<Product> product;
    private final Deserializer<StockLevel> level;
    private final boolean soldOutAdvice;
    private KeyValueStore<String, String> seen;
    private KeyValueStore<String, byte[]> products;
    private KeyValueStore<String, byte[]> levels;

    Intake(
            Map<String, String[]> routes,
            Deserializer<Product> product,
            Deserializer<StockLevel> level,
            boolean soldOutAdvice) {
        super(routes);
        this.product = product;
        this.level = level;
        this.soldOutAdvice = soldOutAdvice;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        super.init(context);
        seen = context.getStateStore(SEEN);
        products = context.getStateStore(PeerTopology.PRODUCTS);
        levels = context.getStateStore(PeerTopology.LEVELS);
    }

    @Override
    public void process(Record<String, SpecificRecord> record) {
        OrderPlaced order = (OrderPlaced) record.value();
        if (order == null || !order.getOrderId().equals(record.key())) {
            return; // poison; Millrace keeps it in a dead-letter topic
        }
        String fingerprint = Fingerprint.of(order);
        String holder = seen.get(record.key());
        if (fingerprint.equals(holder)) {
            return;
        }
        Instant now = now();
        if (holder != null) {
            String detail = "this order id belongs to an order with other content";
            emit(Topics.REJECTED, record.key(),
                    rejected(order, fingerprint, now, new Refusal(RejectReason.CONFLICTING_DUPLICATE, detail, List.of())),
                    now);
            return;
        }
        seen.put(record.key(), fingerprint);
        try {
            emit(Topics.ACCEPTED, record.key(), accepted(order, fingerprint, now), now);
        } catch (Refusal refusal) {
            emit(Topics.REJECTED, record.key(), rejected(order, fingerprint, now, refusal), now);
        }
    }

    private OrderAccepted accepted(OrderPlaced order, String fingerprint, Instant now) throws Refusal {
        checkForm(order);
        TreeMap<String, Long> wanted = new TreeMap<>();
        for (OrderLine line : order.getLines()) {
            if (line.getQuantity() < 1) {
                throw new Refusal(RejectReason.BAD_QUANTITY, "every quantity must be at least 1", List.of(line.getSku()));
            }
            wanted.merge(line.getSku(), (long) line.getQuantity(), Long::sum);
        }
        List<PricedLine> lines = new ArrayList<>(wanted.size());
        List<String> unknown = new ArrayList<>(0);
        long total = 0;
        for (Map.Entry<String, Long> line : wanted.entrySet()) {
            if (line.getValue() > QUANTITY_MAX) {
                throw new Refusal(RejectReason.BAD_QUANTITY,
                        "at most " + QUANTITY_MAX + " pieces of one SKU are taken", List.of(line.getKey()));
            }
            byte[] found = products.get(line.getKey());
            Product offer = found == null ? null : product.deserialize(Topics.PRODUCTS, found);
            if (offer == null || !offer.getActive()) {
                unknown.add(line.getKey());
                continue;
            }
            if (!offer.getUnitPrice().getCurrency().equals(order.getCurrency())) {
                throw new Refusal(RejectReason.CURRENCY_MISMATCH,
                        "a SKU is not sold in \"" + order.getCurrency() + "\"", List.of(line.getKey()));
            }
            try {
                long price = offer.getUnitPrice().getMinor();
                long lineTotal = Math.multiplyExact(price, line.getValue());
                total = Math.addExact(total, lineTotal);
                lines.add(new PricedLine(line.getKey(), line.getValue().intValue(), price, lineTotal));
            } catch (ArithmeticException e) {
                throw new Refusal(RejectReason.AMOUNT_OVERFLOW, "the total is larger than any amount of money", List.of());
            }
        }
        if (!unknown.isEmpty()) {
            throw new Refusal(RejectReason.UNKNOWN_SKU, unknown.size() + " SKUs are not for sale", unknown);
        }
        Money expected = order.getExpectedTotal();
        if (expected != null
                && (expected.getMinor() != total || !expected.getCurrency().equals(order.getCurrency()))) {
            throw new Refusal(RejectReason.PRICE_CHANGED, "it costs " + total + " (minor units)", List.of());
        }
        if (soldOutAdvice) {
            checkStock(lines);
        }
        OrderAccepted accepted = new OrderAccepted();
        accepted.setOrderId(order.getOrderId());
        accepted.setCustomerId(order.getCustomerId());
        accepted.setLines(lines);
        accepted.setTotal(new Money(total, order.getCurrency()));
        accepted.setPaymentMethod(order.getPaymentMethod());
        accepted.setFingerprint(fingerprint);
        accepted.setChannel(order.getChannel());
        accepted.setPlacedAt(order.getPlacedAt());
        accepted.setAcceptedAt(now);
        return accepted;
    }

    private static void checkForm(OrderPlaced order) throws Refusal {
        if (order.getLines().isEmpty()) {
            throw new Refusal(RejectReason.EMPTY, "an order needs at least one line", List.of());
        }
        if (order.getLines().size() > LINES_MAX) {
            throw new Refusal(RejectReason.TOO_MANY_LINES,
                    order.getLines().size() + " lines, at most " + LINES_MAX + " are taken", List.of());
        }
        String token = order.getPaymentMethod();
        if (token.isEmpty()) {
            throw new Refusal(RejectReason.BAD_PAYMENT_METHOD,
                    "a payment method is needed: a token of the provider", List.of());
        }
        long digits = token.chars().filter(c -> c >= '0' && c <= '9').count();
        if (digits >= 12 && token.chars().allMatch(c -> (c >= '0' && c <= '9') || c == ' ' || c == '-')) {
            throw new Refusal(RejectReason.BAD_PAYMENT_METHOD,
                    "this looks like a card number; only tokens are taken", List.of());
        }
    }

    /** Refuses what is plainly sold out; advice, the ledger has the last word. */
    private void checkStock(List<PricedLine> lines) throws Refusal {
        List<String> short_ = new ArrayList<>(0);
        for (PricedLine line : lines) {
            byte[] found = levels.get(line.getSku());
            if (found != null) {
                StockLevel balance = level.deserialize(Topics.LEVELS, found);
                if (balance.getOnHand() - balance.getReserved() < line.getQuantity()) {
                    short_.add(line.getSku());
                }
            }
        }
        if (!short_.isEmpty()) {
            throw new Refusal(RejectReason.SOLD_OUT, "fewer are left than wanted", short_);
        }
    }

    private static OrderRejected rejected(OrderPlaced order, String fingerprint, Instant now, Refusal refusal) {
        OrderRejected rejected = new OrderRejected();
        rejected.setOrderId(order.getOrderId());
        rejected.setCustomerId(order.getCustomerId());
        rejected.setReason(refusal.reason);
        rejected.setDetail(refusal.getMessage());
        rejected.setSkus(refusal.skus);
        rejected.setFingerprint(fingerprint);
        rejected.setPlacedAt(order.getPlacedAt());
        rejected.setRejectedAt(now);
        return rejected;
    }

    /** Why an order is refused; thrown without a stack trace, since it is an everyday outcome. */
    private static final class Refusal extends Exception {
        final RejectReason reason;
        final List<String> skus;

        Refusal(RejectReason reason, String detail, List<String> skus) {
            super(detail, null, false, false);
            this.reason = reason;
            this.skus = skus.size() > SKUS_NAMED_MAX ? skus.subList(0, SKUS_NAMED_MAX) : skus;
        }
    }
}
