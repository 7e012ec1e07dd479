//! Waiting for answers: one thread of all that use a right waits for all of them, and puts what has come
//! where each finds it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use portolan_wire::failure::StartFailure;
use portolan_wire::packet::{Header, Kind, RecordKind};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::SendRight;
use super::replies::{Replies, Slot};
use crate::answers::MAX_OWED;
use crate::channel::lock;
use crate::error::ReplyError;
use crate::memory::{Events, Woken};
use crate::message::{Message, Origin};
use crate::payload::Payload;
use crate::ring_end::{Next, RingEnd};
use crate::sender::Sender;
use crate::socket::{self, Incoming, Nothing, Outgoing};
use crate::timeout::Deadline;
use crate::transfer;
use crate::wait::Spun;

/// How far to look for what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// No system call unless a record says that there is something in the socket.
    Memory,
    /// The socket as well, and so the end of the channel.
    Everything,
}

/// What came for a right.
pub(super) enum News {
    Packet(Incoming),
    WhoAreYou,
    Closed,
    Other,
}

impl SendRight {
    /// Reserves a slot for an answer. With as many as there may be, those that were given up are
    /// waited for, because their answers are on their way; `None` if there is none of these, or if
    /// they do not come in time.
    pub(super) fn open_slot(&self, deadline: Deadline) -> Result<Option<u32>, Errno> {
        let mut replies = lock(&self.replies);
        while replies.slots.len() >= MAX_OWED {
            let seen = replies.slots.len();
            if !replies.reading {
                replies = self.read_all(replies, Depth::Everything);
            }
            let dead = self.dead.load(Ordering::Relaxed);
            if replies.slots.len() >= seen && (dead || !replies.expects_unwanted()) {
                return Ok(None);
            }
            if replies.slots.len() >= MAX_OWED {
                if deadline.has_passed() {
                    return Ok(None);
                }
                replies = self.wait_for_news(replies, deadline)?;
            }
        }
        Ok(Some(replies.open()))
    }

