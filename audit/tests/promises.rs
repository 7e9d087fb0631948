//! A clean history passes, and for each promise a history with one defect breaks that promise and no other.

mod history;

use history::{Any, History, clean, placed};
use millrace_audit::{Audit, Phase, Promise, Record, Report};
use millrace_schemas::*;

/// Takes out the records that match; at least one must.
fn remove(h: &mut History, unwanted: impl Fn(&Any) -> bool) {
    let before = h.records.len();
    h.records.retain(|(_, record)| !unwanted(record));
    assert!(h.records.len() < before, "nothing was taken out");
}

/// Changes the records that match; at least one must.
fn change(h: &mut History, change: impl Fn(&mut Any) -> bool) {
    let changed = h.records.iter_mut().filter_map(|(_, record)| change(record).then_some(())).count();
    assert!(changed > 0, "nothing was changed");
}

fn broken(report: &Report) -> Vec<Promise> {
    report.promises.iter().filter(|v| !v.holds).map(|v| v.promise).collect()
}

/// That promise is broken, no other, whichever way the topics are read.
fn breaks_only(promise: Promise, spoil: impl FnOnce(&mut History)) {
    let mut h = clean();
    spoil(&mut h);
    let report = h.report(Phase::Settled);
    assert_eq!(broken(&report), [promise], "{report}");
    assert!(!report.holds());
    let verdict = report.verdict(promise);
    assert!(verdict.violations > 0 && !verdict.examples.is_empty());
    assert!(verdict.examples.iter().all(|example| !example.what.is_empty() && !example.topic.is_empty()));
    let backwards = h.report_in_order(Phase::Settled, &mut |topics| topics - 1);
    assert_eq!(broken(&backwards), [promise], "topic by topic, the last first\n{backwards}");
}

#[test]
fn a_clean_history_holds_and_adds_up() {
    let report = clean().report(Phase::Settled);
    assert!(report.holds(), "{report}");
    let orders = &report.orders;
    assert_eq!((orders.placed, orders.duplicates, orders.conflicting), (5, 1, 1));
    assert_eq!((orders.accepted, orders.confirmed, orders.shipped, orders.completed), (4, 3, 2, 2));
    assert_eq!(orders.rejected.get("UNKNOWN_SKU"), Some(&1));
    assert_eq!(orders.cancelled.get("OUT_OF_STOCK"), Some(&1));
    assert_eq!(orders.cancelled.get("CUSTOMER"), Some(&1));
    assert!(orders.open.is_empty());
    let money = &report.money["GBP"];
    assert_eq!(money.authorized, money.captured + money.voided);
    assert_eq!(money.captured, 3 * 102 + 2 * 102 + 3 * 103);
    let stock = &report.stock;
    assert_eq!((stock.skus, stock.opening, stock.received, stock.adjusted), (4, 41, 5, -3));
    assert_eq!((stock.shipped, stock.on_hand, stock.reserved), (8, 35, 0));
    assert_eq!(report.dead_letters.get("intake"), Some(&1));
}

/// The shop with its letter put back (where it fails again), marked, and the second letter let go.
fn with_a_letter_put_back() -> History {
    let mut h = clean();
    h.push(1, Any::Again(Box::new(Any::Garbage), 0, 0)); // stands at offset 2
    h.push(0, Any::Mark("replayed", 0));
    h.push(0, Any::Letter("orders.placed", 1, 2)); // at offset 4
    h.push(0, Any::Mark("discarded", 4));
    h
}

fn spoilt(mut h: History, spoil: impl FnOnce(&mut History)) -> Report {
    spoil(&mut h);
    let report = h.report(Phase::Settled);
    let backwards = h.report_in_order(Phase::Settled, &mut |topics| topics - 1);
    assert_eq!(broken(&report), broken(&backwards), "topic by topic, the last first\n{backwards}");
    report
}

#[test]
fn letters_that_were_put_back_or_let_go_are_understood() {
    let report = spoilt(with_a_letter_put_back(), |_| {});
    assert!(report.holds(), "{report}");
    assert_eq!(report.dead_letters.get("intake"), Some(&2), "marks are no letters");
}

