//! The sockets that a job inherits (the key `Sockets`).
//!
//! They are made when the job is loaded, so connections are kept from then on, and removed when it
//! is unloaded. A job gets them as of `sd_listen_fds(3)`.
//!
//! | key | what becomes of it |
//! | --- | --- |
//! | `SockType` | `stream` if not given |
//! | `SockPassive` | `true` if not given: `listen(2)`, else `connect(2)` |
//! | `SockNodeName` | a numeric address or `localhost`; any address if not given or empty. Names are not looked up, since that can take minutes |
//! | `SockServiceName` | a port number, or a name in `/etc/services` |
//! | `SockFamily` | `IPv4`, `IPv6` alone, or `IPv4v6` for one socket for both; if not given, a socket for each version that this machine has |
//! | `SockPathName` | a socket file that nobody listens on is replaced, any other file is not |
//! | `SockPathMode` | what the umask leaves if not given |
//!
//! `SO_REUSEADDR` is set for TCP, so that a job can be loaded again while old connections linger.
//! The sockets block; whoever does not want that says so to its own.

mod address;
mod unix;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, sockopt};
use thiserror::Error;

use crate::job::{Job, Socket, SocketAddress, SocketFamily, SocketType};
use address::Resolved;
use unix::UnixPath;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A socket of a job could not be made.
#[derive(Debug, Error)]
#[error("Sockets.{key}: cannot {} {address}", if *passive { "listen at" } else { "connect to" })]
#[non_exhaustive]
pub struct SocketError {
    /// Its name under `Sockets`.
    pub key: String,
    /// The address, as the job file has it.
    pub address: String,
    /// It is to listen.
    pub passive: bool,
    /// Why.
    #[source]
    pub cause: SocketCause,
}

/// Why a socket could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketCause {
    /// `SockNodeName` would have to be looked up.
    #[error("SockNodeName must be a numeric address or localhost, names are not looked up")]
    NodeName,
    /// `SockNodeName` is an address of the other version of IP.
    #[error("SockNodeName is not an address of this SockFamily")]
    NodeFamily,
    /// `SockServiceName` is no port number and not in `/etc/services`.
    #[error("SockServiceName is no port number, and /etc/services does not have it")]
    ServiceName,
    /// Something that is not a socket is in its place.
    #[error("there is a file that is not a socket")]
    NotASocket,
    /// The path is too long for a socket.
    #[error("the path is too long for a socket")]
    PathTooLong,
    /// The kernel refused; `EADDRINUSE` if somebody listens there.
    #[error(transparent)]
    System(io::Error),
}

impl From<Errno> for SocketCause {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// The sockets of a job that is loaded.
///
/// Dropping them leaves the socket files where they are, so that another server can go on with the
/// sockets; see [`remove`](Self::remove).
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Made>,
    paths: Vec<UnixPath>,
}

#[derive(Debug)]
struct Made {
    name: String,
    passive: bool,
    socket: OwnedFd,
}

impl Listeners {
    /// Makes the sockets, or none of them.
    ///
    /// # Errors
    ///
    /// [`SocketError`] about the first one that cannot be made.
    pub fn open(job: &Job) -> Result<Self, SocketError> {
        let mut made = Self {
            sockets: Vec::new(),
            paths: Vec::new(),
        };
        for (key, socket) in each(job) {
            if let Err(cause) = made.open_one(key, socket) {
                made.remove();
                return Err(SocketError {
                    key: key.to_owned(),
                    address: address::display(&socket.address),
                    passive: socket.sock_passive,
                    cause,
                });
            }
        }
        Ok(made)
    }

    /// Goes on with sockets that a server before this one made for the same job, in the order of
    /// [`names_and_fds`](Self::names_and_fds).
    #[must_use]
    pub fn resume(job: &Job, sockets: Vec<(String, OwnedFd)>) -> Self {
        let passive = |socket: &OwnedFd| sockopt::socket_acceptconn(socket);
        let sockets = sockets.into_iter().map(|(name, socket)| Made {
            // What is not connected is waited for: that is so for a datagram socket as well.
            passive: passive(&socket) == Ok(true) || rustix::net::getpeername(&socket).is_err(),
            name,
            socket,
        });
        let paths = each(job).filter_map(|(_, socket)| match &socket.address {
            SocketAddress::Unix { sock_path_name, .. } if socket.sock_passive => {
                UnixPath::found(sock_path_name)
            }
            _ => None,
        });
        Self {
            sockets: sockets.collect(),
            paths: paths.collect(),
        }
    }

