//! The verdict and every number are the same, whichever way the topics are read.

mod history;

use history::{Any, clean};
use millrace_audit::Phase;
use millrace_schemas::{OrderStatus, PaymentState};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_clean_history_holds_in_any_order(picks in prop::collection::vec(0usize..12, 1..64)) {
        let h = clean();
        let expected = h.report(Phase::Settled);
        let mut next = picks.iter().cycle();
        let mixed = h.audit_in_order(&mut |topics| next.next().map_or(0, |pick| pick % topics));
        prop_assert!(mixed.settled());
        let report = mixed.report(Phase::Settled);
        prop_assert!(report.holds(), "{}", report);
        prop_assert_eq!(report, expected);
    }

    /// Every record matters: without any one of them something is found, in whatever order the rest is read.
    #[test]
    fn a_lost_record_is_found_in_any_order(
        lost in 0usize..1000,
        picks in prop::collection::vec(0usize..12, 1..64),
    ) {
        let mut h = clean();
        // A repetition may be lost unnoticed; so may what the topics alone do not prove.
        let matters = |record: &Any| match record {
            Any::Placed(order) => order.order_id != "whole",
            Any::Stock(event) => event.order_id != "split" || !event.command_id.is_empty(),
            Any::StockCommand(command) => command.order_id != "split" || !command.command_id.is_empty(),
            Any::Shipment(_) | Any::Cancel(_) | Any::Garbage => false,
            _ => true,
        };
        let candidates: Vec<usize> =
            h.records.iter().enumerate().filter(|(_, (_, r))| matters(r)).map(|(at, _)| at).collect();
        let (_, gone) = h.records.remove(candidates[lost % candidates.len()]);
        let mut next = picks.iter().cycle();
        let audit = h.audit_in_order(&mut |topics| next.next().map_or(0, |pick| pick % topics));
        prop_assert!(!audit.report(Phase::Settled).holds(), "nobody missed {:?}", gone);
        if matches!(&gone, Any::Order(e) if e.status == OrderStatus::Cancelled)
            || matches!(&gone, Any::Payment(e) if e.state == PaymentState::Voided)
        {
            prop_assert!(!audit.settled());
        }
    }
}
