//! The shop as Millrace is to see it: a catalog, opening stock, and what happened, in order of time.

use std::collections::HashMap;
use std::io::Read;
use std::str::FromStr;

use millrace_schemas::{AdjustmentKind, CancelRequested, Money, OrderLine, OrderPlaced, Product, StockAdjustment};
use sha2::{Digest, Sha256};

use crate::invoices::{Invoice, Invoices, Kind, Line, ReadError, Sku, read};
use crate::mapping::Mapping;

/// Units that never run out; the opening stock of each SKU where stock is unlimited, and of services always.
pub const UNLIMITED_UNITS: i64 = 1_000_000_000;

const CURRENCY: &str = "GBP";
const PAYMENT_METHOD: &str = "tok_visa";
const CHANNEL: &str = "online-retail";

/// How much stock there is to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// [`UNLIMITED_UNITS`] of each SKU: nothing sells out.
    Unlimited,
    /// This many millionths of the units that the selected orders want of each SKU, rounded up.
    Millionths(u32),
}

impl FromStr for Stock {
    type Err = String;

    /// `unlimited`, or a fraction such as `0.8`, at most 1000, up to six decimals.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let number = format!("{whole}{part:0<6}").parse::<u32>();
        match number {
            Ok(millionths)
                if digits(whole)
                    && digits(part)
                    && part.len() <= 6
                    && !text.is_empty()
                    && millionths <= 1_000_000_000 =>
            {
                Ok(Self::Millionths(millionths))
            }
            _ => Err(format!("{text:?} is neither `unlimited` nor a fraction such as 0.8")),
        }
    }
}

/// What of the file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Only so many orders, the earliest; `None` for all.
    pub orders: Option<usize>,
    /// The opening stock.
    pub stock: Stock,
}

/// Something that happened in the shop.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplayEvent {
    /// For `orders.placed`.
    Placed(OrderPlaced),
    /// For `orders.cancel-requested`.
    CancelRequested(CancelRequested),
    /// For `stock.adjustments`.
    WrittenOff(StockAdjustment),
}

impl ReplayEvent {
    /// When it happened, ms since 1970 UTC.
    #[must_use]
    pub fn at(&self) -> i64 {
        match self {
            Self::Placed(order) => order.placed_at,
            Self::CancelRequested(request) => request.at,
            Self::WrittenOff(adjustment) => adjustment.at,
        }
    }

    /// The same at another time: the deadlines of an order that was placed years ago would be over at once.
    #[must_use]
    pub fn moved_to(mut self, at: i64) -> Self {
        match &mut self {
            Self::Placed(order) => order.placed_at = at,
            Self::CancelRequested(request) => request.at = at,
            Self::WrittenOff(adjustment) => adjustment.at = at,
        }
        self
    }
}

struct Order {
    number: String,
    at: i64,
    customer: String,
    lines: Vec<(u32, i32)>,
}

#[derive(Clone, Copy)]
enum Happened {
    Placed(usize),
    Cancelled { order: usize, invoice: usize },
    WrittenOff { invoice: usize },
}

/// The shop, read and selected.
pub struct Shop {
    catalog: Vec<Product>,
    opening: Vec<StockAdjustment>,
    mapping: Mapping,
    skus: Vec<Sku>,
    prices: Vec<i64>,
    orders: Vec<Order>,
    documents: Vec<Invoice>,
    happened: Vec<Happened>,
}

