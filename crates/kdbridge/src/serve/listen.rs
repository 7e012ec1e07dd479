//! Where debuggers connect.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::rsp::link::{Address, Stream, connect_unix};

/// A socket that debuggers connect to; one with a path is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf, Identity),
}

/// Which file of the system one is: its device, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self(meta.dev(), meta.ino()))
    }
}

impl Listener {
    /// Listens. Who may connect to a socket with a path is its owner only.
    ///
    /// # Errors
    ///
    /// What the system says; that the address is in use if somebody listens there, or that something
    /// exists there that is no socket.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => Socket::Tcp(TcpListener::bind(address)?),
            Address::Unix(path) => {
                let (socket, identity) = bind_path(path)?;
                Socket::Unix(socket, path.clone(), identity)
            }
        };
        let address = match &socket {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Address::Tcp(socket.local_addr()?.to_string())
            }
            Socket::Unix(socket, path, _) => {
                socket.set_nonblocking(true)?;
                Address::Unix(path.clone())
            }
        };
        Ok(Self { socket, address })
    }

    /// Where it listens; with the port that the system chose if that was left to it.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A debugger that has connected, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<Stream>> {
        let stream = match &self.socket {
            Socket::Tcp(socket) => socket.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Socket::Unix(socket, ..) => socket.accept().map(|(stream, _)| Stream::Unix(stream)),
        };
        match stream {
            Ok(stream) => stream.prepare().map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The socket is made in a folder that only its owner can enter, so that nobody else ever reaches it.
fn bind_path(path: &Path) -> io::Result<(UnixListener, Identity)> {
    make_room(path)?;
    let beside = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = tempfile::Builder::new()
        .prefix(".k")
        .tempdir_in(beside.unwrap_or(Path::new(".")))?;
    let hidden = folder.path().join("s");
    let socket = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    let identity = Identity::of(&hidden)?;
    // Unlike a new name, another one replaces nothing.
    fs::hard_link(&hidden, path)?;
    Ok((socket, identity))
}

/// Removes a socket that nobody has any more.
fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?.file_type(),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match connect_unix(path).map_err(|error| (Errno::from_io_error(&error), error)) {
        Err((Some(Errno::CONNREFUSED), _)) => fs::remove_file(path),
        // Whoever has it has too much to do, or it is for datagrams or packets.
        Ok(_) | Err((Some(Errno::AGAIN | Errno::PROTOTYPE), _)) => {
            Err(io::ErrorKind::AddrInUse.into())
        }
        Err((_, error)) => Err(error),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket, ..) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path, identity) = &self.socket
            && Identity::of(path).is_ok_and(|there| there == *identity)
        {
            // Fails only if somebody has removed it meanwhile.
            fs::remove_file(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, listen, socket};

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge");
        (folder, path)
    }

    fn bind(path: &Path) -> io::Result<Listener> {
        Listener::bind(&Address::Unix(path.to_owned()))
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let (folder, path) = folder();
        fs::write(&path, "precious").unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced() {
        let (folder, path) = folder();
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_taken_the_place_of_the_socket_stays() {
        let (_folder, path) = folder();
        let listener = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(listener);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    fn bound(path: &Path, kind: SocketType) -> OwnedFd {
        let socket = socket(AddressFamily::UNIX, kind, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    fn is_in_use(path: &Path) {
        let there = Identity::of(path).unwrap();
        assert_eq!(bind(path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(Identity::of(path).unwrap(), there);
    }

    #[test]
    fn a_socket_that_somebody_has_stays() {
        let (folder, path) = folder();
        let datagrams = UnixDatagram::bind(&path).unwrap();
        is_in_use(&path);
        let packets = folder.path().join("packets");
        let packets_socket = bound(&packets, SocketType::SEQPACKET);
        listen(&packets_socket, 1).unwrap();
        is_in_use(&packets);
        drop(datagrams);
        bind(&path).unwrap();
    }

    #[test]
    fn a_socket_at_which_others_wait_stays() {
        let (_folder, path) = folder();
        let busy = bound(&path, SocketType::STREAM);
        listen(&busy, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let full = connect_unix(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        is_in_use(&path);
    }
}
