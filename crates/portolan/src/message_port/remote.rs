//! The port that asks.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use portolan_port::{
    Message, PortId, ReplyError, RequestError, SendError, SendErrorKind, SendRight,
};
use portolan_wire::name::ServiceName;
use thiserror::Error;

use super::invalidation::Invalidation;
use super::table::Table;
use crate::bootstrap::{Bootstrap, BootstrapError};

/// The other end of a [`LocalMessagePort`](super::LocalMessagePort), in whatever process that is
/// (`CFMessagePortCreateRemote`).
///
/// Clones are handles to the same port and equal to it, and so is what [`create`](Self::create)
/// returns while the process has one. Any number of threads may send requests through it; each gets
/// its own answers.
///
/// It becomes invalid when it is [invalidated](Self::invalidate), when the last handle is dropped,
/// or when the local port is found to be dead. Nobody watches for that: it is noticed by
/// [`is_valid`](Self::is_valid), by a request, or when the same name is looked up again. An event
/// loop can wait for it: the descriptor of [`AsFd`] is readable when the local port has died or an
/// answer has come; then ask `is_valid`.
#[derive(Clone)]
pub struct RemoteMessagePort {
    remote: Arc<Remote>,
}

/// Whether a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// It is not; sending is all. What the callback returns is dropped.
    None,
    /// It is, and the answer is waited for this long: zero takes what is there,
    /// [`Duration::MAX`] waits for ever.
    ReceiveTimeout(Duration),
}

impl RemoteMessagePort {
    /// Finds the port with this name.
    ///
    /// # Errors
    ///
    /// Those of [`Bootstrap::look_up`]: `UNKNOWN_SERVICE` (1102) if there is no such port,
    /// `NOT_PRIVILEGED` (1100) if the sandbox forbids to ask. CF returns `NULL` for each.
    pub fn create(bootstrap: &Bootstrap, name: &ServiceName) -> Result<Self, BootstrapError> {
        let right = bootstrap.look_up(name)?;
        let key = (name.clone(), right.port());
        let fresh = Arc::new(Remote {
            name: name.clone(),
            process: std::process::id(),
            right,
            invalidation: Invalidation::new(),
        });
        if key.1 == NO_ID {
            return Ok(Self { remote: fresh });
        }
        if let Some(known) = REMOTES.find(&key) {
            known.notice_death();
        }
        let remote = REMOTES.share(key, fresh, Remote::is_usable);
        Ok(Self { remote })
    }

    /// The name that the port was found under.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.remote.name
    }

    /// Sends a request, and waits for the answer if `reply` says so
    /// (`CFMessagePortSendRequest`).
    ///
    /// Waits at most `send_timeout` while the local port's queue is full: zero does not wait,
    /// [`Duration::MAX`] waits for ever. Without an answer to wait for, success is `None` and means
    /// that the message is queued. Otherwise it is the answer, which is empty when the callback
    /// returned none.
    ///
    /// An answer that comes after its time-out is dropped; no other request gets it.
    ///
    /// # Errors
    ///
    /// [`SendRequestError`]. More than [`MAX_MESSAGE_BYTES`](crate::MAX_MESSAGE_BYTES) are not sent:
    /// the `TransportError` then holds `TooLarge` and the data.
    pub fn send_request(
        &self,
        id: i32,
        data: impl Into<Vec<u8>>,
        send_timeout: Duration,
        reply: ReplyMode,
    ) -> Result<Option<Vec<u8>>, SendRequestError> {
        let remote = &*self.remote;
        if remote.invalidation.has_happened() {
            return Err(SendRequestError::IsInvalid);
        }
        let message = Message::new(id).with_bytes(data);
        match reply {
            ReplyMode::None => match remote.right.send(message, send_timeout) {
                Ok(()) => Ok(None),
                Err(error) => Err(remote.not_sent(error)),
            },
            ReplyMode::ReceiveTimeout(timeout) => {
                let sent = remote.right.begin_request(message, send_timeout);
                let pending = sent.map_err(|error| remote.not_sent(error))?;
                match pending.wait(timeout) {
                    Ok(answer) => Ok(Some(answer.into_bytes())),
                    Err(error) => Err(remote.not_answered(error)),
                }
            }
        }
    }

    /// Makes the port invalid (`CFMessagePortInvalidate`). Once more, it does nothing.
    ///
    /// Requests that wait, on any thread, fail at once with `BecameInvalid`. The local port and
    /// other processes do not notice.
    pub fn invalidate(&self) {
        self.remote.invalidate();
    }

    /// Whether requests can be sent. If the local port has died, this one becomes invalid now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.remote.notice_death();
        self.remote.is_usable()
    }

    /// Sets what is called when the port becomes invalid, in place of what was set before; if it
    /// is invalid already, calls it now.
    ///
    /// It is called exactly once and without locks, on the thread that invalidates the port,
    /// notices its death or drops the last handle. A panic in it is caught.
    pub fn set_invalidation_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.remote.invalidation.set_callback(Box::new(callback));
    }
}

