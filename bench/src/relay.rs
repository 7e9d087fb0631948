//! The limit: reads placed orders and writes, for each, the records that an order causes on its way to confirmed, in the
//! same topics, of the same sizes, headers included, in exactly-once transactions. Decides nothing, remembers nothing, so
//! nothing that does the job can be faster on the same client.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use millrace_schemas::{Codec, topics};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

const CALL: Duration = Duration::from_secs(60);
/// Records on their way to the broker where nobody waits for them.
const UNACKNOWLEDGED_MAX: i32 = 200_000;

/// Arguments of the relay's process; the harness starts it.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    registry: String,
    /// Which run; names group and transactional id.
    #[arg(long)]
    run: u16,
    #[arg(long, default_value_t = 2_000)]
    orders_per_transaction: u32,
    /// Writes the records and commits the offsets without any promise.
    #[arg(long)]
    without_transactions: bool,
}

/// The key of a record.
#[derive(Clone, Copy)]
enum Key {
    Order,
    Sku(usize),
}

/// What an order causes, as bytes that are the same for every order.
struct Template {
    topic: &'static str,
    key: Key,
    value: Vec<u8>,
    headers: Vec<(&'static str, Vec<u8>)>,
}

impl Template {
    fn headers(&self) -> OwnedHeaders {
        let all = OwnedHeaders::new_with_capacity(self.headers.len());
        self.headers.iter().fold(all, |all, (key, value)| all.insert(Header { key, value: Some(value) }))
    }
}

/// Runs until it is ended.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let codec = runtime.block_on(millrace_schemas::registry::check(&args.registry))?;
    let templates = templates(&codec)?;
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &args.kafka);
    let consumer: BaseConsumer = client
        .clone()
        .set("group.id", format!("relay-{}", args.run))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    if !args.without_transactions {
        client.set("transactional.id", format!("relay-{}", args.run));
    }
    let producer: BaseProducer = client
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("retry.backoff.ms", "1")
        .set("queue.buffering.max.messages", "1000000")
        .set("partitioner", "murmur2_random")
        .create()?;
    if !args.without_transactions {
        producer.init_transactions(CALL)?;
    }
    consumer.subscribe(&[topics::ORDERS_PLACED])?;
    eprintln!("relay runs");
    let skus: Vec<String> = (0..10_000).map(crate::workload::sku).collect();
    let mut turn = 0_usize;
    loop {
        let Some(first) = consumer.poll(Duration::from_millis(100)) else { continue };
        if !args.without_transactions {
            producer.begin_transaction()?;
        }
        let mut next = TopicPartitionList::new();
        let mut taken = 0;
        let mut message = Some(first);
        let since = Instant::now();
        // As many as there are, but no transaction becomes older than an order may wait.
        while let Some(polled) = message.take() {
            let polled = polled?;
            let id = polled.key().ok_or_else(|| anyhow!("an order without a key"))?;
            for template in &templates {
                let key = match template.key {
                    Key::Order => id,
                    Key::Sku(line) => skus[(turn * 7 + line * 131) % skus.len()].as_bytes(),
                };
                let record =
                    BaseRecord::to(template.topic).key(key).payload(&template.value).headers(template.headers());
                producer.send::<[u8], Vec<u8>>(record).map_err(|(error, _)| error)?;
            }
            producer.poll(Duration::ZERO);
            turn += 1;
            taken += 1;
            let after = Offset::Offset(polled.offset() + 1);
            match next.find_partition(polled.topic(), polled.partition()) {
                Some(mut place) => place.set_offset(after)?,
                None => next.add_partition_offset(polled.topic(), polled.partition(), after)?,
            }
            if taken < args.orders_per_transaction && since.elapsed() < Duration::from_millis(50) {
                message = consumer.poll(Duration::ZERO);
            }
        }
        // A transaction waits for its records; without one there are only not to be more than the library keeps.
        let left = if args.without_transactions { UNACKNOWLEDGED_MAX } else { 0 };
        // What the library's own flush would do in steps of 100 ms.
        while producer.in_flight_count() > left {
            producer.poll(Duration::from_millis(1));
        }
        if args.without_transactions {
            consumer.commit(&next, CommitMode::Async)?;
            continue;
        }
        let member = consumer.group_metadata().context("the relay is in no group")?;
        producer.send_offsets_to_transaction(&next, &member, CALL)?;
        producer.commit_transaction(CALL)?;
    }
}

