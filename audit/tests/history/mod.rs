//! A hand-made history of a small shop in which every promise holds, and the means to spoil it.
//!
//! Five orders: `whole` ships at once and completes; `split` has two groups, ships in two parts, comes out short of a
//! line and completes; `sold-out` is cancelled because one of its two groups is refused; `regret` is cancelled by the
//! customer; `nobody` is rejected. `whole` is also submitted again, once the same and once with another body; one
//! record of orders.placed is unreadable.

use std::borrow::Cow;

use millrace_audit::{Audit, Phase, ProviderEntry, Record, Report};
use millrace_schemas::*;

/// What is left of a topic: partition, offset, record.
type Queue<'h> = std::collections::VecDeque<(i32, i64, &'h Any)>;

/// A record of any type; not every test makes every one.
#[allow(dead_code)]
#[derive(Clone, Debug)]
pub enum Any {
    Placed(OrderPlaced),
    Accepted(OrderAccepted),
    Rejected(OrderRejected),
    PaymentCommand(PaymentCommand),
    Payment(PaymentEvent),
    StockCommand(StockCommand),
    Stock(StockEvent),
    Adjustment(StockAdjustment),
    Level(StockLevel),
    Cancel(CancelRequested),
    Shipment(ShipmentUpdate),
    Order(OrderEvent),
    /// Bytes that are no record, on orders.placed.
    Garbage,
    /// A dead letter of intake for that place.
    Letter(&'static str, i32, i64),
    /// The same for a record that can be read, with its key and value.
    LetterOf(Box<Any>, i32, i64),
    /// A mark of the letter at that offset of its partition.
    Mark(&'static str, i64),
    /// A record put back from the letter of intake at that partition and offset.
    Again(Box<Any>, i32, i64),
}

impl Any {
    pub fn topic(&self) -> &'static str {
        match self {
            Self::Placed(_) | Self::Garbage => topics::ORDERS_PLACED,
            Self::Accepted(_) => topics::ORDERS_ACCEPTED,
            Self::Rejected(_) => topics::ORDERS_REJECTED,
            Self::PaymentCommand(_) => topics::PAYMENTS_COMMANDS,
            Self::Payment(_) => topics::PAYMENTS_EVENTS,
            Self::StockCommand(_) => topics::STOCK_COMMANDS,
            Self::Stock(_) => topics::STOCK_EVENTS,
            Self::Adjustment(_) => topics::STOCK_ADJUSTMENTS,
            Self::Level(_) => topics::STOCK_LEVELS,
            Self::Cancel(_) => topics::ORDERS_CANCEL_REQUESTED,
            Self::Shipment(_) => topics::SHIPMENTS_UPDATES,
            Self::Order(_) => topics::ORDERS_EVENTS,
            Self::Letter(..) | Self::LetterOf(..) | Self::Mark(..) => "dead-letters.intake",
            Self::Again(record, ..) => record.topic(),
        }
    }

    pub fn key(&self) -> String {
        match self {
            Self::Placed(r) => r.order_id.clone(),
            Self::Accepted(r) => r.order_id.clone(),
            Self::Rejected(r) => r.order_id.clone(),
            Self::PaymentCommand(r) => r.order_id.clone(),
            Self::Payment(r) => r.order_id.clone(),
            Self::StockCommand(r) => r.order_id.clone(),
            Self::Stock(r) => r.order_id.clone(),
            Self::Adjustment(r) => r.sku.clone(),
            Self::Level(r) => r.sku.clone(),
            Self::Cancel(r) => r.order_id.clone(),
            Self::Shipment(r) => r.order_id.clone(),
            Self::Order(r) => r.order_id.clone(),
            Self::Garbage => "garbage".to_owned(),
            Self::Letter(..) | Self::Mark(..) => "garbage".to_owned(),
            Self::Again(record, ..) | Self::LetterOf(record, ..) => record.key(),
        }
    }

    pub fn value(&self, codec: &Codec) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Placed(r) => codec.encode(self.topic(), r, &mut out),
            Self::Accepted(r) => codec.encode(self.topic(), r, &mut out),
            Self::Rejected(r) => codec.encode(self.topic(), r, &mut out),
            Self::PaymentCommand(r) => codec.encode(self.topic(), r, &mut out),
            Self::Payment(r) => codec.encode(self.topic(), r, &mut out),
            Self::StockCommand(r) => codec.encode(self.topic(), r, &mut out),
            Self::Stock(r) => codec.encode(self.topic(), r, &mut out),
            Self::Adjustment(r) => codec.encode(self.topic(), r, &mut out),
            Self::Level(r) => codec.encode(self.topic(), r, &mut out),
            Self::Cancel(r) => codec.encode(self.topic(), r, &mut out),
            Self::Shipment(r) => codec.encode(self.topic(), r, &mut out),
            Self::Order(r) => codec.encode(self.topic(), r, &mut out),
            Self::Garbage | Self::Letter(..) => out.extend(b"no record"),
            Self::Mark(..) => {}
            Self::Again(record, ..) | Self::LetterOf(record, ..) => out = record.value(codec),
        }
        out
    }

    pub fn headers(&self) -> Vec<(Cow<'static, str>, Vec<u8>)> {
        let text = |headers: &[(&'static str, String)]| {
            headers.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect()
        };
        match self {
            Self::Letter(topic, partition, offset) => text(&[
                ("millrace.topic", (*topic).to_owned()),
                ("millrace.partition", partition.to_string()),
                ("millrace.offset", offset.to_string()),
            ]),
            Self::LetterOf(record, partition, offset) => Self::Letter(record.topic(), *partition, *offset).headers(),
            Self::Mark(mark, letter) => {
                text(&[("millrace.mark", (*mark).to_owned()), ("millrace.letter", letter.to_string())])
            }
            Self::Again(_, partition, offset) => {
                text(&[("millrace.replayed", format!("dead-letters.intake-{partition}@{offset}"))])
            }
            _ => Vec::new(),
        }
    }
}