impl AsFd for RemoteMessagePort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.remote.right.as_fd()
    }
}

impl PartialEq for RemoteMessagePort {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.remote, &other.remote)
    }
}

impl Eq for RemoteMessagePort {}

impl fmt::Debug for RemoteMessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMessagePort")
            .field("name", self.name())
            .field("usable", &self.remote.is_usable())
            .finish_non_exhaustive()
    }
}

/// Why a request failed: the result kinds of `CFMessagePortSendRequest`.
#[derive(Debug, Error)]
pub enum SendRequestError {
    /// The local port's queue was full for the whole send time-out (-1).
    #[error("timed out: the port's queue is full")]
    SendTimeout,
    /// No answer came in time (-2). The request may still be handled.
    #[error("timed out: no answer came")]
    ReceiveTimeout,
    /// The port was invalid before (-3).
    #[error("the message port is invalid")]
    IsInvalid,
    /// The message could not be delivered or answered (-4).
    ///
    /// [`RequestError::Send`]: it was not sent, and is in there. If the kind is `DeadName`, the
    /// local port had died unnoticed, and this one is invalid now.
    ///
    /// [`RequestError::Reply`]: `NoReply` is the local port giving the request up, because its
    /// callback panicked or the answer is too large.
    #[error("the message port could not deliver")]
    TransportError(#[source] RequestError),
    /// The port became invalid while the answer was waited for (-5), most often because the
    /// local port died.
    #[error("the message port became invalid before it was answered")]
    BecameInvalid,
}

impl SendRequestError {
    /// The number of the kind in `CFMessagePort.h`.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::SendTimeout => -1,
            Self::ReceiveTimeout => -2,
            Self::IsInvalid => -3,
            Self::TransportError(_) => -4,
            Self::BecameInvalid => -5,
        }
    }
}

static REMOTES: Table<Remote> = Table::new();

/// The port of a right that was made from a connection. It does not tell ports apart.
const NO_ID: PortId = PortId::from_bytes([0; 16]);

struct Remote {
    name: ServiceName,
    /// A forked child must not touch the descriptors that it shares with its parent.
    process: u32,
    right: SendRight,
    invalidation: Invalidation,
}

impl Remote {
    fn not_sent(&self, error: SendError) -> SendRequestError {
        match error.kind() {
            SendErrorKind::TimedOut => SendRequestError::SendTimeout,
            SendErrorKind::DeadName if self.invalidation.has_happened() => {
                SendRequestError::IsInvalid
            }
            SendErrorKind::DeadName => {
                self.invalidate();
                SendRequestError::TransportError(error.into())
            }
            _ => SendRequestError::TransportError(error.into()),
        }
    }

    fn not_answered(&self, error: ReplyError) -> SendRequestError {
        match error {
            ReplyError::TimedOut => SendRequestError::ReceiveTimeout,
            ReplyError::DeadName => {
                self.invalidate();
                SendRequestError::BecameInvalid
            }
            other => SendRequestError::TransportError(other.into()),
        }
    }

    fn is_usable(&self) -> bool {
        self.is_ours() && !self.invalidation.has_happened()
    }

    fn notice_death(&self) {
        if self.is_usable() && self.right.is_dead() {
            self.invalidate();
        }
    }

    fn invalidate(&self) {
        if self.is_ours() {
            // Threads that wait for answers use the right, so it cannot be dropped; hanging up
            // wakes them.
            self.invalidation.happen(|| self.right.hang_up());
        }
    }

    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.invalidate();
    }
}
