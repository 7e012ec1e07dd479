//! `portolan log`.

use std::io::{self, Write as _};

use anyhow::Context as _;
use portolan::bootstrap;
use portoland::log::{self, ReadError, Reader};

use crate::args::Log;

pub(crate) fn run(options: &Log) -> anyhow::Result<()> {
    let label = &options.label;
    match print(options) {
        // A command whose output nobody takes ends, as others do.
        Err(ReadError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            std::process::exit(1)
        }
        other => other.with_context(|| format!("cannot show the log of {label}")),
    }
}

fn print(options: &Log) -> Result<(), ReadError> {
    let directory = log::directory(&bootstrap::directory());
    let mut reader = Reader::open(&directory, &options.label)?;
    let mut out = io::stdout().lock();
    reader.last(options.lines, &mut out)?;
    out.flush().map_err(ReadError::Write)?;
    if !options.follow {
        return Ok(());
    }
    loop {
        reader.wait()?;
        reader.more(&mut out)?;
        out.flush().map_err(ReadError::Write)?;
    }
}
