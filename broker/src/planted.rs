//! Defects that can be planted on purpose, to see that the simulation and the campaigns find them. Without the feature
//! `planted` none ever is, and nothing of this is left in the program. Owns which one is planted; never what it breaks.

/// A defect of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// A new producer of the same name does not fence the old one.
    NoFencing = 1,
    /// One partition of a transaction gets no marker.
    MarkerMissing,
    /// The positions of an aborted transaction are committed.
    OffsetsOfAborted,
}

impl Defect {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::NoFencing, Self::MarkerMissing, Self::OffsetsOfAborted];
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
