//! What travels: an id, bytes, and rights, as one unit.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portolan_wire::port_id::PortId;

use crate::body::Body;
use crate::lent::Loan;
use crate::payload::Payload;
use crate::receive_right::ReceiveRight;
use crate::send_once::SendOnceRight;
use crate::send_right::SendRight;
use crate::sender::Sender;

/// A message: an `i32` id whose meaning is the peers' own, bytes, and rights.
///
/// ```
/// use portolan_port::{Message, ReceiveRight, Timeout};
///
/// let port = ReceiveRight::new()?;
/// let message = Message::new(7).with_bytes("take this").with_right(port.make_send()?);
/// let other = ReceiveRight::new()?;
/// other.make_send()?.send(message, Timeout::POLL)?;
/// let mut received = other.receive(Timeout::POLL)?;
/// assert_eq!((received.id(), received.bytes()), (7, &b"take this"[..]));
/// assert_eq!(received.take_rights().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Message {
    pub(crate) id: i32,
    pub(crate) payload: Payload,
    pub(crate) rights: Vec<Right>,
    pub(crate) reply: Option<SendOnceRight>,
    /// Where it came from; `None` for a message that was not received.
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) sequence: u64,
}

/// What the receiving side knows about a message, and is the same for all that come one way.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) port: PortId,
    pub(crate) badge: u64,
    pub(crate) sender: Option<Sender>,
    pub(crate) notification: Option<Notification>,
}

impl Message {
    /// A message with this id and nothing else in it.
    #[must_use]
    #[inline]
    pub fn new(id: i32) -> Self {
        let payload = Payload::Heap(Vec::new());
        Self {
            id,
            payload,
            rights: Vec::new(),
            reply: None,
            origin: None,
            sequence: 0,
        }
    }

    /// The same message with these bytes.
    #[must_use]
    #[inline]
    pub fn with_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = Payload::Heap(bytes.into());
        self
    }

    /// The same message with the bytes that were written to this loan.
    ///
    /// Only the right that [lent](crate::SendRight::lend) it sends it without copying.
    #[must_use]
    pub fn with_loan(mut self, loan: Loan) -> Self {
        self.payload = Payload::Loan(Box::new(loan));
        self
    }

    /// The same message with this right after those it has.
    #[must_use]
    pub fn with_right(mut self, right: impl Into<Right>) -> Self {
        self.rights.push(right.into());
        self
    }

    /// The same message with a right to answer it with, which the receiver finds with
    /// [`take_reply`](Self::take_reply).
    ///
    /// [`SendRight::request`] puts one of its own there.
    #[must_use]
    pub fn with_reply(mut self, reply: SendOnceRight) -> Self {
        self.reply = Some(reply);
        self
    }

    /// The id, as the sender chose it.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The bytes. Nobody else can change them, however they came: those of a large message are
    /// copied when this is called first.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.payload.as_slice()
    }

    /// The bytes as a vector; copies them if they came in shared memory.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.payload.into_vec()
    }

    /// Takes the bytes out of the message, to be read piece by piece. For a large message that is
    /// faster than [`bytes`](Self::bytes), because each piece is still in the processor's cache when
    /// it is worked on.
    ///
    /// ```
    /// use portolan_port::{Message, ReceiveRight, Timeout};
    /// use std::io::BufRead;
    ///
    /// let port = ReceiveRight::new()?;
    /// let right = port.make_send()?;
    /// let mut loan = right.lend(3 << 20);
    /// loan.fill(7);
    /// right.send(Message::new(1).with_loan(loan), Timeout::NEVER)?;
    ///
    /// let mut body = port.receive(Timeout::NEVER)?.take_body();
    /// let mut sum = 0;
    /// while body.remaining() > 0 {
    ///     let piece = body.fill_buf()?;
    ///     sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    ///     let count = piece.len();
    ///     body.consume(count);
    /// }
    /// assert_eq!(sum, 7 * (3 << 20));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_body(&mut self) -> Body {
        Body::new(std::mem::replace(
            &mut self.payload,
            Payload::Heap(Vec::new()),
        ))
    }

    /// The rights in the message.
    #[must_use]
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// Takes the rights out of the message.
    pub fn take_rights(&mut self) -> Vec<Right> {
        std::mem::take(&mut self.rights)
    }

    /// Takes the right to answer with, which is there if the sender waits for an answer.
    ///
    /// If it stays in the message, dropping the message tells the sender that there will be none.
    pub fn take_reply(&mut self) -> Option<SendOnceRight> {
        self.reply.take()
    }

    /// Who sent the message, as the kernel wrote it down. `None` for a message that was not
    /// received and for a notification.
    #[must_use]
    pub fn sender(&self) -> Option<&Sender> {
        self.origin.as_ref()?.sender.as_ref()
    }

    /// The number that the receiver attached to the send right this came through, see
    /// [`ReceiveRight::make_send_badged`]; 0 if there is none.
    #[must_use]
    pub fn badge(&self) -> u64 {
        self.origin.as_ref().map_or(0, |origin| origin.badge)
    }

    /// The port that the message came to; `None` for one that was not received.
    #[must_use]
    pub fn port(&self) -> Option<PortId> {
        self.origin.as_ref().map(|origin| origin.port)
    }

    /// How many messages had been received from the port before this one since its receive right
    /// was made or moved (Mach's sequence number).
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Set if the port itself speaks here and not a sender.
    #[must_use]
    pub fn notification(&self) -> Option<Notification> {
        self.origin.as_ref()?.notification
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("bytes", &self.payload.len())
            .field("rights", &self.rights)
            .field("reply", &self.reply)
            .field("origin", &self.origin)
            .field("sequence", &self.sequence)
            .finish()
    }
}

/// A right in a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum Right {
    /// A send right.
    Send(SendRight),
    /// A send-once right.
    SendOnce(SendOnceRight),
    /// A receive right, with everything that is queued at it.
    Receive(ReceiveRight),
    /// A right whose port was dead when it was sent (`MACH_PORT_DEAD`).
    Dead,
    /// A descriptor of anything, as a file port is on macOS (`fileport_makeport`). What it is open on
    /// is the sender's choice: check it before use.
    Descriptor(OwnedFd),
}

impl From<OwnedFd> for Right {
    fn from(descriptor: OwnedFd) -> Self {
        Self::Descriptor(descriptor)
    }
}

impl From<SendRight> for Right {
    fn from(right: SendRight) -> Self {
        Self::Send(right)
    }
}

impl From<SendOnceRight> for Right {
    fn from(right: SendOnceRight) -> Self {
        Self::SendOnce(right)
    }
}

impl From<ReceiveRight> for Right {
    fn from(right: ReceiveRight) -> Self {
        Self::Receive(right)
    }
}

/// What a port tells its own receiver, as a message without a sender.
///
/// The ids are Mach's (`mach/notify.h`). A message from a peer can have the same id; it is not a
/// notification unless [`Message::notification`] says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// Id 70: no send right is left, see [`ReceiveRight::request_no_senders`].
    NoSenders {
        /// Send rights that the receiver had made up to then.
        make_send_count: u32,
    },
    /// Id 71: a send-once right was dropped unused.
    SendOnce,
}

impl Notification {
    pub(crate) fn id(self) -> i32 {
        match self {
            Self::NoSenders { .. } => 70,
            Self::SendOnce => 71,
        }
    }
}
