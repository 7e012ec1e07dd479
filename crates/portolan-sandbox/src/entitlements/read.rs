//! Entitlements from the keys and values of a document.

use std::collections::BTreeSet;

use portolan_wire::group::GroupId;

use super::{Entitlements, EntitlementsError, ExceptedPath, Folder, Ineffective, Reading};
use crate::document::{Format, Item, Position, Source, Value};
use crate::key::{self, Shape};

pub(super) fn collect(items: Vec<Item>, source: &Source) -> Result<Reading, EntitlementsError> {
    let items = match source.format {
        Format::Toml => flattened(items),
        Format::Xml | Format::Binary => items,
    };
    let mut reading = Reading::default();
    let mut seen = BTreeSet::new();
    let (mut inherit, mut other) = (None, None);
    for Item { key, offset, value } in items {
        let at = || offset.map(|offset| source.position(offset));
        if !seen.insert(key.clone()) {
            return Err(EntitlementsError::Repeated { key, at: at() });
        }
        match key.as_str() {
            key::INHERIT => inherit = Some(at()),
            key::APP_SANDBOX => {}
            _ => other = other.or(Some(at())),
        }
        apply(&mut reading, key, value, at)?;
    }
    let Entitlements {
        app_sandbox,
        inherit: inherits,
        ..
    } = reading.entitlements;
    match (
        inherits,
        app_sandbox,
        other.or(inherit.filter(|_| !app_sandbox)),
    ) {
        (true, _, Some(at)) => Err(EntitlementsError::Inherit { at }),
        _ => Ok(reading),
    }
}

fn flattened(items: Vec<Item>) -> Vec<Item> {
    let mut flat = Vec::new();
    flatten("", items, &mut flat);
    flat.sort_by_key(|item| item.offset);
    flat
}

/// A key may be written with quotes, or as TOML's dotted key, which makes tables of its parts.
fn flatten(prefix: &str, items: Vec<Item>, flat: &mut Vec<Item>) {
    for Item { key, offset, value } in items {
        let key = format!("{prefix}{key}");
        match value {
            Value::Dictionary(inner) if key::known(&key).is_none() => {
                flatten(&format!("{key}."), inner, flat);
            }
            value => flat.push(Item { key, offset, value }),
        }
    }
}

fn apply(
    reading: &mut Reading,
    key: String,
    value: Value,
    at: impl Fn() -> Option<Position>,
) -> Result<(), EntitlementsError> {
    let Some((known, shape, reason)) = key::known(&key) else {
        let nearest = key::nearest(&key);
        return Err(EntitlementsError::UnknownKey {
            key,
            at: at(),
            nearest,
        });
    };
    if let Some(reason) = reason.filter(|_| asks_for_something(&value)) {
        let (key, at) = (known, at());
        reading.ineffective.push(Ineffective { key, at, reason });
    }
    let entitlements = &mut reading.entitlements;
    let expected = match (shape, value) {
        (Shape::Boolean, Value::Boolean(value)) => {
            set_flag(entitlements, known, value);
            return Ok(());
        }
        (Shape::Dictionary, Value::Dictionary(_)) => return Ok(()),
        (Shape::Strings, value) => match strings(value) {
            Some(values) => return set(entitlements, known, values, at),
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

fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Boolean(value) => *value,
        Value::Array(values) => !values.is_empty(),
        Value::Dictionary(items) => !items.is_empty(),
        _ => true,
    }
}

fn set_flag(entitlements: &mut Entitlements, key: &str, value: bool) {
    let flag = match key {
        key::APP_SANDBOX => &mut entitlements.app_sandbox,
        key::INHERIT => &mut entitlements.inherit,
        key::NETWORK_CLIENT => &mut entitlements.network_client,
        key::NETWORK_SERVER => &mut entitlements.network_server,
        _ => return set_folder(entitlements, key, value),
    };
    *flag = value;
}

fn set_folder(entitlements: &mut Entitlements, key: &str, value: bool) {
    let Entitlements {
        read_only_folders,
        read_write_folders,
        ..
    } = entitlements;
    for folder in Folder::ALL {
        let [read_only, read_write] = folder.keys();
        if value && key == read_only {
            read_only_folders.insert(folder);
        }
        if value && key == read_write {
            read_write_folders.insert(folder);
        }
    }
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
    key: &'static str,
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
        _ => return set_paths(entitlements, key, values, at),
    };
    *names = values;
    Ok(())
}

fn set_paths(
    entitlements: &mut Entitlements,
    key: &'static str,
    values: Vec<String>,
    at: impl Fn() -> Option<Position>,
) -> Result<(), EntitlementsError> {
    let paths = match key {
        key::READ_ONLY_ABSOLUTE => &mut entitlements.read_only_absolute,
        key::READ_WRITE_ABSOLUTE => &mut entitlements.read_write_absolute,
        key::READ_ONLY_HOME => &mut entitlements.read_only_home,
        key::READ_WRITE_HOME => &mut entitlements.read_write_home,
        _ => return Ok(()),
    };
    let read = |path: String| {
        path.parse::<ExceptedPath>()
            .map_err(|source| EntitlementsError::Path {
                key,
                path,
                at: at(),
                source,
            })
    };
    *paths = values.into_iter().map(read).collect::<Result<_, _>>()?;
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
