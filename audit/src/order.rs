//! What is remembered of one order, and what shows at once: two acceptances, a version that goes back, a move that is
//! not allowed, money that does not add up. What can only be told at the end is in [`crate::judge`].

use millrace_schemas::{
    CancelReason, GroupState, OrderAccepted, OrderEvent, OrderEventKind, OrderPlaced, OrderRejected, OrderStatus,
    PaymentCommandKind, PaymentEvent, PaymentEventKind, PaymentState, RejectReason, StockCommand, StockCommandKind,
    StockEvent, StockEventKind, WaitsFor,
};

use crate::finding::{Place, Promise};
use crate::identity::hash_of;
use crate::ledger::{MoveKind, Moved};
use crate::moves::{order_is_final, order_may, payment_is_final, payment_may};
use crate::report::OrderTotals;
use crate::{Desk, ProviderEntry};

/// One content under the order's id.
#[derive(Clone)]
pub(crate) struct Body {
    pub(crate) fingerprint: u64,
    pub(crate) placed: u32,
    pub(crate) refused: u32,
    pub(crate) lettered: bool,
    pub(crate) place: Place,
}

pub(crate) struct Accepted {
    pub(crate) fingerprint: u64,
    pub(crate) total_minor: i64,
    pub(crate) currency: u16,
    /// All lines as a number that adds up.
    pub(crate) amount: u64,
    /// SKU number and price, ascending.
    pub(crate) prices: Vec<(u32, i64)>,
    pub(crate) place: Place,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) authorized: i64,
    pub(crate) captured: i64,
    pub(crate) voided: i64,
    pub(crate) refunded: i64,
}

#[derive(Default)]
pub(crate) struct Payment {
    pub(crate) version: i64,
    pub(crate) state: PaymentState,
    pub(crate) currency: u16,
    pub(crate) sums: Sums,
    pub(crate) authorizations: u32,
    pub(crate) captures: u32,
    pub(crate) refused: u32,
    pub(crate) waits_for: WaitsFor,
    pub(crate) until: bool,
    pub(crate) place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Reserve,
    Release,
    Ship,
}

/// One question to the ledger and its answer.
pub(crate) struct Call {
    pub(crate) partition: i32,
    pub(crate) attempt: i32,
    pub(crate) ask: Ask,
    pub(crate) command: u64,
    pub(crate) asked: Option<Place>,
    pub(crate) answered: Option<Place>,
    /// What was granted, as a number that adds up.
    pub(crate) amount: u64,
}

/// An order of which something may still come.
pub(crate) struct Order {
    id: Box<str>,
    pub(crate) first: Place,
    /// It was closed and verified before: what was compared then is gone and not compared again.
    pub(crate) sealed: bool,
    pub(crate) bodies: Vec<Body>,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) rejected: Option<(RejectReason, u64, Place)>,
    pub(crate) payment: Payment,
    pub(crate) capture_asked: Option<Place>,
    pub(crate) void_asked: Option<Place>,
    pub(crate) refund_asked: Option<Place>,
    pub(crate) status: OrderStatus,
    pub(crate) version: i64,
    pub(crate) waits_for: WaitsFor,
    pub(crate) until: bool,
    pub(crate) order_known: bool,
    pub(crate) cancel_reason: CancelReason,
    pub(crate) event_place: Option<Place>,
    pub(crate) was_confirmed: bool,
    pub(crate) was_shipped: bool,
    /// Groups as of the last event: partition, attempt and whether they were to be released.
    groups: Vec<(i32, i32, bool)>,
    /// The payment as fulfillment last heard of it.
    payment_heard: PaymentState,
    /// Groups as of the confirmation: partition and attempt.
    pub(crate) confirmed: Vec<(i32, i32)>,
    pub(crate) cancel_asked: Option<Place>,
    pub(crate) cancel_refused: bool,
    pub(crate) shipment_heard: bool,
    pub(crate) calls: Vec<Call>,
    answers: Vec<u64>,
    /// Per kind of move: the balances' words less the answers' words; all 0 when they agree.
    pub(crate) moved: [u64; 3],
    pub(crate) moved_place: Place,
    /// Reserved less released less shipped, by the answers.
    pub(crate) held: u64,
    pub(crate) shipped: Vec<(u32, i32)>,
    pub(crate) provider: Option<(u16, Sums, ProviderCounts)>,
}

