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
use crate::socket::{self, Incoming, Nothing, Outgoing, Refusal};
use crate::timeout::Deadline;
use crate::transfer;

/// The most requests of one channel that may wait for their answers at once.
pub(crate) const MAX_OWED: usize = 1024;

/// The most bytes of answers kept for a client that does not fetch them; then its channel is
/// closed.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// The receiver's end of one channel: one sender, its identity, and the answers it is owed.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Given out by the receiver, see `ReceiveRight::make_send_badged`.
    badge: u64,
    /// Good for one message.
    once: bool,
    socket: OwnedFd,
    sender: Mutex<Option<Sender>>,
    answers: Mutex<Answers>,
    /// The other end broke the protocol or left.
    closed: AtomicBool,
    watch: OnceLock<Watch>,
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
    /// Slots that a reply right exists for.
    owed: HashSet<u32>,
    /// Answers for which the socket had no room, oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

#[derive(Debug)]
enum Kept {
    Answer(u32, Message),
    Control(Header),
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
        let sender = Mutex::new(None);
        let answers = Mutex::default();
        let (closed, watch) = (AtomicBool::new(false), OnceLock::new());
        Self {
            badge,
            once,
            socket,
            sender,
            answers,
            closed,
            watch,
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
        // Held while a packet is taken, so that two threads cannot swap two packets of one sender.
        let mut sender = lock(&self.sender);
        let result = socket::try_receive(self.socket())
            .and_then(|incoming| self.admit(incoming, &mut sender, port));
        match result {
            Ok(read) => read,
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
    pub(crate) fn answer(&self, slot: u32, message: &mut Message) -> Result<(), SendErrorKind> {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        if answers.kept.is_empty() {
            let sent = transfer::send(
                self.socket(),
                (Kind::Reply, slot),
                message,
                Deadline::Passed,
            );
            if !matches!(sent, Err(SendErrorKind::TimedOut)) {
                if sent.is_ok() {
                    answers.owed.remove(&slot);
                }
                return sent;
            }
        }
        answers.owed.remove(&slot);
        let kept = std::mem::replace(message, Message::new(0));
        answers.kept_bytes += kept.bytes().len();
        self.keep(&mut answers, Kept::Answer(slot, kept));
        if answers.kept_bytes > MAX_KEPT_BYTES {
            self.close();
        }
        Ok(())
    }

    /// Tells the client that a slot will not be answered.
    pub(crate) fn refuse(&self, slot: u32) {
        let mut answers = lock(&self.answers);
        if answers.owed.remove(&slot) {
            self.tell(&mut answers, Header::control(Kind::NoReply, slot));
        }
    }

    /// Tells the client that the answer for a slot comes on another channel.
    pub(crate) fn redirect(&self, slot: u32, end: &OwnedFd) -> Result<(), SendErrorKind> {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        if !answers.kept.is_empty() {
            return Err(SendErrorKind::TimedOut);
        }
        let fds = [end.as_fd()];
        let packet = Outgoing {
            fds: &fds,
            ..Outgoing::control(Kind::Redirect, slot)
        };
        socket::try_send(self.socket(), &packet).map_err(transfer::send_error)?;
        answers.owed.remove(&slot);
        Ok(())
    }

    fn tell(&self, answers: &mut Answers, header: Header) {
        self.flush_kept(answers);
        let packet = Outgoing {
            header,
            ..Outgoing::control(header.kind, header.slot)
        };
        let full = !answers.kept.is_empty();
        if full || matches!(socket::try_send(self.socket(), &packet), Err(Refusal::Full)) {
            self.keep(answers, Kept::Control(header));
        }
    }

    /// Puts an answer aside until the port sees that there is room for it.
    fn keep(&self, answers: &mut Answers, kept: Kept) {
        answers.kept.push_back(kept);
        if let Some(watch) = self.watch.get() {
            watch.set(self, EventFlags::IN | EventFlags::OUT);
        }
    }

    /// Sends what was kept, as far as there is room.
    pub(crate) fn flush(&self) {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        if let Some(watch) = self.watch.get().filter(|_| answers.kept.is_empty()) {
            watch.set(self, EventFlags::IN);
        }
    }

    fn flush_kept(&self, answers: &mut Answers) {
        while let Some(mut kept) = answers.kept.pop_front() {
            let full = match &mut kept {
                Kept::Answer(slot, message) => {
                    let bytes = message.bytes().len();
                    let way = (Kind::Reply, *slot);
                    let sent = transfer::send(self.socket(), way, message, Deadline::Passed);
                    let full = matches!(sent, Err(SendErrorKind::TimedOut));
                    if !full {
                        answers.kept_bytes = answers.kept_bytes.saturating_sub(bytes);
                    }
                    full
                }
                Kept::Control(header) => {
                    let packet = Outgoing {
                        header: *header,
                        ..Outgoing::control(header.kind, 0)
                    };
                    matches!(socket::try_send(self.socket(), &packet), Err(Refusal::Full))
                }
            };
            if full {
                answers.kept.push_front(kept);
                return;
            }
        }
    }

    /// The port died. Requests that a reply right exists for can still be answered; all others
    /// fail now.
    pub(crate) fn port_died(&self) {
        let answers = lock(&self.answers);
        if answers.owed.is_empty() {
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

fn shut(socket: BorrowedFd<'_>, how: Shutdown) {
    // Fails only if the other end has gone already, which is what it is for.
    rustix::net::shutdown(socket, how).ok();
}

/// Every critical section leaves its data whole, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
