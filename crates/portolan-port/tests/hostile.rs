//! Peers that write what they like: each harms its own channel and nothing else.

mod stage;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portolan_port::{
    MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, Message, PendingReply, PortId, ReceiveRight, ReplyError,
    Right, SendErrorKind, SendRight, Timeout,
};
use portolan_testkit::{soak, usage};
use portolan_wire::moved::MovedChannel;
use portolan_wire::packet::{Flags, Header, Kind, RightDescriptor, RightKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use stage::{Stage, header, impostors, is_closed, packet, pair, write};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

fn right(kind: RightKind, fds: u8) -> RightDescriptor {
    RightDescriptor {
        kind,
        fds,
        port: PortId::from_bytes([9; 16]),
    }
}

#[test]
fn an_honest_raw_peer_is_served() {
    let stage = Stage::new();
    let peer = stage.peer();
    let (_, end) = pair(SocketType::SEQPACKET);
    let bytes = packet(
        header(Kind::Message, 0),
        &[right(RightKind::Send, 1)],
        b"abc",
    );
    write(&peer, &bytes, &[end.as_fd()]).expect("write");
    let messages = stage.drain();
    assert!(matches!(messages[..], [ref only] if only.bytes() == b"abc"));
    drop((messages, end, peer));
    stage.unharmed("a peer that keeps to the rules");
}

#[test]
fn packets_that_are_cut_short_close_their_channel() {
    let mut stage = Stage::new();
    let rights = [right(RightKind::Send, 1)];
    let whole = packet(header(Kind::Message, 7), &rights, b"abc");
    let (_other, end) = pair(SocketType::SEQPACKET);
    stage.open += 2;
    for len in 0..whole.len() {
        let peer = stage.peer();
        write(&peer, &whole[..len], &[end.as_fd()]).expect("write");
        stage.refused(peer, &format!("{len} bytes of {}", whole.len()));
    }
}

#[test]
fn headers_that_lie_close_their_channel() {
    let stage = Stage::new();
    let whole = packet(header(Kind::Message, 0), &[], b"abc");
    let lies: [(&str, usize, &[u8]); 9] = [
        ("unknown kind", 0, &[3]),
        ("kind of the other side", 0, &[16]),
        ("version", 1, &[2]),
        ("unknown flag", 2, &[4]),
        ("reserved byte", 3, &[1]),
        ("out of line without a descriptor", 2, &[1]),
        ("reply right without a right", 2, &[2]),
        ("rights", 4, &[0xff, 0xff]),
        ("length", 16, &[0xff; 8]),
    ];
    for (what, at, lie) in lies {
        let mut bytes = whole.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        let peer = stage.peer();
        write(&peer, &bytes, &[]).expect("write");
        stage.refused(peer, what);
    }
    for length in [2, 4, MAX_MESSAGE_BYTES as u64 + 1] {
        let mut bytes = whole.clone();
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let peer = stage.peer();
        write(&peer, &bytes, &[]).expect("write");
        stage.refused(peer, "a length that is not the length");
    }
}

#[test]
fn a_packet_longer_than_any_closes_its_channel() {
    let stage = Stage::new();
    // What fits into the receiver's buffer would be a packet.
    let header = Header {
        length: (128 * 24 + (192 << 10)) as u64,
        ..header(Kind::Message, 0)
    };
    let mut bytes = header.encode().to_vec();
    bytes.resize(205_000, 0);
    let peer = stage.peer();
    write(&peer, &bytes, &[]).expect("write");
    stage.refused(peer, "a long packet");
}

/// Packets that are right, or wrong in one place.
fn nearly_right() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let kind = prop_oneof![8 => Just(1_u8), 3 => Just(2), 1 => 16..20_u8, 1 => any::<u8>()];
    let flags = prop_oneof![6 => Just(0_u8), 1 => 1..5_u8];
    let rights = proptest::collection::vec((1..5_u8, 0..18_u8), 0..3);
    let tail = proptest::collection::vec(any::<u8>(), 0..80);
    let wrong = (0..12_usize, 0..24_usize, any::<u8>());
    ((kind, flags), any::<u32>(), rights, tail, wrong).prop_map(
        |((kind, flags), slot, rights, tail, (more, at, byte))| {
            let mut bytes = vec![0; 24];
            (bytes[0], bytes[1], bytes[2], bytes[4]) = (kind, 1, flags, rights.len() as u8);
            bytes[12..16].copy_from_slice(&(slot % 3).to_le_bytes());
            bytes[16] = tail.len() as u8;
            let mut fds = usize::from(kind == 2) + usize::from(flags & 1);
            for (kind, wrong) in rights {
                let own = if wrong < 12 { 1 - kind / 4 } else { wrong - 12 };
                fds += usize::from(own);
                bytes.extend([kind, own]);
                bytes.extend([0; 22]);
            }
            bytes.extend(tail);
            if more == 1 {
                bytes[at] = byte;
            }
            (bytes, fds + usize::from(more == 0))
        },
    )
}

