//! Messages and rights within one process.

use std::thread;
use std::time::{Duration, Instant};

use portolan_port::{
    MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, Message, MintError, Notification, PortSet, ReceiveError,
    ReceiveRight, ReplyError, RequestError, Right, SendErrorKind, SendRight, Timeout,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

fn port() -> (ReceiveRight, SendRight) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    (port, right)
}

fn take_send(message: &mut Message) -> SendRight {
    match message.take_rights().pop() {
        Some(Right::Send(right)) => right,
        other => panic!("expected a send right, got {other:?}"),
    }
}

fn fill(right: &SendRight) -> usize {
    let mut sent = 0;
    loop {
        match right.send(Message::new(sent), Timeout::POLL) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert!(matches!(error.kind(), SendErrorKind::TimedOut), "{error}");
                assert_eq!(error.into_message().id(), sent);
                return usize::try_from(sent).expect("positive");
            }
        }
    }
}

#[test]
fn bytes_of_every_length_arrive_unchanged() {
    let (port, right) = port();
    let lengths = [
        0,
        1,
        8,
        4095,
        4096,
        65535,
        65536,
        65537,
        1 << 20,
        16 << 20,
        MAX_MESSAGE_BYTES,
    ];
    for (id, len) in (0..).zip(lengths) {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        right
            .send(Message::new(id).with_bytes(bytes.clone()), PATIENCE)
            .expect("send");
        let received = port.receive(PATIENCE).expect("receive");
        assert_eq!(received.id(), id);
        assert!(received.bytes() == bytes, "{len} bytes changed on the way");
        assert!(
            received.into_bytes() == bytes,
            "{len} bytes changed when taken out"
        );
    }
}

#[test]
fn a_message_over_the_limit_comes_back() {
    let (_port, right) = port();
    let error = right
        .send(
            Message::new(3).with_bytes(vec![7; MAX_MESSAGE_BYTES + 1]),
            PATIENCE,
        )
        .expect_err("too large");
    let len = MAX_MESSAGE_BYTES + 1;
    assert!(matches!(error.kind(), SendErrorKind::TooLarge { len: found } if *found == len));
    assert_eq!(error.into_message().bytes().len(), len);
}

#[test]
fn more_rights_than_fit_come_back_usable() {
    let (_port, right) = port();
    let (other, _keep) = port_with_rights();
    let mut message = Message::new(1);
    for _ in 0..=MAX_MESSAGE_RIGHTS {
        message = message.with_right(other.make_send().expect("send right"));
    }
    let error = right.send(message, PATIENCE).expect_err("too many");
    let count = MAX_MESSAGE_RIGHTS + 1;
    assert!(
        matches!(error.kind(), SendErrorKind::TooManyRights { count: found } if *found == count)
    );
    let mut message = error.into_message();
    assert_eq!(message.rights().len(), count);
    take_send(&mut message)
        .send(Message::new(9), PATIENCE)
        .expect("the right still works");
    assert_eq!(other.receive(PATIENCE).expect("receive").id(), 9);
}

fn port_with_rights() -> (ReceiveRight, SendRight) {
    port()
}

#[test]
fn as_many_rights_as_fit_arrive_in_order() {
    let (port, right) = port();
    let others: Vec<_> = (0..MAX_MESSAGE_RIGHTS)
        .map(|_| ReceiveRight::new().expect("port"))
        .collect();
    let mut message = Message::new(1).with_bytes(vec![1; 100_000]);
    for other in &others {
        message = message.with_right(other.make_send().expect("send right"));
    }
    right.send(message, PATIENCE).expect("send");
    let mut received = port.receive(PATIENCE).expect("receive");
    assert_eq!(received.bytes().len(), 100_000);
    for (other, right) in others.iter().zip(received.take_rights()) {
        match right {
            Right::Send(right) => assert_eq!(right.port(), other.id()),
            other => panic!("expected a send right, got {other:?}"),
        }
    }
}

