//! Stock, recomputed (P3): every balance follows from the one before and from its cause, and every adjustment is
//! applied once. Never looks at orders; what a balance says was moved for an order is handed to that order.

use std::collections::{HashMap, HashSet};

use millrace_schemas::{AdjustmentKind, LevelCause, StockAdjustment, StockLevel};

use crate::finding::{Findings, Place, Promise};
use crate::identity::{PassThrough, hash_of};
use crate::letters::Letters;
use crate::report::StockTotals;

/// What a balance says was done for an order: a number that adds up, quantity times the SKU's number, so that sums
/// are equal exactly when the lines are, whatever their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) kind: MoveKind,
    pub(crate) amount: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveKind {
    Reserved,
    Released,
    Shipped,
}

#[derive(Clone, Copy, Default)]
struct Balance {
    on_hand: i64,
    reserved: i64,
    opening: i64,
    received: i64,
    shipped: i64,
    adjusted: i64,
    version: i64,
}

struct Sku {
    weight: u64,
    balance: Balance,
    /// The first balance that is there, where it is not the first there was and compaction can explain that.
    begins_late: Option<(Place, i64)>,
}

struct Adjustment {
    sku: Box<str>,
    asked: Option<(AdjustmentKind, i64, Place)>,
    applied: Option<(LevelCause, i64, Place)>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    numbers: HashMap<Box<str>, u32>,
    skus: Vec<Sku>,
    adjustments: HashMap<u64, Adjustment, PassThrough>,
    pub(crate) compaction_lag_ms: Option<i64>,
    /// Partitions in which some SKU has come twice: what stands behind that was never compacted.
    repeated: HashSet<i32>,
}

impl Ledger {
    /// The number of a SKU, for as long as this ledger lives.
    pub(crate) fn number(&mut self, sku: &str) -> u32 {
        if let Some(number) = self.numbers.get(sku) {
            return *number;
        }
        let number = u32::try_from(self.skus.len()).unwrap_or(u32::MAX);
        self.skus.push(Sku { weight: hash_of(&sku), balance: Balance::default(), begins_late: None });
        self.numbers.insert(sku.into(), number);
        number
    }

    /// So many of a SKU as a number that adds up.
    pub(crate) fn amount(&mut self, sku: &str, quantity: i64) -> u64 {
        let number = self.number(sku);
        self.skus[number as usize].weight.wrapping_mul(quantity as u64)
    }

    fn adjustment_of(&mut self, sku: &str, id: &str) -> &mut Adjustment {
        let entry = self.adjustments.entry(hash_of(&(sku, id)));
        entry.or_insert_with(|| Adjustment { sku: sku.into(), asked: None, applied: None })
    }

    /// Somebody asks for an adjustment; asked again under the same id, the first counts.
    pub(crate) fn adjustment(&mut self, asked: &StockAdjustment, place: Place, findings: &mut Findings) {
        let known = self.adjustment_of(&asked.sku, &asked.adjustment_id);
        if known.asked.is_none() {
            known.asked = Some((asked.kind, asked.quantity, place));
            known.compare(findings);
        }
    }