    /// All sockets in order, with the names for `LISTEN_FDNAMES`, in which a colon of the key is an
    /// underscore, because colons stand between the names.
    pub fn names_and_fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let sockets = self.sockets.iter();
        sockets.map(|made| (made.name.as_str(), made.socket.as_fd()))
    }

    /// The sockets that are readable when the job is needed, with their names.
    ///
    /// Those that were connected are not among them: one whose other end is gone is readable for
    /// ever.
    pub fn fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let sockets = self.sockets.iter().filter(|made| made.passive);
        sockets.map(|made| (made.name.as_str(), made.socket.as_fd()))
    }

    /// Closes the sockets and removes their files, except those that somebody else has put there
    /// meanwhile.
    pub fn remove(self) {
        for path in self.paths {
            path.remove();
        }
    }

    fn open_one(&mut self, key: &str, socket: &Socket) -> Result<(), SocketCause> {
        match &socket.address {
            SocketAddress::Unix {
                sock_path_name,
                sock_path_mode,
            } => {
                let made = self.open_unix(sock_path_name, *sock_path_mode, socket)?;
                self.push(key, socket, made);
                Ok(())
            }
            SocketAddress::Inet {
                sock_node_name,
                sock_service_name,
                sock_family,
            } => {
                let protocol = match socket.sock_type {
                    SocketType::Dgram => "udp",
                    SocketType::Stream | SocketType::Seqpacket => "tcp",
                };
                let port = address::port(sock_service_name, protocol, services)?;
                let addresses = address::resolve(sock_node_name.as_deref(), port, *sock_family)?;
                self.open_inet(key, socket, &addresses, *sock_family)
            }
        }
    }

    fn open_unix(
        &mut self,
        path: &Path,
        mode: Option<u16>,
        socket: &Socket,
    ) -> Result<OwnedFd, SocketCause> {
        let kind = kind(socket.sock_type);
        if !socket.sock_passive {
            return unix::connect(path, kind);
        }
        let (made, path) = unix::bind(path, kind, mode)?;
        self.paths.push(path);
        Ok(made)
    }

    /// A socket for each address. One that this machine has no such addresses for is left out if
    /// there is another.
    fn open_inet(
        &mut self,
        key: &str,
        socket: &Socket,
        addresses: &Resolved,
        family: Option<SocketFamily>,
    ) -> Result<(), SocketCause> {
        let mut missing = None;
        let before = self.sockets.len();
        for address in addresses.iter() {
            match inet(socket, address, family == Some(SocketFamily::Both)) {
                Ok(made) => self.push(key, socket, made),
                Err(errno @ (Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) if family.is_none() => {
                    missing = Some(errno);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        match missing {
            Some(errno) if self.sockets.len() == before => Err(errno.into()),
            _ => Ok(()),
        }
    }

    fn push(&mut self, key: &str, socket: &Socket, made: OwnedFd) {
        self.sockets.push(Made {
            name: key.replace(':', "_"),
            passive: socket.sock_passive,
            socket: made,
        });
    }
}

fn each(job: &Job) -> impl Iterator<Item = (&str, &Socket)> {
    let sockets = job.sockets.iter();
    sockets.flat_map(|(key, sockets)| sockets.iter().map(|socket| (key.as_str(), socket)))
}

fn services() -> io::Result<String> {
    fs::read_to_string("/etc/services")
}

fn kind(kind: SocketType) -> rustix::net::SocketType {
    match kind {
        SocketType::Stream => rustix::net::SocketType::STREAM,
        SocketType::Dgram => rustix::net::SocketType::DGRAM,
        SocketType::Seqpacket => rustix::net::SocketType::SEQPACKET,
    }
}

fn inet(socket: &Socket, address: &SocketAddr, both: bool) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let sock_type = kind(socket.sock_type);
    let made = rustix::net::socket_with(family, sock_type, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&made, !both)?;
    }
    if !socket.sock_passive {
        connect(&made, address)?;
        return Ok(made);
    }
    if socket.sock_type != SocketType::Dgram {
        sockopt::set_socket_reuseaddr(&made, true)?;
    }
    rustix::net::bind(&made, address)?;
    if socket.sock_type != SocketType::Dgram {
        rustix::net::listen(&made, BACKLOG)?;
    }
    Ok(made)
}

/// Begins to connect. How it ends is for the job to find out.
fn connect(socket: &OwnedFd, address: &impl rustix::net::addr::SocketAddrArg) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(socket, true)?;
    match rustix::net::connect(socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => rustix::io::ioctl_fionbio(socket, false),
        Err(errno) => Err(errno),
    }
}
