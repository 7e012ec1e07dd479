//! Ports that outlive whoever receives from them.

#[expect(dead_code, reason = "not all of it is for these tests")]
mod flavour;

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flavour::{bring, right_to};
use portolan_port::{
    ChannelId, ChannelParts, Custody, Message, PortParts, Presence, ReceiveError, ReceiveRight,
    ReplyError, Right, SendErrorKind, SendRight, Timeout, Witness,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::in_both_flavours;
use portolan_testkit::process::{self, Process, play};
use portolan_testkit::wait;
use portolan_wire::failure::{FailureKind, StartFailure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

#[test]
fn play_a_part() {
    let Some((part, socket)) = process::part() else {
        return;
    };
    let orders = ReceiveRight::new().expect("port");
    orders.adopt(socket, 0).expect("adopt");
    match part.as_str() {
        "borrow" => borrow(&orders),
        other => panic!("no part {other}"),
    }
}

/// Receives from a port as many messages as it is told to, keeps them, and waits for its end.
fn borrow(orders: &ReceiveRight) {
    let mut order = orders.receive(PATIENCE).expect("order");
    let count = order.id();
    let Some(Right::Receive(port)) = order.take_rights().pop() else {
        panic!("no port came");
    };
    let messages: Vec<_> = (0..count)
        .map(|_| port.receive(PATIENCE).expect("a message"))
        .collect();
    let reply = order.take_reply().expect("reply right");
    let ids = messages
        .iter()
        .flat_map(|message| message.id().to_le_bytes());
    let answer = Message::new(0).with_bytes(ids.collect::<Vec<_>>());
    reply.send(answer).expect("answer");
    // Until it is killed, it takes what the keeper makes for it.
    drop(orders.receive(PATIENCE));
    drop(messages);
}

/// A process to lend ports to.
struct Borrower {
    process: Process,
    orders: SendRight,
}

impl Borrower {
    fn start() -> Self {
        let kind = SocketType::SEQPACKET;
        let (here, there) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("pair");
        Self {
            process: play("borrow", there),
            orders: SendRight::from_socket(here).expect("a right"),
        }
    }

    /// Lends a port, has some messages received there, and gives their ids.
    fn receive(&self, port: ReceiveRight, count: i32) -> Vec<i32> {
        let order = Message::new(count).with_right(port);
        let answer = self.orders.request(order, PATIENCE, PATIENCE);
        let answer = answer.expect("the borrower has received");
        let (ids, _) = answer.bytes().as_chunks();
        ids.iter().map(|id| i32::from_le_bytes(*id)).collect()
    }

    /// Kills the process, and takes back what it had.
    fn kill(self, mut custody: Custody) -> ReceiveRight {
        drop(self.process);
        wait_until(|| custody.attend() == Presence::Back);
        custody.take_back().expect("take back").0
    }
}

fn wait_until(is_so: impl FnMut() -> bool) {
    wait::until(Duration::from_secs(20), "it is so", is_so);
}

fn lend(port: ReceiveRight) -> (Custody, ReceiveRight) {
    port.lend().expect("lend")
}

fn ids_in(port: &ReceiveRight) -> Vec<i32> {
    let next = || port.receive(Timeout::POLL).ok();
    std::iter::from_fn(next)
        .map(|message| message.id())
        .collect()
}

fn send(right: &SendRight, ids: std::ops::Range<i32>) {
    for id in ids {
        right.send(Message::new(id), PATIENCE).expect("send");
    }
}

fn why() -> StartFailure {
    StartFailure {
        label: "org.example.echo".parse().expect("label"),
        kind: FailureKind::Exited { status: 1 },
        text: "no idea".into(),
    }
}

fn right_and_port(flavour: Flavour) -> (SendRight, ReceiveRight) {
    let port = ReceiveRight::new().expect("port");
    let right = right_to(&port, flavour);
    (right, port)
}

in_both_flavours!(unread_messages_survive_their_receiver);
fn unread_messages_survive_their_receiver(flavour: Flavour) {
    for read in [0, 1, 3, 8] {
        let (right, port) = right_and_port(flavour);
        let borrower = Borrower::start();
        let (custody, lent) = lend(port);
        send(&right, 1..9);
        assert_eq!(borrower.receive(lent, read), (1..=read).collect::<Vec<_>>());
        send(&right, 9..12);
        let port = borrower.kill(custody);
        assert_eq!(ids_in(&port), (read + 1..12).collect::<Vec<_>>());
        send(&right, 12..13);
        assert_eq!(ids_in(&port), [12], "and the right goes on");
    }
}

in_both_flavours!(a_request_that_was_received_is_refused_and_one_that_was_not_is_served);
fn a_request_that_was_received_is_refused_and_one_that_was_not_is_served(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let begin = |id| {
        right
            .begin_request(Message::new(id), PATIENCE)
            .expect("send")
    };
    let (first, second, third) = (begin(1), begin(2), begin(3));
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert_eq!(borrower.receive(lent, 2), [1, 2]);
    let port = borrower.kill(custody);
    assert!(matches!(first.wait(PATIENCE), Err(ReplyError::NoReply)));
    assert!(matches!(second.wait(PATIENCE), Err(ReplyError::NoReply)));
    let mut request = port.receive(PATIENCE).expect("the third");
    assert_eq!(request.id(), 3);
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(30)).expect("answer");
    assert_eq!(third.wait(PATIENCE).expect("answer").id(), 30);
}

in_both_flavours!(an_idle_client_is_not_told_of_requests_that_it_did_not_make);
fn an_idle_client_is_not_told_of_requests_that_it_did_not_make(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    right.send(Message::new(1), PATIENCE).expect("send");
    borrower.receive(lent, 1);
    let port = borrower.kill(custody);
    let pending = right
        .begin_request(Message::new(2), PATIENCE)
        .expect("send");
    let mut request = port.receive(PATIENCE).expect("request");
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(3)).expect("answer");
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 3);
}