impl Shop {
    /// Reads the whole compressed file, once, and keeps what is selected.
    ///
    /// # Errors
    /// Where the file is broken or is not the one expected.
    pub fn read(compressed: impl Read, selection: Selection) -> Result<Self, ReadError> {
        let Invoices { invoices, skus, lines } = read(compressed)?;
        let mut mapping = Mapping { lines_read: lines, invoices: invoices.len() as u64, ..Mapping::default() };
        let mut orders: Vec<Order> = Vec::new();
        let mut frequency: HashMap<(u32, i64), u32> = HashMap::new();
        let mut documents: Vec<Invoice> = Vec::new();
        for invoice in invoices {
            match invoice.kind {
                Kind::Numeric if worth(&invoice) > 0 => {
                    let kept = keep(&invoice, &skus, &mut mapping);
                    for line in &kept {
                        *frequency.entry((line.sku, pence(line.mills))).or_default() += 1;
                    }
                    orders.push(Order {
                        number: invoice.number,
                        at: invoice.at,
                        customer: invoice.customer,
                        lines: kept.iter().map(|line| (line.sku, line.quantity)).collect(),
                    });
                }
                Kind::Numeric if !is_write_off(&invoice) => mapping.worthless_invoices += 1,
                Kind::Numeric | Kind::Cancellation => documents.push(invoice),
                Kind::Other => mapping.other_invoices += 1,
            }
        }
        let prices = catalog_prices(&frequency, skus.len());
        let mut shop = Self {
            catalog: Vec::new(),
            opening: Vec::new(),
            mapping,
            skus,
            prices,
            orders,
            documents,
            happened: Vec::new(),
        };
        let selected = selection.orders.unwrap_or(shop.orders.len()).min(shop.orders.len());
        shop.select(selected, selection.stock)?;
        Ok(shop)
    }

    /// Every product ever sold, one price each, ascending by SKU.
    #[must_use]
    pub fn catalog(&self) -> &[Product] {
        &self.catalog
    }

    /// The opening stock of every SKU that the selected orders want, ascending by SKU.
    #[must_use]
    pub fn opening_stock(&self) -> &[StockAdjustment] {
        &self.opening
    }

