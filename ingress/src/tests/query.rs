//! Reading orders: now, later, and only when something changed.

use axum::http::StatusCode;

use super::*;
use crate::Status;

async fn ask_if_none_match(shop: &Shop, path: &str, tag: &str) -> Reply {
    shop.ask(Request::get(path).header("if-none-match", tag).body(Body::empty()).unwrap()).await
}

/// Sends a query and gives it time to be waiting at tracking.
async fn waiting(shop: &Shop, path: &str) -> tokio::task::JoinHandle<Reply> {
    let before = *shop.tracking.questions.lock().unwrap();
    let other = Shop { app: shop.app.clone(), ..shop.restarted() };
    let path = path.to_owned();
    let asked = tokio::spawn(async move { other.get(&path).await });
    eventually("the query is at tracking", || *shop.tracking.questions.lock().unwrap() > before).await;
    assert!(!asked.is_finished());
    asked
}

async fn answer(asked: tokio::task::JoinHandle<Reply>) -> Reply {
    timeout(Duration::from_secs(5), asked).await.expect("an answer in time").unwrap()
}

#[tokio::test]
async fn an_order_is_served_as_tracking_has_it() {
    let shop = Shop::open();
    shop.get("/v1/orders/o-1").await.problem(404, "unknown-order");
    shop.tracking.put("o-1", 4, "confirmed", "f");
    let reply = shop.get("/v1/orders/o-1").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("etag"), Some("\"v4\""));
    assert_eq!(reply.header("cache-control"), Some("private, no-cache"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.text, shop.tracking.orders.borrow()["o-1"].json);
}

#[tokio::test]
async fn what_the_client_has_already_is_304() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 4, "confirmed", "f");
    for tag in ["\"v4\"", "W/\"v4\"", "\"v3\", \"v4\"", "*"] {
        let reply = ask_if_none_match(&shop, "/v1/orders/o-1", tag).await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{tag}");
        assert_eq!(reply.header("etag"), Some("\"v4\""));
    }
    for tag in ["\"v3\"", "v4", "\"4\"", ""] {
        assert_eq!(ask_if_none_match(&shop, "/v1/orders/o-1", tag).await.status, StatusCode::OK, "{tag}");
    }
}

#[tokio::test]
async fn a_query_waits_for_an_order_to_become_known() {
    let shop = Shop::open();
    let asked = waiting(&shop, "/v1/orders/o-1?wait=30").await;
    shop.tracking.put("o-2", 1, "authorizing", "f");
    shop.tracking.put("o-1", 1, "authorizing", "f");
    assert_eq!(answer(asked).await.header("etag"), Some("\"v1\""));
}

#[tokio::test]
async fn a_query_waits_for_a_version() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 1, "authorizing", "f");
    let asked = waiting(&shop, "/v1/orders/o-1?wait=30&min_version=3").await;
    shop.tracking.put("o-1", 2, "reserving", "f");
    shop.tracking.put("o-1", 3, "confirmed", "f");
    assert_eq!(answer(asked).await.header("etag"), Some("\"v3\""));
}

#[tokio::test]
async fn a_query_waits_for_a_status_or_the_end() {
    let shop = Shop::open();
    for (id, last) in [("o-1", "confirmed"), ("o-2", "shipped"), ("o-3", "cancelled")] {
        shop.tracking.put(id, 1, "authorizing", "f");
        let asked = waiting(&shop, &format!("/v1/orders/{id}?wait=30&until=confirmed")).await;
        let before = *shop.tracking.questions.lock().unwrap();
        shop.tracking.put(id, 2, "reserving", "f");
        eventually("the second version was looked at", || *shop.tracking.questions.lock().unwrap() > before).await;
        assert!(!asked.is_finished());
        shop.tracking.put(id, 3, last, "f");
        assert_eq!(answer(asked).await.json()["status"], last);
    }
}

