//! `sd_notify(3)` and `sd_listen_fds(3)`, without systemd's library and without systemd.
//!
//! * [`Notifier`]: what the server tells the service manager that started it.
//! * [`inherited`]: the descriptors that the service manager gives it.
//! * [`NotifySocket`]: what jobs tell the server, so that a program that was written for systemd can
//!   say when it is ready.
//!
//! | what | limit |
//! | --- | --- |
//! | inherited descriptors | 4096 |
//! | bytes of a notification | 4096, as systemd has it; a longer one is dropped |
//! | notifications taken at once | 64, of the first 32 lines each |
//! | bytes of a job's status | 512; the rest is left out |

mod socket;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use rustix::time::{ClockId, Timespec};
use thiserror::Error;

pub use socket::{Notice, Notified, NotifySocket};

/// The variable with the address of the service manager's socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The most descriptors that are taken over.
const MAX_INHERITED: u32 = 4096;

/// The first inherited descriptor (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: u32 = 3;

/// The longest name of a stored descriptor, in bytes.
const MAX_NAME: usize = 255;

/// Who is to be told how the server is.
///
/// Telling does not wait unless it is made [`patient`](Notifier::patient). Where nobody asked to be told, it does nothing.
#[derive(Debug, Default)]
pub struct Notifier(Option<Manager>);

#[derive(Debug)]
struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

/// The service manager could not be told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The address in [`NOTIFY_SOCKET`] is neither a path nor an abstract one.
    #[error("NOTIFY_SOCKET is {}, which is not a Unix socket's address", .0.display())]
    Address(OsString),
    /// A name that a stored descriptor cannot have: empty, longer than 255 bytes, or with a colon
    /// or a control character.
    #[error("{0:?} cannot be the name of a stored descriptor")]
    Name(String),
    /// The kernel refused.
    #[error("cannot notify the service manager")]
    Send(#[source] io::Error),
}

impl From<Errno> for NotifyError {
    fn from(errno: Errno) -> Self {
        Self::Send(errno.into())
    }
}

impl Notifier {
    /// Tells whom [`NOTIFY_SOCKET`] in the environment names.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Address`], and [`NotifyError::Send`] if no socket can be made.
    pub fn from_environment() -> Result<Self, NotifyError> {
        match env::var_os(NOTIFY_SOCKET) {
            Some(address) if !address.is_empty() => Self::to(&address),
            _ => Ok(Self(None)),
        }
    }