#[test]
fn a_letter_that_was_put_back_in_part_twice_or_as_another_is_found() {
    type Spoil = fn(&mut History);
    let spoils: [(&str, Spoil); 8] = [
        ("marked, but not back", |h| remove(h, |r| matches!(r, Any::Again(..)))),
        ("back, but not marked", |h| remove(h, |r| matches!(r, Any::Mark("replayed", _)))),
        ("back twice", |h| h.push(1, Any::Again(Box::new(Any::Garbage), 0, 0))),
        ("marked twice", |h| h.push(0, Any::Mark("discarded", 0))),
        ("with other bytes", |h| {
            change(h, |r| match r {
                Any::Again(record, ..) => {
                    **record = Any::Placed(placed("garbage", &[("a1", 1)]));
                    true
                }
                _ => false,
            });
        }),
        ("elsewhere", |h| {
            h.records.iter_mut().filter(|(_, r)| matches!(r, Any::Again(..))).for_each(|(partition, _)| *partition = 3);
        }),
        ("from no letter", |h| h.push(1, Any::Again(Box::new(Any::Garbage), 0, 99))),
        ("failed again, and no letter says so", |h| remove(h, |r| matches!(r, Any::Letter(_, 1, 2)))),
    ];
    for (what, spoil) in spoils {
        let report = spoilt(with_a_letter_put_back(), spoil);
        assert_eq!(broken(&report), [Promise::P9], "{what}: {report}");
    }
}

#[test]
fn an_order_that_was_put_back_must_be_decided() {
    let with = |decided: bool| {
        let mut h = clean();
        let late = placed("late", &[("z", 1)]);
        h.push(2, Any::Placed(late.clone()));
        h.push(0, Any::LetterOf(Box::new(Any::Placed(late.clone())), 2, 0)); // at offset 2
        h.push(2, Any::Again(Box::new(Any::Placed(late.clone())), 0, 2));
        h.push(0, Any::Mark("replayed", 2));
        if decided {
            h.reject(&late, RejectReason::UnknownSku);
        }
        h
    };
    for (decided, promises) in [(true, [].as_slice()), (false, &[Promise::P1])] {
        let report = spoilt(with(decided), |_| {});
        assert_eq!(broken(&report), promises, "{report}");
        assert_eq!(report.orders.duplicates, 1, "it is one order, placed once");
    }
}

#[test]
fn a_balance_whose_predecessors_were_compacted_away_is_told_from_a_torn_step() {
    const DAY: i64 = 86_400_000;
    let first_of = |h: &History, sku: &str| {
        h.records.iter().position(|(_, r)| matches!(r, Any::Level(level) if level.sku == sku)).unwrap()
    };
    let offset_of = |h: &History, at: usize| {
        let (partition, _) = h.records[at];
        let before = h.records[..at].iter().filter(|(p, r)| *p == partition && matches!(r, Any::Level(_))).count();
        (topics::STOCK_LEVELS, partition, 2 * i64::try_from(before).unwrap())
    };
    // Of b1 the opening is compacted away and a receipt remains; everything else is younger than the lag.
    let compacted = || {
        let mut h = History::default();
        h.compact_after(30 * DAY);
        h.adjust("open-b1", "b1", AdjustmentKind::Opening, 1);
        h.adjust("more-b1", "b1", AdjustmentKind::Receipt, 5);
        let opening = first_of(&h, "b1");
        h.records.remove(opening);
        h.adjust("open-a1", "a1", AdjustmentKind::Opening, 10);
        h.completed("whole", &[("a1", 2)]);
        let newest = h.records.iter().rposition(|(_, r)| matches!(r, Any::Level(_))).unwrap();
        let newest = offset_of(&h, newest);
        h.times.insert(newest, 1 + 31 * DAY);
        h
    };
    let report = spoilt(compacted(), |_| {});
    assert!(report.holds(), "{report}");
    assert_eq!(report.stock.on_hand, 6 + 8);
    let found = |what: &str, spoil: fn(&mut History)| {
        let report = spoilt(compacted(), spoil);
        assert!(broken(&report).contains(&Promise::P5), "{what}: {report}");
    };
    found("nobody said that the topic is compacted", |h| h.compaction_lag_ms = None);
    found("too young to be compacted", |h| h.times.clear());
    found("behind a balance that is still there", |h| {
        remove(h, |r| matches!(r, Any::Level(level) if level.sku == "a1" && level.version == 2));
    });
    found("behind a SKU that came twice", |h| {
        h.adjust("open-a9", "a9", AdjustmentKind::Opening, 1);
        h.adjust("more-a9", "a9", AdjustmentKind::Receipt, 1);
        remove(h, |r| matches!(r, Any::Level(level) if level.sku == "a9" && level.version == 1));
    });
}

