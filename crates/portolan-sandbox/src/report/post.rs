//! Sending reports.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use portolan_wire::bootstrap::{Operation, Request};
use portolan_wire::packet::PlainMessage;
use portolan_wire::sandbox::Report;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::Limit;

/// Where reports go. A server that takes none, or takes its time, holds nobody up.
#[derive(Debug)]
pub(super) struct Post {
    right: OwnedFd,
    limit: Limit,
    left_out: u64,
}

impl Post {
    pub(super) fn new(right: OwnedFd) -> Self {
        Self {
            right,
            limit: Limit::default(),
            left_out: 0,
        }
    }

    /// Sends a report, which is made only if it is not one of too many.
    pub(super) fn send(&mut self, report: impl FnOnce() -> Report) {
        let Some(suppressed) = self.limit.admit() else {
            return;
        };
        self.left_out += suppressed;
        let report = Report {
            left_out: u32::try_from(self.left_out).unwrap_or(u32::MAX),
            ..report()
        };
        self.left_out = match self.try_send(report) {
            Ok(()) => 0,
            Err(_) => self.left_out + 1,
        };
    }

    fn try_send(&self, report: Report) -> Result<(), Errno> {
        let bytes = Request::Report(Box::new(report)).encode();
        let head = PlainMessage::head(Operation::Report.id(), 0, bytes.len());
        let slices = [IoSlice::new(&head), IoSlice::new(&bytes)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing = SendAncillaryBuffer::default();
        rustix::io::retry_on_intr(|| sendmsg(&self.right, &slices, &mut nothing, flags)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_wire::packet;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    fn report() -> Report {
        Report {
            pid: Some(7),
            left_out: 0,
            operation: "file-read".into(),
            name: "/a".into(),
            key: "k".into(),
            value: "v".into(),
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("sockets")
    }

    fn received(socket: &OwnedFd) -> Option<Request> {
        let mut bytes = [0; 4096];
        let (length, _) = recv(socket, &mut bytes, RecvFlags::DONTWAIT).ok()?;
        let packet = packet::decode(&bytes[..length]).expect("a packet");
        Some(Request::decode(packet.header.id, packet.inline).expect("a request"))
    }

    #[test]
    fn of_a_flood_a_burst_is_sent_and_the_rest_is_counted() {
        let (ours, theirs) = pair();
        let mut post = Post::new(ours);
        let mut made = 0;
        for _ in 0..10_000 {
            post.send(|| {
                made += 1;
                report()
            });
        }
        assert!((100..1000).contains(&made), "{made} were made");
        let first = received(&theirs).expect("the first");
        assert_eq!(first, Request::Report(Box::new(report())));
        let rest = std::iter::from_fn(|| received(&theirs)).count();
        assert_eq!(rest + 1, made);
    }

    #[test]
    fn a_server_that_takes_nothing_is_not_waited_for() {
        let (ours, theirs) = pair();
        let mut post = Post::new(ours);
        let long = || Report {
            name: "x".repeat(1000).into(),
            ..report()
        };
        rustix::net::sockopt::set_socket_send_buffer_size(&post.right, 4096).expect("setsockopt");
        (0..90).for_each(|_| post.send(long));
        let some = std::iter::from_fn(|| received(&theirs)).count();
        assert!((1..90).contains(&some), "{some} had room");
        post.send(report);
        let Some(Request::Report(next)) = received(&theirs) else {
            panic!("there is room again");
        };
        assert_eq!(next.left_out as usize, 90 - some);
        drop(theirs);
        post.send(report);
    }
}
