//! Rights on their way: from values into descriptors of a packet, and back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use portolan_sys::ancillary::{Credentials, MAX_DESCRIPTORS};
use portolan_wire::moved::{self, MovedChannel};
use portolan_wire::packet::{
    Flags, Header, Kind, LENT_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS, MAX_RIGHT_FDS,
    RightDescriptor, RightKind,
};
use portolan_wire::port_id::PortId;
use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::channel::Channel;
use crate::error::{MintError, SendErrorKind};
use crate::kept::Keep;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::message::{Message, Right};
use crate::payload::Payload;
use crate::receive_right::ReceiveRight;
use crate::send_once::SendOnceRight;
use crate::send_right::SendRight;
use crate::socket::{self, Full, Incoming, Nothing, Outgoing, Refusal};
use crate::timeout::Deadline;

/// Sends `message` as a packet of this kind. On success the message is spent; otherwise it is
/// whole, and may be sent again.
///
/// `wait` is called when there is no room, and says whether to try again.
pub(crate) fn send(
    link: Link<'_>,
    way: (Kind, u32),
    message: &mut Message,
    deadline: Deadline,
    wait: &mut dyn FnMut(Full) -> Result<bool, Errno>,
) -> Result<(), SendErrorKind> {
    if let Some(sent) = send_plain(link, way, message, wait) {
        return sent;
    }
    prepare(link, message, deadline)?;
    deliver(link, way, message, wait)
}

/// Sends a message that is nothing but bytes that fit in a record. `None` if it is anything else.
fn send_plain(
    link: Link<'_>,
    (kind, slot): (Kind, u32),
    message: &Message,
    wait: &mut dyn FnMut(Full) -> Result<bool, Errno>,
) -> Option<Result<(), SendErrorKind>> {
    let ring = link.ring?;
    let Payload::Heap(bytes) = &message.payload else {
        return None;
    };
    let is_plain = message.rights.is_empty() && message.reply.is_none();
    if !is_plain || bytes.len() > link.inline_max(false) {
        return None;
    }
    let header = Header {
        id: message.id,
        length: bytes.len() as u64,
        ..Header::control(kind, slot)
    };
    let head = header.encode();
    loop {
        match ring.publish(link.socket, &head, &[], bytes) {
            Ok(()) => return Some(Ok(())),
            Err(Refusal::Full(full)) => match wait(full) {
                Ok(true) => {}
                Ok(false) => return Some(Err(SendErrorKind::TimedOut)),
                Err(errno) => return Some(Err(errno.into())),
            },
            Err(refusal) => return Some(Err(send_error(refusal))),
        }
    }
}

/// Brings the parts of a message into the form in which they travel.
pub(crate) fn prepare(
    link: Link<'_>,
    message: &mut Message,
    deadline: Deadline,
) -> Result<(), SendErrorKind> {
    check_limits(message)?;
    let rights = !message.rights.is_empty() || message.reply.is_some();
    let inline_max = link.inline_max(rights);
    message.payload.make_portable(inline_max, link.lender)?;
    for right in &mut message.rights {
        make_portable(right, deadline)?;
    }
    if let Some(reply) = &mut message.reply {
        reply.make_portable()?;
    }
    Ok(())
}

/// Sends a message that has been [prepared](prepare); it times out only for want of room in `link`.
/// After a failure, ports in it are received from again.
fn deliver(
    link: Link<'_>,
    way: (Kind, u32),
    message: &mut Message,
    wait: &mut dyn FnMut(Full) -> Result<bool, Errno>,
) -> Result<(), SendErrorKind> {
    let sent = deliver_or_leave(link, way, message, wait);
    if sent.is_err() {
        stay(message);
    }
    sent
}