in_both_flavours!(messages_with_rights_keep_their_place);
fn messages_with_rights_keep_their_place(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let other = ReceiveRight::new().expect("port");
    for id in 1..9 {
        let message = Message::new(id);
        let message = match id % 2 {
            0 => message.with_right(other.make_send().expect("send right")),
            _ => message,
        };
        right.send(message, PATIENCE).expect("send");
    }
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert_eq!(borrower.receive(lent, 4), [1, 2, 3, 4]);
    let port = borrower.kill(custody);
    for id in 5..9 {
        let mut message = port.receive(PATIENCE).expect("message");
        assert_eq!(message.id(), id);
        for right in message.take_rights() {
            let Right::Send(right) = right else {
                panic!("no send right")
            };
            right.send(Message::new(id), PATIENCE).expect("send");
            assert_eq!(other.receive(PATIENCE).expect("message").id(), id);
        }
    }
}

#[test]
fn a_right_that_goes_over_to_memory_at_the_borrower_is_kept_with_it() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    let sender = std::thread::spawn(move || {
        // One by one, so that the offer is answered in between.
        for id in 1..9 {
            let message = Message::new(id);
            right.send(message, PATIENCE).expect("send");
            std::thread::yield_now();
        }
        right
    });
    assert_eq!(borrower.receive(lent, 8), (1..9).collect::<Vec<_>>());
    let right = sender.join().expect("no panic");
    send(&right, 9..20);
    let port = borrower.kill(custody);
    assert_eq!(ids_in(&port), (9..20).collect::<Vec<_>>());
}

in_both_flavours!(a_right_copied_while_the_port_was_lent_is_kept);
fn a_right_copied_while_the_port_was_lent_is_kept(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let borrower = Borrower::start();
    let (mut custody, lent) = lend(port);
    let copy = right.copy(PATIENCE).expect("copy");
    right.send(Message::new(1), PATIENCE).expect("send");
    borrower.receive(lent, 1);
    wait_until(|| {
        custody.attend();
        custody.channels() == 2
    });
    copy.send(Message::new(2), PATIENCE).expect("send");
    let port = borrower.kill(custody);
    assert_eq!(ids_in(&port), [2]);
}

#[test]
fn rights_are_made_while_the_borrower_does_not_listen() {
    let port = ReceiveRight::new().expect("port");
    let (mut custody, lent) = lend(port);
    // More than the guard has room for.
    let rights: Vec<_> = (0..400)
        .map(|badge| custody.make_send(badge).expect("send right"))
        .collect();
    assert!(custody.wants_room());
    for (id, right) in (0..).zip(&rights) {
        right.send(Message::new(id), PATIENCE).expect("send");
    }
    let mut seen = Vec::new();
    while seen.len() < rights.len() {
        if let Ok(message) = lent.receive(Timeout::POLL) {
            assert_eq!(message.badge(), u64::try_from(message.id()).expect("small"));
            seen.push(message.id());
        }
        custody.attend();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..400).collect::<Vec<_>>());
    assert!(!custody.wants_room());
}

