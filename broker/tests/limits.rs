//! What clients may take of the broker, over the wire; faults on demand; and who may reach it.

mod clients;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clients::*;
use millrace_broker::{ApiKey, Broker, BrokerConfig, BrokerError, BrokerHandle, Fault};
use rdkafka::producer::Producer;

fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> BrokerHandle {
    let mut config = BrokerConfig::temporary();
    change(&mut config);
    block_on(Broker::start(config)).expect("the broker starts")
}

fn connect(broker: &BrokerHandle) -> TcpStream {
    let stream = TcpStream::connect(broker.kafka_addr()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Whether the broker closes the connection, rather than keep it until the client gives up.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Metadata in version 1, without a client id, for no topic.
fn metadata_request() -> Vec<u8> {
    let mut request = 14_i32.to_be_bytes().to_vec();
    request.extend([0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0]);
    request
}

#[test]
fn addresses_on_the_network_must_be_asked_for() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let start = |change: fn(&mut BrokerConfig, SocketAddr)| {
        let mut config = BrokerConfig::temporary();
        change(&mut config, everywhere);
        block_on(Broker::start(config))
    };
    let refused = start(|config, address| config.listen = address);
    assert!(matches!(refused, Err(BrokerError::NotLoopback(_))), "{refused:?}");
    let refused = start(|config, address| config.registry_listen = address);
    assert!(matches!(refused, Err(BrokerError::NotLoopback(_))), "{refused:?}");
    let refused = start(|config, address| {
        config.listen = address;
        config.reachable_from_the_network = true;
    });
    assert!(matches!(refused, Err(BrokerError::NoHost(_))), "{refused:?}");
}

#[test]
fn clients_are_told_the_advertised_host() {
    let broker = start_with(|config| config.advertised_host = Some("localhost".to_owned()));
    let mut stream = connect(&broker);
    stream.write_all(&metadata_request()).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("a whole answer");
    assert!(answer.windows(9).any(|part| part == b"localhost"), "{answer:?}");
}

#[test]
fn a_temporary_folder_goes_with_its_broker() {
    let config = BrokerConfig::temporary();
    let dir = config.data_dir.clone();
    let broker = block_on(Broker::start(config.clone())).expect("the broker starts");
    assert!(dir.is_dir());
    let second = block_on(Broker::start(config));
    assert!(matches!(second, Err(BrokerError::InUse(_))), "{second:?}");
    assert!(dir.is_dir(), "the second must not delete what the first uses");
    block_on(broker.stop());
    assert!(!dir.exists());
}

#[test]
fn several_brokers_live_side_by_side() {
    let brokers: Vec<BrokerHandle> = (0..3).map(|_| start_with(|_| {})).collect();
    for (number, broker) in brokers.iter().enumerate() {
        let servers = broker.kafka_addr().to_string();
        create_topic(&servers, "t", 1, &[]);
        let p = producer(&servers);
        send(&p, "t", 0, "k", &number.to_string());
        drain(&p);
    }
    for (number, broker) in brokers.iter().enumerate() {
        assert_eq!(values(&broker.kafka_addr().to_string(), "t", 0, "read_committed"), [number.to_string()]);
    }
}

#[test]
fn silent_and_slow_clients_lose_their_connections_and_hold_nobody_up() {
    let broker = start_with(|config| {
        config.max_idle = Duration::from_millis(300);
        config.patience = Duration::from_millis(300);
        config.max_in_flight_bytes = 1 << 20;
    });
    let mut silent = connect(&broker);
    // Announce much and send little: none of it may take the memory others need. Half of them send enough to be given some.
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(&broker)).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        stream.write_all(&(50_i32 << 20).to_be_bytes()).expect("sent");
        stream.write_all(&vec![0; if number % 2 == 0 { 1_000 } else { 100_000 }]).expect("sent");
    }
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 1, &[]);
    let p = producer(&servers);
    send(&p, "t", 0, "k", &"x".repeat(500_000));
    drain(&p);
    assert!(is_closed(&mut silent));
    assert!(slow.iter_mut().all(is_closed));
}

#[test]
fn who_takes_no_answers_loses_the_connection_and_holds_nobody_up() {
    let broker = start_with(|config| config.patience = Duration::from_millis(300));
    let mut deaf = connect(&broker);
    deaf.set_write_timeout(Some(PATIENCE)).expect("set");
    let asking = std::thread::spawn(move || {
        let requests = metadata_request().repeat(1_000);
        loop {
            if let Err(error) = deaf.write_all(&requests) {
                return error.kind();
            }
        }
    });
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 1, &[]);
    let p = producer(&servers);
    send(&p, "t", 0, "k", "v");
    drain(&p);
    let ended = asking.join().expect("it ends");
    assert!(matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended:?}");
}

#[test]
fn connections_and_partitions_have_limits() {
    let broker = start_with(|config| {
        config.max_connections = 8;
        config.settings.max_partitions = 4;
    });
    // The registry's own topic has one.
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 3, &[]);
    let admin = admin(&servers);
    let one = rdkafka::admin::NewTopic::new("u", 1, rdkafka::admin::TopicReplication::Fixed(1));
    let refused = block_on(admin.create_topics([&one], &rdkafka::admin::AdminOptions::new())).expect("answered");
    assert_eq!(refused[0].as_ref().expect_err("over the limit").1, rdkafka::error::RDKafkaErrorCode::PolicyViolation);
    drop(admin);
    let mut kept = Vec::new();
    loop {
        let mut stream = connect(&broker);
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        if is_closed(&mut stream) {
            break;
        }
        kept.push(stream);
        assert!(kept.len() <= 8, "one too many is closed at once");
    }
}

#[test]
fn faults_come_when_asked_for() {
    let broker = start_with(|_| {});
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 1, &[]);
    let p = producer(&servers);
    let faults = [
        Fault::Error(millrace_broker::core::ErrorCode::NotLeaderOrFollower),
        Fault::LoseAnswer,
        Fault::DropConnection,
        Fault::Delay(Duration::from_millis(50)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        broker.inject(ApiKey::Produce, fault).expect("it can");
        send(&p, "t", 0, "k", &number.to_string());
        drain(&p);
    }
    // The client repeated what failed, and nothing is there twice.
    assert_eq!(values(&servers, "t", 0, "read_committed"), ["0", "1", "2", "3"]);
    let error = Fault::Error(millrace_broker::core::ErrorCode::UnknownServerError);
    broker.inject(ApiKey::Metadata, error).expect_err("it cannot");
    broker
        .inject(ApiKey::InitProducerId, Fault::Error(millrace_broker::core::ErrorCode::ClusterAuthorizationFailed))
        .expect("it can");
    let refused: rdkafka::producer::BaseProducer =
        client(&servers).set("transactional.id", "x").create().expect("a producer");
    assert!(refused.init_transactions(PATIENCE).is_err());
}
