//! A simulated warehouse and carrier: what is confirmed ships, what has shipped is delivered. Decides from records
//! alone; reads no topic and writes none. The same records give the same updates under the same ids, so reading them
//! again does no harm.

use std::collections::{HashMap, VecDeque};

use millrace_schemas::{
    OrderAccepted, OrderEvent, OrderEventKind, OrderStatus, ShipmentUpdate, ShipmentUpdateKind, StockLine,
};
use sha2::{Digest, Sha256};

/// How well the warehouse works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of a thousand orders, so many ship in two parts (those of one line ship whole).
    pub split_per_mille: u32,
    /// Of a thousand orders, so many come out short of their last line (those of one line ship whole).
    pub short_per_mille: u32,
    /// At most so many orders to be split or short are remembered until they are confirmed; of more, the oldest ship
    /// whole.
    pub remembered_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { split_per_mille: 20, short_per_mille: 5, remembered_max: 100_000 }
    }
}

/// How an order leaves the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Whole,
    Split,
    Short,
}

/// What is known of an order that does not ship whole.
enum Known {
    Lines(Vec<StockLine>),
    /// Confirmed at this time, its lines not known yet.
    Confirmed(i64),
}

/// The warehouse. Remembers only the lines of orders that it will split or come out short of.
pub struct Warehouse {
    settings: Settings,
    known: HashMap<String, Known>,
    /// The same orders, the oldest first; those that are done stand here until they are the oldest.
    oldest: VecDeque<String>,
}

impl Warehouse {
    /// An empty house.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, known: HashMap::new(), oldest: VecDeque::new() }
    }

    /// An order was accepted: its lines are known. Answers with updates only where the order was confirmed before.
    pub fn on_accepted(&mut self, accepted: &OrderAccepted) -> Vec<ShipmentUpdate> {
        let id = &accepted.order_id;
        if self.manner(id) == Manner::Whole {
            return Vec::new();
        }
        let lines: Vec<StockLine> =
            accepted.lines.iter().map(|line| StockLine { sku: line.sku.clone(), quantity: line.quantity }).collect();
        match self.known.remove(id) {
            Some(Known::Confirmed(at)) => in_parts(id, self.manner(id), &lines, at),
            _ => self.remember(id, Known::Lines(lines)),
        }
    }

    /// What the house does about an order: ships it once it is confirmed, delivers it once all has shipped.
    pub fn on_order_event(&mut self, event: &OrderEvent) -> Vec<ShipmentUpdate> {
        let id = &event.order_id;
        if event.kind == OrderEventKind::Confirmed {
            let manner = self.manner(id);
            if manner == Manner::Whole {
                return whole(id, event.at);
            }
            return match self.known.remove(id) {
                Some(Known::Lines(lines)) => in_parts(id, manner, &lines, event.at),
                _ => self.remember(id, Known::Confirmed(event.at)),
            };
        }
        let all_left = event.kind == OrderEventKind::Shipped && event.status == OrderStatus::Shipped;
        if all_left && !event.delivered {
            return vec![update(id, "delivered", ShipmentUpdateKind::Delivered, Vec::new(), event.at)];
        }
        if matches!(event.status, OrderStatus::Cancelled | OrderStatus::Cancelling) {
            self.known.remove(id);
        }
        Vec::new()
    }

    /// How many orders are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.known.len()
    }

    /// Keeps an order; what must give way ships whole when it is confirmed, at once if it is.
    fn remember(&mut self, id: &str, known: Known) -> Vec<ShipmentUpdate> {
        if self.known.insert(id.to_owned(), known).is_none() {
            self.oldest.push_back(id.to_owned());
        }
        let mut updates = Vec::new();
        while self.known.len() > self.settings.remembered_max {
            let Some(oldest) = self.oldest.pop_front() else { break };
            if let Some(Known::Confirmed(at)) = self.known.remove(&oldest) {
                updates.extend(whole(&oldest, at));
            }
        }
        if self.oldest.len() > 2 * self.known.len() + 16 {
            self.oldest.retain(|id| self.known.contains_key(id));
        }
        updates
    }

    /// Drawn from the id alone, so that it is the same in every run.
    fn manner(&self, id: &str) -> Manner {
        let digest = Sha256::digest(format!("warehouse/{id}"));
        let draw = (u32::from(digest[0]) << 16 | u32::from(digest[1]) << 8 | u32::from(digest[2])) % 1000;
        if draw < self.settings.split_per_mille {
            Manner::Split
        } else if draw < self.settings.split_per_mille + self.settings.short_per_mille {
            Manner::Short
        } else {
            Manner::Whole
        }
    }
}

fn whole(id: &str, at: i64) -> Vec<ShipmentUpdate> {
    vec![update(id, "1", ShipmentUpdateKind::Shipped, Vec::new(), at)]
}

/// An order of one line has no parts. Without lines an update means all that is still to be shipped.
fn in_parts(id: &str, manner: Manner, lines: &[StockLine], at: i64) -> Vec<ShipmentUpdate> {
    match manner {
        _ if lines.len() < 2 => whole(id, at),
        Manner::Whole => whole(id, at),
        Manner::Split => vec![
            update(id, "1", ShipmentUpdateKind::Shipped, lines[..lines.len() / 2].to_vec(), at),
            update(id, "2", ShipmentUpdateKind::Shipped, Vec::new(), at),
        ],
        Manner::Short => vec![
            update(id, "short", ShipmentUpdateKind::Short, lines[lines.len() - 1..].to_vec(), at),
            update(id, "1", ShipmentUpdateKind::Shipped, Vec::new(), at),
        ],
    }
}

fn update(id: &str, name: &str, kind: ShipmentUpdateKind, lines: Vec<StockLine>, at: i64) -> ShipmentUpdate {
    ShipmentUpdate { order_id: id.to_owned(), shipment_id: format!("{id}/{name}"), kind, lines, at }
}
