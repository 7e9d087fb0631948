//! What must hold of a topology before anything starts: names resolve, inputs are co-partitioned, nothing is written
//! that nobody reads, no loop without a state, and code and file name the same things.

use std::fmt;
use std::ops::Range;

use super::parse::Spans;
use super::{Origin, Topology};
use crate::processor::ProcessorDefinition;
use crate::record::TopicId;

/// Something wrong in a topology, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 when it has no place of its own.
    pub line: usize,
    /// Column, from 1; 0 when it has no place of its own.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Fault {
    pub(super) fn new(text: &str, span: Option<Range<usize>>, message: String) -> Self {
        let Some(before) = span.filter(|span| span.end > 0).and_then(|span| text.get(..span.start)) else {
            return Self { line: 0, column: 0, message };
        };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Self { line, column, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

/// Checks what the file alone can tell.
pub(super) fn check_wiring(topology: &Topology, spans: &Spans, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |span: Option<&Range<usize>>, message: String| {
        faults.push(Fault::new(text, span.cloned(), message));
    };
    for (at, processor) in topology.processors.iter().enumerate() {
        let span = spans.processors.get(at);
        if processor.inputs.is_empty() {
            fault(span, format!("processor {} has no input", processor.name));
        }
        if processor.name.contains('.') {
            fault(span, format!("processor {} has a dot in its name", processor.name));
        }
        for store in &processor.stores {
            for table in &store.tables {
                if processor.inputs.contains(table) && processor.outputs.contains(table) {
                    let topic = &topology.topic(*table).name;
                    fault(
                        span,
                        format!(
                            "store {} of {} is a table of {topic}, which is both its input and its output: each record would count twice",
                            store.name, processor.name
                        ),
                    );
                }
                if !processor.inputs.contains(table) && !processor.outputs.contains(table) {
                    let topic = &topology.topic(*table).name;
                    fault(
                        span,
                        format!(
                            "store {} of {} is a table of {topic}, which is neither its input nor its output",
                            store.name, processor.name
                        ),
                    );
                }
                let (topic, leading) = (topology.topic(*table), processor.inputs.first().map(|id| topology.topic(*id)));
                if leading.is_some_and(|leading| leading.partitions != topic.partitions) {
                    fault(
                        span,
                        format!(
                            "store {} of {} is a table of {}, which has {} partitions, but the processor's inputs have {}",
                            store.name,
                            processor.name,
                            topic.name,
                            topic.partitions,
                            leading.map_or(0, |l| l.partitions)
                        ),
                    );
                }
                if let (Some(ttl), Some(retention)) = (store.ttl_ms, topic.retention_ms)
                    && ttl > retention
                {
                    fault(
                        span,
                        format!(
                            "store {} of {} is kept longer than its topic {}: a rebuilt store would miss what the topic has let go",
                            store.name, processor.name, topic.name
                        ),
                    );
                }
            }
        }
        let held: usize = topology
            .sub_topologies
            .iter()
            .map(|sub| sub.processors.iter().filter(|id| usize::from(id.0) == at).count())
            .sum();
        if held != 1 {
            fault(span, format!("processor {} is in {held} sub-topologies; it must be in exactly one", processor.name));
        }
    }
    for (at, sub) in topology.sub_topologies.iter().enumerate() {
        for input in &sub.inputs {
            let topic = topology.topic(*input);
            if topic.partitions != sub.partitions {
                fault(
                    spans.sub_topologies.get(at),
                    format!(
                        "inputs of sub-topology {} are not co-partitioned: {} has {} partitions, {} has {}",
                        sub.name,
                        topology.topic(sub.inputs[0]).name,
                        sub.partitions,
                        topic.name,
                        topic.partitions
                    ),
                );
            }
        }
        if sub.inputs.is_empty() {
            fault(spans.sub_topologies.get(at), format!("sub-topology {} has no input", sub.name));
        }
    }
    for (at, topic) in topology.topics.iter().enumerate() {
        if topic.origin != Origin::Named {
            continue;
        }
        let id = super::topic_id(at);
        let written = topology.processors.iter().any(|p| p.outputs.contains(&id));
        let read = topology.processors.iter().any(|p| p.inputs.contains(&id) || p.globals.contains(&id));
        if written && !read && !topic.sink {
            fault(
                spans.topics.get(at),
                format!("{} is written but nobody reads it: add a reader, or sink = true when people do", topic.name),
            );
        }
        if !written && !read {
            fault(spans.topics.get(at), format!("{} is neither written nor read", topic.name));
        }
    }
    for name in stateless_cycle(topology) {
        fault(
            None,
            format!("processor {name} reads what it causes, with no store on the way: records would go round for ever"),
        );
    }
    faults
}

/// A processor on a cycle in which no processor has a store.
fn stateless_cycle(topology: &Topology) -> Vec<String> {
    let stateless: Vec<_> = topology.processors.iter().filter(|p| p.stores.is_empty()).collect();
    let reaches =
        |from: &super::ProcessorSpec, to: &super::ProcessorSpec| from.outputs.iter().any(|id| to.inputs.contains(id));
    let mut found = Vec::new();
    for start in &stateless {
        let mut seen: Vec<&str> = Vec::new();
        let mut todo: Vec<_> = stateless.iter().filter(|next| reaches(start, next)).collect();
        while let Some(next) = todo.pop() {
            if next.name == start.name {
                found.push(start.name.clone());
                break;
            }
            if !seen.contains(&next.name.as_str()) {
                seen.push(&next.name);
                todo.extend(stateless.iter().filter(|after| reaches(next, after)));
            }
        }
    }
    found
}

/// Checks that code and file name the same processors, stores, tables, globals and numbers, and puts the file's stores
/// and globals into the order of the code.
///
/// # Errors
/// Every difference.
pub fn check_definitions(topology: &mut Topology, definitions: &[ProcessorDefinition]) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |message: String| faults.push(Fault { line: 0, column: 0, message });
    for definition in definitions {
        if topology.find_processor(definition.name).is_none() {
            fault(format!("processor {} is missing in the topology", definition.name));
        }
    }
    let names: Vec<std::sync::Arc<str>> = topology.topics.iter().map(|topic| topic.name.clone()).collect();
    let name = |id: TopicId| &*names[usize::from(id.0)];
    for spec in &mut topology.processors {
        let Some(definition) = definitions.iter().find(|definition| definition.name == spec.name) else {
            fault(format!("the topology names a processor {}, which this program does not have", spec.name));
            continue;
        };
        let place = |store: &str| definition.stores.iter().position(|s| s.name == store);
        for store in &spec.stores {
            if store.name != crate::parking::STORE && place(&store.name).is_none() {
                fault(format!("the topology gives {} a store {}, which it does not use", spec.name, store.name));
            }
        }
        spec.stores.sort_by_key(|store| place(&store.name).unwrap_or(usize::MAX));
        for store in &definition.stores {
            let Some(wiring) = spec.stores.iter().find(|s| s.name == store.name) else {
                fault(format!("store {} of {} is missing in the topology", store.name, spec.name));
                continue;
            };
            let mut code: Vec<&str> = store.tables.iter().map(|table| table.topic).collect();
            let mut file: Vec<&str> = wiring.tables.iter().map(|id| name(*id)).collect();
            code.sort_unstable();
            file.sort_unstable();
            if code != file {
                fault(format!(
                    "store {} of {} is a table of {code:?} in the program, but of {file:?} in the topology",
                    store.name, spec.name
                ));
            }
        }
        let global = |topic: &str| definition.globals.iter().position(|g| g.table.topic == topic);
        spec.globals.sort_by_key(|id| global(name(*id)).unwrap_or(usize::MAX));
        let file: Vec<&str> = spec.globals.iter().map(|id| name(*id)).collect();
        let code: Vec<&str> = definition.globals.iter().map(|global| global.table.topic).collect();
        if code != file {
            fault(format!("{} reads {code:?} in full in the program, but {file:?} in the topology", spec.name));
        }
        for setting in definition.settings {
            if !spec.settings.contains_key(*setting) {
                fault(format!("{} needs the number {setting} under [processors.{}.settings]", spec.name, spec.name));
            }
        }
        for setting in spec.settings.keys() {
            if !definition.settings.contains(&setting.as_str()) {
                fault(format!("{} does not use the number {setting}", spec.name));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
