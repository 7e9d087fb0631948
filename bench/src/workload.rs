//! The orders: from a seed, always the same ones. 3 lines on average, SKUs by Zipf's law, some records sent twice; or the
//! real ones. Owns what is in an order and which one it is; never when it is sent.

use millrace_schemas::{AdjustmentKind, Money, OrderLine, OrderPlaced, Product, StockAdjustment};
use serde::{Deserialize, Serialize};

use crate::real::{self, Real};

pub(crate) const CURRENCY: &str = "GBP";

/// What kind of orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) seed: u64,
    /// SKUs in the catalog.
    pub(crate) skus: usize,
    /// Exponent of Zipf's law.
    pub(crate) zipf: f64,
    /// Share of orders whose record is sent a second time.
    pub(crate) repeated: f64,
    /// Share of orders whose card is declined.
    pub(crate) declined: f64,
    /// Units of each SKU there are in the beginning.
    pub(crate) stock: i64,
    /// So many units of the most wanted SKU instead, and every order is for one of it and nothing else.
    pub(crate) hot: Option<i64>,
    pub(crate) customers: u64,
    /// The real orders, their products and customers instead; of the above, only seed and repetitions count.
    #[serde(default)]
    pub(crate) real: bool,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            seed: 1,
            skus: 10_000,
            zipf: 1.0,
            repeated: 0.05,
            declined: 0.0,
            stock: 1_000_000_000,
            hot: None,
            customers: 100_000,
            real: false,
        }
    }
}

/// Chances of 1, 2, .. lines; 3 on average.
const LINES: [f64; 8] = [0.25, 0.25, 0.18, 0.12, 0.09, 0.06, 0.03, 0.02];

/// A stream of orders.
pub(crate) struct Orders {
    workload: Workload,
    random: Random,
    /// Sums of the SKUs' weights, for Zipf.
    sums: Vec<f64>,
    next: u32,
    run: u16,
    real: Option<&'static Real>,
}

/// What to send next.
pub(crate) struct Next {
    /// Which order it is, from 0.
    pub(crate) number: u32,
    pub(crate) order: OrderPlaced,
    /// Its record is to be sent twice.
    pub(crate) twice: bool,
}

impl Orders {
    /// The stream of a run; the run is a part of the ids, so that runs never share one.
    pub(crate) fn new(workload: &Workload, run: u16) -> anyhow::Result<Self> {
        let real = if workload.real { Some(real::shop()?) } else { None };
        let mut sum = 0.0;
        let sums = (1..=workload.skus).map(|rank| {
            sum += (rank as f64).powf(-workload.zipf);
            sum
        });
        let seed = workload.seed ^ (u64::from(run) << 32);
        let sums = sums.collect();
        Ok(Self { sums, random: Random(seed), next: 0, run, real, workload: workload.clone() })
    }

    /// The next order, placed at this time.
    pub(crate) fn next(&mut self, placed_at: i64) -> Next {
        let number = self.next;
        self.next += 1;
        let order = match self.real.and_then(|real| real.orders.get(number as usize % real.orders.len())) {
            Some(order) => OrderPlaced { order_id: order_id(self.run, number), placed_at, ..order.clone() },
            None => self.invented(number, placed_at),
        };
        Next { number, order, twice: self.random.share() < self.workload.repeated }
    }

    fn invented(&mut self, number: u32, placed_at: i64) -> OrderPlaced {
        let lines = if self.workload.hot.is_some() {
            vec![OrderLine { sku: sku(0), quantity: 1 }]
        } else {
            (0..self.lines())
                .map(|_| OrderLine { sku: self.sku(), quantity: 1 + self.random.below(3) as i32 })
                .collect()
        };
        let token = if self.random.share() < self.workload.declined { "tok_declined" } else { "tok_visa" };
        OrderPlaced {
            order_id: order_id(self.run, number),
            customer_id: format!("c-{:06}", self.random.below(self.workload.customers)),
            currency: CURRENCY.to_owned(),
            lines,
            payment_method: token.to_owned(),
            expected_total: None,
            channel: "web".to_owned(),
            placed_at,
        }
    }

    /// The time until the next order, in mean gaps: arrivals are independent of each other.
    pub(crate) fn gap(&mut self) -> f64 {
        -(1.0 - self.random.share()).ln()
    }

    fn lines(&mut self) -> usize {
        let mut left = self.random.share();
        let beyond = LINES.iter().position(|chance| {
            left -= chance;
            left < 0.0
        });
        beyond.unwrap_or(LINES.len() - 1) + 1
    }

    fn sku(&mut self) -> String {
        let total = self.sums.last().copied().unwrap_or(1.0);
        let wanted = self.random.share() * total;
        sku(self.sums.partition_point(|sum| *sum < wanted).min(self.workload.skus - 1))
    }
}

