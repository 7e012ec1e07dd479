//! The processes of a cell. They take orders on standard input and answer on standard output, a
//! line each.

use std::io::{self, BufRead, Write};

use anyhow::Context;
use clap::ValueEnum;

use crate::cell::{Action, Cell, Sample};
use crate::peer;
use crate::{measure, place};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Says that it listens, and serves until it is killed.
    Server,
    /// Stops for an order when it is connected and when it is warm; says a
    /// [`Sample`].
    Client,
    /// What the peer needs between client and server: a bootstrap server, a bus.
    Helper,
}

impl Role {
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What a server says when clients can connect.
pub(crate) const LISTENING: &str = "listening";
/// What a client says when it waits for an order.
pub(crate) const WAITING: &str = "waiting";

/// What a connection that goes through memory takes at most.
const DESCRIPTORS_IN_USE: u64 = 8;

/// Most descriptors that a process needs beside those of idle channels.
const SPARE_DESCRIPTORS: u64 = 256;

pub(crate) fn play(role: Role, cell: &str) -> anyhow::Result<()> {
    place::die_with_parent()?;
    let cell: Cell = serde_json::from_str(cell).context("no cell")?;
    let each = if is_idle_used(&cell) {
        DESCRIPTORS_IN_USE
    } else {
        1
    };
    place::raise_descriptor_limit(cell.task.idle as u64 * each + SPARE_DESCRIPTORS)?;
    match (cell.cpus, role) {
        (Some((client, _)), Role::Client) => place::pin(client)?,
        (Some((_, server)), Role::Server) => place::pin(server)?,
        (Some((client, server)), Role::Helper) if client == server => place::pin(server)?,
        _ => {}
    }
    match role {
        Role::Server => peer::serve(&cell, || say(LISTENING)),
        Role::Client => be_client(&cell),
        Role::Helper => peer::help(&cell),
    }
}

fn be_client(cell: &Cell) -> anyhow::Result<()> {
    if cell.peer.is_limit() {
        wait_for_order();
        return finish(&peer::run_limit(cell, wait_for_order)?);
    }
    // Hanging up would make work for the server while its processor time is still looked at, so
    // this lives until the end.
    let mut client = peer::connect(cell)?;
    wait_for_order();
    if cell.task.idle > 0 {
        client.open_idle(cell.task.idle, is_idle_used(cell))?;
    }
    finish(&measure::run(client.as_mut(), cell, wait_for_order)?)
}

fn finish(sample: &Sample) -> anyhow::Result<()> {
    say(&serde_json::to_string(sample)?);
    // Whatever comes is the end.
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Idle clients have been clients before; idle channels are those nothing was sent on.
fn is_idle_used(cell: &Cell) -> bool {
    cell.task.action == Action::Idle
}

pub(crate) fn wait_for_order() {
    say(WAITING);
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(1..) => {}
        // Whoever gave the orders is gone.
        Ok(0) | Err(_) => std::process::exit(1),
    }
}

pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
