//! Sockets in the file system.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{BACKLOG, SocketCause};

/// How often others may get in the way.
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
///
/// Several servers may try that at once, and between `bind` and `listen` a socket looks like one
/// that nobody listens on. So a socket is first taken out of the way and then asked once more, and
/// put back if somebody is there by now; and whoever listens looks whether its file is still there.
pub(super) fn bind(
    path: &Path,
    kind: SocketType,
    mode: Option<u16>,
) -> Result<(OwnedFd, UnixPath), SocketCause> {
    let address = address(path)?;
    for _ in 0..ATTEMPTS {
        let socket = new(kind)?;
        // The file gets no more permissions than its socket has, from the first moment.
        if let Some(mode) = mode {
            rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode.into()))?;
        }
        match rustix::net::bind(&socket, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => {
                take_out_of_the_way(path, kind)?;
                continue;
            }
            Err(errno) => return Err(errno.into()),
        }
        let Some(bound) = UnixPath::found(path) else {
            continue;
        };
        if let Err(errno) = open_up(&socket, path, kind, mode) {
            bound.remove();
            return Err(errno.into());
        }
        if bound.is_there() {
            return Ok((socket, bound));
        }
    }
    Err(Errno::ADDRINUSE.into())
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

fn take_out_of_the_way(path: &Path, kind: SocketType) -> Result<(), SocketCause> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketCause::NotASocket),
        Ok(_) => {}
        // It was removed meanwhile.
        Err(_) => return Ok(()),
    }
    if answers(path, kind)? {
        return Err(Errno::ADDRINUSE.into());
    }
    let aside = aside(path);
    match rustix::fs::renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // Gone already, or the name was a bad choice.
        Err(Errno::NOENT | Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let answer = answers(&aside, kind);
    if matches!(answer, Ok(false)) {
        return Ok(rustix::fs::unlink(&aside)?);
    }
    rustix::fs::renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE)?;
    answer.and(Err(Errno::ADDRINUSE.into()))
}

/// A name that is no longer than the path's, so that it fits a socket's address as well.
fn aside(path: &Path) -> PathBuf {
    let mut random = [0; 4];
    // Without random bytes there is still the chance that nobody has the name.
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK).ok();
    let name = format!(".{:08x}", u32::from_ne_bytes(random));
    let length = path.file_name().map_or(0, |name| name.len()).max(2);
    path.with_file_name(name.get(..length).unwrap_or(&name))
}

/// Whether somebody has the socket open.
fn answers(path: &Path, kind: SocketType) -> Result<bool, SocketCause> {
    let probe = new(kind)?;
    rustix::io::ioctl_fionbio(&probe, true)?;
    match rustix::net::connect(&probe, &address(path)?) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
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