fn noise() -> impl Strategy<Value = (Vec<u8>, usize)> {
    (proptest::collection::vec(any::<u8>(), 0..300), 0..4_usize)
}

#[test]
fn thousands_of_random_packets_change_nothing() {
    soak::for_each_seed(send_random_packets);
}

fn send_random_packets(seed: u64) {
    let stage = Stage::new();
    let (other, end) = pair(SocketType::SEQPACKET);
    let config = Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng(seed));
    let delivered = Cell::new(0);
    let packets = prop_oneof![3 => nearly_right(), 1 => noise()];
    let ran = runner.run(&packets, |(bytes, fds)| {
        let peer = stage.peer();
        write(&peer, &bytes, &vec![end.as_fd(); fds]).expect("write");
        delivered.set(delivered.get() + stage.drain().len());
        Ok(())
    });
    ran.expect("no case fails");
    let delivered = delivered.get();
    assert!((500..3500).contains(&delivered), "{delivered} delivered");
    drop((other, end));
    stage.unharmed("random packets");
}

fn rng(seed: u64) -> TestRng {
    let seed = [seed, 0, 0, 0].map(u64::to_le_bytes);
    TestRng::from_seed(RngAlgorithm::ChaCha, seed.as_flattened())
}

#[test]
fn descriptors_that_were_not_announced_close_the_channel() {
    let mut stage = Stage::new();
    let (_other, end) = pair(SocketType::SEQPACKET);
    stage.open += 2;
    let one = [right(RightKind::Send, 1)];
    let message = |rights: &[RightDescriptor]| packet(header(Kind::Message, 0), rights, b"");
    let cases = [
        ("one too few", message(&one), 0),
        ("one too many", message(&one), 2),
        ("one with nothing", message(&[]), 1),
        ("253 with nothing", message(&[]), 253),
        ("a mint without", header(Kind::Mint, 0).encode().to_vec(), 0),
        (
            "a mint with two",
            header(Kind::Mint, 0).encode().to_vec(),
            2,
        ),
        ("no packet at all", Vec::new(), 253),
    ];
    for (what, bytes, count) in cases {
        let peer = stage.peer();
        write(&peer, &bytes, &vec![end.as_fd(); count]).expect("write");
        stage.refused(peer, what);
    }
}

