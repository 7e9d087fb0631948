//! One decision in the making: the order as it changes and the commands that go with it. Knows how a thing is done;
//! whether it is done is up to [`super::decide`].

use millrace_schemas::{
    CancelReason, GroupState, Money as Amount, OrderEvent, OrderEventKind, OrderStatus, PaymentCommand,
    PaymentCommandKind, PaymentState, StockCommand, StockCommandKind, StockLine, WaitsFor,
};

use super::decide::{Decision, Policy};
use super::lines::Accepted;
use super::state::{Cause, Money, is_final, is_settled, money, waits_for};
use crate::planted;

/// How often a deadline doubles while nobody answers.
const DOUBLINGS_MAX: i64 = 6;

/// One decision in the making.
pub(super) struct Turn<'a> {
    pub(super) order: OrderEvent,
    pub(super) cause: Cause,
    pub(super) policy: &'a Policy,
    pub(super) notice: Option<&'static str>,
    from: OrderStatus,
    now: i64,
    stock: Vec<(usize, StockCommand)>,
    payment: Option<PaymentCommand>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(order: OrderEvent, cause: Cause, now: i64, policy: &'a Policy) -> Self {
        let from = order.status;
        Self { order, cause, policy, notice: None, from, now, stock: Vec::new(), payment: None }
    }

    /// Notes whose order it is and what it costs.
    pub(super) fn knows(&mut self, accepted: &Accepted) {
        self.order.customer_id.clone_from(&accepted.customer_id);
        self.order.total = Some(accepted.total.clone());
    }

    pub(super) fn reserve(&mut self, place: usize, lines: Vec<StockLine>) {
        self.tell_stock(place, StockCommandKind::Reserve, String::new(), lines);
    }

    pub(super) fn ship(&mut self, place: usize, shipment_id: &str, lines: Vec<StockLine>) {
        self.tell_stock(place, StockCommandKind::Ship, shipment_id.to_owned(), lines);
    }

    /// Lets go what is still held of a group.
    pub(super) fn release(&mut self, place: usize) {
        self.order.groups[place].state = GroupState::Releasing;
        self.tell_stock(place, StockCommandKind::Release, String::new(), Vec::new());
    }

    fn tell_stock(&mut self, place: usize, kind: StockCommandKind, command_id: String, lines: Vec<StockLine>) {
        let attempt = self.order.groups[place].attempt;
        let order_id = self.order.order_id.clone();
        self.stock.push((place, StockCommand { order_id, attempt, kind, command_id, lines, at: self.now }));
    }

    fn tell_payment(&mut self, kind: PaymentCommandKind, minor: Option<i64>, reason: &str) {
        let currency = self.order.total.as_ref().map_or_else(String::new, |total| total.currency.clone());
        self.payment = Some(PaymentCommand {
            order_id: self.order.order_id.clone(),
            kind,
            amount: minor.map(|minor| Amount { minor, currency }),
            reason: reason.to_owned(),
            at: self.now,
        });
    }

    /// Void or refund, whichever the money calls for; nothing where it is gone already.
    pub(super) fn give_money_back(&mut self, reason: &str) {
        if planted::is(planted::Defect::MoneyKept) {
            self.order.payment = PaymentState::Voided;
            return;
        }
        match money(self.order.payment) {
            Money::Gone => {}
            Money::Unheard | Money::Asked | Money::Held => self.tell_payment(PaymentCommandKind::Void, None, reason),
            Money::Taken => self.tell_payment(PaymentCommandKind::Refund, Some(self.order.captured_minor), reason),
        }
    }

    /// Takes the money for what has shipped, and no more.
    pub(super) fn collect(&mut self) {
        let due = self.due();
        match money(self.order.payment) {
            Money::Held if due > 0 => self.tell_payment(PaymentCommandKind::Capture, Some(due), "shipped"),
            Money::Held => self.tell_payment(PaymentCommandKind::Void, None, "what has shipped costs nothing"),
            Money::Taken if self.from != self.order.status => self.give_back_the_excess(),
            Money::Unheard | Money::Asked | Money::Taken | Money::Gone => {}
        }
    }

    /// Of an order of which nothing more will ship: what was captured by others is perhaps more than what has.
    pub(super) fn give_back_the_excess(&mut self) {
        let over = self.order.captured_minor.saturating_sub(self.due());
        if money(self.order.payment) == Money::Taken && over > 0 {
            self.tell_payment(PaymentCommandKind::Refund, Some(over), "more was captured than shipped");
        }
    }

    fn due(&self) -> i64 {
        self.order.shipped_minor.min(self.order.total.as_ref().map_or(i64::MAX, |total| total.minor))
    }

    /// Counts goods that left and whose money is lost.
    pub(super) fn notice_uncollected(&mut self, before: Money) {
        if before < Money::Taken && self.order.shipped_minor > 0 {
            self.notice = Some("uncollected");
        }
    }

    /// Repeats every release that was not answered.
    pub(super) fn ask_again(&mut self) {
        for place in 0..self.order.groups.len() {
            if self.order.groups[place].state == GroupState::Releasing {
                self.release(place);
            }
        }
    }

    /// Takes the shortest way to cancelled: lets go what was asked for, gives the money back.
    pub(super) fn cancel(mut self, reason: CancelReason, detail: &str) -> Decision {
        self.order.cancel_reason.get_or_insert(reason);
        for place in 0..self.order.groups.len() {
            if planted::is(planted::Defect::GroupNotReleased) && place == 0 {
                self.order.groups[place].state = GroupState::Released;
                continue;
            }
            if matches!(self.order.groups[place].state, GroupState::Requested | GroupState::Granted) {
                self.release(place);
            }
        }
        self.give_money_back("cancelled");
        self.cancelled_if_done(detail)
    }

    /// Cancelled once the ledger and payment have said their last word, cancelling until then.
    pub(super) fn cancelled_if_done(self, detail: &str) -> Decision {
        let done = self.order.groups.iter().all(is_settled) && money(self.order.payment) == Money::Gone;
        let kind = match (self.from, self.cause) {
            _ if done => OrderEventKind::Cancelled,
            (OrderStatus::Cancelling, _) => OrderEventKind::Noted,
            (_, Cause::CancelRequested) => OrderEventKind::CancelRequested,
            _ => OrderEventKind::Cancelling,
        };
        self.finish(if done { OrderStatus::Cancelled } else { OrderStatus::Cancelling }, kind, detail)
    }

    /// Nothing more will ship: captures what has, lets the rest go.
    pub(super) fn close(mut self, detail: &str) -> Decision {
        for place in 0..self.order.groups.len() {
            if self.order.groups[place].state == GroupState::Granted {
                self.release(place);
            }
        }
        self.order.progress.clear();
        self.order.status = if self.order.delivered { OrderStatus::Delivered } else { OrderStatus::Shipped };
        self.collect();
        let status = self.order.status;
        self.finish(status, OrderEventKind::Shipped, detail)
    }

    /// Whether nothing of a shipped order is outstanding but its delivery.
    pub(super) fn is_closed(&self) -> bool {
        money(self.order.payment) >= Money::Taken
            && self.order.groups.iter().all(|group| group.state != GroupState::Releasing)
    }

    /// Completed once it is delivered and nothing else is outstanding, else the event of this kind.
    pub(super) fn close_if_done(self, kind: OrderEventKind, detail: &str) -> Decision {
        let (status, kind) = match self.order.status {
            OrderStatus::Delivered if self.is_closed() => (OrderStatus::Completed, OrderEventKind::Completed),
            status => (status, kind),
        };
        self.finish(status, kind, detail)
    }

    /// An event that leaves the order where it is.
    pub(super) fn stay(self, kind: OrderEventKind, detail: &str) -> Decision {
        let status = self.order.status;
        self.finish(status, kind, detail)
    }

    /// The decision: the order's next event, with whom it waits for and until when, and the commands.
    pub(super) fn finish(mut self, status: OrderStatus, kind: OrderEventKind, detail: &str) -> Decision {
        let waited_for = self.order.waits_for;
        self.order.status = status;
        self.order.kind = kind;
        self.order.waits_for = waits_for(&self.order);
        self.order.until = self.until(waited_for);
        self.order.version += 1;
        self.order.at = self.now;
        self.order.detail.clear();
        self.order.detail.push_str(detail);
        Decision { event: Some(self.order), stock: self.stock, payment: self.payment, notice: self.notice }
    }

    /// A wait that goes on keeps its end; one whose end has passed is extended, each time by more; a new one is new.
    fn until(&self, waited_for: WaitsFor) -> Option<i64> {
        let order = &self.order;
        if is_final(order.status) {
            return None;
        }
        let for_warehouse = order.waits_for == WaitsFor::Warehouse;
        let same = order.waits_for == waited_for && (order.status == self.from || for_warehouse);
        let pause = match order.waits_for {
            WaitsFor::Warehouse => self.policy.shipping_timeout,
            WaitsFor::Carrier => self.policy.delivery_timeout,
            _ if order.status == OrderStatus::Cancelling => self.policy.cancel_timeout,
            WaitsFor::Stock => self.policy.reservation_timeout,
            WaitsFor::Unknown
            | WaitsFor::Nobody
            | WaitsFor::Intake
            | WaitsFor::Payment
            | WaitsFor::Provider
            | WaitsFor::Fulfillment => self.policy.payment_timeout,
        };
        match order.until {
            Some(until) if same && self.cause != Cause::Deadline => Some(until),
            _ if same => Some(self.now + pause.saturating_mul(1 << order.version.clamp(1, DOUBLINGS_MAX))),
            _ => Some(self.now + pause),
        }
    }
}
