//! TOML and property lists into the same values.

use std::collections::BTreeSet;

use portolan_wire::group::GroupId;
use toml::de::{DeTable, DeValue};

use super::{Entitlements, EntitlementsError, Position, property_list};
use crate::key::{self, Shape};

/// A key with its value, from whatever format, and where the key is in the text.
struct Item {
    key: String,
    offset: Option<usize>,
    value: Value,
}

pub(super) enum Value {
    Boolean(bool),
    String(String),
    Array(Vec<Value>),
    Dictionary(Vec<(String, Value)>),
    Other,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Entitlements, EntitlementsError> {
    if bytes.starts_with(b"bplist") {
        return collect("", binary_property_list(bytes)?);
    }
    let text = std::str::from_utf8(bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('<') {
        collect(text, xml_property_list(text)?)
    } else {
        collect(text, toml_table(text)?)
    }
}

fn collect(text: &str, items: Vec<Item>) -> Result<Entitlements, EntitlementsError> {
    let mut entitlements = Entitlements::default();
    let mut seen = BTreeSet::new();
    for Item { key, offset, value } in items {
        let at = || offset.map(|offset| Position::of(text, offset));
        if !seen.insert(key.clone()) {
            return Err(EntitlementsError::Repeated { key, at: at() });
        }
        apply(&mut entitlements, key, value, at)?;
    }
    Ok(entitlements)
}

fn toml_table(text: &str) -> Result<Vec<Item>, EntitlementsError> {
    let table = DeTable::parse(text).map_err(|source| {
        let at = source.span().map(|span| Position::of(text, span.start));
        EntitlementsError::Toml { at, source }
    })?;
    let mut items = Vec::new();
    flatten("", table.get_ref(), &mut items);
    items.sort_by_key(|item| item.offset);
    Ok(items)
}

/// A key may be written with quotes, or as TOML's dotted key, which makes tables of its parts.
fn flatten(prefix: &str, table: &DeTable<'_>, items: &mut Vec<Item>) {
    for (key, value) in table {
        let offset = Some(key.span().start);
        let key = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if key::shape(&key).is_none() => {
                flatten(&format!("{key}."), inner, items);
            }
            value => {
                let value = toml_value(value);
                items.push(Item { key, offset, value });
            }
        }
    }
}

fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::String(value) => Value::String(value.to_string()),
        DeValue::Array(values) => {
            let values = values.iter().map(|value| toml_value(value.get_ref()));
            Value::Array(values.collect())
        }
        DeValue::Table(table) => {
            let items = table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), toml_value(value.get_ref())));
            Value::Dictionary(items.collect())
        }
        _ => Value::Other,
    }
}

fn binary_property_list(bytes: &[u8]) -> Result<Vec<Item>, EntitlementsError> {
    let list = property_list::parse(bytes)
        .map_err(|source| EntitlementsError::PropertyList { at: None, source })?;
    let offset = None;
    let items = dictionary(list)?.into_iter();
    Ok(items
        .map(|(key, value)| Item { key, offset, value })
        .collect())
}

/// The parser does not keep positions, so that the keys are looked for in the text.
fn xml_property_list(text: &str) -> Result<Vec<Item>, EntitlementsError> {
    let list = property_list::parse(text.as_bytes()).map_err(|source| {
        let at = offset_in(&source).map(|offset| Position::of(text, offset));
        EntitlementsError::PropertyList { at, source }
    })?;
    let mut places = xml_keys(text);
    let items = dictionary(list)?.into_iter().map(|(key, value)| {
        let offset = places
            .find(|(found, _)| *found == key)
            .map(|(_, offset)| offset);
        Item { key, offset, value }
    });
    Ok(items.collect())
}

fn dictionary(list: Value) -> Result<Vec<(String, Value)>, EntitlementsError> {
    match list {
        Value::Dictionary(items) => Ok(items),
        _ => Err(EntitlementsError::NotATable),
    }
}

/// All keys outside comments, with where they begin. Both these and the keys of a dictionary come
/// in the order of the text.
fn xml_keys(text: &str) -> impl Iterator<Item = (String, usize)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = text.len() - rest.len() + rest.find('<')?;
            let tag = text.get(start..)?;
            if tag.starts_with("<!--") {
                (_, rest) = tag.split_once("-->")?;
            } else if let Some(key) = tag.strip_prefix("<key>") {
                let (key, after) = key.split_once("</key>")?;
                rest = after;
                return Some((unescaped(key), start));
            } else {
                rest = tag.get(1..)?;
            }
        }
    })
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// The parser tells where it stopped in the text of its error only.
fn offset_in(error: &plist::Error) -> Option<usize> {
    let text = error.to_string();
    let (_, offset) = text.rsplit_once("(offset ")?;
    offset.strip_suffix(')')?.parse().ok()
}

fn apply(
    entitlements: &mut Entitlements,
    key: String,
    value: Value,
    at: impl Fn() -> Option<Position>,
) -> Result<(), EntitlementsError> {
    let Some(shape) = key::shape(&key) else {
        let nearest = key::nearest(&key);
        return Err(EntitlementsError::UnknownKey {
            key,
            at: at(),
            nearest,
        });
    };
    let expected = match (shape, value) {
        (Shape::Boolean, Value::Boolean(value)) => {
            if key == key::APP_SANDBOX {
                entitlements.app_sandbox = value;
            }
            return Ok(());
        }
        (Shape::Dictionary, Value::Dictionary(_)) => return Ok(()),
        (Shape::Strings, value) => match strings(value) {
            Some(values) => return set(entitlements, &key, values, at),
            None => "a string or an array of strings",
        },
        (Shape::Boolean, _) => "true or false",
        (Shape::Dictionary, _) => "a dictionary",
    };
    Err(EntitlementsError::WrongType {
        key,
        at: at(),
        expected,
    })
}

fn strings(value: Value) -> Option<Vec<String>> {
    let string = |value| match value {
        Value::String(text) => Some(text),
        _ => None,
    };
    match value {
        Value::Array(values) => values.into_iter().map(string).collect(),
        value => string(value).map(|text| vec![text]),
    }
}

fn set(
    entitlements: &mut Entitlements,
    key: &str,
    values: Vec<String>,
    at: impl Fn() -> Option<Position>,
) -> Result<(), EntitlementsError> {
    let names = match key {
        key::APPLICATION_GROUPS => {
            let groups = values.into_iter().map(|group| group_id(group, &at));
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

fn group_id(
    group: String,
    at: impl Fn() -> Option<Position>,
) -> Result<GroupId, EntitlementsError> {
    group.parse().map_err(|source| EntitlementsError::Group {
        group,
        at: at(),
        source,
    })
}
