//! Turns one definition of a record or an enum into its Rust type, its Avro binary form and its JSON form. Owns that the
//! order of the fields written is the order of the fields defined; never says what a field means.

use serde_json::{Map, Value};

use crate::datum::{Datum, Fault, Read};

/// The fields of a JSON object, none of them unknown.
pub(crate) fn object<'a>(json: &'a Value, record: &str, fields: &[&str]) -> Read<&'a Map<String, Value>> {
    let object = json.as_object().ok_or_else(|| Fault::new(format!("wants an object ({record}), has {json}")))?;
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        Some(key) => {
            Err(Fault::new(format!("is not a field of {record}; its fields are {}", fields.join(", "))).within(key))
        }
        None => Ok(object),
    }
}

/// One field of a JSON object; when it is missing, its default.
pub(crate) fn field<T: Datum>(object: &Map<String, Value>, name: &str, default: Option<T>) -> Read<T> {
    match object.get(name) {
        Some(json) => T::parse_json(json),
        None => default.ok_or_else(|| Fault::new("is missing and has no default")),
    }
    .map_err(|fault| fault.within(name))
}

/// Defines a record: `field: Type` is required, `field: Type = value` has a default.
macro_rules! record {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $( $(#[$meaning:meta])* $field:ident: $type:ty $(= $default:expr)?, )+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[$meaning])* pub $field: $type, )+ }

        impl $crate::datum::Datum for $name {
            const MIN_BYTES: usize = 0 $(+ <$type as $crate::datum::Datum>::MIN_BYTES)+;

            fn write(&self, out: &mut Vec<u8>) {
                $( $crate::datum::Datum::write(&self.$field, out); )+
            }

            fn read(input: &mut &[u8]) -> $crate::datum::Read<Self> {
                Ok(Self { $(
                    $field: <$type as $crate::datum::Datum>::read(input)
                        .map_err(|fault| fault.within(stringify!($field)))?,
                )+ })
            }

            fn skip(input: &mut &[u8]) -> $crate::datum::Read<()> {
                $( <$type as $crate::datum::Datum>::skip(input).map_err(|fault| fault.within(stringify!($field)))?; )+
                Ok(())
            }

            fn json(&self) -> serde_json::Value {
                let mut object = serde_json::Map::new();
                $( object.insert(stringify!($field).to_owned(), $crate::datum::Datum::json(&self.$field)); )+
                serde_json::Value::Object(object)
            }

            fn parse_json(json: &serde_json::Value) -> $crate::datum::Read<Self> {
                let object = $crate::define::object(json, stringify!($name), &[$( stringify!($field) ),+])?;
                Ok(Self { $(
                    $field: $crate::define::field::<$type>(
                        object, stringify!($field), $crate::define::default_of!($($default)?),
                    )?,
                )+ })
            }

            #[cfg(test)]
            fn shape() -> serde_json::Value {
                let fields: Vec<serde_json::Value> = vec![$({
                    let mut field = serde_json::json!({
                        "name": stringify!($field),
                        "type": <$type as $crate::datum::Datum>::shape(),
                    });
                    let default: Option<$type> = $crate::define::default_of!($($default)?);
                    if let Some(default) = default {
                        field["default"] = $crate::datum::Datum::json(&default);
                    }
                    field
                }),+];
                serde_json::json!({ "type": "record", "name": stringify!($name), "fields": fields })
            }

            #[cfg(test)]
            fn made(choices: &mut $crate::tests::Choices) -> Self {
                Self { $( $field: <$type as $crate::datum::Datum>::made(choices), )+ }
            }
        }

        const _: () = {
            /// The fields as they stand in a datum.
            #[derive(Clone, Copy, Debug)]
            pub struct Fields<'a> { $( $(#[$meaning])* pub $field: $crate::datum::Field<'a, $type>, )+ }

            impl $crate::datum::Split for $name {
                type Fields<'a> = Fields<'a>;

                fn split<'a>(input: &mut &'a [u8]) -> $crate::datum::Read<Fields<'a>> {
                    Ok(Fields { $(
                        $field: $crate::datum::Field::take(input).map_err(|fault| fault.within(stringify!($field)))?,
                    )+ })
                }

                fn join(fields: &Fields<'_>, out: &mut Vec<u8>) {
                    $( out.extend_from_slice(fields.$field.bytes()); )+
                }
            }
        };
    };
}

/// A default, if there is one.
macro_rules! default_of {
    () => {
        None
    };
    ($default:expr) => {
        Some($default)
    };
}

/// Defines an enum of symbols. The first is the default of whoever does not know a symbol.
macro_rules! symbols {
    (
        $(#[$about:meta])*
        pub enum $name:ident {
            $(#[$unknown_meaning:meta])* $unknown:ident = $unknown_symbol:literal,
            $( $(#[$meaning:meta])* $variant:ident = $symbol:literal, )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[$unknown_meaning])*
            #[default]
            $unknown,
            $( $(#[$meaning])* $variant, )+
        }

        impl $name {
            /// Every symbol, in the schema's order.
            pub const ALL: &'static [Self] = &[Self::$unknown, $( Self::$variant, )+];

            /// The symbol, as in the schema.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$unknown => $unknown_symbol,
                    $( Self::$variant => $symbol, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::datum::Datum for $name {
            const MIN_BYTES: usize = 1;

            fn write(&self, out: &mut Vec<u8>) {
                $crate::datum::write_symbol(*self as usize, out);
            }

            fn read(input: &mut &[u8]) -> $crate::datum::Read<Self> {
                $crate::datum::read_symbol(input, Self::ALL.len()).map(|position| Self::ALL[position])
            }

            fn skip(input: &mut &[u8]) -> $crate::datum::Read<()> {
                $crate::datum::read_symbol(input, Self::ALL.len()).map(drop)
            }

            fn json(&self) -> serde_json::Value {
                self.as_str().into()
            }

            fn parse_json(json: &serde_json::Value) -> $crate::datum::Read<Self> {
                let found = json.as_str().and_then(|text| Self::ALL.iter().find(|symbol| symbol.as_str() == text));
                found.copied().ok_or_else(|| {
                    let symbols: Vec<&str> = Self::ALL.iter().map(|symbol| symbol.as_str()).collect();
                    $crate::datum::Fault::new(format!("wants one of {}, has {json}", symbols.join(", ")))
                })
            }

            #[cfg(test)]
            fn shape() -> serde_json::Value {
                let symbols: Vec<&str> = Self::ALL.iter().map(|symbol| symbol.as_str()).collect();
                serde_json::json!({
                    "type": "enum", "name": stringify!($name), "symbols": symbols, "default": $unknown_symbol,
                })
            }

            #[cfg(test)]
            fn made(choices: &mut $crate::tests::Choices) -> Self {
                Self::ALL[choices.below(Self::ALL.len())]
            }
        }
    };
}

pub(crate) use {default_of, record, symbols};
