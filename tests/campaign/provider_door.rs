//! A door before the simulated payment service provider that makes it slow, silent or wrong. Never touches its ledger.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

/// What the door does to requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Passes both.
    Plain,
    /// Passes both, late.
    Slow(Duration),
    /// Passes the request and gives no answer.
    Silent,
    /// By turns: loses the request and answers with a server error; passes it and answers with one; passes it and
    /// answers what is no answer.
    Wrong,
}

/// A running door.
pub struct ProviderDoor {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    manner: Mutex<(Manner, u64)>,
    provider: String,
    client: reqwest::Client,
}

impl ProviderDoor {
    /// Before the provider at this URL, which ends in `/psp`.
    pub fn start(provider: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let shared = Arc::new(Shared { manner: Mutex::new((Manner::Plain, 0)), provider, client });
        let app = Router::new().route("/psp/requests", post(pass)).with_state(shared.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, shared, _runtime: runtime }
    }

    /// Where requests go, ending in `/psp`.
    pub fn url(&self) -> String {
        format!("http://{}/psp", self.address)
    }

    /// From now on it behaves so.
    pub fn behave(&self, manner: Manner) {
        self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner).0 = manner;
    }
}

async fn pass(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let (manner, turn) = {
        let mut manner = shared.manner.lock().unwrap_or_else(PoisonError::into_inner);
        manner.1 += 1;
        *manner
    };
    if let Manner::Slow(by) = manner {
        tokio::time::sleep(by).await;
    }
    if manner == Manner::Wrong && turn % 3 == 0 {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let url = format!("{}/requests", shared.provider);
    let answer = match shared.client.post(url).header(header::CONTENT_TYPE, "application/json").body(body).send().await
    {
        Ok(answer) => answer.bytes().await.unwrap_or_default(),
        Err(_) => return StatusCode::BAD_GATEWAY.into_response(),
    };
    match manner {
        Manner::Silent => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Manner::Wrong if turn % 3 == 1 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::Wrong => "{\"what\": \"is this?\"}".into_response(),
        Manner::Plain | Manner::Slow(_) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
    }
}
