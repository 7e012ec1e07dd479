//! Rights in either flavour to ports that another process receives from.

use portolan_port::{Message, ReceiveRight, SendRight};
use portolan_testkit::flavour::{Flavour, memories};

use crate::PATIENCE;

/// More requests than it takes to go over to memory; `processes.rs` has a test of that.
const WARM_UPS: usize = 8;

/// Says that a request is there for nothing but going over.
const WARM_UP: i32 = i32::MIN;

/// Brings a fresh right into a flavour whose port answers warm-ups.
pub(crate) fn warm_up(right: &SendRight, flavour: Flavour) {
    if flavour == Flavour::Socket {
        // Asking keeps it there.
        assert_eq!(Flavour::of(right), Flavour::Socket);
        return;
    }
    let before = memories();
    for _ in 0..WARM_UPS {
        let answer = right.request(Message::new(WARM_UP), PATIENCE, PATIENCE);
        assert_eq!(answer.expect("answer").id(), WARM_UP);
    }
    assert!(!memories().is_subset(&before), "still on the socket");
}

/// Answers the warm-ups of one right, with nothing else coming.
pub(crate) fn answer_warm_up(port: &ReceiveRight, flavour: Flavour) {
    if flavour == Flavour::Ring {
        for _ in 0..WARM_UPS {
            let message = port.receive(PATIENCE).expect("receive");
            assert_eq!(message.id(), WARM_UP);
            answer(message);
        }
    }
}

/// Receives a message, and answers the warm-ups that come before it.
pub(crate) fn receive(port: &ReceiveRight) -> Message {
    loop {
        let message = port.receive(PATIENCE).expect("receive");
        if message.id() != WARM_UP {
            return message;
        }
        answer(message);
    }
}

fn answer(mut warm_up: Message) {
    let reply = warm_up.take_reply().expect("reply right");
    reply.send(Message::new(WARM_UP)).expect("answer");
}
