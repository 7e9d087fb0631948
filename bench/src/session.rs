//! One contender on fresh topics, from its start to the audit: sends, watches, measures. Owns what a measurement is; never
//! what is made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_schemas::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contender::Contender;
use crate::ground::{Ground, Numbers, Transactions};
use crate::load::{Clock, Load, Pace};
use crate::process::{Process, Usage};
use crate::processes::{Change, Processes};
use crate::statistics::{Latency, agree, slope};
use crate::watch::Watch;
use crate::workload::Workload;

/// Between two looks at everything.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long orders may be on their way after the last was sent.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
/// A contender that uses less than this, in cores, has nothing left to do.
const AT_REST: f64 = 0.06;
/// Over so long it is looked whether it is at rest,
const REST_LOOK: Duration = Duration::from_secs(2);
/// and for so long it is waited for.
const REST_PATIENCE: Duration = Duration::from_secs(60);
/// By what share of the rate the orders on their way may grow and the rate still count as sustained.
const GROWTH_MAX: f64 = 0.02;
/// And how much longer, in seconds, orders may take at the end of a window than before, without meaning anything.
const LATENCY_NOISE: f64 = 0.15;
/// How long the audit may take, or wait for orders to end.
const AUDIT_PATIENCE: Duration = Duration::from_secs(900);

/// What a session is on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) workload: Workload,
    pub(crate) numbers: Numbers,
    /// CPUs of the contender, as `taskset` names them.
    pub(crate) cpus: Option<String>,
    /// At most so many orders.
    pub(crate) orders_max: usize,
    /// Orders on their way under pressure; more for a contender that is late by design.
    pub(crate) in_flight: u64,
}

/// See the module.
pub(crate) struct Session<'a> {
    pub(crate) ground: &'a mut Ground,
    setup: Setup,
    processes: Processes,
    clock: Arc<Clock>,
    watch: Watch,
    load: Load,
    transactions: Transactions,
}

/// A look at everything at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Look {
    /// Seconds from the beginning of the window.
    pub(crate) at: f64,
    pub(crate) sent: u64,
    pub(crate) decided: u64,
    pub(crate) app: Usage,
    pub(crate) broker: Usage,
    pub(crate) harness: Usage,
}

/// What a window of time came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Orders a second that were asked for; none where the pace was another.
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) decided: u64,
    pub(crate) decided_per_second: f64,
    /// The same in the second half of the window: without the time until the first order is through, and as the slope of
    /// all looks, so that it does not matter where in a commit interval the window ends.
    pub(crate) steady_per_second: f64,
    /// From the time an order was meant to be sent to the time its outcome was read, of the orders sent in the window.
    pub(crate) latency: Latency,
    /// How late the sender itself was.
    pub(crate) sender_late: Latency,
    /// Of the orders sent, how many were never decided.
    pub(crate) lost: u64,
    /// By how many orders a second those on their way grew, in the last two thirds of the window.
    pub(crate) backlog_growth: f64,
    /// From the beginning until the last order that was sent is decided: that long, so many orders, and what they cost.
    pub(crate) seconds_until_drained: f64,
    pub(crate) decided_until_drained: u64,
    pub(crate) app_cpu_seconds: f64,
    pub(crate) broker_cpu_seconds: f64,
    pub(crate) harness_cpu_seconds: f64,
    pub(crate) app_peak_resident_mib: f64,
    pub(crate) transactions: u64,
    pub(crate) aborted: u64,
    /// Entries of all logs, markers included.
    pub(crate) log_entries: u64,
    pub(crate) looks: Vec<Look>,
}

impl Window {
    /// CPU-seconds of the contender for a million orders.
    pub(crate) fn app_cpu_per_million(&self) -> f64 {
        self.app_cpu_seconds * 1e6 / self.decided_until_drained.max(1) as f64
    }

    /// CPU-seconds of the broker for a million orders.
    pub(crate) fn broker_cpu_per_million(&self) -> f64 {
        self.broker_cpu_seconds * 1e6 / self.decided_until_drained.max(1) as f64
    }

