//! Holders that keep to no rules, before an honest port.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portolan_port::{Message, Right, Timeout};
use portolan_testkit::usage;
use portolan_wire::moved::{MovedChannel, MovedMemory};
use portolan_wire::packet::{Kind, RecordKind, RightDescriptor, RightKind};
use portolan_wire::port_id::PortId;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType};

use crate::PATIENCE;
use crate::nonsense::{A_WHILE, Random, beside_a_scribbler, control, scribble, wrong_packets};
use crate::raw_memory::{MEMORY_BYTES, RING_BYTES, RawMemory, RawRing, Word, ring};
use crate::stage::{Stage, header, impostors, is_closed, packet, pair, write};

/// What a peer offers.
struct Offer {
    memory: OwnedFd,
    /// The receiver's bell and the holder's, the readable end first.
    bells: [OwnedFd; 4],
}

impl Offer {
    fn good() -> Self {
        Self {
            memory: memory(MEMORY_BYTES, MemfdFlags::empty(), good_seals()),
            bells: bells(),
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let bells = self.bells.iter().map(AsFd::as_fd);
        [self.memory.as_fd()].into_iter().chain(bells).collect()
    }
}

fn good_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

fn memory(len: usize, flags: MemfdFlags, seals: SealFlags) -> OwnedFd {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("hostile", flags).expect("memfd");
    rustix::fs::ftruncate(&file, len as u64).expect("ftruncate");
    rustix::fs::fcntl_add_seals(&file, seals).expect("seal");
    file
}

fn bells() -> [OwnedFd; 4] {
    let [(a, b), (c, d)] = [(); 2].map(|()| pair(SocketType::STREAM));
    [a, b, c, d]
}

const ACCEPTED: u64 = (RecordKind::Accept.tag() as u64) << 32;

/// A hostile holder of a right to the port of a stage.
pub(crate) struct Holder {
    socket: OwnedFd,
    offer: Offer,
    memory: RawMemory,
    written: AtomicU64,
}

impl Holder {
    /// Has offered memory as it should be, and the port has accepted it.
    fn accepted(stage: &Stage) -> Self {
        let (socket, offer) = (stage.peer(), Offer::good());
        write(&socket, &control(Kind::Promote), &offer.fds()).expect("write");
        assert!(stage.drain().is_empty());
        let memory = RawMemory::map(&offer.memory);
        let holder = Self {
            socket,
            offer,
            memory,
            written: AtomicU64::new(0),
        };
        assert!(holder.is_accepted());
        holder
    }

    /// Everything goes through memory.
    pub(crate) fn promoted(stage: &Stage) -> Self {
        let holder = Self::accepted(stage);
        write(&holder.socket, &control(Kind::Switch), &[]).expect("write");
        assert!(stage.drain().is_empty());
        holder
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn is_accepted(&self) -> bool {
        let replies = self.replies();
        replies.get(Word::Published) == 8 && replies.at(0).load(Ordering::Relaxed) == ACCEPTED
    }

    fn requests(&self) -> RawRing<'_> {
        self.memory.requests()
    }

    fn replies(&self) -> RawRing<'_> {
        self.memory.replies()
    }

    fn ring(&self) {
        // Full is as good as rung.
        let [_, bell, ..] = &self.offer.bells;
        ring(bell);
    }

    /// Publishes a record as it should be.
    pub(crate) fn record(&self, tag: u32, payload: &[u8]) {
        self.lie((tag, payload.len() as u32), payload);
    }

    /// Publishes a record whose header says what it likes.
    fn lie(&self, head: (u32, u32), payload: &[u8]) {
        let end = self
            .requests()
            .write(self.written.load(Ordering::Relaxed), head, payload);
        self.written.store(end, Ordering::Relaxed);
        self.requests().set(Word::Published, end);
        self.ring();
    }

    pub(crate) fn message(&self, slot: u32, bytes: &[u8]) {
        let packet = packet(header(Kind::Message, slot), &[], bytes);
        self.record(RecordKind::Packet.tag(), &packet);
    }

