//! TOML and property lists into the same values.

use portolan_wire::group::GroupId;
use toml::de::{DeTable, DeValue};

use super::{Entitlements, EntitlementsError, Position};
use crate::key::{self, Shape};

/// A key with its value, from whatever format.
struct Item {
    key: String,
    at: Option<Position>,
    value: Value,
}

enum Value {
    Boolean(bool),
    Strings(Vec<String>),
    Other,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Entitlements, EntitlementsError> {
    let items = if bytes.starts_with(b"bplist") {
        property_list(
            plist::Value::from_reader(std::io::Cursor::new(bytes))?,
            None,
        )?
    } else {
        let text = std::str::from_utf8(bytes)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('<') {
            let value = plist::Value::from_reader_xml(text.as_bytes())?;
            property_list(value, Some(text))?
        } else {
            toml_table(text)?
        }
    };
    let mut entitlements = Entitlements::default();
    for item in items {
        apply(&mut entitlements, item)?;
    }
    Ok(entitlements)
}

fn toml_table(text: &str) -> Result<Vec<Item>, EntitlementsError> {
    let table = DeTable::parse(text).map_err(|source| {
        let at = source.span().map(|span| Position::of(text, span.start));
        EntitlementsError::Toml { at, source }
    })?;
    let mut items = Vec::new();
    flatten("", table.get_ref(), text, &mut items);
    Ok(items)
}

/// A key may be written with quotes, or as TOML's dotted key, which makes tables of its parts.
fn flatten(prefix: &str, table: &DeTable<'_>, text: &str, items: &mut Vec<Item>) {
    for (key, value) in table {
        let at = Some(Position::of(text, key.span().start));
        let key = format!("{prefix}{}", key.get_ref());
        let value = match value.get_ref() {
            DeValue::Table(inner) if key::shape(&key).is_none() => {
                flatten(&format!("{key}."), inner, text, items);
                continue;
            }
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::String(value) => Value::Strings(vec![value.to_string()]),
            DeValue::Array(values) => strings(
                values
                    .iter()
                    .map(|value| value.get_ref().as_str().map(str::to_owned)),
            ),
            _ => Value::Other,
        };
        items.push(Item { key, at, value });
    }
}

fn property_list(list: plist::Value, text: Option<&str>) -> Result<Vec<Item>, EntitlementsError> {
    let dictionary = list.into_dictionary().ok_or(EntitlementsError::NotATable)?;
    let item = |(key, value): (String, plist::Value)| {
        let at = text.and_then(|text| position_of_key(text, &key));
        let value = match value {
            plist::Value::Boolean(value) => Value::Boolean(value),
            plist::Value::String(value) => Value::Strings(vec![value]),
            plist::Value::Array(values) => {
                strings(values.into_iter().map(plist::Value::into_string))
            }
            _ => Value::Other,
        };
        Item { key, at, value }
    };
    Ok(dictionary.into_iter().map(item).collect())
}

/// The parser does not keep positions. A key with characters that XML escapes is not found, and
/// then the error has none.
fn position_of_key(text: &str, key: &str) -> Option<Position> {
    let offset = text.match_indices("<key>").find(|(at, tag)| {
        let rest = text.get(at + tag.len()..).unwrap_or_default();
        let end = rest.find("</key>").unwrap_or(0);
        rest.get(..end).map(str::trim) == Some(key)
    });
    offset.map(|(at, _)| Position::of(text, at))
}

fn strings(values: impl Iterator<Item = Option<String>>) -> Value {
    values
        .collect::<Option<_>>()
        .map_or(Value::Other, Value::Strings)
}

fn apply(entitlements: &mut Entitlements, item: Item) -> Result<(), EntitlementsError> {
    let Item { key, at, value } = item;
    let shape = key::shape(&key).ok_or_else(|| {
        let nearest = key::nearest(&key);
        EntitlementsError::UnknownKey {
            key: key.clone(),
            at,
            nearest,
        }
    })?;
    match (shape, value) {
        (Shape::Boolean, Value::Boolean(value)) => {
            if key == key::APP_SANDBOX {
                entitlements.app_sandbox = value;
            }
            Ok(())
        }
        (Shape::Strings, Value::Strings(values)) => set(entitlements, &key, values, at),
        (Shape::Boolean, _) => Err(EntitlementsError::WrongType {
            key,
            at,
            expected: "true or false",
        }),
        (Shape::Strings, _) => {
            let expected = "a string or an array of strings";
            Err(EntitlementsError::WrongType { key, at, expected })
        }
    }
}

fn set(
    entitlements: &mut Entitlements,
    key: &str,
    values: Vec<String>,
    at: Option<Position>,
) -> Result<(), EntitlementsError> {
    let names = match key {
        key::APPLICATION_GROUPS => {
            let groups = values.into_iter().map(|group| group_id(group, at));
            entitlements.application_groups = groups.collect::<Result<_, _>>()?;
            return Ok(());
        }
        key::LOOKUP_GLOBAL => &mut entitlements.lookup_global,
        key::LOOKUP_LOCAL => &mut entitlements.lookup_local,
        key::REGISTER_GLOBAL => &mut entitlements.register_global,
        key::REGISTER_LOCAL => &mut entitlements.register_local,
        _ => return Ok(()),
    };
    *names = values;
    Ok(())
}

fn group_id(group: String, at: Option<Position>) -> Result<GroupId, EntitlementsError> {
    group
        .parse()
        .map_err(|source| EntitlementsError::Group { group, at, source })
}
