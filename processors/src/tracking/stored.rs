//! How a folded order is kept: the latest event of each topic as it came, and the history beside it. Folding an event
//! replaces one part and adds one line; nothing else is read. Never interprets; that is [`super::view`].
//!
//! ```text
//! format u8 | events u32 | 4 parts: version i64, length u32, datum | lines: at i64, source u8, version i64,
//!                                                                    event u16 + text, detail u16 + text
//! ```
//! Numbers are little endian. The parts are [`Source`] in its order; lines are ascending by time, source and version.

/// Lines of history kept; the oldest go first.
pub const HISTORY_MAX: usize = 50;
/// Raised with every change of how an order is kept or folded: a store of another format is rebuilt.
pub(super) const FORMAT: u8 = 1;
const SOURCES: usize = 4;
/// Lines that an order has on its way to confirmed.
const LINES_USUAL: usize = 8;
/// Bytes of text kept of one history line.
const TEXT_MAX: usize = 200;

/// Where an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// `orders.accepted`.
    Accepted = 0,
    /// `orders.rejected`.
    Rejected = 1,
    /// `payments.events`.
    Payment = 2,
    /// `orders.events`.
    Order = 3,
}

/// A stored value, borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    /// How many events were folded.
    pub(super) events: u32,
    parts: [Part<'a>; SOURCES],
    pub(super) history: Vec<Line<'a>>,
}

/// The latest event of a source; version 0 where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part<'a> {
    version: i64,
    datum: &'a [u8],
}

/// One line of history. Ordered by time, then source, then version: whatever order events are folded in, it is the same.
/// Its text is kept as bytes: a fold passes over it, only [`super::view`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line<'a> {
    pub(super) at: i64,
    source: u8,
    version: i64,
    pub(super) event: &'a [u8],
    pub(super) detail: &'a [u8],
}

impl<'a> Line<'a> {
    pub(super) fn new(at: i64, source: Source, version: i64, event: &'a str, detail: &'a str) -> Self {
        Self { at, source: source as u8, version, event: shortened(event), detail: shortened(detail) }
    }
}

impl<'a> Stored<'a> {
    pub(super) fn empty() -> Self {
        Self { events: 0, parts: [Part::default(); SOURCES], history: Vec::new() }
    }

    /// The latest event of a source.
    pub(super) fn part(&self, source: Source) -> Option<&'a [u8]> {
        let part = &self.parts[source as usize];
        (part.version > 0).then_some(part.datum)
    }

    /// Takes an event in as the latest of its source. `false` when it is not newer than what is there.
    pub(super) fn replace(&mut self, source: Source, version: i64, datum: &'a [u8]) -> bool {
        let part = &mut self.parts[source as usize];
        if version <= part.version {
            return false;
        }
        *part = Part { version, datum };
        true
    }

    /// Writes an event into the history. `false` when it is there already.
    pub(super) fn note(&mut self, line: Line<'a>) -> bool {
        let Err(place) = self.history.binary_search(&line) else { return false };
        self.history.insert(place, line);
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
        self.events = self.events.saturating_add(1);
        true
    }

    /// `None` when the bytes are not what [`Stored::write`] wrote.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let [FORMAT] = take::<1>(&mut rest)? else { return None };
        let mut stored = Self { events: u32::from_le_bytes(take(&mut rest)?), ..Self::empty() };
        for part in &mut stored.parts {
            part.version = i64::from_le_bytes(take(&mut rest)?);
            let length = u32::from_le_bytes(take(&mut rest)?);
            part.datum = slice(&mut rest, usize::try_from(length).ok()?)?;
        }
        stored.history.reserve(LINES_USUAL);
        while !rest.is_empty() {
            stored.history.push(Line {
                at: i64::from_le_bytes(take(&mut rest)?),
                source: u8::from_le_bytes(take(&mut rest)?),
                version: i64::from_le_bytes(take(&mut rest)?),
                event: text(&mut rest)?,
                detail: text(&mut rest)?,
            });
        }
        Some(stored)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let parts: usize = self.parts.iter().map(|part| 12 + part.datum.len()).sum();
        let lines: usize = self.history.iter().map(|line| 21 + line.event.len() + line.detail.len()).sum();
        let mut out = Vec::with_capacity(5 + parts + lines);
        out.push(FORMAT);
        out.extend_from_slice(&self.events.to_le_bytes());
        for part in &self.parts {
            out.extend_from_slice(&part.version.to_le_bytes());
            // A record is at most some megabytes, so its length fits.
            out.extend_from_slice(&u32::try_from(part.datum.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(part.datum);
        }
        for line in &self.history {
            out.extend_from_slice(&line.at.to_le_bytes());
            out.push(line.source);
            out.extend_from_slice(&line.version.to_le_bytes());
            for text in [line.event, line.detail] {
                // Shortened when noted, so its length fits.
                out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
                out.extend_from_slice(text);
            }
        }
        out
    }
}

fn shortened(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(TEXT_MAX)]
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_le_bytes(take(rest)?);
    slice(rest, usize::from(length))
}