#[test]
fn what_is_no_channel_cannot_pass_for_a_right() {
    let mut stage = Stage::new();
    let impostors = impostors();
    stage.open += impostors.len();
    let mint = header(Kind::Mint, 0).encode().to_vec();
    for (what, impostor) in &impostors {
        for kind in [RightKind::Send, RightKind::SendOnce, RightKind::Receive] {
            let peer = stage.peer();
            let bytes = packet(header(Kind::Message, 0), &[right(kind, 1)], b"");
            write(&peer, &bytes, &[impostor.as_fd()]).expect("write");
            stage.refused(peer, &format!("{what} as a {kind:?} right"));
        }
        let peer = stage.peer();
        write(&peer, &mint, &[impostor.as_fd()]).expect("write");
        stage.refused(peer, &format!("{what} as a new channel"));
        let adopted = stage
            .port
            .adopt(impostor.try_clone().expect("duplicate"), 0);
        assert!(adopted.is_err(), "{what} was adopted");
        let right = SendRight::from_socket(impostor.try_clone().expect("duplicate"));
        assert!(right.is_err(), "{what} became a right");
    }
}

#[test]
fn a_right_that_leads_nowhere_is_dead() {
    let stage = Stage::new();
    let peer = stage.peer();
    let rights = [right(RightKind::Send, 1), right(RightKind::SendOnce, 1)];
    let bytes = packet(header(Kind::Message, 0), &rights, b"");
    let (orphan, _) = pair(SocketType::SEQPACKET);
    write(&peer, &bytes, &[orphan.as_fd(), orphan.as_fd()]).expect("write");
    write(&peer, &header(Kind::Mint, 0).encode(), &[orphan.as_fd()]).expect("write");
    drop(orphan);
    let mut message = stage.drain().pop().expect("a message");
    let rights = <[_; 2]>::try_from(message.take_rights());
    let Ok([Right::Send(right), Right::SendOnce(once)]) = rights else {
        panic!("expected a send and a send-once right")
    };
    for sent in [
        right.send(Message::new(1), PATIENCE),
        once.send(Message::new(1)),
    ] {
        let error = sent.expect_err("nobody can receive it");
        assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
    }
    drop((message, right, peer));
    stage.unharmed("rights to nowhere");
}

fn memory(len: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("hostile", flags).expect("memfd");
    let bytes = vec![7; len];
    assert_eq!(rustix::io::write(&file, &bytes).expect("write"), len);
    rustix::fs::fcntl_add_seals(&file, seals).expect("seal");
    file
}

fn out_of_line(length: usize) -> Vec<u8> {
    let header = Header {
        flags: Flags::OUT_OF_LINE,
        length: length as u64,
        ..header(Kind::Message, 0)
    };
    header.encode().to_vec()
}

fn all_seals() -> SealFlags {
    SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW
}

#[test]
fn memory_that_could_change_or_fault_is_refused() {
    const LEN: usize = 10_000;
    let mut stage = Stage::new();
    let mut cases = vec![
        ("no seals", memory(LEN, SealFlags::empty())),
        ("shorter", memory(LEN - 1, all_seals())),
        ("longer", memory(LEN + 1, all_seals())),
        ("empty", memory(0, all_seals())),
        ("a hole", hole(LEN)),
        ("a hole before memory behind the end", hidden_hole(LEN)),
    ];
    for missing in all_seals().iter() {
        cases.push(("a seal short", memory(LEN, all_seals() - missing)));
    }
    cases.extend(impostors());
    stage.open += cases.len();
    for (what, file) in &cases {
        let peer = stage.peer();
        write(&peer, &out_of_line(LEN), &[file.as_fd()]).expect("write");
        stage.refused(peer, what);
    }
    let peer = stage.peer();
    let good = memory(LEN, all_seals());
    write(&peer, &out_of_line(LEN), &[good.as_fd()]).expect("write");
    assert_eq!(stage.drain()[0].bytes(), [7; LEN]);
    drop((peer, good));
    stage.unharmed("out of line");
}

/// Sealed, of the right length, and backed by nothing: who looks at it pays for it.
fn hole(len: usize) -> OwnedFd {
    let file = memory(0, SealFlags::empty());
    rustix::fs::ftruncate(&file, len as u64).expect("ftruncate");
    rustix::fs::fcntl_add_seals(&file, all_seals()).expect("seal");
    file
}

