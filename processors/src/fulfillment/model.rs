//! Fulfillment, the ledger and a payment in one loop, with records that arrive in any order the topics allow, repeated,
//! and with cancels, shipments and expiries at any moment. However it goes, it must come to an end in which every order
//! is final, nothing is reserved, and the money adds up.

use std::collections::{BTreeMap, VecDeque};

use millrace_schemas::{
    CancelRequested, OrderAccepted, OrderEvent, OrderEventKind, OrderStatus, PaymentCommand, PaymentCommandKind,
    PaymentEvent, PaymentState, ShipmentUpdate, ShipmentUpdateKind, StockCommand, StockEvent, murmur2_partition,
};
use proptest::prelude::*;

use super::decide::{Input, decide, needs_accepted};
use super::lines::Accepted;
use super::state::{deadline, is_final};
use super::tests::{POLICY, cancel_of, order_of, paid, word_of};
use crate::stock::state::available;
use crate::stock::tests::Ledger;

/// A small generator (xorshift), so that one number tells a whole run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % (n as u64)).unwrap()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Debug)]
enum Record {
    AcceptedToPayment,
    AcceptedToFulfillment,
    /// The provider approves, declines or lets the authorization expire.
    Provider(PaymentState),
    PaymentCommand(PaymentCommand),
    PaymentEvent(PaymentEvent),
    StockCommand(i32, StockCommand),
    StockEvent(StockEvent),
    Cancel(CancelRequested),
    Shipment(ShipmentUpdate),
}

/// The one payment of an order, as the payment processor keeps it, in short.
#[derive(Clone, Debug, Default)]
struct Payment {
    state: Option<PaymentState>,
    requested: i64,
    authorized: i64,
    captured: i64,
    voided: i64,
    refunded: i64,
    void_wanted: bool,
}

impl Payment {
    fn events(&mut self, id: &str, states: &[PaymentState]) -> Vec<PaymentEvent> {
        self.state = states.last().copied().or(self.state);
        states.iter().map(|state| paid(id, *state, self.captured)).collect()
    }

    fn void(&mut self, id: &str, end: PaymentState) -> Vec<PaymentEvent> {
        self.voided = self.authorized;
        self.events(id, &[PaymentState::Voiding, end])
    }

    fn command(&mut self, id: &str, command: &PaymentCommand) -> Vec<PaymentEvent> {
        let minor = command.amount.as_ref().map_or(0, |amount| amount.minor);
        match (command.kind, self.state) {
            (PaymentCommandKind::Void, Some(PaymentState::Authorizing)) => {
                self.void_wanted = true;
                Vec::new()
            }
            (PaymentCommandKind::Void, Some(PaymentState::Authorized)) => self.void(id, PaymentState::Voided),
            (PaymentCommandKind::Capture, Some(PaymentState::Authorized)) => {
                assert!(0 < minor && minor <= self.authorized);
                let first = self.events(id, &[PaymentState::Capturing]);
                self.captured = minor;
                self.voided = self.authorized - minor;
                first.into_iter().chain(self.events(id, &[PaymentState::Captured])).collect()
            }
            (PaymentCommandKind::Refund, Some(PaymentState::Captured)) => {
                self.refunded = minor;
                self.events(id, &[PaymentState::Refunding, PaymentState::Refunded])
            }
            _ => Vec::new(),
        }
    }
}

/// Everything there is: three processors, their states and the records between them.
struct World {
    dice: Dice,
    now: i64,
    accepted: BTreeMap<String, OrderAccepted>,
    /// Which accepted orders fulfillment has read.
    read: BTreeMap<String, OrderAccepted>,
    orders: BTreeMap<String, OrderEvent>,
    payments: BTreeMap<String, Payment>,
    ledgers: Vec<Ledger>,
    /// Records on their way, by topic, key and producer: within one of these in order, among them in any.
    queues: BTreeMap<String, VecDeque<Record>>,
    expiring: bool,
}

