//! How those who write tell those who watch.
//!
//! A watcher publishes a port under a name of its group. A writer, while it has the lock and before
//! it replaces the file, sends each of them a message with a right to a port of its own, and lets
//! that port die when it is done. So a watcher looks at the file when the writer is done with it, and
//! also if the writer was killed: at any moment it has either not replaced the file, or has told that
//! it would. What was changed stands in the file.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use portolan_port::{
    CreateError, Message, MintError, ReceiveError, ReceiveRight, Right, SendRight, Timeout,
};
use portolan_wire::defaults::{Change, Image};
use portolan_wire::group::GroupId;
use portolan_wire::name::{NameError, ServiceName};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::folder::{self, Folder, ReadError, ReplaceError};
use super::running_server;
use crate::bootstrap::{Bootstrap, BootstrapError, ConnectError};

/// The id of the message of a writer that is about to replace the file; with a send right to a port
/// that dies when it has.
const ABOUT_TO_CHANGE: i32 = 1;

/// The id of the message to a watcher that could not be told before.
const CHANGED: i32 = 2;

/// How many watchers a writer tells; further ones are not told.
const MAX_WATCHERS: usize = 256;

/// How many writers a watcher waits for. Only one can have the lock, so more of them lie.
const MAX_WRITERS: usize = 16;

/// How a process comes by its bootstrap server, and which names the watchers of a group have there.
#[derive(Debug)]
pub(super) struct Servers {
    given: Option<Bootstrap>,
    prefix: String,
}

impl Servers {
    pub(super) fn of_process(group: &GroupId) -> Self {
        Self {
            given: None,
            prefix: format!("{group}.portolan.defaults."),
        }
    }

    pub(super) fn given(group: &GroupId, bootstrap: Bootstrap) -> Self {
        Self {
            given: Some(bootstrap),
            ..Self::of_process(group)
        }
    }

    /// Tells all watchers that the file is about to be replaced.
    pub(super) fn announce(&self) -> Result<Telling, TellError> {
        let server = match &self.given {
            Some(bootstrap) => Some(bootstrap.copy()?),
            None => running_server()?,
        };
        let Some(server) = server else {
            return Ok(Telling::default());
        };
        let names = server.list()?.into_iter().map(|service| service.name);
        let watchers = names.filter(|name| name.as_str().starts_with(&self.prefix));
        let watchers: Vec<_> = watchers.take(MAX_WATCHERS).collect();
        match watchers.is_empty() {
            true => Ok(Telling::default()),
            false => Telling::announce(server, watchers),
        }
    }

    fn name(&self, port: &ReceiveRight) -> Result<ServiceName, NameError> {
        let [a, b, c, d, e, f, g, h, ..] = *port.id().as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        ServiceName::try_from(format!("{}{number:016x}", self.prefix).as_str())
    }

    fn start(&self) -> Result<Bootstrap, WatchError> {
        match &self.given {
            Some(bootstrap) => Ok(bootstrap.copy()?),
            None => Ok(Bootstrap::from_env()?),
        }
    }
}

/// Watchers that have been told that the file is about to be replaced. They look when this is
/// dropped, or when the process ends.
#[derive(Debug, Default)]
pub(super) struct Telling(Option<Told>);

#[derive(Debug)]
struct Told {
    server: Bootstrap,
    /// Watchers whose queues were full.
    late: Vec<ServiceName>,
    /// Dies when the file is replaced.
    _port: ReceiveRight,
}

impl Telling {
    fn announce(server: Bootstrap, watchers: Vec<ServiceName>) -> Result<Self, TellError> {
        let port = ReceiveRight::new()?;
        let mut late = Vec::new();
        for name in watchers {
            let message = Message::new(ABOUT_TO_CHANGE).with_right(port.make_send()?);
            if !tell(&server, &name, message)? {
                late.push(name);
            }
        }
        Ok(Self(Some(Told {
            server,
            late,
            _port: port,
        })))
    }

    /// The file is replaced. A queue that is full again holds what makes its watcher look.
    pub(super) fn finish(self) {
        let Self(Some(told)) = self else { return };
        for name in &told.late {
            // Should the server be gone at this moment, the watcher is told of that.
            tell(&told.server, name, Message::new(CHANGED)).ok();
        }
    }
}

