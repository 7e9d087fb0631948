//! The ledger's promises: granted whole or not at all, never more than there is, every command once.

use std::collections::{BTreeMap, BTreeSet};

use millrace_schemas::{
    AdjustmentKind, LevelCause, StockAdjustment, StockCommand, StockCommandKind, StockEventKind, StockLevel, StockLine,
};
use proptest::prelude::*;

use super::decide::{Decision, decide, needs_levels};
use super::state::{
    Cause, Movement, Reservation, ReservationState, TRANSITIONS, adjusted, available, empty_level, moved,
};

const TTL: i64 = 1000;

/// One partition of the ledger without an engine around it.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) levels: BTreeMap<String, StockLevel>,
    pub(crate) reservations: BTreeMap<(String, i32), Reservation>,
    pub(crate) taken: BTreeSet<(Option<ReservationState>, Cause, Option<ReservationState>)>,
}

impl Ledger {
    pub(crate) fn with(stock: &[(&str, i64)]) -> Self {
        let mut ledger = Self::default();
        for (sku, units) in stock {
            ledger.adjust(AdjustmentKind::Opening, sku, *units).unwrap();
        }
        ledger
    }

    pub(crate) fn adjust(&mut self, kind: AdjustmentKind, sku: &str, quantity: i64) -> Result<(), String> {
        let adjustment = StockAdjustment {
            adjustment_id: "adjustment".to_owned(),
            sku: sku.to_owned(),
            kind,
            quantity,
            reason: String::new(),
            at: 0,
        };
        let before = self.levels.get(sku).cloned().unwrap_or_else(|| empty_level(sku));
        self.levels.insert(sku.to_owned(), adjusted(before, &adjustment, 0)?);
        Ok(())
    }

    pub(crate) fn command(&mut self, command: &StockCommand, now: i64) -> Result<Decision, String> {
        let key = (command.order_id.clone(), command.attempt);
        let reservation = self.reservations.get(&key);
        let from = reservation.map(|r| r.state);
        let levels: Vec<_> = if needs_levels(reservation, command) {
            command.lines.iter().map(|line| self.levels.get(&line.sku).cloned()).collect()
        } else {
            Vec::new()
        };
        let decision = decide(reservation, command, &levels, now + TTL)?;
        if let Some(next) = decision.reservation.clone() {
            let cause = match command.kind {
                StockCommandKind::Reserve => Cause::Reserve,
                StockCommandKind::Release => Cause::Release,
                _ => Cause::Ship,
            };
            self.taken.insert((from, cause, Some(next.state)));
            self.reservations.insert(key, next);
        }
        for (sku, movement) in &decision.movements {
            let level = self.levels.remove(sku).expect("only what is held moves, and only known SKUs are held");
            self.levels.insert(sku.clone(), moved(level, *movement, &command.order_id, now));
        }
        Ok(decision)
    }

    fn forget_fences(&mut self, now: i64) {
        let taken = &mut self.taken;
        self.reservations.retain(|_, reservation| {
            let over = reservation.fence_until.is_some_and(|until| until <= now);
            if over {
                taken.insert((Some(reservation.state), Cause::FenceOver, None));
            }
            !over
        });
    }

    pub(crate) fn check(&self) {
        for (sku, level) in &self.levels {
            assert_eq!(level.on_hand, level.opening + level.received + level.adjusted - level.shipped, "{sku}");
            let held: i64 = self
                .reservations
                .values()
                .flat_map(|r| r.lines.iter().filter(|l| l.sku == *sku).map(|l| i64::from(r.held(l))))
                .sum();
            assert_eq!(level.reserved, held, "reserved of {sku} is what its reservations hold");
        }
        for reservation in self.reservations.values() {
            assert_eq!(reservation.fence_until.is_none(), reservation.state == ReservationState::Held);
        }
    }
}

fn lines(lines: &[(&str, i32)]) -> Vec<StockLine> {
    lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).to_owned(), quantity: *quantity }).collect()
}