in_both_flavours!(a_port_that_is_let_go_of_is_back_at_once);
fn a_port_that_is_let_go_of_is_back_at_once(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let (mut custody, lent) = lend(port);
    let (_, moved) = {
        // Through a message, as it would go to another process.
        let other = ReceiveRight::new().expect("port");
        let to = other.make_send().expect("send right");
        to.send(Message::new(0).with_right(lent), PATIENCE)
            .expect("send");
        let mut message = other.receive(PATIENCE).expect("message");
        let Some(Right::Receive(moved)) = message.take_rights().pop() else {
            panic!("no port came");
        };
        (other, moved)
    };
    let answered = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let abandoned = right
        .begin_request(Message::new(2), PATIENCE)
        .expect("send");
    let mut first = moved.receive(PATIENCE).expect("request");
    let second = moved.receive(PATIENCE).expect("request");
    send(&right, 3..5);
    assert_eq!(custody.attend(), Presence::Lent);
    drop(moved);
    assert_eq!(custody.attend(), Presence::Back);
    let (port, debts) = custody.take_back().expect("take back");
    assert_eq!(ids_in(&port), [3, 4]);
    assert!(!debts.are_settled());
    // Who let go of the port still answers what it owes, and whoever has it now can use it.
    let reply = first.take_reply().expect("reply right");
    reply.send(Message::new(10)).expect("answer");
    assert_eq!(answered.wait(PATIENCE).expect("answer").id(), 10);
    std::mem::forget(second);
    debts.fail();
    assert!(matches!(abandoned.wait(PATIENCE), Err(ReplyError::NoReply)));
    drop(port);
    assert!(right.is_dead(), "the port is like any other now");
}

in_both_flavours!(the_keeper_sees_that_something_is_unread);
fn the_keeper_sees_that_something_is_unread(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let (mut custody, lent) = lend(port);
    // The holder may still have to say who it is, and this is not asked before.
    wait_until(|| {
        assert!(lent.receive(Timeout::POLL).is_err());
        !custody.has_unread()
    });
    right.send(Message::new(1), PATIENCE).expect("send");
    assert!(custody.has_unread());
    assert_eq!(ids_in(&lent), [1]);
    assert!(!custody.has_unread());
    let fresh = custody.make_send(0).expect("send right");
    fresh.send(Message::new(2), PATIENCE).expect("send");
    assert!(custody.has_unread());
    drop(lent);
    assert_eq!(custody.attend(), Presence::Back);
}

in_both_flavours!(a_borrower_moves_the_port_on);
fn a_borrower_moves_the_port_on(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let (custody, lent) = lend(port);
    let borrower = Borrower::start();
    send(&right, 1..5);
    assert_eq!(ids_in(&lent).len(), 4);
    send(&right, 5..9);
    assert_eq!(borrower.receive(lent, 2), [5, 6]);
    let port = borrower.kill(custody);
    assert_eq!(ids_in(&port), [7, 8]);
}

in_both_flavours!(one_borrower_after_another);
fn one_borrower_after_another(flavour: Flavour) {
    let (right, mut port) = right_and_port(flavour);
    for round in 0..5 {
        send(&right, 2 * round..2 * round + 2);
        let borrower = Borrower::start();
        let (custody, lent) = lend(port);
        assert_eq!(borrower.receive(lent, 1), [round]);
        port = borrower.kill(custody);
    }
    assert_eq!(ids_in(&port), (5..10).collect::<Vec<_>>());
}

#[test]
fn a_sender_that_waits_for_room_goes_on_after_the_receivers_end() {
    for flavour in [Flavour::Socket, Flavour::Ring] {
        let (right, port) = right_and_port(flavour);
        let borrower = Borrower::start();
        let (custody, lent) = lend(port);
        let sender = std::thread::spawn(move || {
            for id in 0..3000 {
                let message = Message::new(id).with_bytes(vec![1; 1000]);
                right.send(message, PATIENCE).expect("send");
            }
            right
        });
        assert_eq!(borrower.receive(lent, 10).len(), 10);
        let port = borrower.kill(custody);
        for id in 10..3000 {
            assert_eq!(port.receive(PATIENCE).expect("message").id(), id);
        }
        drop(sender.join().expect("no panic"));
    }
}

