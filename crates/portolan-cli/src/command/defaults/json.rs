//! Values as JSON, and parts of them as text.

use std::collections::BTreeMap;
use std::time::SystemTime;

use portolan::defaults::Value;
use serde_json::Value as Json;

/// Data is hexadecimal text and a date is text; a number that is none is null.
pub(super) fn value(value: &Value) -> Json {
    match value {
        Value::Boolean(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Real(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::Data(bytes) => hexadecimal(bytes).into(),
        Value::Date(date) => self::date(*date).into(),
        Value::Array(values) => values.iter().map(self::value).collect(),
        Value::Dictionary(values) => dictionary(values),
    }
}

pub(super) fn dictionary(values: &BTreeMap<String, Value>) -> Json {
    let pairs = values
        .iter()
        .map(|(key, value)| (key.clone(), self::value(value)));
    Json::Object(pairs.collect())
}

/// Nothing for null, which is no value. A whole number that an `i64` cannot tell is a real one.
pub(super) fn read(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => value.into(),
        Json::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64()?.into(),
        },
        Json::String(text) => text.into(),
        Json::Array(values) => Value::Array(values.into_iter().map(read).collect::<Option<_>>()?),
        Json::Object(pairs) => {
            let pairs = pairs.into_iter();
            let pairs = pairs.map(|(key, json)| Some((key, read(json)?)));
            Value::Dictionary(pairs.collect::<Option<_>>()?)
        }
    })
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As in RFC 3339, or seconds for a year that it has no digits for.
pub(super) fn date(date: SystemTime) -> String {
    if let Ok(date) = jiff::Timestamp::try_from(date) {
        return date.to_string();
    }
    match date.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => format!("{}s after 1970", since.as_secs()),
        Err(before) => format!("{}s before 1970", before.duration().as_secs()),
    }
}
