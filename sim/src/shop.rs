//! The people around the pipeline: who orders, cancels, counts stock and ships, and who writes rubbish. What they write
//! is drawn from the seed, order by order, and what belongs to a fault that does not happen is left out of it afterwards;
//! the warehouse follows the rules of `replay`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use fastrand::Rng;
use millrace_broker::core::batch::check_produced;
use millrace_ingress::{IdempotencyKey, order_id};
use millrace_replay::warehouse::{Settings, Warehouse};
use millrace_runtime::{Headers, Offset, TopicId, TopicPartition, Topology, partition_of};
use millrace_schemas::{
    AdjustmentKind, AvroRecord, CancelRequested, Codec, Money, OrderAccepted, OrderEvent, OrderLine, OrderPlaced,
    PaymentCommand, PaymentCommandKind, Product, ShipmentUpdate, ShipmentUpdateKind, StockAdjustment, StockCommand,
    StockCommandKind, StockLine, topics,
};

use crate::batches::{ANONYMOUS, Draft};
use crate::ingress::Submit;
use crate::plan::{Fault, LATE_ORDERS, MS, Micros, Plan, SECOND, stream};
use crate::world::{EPOCH_MS, Event, World, trace};

/// An id no registry has.
const NO_SCHEMA: u32 = 900;
/// The id of the schema that orders had before the first release. Its coupon, left empty, is the same byte as an
/// expected total that is not there: so an order of today is one of then, under this id.
const OLD_SCHEMA: u32 = 800;
const OLD_ORDER: &str = include_str!("../../schemas/versions/order-placed.v0.avsc");
const WAREHOUSE_EVERY: Micros = 60 * MS;
const TOKENS: [(&str, u32); 11] = [
    ("tok_visa", 60),
    ("tok_declined", 4),
    ("tok_expired", 3),
    ("tok_insufficient_funds", 4),
    ("tok_soft_decline", 3),
    ("tok_timeout_after", 6),
    ("tok_timeout_before", 6),
    ("tok_capture_timeout_after", 4),
    ("tok_capture_timeout_before", 4),
    ("tok_capture_declined", 3),
    ("tok_authorization_expires", 3),
];

/// Tells a codec what the registry has of the schemas that only this shop uses.
pub(crate) fn teach(codec: &Codec) {
    codec.learn(OLD_SCHEMA, Some(OLD_ORDER));
    codec.learn(NO_SCHEMA, None);
}

/// A record somebody outside writes.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    pub(crate) at: Micros,
    to: TopicPartition,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// An order that counts as placed once this is acknowledged.
    order: Option<String>,
    fault: Option<Fault>,
    /// It is left out once this order stands on its topic. What a stranger writes into the pipeline's own topics afterwards
    /// no policy can undo: goods may have left the house for what it lets go.
    before: Option<String>,
    /// It is written, or never will be.
    pub(crate) is_settled: bool,
}

impl Outside {
    /// A record that is no order, and comes whatever stands on the topics.
    fn new(at: Micros, to: TopicPartition, key: Option<Vec<u8>>, value: Option<Vec<u8>>, fault: Option<Fault>) -> Self {
        Self { at, to, key, value, order: None, fault, before: None, is_settled: false }
    }
}

/// See the module.
pub(crate) struct Shop {
    pub(crate) outside: Vec<Outside>,
    warehouse: Warehouse,
    warehouse_at: BTreeMap<TopicPartition, Offset>,
    settings: Settings,
    /// What clients ask of the ingress.
    pub(crate) submits: Vec<Submit>,
    /// Orders that the ingress said it has taken, by id and the body's fingerprint.
    pub(crate) taken: Vec<(String, String)>,
    /// Orders whose record was acknowledged.
    pub(crate) acknowledged: Vec<String>,
    /// How long the broker is gone when it ends.
    pub(crate) broker_rests: Micros,
}

fn pick(rng: &mut Rng) -> &'static str {
    let all: u32 = TOKENS.iter().map(|(_, weight)| weight).sum();
    let mut draw = rng.u32(..all);
    for (token, weight) in TOKENS {
        if draw < weight {
            return token;
        }
        draw -= weight;
    }
    TOKENS[0].0
}

