//! Values into TOML and property lists.

use serde::ser::{Error as _, Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use thiserror::Error;

use super::{Document, Format, Item, Value, sorted};

/// Why a document has no form in a format.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A value that not every format has.
    #[error("{key} has a date, data or a UID, which is not converted")]
    Other {
        /// The key at the top under which it is.
        key: String,
    },
    /// A text or a number that the format has no way to say, such as a control character in XML.
    #[error("{key} cannot be said in this format")]
    Changed {
        /// The key at the top under which it is.
        key: String,
    },
    /// What the writer of TOML says.
    #[error("not written as TOML")]
    Toml(#[from] toml::ser::Error),
    /// What the writer of property lists says.
    #[error("not written as a property list")]
    PropertyList(#[from] plist::Error),
}

pub(super) fn write(items: &[Item], format: Format) -> Result<Vec<u8>, WriteError> {
    if let Some(item) = items.iter().find(|item| has_other(&item.value)) {
        let key = item.key.clone();
        return Err(WriteError::Other { key });
    }
    let changed = |key: &str| WriteError::Changed {
        key: key.to_owned(),
    };
    if format == Format::Xml
        && let Some(item) = items.iter().find(|item| !is_xml(item))
    {
        return Err(changed(&item.key));
    }
    let bytes = serialize(items, format)?;
    match difference(items, &bytes) {
        None => Ok(bytes),
        Some(key) => Err(changed(key)),
    }
}

fn has_other(value: &Value) -> bool {
    match value {
        Value::Other => true,
        Value::Array(values) => values.iter().any(has_other),
        Value::Dictionary(items) => items.iter().any(|item| has_other(&item.value)),
        _ => false,
    }
}

fn serialize(items: &[Item], format: Format) -> Result<Vec<u8>, WriteError> {
    let table = Table(items);
    let mut bytes = Vec::new();
    match format {
        Format::Toml => return Ok(toml::to_string_pretty(&table)?.into_bytes()),
        Format::Xml => {
            plist::to_writer_xml(&mut bytes, &table)?;
            bytes.push(b'\n');
        }
        Format::Binary => plist::to_writer_binary(&mut bytes, &table)?,
    }
    Ok(bytes)
}

/// Whether all texts are XML. The writer lets others pass, and its reader takes them.
fn is_xml(item: &Item) -> bool {
    is_xml_text(&item.key) && is_xml_value(&item.value)
}

fn is_xml_value(value: &Value) -> bool {
    match value {
        Value::String(text) => is_xml_text(text),
        Value::Array(values) => values.iter().all(is_xml_value),
        Value::Dictionary(items) => items.iter().all(is_xml),
        _ => true,
    }
}

/// A reader of XML makes a newline of a carriage return.
fn is_xml_text(text: &str) -> bool {
    let forbidden = |c| matches!(c, '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    !text.contains(forbidden)
}

/// A key of which the bytes say something else than the items do. Writers do not tell what their
/// format cannot carry, so what was written is read again.
fn difference<'a>(items: &'a [Item], bytes: &[u8]) -> Option<&'a str> {
    let written = Document::parse(bytes).map_or(Vec::new(), |document| document.items);
    let mut written = sorted(&written).into_iter();
    let item = sorted(items)
        .into_iter()
        .find(|item| written.next() != Some(item));
    item.map(|item| item.key.as_str())
}

struct Table<'a>(&'a [Item]);

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for item in self.0 {
            map.serialize_entry(&item.key, &item.value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => Err(S::Error::custom("a number is out of range")),
            },
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::Array(values) => {
                let mut seq = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    seq.serialize_element(value)?;
                }
                seq.end()
            }
            Self::Dictionary(items) => Table(items).serialize(serializer),
            Self::Other => Err(S::Error::custom("a value that not every format has")),
        }
    }
}
