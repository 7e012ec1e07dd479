//! Peers that write what they like: each harms its own channel and nothing else.

use std::cell::Cell;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_port::{
    MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, Message, PendingReply, PortId, ReceiveError,
    ReceiveRight, ReplyError, Right, SendErrorKind, SendRight, Timeout,
};
use portolan_testkit::usage;
use portolan_wire::moved::MovedChannel;
use portolan_wire::packet::{Flags, Header, Kind, RightDescriptor, RightKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// The badge of the honest client.
const HONEST: u64 = u64::MAX;

/// A port with an honest client, and a count of what was open before the peer began.
struct Stage {
    port: ReceiveRight,
    honest: SendRight,
    open: usize,
    /// Descriptors are counted, so these tests take turns where they share a process.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let port = ReceiveRight::new().expect("port");
        let honest = port.make_send_badged(HONEST).expect("send right");
        let mut stage = Self {
            port,
            honest,
            open: 0,
            _alone: alone,
        };
        // The kernel's word on the honest client, and the bell of the port, are there before too.
        stage.port.request_no_senders(0);
        stage.serve_honest();
        stage.open = usage::descriptors(std::process::id());
        stage
    }

    /// A channel of the port whose other end is raw.
    fn peer(&self) -> OwnedFd {
        let (here, there) = pair(SocketType::SEQPACKET);
        self.port.adopt(here, 0).expect("adopt");
        there
    }

    /// The honest client asks and is answered, whatever else comes.
    fn serve_honest(&self) -> Vec<Message> {
        let question = Message::new(1).with_bytes("honest");
        let pending = self.honest.begin_request(question, PATIENCE).expect("send");
        let mut others = Vec::new();
        loop {
            let mut message = self.port.receive(PATIENCE).expect("the honest request");
            if message.badge() == HONEST {
                assert_eq!(message.bytes(), b"honest");
                let reply = message.take_reply().expect("reply right");
                reply.send(Message::new(2)).expect("answer");
                break;
            }
            others.push(message);
        }
        assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 2);
        others
    }

    /// Takes what there is; gives the messages of the peer.
    fn drain(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.port.receive(Timeout::POLL) {
                Ok(message) => messages.push(message),
                Err(ReceiveError::TimedOut) => return messages,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The port has closed its side of the channel, delivered nothing, and is as it was before.
    fn refused(&self, peer: OwnedFd, what: &str) {
        let messages = self.drain();
        assert!(messages.is_empty(), "{what}: {messages:?}");
        assert!(is_closed(&peer), "{what}: the channel is still open");
        drop(peer);
        self.unharmed(what);
    }

    fn unharmed(&self, what: &str) {
        self.drain();
        self.serve_honest();
        assert_eq!(self.port.status().senders, 1, "{what}: a sender is left");
        let open = usage::descriptors(std::process::id());
        assert_eq!(open, self.open, "{what}: descriptors are left");
    }
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .expect("socketpair")
}

fn write(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Whether the other side has shut this down, after what it sent before.
fn is_closed(socket: &OwnedFd) -> bool {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match portolan_sys::ancillary::receive(socket, &mut buffer) {
            Ok(received) if received.len == 0 => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return false;
            }
        }
    }
}

fn header(kind: Kind, slot: u32) -> Header {
    Header::control(kind, slot)
}

fn right(kind: RightKind, fds: u8) -> RightDescriptor {
    RightDescriptor {
        kind,
        fds,
        port: PortId::from_bytes([9; 16]),
    }
}

/// A message with these rights and bytes, as bytes.
fn packet(header: Header, rights: &[RightDescriptor], bytes: &[u8]) -> Vec<u8> {
    let header = Header {
        rights: u16::try_from(rights.len()).expect("few"),
        length: bytes.len() as u64,
        ..header
    };
    let rights = rights.iter().flat_map(RightDescriptor::encode);
    let head = header.encode().into_iter();
    head.chain(rights).chain(bytes.iter().copied()).collect()
}

#[test]
fn an_honest_raw_peer_is_served() {
    let stage = Stage::new();
    let peer = stage.peer();
    let (_, end) = pair(SocketType::SEQPACKET);
    let bytes = packet(
        header(Kind::Message, 0),
        &[right(RightKind::Send, 1)],
        b"abc",
    );
    write(&peer, &bytes, &[end.as_fd()]).expect("write");
    let messages = stage.drain();
    assert!(matches!(messages[..], [ref only] if only.bytes() == b"abc"));
    drop((messages, end, peer));
    stage.unharmed("a peer that keeps to the rules");
}