    /// Tells the socket at this address: a path, or the name of an abstract one behind an `@`.
    ///
    /// # Errors
    ///
    /// As [`from_environment`](Self::from_environment).
    pub fn to(address: &OsStr) -> Result<Self, NotifyError> {
        let unknown = |_| NotifyError::Address(address.to_os_string());
        let address = match address.as_bytes() {
            [b'/', ..] => SocketAddrUnix::new(address).map_err(unknown)?,
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name).map_err(unknown)?,
            _ => return Err(unknown(Errno::INVAL)),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self(Some(Manager { socket, address })))
    }

    /// Has each telling wait for as long as this, until there is room for it.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn patient(self, patience: Duration) -> Result<Self, NotifyError> {
        if let Some(Manager { socket, .. }) = &self.0 {
            rustix::io::ioctl_fionbio(socket, false)?;
            set_socket_timeout(socket, Timeout::Send, Some(patience))?;
        }
        Ok(self)
    }

    /// Waits, for no longer than this, until all that was told before is dealt with (`BARRIER=1`).
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`], with `ETIMEDOUT` if it takes longer.
    pub fn barrier(&self, patience: Duration) -> Result<(), NotifyError> {
        if !self.is_there() {
            return Ok(());
        }
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        self.send(b"BARRIER=1\n", Some(theirs.as_fd()))?;
        drop(theirs);
        let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
        let mut closed = [PollFd::new(&ours, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut closed, Some(&patience)))? {
            0 => Err(Errno::TIMEDOUT.into()),
            _ => Ok(()),
        }
    }

    /// Whether somebody asked to be told.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The server is ready (`READY=1`), which also ends what [`reloading`](Self::reloading) began.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn ready(&self) -> Result<(), NotifyError> {
        self.send(b"READY=1\n", None)
    }

    /// A line for people (`STATUS=`); what would end it is a space.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn status(&self, text: impl fmt::Display) -> Result<(), NotifyError> {
        let line = text.to_string().replace(char::is_control, " ");
        self.send(format!("STATUS={line}\n").as_bytes(), None)
    }

    /// The server is about to end (`STOPPING=1`).
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn stopping(&self) -> Result<(), NotifyError> {
        self.send(b"STOPPING=1\n", None)
    }

    /// The server restarts in place (`RELOADING=1`), until it says that it is ready.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn reloading(&self) -> Result<(), NotifyError> {
        let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Monotonic);
        let micros = tv_sec * 1_000_000 + tv_nsec / 1000;
        let text = format!("RELOADING=1\nMONOTONIC_USEC={micros}\n");
        self.send(text.as_bytes(), None)
    }

    /// Another process is the server (`MAINPID=`).
    ///
    /// # Errors
    ///
    /// [`NotifyError::Send`]
    pub fn main_pid(&self, pid: u32) -> Result<(), NotifyError> {
        self.send(format!("MAINPID={pid}\n").as_bytes(), None)
    }

    /// Has a copy of a descriptor kept for the next server (`FDSTORE=1`), which finds it with
    /// [`inherited`].
    ///
    /// The service manager keeps no more than its unit allows (`FileDescriptorStoreMax=`), and says
    /// nothing if that is too few.
    ///
    /// # Errors
    ///
    /// [`NotifyError`]
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), NotifyError> {
        // Without FDPOLL=0 one that hangs up, as a pipe does, would be thrown away.
        let text = format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0\n", checked(name)?);
        self.send(text.as_bytes(), Some(descriptor))
    }

    /// Ends the keeping of all descriptors with this name (`FDSTOREREMOVE=1`).
    ///
    /// # Errors
    ///
    /// [`NotifyError`]
    pub fn remove(&self, name: &str) -> Result<(), NotifyError> {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={}\n", checked(name)?);
        self.send(text.as_bytes(), None)
    }

    fn send(&self, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), NotifyError> {
        let Some(Manager { socket, address }) = &self.0 else {
            return Ok(());
        };
        let descriptors = descriptor.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::NOBUFS.into());
        }
        let text = [IoSlice::new(text)];
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg_addr(socket, address, &text, &mut control, flags)
        })?;
        Ok(())
    }
}

fn checked(name: &str) -> Result<&str, NotifyError> {
    let bad = |c: char| c == ':' || c.is_control();
    if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
        return Err(NotifyError::Name(name.to_owned()));
    }
    Ok(name)
}

/// What a service manager says about the descriptors that it gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// `LISTEN_PID`: for whom they are.
    pub pid: Option<OsString>,
    /// `LISTEN_FDS`: how many there are.
    pub number: Option<OsString>,
    /// `LISTEN_FDNAMES`: what they are called.
    pub names: Option<OsString>,
}

impl Inherited {
    /// What the environment of this process says.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            pid: env::var_os("LISTEN_PID"),
            number: env::var_os("LISTEN_FDS"),
            names: env::var_os("LISTEN_FDNAMES"),
        }
    }

    /// The descriptors for process `pid`, with their names, through `take`, which makes an owned
    /// descriptor of a number. One without a name is `unknown`, as systemd has it.
    ///
    /// # Errors
    ///
    /// What `take` says. No error, but no descriptors, if they are for another process or there are
    /// more than 4096.
    pub fn take(
        &self,
        pid: u32,
        take: impl Fn(u32) -> io::Result<OwnedFd>,
    ) -> io::Result<Vec<(String, OwnedFd)>> {
        let numbers = self.numbers(pid).into_iter();
        let taken = numbers.map(|(name, number)| Ok((name, take(number)?)));
        taken.collect()
    }

    /// The names and the numbers of the descriptors for process `pid`, as in [`take`](Self::take).
    #[must_use]
    pub fn numbers(&self, pid: u32) -> Vec<(String, u32)> {
        if number(self.pid.as_deref()) != Some(pid) {
            return Vec::new();
        }
        let many = number(self.number.as_deref()).filter(|number| *number <= MAX_INHERITED);
        let names = self.names.as_deref().unwrap_or_default().to_string_lossy();
        let mut names = names.split(':');
        let numbers = (0..many.unwrap_or(0)).map(|at| FIRST_INHERITED + at);
        let named = numbers.map(|number| {
            let name = names.next().filter(|name| !name.is_empty());
            (name.unwrap_or("unknown").to_owned(), number)
        });
        named.collect()
    }
}

fn number(text: Option<&OsStr>) -> Option<u32> {
    text?.to_str()?.parse().ok()
}

/// The descriptors that the service manager gave this process, with their names.
///
/// These are copies; the numbers that were given stay open for whoever owns them.
///
/// # Errors
///
/// `EBADF` if one of them is not there.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    let duplicate = portolan_sys::inherit::duplicate;
    Inherited::from_environment().take(std::process::id(), duplicate)
}
