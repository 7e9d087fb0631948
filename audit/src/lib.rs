//! Recomputes from the topics alone what must be true of every order: a pure fold over records, no I/O, and nothing
//! shared with the processors it judges but the records themselves.
//!
//! Feed it every record of every topic, dead letters among them ([`Audit::record`]), and, where there is one, the
//! provider's own books ([`Audit::provider`]); then ask for the [`Report`]. Records of one topic-partition come in
//! order of their offsets; topics may come in any order, one after the other or mixed.
//!
//! It wants whole topics: a topic that was truncated reads as one with lost records. Of the balances it can be told after
//! which time their topic may have been compacted ([`Audit::levels_compact_after`]).
//!
//! Reading order: [`finding`] (the promises), `order` (what is remembered of an order), `judge` (what must be true of
//! it at its end), `ledger` (stock), `letters` (dead letters), `moves` (allowed status moves), [`report`].

#![forbid(unsafe_code)]

pub mod finding;
mod identity;
mod judge;
mod ledger;
mod letters;
mod moves;
mod order;
pub mod report;

use std::collections::{BTreeMap, HashMap};

use millrace_schemas::{
    AvroRecord, CancelRequested, Codec, OrderAccepted, OrderEvent, OrderPlaced, OrderRejected, PaymentCommand,
    PaymentEvent, ShipmentUpdate, StockAdjustment, StockCommand, StockEvent, StockLevel, topics,
};

pub use finding::{Offence, Place, Promise, Verdict};
pub use report::{MoneyTotals, OrderTotals, Report, StockTotals};

use finding::Findings;
use identity::{PassThrough, id_of};
use ledger::Ledger;
use letters::Letters;
use order::{Closed, Order};

/// Whether the pipeline has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every topic was read to its end and nothing moves any more: all that must be true at the end is judged.
    Settled,
    /// Orders are still on their way: judged is what must be true at any moment. What compares one topic with another
    /// waits for the end, since the topics were read up to different moments.
    Running,
}

/// What the payment service provider's own books say of one order, amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProviderEntry {
    /// The order.
    pub order_id: String,
    /// ISO 4217.
    pub currency: String,
    /// The sum of every authorization it ever granted for the order.
    pub authorized_minor: i64,
    /// The sum of all captures.
    pub captured_minor: i64,
    /// What was let go again: by voids, by expiry, or as the rest of a capture.
    pub voided_minor: i64,
    /// The sum of all refunds.
    pub refunded_minor: i64,
    /// How many authorizations it ever granted for the order.
    pub authorizations: u32,
    /// How many captures it made for the order.
    pub captures: u32,
    /// How many authorizations still hold money now, neither captured nor voided.
    pub live: u32,
}

/// A record as it stands in its partition.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its position.
    pub offset: i64,
    /// Its time, milliseconds since 1970 UTC.
    pub timestamp: i64,
    /// Its key; empty where it has none.
    pub key: &'a [u8],
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, name and bytes, in order.
    pub headers: letters::Headers<'a>,
}

enum Slot {
    Open(Box<Order>),
    Closed(Closed),
}

/// What stands beside the orders while one of them is being looked at.
pub(crate) struct Desk {
    pub(crate) findings: Findings,
    pub(crate) ledger: Ledger,
    pub(crate) letters: Letters,
    currencies: Vec<String>,
    pub(crate) money: Vec<MoneyTotals>,
    pub(crate) orders: OrderTotals,
}