#[test]
fn a_request_is_answered_with_bytes_and_rights() {
    let (port, right) = port();
    let server = thread::spawn(move || {
        let mut request = port.receive(PATIENCE).expect("receive");
        let back = ReceiveRight::new().expect("port");
        let answer = Message::new(request.id() + 1)
            .with_bytes(request.bytes().to_ascii_uppercase())
            .with_right(back.make_send().expect("send right"));
        request
            .take_reply()
            .expect("reply right")
            .send(answer)
            .expect("answer");
        back.receive(PATIENCE)
            .expect("receive on the new port")
            .id()
    });
    let mut answer = right
        .request(Message::new(5).with_bytes("abc"), PATIENCE, PATIENCE)
        .expect("request");
    assert_eq!((answer.id(), answer.bytes()), (6, &b"ABC"[..]));
    assert_eq!(
        answer.sender().expect("sender").pid(),
        Some(std::process::id())
    );
    take_send(&mut answer)
        .send(Message::new(77), PATIENCE)
        .expect("send");
    assert_eq!(server.join().expect("server"), 77);
}

#[test]
fn answers_reach_the_thread_that_asked() {
    let (port, right) = port();
    let server = thread::spawn(move || {
        let mut held = Vec::new();
        for _ in 0..40 {
            let mut batch: Vec<_> = (0..8)
                .map(|_| port.receive(PATIENCE).expect("receive"))
                .collect();
            batch.reverse();
            held.extend(batch);
            for mut request in held.drain(..) {
                let reply = request.take_reply().expect("reply right");
                reply.send(Message::new(request.id())).expect("answer");
            }
        }
    });
    thread::scope(|scope| {
        for client in 0..8 {
            let right = &right;
            scope.spawn(move || {
                for k in 0..40 {
                    let id = client * 1000 + k;
                    let answer = right.request(Message::new(id), PATIENCE, PATIENCE);
                    assert_eq!(answer.expect("answer").id(), id);
                }
            });
        }
    });
    server.join().expect("server");
}

#[test]
fn a_dropped_reply_right_tells_the_caller_at_once() {
    let (port, right) = port();
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    drop(port.receive(PATIENCE).expect("receive"));
    assert!(matches!(pending.wait(PATIENCE), Err(ReplyError::NoReply)));
}

#[test]
fn a_dying_port_tells_the_caller_at_once() {
    let (port, right) = port();
    let unread = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    drop(port);
    assert!(matches!(unread.wait(PATIENCE), Err(ReplyError::DeadName)));
    assert!(right.is_dead());
}

