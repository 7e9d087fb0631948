//! Any sequence of inputs, sensible or not: orders stay within the transition table, and every row of it is taken.

use std::collections::BTreeSet;

use millrace_schemas::{GroupState, OrderStatus, PaymentState, RejectReason, ShipmentUpdateKind, StockEventKind};
use proptest::prelude::*;

use super::decide::Input;
use super::state::{Cause, TRANSITIONS, deadline, ends_the_order, is_final};
use super::tests::{Case, answer, cancel_of, of, order_of, paid, word_of};

#[derive(Clone, Debug)]
enum Op {
    Accept(Vec<(&'static str, i32)>),
    Reject(RejectReason),
    Pay(PaymentState),
    Stock(i32, StockEventKind),
    Cancel,
    Word(u8, ShipmentUpdateKind, Vec<(&'static str, i32)>),
    TimeOut,
}

const SKUS: [&str; 4] = ["a", "b", "c", "d"];

fn some_lines(least: usize) -> impl Strategy<Value = Vec<(&'static str, i32)>> {
    prop::collection::btree_map(0..SKUS.len(), 1..3i32, least..=2)
        .prop_map(|lines| lines.into_iter().map(|(sku, quantity)| (SKUS[sku], quantity)).collect())
}

fn some_op() -> impl Strategy<Value = Op> {
    let stock = prop_oneof![
        8 => Just(StockEventKind::Reserved),
        1 => Just(StockEventKind::Insufficient),
        4 => Just(StockEventKind::Released),
        1 => Just(StockEventKind::Shipped),
        1 => Just(StockEventKind::Refused)
    ];
    let payment = prop_oneof![
        2 => Just(PaymentState::Authorizing),
        6 => Just(PaymentState::Authorized),
        2 => Just(PaymentState::Captured),
        1 => prop::sample::select(PaymentState::ALL.to_vec()),
    ];
    let word = prop_oneof![
        3 => Just(ShipmentUpdateKind::Shipped),
        1 => Just(ShipmentUpdateKind::Short),
        2 => Just(ShipmentUpdateKind::Delivered)
    ];
    prop_oneof![
        4 => some_lines(0).prop_map(Op::Accept),
        1 => prop::sample::select(RejectReason::ALL.to_vec()).prop_map(Op::Reject),
        6 => payment.prop_map(Op::Pay),
        12 => (0..4i32, stock).prop_map(|(partition, kind)| Op::Stock(partition, kind)),
        1 => Just(Op::Cancel),
        6 => (0..4u8, word, some_lines(0)).prop_map(|(id, kind, lines)| Op::Word(id, kind, lines)),
        2 => Just(Op::TimeOut),
    ]
}

/// Any sequence of inputs, sensible or not.
fn run(ops: &[Op]) -> Case {
    let mut case = Case::nothing();
    for op in ops {
        let before = case.order.clone();
        let from = before.as_ref().map_or(OrderStatus::Unknown, |order| order.status);
        let payment_event;
        let (stock_event, cancel, update);
        let (cause, input) = match op {
            Op::Accept(lines) => {
                case.accepted.get_or_insert_with(|| order_of("o", lines));
                (Cause::Accepted, Input::Accepted)
            }
            Op::Reject(reason) => {
                case.rejected |= ends_the_order(*reason);
                (Cause::Rejected, Input::Rejected(*reason))
            }
            Op::Pay(state) => {
                let cause = match state {
                    PaymentState::Unknown | PaymentState::Authorizing => Cause::Authorizing,
                    PaymentState::Authorized | PaymentState::Capturing | PaymentState::Voiding => Cause::Authorized,
                    PaymentState::Captured | PaymentState::Refunding => Cause::Captured,
                    _ => Cause::PaymentEnded,
                };
                payment_event = paid("o", *state, if cause == Cause::Captured { 500 } else { 0 });
                (cause, Input::Payment(of(&payment_event)))
            }
            Op::Stock(partition, kind) => {
                let cause = match kind {
                    StockEventKind::Reserved => Cause::Granted,
                    StockEventKind::Insufficient => Cause::Refused,
                    StockEventKind::Released if from == OrderStatus::Reserving => Cause::Refused,
                    StockEventKind::Released => Cause::Released,
                    _ => Cause::ShipRefused,
                };
                stock_event = answer(*partition, *kind, "s1");
                (cause, Input::Stock(&stock_event))
            }
            Op::Cancel => {
                cancel = cancel_of("o");
                (Cause::CancelRequested, Input::Cancel(&cancel))
            }
            Op::Word(id, kind, lines) => {
                let cause = match kind {
                    ShipmentUpdateKind::Shipped => Cause::Shipped,
                    ShipmentUpdateKind::Short => Cause::Short,
                    _ => Cause::Delivered,
                };
                update = word_of("o", &format!("s{id}"), *kind, lines);
                (cause, Input::Shipment(&update))
            }
            Op::TimeOut => {
                let Some(until) = case.order.as_ref().and_then(deadline) else { continue };
                case.now = case.now.max(until);
                (Cause::Deadline, Input::Deadline)
            }
        };
        let Ok(decision) = case.try_give(input) else {
            assert_eq!(case.order, before);
            continue;
        };
        if let Some(event) = decision.event {
            case.taken.insert((from, cause, event.status));
            if is_final(from) {
                let late_payment = matches!(cause, Cause::Authorizing | Cause::Authorized | Cause::Captured);
                assert!(is_final(event.status) || late_payment, "{from:?} {cause:?} {:?}", event.status);
            }
            if is_final(event.status) {
                let outstanding = [GroupState::Requested, GroupState::Granted, GroupState::Releasing];
                assert!(event.groups.iter().all(|group| !outstanding.contains(&group.state)), "{event:?}");
            }
        }
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_sequence_of_inputs_stays_within_the_table(ops in prop::collection::vec(some_op(), 1..80)) {
        let taken = run(&ops).taken;
        prop_assert!(taken.iter().all(|step| TRANSITIONS.contains(step)), "{taken:?}");
    }
}

#[test]
fn every_row_of_the_table_is_taken_and_nothing_outside_it() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut taken = BTreeSet::new();
    let granted = (0..4).map(|partition| Op::Stock(partition, StockEventKind::Reserved));
    let mut confirmed = vec![Op::Accept(vec![("a", 2), ("c", 2), ("d", 2)]), Op::Pay(PaymentState::Authorized)];
    confirmed.extend(granted);
    for turn in 0..6_000 {
        // Every second one starts from a confirmed order, to get further.
        let mut ops = if turn % 2 == 0 { Vec::new() } else { confirmed.clone() };
        ops.extend(prop::collection::vec(some_op(), 60).new_tree(&mut runner).unwrap().current());
        taken.extend(run(&ops).taken);
    }
    let table: BTreeSet<_> = TRANSITIONS.iter().copied().collect();
    assert_eq!(table.len(), TRANSITIONS.len(), "no row twice");
    assert_eq!(table.difference(&taken).collect::<Vec<_>>(), Vec::<&_>::new(), "rows nobody takes");
    assert_eq!(taken.difference(&table).collect::<Vec<_>>(), Vec::<&_>::new(), "steps outside the table");
}
