//! An order's lines: grouped by the partition that owns their SKU, and how much of each has been shipped. Pure
//! arithmetic, linear in the lines; never decides what follows.

use millrace_schemas::{Money, OrderAccepted, PricedLine, ShippedLine, StockLine, murmur2_partition};

/// What fulfillment needs of an accepted order.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// Whose order it is.
    pub customer_id: String,
    /// What it costs.
    pub total: Money,
    /// Its lines: ascending by SKU, each SKU once, every quantity above zero. Or why there are none such.
    pub lines: Result<Vec<PricedLine>, String>,
}

/// What intake said of an order, as far as it was read and matters.
#[derive(Clone, Debug, PartialEq)]
pub enum Intake {
    /// Nothing was read, or it does not matter.
    Silent,
    /// It is an order.
    Accepted(Accepted),
    /// It is none and never will be.
    Rejected,
}

impl Intake {
    /// The accepted order.
    #[must_use]
    pub fn accepted(self) -> Option<Accepted> {
        match self {
            Self::Accepted(accepted) => Some(accepted),
            Self::Silent | Self::Rejected => None,
        }
    }
}

impl From<OrderAccepted> for Accepted {
    fn from(order: OrderAccepted) -> Self {
        Self { customer_id: order.customer_id, total: order.total, lines: added_up(order.lines) }
    }
}

/// The lines with each SKU once, ascending. Intake writes them so; then nothing is moved.
fn added_up(mut lines: Vec<PricedLine>) -> Result<Vec<PricedLine>, String> {
    if lines.is_empty() {
        return Err("it has no lines".to_owned());
    }
    if let Some(line) = lines.iter().find(|line| line.quantity <= 0) {
        return Err(format!("it wants {} of {}", line.quantity, line.sku));
    }
    if lines.windows(2).all(|pair| pair[0].sku < pair[1].sku) {
        return Ok(lines);
    }
    lines.sort_by(|a, b| a.sku.cmp(&b.sku));
    let mut sums: Vec<PricedLine> = Vec::with_capacity(lines.len());
    for line in lines {
        match sums.last_mut().filter(|last| last.sku == line.sku) {
            Some(sum) => {
                let too_many = || format!("the quantities of {} overflow", line.sku);
                sum.quantity = sum.quantity.checked_add(line.quantity).ok_or_else(too_many)?;
                sum.line_total_minor = sum.line_total_minor.checked_add(line.line_total_minor).ok_or_else(too_many)?;
            }
            None => sums.push(line),
        }
    }
    Ok(sums)
}

/// The lines of each stock partition, by its number; partitions without lines are empty. Ascending by SKU.
#[must_use]
pub fn by_partition(lines: Vec<PricedLine>, partitions: i32) -> Vec<Vec<StockLine>> {
    let mut groups: Vec<Vec<StockLine>> = Vec::new();
    groups.resize_with(usize::try_from(partitions).unwrap_or_default(), Vec::new);
    for PricedLine { sku, quantity, .. } in lines {
        let place = owner(&sku, partitions);
        groups[place].push(StockLine { sku, quantity });
    }
    groups
}

fn owner(sku: &str, partitions: i32) -> usize {
    usize::try_from(murmur2_partition(sku.as_bytes(), partitions)).unwrap_or_default()
}

/// What the warehouse said of some lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// They left the house.
    Shipped,
    /// They never will.
    Short,
}

/// Where a group stands after the warehouse's word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupProgress {
    /// What of it left the house just now, ascending by SKU.
    pub leaving: Vec<StockLine>,
    /// Something of it can still be shipped.
    pub open: bool,
    /// Something of it never will be.
    pub short: bool,
}

/// Where an order's lines stand after the warehouse's word.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Lines with something shipped or short, ascending by SKU.
    pub lines: Vec<ShippedLine>,
    /// By stock partition.
    pub groups: Vec<GroupProgress>,
    /// What the lines that left just now cost, minor units.
    pub value_minor: i64,
}

/// Takes the warehouse's word of some lines into account. No lines means: everything that can still be shipped.
///
/// # Errors
/// What is wrong with the word: it names lines that the order has not, or more of them than are left.
pub fn after_word(
    lines: &[PricedLine],
    before: &[ShippedLine],
    word: Word,
    named: &[StockLine],
    partitions: i32,
) -> Result<Progress, String> {
    let named = if named.is_empty() { None } else { Some(named_once(named)?) };
    let mut named_left = named.as_deref().unwrap_or_default().iter().peekable();
    let mut before = before.iter().peekable();
    let mut groups = Vec::new();
    groups.resize_with(usize::try_from(partitions).unwrap_or_default(), GroupProgress::default);
    let mut progress = Progress { lines: Vec::with_capacity(lines.len()), groups, value_minor: 0 };
    for line in lines {
        let known = before.next_if(|known| known.sku == line.sku);
        let (shipped, short) = known.map_or((0, 0), |known| (known.shipped, known.short));
        let left = line.quantity - shipped - short;
        let units = match &named {
            None => left,
            Some(_) => named_left.next_if(|(sku, _)| *sku == line.sku).map_or(0, |(_, units)| *units),
        };
        if units > left {
            return Err(format!("it names {units} of {}, but of {} only {left} are left", line.sku, line.quantity));
        }
        let group = &mut progress.groups[owner(&line.sku, partitions)];
        let (shipped, short) = match word {
            Word::Shipped if units > 0 => {
                group.leaving.push(StockLine { sku: line.sku.clone(), quantity: units });
                let value =
                    value_of(line, shipped, units).ok_or_else(|| format!("the value of {} overflows", line.sku))?;
                let sum = progress.value_minor.checked_add(value);
                progress.value_minor = sum.ok_or_else(|| "its value overflows".to_owned())?;
                (shipped + units, short)
            }
            Word::Shipped => (shipped, short),
            Word::Short => (shipped, short + units),
        };
        group.open |= units < left;
        group.short |= short > 0;
        if shipped > 0 || short > 0 {
            progress.lines.push(ShippedLine { sku: line.sku.clone(), shipped, short });
        }
    }
    match named_left.next() {
        Some((sku, _)) => Err(format!("it names {sku}, which is not in the order")),
        None => Ok(progress),
    }
}

/// The last units of a line bring it to its total, so that a whole order adds up to what was authorized.
fn value_of(line: &PricedLine, shipped: i32, units: i32) -> Option<i64> {
    let before = line.unit_price_minor.checked_mul(i64::from(shipped))?;
    if shipped + units == line.quantity {
        line.line_total_minor.checked_sub(before)
    } else {
        line.unit_price_minor.checked_mul(i64::from(units))
    }
}

/// The named lines ascending, each SKU once.
fn named_once(named: &[StockLine]) -> Result<Vec<(&str, i32)>, String> {
    if let Some(line) = named.iter().find(|line| line.quantity <= 0) {
        return Err(format!("it names {} of {}", line.quantity, line.sku));
    }
    let mut lines: Vec<(&str, i32)> = named.iter().map(|line| (line.sku.as_str(), line.quantity)).collect();
    lines.sort_unstable();
    let mut sums: Vec<(&str, i32)> = Vec::with_capacity(lines.len());
    for (sku, units) in lines {
        match sums.last_mut().filter(|last| last.0 == sku) {
            Some(sum) => sum.1 = sum.1.checked_add(units).ok_or_else(|| format!("the quantities of {sku} overflow"))?,
            None => sums.push((sku, units)),
        }
    }
    Ok(sums)
}
