//! Raw Unix sockets, as a program would use them that has nothing else.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::{Client, Peer};
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

/// Both sides know how long a message is at most, and that answers are no longer.
pub(super) trait Wire: AsFd + Sized {
    const KIND: SocketType;

    fn new(socket: OwnedFd, longest: usize) -> Self;

    /// Where the next message is written before it is sent.
    fn room(&mut self, length: usize) -> &mut [u8];

    /// Sends what was written, as one message of this length.
    fn send(&mut self, length: usize) -> anyhow::Result<()>;

    /// Takes it for sent, to be sent with others.
    fn send_later(&mut self, length: usize) -> anyhow::Result<()> {
        self.send(length)
    }

    /// The next message, `None` if the peer has hung up.
    fn receive(&mut self) -> anyhow::Result<Option<&[u8]>>;
}

/// One record for each message. A message that is longer than [`Self::RECORD`] is cut.
pub(super) struct Seqpacket {
    socket: OwnedFd,
    longest: usize,
    /// Empty until it is needed, here as in [`Stream`]: an idle connection takes no buffers.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Seqpacket {
    const RECORD: usize = 128 << 10;
}

impl Wire for Seqpacket {
    const KIND: SocketType = SocketType::SEQPACKET;

    fn new(socket: OwnedFd, longest: usize) -> Self {
        Self {
            socket,
            longest,
            outgoing: Vec::new(),
            incoming: Vec::new(),
        }
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        if self.outgoing.is_empty() {
            self.outgoing.resize(self.longest, 0);
        }
        &mut self.outgoing[..length]
    }

