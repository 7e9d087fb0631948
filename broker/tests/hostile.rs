//! A client that sends nonsense loses its connection; nobody else notices.

mod clients;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clients::*;
use proptest::prelude::*;

/// Sends bytes and returns what comes back until the broker closes the connection or the client has heard enough.
fn send_raw(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    // The broker may close while this is being sent.
    stream.write_all(bytes).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

fn frame(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = 2 + 2 + 4 + 2 + body.len();
    bytes.extend((length as i32).to_be_bytes());
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(7i32.to_be_bytes());
    bytes.extend((-1i16).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn assert_alive(servers: &str) {
    let p = producer(servers);
    send(&p, "t", 0, "k", "alive");
    drain(&p);
}

#[test]
fn nonsense_closes_its_connection_only() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let address = broker.handle.kafka_addr();
    let good = TcpStream::connect(address).expect("connected");
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        i32::MAX.to_be_bytes().to_vec(),
        (-5i32).to_be_bytes().to_vec(),
        0i32.to_be_bytes().to_vec(),
        frame(999, 0, &[]),
        // An array that claims two thousand million elements.
        frame(42, 0, &i32::MAX.to_be_bytes()),
        frame(3, 1, &i32::MAX.to_be_bytes()),
        frame(0, 3, &[0; 3]),
    ] {
        assert_eq!(send_raw(address, &bytes), [0; 0], "{bytes:?}");
    }
    drop(good);
    assert_alive(&servers);
}

#[test]
fn too_new_a_version_of_api_versions_is_answered_with_the_versions_there_are() {
    let broker = start();
    let answer = send_raw(broker.handle.kafka_addr(), &frame(18, 99, &[]));
    // Length, correlation id, then error 35 in the layout of version 0.
    assert_eq!(answer[4..8], 7i32.to_be_bytes());
    assert_eq!(answer[8..10], 35i16.to_be_bytes());
    let apis = i32::from_be_bytes([answer[10], answer[11], answer[12], answer[13]]);
    assert!(apis > 20, "{apis}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_bodies_never_kill_the_broker(
        requests in prop::collection::vec(
            (0..60i16, 0..12i16, prop::collection::vec(any::<u8>(), 0..200)),
            1..20,
        )
    ) {
        let broker = SHARED.with(|broker| broker.handle.kafka_addr());
        for (key, version, body) in requests {
            // Nobody waits in these: a group that never fills or a fetch would hold the test up.
            if matches!(key, 1 | 11 | 14) {
                continue;
            }
            send_raw(broker, &frame(key, version, &body));
        }
        // ApiVersions, version 0.
        let answer = send_raw(broker, &frame(18, 0, &[]));
        prop_assert!(answer.len() > 100, "no answer");
    }
}

thread_local! {
    static SHARED: TestBroker = {
        let broker = start();
        create_topic(&broker.servers(), "t", 1, &[]);
        broker
    };
}