const SKUS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed | 1);
        let mut ledgers = vec![Ledger::default(); 4];
        for sku in SKUS {
            let units = i64::try_from(dice.below(12)).unwrap();
            owner(&mut ledgers, sku).adjust(millrace_schemas::AdjustmentKind::Opening, sku, units).unwrap();
        }
        let expiring = dice.percent(50);
        let mut world = Self {
            dice,
            now: 1_000,
            accepted: BTreeMap::new(),
            read: BTreeMap::new(),
            orders: BTreeMap::new(),
            payments: BTreeMap::new(),
            ledgers,
            queues: BTreeMap::new(),
            expiring,
        };
        for n in 0..=world.dice.below(6) {
            let id = format!("o{n}");
            let mut lines = Vec::new();
            for sku in SKUS {
                if world.dice.percent(35) {
                    lines.push((sku, i32::try_from(1 + world.dice.below(3)).unwrap()));
                }
            }
            if lines.is_empty() {
                lines.push((SKUS[0], 1));
            }
            if world.dice.percent(10) {
                lines.push(lines[0]); // a SKU on two lines, not added up
            }
            world.accepted.insert(id.clone(), order_of(&id, &lines));
            world.put(&format!("orders.accepted to payment {id}"), Record::AcceptedToPayment);
            world.put(&format!("orders.accepted to fulfillment {id}"), Record::AcceptedToFulfillment);
            if world.dice.percent(25) {
                world.put(&format!("orders.cancel-requested {id}"), Record::Cancel(cancel_of(&id)));
            }
        }
        world
    }

    fn put(&mut self, queue: &str, record: Record) {
        self.queues.entry(queue.to_owned()).or_default().push_back(record);
    }

    /// Delivers one record, perhaps for the first of two times.
    fn deliver(&mut self) {
        let waiting: Vec<&String> = self.queues.iter().filter(|(_, q)| !q.is_empty()).map(|(name, _)| name).collect();
        let name = waiting[self.dice.below(waiting.len())].clone();
        let id = name.rsplit(' ').next().unwrap().to_owned();
        let queue = self.queues.get_mut(&name).unwrap();
        let record = queue.front().unwrap().clone();
        let roll = self.dice.below(100);
        if roll >= 8 {
            queue.pop_front();
        }
        if (8..12).contains(&roll) && !matches!(record, Record::Provider(_)) {
            queue.push_back(record.clone()); // once more, late
        }
        match record {
            Record::AcceptedToPayment => {
                let requested = self.accepted[&id].total.minor;
                let payment = self.payments.entry(id.clone()).or_default();
                if payment.state.is_none() {
                    payment.requested = requested;
                    let events = payment.events(&id, &[PaymentState::Authorizing]);
                    let declined = self.dice.percent(15);
                    let outcome = if declined { PaymentState::Declined } else { PaymentState::Authorized };
                    self.put(&format!("provider {id}"), Record::Provider(outcome));
                    if self.expiring && self.dice.percent(30) {
                        self.put(&format!("provider {id}"), Record::Provider(PaymentState::Expired));
                    }
                    self.publish(&id, events);
                }
            }
            Record::Provider(outcome) => {
                let payment = self.payments.get_mut(&id).unwrap();
                let events = match (payment.state.unwrap(), outcome) {
                    (PaymentState::Authorizing, PaymentState::Authorized) => {
                        payment.authorized = payment.requested;
                        let mut events = payment.events(&id, &[PaymentState::Authorized]);
                        if payment.void_wanted {
                            events.extend(payment.void(&id, PaymentState::Voided));
                        }
                        events
                    }
                    (PaymentState::Authorizing, PaymentState::Declined) => {
                        payment.events(&id, &[PaymentState::Declined])
                    }
                    (PaymentState::Authorized, PaymentState::Expired) => payment.void(&id, PaymentState::Expired),
                    _ => Vec::new(),
                };
                self.publish(&id, events);
            }
            Record::PaymentCommand(command) => {
                let events = self.payments.entry(id.clone()).or_default().command(&id, &command);
                self.publish(&id, events);
            }
            Record::StockCommand(partition, command) => {
                let ledger = &mut self.ledgers[usize::try_from(partition).unwrap()];
                let before: BTreeMap<_, _> = ledger.levels.iter().map(|(s, l)| (s.clone(), available(l))).collect();
                let decision = ledger.command(&command, self.now).unwrap();
                ledger.check();
                for (sku, level) in &ledger.levels {
                    assert!(available(level) >= 0 || available(level) >= before[sku], "oversold {sku}");
                }
                let event = StockEvent {
                    order_id: command.order_id.clone(),
                    attempt: command.attempt,
                    stock_partition: partition,
                    kind: decision.answer,
                    command_id: command.command_id,
                    lines: decision.lines,
                    short: decision.short,
                    at: self.now,
                };
                self.put(&format!("stock.events {partition} {}", command.order_id), Record::StockEvent(event));
            }
            Record::AcceptedToFulfillment => {
                self.read.insert(id.clone(), self.accepted[&id].clone());
                self.fulfill(&id, Input::Accepted);
            }
            Record::PaymentEvent(event) => self.fulfill(&id, Input::Payment(&event)),
            Record::StockEvent(event) => self.fulfill(&id, Input::Stock(&event)),
            Record::Cancel(request) => self.fulfill(&id, Input::Cancel(&request)),
            Record::Shipment(update) => self.fulfill(&id, Input::Shipment(&update)),
        }
    }

    fn publish(&mut self, id: &str, events: Vec<PaymentEvent>) {
        for event in events {
            self.put(&format!("payments.events {id}"), Record::PaymentEvent(event));
        }
    }

    fn fulfill(&mut self, id: &str, input: Input<'_>) {
        let order = self.orders.get(id).cloned();
        let needed = needs_accepted(order.as_ref(), input);
        let accepted = if needed { self.read.get(id).cloned().map(Accepted::from) } else { None };
        let Ok(decision) = decide(id, order, accepted, input, self.now, &POLICY) else {
            return; // to the dead letters
        };
        let Some(event) = decision.event else { return };
        for (place, command) in decision.stock {
            let group = &event.groups[place];
            let name = format!("stock.commands {} {}", group.key, command.order_id);
            let partition = group.stock_partition;
            self.put(&name, Record::StockCommand(partition, command));
        }
        if let Some(command) = decision.payment {
            self.put(&format!("payments.commands {id}"), Record::PaymentCommand(command));
        }
        if event.kind == OrderEventKind::Confirmed {
            self.warehouse(id);
        }
        self.orders.insert(id.to_owned(), event);
    }

    /// What the warehouse will do about a confirmed order; perhaps nothing.
    fn warehouse(&mut self, id: &str) {
        let order = &self.accepted[id];
        let some: Vec<(&str, i32)> = order.lines.iter().map(|line| (line.sku.as_str(), 1)).take(2).collect();
        let word = |shipment: &str, kind, lines: &[(&str, i32)]| Record::Shipment(word_of(id, shipment, kind, lines));
        let part = word("p1", ShipmentUpdateKind::Shipped, &some);
        let rest = word("p2", ShipmentUpdateKind::Shipped, &[]);
        let no_rest = word("p2", ShipmentUpdateKind::Short, &[]);
        let delivered = word("p2", ShipmentUpdateKind::Delivered, &[]);
        let part_delivered = word("p1", ShipmentUpdateKind::Delivered, &[]);
        let plan = match self.dice.below(8) {
            0 | 1 => vec![rest, delivered],
            2 => vec![part, rest, delivered],
            3 => vec![part, part_delivered, no_rest],
            4 => vec![no_rest],
            5 => vec![part],
            6 => vec![rest],
            _ => Vec::new(),
        };
        for update in plan {
            self.put(&format!("shipments.updates {id}"), update);
        }
    }

    fn time_out(&mut self) -> bool {
        let due = self.orders.iter().filter_map(|(id, order)| deadline(order).map(|at| (at, id.clone()))).min();
        let Some((at, id)) = due else { return false };
        self.now = self.now.max(at);
        self.fulfill(&id, Input::Deadline);
        true
    }

    fn run(&mut self) {
        for _ in 0..20_000 {
            if self.queues.values().any(|queue| !queue.is_empty()) {
                if self.dice.percent(2) {
                    self.time_out();
                } else {
                    self.deliver();
                }
            } else if !self.time_out() {
                return;
            }
        }
        panic!("it does not come to an end: {:?}", self.orders);
    }

    fn audit(&self) {
        let mut shipped: BTreeMap<&str, i64> = BTreeMap::new();
        for (id, payment) in &self.payments {
            let order = self.orders.get(id).unwrap_or_else(|| panic!("{id} was paid for and is not known"));
            assert!(is_final(order.status), "{order:?}");
            assert_eq!(payment.captured + payment.voided, payment.authorized, "{id}: {payment:?}");
            assert_eq!(order.captured_minor, payment.captured, "{id}");
            match order.status {
                OrderStatus::Cancelled => assert_eq!((payment.captured, order.shipped_minor), (0, 0), "{id}"),
                _ if payment.state == Some(PaymentState::Expired) => assert_eq!(payment.captured, 0),
                _ => assert_eq!((payment.captured, payment.refunded), (order.shipped_minor, 0), "{id}: {payment:?}"),
            }
            assert!(order.cancel_reason.is_some() || order.status == OrderStatus::Completed);
        }
        assert_eq!(self.payments.len(), self.accepted.len(), "every accepted order was paid for or declined");
        for ledger in &self.ledgers {
            ledger.check();
            for level in ledger.levels.values() {
                assert_eq!(level.reserved, 0, "{level:?}");
                assert!(level.on_hand >= 0);
                *shipped.entry(&level.sku).or_default() += level.shipped;
            }
            for ((id, _), reservation) in &ledger.reservations {
                assert!(self.orders[id].shipped_minor > 0 || reservation.shipments.is_empty(), "{id}");
            }
        }
        let value: i64 = shipped.values().sum::<i64>() * 250;
        assert_eq!(
            value,
            self.orders.values().map(|order| order.shipped_minor).sum::<i64>(),
            "what left is what counts"
        );
    }
}

fn owner<'a>(ledgers: &'a mut [Ledger], sku: &str) -> &'a mut Ledger {
    &mut ledgers[usize::try_from(murmur2_partition(sku.as_bytes(), 4)).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn any_run_ends_with_nothing_reserved_and_the_money_adding_up(seed in any::<u64>()) {
        let mut world = World::new(seed);
        world.run();
        world.audit();
    }
}

#[test]
fn runs_end_in_every_way() {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 1..400u64 {
        let mut world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        world.run();
        world.audit();
        for order in world.orders.values() {
            *ends.entry(format!("{:?} {:?}", order.status, order.cancel_reason)).or_default() += 1;
        }
    }
    for end in [
        "Completed None",
        "Cancelled Some(Customer)",
        "Cancelled Some(OutOfStock)",
        "Cancelled Some(PaymentDeclined)",
        "Cancelled Some(PaymentExpired)",
        "Cancelled Some(NeverShipped)",
    ] {
        assert!(ends.get(end).is_some_and(|count| *count > 5), "{end} is too rare to say anything: {ends:?}");
    }
}
