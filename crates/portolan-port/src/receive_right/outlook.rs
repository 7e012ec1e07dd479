//! Looking at what is queued at a port without receiving it, for whoever keeps the port while nobody
//! serves it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use portolan_wire::failure::StartFailure;
use portolan_wire::packet::{Header, Kind};

use super::{MAX_STEPS_WHEN_LATE, Port, ReceiveRight, Step};
use crate::channel::{Channel, lock};
use crate::error::ReceiveError;
use crate::kept::ChannelId;
use crate::message::Message;
use crate::socket;
use crate::timeout::Deadline;

/// The next message of a port, as far as it can be told from others without receiving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    token: u64,
    content: u64,
    /// Messages received from the port before.
    received: u64,
}

impl Head {
    /// A number that is the same as long as this is the next message and none was received from the port,
    /// whoever had it meanwhile.
    #[must_use]
    pub fn digest(&self) -> u64 {
        digest(self.content, &self.received.to_le_bytes())
    }
}

impl ReceiveRight {
    /// Whether a message is queued. What else has come meanwhile (rights that were copied, holders
    /// that left) is seen to.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive), but for `TimedOut`.
    pub fn has_message(&self) -> Result<bool, ReceiveError> {
        let found = self.port().look_for_message()?;
        self.port().settle();
        Ok(found.is_some())
    }

    /// Lets go of the channels of holders that have left and whose messages are all received. Whoever
    /// receives need not: this is for a port whose messages wait for somebody. Takes time that grows with
    /// the channels.
    pub fn prune(&self) {
        let port = self.port();
        let moving = port.moving.read();
        let _staying = moving.unwrap_or_else(PoisonError::into_inner);
        for (token, channel) in port.all_channels() {
            // In this order: after the end, nothing comes.
            if socket::has_ended(channel.socket()) && channel.peek().is_none() {
                port.read_one(token, &channel);
            }
        }
        port.settle();
    }

    /// How many messages are queued. Takes time that grows with them.
    #[must_use]
    pub fn queued(&self) -> usize {
        let channels = self.port().all_channels();
        let headers = channels.iter().flat_map(|(_, channel)| channel.peek_all());
        headers
            .filter(|header| header.kind == Kind::Message)
            .count()
    }

    /// The next message, if there is one. With several senders, any of their next ones.
    ///
    /// # Errors
    ///
    /// Those of [`has_message`](Self::has_message).
    pub fn head(&self) -> Result<Option<Head>, ReceiveError> {
        let any = self.port().look_for_message()?;
        self.port().settle();
        // The same one each time, if it is still there.
        let mut channels = self.port().all_channels();
        channels.sort_by_key(|(token, _)| *token);
        let mut waiting = channels.iter().filter(|(_, channel)| channel.has_message());
        let Some((token, channel)) = any.and_then(|_| waiting.next()) else {
            return Ok(None);
        };
        Ok(Some(Head {
            token: *token,
            content: channel.digest(),
            received: self.port().received(),
        }))
    }

    /// Receives just this message. `None` if it is not the next of its sender any more.
    ///
    /// # Errors
    ///
    /// Those of [`has_message`](Self::has_message).
    pub fn receive_head(&self, head: Head) -> Result<Option<Message>, ReceiveError> {
        self.port()
            .check_process()
            .map_err(|()| ReceiveError::ForeignProcess)?;
        let channel = lock(&self.port().state).channels.get(&head.token).cloned();
        let Some(channel) = channel.filter(|channel| channel.digest() == head.content) else {
            return Ok(None);
        };
        match self.port().read_one(head.token, &channel) {
            Step::Message(message) => Ok(Some(message)),
            Step::Other | Step::Nothing => Ok(None),
        }
    }

    /// Requests that are queued and were [refused](Self::refuse_waiting), for
    /// [`recover`](Self::recover).
    #[must_use]
    pub fn refused(&self) -> Vec<(ChannelId, u32)> {
        let channels = self.port().all_channels();
        let refused = channels.iter().flat_map(|(_, channel)| {
            let cookie = channel.kept().map(|kept| ChannelId(kept.cookie));
            let slots = channel.voids().into_iter();
            slots.filter_map(move |slot| Some((cookie?, slot)))
        });
        refused.collect()
    }

    /// Refuses all requests that are queued, for this reason, which their senders find in
    /// [`ReplyError::Failed`](crate::ReplyError::Failed). They stay in the queue, so that nothing
    /// else loses its place, and are passed over by whoever receives from the port. Gives their number.
    pub fn refuse_waiting(&self, reason: &StartFailure) -> usize {
        let reason: Arc<[u8]> = reason.encode().into();
        let channels = self.port().all_channels();
        let refuse = |channel: &Arc<Channel>| channel.refuse_waiting(&reason);
        channels.iter().map(|(_, channel)| refuse(channel)).sum()
    }
}

impl Port {
    /// How many messages were handed out before by whoever had the port.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn count_former(&self, received: u64) {
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    fn all_channels(&self) -> Vec<(u64, Arc<Channel>)> {
        if self.check_process().is_err() {
            return Vec::new();
        }
        drop(self.hot());
        let state = lock(&self.state);
        let channels = state.channels.iter();
        channels
            .map(|(token, channel)| (*token, Arc::clone(channel)))
            .collect()
    }

    /// A channel whose next packet is a message. Other packets are taken on the way.
    fn look_for_message(&self) -> Result<Option<Arc<Channel>>, ReceiveError> {
        self.check_process()
            .map_err(|()| ReceiveError::ForeignProcess)?;
        for _ in 0..MAX_STEPS_WHEN_LATE {
            let _staying = self.moving.read().unwrap_or_else(PoisonError::into_inner);
            let ready = self.hot_and_ready();
            let found = match ready {
                Some(found) => found,
                None => match self.wait(Deadline::Passed.timespec())? {
                    None => return Ok(None),
                    Some((event, flags)) => match self.channel_of(event, flags) {
                        Some(found) => found,
                        None => continue,
                    },
                },
            };
            let (token, channel) = found;
            if channel.has_message() {
                return Ok(Some(channel));
            }
            self.read_one(token, &channel);
        }
        Ok(None)
    }

    fn hot_and_ready(&self) -> Option<(u64, Arc<Channel>)> {
        let mut hot = self.hot();
        let at = hot.ready()?;
        hot.channels.get(at).cloned()
    }
}

/// FNV-1a, which needs no secret: who can choose the bytes can choose to send the same ones as well.
pub(crate) fn digest(cookie: u64, bytes: &[u8]) -> u64 {
    let all = cookie
        .to_le_bytes()
        .into_iter()
        .chain(bytes.iter().copied());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Channel {
    fn has_message(&self) -> bool {
        let header = self.peek();
        header.is_some_and(|header| header.kind == Kind::Message && !self.is_void_now(header.slot))
    }

    fn refuse_waiting(&self, reason: &Arc<[u8]>) -> usize {
        let is_waiting = |header: &Header| header.kind == Kind::Message && header.slot != 0;
        let headers = self.peek_all().into_iter().filter(is_waiting);
        let slots: Vec<_> = headers.map(|header| header.slot).collect();
        let fresh = slots.into_iter().filter(|slot| !self.is_void_now(*slot));
        fresh
            .map(|slot| {
                self.make_void(slot);
                self.fail(slot, Arc::clone(reason));
            })
            .count()
    }
}
