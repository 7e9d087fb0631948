//! `trace`: every record of one order over all topics, in the order of their times. Reads everything; changes nothing.

use std::process::ExitCode;
use std::time::Duration;

use millrace_schemas::{TOPICS, topics};
use millrace_worker::{From, PlacedRecord, TopicReader};
use serde_json::Value;

use crate::connection::Connection;
use crate::output::{self, Form};
use crate::records::Decoder;

/// Arguments of `millrace trace`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The order's id.
    order: String,
    #[command(flatten)]
    connection: Connection,
    /// The form of the result.
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    output: Form,
}

/// Topics whose records name the order in their value, not in their key.
const BY_VALUE: &[&str] = &[topics::STOCK_COMMANDS, topics::STOCK_LEVELS];

/// Prints the order's records.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let decoder = Decoder::connect(&args.connection)?;
    let names: Vec<&str> = TOPICS.iter().map(|topic| topic.topic).collect();
    let mut reader = TopicReader::open(&args.connection.kafka, &names, From::Beginning)?;
    let mut found: Vec<(i64, Value)> = Vec::new();
    while !reader.has_caught_up() {
        for placed in reader.read(Duration::from_millis(200), 4_000)? {
            if concerns(&placed, &args.order) {
                found.push((placed.record.timestamp, decoder.to_json(&placed)));
            }
        }
    }
    found.sort_by_key(|(at, _)| *at);
    match args.output {
        Form::Json => output::print_json(&found.iter().map(|(_, json)| json).collect::<Vec<_>>())?,
        Form::Table => {
            let mut text = String::new();
            let first = found.first().map_or(0, |(at, _)| *at);
            for (at, json) in &found {
                text.push_str(&line(at - first, json));
            }
            output::print(&text)?;
        }
    }
    if found.is_empty() {
        eprintln!("no record of order {} in {} topics", args.order, names.len());
        return Ok(ExitCode::from(crate::DOES_NOT_HOLD));
    }
    Ok(ExitCode::SUCCESS)
}

/// By its key, or by its bytes where the key is a SKU: an id is long enough not to stand there by chance.
fn concerns(placed: &PlacedRecord, order: &str) -> bool {
    if placed.record.key.as_deref() == Some(order.as_bytes()) {
        return true;
    }
    let value = placed.record.value.as_deref().unwrap_or_default();
    BY_VALUE.contains(&&*placed.topic) && value.windows(order.len()).any(|window| window == order.as_bytes())
}

fn line(after_ms: i64, json: &Value) -> String {
    let text = |name: &str| {
        json.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).unwrap_or_default()
    };
    let value = json.get("value").unwrap_or(&Value::Null);
    let of = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let what = [of("kind"), of("cause"), of("status"), of("state"), of("reason"), of("detail")];
    let what: Vec<String> = what.into_iter().filter(|word| !word.is_empty()).collect();
    let place = format!("{}-{}@{}", text("topic"), text("partition"), text("offset"));
    format!("{after_ms:>8} ms  {place:<34} {:<38} {}\n", text("key"), what.join("  "))
}
