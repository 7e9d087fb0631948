//! `broker inspect`: what a data folder of the embedded broker holds, without a broker and without changing it.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use millrace_broker::inspect::{self, BatchReport, PartitionReport, Report};

use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  millrace broker inspect millrace-data/broker                      topics, producers, transactions, groups
  millrace broker inspect millrace-data/broker --verify             the same, with every checksum checked
  millrace broker inspect millrace-data/broker --batches orders.events/0 --from 1200
  millrace broker inspect millrace-data/broker -o json | jq '.transactions'";

/// Arguments of `millrace broker inspect`.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The broker's data folder.
    dir: PathBuf,
    /// Read all records and check every checksum, instead of believing what the broker last noted.
    #[arg(long)]
    verify: bool,
    /// List the batches of this partition instead.
    #[arg(long, value_name = "TOPIC/PARTITION")]
    batches: Option<String>,
    /// With --batches: from this offset on.
    #[arg(long, default_value_t = 0, value_name = "OFFSET", requires = "batches")]
    from: i64,
    /// With --batches: at most so many.
    #[arg(long, default_value_t = 50, value_name = "N", requires = "batches")]
    max: usize,
    /// How.
    #[arg(short, long, default_value = "table")]
    output: Form,
}

/// Prints what the folder holds; exit code 1 if something of it is broken.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = inspect::Folder::open(&args.dir).with_context(|| format!("cannot read {}", args.dir.display()))?;
    if folder.is_in_use() {
        eprintln!("a broker is using {}: what follows may change while it is read", args.dir.display());
    }
    let report = folder.report(args.verify)?;
    match &args.batches {
        Some(name) => {
            let batches = folder.batches(find(&report, name)?, args.from, args.max)?;
            match args.output {
                Form::Json => output::print_json(&batches)?,
                Form::Table => output::print(&batch_table(&batches))?,
            }
        }
        None => match args.output {
            Form::Json => output::print_json(&report)?,
            Form::Table => output::print(&table(&report))?,
        },
    }
    let damages: Vec<&String> =
        report.topics.iter().flat_map(|topic| &topic.partitions).filter_map(|p| p.damage.as_ref()).collect();
    for damage in &damages {
        eprintln!("{damage}. Restore the file from a copy, or cut it at that byte to give up what follows");
    }
    Ok(if damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::DOES_NOT_HOLD) })
}

fn find<'a>(report: &'a Report, name: &str) -> anyhow::Result<&'a PartitionReport> {
    let Some((topic, number)) = name.rsplit_once('/') else {
        bail!("{name} is not TOPIC/PARTITION");
    };
    let number: i32 = number.parse().with_context(|| format!("{number} is not a partition number"))?;
    let Some(found) = report.topics.iter().find(|known| known.topic == topic) else {
        let known: Vec<&str> = report.topics.iter().map(|topic| topic.topic.as_str()).collect();
        bail!("there is no topic {topic}; there are: {}", known.join(", "));
    };
    let partition = found.partitions.iter().find(|partition| partition.partition == number);
    partition.with_context(|| format!("{topic} has {} partitions", found.partitions.len()))
}

/// Columns as wide as their widest cell.
fn columns(title: &str, head: &[&str], rows: &[Vec<String>], out: &mut String) {
    if rows.is_empty() {
        return;
    }
    let cells = |place: usize| rows.iter().filter_map(move |row| row.get(place)).map(String::len);
    let widths: Vec<usize> =
        head.iter().enumerate().map(|(place, name)| cells(place).max().unwrap_or(0).max(name.len())).collect();
    writeln!(out, "{title}").ok();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "  {}", line.join("  ").trim_end()).ok();
    }
    out.push('\n');
}

fn number(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    let (mut partitions, mut producers) = (Vec::new(), Vec::new());
    for topic in &report.topics {
        for p in &topic.partitions {
            partitions.push(vec![
                format!("{}/{}", topic.topic, p.partition),
                p.start.to_string(),
                p.end.to_string(),
                p.last_stable.to_string(),
                p.bytes.to_string(),
                p.segments.len().to_string(),
                p.aborted.len().to_string(),
                if p.damage.is_some() { "set aside".to_owned() } else { "whole".to_owned() },
            ]);
            producers.extend(p.producers.iter().map(|producer| {
                vec![
                    producer.id.to_string(),
                    producer.epoch.to_string(),
                    format!("{}/{}", topic.topic, p.partition),
                    number(producer.last_sequence),
                    number(producer.open_since),
                ]
            }));
        }
    }
    let head = ["partition", "start", "end", "last stable", "bytes", "segments", "aborted", "state"];
    columns("Partitions", &head, &partitions, &mut out);
    columns("Producers", &["id", "epoch", "partition", "last sequence", "open since"], &producers, &mut out);
    let transactions: Vec<Vec<String>> = report
        .transactions
        .iter()
        .map(|transaction| {
            let open = transaction.partitions.iter().map(|at| format!("{}/{}", at.topic, at.partition));
            let open: Vec<String> =
                open.chain(transaction.groups.iter().map(|group| format!("group {group}"))).collect();
            vec![
                transaction.id.clone(),
                transaction.producer.to_string(),
                transaction.epoch.to_string(),
                transaction.state.name().to_owned(),
                open.join(" "),
            ]
        })
        .collect();
    columns("Transactional ids", &["id", "producer", "epoch", "state", "open in"], &transactions, &mut out);
    let (mut groups, mut offsets) = (Vec::new(), Vec::new());
    for group in &report.groups {
        groups.push(vec![
            group.group.clone(),
            group.state.to_owned(),
            group.generation.to_string(),
            group.members.join(" "),
        ]);
        offsets.extend(group.offsets.iter().map(|offset| {
            vec![group.group.clone(), format!("{}/{}", offset.topic, offset.partition), offset.offset.to_string()]
        }));
    }
    columns("Groups", &["group", "state", "generation", "members"], &groups, &mut out);
    columns("Committed offsets", &["group", "partition", "offset"], &offsets, &mut out);
    out
}

fn batch_table(batches: &[BatchReport]) -> String {
    let mut out = String::new();
    let rows: Vec<Vec<String>> = batches
        .iter()
        .map(|batch| {
            vec![
                format!("{}-{}", batch.base_offset, batch.last_offset),
                batch.records.to_string(),
                batch.bytes.to_string(),
                batch.kind.to_owned(),
                batch.codec.to_owned(),
                format!("{}:{}:{}", batch.producer, batch.epoch, batch.base_sequence),
                batch.max_timestamp.to_string(),
                if batch.intact { "right".to_owned() } else { "WRONG".to_owned() },
                format!("{}:{}", batch.file, batch.position),
            ]
        })
        .collect();
    let head =
        ["offsets", "records", "bytes", "kind", "codec", "producer:epoch:sequence", "max timestamp", "checksum", "at"];
    columns("Batches", &head, &rows, &mut out);
    out
}
