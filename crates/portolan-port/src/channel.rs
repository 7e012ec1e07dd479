//! The receiver's side of a channel.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use portolan_sys::ancillary::Credentials;
use portolan_wire::moved::{MovedChannel, MovedMemory};
use portolan_wire::packet::{Header, Kind, RecordKind};
use portolan_wire::port_id::PortId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::net::sockopt::socket_cookie;

use crate::answers::{self, Answers, Flushed, Kept as Word};
use crate::error::SendErrorKind;
use crate::kept::{Keep, Revived};
use crate::ledger::Cookie;
use crate::lent::{Borrowed, Borrowing};
use crate::link::Link;
use crate::mapping::Position;
use crate::message::{Message, Origin};
use crate::payload::Payload;
use crate::receive_right::digest;
use crate::ring_end::{Next, Peeked, RingEnd};
use crate::send_once::SendOnceRight;
use crate::sender::Sender;
use crate::socket::{self, Full, Incoming, Nothing, Outgoing};
use crate::timeout::Deadline;
use crate::transfer;

/// The receiver's end of one channel: one sender, its identity, and the answers it is owed.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Given out by the receiver, see `ReceiveRight::make_send_badged`.
    badge: u64,
    /// Good for one message.
    once: bool,
    /// Nobody but the holder can know the memory that is offered here, as far as this process trusts
    /// those who had this end before.
    is_private: bool,
    /// The holder has been asked who it is.
    asked: AtomicBool,
    epoch: u64,
    socket: OwnedFd,
    /// Memory that the holder offered and that was accepted.
    ring: OnceLock<RingEnd>,
    flavour: AtomicU8,
    reading: Mutex<Reading>,
    answers: Mutex<Answers>,
    /// The other end broke the protocol or left.
    closed: AtomicBool,
    /// The holder is gone, but memory may hold what it published before.
    hung_up: AtomicBool,
    watch: OnceLock<Watch>,
    /// The keeper of the port was told of it before it came.
    is_foretold: bool,
    /// A former receiver was killed, and may have had the packet that the next record announces.
    is_revived: bool,
    /// Requests that were refused before anybody received them.
    voids: Mutex<HashSet<u32>>,
    has_voids: AtomicBool,
}

/// What is known from the packets that came.
#[derive(Debug, Default)]
struct Reading {
    sender: Option<Sender>,
    /// What messages of this sender carry, until something of it changes.
    origin: Option<Arc<Origin>>,
    /// The one message of a send-once right has come.
    spent: bool,
    borrowed: Borrowed,
    /// The slot of the next packet and where it was written down, before it is taken.
    foreseen: Option<(u32, u32)>,
    /// The channel that the next packet brings, if the keeper was told of it.
    foretold: Option<(Cookie, Box<Channel>)>,
}

/// Everything comes through the socket, whether memory is there or not.
const SOCKET: u8 = 0;

/// Everything comes through memory or is announced there.
const RING: u8 = 1;

/// The port has moved with the memory; what is still owed here goes through the socket.
const MOVED: u8 = 2;

/// Where the port waits for this channel.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) epoll: Arc<OwnedFd>,
    pub(crate) token: u64,
    pub(crate) kept: Option<Kept>,
}

/// What makes a channel outlive its receiver.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) keep: Arc<Keep>,
    pub(crate) cookie: Cookie,
}

/// What the port's epoll instance tells of, packed into the number that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// There are notifications.
    Notification,
    /// The keeper of the port has something to say.
    Guard,
    Socket(u64),
    Bell(u64),
}

impl Event {
    pub(crate) fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Notification => 0,
            Self::Guard => 1,
            Self::Socket(token) => token << 1,
            Self::Bell(token) => (token << 1) | 1,
        })
    }

    pub(crate) fn from_data(data: EventData) -> Self {
        match data.u64() {
            0 => Self::Notification,
            1 => Self::Guard,
            bell if bell & 1 == 1 => Self::Bell(bell >> 1),
            socket => Self::Socket(socket >> 1),
        }
    }
}

