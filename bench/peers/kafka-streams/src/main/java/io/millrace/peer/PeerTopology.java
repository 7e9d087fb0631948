package io.millrace.peer;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import millrace.CancelRequested;
import millrace.OrderAccepted;
import millrace.OrderEvent;
import millrace.OrderPlaced;
import millrace.OrderRejected;
import millrace.PaymentCommand;
import millrace.PaymentEvent;
import millrace.Product;
import millrace.StockAdjustment;
import millrace.StockCommand;
import millrace.StockEvent;
import millrace.StockLevel;
import org.apache.avro.Schema;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Which topic feeds which processor. Two wirings of the same five processors: joined by topics (then
 * Kafka Streams makes three sub-topologies: intake; payment, fulfillment and tracking; stock), or
 * fused, where the processors keyed by order id hand records to each other in memory as well. Every
 * topic is written either way.
 */
final class PeerTopology {
    static final String PRODUCTS = "catalog-products";
    static final String LEVELS = "stock-levels";
    private static final String INTAKE = "intake";
    private static final String PAYMENT = "payment";
    private static final String FULFILLMENT = "fulfillment";
    private static final String TRACKING = "tracking";
    private static final String STOCK = "stock";
    private static final String[] NOBODY = {};

    private final Settings settings;
    private final Topology topology = new Topology();
    private final Map<String, Serde<? extends SpecificRecord>> serdes = new HashMap<>();

    private PeerTopology(Settings settings) {
        this.settings = settings;
    }

    static Topology build(Settings settings, Codecs codecs, Provider provider) {
        return new PeerTopology(settings).wired(codecs, provider);
    }

    private Topology wired(Codecs codecs, Provider provider) {
        Serde<OrderAccepted> accepted = topic(codecs, Topics.ACCEPTED, OrderAccepted.class, OrderAccepted.SCHEMA$);
        Serde<OrderRejected> rejected = topic(codecs, Topics.REJECTED, OrderRejected.class, OrderRejected.SCHEMA$);
        Serde<PaymentEvent> payment = topic(codecs, Topics.PAYMENT_EVENTS, PaymentEvent.class, PaymentEvent.SCHEMA$);
        Serde<OrderEvent> order = topic(codecs, Topics.ORDER_EVENTS, OrderEvent.class, OrderEvent.SCHEMA$);
        Serde<Product> product = topic(codecs, Topics.PRODUCTS, Product.class, Product.SCHEMA$);
        Serde<StockLevel> level = topic(codecs, Topics.LEVELS, StockLevel.class, StockLevel.SCHEMA$);
        topic(codecs, Topics.PLACED, OrderPlaced.class, OrderPlaced.SCHEMA$);
        topic(codecs, Topics.CANCEL_REQUESTED, CancelRequested.class, CancelRequested.SCHEMA$);
        topic(codecs, Topics.PAYMENT_COMMANDS, PaymentCommand.class, PaymentCommand.SCHEMA$);
        topic(codecs, Topics.STOCK_COMMANDS, StockCommand.class, StockCommand.SCHEMA$);
        topic(codecs, Topics.STOCK_EVENTS, StockEvent.class, StockEvent.SCHEMA$);
        topic(codecs, Topics.ADJUSTMENTS, StockAdjustment.class, StockAdjustment.SCHEMA$);

        boolean fused = settings.fused();
        sources(fused
                ? List.of(Topics.PLACED, Topics.PAYMENT_COMMANDS, Topics.STOCK_EVENTS, Topics.CANCEL_REQUESTED,
                        Topics.STOCK_COMMANDS, Topics.ADJUSTMENTS)
                : List.of(Topics.PLACED, Topics.ACCEPTED, Topics.REJECTED, Topics.PAYMENT_COMMANDS,
                        Topics.PAYMENT_EVENTS, Topics.STOCK_EVENTS, Topics.CANCEL_REQUESTED, Topics.ORDER_EVENTS,
                        Topics.STOCK_COMMANDS, Topics.ADJUSTMENTS));

        // Who takes a record from memory when the processors of one key are fused, in this order.
        Map<String, String[]> heard = !fused ? Map.of() : Map.of(
                Topics.ACCEPTED, new String[] {TRACKING, FULFILLMENT, PAYMENT},
                Topics.REJECTED, new String[] {TRACKING},
                Topics.PAYMENT_EVENTS, new String[] {TRACKING, FULFILLMENT},
                Topics.ORDER_EVENTS, new String[] {TRACKING});

        processor(INTAKE, List.of(Topics.PLACED), List.of(),
                List.of(Topics.ACCEPTED, Topics.REJECTED), heard,
                routes -> new Intake(routes, codecs.reading(Product.class, Product.SCHEMA$),
                        codecs.reading(StockLevel.class, StockLevel.SCHEMA$), settings.soldOutAdvice()));
        processor(PAYMENT, fused ? List.of(Topics.PAYMENT_COMMANDS) : List.of(Topics.ACCEPTED, Topics.PAYMENT_COMMANDS),
                fused ? List.of(INTAKE) : List.of(), List.of(Topics.PAYMENT_EVENTS), heard,
                routes -> new Payment(routes, provider));
        processor(FULFILLMENT,
                fused ? List.of(Topics.STOCK_EVENTS, Topics.CANCEL_REQUESTED)
                        : List.of(Topics.ACCEPTED, Topics.PAYMENT_EVENTS, Topics.STOCK_EVENTS, Topics.CANCEL_REQUESTED),
                fused ? List.of(INTAKE, PAYMENT) : List.of(),
                List.of(Topics.ORDER_EVENTS, Topics.PAYMENT_COMMANDS, Topics.STOCK_COMMANDS), heard,
                routes -> new Fulfillment(routes, settings.stockPartitions()));
        processor(TRACKING,
                fused ? List.of()
                        : List.of(Topics.ACCEPTED, Topics.REJECTED, Topics.PAYMENT_EVENTS, Topics.ORDER_EVENTS),
                fused ? List.of(INTAKE, PAYMENT, FULFILLMENT) : List.of(), List.of(), heard,
                routes -> new Tracking(routes, new Tracking.Forms(accepted.serializer(), rejected.serializer(),
                        payment.serializer(), order.serializer())));
        processor(STOCK, List.of(Topics.STOCK_COMMANDS, Topics.ADJUSTMENTS), List.of(),
                List.of(Topics.LEVELS, Topics.STOCK_EVENTS), Map.of(), Stock::new);

        store(Intake.SEEN, Serdes.String(), INTAKE);
        store(Payment.PAYMENTS, codecs.ofState(PaymentEvent.class, PaymentEvent.SCHEMA$), PAYMENT);
        store(Fulfillment.LINES, codecs.ofState(OrderAccepted.class, OrderAccepted.SCHEMA$), FULFILLMENT);
        store(Fulfillment.ORDERS, codecs.ofState(OrderEvent.class, OrderEvent.SCHEMA$), FULFILLMENT);
        store(Tracking.VIEWS, codecs.ofState(OrderView.class, OrderView.SCHEMA$), TRACKING);
        store(Stock.BALANCES, codecs.ofState(StockLevel.class, StockLevel.SCHEMA$), STOCK);
        store(Stock.RESERVATIONS, codecs.ofState(Reservation.class, Reservation.SCHEMA$), STOCK);
        store(Stock.ADJUSTED, Serdes.Long(), STOCK);
        global(PRODUCTS, Topics.PRODUCTS);
        global(LEVELS, Topics.LEVELS);
        return topology;
    }

