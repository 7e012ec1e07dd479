//! The receiver's side of a channel.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use portolan_wire::moved::MovedChannel;
use portolan_wire::packet::{Header, Kind};
use portolan_wire::port_id::PortId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::Shutdown;

use crate::error::SendErrorKind;
use crate::message::{Arrival, Message};
use crate::send_once::SendOnceRight;
use crate::sender::Sender;
use crate::socket::{self, Incoming, Nothing, Outgoing};
use crate::timeout::Deadline;
use crate::transfer;

/// The most requests of one channel that may wait for their answers at once.
pub(crate) const MAX_OWED: usize = 1024;

/// The most bytes of answers kept for a client that does not fetch them; then its channel is
/// closed.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// What a right in an answer counts as beside its bytes, so that at most 256 are kept.
const BYTES_PER_KEPT_RIGHT: usize = 64 << 10;

/// The receiver's end of one channel: one sender, its identity, and the answers it is owed.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Given out by the receiver, see `ReceiveRight::make_send_badged`.
    badge: u64,
    /// Good for one message.
    once: bool,
    epoch: u64,
    socket: OwnedFd,
    reading: Mutex<Reading>,
    answers: Mutex<Answers>,
    /// The other end broke the protocol or left.
    closed: AtomicBool,
    watch: OnceLock<Watch>,
}

/// What is known from the packets that came.
#[derive(Debug, Default)]
struct Reading {
    sender: Option<Sender>,
    /// The one message of a send-once right has come.
    spent: bool,
}

/// Where the port waits for this channel.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) epoll: Arc<OwnedFd>,
    pub(crate) token: u64,
}

impl Watch {
    fn set(&self, channel: &Channel, flags: EventFlags) {
        // Fails only for a channel that the port has let go of, and then nobody has to know.
        epoll::modify(
            &*self.epoll,
            channel.socket(),
            EventData::new_u64(self.token),
            flags,
        )
        .ok();
    }
}

#[derive(Debug, Default)]
struct Answers {
    /// Slots that a reply right or an answer that is kept exists for.
    owed: HashSet<u32>,
    /// Answers for which the socket had no room, oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

impl Answers {
    fn keep(&mut self, what: Kept) {
        self.kept_bytes += what.bytes();
        self.kept.push_back(what);
    }
}

#[derive(Debug)]
enum Kept {
    Answer(u32, Message),
    NoReply(u32),
    /// The answer comes on another channel, of which this is the client's end.
    Redirect(u32, OwnedFd),
}

impl Kept {
    fn slot(&self) -> u32 {
        let (Self::Answer(slot, _) | Self::NoReply(slot) | Self::Redirect(slot, _)) = self;
        *slot
    }

    /// What it counts towards [`MAX_KEPT_BYTES`].
    fn bytes(&self) -> usize {
        match self {
            Self::Answer(_, message) => {
                message.bytes().len() + message.rights().len() * BYTES_PER_KEPT_RIGHT
            }
            Self::NoReply(_) => 0,
            Self::Redirect(..) => BYTES_PER_KEPT_RIGHT,
        }
    }

    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), SendErrorKind> {
        match self {
            Self::Answer(slot, message) => {
                transfer::deliver(socket, (Kind::Reply, *slot), message, Deadline::Passed)
            }
            Self::NoReply(slot) => {
                let packet = Outgoing::control(Kind::NoReply, *slot);
                socket::try_send(socket, &packet).map_err(transfer::send_error)
            }
            Self::Redirect(slot, end) => {
                let fds = [end.as_fd()];
                let packet = Outgoing {
                    fds: &fds,
                    ..Outgoing::control(Kind::Redirect, *slot)
                };
                socket::try_send(socket, &packet).map_err(transfer::send_error)
            }
        }
    }
}

