//! `replay`: publishes a file of real orders like any producer would, with progress and a rate. The mapping of the file
//! is in `replay`.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_replay::{Mapping, ReplayEvent, Selection, Shop, Stock};
use millrace_schemas::{AvroRecord, Codec, topics};
use millrace_worker::BulkProducer;

use crate::connection::Connection;

/// Arguments of `millrace replay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file, as bench/data/online_retail.csv.zst.
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// Orders a second, or `max`.
    #[arg(long, default_value = "max", value_name = "N|max")]
    speed: Speed,
    /// Only the first N orders.
    #[arg(long, value_name = "N")]
    orders: Option<usize>,
    /// Opening stock: `unlimited`, or a fraction of what the orders will ask for.
    #[arg(long, default_value = "unlimited", value_name = "unlimited|FRACTION")]
    stock: Stock,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speed {
    /// As fast as the broker takes it.
    Max,
    /// Orders a second.
    PerSecond(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Self::PerSecond(rate)),
            _ => Err("give a number of orders a second, or max".into()),
        }
    }
}

/// What was published.
pub(crate) struct Replayed {
    /// How many orders.
    pub(crate) orders: u64,
    /// When the first was published.
    pub(crate) began: Instant,
}

/// Publishes and says how it went.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = crate::run::runtime()?;
    let codec = runtime.block_on(millrace_schemas::registry::check(&args.connection.registry))?;
    publish(&args.connection, &codec, &args.file, args.stock, args.orders, args.speed)?;
    Ok(ExitCode::SUCCESS)
}

/// Publishes catalog, opening stock and orders.
pub(crate) fn publish(
    connection: &Connection,
    codec: &Codec,
    file: &Path,
    stock: Stock,
    orders: Option<usize>,
    speed: Speed,
) -> anyhow::Result<Replayed> {
    let open = || File::open(file).with_context(|| format!("cannot read {}", file.display()));
    let shop = Shop::read(open()?, Selection { orders, stock })
        .with_context(|| format!("{} is not as expected", file.display()))?;
    say_mapping(shop.mapping())?;
    let at = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
    let mut out = Publisher { producer: BulkProducer::connect(&connection.kafka)?, codec, value: Vec::new() };
    for product in shop.catalog() {
        out.publish(topics::CATALOG_PRODUCTS, &product.sku, product)?;
    }
    for opening in shop.opening_stock() {
        out.publish(topics::STOCK_ADJUSTMENTS, &opening.sku, opening)?;
    }
    out.producer.finish()?;
    wait_until_stocked(connection, codec, shop.opening_stock().iter().map(|opening| opening.sku.as_str()))?;
    let progress = ProgressBar::new(shop.mapping().orders_selected);
    progress.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} orders published  {per_sec}  {elapsed_precise}",
    )?);
    let began = Instant::now();
    let mut published = 0_u64;
    for event in shop.events() {
        // What happened years ago happens now: deadlines count from here.
        match event.moved_to(at) {
            ReplayEvent::Placed(placed) => {
                if let Speed::PerSecond(rate) = speed {
                    let due = Duration::from_secs_f64(published as f64 / rate);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                out.publish(topics::ORDERS_PLACED, &placed.order_id, &placed)?;
                published += 1;
                progress.inc(1);
            }
            ReplayEvent::CancelRequested(request) => {
                out.publish(topics::ORDERS_CANCEL_REQUESTED, &request.order_id, &request)?;
            }
            ReplayEvent::WrittenOff(adjustment) => {
                out.publish(topics::STOCK_ADJUSTMENTS, &adjustment.sku, &adjustment)?
            }
        }
    }
    out.producer.finish()?;
    progress.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{published} orders published in {seconds:.1} s ({:.0} a second)", published as f64 / seconds.max(1e-9));
    Ok(Replayed { orders: published, began })
}

/// What became of the file, in a few lines.
fn say_mapping(mapping: &Mapping) -> anyhow::Result<()> {
    let json = serde_json::to_value(mapping)?;
    let counts = json.as_object().into_iter().flatten().filter_map(|(name, value)| value.as_u64().map(|n| (name, n)));
    for (name, count) in counts {
        eprintln!("  {count:>9}  {}", name.replace('_', " "));
    }
    Ok(())
}

struct Publisher<'a> {
    producer: BulkProducer,
    codec: &'a Codec,
    value: Vec<u8>,
}

impl Publisher<'_> {
    fn publish<T: AvroRecord>(&mut self, topic: &'static str, key: &str, record: &T) -> anyhow::Result<()> {
        self.value.clear();
        self.codec.try_encode(record, &mut self.value).map_err(|error| anyhow!("{key}: {error}"))?;
        Ok(self.producer.queue(topic, key.as_bytes(), &self.value)?)
    }
}

/// Orders that overtake the opening stock would be refused for want of it: waits until the ledger shows every SKU.
pub(crate) fn wait_until_stocked<'a>(
    connection: &Connection,
    codec: &Codec,
    skus: impl Iterator<Item = &'a str>,
) -> anyhow::Result<()> {
    use millrace_schemas::StockLevel;
    let mut missing: HashSet<&str> = skus.collect();
    let mut reader = millrace_worker::TopicReader::open(
        &connection.kafka,
        &[topics::STOCK_LEVELS],
        millrace_worker::From::Beginning,
    )?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while !missing.is_empty() {
        for placed in reader.read(Duration::from_millis(200), 10_000)? {
            let level = placed.record.value.as_deref().and_then(|bytes| codec.decode::<StockLevel>(bytes).ok());
            if let Some(level) = level {
                missing.remove(level.sku.as_str());
            }
        }
        if Instant::now() > deadline {
            return Err(anyhow!(
                "the stock of {} products has not reached the ledger after two minutes: is `millrace run stock` running?",
                missing.len()
            ));
        }
    }
    Ok(())
}
