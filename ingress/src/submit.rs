//! `POST /v1/orders`: one order in, one record out, answered when that record is durable.
//!
//! Checks the form of an order and nothing else: whether a SKU exists, what it costs and what is left is decided
//! by those who own it. Prices are never taken from here.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ETAG, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use millrace_schemas::{Money, OrderLine, OrderPlaced, topics};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::acceptance::{KnownBy, Submit, accept};
use crate::app::{Ingress, WriteSlot, json_text, now_ms, order_path};
use crate::body::{JsonBody, too_many_lines};
use crate::context::Context;
use crate::doors::KnownOrder;
use crate::fields::{Faults, Object, Place, Text};
use crate::idempotency::{IdempotencyKey, order_id};
use crate::problem::Problem;
use crate::query::etag;
use crate::settings::Settings;
use crate::status::Status;
use crate::watch;

/// Longest SKU, characters.
pub(crate) const SKU: Text = Text::Word(64);
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(crate) async fn place(
    State(ingress): State<Arc<Ingress>>,
    slot: WriteSlot,
    context: Context,
    key: IdempotencyKey,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let settings = ingress.settings();
    let (id, placed) = placed(&body, &key, settings, now_ms())?;
    let order_id = placed.order_id.clone();
    let record = ingress.outgoing(topics::ORDERS_PLACED, order_id.clone(), &placed, &context, &order_id);
    let submit = Submit { id, fingerprint: placed.fingerprint(), known_by: KnownBy::Tracking, record };
    drop((body, placed));

    let accepted = accept(&ingress, submit).await?;
    drop(slot);
    let decision = match preferred_wait(&headers, settings.prefer_wait_max) {
        Some(wait) => decided(&ingress, &order_id, wait).await.map(|order| (order, wait)),
        None => None,
    };
    let mut response = match decision {
        Some((order, wait)) => created(order, wait),
        None => received(&order_id),
    };
    let headers = response.headers_mut();
    // A path of unreserved characters is always a header value.
    headers.extend(HeaderValue::from_str(&order_path(&order_id)).ok().map(|path| (LOCATION, path)));
    accepted.mark(headers);
    Ok(response)
}

/// The order of a body, under the id that follows from its key. `now_ms` is in milliseconds since 1970, UTC.
///
/// # Errors
/// All that is wrong with the form of the body.
pub fn placed(
    body: &Value,
    key: &IdempotencyKey,
    settings: &Settings,
    now_ms: i64,
) -> Result<(Uuid, OrderPlaced), Problem> {
    let id = order_id(&settings.tenant, &settings.caller, key);
    Ok((id, OrderPlaced { order_id: id.to_string(), placed_at: now_ms, ..read_order(body, settings)? }))
}

/// The order is durable; what becomes of it is read at its address.
fn received(order_id: &str) -> Response {
    let path = order_path(order_id);
    let links = json!({"self": path, "cancel": format!("{path}/cancel")});
    let body = json!({"id": order_id, "status": Status::Received.as_str(), "links": links});
    let mut response = json_text(body.to_string());
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The order is decided already: the order as it stands.
fn created(order: KnownOrder, wait: Duration) -> Response {
    let etag = etag(order.version);
    let mut response = json_text(order.json);
    *response.status_mut() = StatusCode::CREATED;
    let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
    response.headers_mut().extend(applied.ok().map(|applied| (PREFERENCE_APPLIED, applied)));
    response.headers_mut().insert(ETAG, etag);
    response
}

/// The order, when it is decided in time and there is room to wait; not waiting is always allowed.
async fn decided(ingress: &Ingress, order_id: &str, wait: Duration) -> Option<KnownOrder> {
    let is_decided = |order: &KnownOrder| Status::parse(&order.status).is_some_and(Status::is_decided);
    let _slot = ingress.query_slot()?;
    let order = watch::wait_until(ingress, order_id, wait, 1, is_decided).await.ok()??;
    is_decided(&order).then_some(order)
}

/// Seconds of `Prefer: wait=N` (RFC 7240), capped; `None` when there is none that can be read, or 0.
fn preferred_wait(headers: &HeaderMap, max: Duration) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(',')).map(|one| one.split(';').next().unwrap_or_default());
    let wait =
        preferences.filter_map(|one| one.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"));
    let seconds: u64 = wait?.1.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds).min(max)).filter(|wait| !wait.is_zero())
}

/// The order in a body, without id and time. All faults are told at once.
fn read_order(body: &Value, settings: &Settings) -> Result<OrderPlaced, Problem> {
    if body.get("lines").and_then(Value::as_array).is_some_and(|lines| lines.len() > settings.lines_max) {
        return Err(too_many_lines(settings));
    }
    let mut faults = Faults::default();
    let known = ["customer_id", "currency", "lines", "payment_method", "expected_total", "channel"];
    let order = faults.object(body, &Place::Root, &known).map(|order| {
        let currency = order.text("currency", Text::Currency, &mut faults);
        OrderPlaced {
            order_id: String::new(),
            customer_id: order.text("customer_id", Text::Word(128), &mut faults),
            lines: read_lines(&order, settings, &mut faults),
            payment_method: order.text("payment_method", Text::Word(255), &mut faults),
            expected_total: read_expected_total(&order, &currency, &mut faults),
            channel: order.text_or("channel", Text::Word(32), "web", &mut faults),
            placed_at: 0,
            currency,
        }
    });
    faults.settle(order)
}

fn read_lines(order: &Object<'_, '_>, settings: &Settings, faults: &mut Faults) -> Vec<OrderLine> {
    let at = order.at("lines");
    let Some(lines) = order.need("lines", faults) else { return Vec::new() };
    let Some(lines) = lines.as_array().filter(|lines| !lines.is_empty()) else {
        faults.add(&at, "must be a list of at least one line");
        return Vec::new();
    };
    let quantity_max = settings.quantity_max.clamp(1, i64::from(i32::MAX));
    let mut read = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let place = Place::Item(&at, index);
        let Some(line) = faults.object(line, &place, &["sku", "quantity"]) else { continue };
        let quantity = line.whole("quantity", 1, quantity_max, faults);
        read.push(OrderLine {
            sku: line.text("sku", SKU, faults),
            quantity: i32::try_from(quantity).unwrap_or(i32::MAX),
        });
    }
    read
}

fn read_expected_total(order: &Object<'_, '_>, currency: &str, faults: &mut Faults) -> Option<Money> {
    let place = order.at("expected_total");
    let total = faults.object(order.get("expected_total")?, &place, &["minor", "currency"])?;
    let money = read_money(&total, faults);
    if Text::Currency.admits(&money.currency) && Text::Currency.admits(currency) && money.currency != currency {
        faults.add(&total.at("currency"), "must be the currency of the order");
    }
    Some(money)
}

/// An amount of minor units, not negative, and its currency.
pub(crate) fn read_money(object: &Object<'_, '_>, faults: &mut Faults) -> Money {
    Money {
        minor: object.whole("minor", 0, i64::MAX, faults),
        currency: object.text("currency", Text::Currency, faults),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preferred_wait_is_found_and_capped() {
        let wait = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PREFER, HeaderValue::from_static(value));
            }
            preferred_wait(&headers, Duration::from_secs(10)).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&["wait=3"]), Some(3));
        assert_eq!(wait(&["respond-async, Wait = \"4\" ; x=1"]), Some(4));
        assert_eq!(wait(&["respond-async", "wait=99"]), Some(10));
        for none in ["wait=0", "wait=-1", "wait=x", "wait", "respond-async"] {
            assert_eq!(wait(&[none]), None, "{none}");
        }
    }
}