#[derive(Clone, Copy)]
pub(crate) struct ProviderCounts {
    pub(crate) authorizations: u32,
    pub(crate) captures: u32,
    pub(crate) live: u32,
}

/// An order that is closed and verified: what a late record must still be compared with.
pub(crate) struct Closed {
    fingerprint: u64,
    authorized: i64,
    captured: i64,
    version: u32,
    payment_version: u32,
    currency: u16,
    outcome: Outcome,
    payment: PaymentState,
    provider_agrees: bool,
    cancel_refused: bool,
    command_refused: bool,
    was_confirmed: bool,
    was_shipped: bool,
}

#[derive(Clone, Copy)]
enum Outcome {
    Rejected(RejectReason),
    Completed,
    Cancelled(CancelReason),
}

impl Order {
    pub(crate) fn new(id: &str, first: Place) -> Self {
        Self {
            id: id.into(),
            first,
            sealed: false,
            bodies: Vec::new(),
            accepted: None,
            rejected: None,
            payment: Payment::default(),
            capture_asked: None,
            void_asked: None,
            refund_asked: None,
            status: OrderStatus::Unknown,
            version: 0,
            waits_for: WaitsFor::Unknown,
            until: false,
            order_known: false,
            cancel_reason: CancelReason::Unknown,
            event_place: None,
            was_confirmed: false,
            was_shipped: false,
            groups: Vec::new(),
            payment_heard: PaymentState::Unknown,
            confirmed: Vec::new(),
            cancel_asked: None,
            cancel_refused: false,
            shipment_heard: false,
            calls: Vec::new(),
            answers: Vec::new(),
            moved: [0; 3],
            moved_place: first,
            held: 0,
            shipped: Vec::new(),
            provider: None,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn placed(&mut self, placed: &OrderPlaced, place: Place, lettered: bool, desk: &mut Desk) {
        let fingerprint = hash_of(&placed.fingerprint().as_str());
        if self.bodies.iter().all(|body| body.placed == 0) {
            desk.orders.placed += 1;
        } else if self.bodies.iter().any(|body| body.placed > 0 && body.fingerprint == fingerprint) {
            desk.orders.duplicates += 1;
        } else {
            desk.orders.conflicting += 1;
        }
        let body = self.body(fingerprint, place);
        if body.placed == 0 {
            body.place = place;
        }
        body.placed += 1;
        body.lettered |= lettered;
    }

    /// The same record, put back from the dead letters: what came of it before is over.
    pub(crate) fn placed_again(&mut self, placed: &OrderPlaced, place: Place, lettered: bool, desk: &mut Desk) {
        let fingerprint = hash_of(&placed.fingerprint().as_str());
        match self.bodies.iter_mut().find(|body| body.fingerprint == fingerprint && body.placed > 0) {
            Some(body) => (body.place, body.lettered) = (place, lettered),
            None => self.placed(placed, place, lettered, desk),
        }
    }

    /// The placed record at this place became a dead letter.
    pub(crate) fn placed_was_lettered(&mut self, place: Place) {
        if let Some(body) = self.bodies.iter_mut().find(|body| body.place == place) {
            body.lettered = true;
        }
    }

    fn body(&mut self, fingerprint: u64, place: Place) -> &mut Body {
        let known = self.bodies.iter().position(|body| body.fingerprint == fingerprint);
        let at = known.unwrap_or_else(|| {
            self.bodies.push(Body { fingerprint, placed: 0, refused: 0, lettered: false, place });
            self.bodies.len() - 1
        });
        &mut self.bodies[at]
    }

    pub(crate) fn accepted(&mut self, accepted: &OrderAccepted, place: Place, desk: &mut Desk) {
        let fingerprint = hash_of(&accepted.fingerprint.as_str());
        if self.accepted.is_some() {
            desk.findings.add(Promise::P4, &self.id, place, format_args!("accepted a second time"));
            return;
        }
        if self.rejected.is_some() {
            desk.findings.add(Promise::P1, &self.id, place, format_args!("accepted as well as rejected"));
        }
        let mut amount = 0u64;
        let mut prices = Vec::with_capacity(accepted.lines.len());
        for line in &accepted.lines {
            amount = amount.wrapping_add(desk.ledger.amount(&line.sku, i64::from(line.quantity)));
            prices.push((desk.ledger.number(&line.sku), line.unit_price_minor));
        }
        prices.sort_unstable();
        self.accepted = Some(Accepted {
            fingerprint,
            total_minor: accepted.total.minor,
            currency: desk.currency(&accepted.total.currency),
            amount,
            prices,
            place,
        });
    }

    pub(crate) fn rejected(&mut self, rejected: &OrderRejected, place: Place, desk: &mut Desk) {
        let fingerprint = hash_of(&rejected.fingerprint.as_str());
        if rejected.reason == RejectReason::ConflictingDuplicate {
            self.body(fingerprint, place).refused += 1;
            return;
        }
        if self.rejected.is_some() {
            desk.findings.add(Promise::P1, &self.id, place, format_args!("rejected a second time"));
        } else if self.accepted.is_some() {
            desk.findings.add(Promise::P1, &self.id, place, format_args!("rejected as well as accepted"));
        } else {
            self.rejected = Some((rejected.reason, fingerprint, place));
        }
    }

    pub(crate) fn payment_command(&mut self, kind: PaymentCommandKind, place: Place) {
        let asked = match kind {
            PaymentCommandKind::Capture => &mut self.capture_asked,
            PaymentCommandKind::Void => &mut self.void_asked,
            PaymentCommandKind::Refund => &mut self.refund_asked,
            PaymentCommandKind::Unknown => return,
        };
        asked.get_or_insert(place);
    }

    pub(crate) fn payment_event(&mut self, event: &PaymentEvent, place: Place, desk: &mut Desk) {
        let before = &self.payment;
        if event.version <= before.version {
            let what = format_args!("payment version {} comes after version {}", event.version, before.version);
            desk.findings.add(Promise::P8, &self.id, place, what);
            return;
        }
        let authorized = event.kind == PaymentEventKind::Authorized || event.authorized_minor > before.sums.authorized;
        let captured = event.kind == PaymentEventKind::Captured || event.captured_minor > before.sums.captured;
        let second_authorization = authorized && before.authorizations > 0;
        let second_capture = captured && before.captures > 0;
        if event.version > before.version + 1 {
            let what = format_args!("payment version {} comes right after version {}", event.version, before.version);
            desk.findings.add(Promise::P5, &self.id, place, what);
        } else if second_authorization || second_capture {
            let what = if second_capture { "captured a second time" } else { "authorized a second time" };
            desk.findings.add(Promise::P2, &self.id, place, format_args!("{what}"));
        } else if !payment_may(before.state, event.state) {
            let what = format_args!("the payment went from {} to {}", before.state.as_str(), event.state.as_str());
            desk.findings.add(Promise::P8, &self.id, place, what);
        }
        let sums = Sums {
            authorized: event.authorized_minor,
            captured: event.captured_minor,
            voided: event.voided_minor,
            refunded: event.refunded_minor,
        };
        let gone = sums.captured.checked_add(sums.voided);
        let negative = [sums.authorized, sums.captured, sums.voided, sums.refunded].iter().any(|minor| *minor < 0);
        if negative || gone.is_none_or(|gone| gone > sums.authorized) || sums.refunded > sums.captured {
            let what = format_args!("the money does not add up: {}", Amounts(sums));
            desk.findings.add(Promise::P2, &self.id, place, what);
        }
        let currency = desk.currency(&event.currency);
        desk.money[usize::from(currency)].change(before.sums, sums);
        self.payment = Payment {
            version: event.version,
            state: event.state,
            currency,
            sums,
            authorizations: before.authorizations + u32::from(authorized),
            captures: before.captures + u32::from(captured),
            refused: before.refused + u32::from(event.kind == PaymentEventKind::CommandRefused),
            waits_for: event.waits_for,
            until: event.until.is_some(),
            place: Some(place),
        };
    }

    pub(crate) fn stock_command(&mut self, command: &StockCommand, place: Place) {
        let ask = match command.kind {
            StockCommandKind::Reserve => Ask::Reserve,
            StockCommandKind::Release => Ask::Release,
            StockCommandKind::Ship => Ask::Ship,
            StockCommandKind::Unknown => return,
        };
        if !self.sealed {
            let call = self.call(place.partition, command.attempt, ask, &command.command_id);
            call.asked.get_or_insert(place);
        }
    }

    pub(crate) fn stock_event(&mut self, event: &StockEvent, place: Place, desk: &mut Desk) {
        if self.sealed {
            return; // an answer repeated: were it not, a balance would say so
        }
        let lines: Vec<(&str, i32)> = event.lines.iter().map(|line| (line.sku.as_str(), line.quantity)).collect();
        let said = (event.attempt, event.stock_partition, event.kind as u8, event.command_id.as_str(), lines);
        let said = hash_of(&said);
        if self.answers.contains(&said) {
            return; // what was answered once may be answered again
        }
        self.answers.push(said);
        let mut amount = 0u64;
        for line in &event.lines {
            amount = amount.wrapping_add(desk.ledger.amount(&line.sku, i64::from(line.quantity)));
        }
        let (ask, took, held) = match event.kind {
            StockEventKind::Reserved => (Ask::Reserve, Some(MoveKind::Reserved), amount),
            StockEventKind::Insufficient => (Ask::Reserve, None, 0),
            StockEventKind::Released => (Ask::Release, Some(MoveKind::Released), amount.wrapping_neg()),
            StockEventKind::Shipped => (Ask::Ship, Some(MoveKind::Shipped), amount.wrapping_neg()),
            StockEventKind::Refused if event.command_id.is_empty() => (Ask::Reserve, None, 0),
            StockEventKind::Refused => (Ask::Ship, None, 0),
            StockEventKind::Unknown => return,
        };
        if event.kind == StockEventKind::Shipped {
            for line in &event.lines {
                self.shipped.push((desk.ledger.number(&line.sku), line.quantity));
            }
        }
        if let Some(kind) = took {
            self.moved[kind as usize] = self.moved[kind as usize].wrapping_sub(amount);
            self.moved_place = place;
        }
        self.held = self.held.wrapping_add(held);
        let call = self.call(event.stock_partition, event.attempt, ask, &event.command_id);
        call.answered.get_or_insert(place);
        if took == Some(MoveKind::Reserved) {
            call.amount = call.amount.wrapping_add(amount);
        }
    }

    fn call(&mut self, partition: i32, attempt: i32, ask: Ask, command: &str) -> &mut Call {
        let command = if ask == Ask::Ship { hash_of(&command) } else { 0 };
        let same = |call: &Call| {
            call.partition == partition && call.attempt == attempt && call.ask == ask && call.command == command
        };
        let at = self.calls.iter().position(same).unwrap_or_else(|| {
            self.calls.push(Call { partition, attempt, ask, command, asked: None, answered: None, amount: 0 });
            self.calls.len() - 1
        });
        &mut self.calls[at]
    }

    /// A balance says that something was moved for this order.
    pub(crate) fn stock_moved(&mut self, moved: Moved, place: Place) {
        let sum = &mut self.moved[moved.kind as usize];
        *sum = sum.wrapping_add(moved.amount);
        self.moved_place = place;
    }

    pub(crate) fn cancel_requested(&mut self, place: Place) {
        self.cancel_asked.get_or_insert(place);
    }

    pub(crate) fn shipment_heard(&mut self) {
        self.shipment_heard = true;
    }

    pub(crate) fn order_event(&mut self, event: &OrderEvent, place: Place, desk: &mut Desk) {
        if event.version <= self.version {
            let what = format_args!("order version {} comes after version {}", event.version, self.version);
            desk.findings.add(Promise::P8, &self.id, place, what);
            return;
        }
        if event.version > self.version + 1 {
            let what = format_args!("order version {} comes right after version {}", event.version, self.version);
            desk.findings.add(Promise::P5, &self.id, place, what);
        } else if !order_may(self.status, event.status, self.order_known) {
            let what = format_args!("the order went from {} to {}", self.status.as_str(), event.status.as_str());
            desk.findings.add(Promise::P8, &self.id, place, what);
        }
        if event.kind == OrderEventKind::Confirmed {
            let all = !event.groups.is_empty()
                && event.groups.iter().all(|g| matches!(g.state, GroupState::Granted | GroupState::Shipped));
            if !all {
                let what = format_args!("confirmed before all of its groups were granted");
                desk.findings.add(Promise::P5, &self.id, place, what);
            }
            self.confirmed = event.groups.iter().map(|group| (group.stock_partition, group.attempt)).collect();
        }
        self.was_confirmed |= event.status == OrderStatus::Confirmed;
        self.was_shipped |= matches!(event.status, OrderStatus::PartiallyShipped | OrderStatus::Shipped);
        self.cancel_refused |= event.kind == OrderEventKind::CancelRefused;
        let released = |state| matches!(state, GroupState::Releasing | GroupState::Released);
        self.groups.clear();
        self.groups.extend(event.groups.iter().map(|g| (g.stock_partition, g.attempt, released(g.state))));
        self.payment_heard = event.payment;
        self.version = event.version;
        self.status = event.status;
        self.waits_for = event.waits_for;
        self.until = event.until.is_some();
        self.order_known = event.total.is_some();
        self.cancel_reason = event.cancel_reason.unwrap_or_default();
        self.event_place = Some(place);
    }

    pub(crate) fn provider(&mut self, entry: &ProviderEntry, desk: &mut Desk) {
        let sums = Sums {
            authorized: entry.authorized_minor,
            captured: entry.captured_minor,
            voided: entry.voided_minor,
            refunded: entry.refunded_minor,
        };
        let counts =
            ProviderCounts { authorizations: entry.authorizations, captures: entry.captures, live: entry.live };
        self.provider = Some((desk.currency(&entry.currency), sums, counts));
    }

    pub(crate) fn lacks_provider_entry(&self) -> bool {
        self.provider.is_none() && self.payment.sums.authorized > 0
    }

    pub(crate) fn payment_place(&self) -> Place {
        self.payment.place.unwrap_or(self.first)
    }

    /// Something of it is neither decided nor at its end.
    pub(crate) fn is_pending(&self) -> bool {
        let refused = |body: &Body| body.refused > 0 || body.lettered;
        if self.accepted.is_none() && self.rejected.is_none() {
            return self.bodies.iter().any(|body| body.placed > 0 && !refused(body));
        }
        let decided = self.decided_fingerprint();
        if self.bodies.iter().any(|body| Some(body.fingerprint) != decided && !refused(body)) {
            return true;
        }
        self.accepted.is_some()
            && !(order_is_final(self.status) && (self.payment.version == 0 || payment_is_final(self.payment.state)))
    }

    /// Which of the bodies became the order.
    pub(crate) fn decided_fingerprint(&self) -> Option<u64> {
        self.accepted.as_ref().map(|a| a.fingerprint).or(self.rejected.map(|(_, fingerprint, _)| fingerprint))
    }

    /// Whom it waits for, by the last word of whoever has it.
    pub(crate) fn waits(&self) -> (WaitsFor, bool) {
        if self.accepted.is_none() && self.version == 0 {
            (WaitsFor::Intake, true)
        } else if self.version > 0 {
            (self.waits_for, self.until)
        } else if self.payment.version == 0 {
            (WaitsFor::Payment, true)
        } else if payment_is_final(self.payment.state) || self.payment.state == PaymentState::Authorized {
            (WaitsFor::Fulfillment, true)
        } else {
            (self.payment.waits_for, self.payment.until)
        }
    }

    pub(crate) fn count(&self, totals: &mut OrderTotals) {
        if let Some((reason, _, _)) = self.rejected {
            *totals.rejected.entry(reason.as_str().to_owned()).or_default() += 1;
        }
        if self.accepted.is_some() {
            totals.accepted += 1;
        }
        totals.confirmed += u64::from(self.was_confirmed);
        totals.shipped += u64::from(self.was_shipped);
        match self.status {
            OrderStatus::Completed => totals.completed += 1,
            OrderStatus::Cancelled => totals.cancelled_for(self.cancel_reason),
            _ if self.accepted.is_some() || self.is_pending() || self.version > 0 => {
                *totals.open.entry(self.waits().0.as_str().to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }

    /// Whether the other topics have told what fulfillment heard before its last event. Until then an order may look
    /// finished only because its topics were read one after the other.
    fn is_all_read(&self) -> bool {
        if self.sealed {
            return true;
        }
        let answered = |partition: i32, attempt: i32, ask: Ask| {
            let mut calls = self.calls.iter().filter(|c| (c.partition, c.attempt, c.ask) == (partition, attempt, ask));
            calls.any(|call| call.answered.is_some())
        };
        let told = |&(partition, attempt, released): &(i32, i32, bool)| {
            let let_go = answered(partition, attempt, Ask::Release);
            let_go || (!released && answered(partition, attempt, Ask::Reserve))
        };
        (self.payment_heard == PaymentState::Unknown || self.payment.version > 0) && self.groups.iter().all(told)
    }

    /// The few bytes to keep once everything about it is known, at its end and as it must be.
    pub(crate) fn close(&self, desk: &Desk) -> Option<Closed> {
        let [body] = self.bodies.as_slice() else { return None };
        if body.placed == 0 || self.is_pending() || self.moved != [0; 3] || self.payment.sums.refunded != 0 {
            return None;
        }
        let outcome = match (self.rejected, self.status) {
            (Some((reason, _, _)), OrderStatus::Unknown) if self.payment.version == 0 => Outcome::Rejected(reason),
            (None, OrderStatus::Completed) => Outcome::Completed,
            // One that was cancelled before anybody had heard of it may still turn up, and is then undone.
            (None, OrderStatus::Cancelled) if self.order_known => Outcome::Cancelled(self.cancel_reason),
            _ => return None,
        };
        if self.cancel_asked.is_some() && matches!(outcome, Outcome::Rejected(_)) {
            return None; // fulfillment will have a word on it
        }
        if !self.is_all_read() {
            return None;
        }
        let mut offends = false;
        self.judge(crate::Phase::Settled, desk, &mut |_, _, _| offends = true);
        if offends {
            return None;
        }
        Some(Closed {
            fingerprint: body.fingerprint,
            authorized: self.payment.sums.authorized,
            captured: self.payment.sums.captured,
            version: u32::try_from(self.version).ok()?,
            payment_version: u32::try_from(self.payment.version).ok()?,
            currency: self.payment.currency,
            outcome,
            payment: self.payment.state,
            provider_agrees: self.provider.is_some(),
            cancel_refused: self.cancel_refused,
            command_refused: self.payment.refused > 0,
            was_confirmed: self.was_confirmed,
            was_shipped: self.was_shipped,
        })
    }

    /// A closed order of which a record came late.
    pub(crate) fn reopened(id: &str, place: Place, closed: &Closed) -> Self {
        let mut order = Self::new(id, place);
        order.sealed = true;
        order.bodies.push(Body { fingerprint: closed.fingerprint, placed: 1, refused: 0, lettered: false, place });
        match closed.outcome {
            Outcome::Rejected(reason) => order.rejected = Some((reason, closed.fingerprint, place)),
            Outcome::Completed => order.status = OrderStatus::Completed,
            Outcome::Cancelled(reason) => {
                order.status = OrderStatus::Cancelled;
                order.cancel_reason = reason;
            }
        }
        if order.rejected.is_none() {
            order.accepted = Some(Accepted {
                fingerprint: closed.fingerprint,
                total_minor: closed.authorized,
                currency: closed.currency,
                amount: 0,
                prices: Vec::new(),
                place,
            });
        }
        let captured = u32::from(closed.captured > 0);
        order.payment = Payment {
            version: i64::from(closed.payment_version),
            state: closed.payment,
            currency: closed.currency,
            sums: Sums {
                authorized: closed.authorized,
                captured: closed.captured,
                voided: closed.authorized - closed.captured,
                refunded: 0,
            },
            authorizations: u32::from(closed.authorized > 0),
            captures: captured,
            refused: u32::from(closed.command_refused),
            ..Payment::default()
        };
        order.order_known = true;
        order.cancel_refused = closed.cancel_refused;
        order.version = i64::from(closed.version);
        order.was_confirmed = closed.was_confirmed;
        order.was_shipped = closed.was_shipped;
        if closed.provider_agrees {
            let counts = ProviderCounts { authorizations: order.payment.authorizations, captures: captured, live: 0 };
            order.provider = Some((closed.currency, order.payment.sums, counts));
        }
        order
    }
}

impl Closed {
    pub(crate) fn count(&self, totals: &mut OrderTotals) {
        match self.outcome {
            Outcome::Rejected(reason) => {
                *totals.rejected.entry(reason.as_str().to_owned()).or_default() += 1;
                return;
            }
            Outcome::Completed => totals.completed += 1,
            Outcome::Cancelled(reason) => totals.cancelled_for(reason),
        }
        totals.accepted += 1;
        totals.confirmed += u64::from(self.was_confirmed);
        totals.shipped += u64::from(self.was_shipped);
    }

    pub(crate) fn lacks_provider_entry(&self) -> bool {
        !self.provider_agrees && self.authorized > 0
    }
}

/// Sums of money for people.
pub(crate) struct Amounts(pub(crate) Sums);

impl std::fmt::Display for Amounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sums { authorized, captured, voided, refunded } = self.0;
        write!(f, "authorized {authorized}, captured {captured}, voided {voided}, refunded {refunded}")
    }
}
