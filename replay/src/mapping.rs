//! What became of every line of the file, counted.

use serde::Serialize;

/// Everything that was read, and what became of it. Counts of invoices and lines are of the whole file, whatever was
/// selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// Lines in the file, the header excepted.
    pub lines_read: u64,
    /// Distinct invoice numbers.
    pub invoices: u64,
    /// Numeric invoices worth more than 0: the true orders.
    pub orders: u64,
    /// Their lines, before any is left out.
    pub order_lines: u64,
    /// Lines of the longest, before any is left out.
    pub longest_order: u64,
    /// Lines of true orders that became order lines.
    pub order_lines_kept: u64,
    /// Lines of true orders that did not.
    pub order_lines_left_out: LinesLeftOut,
    /// Orders of services only; kept, with their service lines.
    pub service_orders: u64,
    /// Products in the catalog.
    pub products: u64,
    /// Orders selected for replay.
    pub orders_selected: u64,
    /// Their lines.
    pub lines_selected: u64,
    /// Their units.
    pub units_selected: u64,
    /// What they cost by the catalog, in pence.
    pub pence_selected: i64,
    /// Cancellation invoices.
    pub cancellations: Cancellations,
    /// Write-offs that become adjustments.
    pub write_offs: u64,
    /// Write-offs left out: stock is limited, the SKU is not stocked, or they come after the last order selected.
    pub write_offs_left_out: u64,
    /// Other numeric invoices worth 0.
    pub worthless_invoices: u64,
    /// Bad-debt adjustments and whatever else has no numeric number.
    pub other_invoices: u64,
}

/// Lines of true orders left out, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinesLeftOut {
    /// Postage, fees, vouchers and the like, on an order that has goods.
    pub service: u64,
    /// Price 0 or less.
    pub no_price: u64,
    /// Units 0 or less.
    pub no_units: u64,
}

/// Cancellation invoices, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cancellations {
    /// They take back a whole order that is selected: cancel requests.
    pub requested: u64,
    /// They take back a whole order that is not selected.
    pub of_unselected_orders: u64,
    /// They take back a part of one earlier order.
    pub of_part: u64,
    /// No earlier order of that customer has all of it.
    pub of_nothing: u64,
    /// Nobody knows whose they are.
    pub without_customer: u64,
}
