//! Processes the harness starts, and what they use: CPU-seconds and memory as Linux tells them. Owns ending them, by their
//! id and at the latest when the harness ends, be it by SIGKILL; never knows what they are for.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// How long a process may take to say that it is ready, or to end when it was asked to.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process of ours with its log.
pub(crate) struct Process {
    child: Child,
    guard: Option<Guard>,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts it; what it says goes to `<name>.log` in `dir`.
    pub(crate) fn start(dir: &Path, name: &str, mut command: Command) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // In a group of its own: what a terminal sends to the harness is the harness's to pass on.
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut process = Self { child, guard: None, log, name: name.to_owned() };
        process.guard = Some(Guard::over_process(process.pid())?);
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says this.
    pub(crate) fn until_it_says(&mut self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains(text) {
            self.is_alive()?;
            if Instant::now() > deadline {
                bail!("{} did not say {text:?} within {PATIENCE:?}:\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An error when it has ended by itself.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}):\n{}", self.name, self.tail()),
        }
    }

    /// How it ended, if it has. Its id may be somebody else's from then on, so the guard forgets it.
    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.guard = None;
        }
        Ok(status)
    }

    /// Waits until it ends by itself.
    pub(crate) fn until_it_ends(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended within {patience:?}:\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.pid().to_string();
        Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &pid]).status().context("cannot run sh")?;
        self.until_it_ends(PATIENCE).map(|_| ())
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        // Until it is waited for, its id is nobody else's.
        self.guard = None;
        let _ = self.child.wait();
    }

    /// The last lines it said.
    pub(crate) fn tail(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A shell that cleans up once the harness is gone, however it went: its stdin is a pipe whose other end only the harness
/// holds. Dropped, it does nothing.
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    fn over_process(pid: u32) -> anyhow::Result<Self> {
        Self::start("kill -KILL \"$1\" 2>/dev/null", &pid.to_string())
    }

    /// Removes this directory, when the processes that write to it have had time to be ended.
    pub(crate) fn over_directory(dir: &Path) -> anyhow::Result<Self> {
        Self::start("sleep 2; rm -rf \"$1\"", &dir.to_string_lossy())
    }

    fn start(clean_up: &str, what: &str) -> anyhow::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", &format!("trap '' HUP INT TERM; read -r _ || {{ {clean_up}; }}"), "guard", what])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            let _ = pipe.write_all(b"over\n");
        }
        let _ = self.shell.wait();
    }
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// In user and system mode, all threads, ended ones included.
    pub(crate) cpu_seconds: f64,
    /// Resident now.
    pub(crate) resident_mib: f64,
    /// The most it ever had resident.
    pub(crate) peak_resident_mib: f64,
}

impl Usage {
    /// Of a running process; nothing when it is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let status = read("status");
        let mib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
        };
        Self { cpu_seconds: cpu_seconds(&read("stat")), resident_mib: mib("VmRSS:"), peak_resident_mib: mib("VmHWM:") }
    }
}

/// Linux counts in hundredths of a second wherever it runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// From the text of `/proc/<pid>/stat`. The name in parentheses may hold anything, so fields count from its end.
fn cpu_seconds(stat: &str) -> f64 {
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_strange_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 900 0 0 0 250 75 0 0 20 0 5 0 100 1 1";
        assert!((cpu_seconds(stat) - 3.25).abs() < 1e-9);
        assert_eq!(cpu_seconds(""), 0.0);
    }

    /// On a busy machine work takes as long as it takes: what is waited for is that it is seen.
    #[test]
    fn what_this_process_does_is_seen() {
        let deadline = Instant::now() + PATIENCE;
        let before = Usage::of(std::process::id());
        let mut done = 0_u64;
        loop {
            for _ in 0..1_000_000 {
                done = std::hint::black_box(done.wrapping_add(1));
            }
            let now = Usage::of(std::process::id());
            if now.cpu_seconds > before.cpu_seconds {
                assert!(now.resident_mib > 1.0 && now.peak_resident_mib >= now.resident_mib * 0.9, "{now:?}");
                return;
            }
            assert!(Instant::now() < deadline, "{before:?}, then {now:?}");
        }
    }

    /// What a SIGKILL of the harness does to it is that the pipe breaks.
    #[test]
    fn a_process_does_not_outlive_the_harness() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut process = Process::start(dir.path(), "sleep", command).unwrap();
        drop(process.guard.as_mut().and_then(|guard| guard.shell.stdin.take()));
        let status = process.until_it_ends(PATIENCE).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn a_process_that_ends_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo ready; exit 3"]);
        let mut process = Process::start(dir.path(), "shell", shell).unwrap();
        assert_eq!(process.until_it_ends(PATIENCE).unwrap().code(), Some(3));
        let error = process.until_it_says("never said").unwrap_err().to_string();
        assert!(error.contains("has ended") && error.contains("ready"), "{error}");
    }
}
