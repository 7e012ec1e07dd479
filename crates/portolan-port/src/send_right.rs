//! The right to send.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use portolan_ring::Run;
use portolan_wire::packet::{HEADER_BYTES, Header, Kind, PlainMessage, RecordKind};
use portolan_wire::port_id::PortId;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::answers::MAX_OWED;
use crate::batch::SendBatch;
use crate::channel::lock;
use crate::error::{MintError, ReplyError, RequestError, SendError, SendErrorKind};
use crate::lent::{Lender, Loan};
use crate::link::Link;
use crate::memory::{Events, Memory, Woken};
use crate::message::{Message, Origin};
use crate::payload::Payload;
use crate::ring_end::{Next, RingEnd};
use crate::sender::Sender;
use crate::socket::{self, Full, Incoming, Nothing, Outgoing, Refusal};
use crate::timeout::{Deadline, Timeout};
use crate::transfer;
use crate::wait::{Spinner, Spun, WaitPolicy};

/// The right to send messages to a port.
///
/// It is this holder's own channel to the port: nothing another holder does can disturb it.
/// Sending it in a message moves it. When the port dies it becomes a dead name, and everything
/// but dropping it fails with `DeadName`.
///
/// Any number of threads may use one right. The descriptor of [`AsFd`] is readable when answers
/// have come or the port has died; see [`is_dead`](Self::is_dead).
pub struct SendRight {
    socket: OwnedFd,
    port: PortId,
    epoch: u64,
    /// Something has been sent, so the channel belongs to this process.
    used: AtomicBool,
    dead: AtomicBool,
    replies: Mutex<Replies>,
    progress: Condvar,
    memory: Box<Memory>,
    /// For answers, and for room.
    spinner: Box<Spinner>,
    room_spinner: Box<Spinner>,
    /// Of answers that come through memory.
    origin: OnceLock<Arc<Origin>>,
    lender: Arc<Lender>,
}

/// Requests that wait for their answers.
#[derive(Default)]
struct Replies {
    last_slot: u32,
    slots: HashMap<u32, Slot, BuildHasherDefault<SlotHasher>>,
    /// A thread waits for all that wait.
    reading: bool,
    /// The threads that it waits for.
    followers: usize,
    /// The port said that it is dead, which it can do once.
    port_died: bool,
}

impl Replies {
    /// A slot whose number is in no other use; there must be room.
    fn open(&mut self) -> u32 {
        loop {
            self.last_slot = self.last_slot.wrapping_add(1);
            let slot = self.last_slot;
            if slot != 0
                && let Entry::Vacant(vacant) = self.slots.entry(slot)
            {
                vacant.insert(Slot::Waiting);
                return slot;
            }
        }
    }

    /// Whether answers will come that nobody waits for.
    fn expects_unwanted(&self) -> bool {
        let mut slots = self.slots.values();
        slots.any(|slot| matches!(slot, Slot::Abandoned))
    }
}

/// Slots are numbered by this side, so nobody can choose them to collide.
#[derive(Default)]
struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // Spread over the high bits, which hash tables look at too.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How far to look for what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// No system call unless a record says that there is something in the socket.
    Memory,
    /// The socket as well, and so the end of the channel.
    Everything,
}

/// What came for a right.
enum News {
    Packet(Incoming),
    WhoAreYou,
    Closed,
    Other,
}

enum Slot {
    Waiting,
    Answered(Message),
    /// The reply right was dropped unused.
    Refused,
    /// The reply right went to another process, which answers here.
    Redirected(Arc<OwnedFd>),
    /// Nobody waits any more, but the port may still hold the reply right.
    Abandoned,
    /// The port died.
    Dead,
}

impl SendRight {
    pub(crate) fn from_end(socket: OwnedFd, port: PortId) -> Self {
        Self {
            socket,
            port,
            epoch: portolan_sys::fork::epoch(),
            used: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            replies: Mutex::default(),
            progress: Condvar::new(),
            memory: Box::default(),
            spinner: Box::default(),
            room_spinner: Box::default(),
            origin: OnceLock::new(),
            lender: Arc::default(),
        }
    }

