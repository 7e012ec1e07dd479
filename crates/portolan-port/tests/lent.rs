//! Large messages in memory that is lent and used again.

mod flavour;

use std::fs;
use std::io::{BufRead, Read};
use std::thread;
use std::time::Duration;

use flavour::port;
use portolan_port::{Loan, Message, Right, SendErrorKind, SendRight, Timeout};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::in_both_flavours;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// More than fits into a record, and no round number.
const LARGE: usize = 700_001;

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + at / 256 + seed) as u8)
        .collect()
}

fn loan(right: &SendRight, len: usize, seed: usize) -> Loan {
    let mut loan = right.lend(len);
    loan.copy_from_slice(&pattern(len, seed));
    loan
}

fn send(right: &SendRight, len: usize, seed: usize) {
    let message = Message::new(1).with_loan(loan(right, len, seed));
    right.send(message, PATIENCE).expect("send");
}

/// Files in memory that this process has open.
fn memory_files() -> usize {
    let entries = fs::read_dir("/proc/self/fd").expect("descriptors");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("/memfd:"))
        .count()
}

in_both_flavours!(every_length_arrives_however_it_is_read);

fn every_length_arrives_however_it_is_read(flavour: Flavour) {
    let (port, right) = port(flavour);
    for len in [
        0,
        1,
        4096,
        196_608,
        196_609,
        262_112,
        262_144,
        LARGE,
        20 << 20,
    ] {
        let expected = pattern(len, len);
        send(&right, len, len);
        let message = port.receive(PATIENCE).expect("receive");
        assert_eq!(message.bytes().len(), len);
        assert!(message.bytes() == expected, "{len}");

        send(&right, len, len);
        assert!(port.receive(PATIENCE).expect("receive").into_bytes() == expected);

        send(&right, len, len);
        let mut body = port.receive(PATIENCE).expect("receive").take_body();
        assert_eq!(body.remaining(), len);
        let mut read = Vec::new();
        while body.remaining() > 0 {
            let piece = body.fill_buf().expect("piece");
            // Not all of it at once, so that pieces begin anywhere.
            let count = piece.len().min(10_007);
            read.extend_from_slice(&piece[..count]);
            body.consume(count);
        }
        assert!(read == expected, "{len}");
        assert!(body.fill_buf().expect("piece").is_empty());

        send(&right, len, len);
        let mut message = port.receive(PATIENCE).expect("receive");
        let mut read = Vec::new();
        message.take_body().read_to_end(&mut read).expect("read");
        assert!(read == expected && message.bytes().is_empty(), "{len}");
    }
}

in_both_flavours!(bytes_on_the_heap_and_large_answers_arrive_too);

fn bytes_on_the_heap_and_large_answers_arrive_too(flavour: Flavour) {
    let (port, right) = port(flavour);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let mut request = port.receive(PATIENCE).expect("receive");
                let reply = request.take_reply().expect("reply right");
                let mut bytes = request.into_bytes();
                bytes.reverse();
                let answer = Message::new(2).with_bytes(bytes);
                reply.send(answer).expect("answer");
            }
        });
        for seed in 0..20 {
            let mut expected = pattern(LARGE, seed);
            let request = Message::new(1).with_bytes(expected.clone());
            let answer = right.request(request, PATIENCE, PATIENCE).expect("answer");
            expected.reverse();
            assert!(answer.bytes() == expected);
        }
    });
}

in_both_flavours!(memory_is_used_again_once_it_was_returned);

/// Counted in a process of its own, because other tests have memory too.
fn memory_is_used_again_once_it_was_returned(flavour: Flavour) {
    let (port, right) = port(flavour);
    let before = memory_files();
    for seed in 0..100 {
        send(&right, LARGE, seed);
        let mut body = port.receive(PATIENCE).expect("receive").take_body();
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).expect("read");
        assert!(bytes == pattern(LARGE, seed));
        // A loan that is not sent is no loss.
        drop(right.lend(LARGE));
    }
    // That of the rings, on both sides, and what is lent in turns.
    assert!(memory_files() <= before + 4, "{} files", memory_files());
}

