//! What the ledger remembers: the balance of each SKU and the reservation of each group of an order's lines.
//! Never what to answer; that is [`super::decide`].

use millrace_schemas::{AdjustmentKind, LevelCause, ShortLine, StockAdjustment, StockLevel, StockLine};

/// Where a reservation stands. One reservation is one group: the lines of one order whose SKUs live on this partition.
///
/// ```text
///              reserve, enough                  ship, something left
///   (nothing) ─────────────────► HELD ◄────────────────────────────┐
///    │  │  ▲                     │ │ └─────────────────────────────┘
///    │  │  │             release │ │ ship, nothing left
///    │  │  │ fence over          │ └──────────────► SHIPPED ──┐
///    │  │  └──────────┐          ▼                            │ fence over
///    │  │ release     ├────── RELEASED                        ▼
///    │  └─────────────┼─────────▲                         (nothing)
///    │ reserve, short │
///    └────────► REFUSED
/// ```
///
/// REFUSED, RELEASED and SHIPPED hold nothing. They stay as fences until their time is over, so that a repeated command
/// gets its first answer and a reserve that a release overtook is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReservationState {
    /// Granted; something is still held.
    Held,
    /// Not granted.
    Refused,
    /// What was still held was let go, or the release came before its reserve.
    Released,
    /// All that was held has left the shelf.
    Shipped,
}

impl ReservationState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Held, Self::Refused, Self::Released, Self::Shipped];
}

/// What moves a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A reserve command.
    Reserve,
    /// A release command.
    Release,
    /// A ship command.
    Ship,
    /// The time of the fence is over.
    FenceOver,
}

/// Every way a reservation can change. `None` is a reservation that does not exist.
pub const TRANSITIONS: &[(Option<ReservationState>, Cause, Option<ReservationState>)] = &[
    (None, Cause::Reserve, Some(ReservationState::Held)),
    (None, Cause::Reserve, Some(ReservationState::Refused)),
    (None, Cause::Release, Some(ReservationState::Released)),
    (Some(ReservationState::Held), Cause::Ship, Some(ReservationState::Held)),
    (Some(ReservationState::Held), Cause::Ship, Some(ReservationState::Shipped)),
    (Some(ReservationState::Held), Cause::Release, Some(ReservationState::Released)),
    (Some(ReservationState::Refused), Cause::FenceOver, None),
    (Some(ReservationState::Released), Cause::FenceOver, None),
    (Some(ReservationState::Shipped), Cause::FenceOver, None),
];

/// One line of a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedLine {
    /// Which SKU.
    pub sku: String,
    /// Units granted, or wanted where it was refused.
    pub quantity: i32,
    /// Units of it that have left the shelf.
    pub shipped: i32,
    /// Where it was refused for this line: the units that were available then.
    pub short: Option<i64>,
}

/// The reservation of one group of an order's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Where it stands.
    pub state: ReservationState,
    /// Its lines, ascending by SKU. Where refused, only those that fell short. Empty where a release came first.
    pub lines: Vec<ReservedLine>,
    /// Shipments that were applied.
    pub shipments: Vec<String>,
    /// When a reservation that holds nothing may be forgotten, ms since 1970 UTC; `None` exactly while it holds.
    pub fence_until: Option<i64>,
}

impl Reservation {
    /// Units of a line that are held now.
    #[must_use]
    pub fn held(&self, line: &ReservedLine) -> i32 {
        if self.state == ReservationState::Held { line.quantity - line.shipped } else { 0 }
    }

    /// The lines as they were granted.
    #[must_use]
    pub fn granted(&self) -> Vec<StockLine> {
        self.lines.iter().map(|l| StockLine { sku: l.sku.clone(), quantity: l.quantity }).collect()
    }

    /// What has not been shipped: held while HELD, let go once RELEASED.
    #[must_use]
    pub fn unshipped(&self) -> Vec<StockLine> {
        let rest = self.lines.iter().filter(|l| l.quantity > l.shipped);
        rest.map(|l| StockLine { sku: l.sku.clone(), quantity: l.quantity - l.shipped }).collect()
    }

    /// Why it was refused; empty if it was not.
    #[must_use]
    pub fn short(&self) -> Vec<ShortLine> {
        let short = self.lines.iter().filter_map(|l| l.short.map(|available| (l, available)));
        short.map(|(l, available)| ShortLine { sku: l.sku.clone(), wanted: l.quantity, available }).collect()
    }
}

/// Units that can still be granted. Negative when a count or a write-off took away what was already promised.
#[must_use]
pub fn available(level: &StockLevel) -> i64 {
    level.on_hand - level.reserved
}

/// A change of one SKU's balance by a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movement {
    /// Units are promised.
    Reserve(i32),
    /// Units are promised no longer.
    Release(i32),
    /// Promised units leave the shelf.
    Ship(i32),
}

/// The balance of a SKU nobody has heard of.
#[must_use]
pub fn empty_level(sku: &str) -> StockLevel {
    StockLevel {
        sku: sku.to_owned(),
        on_hand: 0,
        reserved: 0,
        opening: 0,
        received: 0,
        shipped: 0,
        adjusted: 0,
        version: 0,
        cause: LevelCause::Unknown,
        cause_id: String::new(),
        at: 0,
    }
}

/// The balance after a movement.
#[must_use]
pub fn moved(mut level: StockLevel, movement: Movement, order_id: &str, at: i64) -> StockLevel {
    match movement {
        Movement::Reserve(units) => {
            level.reserved += i64::from(units);
            level.cause = LevelCause::Reserved;
        }
        Movement::Release(units) => {
            level.reserved -= i64::from(units);
            level.cause = LevelCause::Released;
        }
        Movement::Ship(units) => {
            level.reserved -= i64::from(units);
            level.on_hand -= i64::from(units);
            level.shipped += i64::from(units);
            level.cause = LevelCause::Shipped;
        }
    }
    level.version += 1;
    level.cause_id.clear();
    level.cause_id.push_str(order_id);
    level.at = at;
    level
}

/// The most units one adjustment may carry; far above any warehouse, far below what could overflow.
pub const ADJUSTMENT_MAX: i64 = 1_000_000_000_000;

/// The balance after an adjustment. It may fall short of what is reserved: nothing is clamped.
///
/// # Errors
/// What is wrong with the adjustment.
pub fn adjusted(mut level: StockLevel, adjustment: &StockAdjustment, at: i64) -> Result<StockLevel, String> {
    let units = adjustment.quantity;
    if !(0..=ADJUSTMENT_MAX).contains(&units) {
        return Err(format!("its quantity is {units}; it must be 0 to {ADJUSTMENT_MAX}"));
    }
    let (total, change, cause) = match adjustment.kind {
        AdjustmentKind::Opening => (&mut level.opening, units, LevelCause::Opening),
        AdjustmentKind::Receipt => (&mut level.received, units, LevelCause::Receipt),
        AdjustmentKind::WriteOff => (&mut level.adjusted, -units, LevelCause::WriteOff),
        AdjustmentKind::Count => (&mut level.adjusted, units - level.on_hand, LevelCause::Count),
        AdjustmentKind::Unknown => return Err("its kind is not known here".to_owned()),
    };
    let too_far = || format!("the balance of {} would overflow", adjustment.sku);
    *total = total.checked_add(change).ok_or_else(too_far)?;
    level.on_hand = level.on_hand.checked_add(change).ok_or_else(too_far)?;
    level.version += 1;
    level.cause = cause;
    level.cause_id.clone_from(&adjustment.adjustment_id);
    level.at = at;
    Ok(level)
}
