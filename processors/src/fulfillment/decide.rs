//! What follows for an order from what is known of it and what happened: the whole policy of fulfillment. Pure; time
//! and everything it may know come in with the call.

use millrace_schemas::{
    CancelReason, CancelRequested, Group, GroupState, Money as Amount, OrderEvent, OrderEventKind, OrderStatus,
    PaymentCommand, PaymentState, RejectReason, ShipmentUpdate, ShipmentUpdateKind, StockCommand, StockEvent,
    StockEventKind,
};

use super::lines::{Accepted, Intake, Word, by_partition};
use super::shipments::{on_delivered, on_word};
use super::state::{Cause, Money, TRANSITIONS, ends_the_order, is_final, money, nothing_known};
use super::turn::Turn;
use crate::planted;

/// The numbers fulfillment is run with; times in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Unanswered stock commands are sent again after this, then ever more rarely.
    pub reservation_timeout: i64,
    /// The same for payment commands, and for orders of which only the payment or a cancel was heard.
    pub payment_timeout: i64,
    /// Counted from the confirmation, partial shipments do not extend it: it must end before the authorization does.
    pub shipping_timeout: i64,
    /// After this a shipped order counts as delivered.
    pub delivery_timeout: i64,
    /// Unanswered commands of a cancelled order are sent again after this, then ever more rarely.
    pub cancel_timeout: i64,
    /// Partitions of the ledger.
    pub stock_partitions: i32,
}

