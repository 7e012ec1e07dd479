//! Sockets in the containers of groups, for programs that may not make any themselves.
//!
//! What is in a container is the word of any member: no link in it is followed, and nothing waits for
//! whoever listens there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use portolan_port::Message;
use portolan_sandbox::{Filter, Operation};
use portolan_wire::bootstrap::Reply;
use portolan_wire::code::BootstrapCode;
use portolan_wire::group::GroupId;
use portolan_wire::group_socket::{SocketKind, SocketUse};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Server;
use super::answer::{Caller, Refused, done};
use crate::launch;
use crate::registry::Sandbox;

const NOT_FOR_OTHERS: &str =
    "sockets of groups are made for programs of the server's own user alone";

impl Server {
    pub(super) fn group_socket(
        &mut self,
        caller: &Caller,
        (kind, purpose): (SocketKind, SocketUse),
        group: &GroupId,
        path: &[u8],
    ) -> Result<Message, Refused> {
        let operation = match purpose {
            SocketUse::Connect => Operation::NetworkOutbound,
            SocketUse::Listen { .. } => Operation::NetworkBind,
        };
        let name = format!("{group}/{}", String::from_utf8_lossy(path));
        if self.judge(caller, operation, Filter::Path, &name) == Sandbox::Denies {
            return Err(BootstrapCode::NOT_PRIVILEGED.into());
        }
        // The other end would take root for who it speaks with.
        if !caller.is_at_home() {
            return Err(Refused::because(BootstrapCode::UNSUPPORTED, NOT_FOR_OTHERS));
        }
        let container = self.group_container(caller, group);
        let container = container.map_err(|error| {
            Refused::because(
                BootstrapCode::UNSUPPORTED,
                format!("there is no home: {error}"),
            )
        })?;
        let path = Path::new(OsStr::from_bytes(path));
        let socket = match purpose {
            SocketUse::Connect => connect(&container, path, kind),
            SocketUse::Listen { backlog } => listen(&container, path, kind, backlog),
        };
        Ok(match socket {
            Ok(socket) => done(&Reply::Socket(0)).with_right(socket),
            Err(errno) => done(&Reply::Socket(errno.raw_os_error())),
        })
    }

    fn group_container(&self, caller: &Caller, group: &GroupId) -> io::Result<PathBuf> {
        let job = caller.whose.job;
        let job = job.and_then(|job| self.jobs.supervisor.job(job));
        Ok(launch::home_here(job)?.group_container(group))
    }
}

/// Connects to the socket at a path below the container.
fn connect(container: &Path, path: &Path, kind: SocketKind) -> Result<OwnedFd, Errno> {
    let target = beneath(container, path, OFlags::empty())?;
    let socket = new_socket(kind)?;
    rustix::net::connect(&socket, &by_number(&target, None)?)?;
    wait_again(socket)
}

/// Makes a socket at a path below the container.
fn listen(container: &Path, path: &Path, kind: SocketKind, backlog: u32) -> Result<OwnedFd, Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let above = match path.parent() {
        Some(above) if above != Path::new("") => above,
        _ => Path::new("."),
    };
    let directory = beneath(container, above, OFlags::DIRECTORY)?;
    let socket = new_socket(kind)?;
    // The file gets no more permissions than its socket has, from the first moment.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &by_number(&directory, Some(name))?)?;
    rustix::net::listen(&socket, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    wait_again(socket)
}

fn beneath(container: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let passing = OFlags::PATH | OFlags::CLOEXEC;
    let own = passing | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let container = rustix::fs::openat(CWD, container, own, Mode::empty())?;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&container, path, passing | flags, Mode::empty(), within)
}

/// What is open, or a name in it, whatever is at its path by now.
fn by_number(open: &OwnedFd, name: Option<&OsStr>) -> Result<SocketAddrUnix, Errno> {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    path.extend(name);
    SocketAddrUnix::new(path)
}