/// The same, but after a failure ports in it are left [paused](pause).
pub(crate) fn deliver_or_leave(
    link: Link<'_>,
    way: (Kind, u32),
    message: &mut Message,
    wait: &mut dyn FnMut(Full) -> Result<bool, Errno>,
) -> Result<(), SendErrorKind> {
    if let Some(sent) = send_plain(link, way, message, wait) {
        return sent;
    }
    let lent = match &message.payload {
        Payload::Loan(loan) => loan.announce(),
        _ => None,
    };
    let mut sent = pack_and_send(link, way, message, lent, wait);
    if let (Payload::Loan(loan), Some(number)) = (&mut message.payload, lent) {
        loan.settle(number, sent.is_ok());
    }
    if matches!(sent, Err(SendErrorKind::System(ref error)) if is_message_size(error)) {
        // A socket buffer below the kernel's default; out of line, every message is small.
        let sealed = message.payload.make_sealed();
        sent = sealed
            .map_err(SendErrorKind::System)
            .and_then(|()| pack_and_send(link, way, message, None, wait));
    }
    if sent.is_ok() {
        settle(message);
    }
    sent
}

pub(crate) fn moves_a_port(message: &Message) -> bool {
    let mut rights = message.rights.iter();
    rights.any(|right| matches!(right, Right::Receive(_)))
}

/// Stops receiving from ports that are to move.
pub(crate) fn pause(message: &Message) -> Result<(), SendErrorKind> {
    let paused = message.rights.iter().try_for_each(|right| match right {
        Right::Receive(receive) => receive.pause().map(drop),
        _ => Ok(()),
    });
    if paused.is_err() {
        stay(message);
    }
    paused
}

