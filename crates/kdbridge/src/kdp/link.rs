//! What carries packets between a debugger and a kernel. It may lose, repeat and reorder them.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A way to one kernel.
pub trait Link {
    /// Sends one packet; whether it arrives is another matter.
    ///
    /// # Errors
    ///
    /// What makes it useless to go on.
    fn send(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Puts a packet into `into` and says how long it is; `None` if none came before `deadline`. What
    /// is longer than `into` is cut.
    ///
    /// # Errors
    ///
    /// What makes it useless to go on.
    fn receive(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<Option<usize>>;

    /// The time of the clock that deadlines are of.
    fn now(&self) -> Instant;

    /// The port to which the kernel is to send.
    fn port(&self) -> u16;
}

/// UDP to one address.
#[derive(Debug)]
pub struct UdpLink {
    socket: UdpSocket,
    port: u16,
}

impl UdpLink {
    /// A link to the kernel at `address`, from a port that is free.
    ///
    /// # Errors
    ///
    /// If there is no route to it.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port })
    }
}

/// Waits until something can be read; `false` if the deadline comes first. The time-outs of sockets are
/// as coarse as the kernel's clock.
pub(super) fn is_readable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    is_ready(fd, PollFlags::IN, deadline)
}

/// The same of writing.
pub(super) fn is_writable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    is_ready(fd, PollFlags::OUT, deadline)
}

fn is_ready(fd: impl AsFd, what: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&fd, what)];
        match poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => {}
            found => return Ok(found? > 0),
        }
    }
}

/// A kernel that does not listen, or whose machine starts again, refuses packets for a while; and
/// what can be read may turn out to be damaged.
pub(super) fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
    )
}

impl Link for UdpLink {
    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.socket.send(packet) {
            Err(error) if !is_nothing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        while is_readable(&self.socket, deadline)? {
            match self.socket.recv(into) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if is_nothing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn port(&self) -> u16 {
        self.port
    }
}
