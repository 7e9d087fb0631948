//! What a run was on: the machine, the versions, how busy it was. Reads; never judges.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) java: String,
    pub(crate) rustc: String,
    /// The commit the programs were built from; `+` where files differ from it.
    pub(crate) commit: String,
    /// Processes that wanted a CPU, over the last minute before the run.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let clean = said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib / 1_048_576.0 * 10.0).round() / 10.0,
            kernel: said("uname", &["-sr"]),
            java: said("java", &["--version"]),
            rustc: said("rustc", &["--version"]),
            commit: said("git", &["rev-parse", "--short", "HEAD"]) + if clean { "" } else { "+" },
            load_before: read("/proc/loadavg").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The first line a command says.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Now, as `2026-01-31T12:00:00Z`.
pub(crate) fn now_utc() -> String {
    said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])
}

/// This machine's name, for the folder of a run.
pub(crate) fn name(machine: &Machine) -> String {
    let words: String =
        machine.cpu.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let mut words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).take(4).collect();
    let cpus = format!("{}cpu", machine.cpus);
    words.push(&cpus);
    words.join("-")
}