    /// What became of every line.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What happened, in order of time; of one moment, in the order of the file, orders first.
    pub fn events(&self) -> impl ExactSizeIterator<Item = ReplayEvent> + '_ {
        self.happened.iter().map(|happened| match *happened {
            Happened::Placed(order) => ReplayEvent::Placed(self.placed(&self.orders[order])),
            Happened::Cancelled { order, invoice } => {
                let invoice = &self.documents[invoice];
                ReplayEvent::CancelRequested(CancelRequested {
                    order_id: order_id(&self.orders[order].number),
                    request_id: invoice.number.clone(),
                    reason: "the customer returned the whole order".to_owned(),
                    requested_by: invoice.customer.clone(),
                    at: invoice.at,
                })
            }
            Happened::WrittenOff { invoice } => {
                let invoice = &self.documents[invoice];
                let units = invoice.lines.iter().map(|line| -i64::from(line.quantity)).sum();
                ReplayEvent::WrittenOff(StockAdjustment {
                    adjustment_id: format!("write-off-{}", invoice.number),
                    sku: self.skus[invoice.lines[0].sku as usize].code.clone(),
                    kind: AdjustmentKind::WriteOff,
                    quantity: units,
                    reason: "written off by the shop".to_owned(),
                    at: invoice.at,
                })
            }
        })
    }

    fn placed(&self, order: &Order) -> OrderPlaced {
        let line = |&(sku, quantity): &(u32, i32)| OrderLine { sku: self.skus[sku as usize].code.clone(), quantity };
        OrderPlaced {
            order_id: order_id(&order.number),
            customer_id: match order.customer.as_str() {
                "" => format!("guest-{}", order.number),
                known => known.to_owned(),
            },
            currency: CURRENCY.to_owned(),
            lines: order.lines.iter().map(line).collect(),
            payment_method: PAYMENT_METHOD.to_owned(),
            expected_total: self.cost(order).map(|minor| Money { minor, currency: CURRENCY.to_owned() }),
            channel: CHANNEL.to_owned(),
            placed_at: order.at,
        }
    }

    /// What the order costs by the catalog, in pence.
    fn cost(&self, order: &Order) -> Option<i64> {
        order.lines.iter().try_fold(0i64, |sum, &(sku, quantity)| {
            sum.checked_add(self.prices[sku as usize].checked_mul(i64::from(quantity))?)
        })
    }

    fn select(&mut self, selected: usize, stock: Stock) -> Result<(), ReadError> {
        let begin = self.orders.first().map_or(0, |order| order.at);
        let mut demand = vec![0i64; self.skus.len()];
        let mut happened: Vec<(i64, Happened)> = Vec::new();
        for (at, order) in self.orders[..selected].iter().enumerate() {
            let cost = self.cost(order).and_then(|cost| self.mapping.pence_selected.checked_add(cost));
            self.mapping.pence_selected = cost.ok_or(ReadError::TooMuch)?;
            self.mapping.lines_selected += order.lines.len() as u64;
            for &(sku, quantity) in &order.lines {
                demand[sku as usize] += i64::from(quantity);
            }
            happened.push((order.at, Happened::Placed(at)));
        }
        self.mapping.orders_selected = selected as u64;
        self.mapping.units_selected = demand.iter().map(|units| units.unsigned_abs()).sum();
        let last = self.orders[..selected].last().map_or(i64::MIN, |order| order.at);
        for (order, invoice) in self.match_cancellations(selected) {
            happened.push((self.documents[invoice].at, Happened::Cancelled { order, invoice }));
        }
        for (at, invoice) in self.documents.iter().enumerate().filter(|(_, invoice)| invoice.kind == Kind::Numeric) {
            let stocked = demand[invoice.lines[0].sku as usize] > 0;
            if stock == Stock::Unlimited && stocked && invoice.at <= last {
                self.mapping.write_offs += 1;
                happened.push((invoice.at, Happened::WrittenOff { invoice: at }));
            } else {
                self.mapping.write_offs_left_out += 1;
            }
        }
        happened.sort_by_key(|(at, _)| *at); // stable: of one moment, orders first
        self.happened = happened.into_iter().map(|(_, happened)| happened).collect();

        let mut by_code: Vec<usize> = (0..self.skus.len()).filter(|sku| self.prices[*sku] > 0).collect();
        by_code.sort_by(|a, b| self.skus[*a].code.cmp(&self.skus[*b].code));
        for at in by_code {
            let sku = &self.skus[at];
            self.catalog.push(Product {
                sku: sku.code.clone(),
                description: sku.description.clone(),
                unit_price: Money { minor: self.prices[at], currency: CURRENCY.to_owned() },
                active: true,
                at: begin,
            });
            if demand[at] == 0 {
                continue;
            }
            let units = match stock {
                Stock::Millionths(millionths) if !sku.is_service() => {
                    let units = (i128::from(demand[at]) * i128::from(millionths)).div_euclid(1_000_000);
                    let rest = (i128::from(demand[at]) * i128::from(millionths)).rem_euclid(1_000_000);
                    i64::try_from(units + i128::from(rest > 0)).map_err(|_| ReadError::TooMuch)?
                }
                _ => UNLIMITED_UNITS,
            };
            self.opening.push(StockAdjustment {
                adjustment_id: format!("opening-{}", sku.code),
                sku: sku.code.clone(),
                kind: AdjustmentKind::Opening,
                quantity: units,
                reason: "opening stock of the replay".to_owned(),
                at: begin,
            });
        }
        self.mapping.products = self.catalog.len() as u64;
        Ok(())
    }

    /// Which selected order each cancellation takes back whole: order and document. Counts the others.
    fn match_cancellations(&mut self, selected: usize) -> Vec<(usize, usize)> {
        let mut by_customer: HashMap<&str, Vec<(usize, Units)>> = HashMap::new();
        for (at, order) in self.orders.iter().enumerate().filter(|(_, order)| !order.customer.is_empty()) {
            let units = added_up(order.lines.iter().map(|&(sku, quantity)| (sku, i64::from(quantity))));
            by_customer.entry(&order.customer).or_default().push((at, units));
        }
        let mut taken = vec![false; self.orders.len()];
        let mut found = Vec::new();
        let counts = &mut self.mapping.cancellations;
        let none = Vec::new();
        for (document, invoice) in self.documents.iter().enumerate().filter(|(_, d)| d.kind == Kind::Cancellation) {
            if invoice.customer.is_empty() {
                counts.without_customer += 1;
                continue;
            }
            let goods = invoice.lines.iter().any(|line| is_goods(line, &self.skus));
            let lines = invoice.lines.iter().filter(|line| line.mills > 0 && goods == is_goods(line, &self.skus));
            let wanted = added_up(lines.map(|line| (line.sku, -i64::from(line.quantity))));
            let theirs = by_customer.get(invoice.customer.as_str()).unwrap_or(&none);
            let mut earlier = theirs.iter().rev().filter(|(order, _)| self.orders[*order].at <= invoice.at);
            match earlier.clone().find(|(order, units)| !taken[*order] && *units == wanted) {
                Some((order, _)) => {
                    taken[*order] = true;
                    if *order < selected {
                        counts.requested += 1;
                        found.push((*order, document));
                    } else {
                        counts.of_unselected_orders += 1;
                    }
                }
                None if earlier.any(|(_, units)| covers(units, &wanted)) => counts.of_part += 1,
                None => counts.of_nothing += 1,
            }
        }
        found
    }
}

