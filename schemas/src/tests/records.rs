//! Each record alone: its type against its schema, its bytes against apache-avro's, its JSON both ways.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as AvroValue;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Choices, choices, for_every_record};
use crate::datum::Datum;
use crate::{AvroRecord, Codec, Field, Money, OrderLine, OrderPlaced, PaymentEvent, PaymentState, StockLine, TOPICS};

/// The schema without docs, namespaces and logical types, every name spelled out.
fn bare(schema: &Value, names: &mut Map<String, Value>) -> Value {
    match schema {
        Value::String(name) => names.get(name).unwrap_or(schema).clone(),
        Value::Array(branches) => branches.iter().map(|branch| bare(branch, names)).collect(),
        other => match other["type"].as_str() {
            Some("record") => {
                let field = |field: &Value| {
                    let mut kept = json!({ "name": field["name"], "type": bare(&field["type"], names) });
                    if let Some(default) = field.get("default") {
                        kept["default"] = default.clone();
                    }
                    kept
                };
                let fields: Vec<Value> = other["fields"].as_array().unwrap().iter().map(field).collect();
                let kept = json!({ "type": "record", "name": other["name"], "fields": fields });
                names.insert(other["name"].as_str().unwrap().to_owned(), kept.clone());
                kept
            }
            Some("enum") => {
                let mut kept = other.clone();
                kept.as_object_mut().unwrap().remove("doc");
                names.insert(other["name"].as_str().unwrap().to_owned(), kept.clone());
                kept
            }
            Some("array") => json!({ "type": "array", "items": bare(&other["items"], names) }),
            _ => other["type"].clone(),
        },
    }
}

fn says_the_same<T: AvroRecord>() {
    let schema: Value = serde_json::from_str(T::schema_json()).unwrap();
    assert_eq!(bare(&schema, &mut Map::new()), T::shape(), "{} and its .avsc differ", T::NAME);
    assert_eq!(T::TOPIC.record, T::NAME);
    assert_eq!(schema["name"], T::NAME);
}

#[test]
fn types_and_schemas_say_the_same() {
    for_every_record!(says_the_same());
}

#[test]
fn every_topic_has_one_record_and_topics_ascend() {
    assert!(TOPICS.is_sorted_by_key(|known| known.topic));
    let mut files: Vec<_> = TOPICS.iter().map(|known| known.file).collect();
    files.sort_unstable();
    files.dedup();
    assert_eq!(files.len(), 13);
}

fn bytes_of<T: AvroRecord>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode_datum(&mut out);
    out
}

/// Ours under apache-avro and back, and apache-avro's own from the same JSON.
fn agrees_with_apache<T: AvroRecord + PartialEq + std::fmt::Debug>(mut choices: Choices) {
    let schema = Schema::parse_str(T::schema_json()).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let value = T::made(&mut choices);
    let ours = bytes_of(&value);

    let mut rest = ours.as_slice();
    let read = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(writer.write_value_to_vec(read).unwrap(), ours);

    let theirs = AvroValue::try_from(value.to_json()).unwrap().resolve(&schema).unwrap();
    let theirs = writer.write_value_to_vec(theirs).unwrap();
    assert_eq!(theirs, ours);
    let mut rest = theirs.as_slice();
    assert_eq!(T::decode_datum(&mut rest).unwrap(), value);
    assert!(rest.is_empty());
}

fn survives_json<T: AvroRecord + PartialEq + std::fmt::Debug>(mut choices: Choices) {
    let value = T::made(&mut choices);
    let text = value.to_json().to_string();
    assert_eq!(T::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), value);
}

/// Every prefix is refused: no field is optional at the end.
fn refuses_truncation<T: AvroRecord + PartialEq + std::fmt::Debug>(mut choices: Choices) {
    let bytes = bytes_of(&T::made(&mut choices));
    for length in 0..bytes.len() {
        assert!(T::decode_datum(&mut &bytes[..length]).is_err(), "{} of {} bytes", length, bytes.len());
    }
}