fn command(order: &str, kind: StockCommandKind, id: &str, named: &[(&str, i32)]) -> StockCommand {
    StockCommand { order_id: order.to_owned(), attempt: 1, kind, command_id: id.to_owned(), lines: lines(named), at: 0 }
}

fn reserve(order: &str, named: &[(&str, i32)]) -> StockCommand {
    command(order, StockCommandKind::Reserve, "", named)
}

fn release(order: &str) -> StockCommand {
    command(order, StockCommandKind::Release, "", &[])
}

fn ship(order: &str, id: &str, named: &[(&str, i32)]) -> StockCommand {
    command(order, StockCommandKind::Ship, id, named)
}

#[test]
fn a_group_is_granted_whole() {
    let mut ledger = Ledger::with(&[("a", 5), ("b", 1)]);
    let granted = ledger.command(&reserve("o", &[("a", 5), ("b", 1)]), 0).unwrap();
    assert_eq!((granted.answer, granted.lines), (StockEventKind::Reserved, lines(&[("a", 5), ("b", 1)])));
    assert_eq!((available(&ledger.levels["a"]), available(&ledger.levels["b"])), (0, 0));
    assert_eq!(ledger.levels["a"].cause, LevelCause::Reserved);
    ledger.check();
}

#[test]
fn a_group_that_falls_short_in_one_line_is_refused_whole_and_says_where() {
    let mut ledger = Ledger::with(&[("a", 5), ("b", 1)]);
    let refused = ledger.command(&reserve("o", &[("a", 5), ("b", 2), ("unheard-of", 1)]), 0).unwrap();
    assert_eq!(refused.answer, StockEventKind::Insufficient);
    assert!(refused.movements.is_empty());
    let short: Vec<_> = refused.short.iter().map(|s| (s.sku.as_str(), s.wanted, s.available)).collect();
    assert_eq!(short, [("b", 2, 1), ("unheard-of", 1, 0)]);
    ledger.adjust(AdjustmentKind::Receipt, "b", 100).unwrap();
    let again = ledger.command(&reserve("o", &[("a", 5), ("b", 2), ("unheard-of", 1)]), 0).unwrap();
    assert_eq!((again.answer, &again.short, &again.reservation), (refused.answer, &refused.short, &None));
    let released = ledger.command(&release("o"), 0).unwrap();
    assert_eq!((released.answer, released.lines.len()), (StockEventKind::Released, 0));
    ledger.check();
}

#[test]
fn a_release_that_comes_before_its_reserve_fences_it() {
    let mut ledger = Ledger::with(&[("a", 5)]);
    assert_eq!(ledger.command(&release("o"), 0).unwrap().answer, StockEventKind::Released);
    let late = ledger.command(&reserve("o", &[("a", 1)]), 1).unwrap();
    assert_eq!((late.answer, late.movements.len()), (StockEventKind::Released, 0));
    assert_eq!(ledger.levels["a"].reserved, 0);
    // The control: without the fence the same reserve is granted.
    ledger.forget_fences(TTL);
    assert_eq!(ledger.command(&reserve("o", &[("a", 1)]), TTL).unwrap().answer, StockEventKind::Reserved);
}

#[test]
fn repeated_commands_are_answered_as_before_and_change_nothing() {
    let mut ledger = Ledger::with(&[("a", 5), ("b", 5)]);
    let sequence =
        [reserve("o", &[("a", 3), ("b", 2)]), ship("o", "s1", &[("a", 1)]), ship("o", "s2", &[("b", 2)]), release("o")];
    let mut answers = Vec::new();
    for step in &sequence {
        let first = ledger.command(step, 0).unwrap();
        let levels = ledger.levels.clone();
        let second = ledger.command(step, 0).unwrap();
        assert_eq!((first.answer, &first.lines), (second.answer, &second.lines));
        assert_eq!((second.reservation, second.movements.len()), (None, 0));
        assert_eq!(ledger.levels, levels);
        answers.push((first.answer, first.lines));
        ledger.check();
    }
    assert_eq!(answers[3], (StockEventKind::Released, lines(&[("a", 2)])));
    let (a, b) = (&ledger.levels["a"], &ledger.levels["b"]);
    assert_eq!((a.on_hand, a.reserved, a.shipped), (4, 0, 1));
    assert_eq!((b.on_hand, b.reserved, b.shipped), (3, 0, 2));
    // Even the first of them, long after.
    assert_eq!(ledger.command(&ship("o", "s1", &[("a", 1)]), 0).unwrap().answer, StockEventKind::Shipped);
    assert_eq!(ledger.levels["a"].shipped, 1);
}

