//! Dead letters: the form in which a record that cannot be processed stands in `dead-letters.<processor>`, and how it is
//! marked once somebody has dealt with it. Owns that form and nothing else: never decides what is poison, never reads or
//! writes a topic.
//!
//! A letter keeps key, value and headers of its record, and adds six headers: the record's place and time, the processor
//! and the reason. A mark stands behind its letter in the same partition and says what became of it. A record that was put
//! back into its topic names its letter, so a second copy of it would show; the mark is written in the same transaction as
//! the copy, so that there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::parking::Parked;
use crate::record::{Headers, InputRecord, Offset, Record, Timestamp};

const TOPIC: &str = "millrace.topic";
const PARTITION: &str = "millrace.partition";
const OFFSET: &str = "millrace.offset";
const TIMESTAMP: &str = "millrace.timestamp";
const PROCESSOR: &str = "millrace.processor";
const REASON: &str = "millrace.reason";
/// On a record that was put back: the letter it was.
const REPLAYED: &str = "millrace.replayed";
/// On a record that was put back: the offset at which it stood first. Its place among others of its key.
const FIRST_OFFSET: &str = "millrace.first-offset";
/// On a mark: `replayed` or `discarded`.
const MARK: &str = "millrace.mark";
/// On a mark: the offset of its letter.
const LETTER: &str = "millrace.letter";

/// Where a letter stands. Prints as `dead-letters.intake-0@17`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    /// The dead-letter topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The letter's offset.
    pub offset: Offset,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.rsplit_once('@').and_then(|(place, offset)| Some((place, offset.parse().ok()?)));
        let parts = place.and_then(|(place, offset)| Some((place.rsplit_once('-')?, offset)));
        match parts.and_then(|((topic, partition), offset)| Some((topic, partition.parse().ok()?, offset))) {
            Some((topic, partition, offset)) => Ok(Self { topic: topic.to_owned(), partition, offset }),
            None => Err(format!("{text:?} is no letter: write one as dead-letters.intake-0@17")),
        }
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where the letter stands.
    pub id: LetterId,
    /// When the record was given up.
    pub at: Timestamp,
    /// Who gave it up.
    pub processor: String,
    /// Why.
    pub reason: String,
    /// The topic of the record it stands for.
    pub topic: String,
    /// The partition of that record.
    pub partition: i32,
    /// That record as it was: its own offset, time, key, value and headers.
    pub record: InputRecord,
    /// The letter that was put back and came to this one.
    pub again: Option<LetterId>,
    /// Where the record stood first, before any letter of it was put back.
    pub first_offset: Offset,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing yet.
    Open,
    /// Its record was put back into its topic.
    Replayed,
    /// Somebody let it go.
    Discarded,
}

impl Fate {
    /// Its name on a mark and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// The headers of the letter of a record.
pub(crate) fn headers_of(letter: &Parked, processor: &str) -> Headers {
    let mut headers = letter.record.headers.clone();
    let mut add = |name: &'static str, value: String| headers.push((name.into(), value.into_bytes()));
    add(TOPIC, letter.topic.clone());
    add(PARTITION, letter.partition.to_string());
    add(OFFSET, letter.record.offset.to_string());
    add(TIMESTAMP, letter.record.timestamp.to_string());
    add(PROCESSOR, processor.to_owned());
    add(REASON, letter.reason.clone());
    headers
}

/// Whether a record was put back from the dead letters: its writer wrote it once, long before.
pub(crate) fn is_replayed(record: &Record<'_>) -> bool {
    record.headers.iter().any(|(name, _)| name == REPLAYED)
}

impl DeadLetter {
    /// The letter in a record of a dead-letter topic; `None` when it is none.
    fn read(topic: &str, partition: i32, mut record: InputRecord) -> Option<Self> {
        let id = LetterId { topic: topic.to_owned(), partition, offset: record.offset };
        let at = record.timestamp;
        // The last ones are the engine's; a stranger's record may have had headers of the same names.
        let mut taken = [TOPIC, PARTITION, OFFSET, TIMESTAMP, PROCESSOR, REASON, REPLAYED, FIRST_OFFSET]
            .map(|name| take_last(&mut record.headers, name));
        let mut text = |of: usize| taken[of].take().and_then(|value| String::from_utf8(value).ok());
        let of = text(0)?;
        let from_partition = text(1)?.parse().ok()?;
        record.offset = text(2)?.parse().ok()?;
        record.timestamp = text(3)?.parse().ok()?;
        let (processor, reason) = (text(4)?, text(5)?);
        let again = text(6).and_then(|letter| letter.parse().ok());
        let first_offset = text(7).and_then(|first| first.parse().ok()).unwrap_or(record.offset);
        let fate = Fate::Open;
        Some(Self {
            id,
            at,
            processor,
            reason,
            topic: of,
            partition: from_partition,
            record,
            again,
            first_offset,
            fate,
        })
    }