/// The same with as much memory as it is long, but behind its end.
fn hidden_hole(len: usize) -> OwnedFd {
    let file = memory(0, SealFlags::empty());
    rustix::fs::ftruncate(&file, len as u64).expect("ftruncate");
    let behind = (len as u64).next_multiple_of(rustix::param::page_size() as u64);
    let keep = FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, keep, behind, behind).expect("fallocate");
    rustix::fs::fcntl_add_seals(&file, all_seals()).expect("seal");
    file
}

#[test]
fn a_slot_that_is_in_use_closes_the_channel() {
    let stage = Stage::new();
    let peer = stage.peer();
    for _ in 0..2 {
        write(&peer, &header(Kind::Message, 5).encode(), &[]).expect("write");
    }
    let mut messages = stage.drain();
    assert_eq!(messages.len(), 1, "the second is refused");
    assert!(is_closed(&peer));
    let reply = messages[0].take_reply().expect("reply right");
    let error = reply.send(Message::new(1)).expect_err("closed");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
    drop((messages, peer));
    stage.unharmed("a slot used twice");
}

#[test]
fn more_slots_than_the_limit_close_the_channel() {
    let stage = Stage::new();
    let peer = stage.peer();
    let mut held = Vec::new();
    for slot in 1..=1025 {
        if write(&peer, &header(Kind::Message, slot).encode(), &[]).is_err() {
            break;
        }
        held.extend(stage.drain());
    }
    assert_eq!(held.len(), 1024);
    assert!(is_closed(&peer));
    drop((held, peer));
    stage.unharmed("too many slots");
}

#[test]
fn a_client_that_never_reads_its_answers_is_cut_off() {
    let mut stage = Stage::new();
    let gift = ReceiveRight::new().expect("port");
    stage.open += 1;
    for (what, bytes, rights) in [
        ("empty answers", 0, 0),
        ("long answers", 100_000, 0),
        ("answers with rights", 0, 1),
        ("refusals", 0, 2),
    ] {
        let peer = stage.peer();
        let mut served = 0;
        for slot in (1..1000).cycle().take(20_000) {
            if write(&peer, &header(Kind::Message, slot).encode(), &[]).is_err() {
                break;
            }
            let Some(mut message) = stage.drain().pop() else {
                break;
            };
            let mut answer = Message::new(1).with_bytes(vec![1; bytes]);
            if rights == 1 {
                answer = answer.with_right(gift.make_send().expect("send right"));
            }
            let reply = message.take_reply().expect("reply right");
            if rights < 2 {
                // Fails when the channel has been closed.
                reply.send(answer).ok();
            }
            served += 1;
            let open = usage::descriptors(std::process::id());
            assert!(open < stage.open + 3000, "{what}: {open} descriptors");
        }
        assert!(
            served < 3000,
            "{what}: {served} kept for a client that never reads"
        );
        drop(peer);
        stage.drain();
        while gift.receive(Timeout::POLL).is_ok() {}
        stage.unharmed(what);
    }
}

#[test]
fn what_comes_after_a_violation_is_not_taken() {
    let port = ReceiveRight::new().expect("port");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    port.receive(Duration::from_millis(10)).ok();
                }
            });
        }
        let all_hung_up = (0..5000).all(|_| {
            let (here, peer) = pair(SocketType::SEQPACKET);
            let (minted, own) = pair(SocketType::SEQPACKET);
            write(&peer, b"nonsense", &[]).expect("write");
            write(&peer, &header(Kind::Mint, 0).encode(), &[minted.as_fd()]).expect("write");
            drop(minted);
            port.adopt(here, 0).expect("adopt");
            hangs_up(&own)
        });
        done.store(true, Ordering::Release);
        assert!(all_hung_up);
    });
}

fn hangs_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let patience = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&patience)) == Ok(1)
}

