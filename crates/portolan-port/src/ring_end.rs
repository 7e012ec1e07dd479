//! One side of a channel that has been promoted to shared memory.
//!
//! Packets without descriptors are records of a ring. Others go through the socket as before, and
//! an empty record keeps their place; so the order of a channel's packets is the order of its
//! records.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use portolan_ring::{
    Bell as Wake, Corrupt, Producer, PushError, RECORD_HEADER_BYTES, Readiness, Run, split_record,
};
use portolan_wire::packet::{self, Flags, HEADER_BYTES, RecordKind, RightDescriptor};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::channel::lock;
use crate::mapping::{Position, Reader, Rings};
use crate::payload::Payload;
use crate::socket::{self, Full, Incoming, Nothing, Outgoing, Refusal};
use crate::timeout::Deadline;
use crate::wait::{Whereabouts, own_place};

/// Rings, and a bell for each side.
#[derive(Debug)]
pub(crate) struct RingEnd {
    rings: Rings,
    own_bell: Bell,
    peer_bell: Bell,
    inline_max: usize,
    made: Instant,
    /// When the kernel was last asked whether the other side is there, in microseconds since.
    asked: AtomicU64,
    /// Messages sent so far, changed under the lock of what goes out.
    sent: AtomicU32,
}

/// How often the kernel is asked whether the other side is still there.
const ASK_AFTER_MICROS: u64 = 1000;

/// With which of the messages to a side that is awake.
const ASK_EVERY: u32 = 16;

/// What the next record is.
#[derive(Debug)]
pub(crate) enum Peeked {
    Packet(packet::Header),
    /// The packet is in the socket.
    InSocket,
}

/// What a record brought.
#[derive(Debug)]
pub(crate) enum Next {
    Packet(Incoming),
    /// The next packet is in the socket.
    InSocket,
    Control(RecordKind),
}

impl RingEnd {
    /// Fresh memory and bells, for the holder.
    pub(crate) fn create() -> io::Result<Self> {
        let (own, peer) = (Bell::new()?, Bell::new()?);
        Ok(Self::new(Rings::create()?, own, peer))
    }

    /// What the holder offers: the memory, the two ends of the receiver's bell, and those of the
    /// holder's.
    pub(crate) fn accept([memory, own @ .., out, into]: [OwnedFd; 5]) -> io::Result<Self> {
        Ok(Self::new(
            Rings::accept(memory)?,
            Bell::of(own)?,
            Bell::of([out, into])?,
        ))
    }

    /// What came with a receive right.
    pub(crate) fn arrived(
        [memory, own @ .., out, into]: [OwnedFd; 5],
        position: Position,
    ) -> io::Result<Self> {
        let rings = Rings::resume(memory, position)?;
        Ok(Self::new(rings, Bell::of(own)?, Bell::of([out, into])?))
    }

    /// What a receiver had that is gone, and whether everything went through the memory.
    pub(crate) fn revive([memory, own @ .., out, into]: [OwnedFd; 5]) -> io::Result<(Self, bool)> {
        let (rings, in_use) = Rings::revive(memory)?;
        let end = Self::new(rings, Bell::of(own)?, Bell::of([out, into])?);
        // Whoever is gone may have taken it upon itself to ring and not come to it.
        let (Wake::Ring | Wake::Quiet) = lock(&end.rings.incoming).consumer.reclaim();
        end.ring();
        Ok((end, in_use))
    }

    fn new(rings: Rings, own_bell: Bell, peer_bell: Bell) -> Self {
        let inline_max = lock(&rings.outgoing).max_payload() as usize;
        let (made, asked) = (Instant::now(), AtomicU64::new(0));
        let sent = AtomicU32::new(0);
        Self {
            rings,
            own_bell,
            peer_bell,
            inline_max,
            made,
            asked,
            sent,
        }
    }

