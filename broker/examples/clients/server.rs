//! The example `serve` as a process, ended with this one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Failure;

pub struct Server {
    pub child: Child,
    pub servers: String,
}

impl Server {
    pub fn start(dir: &Path) -> Result<Self, Failure> {
        let serve = std::env::current_exe()?.with_file_name("serve");
        let mut child = Command::new(&serve)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}; build the example serve the same way", serve.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let addresses: serde_json::Value = serde_json::from_str(&line)?;
        let servers = addresses["kafka"].as_str().ok_or("no address")?.to_owned();
        Ok(Self { child, servers })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // With its standard input it ends by itself, as after any planned stop.
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}
