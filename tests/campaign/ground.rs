//! The processes of a campaign: Kafka, one to three nodes, each behind a proxy; registry, provider, warehouse, ingress
//! and workers. Owns starting them, and starting again what ended by itself, as an orchestrator would; injects nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_chaos::{Proxy, Routes};
use millrace_schemas::{AdjustmentKind, AvroRecord, Codec, Money, Product, StockAdjustment, topics};
use millrace_worker::{BulkProducer, From, TopicReader};

use super::fleet::{PLENTY, SCARCE};
use super::provider_door::ProviderDoor;
use super::say;
use crate::support::node::{ApacheKafka, Skipped};
use crate::support::processes::{Process, free_port, write_topology};

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// The session time-out of workers in campaigns.
pub const SESSION: Duration = Duration::from_secs(6);

/// What the workers run on, in the folder of a campaign.
const TOPOLOGY: &str = "topology.toml";

/// How workers are members of their groups.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    pub session: Duration,
    /// They leave the group when they are told to end.
    pub leave: bool,
    /// What their tasks pass to each other they pass on in memory, as they do by default.
    pub hand_over: bool,
}

/// What a process is, and so how it is started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Registry,
    Provider,
    Warehouse,
    Ingress,
    Worker(String),
}

pub struct Ground {
    pub kafka: Vec<ApacheKafka>,
    pub proxies: Vec<Proxy>,
    pub door: ProviderDoor,
    pub codec: Codec,
    processes: BTreeMap<Role, Process>,
    /// Who ended without being told to, and what it said last.
    pub ended: Vec<(Role, String)>,
    ports: [u16; 4],
    dir: PathBuf,
    members: Workers,
}