/// Records in the order they came about, each with its partition, and the provider's books.
#[derive(Clone, Default)]
pub struct History {
    pub records: Vec<(i32, Any)>,
    pub provider: Vec<ProviderEntry>,
    /// As the topology would say it of the balances.
    pub compaction_lag_ms: Option<i64>,
    /// Times of records; those not named are of 1 ms.
    pub times: std::collections::BTreeMap<(&'static str, i32, i64), i64>,
    levels: std::collections::BTreeMap<String, StockLevel>,
    payments: std::collections::BTreeMap<String, PaymentEvent>,
    orders: std::collections::BTreeMap<String, OrderEvent>,
}

/// SKUs and the stock partition they live on.
pub fn partition_of(sku: &str) -> i32 {
    i32::from(sku.starts_with('b'))
}

pub fn price_of(sku: &str) -> i64 {
    100 + sku.len() as i64
}

pub fn placed(id: &str, lines: &[(&str, i32)]) -> OrderPlaced {
    OrderPlaced {
        order_id: id.to_owned(),
        customer_id: "c".to_owned(),
        currency: "GBP".to_owned(),
        lines: lines.iter().map(|(sku, quantity)| OrderLine { sku: (*sku).to_owned(), quantity: *quantity }).collect(),
        payment_method: "tok_visa".to_owned(),
        expected_total: None,
        channel: "web".to_owned(),
        placed_at: 1,
    }
}

pub fn group(stock_partition: i32, state: GroupState) -> Group {
    Group { stock_partition, key: "k".to_owned(), state, attempt: 1 }
}

fn stock_lines(lines: &[(&str, i32)]) -> Vec<StockLine> {
    lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).to_owned(), quantity: *quantity }).collect()
}

impl History {
    #[allow(dead_code)]
    pub fn compact_after(&mut self, lag_ms: i64) {
        self.compaction_lag_ms = Some(lag_ms);
    }

    pub fn push(&mut self, partition: i32, record: Any) {
        self.records.push((partition, record));
    }

    pub fn adjust(&mut self, id: &str, sku: &str, kind: AdjustmentKind, quantity: i64) {
        let adjustment = StockAdjustment {
            adjustment_id: id.to_owned(),
            sku: sku.to_owned(),
            kind,
            quantity,
            reason: "r".to_owned(),
            at: 1,
        };
        self.push(partition_of(sku), Any::Adjustment(adjustment));
        self.level(sku, id, |level| match kind {
            AdjustmentKind::Opening => (level.opening, level.cause) = (level.opening + quantity, LevelCause::Opening),
            AdjustmentKind::Receipt => (level.received, level.cause) = (level.received + quantity, LevelCause::Receipt),
            AdjustmentKind::WriteOff => {
                (level.adjusted, level.cause) = (level.adjusted - quantity, LevelCause::WriteOff);
            }
            _ => (level.adjusted, level.cause) = (level.adjusted + quantity - level.on_hand, LevelCause::Count),
        });
    }

