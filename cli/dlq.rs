//! `dlq`: lists and shows dead letters, puts them back into their topics, or lets them go. What a letter is and in which
//! order letters go back is the engine's; here are reading, writing and talking about it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::Subcommand;
use indicatif::HumanDuration;
use millrace_runtime::{Cleanup, DeadLetter, DeadLetters, Fate, LetterId, Origin, Topology, in_order, parked_records};
use millrace_worker::{From, PlacedRecord, TopicReader, Transaction};
use serde_json::{Value, json};

use crate::connection::{Connection, TopologyFile};
use crate::output::{self, Form};
use crate::records::Decoder;

const EXAMPLES: &str = "\
Examples:
  millrace dlq list                                       what is open, of every processor
  millrace dlq show dead-letters.intake-0@17              one letter, decoded where that can be done
  millrace dlq replay --processor intake --dry-run        what would be put back, in which order
  millrace dlq replay --reason 'not confirmed' --yes
  millrace dlq discard dead-letters.intake-0@17";

/// Letters put back by one transaction, at most, and about how many bytes of them.
const AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 32 << 20;
/// The arguments are wrong.
const USAGE: u8 = 2;

/// Arguments of `millrace dlq`.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the letters nobody has dealt with yet.
    List {
        #[command(flatten)]
        from: Source,
        #[command(flatten)]
        filter: Filter,
        /// Also those that were put back or let go.
        #[arg(long)]
        all: bool,
        /// Instead, the records that wait behind a poison one, of processors whose policy is to park.
        #[arg(long, conflicts_with = "all")]
        parked: bool,
        /// The form of the result.
        #[arg(short, long, default_value = "table", value_name = "FORM")]
        output: Form,
    },
    /// Shows one letter as JSON: its place, the reason, and the record with its headers, decoded where that can be done.
    Show {
        /// The letter, as `list` names it.
        letter: LetterId,
        #[command(flatten)]
        from: Source,
    },
    /// Puts letters back into their topics, those of one key in their order, each once.
    Replay(Deal),
    /// Lets letters go: they stay readable until the topic's retention ends, but are no longer open.
    Discard(Deal),
}

/// What `replay` and `discard` are told.
#[derive(clap::Args)]
struct Deal {
    /// Letters, as `list` names them; without any, all open ones that match the filters.
    letters: Vec<LetterId>,
    #[command(flatten)]
    from: Source,
    #[command(flatten)]
    filter: Filter,
    /// Only says what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Does not ask.
    #[arg(short, long)]
    yes: bool,
    /// The form of the result.
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    output: Form,
}

#[derive(clap::Args)]
struct Source {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
}

/// Which letters; all that is said must be true of a letter.
#[derive(clap::Args)]
struct Filter {
    /// Of this processor.
    #[arg(long, value_name = "NAME")]
    processor: Option<String>,
    /// Whose reason contains this.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Of records with this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Of records of this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// In this partition of the dead letters.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// At these offsets of the dead letters, both ends included.
    #[arg(long, value_name = "FROM-TO")]
    offsets: Option<Offsets>,
}

#[derive(Clone, Copy, Debug)]
struct Offsets(i64, i64);

impl FromStr for Offsets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        match parts {
            Some((from, to)) if from <= to => Ok(Self(from, to)),
            _ => Err("write them as FROM-TO, such as 10-19".to_owned()),
        }
    }
}

impl Filter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        let key = letter.record.key.as_deref().unwrap_or_default();
        self.processor.as_ref().is_none_or(|name| *name == letter.processor)
            && self.reason.as_ref().is_none_or(|text| letter.reason.contains(text))
            && self.key.as_ref().is_none_or(|wanted| wanted.as_bytes() == key)
            && self.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
            && self.partition.is_none_or(|partition| partition == letter.id.partition)
            && self.offsets.is_none_or(|Offsets(from, to)| (from..=to).contains(&letter.id.offset))
    }
}

