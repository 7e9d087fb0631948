//! A real Apache Kafka for a test: KRaft, a single node or one of three, loopback only, its own ports
//! and its own temporary directory. Owns the Java process from start to stop; never touches a Kafka
//! that it did not start, and never fetches anything (`setup/kafka.sh` does).
//!
//! Included by tests with `#[path = "kafka/node.rs"]`; only the standard library is used.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a start may take, on a loaded machine, before the test fails.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long a clean stop may take before the process is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Set to `1` where the Kafka lane must run (CI): then a missing Kafka fails the test.
const REQUIRE: &str = "MILLRACE_REQUIRE_KAFKA";

/// Why this machine cannot run the Apache Kafka lane, and what to do about it.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The reason, as a sentence for the person who runs the tests.
    pub why: String,
}

/// A running (or stopped, or killed) Apache Kafka; dropped, it stops and its directory goes.
pub struct ApacheKafka {
    java: PathBuf,
    lib: PathBuf,
    log4j: PathBuf,
    dir: PathBuf,
    jvm: &'static [&'static str],
    ports: Ports,
    /// All nodes of the cluster, this one included, in the order of their ids from 1.
    quorum: Vec<Ports>,
    launches: u32,
    guard: Guard,
    process: Option<Child>,
}

/// For a test: up soon, and small.
const JVM: &[&str] = &["-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// The client's and the controller's port.
#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    controller: u16,
}

/// A process that, once this process is gone (however it went), ends the node and removes its
/// directory: its stdin is a pipe whose other end only we hold. Each line names the process to
/// end from then on; an empty one, none.
struct Guard {
    shell: Child,
}

/// How a launch ended.
enum Launch {
    Ready(Child),
    PortTaken,
}

impl ApacheKafka {
    /// Starts a node of this test's own and waits until it serves.
    ///
    /// # Errors
    /// [`Skipped`] when Java or the jars are missing. The test shall return then; the name of the
    /// skipped test and the reason go to stderr as `SKIPPED (no Apache Kafka) …`, and those of
    /// a started one as `READY (Apache Kafka) …`; `setup/test.sh` counts both.
    ///
    /// # Panics
    /// When Kafka is there and does not come up, or when it is missing although
    /// `MILLRACE_REQUIRE_KAFKA=1` says that it must not be.
    pub fn start() -> Result<Self, Skipped> {
        Self::start_with(JVM)
    }

