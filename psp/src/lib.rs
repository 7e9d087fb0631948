//! The payment service provider: what it is asked ([`Provider`]), how a request gets there and back ([`handle_bytes`]),
//! and a simulated one with a durable ledger ([`SimulatedProvider`]).
//!
//! A connector to a real provider is another implementation of [`Provider`], in a module of its own: it maps the five
//! operations to that provider's calls, sends the idempotency key along, and answers `Unknown` whenever it cannot tell
//! whether the provider acted. It needs no state: what happened is the provider's to remember.

pub mod planted;
mod rules;
mod simulated;

pub use millrace_schemas::provider::{ProviderRequest, ProviderResponse};
pub use rules::{Account, Authorization};
pub use simulated::{LedgerEntry, LedgerError, MemoryProvider, Options, SimulatedProvider, open_ledger};

/// A payment service provider. Blocking: it is called from threads that may wait, many at a time.
pub trait Provider: Send + Sync {
    /// Does what is asked, once per idempotency key, and answers. When it cannot tell whether the provider acted (a
    /// time-out, a broken connection, a server error) it answers [`ProviderResponse::Unknown`].
    ///
    /// With [`ProviderRequest::ask`] it never acts: it tells what became of the key, [`ProviderResponse::NotFound`]
    /// when it never took effect.
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse;
}

impl<P: Provider + ?Sized> Provider for std::sync::Arc<P> {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        (**self).handle(request)
    }
}

/// Answers one call of the payment processor, both as JSON bytes. Always answers.
///
/// `repeated` says that the call may have been made before (a restart, a moved partition): then the provider is asked
/// what became of it first, and acts only when it knows nothing of it.
#[must_use]
pub fn handle_bytes(provider: &dyn Provider, request: &[u8], repeated: bool) -> Vec<u8> {
    let response = match ProviderRequest::from_json(request) {
        Ok(request) => handle(provider, request, repeated),
        Err(error) => ProviderResponse::Unknown { detail: format!("the request cannot be read: {error}") },
    };
    response.to_json()
}

fn handle(provider: &dyn Provider, mut request: ProviderRequest, repeated: bool) -> ProviderResponse {
    if repeated && !request.ask {
        request.ask = true;
        let known = provider.handle(&request);
        request.ask = false;
        if known != ProviderResponse::NotFound {
            return known;
        }
    }
    provider.handle(&request)
}
