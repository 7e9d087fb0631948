//! Real sockets: loopback only, time-outs, and a drain that lets requests end.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::{Drained, ServeError, bind, serve};

/// A shop with its doors open at a port.
struct Served {
    shop: Shop,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<Drained, ServeError>>,
}

async fn served(change: impl FnOnce(&mut Settings)) -> Served {
    let shop = Shop::with(change);
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (app, settings, drain) = (shop.app.clone(), shop.settings.clone(), shop.drain.clone());
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let ended = tokio::spawn(async move { serve(listener, app, &settings, drain, shutdown).await });
    Served { shop, address, stop, ended }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is cut may end with a reset; what was read until then counts.
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

fn raw_order(key: &str) -> String {
    let body = order().to_string();
    format!(
        "POST /v1/orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn only_loopback_is_served() {
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
        let refused = bind(address.parse().unwrap()).await.unwrap_err();
        assert!(matches!(refused, ServeError::NotLoopback(_)), "{refused}");
        assert!(refused.to_string().contains("sign-in does not exist yet"));
    }
    // Also when somebody else made the listener.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let shop = Shop::open();
    let refused = serve(listener, shop.app, &shop.settings, shop.drain, std::future::pending()).await;
    assert!(matches!(refused, Err(ServeError::NotLoopback(_))));
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = bind(taken.local_addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }) && error.to_string().contains("another port"));
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_takes_no_more() {
    let served = served(|settings| settings.publish_timeout = Duration::from_secs(10)).await;
    served.shop.broker_is(Behaviour::Hangs);
    let idle = served.connect().await;
    let placing = served.send(&raw_order("k")).await;
    eventually("the order is at the broker", || served.shop.broker.behaviour.receiver_count() > 0).await;
    let before = *served.shop.tracking.questions.lock().unwrap();
    let waiting = served.send("GET /v1/orders/o-1?wait=30 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    eventually("the query is at tracking", || *served.shop.tracking.questions.lock().unwrap() > before).await;

    served.stop.send(()).unwrap();
    // The query that waits is answered with what is known; the order still waits for its record.
    assert!(rest(waiting).await.starts_with("HTTP/1.1 404"));
    assert!(!served.ended.is_finished());
    let refused = TcpStream::connect(served.address).await;
    assert!(refused.is_err(), "a draining server takes no connection");
    served.shop.broker_is(Behaviour::Acknowledges);
    let answer = rest(placing).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert_eq!(served.shop.log().len(), 1);
    // A connection without a request holds nobody up.
    let ended = timeout(Duration::from_secs(5), served.ended).await.expect("the drain ends");
    assert_eq!(ended.unwrap().unwrap(), Drained::Whole);
    assert_eq!(rest(idle).await, "");
}

#[tokio::test]
async fn a_drain_ends_also_when_a_request_does_not() {
    let served = served(|settings| {
        settings.publish_timeout = Duration::from_secs(60);
        settings.drain_timeout = Duration::from_millis(100);
    })
    .await;
    served.shop.broker_is(Behaviour::Hangs);
    let placing = served.send(&raw_order("k")).await;
    eventually("the order is at the broker", || served.shop.broker.behaviour.receiver_count() > 0).await;
    served.stop.send(()).unwrap();
    assert_eq!(rest(placing).await, "");
    assert_eq!(served.ended.await.unwrap().unwrap(), Drained::CutOff(1));
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let served = served(|settings| settings.header_timeout = Duration::from_millis(100)).await;
    let slow = served.send("GET /v1/orders/o-1 HTTP/1.1\r\nhost: loc").await;
    let silent = served.connect().await;
    let answer = rest(slow).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    rest(silent).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408() {
    let served = served(|settings| settings.body_timeout = Duration::from_millis(100)).await;
    let whole = raw_order("k");
    let answer = rest(served.send(&whole[..whole.len() - 5]).await).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("problems/slow-request"), "{answer}");
    assert!(served.shop.log().is_empty());
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_places_are_limited() {
    let served = served(|settings| settings.connections_max = 1).await;
    let mut stream = served.connect().await;
    for key in ["a", "b"] {
        stream.write_all(raw_order(key).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 202"));
    }
    assert_eq!(served.shop.log().len(), 2);
    // The second connection waits in the listen queue until the first ends.
    let request = format!("{}\r\n\r\n", "GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close");
    let mut second = served.send(&request).await;
    let mut early = [0; 1];
    assert!(timeout(Duration::from_millis(100), second.read(&mut early)).await.is_err());
    drop(stream);
    assert!(rest(second).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_program_can_merge_its_own_routes() {
    let shop = Shop::open();
    let app = shop.app.clone().merge(Router::new().route("/livez", axum::routing::get(async || "ok")));
    let shop = Shop { app, ..shop };
    assert_eq!(shop.get("/livez").await.text, "ok");
    shop.get("/nothing").await.problem(404, "unknown-route");
    assert_eq!(shop.place("k", &order()).await.status, 202);
}
