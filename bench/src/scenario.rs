//! What is done with a contender, and which figures come of it; the same for every contender. Owns the scenarios; never
//! compares.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::contender::{Contender, RELAY};
use crate::effort::{Effort, Lengths};
use crate::ground::{Ground, Grounds};
use crate::processes::Change;
use crate::rate::Search;
use crate::result::{Better, Block};
use crate::session::{Session, Setup, Window};
use crate::statistics::{Side, slope};
use crate::workload::Workload;

/// The scenarios, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Scenario {
    /// All at one sitting: start, sustainable rate, costs, latency, light load, SIGKILL
    Summary,
    /// The same decisions: a small mixed load, then every order cancelled, and a full audit
    Conformance,
    /// Sustainable rate, and what an order costs
    Orders,
    /// The orders of a real shop, 27 lines on average: what one costs
    Real,
    /// 100 orders a second: latency and what idling costs
    Light,
    /// Latency at a quarter, a half and three quarters of the peer's sustainable rate
    Latency,
    /// From nothing to the first confirmed order
    Start,
    /// SIGKILL with orders on their way, restart on the disk that was left
    Crash,
    /// Local state gone: restored from the topics
    Restore,
    /// Commit intervals against latency and throughput
    CommitSweep,
    /// One hot SKU, sold out: sold equals stock exactly
    FlashSale,
    /// The contender on one CPU, broker and harness on the other
    Quota,
    /// Throughput and memory as the stores grow
    Keys,
    /// Growth of memory and disk at a steady rate
    Soak,
    /// Two processes, of which one joins, is asked to end, is killed: how long orders wait
    Failover,
    /// One, two and four processes
    ScaleOut,
}

/// What was found earlier in the run: the sustainable rates, where to begin to look for the next.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) rates: BTreeMap<String, f64>,
    /// Half of the peer's rate, where latencies are compared: the same for every block.
    half: Option<f64>,
}

/// Orders a second at which the relay makes small transactions, one after the other.
const WARM_RATE: f64 = 200.0;

/// Keeps the broker busy with what every contender asks of it, before the first of them: with many records, then with many
/// small transactions, which other code of the broker's serves.
pub(crate) fn warm_broker(grounds: &mut Grounds, effort: Effort) -> anyhow::Result<()> {
    let ground = grounds.of(false)?;
    let setup = Setup { orders_max: 10_000_000, in_flight: effort.lengths().in_flight, ..Setup::default() };
    let mut session = Session::open(ground, &Contender::named(RELAY)?, &setup)?;
    let half = effort.broker_warm_up() / 2;
    session.under_pressure(half)?;
    session.at_rate(WARM_RATE, half)?;
    session.stop()
}

impl Scenario {
    pub(crate) fn title(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether contenders without promises can be in it.
    pub(crate) fn is_for(self, contender: &Contender) -> bool {
        let for_all = matches!(self, Self::Orders | Self::Light | Self::Latency | Self::Quota);
        contender.is_audited() || for_all
    }

    /// Runs one block: one contender on fresh topics. `peer` is the other side, whose rate some scenarios go by.
    pub(crate) fn block(
        self,
        grounds: &mut Grounds,
        contender: &Contender,
        side: Side,
        peer: &Contender,
        effort: Effort,
        known: &mut Known,
    ) -> anyhow::Result<Block> {
        let lengths = effort.lengths();
        let setup = Setup { orders_max: 4_000_000, in_flight: lengths.in_flight, ..Setup::default() };
        if self == Self::Latency {
            // Before this contender's own ground is taken: it may be on the other broker.
            find_rate(grounds, peer, &setup, &lengths, known)?;
        }
        let ground = grounds.of(contender.is_on_embedded())?;
        let stage = Stage { ground, contender, side, setup, lengths };
        match self {
            Self::Summary => summary(stage, known),
            Self::Conformance => conformance(stage, effort),
            Self::Orders => orders(stage, known),
            Self::Real => real(stage),
            Self::Light => light(stage),
            Self::Latency => latency(stage, known.rates[&peer.name]),
            Self::Start => start(stage),
            Self::Crash => crash(stage),
            Self::Restore => restore(stage),
            Self::CommitSweep => sweep(stage),
            Self::FlashSale => flash_sale(stage),
            Self::Quota => quota(stage),
            Self::Keys => keys(stage),
            Self::Soak => soak(stage),
            Self::Failover => failover(stage),
            Self::ScaleOut => scale_out(stage),
        }
    }
}

/// What a block stands on. A scenario may turn the setup before it begins.
struct Stage<'a> {
    ground: &'a mut Ground,
    contender: &'a Contender,
    side: Side,
    setup: Setup,
    lengths: Lengths,
}

