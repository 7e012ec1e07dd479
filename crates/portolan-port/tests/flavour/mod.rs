//! Rights in either flavour.

use portolan_port::{Message, ReceiveRight, SendRight};
use portolan_testkit::flavour::{Flavour, memories};

use crate::PATIENCE;

/// A port and a right to it.
pub(crate) fn port(flavour: Flavour) -> (ReceiveRight, SendRight) {
    let port = ReceiveRight::new().expect("port");
    let right = right_to(&port, flavour);
    (port, right)
}

/// Another right to a port that has nothing queued. It advances the sequence numbers of the port.
pub(crate) fn right_to(port: &ReceiveRight, flavour: Flavour) -> SendRight {
    let right = port.make_send().expect("send right");
    bring(&right, port, flavour);
    right
}

/// Brings a fresh right to a port that has nothing queued into a flavour.
pub(crate) fn bring(right: &SendRight, port: &ReceiveRight, flavour: Flavour) {
    if flavour == Flavour::Socket {
        // Asking keeps it there.
        assert_eq!(Flavour::of(right), Flavour::Socket);
        return;
    }
    let before = memories();
    // More than it takes to go over; `rights.rs` has a test of that.
    for _ in 0..8 {
        right.send(Message::new(0), PATIENCE).expect("send");
        port.receive(PATIENCE).expect("receive");
    }
    assert!(!memories().is_subset(&before), "still on the socket");
}
