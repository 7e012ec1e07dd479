//! A connection to a stub: packets out and in, each within a time.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

use super::packet::{self, Decoder, Item};
use crate::target::TargetError;

/// How often a packet that arrives damaged is asked for again, or sent again, before the line is given
/// up.
const MAX_REPEATS: u32 = 8;

/// How often a wait looks whether it is to be broken off.
const GLANCE: Duration = Duration::from_millis(100);

/// What goes before packets where these are acknowledged. QEMU takes the first byte that comes while its
/// machine runs, whatever that is, for one that interrupts, and a request without its first byte is lost. The
/// other one is for what it has sent and waits to hear of. Everybody else passes them over.
const LEAD: &[u8] = b"++";

/// How much is read at once.
const BUFFER: usize = 1 << 16;

/// Where a stub, or a debugger's bridge, listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`; without a host, this machine.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither HOST:PORT nor unix:PATH")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    /// `HOST:PORT`, `:PORT`, `PORT`, `unix:PATH`, or a path with a `/` in it.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        port.parse::<u16>().map_err(|_| AddressError)?;
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(format!("{host}:{port}")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected socket that never blocks.
#[derive(Debug)]
pub enum Stream {
    /// To another machine, or to this one.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Stream {
    /// Connects within `patience`.
    ///
    /// # Errors
    ///
    /// What the system says; [`ErrorKind::TimedOut`] if whoever listens there has too much to do.
    pub fn connect(address: &Address, patience: Duration) -> io::Result<Self> {
        let stream = match address {
            Address::Unix(path) => Self::Unix(connect_path(path, patience)?),
            Address::Tcp(address) => Self::Tcp(connect_tcp(address, patience)?),
        };
        stream.prepare()
    }

    /// Makes a socket that was accepted one that does not block.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn prepare(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
            }
            Self::Unix(stream) => stream.set_nonblocking(true)?,
        }
        Ok(self)
    }
}

/// Connects to a socket on this machine; if whoever listens there has too much to do,
/// [`ErrorKind::WouldBlock`] says so at once.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The same, but tries again while there is patience: such a socket cannot be waited for.
fn connect_path(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let deadline = Deadline::after(patience);
    loop {
        match connect_unix(path) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if deadline.has_passed() {
                    let why = format!("others wait there too, for {} ms", patience.as_millis());
                    return Err(io::Error::new(ErrorKind::TimedOut, why));
                }
                thread::sleep(GLANCE);
            }
            result => return result,
        }
    }
}

fn connect_tcp(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The asking end of a connection.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Where in it is what was read and not yet decoded.
    unread: Range<usize>,
    /// How many packets have arrived that the other side does not know of.
    unacknowledged: usize,
    /// The last packet that was sent, as long as it may have to be sent again.
    sent: Vec<u8>,
    acks: bool,
    /// That it arrived.
    acknowledged: bool,
    repeats: u32,
    /// Nothing is sent or waited for while this is set.
    told: Option<Arc<AtomicBool>>,
}

