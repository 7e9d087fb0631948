//! The core behind its lock, the clock, and those who wait for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot, watch};

use super::faults::Faults;
use crate::core::{Core, Durability, PartitionKey, Reply, StorageError, Token};
use crate::metrics::Counted;

/// What all connections share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Where the broker listens.
    pub(crate) address: SocketAddr,
    /// The host clients are told.
    pub(crate) host: String,
    /// What is to go wrong.
    pub(crate) faults: Arc<Faults>,
    /// What has happened so far.
    pub(crate) counted: Counted,
    /// What an answer must wait for.
    pub(crate) durability: Durability,
    /// Somebody waits for the next sync.
    sync_wanted: Notify,
    synced: watch::Sender<Synced>,
}

/// How far the disk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    UpTo(u64),
    Failed,
}

struct Inner {
    core: Core,
    next: u64,
    late: HashMap<Token, oneshot::Sender<Reply>>,
    watchers: HashMap<PartitionKey, Vec<(u64, Arc<Notify>)>>,
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Tells when one of some partitions has something new. Stops watching when dropped.
pub(crate) struct Watch<'a> {
    shared: &'a Shared,
    id: u64,
    keys: Vec<PartitionKey>,
    notify: Arc<Notify>,
}

impl Watch<'_> {
    /// Waits for the next change since the watch began or since the last call.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        for key in &self.keys {
            if let Some(watchers) = inner.watchers.get_mut(key) {
                watchers.retain(|(id, _)| *id != self.id);
                if watchers.is_empty() {
                    inner.watchers.remove(key);
                }
            }
        }
    }
}

impl Shared {
    pub(crate) fn new(core: Core, address: SocketAddr, host: String) -> Self {
        let durability = core.durability();
        let inner = Inner { core, next: 0, late: HashMap::new(), watchers: HashMap::new() };
        let (synced, _) = watch::channel(Synced::UpTo(0));
        Self {
            inner: Mutex::new(inner),
            address,
            host,
            faults: Arc::default(),
            counted: Counted::default(),
            durability,
            sync_wanted: Notify::new(),
            synced,
        }
    }

    /// Waits until all that an answer may speak of is as durable as was promised. No answer leaves before.
    ///
    /// # Errors
    /// If the disk did not keep it: then there is no answer.
    pub(crate) async fn settled(&self) -> std::io::Result<()> {
        if self.durability == Durability::Process {
            return Ok(());
        }
        let Some(round) = self.read(Core::unsynced_round) else {
            return Ok(());
        };
        self.sync_wanted.notify_one();
        let mut synced = self.synced.subscribe();
        let reached = synced.wait_for(|synced| match synced {
            Synced::UpTo(finished) => *finished >= round,
            Synced::Failed => true,
        });
        match reached.await.map(|synced| *synced) {
            Ok(Synced::UpTo(_)) => Ok(()),
            Ok(Synced::Failed) | Err(_) => Err(std::io::Error::other("the disk did not keep what was written")),
        }
    }

    /// Waits until somebody waits in [`Shared::settled`].
    pub(crate) async fn sync_wanted(&self) {
        self.sync_wanted.notified().await;
    }

    /// Ends a round of syncs and lets those go who waited for it.
    pub(crate) fn finish_sync(&self, round: u64, result: Result<(), StorageError>) {
        let synced = if result.is_ok() { Synced::UpTo(round) } else { Synced::Failed };
        self.with_core(|core, now| core.finish_sync(now, round, result));
        self.synced.send_replace(synced);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // The core leaves its state whole before each call that can fail, and panics nowhere on purpose.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the core and passes on what became ready by it.
    pub(crate) fn with_core<R>(&self, work: impl FnOnce(&mut Core, i64) -> R) -> R {
        let mut inner = self.lock();
        let result = work(&mut inner.core, now());
        inner.pass_on();
        result
    }

    /// Runs `work`, which will answer through a reply for the given token, now or later.
    pub(crate) fn ask(&self, work: impl FnOnce(&mut Core, i64, Token)) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        inner.next += 1;
        let token = Token(inner.next);
        inner.late.insert(token, sender);
        work(&mut inner.core, now(), token);
        inner.pass_on();
        receiver
    }

    /// Runs `read` on the core; if it finds too little, watches the partitions it names, without a gap in between.
    pub(crate) fn read_or_watch<R>(
        &self,
        read: impl FnOnce(&Core) -> Result<R, (R, Vec<PartitionKey>)>,
    ) -> Result<R, (R, Watch<'_>)> {
        let mut inner = self.lock();
        let (result, keys) = match read(&inner.core) {
            Ok(result) => return Ok(result),
            Err(found) => found,
        };
        inner.next += 1;
        let id = inner.next;
        let notify = Arc::new(Notify::new());
        for key in &keys {
            let watchers = inner.watchers.entry(*key).or_default();
            watchers.push((id, notify.clone()));
        }
        drop(inner);
        let watch = Watch { shared: self, id, keys, notify };
        Err((result, watch))
    }

    /// Runs `read` on the core without changing it.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&Core) -> R) -> R {
        read(&self.lock().core)
    }
}

impl Inner {
    fn pass_on(&mut self) {
        for (token, reply) in self.core.take_replies() {
            if let Some(sender) = self.late.remove(&token) {
                // The connection may be gone; then nobody waits for the answer.
                sender.send(reply).ok();
            }
        }
        let mut advanced = self.core.take_advanced();
        advanced.dedup();
        for key in advanced {
            for (_, notify) in self.watchers.get(&key).into_iter().flatten() {
                notify.notify_one();
            }
        }
    }
}