struct Pen<'a> {
    topology: &'a Topology,
    codec: &'a Codec,
    all: Vec<Outside>,
    submits: Vec<Submit>,
}

impl Pen<'_> {
    fn topic(&self, name: &str) -> TopicId {
        self.topology.find_topic(name).expect("the topology has every topic of the schemas")
    }

    fn home(&self, topic: &str, key: &[u8]) -> TopicPartition {
        let topic = self.topic(topic);
        TopicPartition { topic, partition: partition_of(key, self.topology.topic(topic).partitions) }
    }

    fn bytes<T: AvroRecord>(&self, record: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.codec.encode(T::TOPIC.topic, record, &mut bytes);
        bytes
    }

    fn write<T: AvroRecord>(&mut self, at: Micros, key: &str, record: &T, fault: Option<Fault>) {
        let value = Some(self.bytes(record));
        let to = self.home(T::TOPIC.topic, key.as_bytes());
        self.all.push(Outside::new(at, to, Some(key.into()), value, fault));
    }
}

fn sku(number: usize) -> String {
    format!("sku-{number:02}")
}

fn ms(at: Micros) -> i64 {
    EPOCH_MS + i64::try_from(at / MS).unwrap_or(0)
}

impl Shop {
    pub(crate) fn draw(plan: &Plan, topology: &Topology, codec: &Codec) -> Self {
        let seed = plan.options.seed;
        let mut pen = Pen { topology, codec, all: Vec::new(), submits: Vec::new() };
        let mut rng = stream(seed, "shop", 0);
        let has = |fault| plan.options.faults.has(fault);
        let price = |number: usize| 100 + 37 * i64::try_from(number).unwrap_or(0);
        for number in 0..plan.skus {
            let sku = sku(number);
            let unit_price = Money { minor: price(number), currency: "GBP".into() };
            let product =
                Product { sku: sku.clone(), description: String::new(), unit_price, active: true, at: EPOCH_MS };
            pen.write(0, &sku, &product, None);
            let quantity = if rng.u8(..3) == 0 { rng.i64(1..12) } else { rng.i64(20..400) };
            pen.write(0, &sku, &adjustment("opening", &sku, AdjustmentKind::Opening, quantity, 0), None);
        }
        let cancels = rng.u32(0..40);
        let rubbish = rng.u32(0..12);
        for number in 0..plan.orders {
            let mut rng = stream(seed, "order", number as u64);
            let at = rng.u64(300 * MS..plan.calm_at - SECOND);
            let mut door = stream(seed, "ingress", number as u64);
            let key = (door.u8(..3) == 0).then(|| key_of(number));
            let id = key.as_ref().map_or_else(|| format!("o-{number:03}"), id_of);
            let large = rng.u8(..100) == 0;
            let lines = if large { rng.usize(100..300) } else { rng.usize(1..=4) };
            let fault = Some(Fault::LargeOrder).filter(|fault| large && has(*fault));
            let mut order = OrderPlaced {
                order_id: id.clone(),
                customer_id: format!("c-{}", rng.u8(..9)),
                currency: "GBP".into(),
                lines: (0..lines)
                    .map(|_| OrderLine { sku: sku(rng.usize(..plan.skus)), quantity: rng.i32(1..=3) })
                    .collect(),
                payment_method: pick(&mut rng).into(),
                expected_total: None,
                channel: "web".into(),
                placed_at: ms(at),
            };
            if large && fault.is_none() {
                order.lines.truncate(1 + lines % 4);
            }
            if let Some(key) = key {
                submits(&mut pen, &mut door, at, &key, &order, has);
            } else {
                pen.write(at, &id, &order, fault);
            }
            if let Some(last) = pen.all.last_mut().filter(|_| !is_submitted(&id)) {
                last.order = Some(id.clone());
                let old = rng.u8(..10) == 0 && !large;
                if let Some(value) = last.value.as_mut().filter(|_| old && has(Fault::OldSchema)) {
                    value[1..5].copy_from_slice(&OLD_SCHEMA.to_be_bytes());
                    last.fault = Some(Fault::OldSchema);
                }
            }
            if rng.u8(..8) == 0 && !is_submitted(&id) {
                let again = at + rng.u64(0..8 * SECOND);
                pen.write(again, &id, &order, Some(Fault::OrderTwice));
            }
            if rng.u8(..12) == 0 && !is_submitted(&id) {
                let mut other = order.clone();
                other.lines[0].quantity += 1;
                let later = at + rng.u64(0..8 * SECOND);
                pen.write(later, &id, &other, Some(Fault::OrderConflict));
            }
            if rng.u32(..100) < cancels {
                let when = (at + rng.u64(0..20 * SECOND)).saturating_sub(4 * SECOND);
                let request = CancelRequested {
                    order_id: id.clone(),
                    request_id: format!("{id}-cancel"),
                    reason: "changed my mind".into(),
                    requested_by: "customer".into(),
                    at: ms(when),
                };
                pen.write(when, &id, &request, Some(Fault::Cancel));
                if rng.bool() {
                    pen.write(when + rng.u64(0..4 * SECOND), &id, &request, Some(Fault::Cancel));
                }
            }
            let home = pen.home(topics::ORDERS_PLACED, id.as_bytes()).partition;
            let late = plan.late_reads.iter().any(|l| l.partition == home && l.at <= at && at < l.at + LATE_ORDERS);
            let mut rng_late = stream(seed, "late-cancel", number as u64);
            if late && rng_late.u8(..4) != 0 {
                let when = at + rng_late.u64(100 * MS..6 * SECOND);
                let request = CancelRequested {
                    order_id: id.clone(),
                    request_id: format!("{id}-late-cancel"),
                    reason: "changed my mind".into(),
                    requested_by: "customer".into(),
                    at: ms(when),
                };
                pen.write(when, &id, &request, Some(Fault::Cancel));
            }
            if rng.u8(..50) == 0 {
                let sku = order.lines[0].sku.clone();
                let release = StockCommand {
                    order_id: id.clone(),
                    attempt: 1,
                    kind: StockCommandKind::Release,
                    command_id: String::new(),
                    lines: Vec::new(),
                    at: ms(at),
                };
                let before = at.saturating_sub(rng.u64(1..SECOND));
                pen.write(before, &sku, &release, Some(Fault::ReleaseFirst));
                if let Some(last) = pen.all.last_mut() {
                    last.before = Some(id.clone());
                }
            }
            shipment_first(&mut pen, &mut stream(seed, "shipment-first", number as u64), at, &order);
            back_office(&mut pen, &mut stream(seed, "back-office", number as u64), at, &id);
            if rng.u32(..100) < rubbish {
                poison(&mut pen, &mut rng, at, &id, &order);
            }
            if rng.u8(..60) == 0 {
                let mut value = pen.bytes(&order);
                value[1..5].copy_from_slice(&NO_SCHEMA.to_be_bytes());
                let id = format!("{id}-foreign");
                let to = pen.home(topics::ORDERS_PLACED, id.as_bytes());
                let fault = Some(Fault::UnknownSchema);
                pen.all.push(Outside::new(at, to, Some(id.into()), Some(value), fault));
            }
        }
        adjustments(&mut pen, plan);
        pen.all.retain(|outside| outside.fault.is_none_or(has));
        pen.submits.retain(|submit| submit.fault.is_none_or(has));
        pen.all.sort_by_key(|outside| outside.at);
        let settings =
            Settings { split_per_mille: rng.u32(0..400), short_per_mille: rng.u32(0..200), remembered_max: 1_000 };
        Self {
            outside: pen.all,
            warehouse: Warehouse::new(settings),
            warehouse_at: BTreeMap::new(),
            settings,
            submits: pen.submits,
            taken: Vec::new(),
            acknowledged: Vec::new(),
            broker_rests: SECOND,
        }
    }
}

