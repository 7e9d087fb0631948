//! Turns real shop data into a catalog, opening stock and orders, and plays the warehouse they need. Pure over readers:
//! it opens no file, knows no clock and no broker.
//!
//! The data are the invoice lines of a British gift-ware shop (`bench/data/README.md`). How they map:
//!
//! | in the file | becomes |
//! |---|---|
//! | numeric invoice worth more than 0 | one [`OrderPlaced`](millrace_schemas::OrderPlaced), at the time of its first line; lines are gathered by number, wherever they stand |
//! | its lines | order lines, as they are: the same code twice stays twice |
//! | a line with a service code (not five digits first, nor `DCGS`), or without a price | left out and counted |
//! | an invoice of nothing but services (and worthless lines) | an order of its priced service lines, so that every true order is placed |
//! | StockCode | the SKU, in upper case: 112 codes repeat another but for case |
//! | UnitPrice | pence, half rounded up, at least 1 for a price above 0 |
//! | the most frequent price of a SKU over the lines kept, the lower of two | its one catalog price; an order's `expected_total` is what its lines cost by the catalog, not what was paid then |
//! | CustomerID | the customer, or `guest-<invoice>` |
//! | `C` invoice | a cancel request where it takes back one whole order: same customer, exactly the order's SKUs and units (after the same lines are left out), an earlier order, the latest such, not cancelled yet; else left out and counted |
//! | numeric one-sided invoice of negative units at price 0 | a write-off, where stock is unlimited and the SKU is stocked; else left out and counted |
//! | every other invoice (worth 0, bad debt) | left out and counted |
//!
//! Catalog and matching are drawn from the whole file, so the first 100 orders are the same whether or not more follow.
//! The file has no zone, payment, stock or shipment: times are read as UTC, every order pays by `tok_visa`, opening
//! stock follows from [`Stock`], and [`warehouse`] ships.

#![forbid(unsafe_code)]

mod invoices;
mod mapping;
pub mod shop;
pub mod warehouse;

pub use invoices::ReadError;
pub use mapping::{Cancellations, LinesLeftOut, Mapping};
pub use shop::{ReplayEvent, Selection, Shop, Stock, order_id};
pub use warehouse::{Settings, Warehouse};
