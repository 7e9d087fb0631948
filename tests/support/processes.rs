//! A shop of real processes: the `millrace` program on its embedded broker or on Apache Kafka, each process started,
//! killed, stopped and woken by its own id.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_psp::LedgerEntry;
use millrace_schemas::Codec;
use millrace_worker::{BulkProducer, From, TopicReader};
use tempfile::TempDir;

use super::node::ApacheKafka;
use super::{Placed, Shop};

/// How long anything may take before a test says that it never came. Not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the shop runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The embedded broker, a process of its own.
    Embedded,
    /// A real Apache Kafka; the registry is the embedded one.
    Apache,
}

/// A process of ours; dropped, it is killed.
pub struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `millrace` with these arguments, its messages in a file.
    #[must_use]
    pub fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let log = fresh_log(dir, name);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// The same for a process whose files can be kept from growing ([`Process::limit_files`]): its messages come
    /// through a pipe, and a write past the limit is an error to it, not its end.
    #[must_use]
    pub fn start_limitable(dir: &Path, name: &str, args: &[&str]) -> Self {
        let log = fresh_log(dir, name);
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_millrace")])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut said, &mut file));
        Self { child, log }
    }

    /// From now on no write of the process may make a file longer than this many bytes; `None` takes that back.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let pid = self.child.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status();
        assert!(status.is_ok_and(|status| status.success()), "prlimit, of util-linux, limits the process");
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said this, and gives everything it said.
    pub fn until_it_says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(self.is_alive(), "the process ended before it said {text:?}:\n{log}");
            assert!(Instant::now() < deadline, "the process never said {text:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The signal of that name to it alone.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: a bare machine has no program of that name.
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "the process could be sent {name}");
    }

    /// Waits until it ends by itself; its exit code and what it said.
    #[must_use]
    pub fn until_it_ends(mut self, patience: Duration) -> (Option<i32>, String) {
        let deadline = Instant::now() + patience;
        while self.is_alive() {
            assert!(Instant::now() < deadline, "the process never ended:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }

    /// Ends it in good order; its exit code, or none when it did not end and had to be killed.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.is_alive() {
            self.keep_stacks();
        }
        let _ = self.child.kill();
        self.child.wait().unwrap().code()
    }

    /// Writes beside its log where each of its threads is, where this machine has gdb.
    fn keep_stacks(&self) {
        let pid = self.child.id().to_string();
        let gdb = Command::new("gdb").args(["-batch", "-p", &pid, "-ex", "thread apply all bt"]).output();
        if let Ok(said) = gdb {
            let _ = std::fs::write(self.log.with_extension("stacks"), said.stdout);
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fresh_log(dir: &Path, name: &str) -> std::path::PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    dir.join(format!("{name}.{}.log", STARTED.fetch_add(1, Ordering::Relaxed)))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            eprintln!("---- {} ----\n{}", self.log.display(), log.get(from..).unwrap_or(&log));
        }
    }
}

/// See the module.
pub struct ProcessShop {
    workers: BTreeMap<String, Process>,
    psp: Option<Process>,
    broker: Option<Process>,
    apache: Option<ApacheKafka>,
    /// Bootstrap servers.
    pub kafka: String,
    /// Registry.
    pub registry: String,
    psp_url: String,
    broker_args: Vec<String>,
    /// What every worker is started with.
    worker_args: Vec<String>,
    codec: Codec,
    readers: BTreeMap<String, (TopicReader, Vec<Placed>)>,
    producer: BulkProducer,
    runtime: tokio::runtime::Runtime,
    /// Where everything of it is kept.
    pub dir: TempDir,
}