    private <T extends SpecificRecord> Serde<T> topic(Codecs codecs, String topic, Class<T> type, Schema schema) {
        Serde<T> serde = codecs.ofTopic(topic, type, schema);
        serdes.put(topic, serde);
        return serde;
    }

    private void sources(List<String> topics) {
        for (String topic : topics) {
            topology.addSource("from-" + topic, new StringDeserializer(), serdes.get(topic).deserializer(), topic);
        }
    }

    private void processor(
            String name,
            List<String> inputs,
            List<String> fusedTo,
            List<String> outputs,
            Map<String, String[]> heard,
            Function<Map<String, String[]>, Stage> make) {
        Map<String, String[]> routes = new HashMap<>();
        for (String topic : outputs) {
            List<String> children = new ArrayList<>();
            children.add(name + "-to-" + topic);
            children.addAll(List.of(heard.getOrDefault(topic, NOBODY)));
            routes.put(topic, children.toArray(String[]::new));
        }
        List<String> parents = new ArrayList<>(fusedTo);
        inputs.forEach(topic -> parents.add("from-" + topic));
        topology.addProcessor(name, () -> make.apply(routes), parents.toArray(String[]::new));
        for (String topic : outputs) {
            topology.addSink(name + "-to-" + topic, topic, new StringSerializer(), serializer(topic), name);
        }
    }

    @SuppressWarnings("unchecked")
    private <T extends SpecificRecord> org.apache.kafka.common.serialization.Serializer<T> serializer(String topic) {
        return (org.apache.kafka.common.serialization.Serializer<T>) serdes.get(topic).serializer();
    }

    private <V> void store(String name, Serde<V> values, String processor) {
        StoreBuilder<KeyValueStore<String, V>> builder = Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore(name), Serdes.String(), values);
        topology.addStateStore(settings.caching() ? builder.withCachingEnabled() : builder, processor);
    }

    /** Read in full by every process; kept in memory, as the bytes of the topic. */
    private void global(String name, String topic) {
        StoreBuilder<KeyValueStore<String, byte[]>> builder = Stores
                .keyValueStoreBuilder(Stores.inMemoryKeyValueStore(name), Serdes.String(), Serdes.ByteArray())
                .withLoggingDisabled();
        Deserializer<byte[]> bytes = Serdes.ByteArray().deserializer();
        ProcessorSupplier<String, byte[], Void, Void> keep = () -> new Keep(name);
        topology.addGlobalStore(builder, "from-" + topic, new StringDeserializer(), bytes, topic, "keep-" + name, keep);
    }

    private static final class Keep implements org.apache.kafka.streams.processor.api.Processor<String, byte[], Void, Void> {
        private final String name;
        private KeyValueStore<String, byte[]> store;

        Keep(String name) {
            this.name = name;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            store = context.getStateStore(name);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            store.put(record.key(), record.value());
        }
    }
}