    /// Gives the room of all answers back.
    fn release(&self) {
        let published = self.replies().get(Word::Published);
        self.replies().set(Word::Released, published);
        self.ring();
    }
}

impl Stage {
    /// The port closes the channel for what the holder has done, and nothing else happens.
    fn closes(&self, holder: Holder, what: &str) {
        holder.ring();
        let Holder { socket, offer, .. } = holder;
        drop(offer);
        self.refused(socket, what);
    }
}

#[test]
fn an_honest_raw_holder_is_served_through_memory() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    for round in 0..1000_u32 {
        let bytes = round.to_le_bytes().repeat(round as usize % 500);
        holder.message(1, &bytes);
        let mut messages = stage.drain();
        assert_eq!(messages.len(), 1);
        assert!(messages[0].bytes() == bytes, "round {round}");
        let sender = messages[0].sender().expect("who offered the memory");
        assert_eq!(sender.pid(), Some(std::process::id()));
        let reply = messages[0].take_reply().expect("reply right");
        let before = holder.replies().get(Word::Published);
        reply.send(Message::new(0)).expect("answer");
        assert_eq!(holder.replies().get(Word::Published), before + 32);
        holder.release();
    }
    drop(holder);
    stage.unharmed("a peer that keeps to the rules");
}

/// The channel goes on over the socket, and cannot go over to memory.
fn stays_on_the_socket(stage: &Stage, offer: &Offer, what: &str) {
    let peer = stage.peer();
    write(&peer, &control(Kind::Promote), &offer.fds()).expect("write");
    assert!(stage.drain().is_empty(), "{what}");
    write(&peer, &packet(header(Kind::Message, 0), &[], b"x"), &[]).expect("write");
    assert_eq!(stage.drain().len(), 1, "{what}: the socket is not served");
    write(&peer, &control(Kind::Switch), &[]).expect("write");
    stage.refused(peer, what);
}

fn read_only(file: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).expect("open again")
}

/// A file on a disk that is as long as the memory.
fn disk_file() -> OwnedFd {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let file = rustix::fs::open(std::env::temp_dir(), flags, mode).expect("O_TMPFILE");
    rustix::fs::ftruncate(&file, MEMORY_BYTES as u64).expect("ftruncate");
    file
}

#[test]
fn memory_that_could_shrink_or_is_not_as_it_should_be_is_not_accepted() {
    let mut stage = Stage::new();
    let plain = MemfdFlags::empty();
    let good = memory(MEMORY_BYTES, plain, good_seals());
    let mut cases = vec![
        ("no seals", memory(MEMORY_BYTES, plain, SealFlags::empty())),
        ("may grow", memory(MEMORY_BYTES, plain, SealFlags::SHRINK)),
        ("may shrink", memory(MEMORY_BYTES, plain, SealFlags::GROW)),
        (
            "nobody may write",
            memory(MEMORY_BYTES, plain, good_seals() | SealFlags::WRITE),
        ),
        (
            "nobody may map it for writing any more",
            memory(MEMORY_BYTES, plain, good_seals() | SealFlags::FUTURE_WRITE),
        ),
        ("read-only", read_only(&good)),
        ("empty", memory(0, plain, good_seals())),
        (
            "a byte short",
            memory(MEMORY_BYTES - 1, plain, good_seals()),
        ),
        ("half", memory(MEMORY_BYTES / 2, plain, good_seals())),
        (
            "a page long",
            memory(MEMORY_BYTES + 4096, plain, good_seals()),
        ),
        ("huge", memory(1 << 40, plain, good_seals())),
        ("on a disk", disk_file()),
    ];
    // Not every kernel has huge pages.
    let flags = MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::memfd_create("hostile", flags) {
        rustix::fs::ftruncate(&file, 2 << 20).expect("ftruncate");
        rustix::fs::fcntl_add_seals(&file, good_seals()).expect("seal");
        cases.push(("huge pages", file));
    }
    cases.extend(impostors());
    drop(good);
    stage.open += cases.len() + 4;
    let mut offer = Offer {
        memory: stage.peer(),
        bells: bells(),
    };
    for (what, memory) in cases {
        offer.memory = memory;
        stays_on_the_socket(&stage, &offer, what);
        stage.open -= 1;
    }
}