#[test]
fn more_than_is_held_is_never_shipped() {
    let mut ledger = Ledger::with(&[("a", 50), ("b", 50)]);
    ledger.command(&reserve("o", &[("a", 3)]), 0).unwrap();
    for (wrong, sku, held) in [(ship("o", "s", &[("a", 4)]), "a", 3), (ship("o", "s", &[("a", 1), ("b", 1)]), "b", 0)] {
        let refused = ledger.command(&wrong, 0).unwrap();
        assert_eq!(refused.answer, StockEventKind::Refused);
        assert_eq!((refused.short[0].sku.as_str(), refused.short[0].available), (sku, held));
        assert_eq!((refused.reservation, refused.movements.len()), (None, 0));
    }
    assert_eq!(ledger.command(&ship("other", "s", &[("a", 1)]), 0).unwrap().answer, StockEventKind::Refused);
    ledger.command(&release("o"), 0).unwrap();
    assert_eq!(ledger.command(&ship("o", "s", &[("a", 1)]), 0).unwrap().answer, StockEventKind::Refused);
    ledger.check();
}

#[test]
fn a_count_or_write_off_below_what_is_promised_is_kept_as_it_is_and_stops_grants() {
    let mut ledger = Ledger::with(&[("a", 10)]);
    ledger.command(&reserve("o", &[("a", 8)]), 0).unwrap();
    ledger.adjust(AdjustmentKind::Count, "a", 5).unwrap();
    assert_eq!((ledger.levels["a"].on_hand, available(&ledger.levels["a"])), (5, -3));
    ledger.adjust(AdjustmentKind::WriteOff, "a", 1).unwrap();
    assert_eq!((available(&ledger.levels["a"]), ledger.levels["a"].adjusted), (-4, -6));
    let refused = ledger.command(&reserve("p", &[("a", 1)]), 0).unwrap();
    assert_eq!((refused.answer, refused.short[0].available), (StockEventKind::Insufficient, -4));
    ledger.adjust(AdjustmentKind::Receipt, "a", 5).unwrap();
    assert_eq!(ledger.command(&reserve("q", &[("a", 1)]), 0).unwrap().answer, StockEventKind::Reserved);
    ledger.check();
}

#[test]
fn what_a_command_or_adjustment_cannot_mean_is_an_error() {
    let mut ledger = Ledger::with(&[("a", 10)]);
    let unknown = command("o", StockCommandKind::Unknown, "", &[("a", 1)]);
    for wrong in [
        reserve("o", &[]),
        reserve("o", &[("a", 0)]),
        reserve("o", &[("a", -1)]),
        reserve("o", &[("b", 1), ("a", 1)]),
        reserve("o", &[("a", 1), ("a", 1)]),
        ship("o", "", &[("a", 1)]),
        ship("o", "s", &[]),
        unknown,
    ] {
        assert!(ledger.command(&wrong, 0).is_err(), "{wrong:?}");
    }
    assert!(ledger.adjust(AdjustmentKind::Receipt, "a", -1).is_err());
    assert!(ledger.adjust(AdjustmentKind::Receipt, "a", i64::MAX).is_err());
    assert!(ledger.adjust(AdjustmentKind::Unknown, "a", 1).is_err());
    assert_eq!(ledger.levels["a"].on_hand, 10);
}

#[derive(Clone, Debug)]
enum Op {
    Command(StockCommand),
    Repeat(prop::sample::Index),
    Adjust(AdjustmentKind, usize, i64),
    Pass(i64),
}

