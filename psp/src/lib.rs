//! The payment service provider: what it is asked ([`Provider`]), how a request gets there and back ([`handle_all_bytes`]),
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

    /// The same for several requests of different orders, each answered by its place, in any order, as soon as its answer
    /// is known. One after the other, unless the provider can do better.
    fn handle_all(&self, requests: &[ProviderRequest], answer: &mut dyn FnMut(usize, ProviderResponse)) {
        for (place, request) in requests.iter().enumerate() {
            answer(place, self.handle(request));
        }
    }

    /// How many requests are given to [`Provider::handle_all`] at most: no more than can be answered in about the time
    /// of one.
    fn together(&self) -> usize {
        1
    }
}

impl<P: Provider + ?Sized> Provider for std::sync::Arc<P> {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        (**self).handle(request)
    }

    fn handle_all(&self, requests: &[ProviderRequest], answer: &mut dyn FnMut(usize, ProviderResponse)) {
        (**self).handle_all(requests, answer);
    }

    fn together(&self) -> usize {
        (**self).together()
    }
}

/// A call of the payment processor.
#[derive(Clone, Copy, Debug)]
pub struct CallBytes<'a> {
    /// The request, as JSON.
    pub request: &'a [u8],
    /// It may have been made before (a restart, a moved partition): then the provider is asked what became of it first, and
    /// acts only when it knows nothing of it.
    pub repeated: bool,
}

/// Answers calls of the payment processor, as JSON bytes, by their places. Each is always answered.
pub fn handle_all_bytes(provider: &dyn Provider, calls: &[CallBytes<'_>], answer: &mut dyn FnMut(usize, Vec<u8>)) {
    let (mut unsure, mut due) = (Requests::default(), Requests::default());
    for (place, call) in calls.iter().enumerate() {
        match ProviderRequest::from_json(call.request) {
            Ok(mut request) if call.repeated && !request.ask => {
                request.ask = true;
                unsure.add(place, request);
            }
            Ok(request) => due.add(place, request),
            Err(error) => {
                let response = ProviderResponse::Unknown { detail: format!("the request cannot be read: {error}") };
                answer(place, response.to_json());
            }
        }
    }
    unsure.handle(provider, &mut |place, request, known| match known {
        ProviderResponse::NotFound => due.add(place, ProviderRequest { ask: false, ..request.clone() }),
        known => answer(place, known.to_json()),
    });
    due.handle(provider, &mut |place, _, response| answer(place, response.to_json()));
}

/// The same for one call.
#[must_use]
pub fn handle_bytes(provider: &dyn Provider, call: CallBytes<'_>) -> Vec<u8> {
    let mut answered = Vec::new();
    handle_all_bytes(provider, &[call], &mut |_, response| answered = response);
    answered
}

/// Requests, and the places of their calls.
#[derive(Default)]
struct Requests {
    requests: Vec<ProviderRequest>,
    places: Vec<usize>,
}

impl Requests {
    fn add(&mut self, place: usize, request: ProviderRequest) {
        self.requests.push(request);
        self.places.push(place);
    }

    /// Has them handled, unless there are none: a provider may take its time over nothing, too.
    fn handle(&self, provider: &dyn Provider, answer: &mut dyn FnMut(usize, &ProviderRequest, ProviderResponse)) {
        if !self.requests.is_empty() {
            provider.handle_all(&self.requests, &mut |at, response| {
                answer(self.places[at], &self.requests[at], response);
            });
        }
    }
}
