//! A broker as a process of its own: `serve DATA_DIR [KAFKA_PORT [REGISTRY_PORT]]`. Prints its addresses as one line of
//! JSON and runs until standard input ends, so it never outlives who started it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use millrace_broker::{Broker, BrokerConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let data_dir = arguments.next().ok_or("serve DATA_DIR [KAFKA_PORT [REGISTRY_PORT]]")?;
    let mut port = || -> Result<SocketAddr, std::num::ParseIntError> {
        let port = arguments.next().map_or(Ok(0), |port| port.parse())?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let config = BrokerConfig {
        listen: port()?,
        registry_listen: port()?,
        data_dir: data_dir.into(),
        ..BrokerConfig::default()
    };
    let broker = Broker::start(config).await?;
    let mut out = std::io::stdout();
    writeln!(out, r#"{{"kafka":"{}","registry":"{}"}}"#, broker.kafka_addr(), broker.registry_url())?;
    out.flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    broker.stop().await;
    Ok(())
}