/// Whatever is read is a value that is written and read again. Its fields are told apart exactly where it is read, and
/// make the same bytes again.
fn never_panics<T: AvroRecord + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = T::decode_datum(&mut &*bytes) {
        assert_eq!(T::decode_datum(&mut bytes_of(&value).as_slice()), Ok(value));
    }
    let whole = Codec::offline().decode::<T>(&[&[0], &Codec::offline().id_of::<T>().to_be_bytes()[..], bytes].concat());
    let joined = T::fields(bytes).map(|fields| {
        let mut joined = Vec::new();
        T::encode_fields(&fields, &mut joined);
        joined
    });
    assert_eq!(joined, whole.map(|_| bytes.to_vec()));
}

fn never_panics_when_bent<T: AvroRecord + PartialEq + std::fmt::Debug>(mut choices: Choices, bends: &[(usize, u8)]) {
    let mut bytes = bytes_of(&T::made(&mut choices));
    for (position, byte) in bends {
        let length = bytes.len();
        bytes[position % length] = *byte;
    }
    never_panics::<T>(&bytes);
}

/// A version with one more field, in front, is another schema and the same record.
fn resolves_another_version<T: AvroRecord + PartialEq + std::fmt::Debug>(mut choices: Choices) {
    let mut schema: Value = serde_json::from_str(T::schema_json()).unwrap();
    schema["fields"].as_array_mut().unwrap().insert(0, json!({ "name": "extra", "type": "boolean" }));
    let codec = Codec::offline();
    codec.learn(900, Some(&schema.to_string()));
    let value = T::made(&mut choices);
    let bytes = [&[0], &900_u32.to_be_bytes()[..], &[1], &bytes_of(&value)].concat();
    assert_eq!(codec.decode(&bytes), Ok(value));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bytes_agree_with_apache_avro(choices in choices()) {
        for_every_record!(agrees_with_apache(choices.clone()));
    }

    #[test]
    fn another_version_of_any_record_is_resolved(choices in choices()) {
        for_every_record!(resolves_another_version(choices.clone()));
    }

    #[test]
    fn json_goes_both_ways(choices in choices()) {
        for_every_record!(survives_json(choices.clone()));
    }

    #[test]
    fn a_record_cut_short_is_refused(choices in choices()) {
        for_every_record!(refuses_truncation(choices.clone()));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for_every_record!(never_panics(&bytes));
    }

    #[test]
    fn bent_bytes_never_panic(choices in choices(), bends in prop::collection::vec(any::<(usize, u8)>(), 1..6)) {
        for_every_record!(never_panics_when_bent(choices.clone(), &bends));
    }
}

#[test]
fn fields_are_read_one_by_one() {
    let mut order = sample();
    let bytes = bytes_of(&order);
    let mut fields = OrderPlaced::fields(&bytes).unwrap();
    assert_eq!(fields.order_id.text(), order.order_id);
    assert_eq!(fields.lines.get(), order.lines);
    assert_eq!(fields.placed_at.get(), order.placed_at);
    fields.channel = Field::EMPTY;
    order.channel.clear();
    let mut joined = Vec::new();
    OrderPlaced::encode_fields(&fields, &mut joined);
    assert_eq!(joined, bytes_of(&order));

    let mut event = PaymentEvent::made(&mut Choices(Vec::new().into_iter()));
    for code in [None, Some("do_not_honor")] {
        event.decline_code = code.map(str::to_owned);
        assert_eq!(PaymentEvent::fields(&bytes_of(&event)).unwrap().decline_code.text(), code);
    }
}

fn problem<T: Datum>(bytes: &[u8]) -> String {
    match T::read(&mut &*bytes) {
        Ok(_) => panic!("read"),
        Err(fault) => format!("{}: {}", fault.field, fault.problem),
    }
}