/// Does what is asked.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List { from, filter, parked: true, output, .. } => list_parked(from, filter, *output),
        Command::List { from, filter, all, output, .. } => {
            let (_, letters) = from.letters(filter)?;
            let wanted: Vec<_> = letters.iter().filter(|l| (*all || l.fate == Fate::Open) && filter.takes(l)).collect();
            print(&wanted, *output)?;
            if letters.strangers > 0 {
                eprintln!("{} records there are neither letters nor marks of letters", letters.strangers);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { letter, from } => show(letter, from),
        Command::Replay(deal) => deal.run(Fate::Replayed),
        Command::Discard(deal) => deal.run(Fate::Discarded),
    }
}

impl Source {
    fn topology(&self) -> anyhow::Result<Topology> {
        self.topology.load(&millrace_schemas::Codec::offline())
    }

    /// Every letter of the processors that the filter leaves.
    fn letters(&self, filter: &Filter) -> anyhow::Result<(Topology, DeadLetters)> {
        let topology = self.topology()?;
        let names = letter_topics(&topology, filter)?;
        let letters = read_letters(&self.connection.kafka, &names)?;
        Ok((topology, letters))
    }
}

fn letter_topics(topology: &Topology, filter: &Filter) -> anyhow::Result<Vec<String>> {
    match &filter.processor {
        None => Ok(crate::audit::dead_letter_topics(topology)),
        Some(name) => {
            let id = topology.find_processor(name).with_context(|| format!("there is no processor {name}"))?;
            Ok(vec![topology.topic(topology.processor(id).dead_letters).name.to_string()])
        }
    }
}

fn read_letters(kafka: &str, topics: &[String]) -> anyhow::Result<DeadLetters> {
    let mut letters = DeadLetters::default();
    read_all(kafka, topics, &mut |placed| letters.add(&placed.topic, placed.partition, placed.record))?;
    Ok(letters)
}

/// Reads whole topics, each partition in order.
fn read_all(kafka: &str, topics: &[String], take: &mut dyn FnMut(PlacedRecord)) -> anyhow::Result<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut reader = TopicReader::open(kafka, &names, From::Beginning)?;
    while !reader.has_caught_up() {
        reader.read(Duration::from_millis(200), 4_000)?.into_iter().for_each(&mut *take);
    }
    Ok(())
}

fn show(id: &LetterId, from: &Source) -> anyhow::Result<ExitCode> {
    let decoder = Decoder::connect(&from.connection)?;
    let topology = from.topology()?;
    if !crate::audit::dead_letter_topics(&topology).contains(&id.topic) {
        return Err(anyhow!("{} is not among the dead-letter topics of the topology", id.topic));
    }
    let letters = read_letters(&from.connection.kafka, std::slice::from_ref(&id.topic))?;
    let Some(letter) = letters.get(id) else {
        eprintln!("there is no letter {id}: `millrace dlq list --all` names those there are");
        return Ok(ExitCode::from(crate::DOES_NOT_HOLD));
    };
    let record = letter.record.clone();
    let placed = PlacedRecord { topic: letter.topic.as_str().into(), partition: letter.partition, record };
    let mut json = summary(letter);
    json["record"] = decoder.to_json(&placed);
    output::print_json(&json)?;
    Ok(ExitCode::SUCCESS)
}

