//! A seed without one of its faults is the same seed: what was drawn for everything else does not change. Draws only;
//! runs nothing.

use std::collections::BTreeSet;

use super::*;
use crate::plan::{Faults, Options};
use crate::simulation::topology_of;

const SEEDS: u64 = 40;
/// Faults of what people write and ask: all of them must be among what these seeds draw.
const OF_THE_SHOP: [Fault; 13] = [
    Fault::PoisonRecord,
    Fault::OrderTwice,
    Fault::OrderConflict,
    Fault::Cancel,
    Fault::OldSchema,
    Fault::UnknownSchema,
    Fault::LargeOrder,
    Fault::Adjustment,
    Fault::ReleaseFirst,
    Fault::BackOffice,
    Fault::SubmitTwice,
    Fault::SubmitConflict,
    Fault::ShipmentFirst,
];

fn drawn(seed: u64, faults: Faults) -> (Plan, Shop) {
    let plan = Plan::draw(Options { faults, ..Options::of_seed(seed) });
    let (topology, _, codec) = topology_of(&plan);
    let shop = Shop::draw(&plan, &topology, &codec);
    (plan, shop)
}

/// What is written and asked, a line each; of what this fault makes another only that it is there.
fn lines(shop: &Shop, fault: Fault, made_another: &BTreeSet<String>) -> Vec<String> {
    let changes = matches!(fault, Fault::LargeOrder | Fault::OldSchema);
    let is_another = |key: &[u8]| changes && made_another.iter().any(|id| key.starts_with(id.as_bytes()));
    let outside = shop.outside.iter().filter(|outside| changes || outside.fault != Some(fault)).map(|outside| {
        if is_another(outside.key.as_deref().unwrap_or_default()) || (changes && outside.key.is_none()) {
            return format!("{} {:?} {:?}", outside.at, outside.to, outside.key);
        }
        format!("{outside:?}")
    });
    let submits = shop.submits.iter().filter(|submit| changes || submit.fault != Some(fault)).map(|submit| {
        let body = Some(&submit.body).filter(|_| !is_another(submit.order.as_bytes()));
        format!("{} {:?} {} {body:?}", submit.at, submit.key, submit.order)
    });
    outside.chain(submits).chain([format!("{:?}", shop.settings)]).collect()
}

#[test]
fn a_seed_without_a_fault_is_the_same_but_for_what_the_fault_adds() {
    let mut seen = BTreeSet::new();
    for seed in 1..=SEEDS {
        let (plan, shop) = drawn(seed, Faults::all());
        seen.extend(shop.outside.iter().filter_map(|outside| outside.fault));
        seen.extend(shop.submits.iter().filter_map(|submit| submit.fault));
        for fault in Fault::ALL {
            let (smaller_plan, smaller) = drawn(seed, Faults::all().without(fault));
            let mut rest = plan.clone();
            rest.options = smaller_plan.options;
            rest.misfortunes.retain(|misfortune| misfortune.fault != fault);
            assert_eq!(format!("{rest:?}"), format!("{smaller_plan:?}"), "the plan of seed {seed} without {fault:?}");

            let of_outside = shop.outside.iter().filter(|outside| outside.fault == Some(fault));
            let of_outside = of_outside.filter_map(|outside| String::from_utf8(outside.key.clone()?).ok());
            let of_submits = shop.submits.iter().filter(|submit| submit.fault == Some(fault));
            let made_another = of_outside.chain(of_submits.map(|submit| submit.order.clone())).collect();
            assert_eq!(
                lines(&shop, fault, &made_another),
                lines(&smaller, fault, &made_another),
                "the shop of seed {seed} without {fault:?}"
            );
        }
    }
    let missing: Vec<Fault> = OF_THE_SHOP.into_iter().filter(|fault| !seen.contains(fault)).collect();
    assert!(missing.is_empty(), "no seed drew {missing:?}");
}