/// One that does not wait: whoever listens may let others wait for ever.
fn new_socket(kind: SocketKind) -> Result<OwnedFd, Errno> {
    let kind = match kind {
        SocketKind::SeqPacket => SocketType::SEQPACKET,
        _ => SocketType::STREAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

/// As a socket is that somebody has just made.
fn wait_again(socket: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::ioctl_fionbio(socket.as_fd(), false)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use tempfile::TempDir;

    const STREAM: SocketKind = SocketKind::Stream;

    fn container() -> (TempDir, PathBuf) {
        let directory = TempDir::new().expect("a directory");
        let container = directory.path().join("group.a");
        fs::create_dir_all(container.join("sub")).expect("mkdir");
        (directory, container)
    }

    fn connected(container: &Path, path: &str) -> Result<OwnedFd, Errno> {
        connect(container, Path::new(path), STREAM)
    }

    #[test]
    fn nothing_outside_the_container_is_reached() {
        let (directory, container) = container();
        let outside = directory.path().join("outside");
        let _listener = UnixListener::bind(&outside).expect("bind");
        symlink(&outside, container.join("link")).expect("symlink");
        symlink(directory.path(), container.join("up")).expect("symlink");
        symlink("sub", container.join("within")).expect("symlink");
        let _inside = UnixListener::bind(container.join("sub/s")).expect("bind");
        connected(&container, "sub/s").expect("a socket inside");
        connected(&container, "sub/../sub/./s").expect("the same");
        let absolute = outside.to_str().expect("a path").to_owned();
        for path in [
            &absolute,
            "../outside",
            "link",
            "up/outside",
            "within/s",
            "sub/../../outside",
        ] {
            let error = connected(&container, path).expect_err(path);
            assert!(
                matches!(error, Errno::LOOP | Errno::XDEV),
                "{path}: {error}"
            );
        }
        for path in ["../x", "/tmp/x", "up/x", "within/x", ".."] {
            let made = listen(&container, Path::new(path), STREAM, 1);
            assert!(made.is_err(), "{path}");
        }
        assert!(!directory.path().join("x").exists());
        // Nor is the container itself somewhere else.
        let moved = directory.path().join("moved");
        fs::rename(&container, &moved).expect("rename");
        symlink(&moved, &container).expect("symlink");
        let error = connected(&container, "sub/s").expect_err("a link");
        assert!(matches!(error, Errno::LOOP | Errno::NOTDIR), "{error}");
    }

    #[test]
    fn what_is_no_listening_socket_of_the_kind_is_refused() {
        let (_directory, container) = container();
        fs::write(container.join("file"), "x").expect("write");
        let _datagram = UnixDatagram::bind(container.join("datagram")).expect("bind");
        let _stream = UnixListener::bind(container.join("stream")).expect("bind");
        drop(UnixListener::bind(container.join("left")).expect("bind"));
        let cases = [
            ("file", Errno::CONNREFUSED),
            ("sub", Errno::CONNREFUSED),
            ("datagram", Errno::PROTOTYPE),
            ("left", Errno::CONNREFUSED),
            ("missing", Errno::NOENT),
            ("", Errno::NOENT),
        ];
        for (path, errno) in cases {
            assert_eq!(connected(&container, path).err(), Some(errno), "{path}");
        }
        let packets = connect(&container, Path::new("stream"), SocketKind::SeqPacket);
        assert_eq!(packets.err(), Some(Errno::PROTOTYPE));
    }

    #[test]
    fn a_full_backlog_is_not_waited_for() {
        let (_directory, container) = container();
        let listener = listen(&container, Path::new("full"), STREAM, 1).expect("listen");
        let mut waiting = Vec::new();
        let full = loop {
            match connected(&container, "full") {
                Ok(socket) => waiting.push(socket),
                Err(errno) => break errno,
            }
            assert!(waiting.len() < 100, "there is no end");
        };
        assert_eq!(full, Errno::AGAIN);
        drop(listener);
    }

    #[test]
    fn a_socket_that_is_made_is_this_users_alone_and_waits() {
        let (_directory, container) = container();
        let path = Path::new("sub/made");
        let _listener = listen(&container, path, SocketKind::SeqPacket, 5).expect("listen");
        let mode = fs::metadata(container.join(path))
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let socket = connect(&container, path, SocketKind::SeqPacket).expect("connect");
        let flags = rustix::fs::fcntl_getfl(&socket).expect("flags");
        assert!(!flags.contains(OFlags::NONBLOCK));
        let again = listen(&container, path, STREAM, 5);
        assert_eq!(again.err(), Some(Errno::ADDRINUSE));
    }
}