#[test]
fn memory_that_nobody_else_will_pay_for_costs_what_it_is_long() {
    let stage = Stage::new();
    let before = usage::resident(std::process::id());
    // All of it is a hole, and becomes one again and again.
    let holder = Holder::promoted(&stage);
    for _ in 0..100 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = MEMORY_BYTES as u64;
        rustix::fs::fallocate(&holder.offer.memory, flags, 0, len).expect("punch a hole");
        holder.message(0, b"x");
        // What is not 0 is published by the line before; what the port wrote itself is gone.
        assert_eq!(stage.drain().len(), 1);
    }
    let grown = usage::resident(std::process::id()).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    drop(holder);
    stage.unharmed("holes");
}

#[test]
fn memory_cannot_be_truncated_once_it_is_accepted() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    for len in [0, 4096, MEMORY_BYTES as u64 * 2] {
        let truncated = rustix::fs::ftruncate(&holder.offer.memory, len);
        assert_eq!(truncated, Err(Errno::PERM));
    }
    holder.message(0, b"x");
    assert_eq!(stage.drain().len(), 1);
    drop(holder);
    stage.unharmed("truncation");
}

/// Bells that are none, or not in order. Each may be accepted or not.
fn strange_bells() -> Vec<(&'static str, [OwnedFd; 4])> {
    fn all(fd: impl Into<OwnedFd>) -> [OwnedFd; 4] {
        let fd = fd.into();
        [(); 4].map(|()| fd.try_clone().expect("duplicate"))
    }
    let full = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).expect("write");
    let (stream, far) = std::os::unix::net::UnixStream::pair().expect("pair");
    stream.set_nonblocking(true).expect("non-blocking");
    while (&stream).write(&[0; 4096]).is_ok() {}
    stream.set_nonblocking(false).expect("blocking");
    let full_bells = bells();
    for bell in [&full_bells[1], &full_bells[3]] {
        while rustix::net::send(bell, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
    }
    let (out, into) = std::io::pipe().expect("pipe");
    let [out, into]: [OwnedFd; 2] = [out.into(), into.into()];
    let pipes = [&out, &into, &out, &into].map(|end| end.try_clone().expect("duplicate"));
    let [a, b, c, d] = bells();
    let [_, to_nobody, _, to_nobody_too] = bells();
    let shut = bells();
    for bell in &shut {
        rustix::net::shutdown(bell, rustix::net::Shutdown::Both).expect("shutdown");
    }
    let mut strange = vec![
        ("full eventfds", all(full)),
        ("a full stream", all(stream)),
        ("full bells", full_bells),
        ("bells the wrong way round", [b, a, d, c]),
        ("bells that were shut down", shut),
        ("pipes", pipes),
        (
            "ends whose other ends are closed",
            [
                to_nobody.try_clone().expect("duplicate"),
                to_nobody,
                to_nobody_too.try_clone().expect("duplicate"),
                to_nobody_too,
            ],
        ),
        ("a disk file", all(disk_file())),
    ];
    drop(far);
    for path in ["/dev/null", "/dev/zero", "/dev/full"] {
        strange.push((
            path,
            all(File::options().read(true).open(path).expect(path)),
        ));
    }
    let others = impostors().into_iter();
    strange.extend(others.map(|(what, fd)| (what, all(fd))));
    strange
}

#[test]
fn bells_that_are_none_hold_nobody_up() {
    let mut stage = Stage::new();
    let mut accepted = 0;
    let cases = strange_bells();
    stage.open = usage::descriptors(std::process::id());
    for (what, bells) in cases {
        let socket = stage.peer();
        let offer = Offer {
            bells,
            ..Offer::good()
        };
        write(&socket, &control(Kind::Promote), &offer.fds()).expect("write");
        assert!(stage.drain().is_empty(), "{what}");
        let memory = RawMemory::map(&offer.memory);
        let written = AtomicU64::new(0);
        let holder = Holder {
            socket,
            offer,
            memory,
            written,
        };
        if holder.is_accepted() {
            accepted += 1;
            write(&holder.socket, &control(Kind::Switch), &[]).expect("write");
            stage.serve_honest();
            for slot in 1..20 {
                holder.message(slot, b"x");
                // It says each time that it sleeps, so that each answer rings.
                holder.replies().set(Word::ConsumerSleeps, 1);
                let mut others = stage.serve_honest();
                others.extend(stage.drain());
                for mut message in others {
                    let reply = message.take_reply().expect("reply right");
                    reply.send(Message::new(0)).expect("answer");
                }
            }
        }
        drop(holder);
        stage.open -= 4;
        stage.unharmed(what);
    }
    assert!(accepted > 3, "{accepted} accepted");
}