impl Deal {
    /// Chooses, asks, and does it.
    fn run(&self, fate: Fate) -> anyhow::Result<ExitCode> {
        let (topology, letters) = self.from.letters(&self.filter)?;
        let chosen = match self.choose(&letters) {
            Ok(chosen) => chosen,
            Err(why) => {
                eprintln!("{why}");
                return Ok(ExitCode::from(crate::DOES_NOT_HOLD));
            }
        };
        if fate == Fate::Replayed {
            check(&topology, &chosen)?;
        }
        print(&chosen, self.output)?;
        if chosen.is_empty() || self.dry_run {
            eprintln!("{} letters to be {}; nothing was done", chosen.len(), fate.as_str());
            return Ok(ExitCode::SUCCESS);
        }
        if !self.yes {
            match ask(chosen.len(), fate)? {
                Said::Yes => {}
                Said::No => {
                    eprintln!("nothing was done");
                    return Ok(ExitCode::SUCCESS);
                }
                Said::NobodyThere => {
                    eprintln!("nobody can be asked here: say --yes to do it, --dry-run to look only");
                    return Ok(ExitCode::from(USAGE));
                }
            }
        }
        let ids: BTreeSet<LetterId> = chosen.iter().map(|letter| letter.id.clone()).collect();
        let done = deal_with(&self.from.connection.kafka, &topology, &ids, fate)?;
        eprintln!("{done} letters {}", fate.as_str());
        if done < ids.len() {
            eprintln!("{} were dealt with by somebody else meanwhile", ids.len() - done);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The open letters that are meant, in the order in which they go back.
    fn choose<'a>(&self, letters: &'a DeadLetters) -> Result<Vec<&'a DeadLetter>, String> {
        for id in &self.letters {
            match letters.get(id).map(|letter| letter.fate) {
                None => return Err(format!("there is no letter {id}; nothing was done")),
                Some(Fate::Open) => {}
                Some(fate) => return Err(format!("{id} was {} before; nothing was done", fate.as_str())),
            }
        }
        let named = |letter: &DeadLetter| self.letters.is_empty() || self.letters.contains(&letter.id);
        let open = letters.iter().filter(|letter| letter.fate == Fate::Open);
        Ok(in_order(open.filter(|letter| named(letter) && self.filter.takes(letter)).collect()))
    }
}

/// What cannot go back, or would do harm.
fn check(topology: &Topology, letters: &[&DeadLetter]) -> anyhow::Result<()> {
    for letter in letters {
        let topic = topology.topics.iter().find(|topic| *topic.name == *letter.topic);
        let topic = topic.with_context(|| format!("{}: the topology has no topic {}", letter.id, letter.topic))?;
        if topic.cleanup == Cleanup::Compact {
            return Err(anyhow!(
                "{}: {} is compacted, and an old record put back would hide the newer one of its key; discard the letter",
                letter.id,
                letter.topic
            ));
        }
        if letter.partition >= topic.partitions {
            return Err(anyhow!("{}: {} has no partition {}", letter.id, letter.topic, letter.partition));
        }
    }
    Ok(())
}

/// Deals with these letters, each once whatever crashes: every transaction begins with a look at what is open since nobody
/// else can be at it, and a letter's mark is written together with its record.
fn deal_with(kafka: &str, topology: &Topology, ids: &BTreeSet<LetterId>, fate: Fate) -> anyhow::Result<usize> {
    let topics: BTreeSet<String> = ids.iter().map(|id| id.topic.clone()).collect();
    let topics: Vec<String> = topics.into_iter().collect();
    let mut done = 0;
    loop {
        let mut transaction = Transaction::take(kafka, &topology.application, "dlq")?;
        let letters = read_letters(kafka, &topics)?;
        let open = letters.iter().filter(|letter| letter.fate == Fate::Open && ids.contains(&letter.id));
        let open = in_order(open.collect());
        let mut bytes = 0;
        let mut back: BTreeSet<(&str, i32, i64)> = BTreeSet::new();
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let mut count = 0;
        for letter in open.iter().take(AT_ONCE).take_while(|letter| {
            bytes += letter.record.value.as_ref().map_or(0, Vec::len);
            bytes <= BYTES_AT_ONCE
        }) {
            let record = &letter.record;
            let key = record.key.as_deref();
            // Several processors may have given up the same record: they all read it again from one copy.
            if fate == Fate::Replayed && back.insert((letter.topic.as_str(), letter.partition, record.offset)) {
                let to = (letter.topic.as_str(), letter.partition);
                transaction.send(to, key, record.value.as_deref(), record.timestamp, &letter.replay_headers())?;
            }
            let to = (letter.id.topic.as_str(), letter.id.partition);
            transaction.send(to, key, None, now, &letter.mark_headers(fate))?;
            count += 1;
        }
        transaction.commit()?;
        done += count;
        if count == open.len() || count == 0 {
            return Ok(done);
        }
    }
}

enum Said {
    Yes,
    No,
    NobodyThere,
}

