//! The right to send one message.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use portolan_wire::failure::StartFailure;
use portolan_wire::packet::Kind;
use portolan_wire::port_id::PortId;

use crate::channel::Channel;
use crate::error::{SendError, SendErrorKind};
use crate::link::Link;
use crate::message::Message;
use crate::socket;
use crate::timeout::Deadline;
use crate::transfer;

/// The right to send one message, most often the answer to a request.
///
/// Sending consumes it and never waits: there is always room for the one message. Dropping it
/// unused tells the other side that none will come: a waiting request fails with
/// [`ReplyError::NoReply`](crate::ReplyError::NoReply), and a port whose receiver made the right
/// ([`ReceiveRight::make_send_once`](crate::ReceiveRight::make_send_once)) gets
/// [`Notification::SendOnce`](crate::Notification::SendOnce).
#[must_use = "dropping it tells the other side that no message will come"]
pub struct SendOnceRight {
    way: Way,
    port: PortId,
    epoch: u64,
}

/// How the one message gets there.
enum Way {
    /// Through a channel that was made for it; closing it is the notification.
    Own(OwnedFd),
    /// As the answer in a slot of the channel that the request came on.
    Slot(Arc<Channel>, u32),
    /// It has been used or sent on.
    Spent,
}

impl SendOnceRight {
    pub(crate) fn from_end(socket: OwnedFd, port: PortId) -> Self {
        Self {
            way: Way::Own(socket),
            port,
            epoch: portolan_sys::fork::epoch(),
        }
    }

    pub(crate) fn for_slot(channel: Arc<Channel>, slot: u32, port: PortId) -> Self {
        Self {
            way: Way::Slot(channel, slot),
            port,
            epoch: portolan_sys::fork::epoch(),
        }
    }

    /// Sends the message and consumes the right.
    ///
    /// The counterpart is never waited for: an answer that a slow client has no room for is kept
    /// until it has. It is lost, and the client finds a dead name, if the port moves or this
    /// process ends before that. A client that leaves too much unfetched is cut off.
    ///
    /// # Errors
    ///
    /// `DeadName` if nobody waits any more; the limits of [`SendRight::send`](crate::SendRight::send).
    /// `TimedOut` if the message has a right in it that has been used and whose port has no room
    /// for a copy, or moves a port to a client that has no room. The error holds the message; the
    /// right is gone, and the other side is told.
    pub fn send(mut self, mut message: Message) -> Result<(), SendError> {
        match self.send_message(&mut message) {
            Ok(()) => Ok(()),
            Err(kind) => Err(SendError::new(kind, message)),
        }
    }

    /// Refuses the request with a reason, which its sender finds in
    /// [`ReplyError::Failed`](crate::ReplyError::Failed). A right that has a channel of its own has
    /// no way to carry it and is dropped unused.
    pub fn fail(mut self, reason: &StartFailure) {
        if self.check_process().is_ok()
            && let Way::Slot(channel, slot) = &self.way
        {
            channel.fail(*slot, reason.encode().into());
            self.way = Way::Spent;
        }
    }

    fn send_message(&mut self, message: &mut Message) -> Result<(), SendErrorKind> {
        self.check_process()?;
        match &self.way {
            Way::Own(socket) => {
                let link = Link {
                    socket: socket.as_fd(),
                    ring: None,
                    lender: None,
                };
                let way = (Kind::Message, 0);
                transfer::send(link, way, message, Deadline::Passed, &mut |_| Ok(false))?;
            }
            Way::Slot(channel, slot) => channel.answer(*slot, message)?,
            Way::Spent => return Err(SendErrorKind::DeadName),
        }
        self.way = Way::Spent;
        Ok(())
    }

    /// The port that the message will come to; for an answer, the port that was asked.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Gives the right a channel of its own if it has none.
    pub(crate) fn make_portable(&mut self) -> Result<(), SendErrorKind> {
        self.check_process()?;
        if let Way::Slot(channel, slot) = &self.way {
            let ends = socket::channel()?;
            channel.redirect(*slot, ends.receiver);
            self.way = Way::Own(ends.holder);
        }
        Ok(())
    }

    /// The descriptor that stands for a portable right.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::Own(socket) => Some(socket.as_fd()),
            Way::Slot(..) | Way::Spent => None,
        }
    }

    /// Lets go of the right without telling anybody, because somebody else has it now.
    pub(crate) fn forget(mut self) {
        self.way = Way::Spent;
    }

    fn check_process(&self) -> Result<(), SendErrorKind> {
        if self.epoch == portolan_sys::fork::epoch() {
            Ok(())
        } else {
            Err(SendErrorKind::ForeignProcess)
        }
    }
}

impl Drop for SendOnceRight {
    fn drop(&mut self) {
        if let Way::Slot(channel, slot) = &self.way
            && self.epoch == portolan_sys::fork::epoch()
        {
            channel.refuse(*slot);
        }
    }
}

impl fmt::Debug for SendOnceRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendOnceRight")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
