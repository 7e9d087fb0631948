//! The simulated provider: the rules of [`crate::rules`] over accounts kept on disk ([`SimulatedProvider`]) or in memory
//! ([`MemoryProvider`]). Owns durability and latency; never the rules.
//!
//! What it did survives a crash: an account is on disk before its answer is given. One flush serves every call that
//! waits for one, so that thousands of calls a second are possible when many threads call.

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
        let (response, write) = {
            let _held = self.lock();
            let mut account = ledger::read(&self.db, &request.order_id)?;
            let (response, effect) = rules::answer(&mut account, request);
            if effect == Effect::Changed {
                ledger::write(&self.db, &request.order_id, &account)?;
                self.flushed.wrote();
            }
            (response, self.flushed.written())
        };
        // Also an answer that changed nothing may tell of a write that is not on disk yet.
        self.flushed.wait_for(write, || self.db.flush().map(|_| ()))?;
        Ok(response)
    }
}

impl Provider for SimulatedProvider {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        if !self.options.latency.is_zero() {
            std::thread::sleep(self.options.latency);
        }
        self.answer(request)
            .unwrap_or_else(|error| ProviderResponse::Unknown { detail: format!("the simulated provider: {error}") })
    }
}

#[cfg(test)]
mod tests;
