//! One packet in, one packet out, and waiting for a socket.
//!
//! Nothing here relies on flags of the socket: a former holder may have changed them, so every
//! call says itself that it does not wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use portolan_sys::ancillary::{self, Credentials, MAX_DESCRIPTORS, Received};
use portolan_wire::packet::{
    self, Flags, HEADER_BYTES, Header, Kind, MAX_MESSAGE_RIGHTS, RIGHT_BYTES, RightDescriptor,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::Resource;

use crate::mapping::Mapping;
use crate::payload::{INLINE_MAX, Payload};
use crate::timeout::Deadline;

/// A packet to send.
pub(crate) struct Outgoing<'a> {
    pub(crate) header: Header,
    pub(crate) rights: &'a [RightDescriptor],
    pub(crate) inline: &'a [u8],
    pub(crate) fds: &'a [BorrowedFd<'a>],
}

impl<'a> Outgoing<'a> {
    /// Word that a request is not answered, and why.
    pub(crate) fn no_reply(slot: u32, reason: &'a [u8]) -> Self {
        let mut packet = Self::control(Kind::NoReply, slot);
        packet.header.length = reason.len() as u64;
        packet.inline = reason;
        packet
    }

    /// A packet that is only a header.
    pub(crate) fn control(kind: Kind, slot: u32) -> Self {
        Self {
            header: Header::control(kind, slot),
            rights: &[],
            inline: &[],
            fds: &[],
        }
    }
}

/// Why a packet was not sent.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The queue is full; room may come.
    Full(Full),
    /// The other end is closed.
    Closed,
    /// The user's limit of descriptors in flight is reached.
    InFlight,
    System(Errno),
}

/// What there is no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Socket,
    /// For a record of this length.
    Ring {
        len: u32,
    },
}

/// Sends a packet without waiting.
pub(crate) fn try_send(socket: BorrowedFd<'_>, packet: &Outgoing<'_>) -> Result<(), Refusal> {
    let head = packet.header.encode();
    let rights: Vec<u8> = packet
        .rights
        .iter()
        .flat_map(RightDescriptor::encode)
        .collect();
    let slices = [
        IoSlice::new(&head),
        IoSlice::new(&rights),
        IoSlice::new(packet.inline),
    ];
    send_slices(socket, &slices, packet.fds)
}

pub(crate) fn send_slices(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Refusal> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Refusal::System(Errno::INVAL));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, slices, &mut control, flags)) {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err(Refusal::Full(Full::Socket)),
        Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(Refusal::Closed),
        Err(Errno::TOOMANYREFS) => Err(Refusal::InFlight),
        Err(other) => Err(Refusal::System(other)),
    }
}

/// Waits until the socket is ready; false if the deadline passed first.
pub(crate) fn wait(
    socket: BorrowedFd<'_>,
    events: PollFlags,
    deadline: Deadline,
) -> Result<bool, Errno> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(socket, events)];
        match rustix::event::poll(&mut fds, deadline.timespec().as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(other) => return Err(other),
        }
    }
}

/// A packet as it came, its descriptors counted.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) header: Header,
    pub(crate) rights: Vec<RightDescriptor>,
    pub(crate) payload: Payload,
    /// Memory that has the payload instead, and the number under which it is returned.
    pub(crate) lent: Option<(OwnedFd, u32)>,
    /// Those of the rights, or of the control packet.
    pub(crate) fds: VecDeque<OwnedFd>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) pidfd: Option<OwnedFd>,
}

/// Why there is no packet.
#[derive(Debug)]
pub(crate) enum Nothing {
    /// None is queued.
    Empty,
    /// The other end is closed and everything it sent has been received.
    Closed,
    /// The other end broke the protocol.
    Violation,
    /// This process has no descriptors left, and so lost those of the packet, and the packet with
    /// them. Nothing is wrong with the channel. If the payload was lent, there is the number under
    /// which it is returned.
    Lost(Header, Option<u32>),
}

