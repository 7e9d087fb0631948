//! Placing orders: what is answered, what is published, and that the same submit is the same order.

use axum::http::StatusCode;

use super::*;
use crate::{IdempotencyKey, OwnerSilent, ProblemType, order_id};

#[tokio::test]
async fn an_order_is_answered_when_its_record_is_durable() {
    let shop = Shop::open();
    let reply = shop.place("k-1", &order()).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
    let id = order_id("default", "anonymous", &IdempotencyKey::parse("k-1").unwrap()).to_string();
    let path = format!("/v1/orders/{id}");
    let links = json!({"self": path, "cancel": format!("{path}/cancel")});
    assert_eq!(reply.json(), json!({"id": id, "status": "received", "links": links}));
    assert_eq!(reply.header("location"), Some(path.as_str()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("idempotent-replayed"), None);

    let log = shop.log();
    assert_eq!((log.len(), log[0].topic, &log[0].key), (1, "orders.placed", &id));
    let placed = shop.placed().remove(0);
    assert_eq!(placed.order_id, id);
    assert_eq!((placed.customer_id.as_str(), placed.currency.as_str(), placed.channel.as_str()), ("c-1", "GBP", "web"));
    assert_eq!((placed.payment_method.as_str(), placed.expected_total), ("tok_visa", None));
    let lines: Vec<_> = placed.lines.iter().map(|line| (line.sku.as_str(), line.quantity)).collect();
    assert_eq!(lines, [("85123A", 6), ("71053", 2)]);
    assert!(placed.placed_at > 1_700_000_000_000);
}

/// The body of the README's curl line.
#[tokio::test]
async fn the_curl_line_works() {
    let shop = Shop::open();
    let body = r#"{"customer_id": "c-1", "currency": "GBP", "payment_method": "tok_visa",
       "lines": [{"sku": "85123A", "quantity": 2}, {"sku": "22423", "quantity": 1}]}"#;
    let request = Request::post("http://127.0.0.1:8080/v1/orders")
        .header("host", "127.0.0.1:8080")
        .header("content-type", "application/json")
        .header("idempotency-key", "my-first-order");
    let reply = shop.ask(request.body(Body::from(body)).unwrap()).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
    assert_eq!(shop.placed()[0].lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [2, 1]);
    // The README takes the id out of the text like this.
    let id = reply.text.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
    assert_eq!(id, reply.json()["id"].as_str());
}

#[tokio::test]
async fn what_may_be_left_out_is_taken_when_it_is_there() {
    let shop = Shop::open();
    let mut body = order();
    body["channel"] = json!("app");
    body["expected_total"] = json!({"minor": 1530, "currency": "GBP"});
    let mut request = post("/v1/orders", Some("k"), body.to_string());
    request.headers_mut().insert("content-type", "Application/JSON; charset=utf-8".parse().unwrap());
    assert_eq!(shop.ask(request).await.status, StatusCode::ACCEPTED);
    let placed = shop.placed().remove(0);
    assert_eq!(placed.channel, "app");
    assert_eq!(placed.expected_total.map(|total| (total.minor, total.currency)), Some((1530, "GBP".into())));
}

#[tokio::test]
async fn trace_and_request_id_travel_with_the_record() {
    let shop = Shop::open();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("traceparent", trace.parse().unwrap());
    request.headers_mut().insert("x-request-id", "req-7".parse().unwrap());
    let reply = shop.ask(request).await;
    assert_eq!(reply.header("x-request-id"), Some("req-7"));
    let record = shop.log().remove(0);
    let header = |name: &str| record.headers.iter().find(|(have, _)| *have == name).map(|(_, value)| value.clone());
    assert_eq!(header("traceparent").as_deref(), Some(trace));
    assert_eq!(header("x-request-id").as_deref(), Some("req-7"));
    assert_eq!(header("ce_id"), Some(record.key.clone()));
    assert_eq!(header("ce_type").as_deref(), Some("millrace.OrderPlaced"));

    let mut request = post("/v1/orders", Some("k2"), order().to_string());
    request.headers_mut().insert("x-request-id", "card 4111111111111111".parse().unwrap());
    request.headers_mut().insert("traceparent", "nonsense".parse().unwrap());
    let reply = shop.ask(request).await;
    assert!(!reply.header("x-request-id").unwrap().contains("4111"));
    assert!(shop.log()[1].headers.iter().all(|(name, _)| *name != "traceparent"));
}

