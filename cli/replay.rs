//! `replay`: publishes a file of real orders like any producer would, with progress and a rate. The mapping of the file
//! is in `replay`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_replay::{Mapping, ReplayEvent, Selection, Shop, Stock};
use millrace_runtime::Topology;
use millrace_schemas::{AvroRecord, Codec, topics};
use millrace_worker::{BulkProducer, From, TopicReader};

use crate::connection::{Connection, TopologyFile};
use crate::orders::INTAKE;
use crate::pipeline::announced;

/// Arguments of `millrace replay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file, as bench/data/online_retail.csv.zst.
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
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

/// How long the processors may take to get ready for the first order.
const READY_WITHIN: Duration = Duration::from_secs(120);

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
    let shop = Running { connection: &args.connection, codec: &codec, topology: &args.topology.load(&codec)? };
    let _entered = runtime.enter();
    publish(shop, &args.file, args.stock, args.orders, args.speed)?;
    Ok(ExitCode::SUCCESS)
}

/// The shop that orders are published to.
pub(crate) struct Running<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) codec: &'a Codec,
    pub(crate) topology: &'a Topology,
}

/// Publishes catalog, opening stock and orders. Within an asynchronous runtime, on a thread that may block.
pub(crate) fn publish(
    Running { connection, codec, topology }: Running<'_>,
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
    wait_until_priced(connection, topology)?;
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
    let mut reader = TopicReader::open(&connection.kafka, &[topics::STOCK_LEVELS], From::Beginning)?;
    let deadline = Instant::now() + READY_WITHIN;
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

/// Orders that overtake the catalog would be refused as unknown: waits until every task of intake has read what stands in
/// it now. Who owns a task is announced on a topic; how far it has read is among its process's metrics.
fn wait_until_priced(connection: &Connection, topology: &Topology) -> anyhow::Result<()> {
    let catalog = TopicReader::open(&connection.kafka, &[topics::CATALOG_PRODUCTS], From::End)?;
    let wanted: Vec<(String, i64)> = catalog
        .ends()
        .map(|(topic, partition, end)| {
            let name = "millrace_global_table_offset";
            (format!("{name}{{partition=\"{partition}\",processor=\"{INTAKE}\",topic=\"{topic}\"}} "), end)
        })
        .collect();
    let intake = topology.find_processor(INTAKE).context("the topology has no intake")?;
    let leading = topology.processor(intake).inputs.first().context("intake has no input")?;
    let partitions = usize::try_from(topology.topic(*leading).partitions)?;
    let mut announcements = TopicReader::open(&connection.kafka, &[&topology.task_owners()], From::Beginning)?;
    let mut owners: BTreeMap<i32, String> = BTreeMap::new();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    let runtime = tokio::runtime::Handle::current();
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        for placed in announcements.read(Duration::from_millis(100), 1_000)? {
            if let Some((name, partition, url)) = announced(&placed)
                && name == INTAKE
            {
                owners.insert(partition, url);
            }
        }
        let urls: BTreeSet<&String> = owners.values().collect();
        let has_read = |url: &&String| {
            let asked = async { client.get(format!("{url}/metrics")).send().await?.text().await };
            // An owner of before does not answer any more; the new one is announced when it runs.
            let told = runtime.block_on(asked).unwrap_or_default();
            let at = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.parse::<i64>().ok());
            wanted.iter().all(|(name, end)| at(name).is_some_and(|at| at >= *end))
        };
        if owners.len() == partitions && announcements.has_caught_up() && urls.iter().all(has_read) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(anyhow!(
                "{} of {partitions} partitions of intake are announced, and not all have read the catalog after two minutes: is \
                 `millrace run orders` running?",
                owners.len()
            ));
        }
    }
}
