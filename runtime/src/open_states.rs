//! The states of a store that somebody must look at again: by deadline, by open call, by what they wait in. Derived from the
//! states alone and never stored beside them; never decides what is done about one.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::processor::{CallRequest, Open, OpenOf};
use crate::record::Timestamp;
use crate::store::Key;

/// See the module.
#[derive(Default)]
pub(crate) struct OpenStates {
    of: Option<OpenOf>,
    /// What each of them leaves open.
    held: HashMap<Key, Held>,
    waiting: BTreeMap<&'static str, Waiting>,
    deadlines: BTreeSet<(Timestamp, Key)>,
    calls: BTreeMap<Key, CallRequest>,
}

/// What one state leaves open.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    deadline: Option<Timestamp>,
    calls: bool,
    waits: Option<(&'static str, Timestamp)>,
}

/// The states that wait in one thing: how many there are, and since when. Which ones they are is not asked here, and
/// many began to wait in the same millisecond.
#[derive(Default)]
struct Waiting {
    count: usize,
    since: BTreeMap<Timestamp, usize>,
}

impl Waiting {
    fn begins(&mut self, at: Timestamp) {
        self.count += 1;
        *self.since.entry(at).or_default() += 1;
    }

    fn ends(&mut self, at: Timestamp) {
        let others = self.since.get_mut(&at).expect("who ends has begun");
        *others -= 1;
        if *others == 0 {
            self.since.remove(&at);
        }
        self.count -= 1;
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.since.keys().next().copied()
    }
}

impl OpenStates {
    /// None yet, of states that leave open what this says.
    pub(crate) fn of(of: Option<OpenOf>) -> Self {
        Self { of, ..Self::default() }
    }

    /// What a state leaves open, whether it is kept here or not; `None` where no state ever leaves anything.
    pub(crate) fn asked_of(&self, key: &[u8], value: &[u8]) -> Option<Open> {
        self.of.map(|of| of(key, value))
    }

    /// A state changed; gives its open call.
    pub(crate) fn update(&mut self, key: &Key, value: Option<&[u8]>) -> Option<&CallRequest> {
        let of = self.of?;
        let Open { deadline, call, waiting } = value.map_or_else(Open::default, |value| of(key, value));
        let mut now = Held { deadline, calls: call.is_some(), waits: waiting };
        let mut before = Held::default();
        if let Some(held) = self.held.get_mut(key) {
            before = *held;
            // It may say "since now" at each change; it has waited since it first said so.
            if let (Some((was, since)), Some((is, at))) = (before.waits, &mut now.waits)
                && was == *is
            {
                *at = since.min(*at);
            }
            *held = now;
        }
        if now == Held::default() {
            if before != now {
                self.held.remove(key);
            }
        } else if before == Held::default() {
            self.held.insert(key.clone(), now);
        }
        if before.waits != now.waits {
            if let Some((state, since)) = before.waits {
                self.waiting.get_mut(state).expect("who ends has begun").ends(since);
            }
            if let Some((state, since)) = now.waits {
                self.waiting.entry(state).or_default().begins(since);
            }
        }
        if before.deadline != now.deadline {
            if let Some(at) = before.deadline {
                self.deadlines.remove(&(at, key.clone()));
            }
            if let Some(at) = now.deadline {
                self.deadlines.insert((at, key.clone()));
            }
        }
        match call {
            Some(request) => {
                self.calls.insert(key.clone(), request);
                self.calls.get(key)
            }
            None if before.calls => {
                self.calls.remove(key);
                None
            }
            None => None,
        }
    }

    /// Whether the state of a key leaves anything open.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    /// How many have a deadline or a call.
    pub(crate) fn len(&self) -> usize {
        let has_deadline = |key: &&Key| self.held.get(*key).is_some_and(|held| held.deadline.is_some());
        self.deadlines.len() + self.calls.keys().filter(|key| !has_deadline(key)).count()
    }

    /// Deadlines and their keys, the earliest first.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = &(Timestamp, Key)> {
        self.deadlines.iter()
    }

    /// Calls by their keys, ascending.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&Key, &CallRequest)> {
        self.calls.iter()
    }

    /// The call that the state of a key has open.
    pub(crate) fn call(&self, key: &[u8]) -> Option<&CallRequest> {
        self.calls.get(key)
    }

    /// What states wait in, or have: how many in each, and since when the oldest of them.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&'static str, usize, Timestamp)> {
        let waiting = self.waiting.iter();
        waiting.map(|(state, of)| (*state, of.count, of.oldest().unwrap_or(Timestamp::MAX)))
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.waiting.clear();
        self.deadlines.clear();
        self.calls.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first byte names what the state waits in, the second since when.
    fn waiting(value: &[u8]) -> Option<(&'static str, Timestamp)> {
        let state = match value.first()? {
            b'a' => "a",
            b'b' => "b",
            _ => return None,
        };
        Some((state, value.get(1).copied()?.into()))
    }

    #[test]
    fn a_state_waits_since_it_first_said_so_and_the_oldest_of_each_is_known() {
        let of: OpenOf = |_, value| Open { waiting: waiting(value), ..Open::default() };
        let mut open = OpenStates::of(Some(of));
        let mut says = |key: &[u8], value: Option<&[u8]>| {
            open.update(&Key::from(key), value);
            open.waiting.iter().map(|(state, of)| (*state, of.count, of.oldest())).collect::<Vec<_>>()
        };
        assert_eq!(says(b"1", Some(b"a\x05")), [("a", 1, Some(5))]);
        assert_eq!(says(b"2", Some(b"a\x03")), [("a", 2, Some(3))]);
        assert_eq!(says(b"2", Some(b"a\x09")), [("a", 2, Some(3))], "it goes on waiting");
        assert_eq!(says(b"2", Some(b"b\x0a")), [("a", 1, Some(5)), ("b", 1, Some(10))]);
        assert_eq!(says(b"2", Some(b"a\x0b")), [("a", 2, Some(5)), ("b", 0, None)]);
        assert_eq!(says(b"1", Some(b"done")), [("a", 1, Some(11)), ("b", 0, None)]);
        assert_eq!(says(b"2", None), [("a", 0, None), ("b", 0, None)]);
        assert!(open.held.is_empty());
        assert!(open.waiting.values().all(|waiting| waiting.since.is_empty()));
    }
}
