// What applications do with the Java clients, one check after the other, in calls that clients since 3.9 have. Arguments: bootstrap server. Prints a line for
// each check that held and ends with an error at the first that did not.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

public final class Clients {
    interface Check {
        void run() throws Exception;
    }

    static String servers;
    static Admin admin;

    static void check(String what, Check check) throws Exception {
        check.run();
        System.out.println("ok " + what);
    }

    static void equal(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    static void fails(Class<? extends Throwable> expected, Check check) {
        try {
            check.run();
        } catch (Throwable error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            if (expected.isInstance(cause)) {
                return;
            }
            throw new AssertionError("expected " + expected + ", found " + cause, cause);
        }
        throw new AssertionError("expected " + expected + ", nothing failed");
    }

    static void until(String what, java.util.concurrent.Callable<Boolean> done) throws Exception {
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (!done.call()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("waited in vain: " + what);
            }
            Thread.sleep(20);
        }
    }

    static KafkaProducer<String, String> producer(String transactionalId, String... more) {
        Properties config = new Properties();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        config.put(ProducerConfig.LINGER_MS_CONFIG, 0);
        if (transactionalId != null) {
            config.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, transactionalId);
        }
        for (int at = 0; at < more.length; at += 2) {
            config.put(more[at], more[at + 1]);
        }
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String group, String... more) {
        Properties config = new Properties();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        config.put(ConsumerConfig.GROUP_ID_CONFIG, group);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        config.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        config.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, "200");
        for (int at = 0; at < more.length; at += 2) {
            config.put(more[at], more[at + 1]);
        }
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    static List<String> read(KafkaConsumer<String, String> consumer, int count) throws Exception {
        List<String> values = new ArrayList<>();
        until(count + " records", () -> {
            consumer.poll(Duration.ofMillis(50)).forEach(record -> values.add(record.value()));
            return values.size() >= count;
        });
        return values;
    }

    /** Everything committed in partition 0. */
    static List<String> readAll(String topic) throws Exception {
        try (KafkaConsumer<String, String> consumer = consumer("reader")) {
            TopicPartition at = new TopicPartition(topic, 0);
            consumer.assign(List.of(at));
            consumer.seekToBeginning(List.of(at));
            long end = consumer.endOffsets(List.of(at)).get(at);
            List<String> values = new ArrayList<>();
            until("the end of " + topic, () -> {
                consumer.poll(Duration.ofMillis(20)).forEach(record -> values.add(record.value()));
                return consumer.position(at) >= end;
            });
            return values;
        }
    }

    static void create(String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    static ConfigResource ofTopic(String topic) {
        return new ConfigResource(ConfigResource.Type.TOPIC, topic);
    }

    static void topics() throws Exception {
        NewTopic wanted = new NewTopic("t", Optional.of(2), Optional.empty()).configs(Map.of("cleanup.policy", "compact"));
        CreateTopicsResult created = admin.createTopics(List.of(wanted));
        Uuid id = created.topicId("t").get();
        equal("compact", created.config("t").get().get("cleanup.policy").value());
        equal(2, created.numPartitions("t").get());
        fails(TopicExistsException.class, () -> admin.createTopics(List.of(wanted)).all().get());
        equal(id, admin.describeTopics(List.of("t")).allTopicNames().get().get("t").topicId());
        TopicCollection ids = TopicCollection.ofTopicIds(List.of(id));
        equal("t", admin.describeTopics(ids).allTopicIds().get().get(id).name());
        fails(UnknownTopicOrPartitionException.class, () -> admin.describeTopics(List.of("none")).allTopicNames().get());
        equal(true, admin.listTopics().names().get().contains("t"));
        admin.createPartitions(Map.of("t", NewPartitions.increaseTo(5))).all().get();
        equal(5, admin.describeTopics(List.of("t")).allTopicNames().get().get("t").partitions().size());
        ConfigEntry entry = new ConfigEntry("retention.ms", "12345");
        AlterConfigOp set = new AlterConfigOp(entry, AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(ofTopic("t"), List.of(set))).all().get();
        Config config = admin.describeConfigs(List.of(ofTopic("t"))).all().get().get(ofTopic("t"));
        equal("12345", config.get("retention.ms").value());
        equal(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, config.get("retention.ms").source());
        equal(true, config.get("segment.ms").isDefault());
        equal(1, admin.describeCluster().nodes().get().size());
        equal(1, admin.describeLogDirs(List.of(1)).allDescriptions().get().size());
        admin.deleteTopics(ids).all().get();
        fails(UnknownTopicOrPartitionException.class, () -> admin.describeTopics(List.of("t")).allTopicNames().get());
    }

    static void records() throws Exception {
        create("r", 1);
        TopicPartition at = new TopicPartition("r", 0);
        List<String> sent = new ArrayList<>();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (KafkaProducer<String, String> producer = producer(null, "compression.type", codec)) {
                for (int number = 0; number < 50; number++) {
                    ProducerRecord<String, String> record = new ProducerRecord<>("r", "k", codec + number);
                    record.headers().add(new RecordHeader("h", codec.getBytes()));
                    producer.send(record);
                    sent.add(codec + number);
                }
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer("records")) {
            consumer.subscribe(List.of("r"));
            equal(sent, read(consumer, sent.size()));
            consumer.commitSync();
            equal((long) sent.size(), consumer.committed(Set.of(at)).get(at).offset());
            consumer.seek(at, 100);
            equal("snappy0", read(consumer, 1).get(0));
            long late = System.currentTimeMillis() + 60_000;
            equal(true, consumer.offsetsForTimes(Map.of(at, late)).get(at) == null);
            equal(0L, consumer.offsetsForTimes(Map.of(at, 0L)).get(at).offset());
        }
        equal(250L, admin.listOffsets(Map.of(at, OffsetSpec.latest())).partitionResult(at).get().offset());
        equal(true, admin.listOffsets(Map.of(at, OffsetSpec.maxTimestamp())).partitionResult(at).get().offset() >= 0);
        equal(200L, admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(200))).lowWatermarks().get(at).get().lowWatermark());
        equal(50, readAll("r").size());
        try (KafkaProducer<String, String> producer = producer(null, "max.request.size", "5000000")) {
            String large = "x".repeat(2_000_000);
            fails(RecordTooLargeException.class, () -> producer.send(new ProducerRecord<>("r", large)).get());
        }
    }

    static void transactions() throws Exception {
        create("tx", 1);
        try (KafkaProducer<String, String> first = producer("tx-1"); KafkaProducer<String, String> second = producer("tx-1")) {
            first.initTransactions();
            for (int number = 0; number < 6; number++) {
                first.beginTransaction();
                first.send(new ProducerRecord<>("tx", "k", (number % 2 == 0 ? "kept" : "dropped") + number));
                if (number % 2 == 0) {
                    first.commitTransaction();
                } else {
                    first.abortTransaction();
                }
            }
            equal(List.of("kept0", "kept2", "kept4"), readAll("tx"));
            first.beginTransaction();
            first.send(new ProducerRecord<>("tx", "k", "of a zombie")).get();
            equal(TransactionState.ONGOING, admin.describeTransactions(List.of("tx-1")).all().get().get("tx-1").state());
            TopicPartition at = new TopicPartition("tx", 0);
            Collection<ProducerState> active = admin.describeProducers(List.of(at)).partitionResult(at).get().activeProducers();
            equal(true, active.iterator().next().currentTransactionStartOffset().isPresent());
            second.initTransactions();
            second.beginTransaction();
            second.send(new ProducerRecord<>("tx", "k", "of its heir"));
            fails(ProducerFencedException.class, () -> first.commitTransaction());
            second.commitTransaction();
            equal(List.of("kept0", "kept2", "kept4", "of its heir"), readAll("tx"));
        }
    }

    static void consumeTransformProduce() throws Exception {
        create("in", 1);
        create("out", 1);
        try (KafkaProducer<String, String> source = producer(null)) {
            for (int number = 0; number < 100; number++) {
                source.send(new ProducerRecord<>("in", "k", "" + number));
            }
        }
        TopicPartition at = new TopicPartition("in", 0);
        List<String> expected = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer("ctp", "max.poll.records", "10");
             KafkaProducer<String, String> producer = producer("ctp")) {
            producer.initTransactions();
            consumer.subscribe(List.of("in"));
            int round = 0;
            while (expected.size() < 100) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(50));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                List<String> batch = new ArrayList<>();
                records.forEach(record -> batch.add("out" + record.value()));
                batch.forEach(value -> producer.send(new ProducerRecord<>("out", "k", value)));
                producer.sendOffsetsToTransaction(
                    Map.of(at, new OffsetAndMetadata(consumer.position(at))), consumer.groupMetadata());
                if (++round % 3 == 0) {
                    producer.abortTransaction();
                    OffsetAndMetadata committed = consumer.committed(Set.of(at)).get(at);
                    consumer.seek(at, committed == null ? 0 : committed.offset());
                } else {
                    producer.commitTransaction();
                    expected.addAll(batch);
                }
            }
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(at, new OffsetAndMetadata(5)), consumer.groupMetadata());
            producer.abortTransaction();
            ConsumerGroupMetadata stale = new ConsumerGroupMetadata("ctp", 4711, consumer.groupMetadata().memberId(), Optional.empty());
            producer.beginTransaction();
            fails(CommitFailedException.class, () -> {
                producer.sendOffsetsToTransaction(Map.of(at, new OffsetAndMetadata(5)), stale);
                producer.commitTransaction();
            });
            equal(100L, consumer.committed(Set.of(at)).get(at).offset());
        }
        equal(expected, readAll("out"));
        equal(100, expected.size());
    }

    static void groups(String assignor) throws Exception {
        String topic = "g-" + assignor.substring(assignor.lastIndexOf('.') + 1);
        create(topic, 4);
        String[] config = {"partition.assignment.strategy", assignor};
        try (KafkaConsumer<String, String> first = consumer(topic, config); KafkaConsumer<String, String> second = consumer(topic, config)) {
            first.subscribe(List.of(topic));
            until("the first has all", () -> {
                first.poll(Duration.ofMillis(20));
                return first.assignment().size() == 4;
            });
            second.subscribe(List.of(topic));
            until("they share", () -> {
                first.poll(Duration.ofMillis(20));
                second.poll(Duration.ofMillis(20));
                return first.assignment().size() == 2 && second.assignment().size() == 2;
            });
            ConsumerGroupDescription described = admin.describeConsumerGroups(List.of(topic)).all().get().get(topic);
            equal("Stable", described.state().toString());
            equal(2, described.members().size());
            second.unsubscribe();
            until("the first has all again", () -> {
                first.poll(Duration.ofMillis(20));
                return first.assignment().size() == 4;
            });
            first.commitSync(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(0)));
            fails(GroupNotEmptyException.class, () -> admin.deleteConsumerGroups(List.of(topic)).all().get());
            fails(GroupSubscribedToTopicException.class, () -> admin.deleteConsumerGroupOffsets(topic, Set.of(new TopicPartition(topic, 0))).all().get());
        }
        TopicPartition at = new TopicPartition(topic, 1);
        until("it is empty", () -> admin.describeConsumerGroups(List.of(topic)).all().get().get(topic).members().isEmpty());
        admin.alterConsumerGroupOffsets(topic, Map.of(at, new OffsetAndMetadata(7))).all().get();
        Map<TopicPartition, OffsetAndMetadata> offsets = admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get();
        equal(7L, offsets.get(at).offset());
        admin.deleteConsumerGroupOffsets(topic, Set.of(at)).all().get();
        equal(false, admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get().containsKey(at));
        equal(true, admin.listConsumerGroups().all().get().stream().anyMatch(group -> group.groupId().equals(topic)));
        admin.deleteConsumerGroups(List.of(topic)).all().get();
        equal(false, admin.listConsumerGroups().all().get().stream().anyMatch(group -> group.groupId().equals(topic)));
    }

    static void staticMembers() throws Exception {
        create("static", 2);
        String[] config = {"group.instance.id", "one"};
        KafkaConsumer<String, String> first = consumer("static", config);
        first.subscribe(List.of("static"));
        until("it has all", () -> {
            first.poll(Duration.ofMillis(20));
            return first.assignment().size() == 2;
        });
        int generation = first.groupMetadata().generationId();
        // A static member stays in its group.
        first.close();
        try (KafkaConsumer<String, String> again = consumer("static", config)) {
            again.subscribe(List.of("static"));
            until("it has all again", () -> {
                again.poll(Duration.ofMillis(20));
                return again.assignment().size() == 2;
            });
            equal(generation, again.groupMetadata().generationId());
            try (KafkaConsumer<String, String> usurper = consumer("static", config)) {
                usurper.subscribe(List.of("static"));
                until("it has all", () -> {
                    usurper.poll(Duration.ofMillis(20));
                    return usurper.assignment().size() == 2;
                });
                fails(FencedInstanceIdException.class, () -> until("it is fenced", () -> {
                    again.poll(Duration.ofMillis(50));
                    return false;
                }));
            }
        }
        admin.removeMembersFromConsumerGroup("static",
            new RemoveMembersFromConsumerGroupOptions(Set.of(new MemberToRemove("one")))).all().get();
        equal(true, admin.describeConsumerGroups(List.of("static")).all().get().get("static").members().isEmpty());
    }

    public static void main(String[] arguments) throws Exception {
        servers = arguments[0];
        admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, servers));
        check("topics", Clients::topics);
        check("records", Clients::records);
        check("transactions", Clients::transactions);
        check("consume, transform, produce", Clients::consumeTransformProduce);
        check("groups, eager", () -> groups("org.apache.kafka.clients.consumer.RangeAssignor"));
        check("groups, cooperative", () -> groups("org.apache.kafka.clients.consumer.CooperativeStickyAssignor"));
        check("static members", Clients::staticMembers);
        admin.close();
    }
}
