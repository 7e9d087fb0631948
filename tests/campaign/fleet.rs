//! The producers of a campaign: some through HTTP, some straight to the first topic. Each submit is logged as
//! acknowledged, refused or indeterminate; what becomes of the orders is not theirs to know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_chaos::Draw;
use millrace_schemas::{CancelRequested, Codec, OrderLine, OrderPlaced, topics};
use millrace_worker::BulkProducer;
use rdkafka::ClientConfig;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde_json::json;

/// How many clients of the ingress there are.
const HTTP_CLIENTS: usize = 8;
/// How often a client asks again that does not know whether its order was taken.
const HTTP_TRIES: usize = 3;
/// SKUs with plenty and SKUs that run out.
pub const PLENTY: usize = 40;
pub const SCARCE: usize = 8;

/// What a producer knows of a submit at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was told that the order is taken.
    Acknowledged,
    /// It was told that the order is not taken, or never reached anybody.
    Refused,
    /// It cannot tell.
    Indeterminate,
}

/// What every producer was told, by the submit's name, which the order carries as its customer.
#[derive(Default)]
pub struct ClientLog {
    answers: Mutex<BTreeMap<String, Answer>>,
    /// Records that are no orders, by their keys.
    poison: Mutex<BTreeMap<String, Answer>>,
}

impl ClientLog {
    fn note(&self, submit: String, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(submit, answer);
    }

    /// The keys of all records that are no orders, and what became of each.
    pub fn poison(&self) -> BTreeMap<String, Answer> {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything noted so far.
    pub fn answers(&self) -> BTreeMap<String, Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many submits ended so.
    pub fn count(&self, answer: Answer) -> usize {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|other| **other == answer).count()
    }
}

/// Who the producers send to and how fast.
pub struct Doors {
    /// Bootstrap servers.
    pub kafka: String,
    /// The ingress, `host:port`.
    pub http: String,
    pub codec: Codec,
    pub seed: u64,
    /// Orders in all, and how many a second.
    pub orders: usize,
    pub rate: f64,
}

/// Running producers.
pub struct Fleet {
    pub log: Arc<ClientLog>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Fleet {
    /// Starts sending: every other order through HTTP.
    pub fn start(doors: Doors) -> Self {
        let (log, stop) = (Arc::<ClientLog>::default(), Arc::<AtomicBool>::default());
        let doors = Arc::new(doors);
        let direct = {
            let (doors, log, stop) = (doors.clone(), log.clone(), stop.clone());
            std::thread::spawn(move || send_directly(&doors, &log, &stop))
        };
        let http = {
            let (log, stop) = (log.clone(), stop.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let clients = (0..HTTP_CLIENTS).map(|n| submit_all(n, doors.clone(), log.clone(), stop.clone()));
                    let clients: Vec<_> = clients.map(tokio::spawn).collect();
                    for client in clients {
                        client.await.unwrap();
                    }
                });
            })
        };
        Self { log, stop, threads: vec![direct, http] }
    }

    /// Whether every order has been sent and answered, so that no load is left.
    pub fn has_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Sends nothing more and waits for the answers that are due.
    pub fn finish(self) -> Arc<ClientLog> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.log
    }
}

/// One to three lines; some SKUs run out.
fn lines(draw: &mut Draw) -> Vec<(String, i32)> {
    let count = 1 + draw.below(3);
    let line = |draw: &mut Draw| {
        let sku = if draw.below(50) == 0 {
            format!("scarce-{}", draw.below(SCARCE))
        } else {
            format!("plenty-{}", draw.below(PLENTY))
        };
        (sku, 1 + i32::try_from(draw.below(3)).unwrap())
    };
    (0..count).map(|_| line(draw)).collect()
}

fn token(draw: &mut Draw) -> &'static str {
    match draw.below(100) {
        0 | 1 => "tok_declined",
        2 => "tok_insufficient_funds",
        3 => "tok_timeout_after",
        4 => "tok_timeout_before",
        5 => "tok_capture_timeout_after",
        6 => "tok_capture_timeout_before",
        _ => "tok_visa",
    }
}

/// Places so many orders as fast as the first topic takes them.
pub fn fill(kafka: &str, codec: &Codec, seed: u64, orders: usize) {
    let mut producer = BulkProducer::connect(kafka).unwrap();
    let mut draw = Draw::new(seed ^ 0xf1);
    let mut value = Vec::new();
    for number in 0..orders {
        let order = order(format!("fill-{number}"), &mut draw);
        value.clear();
        codec.encode(topics::ORDERS_PLACED, &order, &mut value);
        producer.queue(topics::ORDERS_PLACED, order.order_id.as_bytes(), &value).unwrap();
    }
    producer.finish().unwrap();
}

