//! Clients that are slow or gone, and what they do to those who answer them.

mod flavour;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flavour::port;
use portolan_port::{
    Message, Notification, PendingReply, PortSet, ReceiveError, ReceiveRight, ReplyError, Right,
    SendErrorKind, SendOnceRight, SendRight, Timeout,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::{in_both_flavours, soak, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// Asks, and gives what the server then holds.
fn ask<'a>(port: &ReceiveRight, right: &'a SendRight) -> (PendingReply<'a>, SendOnceRight) {
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let mut request = port.receive(PATIENCE).expect("receive");
    (pending, request.take_reply().expect("reply right"))
}

/// Answers that the client does not fetch, more than its socket or its memory has room for.
fn answer_many<'a>(port: &ReceiveRight, right: &'a SendRight) -> Vec<PendingReply<'a>> {
    // All at once, because each request takes the answers that have come through memory.
    let asked: Vec<_> = (0..60).map(|_| ask(port, right)).collect();
    let answered = (0..).zip(asked).map(|(id, (pending, reply))| {
        let answer = Message::new(id).with_bytes(vec![1; 20_000]);
        reply.send(answer).expect("never waits");
        pending
    });
    answered.collect()
}

fn fill(right: &SendRight) {
    while right.send(Message::new(0), Timeout::POLL).is_ok() {}
}

fn take_receive(message: &mut Message) -> ReceiveRight {
    match message.take_rights().pop() {
        Some(Right::Receive(port)) => port,
        other => panic!("expected a receive right, got {other:?}"),
    }
}

fn is_readable(fd: &impl AsFd) -> bool {
    wait::is_readable(fd, Duration::ZERO)
}

in_both_flavours!(a_reply_right_of_a_dead_client_passes_on_and_is_dead);

fn a_reply_right_of_a_dead_client_passes_on_and_is_dead(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (worker, to_worker) = self::port(flavour);
    let (pending, reply) = ask(&port, &right);
    drop(pending);
    drop(right);
    to_worker
        .send(Message::new(1).with_reply(reply), PATIENCE)
        .expect("the worker is alive");
    let mut job = worker.receive(PATIENCE).expect("receive");
    let reply = job.take_reply().expect("reply right");
    let error = reply.send(Message::new(2)).expect_err("nobody waits");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
    assert!(!to_worker.is_dead());
}

in_both_flavours!(a_reply_right_of_a_slow_client_passes_on);

fn a_reply_right_of_a_slow_client_passes_on(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (worker, to_worker) = self::port(flavour);
    let slow = answer_many(&port, &right);
    let (pending, reply) = ask(&port, &right);
    to_worker
        .send(Message::new(1).with_reply(reply), PATIENCE)
        .expect("the worker has room");
    let mut job = worker.receive(PATIENCE).expect("receive");
    let reply = job.take_reply().expect("reply right");
    reply.send(Message::new(2)).expect("answer");
    let server = thread::spawn(move || port.receive(PATIENCE).map(|message| message.id()));
    for (id, pending) in (0..).zip(slow) {
        assert_eq!(pending.wait(PATIENCE).expect("answer").id(), id);
    }
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 2);
    right.send(Message::new(3), PATIENCE).expect("send");
    assert_eq!(server.join().expect("server").expect("receive"), 3);
}

in_both_flavours!(an_answer_with_a_right_to_a_full_port_comes_back);

fn an_answer_with_a_right_to_a_full_port_comes_back(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (_full, to_full) = self::port(flavour);
    fill(&to_full);
    let (pending, reply) = ask(&port, &right);
    let answer = Message::new(2).with_right(to_full);
    let error = reply.send(answer).expect_err("there is no room for a copy");
    assert!(matches!(error.kind(), SendErrorKind::TimedOut), "{error}");
    assert_eq!(error.into_message().rights().len(), 1);
    assert!(matches!(pending.wait(PATIENCE), Err(ReplyError::NoReply)));
    assert!(!is_readable(&port), "the port waits for room elsewhere");
}

in_both_flavours!(an_answer_can_carry_another_reply_right_of_its_client);

fn an_answer_can_carry_another_reply_right_of_its_client(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (first, reply) = ask(&port, &right);
    let (second, other) = ask(&port, &right);
    reply
        .send(Message::new(2).with_right(other))
        .expect("answer");
    let mut answer = first.wait(PATIENCE).expect("answer");
    let Some(Right::SendOnce(own)) = answer.take_rights().pop() else {
        panic!("expected a send-once right")
    };
    own.send(Message::new(3)).expect("answer oneself");
    assert_eq!(second.wait(PATIENCE).expect("answer").id(), 3);
}

in_both_flavours!(answers_that_were_kept_go_out_after_a_move_that_failed);

fn answers_that_were_kept_go_out_after_a_move_that_failed(flavour: Flavour) {
    let (port, right) = port(flavour);
    let slow = answer_many(&port, &right);
    let (dead, to_dead) = self::port(flavour);
    drop(dead);
    let error = to_dead
        .send(Message::new(1).with_right(port), PATIENCE)
        .expect_err("dead");
    let port = take_receive(&mut error.into_message());
    let server = thread::spawn(move || port.receive(PATIENCE).map(|message| message.id()));
    for (id, pending) in (0..).zip(slow) {
        assert_eq!(pending.wait(PATIENCE).expect("answer").id(), id);
    }
    right.send(Message::new(3), PATIENCE).expect("send");
    assert_eq!(server.join().expect("server").expect("receive"), 3);
}

