//! The simulated provider: the rules of [`crate::rules`] over accounts kept on disk ([`SimulatedProvider`]) or in memory
//! ([`MemoryProvider`]). Owns durability and latency; never the rules.
//!
//! What it did survives a crash: an account is on disk before its answer is given. One flush serves every request
//! that is made together with others, and every thread that waits for one.

mod flush;
mod ledger;
mod memory;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use ledger::{LedgerEntry, LedgerError, open_ledger};
pub use memory::MemoryProvider;

use crate::rules::{self, Effect};
use crate::{Provider, ProviderRequest, ProviderResponse};
use flush::GroupFlush;

/// Requests that share a flush: a few milliseconds' worth.
const TOGETHER: usize = 256;

/// How the simulated provider behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How long each request takes before anything happens.
    pub latency: Duration,
}

/// A provider whose accounts are on disk, in a directory of its own that only it has open.
pub struct SimulatedProvider {
    options: Options,
    db: sled::Db,
    /// Held while an account is read, changed and written; never while waiting for the disk.
    accounts: Mutex<()>,
    flushed: GroupFlush,
}

impl SimulatedProvider {
    /// Opens the ledger in `directory`, or makes one.
    ///
    /// # Errors
    /// [`LedgerError::Storage`] when it is open elsewhere or cannot be read.
    pub fn open(directory: &Path, options: Options) -> Result<Self, LedgerError> {
        let db = ledger::open(directory)?;
        Ok(Self { options, db, accounts: Mutex::new(()), flushed: GroupFlush::default() })
    }

    /// Every order the provider knows, by order id; what its merchants are held to. Entries are read as they are
    /// taken: stop calling the provider first where they must be of one moment.
    pub fn ledger(&self) -> impl Iterator<Item = Result<LedgerEntry, LedgerError>> + use<> {
        ledger::entries(&self.db)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data of its own: after a panic the tree is as whole as before.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &ProviderRequest) -> Result<ProviderResponse, LedgerError> {
        let mut account = ledger::read(&self.db, &request.order_id)?;
        let (response, effect) = rules::answer(&mut account, request);
        if effect == Effect::Changed {
            ledger::write(&self.db, &request.order_id, &account)?;
            self.flushed.wrote();
        }
        Ok(response)
    }
}

impl Provider for SimulatedProvider {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        let mut response = None;
        self.handle_all(std::slice::from_ref(request), &mut |_, answered| response = Some(answered));
        response.unwrap_or_else(|| unknown("it did not answer"))
    }

    fn handle_all(&self, requests: &[ProviderRequest], answer: &mut dyn FnMut(usize, ProviderResponse)) {
        if !self.options.latency.is_zero() {
            std::thread::sleep(self.options.latency);
        }
        let (responses, write) = {
            let _held = self.lock();
            let responses: Vec<_> = requests.iter().map(|request| self.answer(request)).collect();
            (responses, self.flushed.written())
        };
        // Also an answer that changed nothing may tell of a write that is not on disk yet.
        let flushed = self.flushed.wait_for(write, || self.db.flush().map(|_| ()));
        for (place, response) in responses.into_iter().enumerate() {
            let on_disk = match &flushed {
                Ok(()) => response.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            answer(place, on_disk.unwrap_or_else(|why| unknown(&why)));
        }
    }

    fn together(&self) -> usize {
        TOGETHER
    }
}

fn unknown(why: &str) -> ProviderResponse {
    ProviderResponse::Unknown { detail: format!("the simulated provider: {why}") }
}

#[cfg(test)]
mod tests;
