//! Ports that keep to no rules, before an honest right.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portolan_port::{
    Message, MintError, PendingReply, ReplyError, RequestError, SendErrorKind, SendRight, Timeout,
};
use portolan_testkit::usage;
use portolan_wire::packet::{Kind, RecordKind};
use rustix::net::SocketType;

use crate::PATIENCE;
use crate::nonsense::{A_WHILE, Random, beside_a_scribbler, control, wrong_packets};
use crate::raw_memory::{RING_BYTES, RawMemory, RawRing, Word, ring};
use crate::stage::{Stage, header, packet, pair, write};

/// Long enough to be seen to wait.
const SHORT: Duration = Duration::from_millis(30);

/// An honest right whose port is played raw.
struct Server {
    right: SendRight,
    socket: OwnedFd,
    bells: [OwnedFd; 4],
    memory: RawMemory,
    written: Cell<u64>,
}

impl Server {
    /// The right has offered memory, and has got no answer to that.
    fn offered() -> Self {
        let (here, socket) = pair(SocketType::SEQPACKET);
        let right = SendRight::from_socket(here).expect("right");
        let fds = (0..10).find_map(|_| {
            right.send(Message::new(0), PATIENCE).expect("send");
            let promotes = |packet: &(Vec<u8>, Vec<OwnedFd>)| packet.0.first() == Some(&3);
            packets(&socket).into_iter().find(promotes)
        });
        let (_, fds) = fds.expect("an offer");
        let fds = <[_; 5]>::try_from(fds).expect("five descriptors");
        let [file, bells @ ..] = fds;
        let memory = RawMemory::map(file);
        Self {
            right,
            socket,
            bells,
            memory,
            written: Cell::new(0),
        }
    }

    /// Has accepted the memory, and the right has gone over to it.
    fn promoted() -> Self {
        let server = Self::offered();
        server.record(RecordKind::Accept, &[]);
        server.right.send(Message::new(0), PATIENCE).expect("send");
        let packets = packets(&server.socket);
        let [(switch, _)] = &packets[..] else {
            panic!("{packets:?}")
        };
        assert_eq!(switch[..], control(Kind::Switch));
        assert_ne!(server.requests().get(Word::Published), 0);
        server
    }

    fn requests(&self) -> RawRing<'_> {
        self.memory.requests()
    }

    fn replies(&self) -> RawRing<'_> {
        self.memory.replies()
    }

    fn record(&self, kind: RecordKind, payload: &[u8]) {
        self.lie((kind.tag(), payload.len() as u32), payload);
    }

    /// Publishes a record whose header says what it likes.
    fn lie(&self, head: (u32, u32), payload: &[u8]) {
        let end = self.replies().write(self.written.get(), head, payload);
        self.written.set(end);
        self.publish(end);
    }

    fn publish(&self, position: u64) {
        self.replies().set(Word::Published, position);
        ring(&self.bells[3]);
    }

    fn reply(&self, slot: u32, bytes: &[u8]) {
        let packet = packet(header(Kind::Reply, slot), &[], bytes);
        self.record(RecordKind::Packet, &packet);
    }

    fn ask(&self) -> PendingReply<'_> {
        let sent = self.right.begin_request(Message::new(1), PATIENCE);
        sent.expect("send")
    }
}

/// What has come through a raw socket.
fn packets(socket: &OwnedFd) -> Vec<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 1 << 18];
    let mut packets = Vec::new();
    while let Ok(received) = portolan_sys::ancillary::receive(socket, &mut buffer) {
        if received.len == 0 {
            break;
        }
        packets.push((buffer[..received.len].to_vec(), received.descriptors));
    }
    packets
}

fn dead<T: std::fmt::Debug>(waited: &Result<T, ReplyError>) -> bool {
    matches!(waited, Err(ReplyError::DeadName))
}

