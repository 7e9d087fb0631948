//! Holds the source against the rules of `ARCHITECTURE.md` and `STYLE.md`: who may use whom, what a room must never
//! name, which names must agree. Reads files and `cargo metadata`; never runs the program.
//!
//! Each check is a pure function from text to faults. Below the checks, `the_checks_themselves` shows that each one
//! reports a planted fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace_runtime::{Origin, Topology, check_definitions};
use millrace_schemas::{Codec, TOPICS};
use serde_json::Value;

/// Which rooms a room may use. A dependency that is missing here is the rarest kind of change: argue for it in
/// `ARCHITECTURE.md` ("Rooms and their invariants") first.
const ROOMS: &[(&str, &[&str])] = &[
    ("millrace-schemas", &[]),
    ("millrace-runtime", &[]),
    ("millrace-broker", &[]),
    ("millrace-processors", &["millrace-schemas", "millrace-runtime"]),
    ("millrace-worker", &["millrace-runtime"]),
    ("millrace-ingress", &["millrace-schemas"]),
    ("millrace-psp", &["millrace-schemas"]),
    ("millrace-audit", &["millrace-schemas"]),
    ("millrace-replay", &["millrace-schemas"]),
    (
        "millrace-sim",
        &[
            "millrace-schemas",
            "millrace-runtime",
            "millrace-processors",
            "millrace-broker",
            "millrace-ingress",
            "millrace-psp",
            "millrace-audit",
            "millrace-replay",
        ],
    ),
    // Used by tests only.
    ("millrace-chaos", &[]),
    // Measures from outside: what it links of ours are records.
    ("bench", &["millrace-replay", "millrace-schemas"]),
    (
        "millrace",
        &[
            "millrace-schemas",
            "millrace-runtime",
            "millrace-broker",
            "millrace-processors",
            "millrace-worker",
            "millrace-ingress",
            "millrace-psp",
            "millrace-audit",
            "millrace-replay",
            "millrace-sim",
        ],
    ),
];

/// What the tests of a room may use beyond that.
const ROOMS_IN_TESTS: &[(&str, &[&str])] = &[
    ("millrace-worker", &["millrace-broker", "millrace-chaos"]),
    ("millrace-chaos", &["millrace-broker"]),
    ("millrace", &["millrace-chaos"]),
];

/// Libraries that talk to the world, and the rooms that must never have them.
const WORLDLY: &[&str] = &["tokio", "rdkafka", "sled", "axum", "hyper", "rand", "reqwest", "tracing", "prometheus"];
const UNWORLDLY: &[&str] =
    &["millrace-runtime", "millrace-processors", "millrace-audit", "millrace-replay", "millrace-sim"];

/// What `runtime` and `processors` must never name: everything a seed could not replay.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant::now",
    "tokio",
    "rdkafka",
    "rand",
    "async fn",
];

/// Words of the shop: the engine must not know any.
const SHOP: &[&str] = &[
    "payment",
    "payments",
    "sku",
    "skus",
    "customer",
    "refund",
    "shipment",
    "warehouse",
    "invoice",
    "price",
    "currency",
    "catalog",
    "order_id",
    "orders",
];

/// No file is longer, in lines.
const LINES_MAX: usize = 800;
/// Files that were longer when the limit came, with the length they must not grow past. It is to stay empty: split a
/// file along its own headings instead of adding it here.
const LONGER: &[(&str, usize)] = &[];

/// The only file with `unsafe` in it: what the Kafka client's Rust interface lacks.
const UNSAFE_ALLOWED: &[&str] = &["worker/src/kafka_broker/raw.rs"];

/// In pieces, so that this file does not report itself.
const UNSAFE: &[&str] = &[concat!("uns", "afe fn"), concat!("uns", "afe {"), concat!("uns", "afe impl")];

/// Documents whose words about the repository are held against it.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "STYLE.md"];

// ---- the checks on the repository ------------------------------------------------------------------------------------

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let metadata = cargo_metadata();
    no_faults(
        "a room uses another it must not use. Move the code, or pass it in from cli/; ROOMS in tests/tidy.rs is the rule",
        &forbidden_dependencies(&metadata),
    );
}

#[test]
fn rooms_without_io_have_no_library_for_it() {
    no_faults(
        "a room that must stay free of I/O depends on a library for it. What it needs comes in through a trait",
        &worldly_dependencies(&cargo_metadata()),
    );
}