    /// The next balance of a SKU; returns what it says was done for the order that caused it.
    pub(crate) fn level(
        &mut self,
        level: &StockLevel,
        place: Place,
        timestamp: i64,
        findings: &mut Findings,
    ) -> Option<Moved> {
        let number = self.number(&level.sku);
        let sku = &mut self.skus[number as usize];
        let before = sku.balance;
        let weight = sku.weight;
        if level.version <= before.version {
            let what = format_args!("version {} comes after version {}", level.version, before.version);
            findings.add(Promise::P8, &level.sku, place, what);
            return None;
        }
        let now = Balance {
            on_hand: level.on_hand,
            reserved: level.reserved,
            opening: level.opening,
            received: level.received,
            shipped: level.shipped,
            adjusted: level.adjusted,
            version: level.version,
        };
        sku.balance = now;
        let follows = level.version == before.version + 1;
        if before.version > 0 {
            self.repeated.insert(place.partition);
        }
        // Compaction keeps the newest of each key, and cleans a partition from its beginning: were something of this SKU
        // gone from behind a balance that is still there, or of any SKU from behind one that came twice, it would have
        // taken the older ones first.
        let compacted = self.compaction_lag_ms.is_some() && !self.repeated.contains(&place.partition);
        if !follows && before.version == 0 && compacted {
            sku.begins_late = Some((place, timestamp));
        } else if !follows {
            let what = format_args!("version {} comes right after version {}", level.version, before.version);
            findings.add(Promise::P5, &level.sku, place, what);
        }
        let by_cause = i128::from(now.opening) + i128::from(now.received) + i128::from(now.adjusted);
        if i128::from(now.on_hand) != by_cause - i128::from(now.shipped) {
            let what = format_args!(
                "on hand {} is not opening {} + received {} + adjusted {} - shipped {}",
                now.on_hand, now.opening, now.received, now.adjusted, now.shipped
            );
            findings.add(Promise::P3, &level.sku, place, what);
        } else if now.reserved < 0 {
            let what = format_args!("{} reserved", now.reserved);
            findings.add(Promise::P3, &level.sku, place, what);
        } else if level.cause == LevelCause::Reserved && now.on_hand < now.reserved {
            let what = format_args!("granted what is not there: {} on hand, {} reserved", now.on_hand, now.reserved);
            findings.add(Promise::P3, &level.sku, place, what);
        } else if follows && let Some(wrong) = wrong_change(level.cause, before, now) {
            let what = format_args!("its cause is {}, but {wrong}", level.cause.as_str());
            findings.add(Promise::P3, &level.sku, place, what);
        }
        let (kind, quantity) = match level.cause {
            LevelCause::Reserved => (MoveKind::Reserved, now.reserved - before.reserved),
            LevelCause::Released => (MoveKind::Released, before.reserved - now.reserved),
            LevelCause::Shipped => (MoveKind::Shipped, now.shipped - before.shipped),
            LevelCause::Opening => return self.applied(level, now.opening - before.opening, follows, place, findings),
            LevelCause::Receipt => {
                return self.applied(level, now.received - before.received, follows, place, findings);
            }
            LevelCause::WriteOff => {
                return self.applied(level, before.adjusted - now.adjusted, follows, place, findings);
            }
            LevelCause::Count => return self.applied(level, now.on_hand, follows, place, findings),
            LevelCause::Unknown => return None,
        };
        follows.then_some(Moved { kind, amount: weight.wrapping_mul(quantity as u64) })
    }

    fn applied(
        &mut self,
        level: &StockLevel,
        quantity: i64,
        follows: bool,
        place: Place,
        findings: &mut Findings,
    ) -> Option<Moved> {
        let known = self.adjustment_of(&level.sku, &level.cause_id);
        if known.applied.is_some() {
            let what = format_args!("adjustment {} is applied a second time", level.cause_id);
            findings.add(Promise::P3, &level.sku, place, what);
        } else {
            known.applied = Some((level.cause, quantity, place));
            if follows {
                known.compare(findings);
            }
        }
        None
    }

    /// What must be true when every topic was read to its end.
    pub(crate) fn judge(&self, letters: &Letters, newest: i64, findings: &mut Findings) {
        for (name, number) in &self.numbers {
            let sku = &self.skus[*number as usize];
            let Some((place, at)) = sku.begins_late else { continue };
            if newest.saturating_sub(at) < self.compaction_lag_ms.unwrap_or(i64::MAX) {
                let what =
                    format_args!("the first balance there is has a version above 1, and is too young to be compacted");
                findings.add(Promise::P5, name, place, what);
            }
        }
        for adjustment in self.adjustments.values() {
            match (adjustment.asked, adjustment.applied) {
                (None, Some((cause, _, place))) => {
                    let what = format_args!("a {} nobody asked for", cause.as_str());
                    findings.add(Promise::P3, &adjustment.sku, place, what);
                }
                (Some((kind, _, place)), None) if !letters.has(place) && !self.begins_late_by_name(&adjustment.sku) => {
                    let what = format_args!("a {} that was not applied and is no dead letter", kind.as_str());
                    findings.add(Promise::P9, &adjustment.sku, place, what);
                }
                _ => {}
            }
        }
    }