fn key_of(number: usize) -> IdempotencyKey {
    IdempotencyKey::parse(&format!("key-{number:03}")).expect("a key of visible ASCII")
}

fn id_of(key: &IdempotencyKey) -> String {
    let settings = millrace_ingress::Settings::default();
    order_id(&settings.tenant, &settings.caller, key).to_string()
}

/// Its id is not one of those that producers of their own choose.
fn is_submitted(id: &str) -> bool {
    !id.starts_with("o-")
}

/// The body that the ingress takes for this order.
fn body_of(order: &OrderPlaced) -> serde_json::Value {
    let line = |line: &OrderLine| serde_json::json!({"sku": line.sku, "quantity": line.quantity});
    serde_json::json!({
        "customer_id": order.customer_id,
        "currency": order.currency,
        "lines": order.lines.iter().map(line).collect::<Vec<_>>(),
        "payment_method": order.payment_method,
    })
}

/// A client places an order over HTTP; perhaps it clicks twice, or asks for something else under the same key.
fn submits(
    pen: &mut Pen<'_>,
    rng: &mut Rng,
    at: Micros,
    key: &IdempotencyKey,
    order: &OrderPlaced,
    has: impl Fn(Fault) -> bool,
) {
    let other = rng.u8(..8) == 0;
    let submit = |at, order: &OrderPlaced, fault| Submit {
        at,
        key: key.clone(),
        order: order.order_id.clone(),
        body: body_of(order),
        fault,
        alone: !(other && has(Fault::SubmitConflict)),
        tries: 0,
        is_answered: false,
    };
    let large = (order.lines.len() > 50).then_some(Fault::LargeOrder);
    pen.submits.push(submit(at, order, large));
    if rng.u8(..6) == 0 {
        pen.submits.push(submit(at + rng.u64(0..4 * SECOND), order, Some(Fault::SubmitTwice)));
    }
    if other {
        let mut changed = order.clone();
        changed.lines[0].quantity += 1;
        let later = if rng.bool() { at + rng.u64(0..200 * MS) } else { at + rng.u64(0..6 * SECOND) };
        pen.submits.push(submit(later, &changed, Some(Fault::SubmitConflict)));
    }
}

