//! What the word of the warehouse and the carrier means for an order: lines that left the house, lines that never
//! will, and the delivery. Pure; the lines' arithmetic is in [`super::lines`].

use millrace_schemas::{CancelReason, GroupState, OrderEventKind, OrderStatus, ShipmentUpdate};

use super::decide::Decision;
use super::lines::{Accepted, Word, after_word};
use super::turn::Turn;

/// The warehouse's word that lines have left the house or never will.
///
/// The warehouse learns of an order by its confirmation, so its word on one that is not confirmed yet comes from a
/// stranger or out of a replay: it is not applied and goes to the dead letters, from where it can be replayed. On an
/// order that never will be confirmed, or of which nothing more is to ship, it is refused with an event that says so.
pub(super) fn on_word(
    mut turn: Turn<'_>,
    word: Word,
    update: &ShipmentUpdate,
    accepted: Option<Accepted>,
) -> Result<Decision, String> {
    let status = turn.order.status;
    let id = applied_id(word, &update.shipment_id);
    if turn.order.shipments.contains(&id) {
        return Ok(Decision::nothing(None));
    }
    match status {
        OrderStatus::Confirmed | OrderStatus::PartiallyShipped => {}
        OrderStatus::Unknown | OrderStatus::AwaitingOrder | OrderStatus::Reserving if !turn.order.cancel_wanted => {
            return Err(format!("the order is not confirmed yet ({}): replay this once it is", status.as_str()));
        }
        _ if word == Word::Short => return Ok(Decision::nothing(Some("late_short"))),
        _ => {
            let detail = format!("shipment {} refused: the order is {}", update.shipment_id, status.as_str());
            turn.notice = Some("shipment_refused");
            return Ok(turn.stay(OrderEventKind::Noted, &detail));
        }
    }
    if update.shipment_id.is_empty() {
        return Err("it names no shipment".to_owned());
    }
    let Some(lines) = accepted.and_then(|accepted| accepted.lines.ok()) else {
        return Err("the lines of the order are not kept any more".to_owned());
    };
    let partitions = turn.policy.stock_partitions;
    let mut progress = after_word(&lines, &turn.order.progress, word, &update.lines, partitions)?;
    turn.order.shipped_minor = turn
        .order
        .shipped_minor
        .checked_add(progress.value_minor)
        .ok_or_else(|| "the value of what has shipped overflows".to_owned())?;
    turn.order.shipments.push(id);
    turn.order.progress = progress.lines;
    turn.order.delivered &= word == Word::Short; // what left just now was not delivered
    for place in 0..turn.order.groups.len() {
        let group = &turn.order.groups[place];
        let Some(standing) = usize::try_from(group.stock_partition).ok().and_then(|p| progress.groups.get_mut(p))
        else {
            continue;
        };
        let was_open = group.state == GroupState::Granted;
        let leaving = std::mem::take(&mut standing.leaving);
        if !leaving.is_empty() {
            turn.ship(place, &update.shipment_id, leaving);
        }
        match (was_open, standing.open, standing.short) {
            (true, false, true) => turn.release(place),
            // The ledger takes a group's commands in order and holds all of it, so the answer is not waited for.
            (true, false, false) => turn.order.groups[place].state = GroupState::Shipped,
            _ => {}
        }
    }
    let open = progress.groups.iter().any(|group| group.open);
    let shipped = word == Word::Shipped || status == OrderStatus::PartiallyShipped;
    let detail = format!("shipment {} {}", update.shipment_id, if word == Word::Short { "short" } else { "shipped" });
    Ok(match (open, shipped) {
        (true, true) => turn.finish(OrderStatus::PartiallyShipped, kind_of(word), &detail),
        (true, false) => turn.stay(OrderEventKind::Noted, &detail),
        (false, true) => turn.close(&detail),
        (false, false) => turn.cancel(CancelReason::NeverShipped, "nothing of it can be shipped"),
    })
}

fn kind_of(word: Word) -> OrderEventKind {
    match word {
        Word::Shipped => OrderEventKind::PartiallyShipped,
        Word::Short => OrderEventKind::Noted,
    }
}

const SHORT_MARK: &str = " (short)";

/// How a shipment's word is remembered, so that its repetition is recognised.
fn applied_id(word: Word, shipment_id: &str) -> String {
    match word {
        Word::Shipped => shipment_id.to_owned(),
        Word::Short => format!("{shipment_id}{SHORT_MARK}"),
    }
}

/// An order is delivered when its last shipment is. The word on an earlier one changes nothing.
pub(super) fn on_delivered(mut turn: Turn<'_>, update: &ShipmentUpdate) -> Result<Decision, String> {
    let last = turn.order.shipments.iter().rfind(|id| !id.ends_with(SHORT_MARK)) == Some(&update.shipment_id);
    let earlier = !last && turn.order.shipments.contains(&update.shipment_id);
    match turn.order.status {
        OrderStatus::PartiallyShipped if last && !turn.order.delivered => {
            turn.order.delivered = true;
            Ok(turn.stay(OrderEventKind::Delivered, "what has shipped was delivered"))
        }
        OrderStatus::Shipped if !earlier => {
            turn.order.delivered = true;
            turn.order.status = OrderStatus::Delivered;
            Ok(turn.close_if_done(OrderEventKind::Delivered, "delivered"))
        }
        OrderStatus::PartiallyShipped
        | OrderStatus::Shipped
        | OrderStatus::Delivered
        | OrderStatus::Completed
        | OrderStatus::Cancelling
        | OrderStatus::Cancelled => Ok(Decision::nothing(None)),
        OrderStatus::Unknown
        | OrderStatus::AwaitingOrder
        | OrderStatus::AwaitingPayment
        | OrderStatus::Reserving
        | OrderStatus::Confirmed => Err(format!(
            "delivered, but nothing of it has shipped ({}): replay this after its shipment",
            turn.order.status.as_str()
        )),
    }
}