in_both_flavours!(only_a_message_counts_as_one);
fn only_a_message_counts_as_one(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let has_message = |port: &ReceiveRight| port.has_message().expect("look");
    assert!(!has_message(&port));
    let copy = right.copy(PATIENCE).expect("copy");
    assert!(!has_message(&port), "a copy is none");
    drop(copy);
    assert!(!has_message(&port), "nor is one that goes away");
    right.send(Message::new(1), PATIENCE).expect("send");
    assert!(has_message(&port) && has_message(&port));
    assert_eq!(port.queued(), 1);
    assert_eq!(ids_in(&port), [1], "it was only looked at");
    assert!(!has_message(&port));
    let again = port.make_send().expect("send right");
    again.send(Message::new(2), PATIENCE).expect("send");
    drop(again);
    assert!(has_message(&port), "the message of one that left counts");
}

in_both_flavours!(the_descriptor_tells_of_messages_after_a_look);
fn the_descriptor_tells_of_messages_after_a_look(flavour: Flavour) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let (right, port) = right_and_port(flavour);
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    right.send(Message::new(1), PATIENCE).expect("send");
    borrower.receive(lent, 1);
    let port = borrower.kill(custody);
    assert!(!port.has_message().expect("look"));
    let is_readable = |seconds| {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&port, PollFlags::IN)], Some(&time)).expect("poll") > 0
    };
    // The sender may still say who it is, and then there is nothing.
    while is_readable(0) {
        assert!(!port.has_message().expect("look"));
    }
    right.send(Message::new(2), PATIENCE).expect("send");
    assert!(is_readable(20));
    assert!(port.has_message().expect("look"));
}

in_both_flavours!(waiting_requests_are_refused_with_a_reason_and_never_served);
fn waiting_requests_are_refused_with_a_reason_and_never_served(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let begin = |id| {
        right
            .begin_request(Message::new(id), PATIENCE)
            .expect("send")
    };
    send(&right, 1..3);
    let refused = begin(3);
    send(&right, 4..6);
    assert_eq!(port.refuse_waiting(&why()), 1);
    assert_eq!(port.refuse_waiting(&why()), 0, "once is enough");
    match refused.wait(PATIENCE) {
        Err(ReplyError::Failed(failure)) => assert_eq!(*failure, why()),
        other => panic!("{other:?}"),
    }
    let served = begin(6);
    // Also by whoever gets the port afterwards.
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert_eq!(borrower.receive(lent, 3), [1, 2, 4]);
    let port = borrower.kill(custody);
    assert_eq!(port.receive(PATIENCE).expect("message").id(), 5);
    let mut request = port.receive(PATIENCE).expect("request");
    assert_eq!(request.id(), 6);
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(7)).expect("answer");
    assert_eq!(served.wait(PATIENCE).expect("answer").id(), 7);
}

in_both_flavours!(a_refused_request_survives_a_borrower_that_did_not_come_to_it);
fn a_refused_request_survives_a_borrower_that_did_not_come_to_it(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    send(&right, 1..3);
    let refused = right
        .begin_request(Message::new(3), PATIENCE)
        .expect("send");
    send(&right, 4..5);
    port.refuse_waiting(&why());
    assert!(matches!(refused.wait(PATIENCE), Err(ReplyError::Failed(_))));
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert_eq!(borrower.receive(lent, 1), [1]);
    let port = borrower.kill(custody);
    assert_eq!(ids_in(&port), [2, 4]);
}

in_both_flavours!(messages_with_the_same_bytes_are_told_apart_by_their_turn);
fn messages_with_the_same_bytes_are_told_apart_by_their_turn(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    for _ in 0..3 {
        right.send_bytes(1, b"ping", PATIENCE).expect("send");
    }
    let digest = |port: &ReceiveRight| {
        let head = port.head().expect("look").expect("a message");
        head.digest()
    };
    let first = digest(&port);
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert_eq!(borrower.receive(lent, 1), [1]);
    let port = borrower.kill(custody);
    let second = digest(&port);
    assert_ne!(first, second, "one was received in between");
    assert_eq!(digest(&port), second);
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert!(borrower.receive(lent, 0).is_empty());
    let port = borrower.kill(custody);
    assert_eq!(digest(&port), second, "nothing was");
}

