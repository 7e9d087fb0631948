//! Defects that can be planted on purpose, to see that the simulation and the campaigns find them. Without the feature
//! `planted` none ever is, and nothing of this is left in the program. Owns which one is planted; never what it breaks.

/// A defect of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// The overlay becomes state before the broker has committed.
    OverlayBeforeCommit = 1,
    /// The overlay outlives the abort of its transaction.
    OverlayKept,
    /// After an abort the inputs go on where they were.
    NoRewind,
    /// Positions reach the disk without the states they stand for.
    CheckpointAhead,
    /// A record of a parked key does not wait behind the parked ones.
    QueueOvertaken,
    /// A deadline fires twice.
    TimerTwice,
    /// A deleted key stays when its store is restored.
    TombstoneMissed,
    /// An answer is taken for that of whatever call is open.
    AnswerUnchecked,
    /// Records polled before a rewind are taken in after it.
    OldRecordsTaken,
}

impl Defect {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::OverlayBeforeCommit,
        Self::OverlayKept,
        Self::NoRewind,
        Self::CheckpointAhead,
        Self::QueueOvertaken,
        Self::TimerTwice,
        Self::TombstoneMissed,
        Self::AnswerUnchecked,
        Self::OldRecordsTaken,
    ];
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a defect in this process, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(defect: Option<Defect>) {
    PLANTED.store(defect.map_or(0, |defect| defect as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this defect is planted.
#[cfg(feature = "planted")]
pub(crate) fn is(defect: Defect) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == defect as u8
}

/// Never.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) fn is(_: Defect) -> bool {
    false
}