#[test]
fn no_release_can_have_a_planted_defect() {
    no_faults(
        "defects are planted by tests only: the feature `planted` is switched on by nothing but itself and tests",
        &planted_by_accident(&cargo_metadata()),
    );
}

#[test]
fn the_engine_and_the_decisions_name_nothing_of_the_outside() {
    let files = rust_files().into_iter().filter(|f| f.is_under(&["runtime/src/", "processors/src/"]));
    no_faults(
        "no clock, thread, disk, network, environment or chance here: time and ids come in with the call",
        &files.flat_map(|file| named(&file, OUTSIDE)).collect::<Vec<_>>(),
    );
}

#[test]
fn the_engine_knows_no_order() {
    let files = rust_files().into_iter().filter(|f| f.is_under(&["runtime/src/"]));
    no_faults(
        "the engine speaks of records, keys and states. What they mean belongs into processors/",
        &files.flat_map(|file| named(&file, SHOP)).collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_too_long() {
    no_faults(
        "split the file along its own headings; a name for each part is the hard half of the work",
        &rust_files().iter().filter_map(|file| too_long(file, LINES_MAX, LONGER)).collect::<Vec<_>>(),
    );
}

#[test]
fn every_file_says_what_it_owns() {
    no_faults(
        "begin the file with `//!`: what it owns, and what it never does",
        &rust_files().iter().filter(|f| !f.text.starts_with("//!")).map(|f| f.path.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_a_drawer() {
    no_faults(
        "name the file after what it owns; what belongs to nobody belongs to the one place that uses it",
        &rust_files().iter().filter_map(|file| drawer(&file.path)).collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_left_unfinished_or_untested() {
    no_faults(
        "finish it, or take it out; a test that cannot pass asserts what happens today, with a note",
        &rust_files().iter().flat_map(unfinished).collect::<Vec<_>>(),
    );
}

#[test]
fn unsafe_stays_in_its_one_file() {
    let files = rust_files().into_iter().filter(|f| !UNSAFE_ALLOWED.contains(&f.path.as_str()));
    no_faults(
        "no unsafe code outside the file that talks to the Kafka client's C interface",
        &files.flat_map(|file| named(&file, UNSAFE)).collect::<Vec<_>>(),
    );
}

#[test]
fn no_machine_shows_in_the_files() {
    let files = tracked_files();
    no_faults(
        "a path or host of one machine is in a tracked file. Use a relative path, a temporary directory or a public host",
        &files.iter().flat_map(machine_traces).collect::<Vec<_>>(),
    );
}

#[test]
fn paths_named_in_documents_exist() {
    let roots = roots();
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        for path in paths_in(&read(document), &roots) {
            if !root().join(&path).exists() {
                faults.push(format!("{document} names {path}"));
            }
        }
    }
    no_faults("a document names a file that is not there. Correct the document", &faults);
}

#[test]
fn code_and_topology_name_the_same_topics_with_the_same_schemas() {
    let code: BTreeMap<String, String> = TOPICS.iter().map(|t| (t.topic.to_owned(), t.file.to_owned())).collect();
    let named = topology().topics.into_iter().filter(|topic| topic.origin == Origin::Named);
    let file = named.map(|topic| (topic.name.to_string(), topic.schema.unwrap_or_default())).collect();
    no_faults(
        "schemas/src/topics.rs and topology.toml must name the same topics with the same schema files",
        &differences("schemas/src/topics.rs", &code, "topology.toml", &file),
    );
}

#[test]
fn every_schema_file_is_the_schema_of_a_topic() {
    let used: BTreeSet<String> = TOPICS.iter().map(|topic| format!("{}.avsc", topic.file)).collect();
    let entries = std::fs::read_dir(root().join("schemas/avro")).expect("schemas/avro can be listed");
    let there = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let stray: Vec<String> = there.filter(|name| !used.contains(name)).collect();
    no_faults("a schema file belongs to no topic: list it in schemas/src/topics.rs, or remove it", &stray);
}

#[test]
fn code_and_topology_name_the_same_processors_stores_tables_and_numbers() {
    let definitions = millrace_processors::definitions(&Codec::offline());
    let faults = check_definitions(&mut topology(), &definitions).err().unwrap_or_default();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    no_faults("processors/ and topology.toml must name the same things", &faults);
}

#[test]
fn topics_named_in_code_are_in_the_topology() {
    let topology = topology();
    let topics: BTreeSet<&str> = topology.topics.iter().map(|topic| &*topic.name).collect();
    let rooms = ["processors/src/", "ingress/src/", "audit/src/", "replay/src/", "psp/src/", "cli/"];
    let files = rust_files().into_iter().filter(|file| file.is_under(&rooms));
    no_faults(
        "a string looks like the name of a topic that topology.toml does not have. Use millrace_schemas::topics",
        &files.flat_map(|file| strange_topics(&file, &topics)).collect::<Vec<_>>(),
    );
}

#[test]
fn the_diagram_in_the_architecture_is_the_topology() {
    let wanted = format!("```mermaid\n{}```", topology().to_mermaid());
    let found = marked(&read("ARCHITECTURE.md"), "topology");
    assert!(
        found.as_deref().map(str::trim) == Some(wanted.trim()),
        "the diagram in ARCHITECTURE.md is not the topology. Put this between the topology markers \
         (`millrace topology show -o mermaid` prints it):\n{wanted}"
    );
}

// ---- the checks as functions -----------------------------------------------------------------------------------------

/// A text file of the repository.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_under(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn forbidden_dependencies(metadata: &Value) -> Vec<String> {
    let rule = |rules: &[(&str, &'static [&'static str])], room: &str| {
        rules.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, allowed)| allowed)
    };
    let mut faults = Vec::new();
    for (room, dependency, in_tests) in dependencies(metadata) {
        if !ROOMS.iter().any(|(name, _)| *name == room) {
            faults.push(format!("{room} is not in the table ROOMS: say there what it may use"));
        } else if dependency.starts_with("millrace") {
            // A room's tests may switch its own features on.
            let own = in_tests && room == dependency;
            let allowed = own
                || rule(ROOMS, &room).contains(&dependency.as_str())
                || (in_tests && rule(ROOMS_IN_TESTS, &room).contains(&dependency.as_str()));
            if !allowed {
                faults.push(format!("{room} uses {dependency}{}", if in_tests { " in its tests" } else { "" }));
            }
        }
    }
    faults.dedup();
    faults
}

fn worldly_dependencies(metadata: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, dependency, in_tests) in dependencies(metadata) {
        if UNWORLDLY.contains(&room.as_str()) && WORLDLY.contains(&dependency.as_str()) && !in_tests {
            faults.push(format!("{room} uses {dependency}"));
        }
    }
    faults
}

/// Dependencies, tests' aside, and features of other names that switch the feature `planted` on.
fn planted_by_accident(metadata: &Value) -> Vec<String> {
    let plants = |features: &Value| {
        let features = features.as_array().into_iter().flatten().filter_map(Value::as_str);
        features.into_iter().any(|feature| feature == "planted" || feature.ends_with("/planted"))
    };
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] != "dev" && plants(&dependency["features"]) {
                faults.push(format!("{name} uses {} with it", dependency["name"]));
            }
        }
        for (feature, of) in package["features"].as_object().into_iter().flatten() {
            if feature != "planted" && plants(of) {
                faults.push(format!("feature {feature} of {name} has it"));
            }
        }
    }
    faults
}