    /// Share of one core the contender used.
    pub(crate) fn app_cores(&self) -> f64 {
        self.app_cpu_seconds / self.seconds_until_drained.max(1e-9)
    }

    /// Whether the rate is one the contender can go on with: nothing piles up, nobody waits too long, nothing is lost.
    pub(crate) fn is_sustained(&self, p99_bound: f64) -> bool {
        let rate = self.rate.unwrap_or(self.decided_per_second);
        let looked_at = (self.seconds * 2.0 / 3.0).max(1e-9);
        // However steady it is, latency goes up and down by some hundred milliseconds.
        let growth_max = rate * (GROWTH_MAX + LATENCY_NOISE / looked_at);
        self.lost == 0 && self.backlog_growth <= growth_max && self.latency.p99 <= p99_bound
    }

    /// Whether the sender could not keep its own times: then the window says nothing.
    pub(crate) fn is_void(&self) -> bool {
        self.sender_late.p99 > 100.0
    }
}

/// What the audit said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Audited {
    /// Every promise holds, by `millrace audit`.
    pub(crate) holds: bool,
    /// What the harness itself saw: orders decided twice, orders never decided.
    pub(crate) decided_twice: u64,
    pub(crate) undecided: u64,
    pub(crate) placed: u64,
    pub(crate) accepted: u64,
    pub(crate) confirmed: u64,
    pub(crate) seconds: f64,
    /// The findings, where there are any.
    pub(crate) findings: Vec<String>,
}

impl Audited {
    /// Only then does a figure count.
    pub(crate) fn is_clean(&self) -> bool {
        self.holds && self.decided_twice == 0 && self.undecided == 0
    }
}

impl<'a> Session<'a> {
    /// Makes the topics anew and starts the contender on them, and waits until its shop is open.
    pub(crate) fn open(ground: &'a mut Ground, contender: &Contender, setup: &Setup) -> anyhow::Result<Self> {
        let mut session = Self::prepare(ground, contender, setup)?;
        session.start()?;
        session.until_stocked()?;
        Ok(session)
    }

    /// The same without starting it.
    pub(crate) fn prepare(ground: &'a mut Ground, contender: &Contender, setup: &Setup) -> anyhow::Result<Self> {
        ground.fresh(&setup.workload, &setup.numbers)?;
        let clock = Arc::new(Clock::for_orders(setup.orders_max));
        let client = ground.client();
        Ok(Self {
            watch: Watch::start(&client, ground.round, clock.clone(), setup.orders_max)?,
            load: Load::new(&client, &ground.codec, &setup.workload, ground.round, clock.clone())?,
            transactions: ground.transactions()?,
            processes: Processes::of(contender, setup.cpus.as_deref()),
            setup: setup.clone(),
            clock,
            ground,
        })
    }

    /// Who is measured.
    pub(crate) fn contender(&self) -> &Contender {
        self.processes.contender()
    }