impl Stage<'_> {
    fn block(&self) -> Block {
        Block::new(self.contender, self.side, &self.setup)
    }

    fn open(&mut self) -> anyhow::Result<Session<'_>> {
        Session::open(self.ground, self.contender, &self.setup)
    }
}

/// Everything that can be seen of one process from its start to a SIGKILL and the restart after it. The first block of
/// a comparison must be the peer's: latencies are measured at half of its rate.
fn summary(stage: Stage<'_>, known: &mut Known) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = Session::prepare(stage.ground, stage.contender, &stage.setup)?;
    let started = seconds_to_an_order(&mut session)?;
    session.until_stocked()?;
    let (steady, warm) = lengths.warm_up(&mut session)?;
    // Where every commit takes seconds, no short window tells whether a rate is sustained. What such a one does under
    // pressure is more than it could sustain, so this is in its favour.
    let by_pressure = stage.contender.is_tuned_for_throughput();
    if !by_pressure {
        sustained(&mut block, &mut session, steady, &lengths, known)?;
    }
    let window = session.under_pressure(if by_pressure { lengths.measure * 5 / 2 } else { lengths.measure })?;
    if by_pressure {
        block.figure("sustainable rate", "orders/s", Better::Higher, window.steady_per_second);
        if window.steady_per_second <= 0.0 {
            block.void.push("nothing was decided in the second half of the window: it is too short".to_owned());
        }
    }
    let rate = known.rates.get(&session.contender().name).copied().unwrap_or(steady * 0.5);
    let half = *known.half.get_or_insert(rate / 2.0);
    pressed(&mut block, window);
    block.figure("peak resident memory", "MiB", Better::Lower, session.usage().peak_resident_mib);
    // What is tuned to commit rarely is late by design: it would only take time to say so.
    if by_pressure {
        eprintln!("    latencies are left out: it is late by design");
    } else {
        for (share, named) in [(0.5, "a quarter"), (1.0, "half"), (1.5, "three quarters")] {
            at_share(&mut block, &mut session, &lengths, half * share, named)?;
        }
        hundred(&mut block, &mut session, &lengths)?;
        idle(&mut block, &mut session, &lengths)?;
    }
    block.figure("start to first confirmed order", "s", Better::Lower, started);
    block.figure("seconds until steady", "s", Better::Lower, warm);
    if session.contender().is_audited() {
        killed(&mut block, &mut session)?;
    }
    finish(session, &mut block)?;
    Ok(block)
}

/// Starts what is measured; how long it takes until an order sent since is confirmed.
fn seconds_to_an_order(session: &mut Session<'_>) -> anyhow::Result<f64> {
    let since = Instant::now();
    session.start()?;
    session.until_one_is_confirmed(PROBE_GAP)?;
    Ok(since.elapsed().as_secs_f64())
}

/// Audits and ends the session.
fn finish(mut session: Session<'_>, block: &mut Block) -> anyhow::Result<()> {
    if session.contender().is_audited() {
        block.audited(session.audit()?);
    }
    session.stop()
}