in_both_flavours!(a_receiver_that_keeps_messages_gets_all_of_them_whole);

fn a_receiver_that_keeps_messages_gets_all_of_them_whole(flavour: Flavour) {
    let (port, right) = port(flavour);
    let kept: Vec<Message> = (0..40)
        .map(|seed| {
            send(&right, LARGE, seed);
            port.receive(PATIENCE).expect("receive")
        })
        .collect();
    for (seed, message) in kept.iter().enumerate() {
        assert!(message.bytes() == pattern(LARGE, seed), "{seed}");
    }
}

in_both_flavours!(a_loan_of_another_right_and_a_message_passed_on_are_copied);

fn a_loan_of_another_right_and_a_message_passed_on_are_copied(flavour: Flavour) {
    let (port, right) = self::port(flavour);
    let (other_port, other) = self::port(flavour);
    let message = Message::new(1).with_loan(loan(&other, LARGE, 1));
    right.send(message, PATIENCE).expect("send");
    let message = port.receive(PATIENCE).expect("receive");
    other.send(message, PATIENCE).expect("send");
    let message = other_port.receive(PATIENCE).expect("receive");
    assert!(message.bytes() == pattern(LARGE, 1));
}

in_both_flavours!(a_send_that_fails_gives_the_loan_back_with_its_bytes);

fn a_send_that_fails_gives_the_loan_back_with_its_bytes(flavour: Flavour) {
    let (port, right) = self::port(flavour);
    let message = Message::new(1).with_loan(loan(&right, LARGE, 5));
    drop(port);
    let error = right.send(message, PATIENCE).expect_err("dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
    let message = error.into_message();
    assert!(message.bytes() == pattern(LARGE, 5));
    // It can still be sent to somebody else.
    let (port, right) = self::port(flavour);
    right.send(message, PATIENCE).expect("send");
    let message = port.receive(PATIENCE).expect("receive");
    assert!(message.into_bytes() == pattern(LARGE, 5));
}

in_both_flavours!(large_messages_move_with_their_port_and_are_returned_from_there);

fn large_messages_move_with_their_port_and_are_returned_from_there(flavour: Flavour) {
    let (port, right) = port(flavour);
    let (carrier, way) = self::port(flavour);
    for seed in 0..3 {
        send(&right, LARGE, seed);
    }
    let first = port.receive(PATIENCE).expect("receive");
    let message = Message::new(0).with_right(port);
    way.send(message, PATIENCE).expect("move");
    let right_moved = carrier
        .receive(PATIENCE)
        .expect("moved")
        .take_rights()
        .pop();
    let Some(Right::Receive(moved)) = right_moved else {
        panic!("no receive right");
    };
    // What was received before is still whole, and returned by who has it.
    assert!(first.into_bytes() == pattern(LARGE, 0));
    for seed in 1..3 {
        let message = moved.receive(PATIENCE).expect("receive");
        assert!(message.bytes() == pattern(LARGE, seed));
    }
    send(&right, LARGE, 9);
    let message = moved.receive(PATIENCE).expect("receive");
    assert!(message.bytes() == pattern(LARGE, 9));
}

in_both_flavours!(memory_that_comes_back_from_a_dead_port_costs_no_answer);

fn memory_that_comes_back_from_a_dead_port_costs_no_answer(flavour: Flavour) {
    let (port, right) = port(flavour);
    let request = Message::new(1).with_loan(loan(&right, LARGE, 3));
    let pending = right.begin_request(request, PATIENCE).expect("ask");
    let mut request = port.receive(PATIENCE).expect("receive");
    let reply = request.take_reply().expect("reply right");
    drop(port);
    assert!(right.is_dead());
    assert!(request.into_bytes() == pattern(LARGE, 3));
    reply.send(Message::new(2)).expect("answer");
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 2);
}
