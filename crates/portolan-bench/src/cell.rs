//! One cell of the table: a workload in one variant through one peer.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::peer::Peer;

/// All that the processes of a cell need to know; they get it as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) task: Task,
    pub(crate) peer: Peer,
    pub(crate) policy: Option<Policy>,
    /// Where each side is pinned: client, server.
    pub(crate) cpus: Option<(usize, usize)>,
    pub(crate) budget: Duration,
    /// For sockets; each cell has one of its own.
    pub(crate) directory: PathBuf,
}

impl Cell {
    /// What tells it from the other cells of its task.
    pub(crate) fn who(&self) -> (Peer, Option<Policy>) {
        (self.peer, self.policy)
    }
}

/// A workload in one variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) workload: Workload,
    pub(crate) variant: String,
    pub(crate) action: Action,
    pub(crate) placement: Placement,
    /// Length of each message.
    pub(crate) bytes: usize,
    /// Messages may be gathered and published together.
    pub(crate) batches: bool,
    /// Client processes.
    pub(crate) clients: usize,
    /// Further connections of the client, which are not used while it is measured.
    pub(crate) idle: usize,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
pub(crate) enum Workload {
    #[value(name = "W1")]
    W1,
    #[value(name = "W2")]
    W2,
    #[value(name = "W3")]
    W3,
    #[value(name = "W4")]
    W4,
    #[value(name = "W5")]
    W5,
    #[value(name = "W6")]
    W6,
    #[value(name = "W7")]
    W7,
    #[value(name = "W8")]
    W8,
}

impl Workload {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::W1 => "round trip of 64 B",
            Self::W2 => "large messages, answered with their sum",
            Self::W3 => "one way, messages per second",
            Self::W4 => "eight clients to one server, round trips of 64 B per second",
            Self::W5 => "a right inside a message, used once",
            Self::W6 => "find by name and make the first round trip",
            Self::W7 => "CPU time of round trips, and while idle",
            Self::W8 => "round trip of 64 B beside idle channels",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the client does over and over while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    /// The server sends the message back.
    Echo,
    /// The server answers with the sum.
    Sum,
    /// The server answers with the sum of all messages once, at the end.
    Stream,
    /// A new endpoint goes along, and the answer comes through it.
    PassRight,
    /// Each round trip is the first of a connection found by name.
    Find,
    /// Nothing.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Placement {
    TwoCores,
    OneCore,
    Free,
}

/// How Portolan waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    Adaptive,
    Block,
    Spin,
}

impl Policy {
    /// Eight clients that spin say nothing about any of them.
    pub(crate) fn suits(self, task: &Task) -> bool {
        self != Self::Spin || task.clients == 1
    }
}

/// What one process found out, or all clients of a cell together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Round trips, or messages where they go one way.
    pub(crate) count: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    /// Of all processes that had a part in it.
    pub(crate) cpu_ns: u64,
    /// In the server, for each idle channel.
    pub(crate) bytes_per_channel: Option<f64>,
    pub(crate) descriptors_per_channel: Option<f64>,
}

impl Sample {
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.count > 0 && self.elapsed_ns > 0)
            .then(|| self.count as f64 * 1e9 / self.elapsed_ns as f64)
    }

    pub(crate) fn cpu_seconds_per_100k(&self) -> Option<f64> {
        (self.count > 0).then(|| self.cpu_ns as f64 / 1e9 * 1e5 / self.count as f64)
    }
}
