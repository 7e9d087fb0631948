//! One flush for all who wait for one. Owns who flushes and who waits; never what is flushed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::LedgerError;

/// Writes are numbered; a flush makes every write durable that was made before it began.
#[derive(Default)]
pub(super) struct GroupFlush {
    written: AtomicU64,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Every write up to this number is on disk.
    durable: u64,
    flushing: bool,
    #[cfg(test)]
    flushes: u64,
}

impl GroupFlush {
    /// A write was made.
    pub(super) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::Release);
    }

    /// How many writes were made.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Returns once the first `write` writes are on disk: whoever finds nobody flushing flushes for all.
    ///
    /// # Errors
    /// What this caller's own flush gave; those who waited for it try themselves.
    pub(super) fn wait_for(&self, write: u64, flush: impl Fn() -> sled::Result<()>) -> Result<(), LedgerError> {
        let mut state = self.lock();
        while state.durable < write {
            if state.flushing {
                state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.flushing = true;
            drop(state);
            let covers = self.written();
            let outcome = flush();
            state = self.lock();
            state.flushing = false;
            #[cfg(test)]
            {
                state.flushes += 1;
            }
            if outcome.is_ok() {
                state.durable = state.durable.max(covers);
            }
            self.done.notify_all();
            outcome?;
        }
        Ok(())
    }

    /// How many flushes were made.
    #[cfg(test)]
    pub(super) fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Its fields are single assignments: a panicking holder leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