/// Room, what it depends on, and whether only its tests do.
fn dependencies(metadata: &Value) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            found.push((text(&package["name"]), text(&dependency["name"]), dependency["kind"] == "dev"));
        }
    }
    found
}

/// Places in the code, comments aside, where one of `words` stands as a word of its own. `use std::{fs, ..}` is found
/// as `std::fs`.
fn named(file: &File, words: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let code = without_comment(line);
        let grouped = code.split_once("std::{").map(|(_, group)| group.split([',', '}']).map(str::trim).collect());
        let grouped: Vec<&str> = grouped.unwrap_or_default();
        for word in words {
            let in_group = word
                .strip_prefix("std::")
                .is_some_and(|module| grouped.iter().any(|item| item.split("::").next() == Some(module)));
            if in_group || has_word(code, word) {
                faults.push(format!("{}:{}: {word}", file.path, number + 1));
            }
        }
    }
    faults
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let goes_on = word.ends_with(part) && text[at + word.len()..].starts_with(part);
        !goes_on && !text[..at].ends_with(part)
    })
}

fn too_long(file: &File, most: usize, longer: &[(&str, usize)]) -> Option<String> {
    let most = longer.iter().find(|(path, _)| *path == file.path).map_or(most, |(_, lines)| *lines);
    let lines = file.text.lines().count();
    (lines > most).then(|| format!("{}: {lines} lines, at most {most}", file.path))
}

