//! Values of a document into types, and the keys of a dictionary one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use portolan_sandbox::document::{Item, Value, distance};
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;

use super::finding::{JobError, Log, Place, Warning};
use super::known::Ignored;

/// A type that a value can be read into.
pub(super) trait FromValue: Sized {
    /// Nothing after an error, which is in the log then.
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self>;
}

pub(super) fn wrong_type<T>(place: &Place, log: &mut Log<'_>, expected: &'static str) -> Option<T> {
    log.error(place, JobError::WrongType { expected });
    None
}

/// Notes an error in the log.
fn noted<T, E: Into<JobError>>(
    result: Result<T, E>,
    place: &Place,
    log: &mut Log<'_>,
) -> Option<T> {
    result.map_err(|error| log.error(place, error)).ok()
}

fn text<'a>(value: &'a Value, place: &Place, log: &mut Log<'_>) -> Option<&'a str> {
    match value {
        Value::String(text) if text.contains('\0') => noted(Err(JobError::Nul), place, log),
        Value::String(text) => Some(text),
        _ => wrong_type(place, log, "a text"),
    }
}

impl FromValue for bool {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        match value {
            Value::Boolean(value) => Some(*value),
            _ => wrong_type(place, log, "true or false"),
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        text(value, place, log).map(str::to_owned)
    }
}

impl FromValue for PathBuf {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        match text(value, place, log)? {
            "" => noted(Err(JobError::Empty), place, log),
            path => Some(path.into()),
        }
    }
}

impl FromValue for JobLabel {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        noted(text(value, place, log)?.parse::<Self>(), place, log)
    }
}

impl FromValue for ServiceName {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        noted(text(value, place, log)?.parse::<Self>(), place, log)
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let Value::Array(values) = value else {
            return wrong_type(place, log, "an array");
        };
        let values = values
            .iter()
            .filter_map(|value| T::from_value(value, place, log));
        Some(values.collect())
    }
}

/// A dictionary in which the keys are up to the user.
impl<K: FromValue + Ord, V: FromValue> FromValue for BTreeMap<K, V> {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let mut map = Self::new();
        for item in items(value, place, log)? {
            let place = place.below(item);
            let key = K::from_value(&Value::String(item.key.clone()), &place, log);
            let value = V::from_value(&item.value, &place, log);
            if let (Some(key), Some(value)) = (key, value)
                && map.insert(key, value).is_some()
            {
                log.error(&place, JobError::Repeated);
            }
        }
        Some(map)
    }
}

fn items<'a>(value: &'a Value, place: &Place, log: &mut Log<'_>) -> Option<&'a [Item]> {
    match value {
        Value::Dictionary(items) => Some(items),
        _ => wrong_type(place, log, "a dictionary"),
    }
}

/// A whole number between two others.
pub(super) fn number<T: TryFrom<i128>>(
    value: &Value,
    (min, max): (i128, i128),
    place: &Place,
    log: &mut Log<'_>,
) -> Option<T> {
    let Value::Integer(number) = value else {
        return wrong_type(place, log, "a whole number");
    };
    let in_range = (min..=max).contains(number).then_some(*number);
    let number = in_range.and_then(|number| T::try_from(number).ok());
    noted(number.ok_or(JobError::OutOfRange { min, max }), place, log)
}

/// One of some words. As in launchd, capital and small letters are the same.
pub(super) fn word<T: Copy>(
    value: &Value,
    words: &[(&'static str, T)],
    place: &Place,
    log: &mut Log<'_>,
) -> Option<T> {
    let text = text(value, place, log)?;
    let found = words
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text));
    let known = || words.iter().map(|(word, _)| *word).collect();
    noted(
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| JobError::UnknownWord { known: known() }),
        place,
        log,
    )
}

/// The keys of a dictionary, each taken by who knows it.
pub(super) struct Keys<'a, 'log, 'source> {
    left: Vec<&'a Item>,
    known: Vec<&'static str>,
    pub(super) place: &'log Place,
    pub(super) log: &'log mut Log<'source>,
}

impl<'a, 'log, 'source> Keys<'a, 'log, 'source> {
    pub(super) fn new(items: &'a [Item], place: &'log Place, log: &'log mut Log<'source>) -> Self {
        Self {
            left: items.iter().collect(),
            known: Vec::new(),
            place,
            log,
        }
    }

    /// Nothing but an error for a value that is no dictionary.
    pub(super) fn of(
        value: &'a Value,
        place: &'log Place,
        log: &'log mut Log<'source>,
    ) -> Option<Self> {
        let items = items(value, place, log)?;
        Some(Self::new(items, place, log))
    }

    /// Takes the value of a key. As in launchd, capital and small letters are the same.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(&'a Value, Place)> {
        self.known.push(key);
        let mut found = self
            .left
            .extract_if(.., |item| item.key.eq_ignore_ascii_case(key));
        let item = found.next()?;
        let place = self.place.below(item);
        for repeated in found {
            self.log
                .error(&self.place.below(repeated), JobError::Repeated);
        }
        if item.key != key {
            self.log.warn(&place, Warning::Spelling { key });
        }
        Some((&item.value, place))
    }

    /// Whether a key is there that nobody has taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left
            .iter()
            .any(|item| item.key.eq_ignore_ascii_case(key))
    }

    pub(super) fn get<T: FromValue>(&mut self, key: &'static str) -> Option<T> {
        let (value, place) = self.take(key)?;
        T::from_value(value, &place, self.log)
    }

    pub(super) fn number<T: TryFrom<i128>>(
        &mut self,
        key: &'static str,
        range: (i128, i128),
    ) -> Option<T> {
        let (value, place) = self.take(key)?;
        number(value, range, &place, self.log)
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let (value, place) = self.take(key)?;
        word(value, words, &place, self.log)
    }

    /// Tells of the keys that nobody has taken.
    pub(super) fn finish(self, ignored: &Ignored) {
        self.finish_with(ignored, |nearest| JobError::UnknownKey { nearest });
    }

    pub(super) fn finish_with(
        self,
        ignored: &Ignored,
        error: impl Fn(Option<&'static str>) -> JobError,
    ) {
        for item in self.left {
            let place = self.place.below(item);
            match ignored.warning(&item.key) {
                Some(warning) => self.log.warn(&place, warning),
                None => {
                    let known = self.known.iter().copied().chain(ignored.all());
                    self.log.error(&place, error(nearest(&item.key, known)));
                }
            }
        }
    }
}

/// The known key that this one is probably meant to be: a third of it may be wrong.
fn nearest(key: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let key = key.to_ascii_lowercase();
    let near = known.filter_map(|known| {
        let most = (key.len().max(known.len()) / 3).max(2);
        let similar = key.len().abs_diff(known.len()) <= most;
        let distance = similar.then(|| distance(&key, &known.to_ascii_lowercase()))?;
        (distance <= most).then_some((distance, known))
    });
    near.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_if_two_thirds_of_it_are_right() {
        let known = || ["Label", "Program", "ProgramArguments", "Day"].into_iter();
        for (key, expected) in [
            ("Lable", Some("Label")),
            ("label_", Some("Label")),
            ("Programm", Some("Program")),
            ("ProgramArgs", Some("ProgramArguments")),
            ("programarguments", Some("ProgramArguments")),
            ("Days", Some("Day")),
            ("Nonsense", None),
            ("", None),
        ] {
            assert_eq!(nearest(key, known()), expected, "{key}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), known()), None);
    }
}
