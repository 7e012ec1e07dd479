//! The socket on which jobs say how they are.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use portolan_sys::ancillary;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// File name of the socket in the server's directory.
const NAME: &str = "notify";

/// The longest notification, in bytes.
const MAX_BYTES: usize = 4096;

/// Notifications that are taken before other events get their turn.
const BATCH: usize = 64;

/// Lines of a notification that are looked at.
const MAX_LINES: usize = 32;

/// The longest status, in bytes.
const MAX_STATUS: usize = 512;

/// What a job says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// It is ready (`READY=1`).
    Ready,
    /// It reads its configuration again, until it is ready (`RELOADING=1`).
    Reloading,
    /// It is about to end (`STOPPING=1`).
    Stopping,
    /// A line for people (`STATUS=`), without control characters and no longer than 512 bytes.
    Status(String),
}

/// A notice, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notified {
    /// The process, as the kernel says. It need not be the one that was started as the job, and it
    /// may be gone.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What it says.
    pub notice: Notice,
}

/// A socket for `NOTIFY_SOCKET` in the environment of jobs.
///
/// Whoever can reach it may write to it, so the pid has to be looked up among those of jobs. The
/// descriptor ([`AsFd`]) is readable when there is something to [`take`](Self::take).
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

impl NotifySocket {
    /// Makes the socket in the directory of the server, in the place of one that is left over. No
    /// other server may use the directory.
    ///
    /// # Errors
    ///
    /// What `bind(2)` says.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        // Before there is anybody who could send: it counts when a notification is sent.
        sockopt::set_socket_passcred(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // Jobs may run as other users; who may come this far is for the directory to say.
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o666))?;
        Ok(Self { socket, path })
    }

    /// Goes on with the socket of a server that was here before.
    #[must_use]
    pub fn resume(directory: &Path, socket: OwnedFd) -> Self {
        Self {
            socket,
            path: directory.join(NAME),
        }
    }

    /// What is to be in `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next notices, without waiting. What is not understood is dropped, and so are descriptors
    /// that come with it.
    ///
    /// # Errors
    ///
    /// What `recvmsg(2)` says.
    pub fn take(&self) -> io::Result<Vec<Notified>> {
        let mut notified = Vec::new();
        let mut buffer = [0; MAX_BYTES];
        for _ in 0..BATCH {
            let received = match ancillary::receive(&self.socket, &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let who = received.credentials.filter(|who| who.pid != 0);
            if let Some(who) = who.filter(|_| !received.truncated) {
                let notices = buffer[..received.len].split(|byte| *byte == b'\n');
                let notices = notices.take(MAX_LINES);
                notified.extend(notices.filter_map(notice).map(|notice| Notified {
                    pid: who.pid,
                    uid: who.uid,
                    notice,
                }));
            }
        }
        Ok(notified)
    }

    /// Removes the socket file.
    ///
    /// # Errors
    ///
    /// What `unlink(2)` says.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn notice(line: &[u8]) -> Option<Notice> {
    match line {
        b"READY=1" => Some(Notice::Ready),
        b"RELOADING=1" => Some(Notice::Reloading),
        b"STOPPING=1" => Some(Notice::Stopping),
        _ => {
            let text = std::str::from_utf8(line.strip_prefix(b"STATUS=")?).ok()?;
            let end = text.floor_char_boundary(MAX_STATUS);
            Some(Notice::Status(text[..end].replace(char::is_control, " ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_understood_is_a_notice() {
        assert_eq!(notice(b"READY=1"), Some(Notice::Ready));
        assert_eq!(notice(b"READY=0"), None);
        assert_eq!(notice(b"READY=1 "), None);
        assert_eq!(notice(b"MAINPID=1"), None);
        assert_eq!(notice(b""), None);
        assert_eq!(notice(b"STATUS=\xff"), None);
        let status = |text: &str| Some(Notice::Status(text.to_owned()));
        assert_eq!(notice("STATUS=ä\x1b[2J".as_bytes()), status("ä [2J"));
        let long = format!("STATUS={}", "ä".repeat(300));
        assert_eq!(notice(long.as_bytes()), status(&"ä".repeat(256)));
        let odd = format!("STATUS=x{}", "ä".repeat(300));
        let cut = format!("x{}", "ä".repeat(255));
        assert_eq!(notice(odd.as_bytes()), status(&cut));
    }
}