#[test]
fn an_offer_with_another_number_of_descriptors_closes_the_channel() {
    let mut stage = Stage::new();
    let offer = Offer::good();
    stage.open += 5;
    for count in [0, 1, 4, 6, 7, 253] {
        let peer = stage.peer();
        let mut fds = offer.fds();
        fds.resize(count, offer.memory.as_fd());
        write(&peer, &control(Kind::Promote), &fds).expect("write");
        stage.refused(peer, &format!("{count} descriptors"));
    }
}

#[test]
fn steps_out_of_order_close_the_channel() {
    let stage = Stage::new();
    let peer = stage.peer();
    write(&peer, &control(Kind::Switch), &[]).expect("write");
    stage.refused(peer, "going over to nothing");

    let holder = Holder::accepted(&stage);
    write(&holder.socket, &control(Kind::Promote), &holder.offer.fds()).expect("write");
    stage.closes(holder, "two offers");

    for kind in [Kind::Switch, Kind::Promote, Kind::Reply] {
        let holder = Holder::promoted(&stage);
        let fds = holder.offer.fds();
        let fds = if kind == Kind::Promote { &fds[..] } else { &[] };
        write(&holder.socket, &control(kind), fds).expect("write");
        holder.record(RecordKind::InSocket.tag(), &[]);
        stage.closes(holder, &format!("{kind:?} when everything is in memory"));
    }
}

#[test]
fn a_good_offer_may_follow_a_bad_one() {
    let stage = Stage::new();
    let peer = stage.peer();
    let bad = Offer {
        memory: memory(10, MemfdFlags::empty(), good_seals()),
        bells: bells(),
    };
    for offer in [bad, Offer::good()] {
        assert!(stage.drain().is_empty());
        write(&peer, &control(Kind::Promote), &offer.fds()).expect("write");
    }
    assert!(stage.drain().is_empty());
    write(&peer, &control(Kind::Switch), &[]).expect("write");
    assert!(stage.drain().is_empty());
    assert_eq!(stage.port.status().senders, 2, "it went over");
    drop(peer);
    stage.unharmed("a second offer");
}

#[test]
fn two_channels_may_share_one_memory() {
    let stage = Stage::new();
    let first = Holder::accepted(&stage);
    let second = stage.peer();
    for socket in [&second, &first.socket] {
        write(socket, &control(Kind::Promote), &first.offer.fds()).ok();
        write(socket, &control(Kind::Switch), &[]).ok();
        first.message(1, b"x");
        stage.serve_honest();
    }
    stage.drain();
    drop((first, second));
    stage.unharmed("memory that two channels share");
}

/// Makes a wrong position of a right one and the capacity.
type Lie = fn(u64, u64) -> u64;

