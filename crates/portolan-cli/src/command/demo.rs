//! `portolan demo`: the story of the article that Portolan comes from, with real processes.
//!
//! The command starts a private bootstrap server in itself and plays the other parts with copies
//! of itself. Each of them has nothing but the bootstrap right that it inherits, and so the
//! entitlements that the server knows for it, and is locked in by those.

mod stage;
mod story;
mod timing;

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use portolan::bootstrap::Bootstrap;
use portolan_sandbox::probe::is_everybodys;

use super::run::INHERITED_FD;
use crate::args::{Demo, Part};
use stage::Stage;

/// The application group of the story.
const GROUP: &str = "group.portolan.demo";

pub(crate) fn run(options: &Demo) -> anyhow::Result<()> {
    let told = match options.part {
        Some(part) => return story::play(part),
        None if rustix::process::geteuid().is_root() => tell_as_nobody(options.rounds),
        None => tell(options.rounds),
    };
    match told {
        // A command whose output nobody takes ends, as others do, but only once all has been put away.
        Err(error) if is_unheard(&error) => std::process::exit(1),
        told => told,
    }
}

fn is_unheard(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Who tells the story if root is asked to: programs of root's are not locked in.
const NOBODY: u32 = 65534;

fn tell_as_nobody(rounds: u32) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    if !is_everybodys(&program) {
        return tell(rounds);
    }
    let error = Command::new(program)
        .args(["demo", "--rounds", &rounds.to_string()])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env_remove("TMPDIR")
        .exec();
    Err(error.into())
}

fn tell(rounds: u32) -> anyhow::Result<()> {
    portoland::daemon::log_to_stderr();
    let bootstrap = Bootstrap::private()?;
    let stage = Stage::new(&bootstrap)?;
    say("1. A private bootstrap server runs in this process.")?;
    say(format_args!("   {stage}"))?;
    say(format_args!(
        "2. A server in the application group {GROUP}:"
    ))?;
    let mut server = stage.start(Part::Server, true)?;
    server.read_until_ready()?;
    say("3. A client in the group:")?;
    stage.start(Part::Client, true)?.finish()?;
    say("4. A client outside the group:")?;
    stage.start(Part::Outsider, false)?.finish()?;
    say("5. A client that passes a send right of its own, so that the server speaks first:")?;
    stage.start(Part::Talker, true)?.finish()?;
    server.stop()?;
    say(format_args!(
        "6. Round trips of 64 bytes between two processes, {rounds} each:"
    ))?;
    timing::table(rounds)
}

/// A copy of this program at the other end of a round trip. It is not locked in, as this one is not.
struct Actor {
    child: Child,
}

impl Actor {
    fn spawn(part: Part, socket: OwnedFd) -> anyhow::Result<Self> {
        let name = clap::ValueEnum::to_possible_value(&part).context("a part without a name")?;
        let child = Command::new(std::env::current_exe()?)
            .args(["demo", "--part", name.get_name()])
            .env(INHERITED_FD, "0")
            .stdin(socket)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // After an error the others must not stay behind; one that has ended cannot be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Prints a line of the story.
fn say(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

fn print(text: &[u8]) -> io::Result<()> {
    for line in String::from_utf8_lossy(text).lines() {
        say(format_args!("   {line}"))?;
    }
    Ok(())
}
