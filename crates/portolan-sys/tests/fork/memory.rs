//! Rights that share memory, in a child, where that memory is not.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use portolan_port::{Loan, Message, PortSet, ReceiveRight, SendRight};

use super::{PATIENCE, end, fork, port};

/// More than fits into a record.
const LARGE: usize = 3 << 20;

/// A port and a right that has gone over to memory, which the port looks at without being told to.
fn promoted() -> (ReceiveRight, SendRight) {
    let (port, right) = port();
    for _ in 0..10 {
        assert_served(&port, &right);
    }
    (port, right)
}

fn assert_served(port: &ReceiveRight, right: &SendRight) {
    right.send(Message::new(1), PATIENCE).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 1);
}

fn full_loan(right: &SendRight) -> Loan {
    let mut loan = right.lend(LARGE);
    loan.fill(7);
    loan
}

/// The loan is as it was, and can be sent.
fn assert_whole(loan: Loan, port: &ReceiveRight, right: &SendRight) {
    assert!(loan.len() == LARGE && loan.iter().all(|byte| *byte == 7));
    let message = Message::new(2).with_loan(loan);
    right.send(message, PATIENCE).expect("send");
    let message = port.receive(PATIENCE).expect("receive");
    let bytes = message.bytes();
    assert!(bytes.len() == LARGE && bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn a_child_may_ask_for_descriptors_of_its_parents_rights() {
    let (port, right) = promoted();
    let Some(child) = fork() else {
        end(|| {
            port.as_fd();
            right.as_fd();
        })
    };
    child.finish();
    assert_served(&port, &right);
}

#[test]
fn a_child_may_take_its_parents_port_out_of_a_set_of_its_own() {
    let (port, right) = promoted();
    let Some(child) = fork() else {
        end(|| {
            let set = PortSet::new().expect("set");
            assert!(!set.remove(&port), "it is in no set");
        })
    };
    child.finish();
    assert_served(&port, &right);
}

#[test]
fn a_child_sees_nothing_of_a_loan_and_writes_nothing_to_it() {
    let (port, right) = promoted();
    let mut loan = full_loan(&right);
    let Some(reader) = fork() else {
        end(|| assert!(loan.iter().next().is_none()))
    };
    reader.finish();
    let Some(writer) = fork() else {
        end(|| assert!(loan.iter_mut().next().is_none()))
    };
    writer.finish();
    assert_whole(loan, &port, &right);
}

#[test]
fn a_child_may_make_a_message_of_a_loan() {
    let (port, right) = promoted();
    let loan = full_loan(&right);
    let Some(child) = fork() else {
        end(|| {
            let message = Message::new(1).with_loan(loan);
            assert!(message.bytes().is_empty());
            assert!(message.into_bytes().is_empty());
        })
    };
    child.finish();
    assert_whole(loan, &port, &right);
}

#[test]
fn a_child_may_drop_a_loan() {
    let (port, right) = promoted();
    let loan = full_loan(&right);
    let Some(child) = fork() else {
        end(|| drop(loan))
    };
    child.finish();
    assert_whole(loan, &port, &right);
}

#[test]
fn a_child_that_hangs_up_does_not_cut_its_parent_off() {
    for (port, right) in [port(), promoted()] {
        let Some(child) = fork() else {
            end(|| right.hang_up())
        };
        child.finish();
        assert!(!right.is_dead());
        assert_served(&port, &right);
    }
}

#[test]
fn a_child_does_not_wait_for_what_threads_of_its_parent_had_locked() {
    let (port, right) = promoted();
    let done = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(port.status().senders, 1);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(right.lend(LARGE));
            }
        });
        let mut children = (0..100).map(|_| {
            let loan = right.lend(LARGE);
            let Some(child) = fork() else {
                end(|| {
                    // What it says is the parent's affair.
                    std::hint::black_box(port.status());
                    port.as_fd();
                    drop(loan);
                    right.hang_up();
                })
            };
            child.status()
        });
        let failed = children.find(|status| *status != 0);
        done.store(true, Ordering::Relaxed);
        failed
    });
    assert_eq!(status, None, "a child failed or waited");
    assert_served(&port, &right);
}
