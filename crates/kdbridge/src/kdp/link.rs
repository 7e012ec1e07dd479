//! What carries packets between a debugger and a kernel. It may lose, repeat and reorder them.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

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
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port })
    }
}

/// A kernel that does not listen, or whose machine starts again, refuses packets for a while.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Link for UdpLink {
    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.socket.send(packet) {
            Err(error) if !is_refusal(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        loop {
            let left = deadline.saturating_duration_since(self.now());
            // Zero would mean for ever; the shortest wait takes what is there already.
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            match self.socket.recv(into) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) if is_refusal(&error) && !left.is_zero() => {}
                Err(error) if is_refusal(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn port(&self) -> u16 {
        self.port
    }
}