/// What reading a channel brought.
pub(crate) enum Read {
    Message(Message),
    /// A channel that the sender made for somebody else.
    Minted(Channel),
    Empty,
    Closed,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd, badge: u64, once: bool) -> Self {
        Self {
            badge,
            once,
            epoch: portolan_sys::fork::epoch(),
            socket,
            reading: Mutex::default(),
            answers: Mutex::default(),
            closed: AtomicBool::new(false),
            watch: OnceLock::new(),
        }
    }

    /// A channel of a receive right that has just moved here.
    pub(crate) fn arrived((record, socket): (MovedChannel, OwnedFd)) -> Self {
        Self::new(socket, record.badge, record.once)
    }

    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Tells the channel where the port waits for it, once.
    pub(crate) fn watched(&self, watch: Watch) {
        let first = self.watch.set(watch).is_ok();
        debug_assert!(first, "a channel belongs to one port");
    }

    pub(crate) fn record(&self) -> MovedChannel {
        MovedChannel {
            badge: self.badge,
            once: self.once,
        }
    }

    /// Receives one packet, if there is one.
    pub(crate) fn read(self: &Arc<Self>, port: PortId) -> Read {
        if self.closed.load(Ordering::Relaxed) {
            return Read::Closed;
        }
        // Held while a packet is taken, so that two threads cannot swap two packets of one sender,
        // nor take two from a send-once right.
        let mut reading = lock(&self.reading);
        if reading.spent {
            return Read::Empty;
        }
        let result = socket::try_receive(self.socket())
            .and_then(|incoming| self.admit(incoming, &mut reading.sender, port));
        match result {
            Ok(read) => {
                reading.spent = self.once;
                read
            }
            Err(Nothing::Empty) => Read::Empty,
            Err(Nothing::Closed | Nothing::Violation) => Read::Closed,
        }
    }

    fn admit(
        self: &Arc<Self>,
        mut incoming: Incoming,
        sender: &mut Option<Sender>,
        port: PortId,
    ) -> Result<Read, Nothing> {
        match incoming.header.kind {
            Kind::Message => {
                let sender = self.identify(&mut incoming, sender)?;
                let slot = incoming.header.slot;
                let mut message = transfer::receive(incoming)?;
                if slot != 0 {
                    message.reply = Some(self.owe(slot, port, &message)?);
                }
                let badge = self.badge;
                let sender = Some(sender);
                message.arrival = Some(Arrival {
                    port,
                    badge,
                    sequence: 0,
                    sender,
                    notification: None,
                });
                Ok(Read::Message(message))
            }
            Kind::Mint if !self.once => {
                let socket = incoming.fds.pop_front().filter(socket::is_channel_end);
                let socket = socket.ok_or(Nothing::Violation)?;
                socket::ask_for_identity(&socket).map_err(|_| Nothing::Violation)?;
                Ok(Read::Minted(Self::new(socket, self.badge, false)))
            }
            _ => Err(Nothing::Violation),
        }
    }

    /// The sender of this packet. The first message binds the channel to its process: a right that
    /// moves gets a new channel, so a second process on this one is not supposed to be there.
    fn identify(
        &self,
        incoming: &mut Incoming,
        bound: &mut Option<Sender>,
    ) -> Result<Sender, Nothing> {
        let credentials = incoming.credentials.ok_or(Nothing::Violation)?;
        if let Some(known) = bound {
            if known.credentials.pid != credentials.pid {
                return Err(Nothing::Violation);
            }
            known.credentials = credentials;
            return Ok(known.clone());
        }
        // One pidfd for each channel is enough, and each costs a descriptor.
        drop(portolan_sys::ancillary::pass_pidfd(&self.socket, false));
        let pidfd = incoming.pidfd.take().map(Arc::new);
        Ok(bound.insert(Sender { credentials, pidfd }).clone())
    }

    fn owe(
        self: &Arc<Self>,
        slot: u32,
        port: PortId,
        message: &Message,
    ) -> Result<SendOnceRight, Nothing> {
        let mut answers = lock(&self.answers);
        let fits = answers.owed.len() < MAX_OWED && message.reply.is_none();
        if !fits || !answers.owed.insert(slot) {
            return Err(Nothing::Violation);
        }
        Ok(SendOnceRight::for_slot(Arc::clone(self), slot, port))
    }

    /// Sends the answer for a slot, or keeps it if the client has no room for it.
    ///
    /// An answer that moves a port is not kept: the port would be paused and resumed each time.
    pub(crate) fn answer(&self, slot: u32, message: &mut Message) -> Result<(), SendErrorKind> {
        transfer::prepare(message, Deadline::Passed)?;
        // Before the lock: this waits for threads that receive from a port that is to move, and
        // they may want the lock.
        transfer::pause(message)?;
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        let sent = if answers.kept.is_empty() {
            let way = (Kind::Reply, slot);
            transfer::deliver(self.socket(), way, message, Deadline::Passed)
        } else {
            transfer::stay(message);
            Err(SendErrorKind::TimedOut)
        };
        match sent {
            Ok(()) => {
                answers.owed.remove(&slot);
                Ok(())
            }
            Err(SendErrorKind::TimedOut) if !transfer::moves_a_port(message) => {
                let kept = std::mem::replace(message, Message::new(0));
                answers.keep(Kept::Answer(slot, kept));
                self.await_room(&answers);
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Tells the client that a slot will not be answered.
    pub(crate) fn refuse(&self, slot: u32) {
        self.tell(Kept::NoReply(slot));
    }

    /// Tells the client that the answer for a slot comes on another channel. If it is gone, so is
    /// the other end of that channel.
    pub(crate) fn redirect(&self, slot: u32, end: OwnedFd) {
        self.tell(Kept::Redirect(slot, end));
    }

    fn tell(&self, what: Kept) {
        let mut answers = lock(&self.answers);
        answers.keep(what);
        self.flush_kept(&mut answers);
        self.await_room(&answers);
    }

    /// Sends what was kept, as far as there is room.
    pub(crate) fn flush(&self) {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        if let Some(watch) = self.watch.get().filter(|_| answers.kept.is_empty()) {
            watch.set(self, EventFlags::IN);
        }
    }

    /// The port waits for this channel again.
    pub(crate) fn resumed(&self) {
        self.await_room(&lock(&self.answers));
    }

    /// Makes the port tell when there is room for what is kept.
    fn await_room(&self, answers: &Answers) {
        if answers.kept.is_empty() {
            return;
        }
        if answers.kept_bytes > MAX_KEPT_BYTES {
            self.close();
        }
        if let Some(watch) = self.watch.get() {
            watch.set(self, EventFlags::IN | EventFlags::OUT);
        }
    }

    fn flush_kept(&self, answers: &mut Answers) {
        while let Some(mut kept) = answers.kept.pop_front() {
            let (slot, bytes) = (kept.slot(), kept.bytes());
            let sent = kept.send(self.socket());
            if matches!(sent, Err(SendErrorKind::TimedOut)) {
                answers.kept.push_front(kept);
                return;
            }
            answers.kept_bytes = answers.kept_bytes.saturating_sub(bytes);
            match (sent, kept) {
                (Ok(()) | Err(SendErrorKind::DeadName), _) => {}
                // Whoever answered believes that it is on its way, so the client has to know.
                (Err(_), Kept::NoReply(_)) => self.close(),
                (Err(_), _) => {
                    answers.kept.push_front(Kept::NoReply(slot));
                    continue;
                }
            }
            answers.owed.remove(&slot);
        }
    }

    /// The port died. Requests that a reply right exists for can still be answered; all others
    /// fail now.
    pub(crate) fn port_died(&self) {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        // A client that does not fetch its answers would not see that there are no more either.
        if answers.owed.is_empty() || !answers.kept.is_empty() {
            drop(answers);
            return self.close();
        }
        let owed: Vec<u8> = answers
            .owed
            .iter()
            .flat_map(|slot| slot.to_le_bytes())
            .collect();
        drop(answers);
        shut(self.socket(), Shutdown::Read);
        self.discard_unread();
        let mut header = Header::control(Kind::PortDied, 0);
        header.length = owed.len() as u64;
        let packet = Outgoing {
            header,
            inline: &owed,
            ..Outgoing::control(Kind::PortDied, 0)
        };
        if socket::try_send(self.socket(), &packet).is_err() {
            self.close();
        }
    }

    fn discard_unread(&self) {
        while !matches!(
            socket::try_receive(self.socket()),
            Err(Nothing::Empty | Nothing::Closed)
        ) {}
    }

    /// Cuts the channel off, whoever still refers to it.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            shut(self.socket(), Shutdown::Both);
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let answers = self
            .answers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // The port has moved, so the socket lives on, but what was kept here is lost.
        if !answers.kept.is_empty() && self.epoch == portolan_sys::fork::epoch() {
            self.close();
        }
    }
}

fn shut(socket: BorrowedFd<'_>, how: Shutdown) {
    // Fails only if the other end has gone already, which is what it is for.
    rustix::net::shutdown(socket, how).ok();
}

/// Every critical section leaves its data whole, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
