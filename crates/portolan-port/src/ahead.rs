//! Messages that were copied out of a sender's memory together, ahead of their turn.

use std::sync::Arc;

use portolan_ring::{Record, split_record};
use portolan_wire::packet::{PlainMessage, RecordKind};

use crate::channel::Channel;
use crate::message::{Message, Origin};
use crate::payload::Payload;

/// The most bytes that are copied together.
const RUN_BYTES: usize = 4 << 10;

/// The same while other senders wait for their turn.
const SHARED_RUN_BYTES: usize = 1 << 10;

/// Records of one sender, and how far they have been received. What has not been can be put back.
#[derive(Default)]
pub(crate) struct Ahead {
    from: Option<From>,
    bytes: Vec<u8>,
    at: usize,
}

struct From {
    token: u64,
    channel: Arc<Channel>,
    origin: Arc<Origin>,
    /// Where the first of the bytes is in the sender's ring.
    position: u64,
}

impl Ahead {
    /// Copies what a sender has published. False if there is nothing that can be taken this way.
    pub(crate) fn load(&mut self, token: u64, channel: &Arc<Channel>, is_alone: bool) -> bool {
        let limit = if is_alone {
            RUN_BYTES
        } else {
            SHARED_RUN_BYTES
        };
        self.bytes.clear();
        self.at = 0;
        let taken = channel.take_run(&mut self.bytes, limit);
        self.from = taken.map(|(origin, position)| From {
            token,
            channel: Arc::clone(channel),
            origin,
            position,
        });
        self.from.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.from.is_none()
    }

    /// The next message. `None` at the end, and before anything that is not a plain message, which
    /// is put back.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let from = self.from.as_ref()?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let popped = split_record(rest).and_then(|(record, payload, behind)| {
            let plain = plain_message(record, payload)?;
            let mut message = Message::new(plain.id);
            if plain.slot != 0 {
                message.reply = from.channel.owe(plain.slot, from.origin.port).ok();
                message.reply.as_ref()?;
            }
            message.payload = Payload::Heap(plain.bytes.to_vec());
            message.origin = Some(Arc::clone(&from.origin));
            Some((message, behind.len()))
        });
        match popped {
            Some((message, left)) => {
                self.at = self.bytes.len() - left;
                if left == 0 {
                    self.from = None;
                }
                Some(message)
            }
            None => {
                self.put_back();
                None
            }
        }
    }

    /// Has what was not received be where it was before.
    pub(crate) fn put_back(&mut self) {
        if let Some(from) = self.from.take() {
            let position = from.position.wrapping_add(self.at as u64);
            from.channel.put_back(position);
        }
    }

    /// Destroys what was not received, if it came on this channel.
    pub(crate) fn discard(&mut self, token: u64) {
        if self.from.as_ref().is_some_and(|from| from.token == token) {
            self.from = None;
        }
    }
}

/// What is in a record, if it is a message with nothing in it but bytes.
#[inline]
pub(crate) fn plain_message(record: Record, payload: &[u8]) -> Option<PlainMessage<'_>> {
    let is_packet = record.tag == RecordKind::Packet.tag();
    PlainMessage::decode(payload).filter(|_| is_packet)
}