fn conformance(mut stage: Stage<'_>, effort: Effort) -> anyhow::Result<Block> {
    let orders = if effort == Effort::Smoke { 600 } else { 3_000 };
    // Few SKUs with little stock, so that many orders fall short; declined cards and repetitions among them.
    let workload = Workload { skus: 40, stock: orders / 16, declined: 0.1, repeated: 0.2, ..Workload::default() };
    stage.setup = Setup { workload, orders_max: orders as usize, ..Setup::default() };
    let mut block = stage.block();
    let mut session = stage.open()?;
    block.window("mixed", session.at_rate(500.0, Duration::from_secs(orders as u64 / 500 + 1))?);
    let (decided, confirmed) = session.decided();
    session.cancel_confirmed()?;
    let audited = session.audit_with(&["--until", &session.sent().to_string()])?;
    ensure!(confirmed > 0 && confirmed < decided, "{confirmed} of {decided} confirmed: that is no mixed load");
    block.figure("orders audited to their end", "orders", Better::Higher, decided as f64);
    block.audited(audited);
    session.stop()?;
    Ok(block)
}

fn orders(mut stage: Stage<'_>, known: &mut Known) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = stage.open()?;
    let (steady, warm) = lengths.warm_up(&mut session)?;
    let found = sustained(&mut block, &mut session, steady, &lengths, known)?;
    pressed(&mut block, session.under_pressure(lengths.measure)?);
    block.figure("seconds until steady", "s", Better::Lower, warm);
    block.figure("peak resident memory", "MiB", Better::Lower, session.usage().peak_resident_mib);
    if let Some(rate) = found {
        let at = session.at_rate(rate, lengths.measure)?;
        block.figure("p99 at the sustainable rate", "ms", Better::Lower, at.latency.p99);
        block.window("at the sustainable rate", at);
    }
    finish(session, &mut block)?;
    Ok(block)
}

/// Finds the sustainable rate, beginning where it was found before, or a little below what it does under pressure.
fn sustained(
    block: &mut Block,
    session: &mut Session<'_>,
    steady: f64,
    lengths: &Lengths,
    known: &mut Known,
) -> anyhow::Result<Option<f64>> {
    let name = session.contender().name.clone();
    let guess = known.rates.get(&name).copied().unwrap_or(steady * 0.85);
    let found = search(session, guess, lengths)?;
    block.figure("sustainable rate", "orders/s", Better::Higher, found.unwrap_or(0.0));
    match found {
        Some(rate) => _ = known.rates.insert(name, rate),
        None => block.void.push("no rate was sustained".to_owned()),
    }
    Ok(found)
}

fn search(session: &mut Session<'_>, guess: f64, lengths: &Lengths) -> anyhow::Result<Option<f64>> {
    let mut search = Search::new(guess, lengths.tolerance, lengths.tries);
    let bound = session.contender().p99_bound();
    let mut void = 0;
    while let Some(rate) = search.next() {
        let window = session.at_rate(rate, lengths.probe)?;
        let sustained = window.is_sustained(bound);
        eprintln!(
            "    {rate:>8.0} orders/s: {}, p99 {:.0} ms, backlog {:+.0}/s, sender late {:.0} ms",
            if sustained { "held" } else { "not held" },
            window.latency.p99,
            window.backlog_growth,
            window.sender_late.p99
        );
        // A sender that is late while nothing piles up was kept off the CPU: try again, a few times.
        if window.is_void() && !sustained && window.backlog_growth <= 0.0 && void < 2 {
            void += 1;
            continue;
        }
        search.tried(sustained);
    }
    Ok(search.found())
}

/// What a window under pressure says: the rate, and what an order costs.
fn pressed(block: &mut Block, window: Window) {
    block.figure("rate under pressure", "orders/s", Better::Higher, window.steady_per_second);
    block.figure("application CPU", "CPU s per million orders", Better::Lower, window.app_cpu_per_million());
    block.figure("broker CPU", "CPU s per million orders", Better::Lower, window.broker_cpu_per_million());
    let orders = window.decided_until_drained as f64;
    block.figure("log entries", "per order", Better::Lower, window.log_entries as f64 / window.sent.max(1) as f64);
    // The embedded broker does not tell how many there were, the raw client has none.
    if window.transactions > 0 {
        let a_second = window.transactions as f64 / window.seconds_until_drained;
        block.figure("transactions", "per second", Better::Lower, a_second);
        block.figure("orders in a transaction", "orders", Better::Higher, orders / window.transactions as f64);
    }
    block.window("under pressure", window);
}

