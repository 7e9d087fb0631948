//! `lint` and `topology show`: what the map says, and whether it is right. Changes nothing.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use millrace_runtime::{Origin, check_definitions, parse};
use millrace_schemas::Codec;

use crate::connection::TopologyFile;
use crate::output;

/// Arguments of `millrace lint`.
#[derive(clap::Args)]
pub(crate) struct LintArgs {
    #[command(flatten)]
    topology: TopologyFile,
}

/// Arguments of `millrace topology`.
#[derive(clap::Args)]
pub(crate) struct TopologyArgs {
    #[command(subcommand)]
    command: TopologyCommand,
}

#[derive(Subcommand)]
enum TopologyCommand {
    /// Draws it.
    Show {
        #[command(flatten)]
        topology: TopologyFile,
        /// How.
        #[arg(short, long, default_value = "text")]
        output: Drawing,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Drawing {
    Text,
    Mermaid,
}

/// Every fault of the topology and of the schemas it names.
pub(crate) fn lint(args: &LintArgs) -> anyhow::Result<ExitCode> {
    let (name, text) = args.topology.text()?;
    let mut faults: Vec<String> = Vec::new();
    match parse(&text) {
        Err(found) => faults.extend(found.iter().map(|fault| format!("{name}:{fault}"))),
        Ok(mut topology) => {
            if let Err(found) = check_definitions(&mut topology, &millrace_processors::definitions(&Codec::offline())) {
                faults.extend(found.iter().map(|fault| format!("{name}: {fault}")));
            }
            for topic in topology.topics.iter().filter(|topic| topic.origin == Origin::Named) {
                let expected = millrace_schemas::TOPICS.iter().find(|known| known.topic == &*topic.name);
                match (expected, &topic.schema) {
                    (None, _) => faults.push(format!("{name}: no record type is known for topic {}", topic.name)),
                    (Some(known), Some(schema)) if known.file == schema => {}
                    (Some(known), _) => {
                        faults.push(format!("{name}: topic {} needs schema = \"{}\"", topic.name, known.file))
                    }
                }
            }
        }
    }
    faults.extend(millrace_schemas::lint());
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        eprintln!("{name}: no faults");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} faults", faults.len());
    Ok(ExitCode::from(crate::DOES_NOT_HOLD))
}

/// The topology as text or as a Mermaid chart.
pub(crate) fn show(args: &TopologyArgs) -> anyhow::Result<ExitCode> {
    let TopologyCommand::Show { topology, output } = &args.command;
    let topology = topology.load(&Codec::offline())?;
    output::print(&match output {
        Drawing::Text => topology.to_text(),
        Drawing::Mermaid => topology.to_mermaid(),
    })?;
    Ok(ExitCode::SUCCESS)
}
