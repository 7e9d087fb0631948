//! Accepting connections and cutting them into frames. Requests of one connection are answered one by one, in order.
//!
//! A frame that makes no sense closes its connection and nothing else.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use super::apis::{Request, answer};

/// Room for reading small requests without asking the kernel for each.
const READ_BYTES: usize = 64 << 10;

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
}

/// Serves connections until the future is dropped, which closes them all.
pub(crate) async fn accept_connections(
    listener: TcpListener,
    shared: Arc<Shared>,
    max_connections: usize,
    max_request_bytes: usize,
) {
    let places = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(max_connections, "connection refused: too many");
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let peer = stream.peer_addr().ok();
            match serve(stream, &shared, max_request_bytes).await {
                Ok(()) => {}
                Err(Closed::Io(error)) => tracing::debug!(?peer, %error, "connection lost"),
                Err(Closed::Malformed(what)) => {
                    tracing::warn!(?peer, %what, "connection closed");
                }
            }
            drop(place);
        });
    }
}

async fn serve(mut stream: TcpStream, shared: &Arc<Shared>, max_request_bytes: usize) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        let length = loop {
            if let Some(prefix) = buffer.first_chunk::<4>() {
                let length = i32::from_be_bytes(*prefix);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > max_request_bytes {
                    let what = format!("request of {length} bytes is over {max_request_bytes}");
                    return Err(Malformed::new(what).into());
                }
                if buffer.len() >= 4 + length {
                    break length;
                }
                // A large request gets its memory as it arrives, not as it is announced.
                buffer.reserve((4 + length - buffer.len()).min(1 << 20));
            } else {
                buffer.reserve(READ_BYTES);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.advance(4);
        let frame = buffer.split_to(length).freeze();
        let request = Request::read(frame)?;
        let ends_transaction = request.key == ApiKey::EndTxn;
        if let Some(response) = answer(shared, request).await? {
            shared.settled().await?;
            if ends_transaction {
                // The decision is safe; with its markers safe as well, the next transaction can begin at once.
                shared.settled().await?;
            }
            stream.write_all(&response).await?;
        }
    }
}