impl Link {
    /// Over `stream`, with acknowledgements.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            decoder: Decoder::of_replies(),
            buffer: vec![0; BUFFER],
            unread: 0..0,
            unacknowledged: 0,
            sent: Vec::new(),
            acks: true,
            acknowledged: false,
            repeats: 0,
            told: None,
        }
    }

    /// From here on nothing is asked and waited for any more as soon as this is set.
    pub fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        self.told = told;
    }

    fn in_demand(&self) -> Result<(), TargetError> {
        match self.told.as_ref().map(|told| told.load(Ordering::Relaxed)) {
            Some(true) => Err(TargetError::BrokenOff),
            _ => Ok(()),
        }
    }

    /// From here on nothing is acknowledged, on either side.
    pub fn stop_acks(&mut self) {
        self.acks = false;
    }

    /// Sends packets, one right after the other.
    ///
    /// # Errors
    ///
    /// [`TargetError::Silent`] if the other side does not take them by `deadline`,
    /// [`TargetError::BrokenOff`] if they are not wanted any more, and those of the socket.
    pub fn send(&mut self, payloads: &[&[u8]], deadline: Deadline) -> Result<(), TargetError> {
        self.in_demand()?;
        self.acknowledge(deadline)?;
        self.acknowledged = false;
        self.sent.clear();
        if self.acks {
            self.sent.extend_from_slice(LEAD);
        }
        for payload in payloads {
            packet::encode(payload, &mut self.sent);
        }
        self.repeats = 0;
        let bytes = std::mem::take(&mut self.sent);
        let written = self.write(&bytes, deadline);
        self.sent = bytes;
        written
    }

    /// Whether the other side has said that it got the last packet, or one of those that were sent at once.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Sends the byte that interrupts.
    ///
    /// # Errors
    ///
    /// As those of [`Link::send`].
    pub fn interrupt(&mut self, deadline: Deadline) -> Result<(), TargetError> {
        self.acknowledge(deadline)?;
        self.write(&[3], deadline)
    }

    /// Whether something has come that [`receive`](Self::receive) has not looked at.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The payload of the next packet; `None` if there is none by `deadline`.
    ///
    /// # Errors
    ///
    /// [`TargetError::Protocol`] if what comes is no packets, [`TargetError::BrokenOff`] if it is not wanted
    /// any more, and those of the socket.
    pub fn receive(&mut self, deadline: Deadline) -> Result<Option<Vec<u8>>, TargetError> {
        // A flood of what is no packet goes on for longer than anybody waits.
        let mut over = false;
        loop {
            loop {
                let rest = self.buffer.get(self.unread.clone()).unwrap_or_default();
                let plain = self.decoder.push_plain(rest);
                let next = rest.get(plain).copied();
                self.unread.start += plain + usize::from(next.is_some());
                let Some(byte) = next else {
                    break;
                };
                let item = self.decoder.push(byte);
                let item = item.map_err(|_| TargetError::Protocol("a packet without end"))?;
                if let Some(payload) = self.take(item, deadline)? {
                    return Ok(Some(payload));
                }
            }
            if over || !self.fill(deadline)? {
                return Ok(None);
            }
            over = deadline.has_passed();
        }
    }

    fn take(
        &mut self,
        item: Option<Item>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>, TargetError> {
        match item {
            Some(Item::Packet(payload)) => {
                self.unacknowledged += usize::from(self.acks);
                // Of several packets at once, all are acknowledged at once.
                if self.unread.is_empty() {
                    self.acknowledge(deadline)?;
                }
                return Ok(Some(payload));
            }
            Some(Item::Damaged) => self.again(b"-".to_vec(), deadline)?,
            Some(Item::Ack) => self.acknowledged = true,
            Some(Item::Nack) if self.acks => self.again(self.sent.clone(), deadline)?,
            _ => {}
        }
        Ok(None)
    }

    fn acknowledge(&mut self, deadline: Deadline) -> Result<(), TargetError> {
        let count = std::mem::take(&mut self.unacknowledged);
        self.write(&vec![b'+'; count], deadline)
    }

    fn again(&mut self, bytes: Vec<u8>, deadline: Deadline) -> Result<(), TargetError> {
        self.repeats += 1;
        if self.repeats > MAX_REPEATS {
            return Err(TargetError::Protocol("the line damages every packet"));
        }
        self.write(&bytes, deadline)
    }

    /// Reads what has come; false if nothing has by `deadline`.
    fn fill(&mut self, deadline: Deadline) -> Result<bool, TargetError> {
        self.acknowledge(deadline)?;
        self.unread = 0..0;
        self.unread = 0..self.read(deadline)?;
        Ok(!self.unread.is_empty())
    }

    /// How many bytes came; 0 if none by `deadline`.
    fn read(&mut self, deadline: Deadline) -> Result<usize, TargetError> {
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(TargetError::Gone),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Ok(0);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), TargetError> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::OUT, deadline)? {
                        return Err(TargetError::Silent(deadline.patience));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the stream is ready; false if the time is over.
    fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<bool, TargetError> {
        loop {
            self.in_demand()?;
            if deadline.glance(&self.stream, flags)? {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
        }
    }
}

impl From<Stream> for Link {
    fn from(stream: Stream) -> Self {
        Self::new(stream)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A time by which something must have happened, and how long that was.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    patience: Duration,
    at: Instant,
}

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(patience: Duration) -> Self {
        Self {
            patience,
            at: Instant::now() + patience,
        }
    }

    /// How long it was in the beginning.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    /// Waits a moment for `stream` to be ready; false if it is not yet.
    fn glance(&self, stream: &Stream, flags: PollFlags) -> io::Result<bool> {
        let left = self.at.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left.min(GLANCE)).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(stream, flags)], Some(&time)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn addresses_are_ports_or_paths() {
        let address = |text: &str| text.parse::<Address>();
        assert_eq!(address("1234"), Ok(Address::Tcp("127.0.0.1:1234".into())));
        assert_eq!(address(":1234"), Ok(Address::Tcp("127.0.0.1:1234".into())));
        assert_eq!(address("[::1]:12"), Ok(Address::Tcp("[::1]:12".into())));
        assert_eq!(address("unix:a"), Ok(Address::Unix("a".into())));
        assert_eq!(address("/run/a"), Ok(Address::Unix("/run/a".into())));
        assert_eq!(address("host"), Err(AddressError));
        assert_eq!(address("host:99999"), Err(AddressError));
    }

    #[test]
    fn a_socket_where_others_wait_is_waited_for_as_long_as_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stub");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let address = Address::Unix(path);
        let error = Stream::connect(&address, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let accepts = thread::spawn(move || listener.accept().map(|_| listener));
        Stream::connect(&address, Duration::from_secs(20)).unwrap();
        accepts.join().unwrap().unwrap();
    }

    #[test]
    fn a_flood_ends_the_wait_even_if_a_packet_is_in_it() {
        let (mut stub, near) = UnixStream::pair().unwrap();
        let mut link = Link::new(Stream::Unix(near).prepare().unwrap());
        stub.write_all(&[b'x'; BUFFER + BUFFER / 2]).unwrap();
        stub.write_all(b"$OK#9a").unwrap();
        let over = Deadline::after(Duration::ZERO);
        assert_eq!(link.receive(over).unwrap(), None);
        let packet = link.receive(Deadline::after(Duration::from_secs(5)));
        assert_eq!(packet.unwrap().as_deref(), Some(&b"OK"[..]));
    }
}