/// The catalog and the stock it opens with.
pub(crate) fn shop(workload: &Workload, at: i64) -> anyhow::Result<Vec<(Product, StockAdjustment)>> {
    if workload.real {
        let real = real::shop()?;
        return Ok(real.catalog.iter().cloned().zip(real.opening.iter().cloned()).collect());
    }
    let invented = (0..workload.skus).map(|number| {
        let units = workload.hot.filter(|_| number == 0).unwrap_or(workload.stock);
        let unit_price = Money { minor: 100 + (number as i64 * 37) % 9_900, currency: CURRENCY.to_owned() };
        let product =
            Product { sku: sku(number), description: format!("thing {number}"), unit_price, active: true, at };
        let opening = StockAdjustment {
            adjustment_id: "opening".to_owned(),
            sku: sku(number),
            kind: AdjustmentKind::Opening,
            quantity: units,
            reason: "opening".to_owned(),
            at,
        };
        (product, opening)
    });
    Ok(invented.collect())
}

/// The SKU of this number; the smaller, the more wanted.
pub(crate) fn sku(number: usize) -> String {
    format!("sku-{number:05}")
}

/// As long as the ids of orders over HTTP, and [`number_of`] can be read from it.
pub(crate) fn order_id(run: u16, number: u32) -> String {
    let mixed = Random((u64::from(run) << 32) | u64::from(number)).next() >> 16;
    format!("{number:08x}-{run:04x}-8000-8000-{mixed:012x}")
}

/// Which order of this run an id is of.
pub(crate) fn number_of(run: u16, id: &[u8]) -> Option<u32> {
    let hex = |bytes: &[u8]| u32::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok();
    (id.len() == 36 && hex(&id[9..13])? == u32::from(run)).then(|| hex(&id[..8])).flatten()
}

/// SplitMix64: small, fast, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_orders_again() {
        let take = |seed| {
            let workload = Workload { seed, ..Workload::default() };
            let mut orders = Orders::new(&workload, 7).unwrap();
            (0..100).map(|_| orders.next(1).order).collect::<Vec<_>>()
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn orders_have_three_lines_on_average_and_popular_skus() {
        let mut orders = Orders::new(&Workload::default(), 1).unwrap();
        let taken: Vec<Next> = (0..20_000).map(|_| orders.next(1)).collect();
        let lines: usize = taken.iter().map(|next| next.order.lines.len()).sum();
        assert!((2.9..3.1).contains(&(lines as f64 / 20_000.0)), "{lines}");
        let twice = taken.iter().filter(|next| next.twice).count();
        assert!((900..1_100).contains(&twice), "{twice}");
        // By Zipf's law the first of 10,000 has a share of 1/9.79.
        let first = taken.iter().flat_map(|next| &next.order.lines).filter(|line| line.sku == sku(0)).count();
        assert!((0.09..0.115).contains(&(first as f64 / lines as f64)), "{first} of {lines}");
    }

    #[test]
    fn real_orders_have_their_lines_and_ids_of_the_harness() {
        let workload = Workload { real: true, ..Workload::default() };
        let shop = shop(&workload, 1).unwrap();
        assert!(shop.iter().all(|(product, opening)| product.sku == opening.sku && opening.quantity > 1_000_000));
        let known: std::collections::HashSet<&str> = shop.iter().map(|(product, _)| product.sku.as_str()).collect();
        let mut orders = Orders::new(&workload, 5).unwrap();
        let taken: Vec<Next> = (0..20_000).map(|_| orders.next(9)).collect();
        for (number, next) in taken.iter().enumerate() {
            assert_eq!(number_of(5, next.order.order_id.as_bytes()), Some(number as u32));
            assert!(next.order.lines.iter().all(|line| known.contains(line.sku.as_str())), "{:?}", next.order);
        }
        // The file has 19,959 of them; then they begin again.
        assert_eq!(taken[19_959].order.lines, taken[0].order.lines);
        assert_ne!(taken[19_959].order.order_id, taken[0].order.order_id);
    }

    #[test]
    fn arrivals_have_the_mean_gap() {
        let mut orders = Orders::new(&Workload::default(), 1).unwrap();
        let sum: f64 = (0..50_000).map(|_| orders.gap()).sum();
        assert!((0.98..1.02).contains(&(sum / 50_000.0)));
    }

    #[test]
    fn an_id_tells_its_number_and_its_run() {
        for number in [0, 1, 0xabcd, u32::MAX] {
            let id = order_id(0x12, number);
            assert_eq!(id.len(), 36);
            assert_eq!(number_of(0x12, id.as_bytes()), Some(number));
            assert_eq!(number_of(0x13, id.as_bytes()), None);
        }
        assert_eq!(number_of(1, b"something else"), None);
    }
}
