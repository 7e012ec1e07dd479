//! Unix sockets in the container of an application group, for programs that may not make any.
//!
//! A confined program that has no namespaces of its own (tier T1) cannot make sockets. The bootstrap
//! server makes them for it here, for paths in the containers of its groups, with `SOCK_STREAM` or
//! `SOCK_SEQPACKET`. Programs that can make sockets meet it there with their own: both ways lead to
//! the same path.
//!
//! ```no_run
//! use portolan::bootstrap::Bootstrap;
//! use portolan::group_socket::{self, SocketKind};
//! use std::io::Write;
//! use std::os::unix::net::UnixStream;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bootstrap = Bootstrap::from_env()?;
//! let group = "group.org.example".parse()?;
//! let socket = group_socket::connect(&bootstrap, &group, "server", SocketKind::Stream)?;
//! UnixStream::from(socket).write_all(b"hello")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who is at the other end
//!
//! `SO_PEERCRED` and `SO_PEERPIDFD` name the *bootstrap server* on a socket that it has connected, and
//! to those who connect to one that it has bound. Who has to know its peer uses ports, or asks for
//! `SCM_CREDENTIALS`, which are those of the process that sends.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use portolan_port::Right;
use portolan_wire::bootstrap::{Reply, Request};
use portolan_wire::group::GroupId;
use portolan_wire::group_socket::SocketUse;
use thiserror::Error;

use crate::bootstrap::{Bootstrap, BootstrapError};

pub use portolan_wire::group_socket::{MAX_SOCKET_PATH_BYTES, SocketKind};

/// A socket that is connected to the one at `path` below the group's container. It waits, and is
/// close-on-exec.
///
/// # Errors
///
/// [`SocketError`]. The server does not wait for room: a listener with as many connections as it
/// wanted to have waiting gives `WouldBlock`.
pub fn connect(
    bootstrap: &Bootstrap,
    group: &GroupId,
    path: impl AsRef<Path>,
    kind: SocketKind,
) -> Result<OwnedFd, SocketError> {
    ask(bootstrap, group, path.as_ref(), (kind, SocketUse::Connect))
}

/// A socket that is bound to `path` below the group's container and listens. It waits, and is
/// close-on-exec.
///
/// The file is this user's alone, and stays when the socket is closed: remove it before, as for
/// bind(2). At most `backlog` connections wait to be accepted, and one at least.
///
/// # Errors
///
/// [`SocketError`]
pub fn listen(
    bootstrap: &Bootstrap,
    group: &GroupId,
    path: impl AsRef<Path>,
    kind: SocketKind,
    backlog: u32,
) -> Result<OwnedFd, SocketError> {
    let backlog = backlog.max(1);
    let purpose = SocketUse::Listen { backlog };
    ask(bootstrap, group, path.as_ref(), (kind, purpose))
}

fn ask(
    bootstrap: &Bootstrap,
    group: &GroupId,
    path: &Path,
    (kind, purpose): (SocketKind, SocketUse),
) -> Result<OwnedFd, SocketError> {
    let request = Request::GroupSocket {
        kind,
        purpose,
        group: group.clone(),
        path: path.as_os_str().as_bytes().to_vec(),
    };
    let (reply, rights) = bootstrap.ask_for_rights(&request)?;
    match (reply, rights.into_iter().next()) {
        (Reply::Socket(0), Some(Right::Descriptor(socket))) => Ok(socket),
        (Reply::Socket(errno @ 1..), None) => {
            Err(SocketError::System(io::Error::from_raw_os_error(errno)))
        }
        _ => Err(BootstrapError::Protocol.into()),
    }
}

/// There is no socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The server refuses it, with [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this program is confined
    /// and no member of the group, or cannot be asked. Root's server makes none for others
    /// ([`BootstrapCode::UNSUPPORTED`]).
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`]: crate::BootstrapCode::NOT_PRIVILEGED
    /// [`BootstrapCode::UNSUPPORTED`]: crate::BootstrapCode::UNSUPPORTED
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// What openat2(2), connect(2), bind(2) or listen(2) said: `NotFound`, `ConnectionRefused`,
    /// `AddrInUse`; for a path with a link in it `ELOOP`, and for one that leads out of the container
    /// `EXDEV`.
    #[error("there is no socket")]
    System(#[source] io::Error),
}