fn is_message_size(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

fn pack_and_send(
    link: Link<'_>,
    way: (Kind, u32),
    message: &Message,
    lent: Option<u32>,
    wait: &mut dyn FnMut(Full) -> Result<bool, Errno>,
) -> Result<(), SendErrorKind> {
    let luggage = Luggage::pack(message, lent)?;
    let fds = luggage.fds(message);
    if fds.len() > MAX_DESCRIPTORS {
        return Err(SendErrorKind::TooManyRights { count: fds.len() });
    }
    let packet = luggage.packet(message, way, &fds);
    loop {
        match link.try_send(&packet) {
            Ok(()) => return Ok(()),
            Err(Refusal::Full(full)) if wait(full)? => {}
            Err(refusal) => return Err(send_error(refusal)),
        }
    }
}

fn check_limits(message: &Message) -> Result<(), SendErrorKind> {
    let len = message.payload.len();
    if len > MAX_MESSAGE_BYTES {
        return Err(SendErrorKind::TooLarge { len });
    }
    let count = message.rights.len() + usize::from(message.reply.is_some());
    if count > MAX_MESSAGE_RIGHTS {
        return Err(SendErrorKind::TooManyRights { count });
    }
    Ok(())
}

/// Brings a right into the form in which one descriptor stands for all of it.
///
/// A send right that has been used gets a channel of its own, because the old one belongs to who
/// used it; see `SendRight::copy`.
fn make_portable(right: &mut Right, deadline: Deadline) -> Result<(), SendErrorKind> {
    match right {
        Right::Send(send) if send.is_used() => match send.copy_until(deadline) {
            Ok(fresh) => *send = fresh,
            Err(MintError::DeadName) => *right = Right::Dead,
            Err(other) => return Err(mint_error(other)),
        },
        Right::SendOnce(once) => once.make_portable()?,
        Right::Send(_) | Right::Receive(_) | Right::Dead | Right::Descriptor(_) => {}
    }
    Ok(())
}

fn mint_error(error: MintError) -> SendErrorKind {
    match error {
        MintError::DeadName => SendErrorKind::DeadName,
        MintError::TimedOut => SendErrorKind::TimedOut,
        MintError::ForeignProcess => SendErrorKind::ForeignProcess,
        MintError::NotAChannel => SendErrorKind::System(Errno::NOTSOCK.into()),
        MintError::System(error) => SendErrorKind::System(error),
    }
}

pub(crate) fn send_error(refusal: Refusal) -> SendErrorKind {
    match refusal {
        Refusal::Full(_) => SendErrorKind::TimedOut,
        Refusal::Closed => SendErrorKind::DeadName,
        Refusal::InFlight => SendErrorKind::RightsInFlight,
        Refusal::System(errno) => SendErrorKind::System(errno.into()),
    }
}

/// What stands where a right to no port has its port.
const NO_PORT: PortId = PortId::from_bytes([0; 16]);

/// What a message needs besides itself to become a packet.
struct Luggage {
    /// The number under which the memory of a lent payload is returned.
    lent: [u8; LENT_BYTES],
    descriptors: Vec<RightDescriptor>,
    /// Sockets that hold the channels of each receive right, in order.
    vans: Vec<OwnedFd>,
}

impl Luggage {
    fn pack(message: &Message, lent: Option<u32>) -> Result<Self, SendErrorKind> {
        let mut luggage = Self {
            lent: lent.unwrap_or(0).to_le_bytes(),
            descriptors: Vec::new(),
            vans: Vec::new(),
        };
        for right in &message.rights {
            luggage.add(right)?;
        }
        if let Some(reply) = &message.reply {
            luggage.describe(RightKind::SendOnce, 1, reply.port());
        }
        Ok(luggage)
    }

    fn add(&mut self, right: &Right) -> Result<(), SendErrorKind> {
        match right {
            Right::Send(send) => {
                send.check_process()
                    .map_err(|_| SendErrorKind::ForeignProcess)?;
                self.describe(RightKind::Send, 1, send.port());
            }
            Right::SendOnce(once) => self.describe(RightKind::SendOnce, 1, once.port()),
            Right::Receive(receive) => {
                let channels = receive.pause()?;
                let vans = load_vans(&channels, receive.keep().map(|keep| &**keep))?;
                let count = u8::try_from(vans.len())
                    .ok()
                    .filter(|count| *count <= MAX_RIGHT_FDS);
                let too_many = SendErrorKind::TooManyRights { count: vans.len() };
                self.describe(RightKind::Receive, count.ok_or(too_many)?, receive.id());
                self.vans.extend(vans);
            }
            Right::Dead => {
                self.describe(RightKind::Dead, 0, NO_PORT);
            }
            Right::Descriptor(_) => self.describe(RightKind::Descriptor, 1, NO_PORT),
        }
        Ok(())
    }

    fn describe(&mut self, kind: RightKind, fds: u8, port: PortId) {
        self.descriptors.push(RightDescriptor { kind, fds, port });
    }

    fn fds<'a>(&'a self, message: &'a Message) -> Vec<BorrowedFd<'a>> {
        let mut fds = Vec::new();
        match &message.payload {
            Payload::Sealed(mapping) => fds.push(mapping.file()),
            Payload::Loan(loan) => fds.extend(loan.file()),
            Payload::Heap(_) | Payload::Borrowed(_) => {}
        }
        let mut vans = self.vans.iter();
        let counts = self.descriptors.iter().map(|right| usize::from(right.fds));
        for (right, count) in message.rights.iter().zip(counts) {
            match right {
                Right::Send(send) => fds.push(send.socket()),
                Right::SendOnce(once) => fds.extend(once.socket()),
                Right::Receive(_) => fds.extend(vans.by_ref().take(count).map(AsFd::as_fd)),
                Right::Dead => {}
                Right::Descriptor(descriptor) => fds.push(descriptor.as_fd()),
            }
        }
        fds.extend(message.reply.as_ref().and_then(SendOnceRight::socket));
        fds
    }

    fn packet<'a>(
        &'a self,
        message: &'a Message,
        (kind, slot): (Kind, u32),
        fds: &'a [BorrowedFd<'a>],
    ) -> Outgoing<'a> {
        let (flags, inline) = match &message.payload {
            Payload::Heap(bytes) => (Flags::NONE, bytes.as_slice()),
            Payload::Sealed(_) => (Flags::OUT_OF_LINE, &[][..]),
            Payload::Loan(_) => (Flags::LENT, &self.lent[..]),
            // Copied when the message was prepared.
            Payload::Borrowed(_) => (Flags::NONE, &[][..]),
        };
        let reply = if message.reply.is_some() {
            Flags::REPLY_RIGHT
        } else {
            Flags::NONE
        };
        let header = Header {
            kind,
            flags: flags.with(reply),
            // At most MAX_MESSAGE_RIGHTS, checked before.
            rights: self.descriptors.len() as u16,
            id: message.id,
            slot,
            length: message.payload.len() as u64,
        };
        Outgoing {
            header,
            rights: &self.descriptors,
            inline,
            fds,
        }
    }
}

