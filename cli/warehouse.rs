//! The people around the shop, simulated for `dev` and `warehouse`: a warehouse that ships what is confirmed, and a small
//! stocked catalog. The warehouse's rules are in `replay`; here is only its reading and writing.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use millrace_replay::warehouse::{Settings, Warehouse};
use millrace_schemas::{AdjustmentKind, Codec, Money, OrderAccepted, OrderEvent, Product, StockAdjustment, topics};
use millrace_worker::{BulkProducer, From, TopicReader};

use crate::connection::Connection;

/// Arguments of `millrace warehouse`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
}

const RECORDS_AT_ONCE: usize = 2_000;
/// Longest wait for records, before it looks whether it shall stop.
const IDLE_WAIT: Duration = Duration::from_millis(200);

/// Works until interrupted.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    crate::run::to_its_end(async {
        let codec = args.connection.codec().await?;
        let running = start(&args.connection, codec)?;
        eprintln!("simulated warehouse  ships what is confirmed, at {}", args.connection.kafka);
        crate::run::interrupted().await;
        tokio::task::spawn_blocking(|| running.stop()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A running warehouse.
pub(crate) struct RunningWarehouse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RunningWarehouse {
    /// Ends it.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the simulated warehouse panicked");
        }
    }
}

/// Reads confirmed orders from the beginning and writes what is shipped. Its shipment ids are functions of the order, so
/// reading everything again after a restart changes nothing.
pub(crate) fn start(connection: &Connection, codec: Codec) -> anyhow::Result<RunningWarehouse> {
    let kafka = connection.kafka.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name("warehouse".into()).spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            if let Err(error) = work(&kafka, &codec, &stopped) {
                tracing::warn!(error = format!("{error:#}"), "the simulated warehouse starts again");
            }
        }
    })?;
    Ok(RunningWarehouse { stop, thread })
}

fn work(kafka: &str, codec: &Codec, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut reader = TopicReader::open(kafka, &[topics::ORDERS_ACCEPTED, topics::ORDERS_EVENTS], From::Beginning)?;
    let mut producer = BulkProducer::connect(kafka)?;
    let mut warehouse = Warehouse::new(Settings::default());
    let mut value = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut updates = Vec::new();
        for placed in reader.read(IDLE_WAIT, RECORDS_AT_ONCE)? {
            let Some(bytes) = placed.record.value.as_deref() else { continue };
            if *placed.topic == *topics::ORDERS_ACCEPTED {
                if let Ok(accepted) = codec.decode::<OrderAccepted>(bytes) {
                    updates.extend(warehouse.on_accepted(&accepted));
                }
            } else if let Ok(event) = codec.decode::<OrderEvent>(bytes) {
                updates.extend(warehouse.on_order_event(&event));
            }
        }
        for update in updates {
            value.clear();
            codec.encode(topics::SHIPMENTS_UPDATES, &update, &mut value);
            producer.queue(topics::SHIPMENTS_UPDATES, update.order_id.as_bytes(), &value)?;
        }
    }
    producer.finish().context("the last shipments")
}

/// SKU, description, price in pence, units: what the real shop sold most.
const SAMPLE: &[(&str, &str, i64, i64)] = &[
    ("85123A", "White hanging heart T-light holder", 295, 5_000),
    ("85099B", "Jumbo bag red retrospot", 208, 5_000),
    ("22423", "Regency cakestand 3 tier", 1_275, 500),
    ("47566", "Party bunting", 495, 1_000),
    ("20725", "Lunch bag red retrospot", 165, 2_000),
    ("84879", "Assorted colour bird ornament", 169, 3_000),
    ("22197", "Popcorn holder", 85, 10_000),
    ("22720", "Set of 3 cake tins pantry design", 495, 800),
    ("21212", "Pack of 72 retrospot cake cases", 55, 10_000),
    ("22457", "Natural slate heart chalkboard", 295, 3),
];

/// Puts a small catalog with stock into an empty shop; a shop that has products is left alone. Before the processors
/// start: intake begins only when it has read the catalog as it stands then.
pub(crate) async fn stock_sample_shop(connection: &Connection, codec: &Codec) -> anyhow::Result<Shelves> {
    let (kafka, codec) = (connection.kafka.clone(), codec.clone());
    tokio::task::spawn_blocking(move || {
        if !TopicReader::open(&kafka, &[topics::CATALOG_PRODUCTS], From::Beginning)?.is_empty() {
            return Ok(Shelves::AsTheyWere);
        }
        let mut producer = BulkProducer::connect(&kafka)?;
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let at = i64::try_from(at.as_millis())?;
        for (sku, description, minor, units) in SAMPLE {
            let product = Product {
                sku: (*sku).to_owned(),
                description: (*description).to_owned(),
                unit_price: Money { minor: *minor, currency: "GBP".to_owned() },
                active: true,
                at,
            };
            let opening = StockAdjustment {
                adjustment_id: format!("sample-opening-{sku}"),
                sku: (*sku).to_owned(),
                kind: AdjustmentKind::Opening,
                quantity: *units,
                reason: "sample shop".to_owned(),
                at,
            };
            let mut value = Vec::new();
            codec.encode(topics::CATALOG_PRODUCTS, &product, &mut value);
            producer.queue(topics::CATALOG_PRODUCTS, sku.as_bytes(), &value)?;
            value.clear();
            codec.encode(topics::STOCK_ADJUSTMENTS, &opening, &mut value);
            producer.queue(topics::STOCK_ADJUSTMENTS, sku.as_bytes(), &value)?;
        }
        producer.finish()?;
        anyhow::Ok(Shelves::Filled)
    })
    .await?
}

/// Whether the sample shop was put in just now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shelves {
    Filled,
    AsTheyWere,
}

/// Waits until the ledger shows the sample shop: what is ordered before would be out of stock.
pub(crate) async fn wait_for_sample_stock(connection: &Connection, codec: &Codec) -> anyhow::Result<()> {
    let (connection, codec) = (connection.clone(), codec.clone());
    let skus = SAMPLE.iter().map(|(sku, ..)| *sku);
    tokio::task::spawn_blocking(move || crate::replay::wait_until_stocked(&connection, &codec, skus)).await?
}