#[test]
fn a_position_that_cannot_be_closes_the_channel() {
    let stage = Stage::new();
    let capacity = RING_BYTES as u64;
    let wrong: [(&str, Lie); 9] = [
        ("behind by a record", |now, _| now - 8),
        ("back to the start", |_, _| 0),
        ("not on a boundary", |now, _| now + 4),
        ("a byte on", |now, _| now + 1),
        ("further than there is room", |now, capacity| {
            now + capacity + 8
        }),
        ("a lap behind", |now, capacity| now.wrapping_sub(capacity)),
        ("half a world away", |now, _| now ^ (1 << 63)),
        ("the end of counting", |_, _| u64::MAX),
        ("the last boundary", |_, _| u64::MAX - 7),
    ];
    for (what, wrong) in wrong {
        let holder = Holder::promoted(&stage);
        holder.message(0, b"x");
        assert_eq!(stage.drain().len(), 1);
        let position = wrong(holder.written.load(Ordering::Relaxed), capacity);
        holder.requests().set(Word::Published, position);
        stage.closes(holder, &format!("published: {what}"));
    }
    // What the holder has released is looked at when there is no more room. To have released less
    // than all is no lie.
    for (what, wrong) in wrong.into_iter().skip(1) {
        let holder = Holder::promoted(&stage);
        let mut answered = true;
        for slot in 1..100 {
            match slot {
                ..40 => holder.release(),
                40 => {
                    let end = holder.replies().get(Word::Published);
                    holder.replies().set(Word::Released, wrong(end, capacity));
                }
                _ => {}
            }
            holder.message(slot, b"");
            let Some(mut message) = stage.drain().pop() else {
                break;
            };
            let reply = message.take_reply().expect("reply right");
            let answer = Message::new(0).with_bytes(vec![1; 30_000]);
            answered = reply.send(answer).is_ok();
            assert!(answered || slot >= 40, "{what}: no room for answer {slot}");
            stage.serve_honest();
        }
        assert!(!answered, "released: {what}");
        drop(holder);
        stage.unharmed(what);
    }
}

#[test]
fn what_was_published_but_not_written_closes_the_channel() {
    let stage = Stage::new();
    for len in [8, 64, RING_BYTES as u64] {
        let holder = Holder::promoted(&stage);
        holder.requests().set(Word::Published, len);
        stage.closes(holder, &format!("{len} bytes of nothing"));
    }
}

#[test]
fn records_that_cannot_be_close_the_channel() {
    let stage = Stage::new();
    let packet_tag = RecordKind::Packet.tag();
    let whole = packet(header(Kind::Message, 0), &[], b"abc");
    let mut cases = vec![
        (
            "longer than published",
            (packet_tag, 4096),
            packet(header(Kind::Message, 0), &[], &[0; 4072])[..64].to_vec(),
        ),
        ("longer than any", (packet_tag, u32::MAX), whole.clone()),
        (
            "longer than half of the memory",
            (packet_tag, RING_BYTES as u32 / 2 + 8),
            vec![0; RING_BYTES - 64],
        ),
        ("no kind", (5, 0), Vec::new()),
        ("no kind at all", (u32::MAX, 8), vec![0; 8]),
        ("an acceptance", (RecordKind::Accept.tag(), 0), Vec::new()),
        ("an end", (RecordKind::Closed.tag(), 0), Vec::new()),
        ("a question", (RecordKind::WhoAreYou.tag(), 0), Vec::new()),
        (
            "nothing in the socket",
            (RecordKind::InSocket.tag(), 0),
            Vec::new(),
        ),
    ];
    let wrong = wrong_packets().into_iter();
    let controls = [
        Kind::Switch,
        Kind::Hello,
        Kind::Reply,
        Kind::NoReply,
        Kind::PortDied,
    ];
    let controls = controls.map(|kind| ("a packet for the socket", control(kind).to_vec()));
    cases.extend(wrong.chain(controls).map(|(what, bytes)| {
        let head = (packet_tag, bytes.len() as u32);
        (what, head, bytes)
    }));
    for (what, head, payload) in cases {
        let holder = Holder::promoted(&stage);
        holder.lie(head, &payload);
        stage.closes(holder, what);

        // The same behind a record as it should be.
        let holder = Holder::promoted(&stage);
        holder.message(0, b"x");
        assert_eq!(stage.drain().len(), 1);
        holder.lie(head, &payload);
        stage.closes(holder, what);
    }
}

#[test]
fn a_dead_right_may_come_through_memory() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    let right = RightDescriptor {
        kind: RightKind::Dead,
        fds: 0,
        port: PortId::from_bytes([9; 16]),
    };
    let bytes = packet(header(Kind::Message, 0), &[right], b"abc");
    holder.record(RecordKind::Packet.tag(), &bytes);
    let messages = stage.drain();
    assert!(matches!(messages[0].rights(), [Right::Dead]));
    drop((messages, holder));
    stage.unharmed("a dead right");
}