/// The other end has everything now; what is left here must close without a word.
fn settle(message: &mut Message) {
    for right in message.take_rights() {
        match right {
            Right::SendOnce(once) => once.forget(),
            Right::Receive(receive) => receive.forget(),
            Right::Send(_) | Right::Dead | Right::Descriptor(_) => {}
        }
    }
    if let Some(reply) = message.take_reply() {
        reply.forget();
    }
}

/// Nothing was sent: ports that were to move are received from again.
pub(crate) fn stay(message: &Message) {
    for right in &message.rights {
        if let Right::Receive(receive) = right {
            receive.resume();
        }
    }
}

/// Queues the receiver's ends of a port's channels in sockets of their own, so that they and all
/// that is queued in them travel as one unit with the message.
///
/// What leads to the keeper of the port goes first, as two descriptors without a record.
fn load_vans(
    channels: &[(Arc<Channel>, MovedChannel)],
    keep: Option<&Keep>,
) -> Result<Vec<OwnedFd>, Errno> {
    let mut vans = Vec::new();
    let mut rear: Option<OwnedFd> = None;
    if let Some(luggage) = keep.and_then(Keep::luggage) {
        let (front, open) = socket::pair()?;
        let loaded = socket::send_slices(open.as_fd(), &[IoSlice::new(&[KEEPER])], &luggage);
        loaded.map_err(|_| Errno::TOOMANYREFS)?;
        vans.push(front);
        rear = Some(open);
    }
    for load in channels.chunks(MAX_DESCRIPTORS / MovedChannel::MAX_FDS) {
        let records: Vec<u8> = load
            .iter()
            .flat_map(|(_, record)| record.encode())
            .collect();
        let fds: Vec<_> = load
            .iter()
            .flat_map(|(channel, record)| channel.fds(record))
            .collect();
        loop {
            let open = match rear.take() {
                Some(open) => open,
                None => {
                    let (front, open) = socket::pair()?;
                    vans.push(front);
                    open
                }
            };
            match socket::send_slices(open.as_fd(), &[IoSlice::new(&records)], &fds) {
                Ok(()) => {
                    rear = Some(open);
                    break;
                }
                // This one is loaded; the next takes the rest.
                Err(Refusal::Full(_)) => rustix::net::shutdown(&open, Shutdown::Write)?,
                Err(Refusal::System(errno)) => return Err(errno),
                Err(Refusal::Closed) => return Err(Errno::PIPE),
                Err(Refusal::InFlight) => return Err(Errno::TOOMANYREFS),
            }
        }
    }
    if let Some(open) = rear {
        // Closing it is not enough while a forked child has it too.
        rustix::net::shutdown(&open, Shutdown::Write)?;
    }
    Ok(vans)
}

/// What a packet of a van says that has no records: what leads to the keeper is in it.
const KEEPER: u8 = b'k';