fn adjustment(id: &str, sku: &str, kind: AdjustmentKind, quantity: i64, at: Micros) -> StockAdjustment {
    StockAdjustment {
        adjustment_id: format!("{id}-{sku}"),
        sku: sku.to_owned(),
        kind,
        quantity,
        reason: "simulated".into(),
        at: ms(at),
    }
}

/// Receipts, and the same receipt again.
fn adjustments(pen: &mut Pen<'_>, plan: &Plan) {
    let mut rng = stream(plan.options.seed, "adjustments", 0);
    for number in 0..rng.usize(0..12) {
        let at = rng.u64(SECOND..plan.calm_at);
        let sku = sku(rng.usize(..plan.skus));
        let receipt = adjustment(&format!("receipt-{number}"), &sku, AdjustmentKind::Receipt, rng.i64(1..20), at);
        pen.write(at, &sku, &receipt, Some(Fault::Adjustment));
        if rng.bool() {
            pen.write(at + rng.u64(0..6 * SECOND), &sku, &receipt, Some(Fault::Adjustment));
        }
    }
}

/// Somebody takes an order's money before it has shipped, or gives it back.
fn back_office(pen: &mut Pen<'_>, rng: &mut Rng, at: Micros, id: &str) {
    let (kind, pause) = match rng.u8(..60) {
        0 => (PaymentCommandKind::Capture, rng.u64(0..4 * SECOND)),
        1..=4 => (PaymentCommandKind::Refund, rng.u64(2 * SECOND..20 * SECOND)),
        _ => return,
    };
    let at = at + pause;
    let command = PaymentCommand { order_id: id.to_owned(), kind, amount: None, reason: "by hand".into(), at: ms(at) };
    pen.write(at, id, &command, Some(Fault::BackOffice));
}