    /// The memory, the bell of this side, and that of the other.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 5] {
        let (own, peer) = (&self.own_bell, &self.peer_bell);
        [
            self.rings.file(),
            own.out.as_fd(),
            own.into.as_fd(),
            peer.out.as_fd(),
            peer.into.as_fd(),
        ]
    }

    /// What to offer: as [`fds`](Self::fds), from the other side's point of view.
    pub(crate) fn offer(&self) -> [BorrowedFd<'_>; 5] {
        let [memory, a, b, c, d] = self.fds();
        [memory, c, d, a, b]
    }

    /// Readable after the other side rang.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.own_bell.out.as_fd()
    }

    /// Notes that the bell was heard, by who is about to look at everything that it can stand for.
    pub(crate) fn hear(&self) {
        self.own_bell.hear();
    }

    /// How far this side has come when it is about to be somewhere else. The space of what was
    /// taken is given back, for the next owner does not know of it.
    pub(crate) fn settle(&self) -> Position {
        let mut reader = lock(&self.rings.incoming);
        reader.unreleased = 0;
        if reader.consumer.release() == Wake::Ring {
            self.ring();
        }
        drop(reader);
        self.rings.position()
    }

    /// Notes for a successor that what was taken before this position is dealt with.
    pub(crate) fn keep(&self, position: u64) {
        self.rings.keep(position);
    }

    /// The same for everything that was taken, whose space may be used again after that.
    pub(crate) fn keep_taken(&self) {
        self.rings.keep_taken();
        self.release_if_due(&mut lock(&self.rings.incoming));
    }

    /// Notes for a successor that the packet with this mark, which belongs to the record that was taken
    /// last, is about to be taken out of the socket.
    pub(crate) fn fetch(&self, mark: u64) {
        self.rings.fetch(mark);
    }

    /// Takes the next record if it announces a packet that a former receiver has taken out of the socket,
    /// where the next packet is the one with this mark now.
    pub(crate) fn pass_over_fetched(&self, mark: Option<u64>) {
        let mut reader = lock(&self.rings.incoming);
        let Ok(Some(record)) = reader.consumer.incoming() else {
            return;
        };
        let behind = record.end();
        let was_begun = self.rings.incoming_glance.fetching(behind);
        let is_announced = record.record().tag == RecordKind::InSocket.tag();
        if !is_announced || was_begun.is_none_or(|fetched| mark == Some(fetched)) {
            return record.leave();
        }
        drop(record);
        self.rings.note_taken(&reader);
        self.rings.keep_taken();
    }

    /// What the next record is, without taking it.
    pub(crate) fn peek(&self) -> Result<Peeked, Nothing> {
        let mut reader = lock(&self.rings.incoming);
        let Some(mut record) = reader.consumer.incoming().map_err(broken)? else {
            return Err(Nothing::Empty);
        };
        let mut head = [0; HEADER_BYTES];
        let whole = record.copy_to(&mut head) == HEADER_BYTES;
        let tag = record.record().tag;
        record.leave();
        match RecordKind::from_tag(tag) {
            Some(RecordKind::InSocket) => Ok(Peeked::InSocket),
            Some(RecordKind::Packet) if whole => {
                let header = packet::decode_header(&head).map_err(|_| Nothing::Violation)?;
                Ok(Peeked::Packet(header))
            }
            _ => Err(Nothing::Violation),
        }
    }

    /// As many bytes of the next record as fit. `None` if it is not in memory.
    pub(crate) fn peek_bytes(&self, into: &mut [u8]) -> Option<usize> {
        let mut reader = lock(&self.rings.incoming);
        let mut record = reader.consumer.incoming().ok()??;
        let len = record.copy_to(into);
        let is_packet = record.record().tag == RecordKind::Packet.tag();
        record.leave();
        is_packet.then_some(len)
    }

    /// The headers of all records that have come and were not taken.
    pub(crate) fn peek_all(&self) -> Vec<packet::Header> {
        let mut reader = lock(&self.rings.incoming);
        let (position, mut run) = (reader.consumer.position(), Vec::new());
        reader.consumer.take_run(&mut run, usize::MAX).ok();
        reader.consumer.rewind(position);
        drop(reader);
        let (mut rest, mut headers) = (run.as_slice(), Vec::new());
        while let Some((record, payload, behind)) = split_record(rest) {
            let is_packet = record.tag == RecordKind::Packet.tag();
            let head = payload.first_chunk().filter(|_| is_packet);
            headers.extend(head.and_then(|head| packet::decode_header(head).ok()));
            rest = behind;
        }
        headers
    }

    /// The longest packet that goes through memory.
    pub(crate) fn inline_max(&self) -> usize {
        self.inline_max
    }

    /// Sends a packet without waiting.
    pub(crate) fn try_send(
        &self,
        socket: BorrowedFd<'_>,
        packet: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        if !packet.fds.is_empty() {
            return self.send_through_socket(socket, packet);
        }
        if packet.rights.is_empty() {
            return self.publish(socket, &packet.header.encode(), &[], packet.inline);
        }
        let rights = packet.rights.iter().flat_map(RightDescriptor::encode);
        let rights: Vec<u8> = rights.collect();
        self.publish(socket, &packet.header.encode(), &rights, packet.inline)
    }

    /// Sends a packet through memory without waiting.
    #[inline]
    pub(crate) fn publish(
        &self,
        socket: BorrowedFd<'_>,
        head: &[u8; HEADER_BYTES],
        rights: &[u8],
        inline: &[u8],
    ) -> Result<(), Refusal> {
        let mut outgoing = lock(&self.rings.outgoing);
        self.check_peer(&outgoing, socket)?;
        match outgoing.push(RecordKind::Packet.tag(), &[head, rights, inline]) {
            Ok(()) => {}
            Err(PushError::Full { .. }) => {
                let len = head.len() + rights.len() + inline.len();
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                return Err(Refusal::Full(Full::Ring { len }));
            }
            Err(PushError::TooLarge { .. }) => return Err(Refusal::System(Errno::MSGSIZE)),
            Err(_) => return Err(Refusal::Closed),
        }
        self.heed(outgoing.publish());
        Ok(())
    }

    /// Publishes records as far as there is room, and takes them out of the run.
    pub(crate) fn publish_run(&self, socket: BorrowedFd<'_>, run: &mut Run) -> Result<(), Refusal> {
        let mut outgoing = lock(&self.rings.outgoing);
        self.check_peer(&outgoing, socket)?;
        outgoing.push_run(run).map_err(|_| Refusal::Closed)?;
        self.heed(outgoing.publish());
        drop(outgoing);
        match run.next_len() {
            None => Ok(()),
            Some(len) => Err(Refusal::Full(Full::Ring { len })),
        }
    }

    /// Whether a packet of this length has room, or will never have.
    pub(crate) fn has_room(&self, len: u32) -> bool {
        lock(&self.rings.outgoing).fits(len).unwrap_or(true)
    }

    /// Sends a packet through the socket, and a record that keeps its place.
    pub(crate) fn send_through_socket(
        &self,
        socket: BorrowedFd<'_>,
        packet: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        let mut outgoing = lock(&self.rings.outgoing);
        if !outgoing.fits(0).map_err(|_| Refusal::Closed)? {
            return Err(Refusal::Full(Full::Ring { len: 0 }));
        }
        socket::try_send(socket, packet)?;
        outgoing
            .push(RecordKind::InSocket.tag(), &[])
            .map_err(|_| Refusal::Closed)?;
        self.heed(outgoing.publish());
        Ok(())
    }

    fn heed(&self, bell: Wake) {
        if bell == Wake::Ring {
            self.ring();
        }
    }

    /// A side that was killed says nothing, so the kernel is asked, but not every time: not twice in a
    /// millisecond, and of a side that is awake with every sixteenth message only. Afterwards it is too
    /// late: what was published may have been received.
    fn check_peer(&self, outgoing: &Producer, socket: BorrowedFd<'_>) -> Result<(), Refusal> {
        let sent = self.sent.load(Ordering::Relaxed).wrapping_add(1);
        self.sent.store(sent, Ordering::Relaxed);
        if !sent.is_multiple_of(ASK_EVERY) && !outgoing.consumer_sleeps() {
            return Ok(());
        }
        let now = self.made.elapsed().as_micros() as u64;
        if now.wrapping_sub(self.asked.load(Ordering::Relaxed)) < ASK_AFTER_MICROS {
            return Ok(());
        }
        self.asked.store(now, Ordering::Relaxed);
        match socket::wait(socket, PollFlags::empty(), Deadline::Passed) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Refusal::Closed),
            Err(errno) => Err(Refusal::System(errno)),
        }
    }

    fn ring(&self) {
        self.peer_bell.ring();
    }

    /// Rings the bell of this side, so that whoever waits for it looks again.
    pub(crate) fn ring_own(&self) {
        self.own_bell.ring();
    }

    /// Publishes a packet that is only a header and can wait until the other side is awake. False if
    /// there is no room.
    pub(crate) fn publish_quietly(&self, header: &packet::Header) -> bool {
        let mut outgoing = lock(&self.rings.outgoing);
        let pushed = outgoing.push(RecordKind::Packet.tag(), &[&header.encode()]);
        outgoing.publish_quietly();
        pushed.is_ok()
    }

    /// Publishes an empty record, if there is room.
    pub(crate) fn announce(&self, kind: RecordKind) {
        let mut outgoing = lock(&self.rings.outgoing);
        if outgoing.push(kind.tag(), &[]).is_ok() && outgoing.publish() == Wake::Ring {
            self.ring();
        }
    }

    /// Whether a record has come. A broken ring counts: reading it says so.
    pub(crate) fn is_ready(&self) -> bool {
        self.rings.is_ready()
    }

    /// Says where this side runs, for the other to know how to wait for it, and finds out the same.
    pub(crate) fn meet(&self) -> Whereabouts {
        let own = own_place();
        self.rings.outgoing_glance.say_place(own);
        Whereabouts::new(own, self.rings.incoming_glance.place())
    }

    /// Takes a run of whole records of up to `limit` bytes, and says where it began. `None` if there
    /// is none, or something that [`next`](Self::next) has to look at.
    pub(crate) fn take_run(&self, into: &mut Vec<u8>, limit: usize) -> Option<u64> {
        let mut reader = lock(&self.rings.incoming);
        self.release_if_due(&mut reader);
        let position = reader.consumer.position();
        let taken = reader.consumer.take_run(into, limit).unwrap_or(0);
        self.rings.note_taken(&reader);
        reader.unreleased += taken;
        (taken > 0).then_some(position)
    }

    /// Takes back having taken what lies behind a position of the last run.
    pub(crate) fn put_back(&self, position: u64) {
        let mut reader = lock(&self.rings.incoming);
        let back = reader.consumer.position().wrapping_sub(position);
        reader.consumer.rewind(position);
        reader.unreleased = reader.unreleased.saturating_sub(back as usize);
        self.rings.note_taken(&reader);
    }

    /// Giving space back costs a barrier and the other side a cache line, so it is done in eighths
    /// of the ring, and before sleeping. A record never takes more than a half, so a sender with
    /// nothing left to be read always has room.
    fn release_if_due(&self, reader: &mut Reader) {
        if reader.unreleased >= RELEASE_BYTES {
            reader.unreleased = 0;
            if reader.consumer.release() == Wake::Ring {
                self.ring();
            }
        }
    }

    /// Takes the next record.
    pub(crate) fn next(&self) -> Result<Next, Nothing> {
        let mut reader = lock(&self.rings.incoming);
        let next = self.take(&mut reader);
        self.release_if_due(&mut reader);
        next
    }

    /// The same, with its space not given back before a successor can know that it was
    /// [dealt with](Self::keep_taken).
    pub(crate) fn next_kept(&self) -> Result<Next, Nothing> {
        self.take(&mut lock(&self.rings.incoming))
    }

    fn take(&self, reader: &mut Reader) -> Result<Next, Nothing> {
        let Some(mut record) = reader.consumer.incoming().map_err(broken)? else {
            return Err(Nothing::Empty);
        };
        let kind = RecordKind::from_tag(record.record().tag).ok_or(Nothing::Violation)?;
        let taken = RECORD_HEADER_BYTES + record.record().len as usize;
        let next = match kind {
            RecordKind::Packet => Next::Packet(read_packet(&mut record)?),
            RecordKind::InSocket => Next::InSocket,
            control => Next::Control(control),
        };
        drop(record);
        self.rings.note_taken(reader);
        reader.unreleased += taken;
        Ok(next)
    }

    /// Announces that this side is about to wait for its bell. False if something is there.
    pub(crate) fn prepare_to_receive(&self) -> bool {
        let mut reader = lock(&self.rings.incoming);
        reader.unreleased = 0;
        match reader.consumer.prepare_sleep() {
            Ok((bell, readiness)) => {
                if bell == Wake::Ring {
                    self.ring();
                }
                readiness == Readiness::Sleep
            }
            Err(_) => false,
        }
    }

    /// Takes the announcement back.
    pub(crate) fn awake(&self) {
        lock(&self.rings.incoming).consumer.awake();
    }

    /// Announces that this side is about to wait for room. False if there is room.
    pub(crate) fn prepare_to_send(&self, len: u32) -> bool {
        match lock(&self.rings.outgoing).prepare_sleep(len) {
            Ok((bell, readiness)) => {
                if bell == Wake::Ring {
                    self.ring();
                }
                readiness == Readiness::Sleep
            }
            Err(_) => false,
        }
    }
}