fn unload_vans(
    vans: impl Iterator<Item = OwnedFd>,
    mover: Option<Credentials>,
) -> Result<(Vec<Channel>, Option<Keep>), Nothing> {
    let mut channels = Vec::new();
    let mut keep = None;
    let mut buffer = vec![0; MAX_DESCRIPTORS * moved::RECORD_BYTES];
    for van in vans {
        // Were it still open, its sender could go on loading it for ever.
        if !socket::is_channel_end(&van) || !socket::has_ended(&van) {
            return Err(Nothing::Violation);
        }
        loop {
            let received = match socket::receive_raw(van.as_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Nothing::Empty | Nothing::Closed) => break,
                Err(_) => return Err(Nothing::Violation),
            };
            let bytes = buffer.get(..received.len).unwrap_or_default();
            if bytes == [KEEPER] && keep.is_none() {
                keep = Some(unload_keep(received.descriptors, mover)?);
                continue;
            }
            let records = moved::decode(bytes).map_err(|_| Nothing::Violation)?;
            if received.descriptors.iter().any(socket::is_last_reserve) {
                return Err(Nothing::Violation);
            }
            let mut fds = received.descriptors.into_iter();
            for record in records {
                let own = fds.by_ref().take(record.fds()).collect();
                channels.push(Channel::arrived(record, own)?);
            }
            if fds.next().is_some() {
                return Err(Nothing::Violation);
            }
        }
    }
    Ok((channels, keep))
}

fn unload_keep(fds: Vec<OwnedFd>, mover: Option<Credentials>) -> Result<Keep, Nothing> {
    let [guard, ledger] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| Nothing::Violation)?;
    if !socket::is_channel_end(&guard) {
        return Err(Nothing::Violation);
    }
    let ledger = Ledger::open(ledger).map_err(|_| Nothing::Violation)?;
    Ok(Keep::guarded(guard, ledger, mover))
}

/// Rights and payload of a packet that came.
pub(crate) fn receive(incoming: Incoming) -> Result<Message, Nothing> {
    let Incoming {
        header,
        rights,
        payload,
        lent,
        mut fds,
        credentials,
        ..
    } = incoming;
    // Whoever can return memory has taken it.
    if lent.is_some() {
        return Err(Nothing::Violation);
    }
    let mut message = Message::new(header.id);
    message.payload = payload;
    for descriptor in rights {
        message
            .rights
            .push(unpack(descriptor, &mut fds, credentials)?);
    }
    if header.flags.contains(Flags::REPLY_RIGHT) {
        match message.rights.pop() {
            Some(Right::SendOnce(reply)) => message.reply = Some(reply),
            _ => return Err(Nothing::Violation),
        }
    }
    Ok(message)
}

fn unpack(
    right: RightDescriptor,
    fds: &mut VecDeque<OwnedFd>,
    mover: Option<Credentials>,
) -> Result<Right, Nothing> {
    let mut own = fds.drain(..usize::from(right.fds).min(fds.len()));
    let unpacked = match (right.kind, own.next()) {
        (RightKind::Send, Some(socket)) if socket::is_channel_end(&socket) => {
            Right::Send(SendRight::from_end(socket, right.port))
        }
        (RightKind::SendOnce, Some(socket)) if socket::is_channel_end(&socket) => {
            Right::SendOnce(SendOnceRight::from_end(socket, right.port))
        }
        (RightKind::Receive, first) => {
            let (channels, keep) = unload_vans(first.into_iter().chain(own), mover)?;
            let channels = channels.into_iter();
            let channels = channels.map(|channel| channel.had_by(mover)).collect();
            let receive = ReceiveRight::arrived(right.port, channels, keep);
            Right::Receive(receive.map_err(|_| Nothing::Violation)?)
        }
        (RightKind::Dead, _) => Right::Dead,
        (RightKind::Descriptor, Some(descriptor)) => Right::Descriptor(descriptor),
        (RightKind::Send | RightKind::SendOnce | RightKind::Descriptor, _) => {
            return Err(Nothing::Violation);
        }
    };
    Ok(unpacked)
}

impl From<Errno> for SendErrorKind {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::TOOMANYREFS => Self::RightsInFlight,
            Errno::PIPE => Self::DeadName,
            other => Self::System(other.into()),
        }
    }
}
