//! What the command prints.
use std::io::{self, Write};

use serde::Serialize;

use crate::advice;

/// Prints a line of output. A command whose output nobody takes ends, as others do.
pub(crate) fn line(text: impl std::fmt::Display) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        if error.kind() != io::ErrorKind::BrokenPipe {
            remark(format_args!("standard output: {error}"));
        }
        std::process::exit(1);
    }
}

/// Prints a remark that is not output. It is lost if nobody takes it: a service goes on.
pub(crate) fn remark(text: impl std::fmt::Display) {
    writeln!(io::stderr(), "portolan: {text}").ok();
}

/// Prints what was found at a place of a file, beside the output and in the form of a compiler.
pub(crate) fn finding(line: String) {
    writeln!(io::stderr(), "{}", plain(&line)).ok();
}

/// Prints why the command failed, and what to do if the reason does not say it.
pub(crate) fn error(error: &anyhow::Error) {
    remark(plain(&format!("{error:#}")));
    if let Some(advice) = advice::on(error) {
        remark(advice);
    }
}

/// Text that others wrote, in such a way that it cannot play with a terminal. Lines stay lines.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\n' => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

/// Prints one JSON value as a line of output.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints one JSON value as a line beside the output.
pub(crate) fn json_remark(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stderr().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
