//! The words tracking has for where an order stands, and what they mean to someone who waits or cancels.
//!
//! Pure; never decides what happens to an order.

/// Where an order stands, in tracking's words.
///
/// ```text
/// received → authorizing → reserving → confirmed → partially_shipped → shipped → delivered → completed
///     └ rejected     └──────────┴──── cancelling → cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is its own word; see the diagram")]
pub enum Status {
    Received,
    Authorizing,
    Reserving,
    Confirmed,
    PartiallyShipped,
    Shipped,
    Delivered,
    Completed,
    Cancelling,
    Cancelled,
    Rejected,
}

/// What a cancel request can still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancellable {
    /// Fulfillment may still stop the order.
    Yes,
    /// Something has left the house.
    Shipped,
    /// Nothing changes any more.
    Final,
}

impl Status {
    /// Every status, in the order of the path.
    pub const ALL: [Status; 11] = [
        Status::Received,
        Status::Authorizing,
        Status::Reserving,
        Status::Confirmed,
        Status::PartiallyShipped,
        Status::Shipped,
        Status::Delivered,
        Status::Completed,
        Status::Cancelling,
        Status::Cancelled,
        Status::Rejected,
    ];

    /// The word as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Received => "received",
            Status::Authorizing => "authorizing",
            Status::Reserving => "reserving",
            Status::Confirmed => "confirmed",
            Status::PartiallyShipped => "partially_shipped",
            Status::Shipped => "shipped",
            Status::Delivered => "delivered",
            Status::Completed => "completed",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
            Status::Rejected => "rejected",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Cancelled | Status::Rejected)
    }

    /// The shop has said yes or no.
    pub fn is_decided(self) -> bool {
        self.is_final() || self.step() >= Status::Confirmed.step()
    }

    /// An order that stands at `self` has reached `wanted`, or never will.
    pub fn has_reached(self, wanted: Status) -> bool {
        self == wanted || self.is_final() || (wanted.step() > 0 && self.step() >= wanted.step())
    }

    pub(crate) fn cancellable(self) -> Cancellable {
        match self {
            Status::Received | Status::Authorizing | Status::Reserving | Status::Confirmed | Status::Cancelling => {
                Cancellable::Yes
            }
            Status::PartiallyShipped | Status::Shipped | Status::Delivered => Cancellable::Shipped,
            Status::Completed | Status::Cancelled | Status::Rejected => Cancellable::Final,
        }
    }

    /// How far along the path to completion; 0 for what is not on it.
    fn step(self) -> u8 {
        match self {
            Status::Received => 1,
            Status::Authorizing => 2,
            Status::Reserving => 3,
            Status::Confirmed => 4,
            Status::PartiallyShipped => 5,
            Status::Shipped => 6,
            Status::Delivered => 7,
            Status::Completed => 8,
            Status::Cancelling | Status::Cancelled | Status::Rejected => 0,
        }
    }
}
