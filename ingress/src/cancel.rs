//! `POST /v1/orders/{id}/cancel`: asks for an order to be cancelled, unless that is plainly too late.
//!
//! Fulfillment decides; what tracking knows may be a moment old, so a 202 is a request taken, not a promise.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use millrace_schemas::{CancelRequested, topics};
use serde_json::json;
use uuid::Uuid;

use crate::acceptance::publish;
use crate::app::{Ingress, WriteSlot, json_text, now_ms, order_path};
use crate::body::JsonBodyIfAny;
use crate::context::Context;
use crate::fields::{Faults, Place, Text};
use crate::idempotency::{IdempotencyKey, derived_id};
use crate::problem::{Problem, ProblemType};
use crate::query::order_id;
use crate::status::{Cancellable, Status};
use crate::watch;

pub(crate) async fn cancel(
    State(ingress): State<Arc<Ingress>>,
    _slot: WriteSlot,
    context: Context,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    JsonBodyIfAny(body): JsonBodyIfAny,
) -> Result<Response, Problem> {
    let order_id = order_id(id)?;
    let key = IdempotencyKey::of(&headers).map_err(|_| ProblemType::KeyMalformed)?;
    let mut faults = Faults::default();
    let reason = match &body {
        None => Some(String::new()),
        Some(body) => faults
            .object(body, &Place::Root, &["reason"])
            .map(|body| body.text_or("reason", Text::Line(256), "", &mut faults)),
    };
    let reason = faults.settle(reason)?;
    refuse_too_late(&ingress, &order_id).await?;

    // One order is cancelled at most once, so without a key all requests for it are the same request.
    let caller = &ingress.settings().caller;
    let key = key.as_ref().map_or("", IdempotencyKey::as_str);
    let request_id = derived_id("millrace/cancel", &[&ingress.settings().tenant, caller, &order_id, key]).to_string();
    let request = CancelRequested {
        order_id: order_id.clone(),
        request_id: request_id.clone(),
        reason,
        requested_by: caller.clone(),
        at: now_ms(),
    };
    let topic = topics::ORDERS_CANCEL_REQUESTED;
    publish(&ingress, ingress.outgoing(topic, order_id.clone(), &request, &context, &request_id)).await?;

    let path = order_path(&order_id);
    let body = json!({
        "id": order_id, "status": "cancel_requested", "request_id": request_id, "links": {"self": path},
    });
    let mut response = json_text(body.to_string());
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().extend(HeaderValue::from_str(&path).ok().map(|path| (LOCATION, path)));
    Ok(response)
}

/// An order that was acknowledged here moments ago may be cancelled before tracking has heard of it.
async fn refuse_too_late(ingress: &Ingress, order_id: &str) -> Result<(), Problem> {
    let Some(order) = watch::find_now(ingress, order_id).await? else {
        let just_placed = Uuid::try_parse(order_id).is_ok_and(|id| ingress.submits().was_acknowledged(id));
        return if just_placed { Ok(()) } else { Err(ProblemType::UnknownOrder.into()) };
    };
    let why = match Status::parse(&order.status).map_or(Cancellable::Yes, Status::cancellable) {
        Cancellable::Yes => return Ok(()),
        Cancellable::Shipped => "something of the order has shipped",
        Cancellable::Final => "the order has ended",
    };
    Err(ProblemType::NotCancellable.with(why).extension("order_status", order.status))
}
