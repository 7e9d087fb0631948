//! `produce` and `consume`: records as JSON lines, decoded by their schemas. For people who look and try.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use millrace_schemas::{Codec, Topic};
use millrace_worker::{BulkProducer, From, PlacedRecord, TopicReader};
use serde_json::{Value, json};

use crate::connection::Connection;

const PRODUCE_EXAMPLE: &str = r#"Example:
  echo '{"key": "o-1", "value": {"order_id": "o-1", "request_id": "r-1", "reason": "changed my mind", "requested_by": "ann", "at": 0}}' \
    | millrace produce orders.cancel-requested"#;

/// Arguments of `millrace produce`.
#[derive(clap::Args)]
#[command(before_help = PRODUCE_EXAMPLE)]
pub(crate) struct ProduceArgs {
    /// The topic.
    topic: String,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `millrace consume`.
#[derive(clap::Args)]
pub(crate) struct ConsumeArgs {
    /// The topic.
    topic: String,
    #[command(flatten)]
    connection: Connection,
    /// Goes on with what comes, instead of ending at the end.
    #[arg(short, long)]
    follow: bool,
    /// Only records of this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Stops after this many records.
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

/// Each line is `{"key": "...", "value": {...}}`; `"value": null` writes a tombstone.
pub(crate) fn produce(args: &ProduceArgs) -> anyhow::Result<ExitCode> {
    let runtime = crate::run::runtime()?;
    let codec = runtime.block_on(millrace_schemas::registry::check(&args.connection.registry))?;
    Topic::find(&args.topic).with_context(|| format!("no record type is known for topic {}", args.topic))?;
    let mut producer = BulkProducer::connect(&args.connection.kafka)?;
    let mut count = 0_u64;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("line {}", number + 1);
        let record: Value = serde_json::from_str(&line).with_context(place)?;
        let key = record.get("key").and_then(Value::as_str).ok_or_else(|| anyhow!("no \"key\"")).with_context(place)?;
        let value = record.get("value").ok_or_else(|| anyhow!("no \"value\"")).with_context(place)?;
        let bytes = millrace_schemas::encode_json(&codec, &args.topic, value).with_context(place)?;
        producer.queue(&args.topic, key.as_bytes(), &bytes)?;
        count += 1;
    }
    producer.finish()?;
    eprintln!("{count} records in {}", args.topic);
    Ok(ExitCode::SUCCESS)
}

/// Prints what is there, or what comes.
pub(crate) fn consume(args: &ConsumeArgs) -> anyhow::Result<ExitCode> {
    let decoder = Decoder::connect(&args.connection)?;
    let mut reader = TopicReader::open(&args.connection.kafka, &[&args.topic], From::Beginning)?;
    let mut out = std::io::stdout().lock();
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 && (args.follow || !reader.has_caught_up()) {
        for placed in reader.read(Duration::from_millis(200), 1_000)? {
            let wanted = args.key.as_ref().is_none_or(|key| placed.record.key.as_deref() == Some(key.as_bytes()));
            if wanted && left > 0 {
                writeln!(out, "{}", decoder.to_json(&placed))?;
                left -= 1;
            }
        }
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Turns records into JSON, fetching writer schemas as they are met.
pub(crate) struct Decoder {
    codec: Codec,
    registry: String,
    runtime: tokio::runtime::Runtime,
}

impl Decoder {
    /// Needs the registry.
    pub(crate) fn connect(connection: &Connection) -> anyhow::Result<Self> {
        let runtime = crate::run::runtime()?;
        let codec = runtime.block_on(millrace_schemas::registry::check(&connection.registry))?;
        Ok(Self { codec, registry: connection.registry.clone(), runtime })
    }

    /// The codec.
    pub(crate) fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Fetches the schemas that decoding has met and does not know.
    pub(crate) fn fetch_wanted(&self) -> anyhow::Result<()> {
        self.runtime.block_on(millrace_schemas::registry::fetch_wanted(&self.codec, &self.registry))?;
        Ok(())
    }

    /// A record with its place; what cannot be decoded is said so, with its bytes.
    pub(crate) fn to_json(&self, placed: &PlacedRecord) -> Value {
        let record = &placed.record;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: serde_json::Map<String, Value> =
            record.headers.iter().map(|(name, value)| (name.to_string(), Value::String(text(value)))).collect();
        let mut json = json!({
            "topic": &*placed.topic,
            "partition": placed.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": record.key.as_deref().map(text),
            "headers": headers,
        });
        match &record.value {
            None => json["value"] = Value::Null,
            Some(bytes) => match self.decode(&placed.topic, bytes) {
                Ok(value) => json["value"] = value,
                Err(error) => {
                    json["undecoded"] = Value::String(error);
                    json["bytes"] = Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
                }
            },
        }
        json
    }

    fn decode(&self, topic: &str, bytes: &[u8]) -> Result<Value, String> {
        match millrace_schemas::decode_json(&self.codec, topic, bytes) {
            Err(error) if error.is_not_yet() => {
                self.fetch_wanted().map_err(|error| error.to_string())?;
                millrace_schemas::decode_json(&self.codec, topic, bytes).map_err(|error| error.to_string())
            }
            other => other.map_err(|error| error.to_string()),
        }
    }
}
