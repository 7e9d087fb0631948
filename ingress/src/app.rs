//! The routes, and what they share.
//!
//! `/livez`, `/readyz`, `/startupz` and `/metrics` are not here: the program merges its own router.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use millrace_schemas::{AvroRecord, Codec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context::{self, Context};
use crate::doors::{Orders, Outgoing, Publisher};
use crate::idempotency::Submits;
use crate::problem::{Problem, ProblemType};
use crate::serve::Drain;
use crate::settings::Settings;
use crate::{cancel, operators, query, submit};

/// The routes of the ingress; merge with others and give to [`crate::serve`].
pub fn app(ingress: Arc<Ingress>) -> Router {
    Router::new()
        .route("/v1/orders", post(submit::place))
        .route("/v1/orders/{id}", get(query::order))
        .route("/v1/orders/{id}/cancel", post(cancel::cancel))
        .route("/v1/products/{sku}", put(operators::product))
        .route("/v1/stock/adjustments", post(operators::adjustment))
        .fallback(async || Problem::from(ProblemType::UnknownRoute))
        .method_not_allowed_fallback(async || Problem::from(ProblemType::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(ingress.settings.body_max))
        .layer(from_fn(context::around))
        .with_state(ingress)
}

/// What all requests share: the doors, the codec, the settings, and what is at work.
pub struct Ingress {
    codec: Codec,
    publisher: Arc<dyn Publisher>,
    orders: Arc<dyn Orders>,
    settings: Settings,
    drain: Drain,
    submits: Arc<Submits>,
    writes: Arc<Semaphore>,
    queries: Arc<Semaphore>,
}

impl Ingress {
    /// Puts the doors together. `drain` is the one given to [`crate::serve`], so that waiting queries end early.
    pub fn new(
        codec: Codec,
        publisher: Arc<dyn Publisher>,
        orders: Arc<dyn Orders>,
        settings: Settings,
        drain: Drain,
    ) -> Arc<Ingress> {
        Arc::new(Ingress {
            codec,
            publisher,
            orders,
            drain,
            submits: Submits::new(settings.remembered_max),
            writes: Arc::new(Semaphore::new(settings.writes_max)),
            queries: Arc::new(Semaphore::new(settings.queries_max)),
            settings,
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn publisher(&self) -> &dyn Publisher {
        &*self.publisher
    }

    pub(crate) fn orders(&self) -> &dyn Orders {
        &*self.orders
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    pub(crate) fn submits(&self) -> &Arc<Submits> {
        &self.submits
    }

    /// A place among the queries, when there is one.
    pub(crate) fn query_slot(&self) -> Option<QuerySlot> {
        Arc::clone(&self.queries).try_acquire_owned().ok().map(QuerySlot)
    }

    /// The record ready to be published; `id` names what it says, the same for every repetition.
    pub(crate) fn outgoing<T: AvroRecord>(
        &self,
        topic: &'static str,
        key: String,
        record: &T,
        context: &Context,
        id: &str,
    ) -> Outgoing {
        let mut value = Vec::new();
        self.codec.encode(topic, record, &mut value);
        Outgoing { topic, key, value, headers: context.record_headers(T::NAME, id) }
    }
}

/// A place among the writing requests; 503 when all are taken.
pub(crate) struct WriteSlot(#[expect(dead_code, reason = "held until dropped")] OwnedSemaphorePermit);

/// A place among the queries; 503 when all are taken.
pub(crate) struct QuerySlot(#[expect(dead_code, reason = "held until dropped")] OwnedSemaphorePermit);

impl FromRequestParts<Arc<Ingress>> for WriteSlot {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, ingress: &Arc<Ingress>) -> Result<WriteSlot, Problem> {
        let slot = Arc::clone(&ingress.writes).try_acquire_owned();
        slot.map(WriteSlot).map_err(|_| ProblemType::Overloaded.into())
    }
}

impl FromRequestParts<Arc<Ingress>> for QuerySlot {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, ingress: &Arc<Ingress>) -> Result<QuerySlot, Problem> {
        ingress.query_slot().ok_or_else(|| ProblemType::Overloaded.into())
    }
}

/// A JSON body that is already text.
pub(crate) fn json_text(text: String) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], text).into_response()
}

/// Where an order is found.
pub(crate) fn order_path(order_id: &str) -> String {
    format!("/v1/orders/{}", percent_encoded(order_id))
}

/// Everything but unreserved characters (RFC 3986) escaped, so that any order id makes a path and a header value.
fn percent_encoded(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// Milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}
