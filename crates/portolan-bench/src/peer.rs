//! The peers: Portolan, and what a user would pick instead.

#[cfg(feature = "peers")]
mod dbus;
#[cfg(feature = "peers")]
mod grpc;
#[cfg(feature = "peers")]
mod iceoryx;
#[cfg(feature = "peers")]
mod ipc_channel;
mod limit;
mod portolan;
mod socket;
#[cfg(feature = "peers")]
mod tarpc;
#[cfg(feature = "peers")]
mod zeromq;

use anyhow::bail;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cell::{Action, Cell, Policy, Task};
use crate::payload::Source;

pub(crate) use limit::run as run_limit;

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
    #[cfg(feature = "peers")]
    IpcChannel,
    #[cfg(feature = "peers")]
    #[value(name = "iceoryx2-polling")]
    #[serde(rename = "iceoryx2-polling")]
    Iceoryx2Polling,
    #[cfg(feature = "peers")]
    #[value(name = "iceoryx2-event")]
    #[serde(rename = "iceoryx2-event")]
    Iceoryx2Event,
    #[cfg(feature = "peers")]
    #[value(name = "zbus-p2p")]
    #[serde(rename = "zbus-p2p")]
    ZbusP2p,
    #[cfg(feature = "peers")]
    ZbusDbusDaemon,
    #[cfg(feature = "peers")]
    ZbusDbusBroker,
    #[cfg(feature = "peers")]
    GrpcTonic,
    #[cfg(feature = "peers")]
    Tarpc,
    #[cfg(feature = "peers")]
    #[value(name = "zeromq")]
    #[serde(rename = "zeromq")]
    ZeroMq,
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

    /// Sends this many of them, as [`send`](Self::send) or, if that is asked for, together.
    fn send_many(&mut self, source: &mut Source, length: usize, count: u64) -> anyhow::Result<()> {
        (0..count).try_for_each(|_| self.send(source, length))
    }

    /// The sum of all that was sent one way since it was last asked for.
    fn total(&mut self) -> anyhow::Result<u64> {
        bail!("does not send one way")
    }

    /// A round trip whose answer comes through a new endpoint that went with the message.
    fn pass_right(&mut self, _source: &mut Source, _length: usize) -> anyhow::Result<u64> {
        bail!("does not carry rights")
    }

    /// What has to be done before each search, and is no part of it.
    fn prepare_to_find(&mut self) -> anyhow::Result<()> {
        Ok(())
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

    /// The ways of waiting that make rows of their own, the usual one first.
    pub(crate) fn policies(self) -> &'static [Option<Policy>] {
        match self {
            Self::Portolan => &[
                Some(Policy::Adaptive),
                Some(Policy::Block),
                Some(Policy::Spin),
            ],
            _ => &[None],
        }
    }

    pub(crate) fn can(self, task: &Task) -> bool {
        let alone = task.clients == 1 && task.idle == 0;
        let carries_no_rights = task.action != Action::PassRight;
        match self {
            Self::Seqpacket | Self::Portolan => true,
            Self::StreamBuffered => task.batches,
            #[cfg(feature = "peers")]
            Self::ZeroMq if task.batches => true,
            _ if task.batches => false,
            Self::Stream => true,
            Self::LimitSpin | Self::LimitSpinThenFutex | Self::LimitFutex => {
                alone && carries_no_rights && task.action != Action::Find
            }
            Self::LimitMemcpy => alone && matches!(task.action, Action::Echo | Action::Sum),
            #[cfg(feature = "peers")]
            Self::IpcChannel | Self::ZbusP2p | Self::ZbusDbusDaemon | Self::ZbusDbusBroker => {
                task.idle == 0
            }
            // All clients would hear the event for one.
            #[cfg(feature = "peers")]
            Self::Iceoryx2Event => alone && carries_no_rights,
            #[cfg(feature = "peers")]
            Self::Iceoryx2Polling | Self::GrpcTonic | Self::Tarpc | Self::ZeroMq => {
                task.idle == 0 && carries_no_rights
            }
        }
    }

    /// Has its turn with `--quick`.
    pub(crate) fn is_quick(self) -> bool {
        let sockets = matches!(self, Self::Seqpacket | Self::Stream | Self::StreamBuffered);
        self.is_limit() || sockets || self == Self::Portolan
    }

    /// What keeps this peer from running here, if anything does.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "peers")]
            Self::ZbusDbusDaemon | Self::ZbusDbusBroker => dbus::missing(self),
            _ => None,
        }
    }

    /// Needs a process between client and server, or to find one by the other.
    pub(crate) fn has_helper(self, task: &Task) -> bool {
        match self {
            Self::Portolan => task.action == Action::Find,
            #[cfg(feature = "peers")]
            Self::ZbusDbusDaemon | Self::ZbusDbusBroker => true,
            _ => false,
        }
    }
}

/// Serves the cell until this process is killed.
pub(crate) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    match cell.peer {
        Peer::Portolan => portolan::serve(cell, ready),
        Peer::Seqpacket => socket::serve::<socket::Seqpacket>(cell, ready),
        Peer::Stream | Peer::StreamBuffered => socket::serve::<socket::Stream>(cell, ready),
        #[cfg(feature = "peers")]
        Peer::IpcChannel => ipc_channel::serve(cell, ready),
        #[cfg(feature = "peers")]
        Peer::Iceoryx2Polling | Peer::Iceoryx2Event => iceoryx::serve(cell, ready),
        #[cfg(feature = "peers")]
        Peer::ZbusP2p | Peer::ZbusDbusDaemon | Peer::ZbusDbusBroker => dbus::serve(cell, ready),
        #[cfg(feature = "peers")]
        Peer::GrpcTonic => grpc::serve(cell, ready),
        #[cfg(feature = "peers")]
        Peer::Tarpc => tarpc::serve(cell, ready),
        #[cfg(feature = "peers")]
        Peer::ZeroMq => zeromq::serve(cell, ready),
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
        #[cfg(feature = "peers")]
        Peer::IpcChannel => ipc_channel::connect(cell),
        #[cfg(feature = "peers")]
        Peer::Iceoryx2Polling | Peer::Iceoryx2Event => iceoryx::connect(cell),
        #[cfg(feature = "peers")]
        Peer::ZbusP2p | Peer::ZbusDbusDaemon | Peer::ZbusDbusBroker => dbus::connect(cell),
        #[cfg(feature = "peers")]
        Peer::GrpcTonic => grpc::connect(cell),
        #[cfg(feature = "peers")]
        Peer::Tarpc => tarpc::connect(cell),
        #[cfg(feature = "peers")]
        Peer::ZeroMq => zeromq::connect(cell),
        Peer::LimitSpin | Peer::LimitSpinThenFutex | Peer::LimitFutex | Peer::LimitMemcpy => {
            bail!("a limit has no client")
        }
    }
}

/// Is the process between them until it is killed.
pub(crate) fn help(cell: &Cell) -> anyhow::Result<()> {
    match cell.peer {
        Peer::Portolan => portolan::run_names(&cell.directory),
        #[cfg(feature = "peers")]
        Peer::ZbusDbusDaemon | Peer::ZbusDbusBroker => dbus::run_bus(cell),
        _ => bail!("nothing is needed in between"),
    }
}

/// Removes what the killed processes of a cell have left outside of its directory.
pub(crate) fn clean_up(cell: &Cell) -> std::io::Result<()> {
    match cell.peer {
        #[cfg(feature = "peers")]
        Peer::Iceoryx2Polling | Peer::Iceoryx2Event => iceoryx::clean_up(&cell.directory),
        _ => Ok(()),
    }
}
