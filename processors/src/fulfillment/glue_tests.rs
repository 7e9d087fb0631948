//! Fulfillment on one partition with real steps and tables: what it emits where, what survives a rebuild, what it
//! refuses.

use std::collections::BTreeMap;

use millrace_runtime::testing::{Emitted, Solo};
use millrace_runtime::{Failure, TaskContext};
use millrace_schemas::{
    AvroRecord, Codec, GroupState, OrderEvent, OrderEventKind, OrderRejected, OrderStatus, PaymentCommand,
    PaymentCommandKind, PaymentState, RejectReason, ShipmentUpdateKind, StockCommand, StockCommandKind, StockEvent,
    StockEventKind, murmur2_partition, topics,
};

use super::tests::{cancel_of, order_of, paid, word_of};
use super::{LINES, ORDERS, REJECTED, definition, state};
use crate::wire::datum;

const ORDER: &str = "order-1";

struct Bench {
    solo: Solo,
    codec: Codec,
    /// Forget all local state before every record.
    forgetful: bool,
}

impl Bench {
    fn new(forgetful: bool) -> Self {
        let codec = Codec::offline();
        let named = [
            topics::ORDERS_ACCEPTED,
            topics::ORDERS_REJECTED,
            topics::PAYMENTS_EVENTS,
            topics::STOCK_EVENTS,
            topics::ORDERS_CANCEL_REQUESTED,
            topics::SHIPMENTS_UPDATES,
            topics::ORDERS_EVENTS,
            topics::PAYMENTS_COMMANDS,
            topics::STOCK_COMMANDS,
        ];
        let settings = [
            ("reservation_timeout_ms", 30_000),
            ("payment_timeout_ms", 60_000),
            ("shipping_timeout_ms", 432_000_000),
            ("delivery_timeout_ms", 1_209_600_000),
            ("cancel_timeout_ms", 30_000),
        ];
        let context = TaskContext {
            partition: murmur2_partition(ORDER.as_bytes(), 4),
            partitions: named.iter().map(|topic| ((*topic).to_owned(), 4)).collect(),
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<BTreeMap<_, _>>(),
        };
        let mut solo = Solo::new(definition(&codec), context);
        solo.at(1_000);
        Self { solo, codec, forgetful }
    }

    fn give<T: AvroRecord>(&mut self, topic: &'static str, key: &str, value: &T) -> Result<Vec<Emitted>, Failure> {
        if self.forgetful {
            self.solo.restart();
        }
        let mut bytes = Vec::new();
        self.codec.encode(topic, value, &mut bytes);
        self.solo.record(topic, key.as_bytes(), &bytes)?;
        Ok(self.solo.emitted())
    }

    fn accept(&mut self) -> Vec<Emitted> {
        let order = order_of(ORDER, &[("a", 1), ("c", 2)]);
        self.give(topics::ORDERS_ACCEPTED, ORDER, &order).unwrap()
    }

    fn reject(&mut self, reason: RejectReason) -> Vec<Emitted> {
        let rejected = OrderRejected {
            order_id: ORDER.to_owned(),
            customer_id: "c1".to_owned(),
            reason,
            detail: String::new(),
            skus: Vec::new(),
            fingerprint: String::new(),
            placed_at: 0,
            rejected_at: 0,
        };
        self.give(topics::ORDERS_REJECTED, ORDER, &rejected).unwrap()
    }

    fn pay(&mut self, state: PaymentState, captured: i64) -> Vec<Emitted> {
        self.give(topics::PAYMENTS_EVENTS, ORDER, &paid(ORDER, state, captured)).unwrap()
    }

    fn stock(&mut self, partition: i32, kind: StockEventKind) -> Vec<Emitted> {
        let event = StockEvent {
            order_id: ORDER.to_owned(),
            attempt: 1,
            stock_partition: partition,
            kind,
            command_id: String::new(),
            lines: Vec::new(),
            short: Vec::new(),
            at: 0,
        };
        self.give(topics::STOCK_EVENTS, ORDER, &event).unwrap()
    }