    /// The headers of its record when it is put back: its own, and which letter it was.
    #[must_use]
    pub fn replay_headers(&self) -> Headers {
        let mut headers = self.record.headers.clone();
        headers.push((REPLAYED.into(), self.id.to_string().into_bytes()));
        headers.push((FIRST_OFFSET.into(), self.first_offset.to_string().into_bytes()));
        headers
    }

    /// The headers of the mark that says what became of it. The mark has the letter's key and no value, and stands in the
    /// letter's partition.
    #[must_use]
    pub fn mark_headers(&self, fate: Fate) -> Headers {
        vec![(MARK.into(), fate.as_str().as_bytes().to_vec()), (LETTER.into(), self.id.offset.to_string().into_bytes())]
    }
}

fn take_last(headers: &mut Headers, name: &str) -> Option<Vec<u8>> {
    let at = headers.iter().rposition(|(known, _)| known == name)?;
    Some(headers.remove(at).1)
}

/// The letters of dead-letter topics and what became of each: a fold over their records, each partition in order.
#[derive(Debug, Default)]
pub struct DeadLetters {
    letters: BTreeMap<LetterId, DeadLetter>,
    /// Records that are neither letter nor mark.
    pub strangers: u64,
}

impl DeadLetters {
    /// Takes in a record of a dead-letter topic.
    pub fn add(&mut self, topic: &str, partition: i32, record: InputRecord) {
        let header = |name: &str| {
            let found = record.headers.iter().rfind(|(known, _)| known == name);
            found.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        if let Some(mark) = header(MARK) {
            let fate = [Fate::Replayed, Fate::Discarded].into_iter().find(|fate| fate.as_str() == mark);
            let offset = header(LETTER).and_then(|offset| offset.parse().ok());
            let id = offset.map(|offset| LetterId { topic: topic.to_owned(), partition, offset });
            match (fate, id) {
                // Its letter may have gone by the topic's retention.
                (Some(fate), Some(id)) => {
                    if let Some(letter) = self.letters.get_mut(&id) {
                        letter.fate = fate;
                    }
                }
                _ => self.strangers += 1,
            }
            return;
        }
        match DeadLetter::read(topic, partition, record) {
            Some(letter) => {
                self.letters.insert(letter.id.clone(), letter);
            }
            None => self.strangers += 1,
        }
    }

    /// A letter.
    #[must_use]
    pub fn get(&self, id: &LetterId) -> Option<&DeadLetter> {
        self.letters.get(id)
    }

    /// Every letter, by topic, partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.values()
    }
}

/// The order in which letters are put back: as their records stood first, so that those of a key keep their order.
#[must_use]
pub fn in_order(mut letters: Vec<&DeadLetter>) -> Vec<&DeadLetter> {
    letters.sort_by(|a, b| {
        let place = |letter: &DeadLetter| (letter.partition, letter.first_offset, letter.record.offset);
        (&a.topic, place(a), &a.id).cmp(&(&b.topic, place(b), &b.id))
    });
    letters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::header_name;

    const LETTERS: &str = "dead-letters.p";

    fn text(headers: &[(&str, &str)]) -> Headers {
        headers.iter().map(|(name, value)| (header_name(name), value.as_bytes().to_vec())).collect()
    }

    fn poison(offset: Offset, headers: Headers) -> Parked {
        let record =
            InputRecord { offset, timestamp: 5, key: Some(b"k".to_vec()), value: Some(b"v".to_vec()), headers };
        Parked { topic: "t".into(), partition: 2, reason: "why".into(), record }
    }

    fn lettered(poison: &Parked, offset: Offset) -> InputRecord {
        InputRecord { offset, timestamp: 9, headers: headers_of(poison, "p"), ..poison.record.clone() }
    }

    #[test]
    fn a_letter_gives_its_record_back_as_it_was_whatever_headers_it_had() {
        let poison = poison(7, text(&[("a", "1"), (TOPIC, "a stranger's"), ("b", "2")]));
        let mut letters = DeadLetters::default();
        letters.add(LETTERS, 2, lettered(&poison, 17));
        let id: LetterId = "dead-letters.p-2@17".parse().unwrap();
        let letter = letters.get(&id).unwrap();
        assert_eq!((letter.id.to_string(), letter.at), ("dead-letters.p-2@17".to_owned(), 9));
        assert_eq!((letter.topic.as_str(), letter.partition, &letter.record), ("t", 2, &poison.record));
        assert_eq!((letter.processor.as_str(), letter.reason.as_str()), ("p", "why"));
        assert_eq!((&letter.again, letter.first_offset, letter.fate), (&None, 7, Fate::Open));
    }

    #[test]
    fn a_record_that_fails_again_names_its_letter_and_keeps_its_place_in_the_order() {
        let first = poison(7, text(&[("a", "1")]));
        let mut letters = DeadLetters::default();
        letters.add(LETTERS, 2, lettered(&first, 17));
        letters.add(LETTERS, 2, lettered(&poison(9, Headers::new()), 18));
        let letter = letters.iter().next().unwrap();
        let (id, replayed, mark) = (letter.id.clone(), letter.replay_headers(), letter.mark_headers(Fate::Replayed));
        letters.add(LETTERS, 2, InputRecord { offset: 19, headers: mark, ..InputRecord::default() });
        assert_eq!(letters.get(&id).unwrap().fate, Fate::Replayed);
        letters.add(LETTERS, 2, lettered(&poison(20, replayed), 21));
        let open: Vec<&DeadLetter> = letters.iter().filter(|letter| letter.fate == Fate::Open).collect();
        let order: Vec<_> = in_order(open).into_iter().map(|letter| (letter.record.offset, &letter.again)).collect();
        assert_eq!(order, [(20, &Some(id)), (9, &None)], "what stood first goes first");
        let again = in_order(letters.iter().collect())[1];
        assert_eq!((again.first_offset, &again.record.headers), (7, &text(&[("a", "1")])), "headers do not pile up");
    }

    #[test]
    fn what_is_no_letter_is_counted_and_harms_nothing() {
        let mut letters = DeadLetters::default();
        for headers in [&[][..], &[(TOPIC, "t")], &[(MARK, "eaten"), (LETTER, "1")], &[(MARK, "replayed")]] {
            letters.add(LETTERS, 0, InputRecord { headers: text(headers), ..InputRecord::default() });
        }
        letters.add(
            LETTERS,
            0,
            InputRecord { headers: text(&[(MARK, "replayed"), (LETTER, "1")]), ..InputRecord::default() },
        );
        assert_eq!((letters.strangers, letters.iter().count()), (4, 0));
        for bad in ["", "17", "dead-letters.p@17", "dead-letters.p-x@17", "dead-letters.p-0@"] {
            assert!(bad.parse::<LetterId>().is_err(), "{bad}");
        }
    }
}
