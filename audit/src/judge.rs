//! What must be true of one order: at any moment, and at its end. Each defect counts against one promise, the one it
//! breaks first, so that one fault does not colour the whole report.

use std::fmt;

use millrace_schemas::{OrderStatus, PaymentState, WaitsFor};

use crate::finding::{Place, Promise};
use crate::moves::{order_is_final, payment_is_final};
use crate::order::{Amounts, Ask, Order};
use crate::{Desk, Phase};

type Object<'a> = dyn FnMut(Promise, Place, fmt::Arguments<'_>) + 'a;

impl Order {
    /// Says what is wrong with it.
    pub(crate) fn judge(&self, phase: Phase, desk: &Desk, object: &mut Object<'_>) {
        if let Some((_, _, counts)) = self.provider {
            let place = self.payment_place();
            if counts.live > 1 {
                object(Promise::P2, place, format_args!("{} authorizations are live at the provider", counts.live));
            } else if counts.captures > 1 {
                object(Promise::P2, place, format_args!("the provider captured {} times", counts.captures));
            }
        }
        match phase {
            Phase::Running => self.judge_wait(object),
            Phase::Settled => self.judge_end(desk, object),
        }
    }

    /// An order that is not final says whom it waits for, and until when.
    fn judge_wait(&self, object: &mut Object<'_>) {
        if self.accepted.is_none() && self.version == 0 || order_is_final(self.status) {
            return;
        }
        let (waits_for, until) = self.waits();
        if matches!(waits_for, WaitsFor::Unknown | WaitsFor::Nobody) || !until {
            let place = self.event_place.unwrap_or(self.payment_place());
            let what = format_args!("{} without saying whom it waits for, and until when", self.status.as_str());
            object(Promise::P1, place, what);
        }
    }

    fn judge_end(&self, desk: &Desk, object: &mut Object<'_>) {
        if !self.judge_decision(object) {
            return;
        }
        if self.accepted.is_some() && !order_is_final(self.status) {
            let place = self.event_place.unwrap_or(self.first);
            let status = self.status.as_str();
            object(Promise::P1, place, format_args!("still {status}, waiting for {}", self.waits().0.as_str()));
            return;
        }
        self.judge_wait(object);
        self.judge_causes(object);
        self.judge_money(desk, object);
        self.judge_stock(desk, object);
        self.judge_answers(desk, object);
    }

    /// Decided once, the other bodies refused. False when nothing was decided and nothing more can be said.
    fn judge_decision(&self, object: &mut Object<'_>) -> bool {
        let Some(decided) = self.decided_fingerprint() else {
            let open = |body: &&crate::order::Body| body.placed > 0 && body.refused == 0 && !body.lettered;
            if let Some(body) = self.bodies.iter().find(open) {
                object(Promise::P1, body.place, format_args!("placed, but neither accepted nor rejected"));
                return false;
            }
            return true;
        };
        let mut has_cause = false;
        for body in &self.bodies {
            if body.fingerprint == decided {
                has_cause |= body.placed > 0;
                if body.refused > 0 {
                    object(Promise::P4, body.place, format_args!("the order's own body was refused as another"));
                }
            } else if body.placed == 0 {
                object(Promise::P5, body.place, format_args!("refused another body that nobody placed"));
            } else if body.refused == 0 && !body.lettered {
                let what = format_args!("another body under this id was placed and not refused on record");
                object(Promise::P4, body.place, what);
            }
        }
        if !has_cause {
            let place = self.accepted.as_ref().map(|a| a.place).or(self.rejected.map(|(_, _, place)| place));
            let what = format_args!("decided on a body that nobody placed");
            object(Promise::P5, place.unwrap_or(self.first), what);
        }
        true
    }

    /// What was told of it has a reason to be told.
    fn judge_causes(&self, object: &mut Object<'_>) {
        if self.accepted.is_some() {
            return;
        }
        let payment = &self.payment;
        let commanded = self.void_asked.or(self.capture_asked).or(self.refund_asked).is_some();
        if payment.version > 0 && payment.refused == 0 && !commanded {
            object(Promise::P5, self.payment_place(), format_args!("a payment for an order nobody accepted"));
        } else if let Some(place) = self.event_place
            && self.cancel_asked.is_none()
            && !self.shipment_heard
            && payment.version == 0
        {
            object(Promise::P5, place, format_args!("events of an order nobody accepted"));
        }
    }

    fn judge_money(&self, desk: &Desk, object: &mut Object<'_>) {
        let payment = &self.payment;
        let place = self.payment_place();
        let sums = payment.sums;
        if payment.version > 0 && self.accepted.is_some() {
            if !payment_is_final(payment.state) {
                let what =
                    format_args!("the order is {}, its payment {}", self.status.as_str(), payment.state.as_str());
                object(Promise::P2, place, what);
            } else if sums.authorized.checked_sub(sums.captured) != Some(sums.voided) {
                object(Promise::P2, place, format_args!("authorized is not captured + voided: {}", Amounts(sums)));
            }
        }
        if let Some(accepted) = &self.accepted
            && !self.sealed
        {
            let other_currency = sums.authorized > 0 && payment.currency != accepted.currency;
            if sums.authorized > accepted.total_minor || other_currency {
                let what = format_args!(
                    "authorized {} {}, the order is worth {} {}",
                    sums.authorized,
                    desk.currency_name(payment.currency),
                    accepted.total_minor,
                    desk.currency_name(accepted.currency)
                );
                object(Promise::P2, place, what);
            }
            let value = |(sku, quantity): &(u32, i32)| {
                let at = accepted.prices.binary_search_by_key(sku, |(sku, _)| *sku);
                let price = at.map_or(0, |at| accepted.prices[at].1);
                i128::from(price) * i128::from(*quantity)
            };
            let shipped: i128 = self.shipped.iter().map(value).sum();
            let captured = i128::from(sums.captured);
            // What the provider let go before it was captured is lost to the shop, and nobody was charged for it.
            let let_go = payment.state == PaymentState::Expired && captured == 0;
            if captured != shipped && captured - i128::from(sums.refunded) != shipped && !let_go {
                let what = format_args!("captured {captured}, but what shipped is worth {shipped}");
                object(Promise::P2, place, what);
            }
        }
        if let Some((currency, theirs, counts)) = self.provider {
            if payment.version == 0 && theirs.authorized > 0 {
                object(Promise::P2, place, format_args!("the provider holds money no event tells of"));
            } else if theirs != sums
                || counts.authorizations != payment.authorizations
                || (theirs.authorized > 0 && currency != payment.currency)
            {
                let theirs = Amounts(theirs);
                object(Promise::P2, place, format_args!("events: {}; the provider: {theirs}", Amounts(sums)));
            } else if counts.live > 0 && payment_is_final(payment.state) {
                object(Promise::P2, place, format_args!("an authorization is still live at the provider"));
            }
        }
    }

