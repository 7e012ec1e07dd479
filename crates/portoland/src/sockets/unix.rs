//! Sockets in the file system.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{BACKLOG, SocketCause};

/// How often the lock of others may be gone when it is had.
const ATTEMPTS: usize = 8;

/// A socket file that was made here.
#[derive(Debug)]
pub(super) struct UnixPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl UnixPath {
    /// The socket that is there.
    pub(super) fn found(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        found.file_type().is_socket().then(|| Self {
            path: path.to_path_buf(),
            identity: (found.dev(), found.ino()),
        })
    }

    fn is_there(&self) -> bool {
        Self::found(&self.path).is_some_and(|found| found.identity == self.identity)
    }

    pub(super) fn remove(self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a socket is left behind");
        }
    }
}

pub(super) fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd, SocketCause> {
    let address = address(path)?;
    let socket = new(kind)?;
    super::connect(&socket, &address)?;
    Ok(socket)
}

/// Binds a socket, in the place of one that nobody listens on.
pub(super) fn bind(
    path: &Path,
    kind: SocketType,
    mode: Option<u16>,
) -> Result<(OwnedFd, UnixPath), SocketCause> {
    let address = address(path)?;
    let _lock = Lock::of(path)?;
    let socket = new(kind)?;
    // The file gets no more permissions than its socket has, from the first moment.
    if let Some(mode) = mode {
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode.into()))?;
    }
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_left_over(path, kind)?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    // Gone again only if it was removed by hand.
    let bound = UnixPath::found(path).ok_or(Errno::NOENT)?;
    match open_up(&socket, path, kind, mode) {
        Ok(()) => Ok((socket, bound)),
        Err(errno) => {
            bound.remove();
            Err(errno.into())
        }
    }
}

fn open_up(
    socket: &OwnedFd,
    path: &Path,
    kind: SocketType,
    mode: Option<u16>,
) -> Result<(), Errno> {
    if let Some(mode) = mode {
        // The umask has taken some away.
        rustix::fs::chmod(path, Mode::from_raw_mode(mode.into()))?;
    }
    if kind != SocketType::DGRAM {
        rustix::net::listen(socket, BACKLOG)?;
    }
    Ok(())
}

fn remove_left_over(path: &Path, kind: SocketType) -> Result<(), SocketCause> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketCause::NotASocket),
        Ok(_) if answers(path, kind)? => Err(Errno::ADDRINUSE.into()),
        Ok(_) => Ok(rustix::fs::unlink(path)?),
        // It was removed meanwhile.
        Err(_) => Ok(()),
    }
}

/// What keeps other servers from the path while a socket is made there: between `bind` and `listen`
/// it looks like one that is left over.
///
/// The file is removed while it is locked, so who gets the lock looks whether it is still the file
/// that others would lock.
struct Lock {
    path: PathBuf,
    /// Locked until it is closed.
    _file: OwnedFd,
}

impl Lock {
    /// `EADDRINUSE` if another server makes a socket there at this moment.
    fn of(socket: &Path) -> Result<Self, Errno> {
        let mut name = OsString::from(".");
        name.push(socket.file_name().ok_or(Errno::ISDIR)?);
        name.push(".lock");
        let path = socket.with_file_name(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Errno::ADDRINUSE),
                Err(errno) => return Err(errno),
            }
            let locked = rustix::fs::fstat(&file)?;
            let there = rustix::fs::lstat(&path);
            let same = |there: Stat| (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino);
            if there.is_ok_and(same) {
                return Ok(Self { path, _file: file });
            }
        }
        Err(Errno::ADDRINUSE)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that stays is used the next time.
        rustix::fs::unlink(&self.path).ok();
    }
}

/// Whether somebody has the socket open.
fn answers(path: &Path, kind: SocketType) -> Result<bool, SocketCause> {
    let probe = new(kind)?;
    rustix::io::ioctl_fionbio(&probe, true)?;
    match rustix::net::connect(&probe, &address(path)?) {
        Err(Errno::CONNREFUSED) => Ok(false),
        // With a full backlog, or as another type, it is there as well.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, SocketCause> {
    SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => SocketCause::PathTooLong,
        errno => errno.into(),
    })
}

fn new(kind: SocketType) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}
