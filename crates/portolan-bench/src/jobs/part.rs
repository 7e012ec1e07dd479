//! The parts that this program plays as a job or as a client.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use portolan::bootstrap::Bootstrap;
use portolan::{Message, ReceiveRight, SendRight, Timeout};
use serde::{Deserialize, Serialize};

use super::many;
use super::usage::middle_and_99th;
use super::world::PATIENCE;
use crate::place;
use crate::process::Process;
use crate::role::{say, wait_for_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Writes a byte and ends.
    FirstWrite,
    /// Answers one request and ends.
    Once,
    /// Receives numbered messages, and says on request what came.
    Count,
    /// Sends numbered messages until it is told to end.
    Send,
    /// Publishes names until it is told to end.
    Register,
    /// Looks names up that job files have declared.
    FindDeclared,
    /// Looks names up that were published.
    FindRegistered,
    /// Answers whoever has the right that it sends through the one it has inherited.
    Echo,
}

// Named as that of the measurement, it could not be a group beside it.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    #[arg(long, hide = true, value_enum)]
    pub(super) part: Option<Part>,
    #[arg(long, hide = true, default_value = "")]
    name: String,
    #[arg(long, hide = true, default_value_t = 0)]
    count: u64,
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
}

impl Part {
    pub(super) fn arguments(self, name: &str, count: u64) -> Vec<String> {
        let part = self.to_possible_value();
        let part = part.map_or_else(String::new, |part| part.get_name().to_owned());
        let count = count.to_string();
        let arguments = ["jobs", "--part", &part, "--name", name, "--count", &count];
        arguments.map(str::to_owned).to_vec()
    }

    /// Starts a client of the server of a directory.
    pub(super) fn start(
        self,
        directory: &std::path::Path,
        name: &str,
        count: u64,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.arguments(name, count));
        command.arg("--directory").arg(directory);
        Process::start(&mut command, format!("{self:?}"), PATIENCE * 2)
    }
}

pub(super) fn play(part: Part, options: &Options) -> anyhow::Result<()> {
    match part {
        Part::FirstWrite => Ok(io::stdout().write_all(b"1")?),
        Part::Once => answer_once(options),
        Part::Count => count(options),
        Part::Send => send(options),
        Part::Register => register(options),
        Part::FindDeclared => find(options, many::declared),
        Part::FindRegistered => find(options, many::registered),
        Part::Echo => echo(),
    }
}

fn echo() -> anyhow::Result<()> {
    let value = std::env::var_os(super::walls::INHERITED_FD).context("no right was inherited")?;
    let port = ReceiveRight::new()?;
    let introduction = Message::new(0).with_right(port.make_send()?);
    SendRight::inherit(&value)?.send(introduction, PATIENCE)?;
    loop {
        let mut request = port.receive(Timeout::NEVER)?;
        if let Some(reply) = request.take_reply() {
            reply.send(Message::new(1).with_bytes(request.into_bytes()))?;
        }
    }
}

impl Options {
    fn connect(&self) -> anyhow::Result<Bootstrap> {
        place::die_with_parent()?;
        let directory = self.directory.as_ref().context("no directory")?;
        Ok(Bootstrap::connect(directory)?)
    }
}

fn answer_once(options: &Options) -> anyhow::Result<()> {
    // Kept until the end, as a service does that may want to look something up.
    let server = Bootstrap::from_env()?;
    let port = server.check_in_strict(&options.name.parse()?)?;
    let mut request = port.receive(Timeout::NEVER)?;
    let reply = request.take_reply().context("nobody waits for it")?;
    Ok(reply.send(Message::new(request.id()))?)
}

/// What a counting service has received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) messages: u64,
    /// Messages that came twice, too late, or after a gap.
    pub(super) out_of_order: u64,
    pub(super) pid: u32,
}

/// Message id of a request for what was [`Counted`].
pub(super) const ASK: i32 = 1;
/// Message id of a message that is one of many from the same sender.
pub(super) const NUMBERED: i32 = 2;
/// Message id of a message that has no number.
pub(super) const LOOSE: i32 = 3;

