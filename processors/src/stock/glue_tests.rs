//! The ledger on one partition with real steps and tables: what it emits, what survives a rebuild, what it refuses.

use std::collections::BTreeMap;

use millrace_runtime::testing::{Emitted, Solo};
use millrace_runtime::{Failure, TaskContext};
use millrace_schemas::{
    AdjustmentKind, AvroRecord, Codec, StockAdjustment, StockCommand, StockCommandKind, StockEvent, StockEventKind,
    StockLevel, StockLine, murmur2_partition, topics,
};
use proptest::prelude::*;

use super::state::{Reservation, ReservationState, ReservedLine};
use super::{RESERVATIONS, definition, stored};

const TTL: i64 = 10_000;
/// Both belong to partition 0 of 4, the third does not.
const A: &str = "a";
const B: &str = "b";
const ELSEWHERE: &str = "c";

struct Bench {
    solo: Solo,
    codec: Codec,
}

impl Bench {
    fn new() -> Self {
        assert_eq!([A, B, ELSEWHERE].map(|sku| murmur2_partition(sku.as_bytes(), 4)), [0, 0, 2]);
        let codec = Codec::offline();
        let named = [topics::STOCK_COMMANDS, topics::STOCK_ADJUSTMENTS, topics::STOCK_LEVELS, topics::STOCK_EVENTS];
        let context = TaskContext {
            partition: 0,
            partitions: named.iter().map(|topic| ((*topic).to_owned(), 4)).collect(),
            settings: BTreeMap::from([("fence_ttl_ms".to_owned(), TTL)]),
        };
        let mut solo = Solo::new(definition(&codec), context);
        solo.at(1_000);
        Self { solo, codec }
    }

    fn give<T: AvroRecord>(&mut self, topic: &'static str, key: &str, value: &T) -> Result<Vec<Emitted>, Failure> {
        let mut bytes = Vec::new();
        self.codec.encode(topic, value, &mut bytes);
        self.solo.record(topic, key.as_bytes(), &bytes)?;
        Ok(self.solo.emitted())
    }

    fn adjust(&mut self, id: &str, sku: &str, kind: AdjustmentKind, quantity: i64) -> Result<Vec<Emitted>, Failure> {
        let adjustment = StockAdjustment {
            adjustment_id: id.to_owned(),
            sku: sku.to_owned(),
            kind,
            quantity,
            reason: "test".to_owned(),
            at: 0,
        };
        self.give(topics::STOCK_ADJUSTMENTS, sku, &adjustment)
    }

    fn command(
        &mut self,
        order: &str,
        kind: StockCommandKind,
        id: &str,
        lines: &[(&str, i32)],
    ) -> Result<Vec<Emitted>, Failure> {
        let lines = lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).to_owned(), quantity: *quantity });
        let command = StockCommand {
            order_id: order.to_owned(),
            attempt: 1,
            kind,
            command_id: id.to_owned(),
            lines: lines.collect(),
            at: 0,
        };
        self.give(topics::STOCK_COMMANDS, A, &command)
    }

    fn levels(&self, emitted: &[Emitted]) -> Vec<StockLevel> {
        let levels = emitted.iter().filter(|out| out.topic == topics::STOCK_LEVELS);
        levels.map(|out| self.codec.decode(&out.value).unwrap()).collect()
    }

    fn answer(&self, emitted: &[Emitted]) -> StockEvent {
        let answers: Vec<&Emitted> = emitted.iter().filter(|out| out.topic == topics::STOCK_EVENTS).collect();
        assert_eq!(answers.len(), 1, "one answer per command");
        let event: StockEvent = self.codec.decode(&answers[0].value).unwrap();
        assert_eq!(answers[0].key, event.order_id.as_bytes());
        event
    }
}

fn is_poison(result: Result<Vec<Emitted>, Failure>) -> bool {
    matches!(result, Err(Failure::Poison(_)))
}

