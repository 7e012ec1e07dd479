//! A [`Server`] on a UDP socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::link::{is_nothing, is_readable};
use super::server::{Outgoing, Server};
use crate::target::{Target, TargetError};

/// How long a kernel waits for the confirmation of an exception before it tells again.
const EXCEPTION_PATIENCE: Duration = Duration::from_millis(150);

/// How often it tells.
const EXCEPTION_TRIES: u32 = 101;

/// How long a machine may take to stop so that it can be left.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long a kernel runs, or listens, before anything else is looked at.
const TURN: Duration = Duration::from_millis(5);

/// What ends a [`Front`] before it is asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The kernel.
    #[error("the target failed")]
    Target(#[from] TargetError),
    /// The socket.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

/// A kernel that listens for debuggers.
#[derive(Debug)]
pub struct Front<T> {
    server: Server<T>,
    socket: UdpSocket,
    /// Whose packet was answered last.
    debugger: Option<SocketAddr>,
}

impl<T: Target> Front<T> {
    /// `server` on `socket`.
    ///
    /// # Errors
    ///
    /// What the socket has.
    pub fn new(server: Server<T>, socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            server,
            socket,
            debugger: None,
        })
    }

    /// Serves debuggers until `end` says so.
    ///
    /// # Errors
    ///
    /// What the target or the socket has.
    pub fn serve(&mut self, end: &AtomicBool) -> Result<(), ServeError> {
        while !end.load(Ordering::Relaxed) {
            if self.server.is_running() {
                self.run()?;
            } else if self.server.exception().is_some() {
                self.tell(end)?;
            } else {
                self.listen(Instant::now() + TURN)?;
            }
        }
        Ok(())
    }

    /// Leaves the kernel running, without breakpoints.
    ///
    /// # Errors
    ///
    /// What the target has.
    pub fn leave(mut self) -> Result<(), TargetError> {
        let running = self.server.is_running();
        let target = self.server.target();
        if running {
            target.interrupt()?;
            target.wait(LAST_PATIENCE)?;
        }
        target.detach()
    }

    fn run(&mut self) -> Result<(), ServeError> {
        while let Some((_, packet)) = self.receive(Instant::now())? {
            self.server.knock(&packet)?;
        }
        Ok(self.server.run(TURN)?)
    }

    /// Tells of an exception until that is confirmed.
    fn tell(&mut self, end: &AtomicBool) -> Result<(), ServeError> {
        for _ in 0..EXCEPTION_TRIES {
            let Some(exception) = self.server.exception() else {
                return Ok(());
            };
            if let Some(debugger) = self.debugger {
                self.send(debugger, &exception)?;
            }
            let deadline = Instant::now() + EXCEPTION_PATIENCE;
            while self.server.exception().is_some() && Instant::now() < deadline {
                if end.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.listen(deadline.min(Instant::now() + TURN))?;
            }
        }
        if self.server.exception().is_some() {
            self.server.give_up()?;
        }
        Ok(())
    }

    fn listen(&mut self, deadline: Instant) -> Result<(), ServeError> {
        if let Some((from, packet)) = self.receive(deadline)?
            && let Some(answer) = self.server.packet(&packet)?
        {
            self.debugger = Some(from);
            self.send(from, &answer)?;
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Option<(SocketAddr, Vec<u8>)>> {
        if !is_readable(&self.socket, deadline)? {
            return Ok(None);
        }
        let mut packet = vec![0; 2048];
        match self.socket.recv_from(&mut packet) {
            Ok((length, from)) => {
                packet.truncate(length);
                Ok(Some((from, packet)))
            }
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send(&self, mut to: SocketAddr, outgoing: &Outgoing) -> io::Result<()> {
        to.set_port(outgoing.port);
        match self.socket.send_to(&outgoing.packet, to) {
            Err(error) if !is_nothing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
