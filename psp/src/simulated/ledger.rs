//! The ledger on disk: one account per order, as JSON, and its summary for whoever audits. Never decides.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rules::Account;

/// Bytes of the ledger kept in memory: an account is written once or twice and hardly ever read, so more would be memory of
/// the process that has the provider in it, and no faster.
const CACHE_BYTES: u64 = 8 << 20;

/// What the provider holds and took for one order; amounts in minor units, added up over its authorizations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The merchant's order id.
    pub order_id: String,
    /// The provider's name for the latest authorization; empty when none was approved.
    pub reference: String,
    /// ISO 4217.
    pub currency: String,
    /// Held on the card, ever.
    pub authorized_minor: i64,
    /// Taken.
    pub captured_minor: i64,
    /// Let go again untaken.
    pub voided_minor: i64,
    /// Given back.
    pub refunded_minor: i64,
    /// How many authorizations took effect; more than one is a double charge in the making.
    pub authorizations: u32,
    /// How many captures took effect; more than one is a double charge.
    pub captures: u32,
    /// Whether money is still held.
    pub live: bool,
}

impl From<&Account> for LedgerEntry {
    fn from(account: &Account) -> Self {
        let of = |amount: fn(&crate::Authorization) -> i64| account.authorizations.iter().map(amount).sum();
        Self {
            order_id: account.order_id.clone(),
            reference: account.authorizations.last().map_or_else(String::new, |last| last.reference.clone()),
            currency: account.currency.clone(),
            authorized_minor: of(|authorization| authorization.authorized_minor),
            captured_minor: of(|authorization| authorization.captured_minor),
            voided_minor: of(|authorization| authorization.voided_minor),
            refunded_minor: of(|authorization| authorization.refunded_minor),
            authorizations: u32::try_from(account.authorizations.len()).unwrap_or(u32::MAX),
            captures: account.authorizations.iter().map(|authorization| authorization.captures).sum(),
            live: account.authorizations.iter().any(|authorization| authorization.live),
        }
    }
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk, or somebody else has the directory open.
    #[error("the ledger cannot be read or written: {0}")]
    Storage(#[from] sled::Error),
    /// An account is not what this program writes.
    #[error("the account of order {order_id:?} cannot be read: {reason}")]
    Account {
        /// Which.
        order_id: String,
        /// What was seen.
        reason: serde_json::Error,
    },
}

/// The ledger of a provider that is not running, by order id. While one runs, ask it: [`crate::SimulatedProvider::ledger`].
///
/// # Errors
/// [`LedgerError::Storage`] when a provider has the directory open or it cannot be read.
pub fn open_ledger(
    directory: &Path,
) -> Result<impl Iterator<Item = Result<LedgerEntry, LedgerError>> + use<>, LedgerError> {
    Ok(entries(&open(directory)?))
}

pub(super) fn open(directory: &Path) -> Result<sled::Db, LedgerError> {
    // Flushed before every answer, so never by the clock.
    Ok(sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?)
}

pub(super) fn entries(db: &sled::Db) -> impl Iterator<Item = Result<LedgerEntry, LedgerError>> + use<> {
    db.iter().map(|row| {
        let (order_id, bytes) = row?;
        account(&String::from_utf8_lossy(&order_id), &bytes).map(|account| LedgerEntry::from(&account))
    })
}

pub(super) fn read(db: &sled::Db, order_id: &str) -> Result<Account, LedgerError> {
    match db.get(order_id)? {
        Some(bytes) => account(order_id, &bytes),
        None => Ok(Account::default()),
    }
}

pub(super) fn write(db: &sled::Db, order_id: &str, account: &Account) -> Result<(), LedgerError> {
    let bytes =
        serde_json::to_vec(account).map_err(|reason| LedgerError::Account { order_id: order_id.to_owned(), reason })?;
    db.insert(order_id, bytes)?;
    Ok(())
}

fn account(order_id: &str, bytes: &[u8]) -> Result<Account, LedgerError> {
    serde_json::from_slice(bytes).map_err(|reason| LedgerError::Account { order_id: order_id.to_owned(), reason })
}
