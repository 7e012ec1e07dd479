//! `portolan call` and `portolan send`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use portolan::bootstrap::Bootstrap;
use portolan::{MAX_MESSAGE_BYTES, Message, SendRight};
use serde::Serialize;

use crate::args::{Call, Outgoing, Send};
use crate::output;

pub(crate) fn call(options: &Call) -> anyhow::Result<()> {
    let (right, message) = prepare(&options.message)?;
    let timeout = options.message.timeout;
    let answer = right
        .request(message, timeout, timeout)
        .with_context(|| format!("{} did not answer", options.message.name))?;
    output::bytes(answer.bytes())?;
    if options.json {
        output::json_remark(&Answer {
            id: answer.id(),
            bytes: answer.bytes().len(),
        })?;
    }
    Ok(())
}

pub(crate) fn send(options: &Send) -> anyhow::Result<()> {
    let (right, message) = prepare(&options.message)?;
    right
        .send(message, options.message.timeout)
        .with_context(|| format!("{} was not sent the message", options.message.name))
}

#[derive(Serialize)]
struct Answer {
    id: i32,
    bytes: usize,
}

fn prepare(options: &Outgoing) -> anyhow::Result<(SendRight, Message)> {
    let bytes = read(options.file.as_deref())?;
    let right = Bootstrap::from_env()?
        .look_up(&options.name)
        .with_context(|| format!("cannot look up {}", options.name))?;
    Ok((right, Message::new(options.id).with_bytes(bytes)))
}

/// Reads one byte more than fits, so that too much input is an error of the message and does not
/// fill the memory.
fn read(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_MESSAGE_BYTES as u64 + 1;
    match file.filter(|file| *file != Path::new("-")) {
        None => io::stdin()
            .take(limit)
            .read_to_end(&mut bytes)
            .context("standard input")?,
        Some(path) => File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .with_context(|| path.display().to_string())?,
    };
    Ok(bytes)
}