in_both_flavours!(the_same_message_is_known_again);
fn the_same_message_is_known_again(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let text = |id, text: &str| Message::new(id).with_bytes(text);
    right.send(text(1, "poison"), PATIENCE).expect("send");
    right.send(text(2, "food"), PATIENCE).expect("send");
    let head = port.head().expect("look").expect("a message");
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert!(borrower.receive(lent, 0).is_empty());
    let port = borrower.kill(custody);
    let again = port.head().expect("look").expect("a message");
    assert_eq!(head.digest(), again.digest());
    let taken = port.receive_head(again).expect("look").expect("it");
    assert_eq!(taken.bytes(), b"poison");
    assert!(port.receive_head(again).expect("look").is_none());
    let next = port.head().expect("look").expect("a message");
    assert_ne!(next.digest(), again.digest());
    assert_eq!(ids_in(&port), [2]);
}

#[test]
fn a_port_that_nobody_keeps_dies_as_ever() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    let (custody, lent) = lend(port);
    drop(custody);
    right.send(Message::new(1), PATIENCE).expect("send");
    assert_eq!(ids_in(&lent), [1]);
    drop(lent);
    let sent = right.send(Message::new(1), PATIENCE);
    let kind = sent.map_err(|error| format!("{:?}", error.kind()));
    assert_eq!(kind, Err(format!("{:?}", SendErrorKind::DeadName)));
}

/// Remembers what it is told, as a keeper would that writes it down.
#[derive(Default)]
struct Memory(Mutex<HashMap<ChannelId, Told>>);

/// What it is told of one channel.
type Told = (Vec<u8>, Vec<OwnedFd>);

impl Memory {
    fn parts(&self) -> Vec<ChannelParts> {
        let known = std::mem::take(&mut *self.0.lock().expect("no panic"));
        let parts = known.into_values();
        parts
            .map(|(record, fds)| ChannelParts::new(&record, fds).expect("parts"))
            .collect()
    }

    fn len(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    /// A duplicate of one of the descriptors of the only channel.
    fn descriptor(&self, at: usize) -> OwnedFd {
        let known = self.0.lock().expect("no panic");
        let (_, (_, fds)) = known.iter().next().expect("a channel");
        fds[at].try_clone().expect("duplicate")
    }
}

impl Witness for Memory {
    fn changed(&self, channel: ChannelId, record: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let own = descriptors.iter().map(|fd| fd.try_clone_to_owned());
        let own = own.collect::<Result<_, _>>().expect("descriptors");
        let mut known = self.0.lock().expect("no panic");
        known.insert(channel, (record.to_vec(), own));
    }

    fn gone(&self, channel: ChannelId) {
        self.0.lock().expect("no panic").remove(&channel);
    }
}

/// What a witness was told of, by the numbers of descriptors alone.
#[derive(Default)]
struct Numbers(Mutex<HashMap<ChannelId, Vec<(RawFd, PathBuf)>>>);

impl Numbers {
    fn link(number: RawFd) -> Option<PathBuf> {
        fs::read_link(format!("/proc/self/fd/{number}")).ok()
    }

    fn are_right(&self) -> bool {
        let known = self.0.lock().expect("no panic");
        let mut all = known.values().flatten();
        all.all(|(number, link)| Self::link(*number).as_ref() == Some(link))
    }
}

impl Witness for Numbers {
    fn changed(&self, channel: ChannelId, _: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let numbers = descriptors.iter().map(AsRawFd::as_raw_fd);
        let links = numbers.map(|number| (number, Self::link(number).expect("open")));
        let links = links.collect();
        self.0.lock().expect("no panic").insert(channel, links);
        assert!(self.are_right(), "closed before it was told of");
    }