/// A word on a shipment that overtakes its order: the warehouse's own, or one that it will never give.
fn shipment_first(pen: &mut Pen<'_>, rng: &mut Rng, at: Micros, order: &OrderPlaced) {
    use ShipmentUpdateKind::{Delivered, Shipped, Short};
    if rng.u8(..30) != 0 {
        return;
    }
    let id = &order.order_id;
    let shipment = if rng.bool() { "1" } else { "strange" };
    let first = &order.lines[0];
    let update = ShipmentUpdate {
        order_id: id.clone(),
        shipment_id: format!("{id}/{shipment}"),
        kind: [Shipped, Shipped, Short, Delivered][rng.usize(..4)],
        lines: if rng.bool() { vec![StockLine { sku: first.sku.clone(), quantity: 1 }] } else { Vec::new() },
        at: ms(at),
    };
    let before = at.saturating_sub(rng.u64(1..SECOND));
    pen.write(before, id, &update, Some(Fault::ShipmentFirst));
    if let Some(last) = pen.all.last_mut() {
        last.before = Some(id.clone());
    }
}

/// Something no processor can take, under a key of its own or that of an order.
fn poison(pen: &mut Pen<'_>, rng: &mut Rng, at: Micros, id: &str, order: &OrderPlaced) {
    let ordered_at = at;
    let at = at + rng.u64(0..6 * SECOND);
    let topic =
        [topics::ORDERS_PLACED, topics::ORDERS_CANCEL_REQUESTED, topics::SHIPMENTS_UPDATES, topics::STOCK_ADJUSTMENTS]
            [rng.usize(..4)];
    let key = if rng.bool() { id.to_owned() } else { format!("{id}-rubbish") };
    // Just before the order, which then has to wait behind it.
    let at = if key == id && rng.bool() { ordered_at.saturating_sub(rng.u64(1..300 * MS)) } else { at };
    let mut to = pen.home(topic, key.as_bytes());
    let whole = pen.bytes(order);
    let mut key = Some(key.into_bytes());
    let value = match rng.u8(..6) {
        0 => Some(b"rubbish".to_vec()),
        1 => None,
        2 => Some(whole[..whole.len() / 2].to_vec()),
        3 => {
            key = None;
            Some(whole)
        }
        4 => {
            to.partition = (to.partition + 1) % pen.topology.topic(to.topic).partitions;
            Some(b"rubbish on another partition".to_vec())
        }
        _ => Some(Vec::new()),
    };
    pen.all.push(Outside::new(at, to, key, value, Some(Fault::PoisonRecord)));
}

impl World {
    /// Somebody outside writes a record; tries again until it is acknowledged.
    pub(crate) fn write_outside(&mut self, number: usize) {
        let outside = self.shop.outside[number].clone();
        let comes = !outside.before.as_deref().is_some_and(|order| self.is_placed(order));
        if comes && !self.append(outside.to, outside.key.as_deref(), outside.value.as_deref()) {
            return self.after(300 * MS, Event::Outside(number));
        }
        self.shop.outside[number].is_settled = true;
        if !comes {
            return;
        }
        if let Some(fault) = outside.fault {
            self.coverage.fired(fault);
        }
        self.shop.acknowledged.extend(outside.order);
    }

    fn is_placed(&self, order: &str) -> bool {
        let topic = self.topology.find_topic(topics::ORDERS_PLACED).expect("the topology has the topic");
        let partition = partition_of(order.as_bytes(), self.topology.topic(topic).partitions);
        let records = self.all_records(TopicPartition { topic, partition });
        self.core.is_none() || records.iter().any(|record| record.key.as_deref() == Some(order.as_bytes()))
    }

    /// Writes a record as a client without a producer id; whether it was acknowledged.
    fn append(&mut self, to: TopicPartition, key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
        let now = self.now_ms();
        let Some(core) = &mut self.core else { return false };
        let mut draft = Draft::default();
        draft.push(now, key, value, &Headers::new());
        let bytes = draft.seal(ANONYMOUS);
        let headers = check_produced(&bytes).expect("a batch of our own is whole");
        let name = &self.topology.topic(to.topic).name;
        let done = core.append(now, name, to.partition, &bytes, &headers);
        trace!(
            self,
            "shop  writes  {} key {:?}: {done:?}",
            self.topology.name_of(to),
            String::from_utf8_lossy(key.unwrap_or_default())
        );
        self.settle_core();
        done.is_ok()
    }