#[test]
fn the_report_reads_well_and_survives_json() {
    let mut h = clean();
    remove(&mut h, |r| matches!(r, Any::Level(level) if level.cause == LevelCause::Shipped));
    let report = h.report(Phase::Settled);
    let text = report.to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.contains("P1 holds") && text.contains("P5 BROKEN"), "{text}");
    let json = serde_json::to_string(&report).expect("serializes");
    assert_eq!(serde_json::from_str::<Report>(&json).expect("deserializes"), report);
}

#[test]
fn examples_are_bounded() {
    let mut h = clean();
    for n in 0..50 {
        h.push(0, Any::Placed(placed(&format!("lost-{n}"), &[("a1", 1)])));
    }
    let report = h.report(Phase::Settled);
    let verdict = report.verdict(Promise::P1);
    assert_eq!((verdict.violations, verdict.examples.len()), (50, millrace_audit::finding::EXAMPLES));
}

#[test]
fn settled_means_decided_and_final() {
    let h = clean();
    let mut pick = |_: usize| 0;
    assert!(h.audit_in_order(&mut pick).settled());
    let mut undecided = h.clone();
    undecided.push(0, Any::Placed(placed("late", &[("a1", 1)])));
    assert!(!undecided.audit_in_order(&mut pick).settled());
    let mut unpaid = h.clone();
    remove(&mut unpaid, |r| matches!(r, Any::Payment(e) if e.state == PaymentState::Captured && e.order_id == "whole"));
    assert!(!unpaid.audit_in_order(&mut pick).settled());
    let mut lettered = h.clone();
    lettered.push(0, Any::Placed(placed("garbage", &[("a1", 1)])));
    let offset =
        2 * lettered.records.iter().filter(|(p, r)| *p == 0 && r.topic() == "orders.placed").count() as i64 - 2;
    lettered.push(0, Any::Letter("orders.placed", 0, offset));
    assert!(lettered.audit_in_order(&mut pick).settled());
    assert!(lettered.report(Phase::Settled).holds());
    assert!(Audit::new(Codec::offline()).settled());
}

#[test]
fn while_running_an_open_order_names_its_wait() {
    let mut h = clean();
    h.provider.clear();
    h.accept("open", &[("a1", 1)]);
    h.reserving("open");
    let report = h.report(Phase::Running);
    assert!(report.holds(), "{report}");
    assert!(!h.audit_in_order(&mut |_| 0).breaks_a_promise());
    assert_eq!(report.orders.open.get("STOCK"), Some(&1));
    assert_eq!(broken(&h.report(Phase::Settled)), [Promise::P1]);
    change(&mut h, |r| match r {
        Any::Order(e) if e.order_id == "open" => {
            e.until = None;
            true
        }
        _ => false,
    });
    assert_eq!(broken(&h.report(Phase::Running)), [Promise::P1]);
    assert!(h.audit_in_order(&mut |_| 0).breaks_a_promise());
}