#[test]
fn a_request_that_was_read_can_be_answered_after_the_port_died() {
    let (port, right) = port();
    let owed = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let unread = right
        .begin_request(Message::new(2), PATIENCE)
        .expect("send");
    let mut request = port.receive(PATIENCE).expect("receive");
    drop(port);
    assert!(matches!(unread.wait(PATIENCE), Err(ReplyError::DeadName)));
    assert!(
        right.is_dead(),
        "the death is known while an answer is owed"
    );
    let error = right
        .send(Message::new(3), Timeout::POLL)
        .expect_err("the port is dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
    request
        .take_reply()
        .expect("reply right")
        .send(Message::new(9))
        .expect("answer");
    assert_eq!(
        owed.wait(PATIENCE).expect("the answer that was owed").id(),
        9
    );
}

#[test]
fn a_late_answer_is_dropped_and_does_not_satisfy_the_next_request() {
    let (port, right) = port();
    let first = right.request(Message::new(1), PATIENCE, Timeout::POLL);
    assert!(matches!(
        first,
        Err(RequestError::Reply(ReplyError::TimedOut))
    ));
    let late = port
        .receive(PATIENCE)
        .expect("receive")
        .take_reply()
        .expect("reply right");
    let second = right
        .begin_request(Message::new(2), PATIENCE)
        .expect("send");
    late.send(Message::new(-1)).expect("answer late");
    let mut request = port.receive(PATIENCE).expect("receive");
    request
        .take_reply()
        .expect("reply right")
        .send(Message::new(20))
        .expect("answer");
    assert_eq!(second.wait(PATIENCE).expect("answer").id(), 20);
}

#[test]
fn requests_that_nobody_answers_are_limited_and_the_channel_survives() {
    let (port, right) = port();
    let mut held = Vec::new();
    let refused = loop {
        match right.begin_request(Message::new(1), Timeout::POLL) {
            // Given up at once: the server still holds the reply right.
            Ok(pending) => drop(pending),
            Err(error) => break error,
        }
        held.push(port.receive(PATIENCE).expect("receive"));
    };
    let limit = held.len();
    assert!(matches!(refused.kind(), SendErrorKind::TooManyRequests { limit: l } if *l == limit));
    held.clear();
    thread::spawn(move || {
        while let Ok(mut request) = port.receive(PATIENCE) {
            request
                .take_reply()
                .expect("reply right")
                .send(Message::new(3))
                .expect("answer");
        }
    });
    let again = right
        .begin_request(Message::new(2), PATIENCE)
        .expect("there is room again");
    assert_eq!(again.wait(PATIENCE).expect("answer").id(), 3);
}

#[test]
fn a_client_that_never_fetches_answers_does_not_stop_the_server() {
    let (port, right) = port();
    let pending: Vec<_> = (0..600)
        .map(|id| {
            let pending = right
                .begin_request(Message::new(id), PATIENCE)
                .expect("send");
            let mut request = port.receive(PATIENCE).expect("receive");
            let answer = Message::new(id).with_bytes(vec![id as u8; 2000]);
            request
                .take_reply()
                .expect("reply right")
                .send(answer)
                .expect("never waits");
            pending
        })
        .collect();
    // The rest goes out as room comes, while the server receives.
    let server = thread::spawn(move || port.receive(PATIENCE).map(|message| message.id()));
    for (id, pending) in (0..).zip(pending) {
        let answer = pending.wait(PATIENCE).expect("answer");
        assert_eq!((answer.id(), answer.bytes().len()), (id, 2000));
    }
    right.send(Message::new(-1), PATIENCE).expect("send");
    assert_eq!(server.join().expect("server").expect("receive"), -1);
}

#[test]
fn s05_send_once_rights_are_separate() {
    let (port, _right) = port();
    let first = port.make_send_once().expect("send-once right");
    let second = port.make_send_once().expect("send-once right");
    assert_eq!(port.status().send_once, 2);
    first.send(Message::new(1)).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 1);
    assert_eq!(port.status().send_once, 1, "using one leaves the other");
    second.send(Message::new(2)).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 2);
    assert_eq!(port.status().send_once, 0);
}

#[test]
fn s27_a_send_once_right_that_is_dropped_makes_one_notification() {
    let (port, _right) = port();
    drop(port.make_send_once().expect("send-once right"));
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!(message.notification(), Some(Notification::SendOnce));
    assert_eq!(message.id(), 71);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

#[test]
fn s28_a_send_once_right_passes_a_full_queue() {
    let (port, right) = port();
    let once = port.make_send_once().expect("send-once right");
    let queued = fill(&right);
    once.send(Message::new(-28))
        .expect("there is always room for it");
    let ids: Vec<_> = (0..=queued)
        .map(|_| port.receive(PATIENCE).expect("receive").id())
        .collect();
    assert!(ids.contains(&-28));
}

#[test]
fn s31_a_dead_name_cannot_be_sent_to() {
    let (port, right) = port();
    drop(port);
    let (_other, gift) = self::port();
    let error = right
        .send(Message::new(1).with_right(gift), PATIENCE)
        .expect_err("dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
    assert!(matches!(error.into_message().rights(), [Right::Send(_)]));
    assert!(right.is_dead());
    assert!(matches!(right.copy(PATIENCE), Err(MintError::DeadName)));
}

#[test]
fn a_full_queue_makes_room_for_a_waiting_sender() {
    let (port, right) = port();
    let queued = fill(&right);
    let sender = thread::spawn(move || right.send(Message::new(-1), PATIENCE).map(|()| right));
    for _ in 0..queued {
        port.receive(PATIENCE).expect("receive");
    }
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), -1);
    sender.join().expect("sender").expect("send");
}

#[test]
fn a_send_to_a_full_queue_times_out_when_it_said() {
    let (_port, right) = port();
    fill(&right);
    let start = Instant::now();
    let wait = Duration::from_millis(30);
    let error = right.send(Message::new(1), wait).expect_err("full");
    assert!(matches!(error.kind(), SendErrorKind::TimedOut));
    assert!(start.elapsed() >= wait);
}

