package io.millrace.peer;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import millrace.AdjustmentKind;
import millrace.CancelReason;
import millrace.CancelRequested;
import millrace.Money;
import millrace.OrderEvent;
import millrace.OrderLine;
import millrace.OrderPlaced;
import millrace.OrderRejected;
import millrace.OrderStatus;
import millrace.PaymentState;
import millrace.Product;
import millrace.RejectReason;
import millrace.StockAdjustment;
import millrace.StockLevel;
import org.apache.avro.Schema;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The path of an order through both wirings, without a broker: every topic has one partition. */
class PathTest {
    private static final Instant AT = Instant.ofEpochMilli(1_760_000_000_000L);

    @TempDir
    Path dir;

    private Codecs codecs;
    private TopologyTestDriver driver;
    private Provider provider;

    private void open(boolean fused) throws Exception {
        Map<String, Integer> ids = new HashMap<>();
        codecs = new Codecs(subject -> ids.computeIfAbsent(subject, s -> ids.size() + 1), id -> null);
        provider = Provider.open(dir.resolve("ledger-" + fused));
        Properties streams = new Properties();
        streams.put(StreamsConfig.APPLICATION_ID_CONFIG, "test");
        streams.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "nowhere:1");
        streams.put(StreamsConfig.STATE_DIR_CONFIG, dir.resolve("state-" + fused).toString());
        Settings settings = new Settings("", 0, "", fused, true, 1, true, streams);
        driver = new TopologyTestDriver(PeerTopology.build(settings, codecs, provider), streams, AT);
        for (String sku : List.of("tea", "cup", "pot")) {
            send(Topics.PRODUCTS, Product.SCHEMA$, sku, new Product(sku, "", new Money(250L, "GBP"), true, AT));
            send(Topics.ADJUSTMENTS, StockAdjustment.SCHEMA$, sku,
                    new StockAdjustment("opening", sku, AdjustmentKind.OPENING, 5L, "", AT));
        }
    }

    private <T extends SpecificRecord> void send(String topic, Schema schema, String key, T value) {
        @SuppressWarnings("unchecked")
        Class<T> type = (Class<T>) value.getClass();
        TestInputTopic<String, T> input = driver.createInputTopic(
                topic, new StringSerializer(), codecs.ofTopic(topic, type, schema).serializer());
        input.pipeInput(key, value, AT);
    }

    private <T extends SpecificRecord> Map<String, T> latest(String topic, Class<T> type, Schema schema) {
        return driver.createOutputTopic(topic, new StringDeserializer(), codecs.ofTopic(topic, type, schema).deserializer())
                .readKeyValuesToMap();
    }

    private void place(String id, String token, int quantity, String... skus) {
        List<OrderLine> lines = java.util.Arrays.stream(skus).map(sku -> new OrderLine(sku, quantity)).toList();
        send(Topics.PLACED, OrderPlaced.SCHEMA$, id, new OrderPlaced(id, "ann", "GBP", lines, token, null, "test", AT));
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void ordersAreConfirmedCancelledAndRefusedAsTheyShould(boolean fused) throws Exception {
        open(fused);
        place("good", "tok_visa", 2, "tea", "cup", "tea");
        place("good", "tok_visa", 2, "tea", "cup", "tea");
        place("declined", "tok_declined", 1, "pot");
        place("unknown", "tok_visa", 1, "no such thing");
        place("good", "tok_visa", 1, "pot");
        Map<String, OrderEvent> orders = latest(Topics.ORDER_EVENTS, OrderEvent.class, OrderEvent.SCHEMA$);
        assertEquals(OrderStatus.CONFIRMED, orders.get("good").getStatus());
        assertEquals(6 * 250L, orders.get("good").getTotal().getMinor());
        assertEquals(OrderStatus.CANCELLED, orders.get("declined").getStatus());
        assertEquals(CancelReason.PAYMENT_DECLINED, orders.get("declined").getCancelReason());
        Map<String, OrderRejected> refused = latest(Topics.REJECTED, OrderRejected.class, OrderRejected.SCHEMA$);
        assertEquals(RejectReason.UNKNOWN_SKU, refused.get("unknown").getReason());
        assertEquals(RejectReason.CONFLICTING_DUPLICATE, refused.get("good").getReason());
        Map<String, StockLevel> levels = latest(Topics.LEVELS, StockLevel.class, StockLevel.SCHEMA$);
        assertEquals(4, levels.get("tea").getReserved());
        assertEquals(2, levels.get("cup").getReserved());
        assertEquals(0, levels.get("pot").getReserved());
        driver.close();
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aCancelLetsEverythingGoAndComesEarlyToo(boolean fused) throws Exception {
        open(fused);
        place("late", "tok_visa", 1, "tea", "pot");
        cancel("late");
        cancel("early");
        place("early", "tok_visa", 1, "cup");
        Map<String, OrderEvent> orders = latest(Topics.ORDER_EVENTS, OrderEvent.class, OrderEvent.SCHEMA$);
        for (String id : List.of("late", "early")) {
            assertEquals(OrderStatus.CANCELLED, orders.get(id).getStatus(), id);
            assertEquals(CancelReason.CUSTOMER, orders.get(id).getCancelReason(), id);
            assertEquals(PaymentState.VOIDED, orders.get(id).getPayment(), id);
        }
        Map<String, StockLevel> levels = latest(Topics.LEVELS, StockLevel.class, StockLevel.SCHEMA$);
        levels.values().forEach(level -> assertEquals(0, level.getReserved(), level.getSku()));
        assertTrue(provider.accounts().stream().noneMatch(account -> account.live));
        driver.close();
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aProvidersLedgerSurvivesItsProcess(boolean fused) throws Exception {
        open(fused);
        place("good", "tok_visa", 1, "tea");
        List<String> before = provider.accounts().stream().map(Provider.Account::toJson).toList();
        driver.close();
        provider.close();
        Provider again = Provider.open(dir.resolve("ledger-" + fused));
        assertEquals(before, again.accounts().stream().map(Provider.Account::toJson).toList());
        Provider.Answer answer = again.authorize("good", "good/authorize/1", 250, "GBP", "tok_visa");
        assertTrue(answer.approved(), "the key is answered as it was");
        assertEquals(1, again.accounts().iterator().next().authorizations);
    }

    private void cancel(String id) {
        send(Topics.CANCEL_REQUESTED, CancelRequested.SCHEMA$, id, new CancelRequested(id, "c-" + id, "", "ann", AT));
    }
}
