//! Several messages sent or received at once.

mod flavour;

use std::thread;
use std::time::Duration;

use flavour::port;
use portolan_port::{
    Message, ReceiveBatch, ReceiveError, ReceiveRight, Right, SendErrorKind, SendRight, Timeout,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::in_both_flavours;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// A port and a right that may go over to memory when it is used.
fn fresh() -> (ReceiveRight, SendRight) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    (port, right)
}

/// Receives this many messages in batches, and gives their ids; each must have `payload(id)`.
fn receive(port: &ReceiveRight, count: usize) -> Vec<i32> {
    let (mut batch, mut ids) = (ReceiveBatch::new(), Vec::new());
    while ids.len() < count {
        let number = port.receive_batch(&mut batch, PATIENCE).expect("receive");
        let before = ids.len();
        for message in batch.messages() {
            assert_eq!(message.bytes(), payload(message.id()));
            ids.push(message.id());
        }
        assert_eq!((ids.len() - before) as u64, number);
    }
    ids
}

/// Bytes that depend on the id, most often few and sometimes more than a record holds.
fn payload(id: i32) -> Vec<u8> {
    let len = match id % 100 {
        99 => 300_000,
        short => short.unsigned_abs() as usize * 7 % 61,
    };
    (0..len).map(|at| (at + id as usize) as u8).collect()
}

fn ids_arrive_in_order((port, right): (ReceiveRight, SendRight)) {
    const COUNT: i32 = 3000;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = right.batch(PATIENCE);
            for id in 0..COUNT {
                if id % 17 == 3 {
                    batch.publish().expect("publish");
                    let message = Message::new(id).with_bytes(payload(id));
                    right.send(message, PATIENCE).expect("send");
                } else {
                    batch.push(id, &payload(id)).expect("push");
                }
            }
        });
        let expected: Vec<i32> = (0..COUNT).collect();
        assert_eq!(receive(&port, COUNT as usize), expected);
    });
    assert_eq!(port.receive(Timeout::POLL).map(drop).ok(), None);
}

in_both_flavours!(what_is_sent_in_batches_and_alone_arrives_in_order);

fn what_is_sent_in_batches_and_alone_arrives_in_order(flavour: Flavour) {
    ids_arrive_in_order(port(flavour));
}

#[test]
fn a_batch_begun_on_the_socket_arrives_in_order_too() {
    ids_arrive_in_order(fresh());
}

#[test]
fn nothing_is_published_before_its_time_and_everything_at_the_end() {
    let (port, right) = port(Flavour::Ring);
    let mut batch = right.batch(PATIENCE);
    batch.push(1, b"a").expect("push");
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    drop(batch);
    assert_eq!(port.receive(Timeout::POLL).expect("receive").id(), 1);
}

in_both_flavours!(messages_with_more_than_bytes_come_alone_and_in_their_turn);

fn messages_with_more_than_bytes_come_alone_and_in_their_turn(flavour: Flavour) {
    let (port, right) = port(flavour);
    let mut pending = Vec::new();
    for id in 0..30 {
        match id % 10 {
            4 => {
                let message = Message::new(id).with_right(port.make_send().expect("mint"));
                right.send(message, PATIENCE).expect("send");
            }
            7 => pending.push(
                right
                    .begin_request(Message::new(id), PATIENCE)
                    .expect("ask"),
            ),
            _ => right.send(Message::new(id), PATIENCE).expect("send"),
        }
    }
    let first = port.status().sequence;
    let (mut batch, mut next) = (ReceiveBatch::new(), 0);
    while next < 30 {
        port.receive_batch(&mut batch, PATIENCE).expect("receive");
        for message in batch.messages() {
            assert_eq!(message.id(), next);
            let received = first.wrapping_add(u64::from(next.unsigned_abs()));
            assert_eq!(message.sequence(), received);
            next += 1;
        }
        if let Some(mut whole) = batch.take_message() {
            match whole.id() % 10 {
                4 => assert!(matches!(whole.take_rights()[..], [Right::Send(_)])),
                7 => {
                    let reply = whole.take_reply().expect("reply right");
                    reply.send(Message::new(whole.id() * 2)).expect("answer");
                }
                _ => assert_eq!(flavour, Flavour::Socket, "nothing but bytes"),
            }
        }
    }
    let answers: Vec<i32> = pending
        .into_iter()
        .map(|request| request.wait(PATIENCE).expect("answer").id())
        .collect();
    assert_eq!(answers, [14, 34, 54]);
}

#[test]
fn a_batch_says_who_sent_it_and_through_which_right() {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send_badged(77).expect("send right");
    for id in 0..10 {
        right.send(Message::new(id), PATIENCE).expect("send");
        port.receive(PATIENCE).expect("receive");
    }
    right.send(Message::new(1), PATIENCE).expect("send");
    right.send(Message::new(2), PATIENCE).expect("send");
    let mut batch = ReceiveBatch::new();
    assert_eq!(
        port.receive_batch(&mut batch, PATIENCE).expect("receive"),
        2
    );
    assert_eq!(batch.badge(), 77);
    let sender = batch.sender().expect("sender");
    assert_eq!(sender.pid(), Some(std::process::id()));
}

#[test]
fn a_full_queue_leaves_in_the_batch_what_was_not_sent() {
    let (port, right) = port(Flavour::Ring);
    let mut batch = right.batch(Timeout::POLL);
    let bytes = [7; 1000];
    let mut pushed = 0;
    let refused = loop {
        match batch.push(pushed, &bytes) {
            Ok(()) => pushed += 1,
            Err(kind) => break kind,
        }
    };
    assert!(matches!(refused, SendErrorKind::TimedOut), "{refused}");
    let mut received = ReceiveBatch::new();
    let mut next = 0;
    while next < pushed {
        match port.receive_batch(&mut received, Timeout::POLL) {
            Ok(_) => {
                for message in received.messages() {
                    assert_eq!((message.id(), message.bytes()), (next, &bytes[..]));
                    next += 1;
                }
            }
            Err(ReceiveError::TimedOut) => batch.publish().expect("there is room again"),
            Err(other) => panic!("{other}"),
        }
    }
    drop(batch);
    assert!(matches!(
        port.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
}

in_both_flavours!(a_batch_to_a_dead_port_fails);

fn a_batch_to_a_dead_port_fails(flavour: Flavour) {
    let (port, right) = port(flavour);
    drop(port);
    let mut batch = right.batch(PATIENCE);
    let result = batch.push(1, b"late").and_then(|()| batch.publish());
    assert!(matches!(result, Err(SendErrorKind::DeadName)), "{result:?}");
}

in_both_flavours!(batches_of_several_threads_do_not_mix_their_order);

fn batches_of_several_threads_do_not_mix_their_order(flavour: Flavour) {
    const EACH: i32 = 5000;
    let (port, right) = port(flavour);
    thread::scope(|scope| {
        for sender in 0..3 {
            let right = &right;
            scope.spawn(move || {
                let mut batch = right.batch(PATIENCE);
                for id in 0..EACH {
                    batch.push(sender * EACH + id, b"").expect("push");
                }
            });
        }
        let (mut batch, mut next) = (ReceiveBatch::new(), [0; 3]);
        while next.iter().sum::<i32>() < 3 * EACH {
            port.receive_batch(&mut batch, PATIENCE).expect("receive");
            for message in batch.messages() {
                let sender = (message.id() / EACH) as usize;
                assert_eq!(message.id() % EACH, next[sender]);
                next[sender] += 1;
            }
        }
    });
}