    pub fn level(&mut self, sku: &str, cause_id: &str, change: impl FnOnce(&mut StockLevel)) {
        let level = self.levels.entry(sku.to_owned()).or_insert_with(|| StockLevel {
            sku: sku.to_owned(),
            on_hand: 0,
            reserved: 0,
            opening: 0,
            received: 0,
            shipped: 0,
            adjusted: 0,
            version: 0,
            cause: LevelCause::Unknown,
            cause_id: String::new(),
            at: 1,
        });
        change(level);
        level.version += 1;
        level.cause_id = cause_id.to_owned();
        level.on_hand = level.opening + level.received + level.adjusted - level.shipped;
        let level = level.clone();
        self.push(partition_of(sku), Any::Level(level));
    }

    /// A command to the ledger and its answer; granted and done, with all balances.
    pub fn stock(&mut self, id: &str, kind: StockCommandKind, shipment: &str, lines: &[(&str, i32)]) {
        let partition = partition_of(lines[0].0);
        self.stock_command(id, partition, kind, shipment, if kind == StockCommandKind::Release { &[] } else { lines });
        for (sku, quantity) in lines {
            let quantity = i64::from(*quantity);
            self.level(sku, id, |level| match kind {
                StockCommandKind::Reserve => {
                    (level.reserved, level.cause) = (level.reserved + quantity, LevelCause::Reserved);
                }
                StockCommandKind::Release => {
                    (level.reserved, level.cause) = (level.reserved - quantity, LevelCause::Released);
                }
                _ => {
                    level.reserved -= quantity;
                    (level.shipped, level.cause) = (level.shipped + quantity, LevelCause::Shipped);
                }
            });
        }
        let answer = match kind {
            StockCommandKind::Reserve => StockEventKind::Reserved,
            StockCommandKind::Release => StockEventKind::Released,
            _ => StockEventKind::Shipped,
        };
        self.stock_event(id, partition, answer, shipment, lines);
    }

    pub fn stock_command(
        &mut self,
        id: &str,
        partition: i32,
        kind: StockCommandKind,
        shipment: &str,
        lines: &[(&str, i32)],
    ) {
        let command = StockCommand {
            order_id: id.to_owned(),
            attempt: 1,
            kind,
            command_id: shipment.to_owned(),
            lines: stock_lines(lines),
            at: 1,
        };
        self.push(partition, Any::StockCommand(command));
    }

    pub fn stock_event(
        &mut self,
        id: &str,
        partition: i32,
        kind: StockEventKind,
        shipment: &str,
        lines: &[(&str, i32)],
    ) {
        let event = StockEvent {
            order_id: id.to_owned(),
            attempt: 1,
            stock_partition: partition,
            kind,
            command_id: shipment.to_owned(),
            lines: stock_lines(lines),
            short: Vec::new(),
            at: 1,
        };
        self.push(0, Any::Stock(event));
    }

    pub fn accept(&mut self, id: &str, lines: &[(&str, i32)]) {
        let order = placed(id, lines);
        let fingerprint = order.fingerprint();
        self.push(0, Any::Placed(order));
        let mut priced: Vec<PricedLine> = lines
            .iter()
            .map(|(sku, quantity)| PricedLine {
                sku: (*sku).to_owned(),
                quantity: *quantity,
                unit_price_minor: price_of(sku),
                line_total_minor: price_of(sku) * i64::from(*quantity),
            })
            .collect();
        priced.sort_by(|a, b| a.sku.cmp(&b.sku));
        let minor = priced.iter().map(|line| line.line_total_minor).sum();
        let accepted = OrderAccepted {
            order_id: id.to_owned(),
            customer_id: "c".to_owned(),
            lines: priced,
            total: Money { minor, currency: "GBP".to_owned() },
            payment_method: "tok_visa".to_owned(),
            fingerprint,
            channel: "web".to_owned(),
            placed_at: 1,
            accepted_at: 2,
        };
        self.push(0, Any::Accepted(accepted));
        self.payment(id, PaymentEventKind::AuthorizationRequested, PaymentState::Authorizing, |p| {
            p.requested_minor = minor;
        });
        self.payment(id, PaymentEventKind::Authorized, PaymentState::Authorized, |p| p.authorized_minor = minor);
    }