/// Real orders are nine times as long, so there are fewer of them.
const REAL_ORDERS_SHARE: u64 = 8;

fn real(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let workload = Workload { real: true, skus: crate::real::shop()?.catalog.len(), ..Workload::default() };
    stage.setup.workload = workload;
    stage.setup.in_flight /= REAL_ORDERS_SHARE;
    let mut block = stage.block();
    let mut session = stage.open()?;
    lengths.warm_up(&mut session)?;
    pressed(&mut block, session.under_pressure(lengths.measure)?);
    block.figure("peak resident memory", "MiB", Better::Lower, session.usage().peak_resident_mib);
    finish(session, &mut block)?;
    Ok(block)
}

fn light(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = stage.open()?;
    lengths.warm_up(&mut session)?;
    hundred(&mut block, &mut session, &lengths)?;
    idle(&mut block, &mut session, &lengths)?;
    finish(session, &mut block)?;
    Ok(block)
}

fn idle(block: &mut Block, session: &mut Session<'_>, lengths: &Lengths) -> anyhow::Result<()> {
    let used = session.idle(lengths.measure.min(Duration::from_secs(20)))?;
    block.figure("CPU idle", "cores", Better::Lower, used.max(1e-4));
    Ok(())
}

/// Latency and CPU at 100 orders a second.
fn hundred(block: &mut Block, session: &mut Session<'_>, lengths: &Lengths) -> anyhow::Result<()> {
    if !session.rest()? {
        eprintln!("    {} did not come to rest: what earlier load left it is in these figures", block.contender);
    }
    session.at_rate(100.0, lengths.warm_window)?;
    let window = session.at_rate(100.0, lengths.measure.max(Duration::from_secs(5)))?;
    latencies(block, "at 100 orders/s", &window);
    block.figure("CPU at 100 orders/s", "cores", Better::Lower, window.app_cores());
    block.window("100 orders/s", window);
    Ok(())
}

/// Latency at a share of the peer's rate.
fn at_share(
    block: &mut Block,
    session: &mut Session<'_>,
    lengths: &Lengths,
    rate: f64,
    named: &str,
) -> anyhow::Result<()> {
    session.at_rate(rate, lengths.warm_window)?;
    let window = session.at_rate(rate, lengths.measure)?;
    latencies(block, &format!("at {named} of the peer's rate"), &window);
    block.window(&format!("{rate:.0} orders/s"), window);
    Ok(())
}

fn latencies(block: &mut Block, at: &str, window: &Window) {
    let latency = window.latency;
    for (name, value) in [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p999)] {
        block.figure(&format!("{name} {at}"), "ms", Better::Lower, value);
    }
}

/// What the peer sustains, where it is not known yet: four fifths of what it does under pressure.
fn find_rate(
    grounds: &mut Grounds,
    peer: &Contender,
    setup: &Setup,
    lengths: &Lengths,
    known: &mut Known,
) -> anyhow::Result<()> {
    if known.rates.contains_key(&peer.name) {
        return Ok(());
    }
    let mut session = Session::open(grounds.of(peer.is_on_embedded())?, peer, setup)?;
    let (steady, _) = lengths.warm_up(&mut session)?;
    session.stop()?;
    known.rates.insert(peer.name.clone(), steady * 0.8);
    Ok(())
}

fn latency(mut stage: Stage<'_>, peer_rate: f64) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = stage.open()?;
    lengths.warm_up(&mut session)?;
    for (share, named) in [(0.5, "50 %"), (0.25, "25 %"), (0.75, "75 %")] {
        at_share(&mut block, &mut session, &lengths, peer_rate * share, named)?;
    }
    finish(session, &mut block)?;
    Ok(block)
}

/// Between two orders that look for a sign of life.
const PROBE_GAP: Duration = Duration::from_millis(20);