/// An order under this name, by a customer of this name.
fn order(submit: String, draw: &mut Draw) -> OrderPlaced {
    OrderPlaced {
        order_id: submit.clone(),
        customer_id: submit,
        currency: "GBP".into(),
        lines: lines(draw).into_iter().map(|(sku, quantity)| OrderLine { sku, quantity }).collect(),
        payment_method: token(draw).into(),
        expected_total: None,
        channel: "campaign".into(),
        placed_at: 1,
    }
}

/// Waits until the `number`th order of so many a second is due.
fn due(since: Instant, number: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate).saturating_sub(since.elapsed())
}

struct Deliveries(Arc<ClientLog>);

/// What a record was.
enum Sent {
    Order(String),
    Poison(String),
    Cancel,
}

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let answer = if result.is_ok() { Answer::Acknowledged } else { Answer::Indeterminate };
        match *sent {
            Sent::Order(submit) => self.0.note(submit, answer),
            Sent::Poison(key) => {
                self.0.poison.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer);
            }
            Sent::Cancel => {}
        }
    }
}

fn send_directly(doors: &Doors, log: &Arc<ClientLog>, stop: &AtomicBool) {
    let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", &doors.kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        // Shorter than a broker takes to come back, so that some submits stay in doubt.
        .set("message.timeout.ms", "4000")
        .create_with_context(Deliveries(log.clone()))
        .unwrap();
    let mut draw = Draw::new(doors.seed ^ 0xd1);
    let since = Instant::now();
    let mut cancelled = None;
    for number in 0..doors.orders / 2 {
        std::thread::sleep(due(since, number, doors.rate / 2.0));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let submit = format!("direct-{number}");
        let order = order(submit.clone(), &mut draw);
        let mut value = Vec::new();
        doors.codec.encode(topics::ORDERS_PLACED, &order, &mut value);
        send(&producer, topics::ORDERS_PLACED, &submit, &value, Sent::Order(submit.clone()));
        if draw.below(200) == 0 {
            let key = format!("poison-{number}");
            send(&producer, topics::ORDERS_PLACED, &key, b"no record", Sent::Poison(key.clone()));
        }
        // A customer changes her mind about the order before last.
        if let Some(order_id) = cancelled.take() {
            let request = CancelRequested {
                request_id: format!("cancel-{order_id}"),
                reason: "changed my mind".into(),
                requested_by: "ann".into(),
                at: 1,
                order_id,
            };
            let mut value = Vec::new();
            doors.codec.encode(topics::ORDERS_CANCEL_REQUESTED, &request, &mut value);
            send(&producer, topics::ORDERS_CANCEL_REQUESTED, &request.order_id, &value, Sent::Cancel);
        }
        if draw.below(40) == 0 {
            cancelled = Some(submit);
        }
    }
    while producer.in_flight_count() > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(producer: &ThreadedProducer<Deliveries>, topic: &str, key: &str, value: &[u8], sent: Sent) {
    let mut record = BaseRecord::with_opaque_to(topic, Box::new(sent)).key(key).payload(value);
    while let Err((_, back)) = producer.send(record) {
        // The queue is full while the brokers are away.
        record = back;
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn submit_all(client: usize, doors: Arc<Doors>, log: Arc<ClientLog>, stop: Arc<AtomicBool>) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    let url = format!("http://{}/v1/orders", doors.http);
    let mut draw = Draw::new(doors.seed ^ (0xa0 + client as u64));
    let since = Instant::now();
    let share = 2 * HTTP_CLIENTS;
    for number in 0..doors.orders / share {
        tokio::time::sleep(due(since, number, doors.rate / share as f64)).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let submit = format!("http-{client}-{number}");
        let lines: Vec<_> = lines(&mut draw).iter().map(|(sku, n)| json!({"sku": sku, "quantity": n})).collect();
        let body =
            json!({"customer_id": submit, "currency": "GBP", "payment_method": token(&mut draw), "lines": lines});
        let mut answer = Answer::Refused;
        for attempt in 0..HTTP_TRIES {
            let sent = http.post(&url).header("Idempotency-Key", &submit).json(&body).send().await;
            match sent {
                Ok(response) if response.status().is_success() => {
                    answer = Answer::Acknowledged;
                    break;
                }
                // Not for what it says: for when it says it.
                Ok(response)
                    if response.status().is_client_error() && !matches!(response.status().as_u16(), 409 | 429) =>
                {
                    break;
                }
                // It never got there.
                Err(error) if error.is_connect() => {}
                _ => answer = Answer::Indeterminate,
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt.min(4))).await;
        }
        log.note(submit, answer);
    }
}