const SKUS: [&str; 4] = ["a", "b", "c", "d"];

fn some_lines() -> impl Strategy<Value = Vec<StockLine>> {
    prop::collection::btree_map(0..SKUS.len(), 1..5i32, 1..=SKUS.len())
        .prop_map(|map| map.into_iter().map(|(s, quantity)| StockLine { sku: SKUS[s].to_owned(), quantity }).collect())
}

fn some_command() -> impl Strategy<Value = StockCommand> {
    let kinds = prop_oneof![
        4 => Just(StockCommandKind::Reserve),
        1 => Just(StockCommandKind::Release),
        4 => Just(StockCommandKind::Ship)
    ];
    (0..4u8, 1..3i32, kinds, 0..4u8, some_lines()).prop_map(|(order, attempt, kind, shipment, lines)| StockCommand {
        order_id: format!("o{order}"),
        attempt,
        kind,
        command_id: if kind == StockCommandKind::Ship { format!("s{shipment}") } else { String::new() },
        lines: if kind == StockCommandKind::Release { Vec::new() } else { lines },
        at: 0,
    })
}

fn some_op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        Just(AdjustmentKind::Opening),
        Just(AdjustmentKind::Receipt),
        Just(AdjustmentKind::Count),
        Just(AdjustmentKind::WriteOff)
    ];
    prop_oneof![
        8 => some_command().prop_map(Op::Command),
        2 => any::<prop::sample::Index>().prop_map(Op::Repeat),
        2 => (kind, 0..SKUS.len(), 0..9i64).prop_map(|(kind, sku, units)| Op::Adjust(kind, sku, units)),
        1 => (0..TTL).prop_map(Op::Pass),
    ]
}

fn run(ops: &[Op]) -> Ledger {
    let mut ledger = Ledger::with(&[("a", 6), ("b", 3), ("c", 9)]);
    let mut sent: Vec<StockCommand> = Vec::new();
    let mut now = 0;
    for op in ops {
        let before = ledger.clone();
        let command = match op {
            Op::Command(command) => command.clone(),
            Op::Repeat(which) if !sent.is_empty() => which.get(&sent).clone(),
            Op::Repeat(_) => continue,
            Op::Adjust(kind, sku, units) => {
                ledger.adjust(*kind, SKUS[*sku], *units).unwrap();
                ledger.check();
                continue;
            }
            Op::Pass(time) => {
                now += time;
                ledger.forget_fences(now);
                ledger.check();
                continue;
            }
        };
        let decision = ledger.command(&command, now).unwrap();
        ledger.check();
        let whole = decision.movements.len() == command.lines.len();
        if decision.answer == StockEventKind::Reserved && decision.reservation.is_some() {
            assert!(whole, "granted whole");
            for line in &command.lines {
                assert!(available(&ledger.levels[&line.sku]) >= 0, "a grant never leaves less than nothing");
            }
        }
        for (sku, movement) in &decision.movements {
            assert_eq!(ledger.levels[sku].version, before.levels[sku].version + 1);
            if matches!(movement, Movement::Release(_) | Movement::Ship(_)) {
                assert!(available(&ledger.levels[sku]) >= available(&before.levels[sku]), "no command makes it short");
            }
        }
        let again = ledger.clone().command(&command, now).unwrap();
        assert_eq!((again.reservation, again.movements.len()), (None, 0), "a repeated command changes nothing");
        assert_eq!((again.answer, again.lines), (decision.answer, decision.lines), "and is answered as before");
        sent.push(command);
    }
    ledger
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn balances_add_up_after_every_step_of_any_sequence(ops in prop::collection::vec(some_op(), 1..80)) {
        run(&ops);
    }
}

#[test]
fn every_row_of_the_table_is_taken_and_nothing_outside_it() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut taken = BTreeSet::new();
    for _ in 0..300 {
        let ops = prop::collection::vec(some_op(), 60).new_tree(&mut runner).unwrap().current();
        taken.extend(run(&ops).taken);
    }
    assert_eq!(taken, TRANSITIONS.iter().copied().collect());
}