#[test]
fn an_honest_raw_port_answers_through_memory() {
    let stage = Stage::new();
    let server = Server::promoted();
    for round in 1..500_u32 {
        let pending = server.ask();
        let bytes = round.to_le_bytes().repeat(round as usize % 300);
        server.reply(round, &bytes);
        let answer = pending.wait(PATIENCE).expect("answer");
        assert!(answer.bytes() == bytes, "round {round}");
        let taken = server.requests().get(Word::Published);
        server.requests().set(Word::Released, taken);
    }
    drop(server);
    stage.unharmed("a port that keeps to the rules");
}

#[test]
fn what_is_no_acceptance_keeps_the_right_on_the_socket() {
    type Lie = fn(&Server);
    let stage = Stage::new();
    let lies: [(&str, Lie); 9] = [
        ("an answer", |server| server.reply(1, b"x")),
        ("an end", |server| server.record(RecordKind::Closed, &[])),
        ("a question", |server| {
            server.record(RecordKind::WhoAreYou, &[]);
        }),
        ("nothing in the socket", |server| {
            server.record(RecordKind::InSocket, &[]);
        }),
        ("no kind", |server| server.lie((77, 0), &[])),
        ("longer than any", |server| {
            server.lie((RecordKind::Accept.tag(), u32::MAX), &[]);
        }),
        ("published and not on a boundary", |server| {
            server.publish(3)
        }),
        ("published behind the start", |server| {
            server.publish(u64::MAX - 7);
        }),
        ("published and more than there is room", |server| {
            server.publish(RING_BYTES as u64 + 8);
        }),
    ];
    for (what, lie) in lies {
        let server = Server::offered();
        lie(&server);
        for _ in 0..5 {
            server.right.send(Message::new(0), PATIENCE).expect(what);
        }
        let came = packets(&server.socket);
        assert_eq!(came.len(), 5, "{what}");
        assert_eq!(server.requests().get(Word::Published), 0, "{what}");
        let pending = server.ask();
        write(&server.socket, &header(Kind::Reply, 1).encode(), &[]).expect("write");
        pending.wait(PATIENCE).expect(what);
        drop((server, came));
        stage.unharmed(what);
    }
}

#[test]
fn a_port_that_lies_in_memory_is_dead_to_its_client_at_once() {
    let stage = Stage::new();
    let packet_tag = RecordKind::Packet.tag();
    let mut cases = vec![
        (
            "a second acceptance",
            (RecordKind::Accept.tag(), 0),
            Vec::new(),
        ),
        ("no kind", (99, 0), Vec::new()),
        (
            "longer than published",
            (packet_tag, 4096),
            packet(header(Kind::Reply, 1), &[], &[0; 4072])[..64].to_vec(),
        ),
        ("longer than any", (packet_tag, u32::MAX), vec![0; 8]),
        ("an end", (RecordKind::Closed.tag(), 0), Vec::new()),
    ];
    let reply = |kind, slot| header(kind, slot).encode().to_vec();
    let packets = [
        ("a message", reply(Kind::Message, 0)),
        ("an answer to nobody", reply(Kind::Reply, 99)),
        ("slot 0", reply(Kind::NoReply, 0)),
        ("hello", reply(Kind::Hello, 0)),
    ];
    let packets = packets.into_iter().chain(wrong_packets());
    cases.extend(packets.map(|(what, bytes)| (what, (packet_tag, bytes.len() as u32), bytes)));
    for (what, head, payload) in cases {
        let server = Server::promoted();
        let (first, second) = (server.ask(), server.ask());
        thread::scope(|scope| {
            let waits = [first, second].map(|one| scope.spawn(|| one.wait(Timeout::NEVER)));
            server.lie(head, &payload);
            for wait in waits {
                let waited = wait.join().expect("no panic");
                assert!(dead(&waited), "{what}: {waited:?}");
            }
        });
        assert!(server.right.is_dead(), "{what}");
        let sent = server.right.send(Message::new(0), Timeout::NEVER);
        let error = sent.expect_err("dead");
        assert!(matches!(error.kind(), SendErrorKind::DeadName), "{what}");
        drop(server);
        stage.unharmed(what);
    }
}

