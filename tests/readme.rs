//! The README, executed: every `sh` block of it, in order, in one bash, with the addresses it documents. Nothing else
//! uses those ports, so that the two tests here run one after the other.
//!
//! The blocks run in a directory that looks like a clone after `make run` has built it: `target/release/millrace` is the
//! binary under test. `make run` itself is replaced by what it ends in, `millrace dev`, in the background: building the
//! program inside its own test would prove nothing. It is stopped, as Ctrl-C would, where the README says so: before the
//! next block that brings a broker of its own. The block for an Apache Kafka runs by itself, on one of the test's own.

#![allow(clippy::unwrap_used)]

#[path = "kafka/node.rs"]
mod node;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node::ApacheKafka;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// HTTP, Kafka, registry, payment service provider: as documented.
const PORTS: [u16; 4] = [8080, 9092, 8081, 8082];
/// How long one block may take before the test says that it never ended. Not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long everything has to leave once it was told to.
const LEAVING: Duration = Duration::from_secs(30);

static PORTS_IN_USE: Mutex<()> = Mutex::new(());

/// Before the blocks. The README's reader has a terminal and can press Ctrl-C: here a watcher ends the whole process
/// group (this bash and what it started, nobody else) once nobody holds the other end of our stdin any more.
const PRELUDE: &str = r#"set -euo pipefail
exec 3<&0 </dev/null
(
    trap '' TERM
    read -r _ <&3 || true
    kill -TERM -- "-$$"
    sleep 20
    kill -KILL -- "-$$"
) &
watcher=$!
disown "$watcher"
dev=
stop_dev() {
    if [ -n "$dev" ]; then
        kill -TERM "$dev"
        wait "$dev"
        dev=
    fi
}
make() {
    [ "$*" = run ]
    ./target/release/millrace dev >dev.log 2>&1 &
    dev=$!
    until grep -q 'Millrace is ready' dev.log; do
        kill -0 "$dev"
        sleep 0.1
    done
}
"#;

/// After them.
const END: &str = "echo end >progress\nstop_dev\nkill -KILL \"$watcher\"\n";

/// A fenced block: the line it begins at, its language, its text.
#[derive(Clone, Debug)]
struct Block {
    line: usize,
    language: String,
    text: String,
}

impl Block {
    fn brings_a_broker(&self) -> bool {
        self.text.contains("millrace dev ") || self.text.contains("millrace broker ")
    }

    fn needs_apache_kafka(&self) -> bool {
        self.text.contains("--kafka ")
    }
}

fn blocks_of(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in markdown.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { line: number + 1, language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "README.md has a block that never ends");
    blocks
}

/// The README's commands: those for what is built in, those for an Apache Kafka.
fn commands() -> (Vec<Block>, Vec<Block>) {
    let blocks = blocks_of(&fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap());
    for block in &blocks {
        let known = ["sh", "text"].contains(&block.language.as_str());
        assert!(known, "README.md:{}: a block is sh, and then runs here, or text", block.line);
    }
    blocks.into_iter().filter(|block| block.language == "sh").partition(|block| !block.needs_apache_kafka())
}

/// The documented ports, to ourselves.
fn documented_ports() -> MutexGuard<'static, ()> {
    let guard = PORTS_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    for port in PORTS {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert!(free.is_ok(), "something listens on 127.0.0.1:{port}, which the README's commands need: end it first");
    }
    guard
}

/// One bash over the blocks, and the directory it works in.
struct Session {
    dir: TempDir,
    bash: Child,
    blocks: Vec<Block>,
}