#[test]
fn packets_that_are_announced_are_checked_as_any() {
    let stage = Stage::new();
    for (what, bytes) in wrong_packets() {
        let holder = Holder::promoted(&stage);
        write(&holder.socket, &bytes, &[]).expect("write");
        holder.record(RecordKind::InSocket.tag(), &[]);
        stage.closes(holder, what);
    }
    // What is not announced is nothing, however much it is.
    let holder = Holder::promoted(&stage);
    while write(&holder.socket, &[0xff; 100], &[]).is_ok() {}
    holder.message(0, b"x");
    assert_eq!(stage.drain().len(), 1);
    drop(holder);
    stage.unharmed("packets that are not announced");
}

#[test]
fn sleep_words_are_the_peers_own_affair() {
    let stage = Stage::new();
    for value in [0, 1, 2, 7, 1 << 63, u64::MAX - 7, u64::MAX] {
        let holder = Holder::promoted(&stage);
        for slot in 1..50 {
            for ring in [holder.requests(), holder.replies()] {
                ring.set(Word::ConsumerSleeps, value);
                ring.set(Word::ProducerSleeps, value);
            }
            holder.message(slot, &[1; 2000]);
            let mut messages = stage.serve_honest();
            messages.extend(stage.drain());
            for mut message in messages {
                let reply = message.take_reply().expect("reply right");
                let answer = Message::new(0).with_bytes(vec![2; 2000]);
                reply.send(answer).expect("answer");
            }
            holder.release();
        }
        drop(holder);
        stage.unharmed(&format!("sleep words of {value}"));
    }
}

#[test]
fn a_peer_that_says_again_and_again_that_it_sleeps_is_rung_without_waiting() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    // More than the bell has room for.
    for slot in 1..6000 {
        holder.message(slot, b"");
        holder.replies().set(Word::ConsumerSleeps, 1);
        let mut message = stage.drain().pop().expect("a request");
        let reply = message.take_reply().expect("reply right");
        reply.send(Message::new(0)).expect("answer");
        holder.release();
    }
    drop(holder);
    stage.unharmed("a bell that nobody hears");
}

#[test]
fn a_holder_that_never_reads_its_answers_is_cut_off() {
    let stage = Stage::new();
    let before = usage::resident(std::process::id());
    // Half a megabyte of memory, and what is kept beyond that: sixteen megabytes, or a slot that is
    // used again.
    for (what, len, most) in [("empty answers", 0, 20_000), ("long answers", 100_000, 300)] {
        let holder = Holder::promoted(&stage);
        let mut served = 0;
        for slot in (1..1000).cycle().take(60_000) {
            holder.message(slot, b"");
            let Some(mut message) = stage.drain().pop() else {
                break;
            };
            let reply = message.take_reply().expect("reply right");
            // Fails when the channel has been closed.
            reply.send(Message::new(0).with_bytes(vec![1; len])).ok();
            served += 1;
        }
        assert!(served < most, "{what}: {served} served");
        let grown = usage::resident(std::process::id()).saturating_sub(before);
        assert!(grown < 64 << 20, "{what}: {grown} bytes");
        drop(holder);
        stage.unharmed(what);
    }
}

type Make = fn(&Stage) -> Holder;