    fn word(&mut self, kind: ShipmentUpdateKind) -> Result<Vec<Emitted>, Failure> {
        self.give(topics::SHIPMENTS_UPDATES, ORDER, &word_of(ORDER, "s1", kind, &[]))
    }

    fn order(&self) -> OrderEvent {
        datum(&self.solo.get(ORDERS, ORDER.as_bytes()).expect("the order is known")).unwrap()
    }

    fn all<T: AvroRecord>(&self, emitted: &[Emitted], topic: &str) -> Vec<(String, T)> {
        let emitted = emitted.iter().filter(|out| out.topic == topic);
        emitted
            .map(|out| (String::from_utf8(out.key.clone()).unwrap(), self.codec.decode(&out.value).unwrap()))
            .collect()
    }
}

#[test]
fn an_order_goes_all_the_way_whether_or_not_local_state_is_lost_at_every_step() {
    for forgetful in [false, true] {
        let mut bench = Bench::new(forgetful);
        assert!(bench.accept().is_empty(), "an accepted order alone writes nothing");
        let out = bench.pay(PaymentState::Authorized, 0);
        let commands = bench.all::<StockCommand>(&out, topics::STOCK_COMMANDS);
        let keys: Vec<_> = commands.iter().map(|(key, command)| (key.as_str(), command.kind)).collect();
        assert_eq!(keys, [("a", StockCommandKind::Reserve), ("c", StockCommandKind::Reserve)]);
        let due = bench.solo.due();
        assert_eq!(due, [(ORDERS, ORDER.as_bytes().to_vec(), 31_000)]);
        bench.stock(0, StockEventKind::Reserved);
        let out = bench.stock(2, StockEventKind::Reserved);
        assert_eq!((out.len(), out[0].topic.as_str()), (1, topics::ORDERS_EVENTS));
        assert_eq!(bench.order().status, OrderStatus::Confirmed);
        let out = bench.word(ShipmentUpdateKind::Shipped).unwrap();
        let commands = bench.all::<StockCommand>(&out, topics::STOCK_COMMANDS);
        assert!(commands.iter().all(|(_, c)| c.kind == StockCommandKind::Ship && c.command_id == "s1"));
        let captures = bench.all::<PaymentCommand>(&out, topics::PAYMENTS_COMMANDS);
        assert_eq!((captures.len(), captures[0].0.as_str()), (1, ORDER));
        assert_eq!(captures[0].1.kind, PaymentCommandKind::Capture);
        assert_eq!(captures[0].1.amount.as_ref().map(|amount| amount.minor), Some(750));
        bench.pay(PaymentState::Captured, 750);
        bench.word(ShipmentUpdateKind::Delivered).unwrap();
        assert_eq!((bench.order().status, bench.order().version), (OrderStatus::Completed, 6));
        assert!(bench.solo.due().is_empty(), "a final order has no deadline");
    }
}

#[test]
fn the_order_may_be_read_after_its_payment() {
    for forgetful in [false, true] {
        let mut bench = Bench::new(forgetful);
        bench.pay(PaymentState::Authorized, 0);
        assert_eq!(bench.order().status, OrderStatus::AwaitingOrder);
        let out = bench.accept();
        assert_eq!(bench.all::<StockCommand>(&out, topics::STOCK_COMMANDS).len(), 2);
        assert_eq!(bench.order().status, OrderStatus::Reserving);
        assert!(bench.accept().is_empty(), "the accepted order once more");
    }
}

#[test]
fn a_rejection_is_remembered_for_the_cancel_that_comes_after_it_and_one_of_another_body_is_not() {
    for forgetful in [false, true] {
        let mut bench = Bench::new(forgetful);
        assert!(bench.reject(RejectReason::ConflictingDuplicate).is_empty());
        assert_eq!(bench.solo.get(REJECTED, ORDER.as_bytes()), None);
        assert!(bench.reject(RejectReason::SoldOut).is_empty(), "a rejection alone writes nothing");
        assert!(bench.solo.get(REJECTED, ORDER.as_bytes()).is_some());
        let out = bench.give(topics::ORDERS_CANCEL_REQUESTED, ORDER, &cancel_of(ORDER)).unwrap();
        assert_eq!((out.len(), bench.order().status), (1, OrderStatus::Cancelled));
        let mut bench = Bench::new(forgetful);
        bench.give(topics::ORDERS_CANCEL_REQUESTED, ORDER, &cancel_of(ORDER)).unwrap();
        assert!(bench.reject(RejectReason::ConflictingDuplicate).is_empty());
        assert_eq!(bench.order().status, OrderStatus::AwaitingOrder);
        assert_eq!(bench.reject(RejectReason::SoldOut).len(), 1);
        assert_eq!(bench.order().status, OrderStatus::Cancelled);
        assert!(bench.solo.due().is_empty(), "nobody waits for anything");
    }
}

