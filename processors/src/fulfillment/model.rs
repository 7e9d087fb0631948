//! Fulfillment, the ledger and payment in one loop with a provider that loses requests and answers, with records that arrive in any order the topics allow, repeated,
//! and with cancels, shipments and expiries at any moment. However it goes, it must come to an end in which every order
//! is final, nothing is reserved, and the money adds up.

use std::collections::{BTreeMap, VecDeque};

use millrace_schemas::provider::{AUTHORIZATION_EXPIRED, ProviderResponse};
use millrace_schemas::{
    CancelRequested, DeclineKind, OpenCall, OrderAccepted, OrderEvent, OrderEventKind, OrderStatus, PaymentCommand,
    PaymentEvent, PaymentState, ProviderOperation, RejectReason, ShipmentUpdate, ShipmentUpdateKind, StockCommand,
    StockEvent, murmur2_partition,
};
use proptest::prelude::*;

use super::decide::{Input, decide, needs_intake};
use super::lines::Intake;
use super::state::{deadline, ends_the_order, is_final};
use super::tests::{POLICY, cancel_of, of, order_of, word_of};
use crate::payment;
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
    RejectedToFulfillment(RejectReason),
    /// The payment's state calls for this request to the provider.
    Call(OpenCall),
    PaymentCommand(PaymentCommand),
    PaymentEvent(PaymentEvent),
    StockCommand(i32, StockCommand),
    StockEvent(StockEvent),
    Cancel(CancelRequested),
    Shipment(ShipmentUpdate),
}

/// A provider that keeps its word about idempotency keys, loses requests and answers, and knows what really happened.
#[derive(Default)]
struct Provider {
    outcomes: BTreeMap<String, ProviderResponse>,
    accounts: BTreeMap<String, Account>,
}

/// The money of one order as the provider sees it, minor units.
#[derive(Clone, Debug, Default)]
struct Account {
    authorized: i64,
    captured: i64,
    voided: i64,
    refunded: i64,
    expires: bool,
}

impl Provider {
    fn answer(&mut self, order: &str, call: &OpenCall, dice: &mut Dice) -> ProviderResponse {
        let lost = |detail: &str| ProviderResponse::Unknown { detail: detail.to_owned() };
        if dice.percent(10) {
            return lost("the request was lost");
        }
        let known = self.outcomes.get(&call.idempotency_key).cloned();
        let outcome = match known {
            Some(outcome) => outcome,
            None if call.ask => ProviderResponse::NotFound,
            None => {
                let outcome = self.act(order, call, dice);
                self.outcomes.insert(call.idempotency_key.clone(), outcome.clone());
                outcome
            }
        };
        if dice.percent(10) { lost("the answer was lost") } else { outcome }
    }

    fn act(&mut self, order: &str, call: &OpenCall, dice: &mut Dice) -> ProviderResponse {
        let account = self.accounts.entry(order.to_owned()).or_default();
        let live = account.authorized - account.captured - account.voided;
        let declined = |kind, code: &str| ProviderResponse::Declined { kind, code: code.to_owned() };
        match call.operation {
            ProviderOperation::Authorize => {
                if dice.percent(15) {
                    let kind = if dice.percent(50) { DeclineKind::Soft } else { DeclineKind::Hard };
                    return declined(kind, "no");
                }
                assert_eq!(account.authorized, 0, "{order}: two authorizations");
                account.authorized = call.amount_minor;
                account.expires = dice.percent(5);
            }
            ProviderOperation::Capture if account.expires => {
                account.voided = live;
                return declined(DeclineKind::Hard, AUTHORIZATION_EXPIRED);
            }
            ProviderOperation::Capture => {
                assert!(account.captured == 0 && call.amount_minor <= live, "{order}: {account:?}");
                account.captured = call.amount_minor;
                account.voided = live - call.amount_minor;
            }
            ProviderOperation::Void => {
                assert!(live > 0, "{order}: nothing to void, {account:?}");
                account.voided += live;
            }
            ProviderOperation::Refund => {
                account.refunded += call.amount_minor;
                assert!(account.refunded <= account.captured, "{order}: {account:?}");
            }
            ProviderOperation::Unknown => panic!("not asked for"),
        }
        ProviderResponse::Approved { reference: "ref".to_owned(), amount_minor: call.amount_minor }
    }
}