fn ask(count: usize, fate: Fate) -> anyhow::Result<Said> {
    if !std::io::stdin().is_terminal() {
        return Ok(Said::NobodyThere);
    }
    let verb = if fate == Fate::Replayed { "Replay" } else { "Discard" };
    eprint!("{verb} {count} letters? [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(if matches!(line.trim(), "y" | "Y" | "yes") { Said::Yes } else { Said::No })
}

fn summary(letter: &DeadLetter) -> Value {
    json!({
        "letter": letter.id.to_string(),
        "state": letter.fate.as_str(),
        "at": letter.at,
        "processor": letter.processor,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.record.offset,
        "timestamp": letter.record.timestamp,
        "key": letter.record.key.as_deref().map(String::from_utf8_lossy),
        "again": letter.again.as_ref().map(LetterId::to_string),
    })
}

fn print(letters: &[&DeadLetter], form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return output::print_json(&letters.iter().map(|letter| summary(letter)).collect::<Vec<_>>());
    }
    let mut text = String::new();
    for letter in letters {
        let again = letter.again.as_ref().map_or_else(String::new, |first| format!("  (again, was {first})"));
        let record = format!("{}-{}@{}", letter.topic, letter.partition, letter.record.offset);
        text.push_str(&format!(
            "{:<32} {:<9} {:>14}  {:<30} {:<24} {}{again}\n",
            letter.id.to_string(),
            letter.fate.as_str(),
            ago(letter.at),
            record,
            short(letter.record.key.as_deref()),
            letter.reason,
        ));
    }
    output::print(&text)
}

fn ago(at: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or(0));
    format!("{} ago", HumanDuration(SystemTime::now().duration_since(then).unwrap_or_default()))
}

/// A key as text, cut where it is long.
fn short(key: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
    if text.chars().count() <= 24 { text } else { text.chars().take(23).chain(['…']).collect() }
}

/// The queues of processors that park, as their changelogs have them.
fn list_parked(from: &Source, filter: &Filter, form: Form) -> anyhow::Result<ExitCode> {
    let topology = from.topology()?;
    let queues: BTreeMap<String, &str> = topology
        .processors
        .iter()
        .filter(|spec| filter.processor.as_ref().is_none_or(|name| *name == spec.name))
        .filter_map(|spec| {
            let changelog = spec.stores.iter().find(|store| store.name == "parked")?.changelog?;
            debug_assert!(topology.topic(changelog).origin == Origin::Changelog);
            Some((topology.topic(changelog).name.to_string(), spec.name.as_str()))
        })
        .collect();
    let mut latest: BTreeMap<(String, i32, Vec<u8>), Vec<u8>> = BTreeMap::new();
    if queues.is_empty() {
        eprintln!("no processor parks: on-poison = \"park\" in the topology makes one");
    } else {
        let names: Vec<String> = queues.keys().cloned().collect();
        read_all(&from.connection.kafka, &names, &mut |placed| {
            let place = (placed.topic.to_string(), placed.partition, placed.record.key.unwrap_or_default());
            match placed.record.value {
                Some(queue) => latest.insert(place, queue),
                None => latest.remove(&place),
            };
        })?;
    }
    let mut rows = Vec::new();
    for ((topic, ..), queue) in &latest {
        let records = parked_records(queue).with_context(|| format!("a queue in {topic} cannot be read"))?;
        for (place, parked) in records.iter().enumerate() {
            rows.push(json!({
                "processor": queues[topic],
                "topic": parked.topic,
                "partition": parked.partition,
                "offset": parked.record.offset,
                "key": parked.record.key.as_deref().map(String::from_utf8_lossy),
                "before_it": place,
                "tries": parked.tries,
                "next_try": parked.next_try,
                "reason": parked.reason,
            }));
        }
    }
    if form == Form::Json {
        output::print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for row in &rows {
        let of = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        let record = format!("{}-{}@{}", of("topic"), of("partition"), of("offset"));
        text.push_str(&format!(
            "{:<12} {record:<30} {:<24} {:>3} before it, {} tries  {}\n",
            of("processor"),
            short(row["key"].as_str().map(str::as_bytes)),
            of("before_it"),
            of("tries"),
            of("reason"),
        ));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
