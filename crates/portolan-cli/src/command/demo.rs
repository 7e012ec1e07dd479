//! `portolan demo`: the story of the article that Portolan comes from, with real processes.
//!
//! The command starts a private bootstrap server in itself and plays the other parts with copies
//! of itself. Each of them has nothing but the bootstrap right that it inherits as descriptor 0,
//! and so the entitlements that the server knows for it.

mod story;
mod timing;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use portolan::JobLabel;
use portolan::bootstrap::Bootstrap;

use super::run::INHERITED_FD;
use crate::args::{Demo, Part};
use crate::output;

/// The application group of the story.
const GROUP: &str = "group.portolan.demo";

pub(crate) fn run(options: &Demo) -> anyhow::Result<()> {
    match options.part {
        Some(part) => story::play(part),
        None => tell(options.rounds),
    }
}

fn tell(rounds: u32) -> anyhow::Result<()> {
    portoland::daemon::log_to_stderr();
    let bootstrap = Bootstrap::private()?;
    output::line("1. A private bootstrap server runs in this process.");
    output::line(format_args!(
        "2. A server in the application group {GROUP}:"
    ));
    let mut server = Actor::start(&bootstrap, Part::Server, "demo.server", true)?;
    server.read_until_ready()?;
    output::line("3. A client in the group:");
    Actor::start(&bootstrap, Part::Client, "demo.client", true)?.finish()?;
    output::line("4. A client outside the group:");
    Actor::start(&bootstrap, Part::Outsider, "demo.outsider", false)?.finish()?;
    output::line(
        "5. A client that passes a send right of its own, so that the server speaks first:",
    );
    Actor::start(&bootstrap, Part::Talker, "demo.talker", true)?.finish()?;
    server.stop()?;
    output::line(format_args!(
        "6. Round trips of 64 bytes between two processes, {rounds} each:"
    ));
    timing::table(rounds)
}

/// A copy of this program that plays a part.
struct Actor {
    child: Child,
}

impl Actor {
    fn start(
        bootstrap: &Bootstrap,
        part: Part,
        label: &str,
        in_group: bool,
    ) -> anyhow::Result<Self> {
        let label: JobLabel = label.parse()?;
        let groups = if in_group {
            format!("[\"{GROUP}\"]")
        } else {
            "[]".to_owned()
        };
        let entitlements = format!(
            "\"com.apple.security.app-sandbox\" = true\n\
             \"com.apple.security.application-groups\" = {groups}\n"
        );
        let confined = bootstrap.confine(&label, entitlements.as_bytes())?;
        let Ok(socket) = confined.right.into_socket() else {
            anyhow::bail!("the right is in use")
        };
        Self::spawn(part, socket)
    }

    fn spawn(part: Part, socket: OwnedFd) -> anyhow::Result<Self> {
        let name = clap::ValueEnum::to_possible_value(&part).context("a part without a name")?;
        let child = Command::new(std::env::current_exe()?)
            .args(["demo", "--part", name.get_name()])
            .env(INHERITED_FD, "0")
            .stdin(socket)
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    /// Prints what the server says until it says that it serves.
    fn read_until_ready(&mut self) -> anyhow::Result<()> {
        let out = self.child.stdout.as_mut().context("no output")?;
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"serving\n") {
            anyhow::ensure!(out.read(&mut byte)? == 1, "the server ended too early");
            text.extend(byte);
        }
        print(&text);
        Ok(())
    }

    /// Prints what the actor says and waits for its end.
    fn finish(mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_end(&mut text)?;
        }
        print(&text);
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "a part of the demo failed: {status}");
        Ok(())
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

fn print(text: &[u8]) {
    for line in String::from_utf8_lossy(text).lines() {
        output::line(format_args!("   {line}"));
    }
}