fn start(stage: Stage<'_>) -> anyhow::Result<Block> {
    let mut block = stage.block();
    let mut session = Session::prepare(stage.ground, stage.contender, &stage.setup)?;
    block.figure("start to first confirmed order", "s", Better::Lower, seconds_to_an_order(&mut session)?);
    finish(session, &mut block)?;
    Ok(block)
}

/// Brings so many orders into the stores.
fn fill(session: &mut Session<'_>, orders: u64) -> anyhow::Result<()> {
    while session.sent() < orders {
        session.pressed_until(orders)?;
    }
    session.drain()?;
    Ok(())
}

fn crash(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = stage.open()?;
    fill(&mut session, lengths.keys)?;
    killed(&mut block, &mut session)?;
    finish(session, &mut block)?;
    Ok(block)
}

/// SIGKILL with orders on their way, and a restart on the disk that was left.
fn killed(block: &mut Block, session: &mut Session<'_>) -> anyhow::Result<()> {
    session.leave_on_their_way(2_000)?;
    session.kill();
    block.figure("SIGKILL to next confirmed order", "s", Better::Lower, seconds_to_an_order(session)?);
    Ok(())
}

/// How much longer than its session time-out is waited until a group has forgotten who was in it.
const UNTIL_FORGOTTEN: Duration = Duration::from_secs(5);

fn restore(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    let mut session = stage.open()?;
    fill(&mut session, lengths.keys)?;
    session.stop()?;
    session.forget_state()?;
    std::thread::sleep(session.contender().session_timeout() + UNTIL_FORGOTTEN);
    let took = seconds_to_an_order(&mut session)?;
    block.figure("empty disk to next confirmed order", "s", Better::Lower, took);
    block.figure("orders restored", "orders/s", Better::Higher, session.decided().0 as f64 / took);
    finish(session, &mut block)?;
    Ok(block)
}

fn sweep(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    for &interval in lengths.commit_intervals_ms {
        stage.setup.numbers.commit_latency_ms = Some(interval);
        let contender = stage.contender.clone().with_commit_interval(interval);
        let mut session = Session::open(stage.ground, &contender, &stage.setup)?;
        lengths.warm_up(&mut session)?;
        let pressed = session.under_pressure(lengths.measure)?;
        let named = |what: &str| format!("{what}, commit every {interval} ms");
        block.figure(&named("rate under pressure"), "orders/s", Better::Higher, pressed.steady_per_second);
        let half = session.at_rate(pressed.steady_per_second / 2.0, lengths.measure)?;
        block.figure(&named("p50 at half of it"), "ms", Better::Lower, half.latency.p50);
        block.figure(&named("p99 at half of it"), "ms", Better::Lower, half.latency.p99);
        block.window(&named("under pressure"), pressed);
        block.window(&named("half of it"), half);
        finish(session, &mut block)?;
    }
    Ok(block)
}

fn flash_sale(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let stock = stage.lengths.hot_stock;
    let workload = Workload { hot: Some(stock), ..Workload::default() };
    let orders = stock.unsigned_abs() * 2;
    stage.setup = Setup { workload, orders_max: orders as usize, ..Setup::default() };
    let mut block = stage.block();
    let mut session = stage.open()?;
    let since = Instant::now();
    let window = session.at_once(orders)?;
    block.figure("twice the stock ordered, all decided", "s", Better::Lower, since.elapsed().as_secs_f64());
    let sold = session.decided().1;
    if sold != stock.unsigned_abs() {
        block.void.push(format!("{sold} sold of {stock}"));
    }
    block.window("sale", window);
    finish(session, &mut block)?;
    Ok(block)
}

fn quota(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cpus >= 2, "this needs two CPUs");
    let (own, others) = ((cpus - 1).to_string(), format!("0-{}", cpus - 2));
    stage.setup.cpus = Some(own);
    let mut block = stage.block();
    let pids = [stage.ground.broker_pid(), std::process::id()];
    for pid in pids {
        confine(pid, &others)?;
    }
    let measured = (|| {
        let mut session = stage.open()?;
        lengths.warm_up(&mut session)?;
        pressed(&mut block, session.under_pressure(lengths.measure)?);
        finish(session, &mut block)
    })();
    for pid in pids {
        confine(pid, &format!("0-{}", cpus - 1))?;
    }
    measured.map(|()| block)
}