#[test]
fn an_order_under_a_wrong_key_is_excused_by_its_dead_letter() {
    let codec = Codec::offline();
    let mut value = Vec::new();
    codec.encode(topics::ORDERS_PLACED, &placed("misfiled", &[("a1", 1)]), &mut value);
    let headers = [("millrace.topic", "orders.placed"), ("millrace.partition", "0"), ("millrace.offset", "3")]
        .map(|(name, value)| (name.into(), value.as_bytes().to_vec()));
    for letter_first in [false, true] {
        let mut audit = Audit::new(codec.clone());
        for letter in [letter_first, !letter_first] {
            let record = Record { offset: 3, timestamp: 1, key: b"another", value: Some(&value), headers: &[] };
            if letter {
                audit.record("dead-letters.intake", 0, &Record { offset: 0, headers: &headers, ..record });
            } else {
                audit.record(topics::ORDERS_PLACED, 0, &record);
            }
        }
        assert!(audit.settled());
        let report = audit.report(Phase::Settled);
        assert!(report.holds(), "{report}");
    }
}

// ---- P1

#[test]
fn p1_an_order_that_nobody_decides() {
    breaks_only(Promise::P1, |h| remove(h, |r| matches!(r, Any::Rejected(x) if x.order_id == "nobody")));
}

#[test]
fn p1_an_order_accepted_and_rejected() {
    breaks_only(Promise::P1, |h| {
        let order = placed("regret", &[("a1", 1)]);
        h.reject(&order, RejectReason::SoldOut);
    });
}

#[test]
fn p1_an_accepted_order_that_never_ends() {
    breaks_only(Promise::P1, |h| remove(h, |r| matches!(r, Any::Order(e) if e.status == OrderStatus::Cancelled)));
}

// ---- P2

#[test]
fn p2_captured_twice() {
    breaks_only(Promise::P2, |h| h.payment("whole", PaymentEventKind::Captured, PaymentState::Captured, |_| {}));
}

#[test]
fn p2_an_authorization_left_open() {
    breaks_only(Promise::P2, |h| {
        remove(h, |r| matches!(r, Any::Payment(e) if e.order_id == "regret" && e.state == PaymentState::Voided));
        h.provider.retain(|entry| entry.order_id != "regret");
        h.provider.push(millrace_audit::ProviderEntry {
            order_id: "regret".to_owned(),
            currency: "GBP".to_owned(),
            authorized_minor: 102,
            captured_minor: 0,
            voided_minor: 0,
            refunded_minor: 0,
            authorizations: 1,
            captures: 0,
            live: 1,
        });
    });
}

#[test]
fn p2_captured_more_than_shipped() {
    breaks_only(Promise::P2, |h| {
        change(h, |r| match r {
            Any::Payment(e) if e.order_id == "split" && e.state == PaymentState::Captured => {
                (e.captured_minor, e.voided_minor) = (e.authorized_minor, 0);
                true
            }
            _ => false,
        });
        let entry = h.provider.iter_mut().find(|entry| entry.order_id == "split").expect("split was paid");
        (entry.captured_minor, entry.voided_minor) = (entry.authorized_minor, 0);
    });
}

#[test]
fn p2_the_provider_says_otherwise() {
    breaks_only(Promise::P2, |h| h.provider[0].captures = 2);
    breaks_only(Promise::P2, |h| h.provider[0].authorized_minor += 1);
    breaks_only(Promise::P2, |h| {
        h.provider.remove(0);
    });
    breaks_only(Promise::P2, |h| h.provider[2].live = 2);
}

// ---- P3

#[test]
fn p3_granted_what_is_not_there() {
    breaks_only(Promise::P3, |h| h.completed("greedy", &[("b1", 2)]));
}

#[test]
fn p3_a_closed_order_keeps_its_reservation() {
    breaks_only(Promise::P3, |h| {
        h.accept("kept", &[("a1", 1)]);
        h.reserving("kept");
        h.stock("kept", StockCommandKind::Reserve, "", &[("a1", 1)]);
        h.void("kept");
        h.cancelled("kept", CancelReason::Timeout);
    });
}