    fn judge_stock(&self, desk: &Desk, object: &mut Object<'_>) {
        // Of a SKU whose oldest balances are gone nobody can tell what they moved.
        let lines = self.accepted.iter().flat_map(|accepted| &accepted.prices);
        let whole = !lines.into_iter().any(|(sku, _)| desk.ledger.begins_late(*sku));
        for (moved, kind) in self.moved.iter().zip(["reserved", "released", "shipped"]) {
            if *moved != 0 && whole {
                let what = format_args!("the balances and the ledger's answers differ in what was {kind}");
                object(Promise::P5, self.moved_place, what);
            }
        }
        if self.held != 0 && order_is_final(self.status) {
            let what = format_args!("{}, and something is still reserved for it", self.status.as_str());
            object(Promise::P3, self.event_place.unwrap_or(self.first), what);
        }
        if self.confirmed.is_empty() || self.sealed {
            return;
        }
        let granted = |(partition, attempt): &(i32, i32)| {
            let mut calls = self.calls.iter();
            let same = calls.find(|c| c.ask == Ask::Reserve && (c.partition, c.attempt) == (*partition, *attempt));
            same.map_or(0, |call| call.amount)
        };
        let sum = self.confirmed.iter().map(granted).fold(0u64, u64::wrapping_add);
        if let Some(accepted) = &self.accepted
            && accepted.amount != sum
        {
            let what = format_args!("confirmed, but what was granted is not what was ordered");
            object(Promise::P5, self.event_place.unwrap_or(self.first), what);
        }
    }

    /// Every command had its effect, every answer its command, every wish to cancel its answer.
    fn judge_answers(&self, desk: &Desk, object: &mut Object<'_>) {
        let payment = &self.payment;
        let excused = |place: &Place| desk.letters.has(*place) || payment.refused > 0;
        let captured = payment.sums.captured > 0;
        let settled = payment.version == 0 || payment_is_final(payment.state);
        let unheeded = |asked: Option<Place>, done: bool| asked.filter(|place| !done && settled && !excused(place));
        if let Some(place) = unheeded(self.capture_asked, captured || gone(payment.state)) {
            object(Promise::P5, place, format_args!("a capture was commanded and did not happen"));
        }
        if let Some(place) = unheeded(self.void_asked, gone(payment.state)) {
            object(Promise::P5, place, format_args!("a void was commanded and did not happen"));
        }
        if let Some(place) = unheeded(self.refund_asked, payment.sums.refunded > 0) {
            object(Promise::P5, place, format_args!("a refund was commanded and did not happen"));
        }
        if let Some(place) = self.cancel_asked.filter(|place| !desk.letters.has(*place))
            && (self.version == 0 || self.status == OrderStatus::Completed)
            && !self.cancel_refused
        {
            object(Promise::P9, place, format_args!("a cancel request that was neither followed nor refused"));
        }
        if self.sealed {
            return;
        }
        if captured && self.capture_asked.is_none() {
            object(Promise::P5, self.payment_place(), format_args!("captured, but nobody commanded it"));
        }
        let whole = self.accepted.as_ref().is_some_and(|accepted| accepted.total_minor == payment.sums.authorized);
        if payment.state == PaymentState::Voided && whole && payment.sums.authorized > 0 && self.void_asked.is_none() {
            object(Promise::P5, self.payment_place(), format_args!("voided, but nobody commanded it"));
        }
        for call in &self.calls {
            let of_group = |ask: Ask| {
                let mut calls = self.calls.iter();
                calls.find(|c| c.ask == ask && (c.partition, c.attempt) == (call.partition, call.attempt))
            };
            match (call.asked, call.answered, call.ask) {
                (Some(place), None, ask) => {
                    let by_release =
                        ask == Ask::Reserve && of_group(Ask::Release).is_some_and(|c| c.answered.is_some());
                    if !by_release && !desk.letters.has(place) {
                        let what = format_args!("a {ask:?} command that was neither answered nor became a dead letter");
                        object(Promise::P9, place, what);
                    }
                }
                (None, Some(place), ask) => {
                    object(Promise::P5, place, format_args!("an answer to a {ask:?} command that nobody gave"));
                }
                _ => {}
            }
        }
    }
}

/// The authorization holds nothing any more.
fn gone(state: PaymentState) -> bool {
    matches!(state, PaymentState::Voided | PaymentState::Declined | PaymentState::Expired | PaymentState::Refunded)
}