#[test]
fn a_reservation_moves_balances_and_survives_a_rebuild() {
    let mut bench = Bench::new();
    bench.adjust("x1", A, AdjustmentKind::Opening, 5).unwrap();
    bench.adjust("x2", B, AdjustmentKind::Opening, 5).unwrap();
    let out = bench.command("o", StockCommandKind::Reserve, "", &[(A, 2), (B, 5)]).unwrap();
    let levels = bench.levels(&out);
    assert_eq!(
        levels.iter().map(|l| (l.sku.as_str(), l.on_hand, l.reserved)).collect::<Vec<_>>(),
        [(A, 5, 2), (B, 5, 5)]
    );
    assert_eq!(levels[0].cause_id, "o");
    let granted = bench.answer(&out);
    assert_eq!((granted.kind, granted.stock_partition, granted.lines.len()), (StockEventKind::Reserved, 0, 2));

    bench.solo.restart();
    let out = bench.command("o", StockCommandKind::Reserve, "", &[(A, 2), (B, 5)]).unwrap();
    assert_eq!((bench.answer(&out), out.len()), (granted, 1), "the same answer and nothing else");
    let out = bench.command("o", StockCommandKind::Ship, "s1", &[(A, 2)]).unwrap();
    assert_eq!((bench.levels(&out)[0].on_hand, bench.levels(&out)[0].version), (3, 3));
    bench.solo.restart();
    let out = bench.command("o", StockCommandKind::Release, "", &[]).unwrap();
    assert_eq!(bench.answer(&out).lines, [StockLine { sku: B.to_owned(), quantity: 5 }]);
    assert_eq!((bench.levels(&out)[0].reserved, bench.levels(&out).len()), (0, 1));
}

#[test]
fn a_fence_is_forgotten_when_its_time_is_over_and_not_before() {
    let mut bench = Bench::new();
    bench.adjust("x1", A, AdjustmentKind::Opening, 5).unwrap();
    bench.command("held", StockCommandKind::Reserve, "", &[(A, 1)]).unwrap();
    bench.command("gone", StockCommandKind::Release, "", &[]).unwrap();
    let late = bench.command("gone", StockCommandKind::Reserve, "", &[(A, 1)]).unwrap();
    assert_eq!(bench.answer(&late).kind, StockEventKind::Released);
    let key = stored::reservation_key("gone", 1);
    let due = bench.solo.due();
    assert!(due.contains(&(RESERVATIONS, key.clone().into_bytes(), 1_000 + TTL)), "{due:?}");
    let held = stored::reservation_key("held", 1);
    assert!(due.iter().all(|(_, key, _)| *key != held.as_bytes()), "what is held is never forgotten");
    bench.solo.at(1_000 + TTL);
    bench.solo.fire(RESERVATIONS, key.as_bytes()).unwrap();
    assert_eq!(bench.solo.get(RESERVATIONS, key.as_bytes()), None);
    bench.solo.restart();
    assert_eq!(bench.solo.get(RESERVATIONS, key.as_bytes()), None);
    assert!(bench.solo.get(RESERVATIONS, held.as_bytes()).is_some());
}

#[test]
fn an_adjustment_counts_once_however_often_and_late_it_comes() {
    let mut bench = Bench::new();
    bench.adjust("x1", A, AdjustmentKind::Receipt, 5).unwrap();
    bench.command("o", StockCommandKind::Reserve, "", &[(A, 1)]).unwrap();
    bench.adjust("x2", A, AdjustmentKind::Count, 3).unwrap();
    assert!(bench.adjust("x1", A, AdjustmentKind::Receipt, 5).unwrap().is_empty());
    bench.solo.restart();
    assert!(bench.adjust("x2", A, AdjustmentKind::Count, 3).unwrap().is_empty());
    // The control: another id counts.
    let out = bench.adjust("x3", A, AdjustmentKind::Receipt, 5).unwrap();
    let level = &bench.levels(&out)[0];
    assert_eq!((level.on_hand, level.received, level.adjusted, level.reserved), (8, 10, -2, 1));
    assert_eq!(level.cause_id, "x3");
}