fn drawer(path: &str) -> Option<String> {
    const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "stuff", "types", "prelude"];
    let names = path.trim_end_matches(".rs").split('/');
    names.filter(|name| DRAWERS.contains(name)).map(|name| format!("{path}: {name}")).next()
}

fn unfinished(file: &File) -> Vec<String> {
    // In pieces, so that this file does not report itself.
    let marks = [
        concat!("to", "do!"),
        concat!("unimpl", "emented!"),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
    ];
    let mut faults = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for mark in marks.iter().filter(|mark| has_word(line, mark)) {
            faults.push(format!("{}:{}: {mark}", file.path, number + 1));
        }
    }
    faults
}

fn machine_traces(file: &File) -> Vec<String> {
    // In pieces, so that this file does not report itself.
    let homes = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut faults = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let at = format!("{}:{}", file.path, number + 1);
        for home in homes {
            // Not as a part of an address or a longer path: `docs/home/` names no machine.
            let starts_path = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}~$".contains(c));
            if line.match_indices(home).any(|(at, _)| starts_path(at)) {
                faults.push(format!("{at}: a path under {home}"));
            }
        }
        faults.extend(hosts(line).filter(|host| is_private_host(host)).map(|host| format!("{at}: host {host}")));
        if file.path == "Cargo.lock"
            && line.starts_with("source = ")
            && !line.contains("github.com/rust-lang/crates.io-index")
        {
            faults.push(format!("{at}: a crate that is not from crates.io"));
        }
    }
    faults
}

/// Hosts of the addresses in a line, without port and credentials.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").map(|(at, mark)| {
        let rest = &line[at + mark.len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || ".-_@:".contains(c))).unwrap_or(rest.len());
        let host = rest[..end].rsplit('@').next().unwrap_or_default();
        host.split(':').next().unwrap_or_default()
    })
}

fn is_private_host(host: &str) -> bool {
    let private_name = ["internal", "local", "lan", "corp", "intranet"]
        .iter()
        .any(|end| host.strip_suffix(end).is_some_and(|before| before.ends_with('.')));
    let proxy = ["artifactory", "nexus", "jfrog"].iter().any(|word| host.contains(word));
    let numbers: Vec<u8> = host.split('.').filter_map(|part| part.parse().ok()).collect();
    let private_address = matches!(numbers[..], [10, _, _, _] | [192, 168, _, _] | [172, 16..=31, _, _]);
    private_name || proxy || private_address
}

/// What a document says is a path of the repository: in backticks outside of fenced blocks, and the targets of links.
/// A text counts as a path when it begins with a file or folder at the root, or ends like a source file.
fn paths_in(document: &str, roots: &BTreeSet<String>) -> Vec<String> {
    let mut paths = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        let linked = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for candidate in quoted.chain(linked) {
            let candidate = candidate.split('#').next().unwrap_or_default().split("::").next().unwrap_or_default();
            let path = candidate.trim_end_matches('/');
            let plain = !path.is_empty()
                && !path.starts_with(['/', '-', '.'])
                && path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
            let first = path.split('/').next().unwrap_or_default();
            let folder = candidate.contains('/') && roots.contains(first);
            let source = [".rs", ".toml", ".md", ".avsc", ".sh"].iter().any(|end| path.ends_with(end));
            if plain && (folder || source) {
                paths.push(path.to_owned());
            }
        }
    }
    paths
}

/// What only one of two tables of names has, or has differently.
fn differences(
    left_name: &str,
    left: &BTreeMap<String, String>,
    right_name: &str,
    right: &BTreeMap<String, String>,
) -> Vec<String> {
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differing = names.into_iter().filter(|name| left.get(*name) != right.get(*name));
    let say = |value: Option<&String>| value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
    differing
        .map(|name| {
            format!("{name}: {left_name} has {}, {right_name} has {}", say(left.get(name)), say(right.get(name)))
        })
        .collect()
}

/// Strings in the code that look like the name of a topic and are none.
fn strange_topics(file: &File, topics: &BTreeSet<&str>) -> Vec<String> {
    let families = ["orders", "payments", "stock", "shipments", "catalog", "dead-letters"];
    let mut faults = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for literal in without_comment(line).split('"').skip(1).step_by(2) {
            let family = literal.split_once('.').filter(|(family, rest)| {
                let name = |c: char| c.is_ascii_lowercase() || c == '-';
                families.contains(family) && !rest.is_empty() && rest.chars().all(name)
            });
            if family.is_some() && !topics.contains(literal) {
                faults.push(format!("{}:{}: {literal:?}", file.path, number + 1));
            }
        }
    }
    faults
}

