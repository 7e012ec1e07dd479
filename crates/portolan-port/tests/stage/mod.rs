//! A port between an honest client and a hostile peer, and what such a peer is made of.

use std::cell::Cell;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_port::{Message, ReceiveError, ReceiveRight, SendRight, Timeout};
use portolan_testkit::usage;
use portolan_wire::packet::{Header, Kind, RightDescriptor};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::PATIENCE;

/// The badge of the honest client.
pub(crate) const HONEST: u64 = u64::MAX;

/// A port with an honest client, and a count of what was open before the peer began.
pub(crate) struct Stage {
    pub(crate) port: ReceiveRight,
    pub(crate) honest: SendRight,
    pub(crate) open: usize,
    /// Of the honest client, so that each question is another.
    turn: Cell<u32>,
    /// Descriptors are counted, so these tests take turns where they share a process.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let port = ReceiveRight::new().expect("port");
        let honest = port.make_send_badged(HONEST).expect("send right");
        let mut stage = Self {
            port,
            honest,
            open: 0,
            turn: Cell::new(0),
            _alone: alone,
        };
        // The kernel's word on the honest client, and the bell of the port, are there before too.
        stage.port.request_no_senders(0);
        // Its right goes over to shared memory while it is used, which takes descriptors.
        for _ in 0..8 {
            stage.serve_honest();
        }
        stage.open = usage::descriptors(std::process::id());
        stage
    }

    /// A channel of the port whose other end is raw.
    pub(crate) fn peer(&self) -> OwnedFd {
        let (here, there) = pair(SocketType::SEQPACKET);
        self.port.adopt(here, 0).expect("adopt");
        there
    }

    /// The honest client asks and is answered, whatever else comes, and no byte is wrong.
    pub(crate) fn serve_honest(&self) -> Vec<Message> {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let bytes = turn.to_le_bytes().repeat(turn as usize * 37 % 700);
        let question = Message::new(1).with_bytes(bytes.clone());
        let pending = self.honest.begin_request(question, PATIENCE).expect("send");
        let mut others = Vec::new();
        loop {
            let mut message = self.port.receive(PATIENCE).expect("the honest request");
            if message.badge() == HONEST {
                assert!(message.bytes() == bytes, "the honest question changed");
                let reply = message.take_reply().expect("reply right");
                let answer = Message::new(2).with_bytes(message.into_bytes());
                reply.send(answer).expect("answer");
                break;
            }
            others.push(message);
        }
        let answer = pending.wait(PATIENCE).expect("answer");
        assert_eq!(answer.id(), 2);
        assert!(answer.bytes() == bytes, "the honest answer changed");
        others
    }

    /// Takes what there is; gives the messages of the peer.
    pub(crate) fn drain(&self) -> Vec<Message> {
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
    pub(crate) fn refused(&self, peer: OwnedFd, what: &str) {
        let messages = self.drain();
        assert!(messages.is_empty(), "{what}: {messages:?}");
        assert!(is_closed(&peer), "{what}: the channel is still open");
        drop(peer);
        self.unharmed(what);
    }

    pub(crate) fn unharmed(&self, what: &str) {
        self.drain();
        self.serve_honest();
        // What left is noticed in turns, and a poll takes a limited number of them.
        let start = Instant::now();
        while self.port.status().senders > 1 && start.elapsed() < Duration::from_secs(20) {
            self.drain();
        }
        assert_eq!(self.port.status().senders, 1, "{what}: a sender is left");
        let open = usage::descriptors(std::process::id());
        assert_eq!(open, self.open, "{what}: descriptors are left");
    }
}

pub(crate) fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .expect("socketpair")
}

pub(crate) fn write(
    socket: &OwnedFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Whether the other side has shut this down, after what it sent before.
pub(crate) fn is_closed(socket: &OwnedFd) -> bool {
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

pub(crate) fn header(kind: Kind, slot: u32) -> Header {
    Header::control(kind, slot)
}

/// A message with these rights and bytes, as bytes.
pub(crate) fn packet(header: Header, rights: &[RightDescriptor], bytes: &[u8]) -> Vec<u8> {
    let header = Header {
        rights: u16::try_from(rights.len()).expect("few"),
        length: bytes.len() as u64,
        ..header
    };
    let rights = rights.iter().flat_map(RightDescriptor::encode);
    let head = header.encode().into_iter();
    head.chain(rights).chain(bytes.iter().copied()).collect()
}

/// Descriptors that are no end of a channel.
pub(crate) fn impostors() -> Vec<(&'static str, OwnedFd)> {
    let (pipe, _) = std::io::pipe().expect("pipe");
    let file = File::open("/dev/null").expect("/dev/null");
    let (datagram, _) = pair(SocketType::DGRAM);
    let (stream, _) = pair(SocketType::STREAM);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
    let listening = unconnected();
    // Nobody can close the other end of this, for there is none.
    rustix::net::bind(&listening, &SocketAddrUnix::new_unnamed()).expect("bind");
    rustix::net::listen(&listening, 1).expect("listen");
    vec![
        ("a pipe", pipe.into()),
        ("a file", file.into()),
        ("a datagram socket", datagram),
        ("a stream", stream),
        ("a TCP socket", tcp.into()),
        ("an epoll", epoll.expect("epoll")),
        ("an unconnected socket", unconnected()),
        ("a listening socket", listening),
    ]
}

pub(crate) fn unconnected() -> OwnedFd {
    let kind = SocketType::SEQPACKET;
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("socket")
}