/// What fulfillment needs of a payment's event; amounts in minor units.
#[derive(Clone, Copy, Debug)]
pub struct Paid<'a> {
    /// The state afterwards.
    pub state: PaymentState,
    /// The order's total.
    pub requested_minor: i64,
    /// Ever captured.
    pub captured_minor: i64,
    /// ISO 4217 code of all amounts.
    pub currency: &'a str,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The accepted order was read.
    Accepted,
    /// Intake rejected a body under the order's id.
    Rejected(RejectReason),
    /// The payment moved.
    Payment(Paid<'a>),
    /// The ledger answered.
    Stock(&'a StockEvent),
    /// Somebody wants the order cancelled.
    Cancel(&'a CancelRequested),
    /// The warehouse or the carrier has something to say.
    Shipment(&'a ShipmentUpdate),
    /// The deadline of the state passed.
    Deadline,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The order's next event and state; `None` when nothing changes.
    pub event: Option<OrderEvent>,
    /// Commands to the ledger: the place of the group in the event's groups, and the command.
    pub stock: Vec<(usize, StockCommand)>,
    /// The command to payment.
    pub payment: Option<PaymentCommand>,
    /// Something out of the ordinary to be counted.
    pub notice: Option<&'static str>,
}

impl Decision {
    pub(super) fn nothing(notice: Option<&'static str>) -> Self {
        Self { notice, ..Self::default() }
    }
}

/// How often an authorized order that was never read is waited for before its money is given back.
const ORDER_PATIENCE: i64 = 6;

/// Whether what intake said of the order matters for this input.
#[must_use]
pub fn needs_intake(order: Option<&OrderEvent>, input: Input<'_>) -> bool {
    let status = order.map_or(OrderStatus::Unknown, |order| order.status);
    match (status, input) {
        (OrderStatus::AwaitingOrder, Input::Accepted) | (OrderStatus::Reserving, Input::Deadline) => true,
        (OrderStatus::Unknown, Input::Payment(event)) => money(event.state) >= Money::Held,
        (OrderStatus::Unknown, Input::Cancel(_)) => true,
        (OrderStatus::Confirmed | OrderStatus::PartiallyShipped, Input::Shipment(update)) => {
            matches!(update.kind, ShipmentUpdateKind::Shipped | ShipmentUpdateKind::Short)
        }
        _ => false,
    }
}

/// What follows for an order.
///
/// `intake` is what intake said of the order, where it was read and [`needs_intake`] says so. A repeated or late input changes
/// nothing. What cannot be done any more (a cancel after shipping, a shipment of a cancelled order) is refused with an
/// event that says why.
///
/// # Errors
/// What is wrong with the input: it can never be applied as it stands, or not before the order is confirmed.
pub fn decide(
    order_id: &str,
    order: Option<OrderEvent>,
    intake: Intake,
    input: Input<'_>,
    now: i64,
    policy: &Policy,
) -> Result<Decision, String> {
    let order = order.unwrap_or_else(|| nothing_known(order_id));
    let from = order.status;
    let turn = |cause| Turn::new(order, cause, now, policy);
    let (cause, decision) = match input {
        Input::Accepted => (Cause::Accepted, on_accepted(turn(Cause::Accepted), intake.accepted())),
        Input::Rejected(reason) => (Cause::Rejected, on_rejected(turn(Cause::Rejected), reason)),
        Input::Payment(event) => {
            let cause = match money(event.state) {
                Money::Unheard => return Ok(Decision::nothing(None)),
                Money::Asked => Cause::Authorizing,
                Money::Held => Cause::Authorized,
                Money::Taken => Cause::Captured,
                Money::Gone => Cause::PaymentEnded,
            };
            (cause, on_payment(turn(cause), event, intake.accepted()))
        }
        Input::Stock(event) => {
            let cause = match event.kind {
                StockEventKind::Reserved => Cause::Granted,
                StockEventKind::Insufficient => Cause::Refused,
                // A reserve that meets the fence of a release is refused by it.
                StockEventKind::Released if from == OrderStatus::Reserving => Cause::Refused,
                StockEventKind::Released => Cause::Released,
                StockEventKind::Refused => Cause::ShipRefused,
                StockEventKind::Shipped => return Ok(Decision::nothing(None)),
                StockEventKind::Unknown => return Err("its kind is not known here".to_owned()),
            };
            (cause, on_stock(turn(cause), event))
        }
        Input::Cancel(request) => (Cause::CancelRequested, on_cancel(turn(Cause::CancelRequested), request, intake)),
        Input::Shipment(update) => match update.kind {
            ShipmentUpdateKind::Shipped => {
                (Cause::Shipped, on_word(turn(Cause::Shipped), Word::Shipped, update, intake.accepted())?)
            }
            ShipmentUpdateKind::Short => {
                (Cause::Short, on_word(turn(Cause::Short), Word::Short, update, intake.accepted())?)
            }
            ShipmentUpdateKind::Delivered => (Cause::Delivered, on_delivered(turn(Cause::Delivered), update)?),
            ShipmentUpdateKind::Unknown => return Err("its kind is not known here".to_owned()),
        },
        Input::Deadline => (Cause::Deadline, on_deadline(turn(Cause::Deadline), intake.accepted())),
    };
    if let Some(event) = &decision.event {
        let step = (from, cause, event.status);
        assert!(TRANSITIONS.contains(&step), "order {order_id}: {step:?} is not among the transitions of an order");
    }
    Ok(decision)
}

fn on_accepted(mut turn: Turn<'_>, accepted: Option<Accepted>) -> Decision {
    let (OrderStatus::AwaitingOrder, Some(accepted)) = (turn.order.status, accepted) else {
        return Decision::nothing(None);
    };
    turn.knows(&accepted);
    if turn.order.cancel_wanted {
        return turn.finish(OrderStatus::AwaitingPayment, OrderEventKind::Noted, "order read, cancel wanted");
    }
    reserve(turn, accepted)
}

/// Only a cancel can wait for an order that is none: it is done. What an order is known by otherwise says that it was
/// accepted.
fn on_rejected(turn: Turn<'_>, reason: RejectReason) -> Decision {
    let waits = turn.order.status == OrderStatus::AwaitingOrder && turn.order.cancel_wanted;
    if waits && ends_the_order(reason) {
        return turn.finish(OrderStatus::Cancelled, OrderEventKind::Cancelled, "rejected by intake");
    }
    Decision::nothing(None)
}

/// One command per group of lines whose SKUs live on one stock partition.
fn reserve(mut turn: Turn<'_>, accepted: Accepted) -> Decision {
    turn.knows(&accepted);
    let lines = match accepted.lines {
        Ok(lines) => lines,
        Err(reason) => return turn.cancel(CancelReason::NeverShipped, &format!("nothing can be reserved: {reason}")),
    };
    for (partition, lines) in (0..).zip(by_partition(lines, turn.policy.stock_partitions)) {
        if let Some(first) = lines.first() {
            let key = first.sku.clone();
            let group = Group { stock_partition: partition, key, state: GroupState::Requested, attempt: 1 };
            turn.order.groups.push(group);
            turn.reserve(turn.order.groups.len() - 1, lines);
        }
    }
    turn.finish(OrderStatus::Reserving, OrderEventKind::ReservationRequested, "")
}

fn on_payment(mut turn: Turn<'_>, event: Paid<'_>, accepted: Option<Accepted>) -> Decision {
    let before = money(turn.order.payment);
    let after = money(event.state);
    let status = turn.order.status;
    // On the way to another state nothing is certain: what counts is what comes of it. And while nothing else is
    // known, a payment that is only being asked for is payment's business.
    let on_its_way = matches!(event.state, PaymentState::Capturing | PaymentState::Voiding | PaymentState::Refunding);
    if on_its_way || after <= before || (after == Money::Asked && status == OrderStatus::Unknown) {
        return Decision::nothing(None);
    }
    turn.order.payment = event.state;
    turn.order.captured_minor = turn.order.captured_minor.max(event.captured_minor);
    if turn.order.total.is_none() && !event.currency.is_empty() {
        turn.order.total = Some(Amount { minor: event.requested_minor, currency: event.currency.to_owned() });
    }
    if let Some(accepted) = &accepted {
        turn.knows(accepted);
    }
    match (after, status) {
        (Money::Unheard, _) => Decision::nothing(None),
        (Money::Asked, _) => {
            turn.give_money_back("cancelled");
            turn.finish(OrderStatus::AwaitingPayment, OrderEventKind::Noted, "to be voided once authorized")
        }
        (Money::Held | Money::Taken, OrderStatus::Unknown) => match accepted {
            Some(accepted) => reserve(turn, accepted),
            None => turn.finish(OrderStatus::AwaitingOrder, OrderEventKind::Noted, "authorized, order not read yet"),
        },
        (Money::Held | Money::Taken, OrderStatus::AwaitingOrder) if !turn.order.cancel_wanted => {
            turn.stay(OrderEventKind::Noted, "captured before the order was read")
        }
        (
            Money::Held | Money::Taken,
            OrderStatus::AwaitingOrder
            | OrderStatus::AwaitingPayment
            | OrderStatus::Cancelling
            | OrderStatus::Cancelled,
        ) => turn.cancel(CancelReason::Customer, "the money is given back"),
        (Money::Held | Money::Taken, OrderStatus::Shipped | OrderStatus::Delivered) => {
            turn.give_back_the_excess();
            turn.close_if_done(OrderEventKind::Captured, "")
        }
        (Money::Held | Money::Taken, _) => turn.stay(OrderEventKind::Noted, "captured before shipping"),
        (
            Money::Gone,
            OrderStatus::Unknown
            | OrderStatus::AwaitingOrder
            | OrderStatus::AwaitingPayment
            | OrderStatus::Reserving
            | OrderStatus::Confirmed,
        ) => {
            let reason = match event.state {
                PaymentState::Declined => CancelReason::PaymentDeclined,
                _ => CancelReason::PaymentExpired,
            };
            turn.cancel(reason, &format!("payment {}", event.state.as_str()))
        }
        (Money::Gone, OrderStatus::Cancelling) => turn.cancelled_if_done("money given back"),
        (Money::Gone, OrderStatus::PartiallyShipped) => {
            turn.notice_uncollected(before);
            turn.close("the payment is over: the rest will not ship")
        }
        (Money::Gone, OrderStatus::Shipped | OrderStatus::Delivered) => {
            turn.notice_uncollected(before);
            let detail = format!("payment {}", event.state.as_str());
            turn.close_if_done(OrderEventKind::Noted, &detail)
        }
        (Money::Gone, OrderStatus::Completed | OrderStatus::Cancelled) => {
            let detail = format!("payment {}", event.state.as_str());
            turn.stay(OrderEventKind::Noted, &detail)
        }
    }
}

fn on_stock(mut turn: Turn<'_>, event: &StockEvent) -> Decision {
    let mut groups = turn.order.groups.iter();
    let asked = groups.position(|g| g.stock_partition == event.stock_partition && g.attempt == event.attempt);
    let Some(place) = asked else {
        return Decision::nothing(Some("stock_event_for_no_group"));
    };
    let state = turn.order.groups[place].state;
    match (turn.cause, state, turn.order.status) {
        (Cause::Granted, GroupState::Requested, OrderStatus::Reserving) => {
            turn.order.groups[place].state = GroupState::Granted;
            let early = planted::is(planted::Defect::ConfirmedTooEarly);
            if early || turn.order.groups.iter().all(|group| group.state == GroupState::Granted) {
                turn.finish(OrderStatus::Confirmed, OrderEventKind::Confirmed, "")
            } else {
                turn.stay(OrderEventKind::Noted, "group granted")
            }
        }
        (Cause::Refused, GroupState::Requested, OrderStatus::Reserving) => {
            turn.order.groups[place].state = GroupState::Refused;
            turn.cancel(CancelReason::OutOfStock, &shortage(event))
        }
        (Cause::Refused, GroupState::Releasing, OrderStatus::Cancelling) => {
            turn.order.groups[place].state = GroupState::Refused;
            turn.cancelled_if_done("group was not granted")
        }
        (Cause::Released, GroupState::Releasing, status) => {
            turn.order.groups[place].state = GroupState::Released;
            match status {
                OrderStatus::Cancelling => turn.cancelled_if_done("group released"),
                OrderStatus::Shipped | OrderStatus::Delivered => {
                    turn.close_if_done(OrderEventKind::Noted, "group released")
                }
                _ => turn.stay(OrderEventKind::Noted, "group released"),
            }
        }
        // Nobody here asked for that: somebody else had the ledger let go what was promised. What has not left the house yet
        // will not.
        (_, GroupState::Granted, status) if event.kind == StockEventKind::Released => {
            turn.order.groups[place].state = GroupState::Released;
            turn.notice = Some("released_by_others");
            let detail = "the ledger holds a group no longer that nobody here gave up";
            match status {
                OrderStatus::PartiallyShipped => turn.close(detail),
                OrderStatus::Reserving | OrderStatus::Confirmed => turn.cancel(CancelReason::OutOfStock, detail),
                _ => Decision::nothing(None),
            }
        }
        (
            Cause::ShipRefused,
            GroupState::Shipped | GroupState::Granted,
            OrderStatus::PartiallyShipped | OrderStatus::Shipped | OrderStatus::Delivered | OrderStatus::Completed,
        ) => {
            if state == GroupState::Shipped {
                turn.release(place);
                if is_final(turn.order.status) {
                    turn.order.groups[place].state = GroupState::Released;
                }
            }
            turn.notice = Some("ship_refused");
            let detail = format!("the ledger does not hold what shipment {} took", event.command_id);
            turn.stay(OrderEventKind::Noted, &detail)
        }
        _ => Decision::nothing(None),
    }
}

/// Which SKUs fell short, the first few of them.
fn shortage(event: &StockEvent) -> String {
    let mut detail = String::from("short:");
    for line in event.short.iter().take(5) {
        detail.push_str(&format!(" {} (wanted {}, available {})", line.sku, line.wanted, line.available));
    }
    if event.short.len() > 5 {
        detail.push_str(&format!(" and {} more", event.short.len() - 5));
    }
    detail
}

fn on_cancel(mut turn: Turn<'_>, request: &CancelRequested, intake: Intake) -> Decision {
    let why = || format!("cancel {} by {}: {}", request.request_id, request.requested_by, request.reason);
    match turn.order.status {
        OrderStatus::Unknown => {
            turn.order.cancel_wanted = true;
            turn.order.cancel_reason = Some(CancelReason::Customer);
            let status = match &intake {
                Intake::Silent => OrderStatus::AwaitingOrder,
                Intake::Accepted(accepted) => {
                    turn.knows(accepted);
                    OrderStatus::AwaitingPayment
                }
                Intake::Rejected => {
                    let detail = format!("rejected by intake; {}", why());
                    return turn.finish(OrderStatus::Cancelled, OrderEventKind::Cancelled, &detail);
                }
            };
            turn.give_money_back("cancelled"); // payment remembers it, whatever it knows of the order
            turn.finish(status, OrderEventKind::CancelRequested, &why())
        }
        OrderStatus::AwaitingOrder if turn.order.cancel_wanted => Decision::nothing(None),
        OrderStatus::AwaitingOrder | OrderStatus::Reserving | OrderStatus::Confirmed => {
            turn.order.cancel_wanted = true;
            turn.cancel(CancelReason::Customer, &why())
        }
        OrderStatus::AwaitingPayment | OrderStatus::Cancelling | OrderStatus::Cancelled => Decision::nothing(None),
        OrderStatus::PartiallyShipped | OrderStatus::Shipped | OrderStatus::Delivered | OrderStatus::Completed => {
            let detail = format!("cancel {} refused: the order has left the house", request.request_id);
            turn.notice = Some("cancel_refused");
            turn.stay(OrderEventKind::CancelRefused, &detail)
        }
    }
}

fn on_deadline(mut turn: Turn<'_>, accepted: Option<Accepted>) -> Decision {
    match turn.order.status {
        OrderStatus::Unknown | OrderStatus::Completed | OrderStatus::Cancelled => Decision::nothing(None),
        OrderStatus::AwaitingOrder if turn.order.cancel_wanted => turn.finish(
            OrderStatus::Cancelled,
            OrderEventKind::Cancelled,
            "no such order came; should it still come, it is cancelled then",
        ),
        OrderStatus::AwaitingOrder if turn.order.version >= ORDER_PATIENCE => {
            turn.cancel(CancelReason::Timeout, "authorized, but the order never came")
        }
        OrderStatus::AwaitingOrder => turn.stay(OrderEventKind::DeadlineExtended, ""),
        OrderStatus::AwaitingPayment => {
            turn.give_money_back("cancelled");
            turn.stay(OrderEventKind::DeadlineExtended, "")
        }
        OrderStatus::Reserving => {
            if let Some(lines) = accepted.and_then(|accepted| accepted.lines.ok()) {
                let mut groups = by_partition(lines, turn.policy.stock_partitions);
                for place in 0..turn.order.groups.len() {
                    let group = &turn.order.groups[place];
                    let owner = usize::try_from(group.stock_partition).ok().and_then(|p| groups.get_mut(p));
                    if let (GroupState::Requested, Some(lines)) = (group.state, owner) {
                        turn.reserve(place, std::mem::take(lines));
                    }
                }
            }
            turn.stay(OrderEventKind::DeadlineExtended, "reservation asked for again")
        }
        OrderStatus::Confirmed => turn.cancel(CancelReason::NeverShipped, "nothing was shipped in time"),
        OrderStatus::PartiallyShipped => turn.close("the rest was not shipped in time"),
        OrderStatus::Shipped | OrderStatus::Delivered => {
            if turn.is_closed() {
                return turn.finish(OrderStatus::Completed, OrderEventKind::Completed, "no word from the carrier");
            }
            turn.ask_again();
            turn.collect();
            turn.stay(OrderEventKind::DeadlineExtended, "asked again")
        }
        OrderStatus::Cancelling => {
            turn.ask_again();
            turn.give_money_back("cancelled");
            turn.stay(OrderEventKind::DeadlineExtended, "asked again")
        }
    }
}
