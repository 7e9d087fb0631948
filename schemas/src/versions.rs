//! Every version that a schema ever had, and whether the compiled ones go with them. Owns the rules a schema must keep;
//! never asks a registry.

use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility as Readable, SchemaCompatibility};
use serde_json::Value;

use crate::topics::{Compatibility, TOPICS};

macro_rules! versions {
    ($( $file:literal $version:literal; )+) => {
        /// File, version and schema, oldest first. Version 0 is a form from before the first release.
        pub(crate) const VERSIONS: &[(&str, u32, &str)] = &[$( (
            $file,
            $version,
            include_str!(concat!("../versions/", $file, ".v", $version, ".avsc")),
        ) ),+];
    };
}

versions! {
    "cancel-requested" 1;
    "order-accepted" 1;
    "order-event" 1;
    "order-placed" 0;
    "order-placed" 1;
    "order-rejected" 1;
    "payment-command" 1;
    "payment-event" 1;
    "product" 1;
    "shipment-update" 1;
    "stock-adjustment" 1;
    "stock-command" 1;
    "stock-event" 0;
    "stock-event" 1;
    "stock-level" 1;
}

/// Names that only a schema with card data in it would have. Compared word by word, split at underscores.
const CARD_WORDS: &[&str] = &[
    "pan",
    "cvv",
    "cvc",
    "cvv2",
    "cvc2",
    "csc",
    "card",
    "cardnumber",
    "cardholder",
    "track1",
    "track2",
    "pin",
    "iban",
    "expiry",
    "bin",
];

/// Whether a schema may follow another on a subject of this level.
///
/// # Errors
/// In words, with which of the two cannot be read and the field it is about.
pub fn compatibility(old_json: &str, new_json: &str, level: Compatibility) -> Result<(), String> {
    let parse =
        |which, json| Schema::parse_str(json).map_err(|error| format!("the {which} schema is not Avro: {error}"));
    let (old, new) = (parse("old", old_json)?, parse("new", new_json)?);
    reads(&new, &old).map_err(|why| format!("the new schema cannot read what the old one wrote: {why}"))?;
    if level == Compatibility::FullTransitive {
        reads(&old, &new).map_err(|why| format!("the old schema cannot read what the new one writes: {why}"))?;
    }
    Ok(())
}