#[test]
fn an_order_cancelled_before_it_was_known_may_still_turn_up() {
    let mut h = clean();
    h.cancel_request("late");
    let unknown = |event: &mut OrderEvent| (event.total, event.payment) = (None, PaymentState::Unknown);
    h.order("late", OrderEventKind::CancelRequested, OrderStatus::AwaitingOrder, unknown);
    h.order("late", OrderEventKind::Cancelled, OrderStatus::Cancelled, unknown);
    h.accept("late", &[("a1", 1)]);
    h.void("late");
    let known = |event: &mut OrderEvent| event.total = Some(Money { minor: 1, currency: "GBP".to_owned() });
    h.order("late", OrderEventKind::Noted, OrderStatus::AwaitingPayment, known);
    h.cancelled("late", CancelReason::Customer);
    for pick in [0, usize::MAX] {
        let report = h.report_in_order(Phase::Settled, &mut |_| pick);
        assert!(report.holds(), "{report}");
    }
}

#[test]
fn p3_a_balance_that_does_not_add_up() {
    breaks_only(Promise::P3, |h| {
        change(h, |r| match r {
            Any::Level(level) if level.cause == LevelCause::Reserved => {
                level.on_hand += 1;
                true
            }
            _ => false,
        });
    });
}

#[test]
fn p3_stock_from_nowhere() {
    breaks_only(Promise::P3, |h| {
        h.level("a1", "gift", |level| (level.received, level.cause) = (level.received + 7, LevelCause::Receipt));
    });
    breaks_only(Promise::P3, |h| {
        change(h, |r| match r {
            Any::Adjustment(a) if a.adjustment_id == "c1" => {
                a.quantity = 17;
                true
            }
            _ => false,
        });
    });
}

#[test]
fn a_write_off_below_what_is_reserved_is_no_oversell() {
    let mut h = clean();
    h.accept("late", &[("b22", 5)]);
    h.reserving("late");
    h.stock("late", StockCommandKind::Reserve, "", &[("b22", 5)]);
    h.adjust("w2", "b22", AdjustmentKind::WriteOff, 13);
    h.stock("late", StockCommandKind::Release, "", &[("b22", 5)]);
    h.void("late");
    h.cancelled("late", CancelReason::NeverShipped);
    let report = h.report(Phase::Settled);
    assert!(report.holds(), "{report}");
}

// ---- P4

#[test]
fn p4_accepted_twice() {
    breaks_only(Promise::P4, |h| {
        let again = h.records.iter().find(|(_, r)| matches!(r, Any::Accepted(_))).expect("one is").clone();
        h.records.push(again);
    });
}

#[test]
fn p4_another_body_that_is_not_refused() {
    let conflict = |r: &Any| matches!(r, Any::Rejected(x) if x.reason == RejectReason::ConflictingDuplicate);
    breaks_only(Promise::P4, |h| remove(h, conflict));
}

#[test]
fn p4_a_repeated_submit_refused_as_another_body() {
    breaks_only(Promise::P4, |h| {
        h.reject(&placed("whole", &[("a1", 2), ("a2", 1)]), RejectReason::ConflictingDuplicate);
    });
}

// ---- P5

#[test]
fn p5_an_answer_without_its_balances() {
    breaks_only(Promise::P5, |h| {
        h.stock_command("whole", 1, StockCommandKind::Ship, "9", &[("b1", 1)]);
        h.accept("half", &[("a1", 1)]);
        h.reserving("half");
        h.stock_command("half", 0, StockCommandKind::Reserve, "", &[("a1", 1)]);
        h.stock_event("half", 0, StockEventKind::Reserved, "", &[("a1", 1)]);
        h.confirm("half", &[0]);
        h.ship("half", "1", OrderStatus::Shipped);
        h.stock_command("half", 0, StockCommandKind::Ship, "1", &[("a1", 1)]);
        h.stock_event("half", 0, StockEventKind::Shipped, "1", &[("a1", 1)]);
        h.capture("half", 102);
        h.order("half", OrderEventKind::Completed, OrderStatus::Completed, |_| {});
        remove(h, |r| matches!(r, Any::StockCommand(c) if c.order_id == "whole" && c.command_id == "9"));
    });
}

#[test]
fn p5_a_balance_is_missing() {
    breaks_only(Promise::P5, |h| {
        let gone = |r: &Any| matches!(r, Any::Level(l) if l.cause == LevelCause::Reserved && l.cause_id == "split");
        remove(h, gone);
    });
}

