//! Dead letters and unreadable records (P9): every dead letter names a record that exists, once; every record that
//! cannot be read is a dead letter; a letter that was put back is back, once, as it was, and marked so.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::finding::{Findings, Place, Promise};
use crate::identity::hash_of;

pub(crate) const TOPIC_PREFIX: &str = "dead-letters.";

/// A record's headers, as they stand.
pub(crate) type Headers<'h> = &'h [(Cow<'static, str>, Vec<u8>)];

/// Where a letter stands: dead-letter topic, partition, offset.
type LetterId = (String, i32, i64);

/// A record as its letter or its copy has it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Content(u64);

impl Content {
    fn of(key: &[u8], value: Option<&[u8]>) -> Self {
        Self(hash_of(&(key, value)))
    }
}

/// What the mark of a letter says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Replayed,
    Discarded,
}

#[derive(Default)]
pub(crate) struct Letters {
    /// The highest offset seen of each topic-partition.
    ends: HashMap<(&'static str, i32), i64>,
    /// What each dead letter names, and where the letter lies.
    named: HashMap<(String, Place), (i32, i64)>,
    places: HashSet<Place>,
    letters: BTreeMap<LetterId, (Place, Content)>,
    marks: BTreeMap<LetterId, (Mark, i64)>,
    /// Records that were put back, by the letter they name.
    copies: BTreeMap<LetterId, (Place, Content)>,
    /// Where the record of a place is, since it was put back.
    moved: HashMap<Place, Place>,
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

    /// Whether some processor gave the record at this place to its dead letters, and it is still there: one that was put
    /// back is excused only if it failed again.
    pub(crate) fn has(&self, place: Place) -> bool {
        if self.places.is_empty() || !self.places.contains(&place) {
            return false;
        }
        match self.moved.get(&place) {
            Some(now) if now.offset > place.offset => self.has(*now),
            _ => true,
        }
    }

    /// A record of a topic of ours: whether it was put back from the dead letters.
    pub(crate) fn copy(
        &mut self,
        place: Place,
        key: &[u8],
        value: Option<&[u8]>,
        headers: Headers<'_>,
        findings: &mut Findings,
    ) -> bool {
        let Some(letter) = last(headers, "millrace.replayed").and_then(letter_id) else { return false };
        if let Some((standing, _)) = self.letters.get(&letter) {
            self.moved.insert(*standing, place);
        }
        if self.copies.insert(letter.clone(), (place, Content::of(key, value))).is_some() {
            let what = format_args!("letter {} was put back a second time", Written(&letter));
            findings.add(Promise::P9, &String::from_utf8_lossy(key), place, what);
        }
        true
    }

    /// Takes a record of a dead-letter topic in and returns the place it names, if it is a letter.
    pub(crate) fn letter(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        (key, value): (&[u8], Option<&[u8]>),
        headers: Headers<'_>,
        findings: &mut Findings,
    ) -> Option<Place> {
        let processor = topic.strip_prefix(TOPIC_PREFIX).unwrap_or(topic).to_owned();
        if let Some(mark) = last(headers, "millrace.mark") {
            self.mark(&processor, (topic, partition, offset), mark, last(headers, "millrace.letter"), findings);
            return None;
        }
        *self.counts.entry(processor.clone()).or_default() += 1;
        // The last ones count: a record may have come with headers of the same names.
        let of = last(headers, "millrace.topic");
        let on = last(headers, "millrace.partition").and_then(|n| n.parse().ok());
        let at = last(headers, "millrace.offset").and_then(|n| n.parse().ok());
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
        let id = (topic.to_owned(), partition, offset);
        if let Some((copy, _)) = self.copies.get(&id) {
            self.moved.insert(named, *copy);
        }
        self.letters.insert(id, (named, Content::of(key, value)));
        if self.named.insert((processor.clone(), named), (partition, offset)).is_some() {
            let what = format_args!("{known} {on} @{at} became a dead letter twice");
            findings.add_at(Promise::P9, &processor, topic, partition, offset, what);
        }
        Some(named)
    }

    fn mark(
        &mut self,
        processor: &str,
        (topic, partition, offset): (&str, i32, i64),
        mark: &str,
        letter: Option<&str>,
        findings: &mut Findings,
    ) {
        let mark = match mark {
            "replayed" => Some(Mark::Replayed),
            "discarded" => Some(Mark::Discarded),
            _ => None,
        };
        let (Some(mark), Some(of)) = (mark, letter.and_then(|letter| letter.parse::<i64>().ok())) else {
            let what = format_args!("a mark that does not say which letter it marks, or as what");
            findings.add_at(Promise::P9, processor, topic, partition, offset, what);
            return;
        };
        let id = (topic.to_owned(), partition, of);
        if !self.letters.contains_key(&id) {
            let what = format_args!("a mark of letter {}, which does not stand before it", Written(&id));
            findings.add_at(Promise::P9, processor, topic, partition, offset, what);
        } else if self.marks.insert(id.clone(), (mark, offset)).is_some() {
            let what = format_args!("letter {} is marked a second time", Written(&id));
            findings.add_at(Promise::P9, processor, topic, partition, offset, what);
        }
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
            // One that was put back is judged by what came of the copy.
            if !self.places.contains(&place) {
                findings.add(Promise::P9, "", place, format_args!("it cannot be read and is no dead letter"));
            }
        }
        self.judge_replayed(findings);
    }

    /// Every record that was put back is that of a letter and marked, and the other way round.
    fn judge_replayed(&self, findings: &mut Findings) {
        let marked = |id: &LetterId| self.marks.get(id).map(|(mark, _)| *mark);
        for (id, (copy, content)) in &self.copies {
            let (place, id) = (*copy, Written(id));
            match self.letters.get(id.0) {
                None => findings.add(Promise::P9, "", place, format_args!("put back from {id}, which is no letter")),
                Some((named, _)) if (named.topic, named.partition) != (copy.topic, copy.partition) => {
                    let what = format_args!("put back from {id}, but to where it did not come from");
                    findings.add(Promise::P9, "", place, what);
                }
                Some((_, before)) if before != content => {
                    let what = format_args!("put back from {id}, but with another key or value");
                    findings.add(Promise::P9, "", place, what);
                }
                Some(_) if marked(id.0) != Some(Mark::Replayed) => {
                    let what = format_args!("put back from {id}, which is not marked so: it can be put back again");
                    findings.add(Promise::P9, "", place, what);
                }
                Some(_) => {}
            }
        }
        // Letters of several processors for one record go back as one copy, which names one of them.
        let back: HashSet<Place> =
            self.copies.keys().filter_map(|id| self.letters.get(id)).map(|(named, _)| *named).collect();
        for (id, (mark, offset)) in &self.marks {
            let named = self.letters.get(id).map(|(named, _)| *named);
            if *mark == Mark::Replayed && !named.is_some_and(|named| back.contains(&named)) {
                let what = format_args!("letter {} is marked as put back, and no record was", Written(id));
                let processor = id.0.strip_prefix(TOPIC_PREFIX).unwrap_or(&id.0);
                findings.add_at(Promise::P9, processor, &id.0, id.1, *offset, what);
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

/// The last header of this name, as text.
fn last<'h>(headers: Headers<'h>, name: &str) -> Option<&'h str> {
    let found = headers.iter().rfind(|(known, _)| known == name);
    found.and_then(|(_, value)| str::from_utf8(value).ok())
}

/// `<topic>-<partition>@<offset>`.
fn letter_id(text: &str) -> Option<LetterId> {
    let (place, offset) = text.rsplit_once('@')?;
    let (topic, partition) = place.rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?))
}

struct Written<'a>(&'a LetterId);

impl std::fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}@{}", self.0.0, self.0.1, self.0.2)
    }
}