/// What stands between `<!-- name:begin -->` and `<!-- name:end -->`.
fn marked(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<!-- {name}:begin -->"))?;
    let (inside, _) = rest.split_once(&format!("<!-- {name}:end -->"))?;
    Some(inside.to_owned())
}

// ---- reading the repository ------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn topology() -> Topology {
    millrace_runtime::parse(&read("topology.toml")).unwrap_or_else(|faults| panic!("topology.toml: {faults:?}"))
}

/// Every tracked text file that is there. Schema data and other bytes that are no text are passed over.
fn tracked_files() -> Vec<File> {
    let listed = output(Command::new("git").args(["ls-files", "-z"]).current_dir(root()));
    let paths = listed.split('\0').filter(|path| !path.is_empty());
    let files: Vec<File> = paths
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(path)).ok()?;
            Some(File { path: path.to_owned(), text })
        })
        .collect();
    assert!(files.len() > 100, "only {} files are tracked: is this the repository?", files.len());
    files
}

fn rust_files() -> Vec<File> {
    tracked_files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Files and folders at the root.
fn roots() -> BTreeSet<String> {
    tracked_files().iter().filter_map(|file| file.path.split('/').next().map(str::to_owned)).collect()
}

fn cargo_metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root());
    let metadata: Value = serde_json::from_str(&output(&mut cargo)).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().map_or(0, Vec::len);
    assert!(packages >= ROOMS.len(), "cargo metadata lists {packages} packages, ROOMS has {}", ROOMS.len());
    metadata
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("names in the repository are UTF-8")
}

fn no_faults(what_to_do: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what_to_do}:\n  {}", faults.join("\n  "));
}

/// Each check reports a planted fault, and passes what it must pass.
mod the_checks_themselves {
    use super::*;
    use serde_json::json;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn metadata(room: &str, dependency: &str, kind: Option<&str>) -> Value {
        json!({"packages": [{"name": room, "dependencies": [{"name": dependency, "kind": kind}]}]})
    }

    #[test]
    fn report_a_forbidden_room() {
        assert!(forbidden_dependencies(&metadata("millrace-worker", "millrace-runtime", None)).is_empty());
        assert!(forbidden_dependencies(&metadata("millrace-worker", "millrace-broker", Some("dev"))).is_empty());
        assert_eq!(forbidden_dependencies(&metadata("millrace-worker", "millrace-broker", None)).len(), 1);
        assert_eq!(forbidden_dependencies(&metadata("millrace-runtime", "millrace-schemas", Some("dev"))).len(), 1);
        assert_eq!(forbidden_dependencies(&metadata("millrace-attic", "serde", None)).len(), 1);
    }

    #[test]
    fn report_a_release_that_could_have_defects() {
        let uses = |kind: Value, features: Value| {
            let dependency = json!({"name": "millrace-runtime", "kind": kind, "features": features});
            planted_by_accident(&json!({"packages": [{"name": "millrace", "dependencies": [dependency]}]})).len()
        };
        assert_eq!(uses(Value::Null, json!(["planted"])), 1);
        assert_eq!(uses(json!("dev"), json!(["planted"])), 0);
        assert_eq!(uses(Value::Null, json!([])), 0);
        let of = |name: &str| json!({"packages": [{"name": "millrace", "features": {name: ["millrace-sim/planted"]}}]});
        assert_eq!(planted_by_accident(&of("default")).len(), 1);
        assert_eq!(planted_by_accident(&of("planted")).len(), 0);
    }

    #[test]
    fn report_a_library_of_the_outside() {
        assert!(worldly_dependencies(&metadata("millrace-runtime", "serde", None)).is_empty());
        assert!(worldly_dependencies(&metadata("millrace-worker", "tokio", None)).is_empty());
        assert_eq!(worldly_dependencies(&metadata("millrace-runtime", "tokio", None)).len(), 1);
    }

