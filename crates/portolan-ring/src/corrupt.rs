use std::{error, fmt};

/// The other side broke the protocol of the ring. The half that found out refuses every further
/// operation with the same value; the channel has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Corrupt {
    /// The position that the other side claims is not a multiple of 8, went backwards, or leaves
    /// fewer than 0 or more than `capacity` bytes in the ring.
    Position {
        /// What the other side wrote.
        claimed: u64,
        /// The position of the half that found out.
        own: u64,
    },
    /// A record says that it is longer than what is published, or than any record may be.
    Length {
        /// The length in the record's header, in bytes.
        claimed: u32,
        /// How many bytes are published and not yet taken, headers included.
        published: u64,
    },
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { claimed, own } => {
                write!(
                    f,
                    "the other side claims position {claimed} when ours is {own}"
                )
            }
            Self::Length { claimed, published } => {
                write!(
                    f,
                    "a record claims {claimed} bytes where {published} are published"
                )
            }
        }
    }
}

impl error::Error for Corrupt {}
