//! The simulated provider without a disk, for tests and simulations: same rules, forgotten with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LedgerEntry;
use crate::rules::{self, Account};
use crate::{Provider, ProviderRequest, ProviderResponse};

/// A provider whose accounts are in memory.
#[derive(Debug, Default)]
pub struct MemoryProvider {
    accounts: Mutex<BTreeMap<String, Account>>,
}

impl MemoryProvider {
    /// Every order the provider knows, by order id.
    #[must_use]
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.lock().values().filter(|account| !account.order_id.is_empty()).map(LedgerEntry::from).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        // The rules change an account only when they return.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for MemoryProvider {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        let mut accounts = self.lock();
        if request.ask {
            let mut known = accounts.get(&request.order_id).cloned().unwrap_or_default();
            return rules::answer(&mut known, request).0;
        }
        rules::answer(accounts.entry(request.order_id.clone()).or_default(), request).0
    }
}
