//! The right to send.

mod pending;
mod replies;
mod waiting;

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use portolan_ring::Run;
use portolan_wire::packet::{HEADER_BYTES, Kind, PlainMessage};
use portolan_wire::port_id::PortId;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::answers::MAX_OWED;
use crate::batch::SendBatch;
use crate::channel::lock;
use crate::error::{MintError, RequestError, SendError, SendErrorKind};
use crate::lent::{Lender, Loan};
use crate::link::Link;
use crate::memory::Memory;
use crate::message::{Message, Origin};
use crate::ring_end::RingEnd;
use crate::socket::{self, Full, Outgoing, Refusal};
use crate::timeout::{Deadline, Timeout};
use crate::transfer;
use crate::wait::{Spinner, Spun, WaitPolicy};

pub use pending::PendingReply;
use replies::Replies;
use waiting::Depth;

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

    /// Takes the end of a channel that another process of this user had, as a right to the port with
    /// this id: what [`AsFd`] gave of a right that is used for [copies](Self::copy) alone.
    ///
    /// # Errors
    ///
    /// Those of [`from_socket`](Self::from_socket).
    pub fn restore(socket: OwnedFd, port: PortId) -> Result<Self, MintError> {
        Ok(Self {
            port,
            ..Self::from_socket(socket)?
        })
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
        self.publish(timeout, || ring.publish(self.socket(), &head, &[], bytes))
    }

    /// Tries to publish until it can be done or there was no room for the whole time-out.
    fn publish(
        &self,
        timeout: Timeout,
        mut publish: impl FnMut() -> Result<(), Refusal>,
    ) -> Result<(), SendErrorKind> {
        // The clock is looked at only if it has to be.
        let mut deadline = None;
        loop {
            match publish() {
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
        let depth = match self.memory.ring() {
            Some(_) => Depth::Memory,
            None => Depth::Everything,
        };
        // An answer that is taken off the socket here would not be seen by who polls it.
        if !replies.reading && (depth == Depth::Memory || replies.slots.is_empty()) {
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
        self.publish(timeout, || ring.publish_run(self.socket(), run))
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
                Spun::Again => {
                    self.look_at_news();
                    // One that was killed says nothing.
                    let hung_up = socket::wait(self.socket(), PollFlags::empty(), Deadline::Passed);
                    if self.dead.load(Ordering::Relaxed) || hung_up != Ok(false) {
                        break;
                    }
                }
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