#[test]
fn a_position_that_cannot_be_is_the_death_of_the_port() {
    let stage = Stage::new();
    let capacity = RING_BYTES as u64;
    let wrong = [
        ("behind", 0),
        ("not on a boundary", 12),
        ("further than there is room", capacity + 16),
        ("half a world away", 1 << 63),
        ("the end of counting", u64::MAX),
    ];
    for (what, position) in wrong {
        let server = Server::promoted();
        let pending = server.ask();
        server.publish(position);
        let waited = pending.wait(PATIENCE);
        assert!(dead(&waited), "published {what}: {waited:?}");
        drop(server);
        stage.unharmed(what);
    }
    // What the port has released is looked at when there is no more room.
    for (what, position) in wrong.into_iter().skip(1) {
        let server = Server::promoted();
        server.requests().set(Word::Released, position);
        let error = loop {
            let message = Message::new(0).with_bytes(vec![0; 10_000]);
            match server.right.send(message, PATIENCE) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error.kind(), SendErrorKind::DeadName),
            "released {what}: {error}"
        );
        assert_eq!(error.into_message().bytes().len(), 10_000);
        drop(server);
        stage.unharmed(what);
    }
}

#[test]
fn a_port_that_answers_twice_in_memory_is_dead() {
    let stage = Stage::new();
    let server = Server::promoted();
    let (first, second) = (server.ask(), server.ask());
    server.reply(1, b"x");
    server.reply(1, b"y");
    assert_eq!(
        first.wait(PATIENCE).expect("the first counts").bytes(),
        b"x"
    );
    let waited = second.wait(PATIENCE);
    assert!(dead(&waited), "{waited:?}");
    drop(server);
    stage.unharmed("two answers");
}

#[test]
fn a_port_that_never_reads_holds_nobody_beyond_the_time_out() {
    let stage = Stage::new();
    for value in [0, 1, 8, u64::MAX] {
        let server = Server::promoted();
        while server
            .right
            .send(Message::new(0).with_bytes(vec![1; 5000]), Timeout::POLL)
            .is_ok()
        {}
        let begin = Instant::now();
        // Whoever waits for room loses its wake-ups, and its time-out holds.
        server.requests().set(Word::ProducerSleeps, value);
        server.requests().set(Word::ConsumerSleeps, value);
        let message = Message::new(0).with_bytes(vec![1; 5000]);
        let error = server.right.send(message, SHORT).expect_err("no room");
        assert!(matches!(error.kind(), SendErrorKind::TimedOut), "{error}");
        assert!(begin.elapsed() >= SHORT);
        let copied = server.right.copy(SHORT);
        assert!(matches!(copied, Err(MintError::TimedOut)) || copied.is_ok());
        drop((copied, server));
        stage.unharmed("a port that never reads");
    }
}

#[test]
fn a_port_that_falls_silent_holds_nobody_beyond_the_time_out() {
    let stage = Stage::new();
    for value in [0, 1, u64::MAX] {
        let server = Server::promoted();
        server.requests().set(Word::ConsumerSleeps, value);
        server.replies().set(Word::ConsumerSleeps, value);
        server.replies().set(Word::ProducerSleeps, value);
        let begin = Instant::now();
        let waited = server.right.request(Message::new(1), PATIENCE, SHORT);
        let late = matches!(waited, Err(RequestError::Reply(ReplyError::TimedOut)));
        assert!(late, "{waited:?}");
        assert!(begin.elapsed() >= SHORT);
        drop(server);
        stage.unharmed("a port that says nothing");
    }
}