    /// Starts the contender, again where it was ended; another process of it where there is one.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.processes.join(self.ground)
    }

    /// Waits until the ledger knows the stock.
    pub(crate) fn until_stocked(&mut self) -> anyhow::Result<()> {
        if !self.contender().is_audited() {
            return Ok(());
        }
        let consumer: BaseConsumer = self
            .ground
            .client()
            .set("group.id", "bench.stocked")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topics::STOCK_LEVELS), Duration::from_secs(30))?;
        let mut from = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            from.add_partition_offset(topics::STOCK_LEVELS, partition.id(), Offset::Beginning)?;
        }
        consumer.assign(&from)?;
        let mut known = std::collections::HashSet::new();
        let since = Instant::now();
        while known.len() < self.setup.workload.skus {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                known.insert(message.key().unwrap_or_default().to_vec());
            }
            self.processes.are_alive()?;
            ensure!(since.elapsed() < DRAIN_PATIENCE, "{} does not open its shop", self.contender().name);
        }
        Ok(())
    }

    /// Sends at a rate, then waits until everything sent is decided.
    pub(crate) fn at_rate(&mut self, per_second: f64, lasting: Duration) -> anyhow::Result<Window> {
        let mut window = self.window(Pace::Rate { per_second, lasting }, |_| false)?;
        window.rate = Some(per_second);
        Ok(window)
    }

    /// The same, and after a quarter of that time the processes change.
    pub(crate) fn at_rate_through(
        &mut self,
        change: Change,
        per_second: f64,
        lasting: Duration,
    ) -> anyhow::Result<Window> {
        let at = lasting.as_secs_f64() / 4.0;
        let mut due = Some(change);
        self.window_with(Pace::Rate { per_second, lasting }, |look, processes, ground| {
            match due.take_if(|_| look.at >= at) {
                Some(change) => processes.change(ground, change).map(|()| false),
                None => Ok(false),
            }
        })
    }

    /// Sends so many as fast as they can be sent.
    pub(crate) fn at_once(&mut self, orders: u64) -> anyhow::Result<Window> {
        self.window(Pace::AtOnce { orders }, |_| false)
    }

    /// Keeps the contender under pressure until three windows of this length lie within this share of their mean, or for
    /// at most so long: what warms up a Java machine. Gives what it did a second in the end, and how long it took to become steady.
    pub(crate) fn warm_up(&mut self, window: Duration, at_most: Duration, share: f64) -> anyhow::Result<(f64, f64)> {
        let mut rates: Vec<f64> = Vec::new();
        let mut mark = (0.0, 0);
        let seconds = window.as_secs_f64();
        let used = self.window(self.pressure(), |look| {
            if look.at - mark.0 >= seconds {
                rates.push((look.decided - mark.1) as f64 / (look.at - mark.0));
                mark = (look.at, look.decided);
            }
            agree(&rates, 3, share) || look.at >= at_most.as_secs_f64()
        })?;
        Ok((used.steady_per_second, used.seconds))
    }

    /// As many orders on their way as it takes to keep it busy, whatever its latency.
    fn pressure(&self) -> Pace {
        let late = (self.contender().p99_bound() / 2_000.0).max(1.0);
        Pace::Pressure { in_flight: (self.setup.in_flight as f64 * late) as u64 }
    }

    /// Keeps it under pressure for so long.
    pub(crate) fn under_pressure(&mut self, lasting: Duration) -> anyhow::Result<Window> {
        self.window(self.pressure(), |look| look.at >= lasting.as_secs_f64())
    }

    /// Keeps it under pressure until so many orders were sent in all, and waits for them.
    pub(crate) fn pressed_until(&mut self, orders: u64) -> anyhow::Result<()> {
        self.window(self.pressure(), |look| look.sent >= orders).map(|_| ())
    }

    /// Orders sent.
    pub(crate) fn sent(&self) -> u64 {
        self.clock.sent()
    }

    /// Asks for every confirmed order to be cancelled, so that each order comes to its end.
    pub(crate) fn cancel_confirmed(&mut self) -> anyhow::Result<()> {
        let confirmed = self.watch.since(0).into_iter().filter(|decided| decided.confirmed);
        self.load.cancel(self.ground.round, confirmed.map(|decided| decided.number))
    }

    /// Sends at a pace until it is through or `ended` says so, looking at everything meanwhile.
    fn window(&mut self, pace: Pace, mut ended: impl FnMut(&Look) -> bool) -> anyhow::Result<Window> {
        self.window_with(pace, |look, _, _| Ok(ended(look)))
    }

    /// The same; `turn` may also change the processes.
    fn window_with(
        &mut self,
        pace: Pace,
        mut turn: impl FnMut(&Look, &mut Processes, &Ground) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Window> {
        self.transactions.count();
        let (committed, aborted) = (self.transactions.committed, self.transactions.aborted);
        let entries = self.ground.log_entries()?;
        let first = self.clock.sent();
        let place = self.watch.place();
        let began = Instant::now();
        let stop = AtomicBool::new(false);
        let start = self.look(began);
        let mut looks = vec![start];
        let (watch, load, processes) = (&self.watch, &mut self.load, &mut self.processes);
        let late = std::thread::scope(|scope| {
            let sender = scope.spawn(|| load.send(pace, || watch.count(), &stop));
            while !sender.is_finished() {
                std::thread::sleep(LOOK_EVERY);
                let look = look(began, &self.clock, watch, processes, self.ground);
                looks.push(look);
                let turned = turn(&look, processes, self.ground).and_then(|over| {
                    processes.are_alive()?;
                    Ok(over)
                });
                if !matches!(turned, Ok(false)) {
                    stop.store(true, Ordering::Relaxed);
                }
                if let Err(error) = turned {
                    let _ = sender.join();
                    return Err(error);
                }
            }
            sender.join().map_err(|_| anyhow::anyhow!("the sender has panicked"))?
        })?;
        let end = self.look(began);
        looks.push(end);
        let sent = self.clock.sent();
        let lost = self.drain()?;
        self.transactions.count();
        let numbers = u32::try_from(first)?..u32::try_from(sent)?;
        let of_window = self.watch.since(place).into_iter().filter(|decided| numbers.contains(&decided.number));
        let took = of_window.map(|decided| decided.took).collect();
        let seconds = end.at - start.at;
        let decided = end.decided - start.decided;
        // What the drain cost belongs to the orders that were drained.
        let drained = self.look(began);
        Ok(Window {
            rate: None,
            seconds,
            sent: sent - first,
            decided,
            decided_per_second: decided as f64 / seconds,
            steady_per_second: steady(&looks),
            latency: Latency::of(took),
            sender_late: Latency::of(late),
            lost,
            backlog_growth: backlog_growth(&looks),
            seconds_until_drained: drained.at - start.at,
            decided_until_drained: drained.decided - start.decided,
            app_cpu_seconds: drained.app.cpu_seconds - start.app.cpu_seconds,
            broker_cpu_seconds: drained.broker.cpu_seconds - start.broker.cpu_seconds,
            harness_cpu_seconds: drained.harness.cpu_seconds - start.harness.cpu_seconds,
            app_peak_resident_mib: drained.app.peak_resident_mib,
            transactions: self.transactions.committed - committed,
            aborted: self.transactions.aborted - aborted,
            log_entries: self.ground.log_entries()? - entries,
            looks,
        })
    }

    fn look(&self, began: Instant) -> Look {
        look(began, &self.clock, &self.watch, &self.processes, self.ground)
    }

    /// What the contender used while nothing was asked of it, in shares of one core.
    pub(crate) fn idle(&mut self, lasting: Duration) -> anyhow::Result<f64> {
        let began = Instant::now();
        let before = self.look(began);
        std::thread::sleep(lasting);
        self.processes.are_alive()?;
        let after = self.look(began);
        Ok((after.app.cpu_seconds - before.app.cpu_seconds) / (after.at - before.at))
    }

    /// Waits until the contender has done what earlier load left it to do (merging what it has written, say), so that light
    /// load is measured and not that. Whether it came to rest.
    pub(crate) fn rest(&mut self) -> anyhow::Result<bool> {
        let since = Instant::now();
        while since.elapsed() < REST_PATIENCE {
            if self.idle(REST_LOOK)? < AT_REST {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until everything sent is decided; how many orders are not.
    pub(crate) fn drain(&mut self) -> anyhow::Result<u64> {
        let since = Instant::now();
        while self.watch.count() < self.clock.sent() {
            self.processes.are_alive()?;
            if since.elapsed() > DRAIN_PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(self.clock.sent() - self.watch.count())
    }

    /// Sends so many at once and does not wait for them.
    pub(crate) fn leave_on_their_way(&mut self, orders: u64) -> anyhow::Result<()> {
        let watch = &self.watch;
        self.load.send(Pace::AtOnce { orders }, || watch.count(), &AtomicBool::new(false))?;
        Ok(())
    }

    /// Removes its local state; it must not be running.
    pub(crate) fn forget_state(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.ground.round_dir()?)? {
            let path = entry?.path();
            let is_state = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state"));
            // The provider's ledger is the outside world: it stays.
            if is_state && path.join("one").is_dir() {
                std::fs::remove_dir_all(path.join("one"))?;
            } else if is_state {
                std::fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// What its local state takes on disk.
    pub(crate) fn disk_mib(&self) -> anyhow::Result<f64> {
        let output = std::process::Command::new("du").arg("-sk").arg(self.ground.round_dir()?).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let kib = said.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("du says {said:?}"))? / 1_024.0)
    }

    /// Sends one order every `gap` until one that was sent since is decided; how long that took from now.
    pub(crate) fn until_one_is_confirmed(&mut self, gap: Duration) -> anyhow::Result<Duration> {
        let first = self.clock.sent();
        let since = Instant::now();
        let began = self.clock.now();
        let stop = AtomicBool::new(false);
        let (watch, load) = (&self.watch, &mut self.load);
        let pace = Pace::Rate { per_second: 1.0 / gap.as_secs_f64(), lasting: DRAIN_PATIENCE };
        let found = std::thread::scope(|scope| {
            let sender = scope.spawn(|| load.send(pace, || 0, &stop));
            let mut place = watch.place();
            let found = loop {
                let new = watch.since(place);
                place += new.len();
                if let Some(one) = new.iter().find(|decided| decided.confirmed && u64::from(decided.number) >= first) {
                    break Some(one.at - began);
                }
                if since.elapsed() > DRAIN_PATIENCE {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            stop.store(true, Ordering::Relaxed);
            sender.join().map_err(|_| anyhow::anyhow!("the sender has panicked"))?.map(|_| found)
        })?;
        let name = &self.contender().name;
        found.map(Duration::from_micros).with_context(|| format!("{name} confirms nothing within {DRAIN_PATIENCE:?}"))
    }

    /// Ends the contender (its last process) at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.processes.kill();
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.processes.leave_all()
    }

    /// Orders decided, and of them confirmed.
    pub(crate) fn decided(&self) -> (u64, u64) {
        (self.watch.count(), self.watch.confirmed())
    }

    /// The most it had resident.
    pub(crate) fn usage(&self) -> Usage {
        self.processes.usage()
    }

    /// Lets `millrace audit` judge what the contender wrote; orders may still be confirmed and not shipped.
    pub(crate) fn audit(&mut self) -> anyhow::Result<Audited> {
        self.audit_with(&["--running"])
    }

    /// The same with these arguments.
    pub(crate) fn audit_with(&mut self, arguments: &[&str]) -> anyhow::Result<Audited> {
        let undecided = self.drain()?;
        let since = Instant::now();
        let mut command = std::process::Command::new(&self.ground.millrace);
        let psp = self.processes.psp();
        command
            .args(["audit", "--output", "json", "--kafka", &self.ground.kafka, "--registry", &self.ground.registry])
            .args(["--psp", psp.unwrap_or("none"), "--topology"])
            .arg(self.ground.topology_file()?)
            .args(arguments);
        let mut process = Process::start(&self.ground.round_dir()?, "audit", command)?;
        let status = process.until_it_ends(AUDIT_PATIENCE)?;
        let said = process.said();
        let from = said.find("{\n").with_context(|| format!("the audit gave no report:\n{}", process.tail()))?;
        let report: Value =
            serde_json::Deserializer::from_str(&said[from..]).into_iter().next().context("no report")??;
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("the audit failed ({status}):\n{}", process.tail());
        }
        let count = |name: &str| report["orders"][name].as_u64().unwrap_or(0);
        let verdicts = report["promises"].as_array().into_iter().flatten();
        let seconds = since.elapsed().as_secs_f64();
        eprintln!("    {} orders audited in {seconds:.0} s", count("placed"));
        Ok(Audited {
            holds: status.success(),
            decided_twice: self.watch.again(),
            undecided,
            placed: count("placed"),
            accepted: count("accepted"),
            confirmed: count("confirmed"),
            seconds,
            findings: verdicts.filter(|verdict| verdict["holds"] == false).map(Value::to_string).collect(),
        })
    }
}

fn look(began: Instant, clock: &Clock, watch: &Watch, processes: &Processes, ground: &Ground) -> Look {
    Look {
        at: began.elapsed().as_secs_f64(),
        sent: clock.sent(),
        decided: watch.count(),
        app: processes.usage(),
        broker: Usage::of(ground.broker_pid()),
        harness: Usage::of(std::process::id()),
    }
}

/// Decided a second in the second half of the looks.
fn steady(looks: &[Look]) -> f64 {
    let late = &looks[looks.len() / 2..];
    slope(&late.iter().map(|look| (look.at, look.decided as f64)).collect::<Vec<_>>())
}

/// By how many a second the orders on their way grew, in the last two thirds of the looks.
fn backlog_growth(looks: &[Look]) -> f64 {
    let late = &looks[looks.len() / 3..];
    let points: Vec<(f64, f64)> = late.iter().map(|look| (look.at, look.sent as f64 - look.decided as f64)).collect();
    slope(&points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(sent: f64, decided: f64) -> Vec<Look> {
        let look = |n: u32| {
            let at = f64::from(n) / 4.0;
            Look {
                at,
                sent: (at * sent) as u64,
                decided: (at * decided) as u64,
                app: Usage::default(),
                broker: Usage::default(),
                harness: Usage::default(),
            }
        };
        (0..40).map(look).collect()
    }

    #[test]
    fn a_backlog_grows_by_what_is_not_decided() {
        assert!((backlog_growth(&looks(1_000.0, 900.0)) - 100.0).abs() < 1.0);
        assert!(backlog_growth(&looks(1_000.0, 1_000.0)).abs() < 1e-6);
    }

    fn window() -> Window {
        Window {
            rate: Some(1_000.0),
            seconds: 10.0,
            sent: 10_000,
            decided: 10_000,
            decided_per_second: 1_000.0,
            steady_per_second: 1_000.0,
            latency: Latency { p99: 50.0, ..Latency::default() },
            sender_late: Latency::default(),
            lost: 0,
            backlog_growth: 1.0,
            seconds_until_drained: 10.0,
            decided_until_drained: 10_000,
            app_cpu_seconds: 0.5,
            broker_cpu_seconds: 0.1,
            harness_cpu_seconds: 0.1,
            app_peak_resident_mib: 50.0,
            transactions: 100,
            aborted: 0,
            log_entries: 150_000,
            looks: Vec::new(),
        }
    }

    #[test]
    fn a_rate_is_sustained_when_nothing_grows_is_late_or_lost() {
        assert!(window().is_sustained(100.0));
        assert!(!window().is_sustained(40.0), "too late");
        assert!(!Window { lost: 1, ..window() }.is_sustained(100.0), "lost");
        // 2 % of the rate, and 150 ms of it over two thirds of ten seconds.
        assert!(Window { backlog_growth: 42.0, ..window() }.is_sustained(100.0));
        assert!(!Window { backlog_growth: 43.0, ..window() }.is_sustained(100.0), "grows");
    }

    /// Decisions that come in bursts, as of one who commits every two seconds.
    #[test]
    fn bursts_do_not_hide_what_is_done_a_second() {
        for seconds in [16, 17, 19] {
            let mut looks = looks(1_000.0, 1_000.0);
            looks.resize(seconds * 4, looks[0]);
            for (n, look) in looks.iter_mut().enumerate() {
                look.at = n as f64 / 4.0;
                look.decided = ((look.at / 2.0).floor() * 2_000.0) as u64;
            }
            let steady = steady(&looks);
            assert!((900.0..1_100.0).contains(&steady), "{steady} in {seconds} s");
        }
    }

    #[test]
    fn a_late_sender_voids_the_window() {
        assert!(!window().is_void());
        assert!(Window { sender_late: Latency { p99: 101.0, ..Latency::default() }, ..window() }.is_void());
    }

    #[test]
    fn costs_are_per_million_orders() {
        assert!((window().app_cpu_per_million() - 50.0).abs() < 1e-9);
        assert!((window().broker_cpu_per_million() - 10.0).abs() < 1e-9);
        assert!((window().app_cores() - 0.05).abs() < 1e-9);
    }
}
