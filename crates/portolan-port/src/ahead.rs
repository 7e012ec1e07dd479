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
    source: Option<Source>,
    bytes: Vec<u8>,
    at: usize,
}

struct Source {
    token: u64,
    channel: Arc<Channel>,
    origin: Arc<Origin>,
    /// Where the first of the bytes is in the sender's ring.
    position: u64,
    /// A successor has to know how far messages were received.
    is_kept: bool,
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
        self.source = taken.map(|(origin, position)| Source {
            token,
            channel: Arc::clone(channel),
            origin,
            position,
            is_kept: channel.is_kept(),
        });
        self.source.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.source.is_none()
    }

    /// Makes `message`, which is empty, the next message. False at the end, and before anything that is
    /// not a plain message, which is put back.
    ///
    /// The parts are put in their place one by one: a message that is moved as a whole right after it
    /// was made costs more than everything else here.
    #[inline]
    pub(crate) fn pop(&mut self, message: &mut Message) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((record, payload, behind)) = split_record(rest) else {
            self.put_back();
            return false;
        };
        let Some(plain) = plain_message(record, payload) else {
            self.put_back();
            return false;
        };
        if plain.slot != 0 {
            let Ok(reply) = source.channel.owe(plain.slot, source.origin.port, None) else {
                self.put_back();
                return false;
            };
            message.reply = Some(reply);
        }
        message.id = plain.id;
        message.payload = Payload::Heap(plain.bytes.to_vec());
        message.origin = Some(Arc::clone(&source.origin));
        let left = behind.len();
        self.at = self.bytes.len() - left;
        if source.is_kept {
            let position = source.position.wrapping_add(self.at as u64);
            source.channel.keep(position);
        }
        if left == 0 {
            self.source = None;
        }
        true
    }

    /// Has what was not received be where it was before.
    pub(crate) fn put_back(&mut self) {
        if let Some(source) = self.source.take() {
            let position = source.position.wrapping_add(self.at as u64);
            source.channel.put_back(position);
        }
    }

    /// Destroys what was not received, if it came on this channel.
    pub(crate) fn discard(&mut self, token: u64) {
        if self
            .source
            .as_ref()
            .is_some_and(|source| source.token == token)
        {
            self.source = None;
        }
    }
}

/// What is in a record, if it is a message with nothing in it but bytes.
#[inline]
pub(crate) fn plain_message(record: Record, payload: &[u8]) -> Option<PlainMessage<'_>> {
    let is_packet = record.tag == RecordKind::Packet.tag();
    PlainMessage::decode(payload).filter(|_| is_packet)
}