    fn gone(&self, channel: ChannelId) {
        assert!(self.are_right(), "closed before it was told of");
        self.0.lock().expect("no panic").remove(&channel);
    }
}

// Whoever is killed at any moment has told the truth.
in_both_flavours!(a_witness_knows_the_descriptors_of_a_port_that_is_lent_and_comes_back);
fn a_witness_knows_the_descriptors_of_a_port_that_is_lent_and_comes_back(flavour: Flavour) {
    let numbers = Arc::new(Numbers::default());
    let parts = PortParts::fresh().expect("parts");
    let port = ReceiveRight::witnessed(parts, numbers.clone()).expect("port");
    let rights: Vec<_> = (0..3).map(|_| right_to(&port, flavour)).collect();
    assert!(numbers.are_right());
    let (custody, lent) = port.lend().expect("lend");
    assert!(numbers.are_right(), "what is lent");
    drop(lent);
    let (port, _) = custody.take_back().expect("take back");
    assert!(numbers.are_right(), "what is back");
    let copy = rights[0].copy(PATIENCE).expect("copy");
    wait_until(|| !port.has_message().expect("look"));
    drop((copy, rights));
    let (mut custody, lent) = port.lend().expect("lend");
    drop(custody.make_send(0).expect("right"));
    let gone = lent.receive(Timeout::after(Duration::from_millis(1)));
    gone.expect_err("nothing was sent");
    assert_eq!(custody.attend(), Presence::Lent);
    custody.let_go();
    assert!(numbers.0.lock().expect("no panic").is_empty());
}

in_both_flavours!(a_port_is_made_anew_of_what_its_witness_saw);
fn a_port_is_made_anew_of_what_its_witness_saw(flavour: Flavour) {
    let memory = Arc::new(Memory::default());
    let ledger = PortParts::make_ledger().expect("ledger");
    let copy = ledger.try_clone().expect("duplicate");
    let parts = PortParts {
        ledger: Some(copy),
        ..PortParts::fresh().expect("parts")
    };
    let id = parts.id;
    let port = ReceiveRight::witnessed(parts, memory.clone()).expect("port");
    let right = port.make_send().expect("send right");
    bring(&right, &port, flavour);
    let copy = right.copy(PATIENCE).expect("copy");
    let begin = |id| {
        right
            .begin_request(Message::new(id), PATIENCE)
            .expect("send")
    };
    let (taken, unread) = (begin(1), begin(2));
    let request = port.receive(PATIENCE).expect("request");
    copy.send(Message::new(3), PATIENCE).expect("send");
    wait_until(|| {
        port.has_message().expect("look");
        memory.len() == 2
    });
    // As if the process had been killed here: nothing is closed or said any more.
    std::mem::forget((request, port));
    let parts = PortParts {
        id,
        channels: memory.parts(),
        ledger: Some(ledger),
        refused: Vec::new(),
    };
    let port = ReceiveRight::recover(parts, memory.clone(), None).expect("port");
    assert!(matches!(taken.wait(PATIENCE), Err(ReplyError::NoReply)));
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let mut message = port.receive(PATIENCE).expect("message");
        ids.push(message.id());
        if let Some(reply) = message.take_reply() {
            reply.send(Message::new(20)).expect("answer");
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    assert_eq!(unread.wait(PATIENCE).expect("answer").id(), 20);
    assert_eq!(memory.len(), 2, "it is told again");
    drop((right, copy));
    wait_until(|| {
        assert!(matches!(
            port.receive(Timeout::POLL),
            Err(ReceiveError::TimedOut)
        ));
        memory.len() == 0
    });
}

#[test]
fn a_witness_is_told_that_a_port_was_killed() {
    let memory = Arc::new(Memory::default());
    let parts = PortParts::fresh().expect("parts");
    let port = ReceiveRight::witnessed(parts, memory.clone()).expect("port");
    let rights = [(); 3].map(|()| port.make_send().expect("send right"));
    assert_eq!(memory.len(), 3);
    drop(port);
    assert_eq!(memory.len(), 0);
    assert!(rights.iter().all(SendRight::is_dead));
}

/// Panics, as if the process had been killed there, once it is told.
struct Mortal(std::sync::atomic::AtomicBool);

impl Witness for Mortal {
    fn changed(&self, _: ChannelId, _: &[u8], _: &[BorrowedFd<'_>]) {
        let dies = self.0.load(std::sync::atomic::Ordering::Relaxed);
        assert!(!dies, "killed before it was written down");
    }

    fn gone(&self, _: ChannelId) {}
}

#[test]
fn what_a_keeper_had_heard_and_not_written_down_is_heard_again() {
    let witness = Arc::new(Mortal(false.into()));
    let parts = PortParts::fresh().expect("parts");
    let port = ReceiveRight::witnessed(parts, witness.clone()).expect("port");
    let right = port.make_send().expect("send right");
    let (mut custody, lent) = lend(port);
    let copy = right.copy(PATIENCE).expect("copy");
    assert!(ids_in(&lent).is_empty());
    let (id, own) = (custody.id(), custody.descriptors());
    let own = own.map(|fd| fd.try_clone_to_owned().expect("duplicate"));
    witness.0.store(true, std::sync::atomic::Ordering::Relaxed);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| custody.attend()));
    assert!(killed.is_err());
    drop(custody);
    let mut custody = Custody::restore(id, Vec::new(), own, None).expect("restore");
    assert_eq!(custody.attend(), Presence::Lent);
    assert_eq!(custody.channels(), 1);
    drop(copy);
}

in_both_flavours!(custody_is_put_together_again);
fn custody_is_put_together_again(flavour: Flavour) {
    let memory = Arc::new(Memory::default());
    let parts = PortParts::fresh().expect("parts");
    let port = ReceiveRight::witnessed(parts, memory.clone()).expect("port");
    let right = port.make_send().expect("send right");
    bring(&right, &port, flavour);
    let borrower = Borrower::start();
    let (mut custody, lent) = lend(port);
    let made = custody.make_send(7).expect("send right");
    send(&right, 1..4);
    assert_eq!(borrower.receive(lent, 1), [1]);
    let id = custody.id();
    let own = custody
        .descriptors()
        .map(|fd| fd.try_clone_to_owned().expect("duplicate"));
    drop(custody);
    let custody = Custody::restore(id, memory.parts(), own, Some(memory.clone()));
    made.send(Message::new(4), PATIENCE).expect("send");
    let port = borrower.kill(custody.expect("restore"));
    let mut ids = ids_in(&port);
    ids.sort_unstable();
    assert_eq!(ids, [2, 3, 4]);
}

/// Where the memory of a channel says that its sender waits for room.
const SENDER_SLEEPS: u64 = 384;

fn word(memory: &OwnedFd, at: u64) -> u64 {
    let mut word = [0; 8];
    rustix::io::pread(memory, &mut word, at).expect("read");
    u64::from_ne_bytes(word)
}

fn set_word(memory: &OwnedFd, at: u64, word: u64) {
    rustix::io::pwrite(memory, &word.to_ne_bytes(), at).expect("write");
}

#[test]
fn a_sender_goes_on_whom_the_receiver_was_about_to_wake() {
    let memory = Arc::new(Memory::default());
    let parts = PortParts::fresh().expect("parts");
    let port = ReceiveRight::witnessed(parts, memory.clone()).expect("port");
    let right = port.make_send().expect("send right");
    bring(&right, &port, Flavour::Ring);
    let shared = memory.descriptor(1);
    let borrower = Borrower::start();
    let (custody, lent) = lend(port);
    assert!(borrower.receive(lent, 0).is_empty());
    let sender = std::thread::spawn(move || {
        for id in 0..1000 {
            let message = Message::new(id).with_bytes(vec![1; 1000]);
            right.send(message, PATIENCE).expect("send");
        }
        right
    });
    wait_until(|| word(&shared, SENDER_SLEEPS) != 0);
    // As a receiver leaves it that gives space back and is killed before it rings.
    set_word(&shared, SENDER_SLEEPS, 0);
    let port = borrower.kill(custody);
    for id in 0..1000 {
        // Less than the sender's own patience, after which it looks again by itself.
        let message = port.receive(Duration::from_secs(10)).expect("message");
        assert_eq!(message.id(), id);
    }
    drop(sender.join().expect("no panic"));
}

in_both_flavours!(what_a_client_does_wrong_leaves_nothing_in_the_ledger);
fn what_a_client_does_wrong_leaves_nothing_in_the_ledger(flavour: Flavour) {
    use portolan_port::PortId;
    use portolan_wire::packet::{Flags, Header, Kind, RightDescriptor, RightKind};
    let (right, port) = right_and_port(flavour);
    let (custody, lent) = lend(port);
    let [_, ledger] = custody.descriptors();
    let ledger = ledger.try_clone_to_owned().expect("duplicate");
    let bad = lent.make_send().expect("right");
    let bad = bad.into_socket().expect("not used");
    // A request whose right is not there.
    let header = Header {
        rights: 1,
        ..Header::control(Kind::Message, 9)
    };
    let missing = RightDescriptor {
        kind: RightKind::Send,
        fds: 1,
        port: PortId::from_bytes([1; 16]),
    };
    assert_eq!(header.flags, Flags::NONE);
    let packet = [&header.encode()[..], &missing.encode()].concat();
    rustix::io::write(&bad, &packet).expect("write");
    right.send(Message::new(1), PATIENCE).expect("send");
    assert_eq!(lent.receive(PATIENCE).expect("message").id(), 1);
    assert!(ids_in(&lent).is_empty());
    // Behind three words, each entry begins with its channel.
    let first_entry = 3 * size_of::<u64>() as u64;
    assert_eq!(word(&ledger, 8), 1, "it was written down");
    assert_eq!(word(&ledger, first_entry), 0, "and crossed out");
}

#[test]
fn a_keeper_that_is_busy_hears_of_everything_later() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    let (mut custody, lent) = lend(port);
    // More than the guard has room for.
    let mut copies = Vec::new();
    for _ in 0..40 {
        for _ in 0..20 {
            copies.push(right.copy(PATIENCE).expect("copy"));
        }
        right.send(Message::new(1), PATIENCE).expect("send");
        lent.receive(PATIENCE).expect("message");
    }
    let gone = copies.split_off(400);
    let count = gone.len();
    drop(gone);
    wait_until(|| {
        assert!(ids_in(&lent).is_empty());
        custody.attend();
        custody.channels() == 1 + 800 - count
    });
    for (id, copy) in (0..).zip(&copies) {
        copy.send(Message::new(id), PATIENCE).expect("send");
    }
    std::mem::forget(lent);
    let (port, _) = custody.take_back().expect("take back");
    let mut ids = ids_in(&port);
    ids.sort_unstable();
    assert_eq!(ids, (0..400).collect::<Vec<_>>());
}