#[test]
fn a_holder_may_die_in_each_stage() {
    let stage = Stage::new();
    let stages: [(&str, Make); 8] = [
        ("accepted", Holder::accepted),
        ("going over", |stage| {
            let holder = Holder::accepted(stage);
            write(&holder.socket, &control(Kind::Switch), &[]).expect("write");
            holder
        }),
        ("gone over", Holder::promoted),
        ("asleep", |stage| {
            let holder = Holder::promoted(stage);
            holder.replies().set(Word::ConsumerSleeps, 1);
            holder.requests().set(Word::ProducerSleeps, 9);
            holder
        }),
        ("a record half written", |stage| {
            let holder = Holder::promoted(stage);
            holder.requests().write(0, (0, 100), &[1; 40]);
            holder
        }),
        ("a record half published", |stage| {
            let holder = Holder::promoted(stage);
            holder.requests().write(0, (0, 100), &[1; 40]);
            holder.requests().set(Word::Published, 48);
            holder
        }),
        ("a packet not announced", |stage| {
            let holder = Holder::promoted(stage);
            let bytes = packet(header(Kind::Message, 0), &[], b"x");
            write(&holder.socket, &bytes, &[]).expect("write");
            holder
        }),
        ("a request unanswered", |stage| {
            let holder = Holder::promoted(stage);
            holder.message(1, b"x");
            drop(stage.drain());
            holder
        }),
    ];
    for (what, make) in stages {
        drop(make(&stage));
        stage.unharmed(what);
    }
    // What it has published before counts.
    let holder = Holder::promoted(&stage);
    for slot in 1..100 {
        holder.message(slot, b"x");
    }
    drop(holder);
    let messages = stage.drain();
    assert_eq!(messages.len(), 99);
    for mut message in messages {
        let reply = message.take_reply().expect("reply right");
        // Whether somebody is there is not known yet.
        reply.send(Message::new(0)).ok();
    }
    stage.unharmed("gone with what it asked");
}

#[test]
fn a_holder_that_hung_up_may_go_on_writing() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    rustix::net::shutdown(&holder.socket, rustix::net::Shutdown::Both).expect("shutdown");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let room =
                    holder.written.load(Ordering::Relaxed) - holder.requests().get(Word::Released);
                if room < RING_BYTES as u64 / 2 {
                    holder.message(0, b"x");
                }
            }
        });
        for _ in 0..200 {
            stage.serve_honest();
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(holder);
    stage.unharmed("a peer that hung up and went on");
}

#[test]
fn a_flood_through_memory_leaves_the_honest_client_served() {
    const PEERS: usize = 24;
    let stage = Stage::new();
    let holders: Vec<_> = (0..PEERS).map(|_| Holder::promoted(&stage)).collect();
    let stop = AtomicBool::new(false);
    let (others, rounds) = thread::scope(|scope| {
        let (holders, stop) = (&holders, &stop);
        // A holder has one writer.
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for holder in holders {
                    let queued = holder.written.load(Ordering::Relaxed)
                        - holder.requests().get(Word::Released);
                    if queued < RING_BYTES as u64 / 4 {
                        holder.message(0, b"x");
                        let message = packet(header(Kind::Message, 0), &[], b"");
                        write(&holder.socket, &message, &[]).ok();
                        holder.record(RecordKind::InSocket.tag(), &[]);
                    }
                }
            }
        });
        let begin = Instant::now();
        let (mut others, mut rounds) = (0, 0);
        while others < 10_000 || rounds < 100 {
            others += stage.serve_honest().len();
            rounds += 1;
            assert!(begin.elapsed() < Duration::from_secs(60), "{rounds} rounds");
        }
        stop.store(true, Ordering::Relaxed);
        (others, rounds)
    });
    assert!(others / rounds < 2000, "{rounds} honest among {others}");
    drop(holders);
    stage.unharmed("a flood through memory");
}