impl Session {
    fn start(blocks: Vec<Block>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("target/release");
        fs::create_dir_all(&release).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        symlink(env!("CARGO_BIN_EXE_millrace"), release.join("millrace")).unwrap();
        for there in ["bench", "topology.toml"] {
            symlink(Path::new(ROOT).join(there), dir.path().join(there)).unwrap();
        }
        let mut script = PRELUDE.to_owned();
        for block in &blocks {
            let Block { line, text, .. } = block;
            if block.brings_a_broker() {
                script.push_str("stop_dev\n");
            }
            script.push_str(&format!("echo {line} >progress\n{{\n{text}}} >{line}.out 2>{line}.err\n"));
        }
        script.push_str(END);
        fs::write(dir.path().join("blocks.sh"), script).unwrap();
        let log = fs::File::create(dir.path().join("bash.err")).unwrap();
        let mut bash = Command::new("bash");
        for name in ["KAFKA", "REGISTRY", "TOPOLOGY", "INSTANCE", "PSP", "LOG"] {
            bash.env_remove(format!("MILLRACE_{name}"));
        }
        let bash = bash
            .arg("blocks.sh")
            .current_dir(dir.path())
            .env("TMPDIR", dir.path().join("tmp"))
            .env("no_proxy", "127.0.0.1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { dir, bash, blocks }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Waits for the end of the last block; each has its own deadline.
    fn until_it_ends(&mut self) -> ExitStatus {
        let mut block = (String::new(), Instant::now());
        loop {
            if let Some(status) = self.bash.try_wait().unwrap() {
                return status;
            }
            let now = self.text("progress");
            if now != block.0 {
                block = (now, Instant::now());
            }
            assert!(block.1.elapsed() < PATIENCE, "never ended: {}", self.where_it_stands());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn where_it_stands(&self) -> String {
        let line = self.text("progress").trim().to_owned();
        let end = |text: String| text.get(text.len().saturating_sub(4_000)..).unwrap_or(&text).to_owned();
        format!(
            "README.md:{line}\n-- bash --\n{}\n-- stdout --\n{}\n-- stderr --\n{}\n-- make run --\n{}",
            end(self.text("bash.err")),
            end(self.text(&format!("{line}.out"))),
            end(self.text(&format!("{line}.err"))),
            end(self.text("dev.log")),
        )
    }

    /// What the only block with this in it printed.
    fn printed_by(&self, part: &str) -> String {
        let with: Vec<&Block> = self.blocks.iter().filter(|block| block.text.contains(part)).collect();
        let [block] = with[..] else { panic!("README.md has {} sh blocks with {part:?}, not one", with.len()) };
        self.text(&format!("{}.out", block.line))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The watcher sees the end of this and ends what is left.
        drop(self.bash.stdin.take());
        let deadline = Instant::now() + LEAVING;
        while matches!(self.bash.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What keeps an audit's table from being a clean one.
fn fault_of_audit(table: &str) -> Option<String> {
    for promise in ["P1", "P2", "P3", "P4", "P5", "P8", "P9"] {
        let verdict = table.lines().find(|line| line.starts_with(promise));
        if verdict.is_none_or(|line| line.split_whitespace().nth(1) != Some("holds")) {
            return Some(format!("{promise} is not said to hold: {verdict:?}"));
        }
    }
    None
}

/// The count an audit's table gives under this name.
fn count(table: &str, name: &str) -> u64 {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_else(|| panic!("no {name}:\n{table}"))
}

/// All 19,959 orders have ended, some for want of stock, and every promise holds.
fn assert_whole_replay(table: &str) {
    assert_eq!(fault_of_audit(table), None, "{table}");
    assert_eq!(count(table, "placed"), 19_959, "{table}");
    assert_eq!(count(table, "open"), 0, "{table}");
    assert!(count(table, "completed") > 0, "{table}");
    assert!(count(table, "rejected") + count(table, "cancelled") > 0, "four fifths of the stock are enough?\n{table}");
}

#[test]
fn every_block_runs_on_the_embedded_broker() {
    let _ports = documented_ports();
    let mut session = Session::start(commands().0);
    let status = session.until_it_ends();
    assert!(status.success(), "{status} at {}", session.where_it_stands());

    let id = session.printed_by("echo \"$order\"").trim().to_owned();
    assert!(!id.is_empty(), "the second time, the order's id");
    let first = session.blocks.iter().find(|block| block.text.starts_with("curl ")).unwrap();
    let first = session.text(&format!("{}.out", first.line));
    assert!(first.contains(&id), "the same key is the same order: {id} and {first}");

    let followed: serde_json::Value = serde_json::from_str(&session.printed_by("until=confirmed")).unwrap();
    let status = followed["status"].as_str().unwrap();
    let confirmed = ["confirmed", "partially_shipped", "shipped", "delivered", "completed"].contains(&status);
    assert!(confirmed, "{followed:#}");

    let traced = session.printed_by("millrace trace");
    assert!(traced.contains("orders.placed-") && traced.contains("CONFIRMED"), "{traced}");
    assert_eq!(fault_of_audit(&traced), None, "{traced}");
    assert_eq!(count(&traced, "placed"), 1, "{traced}");

    assert_whole_replay(&session.printed_by("millrace dev "));

    let several = session.printed_by("millrace broker ");
    assert_eq!(fault_of_audit(&several), None, "{several}");
    assert_eq!(count(&several, "placed"), 500, "{several}");
}

#[test]
fn the_block_for_apache_kafka_runs_on_one() {
    let Ok(kafka) = ApacheKafka::start() else { return };
    let _ports = documented_ports();
    let mut blocks = commands().1;
    for block in &mut blocks {
        block.text = block.text.replace("--kafka 127.0.0.1:9092", &format!("--kafka {}", kafka.bootstrap()));
    }
    let mut session = Session::start(blocks);
    let status = session.until_it_ends();
    assert!(status.success(), "{status} at {}", session.where_it_stands());
    assert_whole_replay(&session.printed_by("millrace dev "));
}

mod what_the_checks_see {
    use super::*;

    #[test]
    fn a_promise_that_is_broken_or_missing() {
        let clean = "P1 holds x\nP2 holds x\nP3 holds x\nP4 holds x\nP5 holds x\nP8 holds x\nP9 holds x\n";
        assert_eq!(fault_of_audit(clean), None);
        assert!(fault_of_audit(&clean.replace("P3 holds", "P3 BROKEN")).unwrap().starts_with("P3"));
        assert!(fault_of_audit(&clean.replace("P9 holds x\n", "")).unwrap().starts_with("P9"));
    }

    #[test]
    fn a_command_that_fails() {
        let block = |line, text: &str| Block { line, language: "sh".into(), text: text.into() };
        let mut session =
            Session::start(vec![block(1, "x=kept\n"), block(2, "echo $x; false; true\n"), block(3, "\n")]);
        assert!(!session.until_it_ends().success());
        assert_eq!((session.text("2.out").as_str(), session.text("progress").trim()), ("kept\n", "2"));
    }

    #[test]
    fn blocks_with_their_lines() {
        let blocks = blocks_of("a\n```sh\nb\nc\n```\nd\n```text\n```\n");
        let seen: Vec<_> = blocks.iter().map(|b| (b.line, b.language.as_str(), b.text.as_str())).collect();
        assert_eq!(seen, [(2, "sh", "b\nc\n"), (7, "text", "")]);
    }
}
