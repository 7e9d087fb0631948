//! What happened in one run or many, counted: faults that struck, moves that were made. Never judges a single run.

use std::collections::BTreeMap;

use millrace_processors::stock::state::ReservationState;
use millrace_runtime::TaskState;
use millrace_schemas::{OrderStatus, PaymentState};

use crate::plan::Fault;

/// What moved, from where, to where.
pub type Move = (&'static str, &'static str, &'static str);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How often each fault struck.
    pub faults: BTreeMap<Fault, u64>,
    /// How often the engine and the shop did what, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Moves from state to state, by what moved.
    pub moves: BTreeMap<Move, u64>,
}

impl Coverage {
    pub(crate) fn fired(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.counts.entry(what).or_default() += times;
        }
    }

    pub(crate) fn payment_moved(&mut self, from: PaymentState, to: PaymentState) {
        *self.moves.entry(("payment", from.as_str(), to.as_str())).or_default() += 1;
    }

    pub(crate) fn order_moved(&mut self, from: OrderStatus, to: OrderStatus) {
        *self.moves.entry(("order", from.as_str(), to.as_str())).or_default() += 1;
    }

    pub(crate) fn reservation_moved(&mut self, from: Option<ReservationState>, to: Option<ReservationState>) {
        *self.moves.entry(("reservation", name(from), name(to))).or_default() += 1;
    }

    pub(crate) fn task_moved(&mut self, (from, to): (TaskState, TaskState), times: u64) {
        *self.moves.entry(("task", task(from), task(to))).or_default() += times;
    }

    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        for (fault, times) in &other.faults {
            *self.faults.entry(*fault).or_default() += times;
        }
        for (what, times) in &other.counts {
            *self.counts.entry(what).or_default() += times;
        }
        for (moved, times) in &other.moves {
            *self.moves.entry(*moved).or_default() += times;
        }
    }
}

/// Moves that only a record leads to which nobody but a processor may write: an accepted order without lines, say. The tests
/// of the tables make them.
const FORGED: &[Move] = &[("order", "UNKNOWN", "CANCELLING")];

/// Every move that the tables of transitions of payments, orders, reservations and tasks allow.
pub(crate) fn wanted_moves() -> Vec<Move> {
    use millrace_processors::{fulfillment, payment, stock};
    let payments = payment::TRANSITIONS.iter().map(|(from, _, to)| ("payment", from.as_str(), to.as_str()));
    let orders = fulfillment::state::TRANSITIONS.iter().map(|(from, _, to)| ("order", from.as_str(), to.as_str()));
    let reservations = stock::state::TRANSITIONS.iter().map(|(from, _, to)| ("reservation", name(*from), name(*to)));
    let tasks = TaskState::TRANSITIONS.iter().map(|(from, to)| ("task", task(*from), task(*to)));
    let all = payments.chain(orders).chain(reservations).chain(tasks);
    let mut moves: Vec<Move> = all.filter(|moved| !FORGED.contains(moved)).collect();
    moves.sort_unstable();
    moves.dedup();
    moves
}

fn task(state: TaskState) -> &'static str {
    match state {
        TaskState::Created => "CREATED",
        TaskState::Restoring => "RESTORING",
        TaskState::Running => "RUNNING",
        TaskState::Closed => "CLOSED",
    }
}

fn name(state: Option<ReservationState>) -> &'static str {
    match state {
        None => "NONE",
        Some(ReservationState::Held) => "HELD",
        Some(ReservationState::Refused) => "REFUSED",
        Some(ReservationState::Released) => "RELEASED",
        Some(ReservationState::Shipped) => "SHIPPED",
    }
}