/// Receives a packet without waiting.
pub(crate) fn try_receive(socket: BorrowedFd<'_>) -> Result<Incoming, Nothing> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let receive = |buffer: &mut Vec<u8>| {
        if buffer.is_empty() {
            // Of memory that is zero already, only what is received into is touched.
            *buffer = vec![0; LONGEST];
        }
        let received = receive_raw(socket, buffer)?;
        let bytes = buffer.get(..received.len).unwrap_or_default();
        take_apart(bytes, received)
    };
    // A thread that ends may drop a right after this buffer.
    BUFFER
        .try_with(|buffer| receive(&mut buffer.borrow_mut()))
        .unwrap_or_else(|_| receive(&mut Vec::new()))
}

/// The bytes of the longest packet.
const LONGEST: usize = HEADER_BYTES + MAX_MESSAGE_RIGHTS * RIGHT_BYTES + INLINE_MAX;

/// The header of the next packet, which stays where it is. `None` if there is none that has one.
pub(crate) fn peek(socket: BorrowedFd<'_>) -> Option<Header> {
    let mut head = [0; HEADER_BYTES];
    let len = peek_bytes(socket, &mut head)?;
    let is_whole = len == HEADER_BYTES;
    is_whole.then(|| packet::decode_header(&head).ok())?
}

/// The channel that the next packet brings, if it is one that does and that has come whole, and who sent it.
/// The packet stays where it is.
pub(crate) fn peek_mint(socket: BorrowedFd<'_>) -> Option<(OwnedFd, Option<Credentials>)> {
    let mut head = [0; HEADER_BYTES];
    let mut received = ancillary::peek(socket, &mut head).ok()?;
    let header = packet::decode_header(&head).ok()?;
    let socket = received.descriptors.pop().filter(is_channel_end)?;
    (header.kind == Kind::Mint).then_some((socket, received.credentials))
}

/// As many bytes of the next packet as fit. Descriptors that are not asked for are not installed.
pub(crate) fn peek_bytes(socket: BorrowedFd<'_>, into: &mut [u8]) -> Option<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (len, _) = rustix::net::recv(socket, into, flags).ok()?;
    Some(len)
}

/// The headers of all packets that are queued, which stay where they are. Nobody else may receive
/// meanwhile.
pub(crate) fn peek_all(socket: BorrowedFd<'_>) -> Vec<Header> {
    let mut headers = Vec::new();
    if ancillary::set_peek_offset(socket, Some(0)).is_err() {
        return headers;
    }
    let mut buffer = vec![0; LONGEST];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    while let Ok((len @ 1.., _)) = rustix::net::recv(socket, &mut buffer[..], flags) {
        let head = buffer.get(..len).and_then(|packet| packet.first_chunk());
        headers.extend(head.and_then(|head| packet::decode_header(head).ok()));
        if headers.len() >= MAX_PEEKED {
            break;
        }
    }
    // It worked a moment ago.
    ancillary::set_peek_offset(socket, None).ok();
    headers
}

/// More packets than a socket of the default size has room for.
const MAX_PEEKED: usize = 1 << 16;