    /// The same with options of the Java machine for another purpose than a test.
    ///
    /// # Errors
    /// As [`ApacheKafka::start`].
    pub fn start_with(jvm: &'static [&'static str]) -> Result<Self, Skipped> {
        let found = find().map_err(skip)?;
        Ok(Self::start_on(found, jvm))
    }

    /// Starts so many nodes as one cluster: everything is replicated to three of them (or all, if there are
    /// fewer), and acknowledged by all but one of those.
    ///
    /// # Errors
    /// As [`ApacheKafka::start`].
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub fn cluster(nodes: usize) -> Result<Vec<Self>, Skipped> {
        let found = find().map_err(skip)?;
        let began = Instant::now();
        for _ in 0..5 {
            let mut quorum: Vec<Ports> = Vec::new();
            while quorum.len() < nodes {
                let ports = free_ports();
                if quorum.iter().all(|other| other.client != ports.client) {
                    quorum.push(ports);
                }
            }
            let mut kafkas: Vec<Self> =
                quorum.iter().map(|ports| Self::laid_out(&found, *ports, &quorum, JVM)).collect();
            let started: Vec<Child> = kafkas.iter_mut().map(Self::spawn).collect();
            // The first is ready only when most are there.
            let ready: Vec<Launch> =
                kafkas.iter_mut().zip(started).map(|(kafka, java)| kafka.await_ready(java)).collect();
            let mut all = true;
            for (kafka, launch) in kafkas.iter_mut().zip(ready) {
                match launch {
                    Launch::Ready(java) => kafka.process = Some(java),
                    Launch::PortTaken => all = false,
                }
            }
            if all {
                let name = test_name();
                say(&format!(
                    "READY (Apache Kafka) {name} with {nodes} nodes after {} ms",
                    began.elapsed().as_millis()
                ));
                return Ok(kafkas);
            }
        }
        panic!("Apache Kafka found its ports taken five times in a row");
    }

    /// The node all tests of this test binary share, started by the first that asks. For tests
    /// that name their own topics and groups and never stop the broker.
    ///
    /// # Errors
    /// As [`ApacheKafka::start`].
    pub fn shared() -> Result<&'static Self, Skipped> {
        static SHARED: OnceLock<ApacheKafka> = OnceLock::new();
        let found = find().map_err(skip)?;
        Ok(SHARED.get_or_init(|| Self::start_on(found, JVM)))
    }

    /// The client address, `127.0.0.1:<port>`; the same before and after a restart.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// Process id of the Java process, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Stops it cleanly (SIGTERM) and waits until it is gone. Its data stay.
    pub fn stop(&mut self) {
        let Some(mut java) = self.process.take() else { return };
        // Not reaped yet, so its process id cannot belong to anybody else.
        let asked =
            Command::new("sh").args(["-c", "kill -TERM \"$0\"", &java.id().to_string()]).stderr(Stdio::null()).status();
        let deadline = Instant::now() + STOP_DEADLINE;
        while asked.is_ok() && Instant::now() < deadline && matches!(java.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        self.end(java);
    }

    /// Kills it (SIGKILL) and waits until it is gone. Its data stay as the kill left them.
    pub fn kill9(&mut self) {
        if let Some(java) = self.process.take() {
            self.end(java);
        }
    }

    /// Starts it again on its data and its ports, after a clean stop if it still runs.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.stop();
        match self.launch() {
            Launch::Ready(java) => self.process = Some(java),
            Launch::PortTaken => {
                panic!("port {} or {} was taken while Apache Kafka was down", self.ports.client, self.ports.controller)
            }
        }
    }

    /// A command that runs one of Kafka's own tool classes, such as
    /// `org.apache.kafka.tools.TopicCommand`; add its arguments, `--bootstrap-server` included.
    pub fn tool(&self, class: &str) -> Command {
        java_command(&self.java, &self.lib, None, class)
    }

    /// What the node wrote since its last start; for the message of a failed test.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Copies what all its launches wrote, and its own topics of transactions and positions, into a new folder.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn keep(&self, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for number in 1..=self.launches {
            let log = format!("kafka-{number}.log");
            fs::copy(self.dir.join(&log), to.join(&log))?;
        }
        for partition in fs::read_dir(self.dir.join("data"))? {
            let partition = partition?;
            let name = partition.file_name();
            if name.to_string_lossy().starts_with("__") && partition.path().is_dir() {
                fs::create_dir_all(to.join(&name))?;
                for file in fs::read_dir(partition.path())? {
                    let file = file?;
                    fs::copy(file.path(), to.join(&name).join(file.file_name()))?;
                }
            }
        }
        Ok(())
    }

    fn start_on(found: Found, jvm: &'static [&'static str]) -> Self {
        let began = Instant::now();
        let ports = free_ports();
        let mut kafka = Self::laid_out(&found, ports, &[ports], jvm);
        // Between the probe for a free port and Kafka's bind, somebody else may have taken it.
        for _ in 0..5 {
            if let Launch::Ready(java) = kafka.launch() {
                kafka.process = Some(java);
                say(&format!("READY (Apache Kafka) {} after {} ms", test_name(), began.elapsed().as_millis()));
                return kafka;
            }
            kafka.ports = free_ports();
            kafka.quorum = vec![kafka.ports];
            kafka.write_properties();
        }
        panic!("Apache Kafka found its ports taken five times in a row");
    }

    /// A node that has its directory, and does not run yet.
    fn laid_out(found: &Found, ports: Ports, quorum: &[Ports], jvm: &'static [&'static str]) -> Self {
        let dir = fresh_dir();
        let mut kafka = Self {
            java: found.java.clone(),
            lib: found.lib.clone(),
            log4j: found.log4j.clone(),
            guard: Guard::over(&dir),
            dir,
            jvm,
            ports,
            quorum: quorum.to_vec(),
            launches: 0,
            process: None,
        };
        kafka.write_properties();
        kafka.format();
        kafka
    }

    /// Kills what still runs and reaps it. The guard forgets it before its id can be reused.
    fn end(&mut self, mut java: Child) {
        self.guard.watch(None);
        let _ = java.kill();
        let _ = java.wait();
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join(format!("kafka-{}.log", self.launches))
    }

    fn properties_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn write_properties(&self) {
        let Ports { client, controller } = self.ports;
        let data = self.dir.join("data");
        let voters =
            self.quorum.iter().enumerate().map(|(at, node)| format!("{}@127.0.0.1:{}", at + 1, node.controller));
        let voters = voters.collect::<Vec<_>>().join(",");
        let id = 1 + self.quorum.iter().position(|node| node.client == client).expect("it is one of its cluster");
        let replicas = self.quorum.len().min(3);
        let in_sync = replicas.saturating_sub(1).max(1);
        let text = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={in_sync}\n\
             offsets.topic.replication.factor={replicas}\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={in_sync}\n\
             listeners=CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=CLIENT://127.0.0.1:{client}\n\
             listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=CLIENT\n\
             log.dirs={data}\n\
             {FIXED_PROPERTIES}",
            data = data.display(),
        );
        fs::write(self.properties_file(), text).expect("the temporary directory is writable");
    }

    fn format(&mut self) {
        let log = self.dir.join("format.log");
        let mut java = self
            .tool("kafka.tools.StorageTool")
            .args(["format", "-t", "TWlsbHJhY2VUZXN0c0thZg", "-c"])
            .arg(self.properties_file())
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("the temporary directory is writable"))
            .stderr(File::options().append(true).open(&log).expect("just created"))
            .spawn()
            .expect("java was found a moment ago");
        self.guard.watch(Some(&java));
        let status = java.wait().expect("our own child can be waited for");
        self.guard.watch(None);
        assert!(
            status.success(),
            "Apache Kafka could not format {}: {}",
            self.dir.display(),
            fs::read_to_string(&log).unwrap_or_default()
        );
    }

    /// Starts the Java process and waits until it has said that it is ready and accepts.
    fn launch(&mut self) -> Launch {
        let java = self.spawn();
        self.await_ready(java)
    }

    fn spawn(&mut self) -> Child {
        self.launches += 1;
        let log = self.log_file();
        let out = File::create(&log).expect("the temporary directory is writable");
        let err = out.try_clone().expect("an open file can be cloned");
        let java = Command::new(&self.java)
            .args(self.jvm)
            .arg("-Djava.awt.headless=true")
            .arg(format!("-Dlog4j2.configurationFile={}", self.log4j.display()))
            .arg("-cp")
            .arg(self.lib.join("*"))
            .arg("kafka.Kafka")
            .arg(self.properties_file())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("java was found a moment ago");
        self.guard.watch(Some(&java));
        java
    }

    fn await_ready(&mut self, mut java: Child) -> Launch {
        let log = self.log_file();
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let ended = java.try_wait().expect("our own child can be asked");
            let said = fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = ended {
                self.end(java);
                if said.contains("Address already in use") {
                    return Launch::PortTaken;
                }
                panic!("Apache Kafka ended at start ({status}):\n{}", tail(&said));
            }
            if said.contains("Kafka Server started") && accepts(self.ports.client) {
                return Launch::Ready(java);
            }
            if Instant::now() > deadline {
                self.end(java);
                panic!("Apache Kafka was not ready in {START_DEADLINE:?}:\n{}", tail(&said));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kafka's Java clients and tools, for tests that run them against another broker.
pub struct JavaClients {
    java: PathBuf,
    lib: PathBuf,
}

impl JavaClients {
    /// Finds Java and the jars.
    ///
    /// # Errors
    /// As [`ApacheKafka::start`].
    ///
    /// # Panics
    /// As [`ApacheKafka::start`].
    pub fn find() -> Result<Self, Skipped> {
        let found = find().map_err(skip)?;
        Ok(Self { java: found.java, lib: found.lib })
    }

    /// Finds Java and the clients of the line before the broker's; there are no tools with them.
    ///
    /// # Errors
    /// As [`ApacheKafka::start`].
    ///
    /// # Panics
    /// As [`ApacheKafka::start`].
    pub fn find_older() -> Result<Self, Skipped> {
        let found = find_in("tests/kafka/clients.xml", "target/kafka-clients").map_err(skip)?;
        Ok(Self { java: found.java, lib: found.lib })
    }

    /// A command that runs one of Kafka's own tool classes; add its arguments.
    pub fn tool(&self, class: &str) -> Command {
        java_command(&self.java, &self.lib, None, class)
    }

    /// A command that runs a class compiled by [`JavaClients::compile`] into `classes`.
    pub fn program(&self, classes: &Path, class: &str) -> Command {
        java_command(&self.java, &self.lib, Some(classes), class)
    }

    /// Compiles one source file into the folder `classes`.
    ///
    /// # Panics
    /// When there is no compiler, or when it has objections.
    pub fn compile(&self, source: &Path, classes: &Path) {
        let javac = self.java.with_file_name("javac");
        let output = Command::new(&javac)
            .args(["-nowarn", "-d"])
            .arg(classes)
            .arg("-cp")
            .arg(self.lib.join("*"))
            .arg(source)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; install a JDK, not only a JRE", javac.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn java_command(java: &Path, lib: &Path, classes: Option<&Path>, class: &str) -> Command {
    let mut path = lib.join("*").into_os_string();
    if let Some(classes) = classes {
        path.push(":");
        path.push(classes);
    }
    let mut command = Command::new(java);
    command
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg("-Dlog4j2.level=ERROR")
        .arg("-cp")
        .arg(path)
        .arg(class);
    command
}

impl Drop for ApacheKafka {
    fn drop(&mut self) {
        // Nobody reads the data afterwards, so there is nothing to stop cleanly for; the guard,
        // dropped next, removes them.
        self.kill9();
        if thread::panicking() {
            eprintln!("the end of Apache Kafka's log:\n{}", tail(&self.log()));
        }
    }
}

impl Guard {
    fn over(dir: &Path) -> Self {
        let wait_then_end = "\
            trap '' HUP INT TERM\n\
            pid=\n\
            while read -r line; do pid=$line; done\n\
            if [ -n \"$pid\" ]; then kill -KILL \"$pid\"; sleep 1; fi\n\
            rm -rf \"$0\"";
        let shell = Command::new("sh")
            .args(["-c", wait_then_end])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh is there on every machine the tests run on");
        Self { shell }
    }

    fn watch(&mut self, java: Option<&Child>) {
        if let Some(pipe) = self.shell.stdin.as_mut() {
            let _ = match java {
                Some(java) => writeln!(pipe, "{}", java.id()),
                None => writeln!(pipe),
            };
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Settings that do not depend on ports, directories or the number of nodes: few internal
/// partitions, and no waiting that only a cluster of machines would need.
const FIXED_PROPERTIES: &str = "\
auto.create.topics.enable=false
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=100
log.retention.check.interval.ms=200
log.initial.task.delay.ms=100
log.index.size.max.bytes=1048576
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
";

/// Where Java, the jars and the log settings are.
struct Found {
    java: PathBuf,
    lib: PathBuf,
    log4j: PathBuf,
}

fn find() -> Result<Found, Skipped> {
    find_in("tests/kafka/pom.xml", "target/kafka")
}

/// What `setup/kafka.sh` has put into `dir-<version>`, as pinned in `pom`.
fn find_in(pom: &str, dir: &str) -> Result<Found, Skipped> {
    // The including crate may be the root package or one of its rooms.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|dir| dir.join(pom).is_file())
        .ok_or_else(|| Skipped { why: format!("{pom} is not in this tree") })?;
    let version = fs::read_to_string(root.join(pom))
        .ok()
        .and_then(|text| {
            let rest = text.split_once("<kafka.version>")?.1;
            Some(rest.split_once('<')?.0.to_owned())
        })
        .ok_or_else(|| Skipped { why: format!("{pom} names no kafka.version") })?;
    let java = match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => PathBuf::from("java"),
    };
    let answer = Command::new(&java).arg("-version").stdin(Stdio::null()).output();
    if !answer.is_ok_and(|output| output.status.success()) {
        return Err(Skipped { why: "Java 17 is missing; install it and run setup/kafka.sh".into() });
    }
    let home = root.join(format!("{dir}-{version}"));
    if !home.join("complete").is_file() {
        return Err(Skipped { why: format!("{} is not there; run setup/kafka.sh", home.display()) });
    }
    let log4j = root.join("tests/kafka/log4j2.properties");
    Ok(Found { java, lib: home.join("lib"), log4j })
}

/// Says on stderr that the current test does not run, or fails it where it has to.
fn skip(skipped: Skipped) -> Skipped {
    if std::env::var(REQUIRE).is_ok_and(|value| value == "1") {
        panic!("{REQUIRE}=1, but the Apache Kafka lane cannot run: {}", skipped.why);
    }
    say(&format!("SKIPPED (no Apache Kafka) {}: {}", test_name(), skipped.why));
    skipped
}

/// One line on the process's own stderr, where `setup/test.sh` reads it: the test harness keeps
/// what a passing test prints to itself.
fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_owned()
}

/// A directory nobody has, under the system's temporary directory.
fn fresh_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("millrace-kafka-{}-{next}-{}", std::process::id(), scatter());
        let dir = std::env::temp_dir().join(name);
        match fs::create_dir(&dir) {
            Ok(()) => return dir,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("cannot create {}: {error}", dir.display()),
        }
    }
}

/// Two ports that are free now, below the range the system hands out by itself, so that none is
/// given away to an outgoing connection while the node is down for a restart.
fn free_ports() -> Ports {
    for attempt in 0..2_000 {
        let offset = scatter().wrapping_add(attempt * 7) % 6_000;
        let client = 20_000 + 2 * u16::try_from(offset).expect("below 6,000");
        let controller = client + 1;
        if is_free(client) && is_free(controller) {
            return Ports { client, controller };
        }
    }
    panic!("no two free ports between 20000 and 32000 on 127.0.0.1");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn accepts(port: u16) -> bool {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok()
}

/// A number that differs between processes and between calls.
fn scatter() -> u32 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    (nanos / 1_000) ^ std::process::id().wrapping_mul(2_654_435_761)
}

/// The last forty lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
