//! A port whose receivers are killed at any moment, while senders of every kind go on.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portolan_port::{
    Custody, Message, Presence, ReceiveBatch, ReceiveRight, ReplyError, RequestError, Right,
    SendRight, Timeout,
};
use portolan_testkit::process::{self, Process, play};
use portolan_testkit::{soak, wait};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// Bytes that do not fit in a packet, and are lent.
const LONG: usize = 256 << 10;

#[test]
fn play_a_part() {
    let Some((part, socket)) = process::part() else {
        return;
    };
    assert_eq!(part, "borrow");
    borrow(socket);
}

/// Receives from a port for ever, and writes down what has come before it answers.
fn borrow(socket: OwnedFd) {
    let orders = ReceiveRight::new().expect("port");
    orders.adopt(socket, 0).expect("adopt");
    let mut order = orders.receive(PATIENCE).expect("order");
    let path = String::from_utf8(order.bytes().to_vec()).expect("path");
    let mut log = File::options().append(true).open(path).expect("log");
    let Some(Right::Receive(port)) = order.take_rights().pop() else {
        panic!("no port came");
    };
    match order.id() {
        TOGETHER => receive_together(&port, &mut log),
        IN_TWO_THREADS => {
            let mut other = log.try_clone().expect("duplicate");
            std::thread::scope(|scope| {
                scope.spawn(|| receive_one_by_one(&port, &mut log));
                receive_one_by_one(&port, &mut other);
            });
        }
        ON_THE_MOVE => receive_on_the_move(port, &mut log),
        _ => receive_one_by_one(&port, &mut log),
    }
}

/// What a borrower is told to do.
const TOGETHER: i32 = 1;
const IN_TWO_THREADS: i32 = 2;
const ON_THE_MOVE: i32 = 3;

fn receive_one_by_one(port: &ReceiveRight, log: &mut File) {
    while let Ok(message) = port.receive(PATIENCE) {
        serve(message, log);
    }
}

/// The port moves again and again, as it would to other processes.
fn receive_on_the_move(mut port: ReceiveRight, log: &mut File) {
    let other = ReceiveRight::new().expect("port");
    let there = other.make_send().expect("right");
    loop {
        for _ in 0..20 {
            let Ok(message) = port.receive(PATIENCE) else {
                return;
            };
            serve(message, log);
        }
        let message = Message::new(0).with_right(port);
        there.send(message, PATIENCE).expect("move");
        let mut message = other.receive(PATIENCE).expect("the port");
        let Some(Right::Receive(moved)) = message.take_rights().pop() else {
            panic!("no port came");
        };
        port = moved;
    }
}

fn serve(mut message: Message, log: &mut File) {
    log.write_all(&entry(message.badge(), message.id()))
        .expect("log");
    if let Some(reply) = message.take_reply() {
        reply.send(Message::new(message.id())).ok();
    }
}

fn receive_together(port: &ReceiveRight, log: &mut File) {
    let mut batch = ReceiveBatch::new();
    while port.receive_batch(&mut batch, PATIENCE).is_ok() {
        match batch.take_message() {
            Some(message) => serve(message, log),
            None => {
                let badge = batch.badge();
                let entries = batch.messages().map(|message| entry(badge, message.id()));
                log.write_all(&entries.collect::<Vec<_>>().concat())
                    .expect("log");
            }
        }
    }
}

/// Which sender a message is from, and its number.
fn entry(badge: u64, id: i32) -> [u8; 16] {
    let sender = badge.to_le_bytes();
    let number = i64::from(id).to_le_bytes();
    let mut entry = [0; 16];
    entry[..8].copy_from_slice(&sender);
    entry[8..].copy_from_slice(&number);
    entry
}

fn entries(log: &Path) -> Vec<(u64, i64)> {
    let bytes = std::fs::read(log).expect("log");
    let (words, rest) = bytes.as_chunks::<16>();
    assert!(rest.is_empty(), "half an entry");
    let number = |word: &[u8]| i64::from_le_bytes(word.try_into().expect("8 bytes"));
    words
        .iter()
        .map(|word| (number(&word[..8]).cast_unsigned(), number(&word[8..])))
        .collect()
}

/// Sends numbered messages until it is told to stop, and gives the last number.
fn stream(right: &SendRight, badge: u64, stop: &AtomicBool) -> i32 {
    let other = ReceiveRight::new().expect("port");
    if badge % 2 == 1 {
        // Asking keeps it on the socket.
        std::os::fd::AsFd::as_fd(right);
    }
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        let message = Message::new(id);
        match (badge + u64::from(id.unsigned_abs())) % 7 {
            0 | 1 => request(right, message, badge),
            2 => {
                let message = message.with_right(other.make_send().expect("right"));
                right.send(message, PATIENCE).expect("send a right");
            }
            // Through a channel of its own, so that its place among the others is open.
            4 if id % 5 == 0 => {
                let copy = right.copy(PATIENCE).expect("copy");
                copy.send(Message::new(-id), PATIENCE)
                    .expect("send through a copy");
            }
            3 if id % 50 == 0 => {
                let message = message.with_bytes(vec![7; LONG]);
                right.send(message, PATIENCE).expect("send much");
            }
            _ => {
                let message = message.with_bytes(vec![1; 1000 * (id % 3) as usize]);
                right.send(message, PATIENCE).expect("send");
            }
        }
    }
    id
}

