//! What a run came to, as it is stored: figures of blocks, ratios of pairs, and when they do not count. Owns the form of
//! the raw numbers; never measures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::machine::Machine;
use crate::session::{Audited, Setup, Window};
use crate::statistics::{Ratio, Side, control, median, pair_ratios};

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A figure of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

/// One contender, once, on fresh topics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Block {
    pub(crate) contender: String,
    pub(crate) side: Side,
    pub(crate) setup: Setup,
    pub(crate) figures: Vec<Figure>,
    /// Windows by what was done in them.
    pub(crate) windows: Vec<(String, Window)>,
    pub(crate) audited: Option<Audited>,
    /// Why its figures do not count.
    pub(crate) void: Vec<String>,
}

impl Block {
    pub(crate) fn new(contender: &Contender, side: Side, setup: &Setup) -> Self {
        Self {
            contender: contender.name.clone(),
            side,
            setup: setup.clone(),
            figures: Vec::new(),
            windows: Vec::new(),
            audited: None,
            void: Vec::new(),
        }
    }

    pub(crate) fn figure(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        self.figures.push(Figure { name: name.to_owned(), unit: unit.to_owned(), better, value });
    }

    /// Keeps a window; one whose sender was late voids the block.
    pub(crate) fn window(&mut self, what: &str, window: Window) {
        if window.is_void() {
            let late = window.sender_late.p99;
            self.void.push(format!("{what}: the sender was late by {late:.0} ms (p99)"));
        }
        if window.lost > 0 {
            self.void.push(format!("{what}: {} orders were never decided", window.lost));
        }
        self.windows.push((what.to_owned(), window));
    }

    /// Keeps the audit; one that is not clean voids the block.
    pub(crate) fn audited(&mut self, audited: Audited) {
        if !audited.is_clean() {
            self.void.push(format!("the audit does not hold: {audited:?}"));
        }
        self.audited = Some(audited);
    }
}

/// A figure of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) figure: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// Ours to theirs.
    pub(crate) ratio: Option<Ratio>,
    /// How far blocks of one side that follow each other differ.
    pub(crate) control: Option<f64>,
}

/// Past this the machine moves more than a comparison may rest on.
pub(crate) const CONTROL_MAX: f64 = 1.10;

/// A scenario against one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    pub(crate) title: String,
    pub(crate) ours: Contender,
    pub(crate) theirs: Contender,
    pub(crate) blocks: Vec<Block>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Why the comparison does not count.
    pub(crate) void: Vec<String>,
}

/// Everything of one run of the harness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) started: String,
    pub(crate) command: String,
    pub(crate) effort: String,
    pub(crate) machine: Machine,
    pub(crate) broker: Vec<String>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// The figures that both sides have, compared.
pub(crate) fn compare(blocks: &[Block]) -> Vec<Comparison> {
    let mut figures: Vec<&Figure> = Vec::new();
    for figure in blocks.iter().flat_map(|block| &block.figures) {
        if figures.iter().all(|known| known.name != figure.name) {
            figures.push(figure);
        }
    }
    figures.into_iter().filter_map(|figure| compared(blocks, figure)).collect()
}

fn compared(blocks: &[Block], figure: &Figure) -> Option<Comparison> {
    let mut values: Vec<(Side, f64)> = Vec::new();
    let mut sides: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
    for block in blocks {
        let found = block.figures.iter().find(|known| known.name == figure.name)?;
        values.push((block.side, found.value));
        sides.entry(block.side == Side::A).or_default().push(found.value);
    }
    Some(Comparison {
        figure: figure.name.clone(),
        unit: figure.unit.clone(),
        better: figure.better,
        ours: median(sides.get(&true)?),
        theirs: median(sides.get(&false)?),
        ratio: Ratio::of(pair_ratios(&values)),
        control: control(&values),
    })
}

/// Why a comparison does not count, all blocks together.
pub(crate) fn void(blocks: &[Block], comparisons: &[Comparison]) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        reasons.extend(block.void.iter().map(|why| format!("block {} ({}): {why}", number + 1, block.contender)));
    }
    // The first figure of a scenario is what it is about.
    if let Some((figure, stray)) = comparisons.first().and_then(|c| Some((&c.figure, c.control?)))
        && stray > CONTROL_MAX
    {
        reasons.push(format!(
            "{figure}: blocks of one contender differ by a factor of {stray:.2}, the machine is not quiet"
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(side: Side, value: f64) -> Block {
        let name = if side == Side::A { "millrace" } else { "relay" };
        let mut block = Block::new(&Contender::named(name).unwrap(), side, &Setup::default());
        block.figure("rate", "orders/s", Better::Higher, value);
        block
    }

    #[test]
    fn figures_of_both_sides_are_compared_by_pairs() {
        let blocks = [block(Side::A, 20.0), block(Side::B, 10.0), block(Side::B, 11.0), block(Side::A, 22.0)];
        let comparisons = compare(&blocks);
        let [rate] = comparisons.as_slice() else { panic!("{comparisons:?}") };
        assert_eq!((rate.ours, rate.theirs), (21.0, 10.5));
        assert_eq!(rate.ratio.as_ref().unwrap().pairs, [2.0, 2.0]);
        assert!(void(&blocks, &comparisons).is_empty() == (rate.control.unwrap() <= CONTROL_MAX));
    }

    #[test]
    fn a_machine_that_is_not_quiet_voids_the_comparison() {
        let blocks = [block(Side::A, 20.0), block(Side::B, 10.0), block(Side::B, 14.0), block(Side::A, 22.0)];
        let reasons = void(&blocks, &compare(&blocks));
        assert!(reasons.len() == 1 && reasons[0].contains("not quiet"), "{reasons:?}");
    }

    #[test]
    fn an_audit_that_does_not_hold_voids_the_comparison() {
        let clean = Audited {
            holds: true,
            decided_twice: 0,
            undecided: 0,
            placed: 1,
            accepted: 1,
            confirmed: 1,
            seconds: 1.0,
            findings: Vec::new(),
        };
        for (audited, counts) in [
            (clean.clone(), true),
            (Audited { holds: false, ..clean.clone() }, false),
            (Audited { decided_twice: 1, ..clean.clone() }, false),
            (Audited { undecided: 1, ..clean }, false),
        ] {
            let mut one = block(Side::A, 1.0);
            one.audited(audited);
            assert_eq!(void(&[one], &[]).is_empty(), counts);
        }
    }

    #[test]
    fn a_figure_that_one_side_lacks_is_not_compared() {
        let mut more = block(Side::A, 1.0);
        more.figure("only here", "", Better::Lower, 1.0);
        assert_eq!(compare(&[more, block(Side::B, 1.0)]).len(), 1);
    }
}
