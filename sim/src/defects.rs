//! Defects that can be planted to see that a simulation finds them: those of the model of the worker's clients, which are
//! a part of the simulation only, and those of the product's rooms, which are there only with the feature `planted`.

use std::sync::atomic::{AtomicU8, Ordering};

/// A defect of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientDefect {
    /// A producer that may have repeated the end of a transaction is kept.
    SuspectKept = 1,
    /// A commit that was not answered is tried again on another producer, where there is nothing to commit.
    CommitOnAnotherProducer,
    /// An end of a transaction that was not answered is taken for done.
    SilenceIsSuccess,
    /// Positions are sent without the member's generation, so that the broker takes them from anybody.
    ZombieNotFenced,
    /// Positions are committed at once, outside of the transaction.
    PositionsOutsideTransaction,
    /// Positions that an open transaction is about to change are taken as they are.
    PendingPositionsIgnored,
    /// The end of a partition is said to be where its last stable offset is.
    BoundsAtLastStable,
    /// Dead letters are sent at once, outside of the transaction.
    LettersOutsideTransaction,
    /// Readers stay where they are when they are told to go back.
    ReadersNotRewound,
    /// Records of aborted transactions are given to readers.
    AbortedRecordsRead,
    /// Stores are restored up to the high watermark, from records of transactions that may yet be aborted.
    RestoredToHighWatermark,
    /// A static member that comes back takes its old assignment without a look at its group.
    GroupNotLookedAt,
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

fn plant_client(defect: Option<ClientDefect>) {
    PLANTED.store(defect.map_or(0, |defect| defect as u8), Ordering::Relaxed);
}

pub(crate) fn is_planted(defect: ClientDefect) -> bool {
    PLANTED.load(Ordering::Relaxed) == defect as u8
}

/// A defect that can be planted, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// In the model of the clients.
    Client(ClientDefect),
    /// In the engine.
    #[cfg(feature = "planted")]
    Runtime(millrace_runtime::planted::Defect),
    /// In the five decisions.
    #[cfg(feature = "planted")]
    Processors(millrace_processors::planted::Defect),
    /// In the provider.
    #[cfg(feature = "planted")]
    Psp(millrace_psp::planted::Defect),
    /// In the broker's core.
    #[cfg(feature = "planted")]
    Broker(millrace_broker::planted::Defect),
}

impl Defect {
    /// Every defect that this build can plant.
    #[must_use]
    pub fn all() -> Vec<Self> {
        use ClientDefect as C;
        let all = [
            C::SuspectKept,
            C::CommitOnAnotherProducer,
            C::SilenceIsSuccess,
            C::ZombieNotFenced,
            C::PositionsOutsideTransaction,
            C::PendingPositionsIgnored,
            C::BoundsAtLastStable,
            C::LettersOutsideTransaction,
            C::ReadersNotRewound,
            C::AbortedRecordsRead,
            C::RestoredToHighWatermark,
            C::GroupNotLookedAt,
        ]
        .map(Self::Client)
        .to_vec();
        #[cfg(feature = "planted")]
        let all = {
            let mut all = all;
            all.extend(millrace_runtime::planted::Defect::ALL.iter().copied().map(Self::Runtime));
            all.extend(millrace_processors::planted::Defect::ALL.iter().copied().map(Self::Processors));
            all.extend(millrace_psp::planted::Defect::ALL.iter().copied().map(Self::Psp));
            all.extend(millrace_broker::planted::Defect::ALL.iter().copied().map(Self::Broker));
            all
        };
        all
    }

    /// Its room and name, as in `runtime: OverlayKept`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Client(defect) => format!("clients: {defect:?}"),
            #[cfg(feature = "planted")]
            Self::Runtime(defect) => format!("runtime: {defect:?}"),
            #[cfg(feature = "planted")]
            Self::Processors(defect) => format!("processors: {defect:?}"),
            #[cfg(feature = "planted")]
            Self::Psp(defect) => format!("psp: {defect:?}"),
            #[cfg(feature = "planted")]
            Self::Broker(defect) => format!("broker: {defect:?}"),
        }
    }

    /// The defect of this name, with or without its room.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let is = |defect: &Self| {
            let full = defect.name();
            full == name || full.split_once(": ").is_some_and(|(_, short)| short == name)
        };
        Self::all().into_iter().find(is)
    }
}

/// Plants a defect in every simulation of this process, and takes out whatever was planted before.
pub fn plant(defect: Option<Defect>) {
    plant_client(match defect {
        Some(Defect::Client(defect)) => Some(defect),
        _ => None,
    });
    #[cfg(feature = "planted")]
    {
        let mut parts = (None, None, None, None);
        match defect {
            Some(Defect::Runtime(defect)) => parts.0 = Some(defect),
            Some(Defect::Processors(defect)) => parts.1 = Some(defect),
            Some(Defect::Psp(defect)) => parts.2 = Some(defect),
            Some(Defect::Broker(defect)) => parts.3 = Some(defect),
            Some(Defect::Client(_)) | None => {}
        }
        millrace_runtime::planted::plant(parts.0);
        millrace_processors::planted::plant(parts.1);
        millrace_psp::planted::plant(parts.2);
        millrace_broker::planted::plant(parts.3);
    }
}