fn reads(reader: &Schema, writer: &Schema) -> Result<(), String> {
    match SchemaCompatibility::can_read(writer, reader) {
        Ok(Readable::Full) => Ok(()),
        Ok(Readable::Partial) => Err("some values have no counterpart (a symbol, or a branch of a union)".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Every fault of the compiled schemas: their form, and whether they go with every version before them. Empty when
/// there is none; a line each.
pub fn lint() -> Vec<String> {
    let mut faults = Vec::new();
    for topic in TOPICS {
        let mut here = form(topic.schema_json);
        let stored: Vec<_> = VERSIONS.iter().filter(|(file, ..)| *file == topic.file).collect();
        for (_, version, json) in &stored {
            if let Err(why) = compatibility(json, topic.schema_json, topic.compatibility) {
                here.push(format!("not {} with version {version}: {why}", topic.compatibility.as_str()));
            }
        }
        if stored.last().is_none_or(|(.., latest)| *latest != topic.schema_json) {
            here.push("differs from its latest stored version; store it as a new one in schemas/versions/".to_owned());
        }
        faults.extend(here.into_iter().map(|fault| format!("schemas/avro/{}.avsc: {fault}", topic.file)));
    }
    faults
}

/// The faults in the form of one schema.
fn form(json: &str) -> Vec<String> {
    match serde_json::from_str::<Value>(json) {
        Ok(schema) => {
            let mut faults = Vec::new();
            if schema["namespace"] != "millrace" {
                faults.push("its namespace is not `millrace`".to_owned());
            }
            walk(&schema, "", &mut faults);
            faults
        }
        Err(error) => vec![format!("is not JSON: {error}")],
    }
}

fn walk(schema: &Value, place: &str, faults: &mut Vec<String>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| walk(branch, place, faults)),
        Value::Object(_) => match schema["type"].as_str() {
            Some("record") => record(schema, faults),
            Some("enum") => symbols(schema, faults),
            Some("array") => walk(&schema["items"], place, faults),
            Some("long") => {}
            _ => faults.push(format!("{place} has a shape that records here do not use: {schema}")),
        },
        Value::String(name) if ["float", "double", "bytes"].contains(&name.as_str()) => {
            faults.push(format!("{place} is a {name}; records use text, whole numbers and booleans"));
        }
        _ => {}
    }
}

fn record(schema: &Value, faults: &mut Vec<String>) {
    let record = schema["name"].as_str().unwrap_or("a record without name");
    undocumented(schema, record, faults);
    for field in schema["fields"].as_array().into_iter().flatten() {
        let name = field["name"].as_str().unwrap_or_default();
        let place = format!("{record}.{name}");
        undocumented(field, &place, faults);
        if smells_of_card_data(name) {
            faults.push(format!("{place} sounds like card data; a payment method is a token of the provider"));
        }
        if field.get("aliases").is_some() {
            faults.push(format!("{place} has aliases, which resolution here does not apply"));
        }
        let bare_null = field["type"].as_array().is_some_and(|branches| branches[0] == "null" && branches.len() == 2);
        if field["type"].is_array() && !(bare_null && field.get("default") == Some(&Value::Null)) {
            faults.push(format!("{place} is a union that is not [null, one type] with default null"));
        }
        let time = name == "at" || name.ends_with("_at") || name == "since" || name == "until";
        if time != is_time(&field["type"]) {
            faults.push(format!(
                "{place}: times, and only they, are timestamp-millis and called at, .._at, since, until"
            ));
        }
        walk(&field["type"], &place, faults);
    }
}

fn symbols(schema: &Value, faults: &mut Vec<String>) {
    let name = schema["name"].as_str().unwrap_or("an enum without name");
    undocumented(schema, name, faults);
    if schema["symbols"][0] != "UNKNOWN" || schema["default"] != "UNKNOWN" {
        faults.push(format!("{name}: the first symbol and the default of an enum are UNKNOWN"));
    }
}

fn is_time(schema: &Value) -> bool {
    match schema {
        Value::Array(branches) => branches.iter().any(is_time),
        other => other["logicalType"] == "timestamp-millis",
    }
}

fn undocumented(schema: &Value, place: &str, faults: &mut Vec<String>) {
    if schema["doc"].as_str().is_none_or(|doc| doc.trim().is_empty()) {
        faults.push(format!("{place} has no doc"));
    }
}

fn smells_of_card_data(field: &str) -> bool {
    field.to_lowercase().split('_').any(|word| CARD_WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#;
    const WITH_DEFAULT: &str =
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"b","type":"int","default":0}]}"#;
    const WITHOUT_DEFAULT: &str =
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"b","type":"int"}]}"#;
    const DROPPED: &str = r#"{"type":"record","name":"R","fields":[{"name":"c","type":"int","default":1}]}"#;

    #[test]
    fn the_schemas_have_no_faults() {
        assert_eq!(lint(), Vec::<String>::new());
    }

    #[test]
    fn a_field_with_a_default_may_come_and_one_without_may_not() {
        assert_eq!(compatibility(OLD, WITH_DEFAULT, Compatibility::FullTransitive), Ok(()));
        let refused = compatibility(OLD, WITHOUT_DEFAULT, Compatibility::BackwardTransitive).unwrap_err();
        assert!(refused.contains("new schema cannot read") && refused.contains('b'), "{refused}");
    }

    #[test]
    fn only_commands_may_drop_a_required_field() {
        assert_eq!(compatibility(OLD, DROPPED, Compatibility::BackwardTransitive), Ok(()));
        let refused = compatibility(OLD, DROPPED, Compatibility::FullTransitive).unwrap_err();
        assert!(refused.contains("old schema cannot read"), "{refused}");
    }

    #[test]
    fn an_enum_that_loses_a_symbol_without_default_is_refused() {
        let old = r#"{"type":"enum","name":"E","symbols":["A","B"]}"#;
        let new = r#"{"type":"enum","name":"E","symbols":["A"]}"#;
        assert!(compatibility(old, new, Compatibility::BackwardTransitive).is_err());
    }

    #[test]
    fn every_rule_of_form_finds_its_fault() {
        let bad = r#"{"type":"record","name":"Bad","fields":[
            {"name":"card_number","type":"string","doc":"x"},
            {"name":"silent","type":"string"},
            {"name":"made_at","type":"long","doc":"x"},
            {"name":"price","type":"double","doc":"x"},
            {"name":"maybe","type":["null","string"],"doc":"x"},
            {"name":"kind","doc":"x","type":{"type":"enum","name":"K","doc":"x","symbols":["A"]}},
            {"name":"other","type":"string","aliases":["o"],"doc":"x"}]}"#;
        let faults = form(bad).join("\n");
        for expected in [
            "namespace",
            "Bad has no doc",
            "Bad.card_number sounds like card data",
            "Bad.silent has no doc",
            "Bad.made_at: times",
            "Bad.price is a double",
            "Bad.maybe is a union",
            "K: the first symbol",
            "Bad.other has aliases",
        ] {
            assert!(faults.contains(expected), "no `{expected}` in:\n{faults}");
        }
        assert_eq!(faults.lines().count(), 9, "{faults}");
    }

    #[test]
    fn card_data_is_told_from_other_names() {
        for field in ["pan", "cvv", "card_number", "CVC", "card_expiry", "cardholder"] {
            assert!(smells_of_card_data(field), "{field}");
        }
        for field in ["payment_method", "company", "captured_minor", "shipping", "expected_total", "cardinal"] {
            assert!(!smells_of_card_data(field), "{field}");
        }
    }
}