fn request(right: &SendRight, message: Message, badge: u64) {
    let id = message.id();
    match right.request(message, PATIENCE, PATIENCE) {
        Ok(answer) => assert_eq!(answer.id(), id),
        Err(RequestError::Reply(ReplyError::NoReply)) => {}
        Err(other) => panic!("request {id} of sender {badge}: {other:?}"),
    }
}

struct Borrower {
    process: Process,
    _orders: SendRight,
}

impl Borrower {
    fn start(port: ReceiveRight, log: &Path, way: i32) -> Self {
        let kind = SocketType::SEQPACKET;
        let (here, there) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("pair");
        let orders = SendRight::from_socket(here).expect("a right");
        let order = Message::new(way).with_bytes(log.to_str().expect("path"));
        orders
            .send(order.with_right(port), PATIENCE)
            .expect("send the port");
        Self {
            process: play("borrow", there),
            _orders: orders,
        }
    }

    /// Kills it some time after it has begun to receive.
    fn kill_after(mut self, mut custody: Custody, log: &Path, micros: u64) -> ReceiveRight {
        let before = std::fs::metadata(log).expect("log").len();
        wait_until(|| {
            custody.attend();
            std::fs::metadata(log).expect("log").len() > before
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(micros) {
            custody.attend();
        }
        self.process.kill();
        wait_until(|| custody.attend() == Presence::Back);
        custody.take_back().expect("take back").0
    }
}

fn wait_until(is_so: impl FnMut() -> bool) {
    wait::until(Duration::from_secs(20), "it is so", is_so);
}

/// Kills in one round.
const KILLS: usize = 8;

/// Senders in one round.
const SENDERS: u64 = 4;

#[test]
fn soak_receivers_that_are_killed_lose_what_they_had_in_hand_alone() {
    soak::for_each_seed(kill_receivers);
}

fn kill_receivers(seed: u64) {
    let mut random = seed;
    let way = i32::try_from(seed % 4).expect("small");
    let log = std::env::temp_dir().join(format!("portolan-kept-{}-{seed}", std::process::id()));
    File::create(&log).expect("log");
    let mut port = ReceiveRight::new().expect("port");
    let rights: Vec<_> = (0..SENDERS)
        .map(|badge| port.make_send_badged(badge).expect("right"))
        .collect();
    let stop = AtomicBool::new(false);
    let (sent, rest) = std::thread::scope(|scope| {
        let stop = &stop;
        let senders: Vec<_> = (0..)
            .zip(&rights)
            .map(|(badge, right)| scope.spawn(move || stream(right, badge, stop)))
            .collect();
        for _ in 0..KILLS {
            random = random
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let (custody, lent) = port.lend().expect("lend");
            let micros = (random >> 33) % 20_000;
            port = Borrower::start(lent, &log, way).kill_after(custody, &log, micros);
        }
        stop.store(true, Ordering::Relaxed);
        let rest = serve_until(&port, || senders.iter().all(|sender| sender.is_finished()));
        let sent = senders.into_iter().map(|sender| sender.join());
        let sent: Vec<_> = sent.map(|last| last.expect("a sender")).collect();
        (sent, rest)
    });
    let received = [entries(&log), rest].concat();
    std::fs::remove_file(&log).ok();
    let in_hand = match way {
        IN_TWO_THREADS => 2 * KILLS,
        TOGETHER => usize::MAX,
        _ => KILLS,
    };
    check(&received, &sent, in_hand, way != IN_TWO_THREADS);
}

/// Serves the port in this process until there is nothing more to come.
fn serve_until(port: &ReceiveRight, is_over: impl Fn() -> bool) -> Vec<(u64, i64)> {
    let mut received = Vec::new();
    loop {
        let was_over = is_over();
        match port.receive(Duration::from_millis(20)) {
            Ok(mut message) => {
                received.push((message.badge(), message.id().into()));
                if let Some(reply) = message.take_reply() {
                    reply.send(Message::new(message.id())).expect("answer");
                }
            }
            Err(_) if was_over => return received,
            Err(_) => {}
        }
    }
}

/// Each receiver that was killed may have had what it was given last in hand; all else came once, and
/// in order.
fn check(received: &[(u64, i64)], sent: &[i32], in_hand: usize, is_in_order: bool) {
    let mut lost = 0;
    for (badge, last) in (0..).zip(sent) {
        let own = received.iter().filter(|(sender, _)| *sender == badge);
        let own: Vec<i64> = own.map(|(_, number)| *number).collect();
        let through_right = || own.iter().filter(|number| **number > 0);
        if is_in_order {
            let swapped = through_right().zip(through_right().skip(1));
            let swapped: Vec<_> = swapped.filter(|(one, next)| one >= next).collect();
            assert!(swapped.is_empty(), "out of order: {swapped:?}");
        }
        let numbers: HashSet<i64> = own.iter().map(|number| number.abs()).collect();
        assert_eq!(
            numbers.len(),
            own.len(),
            "sender {badge}: something came twice"
        );
        lost += usize::try_from(*last).expect("not negative") - numbers.len();
    }
    assert!(
        lost <= in_hand,
        "{lost} messages were lost, {in_hand} may be"
    );
}
