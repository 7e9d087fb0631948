//! Reads a JSON body with bounds: how deep it nests, how many values it holds, no field twice.
//!
//! Bounds hold while reading, so that a small body can never become a large tree. Never says what a body must mean.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonFault {
    /// Not JSON, from this place on (both count from 1).
    Malformed { line: usize, column: usize },
    /// The object at this place names a field twice.
    FieldTwice { line: usize, column: usize },
    /// Nested deeper than allowed.
    TooDeep,
    /// More values than allowed.
    TooManyValues,
}

/// Reads one JSON value and nothing after it.
pub(crate) fn read(bytes: &[u8], depth_max: usize, values_max: usize) -> Result<Value, JsonFault> {
    let bounds = Bounds { values_left: Cell::new(values_max), fault: Cell::new(Bound::None) };
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { bounds: &bounds, depth_left: depth_max }.deserialize(&mut input);
    value.and_then(|value| input.end().map(|()| value)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match bounds.fault.get() {
            Bound::None => JsonFault::Malformed { line, column },
            Bound::FieldTwice => JsonFault::FieldTwice { line, column },
            Bound::Depth => JsonFault::TooDeep,
            Bound::Values => JsonFault::TooManyValues,
        }
    })
}

#[derive(Clone, Copy)]
enum Bound {
    None,
    FieldTwice,
    Depth,
    Values,
}

struct Bounds {
    values_left: Cell<usize>,
    fault: Cell<Bound>,
}

#[derive(Clone, Copy)]
struct Seed<'b> {
    bounds: &'b Bounds,
    depth_left: usize,
}

impl<'b> Seed<'b> {
    fn broken<E: Error>(self, bound: Bound) -> E {
        self.bounds.fault.set(bound);
        E::custom("a bound of the body")
    }

    fn deeper<E: Error>(self) -> Result<Seed<'b>, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Seed { depth_left, ..self }),
            None => Err(self.broken(Bound::Depth)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        match self.bounds.values_left.get().checked_sub(1) {
            Some(left) => self.bounds.values_left.set(left),
            None => return Err(self.broken(Bound::Values)),
        }
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(seed)?;
            if map.insert(name, value).is_some() {
                return Err(self.broken(Bound::FieldTwice));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_within_the_bounds_is_read_as_it_is() {
        let text = br#" {"a": [1, -2, 2.5, "x\u00e9", true, null, {}], "b": 18446744073709551615} "#;
        let value = read(text, 3, 20).unwrap();
        assert_eq!(value, json!({"a": [1, -2, 2.5, "xé", true, null, {}], "b": u64::MAX}));
    }

    #[test]
    fn each_bound_is_told_from_the_others() {
        assert_eq!(read(b"[[[]]]", 2, 20), Err(JsonFault::TooDeep));
        assert!(read(b"[[]]", 2, 20).is_ok());
        assert_eq!(read("[".repeat(100_000).as_bytes(), 8, 200_000), Err(JsonFault::TooDeep));
        assert_eq!(read(b"[1,2,3]", 2, 3), Err(JsonFault::TooManyValues));
        assert!(read(b"[1,2]", 2, 3).is_ok());
        assert!(matches!(read(br#"{"a":1,"a":1}"#, 2, 9), Err(JsonFault::FieldTwice { line: 1, .. })));
    }

    #[test]
    fn what_is_no_json_is_located() {
        for text in ["", "{", "{\"a\":}", "{} {}", "nul", "{\"a\":1e999}", "\u{feff}{}", "{'a':1}"] {
            assert!(matches!(read(text.as_bytes(), 8, 9), Err(JsonFault::Malformed { .. })), "{text}");
        }
        assert_eq!(read(b"{\n\"a\":x}", 8, 9), Err(JsonFault::Malformed { line: 2, column: 5 }));
        assert!(matches!(read(b"\"\xff\"", 8, 9), Err(JsonFault::Malformed { .. })));
    }
}
