//! What the audit says: the shop's numbers and which promises hold, as data and as a table for people.

use std::collections::BTreeMap;
use std::fmt;

use millrace_schemas::CancelReason;
use serde::{Deserialize, Serialize};

use crate::Phase;
use crate::finding::{Promise, Verdict};
use crate::order::Sums;

/// Everything the topics tell, added up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the pipeline was taken to be at rest.
    pub phase: Phase,
    /// Records read, per topic.
    pub records: BTreeMap<String, u64>,
    /// What became of the orders.
    pub orders: OrderTotals,
    /// What became of the money, per currency (ISO 4217), as the payment events tell it.
    pub money: BTreeMap<String, MoneyTotals>,
    /// Units of all SKUs together, by their last balances.
    pub stock: StockTotals,
    /// Dead letters per processor.
    pub dead_letters: BTreeMap<String, u64>,
    /// One verdict for each promise, in order.
    pub promises: Vec<Verdict>,
}

/// Orders, by distinct id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTotals {
    /// Distinct ids placed.
    pub placed: u64,
    /// Records that placed the same order again.
    pub duplicates: u64,
    /// Records that placed another body under a taken id.
    pub conflicting: u64,
    /// Accepted by intake.
    pub accepted: u64,
    /// Rejected by intake, per reason.
    pub rejected: BTreeMap<String, u64>,
    /// Ever confirmed.
    pub confirmed: u64,
    /// Ever shipped, in part or whole.
    pub shipped: u64,
    /// Completed.
    pub completed: u64,
    /// Cancelled, per reason.
    pub cancelled: BTreeMap<String, u64>,
    /// Not at their end yet, by whom they wait for.
    pub open: BTreeMap<String, u64>,
}

impl OrderTotals {
    pub(crate) fn cancelled_for(&mut self, reason: CancelReason) {
        *self.cancelled.entry(reason.as_str().to_owned()).or_default() += 1;
    }
}

/// Money in minor units of one currency.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoneyTotals {
    /// Authorized.
    pub authorized: i128,
    /// Captured.
    pub captured: i128,
    /// Let go again.
    pub voided: i128,
    /// Given back.
    pub refunded: i128,
}

impl MoneyTotals {
    pub(crate) fn change(&mut self, before: Sums, now: Sums) {
        self.authorized += i128::from(now.authorized) - i128::from(before.authorized);
        self.captured += i128::from(now.captured) - i128::from(before.captured);
        self.voided += i128::from(now.voided) - i128::from(before.voided);
        self.refunded += i128::from(now.refunded) - i128::from(before.refunded);
    }
}

/// Units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockTotals {
    /// SKUs with a balance.
    pub skus: u64,
    /// Opening stock.
    pub opening: i128,
    /// Received since.
    pub received: i128,
    /// Counts and write-offs, signed.
    pub adjusted: i128,
    /// Shipped.
    pub shipped: i128,
    /// On hand now.
    pub on_hand: i128,
    /// Of that, reserved.
    pub reserved: i128,
}

impl Report {
    /// Whether every promise holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.promises.iter().all(|verdict| verdict.holds)
    }

    /// The verdict on one promise.
    #[must_use]
    pub fn verdict(&self, promise: Promise) -> &Verdict {
        &self.promises[promise as usize]
    }
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// Minor units as people write them, two decimals.
fn decimal(minor: i128) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

/// Text in lines of at most `width` characters, broken at spaces, each behind `indent` spaces.
fn wrapped(f: &mut fmt::Formatter<'_>, indent: usize, text: &str) -> fmt::Result {
    const WIDTH: usize = 100;
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(WIDTH - indent) {
            if used > 0 && indent + used + 1 + piece.len() > WIDTH {
                writeln!(f, "{:indent$}{line}", "")?;
                line.clear();
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.extend(piece);
            used += piece.len();
        }
    }
    if used > 0 { writeln!(f, "{:indent$}{line}", "") } else { Ok(()) }
}

impl fmt::Display for Report {
    /// A table of at most 100 columns; the first five examples of each broken promise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: u64 = self.records.values().sum();
        let when = match self.phase {
            Phase::Settled => "at rest",
            Phase::Running => "still running",
        };
        writeln!(f, "audit of {records} records, {when}")?;
        let orders = &self.orders;
        let mut row = |name: &str, count: u64, more: String| {
            if more.chars().count() <= 70 {
                return writeln!(f, "  {name:<12} {count:>12}{more}");
            }
            writeln!(f, "  {name:<12} {count:>12}")?;
            wrapped(f, 29, &more)
        };
        row("placed", orders.placed, {
            let again = (orders.duplicates > 0).then(|| format!("{} repeated", orders.duplicates));
            let other = (orders.conflicting > 0).then(|| format!("{} with another body", orders.conflicting));
            let parts: Vec<String> = again.into_iter().chain(other).collect();
            if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
        })?;
        row("accepted", orders.accepted, String::new())?;
        row("rejected", sum(&orders.rejected), reasons(&orders.rejected))?;
        row("confirmed", orders.confirmed, String::new())?;
        row("shipped", orders.shipped, String::new())?;
        row("completed", orders.completed, String::new())?;
        row("cancelled", sum(&orders.cancelled), reasons(&orders.cancelled))?;
        row("open", sum(&orders.open), reasons(&orders.open))?;
        row("dead letters", sum(&self.dead_letters), reasons(&self.dead_letters))?;
        for (currency, money) in &self.money {
            let text = format!(
                "{currency}: authorized {} = captured {} + voided {}{}; refunded {}",
                decimal(money.authorized),
                decimal(money.captured),
                decimal(money.voided),
                match money.authorized - money.captured - money.voided {
                    0 => String::new(),
                    open => format!(" + open {}", decimal(open)),
                },
                decimal(money.refunded)
            );
            wrapped(f, 2, &text)?;
        }
        let stock = &self.stock;
        let text = format!(
            "stock: {} SKUs; on hand {} = opening {} + received {} + adjusted {} - shipped {}; reserved {}",
            stock.skus, stock.on_hand, stock.opening, stock.received, stock.adjusted, stock.shipped, stock.reserved
        );
        wrapped(f, 2, &text)?;
        writeln!(f)?;
        for verdict in &self.promises {
            let word = if verdict.holds { "holds " } else { "BROKEN" };
            let count = if verdict.holds { String::new() } else { format!(" ({} violations)", verdict.violations) };
            wrapped(f, 0, &format!("{} {word} {}{count}", verdict.promise, verdict.title))?;
            for example in verdict.examples.iter().take(5) {
                let place = match example.offset {
                    ..0 => example.topic.clone(),
                    offset => format!("{} {} @{offset}", example.topic, example.partition),
                };
                wrapped(f, 10, &format!("{} {place}: {}", example.subject, example.what))?;
            }
        }
        Ok(())
    }
}
