//! The campaign's negative controls: defects planted on purpose in every process of a campaign of its own, which must find
//! each. Needs a program built with the feature `planted`; owns which defects are tried and with what faults.

use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use super::say;

/// What is planted, and the campaign that is to find it: what the defect needs to show, and not much more.
const CONTROLS: &[(&str, &str)] = &[
    ("OverlayBeforeCommit", ABORTS),
    ("OverlayKept", ABORTS),
    ("NoRewind", ABORTS),
    ("CheckpointAhead", DEATHS),
    ("NewKeyAfterTimeout", PROVIDER),
    ("KeyForgotten", PROVIDER),
    ("BalanceClamped", DEATHS),
    ("GroupNotReleased", PROVIDER),
    ("MoneyKept", PROVIDER),
];
/// Transactions that end in an abort.
const ABORTS: &str = "--faults hold-end-txn,lose-answers,cut-connections,stall-connections,kill-broker";
/// Processes that die, and disks.
const DEATHS: &str = "--faults kill-worker,corrupt-state,pause-worker,scale-workers";
/// A provider whose answers do not come.
const PROVIDER: &str = "--faults silent-provider,kill-provider,wrong-provider,kill-worker";
const SIZE: &str = "--minutes 2 --orders 12000 --seed 1 --output json";

/// Runs a campaign for each; fails when one finds nothing.
pub fn run(defects: &str) -> ExitCode {
    if !cfg!(feature = "planted") {
        say("this program has no defects to plant; `make chaos-planted` builds one that has");
        return ExitCode::from(2);
    }
    let wanted: Vec<&str> = defects.split(',').collect();
    if let Some(unknown) = wanted.iter().find(|name| **name != "all" && !CONTROLS.iter().any(|(of, _)| of == *name)) {
        let known: Vec<&str> = CONTROLS.iter().map(|(name, _)| *name).collect();
        say(&format!("{unknown} is none of the defects campaigns are tried with: {}", known.join(", ")));
        return ExitCode::from(2);
    }
    let mut missed = Vec::new();
    let mut rows = vec!["| defect | found by |".to_owned(), "| --- | --- |".to_owned()];
    for (name, faults) in CONTROLS.iter().filter(|(name, _)| wanted.contains(name) || wanted.contains(&"all")) {
        say(&format!("planted: {name}"));
        match found(name, faults) {
            Ok(wrong) => rows.push(format!("| `{name}` | {wrong} |")),
            Err(why) => {
                rows.push(format!("| `{name}` | **{why}** |"));
                missed.push(*name);
            }
        }
    }
    say(&rows.join("\n"));
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        say(&format!("not found: {}", missed.join(", ")));
        ExitCode::FAILURE
    }
}

/// What the campaign said was wrong, first.
fn found(defect: &str, faults: &str) -> Result<String, String> {
    // The defect is chosen by the environment, which every process of a campaign has from this one.
    let output = Command::new(std::env::current_exe().map_err(|error| error.to_string())?)
        .env("MILLRACE_PLANTED", defect)
        .env("MILLRACE_CHAOS", format!("{SIZE} {faults}"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match verdict["wrongs"].as_array().map(Vec::as_slice) {
        Some([first, ..]) => {
            let first = first.as_str().unwrap_or_default().replace(['|', '\n'], " ");
            Ok(first.chars().take(160).collect())
        }
        Some([]) => Err("not found".to_owned()),
        None => Err(format!("no verdict, {}", output.status)),
    }
}