impl Desk {
    /// The number of a currency; there are few.
    pub(crate) fn currency(&mut self, code: &str) -> u16 {
        let known = self.currencies.iter().position(|known| known == code);
        let at = known.unwrap_or_else(|| {
            self.currencies.push(code.to_owned());
            self.money.push(MoneyTotals::default());
            self.currencies.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    pub(crate) fn currency_name(&self, number: u16) -> &str {
        self.currencies.get(usize::from(number)).map_or("?", String::as_str)
    }
}

/// The independent auditor. Memory: a small struct per open order, about 60 bytes per closed and verified one, one
/// struct per SKU, adjustment and dead letter, and at most [`finding::EXAMPLES`] examples per promise.
pub struct Audit {
    codec: Codec,
    orders: HashMap<u128, Slot, PassThrough>,
    desk: Desk,
    records: BTreeMap<&'static str, u64>,
    pending: u64,
    provider_heard: bool,
    /// Time of the newest record.
    newest: i64,
    /// Orders placed under a key that is not their id, which intake gives to its dead letters.
    misfiled: HashMap<Place, String>,
}

impl Audit {
    /// Nothing read yet.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            orders: HashMap::default(),
            desk: Desk {
                findings: Findings::default(),
                ledger: Ledger::default(),
                letters: Letters::default(),
                currencies: Vec::new(),
                money: Vec::new(),
                orders: OrderTotals::default(),
            },
            records: BTreeMap::new(),
            pending: 0,
            provider_heard: false,
            newest: i64::MIN,
            misfiled: HashMap::new(),
        }
    }

    /// Says that balances older than this may be missing because their topic is compacted, milliseconds: its
    /// `min.compaction.lag.ms`. Without it a balance whose predecessor is missing is a torn step, whatever its age.
    #[must_use]
    pub fn levels_compact_after(mut self, lag_ms: Option<i64>) -> Self {
        self.desk.ledger.compaction_lag_ms = lag_ms;
        self
    }

    /// One record of any topic, or of `dead-letters.<processor>`, whose headers name the record it stands for. Topics it
    /// does not know and tombstones say nothing of an order and are passed over.
    pub fn record(&mut self, topic: &str, partition: i32, record: &Record<'_>) {
        let Record { offset, timestamp, key, value, headers } = *record;
        let Some(topic) = known_topic(topic) else {
            if topic.starts_with(letters::TOPIC_PREFIX) {
                self.dead_letter(topic, partition, record);
            }
            return;
        };
        let place = Place { topic, partition, offset };
        *self.records.entry(topic).or_default() += 1;
        self.newest = self.newest.max(timestamp);
        self.desk.letters.seen(place);
        let again = self.desk.letters.copy(place, key, value, headers, &mut self.desk.findings);
        let Some(value) = value else { return };
        // Our own processors tell a thing once: what was put back for one reader was told when it was first written.
        if again && OURS.contains(&topic) {
            return;
        }
        match topic {
            topics::ORDERS_PLACED => {
                if let Some(placed) = self.read::<OrderPlaced>(place, value) {
                    let lettered = self.desk.letters.has(place);
                    if placed.order_id.as_bytes() != key {
                        self.misfiled.insert(place, placed.order_id.clone());
                    }
                    let look = if again { Order::placed_again } else { Order::placed };
                    self.on(&placed.order_id, place, |order, desk| look(order, &placed, place, lettered, desk));
                }
            }
            topics::ORDERS_ACCEPTED => {
                if let Some(accepted) = self.read_ours::<OrderAccepted>(place, key, value, |r| &r.order_id) {
                    self.on(&accepted.order_id, place, |order, desk| order.accepted(&accepted, place, desk));
                }
            }
            topics::ORDERS_REJECTED => {
                if let Some(rejected) = self.read_ours::<OrderRejected>(place, key, value, |r| &r.order_id) {
                    self.on(&rejected.order_id, place, |order, desk| order.rejected(&rejected, place, desk));
                }
            }
            topics::PAYMENTS_COMMANDS => {
                if let Some(command) = self.read::<PaymentCommand>(place, value) {
                    self.on(&command.order_id, place, |order, _| order.payment_command(command.kind, place));
                }
            }
            topics::PAYMENTS_EVENTS => {
                if let Some(event) = self.read_ours::<PaymentEvent>(place, key, value, |r| &r.order_id) {
                    self.on(&event.order_id, place, |order, desk| order.payment_event(&event, place, desk));
                }
            }
            topics::STOCK_COMMANDS => {
                if let Some(command) = self.read::<StockCommand>(place, value) {
                    self.on(&command.order_id, place, |order, _| order.stock_command(&command, place));
                }
            }
            topics::STOCK_EVENTS => {
                if let Some(event) = self.read_ours::<StockEvent>(place, key, value, |r| &r.order_id) {
                    self.on(&event.order_id, place, |order, desk| order.stock_event(&event, place, desk));
                }
            }
            topics::STOCK_ADJUSTMENTS => {
                if let Some(adjustment) = self.read::<StockAdjustment>(place, value) {
                    self.desk.ledger.adjustment(&adjustment, place, &mut self.desk.findings);
                }
            }
            topics::STOCK_LEVELS => {
                if let Some(level) = self.read_ours::<StockLevel>(place, key, value, |r| &r.sku)
                    && let Some(moved) = self.desk.ledger.level(&level, place, timestamp, &mut self.desk.findings)
                {
                    self.on(&level.cause_id, place, |order, _| order.stock_moved(moved, place));
                }
            }
            topics::ORDERS_CANCEL_REQUESTED => {
                if let Some(request) = self.read::<CancelRequested>(place, value) {
                    self.on(&request.order_id, place, |order, _| order.cancel_requested(place));
                }
            }
            topics::SHIPMENTS_UPDATES => {
                if let Some(update) = self.read::<ShipmentUpdate>(place, value) {
                    self.on(&update.order_id, place, |order, _| order.shipment_heard());
                }
            }
            topics::ORDERS_EVENTS => {
                if let Some(event) = self.read_ours::<OrderEvent>(place, key, value, |r| &r.order_id) {
                    self.on(&event.order_id, place, |order, desk| order.order_event(&event, place, desk));
                }
            }
            _ => {}
        }
    }

    /// A letter or the mark of one. A letter's headers name the record it stands for: `millrace.topic`,
    /// `millrace.partition`, `millrace.offset`, as text.
    fn dead_letter(&mut self, topic: &str, partition: i32, record: &Record<'_>) {
        let Record { offset, key, value, headers, .. } = *record;
        let findings = &mut self.desk.findings;
        let Some(named) = self.desk.letters.letter(topic, partition, offset, (key, value), headers, findings) else {
            return;
        };
        if named.topic == topics::ORDERS_PLACED
            && let Some(id) = self.misfiled.get(&named).cloned().or_else(|| str::from_utf8(key).ok().map(str::to_owned))
            && self.orders.contains_key(&id_of(&id))
        {
            self.on(&id, named, |order, _| order.placed_was_lettered(named));
        }
    }

    /// What the provider's books say of one order. Given again, it replaces what was given before.
    pub fn provider(&mut self, entry: &ProviderEntry) {
        self.provider_heard = true;
        let place = Place { topic: "provider", partition: 0, offset: 0 };
        self.on(&entry.order_id, place, |order, desk| order.provider(entry, desk));
    }

    /// How many orders are known, and how many of them have not ended.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.orders.len() as u64, self.pending)
    }

