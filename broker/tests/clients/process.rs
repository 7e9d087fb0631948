//! A broker in a process of its own, that can be killed and started again.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A broker in a process of its own, that can be killed.
pub struct Process {
    child: Child,
    address: SocketAddr,
    registry: String,
}

impl Process {
    pub fn start(dir: &Path, port: u16) -> Self {
        // A write over a limit on the size of files is to be refused, as on a full disk, not to be the end.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(serve_binary())
            .arg(dir)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built with the tests");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let addresses: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address = addresses["kafka"].as_str().expect("an address");
        let registry = addresses["registry"].as_str().expect("an address").to_owned();
        Self { child, address: address.parse().expect("an address"), registry }
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> SocketAddr {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        self.address
    }

    /// The most memory it has used so far, MiB (Linux; elsewhere 0).
    pub fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    }

    /// Refuses it every write behind so many bytes of a file, as a full disk would; `None` makes room again.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let status = Command::new("prlimit")
            .args(["--pid", &self.child.id().to_string(), &format!("--fsize={limit}:")])
            .status()
            .expect("prlimit comes with util-linux");
        assert!(status.success());
    }

    /// Base URL of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn servers(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Cargo builds examples beside the tests.
fn serve_binary() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let target = test.ancestors().nth(2).expect("target/debug");
    let binary = target.join("examples/serve");
    assert!(binary.exists(), "build it: cargo build -p millrace-broker --example serve");
    binary
}
