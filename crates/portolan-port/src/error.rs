//! What can go wrong, one enum for each operation.

use std::fmt;
use std::io;

use portolan_wire::failure::StartFailure;
use rustix::io::Errno;
use thiserror::Error;

use crate::message::Message;

/// A port could not be made.
#[derive(Debug, Error)]
#[error("cannot make a port")]
pub struct CreateError(#[from] pub io::Error);

impl From<Errno> for CreateError {
    fn from(errno: Errno) -> Self {
        Self(errno.into())
    }
}

/// A right could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MintError {
    /// The port is dead.
    #[error("the port is dead")]
    DeadName,
    /// The port's receiver did not take the new channel in time.
    #[error("timed out: the port's queue is full")]
    TimedOut,
    /// The right belongs to the process that this one was forked from.
    #[error("the right belongs to the parent of this forked process")]
    ForeignProcess,
    /// The socket is not a connected `SOCK_SEQPACKET` Unix socket.
    #[error("not a connected SOCK_SEQPACKET Unix socket")]
    NotAChannel,
    /// The kernel refused, most often for want of descriptors.
    #[error("the kernel refused a new channel")]
    System(#[source] io::Error),
}

impl From<Errno> for MintError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE => Self::DeadName,
            other => Self::System(other.into()),
        }
    }
}

/// A message was not sent. It is still here, with every right that was in it.
#[must_use = "the message and its rights are in here"]
pub struct SendError {
    kind: SendErrorKind,
    message: Box<Message>,
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, message: Message) -> Self {
        Self {
            kind,
            message: Box::new(message),
        }
    }

    /// Why it was not sent.
    #[must_use]
    pub fn kind(&self) -> &SendErrorKind {
        &self.kind
    }

    /// The message, with its rights.
    #[must_use]
    pub fn into_message(self) -> Message {
        *self.message
    }

    pub(crate) fn into_kind(self) -> SendErrorKind {
        self.kind
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Why a message was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The port's queue was full for the whole time-out (`MACH_SEND_TIMED_OUT`).
    #[error("timed out: the port's queue is full")]
    TimedOut,
    /// The port is dead (`MACH_SEND_INVALID_DEST`).
    #[error("the port is dead")]
    DeadName,
    /// More bytes than [`MAX_MESSAGE_BYTES`](crate::MAX_MESSAGE_BYTES)
    /// (`MACH_SEND_TOO_LARGE`).
    #[error(
        "{len} bytes are more than a message can carry ({})",
        crate::MAX_MESSAGE_BYTES
    )]
    TooLarge {
        /// Bytes in the message.
        len: usize,
    },
    /// More rights than [`MAX_MESSAGE_RIGHTS`](crate::MAX_MESSAGE_RIGHTS), or receive rights with
    /// more senders than one message can move.
    #[error(
        "{count} rights are more than a message can carry ({})",
        crate::MAX_MESSAGE_RIGHTS
    )]
    TooManyRights {
        /// Rights in the message.
        count: usize,
    },
    /// This user has too many descriptors in flight; receivers must catch up first
    /// (`ETOOMANYREFS`).
    #[error("too many rights of this user are in flight")]
    RightsInFlight,
    /// Too many requests on this right are waiting for their answers.
    #[error("{limit} requests on this right are waiting for their answers")]
    TooManyRequests {
        /// How many may wait.
        limit: usize,
    },
    /// The right, or one in the message, belongs to the process that this one was forked from.
    #[error("the right belongs to the parent of this forked process")]
    ForeignProcess,
    /// The kernel refused.
    #[error("the kernel refused the message")]
    System(#[source] io::Error),
}

impl From<io::Error> for SendErrorKind {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Nothing was received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Nothing came in time (`MACH_RCV_TIMED_OUT`).
    #[error("timed out: no message came")]
    TimedOut,
    /// The right belongs to the process that this one was forked from.
    #[error("the right belongs to the parent of this forked process")]
    ForeignProcess,
    /// The kernel refused.
    #[error("the kernel refused to receive")]
    System(#[source] io::Error),
}

impl From<Errno> for ReceiveError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A request was sent, but no answer came of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// No answer came in time (`MACH_RCV_TIMED_OUT`). A later one is dropped.
    #[error("timed out: no answer came")]
    TimedOut,
    /// The reply right was dropped unused (Mach's send-once notification).
    #[error("the server dropped the request without an answer")]
    NoReply,
    /// The request was refused by who keeps the port while no process receives from it: the job that
    /// should serve it could not.
    #[error("{0}")]
    Failed(Box<StartFailure>),
    /// The port died before it answered (`MIG_SERVER_DIED`).
    #[error("the server died before it answered")]
    DeadName,
    /// The right belongs to the process that this one was forked from.
    #[error("the right belongs to the parent of this forked process")]
    ForeignProcess,
    /// The kernel refused.
    #[error("the kernel refused to receive the answer")]
    System(#[source] io::Error),
}

impl From<Errno> for ReplyError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A request got no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// It was not sent; the message is in here.
    #[error("the request was not sent")]
    Send(#[from] SendError),
    /// It was sent, but not answered.
    #[error("the request was not answered")]
    Reply(#[from] ReplyError),
}