/// Receives the bytes and descriptors of a packet without waiting.
pub(crate) fn receive_raw(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Nothing> {
    raw(|| ancillary::receive(socket, buffer))
}

/// The same, but the packet stays where it is.
pub(crate) fn peek_raw(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Nothing> {
    raw(|| ancillary::peek(socket, buffer))
}

fn raw(mut receive: impl FnMut() -> io::Result<Received>) -> Result<Received, Nothing> {
    let mut result = receive();
    // Reported once and before the packets that are still queued.
    if result
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    {
        result = receive();
    }
    // The kernel looks for a packet first and for the other end afterwards; one that was sent in
    // between and closed at once has left a packet. From here on, nothing more can come.
    if result.as_ref().is_ok_and(|received| received.len == 0) {
        result = receive().or(result);
    }
    match result {
        Ok(received) if received.len == 0 => Err(Nothing::Closed),
        Ok(received) if received.truncated => Err(Nothing::Violation),
        Ok(received) => Ok(received),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Nothing::Empty),
        Err(_) => Err(Nothing::Closed),
    }
}

fn take_apart(bytes: &[u8], received: Received) -> Result<Incoming, Nothing> {
    let packet = packet::decode(bytes).map_err(|_| Nothing::Violation)?;
    let is_lent = packet.header.flags.contains(Flags::LENT);
    let number = packet.inline.first_chunk().filter(|_| is_lent);
    let number = number.map(|number| u32::from_le_bytes(*number));
    if received.descriptors_lost && packet.descriptors() > received.descriptors.len() {
        return Err(Nothing::Lost(packet.header, number));
    }
    if packet.descriptors() != received.descriptors.len() {
        return Err(Nothing::Violation);
    }
    let mut fds = VecDeque::from(received.descriptors);
    let lent = match number {
        Some(number) => Some((fds.pop_front().ok_or(Nothing::Violation)?, number)),
        None => None,
    };
    let payload = if packet.header.flags.contains(Flags::OUT_OF_LINE) {
        let len = usize::try_from(packet.header.length).map_err(|_| Nothing::Violation)?;
        let file = fds.pop_front().ok_or(Nothing::Violation)?;
        Payload::Sealed(Mapping::of_sealed(file, len).map_err(|_| Nothing::Violation)?)
    } else {
        Payload::Heap(packet.inline.to_vec())
    };
    Ok(Incoming {
        header: packet.header,
        rights: packet.rights,
        payload,
        lent,
        fds,
        credentials: received.credentials,
        pidfd: received.pidfd,
    })
}

/// The two ends of a new channel.
pub(crate) struct Ends {
    pub(crate) receiver: OwnedFd,
    pub(crate) holder: OwnedFd,
}

/// Makes a channel whose two ends will be told who speaks.
pub(crate) fn channel() -> Result<Ends, Errno> {
    let (receiver, holder) = pair()?;
    ask_for_identity(&receiver)?;
    pass_credentials(&holder)?;
    Ok(Ends { receiver, holder })
}

/// Makes a channel for one message, whose sender is known by its numbers: a pidfd would cost more
/// than the message, and nothing ever comes back to the holder.
pub(crate) fn channel_for_one() -> Result<Ends, Errno> {
    let (receiver, holder) = pair()?;
    pass_credentials(&receiver)?;
    Ok(Ends { receiver, holder })
}

pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let kind = SocketType::SEQPACKET;
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// Makes the kernel write down who sends on the other end, until its first message has come.
pub(crate) fn ask_for_identity(receiver: impl AsFd) -> Result<(), Errno> {
    pass_credentials(&receiver)?;
    // Kernels before 6.5 have no pidfds to pass.
    drop(ancillary::pass_pidfd(receiver, true));
    Ok(())
}

fn pass_credentials(socket: impl AsFd) -> Result<(), Errno> {
    ancillary::pass_credentials(socket, true)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

/// Whether a descriptor that has just come is among the last quarter that this process may have.
///
/// Those are for messages: without descriptors, no channel could bring a right any more, and peers
/// choose how many channels there are. The kernel gives out the lowest number that is free, so all
/// below are taken.
pub(crate) fn is_last_reserve(fresh: &OwnedFd) -> bool {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let number = u64::try_from(fresh.as_raw_fd()).unwrap_or(0);
    limit.is_some_and(|limit| number >= limit - limit / 4)
}

/// Whether nothing more can come than what is queued.
pub(crate) fn has_ended(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    let polled = rustix::event::poll(&mut fds, Deadline::Passed.timespec().as_ref());
    polled.is_ok_and(|ready| ready > 0)
}

/// Whether a descriptor from a peer can be the end of a channel at all.
///
/// An unconnected socket cannot: it could be made to listen, and would never hang up.
pub(crate) fn is_channel_end(socket: &OwnedFd) -> bool {
    use rustix::net::sockopt::{socket_domain, socket_type};
    socket_type(socket) == Ok(SocketType::SEQPACKET)
        && socket_domain(socket) == Ok(AddressFamily::UNIX)
        && rustix::net::getpeername(socket).is_ok()
}