#[test]
fn a_flood_of_new_channels_leaves_the_honest_client_served() {
    let stage = Stage::new();
    let peer = stage.peer();
    let mint = header(Kind::Mint, 0).encode();
    let mut ends = Vec::new();
    while ends.len() < 2000 {
        let (here, there) = pair(SocketType::SEQPACKET);
        ends.push(here);
        while write(&peer, &mint, &[there.as_fd()]) == Err(Errno::AGAIN) {
            assert!(stage.serve_honest().is_empty());
        }
    }
    assert!(stage.drain().is_empty());
    assert_eq!(stage.port.status().senders, 2002);
    stage.serve_honest();
    drop((peer, ends));
    stage.unharmed("a flood of channels");
}

#[test]
fn a_peer_may_shut_down_what_it_likes() {
    use rustix::net::Shutdown;
    let stage = Stage::new();
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        let peer = stage.peer();
        write(&peer, &header(Kind::Message, 1).encode(), &[]).expect("write");
        write(&peer, &header(Kind::Message, 0).encode(), &[]).expect("write");
        rustix::net::shutdown(&peer, how).expect("shutdown");
        let mut messages = stage.drain();
        assert_eq!(messages.len(), 2, "what was sent before counts");
        let reply = messages[0].take_reply().expect("reply right");
        // Whether it can still be answered is the peer's own affair.
        reply.send(Message::new(1)).ok();
        stage.serve_honest();
        drop((messages, peer));
        stage.unharmed("shutdown");
    }
}

#[test]
fn small_socket_buffers_only_change_how_bytes_travel() {
    let stage = Stage::new();
    let (here, there) = pair(SocketType::SEQPACKET);
    for end in [&here, &there] {
        rustix::net::sockopt::set_socket_send_buffer_size(end, 1).expect("SO_SNDBUF");
    }
    stage.port.adopt(here, 0).expect("adopt");
    let right = SendRight::from_socket(there).expect("right");
    for len in [0, 1, 3000, 5000, 100_000, 300_000] {
        let bytes = vec![3; len];
        let question = Message::new(1).with_bytes(bytes.clone());
        let pending = right.begin_request(question, PATIENCE).expect("send");
        let mut request = stage.port.receive(PATIENCE).expect("receive");
        assert!(request.bytes() == bytes, "{len} bytes there");
        let reply = request.take_reply().expect("reply right");
        let answer = Message::new(2).with_bytes(bytes.clone());
        reply.send(answer).expect("answer");
        let answer = pending.wait(PATIENCE).expect("answer");
        assert!(answer.bytes() == bytes, "{len} bytes back");
    }
    let mut many = Message::new(1).with_bytes(vec![1; 5000]);
    for _ in 0..MAX_MESSAGE_RIGHTS {
        many = many.with_right(stage.port.make_send().expect("send right"));
    }
    right.send(many, PATIENCE).expect("send");
    let message = stage.port.receive(PATIENCE).expect("receive");
    assert_eq!(message.rights().len(), MAX_MESSAGE_RIGHTS);
    drop((message, right));
    stage.unharmed("small buffers");
}

