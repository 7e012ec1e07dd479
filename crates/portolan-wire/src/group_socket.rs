//! Sockets in the container of an application group, for programs that may not make any.

use crate::bootstrap::DecodeError;

/// The longest path of a socket below its group's container, in bytes.
pub const MAX_SOCKET_PATH_BYTES: usize = 1024;

/// How bytes travel through a socket. There are no datagrams: whoever has a socket for these can send
/// to any path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketKind {
    /// 1: `SOCK_STREAM`.
    Stream,
    /// 5: `SOCK_SEQPACKET`.
    SeqPacket,
}

impl SocketKind {
    /// The number, which is Linux's.
    pub const fn raw(self) -> u8 {
        match self {
            Self::Stream => 1,
            Self::SeqPacket => 5,
        }
    }

    /// The kind of a number.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownKind`] for other numbers than 1 and 5.
    pub const fn from_raw(raw: u8) -> Result<Self, DecodeError> {
        match raw {
            1 => Ok(Self::Stream),
            5 => Ok(Self::SeqPacket),
            value => Err(DecodeError::UnknownKind { value }),
        }
    }
}

/// What is done with the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketUse {
    /// A socket is connected to the one there.
    Connect,
    /// A socket is made there, and listens.
    Listen {
        /// How many connections may wait to be accepted; not 0.
        backlog: u32,
    },
}

impl SocketUse {
    /// The number: the backlog, and 0 for connecting.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Connect => 0,
            Self::Listen { backlog } => backlog,
        }
    }

    /// What a number stands for.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Connect,
            backlog => Self::Listen { backlog },
        }
    }
}
