//! TOML and property lists into the same values.

use toml::de::{DeTable, DeValue};

use super::{Document, DocumentError, Format, Item, Position, Source, Value, property_list, xml};

pub(super) fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
    if bytes.starts_with(b"bplist") {
        let items = binary_property_list(bytes)?;
        let (format, text) = (Format::Binary, String::new());
        let source = Source { format, text };
        return Ok(Document { items, source });
    }
    let text = std::str::from_utf8(bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (items, format) = if text.trim_start().starts_with('<') {
        (xml_property_list(text)?, Format::Xml)
    } else {
        (toml_table(text)?, Format::Toml)
    };
    let text = text.to_owned();
    let source = Source { format, text };
    Ok(Document { items, source })
}

fn toml_table(text: &str) -> Result<Vec<Item>, DocumentError> {
    let table = DeTable::parse(text).map_err(|source| {
        let at = source.span().map(|span| Position::of(text, span.start));
        DocumentError::Toml { at, source }
    })?;
    Ok(toml_items(table.get_ref()))
}

fn toml_items(table: &DeTable<'_>) -> Vec<Item> {
    let items = table.iter().map(|(key, value)| Item {
        key: key.get_ref().to_string(),
        offset: Some(key.span().start),
        value: toml_value(value.get_ref()),
    });
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|item| item.offset);
    items
}

fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(value) => {
            i128::from_str_radix(value.as_str(), value.radix()).map_or(Value::Other, Value::Integer)
        }
        DeValue::Float(value) => value.as_str().parse().map_or(Value::Other, Value::Real),
        DeValue::String(value) => Value::String(value.to_string()),
        DeValue::Array(values) => {
            let values = values.iter().map(|value| toml_value(value.get_ref()));
            Value::Array(values.collect())
        }
        DeValue::Table(table) => Value::Dictionary(toml_items(table)),
        DeValue::Datetime(_) => Value::Other,
    }
}

fn binary_property_list(bytes: &[u8]) -> Result<Vec<Item>, DocumentError> {
    let list = property_list::parse(bytes);
    dictionary(list.map_err(|source| DocumentError::PropertyList { at: None, source })?)
}

fn xml_property_list(text: &str) -> Result<Vec<Item>, DocumentError> {
    if let Some(offset) = xml::unknown_entity(text) {
        let at = Position::of(text, offset);
        return Err(DocumentError::UnknownEntity { at });
    }
    let plain = xml::without_character_data(text);
    let list = property_list::parse(plain.as_bytes()).map_err(|source| {
        let at = offset_in(&source).map(|offset| Position::of(&plain, offset));
        DocumentError::PropertyList { at, source }
    })?;
    let mut items = dictionary(list)?;
    locate(&mut items, &mut xml::keys(text));
    Ok(items)
}

fn dictionary(list: Value) -> Result<Vec<Item>, DocumentError> {
    match list {
        Value::Dictionary(items) => Ok(items),
        _ => Err(DocumentError::NotATable),
    }
}

/// How many keys of a text are looked at to find one.
const NEAR: usize = 16;

/// Both the keys of the text and those of a dictionary come in the order of the text. One that is
/// written in a way that is not known here has no place.
fn locate<I: Iterator<Item = (String, usize)> + Clone>(items: &mut [Item], places: &mut I) {
    for item in items {
        let mut near = places.clone().take(NEAR);
        if let Some(index) = near.position(|(key, _)| key == item.key) {
            item.offset = places.nth(index).map(|(_, offset)| offset);
        }
        locate_below(&mut item.value, places);
    }
}

fn locate_below<I: Iterator<Item = (String, usize)> + Clone>(value: &mut Value, places: &mut I) {
    match value {
        Value::Dictionary(items) => locate(items, places),
        Value::Array(values) => {
            for value in values {
                locate_below(value, places);
            }
        }
        _ => {}
    }
}

/// The parser tells where it stopped in the text of its error only.
fn offset_in(error: &plist::Error) -> Option<usize> {
    let text = error.to_string();
    let (_, offset) = text.rsplit_once("(offset ")?;
    offset.strip_suffix(')')?.parse().ok()
}