#[test]
fn hostile_lengths_are_refused() {
    let most = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let least = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert!(problem::<String>(&most).contains("has length 9223372036854775807"));
    assert!(problem::<String>(&[1]).contains("has length -1"));
    assert!(problem::<Vec<StockLine>>(&most).contains("announces 9223372036854775807"));
    assert!(problem::<Vec<StockLine>>(&least).contains("cut short"), "a negative count wants a size");
    let with_size = [least.as_slice(), &[0]].concat();
    assert!(problem::<Vec<StockLine>>(&with_size).contains("announces 9223372036854775808"));
    assert!(problem::<i64>(&[0xff; 11]).contains("64 bits"));
    assert!(problem::<i32>(&most).contains("32 bits"));
    assert!(problem::<bool>(&[2]).contains("neither"));
    assert!(problem::<Option<i64>>(&[4, 0]).contains("branch 2"));
    assert!(problem::<String>(&[2, 0xff]).contains("utf-8"));
    assert!(problem::<PaymentState>(&[22]).contains("symbol number 11"));
    assert!(problem::<PaymentState>(&[1]).contains("symbol number -1"));
}

#[test]
fn arrays_are_read_in_blocks_of_either_kind() {
    // Two elements in a block with its size (count -2, 4 bytes), one in a block without, then the end.
    let bytes = [3, 8, 2, b'a', 2, b'b', 2, 2, b'c', 0];
    assert_eq!(<Vec<String>>::read(&mut bytes.as_slice()).unwrap(), ["a", "b", "c"]);
}

#[test]
fn a_fault_names_its_place() {
    let placed = sample();
    let mut bytes = bytes_of(&placed);
    let quantity = bytes.iter().rposition(|&byte| byte == 14).unwrap();
    bytes.splice(quantity..=quantity, [0xff; 10]);
    let error = OrderPlaced::decode_datum(&mut bytes.as_slice()).unwrap_err().to_string();
    assert!(error.starts_with("malformed OrderPlaced.lines[1].quantity: "), "{error}");
}

fn sample() -> OrderPlaced {
    let line = |sku: &str, quantity| OrderLine { sku: sku.to_owned(), quantity };
    OrderPlaced {
        order_id: "o".into(),
        customer_id: "c".into(),
        currency: "EUR".into(),
        lines: vec![line("a", 1), line("b", 7)],
        payment_method: "tok".into(),
        expected_total: Some(Money { minor: 800, currency: "EUR".into() }),
        channel: "web".into(),
        placed_at: 0,
    }
}

#[test]
fn bad_json_names_the_field() {
    let refused = |edit: fn(&mut Value)| {
        let mut json = sample().to_json();
        edit(&mut json);
        OrderPlaced::from_json(&json).unwrap_err().to_string()
    };
    let missing = refused(|json| {
        json.as_object_mut().unwrap().remove("currency");
    });
    assert_eq!(missing, "not a OrderPlaced: `currency` is missing and has no default");
    let unknown = refused(|json| json["lines"][1]["colour"] = "red".into());
    assert!(unknown.starts_with("not a OrderPlaced: `lines[1].colour` is not a field of OrderLine"), "{unknown}");
    let wrong = refused(|json| json["expected_total"]["minor"] = json!(1.5));
    assert!(wrong.contains("`expected_total.minor` wants a whole number of 64 bits, has 1.5"), "{wrong}");
    let error =
        crate::encode_json(&Codec::offline(), "stock.events", &json!({ "kind": "LOST" })).unwrap_err().to_string();
    assert!(error.contains("`order_id` is missing"), "{error}");
    assert!(
        PaymentState::parse_json(&json!("LOST")).unwrap_err().problem.contains("wants one of UNKNOWN, AUTHORIZING")
    );
}

#[test]
fn what_has_a_default_may_be_missing_from_json() {
    let mut json = sample().to_json();
    json.as_object_mut().unwrap().remove("expected_total");
    assert_eq!(OrderPlaced::from_json(&json).unwrap(), OrderPlaced { expected_total: None, ..sample() });
}

#[test]
fn encoding_into_a_large_enough_buffer_keeps_it() {
    let mut out = Vec::with_capacity(1_024);
    let before = out.as_ptr();
    sample().encode_datum(&mut out);
    assert_eq!(out.as_ptr(), before);
}