/// Bytes that are taken before their space is given back.
const RELEASE_BYTES: usize = 64 << 10;

fn broken(_: Corrupt) -> Nothing {
    Nothing::Violation
}

/// A pair of stream sockets, whose bytes mean nothing: ringing writes to one end and the other becomes
/// readable.
///
/// The other side has both ends too and may do with them what it likes. Sending with `MSG_DONTWAIT`
/// takes no lock that a reader holds while it copies, so nobody can make who rings wait.
#[derive(Debug)]
struct Bell {
    out: OwnedFd,
    into: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        let (out, into) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok(Self { out, into })
    }

    /// A bell from a peer, which must be of the kind that keeps nobody waiting.
    fn of([out, into]: [OwnedFd; 2]) -> io::Result<Self> {
        let is_stream = |end: &OwnedFd| {
            socket_type(end) == Ok(SocketType::STREAM)
                && socket_domain(end) == Ok(AddressFamily::UNIX)
        };
        match is_stream(&out) && is_stream(&into) {
            true => Ok(Self { out, into }),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ring(&self) {
        // Full of rings that were not heard, it is readable; else it harms who made it.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(&self.into, b"!", flags).ok();
    }

    /// Takes the rings that have come.
    fn hear(&self) {
        // Fails if nothing is there, or if who made it broke it.
        rustix::net::recv(&self.out, &mut [0; 512], RecvFlags::DONTWAIT).ok();
    }
}

fn read_packet(record: &mut portolan_ring::Incoming<'_>) -> Result<Incoming, Nothing> {
    let mut head = [0; HEADER_BYTES];
    if record.copy_to(&mut head) != HEADER_BYTES {
        return Err(Nothing::Violation);
    }
    let header = packet::decode_header(&head).map_err(|_| Nothing::Violation)?;
    if header.rights != 0 {
        return read_packet_with_rights(&head, record);
    }
    let fits = record.remaining() as u64 == header.length;
    let elsewhere = header.flags.meets(Flags::OUT_OF_LINE.with(Flags::LENT));
    if !fits || elsewhere || header.kind.descriptors() != 0 {
        return Err(Nothing::Violation);
    }
    let mut bytes = Vec::with_capacity(record.remaining());
    record.append_to(&mut bytes);
    Ok(Incoming::without_descriptors(header, Vec::new(), bytes))
}

/// Only dead rights need no descriptors, so this is rare.
fn read_packet_with_rights(
    head: &[u8; HEADER_BYTES],
    record: &mut portolan_ring::Incoming<'_>,
) -> Result<Incoming, Nothing> {
    let mut bytes = head.to_vec();
    record.append_to(&mut bytes);
    let packet = packet::decode(&bytes).map_err(|_| Nothing::Violation)?;
    if packet.descriptors() != 0 {
        return Err(Nothing::Violation);
    }
    let inline = packet.inline.to_vec();
    Ok(Incoming::without_descriptors(
        packet.header,
        packet.rights,
        inline,
    ))
}

impl Incoming {
    fn without_descriptors(
        header: packet::Header,
        rights: Vec<RightDescriptor>,
        bytes: Vec<u8>,
    ) -> Self {
        Self {
            header,
            rights,
            payload: Payload::Heap(bytes),
            lent: None,
            fds: std::collections::VecDeque::new(),
            credentials: None,
            pidfd: None,
        }
    }
}