/// What reading a channel brought.
pub(crate) enum Read {
    Message(Message),
    /// From here on, memory is looked at.
    Promoted,
    /// Something that concerns nobody else.
    Other,
    Empty,
    Closed,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd, badge: u64, once: bool) -> Self {
        Self {
            badge,
            once,
            is_private: true,
            asked: AtomicBool::new(false),
            epoch: portolan_sys::fork::epoch(),
            socket,
            ring: OnceLock::new(),
            flavour: AtomicU8::new(SOCKET),
            reading: Mutex::default(),
            answers: Mutex::default(),
            closed: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            watch: OnceLock::new(),
            is_foretold: false,
            is_revived: false,
            voids: Mutex::default(),
            has_voids: AtomicBool::new(false),
        }
    }

    /// The same, whose end for the receiver came from another process. It may have kept a duplicate,
    /// which shows it the descriptors of the memory on their way, and then it can write there in the
    /// holder's name. Root and this user's own processes could do as much by other means.
    pub(crate) fn had_by(mut self, maker: Option<Credentials>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        self.is_private &= maker.is_some_and(|maker| maker.uid == 0 || maker.uid == own);
        self
    }

    /// A channel of a receive right that has just moved here, with its descriptors.
    pub(crate) fn arrived(record: MovedChannel, fds: Vec<OwnedFd>) -> Result<Self, Nothing> {
        let mut fds = fds.into_iter();
        let socket = fds
            .next()
            .filter(socket::is_channel_end)
            .ok_or(Nothing::Violation)?;
        let mut channel = Self::new(socket, record.badge, record.once);
        channel.is_private = !record.is_known;
        if let Some(memory) = record.memory {
            let MovedMemory {
                taken,
                in_use,
                written,
            } = memory;
            let fds: Vec<_> = fds.collect();
            let fds = fds.try_into().map_err(|_| Nothing::Violation)?;
            let ring = RingEnd::arrived(fds, Position { taken, written });
            channel.ring.set(ring.map_err(|_| Nothing::Violation)?).ok();
            if in_use {
                channel.flavour.store(RING, Ordering::Relaxed);
            }
        }
        Ok(channel)
    }

    /// A channel whose receiver is gone, of which only what the kernel and the memory know is left.
    pub(crate) fn revive(record: MovedChannel, fds: Vec<OwnedFd>) -> Result<Revived, Nothing> {
        let mut fds = fds.into_iter();
        let socket = fds
            .next()
            .filter(socket::is_channel_end)
            .ok_or(Nothing::Violation)?;
        let queued = socket::peek_all(socket.as_fd());
        let mut channel = Self::new(socket, record.badge, record.once);
        channel.is_private = !record.is_known;
        channel.is_revived = true;
        let mut unread: HashSet<_> = queued.iter().filter_map(request_slot).collect();
        let fds: Vec<_> = fds.collect();
        if let Ok(fds) = fds.try_into() {
            let revived = RingEnd::revive(fds).map_err(|_| {
                // Its sender is not to send to where nobody looks.
                shut(channel.socket(), Shutdown::Both);
                Nothing::Violation
            });
            let (ring, has_gone_over) = revived?;
            let will_go_over = queued.iter().any(|header| header.kind == Kind::Switch);
            if has_gone_over && !will_go_over {
                ring.pass_over_fetched(mark_of_packet(channel.socket()));
                unread.extend(ring.peek_all().iter().filter_map(request_slot));
                channel.flavour.store(RING, Ordering::Relaxed);
            }
            channel.ring.set(ring).ok();
        }
        Ok(Revived { channel, unread })
    }

    /// Says that a request is not to be served: its sender has been told.
    pub(crate) fn make_void(&self, slot: u32) {
        lock(&self.voids).insert(slot);
        self.has_voids.store(true, Ordering::Release);
    }

    /// The requests that are not to be served.
    pub(crate) fn voids(&self) -> Vec<u32> {
        lock(&self.voids).iter().copied().collect()
    }

    /// Whether a request is not to be served. It is taken now, so this is asked once.
    fn was_void(&self, slot: u32) -> bool {
        if !self.has_voids.load(Ordering::Acquire) {
            return false;
        }
        let mut voids = lock(&self.voids);
        let was_void = voids.remove(&slot);
        self.has_voids.store(!voids.is_empty(), Ordering::Release);
        was_void
    }

    /// Whether a request that is queued is not to be served.
    pub(crate) fn is_void_now(&self, slot: u32) -> bool {
        self.has_voids.load(Ordering::Acquire) && lock(&self.voids).contains(&slot)
    }

    /// What tells the next message from others.
    pub(crate) fn digest(&self) -> u64 {
        let mut start = [0; DIGESTED_BYTES];
        let len = match self.ring().map(|ring| ring.peek_bytes(&mut start)) {
            Some(Some(len)) => len,
            _ => socket::peek_bytes(self.socket(), &mut start).unwrap_or(0),
        };
        let cookie = socket_cookie(self.socket()).unwrap_or(0);
        digest(cookie, start.get(..len).unwrap_or_default())
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.watch.get()?.kept.as_ref()
    }

    /// Notes for a successor that what came through memory before this position is dealt with.
    pub(crate) fn keep(&self, position: u64) {
        if let Some(ring) = self.ring() {
            ring.keep(position);
        }
    }

    /// What there is of the channel for a keeper to know.
    pub(crate) fn told(&self) -> (MovedChannel, Vec<BorrowedFd<'_>>) {
        let record = self.at_rest();
        (record, self.fds(&record))
    }

    fn at_rest(&self) -> MovedChannel {
        MovedChannel {
            badge: self.badge,
            once: self.once,
            is_known: !self.is_private,
            memory: self.ring.get().map(|_| MovedMemory::default()),
        }
    }

    /// Whether the keeper of the port was told of this channel before it came.
    pub(crate) fn is_foretold(&self) -> bool {
        self.is_foretold
    }

    fn has_cookie(&self, cookie: Cookie) -> bool {
        socket_cookie(self.socket()) == Ok(cookie)
    }

    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The memory, if everything goes through it.
    pub(crate) fn ring(&self) -> Option<&RingEnd> {
        if self.flavour.load(Ordering::Acquire) == RING {
            self.ring.get()
        } else {
            None
        }
    }

    fn link(&self) -> Link<'_> {
        Link {
            socket: self.socket(),
            ring: self.ring(),
            lender: None,
        }
    }

    /// Has the port wait for this channel.
    pub(crate) fn start_watching(&self, watch: Watch) -> Result<(), Errno> {
        let token = watch.token;
        let (data, flags) = (Event::Socket(token).data(), self.socket_events());
        epoll::add(&*watch.epoll, self.socket(), data, flags)?;
        // A channel has one port, and pauses only on its way to another.
        let watch = self.watch.get_or_init(|| watch);
        if let Some(kept) = &watch.kept {
            lock(&self.answers).write_down_in(kept.keep.ledger().cloned());
        }
        if let Some(ring) = self.ring.get() {
            add_bell(watch, ring)?;
        }
        if let Some(ring) = self.ring() {
            // What came before has rung for somebody else, or not at all.
            ring.ring_own();
            if self.is_private {
                self.asked.store(true, Ordering::Relaxed);
                ring.announce(RecordKind::WhoAreYou);
            }
        }
        if lock(&self.answers).has_kept() {
            self.flush();
        }
        Ok(())
    }

    /// Ends [`start_watching`](Self::start_watching). Closing is not enough: the other side has
    /// duplicates of the bells, and may have one of the socket.
    pub(crate) fn stop_watching(&self) {
        let Some(watch) = self.watch.get() else {
            return;
        };
        // Fails only for what is not watched.
        epoll::delete(&*watch.epoll, self.socket()).ok();
        if let Some(ring) = self.ring.get() {
            epoll::delete(&*watch.epoll, ring.bell()).ok();
        }
    }

    /// What the socket is waited for; hang-up is reported in any case.
    fn socket_events(&self) -> EventFlags {
        match self.ring() {
            Some(_) => EventFlags::empty(),
            None => EventFlags::IN,
        }
    }

    fn set_socket_events(&self, flags: EventFlags) {
        if let Some(watch) = self.watch.get() {
            // Fails only for a channel that the port has let go of.
            let data = Event::Socket(watch.token).data();
            epoll::modify(&*watch.epoll, self.socket(), data, flags).ok();
        }
    }

    /// What goes with the channel when its port moves. From here on, what is owed in this process
    /// goes through the socket, because the new owner writes to memory.
    pub(crate) fn depart(&self) -> MovedChannel {
        let mut answers = lock(&self.answers);
        let in_use = self.ring().is_some();
        let memory = self.ring.get().map(|ring| {
            let Position { taken, written } = ring.settle();
            MovedMemory {
                taken,
                in_use,
                written,
            }
        });
        if in_use {
            self.ring.get().into_iter().for_each(RingEnd::keep_taken);
            self.flavour.store(MOVED, Ordering::Release);
            self.flush_kept(&mut answers);
        }
        drop(answers);
        MovedChannel {
            badge: self.badge,
            once: self.once,
            is_known: !self.is_private,
            memory,
        }
    }

    /// The port did not move after all.
    pub(crate) fn stay(&self) {
        let moved = self.flavour.load(Ordering::Acquire) == MOVED;
        if moved {
            self.flavour.store(RING, Ordering::Release);
        }
    }

    /// The descriptors that go with [`depart`](Self::depart)'s record.
    pub(crate) fn fds(&self, record: &MovedChannel) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.socket()];
        if let Some(ring) = self.ring.get().filter(|_| record.memory.is_some()) {
            fds.extend(ring.fds());
        }
        fds
    }

    /// Receives one packet, if there is one. A channel that the sender made for somebody else goes
    /// to `add`.
    pub(crate) fn read(self: &Arc<Self>, port: PortId, add: impl FnOnce(Self)) -> Read {
        // Held while a packet is taken, so that two threads cannot swap two packets of one sender,
        // nor take two from a send-once right, nor see a sender hang up before a right that it made
        // counts.
        let mut reading = lock(&self.reading);
        if self.closed.load(Ordering::Relaxed) {
            return Read::Closed;
        }
        if reading.spent {
            return Read::Empty;
        }
        let incoming = match self.ring() {
            Some(ring) => self.next_record(ring, &mut reading),
            None => self.next_packet(&mut reading),
        };
        let read = self.heed(incoming, &mut reading, port, add);
        if let Some(ring) = self.ring().filter(|_| self.is_kept()) {
            ring.keep_taken();
        }
        read
    }

    fn heed(
        self: &Arc<Self>,
        incoming: Result<Incoming, Nothing>,
        reading: &mut Reading,
        port: PortId,
        add: impl FnOnce(Self),
    ) -> Read {
        match incoming.and_then(|incoming| self.admit(incoming, reading, port, add)) {
            Ok(read) => {
                reading.spent = self.once;
                read
            }
            Err(Nothing::Empty) => Read::Empty,
            Err(Nothing::Lost(header, lent)) => {
                if let Some(number) = lent {
                    self.give_back(number);
                }
                // The client is to know that no answer will come. A right that was to be made here
                // is dead from the start.
                if header.kind == Kind::Message && header.slot != 0 {
                    self.refuse(header.slot);
                }
                self.take_back(reading);
                Read::Other
            }
            Err(Nothing::Closed | Nothing::Violation) => {
                // A client must not be able to fill the ledger with what nobody will answer.
                self.take_back(reading);
                // Before another thread takes what comes after a violation.
                self.close();
                Read::Closed
            }
        }
    }

    /// Takes a run of records out of memory, and says whose they are and where the run began.
    /// `None` if [`read`](Self::read) has to look at what comes next, if anything does.
    pub(crate) fn take_run(&self, into: &mut Vec<u8>, limit: usize) -> Option<(Arc<Origin>, u64)> {
        let needs_a_look = self.once || self.has_voids.load(Ordering::Relaxed);
        if needs_a_look || self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let reading = lock(&self.reading);
        let origin = reading.origin.as_ref()?;
        let position = self.ring()?.take_run(into, limit)?;
        Some((Arc::clone(origin), position))
    }

    /// Puts what lies behind a position of the last run back into memory.
    pub(crate) fn put_back(&self, position: u64) {
        if let Some(ring) = self.ring() {
            ring.put_back(position);
        }
    }

    /// Whether there is something to read.
    pub(crate) fn is_ready(&self) -> bool {
        self.ring().is_none_or(RingEnd::is_ready) || self.has_hung_up()
    }

    fn next_packet(&self, reading: &mut Reading) -> Result<Incoming, Nothing> {
        self.foresee(reading);
        socket::try_receive(self.socket())
    }

    /// Writes down for a successor what the next packet in the socket will change, before it is gone
    /// from there.
    fn foresee(&self, reading: &mut Reading) {
        let Some(kept) = self.kept() else { return };
        let Some(header) = socket::peek(self.socket()) else {
            return;
        };
        match (request_slot(&header), kept.keep.ledger()) {
            (Some(slot), Some(ledger)) if reading.foreseen.is_none() => {
                let entry = ledger.enter(kept.cookie, slot);
                reading.foreseen = entry.map(|entry| (slot, entry));
            }
            _ if header.kind == Kind::Switch => {
                self.ring.get().into_iter().for_each(RingEnd::keep_taken);
            }
            _ if header.kind == Kind::Mint => reading.foretold = self.foretell(kept),
            _ => {}
        }
    }

    /// Tells the keeper of the channel that the next packet brings: a receiver may be killed when it has
    /// taken the packet. Gives the channel, if the keeper heard it: what it heard of is to be open until
    /// it is told of the same channel as it came.
    pub(crate) fn foretell(&self, kept: &Kept) -> Option<(Cookie, Box<Self>)> {
        let (socket, maker) = socket::peek_mint(self.socket())?;
        if socket::is_last_reserve(&socket) {
            return None;
        }
        let cookie = socket_cookie(&socket).ok()?;
        let channel = Self::new(socket, self.badge, false).had_by(maker);
        let (record, fds) = channel.told();
        let is_heard = kept.keep.tell_changed(cookie, &record, &fds);
        is_heard.then(|| (cookie, Box::new(channel)))
    }

    /// Takes back what was written down of a packet that came to nothing.
    fn take_back(&self, reading: &mut Reading) {
        self.cross_out(reading.foreseen.take().map(|(_, entry)| entry));
        if let Some((cookie, _open)) = reading.foretold.take() {
            self.retract(cookie);
        }
    }

    /// Has the keeper let go of a channel that it was told of and that is not taken.
    fn retract(&self, cookie: Cookie) {
        if let Some(kept) = self.kept() {
            kept.keep.tell_gone(cookie);
        }
    }

    fn cross_out(&self, entry: Option<u32>) {
        let ledger = self.kept().and_then(|kept| kept.keep.ledger());
        if let (Some(ledger), Some(entry)) = (ledger, entry) {
            ledger.cross_out(entry);
        }
    }

    /// The header of what comes next, which stays where it is.
    pub(crate) fn peek(&self) -> Option<Header> {
        match self.ring() {
            None => socket::peek(self.socket()),
            Some(ring) => match ring.peek().ok()? {
                Peeked::Packet(header) => Some(header),
                Peeked::InSocket => socket::peek(self.socket()),
            },
        }
    }

    /// The headers of all that was sent and not received.
    pub(crate) fn peek_all(&self) -> Vec<Header> {
        let mut headers = socket::peek_all(self.socket());
        headers.extend(self.ring().map(RingEnd::peek_all).unwrap_or_default());
        headers
    }

    fn next_record(&self, ring: &RingEnd, reading: &mut Reading) -> Result<Incoming, Nothing> {
        let take = || match self.is_kept() {
            true => ring.next_kept(),
            false => ring.next(),
        };
        let next = match take() {
            // Published after that look and before the end.
            Err(Nothing::Empty) if self.has_hung_up() => match take() {
                Err(Nothing::Empty) => return Err(Nothing::Closed),
                next => next,
            },
            next => next,
        };
        match next? {
            Next::Packet(incoming) => Ok(incoming),
            // It was sent before it was announced.
            Next::InSocket => match self.fetch_packet(ring, reading) {
                // The former receiver had one packet of several with the same bytes.
                Err(Nothing::Empty) if self.is_revived || self.is_kept() => Err(Nothing::Empty),
                Err(Nothing::Empty) => Err(Nothing::Violation),
                other => other,
            },
            Next::Control(_) => Err(Nothing::Violation),
        }
    }

    /// Takes a packet out of the socket that a record announces. A successor has to know whether that
    /// was done, or it would take the next one for this one and lose the order.
    fn fetch_packet(&self, ring: &RingEnd, reading: &mut Reading) -> Result<Incoming, Nothing> {
        let mark = || mark_of_packet(self.socket());
        if let Some(mark) = self.kept().and_then(|_| mark()) {
            ring.fetch(mark);
        }
        self.next_packet(reading)
    }

    fn has_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Acquire)
    }

    fn admit(
        self: &Arc<Self>,
        mut incoming: Incoming,
        reading: &mut Reading,
        port: PortId,
        add: impl FnOnce(Self),
    ) -> Result<Read, Nothing> {
        match incoming.header.kind {
            Kind::Message => self.admit_message(incoming, reading, port),
            Kind::Mint if !self.once => {
                let socket = incoming.fds.pop_front().filter(socket::is_channel_end);
                let socket = socket.ok_or(Nothing::Violation)?;
                if socket::is_last_reserve(&socket) {
                    // The new right is dead from the start.
                    socket_cookie(&socket)
                        .into_iter()
                        .for_each(|own| self.retract(own));
                    reading.foretold = None;
                    return Ok(Read::Other);
                }
                socket::ask_for_identity(&socket).map_err(|_| Nothing::Violation)?;
                let maker = incoming.credentials;
                let mut minted = Self::new(socket, self.badge, false).had_by(maker);
                let foretold = reading.foretold.take();
                let cookie = foretold.as_ref().map(|(cookie, _)| *cookie);
                minted.is_foretold = cookie.is_some_and(|cookie| minted.has_cookie(cookie));
                add(minted);
                drop(foretold);
                Ok(Read::Other)
            }
            // Once: a bell that nobody knows any more would stay in the epoll instance.
            Kind::Promote if !self.once && self.ring.get().is_none() => {
                self.identify(&mut incoming, reading)?;
                if self.is_private {
                    self.consider(incoming);
                }
                Ok(Read::Other)
            }
            Kind::Switch => {
                // From here on, the kernel does not say any more who speaks.
                self.identify(&mut incoming, reading)?;
                if !self.is_private {
                    (reading.sender, reading.origin) = (None, None);
                }
                self.switch()
            }
            Kind::Hello if incoming.credentials.is_some() => {
                // One may still come that a former owner asked for.
                if self.asked.swap(false, Ordering::Relaxed) {
                    reading.sender = None;
                    self.identify(&mut incoming, reading)?;
                }
                Ok(Read::Other)
            }
            _ => Err(Nothing::Violation),
        }
    }

    fn admit_message(
        self: &Arc<Self>,
        mut incoming: Incoming,
        reading: &mut Reading,
        port: PortId,
    ) -> Result<Read, Nothing> {
        // What comes through memory has no credentials of its own. The memory is known only to who
        // offered it, and that the kernel has said; if somebody else may know it, nobody is named.
        let is_named = self.ring().is_none() || (incoming.credentials.is_some() && self.is_private);
        if is_named {
            self.identify(&mut incoming, reading)?;
        }
        let slot = incoming.header.slot;
        let borrowing = self.borrow(&mut incoming, &mut reading.borrowed)?;
        let mut message = transfer::receive(incoming)?;
        if let Some(borrowing) = borrowing {
            message.payload = Payload::Borrowed(Box::new(borrowing));
        }
        if slot != 0 {
            if message.reply.is_some() {
                return Err(Nothing::Violation);
            }
            let foreseen = reading.foreseen.take_if(|(known, _)| *known == slot);
            let entry = foreseen.map(|(_, entry)| entry);
            if self.was_void(slot) {
                self.cross_out(entry);
                return Ok(Read::Other);
            }
            message.reply = Some(self.owe(slot, port, entry)?);
        }
        let origin = reading.origin.get_or_insert_with(|| {
            Arc::new(Origin {
                port,
                badge: self.badge,
                sender: reading.sender.clone(),
                notification: None,
            })
        });
        message.origin = Some(Arc::clone(origin));
        Ok(Read::Message(message))
    }

    /// The payload of a packet, if it lies in memory that the sender lends.
    fn borrow(
        self: &Arc<Self>,
        incoming: &mut Incoming,
        borrowed: &mut Borrowed,
    ) -> Result<Option<Borrowing>, Nothing> {
        let Some((file, number)) = incoming.lent.take() else {
            return Ok(None);
        };
        let memory = borrowed.map(&file).map_err(|_| Nothing::Violation)?;
        let len = usize::try_from(incoming.header.length).map_err(|_| Nothing::Violation)?;
        let borrowing = Borrowing::new(memory, len, number, Arc::clone(self));
        borrowing.map(Some).ok_or(Nothing::Violation)
    }

    /// Returns memory that the holder has lent. It is not woken for that: it looks when it needs
    /// memory again.
    pub(crate) fn give_back(&self, number: u32) {
        if self.epoch != portolan_sys::fork::epoch() {
            return;
        }
        let mut answers = lock(&self.answers);
        let returned = Header::control(Kind::Returned, number);
        let is_next = !answers.has_kept();
        if is_next
            && self
                .ring()
                .is_some_and(|ring| ring.publish_quietly(&returned))
        {
            return;
        }
        answers.keep(Word::Returned(number));
        self.flush_kept(&mut answers);
    }

    /// Notes the sender of this packet. The first message binds the channel to its process: a right
    /// that moves gets a new channel, so a second process on this one is not supposed to be there.
    fn identify(&self, incoming: &mut Incoming, reading: &mut Reading) -> Result<(), Nothing> {
        let credentials = incoming.credentials.ok_or(Nothing::Violation)?;
        if let Some(known) = &mut reading.sender {
            if known.credentials.pid != credentials.pid {
                return Err(Nothing::Violation);
            }
            if known.credentials != credentials {
                known.credentials = credentials;
                reading.origin = None;
            }
            return Ok(());
        }
        // One pidfd for each channel is enough, and each costs a descriptor.
        if !self.once {
            portolan_sys::ancillary::pass_pidfd(&self.socket, false).ok();
        }
        let pidfd = incoming.pidfd.take();
        let pidfd = pidfd.filter(|pidfd| !socket::is_last_reserve(pidfd));
        let pidfd = pidfd.map(Arc::new);
        reading.sender = Some(Sender { credentials, pidfd });
        reading.origin = None;
        Ok(())
    }

    /// Accepts an offer of memory, or does not: the holder then goes on as before.
    fn consider(&self, incoming: Incoming) {
        let fds: Vec<_> = incoming.fds.into_iter().collect();
        if fds.iter().any(socket::is_last_reserve) {
            return;
        }
        let Ok(fds) = fds.try_into() else { return };
        let (Some(watch), Ok(ring)) = (self.watch.get(), RingEnd::accept(fds)) else {
            return;
        };
        // What the keeper has been told of is not closed again.
        if add_bell(watch, &ring).is_err() || !self.is_kept_with(&ring) {
            return;
        }
        let ring = self.ring.get_or_init(|| ring);
        ring.announce(RecordKind::Accept);
    }

    /// Has the keeper, if there is one, keep the memory too. False if it cannot.
    fn is_kept_with(&self, ring: &RingEnd) -> bool {
        let Some(kept) = self.kept() else { return true };
        let record = MovedChannel {
            memory: Some(MovedMemory::default()),
            ..self.at_rest()
        };
        let mut fds = vec![self.socket()];
        fds.extend(ring.fds());
        kept.keep.tell_changed(kept.cookie, &record, &fds)
    }

    fn switch(&self) -> Result<Read, Nothing> {
        if self.ring.get().is_none() || self.flavour.load(Ordering::Relaxed) != SOCKET {
            return Err(Nothing::Violation);
        }
        let _answers = lock(&self.answers);
        // A thread of the holder may sleep on the socket, where no more answers will come. If there
        // is no room for this, there is enough to wake it.
        socket::try_send(self.socket(), &Outgoing::control(Kind::Switch, 0)).ok();
        self.flavour.store(RING, Ordering::Release);
        // Hang-up is reported whatever is asked for.
        self.set_socket_events(EventFlags::empty());
        Ok(Read::Promoted)
    }

    /// Makes the right to answer in a slot.
    ///
    /// `entry` is where it was written down for a successor, if it was.
    pub(crate) fn owe(
        self: &Arc<Self>,
        slot: u32,
        port: PortId,
        entry: Option<u32>,
    ) -> Result<SendOnceRight, Nothing> {
        let entry = entry.or_else(|| {
            let kept = self.kept()?;
            kept.keep.ledger()?.enter(kept.cookie, slot)
        });
        if !lock(&self.answers).owe(slot, entry) {
            self.cross_out(entry);
            return Err(Nothing::Violation);
        }
        Ok(SendOnceRight::for_slot(Arc::clone(self), slot, port))
    }

    /// Sends the answer for a slot, or keeps it if the client has no room for it.
    ///
    /// An answer that moves a port is not kept: the port would be paused and resumed each time.
    pub(crate) fn answer(&self, slot: u32, message: &mut Message) -> Result<(), SendErrorKind> {
        transfer::prepare(self.link(), message, Deadline::Passed)?;
        // Before the lock: this waits for threads that receive from a port that is to move, and
        // they may want the lock.
        transfer::pause(message)?;
        let sent = self.answer_or_keep(slot, message);
        if sent.is_err() {
            // After the lock: a port that stays looks after all its channels, and this may be one.
            transfer::stay(message);
        }
        sent
    }

    fn answer_or_keep(&self, slot: u32, message: &mut Message) -> Result<(), SendErrorKind> {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        let mut full = None;
        let sent = if answers.has_kept() {
            Err(SendErrorKind::TimedOut)
        } else {
            answers::deliver(self.link(), slot, message, &mut full)
        };
        match sent {
            Ok(()) => answers.settle(slot),
            Err(SendErrorKind::TimedOut) if !transfer::moves_a_port(message) => {
                let kept = std::mem::replace(message, Message::new(0));
                answers.keep(Word::Answer(slot, kept));
                self.flush_kept(&mut answers);
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Tells the client that a slot will not be answered.
    pub(crate) fn refuse(&self, slot: u32) {
        self.tell(Word::NoReply(slot));
    }

    /// The same for a channel that is not watched yet, as soon as it is.
    pub(crate) fn refuse_later(&self, slot: u32) {
        lock(&self.answers).keep(Word::NoReply(slot));
    }

    /// The same, of what was written down because a former receiver had no room for it.
    pub(crate) fn refuse_again(&self, slot: u32, entry: u32) {
        let mut answers = lock(&self.answers);
        answers.owe(slot, Some(entry));
        answers.keep(Word::NoReply(slot));
    }

    /// Takes out what there was no room for yet, for whoever receives next to refuse.
    pub(crate) fn take_refusals(&self) -> Vec<u32> {
        lock(&self.answers).take_refusals()
    }

    /// Tells the client that a slot will not be answered, and why.
    pub(crate) fn fail(&self, slot: u32, reason: Arc<[u8]>) {
        self.tell(Word::Failed(slot, reason));
    }

    /// Tells the client that the answer for a slot comes on another channel. If it is gone, so is
    /// the other end of that channel.
    pub(crate) fn redirect(&self, slot: u32, end: OwnedFd) {
        self.tell(Word::Redirect(slot, end));
    }

    fn tell(&self, what: Word) {
        let mut answers = lock(&self.answers);
        answers.keep(what);
        self.flush_kept(&mut answers);
    }

    /// Sends what was kept, as far as there is room.
    pub(crate) fn flush(&self) {
        self.flush_kept(&mut lock(&self.answers));
    }

    /// Sends what was kept, and has the port told when there is room for the rest.
    fn flush_kept(&self, answers: &mut Answers) {
        if answers.are_too_many() {
            self.close();
        }
        loop {
            match answers.flush(self.link()) {
                Flushed::All => return,
                Flushed::Broken => return self.close(),
                Flushed::Stuck(full) if self.wait_for_room(full) => return,
                // Room came meanwhile, and then nobody rings.
                Flushed::Stuck(_) => {}
            }
        }
    }

    /// Has the port told when there is room. False if there is some already.
    fn wait_for_room(&self, full: Full) -> bool {
        match (full, self.ring()) {
            (Full::Ring { len }, Some(ring)) => ring.prepare_to_send(len),
            _ => {
                self.set_socket_events(self.socket_events() | EventFlags::OUT);
                true
            }
        }
    }

    /// There is room in the socket.
    pub(crate) fn flush_socket(&self) {
        self.set_socket_events(self.socket_events());
        self.flush();
    }

    /// The port died. Requests that a reply right exists for can still be answered; all others
    /// fail now.
    pub(crate) fn port_died(&self) {
        let mut answers = lock(&self.answers);
        self.flush_kept(&mut answers);
        let owed = answers.owed();
        // A client that does not fetch its answers would not see that there are no more either.
        if owed.is_empty() || answers.has_kept() {
            drop(answers);
            return self.close();
        }
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
        if self.link().try_send(&packet).is_err() {
            self.close();
        }
    }

    fn discard_unread(&self) {
        while !matches!(
            socket::try_receive(self.socket()),
            Err(Nothing::Empty | Nothing::Closed)
        ) {}
    }

    /// The kernel says that the holder is gone; what it has published is still received.
    pub(crate) fn note_hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
    }

    /// Cuts the channel off, whoever still refers to it.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            if let Some(ring) = self.ring() {
                ring.announce(RecordKind::Closed);
            }
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
        if answers.has_kept() && self.epoch == portolan_sys::fork::epoch() {
            self.close();
        }
    }
}

/// How much of a message is looked at to tell it from others.
const DIGESTED_BYTES: usize = 1024;

/// What tells the next packet in a socket from others, unless they have the same bytes.
pub(crate) fn mark_of_packet(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut start = [0; DIGESTED_BYTES];
    let len = socket::peek_bytes(socket, &mut start)?;
    Some(digest(len as u64, start.get(..len).unwrap_or_default()))
}

/// The slot of a packet that is a request.
fn request_slot(header: &Header) -> Option<u32> {
    (header.kind == Kind::Message && header.slot != 0).then_some(header.slot)
}

fn add_bell(watch: &Watch, ring: &RingEnd) -> Result<(), Errno> {
    // Each ring is an event of its own, so no ring is lost if another thread takes it first.
    let flags = EventFlags::IN | EventFlags::ET;
    epoll::add(
        &*watch.epoll,
        ring.bell(),
        Event::Bell(watch.token).data(),
        flags,
    )
}

fn shut(socket: BorrowedFd<'_>, how: Shutdown) {
    // Fails only if the other end has gone already, which is what it is for.
    rustix::net::shutdown(socket, how).ok();
}

/// Every critical section leaves its data whole, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
