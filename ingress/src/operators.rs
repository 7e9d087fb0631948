//! What operators send: products (`PUT /v1/products/{sku}`) and stock adjustments (`POST /v1/stock/adjustments`).
//!
//! Both become one record each; what they mean for prices and balances is decided by intake and stock.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_schemas::{AdjustmentKind, Money, Product, StockAdjustment, topics};
use serde_json::{Value, json};

use crate::acceptance::{KnownBy, Submit, accept, publish};
use crate::app::{Ingress, WriteSlot, json_text, now_ms};
use crate::body::JsonBody;
use crate::card::looks_like_card;
use crate::context::Context;
use crate::fields::{Faults, Place, Text};
use crate::idempotency::{IdempotencyKey, derived_id};
use crate::problem::{Problem, ProblemType};
use crate::submit::{SKU, read_money};

/// Reasons of an adjustment, as they stand in JSON.
const KINDS: [(&str, AdjustmentKind); 4] = [
    ("opening", AdjustmentKind::Opening),
    ("receipt", AdjustmentKind::Receipt),
    ("count", AdjustmentKind::Count),
    ("write_off", AdjustmentKind::WriteOff),
];

/// Puts a product into the catalog, or changes it. Idempotent by itself: the latest wins.
pub(crate) async fn product(
    State(ingress): State<Arc<Ingress>>,
    _slot: WriteSlot,
    context: Context,
    sku: Result<Path<String>, PathRejection>,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let sku = match sku {
        Ok(Path(sku)) if looks_like_card(&sku) => return Err(ProblemType::CardData.into()),
        Ok(Path(sku)) if SKU.admits(&sku) => sku,
        _ => return Err(ProblemType::MalformedQuery.with("a SKU is 1 to 64 visible characters without spaces")),
    };
    let mut faults = Faults::default();
    let product = faults.object(&body, &Place::Root, &["description", "unit_price", "active"]).map(|product| {
        let place = product.at("unit_price");
        let price = product.need("unit_price", &mut faults);
        let price = price.and_then(|price| faults.object(price, &place, &["minor", "currency"]));
        Product {
            sku: sku.clone(),
            description: product.text("description", Text::Line(256), &mut faults),
            unit_price: match price {
                Some(price) => read_money(&price, &mut faults),
                None => Money { minor: 0, currency: String::new() },
            },
            active: product.flag_or("active", true, &mut faults),
            at: now_ms(),
        }
    });
    let product = faults.settle(product)?;
    let id = derived_id("millrace/product", &[&product.sku, &context.request_id]).to_string();
    publish(&ingress, ingress.outgoing(topics::CATALOG_PRODUCTS, sku.clone(), &product, &context, &id)).await?;
    Ok((StatusCode::ACCEPTED, json_text(json!({"sku": sku, "status": "received"}).to_string())).into_response())
}

/// Adds to, counts or writes off the stock of one SKU, once per idempotency key.
pub(crate) async fn adjustment(
    State(ingress): State<Arc<Ingress>>,
    _slot: WriteSlot,
    context: Context,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let (sku, kind, quantity, reason) = read_adjustment(&body)?;
    let settings = ingress.settings();
    let id = derived_id("millrace/adjustment", &[&settings.tenant, &settings.caller, key.as_str()]);
    let adjustment_id = id.to_string();
    let fingerprint = format!("{sku} {kind:?} {quantity} {reason}");
    let adjustment = StockAdjustment {
        adjustment_id: adjustment_id.clone(),
        sku: sku.clone(),
        kind,
        quantity,
        reason,
        at: now_ms(),
    };
    let topic = topics::STOCK_ADJUSTMENTS;
    let record = ingress.outgoing(topic, sku.clone(), &adjustment, &context, &adjustment_id);
    let accepted = accept(&ingress, Submit { id, fingerprint, known_by: KnownBy::ThisProcess, record }).await?;
    let body = json!({"id": adjustment_id, "sku": sku, "status": "received"});
    let mut response = (StatusCode::ACCEPTED, json_text(body.to_string())).into_response();
    accepted.mark(response.headers_mut());
    Ok(response)
}

fn read_adjustment(body: &Value) -> Result<(String, AdjustmentKind, i64, String), Problem> {
    let mut faults = Faults::default();
    let adjustment = faults.object(body, &Place::Root, &["sku", "kind", "quantity", "reason"]).map(|adjustment| {
        let word = adjustment.need("kind", &mut faults).map(|kind| kind.as_str().unwrap_or_default());
        let kind = KINDS.iter().find(|(name, _)| word.is_some_and(|word| name.eq_ignore_ascii_case(word)));
        if word.is_some() && kind.is_none() {
            let words = KINDS.map(|(name, _)| name).join(", ");
            faults.add(&adjustment.at("kind"), format!("must be one of {words}"));
        }
        (
            adjustment.text("sku", SKU, &mut faults),
            kind.map_or(AdjustmentKind::Unknown, |(_, kind)| *kind),
            adjustment.whole("quantity", 0, i64::from(i32::MAX), &mut faults),
            adjustment.text_or("reason", Text::Line(256), "", &mut faults),
        )
    });
    faults.settle(adjustment)
}