#[test]
fn a_receive_times_out_when_it_said() {
    let (port, _right) = port();
    let start = Instant::now();
    let wait = Duration::from_millis(30);
    assert!(matches!(port.receive(wait), Err(ReceiveError::TimedOut)));
    assert!(start.elapsed() >= wait);
}

#[test]
fn copies_share_the_badge_and_nothing_else() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send_badged(42).expect("send right");
    let copy = right.copy(PATIENCE).expect("copy");
    assert_eq!(copy.port(), port.id());
    drop(right);
    copy.send(Message::new(1), PATIENCE).expect("send");
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!((message.id(), message.badge()), (1, 42));
}

#[test]
fn a_used_right_that_moves_leaves_its_old_channel_behind() {
    let (port, right) = port();
    let (other, to_other) = self::port();
    right.send(Message::new(1), PATIENCE).expect("send");
    to_other
        .send(Message::new(2).with_right(right), PATIENCE)
        .expect("send the right");
    let moved = take_send(&mut other.receive(PATIENCE).expect("receive"));
    moved.send(Message::new(3), PATIENCE).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 1);
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 3);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    assert_eq!(port.status().senders, 1);
}

#[test]
fn a_reply_right_that_moves_answers_from_where_it_is() {
    let (port, right) = port();
    let (worker, to_worker) = self::port();
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let reply = port
        .receive(PATIENCE)
        .expect("receive")
        .take_reply()
        .expect("reply right");
    to_worker
        .send(Message::new(2).with_reply(reply), PATIENCE)
        .expect("pass it on");
    drop(port);
    let mut job = worker.receive(PATIENCE).expect("receive");
    job.take_reply()
        .expect("reply right")
        .send(Message::new(3))
        .expect("answer");
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 3);
}

#[test]
fn a_reply_right_that_moves_and_is_dropped_tells_the_caller() {
    let (port, right) = port();
    let (worker, to_worker) = self::port();
    let mut pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let reply = port
        .receive(PATIENCE)
        .expect("receive")
        .take_reply()
        .expect("reply right");
    to_worker
        .send(Message::new(2).with_right(reply), PATIENCE)
        .expect("pass it on");
    assert!(matches!(pending.poll(), Err(ReplyError::TimedOut)));
    assert!(matches!(pending.poll(), Err(ReplyError::TimedOut)));
    drop(worker.receive(PATIENCE).expect("receive"));
    assert!(matches!(pending.wait(PATIENCE), Err(ReplyError::NoReply)));
}

#[test]
fn s12_s13_a_receive_right_moves_with_its_queue_and_its_senders() {
    let (port, right) = port();
    let (other, to_other) = self::port();
    let id = port.id();
    for k in 0..3 {
        right.send(Message::new(k), PATIENCE).expect("send");
    }
    port.receive(PATIENCE).expect("receive one before the move");
    to_other
        .send(Message::new(9).with_right(port), PATIENCE)
        .expect("move");
    right
        .send(Message::new(3), PATIENCE)
        .expect("s14: send while it is on its way");
    let Some(Right::Receive(moved)) = other
        .receive(PATIENCE)
        .expect("receive")
        .take_rights()
        .pop()
    else {
        panic!("expected a receive right")
    };
    assert_eq!(moved.id(), id);
    for (sequence, k) in (0..).zip(1..=3) {
        let message = moved.receive(PATIENCE).expect("receive");
        assert_eq!((message.id(), message.sequence()), (k, sequence));
        assert_eq!(
            message.sender().expect("sender").pid(),
            Some(std::process::id())
        );
    }
    assert_eq!(moved.status().make_send_count, 0);
}