#[test]
fn a_deadline_asks_the_ledger_again_and_moves() {
    let mut bench = Bench::new(false);
    bench.accept();
    bench.pay(PaymentState::Authorized, 0);
    bench.stock(0, StockEventKind::Reserved);
    bench.solo.at(31_000);
    bench.solo.fire(ORDERS, ORDER.as_bytes()).unwrap();
    let out = bench.solo.emitted();
    let commands = bench.all::<StockCommand>(&out, topics::STOCK_COMMANDS);
    assert_eq!((commands.len(), commands[0].0.as_str()), (1, "c"));
    assert_eq!(
        (bench.order().kind, bench.order().groups[0].state),
        (OrderEventKind::DeadlineExtended, GroupState::Granted)
    );
    assert!(bench.solo.due()[0].2 > 31_000 + 30_000);
    assert_eq!(state::deadline(&bench.order()), Some(bench.solo.due()[0].2));
}

#[test]
fn the_table_of_lines_keeps_the_first_word_and_no_token() {
    let mut bench = Bench::new(false);
    bench.accept();
    bench.give(topics::ORDERS_ACCEPTED, ORDER, &order_of(ORDER, &[("z", 9)])).unwrap();
    let kept: millrace_schemas::OrderAccepted = datum(&bench.solo.get(LINES, ORDER.as_bytes()).unwrap()).unwrap();
    assert_eq!((kept.lines.len(), kept.payment_method.as_str()), (2, ""));
}

#[test]
fn what_does_not_belong_here_or_says_nothing_is_poison_and_changes_nothing() {
    let mut bench = Bench::new(false);
    let elsewhere =
        (0..).map(|n| format!("other-{n}")).find(|id| murmur2_partition(id.as_bytes(), 4) != bench_partition());
    let elsewhere = elsewhere.expect("there are four partitions");
    let poison =
        |result: Result<Vec<Emitted>, Failure>| assert!(matches!(result, Err(Failure::Poison(_))), "{result:?}");
    poison(bench.give(topics::ORDERS_CANCEL_REQUESTED, &elsewhere, &cancel_of(&elsewhere)));
    poison(bench.give(topics::ORDERS_CANCEL_REQUESTED, ORDER, &cancel_of("another")));
    poison(bench.give(topics::ORDERS_ACCEPTED, ORDER, &order_of("another", &[("a", 1)])));
    assert_eq!(bench.solo.get(LINES, ORDER.as_bytes()), None);
    bench.accept();
    poison(bench.word(ShipmentUpdateKind::Shipped)); // not confirmed yet
    for topic in [
        topics::ORDERS_ACCEPTED,
        topics::ORDERS_REJECTED,
        topics::PAYMENTS_EVENTS,
        topics::STOCK_EVENTS,
        topics::ORDERS_CANCEL_REQUESTED,
        topics::SHIPMENTS_UPDATES,
    ] {
        for (key, value) in [("unheard", &b"garbage"[..]), ("", b""), ("unheard", b"")] {
            assert!(
                matches!(bench.solo.record(topic, key.as_bytes(), value), Err(Failure::Poison(_))),
                "{topic} {key}"
            );
        }
        assert!(matches!(bench.solo.raw(topic, b"unheard", None), Err(Failure::Poison(_))), "{topic}");
    }
    assert_eq!(bench.solo.get(ORDERS, ORDER.as_bytes()), None);
    assert!(bench.solo.emitted().is_empty());
}

fn bench_partition() -> i32 {
    murmur2_partition(ORDER.as_bytes(), 4)
}
