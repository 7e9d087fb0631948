//! The ingress as a client meets it, over doors that behave: a broker in memory and a tracking that waits.

mod operators;
mod query;
mod serving;
mod submit;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use millrace_schemas::{Codec, OrderPlaced, topics};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::{
    Answer, Drain, Ingress, KnownOrder, Orders, Outgoing, PublishError, Publisher, Settings, Unavailable, WaitFor, app,
};

/// How the broker behaves just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Acknowledges,
    /// Stores, and the acknowledgement is lost.
    LosesAcknowledgement,
    /// Neither stores nor answers.
    Hangs,
    QueueFull,
}

/// A broker in memory: what it acknowledged is in the log.
struct Broker {
    behaviour: watch::Sender<Behaviour>,
    log: Mutex<Vec<Outgoing>>,
}

impl Publisher for Broker {
    fn publish(&self, record: Outgoing) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            // A hanging broker that recovers stores what was sent to it.
            let mut behaviour = self.behaviour.subscribe();
            let now = *behaviour.wait_for(|now| *now != Behaviour::Hangs).await.unwrap();
            // A network is between: others get their turn before the record is stored.
            tokio::task::yield_now().await;
            if now == Behaviour::QueueFull {
                return Err(PublishError::QueueFull);
            }
            self.log.lock().unwrap().push(record);
            if now == Behaviour::Acknowledges { Ok(()) } else { Err(PublishError::NotAcknowledged) }
        })
    }
}

/// Tracking in memory: answers when the version is there, or when the time is up.
struct Tracking {
    orders: watch::Sender<HashMap<String, KnownOrder>>,
    moving: Mutex<bool>,
    questions: Mutex<usize>,
}

impl Tracking {
    fn put(&self, order_id: &str, version: u64, status: &str, fingerprint: &str) {
        let view = json!({"order_id": order_id, "version": version, "status": status, "fingerprint": fingerprint});
        let order = KnownOrder::from_json(view.to_string()).unwrap();
        self.orders.send_modify(|orders| {
            orders.insert(order_id.into(), order);
        });
    }

    fn is_moving(&self, moving: bool) {
        *self.moving.lock().unwrap() = moving;
    }
}

impl Orders for Tracking {
    fn find<'a>(
        &'a self,
        order_id: &'a str,
        wait: Option<WaitFor>,
    ) -> Answer<'a, Result<Option<KnownOrder>, Unavailable>> {
        Box::pin(async move {
            *self.questions.lock().unwrap() += 1;
            if *self.moving.lock().unwrap() {
                return Err(Unavailable("the partition is moving".into()));
            }
            let mut orders = self.orders.subscribe();
            if let Some(wait) = wait {
                let there = |orders: &HashMap<String, KnownOrder>| {
                    orders.get(order_id).is_some_and(|order| order.version >= wait.min_version)
                };
                let _ = timeout(wait.at_most, orders.wait_for(there)).await;
            }
            Ok(orders.borrow().get(order_id).cloned())
        })
    }
}

/// An ingress with its surroundings.
struct Shop {
    broker: Arc<Broker>,
    tracking: Arc<Tracking>,
    settings: Settings,
    drain: Drain,
    app: Router,
}

impl Shop {
    fn open() -> Shop {
        Shop::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Shop {
        let mut settings = Settings {
            publish_timeout: Duration::from_millis(150),
            lookup_timeout: Duration::from_millis(150),
            ..Settings::default()
        };
        change(&mut settings);
        let broker = Arc::new(Broker { behaviour: watch::Sender::new(Behaviour::Acknowledges), log: Mutex::default() });
        let tracking = Arc::new(Tracking {
            orders: watch::Sender::default(),
            moving: Mutex::default(),
            questions: Mutex::default(),
        });
        Shop::around(broker, tracking, settings)
    }

    fn around(broker: Arc<Broker>, tracking: Arc<Tracking>, settings: Settings) -> Shop {
        let drain = Drain::new();
        let (publisher, orders) = (Arc::clone(&broker), Arc::clone(&tracking));
        let app = app(Ingress::new(Codec::offline(), publisher, orders, settings.clone(), drain.clone()));
        Shop { broker, tracking, settings, drain, app }
    }

    /// The same broker and tracking behind a new ingress process that remembers nothing.
    fn restarted(&self) -> Shop {
        Shop::around(Arc::clone(&self.broker), Arc::clone(&self.tracking), self.settings.clone())
    }

    fn broker_is(&self, behaviour: Behaviour) {
        self.broker.behaviour.send_replace(behaviour);
    }

    fn log(&self) -> Vec<Outgoing> {
        self.broker.log.lock().unwrap().clone()
    }

    /// The orders in the log, decoded.
    fn placed(&self) -> Vec<OrderPlaced> {
        let log = self.log();
        let placed = log.iter().filter(|record| record.topic == topics::ORDERS_PLACED);
        placed.map(|record| Codec::offline().decode(&record.value).unwrap()).collect()
    }

    /// Intake and tracking catch up with the log: the first body under an id is the order.
    fn catch_up(&self) {
        for placed in self.placed() {
            if !self.tracking.orders.borrow().contains_key(&placed.order_id) {
                self.tracking.put(&placed.order_id, 1, "authorizing", &placed.fingerprint());
            }
        }
    }

    async fn ask(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 24).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn place(&self, key: &str, order: &Value) -> Reply {
        self.ask(post("/v1/orders", Some(key), order.to_string())).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Fails unless this is a well-formed problem of that status and slug; gives its body.
    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["type"], format!("https://millrace.dev/problems/{slug}"));
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        let id = self.header("x-request-id").unwrap();
        assert_eq!(body["instance"], format!("urn:millrace:request:{id}"));
        assert_eq!(
            self.header("retry-after").is_some(),
            matches!(status, 408 | 503) || slug == "unknown-order" || slug == "request-in-flight"
        );
        body
    }

    /// The pointers of a problem's errors.
    fn pointers(&self) -> Vec<String> {
        let body = self.json();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

fn post(path: &str, key: Option<&str>, body: String) -> Request<Body> {
    let mut request = Request::post(path).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body)).unwrap()
}

fn order() -> Value {
    json!({
        "customer_id": "c-1", "currency": "GBP", "payment_method": "tok_visa",
        "lines": [{"sku": "85123A", "quantity": 6}, {"sku": "71053", "quantity": 2}],
    })
}

/// Waits for a condition, and fails when it does not come.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