impl Ground {
    /// Starts everything and stocks the shop.
    pub fn start(brokers: usize, workers: usize, members: Workers) -> Result<Self, Skipped> {
        let kafka = ApacheKafka::cluster(brokers)?;
        let dir = tempfile::Builder::new().prefix("millrace-chaos-").tempdir().unwrap().keep();
        let routes = Routes::default();
        let port = |kafka: &ApacheKafka| kafka.bootstrap().rsplit_once(':').unwrap().1.parse().unwrap();
        let proxies = kafka.iter().map(|kafka| Proxy::start(port(kafka), &routes).unwrap()).collect();
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let door = ProviderDoor::start(format!("http://127.0.0.1:{}/psp", ports[2]));
        write_topology(&dir.join(TOPOLOGY), members.hand_over);
        let mut ground = Self {
            kafka,
            proxies,
            door,
            codec: Codec::offline(),
            processes: BTreeMap::new(),
            ended: Vec::new(),
            ports,
            dir,
            members,
        };
        for role in [Role::Registry, Role::Provider] {
            ground.launch(&role);
            ground.until_serving(&role);
        }
        let replication = brokers.min(3).to_string();
        let kafka = ground.direct();
        let apply = ["apply", "--kafka", &kafka, "--registry", &ground.registry(), "--replication", &replication];
        let (code, said) = Process::start(&ground.dir, "apply", &apply).until_it_ends(PATIENCE);
        assert_eq!(code, Some(0), "apply failed:\n{said}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ground.codec = runtime.block_on(millrace_schemas::registry::check(&ground.registry())).unwrap();
        ground.stock();
        for number in 1..=workers {
            ground.launch(&Role::Worker(format!("w{number}")));
        }
        for role in [Role::Warehouse, Role::Ingress] {
            ground.launch(&role);
            ground.until_serving(&role);
        }
        ground.until_stocked();
        Ok(ground)
    }

    /// Where everything of it is kept.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The brokers without proxies.
    pub fn direct(&self) -> String {
        self.kafka.iter().map(ApacheKafka::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// The brokers as clients see them.
    pub fn through_proxies(&self) -> String {
        self.proxies.iter().map(Proxy::address).collect::<Vec<_>>().join(",")
    }

    pub fn registry(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// The provider without its door.
    pub fn provider(&self) -> String {
        format!("http://127.0.0.1:{}/psp", self.ports[2])
    }

    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.ports[3])
    }

    /// The state directory of a worker.
    pub fn state_of(&self, worker: &str) -> PathBuf {
        self.dir.join("state").join(worker)
    }

    /// The workers that should be running.
    pub fn workers(&self) -> Vec<Role> {
        self.processes.keys().filter(|role| matches!(role, Role::Worker(_))).cloned().collect()
    }

    pub fn process(&mut self, role: &Role) -> &mut Process {
        self.processes.get_mut(role).expect("it was started")
    }

    /// Arguments of a worker on a topology in this folder.
    pub fn worker_args(&self, name: &str, topology: &str) -> Vec<String> {
        let (state, topology) = (self.dir.join("state"), self.dir.join(topology));
        let args = [
            "run",
            "--all",
            "--instance",
            name,
            "--kafka",
            &self.through_proxies(),
            "--registry",
            &self.registry(),
            "--psp",
            &self.door.url(),
            "--data-dir",
            state.to_str().unwrap(),
            "--topology",
            topology.to_str().unwrap(),
            "--session-timeout",
            &self.members.session.as_millis().to_string(),
        ];
        args.into_iter().chain(self.members.leave.then_some("--leave")).map(str::to_owned).collect()
    }

    /// Starts a process; it may take a while to serve.
    pub fn launch(&mut self, role: &Role) {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (name, args): (&str, Vec<String>) = match role {
            Role::Registry => {
                let data = text(self.dir.join("registry"));
                let (registry, kafka) = (at(self.ports[0]), at(self.ports[1]));
                let args = ["broker", "--listen", &kafka, "--registry-listen", &registry, "--data-dir", &data];
                ("registry", args.map(str::to_owned).into())
            }
            Role::Provider => {
                let data = text(self.dir.join("psp"));
                ("psp", ["psp", "--listen", &at(self.ports[2]), "--data-dir", &data].map(str::to_owned).into())
            }
            Role::Warehouse | Role::Ingress => {
                let name = if *role == Role::Ingress { "ingress" } else { "warehouse" };
                let args = [name, "--kafka", &self.through_proxies(), "--registry", &self.registry()];
                let mut args: Vec<String> = args.map(str::to_owned).into();
                if *role == Role::Ingress {
                    args.extend(["--http".to_owned(), self.http()]);
                }
                (name, args)
            }
            Role::Worker(name) => (name, self.worker_args(name, TOPOLOGY)),
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let started = match role {
            Role::Worker(_) => Process::start_limitable(&self.dir, name, &args),
            _ => Process::start(&self.dir, name, &args),
        };
        self.processes.insert(role.clone(), started);
    }

    /// Waits until a process that was just launched serves.
    pub fn until_serving(&mut self, role: &Role) {
        let text = match role {
            Role::Registry => "registry  ",
            Role::Provider | Role::Ingress => "http://",
            Role::Warehouse => "simulated warehouse",
            Role::Worker(_) => "metrics and health at",
        };
        self.process(role).until_it_says(text);
    }

    /// `kill -9`.
    pub fn kill(&mut self, role: &Role) {
        self.processes.remove(role).expect("it was started").kill();
    }

    /// Ends a process in good order; its exit code.
    pub fn stop(&mut self, role: &Role) -> Option<i32> {
        self.processes.remove(role).expect("it was started").stop()
    }

    /// Starts again what has ended by itself, and writes that down.
    pub fn tend(&mut self) {
        let gone = self.processes.iter_mut().filter_map(|(role, process)| (!process.is_alive()).then(|| role.clone()));
        for role in gone.collect::<Vec<_>>() {
            let log = self.process(&role).log();
            let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
            say(&format!("{role:?} ended by itself: {last}"));
            self.ended.push((role.clone(), last));
            self.processes.remove(&role);
            self.launch(&role);
        }
    }

    /// Keeps what Kafka has to say of a standstill: its logs, its own topics, and the transactions it knows.
    pub fn keep_kafka(&self) {
        for (number, kafka) in self.kafka.iter().enumerate() {
            if let Err(error) = kafka.keep(&self.dir.join(format!("kafka-{}", number + 1))) {
                say(&format!("node {}: what it has cannot all be kept: {error}", number + 1));
            }
        }
        let listed = self.kafka[0]
            .tool("org.apache.kafka.tools.TransactionsCommand")
            .args(["--bootstrap-server", &self.direct(), "list"])
            .output()
            .map(|output| [output.stdout, output.stderr].concat());
        let kept = listed.and_then(|listed| std::fs::write(self.dir.join("kafka-transactions"), listed));
        if let Err(error) = kept {
            say(&format!("the list of transactions cannot be kept: {error}"));
        }
    }

    /// Ends everything but Kafka, registry and provider, whose word the audit needs.
    pub fn stop_workers(&mut self) {
        for role in [self.workers(), vec![Role::Ingress, Role::Warehouse]].concat() {
            self.kill(&role);
        }
    }

    fn skus() -> impl Iterator<Item = (String, i64)> {
        let plenty = (0..PLENTY).map(|n| (format!("plenty-{n}"), 10_000_000));
        plenty.chain((0..SCARCE).map(|n| (format!("scarce-{n}"), 60)))
    }

    fn stock(&self) {
        fn queue<T: AvroRecord>(codec: &Codec, to: &mut BulkProducer, topic: &'static str, key: &str, record: &T) {
            let mut value = Vec::new();
            codec.encode(topic, record, &mut value);
            to.queue(topic, key.as_bytes(), &value).unwrap();
        }
        let mut producer = BulkProducer::connect(&self.direct()).unwrap();
        for (sku, units) in Self::skus() {
            let unit_price = Money { minor: 250, currency: "GBP".into() };
            let product = Product { sku: sku.clone(), description: "a thing".into(), unit_price, active: true, at: 1 };
            queue(&self.codec, &mut producer, topics::CATALOG_PRODUCTS, &sku, &product);
            let opening = StockAdjustment {
                adjustment_id: format!("opening-{sku}"),
                sku: sku.clone(),
                kind: AdjustmentKind::Opening,
                quantity: units,
                reason: "campaign".into(),
                at: 1,
            };
            queue(&self.codec, &mut producer, topics::STOCK_ADJUSTMENTS, &sku, &opening);
        }
        producer.finish().unwrap();
    }

    fn until_stocked(&mut self) {
        let mut reader = TopicReader::open(&self.direct(), &[topics::STOCK_LEVELS], From::Beginning).unwrap();
        let (mut seen, since) = (0, Instant::now());
        while seen < PLENTY + SCARCE {
            assert!(since.elapsed() < PATIENCE, "the ledger never knew the stock; logs in {}", self.dir.display());
            self.tend();
            seen += reader.read(Duration::from_millis(200), 1_000).unwrap().len();
        }
    }
}
