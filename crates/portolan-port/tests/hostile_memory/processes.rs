//! Hostile holders that need a process of their own, or two.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use portolan_testkit::process::{self, play};
use portolan_testkit::usage;
use portolan_wire::packet::{Kind, RecordKind, RightDescriptor, RightKind};
use portolan_wire::port_id::PortId;
use rustix::net::SocketType;
use rustix::process::Resource;

use crate::holders::Holder;
use crate::nonsense::control;
use crate::stage::{Stage, header, is_closed, packet, pair, write};

/// Plays the part of another process, in one that has one.
pub(crate) fn play_part() {
    match process::part() {
        None => {}
        Some((part, socket)) if part == "say hello" => say_hello(&socket),
        Some((part, _)) if part == "lose every descriptor" => lose_every_descriptor(),
        Some((part, _)) => panic!("no part {part}"),
    }
}

const STRANGERS: &[u8] = b"in whose name";

/// Introduces itself on a channel that another process speaks on, and speaks.
fn say_hello(socket: &OwnedFd) {
    write(socket, &control(Kind::Hello), &[]).expect("write");
    let message = packet(header(Kind::Message, 0), &[], STRANGERS);
    write(socket, &message, &[]).expect("write");
}

fn stranger_says_hello_on(socket: &OwnedFd) {
    let duplicate = socket.try_clone().expect("duplicate");
    play("say hello", duplicate).finish();
}

/// Whatever the channel still brings is of this process.
fn only_this_process_speaks(stage: &Stage, what: &str) {
    for message in stage.drain() {
        let sender = message.sender().expect("sender");
        assert_eq!(sender.pid(), Some(std::process::id()), "{what}");
        assert_ne!(message.bytes(), STRANGERS, "{what}");
    }
}

#[test]
fn a_second_process_cannot_introduce_itself_on_a_channel() {
    let stage = Stage::new();
    let peer = stage.peer();
    let message = packet(header(Kind::Message, 0), &[], b"x");
    write(&peer, &message, &[]).expect("write");
    assert_eq!(stage.drain().len(), 1);
    stranger_says_hello_on(&peer);
    only_this_process_speaks(&stage, "after the greeting");
    // Fails where that has closed the channel.
    write(&peer, &message, &[]).ok();
    only_this_process_speaks(&stage, "later");
    drop(peer);
    stage.unharmed("a greeting on the socket");
}

#[test]
fn a_second_process_cannot_lend_its_name_to_memory() {
    let stage = Stage::new();
    let holder = Holder::promoted(&stage);
    holder.message(0, b"x");
    assert_eq!(stage.drain().len(), 1);
    stranger_says_hello_on(holder.socket());
    // What the stranger sent is announced, and something follows.
    holder.record(RecordKind::InSocket.tag(), &[]);
    holder.message(0, b"y");
    only_this_process_speaks(&stage, "after the greeting");
    holder.record(RecordKind::InSocket.tag(), &[]);
    holder.message(0, b"z");
    only_this_process_speaks(&stage, "later");
    drop(holder);
    stage.unharmed("a greeting beside memory");
}

/// As many as nobody leaves unread who is to be kept.
const MANY: u32 = 1_000_000;

/// A port that has no descriptors left is asked again and again, by somebody who does not read
/// that no answer will come.
fn lose_every_descriptor() {
    let stage = Stage::new();
    let peer = stage.peer();
    let (_far, end) = pair(SocketType::SEQPACKET);
    let right = RightDescriptor {
        kind: RightKind::Send,
        fds: 1,
        port: PortId::from_bytes([9; 16]),
    };
    let request = packet(header(Kind::Message, 1), &[right], b"");
    let before = usage::resident(std::process::id());
    let files = exhaust_descriptors();
    let is_refused = (1..=MANY).any(|_| {
        let sent = write(&peer, &request, &[end.as_fd()]);
        assert!(stage.drain().is_empty(), "there was a descriptor");
        sent.is_err()
    });
    drop(files);
    assert!(is_refused, "{MANY} refusals are kept for it");
    let grown = usage::resident(std::process::id()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    assert!(is_closed(&peer));
}

/// Takes all descriptors that this process may still have; dropping them gives them back.
fn exhaust_descriptors() -> Vec<File> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = Some(200);
    rustix::process::setrlimit(Resource::Nofile, limit).expect("lower the limit");
    let files = std::iter::repeat_with(|| File::open("/dev/null"));
    files.map_while(Result::ok).collect()
}

#[test]
fn a_holder_that_never_hears_that_its_requests_are_lost_is_cut_off() {
    // It has a port of its own; this one is for the tests to take turns.
    let stage = Stage::new();
    let (socket, other) = pair(SocketType::SEQPACKET);
    play("lose every descriptor", socket).finish();
    drop(other);
    stage.unharmed("a process that has no descriptors");
}