    /// Takes the client's end of a connected `SOCK_SEQPACKET` Unix socket as a right to the port
    /// that [adopts](crate::ReceiveRight::adopt) the other.
    ///
    /// Such a port has no id that is known here: [`port`](Self::port) is all zeros. The socket is
    /// used by this right alone; if other processes have it too, [`copy`](Self::copy) the right
    /// first and use the copy.
    ///
    /// # Errors
    ///
    /// [`MintError::NotAChannel`] if the socket is of another kind or not connected.
    pub fn from_socket(socket: OwnedFd) -> Result<Self, MintError> {
        if !socket::is_channel_end(&socket) {
            return Err(MintError::NotAChannel);
        }
        portolan_sys::ancillary::pass_credentials(&socket, true).map_err(MintError::System)?;
        Ok(Self::from_end(socket, PortId::from_bytes([0; 16])))
    }

    /// Takes the descriptor whose number is in an environment variable as a right, after
    /// [`from_socket`](Self::from_socket). The descriptor itself stays open for others.
    ///
    /// # Errors
    ///
    /// [`MintError::NotAChannel`] if the value is no number, if no descriptor has it, or if that is
    /// no `SOCK_SEQPACKET` Unix socket.
    pub fn inherit(value: &OsStr) -> Result<Self, MintError> {
        let number = value.to_str().and_then(|value| value.parse().ok());
        let number = number.ok_or(MintError::NotAChannel)?;
        let socket = portolan_sys::inherit::duplicate(number);
        Self::from_socket(socket.map_err(|_| MintError::NotAChannel)?)
    }

    /// The descriptor of a right that has not been used, to leave open for a program that is to
    /// [`inherit`](Self::inherit) it. Gives a used right back.
    ///
    /// # Errors
    ///
    /// The right itself, if something has been sent with it or if it belongs to the process that
    /// this one was forked from.
    #[expect(clippy::result_large_err, reason = "the right is given back as it is")]
    pub fn into_socket(self) -> Result<OwnedFd, Self> {
        if self.is_used() || self.check_process().is_err() {
            Err(self)
        } else {
            Ok(self.socket)
        }
    }

    /// Which port this is a right to.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Sends a message.
    ///
    /// Success means that the port has it in its queue, not that anybody has read it.
    ///
    /// # Errors
    ///
    /// [`SendError`], which holds the message with all its rights. Its kinds are `TimedOut` when
    /// the queue is full, `DeadName`, `TooLarge`, `TooManyRights`, `RightsInFlight`.
    #[inline]
    pub fn send(&self, message: Message, timeout: impl Into<Timeout>) -> Result<(), SendError> {
        self.post(message, 0, timeout.into().deadline())
    }

    /// Sends a message that is nothing but bytes, without taking them.
    ///
    /// ```
    /// use portolan_port::{ReceiveRight, Timeout};
    ///
    /// let port = ReceiveRight::new()?;
    /// port.make_send()?.send_bytes(7, b"a reading", Timeout::NEVER)?;
    /// assert_eq!(port.receive(Timeout::NEVER)?.bytes(), b"a reading");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The kinds of [`send`](Self::send).
    #[inline]
    pub fn send_bytes(
        &self,
        id: i32,
        bytes: &[u8],
        timeout: impl Into<Timeout>,
    ) -> Result<(), SendErrorKind> {
        let timeout = timeout.into();
        match self.record_max() {
            Some(max) if bytes.len() + HEADER_BYTES <= max as usize => {
                self.send_record(id, bytes, timeout)
            }
            _ => {
                let message = Message::new(id).with_bytes(bytes);
                self.send(message, timeout).map_err(SendError::into_kind)
            }
        }
    }

