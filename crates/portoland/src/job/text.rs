//! Serializing what does not do so by itself.

use std::collections::BTreeMap;

use portolan_wire::label::JobLabel;
use serde::ser::{Serialize, Serializer};

pub(super) fn one<S: Serializer>(label: &JobLabel, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(label.as_str())
}

pub(super) fn each<S: Serializer>(labels: &[JobLabel], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(labels.iter().map(JobLabel::as_str))
}

pub(super) fn keys<K: ToString, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
}

/// A value that is there. The writer of property lists, where it does not know that it writes a
/// struct, makes a dictionary of an `Option`.
pub(super) fn some<T: Serialize, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_none(),
    }
}
