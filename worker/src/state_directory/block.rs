//! Blocks: some kilobytes of entries in the order of their keys, as one value of sled. Owns their bytes, and the choice
//! of the newest entry where several sorted streams are merged; knows nothing of sled.
//!
//! ```text
//! block  = entry…
//! entry  = key length u32 LE ‖ value length u32 LE, or 2^32-1 for a deletion ‖ key ‖ value
//! ```

use std::iter::Peekable;

/// A block is closed when it has so many bytes.
pub(super) const BLOCK_BYTES: usize = 16 << 10;
/// The length that stands for a deletion.
const DELETED: u32 = u32::MAX;

/// A key with its value; none is a deletion.
pub(super) type Entry = (Vec<u8>, Option<Vec<u8>>);

/// Appends an entry to a block.
///
/// # Panics
/// When a key or a value has 4 GiB or more.
pub(super) fn append(block: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let length =
        |bytes: &[u8]| u32::try_from(bytes.len()).ok().filter(|length| *length < DELETED).expect("below 4 GiB");
    block.extend_from_slice(&length(key).to_le_bytes());
    block.extend_from_slice(&value.map_or(DELETED, length).to_le_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value.unwrap_or_default());
}

/// The entries of a block, ascending. One that cannot be read ends it with [`Torn`].
pub(super) struct Entries<'a>(&'a [u8]);

/// A block that does not consist of whole entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn;

pub(super) fn entries(block: &[u8]) -> Entries<'_> {
    Entries(block)
}

impl<'a> Entries<'a> {
    fn take(&mut self, length: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn read(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
        let (key, value) = (number(self.take(4)?)?, number(self.take(4)?)?);
        let key = self.take(key)?;
        Some((key, if value == DELETED { None } else { Some(self.take(value)?) }))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a [u8], Option<&'a [u8]>), Torn>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read().ok_or(Torn);
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

/// One ascending stream of several, in which the entry of the newest stands for a key that more than one has.
/// The streams are given from the oldest to the newest.
pub(super) struct Merged<S: Iterator<Item = Result<Entry, E>>, E> {
    streams: Vec<Peekable<S>>,
}

impl<S: Iterator<Item = Result<Entry, E>>, E> Merged<S, E> {
    pub(super) fn new(streams: impl IntoIterator<Item = S>) -> Self {
        Self { streams: streams.into_iter().map(Iterator::peekable).collect() }
    }
}

impl<S: Iterator<Item = Result<Entry, E>>, E> Iterator for Merged<S, E> {
    type Item = Result<Entry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least: Option<(usize, &[u8])> = None;
        let mut broken = None;
        for (at, stream) in self.streams.iter_mut().enumerate() {
            match stream.peek() {
                Some(Ok((key, _))) if least.is_none_or(|(_, other)| key.as_slice() <= other) => least = Some((at, key)),
                Some(Err(_)) => broken = Some(at),
                _ => {}
            }
        }
        if let Some(at) = broken {
            return self.streams[at].next();
        }
        let (newest, _) = least?;
        let entry = self.streams[newest].next()?;
        if let Ok((key, _)) = &entry {
            for older in &mut self.streams[..newest] {
                // Only an entry of the same key is passed over; an error stays for the next call.
                older.next_if(|other| matches!(other, Ok((other, _)) if other == key));
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stream(entries: &[(&str, Option<&str>)]) -> Vec<Result<Entry, Torn>> {
        entries.iter().map(|(key, value)| Ok((key.as_bytes().to_vec(), value.map(|v| v.as_bytes().to_vec())))).collect()
    }

    #[test]
    fn a_block_gives_back_what_was_put_in() {
        let mut block = Vec::new();
        append(&mut block, b"a", Some(b"1"));
        append(&mut block, b"", Some(b""));
        append(&mut block, b"gone", None);
        let read: Result<Vec<_>, _> = entries(&block).collect();
        assert_eq!(read.unwrap(), vec![(&b"a"[..], Some(&b"1"[..])), (b"", Some(b"")), (b"gone", None)]);
    }

    #[test]
    fn a_torn_block_says_so_once() {
        let mut block = Vec::new();
        append(&mut block, b"a", Some(b"1"));
        append(&mut block, b"b", Some(b"2"));
        for length in [1, 5, 9, block.len() - 1] {
            let read: Vec<_> = entries(&block[..length]).collect();
            assert_eq!(read.iter().filter(|entry| entry.is_err()).count(), 1, "{length} bytes");
        }
    }

    #[test]
    fn the_newest_entry_of_a_key_wins() {
        let oldest = stream(&[("a", Some("1")), ("b", Some("1")), ("d", Some("1"))]);
        let middle = stream(&[("b", None), ("c", Some("2"))]);
        let newest = stream(&[("a", Some("3")), ("c", None), ("e", Some("3"))]);
        let merged: Result<Vec<_>, _> = Merged::new([oldest, middle, newest].map(Vec::into_iter)).collect();
        let expected: Result<Vec<_>, _> =
            stream(&[("a", Some("3")), ("b", None), ("c", None), ("d", Some("1")), ("e", Some("3"))])
                .into_iter()
                .collect();
        assert_eq!(merged.unwrap(), expected.unwrap());
    }

    #[test]
    fn an_error_of_any_stream_is_told() {
        let broken = [stream(&[("a", Some("1"))]), vec![Err(Torn)]].concat();
        let other = stream(&[("b", Some("2")), ("c", Some("2"))]);
        let merged = Merged::new([broken, other].map(Vec::into_iter)).collect::<Result<Vec<_>, _>>();
        assert_eq!(merged, Err(Torn));
    }
}