#[test]
fn a_receive_right_with_many_senders_moves_whole() {
    let port = ReceiveRight::new().expect("port");
    let (other, to_other) = self::port();
    let rights: Vec<_> = (0..600)
        .map(|badge| port.make_send_badged(badge).expect("send"))
        .collect();
    to_other
        .send(Message::new(9).with_right(port), PATIENCE)
        .expect("move");
    let Some(Right::Receive(moved)) = other
        .receive(PATIENCE)
        .expect("receive")
        .take_rights()
        .pop()
    else {
        panic!("expected a receive right")
    };
    assert_eq!(moved.status().senders, 600);
    for (badge, right) in (0..).zip(&rights) {
        right.send(Message::new(1), PATIENCE).expect("send");
        assert_eq!(moved.receive(PATIENCE).expect("receive").badge(), badge);
    }
}

#[test]
fn s19_a_port_sent_to_itself_dies() {
    let (port, right) = port();
    right
        .send(Message::new(1).with_right(port), PATIENCE)
        .expect("success, and nobody has it");
    // The kernel collects the cycle when sockets are next created or destroyed.
    let start = Instant::now();
    while !right.is_dead() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the port is still alive"
        );
        drop(
            ReceiveRight::new()
                .expect("port")
                .make_send()
                .expect("send right"),
        );
    }
}

#[test]
fn a_move_that_fails_leaves_the_port_where_it_was() {
    let (port, right) = port();
    let (dead, to_dead) = self::port();
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    drop(dead);
    let error = to_dead
        .send(Message::new(1).with_right(port), PATIENCE)
        .expect_err("dead");
    let Some(Right::Receive(_port)) = error.into_message().take_rights().pop() else {
        panic!("the receive right is lost")
    };
    right.send(Message::new(5), PATIENCE).expect("send");
    assert_eq!(set.receive(PATIENCE).expect("receive").id(), 5);
}

#[test]
fn s21_a_dead_right_arrives_as_dead() {
    let (port, right) = port();
    let (doomed, to_doomed) = self::port();
    to_doomed.send(Message::new(1), PATIENCE).expect("send");
    drop(doomed);
    right
        .send(Message::new(2).with_right(to_doomed), PATIENCE)
        .expect("send");
    assert!(matches!(
        port.receive(PATIENCE).expect("receive").rights(),
        [Right::Dead]
    ));
}

#[test]
fn s22_a_right_whose_port_dies_on_the_way_arrives_dead() {
    let (port, right) = port();
    let (doomed, to_doomed) = self::port();
    right
        .send(Message::new(2).with_right(to_doomed), PATIENCE)
        .expect("send");
    drop(doomed);
    assert!(take_send(&mut port.receive(PATIENCE).expect("receive")).is_dead());
}