    pub fn reject(&mut self, order: &OrderPlaced, reason: RejectReason) {
        let rejected = OrderRejected {
            order_id: order.order_id.clone(),
            customer_id: "c".to_owned(),
            reason,
            detail: "d".to_owned(),
            skus: Vec::new(),
            fingerprint: order.fingerprint(),
            placed_at: 1,
            rejected_at: 2,
        };
        self.push(0, Any::Rejected(rejected));
    }

    pub fn payment(
        &mut self,
        id: &str,
        kind: PaymentEventKind,
        state: PaymentState,
        change: impl FnOnce(&mut PaymentEvent),
    ) {
        let payment = self.payments.entry(id.to_owned()).or_insert_with(|| PaymentEvent {
            order_id: id.to_owned(),
            kind,
            state,
            version: 0,
            currency: "GBP".to_owned(),
            requested_minor: 0,
            authorized_minor: 0,
            captured_minor: 0,
            voided_minor: 0,
            refunded_minor: 0,
            payment_method: "tok_visa".to_owned(),
            provider_reference: None,
            attempt: 1,
            call: None,
            decline_kind: None,
            decline_code: None,
            void_wanted: false,
            waits_for: WaitsFor::Provider,
            until: Some(99),
            detail: String::new(),
            at: 1,
        });
        (payment.kind, payment.state) = (kind, state);
        payment.version += 1;
        change(payment);
        let payment = payment.clone();
        self.push(0, Any::Payment(payment));
    }

    pub fn capture(&mut self, id: &str, minor: i64) {
        self.pay(id, PaymentCommandKind::Capture);
        self.payment(id, PaymentEventKind::CaptureRequested, PaymentState::Capturing, |_| {});
        self.payment(id, PaymentEventKind::Captured, PaymentState::Captured, |p| {
            p.captured_minor = minor;
            p.voided_minor = p.authorized_minor - minor;
        });
        self.book(id);
    }

    pub fn void(&mut self, id: &str) {
        self.pay(id, PaymentCommandKind::Void);
        self.payment(id, PaymentEventKind::VoidRequested, PaymentState::Voiding, |_| {});
        self.payment(id, PaymentEventKind::Voided, PaymentState::Voided, |p| p.voided_minor = p.authorized_minor);
        self.book(id);
    }

    pub fn pay(&mut self, id: &str, kind: PaymentCommandKind) {
        let command = PaymentCommand { order_id: id.to_owned(), kind, amount: None, reason: "r".to_owned(), at: 1 };
        self.push(0, Any::PaymentCommand(command));
    }

    fn book(&mut self, id: &str) {
        let payment = &self.payments[id];
        self.provider.push(ProviderEntry {
            order_id: id.to_owned(),
            currency: payment.currency.clone(),
            authorized_minor: payment.authorized_minor,
            captured_minor: payment.captured_minor,
            voided_minor: payment.voided_minor,
            refunded_minor: payment.refunded_minor,
            authorizations: 1,
            captures: u32::from(payment.captured_minor > 0),
            live: 0,
        });
    }

    pub fn order(&mut self, id: &str, kind: OrderEventKind, status: OrderStatus, change: impl FnOnce(&mut OrderEvent)) {
        let order = self.orders.entry(id.to_owned()).or_insert_with(|| OrderEvent {
            order_id: id.to_owned(),
            kind,
            status,
            version: 0,
            customer_id: "c".to_owned(),
            payment: PaymentState::Authorized,
            total: Some(Money { minor: 1, currency: "GBP".to_owned() }),
            captured_minor: 0,
            groups: Vec::new(),
            progress: Vec::new(),
            shipped_minor: 0,
            shipments: Vec::new(),
            cancel_wanted: false,
            delivered: false,
            cancel_reason: None,
            waits_for: WaitsFor::Stock,
            until: Some(99),
            detail: String::new(),
            at: 1,
        });
        (order.kind, order.status) = (kind, status);
        order.version += 1;
        if matches!(status, OrderStatus::Completed | OrderStatus::Cancelled) {
            (order.waits_for, order.until) = (WaitsFor::Nobody, None);
        }
        change(order);
        let order = order.clone();
        self.push(0, Any::Order(order));
    }

