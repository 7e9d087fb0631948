//! Unmodified Python clients (`confluent-kafka`, with its registry client and Avro serializers) against this broker. The
//! environment they run in is made by `setup/python.sh`; where it is missing, the test says so and does not run.

mod clients;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clients::*;

/// Set to `1` where the Python clients must run (CI).
const REQUIRE: &str = "MILLRACE_REQUIRE_PYTHON";

fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let home = root.join("target/python-clients");
    home.join("complete").is_file().then(|| home.join("bin/python"))
}

#[test]
fn python_applications_run() {
    let Some(python) = python() else {
        let why = "the Python clients have not been fetched; run setup/python.sh";
        assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{why}");
        // On the process's own stderr, where `setup/test.sh` reads it.
        writeln!(std::io::stderr(), "SKIPPED (no Python clients) python_applications_run: {why}").ok();
        return;
    };
    let broker = start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/clients.py");
    let output = Command::new(python)
        .arg(script)
        .args([broker.servers(), broker.handle.registry_url()])
        .output()
        .expect("Python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{out}");
}