    /// Sleeps until something has come, and takes it.
    pub(super) fn wait_for_news<'a>(
        &'a self,
        replies: MutexGuard<'a, Replies>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, Replies>, Errno> {
        if let Some(ring) = self.memory.ring()
            && !ring.prepare_to_receive()
        {
            // Who sleeps for all is not rung for now, and may wait for something that is taken here.
            if replies.reading {
                ring.ring_own();
            }
            return Ok(self.read_all(replies, Depth::Memory));
        }
        self.wait_for_bell(replies, deadline)
    }

    /// Waits for the answer in a slot.
    pub(super) fn wait_for(&self, slot: u32, deadline: Deadline) -> Result<Message, ReplyError> {
        self.check_process()
            .map_err(|()| ReplyError::ForeignProcess)?;
        let answer = self.wait_for_slot(slot, deadline);
        self.settle();
        answer
    }

    pub(super) fn wait_for_slot(
        &self,
        slot: u32,
        deadline: Deadline,
    ) -> Result<Message, ReplyError> {
        let mut replies = lock(&self.replies);
        // What has come is taken in any case, so that polling makes progress.
        let mut late = false;
        loop {
            match replies.slots.get(&slot) {
                Some(Slot::Waiting) => {}
                Some(Slot::Redirected(socket)) => {
                    let socket = Arc::clone(socket);
                    drop(replies);
                    return self.wait_elsewhere(&socket, deadline);
                }
                _ => {
                    return match replies.slots.remove(&slot) {
                        Some(Slot::Answered(message)) => Ok(message),
                        Some(Slot::Refused(None)) => Err(ReplyError::NoReply),
                        Some(Slot::Refused(Some(failure))) => Err(ReplyError::Failed(failure)),
                        _ => Err(ReplyError::DeadName),
                    };
                }
            }
            if late {
                return Err(ReplyError::TimedOut);
            }
            late = deadline.has_passed();
            replies = match (replies.reading, self.memory.ring()) {
                (true, _) if late => return Err(ReplyError::TimedOut),
                (false, Some(ring)) => self.wait_for_record((ring, slot), replies, deadline)?,
                _ => self.wait_for_news(replies, deadline)?,
            };
        }
    }

    /// Spins for a while, then sleeps until something comes through memory.
    pub(super) fn wait_for_record<'a>(
        &'a self,
        (ring, slot): (&RingEnd, u32),
        mut replies: MutexGuard<'a, Replies>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, Replies>, ReplyError> {
        if ring.is_ready() {
            return Ok(self.read_all(replies, Depth::Memory));
        }
        let mut since = None;
        if !matches!(deadline, Deadline::Passed) {
            replies.reading = true;
            drop(replies);
            let spun = self.spinner.spin(ring.meet(), || ring.is_ready());
            replies = lock(&self.replies);
            replies.reading = false;
            match spun {
                Spun::Hit => return Ok(self.read_all(replies, Depth::Memory)),
                Spun::Again => {
                    return self
                        .wait_for_bell(replies, Deadline::Passed)
                        .map_err(Into::into);
                }
                Spun::Sleep { since: start } => since = start,
            }
            // Another thread may have taken the answer out of memory meanwhile. Those that wait for
            // this one have to know that it waits no more.
            if !matches!(replies.slots.get(&slot), Some(Slot::Waiting)) {
                self.tell_followers(&replies);
                return Ok(replies);
            }
        }
        let replies = self.wait_for_news(replies, deadline)?;
        if let Some(since) = since {
            self.spinner.slept(since);
        }
        Ok(replies)
    }

    pub(super) fn wait_for_reader<'a>(
        &self,
        mut replies: MutexGuard<'a, Replies>,
        deadline: Deadline,
    ) -> MutexGuard<'a, Replies> {
        replies.followers += 1;
        let mut replies = match deadline.remaining() {
            None => self
                .progress
                .wait(replies)
                .unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = self.progress.wait_timeout(replies, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        replies.followers -= 1;
        replies
    }

    /// Sleeps until something comes, or some room, or until somebody else who sleeps here was
    /// woken. One thread waits for all, and takes what has come.
    pub(super) fn wait_for_bell<'a>(
        &'a self,
        mut replies: MutexGuard<'a, Replies>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, Replies>, Errno> {
        if replies.reading {
            return Ok(self.wait_for_reader(replies, deadline));
        }
        replies.reading = true;
        drop(replies);
        let woken = match self.memory.events() {
            Some(events) => events.wait(deadline),
            None => self.wait_for_socket(deadline),
        };
        let mut replies = lock(&self.replies);
        replies.reading = false;
        self.tell_followers(&replies);
        Ok(match woken? {
            Woken::ByBell => {
                self.memory.ring().into_iter().for_each(RingEnd::hear);
                self.read_all(replies, Depth::Memory)
            }
            Woken::BySocket => {
                self.memory.ring().into_iter().for_each(RingEnd::hear);
                self.read_all(replies, Depth::Everything)
            }
            Woken::TooLate => replies,
        })
    }

    pub(super) fn wait_for_socket(&self, deadline: Deadline) -> Result<Woken, Errno> {
        Ok(
            match socket::wait(self.socket(), PollFlags::IN, deadline)? {
                true => Woken::BySocket,
                false => Woken::TooLate,
            },
        )
    }

    /// Telling costs a system call, so it is done only if somebody listens.
    pub(super) fn tell_followers(&self, replies: &Replies) {
        if replies.followers > 0 {
            self.progress.notify_all();
        }
    }

    /// Takes what has come and puts it where somebody waits for it.
    pub(super) fn read_all<'a>(
        &'a self,
        mut replies: MutexGuard<'a, Replies>,
        depth: Depth,
    ) -> MutexGuard<'a, Replies> {
        // A peer that keeps sending gets a share of the time only, which is more than all that an
        // honest one can have sent.
        for _ in 0..2 * MAX_OWED {
            let result = match self.next(depth) {
                Ok(News::Packet(incoming)) => self.dispatch(incoming, &mut replies),
                Ok(News::WhoAreYou) => {
                    self.introduce();
                    Ok(())
                }
                Ok(News::Closed) => Err(Nothing::Closed),
                Ok(News::Other) => Ok(()),
                Err(Nothing::Empty) => break,
                Err(Nothing::Lost(header, _)) => self.lose(header, &mut replies),
                Err(other) => Err(other),
            };
            if result.is_err() {
                self.die(&mut replies, &[]);
                break;
            }
        }
        self.tell_followers(&replies);
        replies
    }

    /// The next packet or record. Answers may come out of order, so a packet in the socket may be
    /// taken before its record.
    pub(super) fn next(&self, depth: Depth) -> Result<News, Nothing> {
        let Some(ring) = self.memory.ring() else {
            return socket::try_receive(self.socket()).map(News::Packet);
        };
        match ring.next() {
            Ok(Next::Packet(incoming)) => Ok(News::Packet(incoming)),
            Ok(Next::Control(RecordKind::WhoAreYou)) => Ok(News::WhoAreYou),
            Ok(Next::Control(RecordKind::Closed)) => Ok(News::Closed),
            Ok(Next::Control(_)) => Err(Nothing::Violation),
            Ok(Next::InSocket) => match self.receive_announced() {
                Ok(incoming) => Ok(News::Packet(incoming)),
                Err(Nothing::Empty) => Ok(News::Other),
                Err(other) => Err(other),
            },
            Err(Nothing::Empty) if depth == Depth::Everything => {
                match socket::try_receive(self.socket()) {
                    Ok(incoming) => Ok(News::Packet(incoming)),
                    // Published after the look above and before the end.
                    Err(Nothing::Closed) if ring.is_ready() => Ok(News::Other),
                    Err(other) => Err(other),
                }
            }
            Err(other) => Err(other),
        }
    }

    /// The packet that a record stands for. The port's last packet from before is not announced, and
    /// may still be there.
    pub(super) fn receive_announced(&self) -> Result<Incoming, Nothing> {
        match socket::try_receive(self.socket()) {
            Ok(incoming) if incoming.header.kind == Kind::Switch => {
                socket::try_receive(self.socket())
            }
            other => other,
        }
    }

    /// Takes what has come, and has the descriptor tell of what comes later, if somebody waits for
    /// it.
    pub(super) fn settle(&self) {
        let Some(events) = self.memory.events().filter(|events| events.are_polled()) else {
            return;
        };
        let replies = lock(&self.replies);
        if !replies.reading {
            // Looked at below, and what comes later is told anew.
            events.wait(Deadline::Passed).ok();
            self.memory.ring().into_iter().for_each(RingEnd::hear);
            let replies = self.read_all(replies, Depth::Everything);
            self.arm(&replies);
        }
    }

    /// The descriptor tells each event once, so what is there already has to be told again.
    pub(super) fn arm(&self, _replies: &Replies) {
        let Some(ring) = self.memory.ring() else {
            return;
        };
        let dead = self.dead.load(Ordering::Relaxed);
        let in_socket = socket::wait(self.socket(), PollFlags::IN, Deadline::Passed);
        if dead || in_socket != Ok(false) || !ring.prepare_to_receive() {
            ring.ring_own();
        }
    }

    /// Who waited for room has heard the bell for who waits outside.
    pub(super) fn ring_if_polled(&self, ring: &RingEnd) {
        if self.memory.events().is_some_and(Events::are_polled) {
            ring.ring_own();
        }
    }

    /// Somebody outside is about to wait for the descriptor.
    pub(super) fn poll_from_outside(&self) {
        let Some(events) = self.memory.events() else {
            return;
        };
        if self.check_process().is_err() || !events.poll_from_outside() {
            return;
        }
        let replies = lock(&self.replies);
        if !replies.reading {
            events.wait(Deadline::Passed).ok();
            self.memory.ring().into_iter().for_each(RingEnd::hear);
            self.arm(&replies);
        }
    }

    /// Has the kernel tell the port's new owner who holds this right.
    pub(super) fn introduce(&self) {
        let packet = Outgoing::control(Kind::Hello, 0);
        if let Some(ring) = self.memory.ring() {
            // Without room, the new owner goes on not knowing.
            ring.send_through_socket(self.socket(), &packet).ok();
        }
    }

    /// An answer came for which this process had no descriptors.
    pub(super) fn lose(&self, header: Header, replies: &mut Replies) -> Result<(), Nothing> {
        let lost = matches!(header.kind, Kind::Reply | Kind::Redirect);
        if let Some(waiting) = replies.slots.get_mut(&header.slot).filter(|_| lost) {
            *waiting = Slot::Refused(None);
        }
        Ok(())
    }

    pub(super) fn dispatch(
        &self,
        mut incoming: Incoming,
        replies: &mut Replies,
    ) -> Result<(), Nothing> {
        let slot = incoming.header.slot;
        let outcome = match incoming.header.kind {
            Kind::Reply => Slot::Answered(self.answer(incoming)?),
            Kind::NoReply => Slot::Refused(failure_in(&incoming)?),
            Kind::Returned if self.lender.returned(slot) => return Ok(()),
            // Whoever slept on the socket is awake now, and will look at memory.
            Kind::Switch => return Ok(()),
            Kind::Redirect => {
                let socket = incoming.fds.pop_front().filter(socket::is_channel_end);
                Slot::Redirected(Arc::new(socket.ok_or(Nothing::Violation)?))
            }
            Kind::PortDied => {
                let owed = incoming_bytes(&incoming);
                let again = std::mem::replace(&mut replies.port_died, true);
                if again || owed.len() > MAX_OWED * size_of::<u32>() {
                    return Err(Nothing::Violation);
                }
                self.die(replies, owed);
                return Ok(());
            }
            _ => return Err(Nothing::Violation),
        };
        let is_late = replies.is_late(slot, &outcome);
        match replies.slots.get_mut(&slot) {
            Some(waiting @ Slot::Waiting) => *waiting = outcome,
            // Nobody waits any more: the answer is dropped with its rights.
            Some(Slot::Abandoned) => drop(replies.slots.remove(&slot)),
            _ if is_late => {}
            _ => return Err(Nothing::Violation),
        }
        Ok(())
    }

    pub(super) fn answer(&self, incoming: Incoming) -> Result<Message, Nothing> {
        let sender = incoming.credentials.map(|credentials| Sender {
            credentials,
            pidfd: None,
        });
        let mut message = transfer::receive(incoming)?;
        message.origin = Some(match sender {
            None => Arc::clone(self.origin.get_or_init(|| self.origin_of(None))),
            known => self.origin_of(known),
        });
        Ok(message)
    }

    pub(super) fn origin_of(&self, sender: Option<Sender>) -> Arc<Origin> {
        Arc::new(Origin {
            port: self.port,
            badge: 0,
            sender,
            notification: None,
        })
    }

    /// The port is dead. The slots in `owed` (little-endian `u32`s) may still be answered.
    pub(super) fn die(&self, replies: &mut Replies, owed: &[u8]) {
        self.dead.store(true, Ordering::Relaxed);
        if owed.is_empty() {
            self.lender.port_died();
        }
        let owed = |slot: &u32| owed.as_chunks::<4>().0.contains(&slot.to_le_bytes());
        replies
            .slots
            .retain(|slot, state| !matches!(state, Slot::Abandoned) || owed(slot));
        for (slot, state) in &mut replies.slots {
            if matches!(state, Slot::Waiting) && !owed(slot) {
                *state = Slot::Dead;
            }
        }
    }

    pub(super) fn redirection_of(&self, slot: u32) -> Option<Arc<OwnedFd>> {
        if self.check_process().is_err() {
            return None;
        }
        match lock(&self.replies).slots.get(&slot) {
            Some(Slot::Redirected(socket)) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    /// Waits for the one message on a redirected slot.
    pub(super) fn wait_elsewhere(
        &self,
        socket: &OwnedFd,
        deadline: Deadline,
    ) -> Result<Message, ReplyError> {
        loop {
            match socket::try_receive(socket.as_fd()) {
                Ok(incoming) if incoming.header.kind == Kind::Message => {
                    return self.answer(incoming).map_err(|_| ReplyError::NoReply);
                }
                Ok(_) | Err(Nothing::Closed | Nothing::Violation | Nothing::Lost(..)) => {
                    return Err(ReplyError::NoReply);
                }
                Err(Nothing::Empty) => {}
            }
            if !socket::wait(socket.as_fd(), PollFlags::IN, deadline)? {
                return Err(ReplyError::TimedOut);
            }
        }
    }
}

/// Why a request was refused, if that is said.
fn failure_in(incoming: &Incoming) -> Result<Option<Box<StartFailure>>, Nothing> {
    match incoming_bytes(incoming) {
        [] => Ok(None),
        bytes => {
            let failure = StartFailure::decode(bytes).map_err(|_| Nothing::Violation)?;
            Ok(Some(Box::new(failure)))
        }
    }
}

fn incoming_bytes(incoming: &Incoming) -> &[u8] {
    match &incoming.payload {
        Payload::Heap(bytes) => bytes,
        _ => &[],
    }
}
