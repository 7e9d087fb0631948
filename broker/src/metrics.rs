//! How the broker is and what it has done, for those who watch it: `/metrics`, `/livez` and `/readyz`, beside the paths of
//! the registry. Counts requests and bytes, never records; decides nothing.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::core::Core;
use crate::wire::{APIS, ApiKey, Shared};

/// One more than the largest key of a request that is understood.
const KINDS: usize = {
    let (mut at, mut most) = (0, 0);
    while at < APIS.len() {
        if APIS[at].key as usize > most {
            most = APIS[at].key as usize;
        }
        at += 1;
    }
    most + 1
};

/// What has happened since the start.
#[derive(Debug)]
pub(crate) struct Counted {
    requests: [AtomicU64; KINDS],
    /// Bytes of requests and of answers, with their lengths.
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    /// Connections taken, and those of them that have ended.
    pub(crate) connections: AtomicU64,
    pub(crate) ended: AtomicU64,
    /// Connections not taken, for there were too many.
    pub(crate) refused: AtomicU64,
    /// Connections closed by the broker: for a frame without sense, and for taking too long.
    pub(crate) malformed: AtomicU64,
    pub(crate) slow: AtomicU64,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; KINDS],
            received_bytes: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            connections: AtomicU64::default(),
            ended: AtomicU64::default(),
            refused: AtomicU64::default(),
            malformed: AtomicU64::default(),
            slow: AtomicU64::default(),
        }
    }
}

impl Counted {
    /// One more request of a kind.
    pub(crate) fn request(&self, kind: ApiKey) {
        if let Some(count) = self.requests.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// `/metrics` in Prometheus' text format; `/livez`, whether the broker answers at all; `/readyz`, whether it takes writes.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn live(State(shared): State<Arc<Shared>>) -> &'static str {
    // Whoever holds the core holds up everything.
    shared.read(|_| "ok\n")
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.read(Core::keeps_what_is_written) {
        "ok\n".into_response()
    } else {
        let why = "the disk did not keep what was written: nothing is acknowledged until the broker is started again\n";
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.read(|core| text(core, &shared.counted, crate::wire::now()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Lines of Prometheus' text format.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // A string takes everything.
        writeln!(self.0, "# HELP millrace_broker_{name} {help}\n# TYPE millrace_broker_{name} {kind}").ok();
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        writeln!(self.0, "millrace_broker_{name}{labels} {value}").ok();
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.value(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.head(name, "counter", help);
        self.value(name, "", value.load(Relaxed));
    }
}

fn text(core: &Core, counted: &Counted, now: i64) -> String {
    let mut lines = Lines::default();
    lines.head("requests_total", "counter", "Requests read, by kind.");
    for api in APIS {
        let count = counted.requests[api.key as usize].load(Relaxed);
        lines.value("requests_total", &format!("{{request=\"{:?}\"}}", api.key), count);
    }
    lines.counter("received_bytes_total", "Bytes of requests.", &counted.received_bytes);
    lines.counter("sent_bytes_total", "Bytes of answers.", &counted.sent_bytes);
    // In this order, so that none is counted as ended that is not counted as taken.
    let ended = counted.ended.load(Relaxed);
    let open = counted.connections.load(Relaxed).saturating_sub(ended);
    lines.gauge("connections", "Connections that are open.", open);
    lines.head("connections_closed_total", "counter", "Connections the broker did not want, by reason.");
    let reasons = [("too_many", &counted.refused), ("malformed", &counted.malformed), ("too_slow", &counted.slow)];
    for (reason, count) in reasons {
        lines.value("connections_closed_total", &format!("{{reason=\"{reason}\"}}"), count.load(Relaxed));
    }
    let totals = core.totals();
    lines.gauge("topics", "Topics.", totals.topics);
    lines.gauge("partitions", "Partitions.", totals.partitions);
    lines.gauge("partitions_set_aside", "Partitions whose files were found broken.", totals.set_aside);
    lines.gauge("log_bytes", "Bytes of records on disk.", totals.log_bytes);
    lines.gauge("groups", "Consumer groups, empty ones included.", totals.groups);
    lines.gauge("open_transactions", "Transactions that are not decided.", totals.open_transactions);
    let oldest = totals.oldest_transaction.map_or(0, |since| now.saturating_sub(since).max(0));
    let help = "Age of the oldest transaction that is not decided, seconds; it may hold readers back.";
    lines.gauge("oldest_transaction_seconds", help, oldest as f64 / 1000.0);
    let failed = u8::from(!core.keeps_what_is_written());
    lines.gauge("storage_failed", "1 when the disk did not keep what was written.", failed);
    lines.0
}
