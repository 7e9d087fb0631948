//! Takes connections and lets them end in order: loopback only, with time-outs, drained before it returns.
//!
//! Knows HTTP connections and nothing of orders. `axum::serve` has no time-out for a header that never ends, so the
//! connections are driven here. An answer has no time-out of its own: every answer is small enough for the socket's
//! buffer, and [`Settings::connections_max`] bounds how many can be held open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::settings::Settings;

/// Pause after the system could not give us a connection (out of file descriptors, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest request head, bytes.
const HEAD_MAX: usize = 64 * 1024;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can be reached from other machines.
    #[error(
        "{0} can be reached from other machines, and sign-in does not exist yet: whoever reaches it could place \
         orders and change stock. Listen on 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}. Choose another port, or stop what holds this one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The listener does not say where it listens.
    #[error("the listener has no address: {0}")]
    NoAddress(io::Error),
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request under way got its answer.
    Whole,
    /// So many connections were cut when the drain time was over.
    CutOff(usize),
}

/// Says that the server drains: no new connections, and whoever waits for an order is answered with what is known.
#[derive(Clone, Debug)]
pub struct Drain(Arc<watch::Sender<bool>>);

impl Default for Drain {
    fn default() -> Self {
        Drain::new()
    }
}

impl Drain {
    /// Not begun.
    pub fn new() -> Drain {
        Drain(Arc::new(watch::Sender::new(false)))
    }

    /// From now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Ready once it has begun.
    pub async fn begun(&self) {
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}

/// Listens on a loopback address; port 0 takes a free one.
///
/// # Errors
/// [`ServeError::NotLoopback`] for any other address, [`ServeError::Listen`] when it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    require_loopback(address)?;
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

fn require_loopback(address: SocketAddr) -> Result<(), ServeError> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(ServeError::NotLoopback(address)) }
}

/// Serves until `shutdown` is ready, then begins the drain and returns when the requests under way have ended or
/// the drain time is over.
///
/// # Errors
/// [`ServeError::NotLoopback`] when the listener is not on loopback.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    settings: &Settings,
    drain: Drain,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServeError> {
    require_loopback(listener.local_addr().map_err(ServeError::NoAddress)?)?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(HEAD_MAX);
    let places = Arc::new(Semaphore::new(settings.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a request ended without an answer");
                }
                continue;
            }
            accepted = accept(&listener, &places) => accepted,
        };
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    drain.begin();
    if timeout(settings.drain_timeout, graceful.shutdown()).await.is_ok() {
        return Ok(Drained::Whole);
    }
    let mut cut = 0;
    while connections.try_join_next().is_some() {}
    cut += connections.len();
    connections.shutdown().await;
    tracing::warn!(connections = cut, "requests under way were cut off after {:?}", settings.drain_timeout);
    Ok(Drained::CutOff(cut))
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there is always a place in the end.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection keeps its delay");
                }
                return (stream, place);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