#[test]
fn a_flood_from_a_port_holds_nobody_beyond_the_time_out() {
    let stage = Stage::new();
    let floods: [(&str, RecordKind); 2] = [
        ("questions", RecordKind::WhoAreYou),
        ("packets that are not there", RecordKind::InSocket),
    ];
    for (what, kind) in floods {
        let server = Server::promoted();
        let stop = AtomicBool::new(false);
        let (memory, bell) = (&server.memory, &server.bells[3]);
        let start = server.written.get();
        let right = &server.right;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut written = start;
                while !stop.load(Ordering::Relaxed) {
                    let replies = memory.replies();
                    if written.wrapping_sub(replies.get(Word::Released)) < RING_BYTES as u64 / 2 {
                        written = replies.write(written, (kind.tag(), 0), &[]);
                        replies.set(Word::Published, written);
                        ring(bell);
                    }
                }
            });
            for _ in 0..3 {
                let begin = Instant::now();
                let waited = right.request(Message::new(1), PATIENCE, SHORT);
                let late = matches!(waited, Err(RequestError::Reply(ReplyError::TimedOut)));
                assert!(late, "{what}: {waited:?}");
                assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
                right.is_dead();
                stage.serve_honest();
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(server);
        stage.unharmed(what);
    }
}

#[test]
fn a_port_may_die_in_each_stage() {
    type Step = fn(&Server);
    let stage = Stage::new();
    let steps: [(&str, Step); 5] = [
        ("gone over", |_| {}),
        ("asleep", |server| {
            server.requests().set(Word::ConsumerSleeps, 1);
            server.replies().set(Word::ProducerSleeps, 9);
        }),
        ("an answer half written", |server| {
            let at = server.written.get();
            server.replies().write(at, (0, 100), &[1; 40]);
        }),
        ("an answer that was not announced", |server| {
            let reply = header(Kind::Reply, 9).encode();
            write(&server.socket, &reply, &[]).expect("write");
        }),
        ("its bells gone first", |server| {
            let mut byte = [0; 64];
            rustix::io::read(&server.bells[2], &mut byte).ok();
        }),
    ];
    for (what, step) in steps {
        let server = Server::promoted();
        let pending = server.ask();
        thread::scope(|scope| {
            let waits = scope.spawn(|| pending.wait(Timeout::NEVER));
            step(&server);
            let how = rustix::net::Shutdown::Both;
            rustix::net::shutdown(&server.socket, how).expect("shutdown");
            let waited = waits.join().expect("no panic");
            assert!(dead(&waited), "{what}: {waited:?}");
        });
        assert!(server.right.is_dead(), "{what}");
        drop(server);
        stage.unharmed(what);
    }
    // On the way to memory.
    let server = Server::offered();
    let pending = server.ask();
    rustix::net::shutdown(&server.socket, rustix::net::Shutdown::Both).expect("shutdown");
    let waited = pending.wait(Timeout::NEVER);
    assert!(dead(&waited), "{waited:?}");
    drop(server);
    stage.unharmed("dead before it accepted");
}

#[test]
fn a_port_that_writes_anything_anywhere_disturbs_nobody() {
    let stage = Stage::new();
    let mut random = Random::new();
    let before = usage::resident(std::process::id());
    let begin = Instant::now();
    let mut died = 0;
    while begin.elapsed() < A_WHILE {
        let server = Server::promoted();
        let Server {
            right,
            memory,
            bells,
            ..
        } = &server;
        beside_a_scribbler(memory, &mut random, bells, || {
            for _ in 0..5 {
                let message = Message::new(1).with_bytes([1; 1000]);
                // What comes of it is the port's affair, but it comes in time.
                right.request(message, SHORT, Duration::from_millis(1)).ok();
                right.copy(Timeout::POLL).ok();
                stage.serve_honest();
            }
        });
        died += u32::from(right.is_dead());
        drop(server);
        stage.unharmed("a port that writes anything");
    }
    assert!(died > 0, "nothing was found out");
    let grown = usage::resident(std::process::id()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}