/// A socket in which records and descriptors lie queued, and its other end.
fn van(records: &[u8], fds: &[BorrowedFd<'_>]) -> (OwnedFd, OwnedFd) {
    let (front, rear) = pair(SocketType::SEQPACKET);
    write(&rear, records, fds).expect("write");
    (front, rear)
}

fn record() -> [u8; 32] {
    let badge = 3;
    MovedChannel {
        badge,
        once: false,
        is_known: false,
        memory: None,
    }
    .encode()
}

fn receive_right_in(van: &OwnedFd, peer: &OwnedFd) {
    let bytes = packet(
        header(Kind::Message, 0),
        &[right(RightKind::Receive, 1)],
        b"",
    );
    write(peer, &bytes, &[van.as_fd()]).expect("write");
}

#[test]
fn a_receive_right_made_of_rubbish_closes_the_channel() {
    let mut stage = Stage::new();
    let (_other, end) = pair(SocketType::SEQPACKET);
    let impostors = impostors();
    stage.open += 2 + impostors.len();
    let end = end.as_fd();
    let mut cases = vec![
        ("half a record", record()[..8].to_vec(), vec![end]),
        ("noise", vec![0xff; 16], vec![end]),
        ("a descriptor too many", record().to_vec(), vec![end, end]),
        ("a descriptor too few", record().to_vec(), vec![]),
        ("too many records", record().repeat(300), vec![end]),
    ];
    for (what, impostor) in &impostors {
        cases.push((what, record().to_vec(), vec![impostor.as_fd()]));
    }
    for (what, records, fds) in cases {
        let (front, rear) = van(&records, &fds);
        drop(rear);
        let peer = stage.peer();
        receive_right_in(&front, &peer);
        drop(front);
        stage.refused(peer, &format!("a receive right with {what}"));
    }
}

#[test]
fn a_receive_right_that_is_still_being_loaded_is_refused() {
    let stage = Stage::new();
    let (other, end) = pair(SocketType::SEQPACKET);
    let (front, rear) = van(&record(), &[end.as_fd()]);
    let peer = stage.peer();
    receive_right_in(&front, &peer);
    assert!(stage.drain().is_empty());
    assert!(is_closed(&peer));
    drop((front, rear, peer, other, end));
    stage.unharmed("a van that is not closed");
}

/// A client of a server that is played raw.
struct Client {
    right: SendRight,
    server: OwnedFd,
}

impl Client {
    fn new() -> Self {
        let (here, server) = pair(SocketType::SEQPACKET);
        let right = SendRight::from_socket(here).expect("right");
        Self { right, server }
    }

    fn ask(&self) -> PendingReply<'_> {
        self.right
            .begin_request(Message::new(1), PATIENCE)
            .expect("send")
    }

    fn answers(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        write(&self.server, bytes, fds).expect("write");
    }
}