    /// Sends a message of bytes through memory.
    fn send_record(&self, id: i32, bytes: &[u8], timeout: Timeout) -> Result<(), SendErrorKind> {
        let Some(ring) = self.open_memory()? else {
            return Ok(());
        };
        let head = PlainMessage::head(id, 0, bytes.len());
        // The clock is looked at only if it has to be.
        let mut deadline = None;
        loop {
            match ring.publish(self.socket(), &head, &[], bytes) {
                Ok(()) => return Ok(()),
                Err(Refusal::Full(full)) => {
                    let deadline = *deadline.get_or_insert_with(|| timeout.deadline());
                    if !self.wait_for_room(full, deadline)? {
                        return Err(SendErrorKind::TimedOut);
                    }
                }
                Err(refusal) => return Err(transfer::send_error(refusal)),
            }
        }
    }

    /// Sends a message and waits for the answer to it.
    ///
    /// A reply right in the message is replaced.
    ///
    /// # Errors
    ///
    /// [`RequestError::Send`] with the message if it was not sent, else [`RequestError::Reply`].
    pub fn request(
        &self,
        message: Message,
        send: impl Into<Timeout>,
        reply: impl Into<Timeout>,
    ) -> Result<Message, RequestError> {
        let pending = self.begin_request(message, send)?;
        Ok(pending.wait(reply)?)
    }