/// Tells whether the watcher gets the message. It may also have ended.
fn tell(server: &Bootstrap, name: &ServiceName, message: Message) -> Result<bool, TellError> {
    match server.look_up(name) {
        Ok(watcher) => Ok(watcher.send(message, Timeout::POLL).is_ok()),
        // 1105 if its queue has no place for another sender.
        Err(error) if error.code().is_some() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Receives each change of a group's defaults once, in the order in which they were made.
///
/// A watcher that stays behind by more than 256 changes, or 64 KiB of them, gets for those the
/// difference that they made: the last value of each key that has another one than before.
///
/// The descriptor of [`AsFd`] is readable when [`receive`](Self::receive) may find something; poll
/// it, then receive with [`Timeout::POLL`] until that times out.
#[derive(Debug)]
pub struct Watch {
    folder: Folder,
    key: Option<String>,
    epoll: OwnedFd,
    port: ReceiveRight,
    server: SendRight,
    writers: VecDeque<SendRight>,
    seen: Image,
    ready: VecDeque<Change>,
}

impl Watch {
    pub(super) fn start(
        folder: Folder,
        servers: &Servers,
        key: Option<&str>,
    ) -> Result<Self, WatchError> {
        let port = ReceiveRight::new()?;
        let name = servers.name(&port)?;
        let server = servers.start()?;
        server.register(&name, port.make_send()?)?;
        // Who has the lock before has listed the watchers without this one.
        let seen = folder.lock()?.read()?.map_or_else(folder::fresh, Ok)?;
        let watch = Self {
            folder,
            key: key.map(str::to_owned),
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(CreateError::from)?,
            port,
            server: server.into_right(),
            writers: VecDeque::new(),
            seen,
            ready: VecDeque::new(),
        };
        watch.poll(&watch.port).map_err(CreateError::from)?;
        watch.poll(&watch.server).map_err(CreateError::from)?;
        Ok(watch)
    }

    /// Takes the next change, waiting for it.
    ///
    /// # Errors
    ///
    /// [`NextError`]. If the defaults could not be read, what was changed comes with the next change.
    pub fn receive(&mut self, timeout: impl Into<Timeout>) -> Result<Change, NextError> {
        let deadline = deadline(timeout.into());
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            if !self.wait(deadline)? {
                return Err(NextError::TimedOut);
            }
            self.take_announcements()?;
            self.look()?;
            if self.server.is_dead() && self.ready.is_empty() {
                return Err(NextError::ServerGone);
            }
        }
    }

    /// Tells whether something happened in time.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool, Errno> {
        let mut events = [MaybeUninit::uninit()];
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.epoll, &mut events, left.as_ref()) {
                Err(Errno::INTR) => {}
                other => return Ok(!other?.0.is_empty()),
            }
        }
    }

    /// Takes what writers have sent, and forgets those that are done.
    fn take_announcements(&mut self) -> Result<(), NextError> {
        loop {
            match self.port.receive(Timeout::POLL) {
                Ok(mut message) => self.add_writers(message.take_rights())?,
                Err(ReceiveError::TimedOut) => break,
                Err(other) => return Err(other.into()),
            }
        }
        self.writers.retain(|writer| {
            let done = writer.is_dead();
            if done {
                forget(&self.epoll, writer);
            }
            !done
        });
        Ok(())
    }

    fn add_writers(&mut self, rights: Vec<Right>) -> Result<(), Errno> {
        for right in rights {
            let Right::Send(writer) = right else { continue };
            self.poll(&writer)?;
            self.writers.push_back(writer);
            if self.writers.len() > MAX_WRITERS
                && let Some(first) = self.writers.pop_front()
            {
                forget(&self.epoll, &first);
            }
        }
        Ok(())
    }

    fn poll(&self, what: &impl AsFd) -> Result<(), Errno> {
        epoll::add(&self.epoll, what, EventData::new_u64(0), EventFlags::IN)
    }

    fn look(&mut self) -> Result<(), ReadError> {
        let now = match self.folder.read()? {
            Some(now) => now,
            // Removed by somebody. What comes in its place has another id.
            None => folder::fresh()?,
        };
        let changes = now.changes_since(&self.seen);
        let changes = changes.unwrap_or_else(|| now.difference(&self.seen));
        let wanted = |change: &Change| self.key.as_ref().is_none_or(|key| *key == change.key);
        self.ready.extend(changes.into_iter().filter(wanted));
        self.seen = now;
        Ok(())
    }
}

/// A right that is dropped would also leave by itself, if nobody else had its descriptor.
fn forget(epoll: &OwnedFd, writer: &SendRight) {
    epoll::delete(epoll, writer).ok();
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A time-out that is too long for the clock is as good as none.
fn deadline(timeout: Timeout) -> Option<Instant> {
    Instant::now().checked_add(timeout.duration()?)
}

/// Watchers cannot be told of a change, so it is not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TellError {
    /// There is a bootstrap server, but no right to it.
    #[error("the bootstrap server cannot be asked who watches")]
    Connect(#[from] ConnectError),
    /// The bootstrap server cannot say who watches.
    #[error("the bootstrap server does not say who watches")]
    List(#[from] BootstrapError),
    /// There are no descriptors left.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// There are no descriptors left.
    #[error(transparent)]
    Mint(#[from] MintError),
}

/// Watching could not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The id of the group is so long that a watcher can have no name with it.
    #[error("the group's id is too long for the names of watchers")]
    Name(#[from] NameError),
    /// There is no bootstrap server.
    #[error("the watcher's name cannot be published")]
    Connect(#[from] ConnectError),
    /// The bootstrap server does not publish the watcher's name.
    #[error("the watcher's name cannot be published")]
    Register(#[from] BootstrapError),
    /// A port cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A right cannot be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The defaults cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A process writes, and has not ended with it for ten seconds.
    #[error("another process holds the lock of the defaults")]
    Busy,
    /// The lock cannot be had.
    #[error("the lock of the defaults cannot be had")]
    Lock(#[source] std::io::Error),
}

impl From<ReplaceError> for WatchError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Read(error) => Self::Read(error),
            ReplaceError::Busy => Self::Busy,
            ReplaceError::Write(error) => Self::Lock(error),
        }
    }
}

/// No change was received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NextError {
    /// Nothing was changed in time.
    #[error("timed out: nothing was changed")]
    TimedOut,
    /// The bootstrap server was shut down, so writers do not find this watcher any more.
    #[error("the bootstrap server is gone, and the watcher's name with it")]
    ServerGone,
    /// The defaults cannot be read as they are now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A message of a writer cannot be received.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The kernel refused.
    #[error("the kernel refused to wait")]
    System(#[source] std::io::Error),
}

impl From<Errno> for NextError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}
