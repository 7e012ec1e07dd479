//! `portolan sandbox log`.

use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::sandbox::{Report, Violation};
use serde::Serialize;

use crate::args::sandbox::Violations;
use crate::output;

pub(crate) fn run(options: &Violations) -> anyhow::Result<()> {
    let server = Bootstrap::from_env()?;
    let mut known = server.violations(0)?;
    loop {
        for violation in &known {
            print(options, violation)?;
        }
        if !options.follow {
            return Ok(());
        }
        let last = known.last().map_or(0, |last| last.number);
        known = server.next_violations(last)?;
    }
}

fn print(options: &Violations, violation: &Violation) -> anyhow::Result<()> {
    let only = options.label.as_ref();
    if only.is_some_and(|only| *only != violation.label) {
        return Ok(());
    }
    match options.json {
        true => output::json(&Line::from(violation)),
        false => {
            output::line(text(violation));
            Ok(())
        }
    }
}

fn text(violation: &Violation) -> String {
    let label = &violation.label;
    let Report {
        pid,
        operation,
        name,
        key,
        value,
        left_out,
    } = &violation.refusal;
    let time = time(violation);
    let pid = pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
    let name = match &**name {
        "" => String::new(),
        name => format!(" \"{}\"", name.escape_debug()),
    };
    let remedy = match (&**key, &**value) {
        ("", _) => "no entitlement allows it".to_owned(),
        (key, "") => format!("allowed by {key}"),
        (key, value) => format!("allowed by {key} with \"{}\"", value.escape_debug()),
    };
    let before = match left_out {
        0 => String::new(),
        some => format!(" ({some} more before it)"),
    };
    format!("{time} {label}{pid}: deny {operation}{name}; {remedy}{before}")
}

/// A time that no calendar has is left as the number that it is.
fn time(violation: &Violation) -> String {
    let at = violation.at_ms;
    let time = i64::try_from(at).ok();
    let time = time.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    time.map_or_else(|| at.to_string(), |time| format!("{time:.3}"))
}

/// What is empty in the answer is null here.
#[derive(Serialize)]
struct Line<'a> {
    number: u64,
    time: String,
    label: &'a str,
    pid: Option<u32>,
    operation: &'a str,
    name: Option<&'a str>,
    key: Option<&'a str>,
    value: Option<&'a str>,
    left_out: u32,
}

impl<'a> From<&'a Violation> for Line<'a> {
    fn from(violation: &'a Violation) -> Self {
        let refusal = &violation.refusal;
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        Self {
            number: violation.number,
            time: time(violation),
            label: violation.label.as_str(),
            pid: refusal.pid,
            operation: &refusal.operation,
            name: some(&refusal.name),
            key: some(&refusal.key),
            value: some(&refusal.value),
            left_out: refusal.left_out,
        }
    }
}
