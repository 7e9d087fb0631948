//! Cancel requests, products and stock adjustments.

use axum::http::StatusCode;
use millrace_schemas::{AdjustmentKind, CancelRequested, Product, StockAdjustment};

use super::*;

fn decoded<T: millrace_schemas::AvroRecord>(record: &Outgoing) -> T {
    Codec::offline().decode(&record.value).unwrap()
}

#[tokio::test]
async fn a_cancel_request_becomes_a_record() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 3, "confirmed", "f");
    let path = "/v1/orders/o-1/cancel";
    let reply = shop.ask(post(path, Some("c-1"), json!({"reason": "changed my mind"}).to_string())).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
    assert_eq!(reply.header("location"), Some("/v1/orders/o-1"));
    let record = shop.log().remove(0);
    assert_eq!((record.topic, record.key.as_str()), ("orders.cancel-requested", "o-1"));
    let request: CancelRequested = decoded(&record);
    assert_eq!((request.order_id.as_str(), request.reason.as_str()), ("o-1", "changed my mind"));
    assert_eq!(request.requested_by, "anonymous");
    assert_eq!(reply.json()["request_id"], request.request_id.as_str());
    assert_eq!(reply.json()["status"], "cancel_requested");

    // Without body, type and key; and the same request again is the same request.
    let bare = || Request::post(path).body(Body::empty()).unwrap();
    let first = shop.ask(bare()).await;
    assert_eq!((first.status, &first.text), (StatusCode::ACCEPTED, &shop.ask(bare()).await.text));
    assert_ne!(first.json()["request_id"], request.request_id.as_str());
}

#[tokio::test]
async fn a_cancel_request_that_comes_too_late_is_refused() {
    let shop = Shop::open();
    for status in ["received", "authorizing", "reserving", "confirmed", "cancelling"] {
        shop.tracking.put("o-1", 1, status, "f");
        assert_eq!(shop.ask(post("/v1/orders/o-1/cancel", None, "{}".into())).await.status, StatusCode::ACCEPTED);
    }
    let published = shop.log().len();
    for status in ["partially_shipped", "shipped", "delivered", "completed", "cancelled", "rejected"] {
        shop.tracking.put("o-1", 1, status, "f");
        let reply = shop.ask(post("/v1/orders/o-1/cancel", None, "{}".into())).await;
        assert_eq!(reply.problem(409, "not-cancellable")["order_status"], status);
    }
    assert_eq!(shop.log().len(), published);
}

#[tokio::test]
async fn an_order_is_cancelled_only_when_somebody_knows_it() {
    let shop = Shop::open();
    shop.ask(post("/v1/orders/o-1/cancel", None, "{}".into())).await.problem(404, "unknown-order");
    // Placed here a moment ago, and not yet known to tracking.
    let placed = shop.place("k", &order()).await;
    let path = placed.json()["links"]["cancel"].as_str().unwrap().to_owned();
    assert_eq!(shop.ask(post(&path, None, "{}".into())).await.status, StatusCode::ACCEPTED);
    shop.restarted().ask(post(&path, None, "{}".into())).await.problem(404, "unknown-order");
    shop.tracking.is_moving(true);
    shop.ask(post(&path, None, "{}".into())).await.problem(503, "owner-unavailable");
}

#[tokio::test]
async fn a_cancel_request_has_the_same_limits() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 3, "confirmed", "f");
    let path = "/v1/orders/o-1/cancel";
    shop.ask(post(path, Some("a b"), "{}".into())).await.problem(400, "idempotency-key-malformed");
    shop.ask(post(path, None, "{".into())).await.problem(400, "malformed-json");
    let reply = shop.ask(post(path, None, json!({"reason": "x".repeat(257), "force": true}).to_string())).await;
    reply.problem(422, "invalid-content");
    assert_eq!(reply.pointers(), ["/force", "/reason"]);
    shop.ask(post(path, None, json!({"reason": "4111 1111 1111 1111"}).to_string())).await.problem(422, "card-data");
    let mut form = post(path, None, "reason=x".into());
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    shop.ask(form).await.problem(415, "unsupported-media-type");
    shop.broker_is(Behaviour::Hangs);
    shop.ask(post(path, None, "{}".into())).await.problem(503, "not-acknowledged");
    assert!(shop.log().is_empty());
}

