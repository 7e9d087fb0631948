//! Records between fulfillment and payment. Owns their shape; decides nothing.

use crate::define::{record, symbols};
use crate::fulfillment::WaitsFor;
use crate::money::Money;

symbols! {
    /// What is asked of the payment.
    pub enum PaymentCommandKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// Take the money.
        Capture = "CAPTURE",
        /// Let go what is authorized.
        Void = "VOID",
        /// Give back what was captured.
        Refund = "REFUND",
    }
}

record! {
    /// Fulfillment tells the payment what to do. Repeating a command changes nothing.
    pub struct PaymentCommand {
        /// The order; also the record's key.
        order_id: String,
        /// What to do.
        kind: PaymentCommandKind,
        /// How much, for CAPTURE and REFUND; null for VOID.
        amount: Option<Money> = None,
        /// Why, in words.
        reason: String,
        /// When it was commanded; UTC milliseconds.
        at: i64,
    }
}

symbols! {
    /// Where a payment stands. It ends DECLINED, CAPTURED, VOIDED, REFUNDED or EXPIRED.
    pub enum PaymentState {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The provider was asked to hold the money.
        Authorizing = "AUTHORIZING",
        /// The money is held.
        Authorized = "AUTHORIZED",
        /// The provider refused; final.
        Declined = "DECLINED",
        /// The provider was asked to take the money.
        Capturing = "CAPTURING",
        /// The money is taken.
        Captured = "CAPTURED",
        /// The provider was asked to let the money go.
        Voiding = "VOIDING",
        /// Nothing is held any more; final.
        Voided = "VOIDED",
        /// The provider was asked to give the money back.
        Refunding = "REFUNDING",
        /// The money was given back; final.
        Refunded = "REFUNDED",
        /// The authorization ran out; final.
        Expired = "EXPIRED",
    }
}

symbols! {
    /// What happened to a payment.
    pub enum PaymentEventKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The provider is being asked to hold the money.
        AuthorizationRequested = "AUTHORIZATION_REQUESTED",
        /// The money is held.
        Authorized = "AUTHORIZED",
        /// The provider refused.
        Declined = "DECLINED",
        /// The provider did not answer; it will be asked what became of it.
        OutcomeUnknown = "OUTCOME_UNKNOWN",
        /// The provider is being asked to take the money.
        CaptureRequested = "CAPTURE_REQUESTED",
        /// The money is taken.
        Captured = "CAPTURED",
        /// A void was asked for.
        VoidRequested = "VOID_REQUESTED",
        /// Nothing is held any more.
        Voided = "VOIDED",
        /// The provider is being asked to give the money back.
        RefundRequested = "REFUND_REQUESTED",
        /// The money was given back.
        Refunded = "REFUNDED",
        /// The authorization ran out.
        AuthorizationExpired = "AUTHORIZATION_EXPIRED",
        /// A command did not fit the state; nothing changed.
        CommandRefused = "COMMAND_REFUSED",
    }
}

symbols! {
    /// An operation of the payment service provider.
    pub enum ProviderOperation {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// Hold the money.
        Authorize = "AUTHORIZE",
        /// Take the money.
        Capture = "CAPTURE",
        /// Let the money go.
        Void = "VOID",
        /// Give the money back.
        Refund = "REFUND",
    }
}

symbols! {
    /// Whether a decline is worth another try.
    pub enum DeclineKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// It will never be granted.
        Hard = "HARD",
        /// It may be granted later.
        Soft = "SOFT",
    }
}

record! {
    /// The request to the provider that is open.
    pub struct OpenCall {
        /// What is asked of the provider.
        operation: ProviderOperation,
        /// `<order_id>/<operation>/<attempt>`; the provider does a key at most once.
        idempotency_key: String,
        /// How much, in minor units of the payment's currency.
        amount_minor: i64,
        /// True: ask what became of it, do not act.
        ask: bool,
        /// How often the provider was called for it.
        tries: i32,
        /// When it was first wanted; UTC milliseconds.
        since: i64,
    }
}

record! {
    /// What happened to a payment, with the whole payment as it is afterwards.
    pub struct PaymentEvent {
        /// The order; also the record's key.
        order_id: String,
        /// What happened.
        kind: PaymentEventKind,
        /// The state afterwards.
        state: PaymentState,
        /// 1 for the first event of the payment, then one more each.
        version: i64,
        /// ISO 4217 code of all amounts here.
        currency: String,
        /// The order's total, in minor units.
        requested_minor: i64,
        /// Ever authorized, in minor units.
        authorized_minor: i64,
        /// Ever captured, in minor units.
        captured_minor: i64,
        /// Ever voided, in minor units.
        voided_minor: i64,
        /// Ever refunded, in minor units.
        refunded_minor: i64,
        /// Token of the payment service provider; never a card number.
        payment_method: String,
        /// The provider's name for the authorization; null before there is one.
        provider_reference: Option<String> = None,
        /// The authorization attempt, from 1.
        attempt: i32,
        /// The open request to the provider; null when nothing is asked.
        call: Option<OpenCall> = None,
        /// Kind of the last decline; null when none.
        decline_kind: Option<DeclineKind> = None,
        /// The provider's code of the last decline; null when none.
        decline_code: Option<String> = None,
        /// A void arrived while authorizing; it follows as soon as the outcome is known.
        void_wanted: bool,
        /// Whom the payment waits for.
        waits_for: WaitsFor,
        /// Until when, before somebody must look again; UTC milliseconds; null when final.
        until: Option<i64> = None,
        /// What happened, in words.
        detail: String,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}