#[test]
fn p5_an_event_is_missing() {
    breaks_only(Promise::P5, |h| {
        remove(h, |r| matches!(r, Any::Order(e) if e.order_id == "split" && e.status == OrderStatus::PartiallyShipped));
    });
    breaks_only(Promise::P5, |h| {
        remove(h, |r| matches!(r, Any::Payment(e) if e.kind == PaymentEventKind::CaptureRequested));
    });
}

#[test]
fn p5_an_acceptance_of_what_nobody_placed() {
    breaks_only(Promise::P5, |h| remove(h, |r| matches!(r, Any::Placed(p) if p.order_id == "regret")));
}

#[test]
fn p5_a_capture_that_nobody_commanded() {
    let capture = |r: &Any| matches!(r, Any::PaymentCommand(c) if c.kind == PaymentCommandKind::Capture);
    breaks_only(Promise::P5, |h| remove(h, capture));
}

#[test]
fn p5_confirmed_with_a_group_not_granted() {
    breaks_only(Promise::P5, |h| {
        change(h, |r| match r {
            Any::Order(e) if e.kind == OrderEventKind::Confirmed && e.order_id == "split" => {
                e.groups[1].state = GroupState::Requested;
                true
            }
            _ => false,
        });
    });
    breaks_only(Promise::P5, |h| {
        change(h, |r| match r {
            Any::Order(e) if e.kind == OrderEventKind::Confirmed && e.order_id == "split" => e.groups.pop().is_some(),
            _ => false,
        });
    });
}

// ---- P8

#[test]
fn p8_versions_that_go_back() {
    breaks_only(Promise::P8, |h| {
        let again = h.records.iter().rev().find(|(_, r)| matches!(r, Any::Order(_))).expect("one is").clone();
        h.records.push(again);
    });
    breaks_only(Promise::P8, |h| {
        let again = h.records.iter().rev().find(|(_, r)| matches!(r, Any::Payment(_))).expect("one is").clone();
        h.records.push(again);
    });
    breaks_only(Promise::P8, |h| {
        let again = h.records.iter().rev().find(|(_, r)| matches!(r, Any::Level(_))).expect("one is").clone();
        h.records.push(again);
    });
}

#[test]
fn p8_a_move_that_is_not_allowed() {
    breaks_only(Promise::P8, |h| {
        h.order("regret", OrderEventKind::Noted, OrderStatus::Reserving, |_| {});
        h.cancelled("regret", CancelReason::Customer);
    });
    breaks_only(Promise::P8, |h| {
        h.payment("regret", PaymentEventKind::CaptureRequested, PaymentState::Capturing, |_| {});
        h.payment("regret", PaymentEventKind::Voided, PaymentState::Voided, |_| {});
    });
}

// ---- P9

#[test]
fn p9_an_unreadable_record_that_vanishes() {
    breaks_only(Promise::P9, |h| remove(h, |r| matches!(r, Any::Letter(..))));
}

#[test]
fn p9_a_dead_letter_of_nothing() {
    breaks_only(Promise::P9, |h| h.push(0, Any::Letter("orders.placed", 1, 17)));
    breaks_only(Promise::P9, |h| h.push(0, Any::Letter("orders.placed", 7, 0)));
    breaks_only(Promise::P9, |h| h.push(0, Any::Letter("no.such.topic", 0, 0)));
}

#[test]
fn p9_the_same_dead_letter_twice() {
    breaks_only(Promise::P9, |h| h.push(0, Any::Letter("orders.placed", 1, 0)));
}

#[test]
fn p9_an_adjustment_without_effect() {
    breaks_only(Promise::P9, |h| {
        h.adjust("r9", "a1", AdjustmentKind::Receipt, 5);
        remove(h, |r| matches!(r, Any::Level(level) if level.cause_id == "r9"));
    });
}

#[test]
fn p9_commands_and_requests_without_answer() {
    breaks_only(Promise::P9, |h| h.stock_command("regret", 1, StockCommandKind::Reserve, "", &[("b1", 1)]));
    breaks_only(Promise::P9, |h| h.cancel_request("whole"));
}
