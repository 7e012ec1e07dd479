//! What the command prints.
use std::io::{self, Write};

use serde::Serialize;

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

/// Prints why the command failed.
pub(crate) fn error(error: &anyhow::Error) {
    remark(format_args!("{error:#}"));
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