    /// Sends a message whose answer is fetched later.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and `TooManyRequests`; where some of the requests were given up,
    /// their answers are waited for first, up to the time-out of `send`.
    pub fn begin_request(
        &self,
        mut message: Message,
        send: impl Into<Timeout>,
    ) -> Result<PendingReply<'_>, SendError> {
        message.reply = None;
        let deadline = send.into().deadline();
        let slot = match self.open_slot(deadline) {
            Ok(Some(slot)) => slot,
            Ok(None) => {
                let kind = SendErrorKind::TooManyRequests { limit: MAX_OWED };
                return Err(SendError::new(kind, message));
            }
            Err(errno) => return Err(SendError::new(errno.into(), message)),
        };
        match self.post(message, slot, deadline) {
            Ok(()) => Ok(PendingReply {
                right: self,
                slot,
                elsewhere: None,
            }),
            Err(error) => {
                lock(&self.replies).slots.remove(&slot);
                Err(error)
            }
        }
    }

    /// Memory to write a large message to, which is then sent with
    /// [`Message::with_loan`](crate::Message::with_loan) without being copied. The bytes are there
    /// to be written over: what they are is left open.
    ///
    /// The receiver can read the memory and not write it, and gives it back when it has the bytes; it
    /// is then lent again. A message that is short enough to go through memory that both sides share
    /// is copied there, and so are all where the kernel has no such memory to give.
    #[must_use]
    pub fn lend(&self, len: usize) -> Loan {
        if self.check_process().is_err() || len <= self.link().inline_max(false) {
            return Loan::on_heap(len);
        }
        self.look_for_returned();
        let loan = self.lender.take(len);
        loan.unwrap_or_else(|_| Loan::on_heap(len))
    }

    fn look_for_returned(&self) {
        let replies = lock(&self.replies);
        if !replies.reading {
            let depth = match self.memory.ring() {
                Some(_) => Depth::Memory,
                None => Depth::Everything,
            };
            drop(self.read_all(replies, depth));
        }
    }

    /// Begins a batch of messages that are nothing but bytes, which go out together: with many small
    /// ones that is several times as fast as sending each by itself. The time-out is for each wait
    /// for room.
    ///
    /// ```
    /// use portolan_port::{ReceiveBatch, ReceiveRight, Timeout};
    ///
    /// let port = ReceiveRight::new()?;
    /// let right = port.make_send()?;
    /// let mut batch = right.batch(Timeout::NEVER);
    /// for number in 0..100_u32 {
    ///     batch.push(1, &number.to_le_bytes())?;
    /// }
    /// batch.publish()?;
    ///
    /// let (mut batch, mut count) = (ReceiveBatch::new(), 0);
    /// while count < 100 {
    ///     port.receive_batch(&mut batch, Timeout::NEVER)?;
    ///     count += batch.messages().count();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batch(&self, timeout: impl Into<Timeout>) -> SendBatch<'_> {
        SendBatch::new(self, timeout.into())
    }

    /// The longest record that memory takes; `None` if the right does not go through memory yet.
    #[inline]
    pub(crate) fn record_max(&self) -> Option<u32> {
        let max = self.memory.ring()?.inline_max();
        u32::try_from(max).ok()
    }

    /// The memory, once everything goes through it, if something may be sent.
    fn open_memory(&self) -> Result<Option<&RingEnd>, SendErrorKind> {
        self.check_process()
            .map_err(|()| SendErrorKind::ForeignProcess)?;
        self.look_at_news();
        match self.dead.load(Ordering::Relaxed) {
            true => Err(SendErrorKind::DeadName),
            false => Ok(self.memory.ring()),
        }
    }

    /// Sends records, and takes those out of the run that were sent.
    pub(crate) fn send_run(&self, run: &mut Run, timeout: Timeout) -> Result<(), SendErrorKind> {
        let Some(ring) = self.open_memory()? else {
            return Ok(());
        };
        let deadline = timeout.deadline();
        loop {
            match ring.publish_run(self.socket(), run) {
                Ok(()) => return Ok(()),
                Err(Refusal::Full(full)) if self.wait_for_room(full, deadline)? => {}
                Err(refusal) => return Err(transfer::send_error(refusal)),
            }
        }
    }

    #[inline]
    fn post(&self, mut message: Message, slot: u32, deadline: Deadline) -> Result<(), SendError> {
        match self.try_post(&mut message, slot, deadline) {
            Ok(()) => Ok(()),
            Err(kind) => Err(self.refuse(kind, message)),
        }
    }

    #[cold]
    fn refuse(&self, kind: SendErrorKind, message: Message) -> SendError {
        if matches!(kind, SendErrorKind::DeadName) {
            self.dead.store(true, Ordering::Relaxed);
        }
        SendError::new(kind, message)
    }

    fn try_post(
        &self,
        message: &mut Message,
        slot: u32,
        deadline: Deadline,
    ) -> Result<(), SendErrorKind> {
        self.check_process()
            .map_err(|()| SendErrorKind::ForeignProcess)?;
        self.look_at_news();
        if self.dead.load(Ordering::Relaxed) {
            return Err(SendErrorKind::DeadName);
        }
        self.used.store(true, Ordering::Relaxed);
        // Once it goes through memory, it does for good.
        let _mode = if self.memory.ring().is_some() {
            None
        } else {
            self.memory.advance(self.socket());
            Some(self.memory.stay())
        };
        if message.payload.len() > self.link().inline_max(false) {
            self.look_for_returned();
        }
        let wait = &mut |full| self.wait_for_room(full, deadline);
        transfer::send(self.link(), (Kind::Message, slot), message, deadline, wait)
    }

    fn link(&self) -> Link<'_> {
        Link {
            socket: self.socket(),
            ring: self.memory.ring(),
            lender: Some(&self.lender),
        }
    }

    /// The port may have said through memory that it is dead, or that it wants to know who this is.
    fn look_at_news(&self) {
        if self.memory.ring().is_some_and(RingEnd::is_ready) {
            let replies = lock(&self.replies);
            if !replies.reading {
                drop(self.read_all(replies, Depth::Memory));
            }
        }
    }

    fn wait_for_room(&self, full: Full, deadline: Deadline) -> Result<bool, Errno> {
        let (Full::Ring { len }, Some(ring)) = (full, self.memory.ring()) else {
            return socket::wait(self.socket(), PollFlags::OUT, deadline);
        };
        let mut spun_since = None;
        while !deadline.has_passed() {
            match self.room_spinner.spin(ring.meet(), || ring.has_room(len)) {
                Spun::Hit => return Ok(true),
                Spun::Again if !self.dead.load(Ordering::Relaxed) => self.look_at_news(),
                Spun::Again => break,
                Spun::Sleep { since } => {
                    spun_since = since;
                    break;
                }
            }
        }
        let there_is = self.sleep_until_room(ring, len, deadline);
        if let Some(since) = spun_since {
            self.room_spinner.slept(since);
        }
        there_is
    }

    fn sleep_until_room(
        &self,
        ring: &RingEnd,
        len: u32,
        deadline: Deadline,
    ) -> Result<bool, Errno> {
        let mut replies = lock(&self.replies);
        loop {
            if self.dead.load(Ordering::Relaxed) {
                return Err(Errno::PIPE);
            }
            if !ring.prepare_to_send(len) {
                // There is one word for all that wait: who waits for more has to say so again.
                if replies.reading {
                    ring.ring_own();
                }
                self.ring_if_polled(ring);
                return Ok(true);
            }
            if deadline.has_passed() {
                self.ring_if_polled(ring);
                return Ok(false);
            }
            replies = self.wait_for_bell(replies, deadline)?;
        }
    }

    /// Makes another right to the same port (`MACH_MSG_TYPE_COPY_SEND`).
    ///
    /// It has a channel of its own, so it shares nothing with this one but the
    /// [badge](crate::ReceiveRight::make_send_badged).
    ///
    /// It is dead from the start if the receiver has less than a quarter of its descriptors left.
    ///
    /// # Errors
    ///
    /// [`MintError::DeadName`]; [`MintError::TimedOut`] if the port's queue stays full.
    pub fn copy(&self, timeout: impl Into<Timeout>) -> Result<Self, MintError> {
        self.copy_until(timeout.into().deadline())
    }

    pub(crate) fn copy_until(&self, deadline: Deadline) -> Result<Self, MintError> {
        self.check_process()
            .map_err(|()| MintError::ForeignProcess)?;
        let ends = socket::channel()?;
        let fds = [ends.receiver.as_fd()];
        let packet = Outgoing {
            fds: &fds,
            ..Outgoing::control(Kind::Mint, 0)
        };
        let _mode = self.memory.stay();
        loop {
            match self.link().try_send(&packet) {
                Ok(()) => return Ok(Self::from_end(ends.holder, self.port)),
                Err(Refusal::Full(full)) if self.wait_for_room(full, deadline)? => {}
                Err(Refusal::Full(_)) => return Err(MintError::TimedOut),
                Err(Refusal::Closed) => return Err(MintError::DeadName),
                Err(Refusal::InFlight) => return Err(Errno::TOOMANYREFS.into()),
                Err(Refusal::System(errno)) => return Err(errno.into()),
            }
        }
    }

    /// Chooses how [`request`](Self::request) waits for a port that shares memory with this right.
    pub fn set_wait_policy(&self, policy: WaitPolicy) {
        self.spinner.set_policy(policy);
        self.room_spinner.set_policy(policy);
    }

    /// Makes the port dead for this right alone: everything that waits on it fails with
    /// `DeadName`, and so does everything later.
    /// In a forked child this does nothing.
    pub fn hang_up(&self) {
        if self.check_process().is_err() {
            return;
        }
        // Fails only if the port has gone already.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Whether the port is known to be dead.
    ///
    /// Reads what has come for this right, so after the descriptor became readable this tells
    /// whether it was the port's death.
    pub fn is_dead(&self) -> bool {
        if self.check_process().is_ok() && !self.dead.load(Ordering::Relaxed) {
            let replies = lock(&self.replies);
            if replies.reading {
                drop(replies);
            } else {
                drop(self.read_all(replies, Depth::Everything));
            }
            self.settle();
        }
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn check_process(&self) -> Result<(), ()> {
        if self.epoch == portolan_sys::fork::epoch() {
            Ok(())
        } else {
            Err(())
        }
    }

    /// Reserves a slot for an answer. With as many as there may be, those that were given up are
    /// waited for, because their answers are on their way; `None` if there is none of these, or if
    /// they do not come in time.
    fn open_slot(&self, deadline: Deadline) -> Result<Option<u32>, Errno> {
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
    fn wait_for_news<'a>(
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
    fn wait_for(&self, slot: u32, deadline: Deadline) -> Result<Message, ReplyError> {
        self.check_process()
            .map_err(|()| ReplyError::ForeignProcess)?;
        let answer = self.wait_for_slot(slot, deadline);
        self.settle();
        answer
    }

    fn wait_for_slot(&self, slot: u32, deadline: Deadline) -> Result<Message, ReplyError> {
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
                        Some(Slot::Refused) => Err(ReplyError::NoReply),
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
    fn wait_for_record<'a>(
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

    fn wait_for_reader<'a>(
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
    fn wait_for_bell<'a>(
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
            Woken::BySocket => self.read_all(replies, Depth::Everything),
            Woken::TooLate => replies,
        })
    }

    fn wait_for_socket(&self, deadline: Deadline) -> Result<Woken, Errno> {
        Ok(
            match socket::wait(self.socket(), PollFlags::IN, deadline)? {
                true => Woken::BySocket,
                false => Woken::TooLate,
            },
        )
    }

    /// Telling costs a system call, so it is done only if somebody listens.
    fn tell_followers(&self, replies: &Replies) {
        if replies.followers > 0 {
            self.progress.notify_all();
        }
    }

    /// Takes what has come and puts it where somebody waits for it.
    fn read_all<'a>(
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
    fn next(&self, depth: Depth) -> Result<News, Nothing> {
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
    fn receive_announced(&self) -> Result<Incoming, Nothing> {
        match socket::try_receive(self.socket()) {
            Ok(incoming) if incoming.header.kind == Kind::Switch => {
                socket::try_receive(self.socket())
            }
            other => other,
        }
    }

    /// Takes what has come, and has the descriptor tell of what comes later, if somebody waits for
    /// it.
    fn settle(&self) {
        let Some(events) = self.memory.events().filter(|events| events.are_polled()) else {
            return;
        };
        let replies = lock(&self.replies);
        if !replies.reading {
            // Looked at below, and what comes later is told anew.
            events.wait(Deadline::Passed).ok();
            let replies = self.read_all(replies, Depth::Everything);
            self.arm(&replies);
        }
    }

    /// The descriptor tells each event once, so what is there already has to be told again.
    fn arm(&self, _replies: &Replies) {
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
    fn ring_if_polled(&self, ring: &RingEnd) {
        if self.memory.events().is_some_and(Events::are_polled) {
            ring.ring_own();
        }
    }

    /// Somebody outside is about to wait for the descriptor.
    fn poll_from_outside(&self) {
        let Some(events) = self.memory.events() else {
            return;
        };
        if self.check_process().is_err() || !events.poll_from_outside() {
            return;
        }
        let replies = lock(&self.replies);
        if !replies.reading {
            events.wait(Deadline::Passed).ok();
            self.arm(&replies);
        }
    }

    /// Has the kernel tell the port's new owner who holds this right.
    fn introduce(&self) {
        let packet = Outgoing::control(Kind::Hello, 0);
        if let Some(ring) = self.memory.ring() {
            // Without room, the new owner goes on not knowing.
            ring.send_through_socket(self.socket(), &packet).ok();
        }
    }

    /// An answer came for which this process had no descriptors.
    fn lose(&self, header: Header, replies: &mut Replies) -> Result<(), Nothing> {
        let lost = matches!(header.kind, Kind::Reply | Kind::Redirect);
        if let Some(waiting) = replies.slots.get_mut(&header.slot).filter(|_| lost) {
            *waiting = Slot::Refused;
        }
        Ok(())
    }

    fn dispatch(&self, mut incoming: Incoming, replies: &mut Replies) -> Result<(), Nothing> {
        let slot = incoming.header.slot;
        let outcome = match incoming.header.kind {
            Kind::Reply => Slot::Answered(self.answer(incoming)?),
            Kind::NoReply => Slot::Refused,
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
        match replies.slots.get_mut(&slot) {
            Some(waiting @ Slot::Waiting) => *waiting = outcome,
            // Nobody waits any more: the answer is dropped with its rights.
            Some(Slot::Abandoned) => drop(replies.slots.remove(&slot)),
            _ => return Err(Nothing::Violation),
        }
        Ok(())
    }

    fn answer(&self, incoming: Incoming) -> Result<Message, Nothing> {
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

    fn origin_of(&self, sender: Option<Sender>) -> Arc<Origin> {
        Arc::new(Origin {
            port: self.port,
            badge: 0,
            sender,
            notification: None,
        })
    }

    /// The port is dead. The slots in `owed` (little-endian `u32`s) may still be answered.
    fn die(&self, replies: &mut Replies, owed: &[u8]) {
        self.dead.store(true, Ordering::Relaxed);
        self.lender.port_died();
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

    fn redirection_of(&self, slot: u32) -> Option<Arc<OwnedFd>> {
        if self.check_process().is_err() {
            return None;
        }
        match lock(&self.replies).slots.get(&slot) {
            Some(Slot::Redirected(socket)) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    /// Waits for the one message on a redirected slot.
    fn wait_elsewhere(&self, socket: &OwnedFd, deadline: Deadline) -> Result<Message, ReplyError> {
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

fn incoming_bytes(incoming: &Incoming) -> &[u8] {
    match &incoming.payload {
        Payload::Heap(bytes) => bytes,
        _ => &[],
    }
}

impl AsFd for SendRight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let descriptor = self.memory.descriptor(self.socket());
        self.poll_from_outside();
        descriptor
    }
}

impl fmt::Debug for SendRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRight")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A request whose answer has not been fetched.
///
/// The descriptor of [`AsFd`] is that of the right, and so is shared by all its requests: when it
/// is readable, there is news for one of them, and whichever of them is polled takes the news of
/// all. So [poll](Self::poll) all of them then. If the reply right went to another process, `poll`
/// finds that out, says `TimedOut`, and from then on the descriptor is that of the channel on
/// which the answer comes; so ask for it again after each poll.
///
/// Dropping this forgets the request; the answer is dropped when it comes.
#[must_use = "the answer is lost if it is not waited for"]
pub struct PendingReply<'a> {
    right: &'a SendRight,
    slot: u32,
    /// Where the answer comes, as far as `poll` has seen, if not through the right.
    elsewhere: Option<Arc<OwnedFd>>,
}

impl PendingReply<'_> {
    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TimedOut`]; [`ReplyError::NoReply`] as soon as the server drops the reply
    /// right; [`ReplyError::DeadName`] as soon as it dies.
    pub fn wait(self, timeout: impl Into<Timeout>) -> Result<Message, ReplyError> {
        self.right.wait_for(self.slot, timeout.into().deadline())
    }

    /// Fetches the answer if it is there, without consuming the request.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait); `TimedOut` means not yet.
    pub fn poll(&mut self) -> Result<Message, ReplyError> {
        let answer = self.right.wait_for(self.slot, Deadline::Passed);
        self.elsewhere = self.right.redirection_of(self.slot);
        answer
    }
}

impl AsFd for PendingReply<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let elsewhere = self.elsewhere.as_deref().map(AsFd::as_fd);
        elsewhere.unwrap_or_else(|| self.right.as_fd())
    }
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        // A thread of the parent may have held the lock when the child was forked.
        if self.right.check_process().is_err() {
            return;
        }
        let mut replies = lock(&self.right.replies);
        match replies.slots.get_mut(&self.slot) {
            Some(state @ Slot::Waiting) => *state = Slot::Abandoned,
            _ => drop(replies.slots.remove(&self.slot)),
        }
    }
}

impl fmt::Debug for PendingReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