/// Keeps a process and all its threads on these CPUs.
fn confine(pid: u32, cpus: &str) -> anyhow::Result<()> {
    let output = std::process::Command::new("taskset").args(["-acp", cpus, &pid.to_string()]).output()?;
    if !output.status.success() {
        bail!("taskset: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn keys(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let most = lengths.key_steps.last().copied().unwrap_or(0);
    stage.setup.orders_max += most as usize * 2;
    let mut block = stage.block();
    let mut session = stage.open()?;
    for &keys in lengths.key_steps {
        fill(&mut session, keys)?;
        let window = session.under_pressure(lengths.measure)?;
        let named = |what: &str| format!("{what} from {keys} orders");
        block.figure(&named("rate under pressure"), "orders/s", Better::Higher, window.steady_per_second);
        block.figure(&named("resident memory"), "MiB", Better::Lower, session.usage().resident_mib);
        block.window(&named("under pressure"), window);
    }
    finish(session, &mut block)?;
    Ok(block)
}

fn soak(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    const RATE: f64 = 300.0;
    stage.setup.orders_max += (RATE * lengths.soak.as_secs_f64() * 1.2) as usize;
    let mut block = stage.block();
    let mut session = stage.open()?;
    block.window("first half", session.at_rate(RATE, lengths.soak / 2)?);
    let disk = session.disk_mib()?;
    let window = session.at_rate(RATE, lengths.soak / 2)?;
    let looks = window.looks.iter();
    let memory: Vec<(f64, f64)> = looks.map(|look| (look.at, look.app.resident_mib)).collect();
    let last = window.looks.last().map_or(0.0, |look| look.app.resident_mib);
    block.figure("resident memory at the end", "MiB", Better::Lower, last);
    block.figure("p99", "ms", Better::Lower, window.latency.p99);
    let (grown, hours) = (session.disk_mib()? - disk, window.seconds / 3_600.0);
    block.figure("disk at the end", "MiB", Better::Lower, disk + grown);
    block.figure("growth of memory, second half", "MiB/h", Better::Lower, slope(&memory) * 3_600.0);
    block.figure("growth of disk, second half", "MiB/h", Better::Lower, grown / hours);
    block.window("second half", window);
    finish(session, &mut block)?;
    Ok(block)
}

fn failover(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    const RATE: f64 = 100.0;
    let mut block = stage.block();
    let mut session = stage.open()?;
    session.at_rate(RATE, lengths.change)?;
    let changes = [
        (Change::Join, "one joins"),
        (Change::Leave, "one is asked to end"),
        (Change::Join, "one joins again"),
        (Change::Kill, "one is killed"),
    ];
    for (change, what) in changes {
        let window = session.at_rate_through(change, RATE, lengths.change)?;
        block.figure(&format!("longest wait, {what}"), "s", Better::Lower, window.latency.max / 1_000.0);
        block.window(what, window);
    }
    finish(session, &mut block)?;
    Ok(block)
}

fn scale_out(mut stage: Stage<'_>) -> anyhow::Result<Block> {
    let lengths = stage.lengths;
    let mut block = stage.block();
    for &processes in lengths.processes {
        let mut session = stage.open()?;
        for _ in 1..processes {
            session.start()?;
        }
        lengths.warm_up(&mut session)?;
        let window = session.under_pressure(lengths.measure)?;
        let named = |what: &str| format!("{what}, {processes} processes");
        block.figure(&named("rate under pressure"), "orders/s", Better::Higher, window.steady_per_second);
        block.figure(
            &named("application CPU"),
            "CPU s per million orders",
            Better::Lower,
            window.app_cpu_per_million(),
        );
        block.figure(&named("resident memory"), "MiB", Better::Lower, session.usage().resident_mib);
        block.window(&named("under pressure"), window);
        finish(session, &mut block)?;
    }
    Ok(block)
}