#[test]
fn a_server_that_breaks_the_protocol_is_dead_to_its_client() {
    let stage = Stage::new();
    let cases = [
        ("an unknown slot", header(Kind::Reply, 99).encode().to_vec()),
        ("slot 0", header(Kind::NoReply, 0).encode().to_vec()),
        ("a message", header(Kind::Message, 0).encode().to_vec()),
        ("a mint", header(Kind::Mint, 0).encode().to_vec()),
        (
            "a redirection without",
            header(Kind::Redirect, 1).encode().to_vec(),
        ),
        ("half a packet", vec![16, 1, 0]),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in cases {
        let client = Client::new();
        let (first, second) = (client.ask(), client.ask());
        client.answers(&bytes, &[]);
        for pending in [first, second] {
            let waited = pending.wait(PATIENCE);
            assert!(
                matches!(waited, Err(ReplyError::DeadName)),
                "{what}: {waited:?}"
            );
        }
        assert!(client.right.is_dead(), "{what}");
        drop(client);
        stage.unharmed(what);
    }
}

#[test]
fn a_server_that_answers_twice_is_dead_to_its_client() {
    let stage = Stage::new();
    let client = Client::new();
    let (first, second) = (client.ask(), client.ask());
    for _ in 0..2 {
        client.answers(&header(Kind::Reply, 1).encode(), &[]);
    }
    assert!(first.wait(PATIENCE).is_ok(), "the first answer counts");
    let waited = second.wait(PATIENCE);
    assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
    drop(client);
    stage.unharmed("two answers");
}

#[test]
fn a_refusal_after_the_answer_is_passed_over() {
    let stage = Stage::new();
    let client = Client::new();
    let (first, second) = (client.ask(), client.ask());
    client.answers(&header(Kind::Reply, 1).encode(), &[]);
    client.answers(&header(Kind::NoReply, 1).encode(), &[]);
    assert!(first.wait(PATIENCE).is_ok(), "the first answer counts");
    client.answers(&header(Kind::NoReply, 1).encode(), &[]);
    client.answers(&header(Kind::Reply, 2).encode(), &[]);
    assert!(second.wait(PATIENCE).is_ok(), "and the right goes on");
    client.answers(&header(Kind::NoReply, 3).encode(), &[]);
    let third = client.ask().wait(PATIENCE);
    assert!(matches!(third, Err(ReplyError::NoReply)), "{third:?}");
    drop(client);
    stage.unharmed("a late refusal");
}

#[test]
fn an_answer_after_the_refusal_is_passed_over() {
    let stage = Stage::new();
    let client = Client::new();
    let (first, second) = (client.ask(), client.ask());
    client.answers(&header(Kind::NoReply, 1).encode(), &[]);
    client.answers(&header(Kind::Reply, 1).encode(), &[]);
    let first = first.wait(PATIENCE);
    assert!(matches!(first, Err(ReplyError::NoReply)), "{first:?}");
    client.answers(&header(Kind::Reply, 1).encode(), &[]);
    client.answers(&header(Kind::Reply, 2).encode(), &[]);
    assert!(second.wait(PATIENCE).is_ok(), "the right goes on");
    drop(client);
    stage.unharmed("a late answer");
}

#[test]
fn a_redirection_to_nonsense_is_no_answer() {
    let stage = Stage::new();
    for (what, end) in impostors() {
        let client = Client::new();
        let pending = client.ask();
        client.answers(&header(Kind::Redirect, 1).encode(), &[end.as_fd()]);
        let waited = pending.wait(PATIENCE);
        assert!(
            matches!(waited, Err(ReplyError::DeadName)),
            "{what}: {waited:?}"
        );
    }
    for bytes in [&b""[..], b"x", &header(Kind::Reply, 1).encode()] {
        let client = Client::new();
        let pending = client.ask();
        let (there, end) = pair(SocketType::SEQPACKET);
        client.answers(&header(Kind::Redirect, 1).encode(), &[end.as_fd()]);
        write(&there, bytes, &[]).expect("write");
        let waited = pending.wait(PATIENCE);
        assert!(matches!(waited, Err(ReplyError::NoReply)), "{waited:?}");
    }
    stage.unharmed("redirections");
}

fn port_died(owed: &[u32]) -> Vec<u8> {
    let owed: Vec<u8> = owed.iter().flat_map(|slot| slot.to_le_bytes()).collect();
    packet(header(Kind::PortDied, 0), &[], &owed)
}

#[test]
fn a_server_that_lies_about_its_death_hurts_itself() {
    let stage = Stage::new();
    let client = Client::new();
    let (mut first, second) = (client.ask(), client.ask());
    client.answers(&port_died(&[1, 1, 77, 0]), &[]);
    let waited = second.wait(PATIENCE);
    assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
    assert!(matches!(first.poll(), Err(ReplyError::TimedOut)), "owed");
    rustix::net::shutdown(&client.server, rustix::net::Shutdown::Both).expect("shutdown");
    let waited = first.wait(PATIENCE);
    assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
    drop(client);
    stage.unharmed("a false death");
}

#[test]
fn a_server_that_dies_again_and_again_does_not_hold_its_client() {
    let stage = Stage::new();
    // Were any of them allowed, a flood of them would keep the client reading for ever.
    for (what, deaths) in [
        ("a second death", vec![port_died(&[1]), port_died(&[1])]),
        ("a long list", vec![port_died(&[1; 1025])]),
    ] {
        let client = Client::new();
        let pending = client.ask();
        for death in deaths {
            client.answers(&death, &[]);
        }
        let waited = pending.wait(PATIENCE);
        assert!(
            matches!(waited, Err(ReplyError::DeadName)),
            "{what}: {waited:?}"
        );
        drop(client);
        stage.unharmed(what);
    }
}
