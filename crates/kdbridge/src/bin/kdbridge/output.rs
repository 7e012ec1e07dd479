//! What the command prints.

use std::io::{self, Write};

/// Prints a line of output. A command whose output nobody takes ends, as others do.
pub(crate) fn line(text: impl std::fmt::Display) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        if error.kind() != io::ErrorKind::BrokenPipe {
            remark(format_args!("standard output: {error}"));
        }
        std::process::exit(1);
    }
}

/// Prints a remark that is not output.
pub(crate) fn remark(text: impl std::fmt::Display) {
    writeln!(io::stderr(), "kdbridge: {text}").ok();
}
