//! Accepting connections and cutting them into frames. Requests of one connection are answered one by one, in order.
//!
//! A frame that makes no sense closes its connection and nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::apis::{Request, answer};
use super::faults::{ApiKey, Fault, refused};

/// Room for reading small requests without asking the kernel for each.
const READ_BYTES: usize = 64 << 10;
/// Memory for a larger request is taken in such steps.
const STEP_BYTES: usize = 1 << 20;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most connections at a time; more are closed at once.
    pub(crate) connections: usize,
    /// Largest request, bytes.
    pub(crate) request_bytes: usize,
    /// Memory of all requests that are on their way, bytes, beyond a small buffer for each connection.
    pub(crate) in_flight_bytes: usize,
    /// How long a connection may be silent between two requests.
    pub(crate) idle: Duration,
    /// How long a request may take to arrive, or a piece of an answer to be taken.
    pub(crate) patience: Duration,
}

/// A frame the broker cannot make sense of.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

impl Malformed {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Slow(&'static str),
}

/// Serves connections until the future is dropped, which closes them all.
pub(crate) async fn accept_connections(listener: TcpListener, shared: Arc<Shared>, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let memory = Arc::new(Semaphore::new(limits.in_flight_bytes.clamp(STEP_BYTES, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            shared.counted.refused.fetch_add(1, Relaxed);
            tracing::warn!(limits.connections, "connection refused: too many");
            continue;
        };
        let (shared, memory) = (shared.clone(), memory.clone());
        shared.counted.connections.fetch_add(1, Relaxed);
        connections.spawn(async move {
            let peer = stream.peer_addr().ok();
            match serve(stream, &shared, limits, &memory).await {
                Ok(()) => {}
                Err(Closed::Io(error)) => tracing::debug!(?peer, %error, "connection lost"),
                Err(Closed::Slow(why)) => {
                    shared.counted.slow.fetch_add(1, Relaxed);
                    tracing::info!(?peer, why, "connection closed");
                }
                Err(Closed::Malformed(what)) => {
                    shared.counted.malformed.fetch_add(1, Relaxed);
                    tracing::warn!(?peer, %what, "connection closed");
                }
            }
            shared.counted.ended.fetch_add(1, Relaxed);
            drop(place);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    shared: &Arc<Shared>,
    limits: Limits,
    memory: &Arc<Semaphore>,
) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        while buffer.len() < 4 {
            buffer.reserve(READ_BYTES);
            let read = timeout(limits.idle, stream.read_buf(&mut buffer)).await;
            if read.map_err(|_| Closed::Slow("nothing was asked for too long"))?? == 0 {
                return Ok(());
            }
        }
        let length = usize::try_from(buffer.get_i32()).unwrap_or(usize::MAX);
        if length > limits.request_bytes {
            let what = format!("request of {length} bytes is over {}", limits.request_bytes);
            return Err(Malformed::new(what).into());
        }
        let Some(held) = arrive(&mut stream, &mut buffer, length, memory, limits.patience).await? else {
            return Ok(());
        };
        let request = Request::read(buffer.split_to(length).freeze())?;
        shared.counted.request(request.key);
        shared.counted.received_bytes.fetch_add(4 + length as u64, Relaxed);
        let Some(response) = respond(shared, request).await? else {
            return Ok(());
        };
        drop(held);
        shared.counted.sent_bytes.fetch_add(response.len() as u64, Relaxed);
        for piece in response.chunks(STEP_BYTES) {
            let written = timeout(limits.patience, stream.write_all(piece)).await;
            written.map_err(|_| Closed::Slow("an answer was not taken in time"))??;
        }
    }
}

/// Reads until the whole request is there; `None` if the client went away. A large request gets its memory as it
/// arrives, not as it is announced. To wait for memory that slow clients hold is not to be slow: it counts for itself.
async fn arrive(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    length: usize,
    memory: &Arc<Semaphore>,
    patience: Duration,
) -> Result<Option<Vec<OwnedSemaphorePermit>>, Closed> {
    let mut held = Vec::new();
    let mut allowed = READ_BYTES;
    let mut left = patience;
    while buffer.len() < length {
        while allowed <= buffer.len() {
            let permit = timeout(patience, memory.clone().acquire_many_owned(STEP_BYTES as u32)).await;
            let permit = permit.map_err(|_| Closed::Slow("there was no memory for a request in time"))?;
            held.push(permit.map_err(|_| Closed::Slow("the broker stops"))?);
            allowed += STEP_BYTES;
        }
        buffer.reserve((length - buffer.len()).min(allowed - buffer.len()));
        let since = Instant::now();
        let read = timeout(left, stream.read_buf(buffer)).await;
        if read.map_err(|_| Closed::Slow("a request did not arrive in time"))?? == 0 {
            return Ok(None);
        }
        left = left.saturating_sub(since.elapsed());
    }
    Ok(Some(held))
}

/// Answers a request, unless a fault was asked for. `None` closes the connection; no bytes are no answer.
async fn respond(shared: &Arc<Shared>, mut request: Request) -> Result<Option<BytesMut>, Closed> {
    let fault = shared.faults.take(request.key);
    let ends_transaction = request.key == ApiKey::EndTxn;
    match fault {
        None => {}
        Some(Fault::DropConnection) => return Ok(None),
        Some(Fault::Error(code)) => return Ok(Some(refused(&mut request, code)?)),
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::LoseAnswer) => {
            answer(shared, request).await?;
            return Ok(None);
        }
    }
    let Some(response) = answer(shared, request).await? else {
        return Ok(Some(BytesMut::new()));
    };
    shared.settled().await?;
    if ends_transaction {
        // The decision is safe; with its markers safe as well, the next transaction can begin at once.
        shared.settled().await?;
    }
    Ok(Some(response))
}