#[test]
fn packets_that_are_cut_short_close_their_channel() {
    let stage = Stage::new();
    let rights = [right(RightKind::Send, 1)];
    let whole = packet(header(Kind::Message, 7), &rights, b"abc");
    let (_other, end) = pair(SocketType::SEQPACKET);
    let open = usage::descriptors(std::process::id());
    let stage = Stage { open, ..stage };
    for len in 0..whole.len() {
        let peer = stage.peer();
        write(&peer, &whole[..len], &[end.as_fd()]).expect("write");
        stage.refused(peer, &format!("{len} bytes of {}", whole.len()));
    }
}

#[test]
fn headers_that_lie_close_their_channel() {
    let stage = Stage::new();
    let whole = packet(header(Kind::Message, 0), &[], b"abc");
    let lies: [(&str, usize, &[u8]); 9] = [
        ("unknown kind", 0, &[3]),
        ("kind of the other side", 0, &[16]),
        ("version", 1, &[2]),
        ("unknown flag", 2, &[4]),
        ("reserved byte", 3, &[1]),
        ("out of line without a descriptor", 2, &[1]),
        ("reply right without a right", 2, &[2]),
        ("rights", 4, &[0xff, 0xff]),
        ("length", 16, &[0xff; 8]),
    ];
    for (what, at, lie) in lies {
        let mut bytes = whole.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        let peer = stage.peer();
        write(&peer, &bytes, &[]).expect("write");
        stage.refused(peer, what);
    }
    for length in [2, 4, MAX_MESSAGE_BYTES as u64 + 1] {
        let mut bytes = whole.clone();
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let peer = stage.peer();
        write(&peer, &bytes, &[]).expect("write");
        stage.refused(peer, "a length that is not the length");
    }
}

/// Packets that are right, or wrong in one place.
fn nearly_right() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let kind = prop_oneof![8 => Just(1_u8), 3 => Just(2), 1 => 16..20_u8, 1 => any::<u8>()];
    let flags = prop_oneof![6 => Just(0_u8), 1 => 1..5_u8];
    let rights = proptest::collection::vec((1..5_u8, 0..18_u8), 0..3);
    let tail = proptest::collection::vec(any::<u8>(), 0..80);
    let wrong = (0..12_usize, 0..24_usize, any::<u8>());
    ((kind, flags), any::<u32>(), rights, tail, wrong).prop_map(
        |((kind, flags), slot, rights, tail, (more, at, byte))| {
            let mut bytes = vec![0; 24];
            (bytes[0], bytes[1], bytes[2], bytes[4]) = (kind, 1, flags, rights.len() as u8);
            bytes[12..16].copy_from_slice(&(slot % 3).to_le_bytes());
            bytes[16] = tail.len() as u8;
            let mut fds = usize::from(kind == 2) + usize::from(flags & 1);
            for (kind, wrong) in rights {
                let own = if wrong < 12 { 1 - kind / 4 } else { wrong - 12 };
                fds += usize::from(own);
                bytes.extend([kind, own]);
                bytes.extend([0; 22]);
            }
            bytes.extend(tail);
            if more == 1 {
                bytes[at] = byte;
            }
            (bytes, fds + usize::from(more == 0))
        },
    )
}

fn noise() -> impl Strategy<Value = (Vec<u8>, usize)> {
    (proptest::collection::vec(any::<u8>(), 0..300), 0..4_usize)
}

#[test]
fn thousands_of_random_packets_change_nothing() {
    let stage = Stage::new();
    let (other, end) = pair(SocketType::SEQPACKET);
    let config = Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    };
    let seeded = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, seeded);
    let delivered = Cell::new(0);
    let packets = prop_oneof![3 => nearly_right(), 1 => noise()];
    let ran = runner.run(&packets, |(bytes, fds)| {
        let peer = stage.peer();
        write(&peer, &bytes, &vec![end.as_fd(); fds]).expect("write");
        delivered.set(delivered.get() + stage.drain().len());
        Ok(())
    });
    ran.expect("no case fails");
    let delivered = delivered.get();
    assert!((500..3500).contains(&delivered), "{delivered} delivered");
    drop((other, end));
    stage.unharmed("random packets");
}
