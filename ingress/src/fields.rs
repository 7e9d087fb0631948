//! Takes fields out of a JSON object one by one and collects every fault with its place.
//!
//! Each taker returns a stand-in value on a fault, so that one pass finds all faults; [`Faults::settle`] decides at
//! the end. A fault says what must be there, never what was. Never knows which fields a record has.

use serde_json::{Map, Value};

use crate::card::looks_like_card;
use crate::problem::{FieldError, Problem, ProblemType};

/// Faults beyond this are counted, not kept.
const KEPT_MAX: usize = 50;
/// Longest field name repeated in a pointer, characters.
const NAME_MAX: usize = 64;

/// A place in a JSON body; written out only when there is something to say about it.
#[derive(Clone, Copy)]
pub(crate) enum Place<'p> {
    Root,
    Field(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    /// The JSON pointer (RFC 6901).
    pub(crate) fn pointer(&self) -> String {
        match self {
            Place::Root => String::new(),
            Place::Item(of, index) => format!("{}/{index}", of.pointer()),
            Place::Field(of, name) => {
                let short: String = name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
                format!("{}/{}", of.pointer(), short.replace('~', "~0").replace('/', "~1"))
            }
        }
    }
}

/// The faults found so far.
#[derive(Default)]
pub(crate) struct Faults {
    kept: Vec<FieldError>,
    further: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, place: &Place<'_>, detail: impl Into<String>) {
        if self.kept.len() < KEPT_MAX {
            self.kept.push(FieldError { pointer: place.pointer(), detail: detail.into() });
        } else {
            self.further += 1;
        }
    }

    /// The object at a place, with no fields but the known ones; every other field is a fault.
    pub(crate) fn object<'v, 'p>(
        &mut self,
        value: &'v Value,
        place: &'p Place<'p>,
        known: &[&str],
    ) -> Option<Object<'v, 'p>> {
        let Value::Object(map) = value else {
            self.add(place, "must be an object");
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            self.add(&Place::Field(place, name), format!("unknown field; known are {}", known.join(", ")));
        }
        Some(Object { map, place })
    }

    /// `value` when nothing was found, otherwise the problem that lists everything.
    pub(crate) fn settle<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.kept.is_empty() => Ok(value),
            _ => Err(ProblemType::InvalidContent
                .with("some fields are missing, unknown or out of range; `errors` names each")
                .errors(self.kept, self.further)),
        }
    }
}

/// What a text must be like.
#[derive(Clone, Copy)]
pub(crate) enum Text {
    /// 1 to so many visible characters, no spaces.
    Word(usize),
    /// Up to so many characters on one line; may be empty.
    Line(usize),
    /// Three upper-case letters.
    Currency,
}

impl Text {
    fn demand(self) -> String {
        match self {
            Text::Word(max) => format!("must be 1 to {max} visible characters without spaces"),
            Text::Line(max) => format!("must be at most {max} characters without control characters"),
            Text::Currency => "must be three upper-case letters (ISO 4217)".into(),
        }
    }

    pub(crate) fn admits(self, text: &str) -> bool {
        match self {
            Text::Word(max) => !text.is_empty() && fits(text, max) && text.chars().all(is_visible),
            Text::Line(max) => fits(text, max) && text.chars().all(|c| c == ' ' || is_visible(c)),
            Text::Currency => text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()),
        }
    }
}

fn fits(text: &str, max: usize) -> bool {
    text.chars().nth(max).is_none()
}

/// Neither space nor control, nor one of the marks that only change how others look.
fn is_visible(c: char) -> bool {
    !c.is_control()
        && !c.is_whitespace()
        && !matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// An object and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Object<'v, 'p> {
    map: &'v Map<String, Value>,
    place: &'p Place<'p>,
}

impl<'v, 'p> Object<'v, 'p> {
    /// The field, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The place of a field.
    pub(crate) fn at<'n>(&'n self, name: &'n str) -> Place<'n> {
        Place::Field(self.place, name)
    }

    /// The field, whose absence is a fault.
    pub(crate) fn need(&self, name: &str, faults: &mut Faults) -> Option<&'v Value> {
        let value = self.get(name);
        if value.is_none() {
            faults.add(&self.at(name), "is required");
        }
        value
    }

    /// A required text; empty after a fault.
    pub(crate) fn text(&self, name: &str, kind: Text, faults: &mut Faults) -> String {
        match self.need(name, faults) {
            Some(value) => self.checked(name, value, kind, faults),
            None => String::new(),
        }
    }

    /// A text that may be left out.
    pub(crate) fn text_or(&self, name: &str, kind: Text, otherwise: &str, faults: &mut Faults) -> String {
        match self.get(name) {
            Some(value) => self.checked(name, value, kind, faults),
            None => otherwise.to_owned(),
        }
    }

    fn checked(&self, name: &str, value: &Value, kind: Text, faults: &mut Faults) -> String {
        match value.as_str() {
            Some(text) if kind.admits(text) => text.to_owned(),
            _ => {
                faults.add(&self.at(name), kind.demand());
                String::new()
            }
        }
    }

    /// A required whole number within bounds; the lower bound after a fault.
    pub(crate) fn whole(&self, name: &str, min: i64, max: i64, faults: &mut Faults) -> i64 {
        let Some(value) = self.need(name, faults) else { return min };
        match value.as_i64() {
            Some(number) if (min..=max).contains(&number) => number,
            _ => {
                let bound = if max == i64::MAX { format!("{min} or more") } else { format!("{min} to {max}") };
                faults.add(&self.at(name), format!("must be a whole number, {bound}"));
                min
            }
        }
    }

    /// A truth value that may be left out.
    pub(crate) fn flag_or(&self, name: &str, otherwise: bool, faults: &mut Faults) -> bool {
        match self.get(name) {
            None => otherwise,
            Some(Value::Bool(value)) => *value,
            Some(_) => {
                faults.add(&self.at(name), "must be true or false");
                otherwise
            }
        }
    }
}

/// Refuses a body that holds what looks like a card number in any text or field name.
pub(crate) fn refuse_cards(body: &Value) -> Result<(), Problem> {
    let mut found = Vec::new();
    find_cards(body, &Place::Root, &mut found);
    if found.is_empty() { Ok(()) } else { Err(Problem::from(ProblemType::CardData).errors(found, 0)) }
}

fn find_cards(value: &Value, place: &Place<'_>, found: &mut Vec<FieldError>) {
    let mut report = |place: &Place<'_>, detail: &str| {
        found.push(FieldError { pointer: place.pointer(), detail: detail.into() });
    };
    match value {
        Value::String(text) if looks_like_card(text) => report(place, "looks like a card number"),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_cards(item, &Place::Item(place, index), found);
            }
        }
        Value::Object(map) if map.keys().any(|name| looks_like_card(name)) => {
            report(place, "has a field whose name looks like a card number");
        }
        Value::Object(map) => {
            for (name, value) in map {
                find_cards(value, &Place::Field(place, name), found);
            }
        }
        _ => {}
    }
}