    fn send(&mut self, length: usize) -> anyhow::Result<()> {
        for record in self.outgoing[..length].chunks(Self::RECORD) {
            let sent = rustix::net::send(&self.socket, record, SendFlags::NOSIGNAL)?;
            ensure!(sent == record.len(), "a record was cut");
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Option<&[u8]>> {
        if self.incoming.is_empty() {
            self.incoming.resize(self.longest, 0);
        }
        let mut have = 0;
        loop {
            let rest = &mut self.incoming[have..];
            let (got, _) = rustix::net::recv(&self.socket, rest, RecvFlags::empty())?;
            if got == 0 {
                return Ok(None);
            }
            have += got;
            if got < Self::RECORD || have == self.incoming.len() {
                return Ok(Some(&self.incoming[..have]));
            }
        }
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A length in eight bytes before each message, one write for both, and reads of 64 KiB or of a
/// message if that is longer.
pub(super) struct Stream {
    socket: UnixStream,
    capacity: usize,
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that wait to be written.
    waiting: usize,
    incoming: Vec<u8>,
    /// What has been read and not been given out.
    unread: std::ops::Range<usize>,
}

impl Stream {
    const HEADER: usize = 8;
    const BUFFER: usize = 64 << 10;

    /// Reads until `length` bytes are there. Returns false if the peer has hung up.
    fn fetch(&mut self, length: usize) -> anyhow::Result<bool> {
        if self.incoming.is_empty() {
            self.incoming.resize(self.capacity, 0);
        }
        while self.unread.len() < length {
            if self.unread.start + length > self.incoming.len() {
                self.incoming.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
            }
            let got = self.socket.read(&mut self.incoming[self.unread.end..])?;
            if got == 0 {
                return Ok(false);
            }
            self.unread.end += got;
        }
        Ok(true)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        Ok(std::io::Write::write_all(
            &mut self.socket,
            &self.outgoing[..waiting],
        )?)
    }

    fn append(&mut self, length: usize) {
        let header = &mut self.outgoing[self.waiting..][..Self::HEADER];
        header.copy_from_slice(&(length as u64).to_le_bytes());
        self.waiting += Self::HEADER + length;
    }
}

impl Wire for Stream {
    const KIND: SocketType = SocketType::STREAM;

    fn new(socket: OwnedFd, longest: usize) -> Self {
        Self {
            socket: socket.into(),
            capacity: Self::BUFFER.max(longest + Self::HEADER),
            outgoing: Vec::new(),
            waiting: 0,
            incoming: Vec::new(),
            unread: 0..0,
        }
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        if self.outgoing.is_empty() {
            self.outgoing.resize(self.capacity, 0);
        }
        &mut self.outgoing[self.waiting + Self::HEADER..][..length]
    }

    fn send(&mut self, length: usize) -> anyhow::Result<()> {
        self.append(length);
        self.flush()
    }

    fn send_later(&mut self, length: usize) -> anyhow::Result<()> {
        self.append(length);
        if self.waiting + Self::HEADER + length > self.outgoing.len() {
            self.flush()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Option<&[u8]>> {
        if !self.fetch(Self::HEADER)? {
            return Ok(None);
        }
        let (header, _) = self.incoming[self.unread.clone()].split_at(Self::HEADER);
        let length = u64::from_le_bytes(header.try_into()?) as usize;
        ensure!(
            length + Self::HEADER <= self.incoming.len(),
            "too long a message"
        );
        if !self.fetch(Self::HEADER + length)? {
            bail!("the peer hung up in a message");
        }
        let start = self.unread.start + Self::HEADER;
        self.unread.start = start + length;
        Ok(Some(&self.incoming[start..start + length]))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(super) fn serve<W: Wire>(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let listener = listen::<W>(&cell.directory)?;
    ready();
    let longest = cell.task.bytes.max(64);
    let alone = cell.task.clients == 1 && cell.task.idle == 0;
    if alone && cell.task.action != Action::Find {
        let socket = rustix::net::accept(&listener)?;
        let mut server = Server::new(W::new(socket, longest), cell.task.action);
        while server.serve_one()? {}
        return Ok(());
    }
    serve_many::<W>(&listener, cell.task.action, longest)
}

/// One thread for all connections.
fn serve_many<W: Wire>(listener: &OwnedFd, action: Action, longest: usize) -> anyhow::Result<()> {
    const LISTENER: u64 = 0;
    let poller = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &poller,
        listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut connections: HashMap<u64, Server<W>> = HashMap::new();
    let mut last = LISTENER;
    let mut buffer = [MaybeUninit::<Event>::uninit(); 64];
    loop {
        let (events, _) = epoll::wait(&poller, &mut buffer, None)?;
        for event in events {
            let token = event.data.u64();
            if token == LISTENER {
                let socket = rustix::net::accept(listener)?;
                last += 1;
                epoll::add(&poller, &socket, EventData::new_u64(last), EventFlags::IN)?;
                connections.insert(last, Server::new(W::new(socket, longest), action));
            } else if let Some(server) = connections.get_mut(&token)
                && !server.serve_one()?
            {
                connections.remove(&token);
            }
        }
    }
}

struct Server<W> {
    wire: W,
    action: Action,
    total: u64,
}

impl<W: Wire> Server<W> {
    fn new(wire: W, action: Action) -> Self {
        Self {
            wire,
            action,
            total: 0,
        }
    }

    /// Returns false if the client has hung up.
    fn serve_one(&mut self) -> anyhow::Result<bool> {
        match self.action {
            Action::Stream => self.add_up(),
            Action::PassRight => self.answer_right(),
            Action::Sum => {
                let Some(message) = self.wire.receive()? else {
                    return Ok(false);
                };
                let sum = sum(message);
                self.send_word(sum)?;
                Ok(true)
            }
            Action::Echo | Action::Find | Action::Idle => self.echo(),
        }
    }

    fn echo(&mut self) -> anyhow::Result<bool> {
        let Some(message) = self.wire.receive()? else {
            return Ok(false);
        };
        std::hint::black_box(sum(message));
        let mut copy = [0; 64];
        copy.copy_from_slice(message);
        self.wire.room(64).copy_from_slice(&copy);
        self.wire.send(64)?;
        Ok(true)
    }

    fn add_up(&mut self) -> anyhow::Result<bool> {
        match self.wire.receive()? {
            None => return Ok(false),
            Some(message) if message.len() != END.len() => {
                self.total = self.total.wrapping_add(sum(message));
            }
            Some(_) => {
                let total = std::mem::take(&mut self.total);
                self.send_word(total)?;
            }
        }
        Ok(true)
    }

    fn answer_right(&mut self) -> anyhow::Result<bool> {
        let mut message = [0; 64];
        let Some(right) = receive_with_fd(&self.wire, &mut message)? else {
            return Ok(false);
        };
        std::hint::black_box(sum(&message));
        let sent = rustix::net::send(&right, &message, SendFlags::NOSIGNAL)?;
        ensure!(sent == message.len(), "the answer was cut");
        Ok(true)
    }

    fn send_word(&mut self, word: u64) -> anyhow::Result<()> {
        self.wire.room(8).copy_from_slice(&word.to_le_bytes());
        self.wire.send(8)
    }
}

/// The message after which the server says what it has added up. No other is as short.
const END: [u8; 8] = [0; 8];

struct Connection<W> {
    wire: W,
    path: PathBuf,
    longest: usize,
    buffered: bool,
    idle: Vec<W>,
}

pub(super) fn connect<W: Wire + 'static>(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let longest = cell.task.bytes.max(64);
    let connection = Connection {
        wire: W::new(dial::<W>(&cell.directory)?, longest),
        path: cell.directory.clone(),
        longest,
        buffered: cell.peer == Peer::StreamBuffered,
        idle: Vec::new(),
    };
    Ok(Box::new(connection))
}

impl<W: Wire + 'static> Client for Connection<W> {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        round_trip(&mut self.wire, source, length)
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        source.fill(self.wire.room(length));
        if self.buffered {
            self.wire.send_later(length)
        } else {
            self.wire.send(length)
        }
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.wire.room(END.len()).copy_from_slice(&END);
        self.wire.send(END.len())?;
        Ok(sum(self.wire.receive()?.context("the server hung up")?))
    }

    fn pass_right(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let (kept, given) =
            rustix::net::socketpair(AddressFamily::UNIX, W::KIND, SocketFlags::CLOEXEC, None)?;
        let mut message = [0; 64];
        let message = &mut message[..length];
        source.fill(message);
        send_with_fd(&self.wire, message, given.as_fd())?;
        drop(given);
        let (got, _) = rustix::net::recv(&kept, &mut *message, RecvFlags::empty())?;
        Ok(sum(&message[..got]))
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            wire: W::new(dial::<W>(&self.path)?, self.longest),
            path: self.path.clone(),
            longest: self.longest,
            buffered: false,
            idle: Vec::new(),
        }))
    }

    fn open_idle(&mut self, count: usize, used: bool) -> anyhow::Result<()> {
        let mut source = Source::new(0);
        for number in 1..=count {
            let mut wire = W::new(dial::<W>(&self.path)?, self.longest);
            // Connections are accepted in order, so an answer on the last says that all are there.
            if used || number == count {
                round_trip(&mut wire, &mut source, 64)?;
            }
            self.idle.push(wire);
        }
        Ok(())
    }
}

fn round_trip<W: Wire>(wire: &mut W, source: &mut Source, length: usize) -> anyhow::Result<u64> {
    source.fill(wire.room(length));
    wire.send(length)?;
    Ok(sum(wire.receive()?.context("the server hung up")?))
}

pub(super) fn listen<W: Wire>(directory: &Path) -> anyhow::Result<OwnedFd> {
    let socket = new_socket::<W>()?;
    rustix::net::bind(&socket, &address(directory)?)?;
    rustix::net::listen(&socket, 4096)?;
    Ok(socket)
}

pub(super) fn dial<W: Wire>(directory: &Path) -> anyhow::Result<OwnedFd> {
    let socket = new_socket::<W>()?;
    rustix::net::connect(&socket, &address(directory)?)?;
    Ok(socket)
}

fn new_socket<W: Wire>() -> rustix::io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    rustix::net::socket_with(family, W::KIND, flags, None)
}

fn address(directory: &Path) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(directory.join("socket"))
}

fn send_with_fd(socket: &impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(&fds)),
        "no room for a descriptor"
    );
    let bytes = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    ensure!(sent == bytes[0].len(), "the message was cut");
    Ok(())
}

fn receive_with_fd(socket: &impl AsFd, bytes: &mut [u8]) -> anyhow::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = bytes.len();
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Ok(None);
    }
    ensure!(received.bytes == length, "the message was cut");
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Some(fd.context("no descriptor in the message")?))
}
