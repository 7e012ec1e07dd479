//! The peers: Portolan, and what a user would pick instead.

mod limit;
mod portolan;
mod socket;

use anyhow::bail;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cell::{Action, Cell, Policy, Task};
use crate::payload::Source;

pub(crate) use limit::run as run_limit;
pub(crate) use portolan::run_names;

/// Who carries the messages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Seqpacket,
    Portolan,
    Stream,
    StreamBuffered,
    LimitSpin,
    LimitSpinThenFutex,
    LimitFutex,
    LimitMemcpy,
}

/// One connection of a client, whatever carries it.
pub(crate) trait Client {
    /// Sends a message of new words and gives the sum of the words of the answer, which is the sum
    /// of those that were sent.
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64>;

    /// Sends a message of new words that is not answered.
    fn send(&mut self, _source: &mut Source, _length: usize) -> anyhow::Result<()> {
        bail!("does not send one way")
    }

    /// The sum of all that was sent one way since it was last asked for.
    fn total(&mut self) -> anyhow::Result<u64> {
        bail!("does not send one way")
    }

    /// A round trip whose answer comes through a new endpoint that went with the message.
    fn pass_right(&mut self, _source: &mut Source, _length: usize) -> anyhow::Result<u64> {
        bail!("does not carry rights")
    }

    /// Another connection to the same server, found by its name.
    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        bail!("has no names")
    }

    /// Opens connections that stay idle, and returns when the server has all of them. Each is used
    /// once if they are to be `used`.
    fn open_idle(&mut self, _count: usize, _used: bool) -> anyhow::Result<()> {
        bail!("has no further connections")
    }
}

impl Peer {
    /// The name in tables, in JSON, and on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Both sides are threads of one process.
    pub(crate) fn is_limit(self) -> bool {
        matches!(
            self,
            Self::LimitSpin | Self::LimitSpinThenFutex | Self::LimitFutex | Self::LimitMemcpy
        )
    }

    /// In the ways of waiting that make rows of their own.
    pub(crate) fn policies(self) -> &'static [Option<Policy>] {
        match self {
            Self::Portolan => &[Some(Policy::Adaptive)],
            _ => &[None],
        }
    }

    pub(crate) fn can(self, task: &Task) -> bool {
        match self {
            Self::Seqpacket | Self::Portolan | Self::Stream => true,
            Self::StreamBuffered => task.action == Action::Stream,
            Self::LimitSpin | Self::LimitSpinThenFutex | Self::LimitFutex => {
                task.clients == 1
                    && task.idle == 0
                    && !matches!(task.action, Action::PassRight | Action::Find)
            }
            Self::LimitMemcpy => {
                task.clients == 1
                    && task.idle == 0
                    && matches!(task.action, Action::Echo | Action::Sum)
            }
        }
    }

    /// Has its turn with `--quick`.
    pub(crate) fn is_quick(self) -> bool {
        self.is_limit() || matches!(self, Self::Seqpacket | Self::Portolan | Self::Stream)
    }

    /// What keeps this peer from running here, if anything does.
    pub(crate) fn missing(self) -> Option<&'static str> {
        None
    }
}

/// Serves the cell until this process is killed.
pub(crate) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    match cell.peer {
        Peer::Portolan => portolan::serve(cell, ready),
        Peer::Seqpacket => socket::serve::<socket::Seqpacket>(cell, ready),
        Peer::Stream | Peer::StreamBuffered => socket::serve::<socket::Stream>(cell, ready),
        Peer::LimitSpin | Peer::LimitSpinThenFutex | Peer::LimitFutex | Peer::LimitMemcpy => {
            bail!("a limit has no server")
        }
    }
}

pub(crate) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    match cell.peer {
        Peer::Portolan => portolan::connect(cell),
        Peer::Seqpacket => socket::connect::<socket::Seqpacket>(cell),
        Peer::Stream | Peer::StreamBuffered => socket::connect::<socket::Stream>(cell),
        Peer::LimitSpin | Peer::LimitSpinThenFutex | Peer::LimitFutex | Peer::LimitMemcpy => {
            bail!("a limit has no client")
        }
    }
}
