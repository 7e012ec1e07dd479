//! How packets of one direction travel: through the socket, or through memory as well.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use portolan_wire::packet::HEADER_BYTES;

use crate::lent::Lender;
use crate::payload::INLINE_MAX;
use crate::ring_end::RingEnd;
use crate::socket::{self, Outgoing, Refusal};

/// One end of a channel, in the flavour that it has now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) ring: Option<&'a RingEnd>,
    /// Where memory for large payloads comes from, if the other side can return it.
    pub(crate) lender: Option<&'a Arc<Lender>>,
}

impl Link<'_> {
    /// Sends a packet without waiting.
    pub(crate) fn try_send(&self, packet: &Outgoing<'_>) -> Result<(), Refusal> {
        match self.ring {
            Some(ring) => ring.try_send(self.socket, packet),
            None => socket::try_send(self.socket, packet),
        }
    }

    /// The longest payload that need not go out of line.
    pub(crate) fn inline_max(&self, rights: bool) -> usize {
        match self.ring {
            Some(ring) if !rights => ring.inline_max() - HEADER_BYTES,
            _ => INLINE_MAX,
        }
    }
}