#[test]
fn a_balance_that_a_count_made_short_is_shown_as_it_is() {
    let mut bench = Bench::new();
    bench.adjust("x1", A, AdjustmentKind::Opening, 5).unwrap();
    bench.command("o", StockCommandKind::Reserve, "", &[(A, 4)]).unwrap();
    let out = bench.adjust("x2", A, AdjustmentKind::Count, 1).unwrap();
    assert_eq!((bench.levels(&out)[0].on_hand, bench.levels(&out)[0].reserved), (1, 4));
    let out = bench.command("p", StockCommandKind::Reserve, "", &[(A, 1)]).unwrap();
    assert_eq!((bench.answer(&out).kind, bench.answer(&out).short[0].available), (StockEventKind::Insufficient, -3));
}

#[test]
fn what_does_not_belong_here_or_says_nothing_is_poison_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.adjust("x1", A, AdjustmentKind::Opening, 5).unwrap();
    assert!(is_poison(bench.command("o", StockCommandKind::Reserve, "", &[(A, 1), (ELSEWHERE, 1)])));
    assert!(is_poison(bench.command("o", StockCommandKind::Reserve, "", &[])));
    assert!(is_poison(bench.command("", StockCommandKind::Reserve, "", &[(A, 1)])));
    assert!(is_poison(bench.adjust("x2", ELSEWHERE, AdjustmentKind::Opening, 5)));
    assert!(is_poison(bench.adjust("", A, AdjustmentKind::Opening, 5)));
    assert!(is_poison(bench.adjust("x2", A, AdjustmentKind::Unknown, 5)));
    for topic in [topics::STOCK_COMMANDS, topics::STOCK_ADJUSTMENTS] {
        for (key, value) in [(A, &b"garbage"[..]), ("", b""), (A, b"")] {
            assert!(matches!(bench.solo.record(topic, key.as_bytes(), value), Err(Failure::Poison(_))));
        }
        assert!(matches!(bench.solo.raw(topic, A.as_bytes(), None), Err(Failure::Poison(_))));
    }
    let out = bench.adjust("x3", A, AdjustmentKind::Receipt, 0).unwrap();
    assert_eq!(
        (bench.levels(&out)[0].on_hand, bench.levels(&out)[0].reserved, bench.levels(&out)[0].version),
        (5, 0, 2)
    );
}

fn some_reservation() -> impl Strategy<Value = Reservation> {
    let states = prop::sample::select(ReservationState::ALL.to_vec());
    let line = ("[a-zé]{0,12}", any::<i32>(), any::<i32>(), prop::option::of(-9..9i64));
    let line = line.prop_map(|(sku, quantity, shipped, short)| ReservedLine { sku, quantity, shipped, short });
    let lines = prop::collection::vec(line, 0..6);
    (states, lines, prop::collection::vec("[a-z0-9 ]{0,8}", 0..4), prop::option::of(0..i64::MAX))
        .prop_map(|(state, lines, shipments, fence_until)| Reservation { state, lines, shipments, fence_until })
}

proptest! {
    #[test]
    fn a_reservation_is_read_as_it_was_written(reservation in some_reservation()) {
        let bytes = stored::write_reservation(&reservation);
        prop_assert_eq!(stored::deadline(&bytes), reservation.fence_until);
        prop_assert_eq!(stored::read_reservation(&bytes), Some(reservation));
        for cut in 0..bytes.len() {
            prop_assert_eq!(stored::read_reservation(&bytes[..cut]), None);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = (stored::read_reservation(&bytes), stored::deadline(&bytes));
    }

    #[test]
    fn keys_of_reservations_and_adjustments_never_meet(
        order in ".{0,20}", attempt in any::<i32>(), sku in ".{0,8}", id in ".{0,12}",
    ) {
        prop_assert_ne!(stored::reservation_key(&order, attempt), stored::adjustment_key(&sku, &id));
    }
}

#[test]
fn an_adjustment_is_remembered_until_its_time() {
    assert_eq!(stored::deadline(&stored::write_adjustment(77)), Some(77));
    assert_eq!(stored::read_reservation(&stored::write_adjustment(77)), None);
}
