//! What the command prints.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use kdbridge::kernel::Step;
use serde::Serialize;

/// Prints a line of output. A command whose output nobody takes ends, as others do.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(io::stdout(), "{}", tame(&text)) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            remark(format_args!("standard output: {error}"));
        }
        std::process::exit(1);
    }
}

/// Prints a remark that is not output.
pub(crate) fn remark(text: impl Display) {
    writeln!(io::stderr(), "kdbridge: {}", tame(&text)).ok();
}

/// Prints a report, as text or as JSON. Its text ends with a line.
pub(crate) fn report(report: &(impl Display + Serialize), json: bool) -> anyhow::Result<()> {
    if json {
        return self::json(report);
    }
    put(&report.to_string())
}

/// Prints one JSON value.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot be written as JSON")?;
    put(&(text + "\n"))
}

/// Prints text.
pub(crate) fn put(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(tame(&text).as_bytes()) {
        // Nobody reads on, as with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("standard output"),
    }
}

/// Text whose control characters cannot play with a terminal: it may have come from a kernel.
fn tame(text: &impl Display) -> String {
    text.to_string().chars().map(plain).collect()
}

fn plain(character: char) -> char {
    match character {
        '\n' | '\t' => character,
        it if it.is_control() => char::REPLACEMENT_CHARACTER,
        it => it,
    }
}

/// Tells somebody at a terminal what takes a moment.
pub(crate) fn progress(step: Step) {
    if io::stderr().is_terminal() {
        remark(match step {
            Step::Searching => "looking for the kernel's file …",
            Step::ReadingFile => "reading the kernel's file …",
            Step::ReadingMemory => "no file of this kernel: reading names from its memory …",
            Step::Indexing => "reading what describes its variables, once for this kernel …",
        });
    }
}