#[tokio::test]
async fn the_key_must_be_there_and_readable() {
    let shop = Shop::open();
    shop.ask(post("/v1/orders", None, order().to_string())).await.problem(400, "idempotency-key-missing");
    for key in ["", "a b", "\"open"] {
        shop.place(key, &order()).await.problem(400, "idempotency-key-malformed");
    }
    let mut twice = post("/v1/orders", Some("a"), order().to_string());
    twice.headers_mut().append("idempotency-key", "b".parse().unwrap());
    shop.ask(twice).await.problem(400, "idempotency-key-malformed");
    assert!(shop.log().is_empty());
}

#[tokio::test]
async fn the_same_submit_is_the_same_order() {
    let shop = Shop::open();
    let first = shop.place("k", &order()).await;
    // Twice before tracking knows the order, then after, then at a process that remembers nothing.
    for round in 0..4 {
        if round == 2 {
            shop.catch_up();
        }
        let shop = if round == 3 { shop.restarted() } else { Shop { app: shop.app.clone(), ..shop.restarted() } };
        let again = shop.place("\"k\"", &order()).await;
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(shop.log().len(), 1);
    // Another key is another order.
    assert_eq!(shop.place("k2", &order()).await.status, StatusCode::ACCEPTED);
    assert_eq!(shop.log().len(), 2);
    assert_ne!(shop.log()[0].key, shop.log()[1].key);
}

#[tokio::test]
async fn a_used_key_with_another_body_is_refused() {
    let shop = Shop::open();
    shop.place("k", &order()).await;
    let mut other = order();
    other["lines"][0]["quantity"] = json!(7);
    shop.place("k", &other).await.problem(422, "idempotency-key-reused");
    shop.catch_up();
    shop.place("k", &other).await.problem(422, "idempotency-key-reused");
    shop.restarted().place("k", &other).await.problem(422, "idempotency-key-reused");
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn an_order_known_only_by_its_events_is_published() {
    let shop = Shop::open();
    let id = order_id("default", "anonymous", &IdempotencyKey::parse("k").unwrap()).to_string();
    shop.tracking.put(&id, 1, "authorizing", "");
    assert_eq!(shop.place("k", &order()).await.header("idempotent-replayed"), None);
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn two_requests_at_once_make_one_order() {
    let shop = Shop::with(|settings| settings.publish_timeout = Duration::from_secs(10));
    shop.broker_is(Behaviour::Hangs);
    let first = tokio::spawn({
        let app = shop.app.clone();
        async move { app.oneshot(post("/v1/orders", Some("k"), order().to_string())).await.unwrap().status() }
    });
    eventually("the first is at the broker", || shop.broker.behaviour.receiver_count() > 0).await;
    shop.place("k", &order()).await.problem(409, "request-in-flight");
    shop.broker_is(Behaviour::Acknowledges);
    assert_eq!(first.await.unwrap(), StatusCode::ACCEPTED);
    assert_eq!(shop.place("k", &order()).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn many_requests_at_once_make_one_order() {
    let shop = Shop::open();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let app = shop.app.clone();
        requests.spawn(async move {
            let reply = app.oneshot(post("/v1/orders", Some("k"), order().to_string())).await.unwrap();
            (reply.status().as_u16(), reply.headers().contains_key("idempotent-replayed"))
        });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == (202, false)).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| [(202, false), (202, true), (409, false)].contains(answer)), "{answers:?}");
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn without_an_acknowledgement_the_answer_is_503_and_a_retry_is_the_same_order() {
    let shop = Shop::open();
    for (behaviour, slug) in [
        (Behaviour::Hangs, "not-acknowledged"),
        (Behaviour::LosesAcknowledgement, "not-acknowledged"),
        (Behaviour::QueueFull, "queue-full"),
    ] {
        shop.broker_is(behaviour);
        shop.place("k", &order()).await.problem(503, slug);
    }
    shop.broker_is(Behaviour::Acknowledges);
    let reply = shop.place("k", &order()).await;
    assert_eq!((reply.status, reply.header("idempotent-replayed")), (StatusCode::ACCEPTED, None));
    // One copy whose acknowledgement was lost and one that was acknowledged: the same order, which intake knows.
    let placed = shop.placed();
    assert_eq!(placed.len(), 2);
    assert_eq!(placed[0].order_id, placed[1].order_id);
    assert_eq!(placed[0].fingerprint(), placed[1].fingerprint());
    assert_eq!(reply.json()["id"], placed[0].order_id.as_str());
}

#[tokio::test]
async fn a_record_that_may_exist_keeps_its_key_and_one_that_cannot_does_not() {
    let shop = Shop::open();
    let mut other = order();
    other["currency"] = json!("EUR");
    shop.broker_is(Behaviour::LosesAcknowledgement);
    shop.place("may", &order()).await.problem(503, "not-acknowledged");
    shop.broker_is(Behaviour::QueueFull);
    shop.place("cannot", &order()).await.problem(503, "queue-full");
    shop.broker_is(Behaviour::Acknowledges);
    shop.place("may", &other).await.problem(422, "idempotency-key-reused");
    assert_eq!(shop.place("cannot", &other).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_doubt_behind() {
    let shop = Shop::with(|settings| settings.publish_timeout = Duration::from_secs(10));
    shop.broker_is(Behaviour::Hangs);
    let request = tokio::spawn(shop.app.clone().oneshot(post("/v1/orders", Some("k"), order().to_string())));
    eventually("the order is at the broker", || shop.broker.behaviour.receiver_count() > 0).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    shop.broker_is(Behaviour::Acknowledges);
    eventually("the order is stored", || shop.log().len() == 1).await;
    let mut reply = shop.place("k", &order()).await;
    while reply.status == StatusCode::CONFLICT {
        reply = shop.place("k", &order()).await;
    }
    assert_eq!(reply.header("idempotent-replayed"), Some("true"));
    assert_eq!(shop.log().len(), 1);
}

#[tokio::test]
async fn while_the_owner_is_silent_orders_are_taken_or_refused_as_set() {
    let shop = Shop::open();
    shop.tracking.is_moving(true);
    assert_eq!(shop.place("k", &order()).await.status, StatusCode::ACCEPTED);
    assert!(*shop.tracking.questions.lock().unwrap() > 1, "the owner was asked more than once");
    let strict = Shop::with(|settings| settings.owner_silent = OwnerSilent::Refuse);
    strict.tracking.is_moving(true);
    strict.place("k", &order()).await.problem(503, "owner-unavailable");
    assert!(strict.log().is_empty());
    strict.tracking.is_moving(false);
    assert_eq!(strict.place("k", &order()).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn prefer_wait_answers_201_with_the_decision() {
    let shop = Shop::open();
    let id = order_id("default", "anonymous", &IdempotencyKey::parse("k").unwrap()).to_string();
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("prefer", "wait=30".parse().unwrap());
    let asked = tokio::spawn({
        let app = shop.app.clone();
        async move { app.oneshot(request).await.unwrap() }
    });
    eventually("the order is stored", || !shop.log().is_empty()).await;
    for (version, status) in [(1, "authorizing"), (2, "reserving"), (3, "confirmed")] {
        shop.tracking.put(&id, version, status, &shop.placed()[0].fingerprint());
        tokio::task::yield_now().await;
    }
    let reply = timeout(Duration::from_secs(5), asked).await.unwrap().unwrap();
    assert_eq!(reply.status(), StatusCode::CREATED);
    assert_eq!(reply.headers()["preference-applied"], "wait=10");
    assert_eq!(reply.headers()["etag"], "\"v3\"");
    assert_eq!(reply.headers()["location"], format!("/v1/orders/{id}"));
    let body: Value = serde_json::from_slice(&to_bytes(reply.into_body(), 1 << 20).await.unwrap()).unwrap();
    assert_eq!(body["status"], "confirmed");
}

#[tokio::test]
async fn prefer_wait_answers_202_when_no_decision_came() {
    let shop = Shop::with(|settings| settings.prefer_wait_max = Duration::from_millis(80));
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("prefer", "wait=5".parse().unwrap());
    let reply = shop.ask(request).await;
    assert_eq!((reply.status, reply.header("preference-applied")), (StatusCode::ACCEPTED, None));
    assert_eq!(reply.json()["status"], "received");
}

#[tokio::test]
async fn only_json_is_read() {
    let shop = Shop::open();
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let mut request = post("/v1/orders", Some("k"), order().to_string());
        request.headers_mut().insert("content-type", media.parse().unwrap());
        shop.ask(request).await.problem(415, "unsupported-media-type");
    }
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    shop.ask(request).await.problem(415, "unsupported-media-type");
    for text in ["", "{", "[1,", "{\"a\":1}{", "{\"currency\":\"GBP\",\"currency\":\"EUR\"}"] {
        shop.ask(post("/v1/orders", Some("k"), text.into())).await.problem(400, "malformed-json");
    }
    assert!(shop.log().is_empty());
}

#[tokio::test]
async fn limits_hold() {
    let shop = Shop::open();
    let lines = |count: usize| {
        let mut order = order();
        order["lines"] = (0..count).map(|n| json!({"sku": format!("S{n}"), "quantity": 1})).collect();
        order
    };
    assert_eq!(shop.place("2000", &lines(2000)).await.status, StatusCode::ACCEPTED);
    shop.place("2001", &lines(2001)).await.problem(422, "too-many-lines");
    shop.place("9000", &lines(9000)).await.problem(422, "too-many-lines");

    let fits = format!("{}{}", " ".repeat((1 << 20) - order().to_string().len()), order());
    assert_eq!(shop.ask(post("/v1/orders", Some("fits"), fits.clone())).await.status, StatusCode::ACCEPTED);
    shop.ask(post("/v1/orders", Some("k"), format!(" {fits}"))).await.problem(413, "body-too-large");
    // The length can also be announced, or not be known before.
    let mut announced = post("/v1/orders", Some("k"), String::new());
    announced.headers_mut().insert("content-length", "1048577".parse().unwrap());
    shop.ask(announced).await.problem(413, "body-too-large");

    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    shop.ask(post("/v1/orders", Some("k"), deep)).await.problem(422, "nested-too-deeply");
    assert_eq!(shop.log().len(), 2);
}

#[tokio::test]
async fn every_fault_of_an_order_is_told_with_its_place() {
    let shop = Shop::open();
    let body = json!({
        "customer_id": "a b", "currency": "gbp", "note": "x", "a/b~c": 1, "channel": 3,
        "expected_total": {"minor": -1, "currency": "GBP"},
        "lines": [
            {"sku": "", "quantity": 1}, {"sku": "A", "quantity": 0}, {"sku": "A", "quantity": 1.5}, {"quantity": 1},
            {"sku": "A", "quantity": "1"}, {"sku": "A", "quantity": 1, "price": 1}, "A", {"sku": "A", "quantity": 1_000_001},
            {"sku": "s".repeat(65), "quantity": 1}, {"sku": "a\u{200b}b", "quantity": 1}, {"sku": "A\nB", "quantity": 1},
        ],
    });
    let reply = shop.place("k", &body).await;
    let problem = reply.problem(422, "invalid-content");
    let mut pointers = reply.pointers();
    pointers.sort();
    let mut expected = [
        "/customer_id",
        "/currency",
        "/note",
        "/a~1b~0c",
        "/channel",
        "/payment_method",
        "/expected_total/minor",
        "/lines/0/sku",
        "/lines/1/quantity",
        "/lines/2/quantity",
        "/lines/3/sku",
        "/lines/4/quantity",
        "/lines/5/price",
        "/lines/6",
        "/lines/7/quantity",
        "/lines/8/sku",
        "/lines/9/sku",
        "/lines/10/sku",
    ];
    expected.sort_unstable();
    assert_eq!(pointers, expected, "{problem:#}");

    for (change, pointer) in [
        (json!({"lines": []}), "/lines"),
        (json!({"lines": {}}), "/lines"),
        (json!({"lines": null}), "/lines"),
        (json!({"expected_total": {"minor": 1, "currency": "EUR"}}), "/expected_total/currency"),
        (json!({"expected_total": 1}), "/expected_total"),
        (json!({"currency": "GBPX"}), "/currency"),
    ] {
        let mut body = order();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = shop.place("k", &body).await;
        reply.problem(422, "invalid-content");
        assert_eq!(reply.pointers(), [pointer]);
    }
    let reply = shop.ask(post("/v1/orders", Some("k"), "[]".into())).await;
    reply.problem(422, "invalid-content");
    assert_eq!(reply.pointers(), [""]);
    assert!(shop.log().is_empty());
}

#[tokio::test]
async fn faults_are_told_up_to_a_number() {
    let shop = Shop::open();
    let mut body = order();
    body["lines"] = (0..200).map(|_| json!({"sku": "A", "quantity": 0})).collect();
    let reply = shop.place("k", &body).await;
    let problem = reply.problem(422, "invalid-content");
    assert_eq!(reply.pointers().len(), 50);
    assert!(problem["detail"].as_str().unwrap().contains("150 further"), "{problem}");
}

#[tokio::test]
async fn a_card_number_is_refused_wherever_it_stands_and_never_repeated() {
    let shop = Shop::open();
    let pan = "4111 1111 1111 1111";
    for (body, pointer) in [
        (json!({"payment_method": pan}), "/payment_method"),
        (json!({"customer_id": "4111-1111-1111-1111"}), "/customer_id"),
        (json!({"lines": [{"sku": "378282246310005", "quantity": 1}]}), "/lines/0/sku"),
        (json!({"extra": {"deep": [{"er": format!("pay with {pan}")}]}}), "/extra/deep/0/er"),
        (json!({pan: 1}), ""),
    ] {
        let mut full = order();
        full.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let reply = shop.place("k", &full).await;
        reply.problem(422, "card-data");
        assert_eq!(reply.pointers(), [pointer]);
        let said = reply.text.replace([' ', '-'], "");
        assert!(!said.contains("411111111111") && !said.contains("378282246310005"), "{said}");
    }
    assert!(shop.log().is_empty());
    // A token that merely has digits passes.
    let mut token = order();
    token["payment_method"] = json!("tok_4111111111111112");
    assert_eq!(shop.place("k", &token).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_refused_body_does_not_use_up_its_key() {
    let shop = Shop::open();
    let mut wrong = order();
    wrong["lines"][0]["quantity"] = json!(0);
    shop.place("k", &wrong).await.problem(422, "invalid-content");
    assert_eq!(shop.place("k", &order()).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_back() {
    let shop = Shop::with(|settings| {
        settings.writes_max = 1;
        settings.publish_timeout = Duration::from_secs(10);
    });
    shop.broker_is(Behaviour::Hangs);
    let first = tokio::spawn(shop.app.clone().oneshot(post("/v1/orders", Some("a"), order().to_string())));
    eventually("the first is at the broker", || shop.broker.behaviour.receiver_count() > 0).await;
    shop.place("b", &order()).await.problem(503, "overloaded");
    shop.broker_is(Behaviour::Acknowledges);
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(shop.place("b", &order()).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn unknown_addresses_methods_and_strangers_get_problems() {
    let shop = Shop::open();
    shop.get("/v1/nothing").await.problem(404, "unknown-route");
    let reply = shop.get("/v1/orders").await;
    reply.problem(405, "method-not-allowed");
    assert_eq!(reply.header("allow"), Some("POST"));
    for (name, value) in [
        ("host", "shop.example.com"),
        ("host", "127.0.0.1.nip.io:8080"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        let mut request = post("/v1/orders", Some("k"), order().to_string());
        request.headers_mut().insert(name, value.parse().unwrap());
        shop.ask(request).await.problem(403, "foreign-origin");
    }
    assert!(shop.log().is_empty());
    let mut request = post("/v1/orders", Some("k"), order().to_string());
    request.headers_mut().insert("host", "localhost:8080".parse().unwrap());
    request.headers_mut().insert("origin", "http://localhost:8080".parse().unwrap());
    assert_eq!(shop.ask(request).await.status, StatusCode::ACCEPTED);
}

#[test]
fn problem_types_are_told_apart() {
    let mut slugs = std::collections::HashSet::new();
    for kind in ProblemType::ALL {
        assert!(slugs.insert(kind.slug()), "{} twice", kind.slug());
        assert!(kind.slug().bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase()));
        assert!(kind.status().is_client_error() || kind.status().is_server_error());
        assert!(kind.uri().ends_with(kind.slug()));
        assert!(kind.meaning().ends_with('.') && !kind.title().ends_with('.'));
        assert!(kind.status() != StatusCode::SERVICE_UNAVAILABLE || kind.retry_after().is_some());
    }
}
