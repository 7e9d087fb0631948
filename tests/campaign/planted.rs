//! The campaign's negative controls: defects planted on purpose in every process of a campaign of its own, which must find
//! each. Needs a program built with the feature `planted`; owns which defects are tried and with what faults.

use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use super::say;
use super::verdict::PROMISE;

/// What is planted, and the campaign that is to find it: what the defect needs to show, and not much more.
const CONTROLS: &[(&str, &str)] = &[
    ("OverlayBeforeCommit", ABORTS),
    ("OverlayKept", ABORTS),
    ("CheckpointAhead", DEATHS),
    ("NewKeyAfterTimeout", PROVIDER),
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

/// Runs a campaign for each, and one without a defect first; fails when one finds nothing, or that one something.
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
    say("planted: nothing");
    match campaign(None, ABORTS).as_deref() {
        Ok([]) => {}
        other => {
            say(&format!("without a defect the campaign does not hold, so it proves nothing: {other:?}"));
            return ExitCode::FAILURE;
        }
    }
    let mut missed = Vec::new();
    let mut rows = vec!["| defect | found by |".to_owned(), "| --- | --- |".to_owned()];
    for (name, faults) in CONTROLS.iter().filter(|(name, _)| wanted.contains(name) || wanted.contains(&"all")) {
        say(&format!("planted: {name}"));
        match campaign(Some(name), faults).as_deref() {
            Ok(found) if !found.is_empty() => rows.push(format!("| `{name}` | {} |", found.join("; "))),
            other => {
                rows.push(format!("| `{name}` | **not found** |"));
                say(&format!("{name} is not found: {other:?}"));
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

/// What a campaign said was wrong.
fn campaign(defect: Option<&str>, faults: &str) -> Result<Vec<String>, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.env("MILLRACE_CHAOS", format!("{SIZE} {faults}")).stderr(Stdio::inherit());
    // The defect is chosen by the environment, which every process of a campaign has from this one.
    match defect {
        Some(defect) => command.env("MILLRACE_PLANTED", defect),
        None => command.env_remove("MILLRACE_PLANTED"),
    };
    let output = command.output().map_err(|error| error.to_string())?;
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let wrongs = verdict["wrongs"].as_array().ok_or_else(|| format!("no verdict, {}", output.status))?;
    Ok(found_by(&verdict, wrongs))
}

/// In short: the promises that are broken, what else is wrong, and how often a process found it out by itself.
fn found_by(verdict: &Value, wrongs: &[Value]) -> Vec<String> {
    let promises = verdict["audit"]["promises"].as_array().into_iter().flatten();
    let broken = promises.filter(|promise| promise["holds"] != true).filter_map(|promise| promise["promise"].as_str());
    let others = wrongs.iter().filter_map(Value::as_str).filter(|wrong| !wrong.starts_with(PROMISE));
    let others = others.map(|wrong| wrong.replace(['|', '\n'], " ").chars().take(160).collect::<String>());
    let ended = verdict["ended_by_themselves"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let panics = ended.filter(|said| said.contains("panicked")).count();
    let mut found: Vec<String> = broken.map(str::to_owned).chain(others).collect();
    if !wrongs.is_empty() && panics > 0 {
        found.push(format!("{panics} times an assertion"));
    }
    found
}
