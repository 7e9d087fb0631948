//! The simulated payment service provider over HTTP: served here, called from other processes, and its ledger for the
//! audit. Owns the transport; the provider's rules are in `psp`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use millrace_psp::{LedgerEntry, Options, Provider, SimulatedProvider};
use millrace_schemas::provider::{ProviderRequest, ProviderResponse};
use tokio::task::JoinSet;

/// Arguments of `millrace psp`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where it answers.
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where its ledger is kept.
    #[arg(long, default_value = "millrace-data/psp", value_name = "DIR")]
    data_dir: PathBuf,
    /// How long every answer takes, milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency: u64,
}

/// Serves until interrupted.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::run::to_its_end(async {
        let provider = open(&args.data_dir, args.latency)?;
        let listener = millrace_ingress::bind(args.listen).await?;
        eprintln!("simulated payment service provider  http://{}/psp", listener.local_addr()?);
        let settings = millrace_ingress::Settings::default();
        let drain = millrace_ingress::Drain::new();
        millrace_ingress::serve(listener, routes(provider), &settings, drain, crate::run::interrupted()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Opens the simulated provider's ledger.
pub(crate) fn open(dir: &std::path::Path, latency_ms: u64) -> anyhow::Result<Arc<SimulatedProvider>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let provider = SimulatedProvider::open(dir, Options { latency: Duration::from_millis(latency_ms) });
    Ok(Arc::new(provider.with_context(|| format!("cannot open the provider's ledger in {}", dir.display()))?))
}

/// `POST /psp/requests` and `GET /psp/ledger` (JSON lines).
pub(crate) fn routes(provider: Arc<SimulatedProvider>) -> Router {
    Router::new().route("/psp/requests", post(request)).route("/psp/ledger", get(ledger)).with_state(provider)
}

async fn request(
    State(provider): State<Arc<SimulatedProvider>>,
    axum::Json(request): axum::Json<ProviderRequest>,
) -> impl IntoResponse {
    let answered = tokio::task::spawn_blocking(move || provider.handle(&request)).await;
    axum::Json(answered.unwrap_or_else(|error| ProviderResponse::Unknown { detail: error.to_string() }))
}

async fn ledger(State(provider): State<Arc<SimulatedProvider>>) -> impl IntoResponse {
    let read = tokio::task::spawn_blocking(move || {
        let mut lines = String::new();
        for entry in provider.ledger() {
            lines.push_str(&serde_json::to_string(&entry?)?);
            lines.push('\n');
        }
        anyhow::Ok(lines)
    });
    match read.await {
        Ok(Ok(lines)) => Ok(lines),
        Ok(Err(error)) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Requests that are under way together, for each thread that asks: all threads together, 256.
const TOGETHER: usize = 16;

/// A provider in another process.
pub(crate) struct RemoteProvider {
    url: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

impl RemoteProvider {
    /// `url` ends in `/psp`.
    pub(crate) fn new(url: &str, runtime: tokio::runtime::Handle) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), client, runtime })
    }
}

impl Provider for RemoteProvider {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        self.runtime.block_on(ask(self.client.clone(), self.url.clone(), request.clone()))
    }

    fn handle_all(&self, requests: &[ProviderRequest], answer: &mut dyn FnMut(usize, ProviderResponse)) {
        self.runtime.block_on(async {
            let mut asked = JoinSet::new();
            for (place, request) in requests.iter().cloned().enumerate() {
                let (client, url) = (self.client.clone(), self.url.clone());
                asked.spawn(async move { (place, ask(client, url, request).await) });
            }
            while let Some(answered) = asked.join_next().await {
                match answered {
                    Ok((place, response)) => answer(place, response),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
        });
    }

    fn together(&self) -> usize {
        TOGETHER
    }
}

async fn ask(client: reqwest::Client, url: String, request: ProviderRequest) -> ProviderResponse {
    let answer = async {
        let sent = client.post(format!("{url}/requests")).json(&request).send().await?;
        sent.error_for_status()?.json::<ProviderResponse>().await
    };
    // Whatever went wrong on the way, the provider may have acted: that is for the payment to find out.
    answer.await.unwrap_or_else(|error| ProviderResponse::Unknown { detail: error.to_string() })
}

/// The ledger of a provider, over HTTP.
pub(crate) async fn fetch_ledger(url: &str) -> anyhow::Result<Vec<LedgerEntry>> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(120)).no_proxy().build()?;
    let url = format!("{}/ledger", url.trim_end_matches('/'));
    let text = client.get(&url).send().await.and_then(reqwest::Response::error_for_status);
    let text = text.with_context(|| format!("cannot read the provider's ledger at {url}"))?.text().await?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("the provider's ledger has a line that is no entry"))
        .collect()
}

#[cfg(test)]
mod tests {
    use millrace_schemas::ProviderOperation;

    use super::*;

    #[test]
    fn requests_to_another_process_are_under_way_together() {
        const COUNT: usize = 8;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // Each is answered when all have arrived: one after the other, this would never end.
        let all = Arc::new(tokio::sync::Barrier::new(COUNT));
        let app = Router::new().route(
            "/psp/requests",
            post(async move |axum::Json(request): axum::Json<ProviderRequest>| {
                all.wait().await;
                axum::Json(ProviderResponse::Unknown { detail: request.order_id })
            }),
        );
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/psp", listener.local_addr().unwrap());
        runtime.spawn(async { axum::serve(listener, app).await });
        let remote = RemoteProvider::new(&url, runtime.handle().clone()).unwrap();
        let request = |order: usize| ProviderRequest {
            operation: ProviderOperation::Authorize,
            idempotency_key: format!("{order}/authorize/1"),
            order_id: order.to_string(),
            amount_minor: 1,
            currency: "EUR".into(),
            payment_method: "tok_visa".into(),
            provider_reference: None,
            ask: false,
        };
        let requests: Vec<_> = (0..COUNT).map(request).collect();
        let mut answers = vec![None; COUNT];
        remote.handle_all(&requests, &mut |place, response| answers[place] = Some(response));
        for (place, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Some(ProviderResponse::Unknown { detail: place.to_string() }));
        }
    }
}
