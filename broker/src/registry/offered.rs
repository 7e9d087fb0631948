//! A schema a client sends: parsed, with the types it takes from other subjects put in. Pure; looks nothing up by itself.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::Schema;
use serde_json::{Map, Value};

use super::records::Reference;
use super::refused::Refused;

/// Names that are types by themselves.
const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
/// Schemas nested deeper than this are refused.
const MAX_DEPTH: usize = 100;

/// Finds the text and the references of a version of another subject.
pub(crate) type Finder<'a> = dyn Fn(&Reference) -> Option<(String, Vec<Reference>)> + 'a;

/// A schema, checked.
#[derive(Debug)]
pub(crate) struct Offered {
    /// As the client wrote it.
    pub(crate) text: String,
    /// Subjects whose types it uses.
    pub(crate) references: Vec<Reference>,
    /// Equal for two schemas that are the same.
    pub(crate) normal: String,
    /// Complete, without names that are defined elsewhere.
    pub(crate) schema: Schema,
}

impl Offered {
    /// Parses Avro schema text. `text_of` finds the text and the references of a version of another subject.
    pub(crate) fn parse(text: &str, references: Vec<Reference>, text_of: &Finder<'_>) -> Result<Self, Refused> {
        let invalid = |error: String| Refused::InvalidSchema(error);
        if text.trim().is_empty() {
            return Err(invalid("Empty schema".to_owned()));
        }
        let schema = if references.is_empty() {
            Schema::parse_str(text).map_err(|error| invalid(error.to_string()))?
        } else {
            let mut known = BTreeMap::new();
            collect(&references, text_of, &mut known, 0)?;
            let json = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
            let mut inline = Inline { known, defined: BTreeSet::new() };
            let complete = inline.schema(json, "", 0)?;
            Schema::parse_str(&complete.to_string()).map_err(|error| invalid(error.to_string()))?
        };
        let normal = normalize(text, &references);
        Ok(Self { text: text.to_owned(), references, normal, schema })
    }
}

/// The schemas that references lead to, by full name.
fn collect(
    references: &[Reference],
    text_of: &Finder<'_>,
    known: &mut BTreeMap<String, Value>,
    depth: usize,
) -> Result<(), Refused> {
    if depth > MAX_DEPTH {
        return Err(Refused::InvalidSchema("references are nested too deeply".to_owned()));
    }
    for reference in references {
        let (subject, version) = (&reference.subject, reference.version);
        let Some((text, further)) = text_of(reference) else {
            let why = format!("No schema reference found for subject \"{subject}\" and version {version}");
            return Err(Refused::InvalidSchema(why));
        };
        collect(&further, text_of, known, depth + 1)?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|error| Refused::InvalidSchema(format!("subject \"{subject}\" version {version}: {error}")))?;
        known.insert(reference.name.clone(), json);
    }
    Ok(())
}

/// Text with sorted keys and without spaces, and the references.
pub(crate) fn normalize(text: &str, references: &[Reference]) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let sorted_map: BTreeMap<String, Value> =
                    map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
                Value::Object(sorted_map.into_iter().collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    // Names of primitive types may come without quotes; they are what they are.
    let mut normal = serde_json::from_str(text).map_or(text.trim().to_owned(), |value| sorted(value).to_string());
    for reference in references {
        normal.push_str(&format!("\n{} {} {}", reference.name, reference.subject, reference.version));
    }
    normal
}

/// Puts the definition of a referenced type where its name is first used.
struct Inline {
    known: BTreeMap<String, Value>,
    defined: BTreeSet<String>,
}

impl Inline {
    fn schema(&mut self, schema: Value, namespace: &str, depth: usize) -> Result<Value, Refused> {
        if depth > MAX_DEPTH {
            return Err(Refused::InvalidSchema("the schema is nested too deeply".to_owned()));
        }
        Ok(match schema {
            Value::String(name) => self.name(name, namespace, depth)?,
            Value::Array(branches) => {
                let branches = branches.into_iter().map(|branch| self.schema(branch, namespace, depth + 1));
                Value::Array(branches.collect::<Result<_, _>>()?)
            }
            Value::Object(map) => Value::Object(self.definition(map, namespace, depth)?),
            other => other,
        })
    }