    pub fn confirm(&mut self, id: &str, partitions: &[i32]) {
        self.order(id, OrderEventKind::Confirmed, OrderStatus::Confirmed, |order| {
            order.groups = partitions.iter().map(|partition| group(*partition, GroupState::Granted)).collect();
            order.waits_for = WaitsFor::Warehouse;
        });
    }

    pub fn ship(&mut self, id: &str, shipment: &str, status: OrderStatus) {
        let update = ShipmentUpdate {
            order_id: id.to_owned(),
            shipment_id: shipment.to_owned(),
            kind: ShipmentUpdateKind::Shipped,
            lines: Vec::new(),
            at: 1,
        };
        self.push(0, Any::Shipment(update));
        let kind =
            if status == OrderStatus::Shipped { OrderEventKind::Shipped } else { OrderEventKind::PartiallyShipped };
        self.order(id, kind, status, |_| {});
    }

    pub fn cancel_request(&mut self, id: &str) {
        let request = CancelRequested {
            order_id: id.to_owned(),
            request_id: "q".to_owned(),
            reason: "r".to_owned(),
            requested_by: "c".to_owned(),
            at: 1,
        };
        self.push(0, Any::Cancel(request));
    }

    pub fn cancelled(&mut self, id: &str, reason: CancelReason) {
        self.order(id, OrderEventKind::Cancelled, OrderStatus::Cancelled, |order| order.cancel_reason = Some(reason));
    }

    pub fn reserving(&mut self, id: &str) {
        self.order(id, OrderEventKind::ReservationRequested, OrderStatus::Reserving, |_| {});
    }

    /// An order of one group that goes all the way.
    pub fn completed(&mut self, id: &str, lines: &[(&str, i32)]) {
        self.accept(id, lines);
        self.reserving(id);
        self.stock(id, StockCommandKind::Reserve, "", lines);
        self.confirm(id, &[partition_of(lines[0].0)]);
        self.ship(id, "1", OrderStatus::Shipped);
        self.stock(id, StockCommandKind::Ship, "1", lines);
        let value = lines.iter().map(|(sku, quantity)| price_of(sku) * i64::from(*quantity)).sum();
        self.capture(id, value);
        self.order(id, OrderEventKind::Captured, OrderStatus::Shipped, |_| {});
        self.order(id, OrderEventKind::Completed, OrderStatus::Completed, |_| {});
    }

    /// Feeds it in the order it came about.
    pub fn report(&self, phase: Phase) -> Report {
        self.report_in_order(phase, &mut |_| 0)
    }

    /// Feeds it topic by topic or mixed: `pick` says which of so many topics gives the next record.
    pub fn report_in_order(&self, phase: Phase, pick: &mut dyn FnMut(usize) -> usize) -> Report {
        self.audit_in_order(pick).report(phase)
    }