/// What an order of three lines in two groups causes: 3 lines in 4 stock partitions are 2.3 groups on average.
fn templates(codec: &Codec) -> anyhow::Result<Vec<Template>> {
    let id = crate::workload::order_id(1, 1);
    let at = 1_760_000_000_000_i64;
    let sku = |n: usize| crate::workload::sku(n);
    let total = json!({"minor": 12_345, "currency": "GBP"});
    let lines =
        |from: usize, to: usize| -> Vec<Value> { (from..to).map(|n| json!({"sku": sku(n), "quantity": 2})).collect() };
    let priced: Vec<Value> = (0..3)
        .map(|n| json!({"sku": sku(n), "quantity": 2, "unit_price_minor": 2_057, "line_total_minor": 4_114}))
        .collect();
    let accepted = json!({
        "order_id": id, "customer_id": "c-012345", "lines": priced, "total": total, "payment_method": "tok_visa",
        "fingerprint": "0123456789abcdef0123456789abcdef", "channel": "web", "placed_at": at, "accepted_at": at,
    });
    let payment = |kind: &str, state: &str, call: Value, reference: Value| {
        json!({
            "order_id": id, "kind": kind, "state": state, "version": 1, "currency": "GBP", "requested_minor": 12_345,
            "authorized_minor": 12_345, "captured_minor": 0, "voided_minor": 0, "refunded_minor": 0,
            "payment_method": "tok_visa", "provider_reference": reference, "attempt": 1, "call": call,
            "void_wanted": false, "waits_for": "PROVIDER", "until": at, "detail": "", "at": at,
        })
    };
    let call = json!({
        "operation": "AUTHORIZE", "idempotency_key": format!("{id}/authorize/1"), "amount_minor": 12_345, "ask": false,
        "tries": 1, "since": at,
    });
    let order = |kind: &str, status: &str| {
        let group = |partition: i32, n: usize| json!({"stock_partition": partition, "key": sku(n), "state": "GRANTED", "attempt": 1});
        json!({
            "order_id": id, "kind": kind, "status": status, "version": 2, "customer_id": "c-012345",
            "payment": "AUTHORIZED", "total": total, "captured_minor": 0, "groups": [group(0, 0), group(1, 1)],
            "progress": [], "shipped_minor": 0, "shipments": [], "cancel_wanted": false, "delivered": false,
            "waits_for": "STOCK", "until": at, "detail": "", "at": at,
        })
    };
    let command = |from, to| json!({"order_id": id, "attempt": 1, "kind": "RESERVE", "command_id": "", "lines": lines(from, to), "at": at});
    let answer = |from, to| {
        json!({
            "order_id": id, "attempt": 1, "stock_partition": 0, "kind": "RESERVED", "command_id": "",
            "lines": lines(from, to), "short": [], "at": at,
        })
    };
    let level = |n: usize| {
        json!({
            "sku": sku(n), "on_hand": 1_000_000_000, "reserved": 5_000, "opening": 1_000_000_000, "received": 0,
            "shipped": 0, "adjusted": 0, "version": 5_000, "cause": "RESERVED", "cause_id": id, "at": at,
        })
    };
    let mut made = Vec::new();
    let mut add = |topic: &'static str, key: Key, json: &Value| -> anyhow::Result<()> {
        let value = millrace_schemas::encode_json(codec, topic, json)?;
        let headers = vec![
            ("ce_specversion", b"1.0".to_vec()),
            ("ce_id", ID.to_vec()),
            ("ce_source", format!("/millrace/{topic}").into_bytes()),
            ("ce_type", b"RESERVATION_REQUESTED".to_vec()),
            ("content-type", b"application/avro".to_vec()),
        ];
        made.push(Template { topic, key, value, headers });
        Ok(())
    };
    add(topics::ORDERS_ACCEPTED, Key::Order, &accepted)?;
    let reference = json!(format!("sim_{id}_1"));
    add(topics::PAYMENTS_EVENTS, Key::Order, &payment("AUTHORIZATION_REQUESTED", "AUTHORIZING", call, Value::Null))?;
    add(topics::PAYMENTS_EVENTS, Key::Order, &payment("AUTHORIZED", "AUTHORIZED", Value::Null, reference))?;
    add(topics::ORDERS_EVENTS, Key::Order, &order("RESERVATION_REQUESTED", "RESERVING"))?;
    for (from, to) in [(0, 2), (2, 3)] {
        add(topics::STOCK_COMMANDS, Key::Sku(from), &command(from, to))?;
        add(topics::STOCK_EVENTS, Key::Order, &answer(from, to))?;
    }
    for line in 0..3 {
        add(topics::STOCK_LEVELS, Key::Sku(line), &level(line))?;
    }
    add(topics::ORDERS_EVENTS, Key::Order, &order("NOTED", "RESERVING"))?;
    add(topics::ORDERS_EVENTS, Key::Order, &order("CONFIRMED", "CONFIRMED"))?;
    // The reservations' own changelog: the size of a reservation, one per group.
    for (from, to) in [(0, 2), (2, 3)] {
        let value = vec![1; 20 + 14 * (to - from)];
        // A change of a store says which step wrote it, and nothing else.
        made.push(Template { topic: RESERVATIONS, key: Key::Order, value, headers: vec![("ce_id", ID.to_vec())] });
    }
    Ok(made)
}

/// As long as the `ce_id` of a step is.
const ID: &[u8] = b"orders.placed/0/1234567/0";
const RESERVATIONS: &str = "stock-reservations-changelog";

/// The records an order causes, for the report.
pub(crate) fn records_per_order() -> usize {
    templates(&Codec::offline()).map_or(0, |made| made.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_are_readable_and_end_in_a_confirmation() {
        let codec = Codec::offline();
        let made = templates(&codec).unwrap();
        assert_eq!(made.len(), 15);
        for template in made.iter().filter(|template| template.topic != RESERVATIONS) {
            millrace_schemas::decode_json(&codec, template.topic, &template.value).unwrap();
        }
        let mut events = made.iter().filter(|template| template.topic == topics::ORDERS_EVENTS);
        let last: millrace_schemas::OrderEvent = codec.decode(&events.next_back().unwrap().value).unwrap();
        assert_eq!(last.kind.as_str(), "CONFIRMED");
    }
}
