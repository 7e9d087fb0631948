//! What numbers say: percentiles, whether a line grows, whether windows agree, ratios of pairs with their interval. Pure;
//! never knows what was measured.

use serde::{Deserialize, Serialize};

/// Latencies of one window, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Of microseconds, in any order.
    pub(crate) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| percentile(&micros, share) as f64 / 1_000.0;
        Self { count: micros.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// The smallest value that at least this share of all values (ascending) does not exceed; 0 where there are none.
pub(crate) fn percentile(ascending: &[u64], share: f64) -> u64 {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1).min(ascending.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// The slope of the least-squares line through the points; 0 where there is none.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    if points.len() < 2 {
        return 0.0;
    }
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let over = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>();
    let under = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    if under == 0.0 { 0.0 } else { over / under }
}

/// Whether the last `windows` values lie within `share` of their mean.
pub(crate) fn agree(values: &[f64], windows: usize, share: f64) -> bool {
    let Some(last) = values.len().checked_sub(windows).map(|from| &values[from..]) else { return false };
    let mean = last.iter().sum::<f64>() / last.len() as f64;
    mean > 0.0 && last.iter().all(|value| (value / mean - 1.0).abs() <= share)
}

/// The middle value; the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A ratio measured several times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) pairs: Vec<f64>,
    pub(crate) geometric_mean: f64,
    /// The 95 % interval of the geometric mean; none with fewer than two pairs.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Ratio {
    /// Of the pairs' ratios, by Student's t on their logarithms.
    pub(crate) fn of(pairs: Vec<f64>) -> Option<Self> {
        if pairs.is_empty() || pairs.iter().any(|ratio| !(ratio.is_finite() && *ratio > 0.0)) {
            return None;
        }
        let logs: Vec<f64> = pairs.iter().map(|ratio| ratio.ln()).collect();
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let interval = (logs.len() > 1).then(|| {
            let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
            let half = student_t95(logs.len() - 1) * (variance / n).sqrt();
            ((mean - half).exp(), (mean + half).exp())
        });
        Some(Self { geometric_mean: mean.exp(), interval, pairs })
    }
}

/// Two-sided 95 % quantile of Student's t with so many degrees of freedom (at least 1).
fn student_t95(degrees: usize) -> f64 {
    const TABLE: [f64; 20] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086,
    ];
    TABLE.get(degrees.saturating_sub(1)).copied().unwrap_or(1.96)
}

/// Which of two contenders a block is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side {
    A,
    B,
}

/// So many times A B B A: drifts of the machine that are steady cancel out, and blocks of one side that follow each
/// other are a control.
pub(crate) fn blocks(times: usize) -> Vec<Side> {
    [Side::A, Side::B, Side::B, Side::A].repeat(times)
}

/// The ratios A to B of the pairs of neighbours (first with second, third with fourth, and so on).
pub(crate) fn pair_ratios(blocks: &[(Side, f64)]) -> Vec<f64> {
    let of = |pair: &[(Side, f64)]| match pair {
        [(Side::A, a), (Side::B, b)] | [(Side::B, b), (Side::A, a)] => Some(a / b),
        _ => None,
    };
    blocks.chunks(2).filter_map(of).collect()
}

/// How far blocks of one side that follow each other differ: the largest ratio of the larger to the smaller, from 1;
/// none where no two follow each other. What the machine does to a ratio when nothing was changed.
pub(crate) fn control(blocks: &[(Side, f64)]) -> Option<f64> {
    let same = blocks.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    same.map(|pair| (pair[0].1 / pair[1].1).max(pair[1].1 / pair[0].1)).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&values, share)), [50, 99, 100]);
        assert_eq!((percentile(&[7], 0.01), percentile(&[], 0.5)), (7, 0));
    }

    #[test]
    fn a_line_that_grows_has_its_slope() {
        let line: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 3.0 + 2.0 * f64::from(x))).collect();
        assert!((slope(&line) - 2.0).abs() < 1e-12);
        assert_eq!((slope(&line[..1]), slope(&[(1.0, 2.0), (1.0, 5.0)])), (0.0, 0.0));
    }

    #[test]
    fn windows_agree_only_when_all_of_the_last_do() {
        assert!(agree(&[1.0, 100.0, 101.0, 99.0], 3, 0.03));
        assert!(!agree(&[100.0, 101.0, 90.0], 3, 0.03));
        assert!(!agree(&[100.0, 100.0], 3, 0.03), "there are not three yet");
        assert!(!agree(&[0.0, 0.0, 0.0], 3, 0.03), "nothing happens, so nothing has settled");
    }

    #[test]
    fn a_ratio_is_the_geometric_mean_of_its_pairs_with_its_interval() {
        let ratio = Ratio::of(vec![2.0, 8.0]).unwrap();
        assert!((ratio.geometric_mean - 4.0).abs() < 1e-12);
        let (low, high) = ratio.interval.unwrap();
        assert!(low < 4.0 && 4.0 < high && (low * high - 16.0).abs() < 1e-6, "{low} {high}");
        let ratio = Ratio::of(vec![5.0; 4]).unwrap();
        assert!(ratio.interval.is_some_and(|(low, high)| (low - 5.0).abs() < 1e-9 && (high - 5.0).abs() < 1e-9));
        assert_eq!(Ratio::of(vec![3.0]).unwrap().interval, None);
        assert_eq!((Ratio::of(vec![]), Ratio::of(vec![1.0, 0.0]), Ratio::of(vec![f64::NAN])), (None, None, None));
    }

    /// Against a value of Student's t worked out by hand: logs -1, 0, 1 have deviation 1, so the half width is
    /// 4.303 / sqrt(3).
    #[test]
    fn the_interval_is_students() {
        let ratio = Ratio::of(vec![(-1.0_f64).exp(), 1.0, 1.0_f64.exp()]).unwrap();
        let (_, high) = ratio.interval.unwrap();
        assert!((high.ln() - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_steady_drift_of_the_machine_cancels_out() {
        // The machine becomes slower by a factor each block; A is really twice as fast as B.
        let speed = |n: usize, side| if side == Side::A { 2.0 } else { 1.0 } * 0.9_f64.powi(n as i32);
        let measured: Vec<(Side, f64)> =
            blocks(2).into_iter().enumerate().map(|(n, side)| (side, speed(n, side))).collect();
        let ratio = Ratio::of(pair_ratios(&measured)).unwrap();
        assert!((ratio.geometric_mean - 2.0).abs() < 1e-9, "{ratio:?}");
        assert!((control(&measured).unwrap() - 1.0 / 0.9).abs() < 1e-9, "and the control shows it");
    }

    #[test]
    fn pairs_are_neighbours_and_controls_are_of_one_side() {
        let blocks = [(Side::A, 6.0), (Side::B, 2.0), (Side::B, 4.0), (Side::A, 8.0)];
        assert_eq!(pair_ratios(&blocks), [3.0, 2.0]);
        assert_eq!(control(&blocks), Some(2.0));
        assert_eq!(control(&blocks[..2]), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
        assert!(median(&[]).is_nan());
    }
}