    pub fn audit_in_order(&self, pick: &mut dyn FnMut(usize) -> usize) -> Audit {
        let codec = Codec::offline();
        let mut audit = Audit::new(codec.clone()).levels_compact_after(self.compaction_lag_ms);
        let mut queues: Vec<(&str, Queue<'_>)> = Vec::new();
        let mut ends: std::collections::HashMap<(&str, i32), i64> = std::collections::HashMap::new();
        for (partition, record) in &self.records {
            let end = ends.entry((record.topic(), *partition)).or_insert(0);
            let at = queues.iter().position(|(topic, _)| *topic == record.topic()).unwrap_or_else(|| {
                queues.push((record.topic(), Queue::new()));
                queues.len() - 1
            });
            queues[at].1.push_back((*partition, *end, record));
            *end += 2; // a transaction's marker lies between
        }
        while !queues.is_empty() {
            let at = pick(queues.len()).min(queues.len() - 1);
            let Some((partition, offset, record)) = queues[at].1.pop_front() else {
                queues.remove(at);
                continue;
            };
            let (key, value, headers) = (record.key(), record.value(&codec), record.headers());
            let timestamp = self.times.get(&(record.topic(), partition, offset)).copied().unwrap_or(1);
            let value = (!matches!(record, Any::Mark(..))).then_some(value.as_slice());
            let read = Record { offset, timestamp, key: key.as_bytes(), value, headers: &headers };
            audit.record(record.topic(), partition, &read);
        }
        for entry in &self.provider {
            audit.provider(entry);
        }
        audit
    }
}

/// The shop of the module's words.
pub fn clean() -> History {
    let mut h = History::default();
    h.push(1, Any::Garbage);
    h.push(0, Any::Letter(topics::ORDERS_PLACED, 1, 0));
    for (sku, opening) in [("a1", 10), ("a2", 10), ("b1", 1), ("b22", 20)] {
        h.adjust(&format!("open-{sku}"), sku, AdjustmentKind::Opening, opening);
    }
    h.adjust("r1", "a1", AdjustmentKind::Receipt, 5);
    h.adjust("w1", "a2", AdjustmentKind::WriteOff, 1);
    h.adjust("c1", "b22", AdjustmentKind::Count, 18);
    // whole, submitted twice, and a third time with another body
    h.completed("whole", &[("a1", 2), ("a2", 1)]);
    h.push(0, Any::Placed(placed("whole", &[("a1", 2), ("a2", 1)])));
    let other = placed("whole", &[("a1", 3)]);
    h.push(0, Any::Placed(other.clone()));
    h.reject(&other, RejectReason::ConflictingDuplicate);
    // split: two groups, two shipments, one of b22 never found; an answer comes twice
    h.accept("split", &[("a1", 2), ("b22", 4)]);
    h.reserving("split");
    h.stock("split", StockCommandKind::Reserve, "", &[("a1", 2)]);
    h.stock("split", StockCommandKind::Reserve, "", &[("b22", 4)]);
    h.stock_command("split", 0, StockCommandKind::Reserve, "", &[("a1", 2)]);
    h.stock_event("split", 0, StockEventKind::Reserved, "", &[("a1", 2)]);
    h.confirm("split", &[0, 1]);
    h.ship("split", "1", OrderStatus::PartiallyShipped);
    h.stock("split", StockCommandKind::Ship, "1", &[("a1", 2)]);
    h.ship("split", "2", OrderStatus::Shipped);
    h.stock("split", StockCommandKind::Ship, "2", &[("b22", 3)]);
    h.stock("split", StockCommandKind::Release, "", &[("b22", 1)]);
    h.capture("split", 2 * price_of("a1") + 3 * price_of("b22"));
    h.cancel_request("split");
    h.order("split", OrderEventKind::CancelRefused, OrderStatus::Shipped, |_| {});
    h.order("split", OrderEventKind::Delivered, OrderStatus::Delivered, |_| {});
    h.order("split", OrderEventKind::Completed, OrderStatus::Completed, |_| {});
    // sold-out: one group granted, the other refused
    h.accept("sold-out", &[("a2", 1), ("b1", 2)]);
    h.reserving("sold-out");
    h.stock("sold-out", StockCommandKind::Reserve, "", &[("a2", 1)]);
    h.stock_command("sold-out", 1, StockCommandKind::Reserve, "", &[("b1", 2)]);
    h.stock_event("sold-out", 1, StockEventKind::Insufficient, "", &[]);
    h.order("sold-out", OrderEventKind::Cancelling, OrderStatus::Cancelling, |order| {
        order.groups = vec![group(0, GroupState::Releasing), group(1, GroupState::Refused)];
    });
    h.stock("sold-out", StockCommandKind::Release, "", &[("a2", 1)]);
    h.void("sold-out");
    h.cancelled("sold-out", CancelReason::OutOfStock);
    // regret
    h.accept("regret", &[("a1", 1)]);
    h.reserving("regret");
    h.stock("regret", StockCommandKind::Reserve, "", &[("a1", 1)]);
    h.confirm("regret", &[0]);
    h.cancel_request("regret");
    h.order("regret", OrderEventKind::CancelRequested, OrderStatus::Cancelling, |order| {
        order.groups = vec![group(0, GroupState::Releasing)];
    });
    h.stock("regret", StockCommandKind::Release, "", &[("a1", 1)]);
    h.void("regret");
    h.cancelled("regret", CancelReason::Customer);
    // nobody
    let nobody = placed("nobody", &[("z", 1)]);
    h.push(0, Any::Placed(nobody.clone()));
    h.reject(&nobody, RejectReason::UnknownSku);
    h
}