/// The id of the order with this invoice number: a UUID (version 8) made of its SHA-256, the same in every run.
#[must_use]
pub fn order_id(invoice: &str) -> String {
    let digest = Sha256::digest(format!("{CHANNEL}/{invoice}"));
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().hyphenated().to_string()
}

/// In thousandths of a pound.
fn worth(invoice: &Invoice) -> i128 {
    invoice.lines.iter().map(|line| i128::from(line.mills) * i128::from(line.quantity)).sum()
}

/// Units of one SKU taken off the shelf for nothing.
fn is_write_off(invoice: &Invoice) -> bool {
    let first = invoice.lines[0].sku;
    invoice.lines.iter().all(|line| line.sku == first && line.quantity < 0 && line.mills == 0)
}

fn is_goods(line: &Line, skus: &[Sku]) -> bool {
    line.mills > 0 && !skus[line.sku as usize].is_service()
}

/// Half rounded up; what costs anything costs a penny.
fn pence(mills: i64) -> i64 {
    ((mills + 5) / 10).max(1)
}

/// The lines of a true order that become order lines.
fn keep(invoice: &Invoice, skus: &[Sku], mapping: &mut Mapping) -> Vec<Line> {
    mapping.orders += 1;
    mapping.order_lines += invoice.lines.len() as u64;
    mapping.longest_order = mapping.longest_order.max(invoice.lines.len() as u64);
    let goods = invoice.lines.iter().any(|line| line.quantity > 0 && is_goods(line, skus));
    mapping.service_orders += u64::from(!goods);
    let mut kept = Vec::with_capacity(invoice.lines.len());
    for line in &invoice.lines {
        if line.quantity <= 0 {
            mapping.order_lines_left_out.no_units += 1;
        } else if line.mills <= 0 {
            mapping.order_lines_left_out.no_price += 1;
        } else if goods && skus[line.sku as usize].is_service() {
            mapping.order_lines_left_out.service += 1;
        } else {
            kept.push(*line);
        }
    }
    mapping.order_lines_kept += kept.len() as u64;
    kept
}

/// The most frequent price of each SKU in pence, the lower of two; 0 for what was never sold.
fn catalog_prices(frequency: &HashMap<(u32, i64), u32>, skus: usize) -> Vec<i64> {
    let mut best = vec![(0u32, 0i64); skus];
    for (&(sku, price), &count) in frequency {
        let known = &mut best[sku as usize];
        if count > known.0 || (count == known.0 && price < known.1) {
            *known = (count, price);
        }
    }
    best.into_iter().map(|(_, price)| price).collect()
}

/// Units per SKU, ascending.
type Units = Vec<(u32, i64)>;

fn added_up(lines: impl Iterator<Item = (u32, i64)>) -> Units {
    let mut units: Units = lines.collect();
    units.sort_unstable_by_key(|(sku, _)| *sku);
    units.dedup_by(|next, sum| {
        let same = next.0 == sum.0;
        if same {
            sum.1 += next.1;
        }
        same
    });
    units
}

/// Whether an order has at least these units.
fn covers(units: &[(u32, i64)], wanted: &[(u32, i64)]) -> bool {
    !wanted.is_empty()
        && wanted.iter().all(|(sku, wanted)| {
            units.binary_search_by_key(sku, |(sku, _)| *sku).is_ok_and(|at| units[at].1 >= *wanted)
        })
}