#[test]
fn s47_no_senders_counts_from_what_was_made() {
    let port = ReceiveRight::new().expect("port");
    port.request_no_senders(0);
    let message = port.receive(PATIENCE).expect("at once");
    assert_eq!(
        message.notification(),
        Some(Notification::NoSenders { make_send_count: 0 })
    );
    assert_eq!(message.id(), 70);
    port.request_no_senders(1);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    let right = port.make_send().expect("send right");
    let copy = right.copy(PATIENCE).expect("copy");
    drop(right);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    drop(copy);
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!(
        message.notification(),
        Some(Notification::NoSenders { make_send_count: 1 })
    );
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

#[test]
fn s48_a_right_inside_a_message_is_a_sender() {
    let (port, right) = port();
    let (other, to_other) = self::port();
    port.request_no_senders(1);
    to_other
        .send(Message::new(1).with_right(right), PATIENCE)
        .expect("send");
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    drop(other.receive(PATIENCE).expect("receive"));
    let message = port.receive(PATIENCE).expect("receive");
    assert!(matches!(
        message.notification(),
        Some(Notification::NoSenders { .. })
    ));
}

#[test]
fn s37_s38_s39_port_sets() {
    let (port, right) = port();
    let set = PortSet::new().expect("set");
    right.send(Message::new(1), PATIENCE).expect("send");
    assert!(set.insert(&port).expect("insert"));
    assert!(!set.insert(&port).expect("insert again"));
    let message = set
        .receive(PATIENCE)
        .expect("what was queued before counts");
    assert_eq!((message.id(), message.port()), (1, Some(port.id())));
    right.send(Message::new(2), PATIENCE).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("directly").id(), 2);
    assert!(set.remove(&port));
    assert!(!set.remove(&port));
    right.send(Message::new(3), PATIENCE).expect("send");
    assert!(matches!(
        set.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

#[test]
fn a_set_survives_the_death_of_a_member() {
    let (first, _keep) = port();
    let (second, right) = port();
    let set = PortSet::new().expect("set");
    set.insert(&first).expect("insert");
    set.insert(&second).expect("insert");
    drop(first);
    right.send(Message::new(8), PATIENCE).expect("send");
    assert_eq!(set.receive(PATIENCE).expect("receive").id(), 8);
}

#[test]
fn members_of_a_set_take_turns() {
    let (first, to_first) = port();
    let (second, to_second) = port();
    let set = PortSet::new().expect("set");
    set.insert(&first).expect("insert");
    set.insert(&second).expect("insert");
    for _ in 0..50 {
        to_first.send(Message::new(1), PATIENCE).expect("send");
        to_second.send(Message::new(2), PATIENCE).expect("send");
    }
    let ids: Vec<_> = (0..20)
        .map(|_| set.receive(PATIENCE).expect("receive").id())
        .collect();
    assert!(ids.contains(&1) && ids.contains(&2), "{ids:?}");
}

#[test]
fn s40_descriptors_are_readable_when_something_is_there() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    fn readable(fd: &impl std::os::fd::AsFd) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).expect("poll") == 1
    }
    let (port, right) = port();
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    assert!(!readable(&port) && !readable(&set) && !readable(&right));
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    assert!(readable(&port) && readable(&set) && !readable(&pending));
    drop(port.receive(PATIENCE).expect("receive"));
    assert!(!readable(&port) && !readable(&set) && readable(&pending));
    drop(pending.wait(PATIENCE));
    drop(port);
    assert!(readable(&right) && right.is_dead());
}

#[test]
fn one_sender_cannot_starve_another() {
    let (port, busy) = port();
    let quiet = port.make_send().expect("send right");
    fill(&busy);
    quiet.send(Message::new(-5), PATIENCE).expect("send");
    let first: Vec<_> = (0..3)
        .map(|_| port.receive(PATIENCE).expect("receive").id())
        .collect();
    assert!(first.contains(&-5), "{first:?}");
}

/// Messages are taken out of memory several at a time, and those that nobody has received yet are
/// still the port's.
#[test]
fn a_port_that_moves_between_two_messages_of_a_burst_takes_the_rest_along() {
    let (mut port, right) = port();
    let (carrier, way) = self::port();
    promote(&port, &right);
    for id in 0..500 {
        right.send(Message::new(id), PATIENCE).expect("send");
    }
    for id in 0..500 {
        assert_eq!(port.receive(PATIENCE).expect("receive").id(), id);
        if id % 7 == 3 {
            let message = Message::new(0).with_right(port);
            way.send(message, PATIENCE).expect("move");
            let right = carrier
                .receive(PATIENCE)
                .expect("moved")
                .take_rights()
                .pop();
            let Some(Right::Receive(moved)) = right else {
                panic!("no receive right");
            };
            port = moved;
        }
    }
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

#[test]
fn a_request_in_a_burst_is_answered_in_its_turn() {
    let (port, right) = port();
    promote(&port, &right);
    let mut pending = Vec::new();
    for id in 0..300 {
        if id % 3 == 0 {
            pending.push(
                right
                    .begin_request(Message::new(id), PATIENCE)
                    .expect("ask"),
            );
        } else {
            right.send(Message::new(id), PATIENCE).expect("send");
        }
    }
    for id in 0..300 {
        let mut message = port.receive(PATIENCE).expect("receive");
        assert_eq!(message.id(), id);
        assert_eq!(message.take_reply().is_some(), id % 3 == 0);
    }
    for request in pending {
        assert!(matches!(request.wait(PATIENCE), Err(ReplyError::NoReply)));
    }
}

/// Has both sides go over to memory.
fn promote(port: &ReceiveRight, right: &SendRight) {
    for _ in 0..10 {
        right.send(Message::new(0), PATIENCE).expect("send");
        port.receive(PATIENCE).expect("receive");
    }
}
