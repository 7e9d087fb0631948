//! The registry's door for fuzzing: see [`crate::fuzzing`].

use serde_json::Value;

use super::catalog::{Catalog, Wanted, Which};
use super::compatibility::Level;
use super::mode::Mode;
use super::records::{Fact, Reference};

/// Bodies sent to the registry, one a line: JSON with `schema` and `references` is registered under `s`, looked up and
/// held against what is there at every level; with `compatibility` or `mode`, that is set. Each line is also read as a
/// record of `_schemas`, key and value divided by a tab.
pub fn registry(bytes: &[u8]) {
    let mut catalog = Catalog::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(tab) = line.iter().position(|byte| *byte == b'\t')
            && let Ok(fact) = Fact::decode(&line[..tab], Some(&line[tab + 1..]))
        {
            catalog.apply(fact);
        }
        if let Ok(body) = serde_json::from_slice::<Value>(line) {
            one(&mut catalog, &body);
        }
    }
}

fn one(catalog: &mut Catalog, body: &Value) {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let number = |name: &str| body.get(name).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    if let Some(level) = text("compatibility").and_then(Level::parse) {
        catalog.apply(Fact::Level { subject: None, level: Some(level) });
    }
    if let Some(mode) = text("mode").and_then(Mode::parse) {
        catalog.apply(Fact::Mode { subject: None, mode: Some(mode) });
    }
    let references = body.get("references").cloned().and_then(|all| serde_json::from_value::<Vec<Reference>>(all).ok());
    let Ok(offered) = catalog.offer(text("schema").unwrap_or_default(), references.unwrap_or_default()) else {
        return;
    };
    catalog.find("s", &offered, Which::All).ok();
    catalog.test("s", Some(Wanted::Latest), &offered).ok();
    let given = (number("id").filter(|id| *id >= 0), number("version").filter(|version| *version >= 1));
    let Ok((_, Some(fact))) = catalog.register("s", &offered, given) else {
        return;
    };
    if let Ok((key, value)) = fact.encode()
        && let Ok(read) = Fact::decode(&key, value.as_deref())
    {
        assert_eq!(read, fact, "what is stored is read back");
        catalog.apply(read);
    }
}
