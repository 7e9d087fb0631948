//! Draws a topology for people: as text for a terminal, as Mermaid for documents. Never changes it.

use std::fmt::Write;

use super::{Origin, Topology};

impl Topology {
    /// The topology as text: each sub-topology with its processors, what they read, write and keep.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let names = |ids: &[crate::record::TopicId]| {
            ids.iter().map(|id| self.topic(*id).name.to_string()).collect::<Vec<_>>().join(", ")
        };
        for sub in &self.sub_topologies {
            let _ = writeln!(
                out,
                "sub-topology {} ({} partitions, group {}.{})",
                sub.name, sub.partitions, self.application, sub.name
            );
            for id in &sub.processors {
                let processor = self.processor(*id);
                let _ = writeln!(out, "  processor {}", processor.name);
                let _ = writeln!(out, "    reads   {}", names(&processor.inputs));
                if !processor.globals.is_empty() {
                    let _ = writeln!(out, "    reads in full  {}", names(&processor.globals));
                }
                if !processor.outputs.is_empty() {
                    let _ = writeln!(out, "    writes  {}", names(&processor.outputs));
                }
                for store in &processor.stores {
                    let source = match store.changelog {
                        Some(changelog) => format!("changelog {}", self.topic(changelog).name),
                        None => format!("table of {}", names(&store.tables)),
                    };
                    let _ = writeln!(out, "    keeps   {} ({source})", store.name);
                }
            }
        }
        out
    }

    /// The topology as a Mermaid flow chart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        for (at, topic) in self.topics.iter().enumerate() {
            if topic.origin == Origin::Named {
                let _ = writeln!(out, "  t{at}([{}])", topic.name);
            }
        }
        for sub in &self.sub_topologies {
            let _ = writeln!(out, "  subgraph {}", sub.name);
            for id in &sub.processors {
                let _ = writeln!(out, "    p{}[{}]", id.0, self.processor(*id).name);
            }
            out.push_str("  end\n");
        }
        for (at, processor) in self.processors.iter().enumerate() {
            for input in &processor.inputs {
                let _ = writeln!(out, "  t{} --> p{at}", input.0);
            }
            for global in &processor.globals {
                let _ = writeln!(out, "  t{} -.-> p{at}", global.0);
            }
            for output in &processor.outputs {
                let _ = writeln!(out, "  p{at} --> t{}", output.0);
            }
        }
        out
    }
}
