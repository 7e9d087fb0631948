//! The promises, and what was found against them. Counts all, keeps the first few of each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// At most so many examples are kept for each promise.
pub const EXAMPLES: usize = 20;

/// The promises that the topics alone can prove or disprove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Promise {
    /// No accepted order is lost.
    P1,
    /// No double charge.
    P2,
    /// Never oversell.
    P3,
    /// The same submit is the same order.
    P4,
    /// A step is all or nothing.
    P5,
    /// Records of a key are processed in order.
    P8,
    /// A poison record never vanishes.
    P9,
}

impl Promise {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [Self::P1, Self::P2, Self::P3, Self::P4, Self::P5, Self::P8, Self::P9];

    /// What is promised, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::P1 => "every order is decided once; every accepted order comes to an end",
            Self::P2 => "no double charge: authorized = captured + voided, captured = shipped",
            Self::P3 => "never oversell: on hand adds up, nothing is held for a closed order",
            Self::P4 => "one order per id: another body under it is refused on record",
            Self::P5 => "all or nothing: every output has its cause and all its companions",
            Self::P8 => "in order per key: versions rise by one, only allowed moves",
            Self::P9 => "no record vanishes: each one took effect or is a dead letter",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The topic, or `provider` for the provider's books.
    pub topic: &'static str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    /// The order, or the SKU.
    pub subject: String,
    /// The topic of the record where it shows.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// What is wrong.
    pub what: String,
}

/// Whether a promise holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub promise: Promise,
    /// What it says.
    pub title: String,
    /// Nothing was found against it.
    pub holds: bool,
    /// How much was found against it.
    pub violations: u64,
    /// The first of it, at most [`EXAMPLES`].
    pub examples: Vec<Offence>,
}

#[derive(Clone, Default)]
pub(crate) struct Findings {
    by_promise: [(u64, Vec<Offence>); Promise::ALL.len()],
}

impl Findings {
    pub(crate) fn add(&mut self, promise: Promise, subject: &str, place: Place, what: fmt::Arguments<'_>) {
        self.add_at(promise, subject, place.topic, place.partition, place.offset, what);
    }

    pub(crate) fn add_at(
        &mut self,
        promise: Promise,
        subject: &str,
        topic: &str,
        partition: i32,
        offset: i64,
        what: fmt::Arguments<'_>,
    ) {
        let (count, examples) = &mut self.by_promise[promise as usize];
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(Offence {
                subject: subject.to_owned(),
                topic: topic.to_owned(),
                partition,
                offset,
                what: what.to_string(),
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_promise.iter().all(|(count, _)| *count == 0)
    }

    pub(crate) fn verdicts(self) -> Vec<Verdict> {
        Promise::ALL
            .into_iter()
            .zip(self.by_promise)
            .map(|(promise, (violations, examples))| Verdict {
                promise,
                title: promise.title().to_owned(),
                holds: violations == 0,
                violations,
                examples,
            })
            .collect()
    }
}