fn put(sku: &str, body: &Value) -> Request<Body> {
    let request = Request::put(format!("/v1/products/{sku}")).header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

#[tokio::test]
async fn a_product_becomes_a_record() {
    let shop = Shop::open();
    let body = json!({"description": "WHITE HANGING HEART", "unit_price": {"minor": 255, "currency": "GBP"}});
    let reply = shop.ask(put("85123A", &body)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
    let record = shop.log().remove(0);
    assert_eq!((record.topic, record.key.as_str()), ("catalog.products", "85123A"));
    let product: Product = decoded(&record);
    assert_eq!((product.sku.as_str(), product.description.as_str()), ("85123A", "WHITE HANGING HEART"));
    assert_eq!((product.unit_price.minor, product.unit_price.currency.as_str(), product.active), (255, "GBP", true));

    let reply = shop.ask(put("A", &json!({"unit_price": {"minor": 1.5}, "active": "yes"}))).await;
    reply.problem(422, "invalid-content");
    let pointers = ["/description", "/unit_price/minor", "/unit_price/currency", "/active"];
    assert_eq!(reply.pointers(), pointers);
    shop.ask(put("a%20b", &body)).await.problem(400, "malformed-query");
    let reply = shop.ask(put("4111111111111111", &body)).await;
    reply.problem(422, "card-data");
    assert!(!reply.text.contains("4111"));
    shop.broker_is(Behaviour::QueueFull);
    shop.ask(put("85123A", &body)).await.problem(503, "queue-full");
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn an_adjustment_becomes_one_record_per_key() {
    let shop = Shop::open();
    let path = "/v1/stock/adjustments";
    let body = json!({"sku": "85123A", "kind": "receipt", "quantity": 100, "reason": "delivery 7"});
    let first = shop.ask(post(path, Some("a-1"), body.to_string())).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let again = shop.ask(post(path, Some("a-1"), body.to_string())).await;
    assert_eq!((&again.text, again.header("idempotent-replayed")), (&first.text, Some("true")));
    let record = shop.log().remove(0);
    assert_eq!((record.topic, record.key.as_str(), shop.log().len()), ("stock.adjustments", "85123A", 1));
    let adjustment: StockAdjustment = decoded(&record);
    assert_eq!((adjustment.kind, adjustment.quantity), (AdjustmentKind::Receipt, 100));
    assert_eq!(first.json()["id"], adjustment.adjustment_id.as_str());

    let other = json!({"sku": "85123A", "kind": "count", "quantity": 100});
    shop.ask(post(path, Some("a-1"), other.to_string())).await.problem(422, "idempotency-key-reused");
    for (kind, symbol) in [
        ("opening", AdjustmentKind::Opening),
        ("COUNT", AdjustmentKind::Count),
        ("write_off", AdjustmentKind::WriteOff),
    ] {
        let body = json!({"sku": "85123A", "kind": kind, "quantity": 0});
        assert_eq!(shop.ask(post(path, Some(kind), body.to_string())).await.status, StatusCode::ACCEPTED);
        assert_eq!(decoded::<StockAdjustment>(shop.log().last().unwrap()).kind, symbol);
    }
    shop.ask(post(path, None, body.to_string())).await.problem(400, "idempotency-key-missing");
    let reply = shop.ask(post(path, Some("x"), json!({"sku": "A", "kind": "theft", "quantity": -1}).to_string())).await;
    reply.problem(422, "invalid-content");
    assert_eq!(reply.pointers(), ["/kind", "/quantity"]);
}
