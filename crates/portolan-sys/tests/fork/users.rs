//! Who may bring a channel over to memory.
//!
//! Who made the two ends of a channel may have kept one of them, and can look at the offer of memory
//! that comes through it. With the memory it could speak as whoever made the offer. So the port
//! accepts offers on a channel that it made itself or that was made by a process which could do so
//! anyway: one of root's, or of the same user.

use std::os::fd::{AsFd, OwnedFd};

use portolan_port::{Message, ReceiveRight, Right, SendRight};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::{PATIENCE, become_user, end, fork};

const MAKER: u32 = 65_533;
const HOLDER: u32 = 65_532;

/// More requests than it takes to go over.
const REQUESTS: i32 = 10;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A child of this user makes a channel to the port, gives the holder's end away, and ends.
fn channel_made_by(user: Option<u32>, port: &ReceiveRight) -> OwnedFd {
    let right = port.make_send().expect("send right");
    let socket = right.into_socket().expect("unused");
    let Some(child) = fork() else {
        end(|| {
            user.into_iter().for_each(become_user);
            let right = SendRight::from_socket(socket).expect("right");
            let made = right.copy(PATIENCE).expect("copy");
            let message = Message::new(0).with_right(made);
            right.send(message, PATIENCE).expect("send");
        })
    };
    drop(socket);
    let mut message = port.receive(PATIENCE).expect("receive");
    child.finish();
    match message.take_rights().pop() {
        Some(Right::Send(made)) => made.into_socket().expect("unused"),
        other => panic!("expected a send right, got {other:?}"),
    }
}

/// A child of this user asks through the channel; it asserts whether everything goes through memory
/// in the end.
fn use_channel(socket: OwnedFd, user: Option<u32>, port: &ReceiveRight, in_memory: bool) {
    let Some(child) = fork() else {
        end(|| {
            user.into_iter().for_each(become_user);
            let right = SendRight::from_socket(socket).expect("right");
            for id in 0..REQUESTS {
                let answer = right.request(Message::new(id), PATIENCE, PATIENCE);
                assert_eq!(answer.expect("answer").id(), id);
            }
            // The descriptor is the socket, or an epoll instance.
            let is_socket = socket_type(right.as_fd()) == Ok(SocketType::SEQPACKET);
            assert_ne!(is_socket, in_memory);
        })
    };
    drop(socket);
    let own = rustix::process::getuid().as_raw();
    for id in 0..REQUESTS {
        let mut request = port.receive(PATIENCE).expect("receive");
        let sender = request.sender().expect("sender");
        assert_eq!((request.id(), sender.uid()), (id, user.unwrap_or(own)));
        let reply = request.take_reply().expect("reply right");
        reply.send(Message::new(id)).expect("answer");
    }
    child.finish();
}

/// Without root nobody can be another user, so the refusal is tested where the tests run as root.
#[test]
fn a_channel_that_another_user_made_stays_on_the_socket() {
    if !is_root() {
        return;
    }
    let port = ReceiveRight::new().expect("port");
    for holder in [None, Some(HOLDER), Some(MAKER)] {
        let made = channel_made_by(Some(MAKER), &port);
        use_channel(made, holder, &port, false);
    }
}

#[test]
fn a_channel_that_the_port_or_its_user_made_goes_over_to_memory() {
    let port = ReceiveRight::new().expect("port");
    let holders = if is_root() {
        &[None, Some(HOLDER)][..]
    } else {
        &[None]
    };
    for holder in holders {
        let own = port.make_send().expect("send right");
        let socket = own.into_socket().expect("unused");
        use_channel(socket, *holder, &port, true);
        let made = channel_made_by(None, &port);
        use_channel(made, *holder, &port, true);
    }
}

/// Root may be anybody, so what it made is as good as the port's own. Without root there is nobody to
/// try it.
#[test]
fn a_channel_that_root_made_goes_over_to_memory() {
    if !is_root() {
        return;
    }
    // A channel for the port's process to take, made by this one.
    let (here, there) = super::pair(SocketType::SEQPACKET);
    let Some(child) = fork() else {
        end(|| {
            become_user(HOLDER);
            let port = ReceiveRight::new().expect("port");
            port.adopt(here, 0).expect("adopt");
            for id in 0..REQUESTS {
                let mut request = port.receive(PATIENCE).expect("receive");
                assert_eq!(request.id(), id);
                let reply = request.take_reply().expect("reply right");
                reply.send(Message::new(id)).expect("answer");
            }
        })
    };
    drop(here);
    let right = SendRight::from_socket(there).expect("right");
    for id in 0..REQUESTS {
        let answer = right.request(Message::new(id), PATIENCE, PATIENCE);
        assert_eq!(answer.expect("answer").id(), id);
    }
    assert!(socket_type(right.as_fd()).is_err(), "still on the socket");
    child.finish();
}
