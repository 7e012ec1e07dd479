//! Values as they are typed, after macOS's `defaults`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use portolan::defaults::Value;
use thiserror::Error;

use super::json;

/// The value that these words stand for.
pub(super) fn value(words: &[String]) -> Result<Value, WordsError> {
    let mut words = words.iter().map(String::as_str);
    let first = words.next().ok_or(WordsError::Missing)?;
    let value = match first {
        "-array" => array(&mut words)?,
        "-dict" => dictionary(&mut words)?,
        "-json" | "--json" => from_json(words.next().ok_or(WordsError::Missing)?)?,
        first => simple(first, &mut words)?,
    };
    match words.next() {
        None => Ok(value),
        Some(word) => Err(WordsError::TooMany {
            word: word.to_owned(),
        }),
    }
}

type Words<'a, 'b> = &'a mut dyn Iterator<Item = &'b str>;

fn array(words: Words<'_, '_>) -> Result<Value, WordsError> {
    let mut values = Vec::new();
    while let Some(first) = words.next() {
        values.push(simple(first, words)?);
    }
    Ok(Value::Array(values))
}

fn dictionary(words: Words<'_, '_>) -> Result<Value, WordsError> {
    let mut values = BTreeMap::new();
    while let Some(key) = words.next() {
        let first = words.next().ok_or(WordsError::Missing)?;
        values.insert(key.to_owned(), simple(first, words)?);
    }
    Ok(Value::Dictionary(values))
}

fn simple(first: &str, words: Words<'_, '_>) -> Result<Value, WordsError> {
    let read: fn(&str) -> Option<Value> = match first {
        "-string" => |word| Some(word.into()),
        "-int" | "-integer" => |word| Some(word.parse::<i64>().ok()?.into()),
        "-float" => |word| Some(word.parse::<f64>().ok()?.into()),
        "-bool" | "-boolean" => |word| Some(boolean(word)?.into()),
        "-data" => |word| Some(data(word)?.into()),
        "-date" => |word| Some(date(word)?.into()),
        kind if is_kind(kind) => {
            return Err(WordsError::Kind {
                kind: kind.to_owned(),
            });
        }
        text => return Ok(text.into()),
    };
    let word = words.next().ok_or(WordsError::Missing)?;
    read(word).ok_or_else(|| WordsError::Value {
        kind: first.to_owned(),
        word: word.to_owned(),
    })
}

/// A negative number is a string like any other.
fn is_kind(word: &str) -> bool {
    let rest = word.strip_prefix('-');
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '-'))
}

fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn date(word: &str) -> Option<SystemTime> {
    word.parse::<jiff::Timestamp>().ok()?.try_into().ok()
}

fn data(word: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = word.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    match rest {
        [] => pairs.iter().map(byte).collect(),
        _ => None,
    }
}

fn from_json(word: &str) -> Result<Value, WordsError> {
    let value = serde_json::from_str(word).map_err(WordsError::Json)?;
    json::read(value).ok_or(WordsError::Null)
}

/// Words stand for no value.
#[derive(Debug, Error)]
pub(super) enum WordsError {
    #[error("a value is missing")]
    Missing,
    #[error("{word:?} follows the value; -array takes several")]
    TooMany { word: String },
    #[error("{kind} is no kind of value here; `-string {kind}` takes it as text")]
    Kind { kind: String },
    #[error("{word:?} is not what {kind} takes")]
    Value { kind: String, word: String },
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    #[error("null is no value; `portolan defaults delete` removes a key")]
    Null,
}
