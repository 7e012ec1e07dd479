//! Bells that a hostile holder offers, in a process that broken pipes end.

use std::fs::File;
use std::io::{IoSlice, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use portolan_port::{Message, ReceiveRight, Timeout};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketType, shutdown,
};

use super::{PATIENCE, end, end_by_broken_pipes, fork, pair};

/// Half a megabyte of records and their header, for each direction.
const REGION_BYTES: u64 = 640 + (512 << 10);

/// Where a region has its words, and where the records begin.
const PUBLISHED: u64 = 0;
const CONSUMER_SLEEPS: u64 = 256;
const RECORDS: u64 = 640;

/// Kinds of packets.
const MESSAGE: u8 = 1;
const PROMOTE: u8 = 3;
const SWITCH: u8 = 4;

/// The port's bell and the holder's, the end to read from first.
type Bells = [OwnedFd; 4];

/// A packet that is only a header, with a slot for an answer if that is not 0.
fn packet(kind: u8, slot: u8) -> [u8; 24] {
    let mut header = [0; 24];
    (header[0], header[1], header[12]) = (kind, 1, slot);
    header
}

/// A holder of memory that says that it sleeps before whatever could ring for it.
struct Holder {
    socket: OwnedFd,
    memory: OwnedFd,
    bells: Bells,
}

impl Holder {
    fn new(socket: OwnedFd, bells: Bells) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("hostile", flags).expect("memfd");
        rustix::fs::ftruncate(&memory, 2 * REGION_BYTES).expect("ftruncate");
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).expect("seal");
        Self {
            socket,
            memory,
            bells,
        }
    }

    fn set(&self, at: u64, value: u64) {
        let written = rustix::io::pwrite(&self.memory, &value.to_le_bytes(), at);
        assert_eq!(written, Ok(8));
    }

    fn say_asleep(&self) {
        self.set(REGION_BYTES + CONSUMER_SLEEPS, 1);
    }

    /// Sends a packet through the socket; in vain if the channel is closed.
    fn send(&self, bytes: &[u8], with_offer: bool) {
        let bells = self.bells.iter().map(AsFd::as_fd);
        let fds: Vec<_> = [self.memory.as_fd()].into_iter().chain(bells).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if with_offer {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, flags).ok();
    }

    /// Publishes a request in memory, the first or a later one.
    fn ask(&self, number: u8) {
        let packet = packet(MESSAGE, number);
        let at = u64::from(number - 1) * (8 + packet.len() as u64);
        self.set(RECORDS + at, packet.len() as u64);
        let written = rustix::io::pwrite(&self.memory, &packet, RECORDS + at + 8);
        assert_eq!(written, Ok(packet.len()));
        self.set(PUBLISHED, at + 8 + packet.len() as u64);
    }
}

/// Answers what has come.
fn serve(port: &ReceiveRight) {
    while let Ok(mut request) = port.receive(Timeout::POLL) {
        if let Some(reply) = request.take_reply() {
            // Fails when the channel has been closed.
            reply.send(Message::new(0)).ok();
        }
    }
}

/// A port whose process broken pipes end is offered memory with these bells, which break after it
/// had the time to accept them.
fn survive(bells: Bells, break_now: impl FnOnce(&Bells)) {
    end_by_broken_pipes();
    let port = ReceiveRight::new().expect("port");
    let (here, there) = pair(SocketType::SEQPACKET);
    port.adopt(here, 0).expect("adopt");
    let holder = Holder::new(there, bells);
    holder.say_asleep();
    holder.send(&packet(PROMOTE, 0), true);
    serve(&port);
    break_now(&holder.bells);
    holder.send(&packet(SWITCH, 0), false);
    serve(&port);
    for number in 1..=3 {
        holder.ask(number);
        holder.say_asleep();
        serve(&port);
    }
    // The port rings its own bell too, for what has come meanwhile.
    holder.ask(4);
    port.as_fd();
    serve(&port);
    let right = port.make_send().expect("send right");
    right.send(Message::new(7), PATIENCE).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 7);
}

/// Plays the part of the port in a child.
fn survives(what: &str, bells: impl FnOnce() -> Bells, break_now: impl FnOnce(&Bells)) {
    let Some(child) = fork() else {
        end(|| survive(bells(), break_now))
    };
    assert_eq!(child.status(), 0, "{what}");
}

/// The same bell for all.
fn all(fd: impl Into<OwnedFd>) -> Bells {
    let fd = fd.into();
    [(); 4].map(|()| fd.try_clone().expect("duplicate"))
}

fn honest_pipes() -> Bells {
    let [(a, b), (c, d)] = [pipe(), pipe()].map(|ends| ends.expect("pipe"));
    [a.into(), b.into(), c.into(), d.into()]
}

fn honest_streams() -> Bells {
    let [(a, b), (c, d)] = [pair(SocketType::STREAM), pair(SocketType::STREAM)];
    [a, b, c, d]
}

#[test]
fn pipes_that_nobody_reads_end_no_port() {
    survives(
        "pipes to nobody",
        || {
            let [a, _, b, _] = honest_pipes();
            let [_, to_nobody, _, to_nobody_else] = honest_pipes();
            [a, to_nobody, b, to_nobody_else]
        },
        |_| {},
    );
    survives("pipes as they should be", honest_pipes, |_| {});
}

#[test]
fn files_as_bells_end_no_port() {
    let flags = MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("a file", flags).expect("memfd");
    survives("a regular file", || all(file), |_| {});
    let null = File::open("/dev/null").expect("/dev/null");
    survives("a device to read from", || all(null), |_| {});
}

#[test]
fn sockets_whose_other_end_is_closed_end_no_port() {
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        survives(&format!("{kind:?}"), || all(pair(kind).0), |_| {});
    }
}

#[test]
fn sockets_that_are_shut_down_end_no_port() {
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
            let (near, far) = pair(kind);
            shutdown(&near, how).expect("shutdown");
            survives(&format!("{kind:?}: {how:?}"), || all(near), |_| {});
            drop(far);
        }
    }
}

#[test]
fn bells_that_break_after_they_were_accepted_end_no_port() {
    survives("streams as they should be", honest_streams, |_| {});
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        survives(&format!("{how:?}"), honest_streams, |bells| {
            for bell in bells {
                shutdown(bell, how).expect("shutdown");
            }
        });
    }
}
