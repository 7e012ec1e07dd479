//! Messages and rights within one process.

mod flavour;

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use flavour::{bring, port, right_to};
use portolan_port::{
    MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, Message, MintError, Notification, PortSet, ReceiveError,
    ReceiveRight, ReplyError, RequestError, Right, SendErrorKind, SendRight, Sender, Timeout,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::{in_both_flavours, wait};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

fn take_send(message: &mut Message) -> SendRight {
    match message.take_rights().pop() {
        Some(Right::Send(right)) => right,
        other => panic!("expected a send right, got {other:?}"),
    }
}

fn is_readable(fd: &impl AsFd) -> bool {
    wait::is_readable(fd, Duration::ZERO)
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

in_both_flavours!(the_tests_get_the_flavour_that_they_ask_for);

fn the_tests_get_the_flavour_that_they_ask_for(flavour: Flavour) {
    let (port, right) = port(flavour);
    let room = fill(&right);
    assert_eq!(Flavour::of(&right), flavour);
    match flavour {
        Flavour::Socket => assert!(room < 1000, "{room} in a socket"),
        Flavour::Ring => assert!(room > 10_000, "{room} in memory"),
    }
    drop(port);
}

in_both_flavours!(bytes_of_every_length_arrive_unchanged);

fn bytes_of_every_length_arrive_unchanged(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_message_over_the_limit_comes_back);

fn a_message_over_the_limit_comes_back(flavour: Flavour) {
    let (_port, right) = port(flavour);
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

in_both_flavours!(more_rights_than_fit_come_back_usable);

fn more_rights_than_fit_come_back_usable(flavour: Flavour) {
    let (_port, right) = port(flavour);
    let (other, _keep) = self::port(flavour);
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

in_both_flavours!(as_many_rights_as_fit_arrive_in_order);

fn as_many_rights_as_fit_arrive_in_order(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_request_is_answered_with_bytes_and_rights);

fn a_request_is_answered_with_bytes_and_rights(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(answers_reach_the_thread_that_asked);

fn answers_reach_the_thread_that_asked(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_dropped_reply_right_tells_the_caller_at_once);

fn a_dropped_reply_right_tells_the_caller_at_once(flavour: Flavour) {
    let (port, right) = port(flavour);
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    drop(port.receive(PATIENCE).expect("receive"));
    assert!(matches!(pending.wait(PATIENCE), Err(ReplyError::NoReply)));
}

in_both_flavours!(a_dying_port_tells_the_caller_at_once);

fn a_dying_port_tells_the_caller_at_once(flavour: Flavour) {
    let (port, right) = port(flavour);
    let unread = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    drop(port);
    assert!(matches!(unread.wait(PATIENCE), Err(ReplyError::DeadName)));
    assert!(right.is_dead());
}

in_both_flavours!(a_request_that_was_read_can_be_answered_after_the_port_died);

fn a_request_that_was_read_can_be_answered_after_the_port_died(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_late_answer_is_dropped_and_does_not_satisfy_the_next_request);

fn a_late_answer_is_dropped_and_does_not_satisfy_the_next_request(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(requests_that_nobody_answers_are_limited_and_the_channel_survives);

fn requests_that_nobody_answers_are_limited_and_the_channel_survives(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_client_that_never_fetches_answers_does_not_stop_the_server);

fn a_client_that_never_fetches_answers_does_not_stop_the_server(flavour: Flavour) {
    let (port, right) = port(flavour);
    // All at once, because each request takes the answers that have come through memory.
    let asked: Vec<_> = (0..600)
        .map(|id| {
            let pending = right
                .begin_request(Message::new(id), PATIENCE)
                .expect("send");
            (pending, port.receive(PATIENCE).expect("receive"))
        })
        .collect();
    let answered = asked.into_iter().map(|(pending, mut request)| {
        let answer = Message::new(request.id()).with_bytes(vec![0; 2000]);
        let reply = request.take_reply().expect("reply right");
        reply.send(answer).expect("never waits");
        pending
    });
    let pending: Vec<_> = answered.collect();
    // The rest goes out as room comes, while the server receives.
    let server = thread::spawn(move || port.receive(PATIENCE).map(|message| message.id()));
    for (id, pending) in (0..).zip(pending) {
        let answer = pending.wait(PATIENCE).expect("answer");
        assert_eq!((answer.id(), answer.bytes().len()), (id, 2000));
    }
    right.send(Message::new(-1), PATIENCE).expect("send");
    assert_eq!(server.join().expect("server").expect("receive"), -1);
}

// A send-once right is used once and has no memory.
#[test]
fn s05_send_once_rights_are_separate() {
    let port = ReceiveRight::new().expect("port");
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

// A send-once right is used once and has no memory.
#[test]
fn s27_a_send_once_right_that_is_dropped_makes_one_notification() {
    let port = ReceiveRight::new().expect("port");
    drop(port.make_send_once().expect("send-once right"));
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!(message.notification(), Some(Notification::SendOnce));
    assert_eq!(message.id(), 71);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

in_both_flavours!(s28_a_send_once_right_passes_a_full_queue);

fn s28_a_send_once_right_passes_a_full_queue(flavour: Flavour) {
    let (port, right) = port(flavour);
    let once = port.make_send_once().expect("send-once right");
    let queued = fill(&right);
    once.send(Message::new(-28))
        .expect("there is always room for it");
    let ids: Vec<_> = (0..=queued)
        .map(|_| port.receive(PATIENCE).expect("receive").id())
        .collect();
    assert!(ids.contains(&-28));
}

in_both_flavours!(s31_a_dead_name_cannot_be_sent_to);

fn s31_a_dead_name_cannot_be_sent_to(flavour: Flavour) {
    let (port, right) = port(flavour);
    drop(port);
    let (_other, gift) = self::port(flavour);
    let error = right
        .send(Message::new(1).with_right(gift), PATIENCE)
        .expect_err("dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
    assert!(matches!(error.into_message().rights(), [Right::Send(_)]));
    assert!(right.is_dead());
    assert!(matches!(right.copy(PATIENCE), Err(MintError::DeadName)));
}

in_both_flavours!(a_full_queue_makes_room_for_a_waiting_sender);

fn a_full_queue_makes_room_for_a_waiting_sender(flavour: Flavour) {
    let (port, right) = port(flavour);
    let queued = fill(&right);
    let sender = thread::spawn(move || right.send(Message::new(-1), PATIENCE).map(|()| right));
    for _ in 0..queued {
        port.receive(PATIENCE).expect("receive");
    }
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), -1);
    sender.join().expect("sender").expect("send");
}

in_both_flavours!(a_send_to_a_full_queue_times_out_when_it_said);

fn a_send_to_a_full_queue_times_out_when_it_said(flavour: Flavour) {
    let (_port, right) = port(flavour);
    fill(&right);
    let start = Instant::now();
    let wait = Duration::from_millis(30);
    let error = right.send(Message::new(1), wait).expect_err("full");
    assert!(matches!(error.kind(), SendErrorKind::TimedOut));
    assert!(start.elapsed() >= wait);
}

in_both_flavours!(a_receive_times_out_when_it_said);

fn a_receive_times_out_when_it_said(flavour: Flavour) {
    let (port, _right) = port(flavour);
    let start = Instant::now();
    let wait = Duration::from_millis(30);
    assert!(matches!(port.receive(wait), Err(ReceiveError::TimedOut)));
    assert!(start.elapsed() >= wait);
}

in_both_flavours!(copies_share_the_badge_and_nothing_else);

fn copies_share_the_badge_and_nothing_else(flavour: Flavour) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send_badged(42).expect("send right");
    bring(&right, &port, flavour);
    let copy = right.copy(PATIENCE).expect("copy");
    assert_eq!(copy.port(), port.id());
    drop(right);
    copy.send(Message::new(1), PATIENCE).expect("send");
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!((message.id(), message.badge()), (1, 42));
}

in_both_flavours!(a_used_right_that_moves_leaves_its_old_channel_behind);

fn a_used_right_that_moves_leaves_its_old_channel_behind(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
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

in_both_flavours!(a_reply_right_that_moves_answers_from_where_it_is);

fn a_reply_right_that_moves_answers_from_where_it_is(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (worker, to_worker) = self::port(flavour);
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

in_both_flavours!(a_reply_right_that_moves_and_is_dropped_tells_the_caller);

fn a_reply_right_that_moves_and_is_dropped_tells_the_caller(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (worker, to_worker) = self::port(flavour);
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

in_both_flavours!(s12_s13_a_receive_right_moves_with_its_queue_and_its_senders);

fn s12_s13_a_receive_right_moves_with_its_queue_and_its_senders(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
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
        // What was in memory before the holder has introduced itself to the new owner has none.
        let sender = message.sender().map(Sender::pid);
        let own = Some(Some(std::process::id()));
        assert!(sender == own || (sender.is_none() && flavour == Flavour::Ring));
    }
    right.send(Message::new(4), PATIENCE).expect("send");
    let message = moved.receive(PATIENCE).expect("receive");
    assert_eq!(
        message.sender().expect("sender").pid(),
        Some(std::process::id())
    );
    assert_eq!(moved.status().make_send_count, 0);
}

in_both_flavours!(a_receive_right_with_many_senders_moves_whole);

fn a_receive_right_with_many_senders_moves_whole(flavour: Flavour) {
    let port = ReceiveRight::new().expect("port");
    let (other, to_other) = self::port(flavour);
    let senders = match flavour {
        Flavour::Socket => 600,
        // Each has thirteen descriptors, and six of them move.
        Flavour::Ring => 50,
    };
    let rights: Vec<_> = (0..senders)
        .map(|badge| {
            let right = port.make_send_badged(badge).expect("send right");
            bring(&right, &port, flavour);
            right
        })
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
    assert_eq!(moved.status().senders, rights.len());
    for (badge, right) in (0..).zip(&rights) {
        right.send(Message::new(1), PATIENCE).expect("send");
        assert_eq!(moved.receive(PATIENCE).expect("receive").badge(), badge);
    }
}

in_both_flavours!(s19_a_port_sent_to_itself_dies);

fn s19_a_port_sent_to_itself_dies(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_move_that_fails_leaves_the_port_where_it_was);

fn a_move_that_fails_leaves_the_port_where_it_was(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (dead, to_dead) = self::port(flavour);
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

in_both_flavours!(s21_a_dead_right_arrives_as_dead);

fn s21_a_dead_right_arrives_as_dead(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (doomed, to_doomed) = self::port(flavour);
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

in_both_flavours!(s22_a_right_whose_port_dies_on_the_way_arrives_dead);

fn s22_a_right_whose_port_dies_on_the_way_arrives_dead(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (doomed, to_doomed) = self::port(flavour);
    right
        .send(Message::new(2).with_right(to_doomed), PATIENCE)
        .expect("send");
    drop(doomed);
    assert!(take_send(&mut port.receive(PATIENCE).expect("receive")).is_dead());
}

in_both_flavours!(a_descriptor_travels_as_it_is);

fn a_descriptor_travels_as_it_is(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (mut here, there) = UnixStream::pair().expect("pair");
    let message = Message::new(1).with_right(OwnedFd::from(there));
    let serving = thread::spawn(move || {
        let mut request = port.receive(PATIENCE).expect("receive");
        let reply = request.take_reply().expect("it is asked");
        let answer = request.take_rights().into_iter();
        reply.send(answer.fold(Message::new(2), Message::with_right))
    });
    let mut answer = right.request(message, PATIENCE, PATIENCE).expect("ask");
    serving.join().expect("no panic").expect("answer");
    let Some(Right::Descriptor(back)) = answer.take_rights().pop() else {
        panic!("no descriptor")
    };
    UnixStream::from(back).write_all(b"x").expect("write");
    // Neither side has kept a copy.
    let mut read = Vec::new();
    here.read_to_end(&mut read).expect("read");
    assert_eq!(read, b"x");
}

#[test]
fn a_descriptor_that_is_not_sent_is_given_back() {
    let (_port, right) = port(Flavour::Socket);
    fill(&right);
    let (here, _there) = UnixStream::pair().expect("pair");
    let error = right
        .send(
            Message::new(1).with_right(OwnedFd::from(here)),
            Timeout::POLL,
        )
        .expect_err("it is full");
    let rights = error.into_message().take_rights();
    assert!(matches!(*rights, [Right::Descriptor(_)]), "{rights:?}");
}

in_both_flavours!(s47_no_senders_counts_from_what_was_made);

fn s47_no_senders_counts_from_what_was_made(flavour: Flavour) {
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
    let right = right_to(&port, flavour);
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

in_both_flavours!(s48_a_right_inside_a_message_is_a_sender);

fn s48_a_right_inside_a_message_is_a_sender(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
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

in_both_flavours!(s37_s38_s39_port_sets);

fn s37_s38_s39_port_sets(flavour: Flavour) {
    let (port, right) = port(flavour);
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

in_both_flavours!(a_set_survives_the_death_of_a_member);

fn a_set_survives_the_death_of_a_member(flavour: Flavour) {
    let (first, _keep) = port(flavour);
    let (second, right) = port(flavour);
    let set = PortSet::new().expect("set");
    set.insert(&first).expect("insert");
    set.insert(&second).expect("insert");
    drop(first);
    right.send(Message::new(8), PATIENCE).expect("send");
    assert_eq!(set.receive(PATIENCE).expect("receive").id(), 8);
}

in_both_flavours!(members_of_a_set_take_turns);

fn members_of_a_set_take_turns(flavour: Flavour) {
    let (first, to_first) = port(flavour);
    let (second, to_second) = port(flavour);
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

in_both_flavours!(s40_descriptors_are_readable_when_something_is_there);

fn s40_descriptors_are_readable_when_something_is_there(flavour: Flavour) {
    let (port, right) = port(flavour);
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    // What is left of going over to memory.
    assert!(!right.is_dead());
    assert!(!is_readable(&port) && !is_readable(&set) && !is_readable(&right));
    let pending = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    assert!(is_readable(&port) && is_readable(&set) && !is_readable(&pending));
    drop(port.receive(PATIENCE).expect("receive"));
    assert!(!is_readable(&port) && !is_readable(&set) && is_readable(&pending));
    drop(pending.wait(PATIENCE));
    drop(port);
    assert!(is_readable(&right) && right.is_dead());
}

in_both_flavours!(a_descriptor_falls_silent_when_its_news_were_taken);

fn a_descriptor_falls_silent_when_its_news_were_taken(flavour: Flavour) {
    let (port, right) = port(flavour);
    // What is left of going over to memory.
    assert!(!right.is_dead());
    assert!(!is_readable(&right), "nothing has come");
    for id in 0..10 {
        let given_up = right.begin_request(Message::new(id), PATIENCE);
        drop(given_up.expect("send"));
        drop(port.receive(PATIENCE).expect("receive"));
        assert!(is_readable(&right), "there is an answer for nobody");
        assert!(!right.is_dead());
        assert!(!is_readable(&right), "it was taken");
        let [mut first, second] = [id, -1].map(|id| {
            let pending = right.begin_request(Message::new(id), PATIENCE);
            pending.expect("send")
        });
        let requests = [(); 2].map(|()| port.receive(PATIENCE).expect("receive"));
        assert!(!is_readable(&right), "nothing has come");
        for mut request in requests {
            let reply = request.take_reply().expect("reply right");
            reply.send(Message::new(request.id())).expect("answer");
        }
        assert!(is_readable(&right), "two answers have come");
        assert_eq!(first.poll().expect("answer").id(), id);
        assert_eq!(second.wait(PATIENCE).expect("answer").id(), -1);
        assert!(!right.is_dead());
        assert!(!is_readable(&right), "both were taken");
    }
    drop(port);
    for _ in 0..3 {
        assert!(is_readable(&right) && right.is_dead(), "dead for ever");
    }
}

in_both_flavours!(one_sender_cannot_starve_another);

fn one_sender_cannot_starve_another(flavour: Flavour) {
    let (port, busy) = port(flavour);
    let quiet = right_to(&port, flavour);
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
    let (mut port, right) = port(Flavour::Ring);
    let (carrier, way) = self::port(Flavour::Ring);
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
    let (port, right) = port(Flavour::Ring);
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
