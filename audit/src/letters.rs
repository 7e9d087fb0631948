//! Dead letters and unreadable records (P9): every dead letter names a record that exists, once; every record that
//! cannot be read is a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::finding::{Findings, Place, Promise};

pub(crate) const TOPIC_PREFIX: &str = "dead-letters.";

#[derive(Default)]
pub(crate) struct Letters {
    /// The highest offset seen of each topic-partition.
    ends: HashMap<(&'static str, i32), i64>,
    /// What each dead letter names, and where the letter lies.
    named: HashMap<(String, Place), (i32, i64)>,
    places: HashSet<Place>,
    unreadable: BTreeSet<(&'static str, i32, i64)>,
    counts: BTreeMap<String, u64>,
}

impl Letters {
    pub(crate) fn seen(&mut self, place: Place) {
        let end = self.ends.entry((place.topic, place.partition)).or_insert(-1);
        *end = place.offset.max(*end);
    }

    pub(crate) fn unreadable(&mut self, place: Place) {
        self.unreadable.insert((place.topic, place.partition, place.offset));
    }

    /// Whether some processor gave the record at this place to its dead letters.
    pub(crate) fn has(&self, place: Place) -> bool {
        !self.places.is_empty() && self.places.contains(&place)
    }

    /// Takes a dead letter in and returns the place it names.
    pub(crate) fn letter<'h>(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        findings: &mut Findings,
    ) -> Option<Place> {
        let processor = topic.strip_prefix(TOPIC_PREFIX).unwrap_or(topic).to_owned();
        *self.counts.entry(processor.clone()).or_default() += 1;
        let (mut of, mut on, mut at) = (None, None, None);
        for (name, value) in headers {
            let text = || str::from_utf8(value).ok();
            // The last one counts: a letter that was replayed and failed again carries the older ones too.
            match name {
                "millrace.topic" => of = text(),
                "millrace.partition" => on = text().and_then(|n| n.parse().ok()),
                "millrace.offset" => at = text().and_then(|n| n.parse().ok()),
                _ => {}
            }
        }
        let (Some(of), Some(on), Some(at)) = (of, on, at) else {
            let what = format_args!("a dead letter that does not name the record it stands for");
            findings.add_at(Promise::P9, &processor, topic, partition, offset, what);
            return None;
        };
        let Some(known) = crate::known_topic(of) else {
            let what = format_args!("a dead letter of {of}, which is no topic of ours");
            findings.add_at(Promise::P9, &processor, topic, partition, offset, what);
            return None;
        };
        let named = Place { topic: known, partition: on, offset: at };
        self.places.insert(named);
        if self.named.insert((processor.clone(), named), (partition, offset)).is_some() {
            let what = format_args!("{known} {on} @{at} became a dead letter twice");
            findings.add_at(Promise::P9, &processor, topic, partition, offset, what);
        }
        Some(named)
    }

    /// What must be true when every topic was read to its end.
    pub(crate) fn judge(&self, findings: &mut Findings) {
        let mut missing: Vec<_> = self.named.iter().filter(|((_, named), _)| !self.exists(*named)).collect();
        missing.sort_by_key(|((processor, _), place)| (processor.clone(), **place));
        for ((processor, named), (partition, offset)) in missing {
            let topic = format!("{TOPIC_PREFIX}{processor}");
            let what = format_args!(
                "it stands for {} {} @{}, which does not exist",
                named.topic, named.partition, named.offset
            );
            findings.add_at(Promise::P9, processor, &topic, *partition, *offset, what);
        }
        for (topic, partition, offset) in &self.unreadable {
            let place = Place { topic, partition: *partition, offset: *offset };
            if !self.has(place) {
                findings.add(Promise::P9, "", place, format_args!("it cannot be read and is no dead letter"));
            }
        }
    }

    fn exists(&self, place: Place) -> bool {
        let end = self.ends.get(&(place.topic, place.partition)).copied().unwrap_or(-1);
        (0..=end).contains(&place.offset)
    }

    /// Dead letters per processor.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.clone()
    }
}
