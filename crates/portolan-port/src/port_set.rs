//! Receiving from several ports at once.

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use portolan_wire::port_id::PortId;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::channel::lock;
use crate::error::{CreateError, ReceiveError};
use crate::message::Message;
use crate::receive_right::{MAX_STEPS_WHEN_LATE, Port, ReceiveRight, Step};
use crate::timeout::{Deadline, Timeout};

/// A set of ports that is received from as one.
///
/// A port may be in several sets and can be received from directly too. Members take turns. A port
/// leaves its sets when its receive right is dropped or moves; the set goes on.
///
/// ```
/// use portolan_port::{Message, PortSet, ReceiveRight, Timeout};
///
/// let (first, second) = (ReceiveRight::new()?, ReceiveRight::new()?);
/// let set = PortSet::new()?;
/// set.insert(&first)?;
/// set.insert(&second)?;
/// second.make_send()?.send(Message::new(5), Timeout::POLL)?;
/// assert_eq!(set.receive(Timeout::POLL)?.port(), Some(second.id()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PortSet {
    epoll: OwnedFd,
    epoch: u64,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    last_token: u64,
    by_token: HashMap<u64, (PortId, Weak<Port>)>,
}

impl PortSet {
    /// Makes an empty set. Receiving from it waits until a member has a message.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel has no more descriptors for this process.
    pub fn new() -> Result<Self, CreateError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            epoch: portolan_sys::fork::epoch(),
            members: Mutex::default(),
        })
    }

    /// Puts a port into the set. Messages that it has already count.
    ///
    /// Returns false if the port was a member (`KERN_ALREADY_IN_SET`).
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel refuses; `EPERM` if the set or the port belongs to the process
    /// that this one was forked from.
    pub fn insert(&self, member: &ReceiveRight) -> Result<bool, CreateError> {
        if self.is_foreign() || member.port().check_process().is_err() {
            return Err(Errno::PERM.into());
        }
        let mut members = lock(&self.members);
        members
            .by_token
            .retain(|_, (_, port)| port.strong_count() > 0);
        let data = EventData::new_u64(members.last_token + 1);
        match epoll::add(&self.epoll, member, data, EventFlags::IN) {
            Err(Errno::EXIST) => return Ok(false),
            result => result?,
        }
        members.last_token += 1;
        let token = members.last_token;
        members
            .by_token
            .insert(token, (member.id(), Arc::downgrade(member.port())));
        Ok(true)
    }

    /// Takes a port out of the set.
    ///
    /// Returns false if it was not a member (`KERN_NOT_IN_SET`), and in a forked child, whose
    /// parent's set it would be.
    pub fn remove(&self, member: &ReceiveRight) -> bool {
        if self.is_foreign() {
            return false;
        }
        lock(&self.members)
            .by_token
            .retain(|_, (id, _)| *id != member.id());
        epoll::delete(&self.epoll, member).is_ok()
    }

    /// Receives the next message of any member; [`Message::port`] says which.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::TimedOut`] if none came in time.
    pub fn receive(&self, timeout: impl Into<Timeout>) -> Result<Message, ReceiveError> {
        if self.is_foreign() {
            return Err(ReceiveError::ForeignProcess);
        }
        let deadline = timeout.into().deadline();
        let mut patience = MAX_STEPS_WHEN_LATE;
        while patience > 0 {
            match self.ready_member(deadline)? {
                Some(port) => {
                    if let Step::Message(message) = port.step(Deadline::Passed)? {
                        return Ok(message);
                    }
                    patience -= u32::from(deadline.has_passed());
                }
                None if deadline.has_passed() => return Err(ReceiveError::TimedOut),
                None => {}
            }
        }
        Err(ReceiveError::TimedOut)
    }

    fn is_foreign(&self) -> bool {
        self.epoch != portolan_sys::fork::epoch()
    }

    fn ready_member(&self, deadline: Deadline) -> Result<Option<Arc<Port>>, Errno> {
        let mut events = [MaybeUninit::<Event>::uninit(); 1];
        let timeout = deadline.timespec();
        let token = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events.first().map(|event| event.data.u64()),
            Err(Errno::INTR) => None,
            Err(other) => return Err(other),
        };
        let Some(token) = token else { return Ok(None) };
        let port = lock(&self.members)
            .by_token
            .get(&token)
            .and_then(|(_, port)| port.upgrade());
        Ok(port)
    }
}

impl AsFd for PortSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = lock(&self.members).by_token.len();
        f.debug_struct("PortSet")
            .field("members", &members)
            .finish_non_exhaustive()
    }
}