    /// Whether every order that was placed is decided and every accepted one final, its payment too. Enough to stop
    /// waiting; then read every topic to its end before asking for the report.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.pending == 0
    }

    /// How many orders are not yet decided or not yet final.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Whether a promise is broken that must hold at any moment: whether a report of [`Phase::Running`] would say so. Far
    /// cheaper than that report.
    #[must_use]
    pub fn breaks_a_promise(&self) -> bool {
        let mut broken = !self.desk.findings.is_empty();
        for slot in self.orders.values() {
            if let Slot::Open(order) = slot {
                order.judge(Phase::Running, &self.desk, &mut |_, _, _| broken = true);
            }
        }
        broken
    }

    /// What was read, added up, and which promises hold.
    #[must_use]
    pub fn report(&self, phase: Phase) -> Report {
        let mut findings = self.desk.findings.clone();
        let mut totals = self.desk.orders.clone();
        for slot in self.orders.values() {
            match slot {
                Slot::Open(order) => {
                    order.count(&mut totals);
                    order.judge(phase, &self.desk, &mut |promise, place, what| {
                        findings.add(promise, order.id(), place, what);
                    });
                    if phase == Phase::Settled && self.provider_heard && order.lacks_provider_entry() {
                        let place = order.payment_place();
                        findings.add(Promise::P2, order.id(), place, format_args!("the provider knows nothing of it"));
                    }
                }
                Slot::Closed(closed) => {
                    closed.count(&mut totals);
                    if phase == Phase::Settled && self.provider_heard && closed.lacks_provider_entry() {
                        let place = Place { topic: topics::PAYMENTS_EVENTS, partition: -1, offset: -1 };
                        let what = "an order that is closed: the provider knows nothing of its money";
                        findings.add(Promise::P2, "", place, format_args!("{what}"));
                    }
                }
            }
        }
        if phase == Phase::Settled {
            self.desk.ledger.judge(&self.desk.letters, self.newest, &mut findings);
            self.desk.letters.judge(&mut findings);
        }
        // An order that never came to a payment has no currency either: that is no line of the report.
        let money = self.desk.currencies.iter().cloned().zip(self.desk.money.iter().cloned());
        let money =
            money.filter(|(currency, money)| !currency.is_empty() || *money != MoneyTotals::default()).collect();
        Report {
            phase,
            records: self.records.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect(),
            orders: totals,
            money,
            stock: self.desk.ledger.totals(),
            dead_letters: self.desk.letters.counts(),
            promises: findings.verdicts(),
        }
    }

    /// Looks at one order, open or closed, and shrinks it when all of it is verified.
    fn on(&mut self, id: &str, place: Place, look: impl FnOnce(&mut Order, &mut Desk)) {
        let slot = self.orders.entry(id_of(id)).or_insert_with(|| Slot::Open(Box::new(Order::new(id, place))));
        if let Slot::Closed(closed) = slot {
            *slot = Slot::Open(Box::new(Order::reopened(id, place, closed)));
        }
        let Slot::Open(order) = slot else { return };
        let before = order.is_pending();
        look(order, &mut self.desk);
        match (before, order.is_pending()) {
            (false, true) => self.pending += 1,
            (true, false) => self.pending -= 1,
            _ => {}
        }
        if let Some(closed) = order.close(&self.desk) {
            *slot = Slot::Closed(closed);
        }
    }

    fn read<T: AvroRecord>(&mut self, place: Place, value: &[u8]) -> Option<T> {
        match self.codec.decode::<T>(value) {
            Ok(record) => Some(record),
            Err(_) => {
                self.desk.letters.unreadable(place);
                None
            }
        }
    }

    /// A record that only our processors write: it must be readable and lie under the key of what it tells of.
    fn read_ours<T: AvroRecord>(
        &mut self,
        place: Place,
        key: &[u8],
        value: &[u8],
        id: impl Fn(&T) -> &String,
    ) -> Option<T> {
        match self.codec.decode::<T>(value) {
            Ok(record) => {
                if id(&record).as_bytes() != key {
                    let key = String::from_utf8_lossy(key);
                    let what = format_args!("it lies under the key {key:?}");
                    self.desk.findings.add(Promise::P8, id(&record), place, what);
                }
                Some(record)
            }
            Err(error) => {
                let key = String::from_utf8_lossy(key);
                self.desk.findings.add(Promise::P9, &key, place, format_args!("it cannot be read: {error}"));
                None
            }
        }
    }
}

/// Topics that only our processors write and that tell what is; commands ask for something and must have their effect.
const OURS: [&str; 6] = [
    topics::STOCK_LEVELS,
    topics::STOCK_EVENTS,
    topics::PAYMENTS_EVENTS,
    topics::ORDERS_EVENTS,
    topics::ORDERS_ACCEPTED,
    topics::ORDERS_REJECTED,
];

fn known_topic(topic: &str) -> Option<&'static str> {
    const KNOWN: [&str; 12] = [
        topics::STOCK_LEVELS,
        topics::STOCK_EVENTS,
        topics::STOCK_COMMANDS,
        topics::PAYMENTS_EVENTS,
        topics::ORDERS_EVENTS,
        topics::ORDERS_PLACED,
        topics::ORDERS_ACCEPTED,
        topics::ORDERS_REJECTED,
        topics::PAYMENTS_COMMANDS,
        topics::SHIPMENTS_UPDATES,
        topics::STOCK_ADJUSTMENTS,
        topics::ORDERS_CANCEL_REQUESTED,
    ];
    KNOWN.into_iter().find(|known| *known == topic)
}
