//! Several messages at once, for those who have many small ones.

use std::fmt;
use std::sync::Arc;

use portolan_ring::{Run, split_record};
use portolan_wire::packet::{PlainMessage, RecordKind};

use crate::ahead::plain_message;
use crate::error::{SendError, SendErrorKind};
use crate::message::{Message, Origin};
use crate::send_right::SendRight;
use crate::sender::Sender;
use crate::timeout::Timeout;

/// So many bytes of a batch are published while the rest is still being gathered, so that both
/// sides have something to do.
const PUBLISH_BYTES: usize = 8 << 10;

/// Messages of bytes that are published together, see [`SendRight::batch`].
///
/// Dropping it publishes what is left, and waits for room as long as the batch's time-out says.
#[must_use = "dropping it sends what was pushed, and does not tell whether that worked"]
pub struct SendBatch<'a> {
    right: &'a SendRight,
    timeout: Timeout,
    /// Records for the right's memory; none as long as it has no memory.
    run: Run,
}

impl<'a> SendBatch<'a> {
    pub(crate) fn new(right: &'a SendRight, timeout: Timeout) -> Self {
        Self {
            right,
            timeout,
            run: Run::default(),
        }
    }

    /// Adds a message with this id and these bytes.
    ///
    /// It is sent at the next [`publish`](Self::publish) at the latest, which happens by itself now
    /// and then.
    ///
    /// # Errors
    ///
    /// The kinds of [`SendRight::send`]. If messages were not sent, they are still in the batch, and
    /// this one is not.
    #[inline]
    pub fn push(&mut self, id: i32, bytes: &[u8]) -> Result<(), SendErrorKind> {
        if self.run.len() >= PUBLISH_BYTES {
            self.publish()?;
        }
        let Some(max) = self.right.record_max() else {
            return self.push_alone(id, bytes);
        };
        let head = PlainMessage::head(id, 0, bytes.len());
        match self
            .run
            .push(RecordKind::Packet.tag(), &[&head, bytes], max)
        {
            Ok(()) => Ok(()),
            Err(_) => self.push_alone(id, bytes),
        }
    }

    #[cold]
    fn push_alone(&mut self, id: i32, bytes: &[u8]) -> Result<(), SendErrorKind> {
        self.publish()?;
        let message = Message::new(id).with_bytes(bytes);
        let sent = self.right.send(message, self.timeout);
        sent.map_err(SendError::into_kind)
    }

    /// Sends what was pushed.
    ///
    /// # Errors
    ///
    /// The kinds of [`SendRight::send`]. What was not sent is still in the batch.
    pub fn publish(&mut self) -> Result<(), SendErrorKind> {
        match self.run.is_empty() {
            true => Ok(()),
            false => self.right.send_run(&mut self.run, self.timeout),
        }
    }
}

impl Drop for SendBatch<'_> {
    fn drop(&mut self) {
        // Whoever wants to know publishes first.
        self.publish().ok();
    }
}

impl fmt::Debug for SendBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("right", &self.right)
            .field("bytes", &self.run.len())
            .finish_non_exhaustive()
    }
}

/// Messages of one sender that were received together, see
/// [`ReceiveRight::receive_batch`](crate::ReceiveRight::receive_batch).
///
/// Either any number of messages that are nothing but bytes, or one message of any kind.
#[derive(Debug, Default)]
pub struct ReceiveBatch {
    /// Whole records, each checked to be a plain message.
    records: Vec<u8>,
    origin: Option<Arc<Origin>>,
    first_sequence: u64,
    whole: Option<Message>,
}

/// A message in a [`ReceiveBatch`].
#[derive(Clone, Copy, Debug)]
pub struct BatchMessage<'a> {
    id: i32,
    bytes: &'a [u8],
    sequence: u64,
}

impl ReceiveBatch {
    /// An empty batch. Use it again and again: it keeps its memory, up to 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The messages, in the order in which they were sent.
    pub fn messages(&self) -> impl Iterator<Item = BatchMessage<'_>> {
        let whole = self.whole.iter().map(|message| BatchMessage {
            id: message.id(),
            bytes: message.bytes(),
            sequence: message.sequence(),
        });
        let mut rest = self.records.as_slice();
        let mut sequence = self.first_sequence;
        let plain = std::iter::from_fn(move || {
            let (record, payload, behind) = split_record(rest)?;
            let PlainMessage { id, bytes, .. } = plain_message(record, payload)?;
            rest = behind;
            sequence += 1;
            Some(BatchMessage {
                id,
                bytes,
                sequence: sequence - 1,
            })
        });
        whole.chain(plain)
    }

    /// The message with its rights and the right to answer, if it came by itself, as all do that have
    /// more in them than bytes, that are large, or that do not come through memory.
    pub fn take_message(&mut self) -> Option<Message> {
        self.whole.take()
    }

    /// Who sent the messages, see [`Message::sender`].
    #[must_use]
    pub fn sender(&self) -> Option<&Sender> {
        match &self.whole {
            Some(message) => message.sender(),
            None => self.origin.as_ref()?.sender.as_ref(),
        }
    }

    /// Through which right they came, see [`Message::badge`].
    #[must_use]
    pub fn badge(&self) -> u64 {
        match &self.whole {
            Some(message) => message.badge(),
            None => self.origin.as_ref().map_or(0, |origin| origin.badge),
        }
    }

    /// Forgets what it holds, and gives the place where records go.
    pub(crate) fn empty(&mut self) -> &mut Vec<u8> {
        self.whole = None;
        self.origin = None;
        self.records.clear();
        &mut self.records
    }

    /// Keeps the plain messages at the beginning of the records, and says how many there are and how
    /// many bytes they take.
    pub(crate) fn keep_plain(&mut self, origin: Arc<Origin>, sequence: u64) -> (u64, usize) {
        let (mut count, mut rest) = (0, self.records.as_slice());
        while let Some((record, payload, behind)) = split_record(rest) {
            match plain_message(record, payload) {
                Some(plain) if plain.slot == 0 => {}
                _ => break,
            }
            count += 1;
            rest = behind;
        }
        let kept = self.records.len() - rest.len();
        self.records.truncate(kept);
        self.origin = Some(origin);
        self.first_sequence = sequence;
        (count, kept)
    }

    pub(crate) fn hold(&mut self, message: Message) {
        self.whole = Some(message);
    }
}

impl<'a> BatchMessage<'a> {
    /// The id, as the sender chose it.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The bytes. Nobody else can change them.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// As [`Message::sequence`].
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}
