//! Defects that can be planted on purpose, to see that the simulation and the campaigns find them. Without the feature
//! `planted` none ever is, and nothing of this is left in the program. Owns which one is planted; never what it breaks.

/// A defect of the five decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// Intake forgets which orders it has seen.
    OrderAcceptedTwice = 1,
    /// Another order under a known id passes for a repetition.
    ConflictTaken,
    /// A request of unknown outcome is made again under a new key.
    NewKeyAfterTimeout,
    /// A request is made again with another amount.
    SameKeyOtherAmount,
    /// An unknown outcome passes for a refusal.
    UnknownIsDeclined,
    /// What was captured is booked as voided, too.
    VoidedAndCaptured,
    /// A shipment that was applied is applied again.
    CommandAppliedTwice,
    /// A reserve that was granted is granted again.
    ReserveAppliedTwice,
    /// A release that overtakes its reserve leaves no fence.
    ReleaseWithoutFence,
    /// What is not there is granted, and the balance is held at zero.
    BalanceClamped,
    /// A cancelled order keeps one of its groups.
    GroupNotReleased,
    /// An order is confirmed by the first group that is granted.
    ConfirmedTooEarly,
    /// A cancelled order does not give its money back.
    MoneyKept,
    /// A receipt that was booked is booked again.
    AdjustmentTwice,
}

impl Defect {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::OrderAcceptedTwice,
        Self::ConflictTaken,
        Self::NewKeyAfterTimeout,
        Self::SameKeyOtherAmount,
        Self::UnknownIsDeclined,
        Self::VoidedAndCaptured,
        Self::CommandAppliedTwice,
        Self::ReserveAppliedTwice,
        Self::ReleaseWithoutFence,
        Self::BalanceClamped,
        Self::GroupNotReleased,
        Self::ConfirmedTooEarly,
        Self::MoneyKept,
        Self::AdjustmentTwice,
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