in_both_flavours!(answers_that_were_kept_when_the_port_moved_are_not_waited_for);

fn answers_that_were_kept_when_the_port_moved_are_not_waited_for(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
    let slow = answer_many(&port, &right);
    to_other
        .send(Message::new(1).with_right(port), PATIENCE)
        .expect("move");
    let moved = take_receive(&mut other.receive(PATIENCE).expect("receive"));
    let last = slow.into_iter().next_back().expect("the last answer");
    let waited = last.wait(PATIENCE);
    assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
    drop(moved);
}

in_both_flavours!(soak_an_answer_with_the_port_itself_does_not_lock_up);

fn soak_an_answer_with_the_port_itself_does_not_lock_up(flavour: Flavour) {
    soak::rounds().for_each(|_| answer_with_the_port_itself(flavour));
}

fn answer_with_the_port_itself(flavour: Flavour) {
    for _ in 0..200 {
        let (port, right) = port(flavour);
        let set = PortSet::new().expect("set");
        set.insert(&port).expect("insert");
        let (pending, reply) = ask(&port, &right);
        let (started, go) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    right.begin_request(Message::new(2), PATIENCE).ok();
                }
            });
            scope.spawn(|| {
                started.send(()).expect("the other thread waits");
                while set.receive(Duration::from_millis(1)).is_ok() {}
            });
            go.recv().expect("the set is being received from");
            reply
                .send(Message::new(3).with_right(port))
                .expect("answer");
        });
        drop(take_receive(&mut pending.wait(PATIENCE).expect("answer")));
    }
}

// A send-once right is used once and has no memory.
#[test]
fn each_send_once_right_makes_one_message_whoever_receives() {
    const RIGHTS: usize = 4000;
    let port = ReceiveRight::new().expect("port");
    let done = AtomicBool::new(false);
    let count = || {
        let (mut sent, mut dropped) = (0, 0);
        loop {
            let last = done.load(Ordering::Acquire);
            match port.receive(Duration::from_millis(10)) {
                Ok(message) if message.notification() == Some(Notification::SendOnce) => {
                    dropped += 1;
                }
                Ok(_) => sent += 1,
                Err(_) if last => return (sent, dropped),
                Err(_) => {}
            }
        }
    };
    thread::scope(|scope| {
        let receivers: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        for _ in 0..RIGHTS {
            let used = port.make_send_once().expect("send-once right");
            drop(port.make_send_once().expect("send-once right"));
            used.send(Message::new(1)).expect("send");
        }
        done.store(true, Ordering::Release);
        let counts = receivers
            .into_iter()
            .map(|one| one.join().expect("receiver"));
        let sum = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(sum, (RIGHTS, RIGHTS));
    });
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

in_both_flavours!(a_request_whose_reply_right_moved_is_readable_when_it_is_answered);

fn a_request_whose_reply_right_moved_is_readable_when_it_is_answered(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (mut pending, reply) = ask(&port, &right);
    let (worker, to_worker) = self::port(flavour);
    to_worker
        .send(Message::new(1).with_reply(reply), PATIENCE)
        .expect("pass it on");
    assert!(is_readable(&pending), "there is news");
    assert!(matches!(pending.poll(), Err(ReplyError::TimedOut)));
    assert!(!is_readable(&pending));
    let mut job = worker.receive(PATIENCE).expect("receive");
    let reply = job.take_reply().expect("reply right");
    reply.send(Message::new(2)).expect("answer");
    assert!(is_readable(&pending));
    assert_eq!(pending.poll().expect("answer").id(), 2);
}

/// The port stays then, and looks after all its channels, among them the one that is answered.
#[test]
fn the_port_itself_as_an_answer_without_room_does_not_lock_up() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    // Stays on the socket, which is full soon.
    right.as_fd();
    let pending: Vec<_> = (0..400)
        .map(|id| {
            let pending = right.begin_request(Message::new(id), PATIENCE);
            let mut request = port.receive(PATIENCE).expect("receive");
            let reply = request.take_reply().expect("reply right");
            (pending.expect("ask"), reply)
        })
        .collect();
    let (pending, mut replies): (Vec<_>, Vec<_>) = pending.into_iter().unzip();
    let last = replies.pop().expect("a request");
    for reply in replies {
        let answer = Message::new(1).with_bytes([0; 30_000]);
        reply.send(answer).expect("sent or kept");
    }
    let error = last
        .send(Message::new(2).with_right(port))
        .expect_err("no room");
    assert!(matches!(error.kind(), SendErrorKind::TimedOut), "{error}");
    let rights = error.into_message().take_rights();
    assert!(matches!(rights[..], [Right::Receive(_)]));
    drop(pending);
}

in_both_flavours!(a_descriptor_tells_of_every_answer_however_many_there_are);

/// More answers than a bell has room for that nobody empties.
fn a_descriptor_tells_of_every_answer_however_many_there_are(flavour: Flavour) {
    let (port, right) = port(flavour);
    for id in 0..2000 {
        let mut pending = right
            .begin_request(Message::new(id), PATIENCE)
            .expect("ask");
        // Whoever waits for the descriptor has it before the answer comes.
        let descriptor = right.as_fd();
        let mut request = port.receive(PATIENCE).expect("receive");
        let reply = request.take_reply().expect("reply right");
        reply.send(Message::new(id)).expect("answer");
        let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "answer {id}");
        assert_eq!(pending.poll().expect("answer").id(), id);
    }
}
