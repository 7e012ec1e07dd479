//! `portolan defaults`.

mod json;
mod words;

use anyhow::{Context as _, anyhow};
use portolan::Timeout;
use portolan::defaults::{Change, Defaults, Value};
use serde::Serialize;

use crate::args::{self, DeleteDefaults, ReadDefaults, WatchDefaults, WriteDefaults};
use crate::exit;
use crate::output;

pub(crate) fn run(command: &args::Defaults) -> anyhow::Result<()> {
    match command {
        args::Defaults::Read(options) => read(options),
        args::Defaults::Write(options) => write(options),
        args::Defaults::Delete(options) => delete(options),
        args::Defaults::Watch(options) => watch(options),
    }
}

fn read(options: &ReadDefaults) -> anyhow::Result<()> {
    let ReadDefaults { json, group, key } = options;
    let values = Defaults::open(group)?.all();
    let values = values.with_context(|| format!("cannot read the defaults of {group}"))?;
    match key {
        Some(key) => {
            let missing = || exit::not_found(anyhow!("{group} has no value for {key:?}"));
            let value = values.get(key).ok_or_else(missing)?;
            print(value, *json)
        }
        None if *json => output::json(&json::dictionary(&values)),
        None => {
            values.iter().for_each(|(key, value)| pair(key, value));
            Ok(())
        }
    }
}

fn print(value: &Value, json: bool) -> anyhow::Result<()> {
    match value {
        _ if json => output::json(&json::value(value))?,
        Value::String(text) => output::line(text),
        other => output::line(short(other)),
    }
    Ok(())
}

fn pair(key: &str, value: &Value) {
    let key = key.escape_debug();
    output::line(format_args!("{key} = {}", short(value)));
}

/// On one line, and without anything that could play with a terminal.
fn short(value: &Value) -> String {
    match value {
        Value::Data(bytes) => format!("<{}>", json::hexadecimal(bytes)),
        Value::Date(date) => json::date(*date),
        Value::Real(number) => format!("{number:?}"),
        other => output::plain(&json::value(other).to_string()),
    }
}

fn write(options: &WriteDefaults) -> anyhow::Result<()> {
    let WriteDefaults { group, key, value } = options;
    let value = words::value(value).map_err(exit::usage)?;
    let written = Defaults::open(group)?.set(key, value);
    written.with_context(|| format!("{key:?} of {group} is not set"))
}

fn delete(options: &DeleteDefaults) -> anyhow::Result<()> {
    let DeleteDefaults { group, key } = options;
    let defaults = Defaults::open(group)?;
    let Some(key) = key else {
        let cleared = defaults.clear();
        return cleared.with_context(|| format!("the defaults of {group} are not deleted"));
    };
    let removed = defaults.remove(key);
    match removed.with_context(|| format!("{key:?} of {group} is not deleted"))? {
        true => Ok(()),
        false => Err(exit::not_found(anyhow!("{group} has no value for {key:?}"))),
    }
}

fn watch(options: &WatchDefaults) -> anyhow::Result<()> {
    let group = &options.group;
    let watch = Defaults::open(group)?.watch(options.key.as_deref());
    let mut watch = watch.with_context(|| format!("cannot watch the defaults of {group}"))?;
    output::remark(format_args!("watching {group}"));
    for _ in 0..options.count.unwrap_or(u64::MAX) {
        let change = watch.receive(Timeout::NEVER);
        told(
            &change.with_context(|| format!("cannot watch {group} any more"))?,
            options.json,
        )?;
    }
    Ok(())
}

fn told(change: &Change, json: bool) -> anyhow::Result<()> {
    let Change { key, value } = change;
    match value {
        _ if json => {
            #[derive(Serialize)]
            struct Told<'a> {
                key: &'a str,
                value: Option<serde_json::Value>,
            }
            let value = value.as_ref().map(json::value);
            output::json(&Told { key, value })?;
        }
        Some(value) => pair(key, value),
        None => output::line(format_args!("{} removed", key.escape_debug())),
    }
    Ok(())
}