in_both_flavours!(a_client_that_waits_for_many_answers_keeps_its_right);
fn a_client_that_waits_for_many_answers_keeps_its_right(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let (custody, lent) = lend(port);
    // More than its socket has room for.
    let mut taken = Vec::new();
    let pending: Vec<_> = (0..700)
        .map(|id| {
            let pending = right.begin_request(Message::new(id), PATIENCE);
            taken.push(lent.receive(PATIENCE).expect("request"));
            pending.expect("send")
        })
        .collect();
    right.send(Message::new(700), PATIENCE).expect("send");
    // As if the process had been killed here.
    std::mem::forget((taken, lent));
    let (port, _) = custody.take_back().expect("take back");
    for mut pending in pending {
        let waited = loop {
            assert!(port.has_message().expect("look"), "the rest is still there");
            match pending.poll() {
                Err(ReplyError::TimedOut) => std::thread::yield_now(),
                waited => break waited,
            }
        };
        assert!(matches!(waited, Err(ReplyError::NoReply)), "{waited:?}");
    }
    assert_eq!(ids_in(&port), [700]);
}

in_both_flavours!(many_refusals_go_on_with_the_port);
fn many_refusals_go_on_with_the_port(flavour: Flavour) {
    let (right, port) = right_and_port(flavour);
    let (mut custody, mut lent) = lend(port);
    let mut taken = Vec::new();
    let pending: Vec<_> = (0..700)
        .map(|id| {
            let pending = right.begin_request(Message::new(id), PATIENCE);
            taken.push(lent.receive(PATIENCE).expect("request"));
            pending.expect("send")
        })
        .collect();
    right.send(Message::new(700), PATIENCE).expect("send");
    std::mem::forget(taken);
    for _ in 0..3 {
        // As if the process had been killed here.
        std::mem::forget(lent);
        let (port, _) = custody.take_back().expect("take back");
        (custody, lent) = lend(port);
    }
    for mut pending in pending {
        let waited = loop {
            assert!(lent.has_message().expect("look"), "the rest is still there");
            match pending.poll() {
                Err(ReplyError::TimedOut) => std::thread::yield_now(),
                waited => break waited,
            }
        };
        assert!(matches!(waited, Err(ReplyError::NoReply)), "{waited:?}");
    }
    assert_eq!(ids_in(&lent), [700]);
}