/// Everything there is: three processors, their states and the records between them.
struct World {
    dice: Dice,
    now: i64,
    accepted: BTreeMap<String, OrderAccepted>,
    /// Which accepted orders fulfillment has read.
    read: BTreeMap<String, OrderAccepted>,
    /// Orders that intake rejected, and which of them fulfillment has read.
    rejected: BTreeMap<String, bool>,
    orders: BTreeMap<String, OrderEvent>,
    payments: BTreeMap<String, PaymentEvent>,
    payment_policy: payment::Policy,
    provider: Provider,
    ledgers: Vec<Ledger>,
    /// Records on their way, by topic, key and producer: within one of these in order, among them in any.
    queues: BTreeMap<String, VecDeque<Record>>,
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
        let payment_policy = payment::Policy {
            provider_ask_ms: 2_000,
            provider_tries_max: 5,
            // In every second world authorizations end long before shipping does.
            authorization_valid_ms: if dice.percent(50) { 3_600_000 } else { 518_400_000 },
        };
        let mut world = Self {
            dice,
            now: 1_000,
            accepted: BTreeMap::new(),
            read: BTreeMap::new(),
            rejected: BTreeMap::new(),
            orders: BTreeMap::new(),
            payments: BTreeMap::new(),
            payment_policy,
            provider: Provider::default(),
            ledgers,
            queues: BTreeMap::new(),
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
            if world.dice.percent(25) {
                let another_body = Record::RejectedToFulfillment(RejectReason::ConflictingDuplicate);
                world.put(&format!("orders.rejected {id}"), another_body);
            }
        }
        for n in 0..world.dice.below(3) {
            let id = format!("none{n}");
            world.rejected.insert(id.clone(), false);
            for reason in [RejectReason::SoldOut, RejectReason::ConflictingDuplicate] {
                world.put(&format!("orders.rejected {id}"), Record::RejectedToFulfillment(reason));
            }
            if world.dice.percent(75) {
                world.put(&format!("orders.cancel-requested {id}"), Record::Cancel(cancel_of(&id)));
            }
        }
        if world.dice.percent(10) {
            world.put("orders.cancel-requested stranger", Record::Cancel(cancel_of("stranger")));
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
        if (8..12).contains(&roll) {
            queue.push_back(record.clone()); // once more, late
        }
        match record {
            Record::AcceptedToPayment => {
                let order = self.accepted[&id].clone();
                self.pay(&id, payment::Input::Accepted(&order));
            }
            Record::PaymentCommand(command) => self.pay(&id, payment::Input::Command(&command)),
            Record::Call(call) => {
                let response = self.provider.answer(&id, &call, &mut self.dice);
                if self.payments.get(&id).and_then(payment::open_call) == Some(&call) {
                    self.pay(&id, payment::Input::Answer(&response));
                }
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
            Record::RejectedToFulfillment(reason) => {
                if let Some(read) = self.rejected.get_mut(&id) {
                    *read |= ends_the_order(reason);
                }
                self.fulfill(&id, Input::Rejected(reason));
            }
            Record::PaymentEvent(event) => self.fulfill(&id, Input::Payment(of(&event))),
            Record::StockEvent(event) => self.fulfill(&id, Input::Stock(&event)),
            Record::Cancel(request) => self.fulfill(&id, Input::Cancel(&request)),
            Record::Shipment(update) => self.fulfill(&id, Input::Shipment(&update)),
        }
    }

    fn pay(&mut self, id: &str, input: payment::Input<'_>) {
        let Some(next) = payment::decide(self.payments.get(id), input, self.now, &self.payment_policy).unwrap() else {
            return;
        };
        if let Some(call) = payment::open_call(&next) {
            self.put(&format!("provider {id}"), Record::Call(call.clone()));
        }
        self.put(&format!("payments.events {id}"), Record::PaymentEvent(next.clone()));
        self.payments.insert(id.to_owned(), next);
    }

    fn fulfill(&mut self, id: &str, input: Input<'_>) {
        let order = self.orders.get(id).cloned();
        let intake = match self.read.get(id) {
            _ if !needs_intake(order.as_ref(), input) => Intake::Silent,
            Some(accepted) => Intake::Accepted(accepted.clone().into()),
            None if self.rejected.get(id) == Some(&true) => Intake::Rejected,
            None => Intake::Silent,
        };
        let Ok(decision) = decide(id, order, intake, input, self.now, &POLICY) else {
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
        let orders = self.orders.iter().filter_map(|(id, order)| deadline(order).map(|at| (at, false, id.clone())));
        let payments = self.payments.iter().filter_map(|(id, p)| payment::deadline(p).map(|at| (at, true, id.clone())));
        let Some((at, of_payment, id)) = orders.chain(payments).min() else { return false };
        self.now = self.now.max(at);
        if of_payment {
            self.pay(&id, payment::Input::Deadline);
        } else {
            self.fulfill(&id, Input::Deadline);
        }
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
            } else {
                // Everything was read: nobody waits for an order that was rejected.
                for order in self.rejected.keys().filter_map(|id| self.orders.get(id)) {
                    assert!(is_final(order.status), "{order:?}");
                }
                if !self.time_out() {
                    return;
                }
            }
        }
        panic!("it does not come to an end: {:?}", self.orders);
    }

    fn audit(&self) {
        let mut shipped: BTreeMap<&str, i64> = BTreeMap::new();
        for id in self.accepted.keys() {
            assert!(self.payments.contains_key(id) && self.orders.contains_key(id), "{id} was lost");
        }
        for id in self.rejected.keys() {
            assert!(!self.provider.accounts.contains_key(id), "{id}: nobody pays for an order that was rejected");
        }
        for (id, payment) in &self.payments {
            let order = self.orders.get(id).unwrap_or_else(|| panic!("{id} was paid for and is not known"));
            let money =
                (payment.authorized_minor, payment.captured_minor, payment.voided_minor, payment.refunded_minor);
            let truth = self.provider.accounts.get(id).cloned().unwrap_or_default();
            assert_eq!(money, (truth.authorized, truth.captured, truth.voided, truth.refunded), "{id}: {payment:?}");
            assert_eq!(payment.captured_minor + payment.voided_minor, payment.authorized_minor, "{id}: {payment:?}");
            assert_eq!((payment.until, &payment.call), (None, &None), "{id}: {payment:?}");
            assert!(is_final(order.status), "{order:?}");
            assert_eq!(order.captured_minor, payment.captured_minor, "{id}");
            match order.status {
                OrderStatus::Cancelled => assert_eq!((payment.captured_minor, order.shipped_minor), (0, 0), "{id}"),
                _ if payment.state == PaymentState::Expired => assert_eq!(payment.captured_minor, 0),
                _ => assert_eq!((payment.captured_minor, payment.refunded_minor), (order.shipped_minor, 0), "{id}"),
            }
            assert!(order.cancel_reason.is_some() || order.status == OrderStatus::Completed);
        }
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