/// A port nobody listens on now.
#[must_use]
pub fn free_port() -> u16 {
    // Below the ephemeral range, so that no client's own port takes it between here and the start.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 6_000).unwrap();
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (spread + next) % 8_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Writes the shipped topology, with its hand-over or without.
pub fn write_topology(file: &Path, hand_over: bool) {
    let shipped = include_str!("../../topology.toml");
    let text = shipped.replace("hand_over = true", &format!("hand_over = {hand_over}"));
    assert_eq!(text == shipped, hand_over, "the shipped topology hands over");
    std::fs::write(file, text).unwrap();
}

impl ProcessShop {
    /// Broker, registry, topics, provider, and one worker `one` with everything. `None` when there is no Apache Kafka on
    /// this machine; the reason has then been printed.
    #[must_use]
    pub fn start(ground: Ground, apart: bool) -> Option<Self> {
        let mut shop = Self::start_without_workers(ground, apart)?;
        shop.start_worker("one", &[]);
        Some(shop)
    }

    /// The same, every record between two tasks going through the broker.
    #[must_use]
    pub fn start_without_hand_over(ground: Ground) -> Option<Self> {
        let mut shop = Self::start_without_workers(ground, false)?;
        let file = shop.dir.path().join("topology.toml");
        write_topology(&file, false);
        shop.worker_args = vec!["--topology".into(), file.to_str().unwrap().into()];
        shop.start_worker("one", &[]);
        Some(shop)
    }

    /// The same without a worker.
    #[must_use]
    pub fn start_without_workers(ground: Ground, apart: bool) -> Option<Self> {
        let apache = match ground {
            Ground::Embedded => None,
            Ground::Apache => Some(ApacheKafka::start().ok()?),
        };
        let dir = tempfile::tempdir().unwrap();
        let text = |path: &Path| path.to_str().expect("temporary paths are text").to_owned();
        let (listen, registry_listen) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let psp_listen = format!("127.0.0.1:{}", free_port());
        let broker_args: Vec<String> = [
            "broker",
            "--listen",
            &listen,
            "--registry-listen",
            &registry_listen,
            "--data-dir",
            &text(&dir.path().join("broker")),
        ]
        .map(str::to_owned)
        .into();
        let mut broker = Process::start(dir.path(), "broker", &strs(&broker_args));
        broker.until_it_says("registry  ");
        let kafka = apache.as_ref().map_or(listen, ApacheKafka::bootstrap);
        let registry = format!("http://{registry_listen}");
        let mut args = vec!["apply", "--kafka", &kafka, "--registry", &registry];
        args.extend(apart.then_some("--apart"));
        let mut apply = Process::start(dir.path(), "apply", &args);
        assert!(apply.child.wait().unwrap().success(), "apply failed:\n{}", apply.log());
        let psp_dir = text(&dir.path().join("psp"));
        let mut psp = Process::start(dir.path(), "psp", &["psp", "--listen", &psp_listen, "--data-dir", &psp_dir]);
        psp.until_it_says("http://");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let codec = runtime.block_on(millrace_schemas::registry::check(&registry)).unwrap();
        Some(Self {
            workers: BTreeMap::new(),
            psp: Some(psp),
            broker: Some(broker),
            apache,
            producer: BulkProducer::connect(&kafka).unwrap(),
            kafka,
            registry,
            psp_url: format!("http://{psp_listen}/psp"),
            broker_args,
            worker_args: grouping_args(apart),
            codec,
            readers: BTreeMap::new(),
            runtime,
            dir,
        })
    }

    /// Starts a worker of everything, under this instance name, and waits until it serves.
    pub fn start_worker(&mut self, name: &str, more: &[&str]) {
        self.start_worker_of(&["--all"], name, more);
    }

    /// Starts a worker of these sub-topologies.
    pub fn start_worker_of(&mut self, what: &[&str], name: &str, more: &[&str]) {
        let state = self.dir.path().join("state").to_str().unwrap().to_owned();
        let mut args = vec![
            "run",
            "--instance",
            name,
            "--kafka",
            &self.kafka,
            "--registry",
            &self.registry,
            "--psp",
            &self.psp_url,
            "--data-dir",
            &state,
            "--session-timeout",
            "6000",
        ];
        args.extend_from_slice(what);
        args.extend(strs(&self.worker_args));
        args.extend_from_slice(more);
        let mut worker = Process::start(self.dir.path(), name, &args);
        worker.until_it_says("metrics and health at");
        self.workers.insert(name.to_owned(), worker);
    }

    /// How workers started from now on group the processors; `millrace apply` with these arguments, its exit code and
    /// what it said.
    pub fn regroup(&mut self, apart: bool, more: &[&str]) -> (Option<i32>, String) {
        self.worker_args = grouping_args(apart);
        let mut args = vec!["apply"];
        args.extend(apart.then_some("--apart"));
        args.extend_from_slice(more);
        self.start_command("apply", &args).until_it_ends(PATIENCE)
    }

    /// A running worker.
    pub fn worker(&mut self, name: &str) -> &mut Process {
        self.workers.get_mut(name).expect("the worker was started")
    }

    /// Takes a worker out of the test's hands.
    pub fn take_worker(&mut self, name: &str) -> Process {
        self.workers.remove(name).expect("the worker was started")
    }

    /// Starts another process of the program with broker and registry given.
    #[must_use]
    pub fn start_command(&self, name: &str, args: &[&str]) -> Process {
        let mut all = args.to_vec();
        all.extend(["--kafka", &self.kafka, "--registry", &self.registry]);
        Process::start(self.dir.path(), name, &all)
    }

    /// Kills the broker (`kill -9`) and starts it again.
    pub fn restart_broker(&mut self) {
        if let Some(apache) = &mut self.apache {
            apache.kill9();
            apache.restart();
            return;
        }
        self.broker.take().expect("it runs").kill();
        let mut broker = Process::start(self.dir.path(), "broker-again", &strs(&self.broker_args));
        broker.until_it_says("registry  ");
        self.broker = Some(broker);
    }

    /// How many records a topic has.
    pub fn count(&mut self, topic: &str) -> usize {
        self.records(&[topic]).len()
    }

    /// Where the provider answers.
    #[must_use]
    pub fn psp_url(&self) -> &str {
        &self.psp_url
    }
}

/// What a worker is started with so that each processor is on its own, or all are as the topology says.
fn grouping_args(apart: bool) -> Vec<String> {
    if apart { ["--apart", "--threads", "2"].map(str::to_owned).into() } else { Vec::new() }
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

impl Shop for ProcessShop {
    fn codec(&self) -> Codec {
        self.codec.clone()
    }

    fn produce_bytes(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>) {
        self.producer.queue(topic, key, value.expect("a tombstone is not produced here")).unwrap();
    }

    fn records(&mut self, topics: &[&str]) -> Vec<Placed> {
        self.producer.finish().unwrap();
        let mut all = Vec::new();
        for topic in topics {
            let kafka = &self.kafka;
            let (reader, seen) = self
                .readers
                .entry((*topic).to_owned())
                .or_insert_with(|| (TopicReader::open(kafka, &[topic], From::Beginning).unwrap(), Vec::new()));
            reader.extend_to_now().unwrap();
            while !reader.has_caught_up() {
                for placed in reader.read(Duration::from_millis(200), 10_000).unwrap() {
                    seen.push((placed.topic.to_string(), placed.partition, placed.record));
                }
            }
            all.extend(seen.iter().cloned());
        }
        all
    }

    fn until(&mut self, what: &str, done: &mut dyn FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "it did not come to this: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ledger(&mut self) -> Vec<LedgerEntry> {
        let url = format!("{}/ledger", self.psp_url);
        let text = self.runtime.block_on(async { reqwest::get(&url).await.unwrap().text().await.unwrap() });
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn kill_and_restart(&mut self) {
        self.workers.remove("one").expect("the worker runs").kill();
        self.start_worker("one", &[]);
    }
}