#[tokio::test]
async fn a_query_with_a_tag_waits_for_a_change() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 1, "authorizing", "f");
    let request = Request::get("/v1/orders/o-1?wait=30").header("if-none-match", "\"v1\"");
    let asked = tokio::spawn(shop.app.clone().oneshot(request.body(Body::empty()).unwrap()));
    eventually("the query is at tracking", || *shop.tracking.questions.lock().unwrap() > 1).await;
    assert!(!asked.is_finished());
    shop.tracking.put("o-1", 2, "reserving", "f");
    let reply = timeout(Duration::from_secs(5), asked).await.unwrap().unwrap().unwrap();
    assert_eq!((reply.status(), &reply.headers()["etag"]), (StatusCode::OK, &"\"v2\"".parse().unwrap()));
}

#[tokio::test]
async fn when_the_time_is_up_the_order_is_served_as_it_is() {
    let shop = Shop::with(|settings| settings.wait_max = Duration::from_millis(80));
    shop.get("/v1/orders/o-1?wait=30").await.problem(404, "unknown-order");
    shop.tracking.put("o-1", 1, "authorizing", "f");
    let reply = shop.get("/v1/orders/o-1?wait=30&until=confirmed").await;
    assert_eq!((reply.status, reply.header("etag")), (StatusCode::OK, Some("\"v1\"")));
    assert_eq!(ask_if_none_match(&shop, "/v1/orders/o-1?wait=1", "\"v1\"").await.status, StatusCode::NOT_MODIFIED);
    // A tracking that answers too early is not asked in a tight circle.
    assert!(*shop.tracking.questions.lock().unwrap() < 20);
}

#[tokio::test]
async fn a_moving_owner_is_waited_for_and_then_reported() {
    let shop = Shop::open();
    shop.tracking.put("o-1", 1, "confirmed", "f");
    shop.tracking.is_moving(true);
    shop.get("/v1/orders/o-1").await.problem(503, "owner-unavailable");
    let asked = waiting(&shop, "/v1/orders/o-1?wait=30").await;
    shop.tracking.is_moving(false);
    assert_eq!(answer(asked).await.status, StatusCode::OK);
}

#[tokio::test]
async fn queries_that_wait_are_capped_apart_from_orders() {
    let shop = Shop::with(|settings| settings.queries_max = 1);
    let asked = waiting(&shop, "/v1/orders/o-1?wait=30").await;
    shop.get("/v1/orders/o-1").await.problem(503, "overloaded");
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("prefer", "wait=5".parse().unwrap());
    assert_eq!(shop.ask(request).await.status, StatusCode::ACCEPTED);
    shop.tracking.put("o-1", 1, "authorizing", "f");
    assert_eq!(answer(asked).await.status, StatusCode::OK);
    assert_eq!(shop.get("/v1/orders/o-1").await.status, StatusCode::OK);
}

#[tokio::test]
async fn parameters_that_cannot_be_read_are_named() {
    let shop = Shop::open();
    for query in ["wait=x", "wait=-1", "min_version=", "until=done", "since=1"] {
        shop.get(&format!("/v1/orders/o-1?{query}")).await.problem(400, "malformed-query");
    }
    shop.get("/v1/orders/%ff").await.problem(400, "malformed-query");
    shop.get("/v1/orders/a%20b").await.problem(404, "unknown-order");
    shop.get(&format!("/v1/orders/{}", "x".repeat(129))).await.problem(404, "unknown-order");
}

#[test]
fn a_status_is_reached_from_what_follows_it_or_from_an_end() {
    let reached = |status: Status| Status::ALL.into_iter().filter(|wanted| status.has_reached(*wanted)).count();
    let counts = Status::ALL.map(reached);
    // received..delivered reach themselves and what is before; the three ends reach all; cancelling only itself.
    assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 11, 1, 11, 11]);
    let decided = Status::ALL.map(Status::is_decided);
    assert_eq!(decided, [false, false, false, true, true, true, true, true, false, true, true]);
    for status in Status::ALL {
        assert_eq!(Status::parse(status.as_str()), Some(status));
    }
    assert_eq!(Status::parse("done"), None);
}