    /// Whether the oldest balances of a SKU are gone.
    pub(crate) fn begins_late(&self, number: u32) -> bool {
        self.skus.get(number as usize).is_some_and(|sku| sku.begins_late.is_some())
    }

    fn begins_late_by_name(&self, sku: &str) -> bool {
        self.numbers.get(sku).is_some_and(|number| self.begins_late(*number))
    }

    pub(crate) fn totals(&self) -> StockTotals {
        let mut totals = StockTotals::default();
        for sku in self.skus.iter().filter(|sku| sku.balance.version > 0) {
            totals.skus += 1;
            totals.opening += i128::from(sku.balance.opening);
            totals.received += i128::from(sku.balance.received);
            totals.adjusted += i128::from(sku.balance.adjusted);
            totals.shipped += i128::from(sku.balance.shipped);
            totals.on_hand += i128::from(sku.balance.on_hand);
            totals.reserved += i128::from(sku.balance.reserved);
        }
        totals
    }
}

impl Adjustment {
    /// Once both sides are known they must say the same.
    fn compare(&self, findings: &mut Findings) {
        let (Some((kind, wanted, _)), Some((cause, done, place))) = (self.asked, self.applied) else { return };
        let same_kind = matches!(
            (kind, cause),
            (AdjustmentKind::Opening, LevelCause::Opening)
                | (AdjustmentKind::Receipt, LevelCause::Receipt)
                | (AdjustmentKind::Count, LevelCause::Count)
                | (AdjustmentKind::WriteOff, LevelCause::WriteOff)
        );
        if !same_kind || wanted != done {
            let what = format_args!("asked for was {} {wanted}, applied was {} {done}", kind.as_str(), cause.as_str());
            findings.add(Promise::P3, &self.sku, place, what);
        }
    }
}

/// What a change of balance does that its cause does not explain.
fn wrong_change(cause: LevelCause, before: Balance, now: Balance) -> Option<String> {
    let on_hand = now.on_hand.wrapping_sub(before.on_hand);
    let reserved = now.reserved.wrapping_sub(before.reserved);
    let opening = now.opening.wrapping_sub(before.opening);
    let received = now.received.wrapping_sub(before.received);
    let shipped = now.shipped.wrapping_sub(before.shipped);
    let adjusted = now.adjusted.wrapping_sub(before.adjusted);
    let right = match cause {
        LevelCause::Opening => opening >= 0 && [reserved, received, shipped, adjusted] == [0; 4],
        LevelCause::Receipt => received >= 0 && [reserved, opening, shipped, adjusted] == [0; 4],
        LevelCause::WriteOff => adjusted <= 0 && [reserved, opening, received, shipped] == [0; 4],
        LevelCause::Count => [reserved, opening, received, shipped] == [0; 4],
        LevelCause::Reserved => reserved > 0 && [opening, received, shipped, adjusted] == [0; 4],
        LevelCause::Released => reserved < 0 && [opening, received, shipped, adjusted] == [0; 4],
        LevelCause::Shipped => shipped > 0 && reserved == -shipped && [opening, received, adjusted] == [0; 3],
        LevelCause::Unknown => false,
    };
    (!right).then(|| {
        format!(
            "on hand changed by {on_hand}, reserved {reserved}, opening {opening}, received {received}, \
             adjusted {adjusted}, shipped {shipped}"
        )
    })
}