    /// A stranger writes a command again that stands on its topic already.
    pub(crate) fn repeat_command(&mut self) {
        if self.calm {
            return;
        }
        let name = if self.rng.bool() { topics::STOCK_COMMANDS } else { topics::PAYMENTS_COMMANDS };
        let topic = self.topology.find_topic(name).expect("the topology has the topic");
        let partition = self.rng.i32(0..self.topology.topic(topic).partitions);
        let at = TopicPartition { topic, partition };
        let records = self.all_records(at);
        if records.is_empty() {
            return;
        }
        let record = &records[self.rng.usize(..records.len())];
        if self.plan.options.faults.has(Fault::CommandTwice)
            && self.append(at, record.key.as_deref(), record.value.as_deref())
        {
            self.coverage.fired(Fault::CommandTwice);
        }
    }

    /// The warehouse reads what is new and says what it did about it.
    pub(crate) fn warehouse_works(&mut self) {
        self.after(if self.calm { 8 * WAREHOUSE_EVERY } else { WAREHOUSE_EVERY }, Event::Warehouse);
        if self.core.is_none() {
            return;
        }
        if self.strikes(Fault::WarehouseRepeats, 2_000) {
            self.shop.warehouse = Warehouse::new(self.shop.settings);
            self.shop.warehouse_at.clear();
        }
        let topology = self.topology.clone();
        let mut updates = Vec::new();
        for name in [topics::ORDERS_ACCEPTED, topics::ORDERS_EVENTS] {
            let topic = topology.find_topic(name).expect("the topology has the topic");
            for partition in 0..topology.topic(topic).partitions {
                let at = TopicPartition { topic, partition };
                let from = self.shop.warehouse_at.get(&at).copied().unwrap_or(0);
                let (records, next) = self.fetch(at, from, 500);
                self.shop.warehouse_at.insert(at, next);
                for value in records.iter().filter_map(|record| record.value.as_deref()) {
                    if name == topics::ORDERS_ACCEPTED {
                        if let Ok(accepted) = self.codec.decode::<OrderAccepted>(value) {
                            updates.extend(self.shop.warehouse.on_accepted(&accepted));
                        }
                    } else if let Ok(event) = self.codec.decode::<OrderEvent>(value) {
                        updates.extend(self.shop.warehouse.on_order_event(&event));
                    }
                }
            }
        }
        for mut update in updates {
            let left = self.leaves_the_rest(&mut update);
            let mut value = Vec::new();
            self.codec.encode(topics::SHIPMENTS_UPDATES, &update, &mut value);
            let topic = topology.find_topic(topics::SHIPMENTS_UPDATES).expect("the topology has the topic");
            let partition = partition_of(update.order_id.as_bytes(), topology.topic(topic).partitions);
            let to = TopicPartition { topic, partition };
            let pause = self.rng.u64(0..3 * SECOND) + if left { 3 * SECOND } else { 0 };
            let at = self.now + pause;
            let key = Some(update.order_id.into_bytes());
            self.shop.outside.push(Outside::new(at, to, key, Some(value), None));
            let number = self.shop.outside.len() - 1;
            self.at(at, Event::Outside(number));
        }
    }

    /// Of some orders that ship in parts the second never leaves; the same ones whenever the warehouse tells of them. Says
    /// only that the first has arrived, or that the rest is short.
    fn leaves_the_rest(&mut self, update: &mut ShipmentUpdate) -> bool {
        let number = update.order_id.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let Some(first) = update.shipment_id.strip_suffix("/2").filter(|_| !self.calm) else { return false };
        if !self.plan.options.faults.has(Fault::RestLeft) {
            return false;
        }
        match stream(self.plan.options.seed, "rest", number).u8(..4) {
            0 => {
                update.shipment_id = format!("{first}/1");
                update.kind = ShipmentUpdateKind::Delivered;
            }
            1 => update.kind = ShipmentUpdateKind::Short,
            _ => return false,
        }
        self.coverage.fired(Fault::RestLeft);
        true
    }

    /// The registry tells what it has of the schemas that were asked for.
    pub(crate) fn learn_schemas(&mut self) {
        for id in self.codec.wanted() {
            match id {
                OLD_SCHEMA | NO_SCHEMA => teach(&self.codec),
                other => self.codec.learn(other, None),
            }
        }
        self.after(700 * MS, Event::SchemasLearned);
    }
}
