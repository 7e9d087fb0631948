//! What those see who watch a broker: its counters, and whether it lives and takes writes.

mod clients;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use clients::*;
use rdkafka::producer::Producer;

fn get(url: &str) -> (u16, String) {
    block_on(async {
        let answer = reqwest::get(url).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    })
}

/// Every series and its value. Fails where a line is none of Prometheus' text format.
fn scraped(broker: &TestBroker) -> BTreeMap<String, f64> {
    let (status, text) = get(&format!("{}/metrics", broker.handle.registry_url()));
    assert_eq!(status, 200);
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(kind.ends_with(" counter") || kind.ends_with(" gauge"), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        let before = values.insert(series.to_owned(), value.parse().expect("a number"));
        assert_eq!(before, None, "{series} is there twice");
    }
    values.into_iter().map(|(series, value)| (series.replace("millrace_broker_", ""), value)).collect()
}

#[test]
fn requests_connections_and_transactions_are_counted() {
    let broker = start();
    let before = scraped(&broker);
    assert_eq!((before["requests_total{request=\"Produce\"}"], before["open_transactions"]), (0.0, 0.0));
    create_topic(&broker.servers(), "t", 3, &[]);
    let writer = transactional(&broker.servers(), "watched");
    writer.begin_transaction().expect("begun");
    send(&writer, "t", 0, "k", &"v".repeat(10_000));
    drain(&writer);

    let during = scraped(&broker);
    let more = |series: &str| during[series] - before[series];
    assert_eq!((more("topics"), more("partitions")), (1.0, 3.0));
    assert!(more("requests_total{request=\"Produce\"}") >= 1.0);
    assert!(more("received_bytes_total") > 10_000.0 && more("log_bytes") > 10_000.0);
    assert!(more("sent_bytes_total") > 0.0 && during["connections"] >= 1.0);
    assert_eq!(during["open_transactions"], 1.0);
    until("the transaction ages", || {
        scraped(&broker)["oldest_transaction_seconds"] > during["oldest_transaction_seconds"]
    });

    writer.commit_transaction(PATIENCE).expect("committed");
    let after = scraped(&broker);
    assert_eq!((after["open_transactions"], after["oldest_transaction_seconds"]), (0.0, 0.0));
    drop(writer);
    until("its connections end", || scraped(&broker)["connections"] == 0.0);
}

#[test]
fn a_connection_that_is_closed_for_nonsense_is_counted_as_such() {
    let broker = start();
    let mut stream = TcpStream::connect(broker.handle.kafka_addr()).expect("connected");
    stream.write_all(&[0, 0, 0, 4, 0x7f, 0xff, 0, 0]).expect("sent");
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    until("it is counted", || scraped(&broker)["connections_closed_total{reason=\"malformed\"}"] == 1.0);
    assert_eq!(scraped(&broker)["connections_closed_total{reason=\"too_slow\"}"], 0.0);
}

#[test]
fn a_broker_that_serves_lives_and_is_ready() {
    let broker = start();
    for path in ["livez", "readyz"] {
        assert_eq!(get(&format!("{}/{path}", broker.handle.registry_url())), (200, "ok\n".to_owned()), "{path}");
    }
    // Beside them, the registry answers as before.
    let (status, body) = get(&format!("{}/no-such-path", broker.handle.registry_url()));
    assert_eq!((status, body.contains("error_code")), (404, true));
}