    fn name(&mut self, name: String, namespace: &str, depth: usize) -> Result<Value, Refused> {
        if PRIMITIVES.contains(&name.as_str()) {
            return Ok(Value::String(name));
        }
        let full = full_name(&name, namespace);
        let found = [full, name.clone()].into_iter().find(|name| self.known.contains_key(name));
        match found {
            Some(found) if !self.defined.contains(&found) => {
                let definition = self.known[&found].clone();
                self.schema(definition, "", depth + 1)
            }
            Some(found) => Ok(Value::String(found)),
            None => Ok(Value::String(name)),
        }
    }

    fn definition(
        &mut self,
        mut map: Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Map<String, Value>, Refused> {
        let mut inner = namespace.to_owned();
        if let Some(name) = map.get("name").and_then(Value::as_str) {
            let given = map.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
            let full = full_name(name, given);
            inner = full.rsplit_once('.').map_or(String::new(), |(namespace, _)| namespace.to_owned());
            self.defined.insert(full);
        }
        for part in ["type", "items", "values"] {
            let is_schema = match map.get(part) {
                // The name of a kind is no name of a type.
                Some(Value::String(kind)) => part != "type" || !is_kind(kind),
                other => other.is_some(),
            };
            if is_schema && let Some(value) = map.remove(part) {
                map.insert(part.to_owned(), self.schema(value, &inner, depth + 1)?);
            }
        }
        if let Some(Value::Array(fields)) = map.get_mut("fields") {
            for field in fields {
                if let Some(kind) = field.get_mut("type") {
                    let value = std::mem::take(kind);
                    *kind = self.schema(value, &inner, depth + 1)?;
                }
            }
        }
        Ok(map)
    }
}

fn is_kind(name: &str) -> bool {
    PRIMITIVES.contains(&name) || matches!(name, "record" | "error" | "enum" | "array" | "map" | "fixed")
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONEY: &str =
        r#"{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"minor","type":"long"}]}"#;

    fn reference() -> Reference {
        Reference { name: "shop.Money".to_owned(), subject: "money".to_owned(), version: 1 }
    }

    fn parse(text: &str) -> Result<Offered, Refused> {
        Offered::parse(text, vec![reference()], &|reference| {
            (reference.subject == "money").then(|| (MONEY.to_owned(), Vec::new()))
        })
    }

    #[test]
    fn a_referenced_type_is_put_in_once() {
        let text = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
            {"name":"total","type":"Money"},{"name":"paid","type":["null","shop.Money"]}]}"#;
        let offered = parse(text).expect("valid");
        let canonical = offered.schema.canonical_form();
        assert_eq!(canonical.matches("minor").count(), 1, "{canonical}");
        assert_eq!(offered.text, text);
    }

    #[test]
    fn what_nobody_defines_is_refused() {
        let text = r#"{"type":"record","name":"Order","fields":[{"name":"a","type":"other.Thing"}]}"#;
        assert!(matches!(parse(text), Err(Refused::InvalidSchema(_))));
        let nowhere = Offered::parse(MONEY, vec![reference()], &|_| None);
        assert!(matches!(nowhere, Err(Refused::InvalidSchema(why)) if why.contains("money")));
    }

    #[test]
    fn references_that_go_in_a_circle_are_refused() {
        let circle = |_: &Reference| Some((MONEY.to_owned(), vec![reference()]));
        assert!(Offered::parse(MONEY, vec![reference()], &circle).is_err());
    }

    #[test]
    fn spaces_and_order_of_keys_do_not_matter() {
        let one = normalize(r#"{"type": "int", "doc": "x"}"#, &[]);
        let two = normalize(r#"{"doc":"x","type":"int"}"#, &[]);
        assert_eq!(one, two);
        assert_ne!(one, normalize(r#"{"doc":"x","type":"int"}"#, &[reference()]));
    }
}