#[test]
fn a_holder_that_writes_anything_anywhere_disturbs_nobody() {
    let stage = Stage::new();
    let mut random = Random::new();
    let before = usage::resident(std::process::id());
    let begin = Instant::now();
    let mut closed = 0;
    while begin.elapsed() < A_WHILE {
        let holder = Holder::promoted(&stage);
        for slot in 1..random.below(20) as u32 {
            holder.message(slot, b"x");
        }
        beside_a_scribbler(&holder.memory, &mut random, &holder.offer.bells, || {
            for _ in 0..5 {
                for mut message in stage.serve_honest() {
                    if let Some(reply) = message.take_reply() {
                        // Fails when the channel has been closed.
                        reply.send(Message::new(1).with_bytes([1; 100])).ok();
                    }
                }
            }
        });
        closed += u32::from(is_closed(&holder.socket));
        drop(holder);
        stage.unharmed("a peer that writes anything");
    }
    assert!(closed > 0, "nothing was found out");
    let grown = usage::resident(std::process::id()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// A receive right with one channel whose memory is what the former owner says.
fn moved_port(memory: MovedMemory, fds: &[BorrowedFd<'_>]) -> OwnedFd {
    let record = MovedChannel {
        badge: 3,
        once: false,
        is_known: false,
        memory: Some(memory),
    };
    let (front, rear) = pair(SocketType::SEQPACKET);
    write(&rear, &record.encode(), fds).expect("write");
    front
}

fn send_port(peer: &OwnedFd, van: &OwnedFd) {
    let right = RightDescriptor {
        kind: RightKind::Receive,
        fds: 1,
        port: PortId::from_bytes([9; 16]),
    };
    let bytes = packet(header(Kind::Message, 0), &[right], b"");
    write(peer, &bytes, &[van.as_fd()]).expect("write");
}

#[test]
fn a_port_that_moves_with_memory_that_is_none_closes_the_channel() {
    let mut stage = Stage::new();
    let (_far, end) = pair(SocketType::SEQPACKET);
    let good = Offer::good();
    let start = MovedMemory {
        taken: 0,
        written: 0,
        in_use: true,
    };
    let short = memory(10, MemfdFlags::empty(), good_seals());
    let unsealed = memory(MEMORY_BYTES, MemfdFlags::empty(), SealFlags::empty());
    stage.open += 9;
    let all = [&[end.as_fd()], &good.fds()[..]].concat();
    let with = |memory: &OwnedFd| {
        let mut fds = all.clone();
        fds[1] = memory.as_fd();
        let raw: Vec<OwnedFd> = fds
            .iter()
            .map(|fd| fd.try_clone_to_owned().expect("duplicate"))
            .collect();
        raw
    };
    let cases = [
        ("short memory", with(&short)),
        ("memory without seals", with(&unsealed)),
        ("no memory", with(&good.bells[0])),
        (
            "a descriptor short",
            with(&good.memory).drain(..5).collect(),
        ),
    ];
    for (what, fds) in cases {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let van = moved_port(start, &fds);
        let peer = stage.peer();
        send_port(&peer, &van);
        drop(van);
        let messages = stage.drain();
        assert!(messages.is_empty() && is_closed(&peer), "{what}");
    }
    stage.unharmed("memory of ports that move");
}

#[test]
fn a_port_that_moves_with_positions_that_cannot_be_hurts_its_own_senders() {
    let mut stage = Stage::new();
    let mut random = Random::new();
    let (_far, end) = pair(SocketType::SEQPACKET);
    stage.open += 2;
    for round in 0..200 {
        let any = |random: &mut Random| match random.below(4) {
            0 => random.next(),
            1 => random.below(1 << 20),
            2 => u64::MAX - random.below(16),
            _ => random.below(100) * 8,
        };
        let positions = MovedMemory {
            taken: any(&mut random),
            written: any(&mut random),
            in_use: round % 2 == 0,
        };
        let offer = Offer::good();
        let memory = RawMemory::map(&offer.memory);
        for ring in [memory.requests(), memory.replies()] {
            ring.set(Word::Published, any(&mut random));
            ring.set(Word::Released, any(&mut random));
            for _ in 0..20 {
                scribble(&memory, &mut random);
            }
        }
        let fds = [&[end.as_fd()], &offer.fds()[..]].concat();
        let van = moved_port(positions, &fds);
        let peer = stage.peer();
        send_port(&peer, &van);
        drop(van);
        let Some(Right::Receive(port)) = stage
            .drain()
            .pop()
            .and_then(|mut message| message.take_rights().pop())
        else {
            panic!("the port is lost with {positions:?}")
        };
        while let Ok(mut message) = port.receive(Timeout::POLL) {
            if let Some(reply) = message.take_reply() {
                // Fails when the channel has been closed.
                reply.send(Message::new(1)).ok();
            }
        }
        // Once more on, with what it has become.
        let to_stage = stage.port.make_send().expect("send right");
        to_stage
            .send(Message::new(0).with_right(port), PATIENCE)
            .expect("move");
        drop(to_stage);
        drop((stage.drain(), peer, offer, memory));
        stage.unharmed(&format!("{positions:?}"));
    }
}
