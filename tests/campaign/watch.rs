//! Watches the committed output of the pipeline, to tell how long it stood still. Reads past the proxies; judges nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_schemas::topics;
use millrace_worker::{From, TopicReader};

/// When committed events of orders came, by partition, and how many so far.
#[derive(Default)]
struct Seen {
    arrivals: BTreeMap<i32, Vec<Instant>>,
    events: usize,
}

/// A running watch.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// From now on.
    pub fn start(kafka: String) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (writes, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut reader = TopicReader::open(&kafka, &[topics::ORDERS_EVENTS], From::Beginning).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                // A broker that is away is nothing to end for.
                let Ok(records) = reader.read(Duration::from_millis(10), 10_000) else { continue };
                if records.is_empty() {
                    continue;
                }
                let now = Instant::now();
                let mut seen = writes.lock().unwrap_or_else(PoisonError::into_inner);
                seen.events += records.len();
                for placed in records {
                    let arrivals = seen.arrivals.entry(placed.partition).or_default();
                    if arrivals.last() != Some(&now) {
                        arrivals.push(now);
                    }
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// How many committed events there are so far.
    pub fn events(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).events
    }

    /// The longest time without a new event that a partition had after `from`, having begun before `to`: of the
    /// partition that stood still longest. What it had stood still before `from` is put down to something else.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let of = |arrivals: &Vec<Instant>| {
            let ends = arrivals.iter().skip(1).chain(std::iter::once(&now));
            let gaps = arrivals.iter().zip(ends).filter(|(begin, end)| **end >= from && **begin <= to);
            gaps.map(|(begin, end)| *end - (*begin).max(from)).max().unwrap_or_default()
        };
        seen.arrivals.values().map(of).max().unwrap_or_default()
    }

    /// Whether every one of so many partitions has had an event since then.
    pub fn moves_since(&self, since: Instant, partitions: usize) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.arrivals.values().filter(|arrivals| arrivals.last() > Some(&since)).count() >= partitions
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
