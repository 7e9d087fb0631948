"""What applications do with confluent-kafka for Python, one check after the other. Arguments: bootstrap server, URL of the
schema registry. Prints a line for each check that held; ends with an error at the first that did not."""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

SERVERS, REGISTRY = sys.argv[1:3]


def create(topic, partitions=1):
    admin = AdminClient({"bootstrap.servers": SERVERS})
    for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        made.result(30)
    return admin


def consumer(group):
    return Consumer({
        "bootstrap.servers": SERVERS,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    })


def read(topic, count, group="python"):
    reader = consumer(group)
    reader.subscribe([topic])
    deadline = time.monotonic() + 30
    values = []
    while len(values) < count:
        assert time.monotonic() < deadline, f"{len(values)} of {count} records of {topic}"
        message = reader.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value())
    reader.commit(asynchronous=False)
    reader.close()
    return values


def admin():
    client = create("py-admin", 3)
    assert len(client.list_topics("py-admin", timeout=30).topics["py-admin"].partitions) == 3
    resource = ConfigResource(ConfigResource.Type.TOPIC, "py-admin")
    config = client.describe_configs([resource])[resource].result(30)
    assert config["cleanup.policy"].value == "delete"
    assert client.list_consumer_groups().result(30).errors == []
    client.delete_topics(["py-admin"])["py-admin"].result(30)


def records():
    create("py-records")
    producer = Producer({"bootstrap.servers": SERVERS, "enable.idempotence": True, "compression.type": "zstd"})
    for number in range(100):
        producer.produce("py-records", key="k", value=str(number))
    assert producer.flush(30) == 0
    assert read("py-records", 100) == [str(number).encode() for number in range(100)]


def transactions():
    create("py-transactions")
    producer = Producer({"bootstrap.servers": SERVERS, "transactional.id": "py"})
    producer.init_transactions(30)
    group = consumer("py-transactions")
    for number in range(6):
        producer.begin_transaction()
        producer.produce("py-transactions", key="k", value=str(number))
        offsets = [TopicPartition("py-records", 0, number)]
        producer.send_offsets_to_transaction(offsets, group.consumer_group_metadata(), 30)
        if number % 2:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    assert read("py-transactions", 3, "py-reader") == [b"0", b"2", b"4"]
    assert group.committed([TopicPartition("py-records", 0)], timeout=30)[0].offset == 4
    group.close()
    heir = Producer({"bootstrap.servers": SERVERS, "transactional.id": "py"})
    heir.init_transactions(30)
    try:
        producer.begin_transaction()
        producer.produce("py-transactions", value="of a zombie")
        producer.commit_transaction(30)
    except KafkaException as refused:
        assert refused.args[0].fatal() or refused.args[0].txn_requires_abort(), refused
    else:
        raise AssertionError("a zombie committed")


def schemas():
    registry = SchemaRegistryClient({"url": REGISTRY})
    text = '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"cents","type":"long"}]}'
    serialize = AvroSerializer(registry, text)
    deserialize = AvroDeserializer(registry)
    create("py-orders")
    context = SerializationContext("py-orders", MessageField.VALUE)
    orders = [{"id": f"o-{number}", "cents": number} for number in range(10)]
    producer = Producer({"bootstrap.servers": SERVERS})
    for order in orders:
        producer.produce("py-orders", value=serialize(order, context))
    assert producer.flush(30) == 0
    assert [deserialize(value, context) for value in read("py-orders", 10)] == orders
    latest = registry.get_latest_version("py-orders-value")
    assert (latest.version, registry.get_versions("py-orders-value")) == (1, [1])
    assert registry.get_schema(latest.schema_id).schema_str == text
    assert registry.lookup_schema("py-orders-value", Schema(text, "AVRO")).version == 1
    worse = Schema('{"type":"record","name":"Order","fields":[{"name":"must","type":"long"}]}', "AVRO")
    assert not registry.test_compatibility("py-orders-value", worse)
    try:
        registry.register_schema("py-orders-value", worse)
    except SchemaRegistryError as refused:
        assert (refused.http_status_code, refused.error_code) == (409, 409), refused
    else:
        raise AssertionError("an incompatible schema was registered")
    registry.set_compatibility("py-orders-value", "NONE")
    assert registry.get_compatibility("py-orders-value") == "NONE"
    registry.register_schema("py-orders-value", worse)
    money = '{"type":"record","name":"Money","fields":[{"name":"minor","type":"long"}]}'
    registry.register_schema("py-money", Schema(money, "AVRO"))
    sale = '{"type":"record","name":"Sale","fields":[{"name":"total","type":"Money"}]}'
    references = [SchemaReference("Money", "py-money", 1)]
    created = registry.register_schema("py-sale", Schema(sale, "AVRO", references))
    assert registry.get_schema(created).references == references
    assert registry.delete_subject("py-orders-value") == [1, 2]
    assert registry.delete_subject("py-orders-value", permanent=True) == [1, 2]
    assert "py-orders-value" not in registry.get_subjects()


for check in (admin, records, transactions, schemas):
    check()
    print(f"ok {check.__name__}", flush=True)