    #[test]
    fn report_a_forbidden_word_and_no_part_of_one() {
        let of = |text: &str| named(&file("a.rs", text), OUTSIDE).len();
        assert_eq!(of("let now = std::time::Instant::now();"), 1);
        assert_eq!(of("use std::{collections::BTreeMap, fs};"), 1);
        assert_eq!(of("use std::{fs::File, sync::Arc};"), 1);
        assert_eq!(of("use std::fs;"), 1);
        assert_eq!(of("let x = rand::random();"), 1);
        assert_eq!(of("pub async fn poll() {}"), 1);
        assert_eq!(of("let operand = random; // tokio would do it otherwise"), 0);
        assert_eq!(of("use std::{fmt, sync::Arc};"), 0);
        assert_eq!(named(&file("a.rs", "topic == \"orders.placed\""), SHOP), ["a.rs:1: orders"]);
        assert!(named(&file("a.rs", "// in the order of the orders\nlet order = 1;"), SHOP).is_empty());
        assert_eq!(named(&file("a.rs", concat!("let x = uns", "afe { y };")), UNSAFE).len(), 1);
    }

    #[test]
    fn report_a_long_file() {
        let long = file("a.rs", &"x\n".repeat(11));
        assert_eq!(too_long(&long, 11, &[]), None);
        assert!(too_long(&long, 10, &[]).is_some());
        assert_eq!(too_long(&long, 10, &[("a.rs", 11)]), None);
        assert!(too_long(&long, 20, &[("a.rs", 10)]).is_some(), "the ratchet holds below the limit too");
    }

    #[test]
    fn report_a_drawer() {
        assert!(drawer("worker/src/utils.rs").is_some());
        assert!(drawer("worker/src/common/mod.rs").is_some());
        assert_eq!(drawer("worker/src/commons_of_kafka.rs"), None);
    }

    #[test]
    fn report_what_is_unfinished() {
        let of = |text: &str| unfinished(&file("a.rs", text)).len();
        assert_eq!(of(concat!("    to", "do!()")), 1);
        assert_eq!(of(concat!("#[ig", "nore = \"slow\"]")), 1);
        assert_eq!(of(concat!("// FIX", "ME: later")), 1);
        assert_eq!(of("let mut todo: Vec<u8> = Vec::new();"), 0);
    }

    #[test]
    fn report_a_machine() {
        let of = |text: &str| machine_traces(&file("a.md", text)).len();
        assert_eq!(of(concat!("cd /ro", "ot/millrace")), 1);
        assert_eq!(of(concat!("see (/ho", "me/ann/notes)")), 1);
        assert_eq!(of(concat!("https://crates.proxy.inter", "nal/index")), 1);
        assert_eq!(of(concat!("http://user:secret@1", "0.1.2.3:8081/nexus")), 1, "the address counts once");
        assert_eq!(of("http://127.0.0.1:8080 https://crates.io https://docs.rs/home/x"), 0);
        let lock = file("Cargo.lock", "source = \"registry+https://example.org/index\"");
        assert_eq!(machine_traces(&lock).len(), 1);
    }

    #[test]
    fn find_paths_in_documents() {
        let roots = BTreeSet::from(["runtime".to_owned(), "README.md".to_owned()]);
        let text = "See `runtime/src/io.rs`, `runtime/`, `no.rs`, [x](README.md#y), `a/b`, `orders.events`, `x::y`.\n\
                    ```\n`runtime/in/a/fence.rs`\n```\n`runtime/src/step.rs::emit` `runtime/<any>.rs` `--flag`";
        assert_eq!(
            paths_in(text, &roots),
            ["runtime/src/io.rs", "runtime", "no.rs", "README.md", "runtime/src/step.rs"]
        );
    }

    #[test]
    fn report_names_that_differ() {
        let table = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let left = table(&[("same", "x"), ("other", "x"), ("left", "x")]);
        let right = table(&[("same", "x"), ("other", "y"), ("right", "x")]);
        assert_eq!(differences("l", &left, "r", &right).len(), 3);
        assert!(differences("l", &left, "l", &left).is_empty());
    }

    #[test]
    fn report_a_topic_that_is_none() {
        let topics = BTreeSet::from(["orders.placed"]);
        let of = |text: &str| strange_topics(&file("a.rs", text), &topics).len();
        assert_eq!(of("send(\"orders.paid\")"), 1);
        assert_eq!(of("send(\"orders.placed\", \"orders/1.json\", \"order.paid\")"), 0);
        assert_eq!(of("// \"orders.paid\""), 0);
    }

    #[test]
    fn find_what_is_marked() {
        assert_eq!(marked("a<!-- x:begin -->b<!-- x:end -->c", "x").as_deref(), Some("b"));
        assert_eq!(marked("a<!-- x:begin -->b", "x"), None);
    }
}
