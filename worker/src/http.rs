//! What an orchestrator and Prometheus ask of a process: `/metrics`, `/livez`, `/readyz`, `/startupz`. Bound to
//! loopback unless told otherwise by the caller; never serves orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;

/// How the process is. Starts alive, not started, not ready.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    ready: AtomicBool,
    dead: AtomicBool,
}

impl Health {
    /// Whether it can do its work now. The first time it can, it has started.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
        if ready {
            self.started.store(true, Ordering::Relaxed);
        }
    }

    /// It cannot go on and must be started again.
    pub fn set_dead(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Whether it can do its work now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_live() && self.ready.load(Ordering::Relaxed)
    }

    /// Whether it has ever been ready.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether it need not be started again.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }
}

/// `/metrics`, `/livez`, `/readyz` and `/startupz`.
pub fn health_routes(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    let probe = |holds: fn(&Health) -> bool| {
        get(move |State(health): State<Arc<Health>>| async move {
            if holds(&health) { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not now\n") }
        })
    };
    let probes = Router::new()
        .route("/livez", probe(Health::is_live))
        .route("/readyz", probe(Health::is_ready))
        .route("/startupz", probe(Health::has_started))
        .with_state(health);
    Router::new().route("/metrics", get(tell)).with_state(metrics).merge(probes)
}

async fn tell(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.text())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};

    use millrace_runtime::{EngineSettings, Topology};

    use super::*;

    fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn probes_follow_the_health() {
        let topology = Topology {
            application: "app".into(),
            topics: vec![],
            processors: vec![],
            sub_topologies: vec![],
            engine: EngineSettings::default(),
        };
        let health = Arc::new(Health::default());
        let routes = health_routes(Arc::new(Metrics::new(&topology).unwrap()), health.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        let codes = || ["/livez", "/readyz", "/startupz"].map(|path| ask(address, path)[9..12].to_owned());
        assert_eq!(codes(), ["200", "503", "503"]);
        health.set_ready(true);
        assert_eq!(codes(), ["200", "200", "200"]);
        health.set_ready(false);
        assert_eq!(codes(), ["200", "503", "200"]);
        health.set_dead();
        health.set_ready(true);
        assert_eq!(codes(), ["503", "503", "200"]);
        assert!(ask(address, "/metrics").contains("millrace_commits_total 0"));
    }
}