fn count(options: &Options) -> anyhow::Result<()> {
    let port = Bootstrap::from_env()?.check_in_strict(&options.name.parse()?)?;
    let mut counted = Counted {
        pid: std::process::id(),
        ..Counted::default()
    };
    let mut expected = 0;
    loop {
        let mut message = port.receive(Timeout::NEVER)?;
        match message.id() {
            ASK => {
                let reply = message.take_reply().context("nobody waits for it")?;
                let text = serde_json::to_vec(&counted)?;
                reply.send(Message::new(ASK).with_bytes(text))?;
            }
            NUMBERED => {
                let number = message.bytes().first_chunk().context("no number")?;
                let number = u64::from_le_bytes(*number);
                counted.out_of_order += u64::from(number != expected);
                counted.messages += 1;
                expected = number + 1;
            }
            _ => counted.messages += 1,
        }
    }
}

/// What a sender has sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) per_second: f64,
    /// The longest that one message took.
    pub(super) longest_ns: u64,
    /// How late the latest of them was begun.
    pub(super) latest_ns: u64,
}

/// Sends `count` messages in each second, in order and evenly, until standard input has a line.
fn send(options: &Options) -> anyhow::Result<()> {
    let right = options.connect()?.look_up(&options.name.parse()?)?;
    let mut sent = Sent::default();
    let stop = thread::spawn(wait_for_order);
    let step = Duration::from_nanos(1_000_000_000 / options.count.max(1));
    let start = Instant::now();
    let mut due = start;
    while !stop.is_finished() {
        let number = sent.messages.to_le_bytes();
        let began = sleep_until(due);
        let message = Message::new(NUMBERED).with_bytes(number);
        right.send(message, PATIENCE)?;
        sent.messages += 1;
        sent.longest_ns = sent.longest_ns.max(began.elapsed().as_nanos() as u64);
        sent.latest_ns = sent.latest_ns.max((began - due).as_nanos() as u64);
        due += step;
    }
    sent.per_second = sent.messages as f64 / start.elapsed().as_secs_f64();
    say(&serde_json::to_string(&sent)?);
    wait_for_order();
    Ok(())
}

/// A sleep is longer than the time between two messages, so messages go in small groups.
fn sleep_until(due: Instant) -> Instant {
    let now = Instant::now();
    if now < due {
        thread::sleep(due - now);
    }
    Instant::now()
}

fn register(options: &Options) -> anyhow::Result<()> {
    let first = options.name.parse::<u64>()?;
    place::raise_descriptor_limit(options.count * 2 + 64)?;
    let server = options.connect()?;
    let port = ReceiveRight::new()?;
    for index in first..first + options.count {
        let name = many::registered(index).parse()?;
        server.register(&name, port.make_send()?)?;
    }
    // Whoever looks a name up has a channel of its own made, and the port is told of it.
    thread::spawn(move || while port.receive(Timeout::NEVER).is_ok() {});
    wait_for_order();
    Ok(())
}

/// The middle and the 99th percentile of a look-up, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
}

/// How many different names are looked up: the port of a declared name is made when it is looked up
/// first, and takes descriptors from then on.
pub(super) const LOOKED_UP: u64 = 5000;

/// Looks up `count` times one of as many names as `name` says.
fn find(options: &Options, name: fn(u64) -> String) -> anyhow::Result<()> {
    let server = options.connect()?;
    let among = options.name.parse::<u64>()?;
    let different = among.min(LOOKED_UP);
    ensure!(different > 0, "no names");
    let mut times = Vec::new();
    for turn in 0..options.count {
        // In no order: a large prime has no factor in common with any of the numbers.
        let which = (turn * 1_000_003) % different;
        let name = name(which * (among / different)).parse()?;
        let began = Instant::now();
        let right = server.look_up(&name)?;
        times.push(began.elapsed().as_nanos() as u64);
        drop(right);
    }
    let (p50_ns, p99_ns) = middle_and_99th(&mut times);
    say(&serde_json::to_string(&Found { p50_ns, p99_ns })?);
    Ok(())
}
