//! Semaphores that the members of an application group share by name, after `sem_open`.
//!
//! A semaphore is a number in shared memory. [`post`](Semaphore::post) adds one to it,
//! [`wait`](Semaphore::wait) takes one away and waits for it if there is none. Unless somebody waits,
//! neither makes a system call.
//!
//! ```
//! use portolan::Timeout;
//! use portolan::bootstrap::Bootstrap;
//! use portolan::semaphore::{self, Semaphore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bootstrap = Bootstrap::private()?;
//! let name = "group.org.example/turn".parse()?;
//! let turn = Semaphore::create(&bootstrap, &name, 1)?;
//! assert!(turn.try_wait());
//! assert!(!turn.try_wait());
//!
//! let elsewhere = Semaphore::open(&bootstrap, &name)?;
//! elsewhere.post()?;
//! turn.wait(Timeout::NEVER)?;
//! semaphore::unlink(&bootstrap, &name)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from POSIX
//!
//! * Names and how long they last are those of [shared memory](crate::shm).
//! * A post wakes all who wait, and one of them gets it: if the one that was woken were killed before it
//!   took it, the others would sleep on.
//! * As in POSIX, a semaphore does not know who has waited for it: what a program that was killed had
//!   taken is not given back. And any member can post and wait at will.

use std::io;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use portolan_port::{SharedMapping, Timeout};
use portolan_wire::object::{Creation, ObjectKind, semaphore};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::thread::futex;
use thiserror::Error;

use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::named;

pub use portolan_wire::object::semaphore::MAX_VALUE;
pub use portolan_wire::object::{ObjectInfo, ObjectName, ObjectNameError};

const KIND: ObjectKind = ObjectKind::Semaphore;

/// A semaphore that has, or had, a name. Any thread may use it.
#[derive(Debug)]
pub struct Semaphore {
    memory: SharedMapping,
}

impl Semaphore {
    /// Opens a semaphore that is there.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this program is confined and no member of the group,
    /// whether there is such a semaphore or not; [`BootstrapCode::UNKNOWN_SERVICE`] (1102) if there is
    /// none.
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`]: crate::BootstrapCode::NOT_PRIVILEGED
    /// [`BootstrapCode::UNKNOWN_SERVICE`]: crate::BootstrapCode::UNKNOWN_SERVICE
    pub fn open(bootstrap: &Bootstrap, name: &ObjectName) -> Result<Self, OpenError> {
        Self::ask(bootstrap, name, None)
    }

    /// Opens a semaphore, and makes it with this value if it is not there.
    ///
    /// # Errors
    ///
    /// Beyond the limits of the server [`BootstrapCode::NO_MEMORY`] (1105), for a value above
    /// [`MAX_VALUE`] `BAD_ARGUMENTS`, and 1100 as for [`open`](Self::open).
    ///
    /// [`BootstrapCode::NO_MEMORY`]: crate::BootstrapCode::NO_MEMORY
    pub fn create(bootstrap: &Bootstrap, name: &ObjectName, value: u32) -> Result<Self, OpenError> {
        let creation = Creation {
            exclusive: false,
            value: value.into(),
        };
        Self::ask(bootstrap, name, Some(creation))
    }

    /// Makes a semaphore with this value.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NAME_IN_USE`] (1101) if there is a semaphore of this name, and those of
    /// [`create`](Self::create).
    ///
    /// [`BootstrapCode::NAME_IN_USE`]: crate::BootstrapCode::NAME_IN_USE
    pub fn create_new(
        bootstrap: &Bootstrap,
        name: &ObjectName,
        value: u32,
    ) -> Result<Self, OpenError> {
        let creation = Creation {
            exclusive: true,
            value: value.into(),
        };
        Self::ask(bootstrap, name, Some(creation))
    }

    fn ask(
        bootstrap: &Bootstrap,
        name: &ObjectName,
        create: Option<Creation>,
    ) -> Result<Self, OpenError> {
        let (file, _) = named::open(bootstrap, KIND, name, create)?;
        let memory = SharedMapping::new(file)?;
        match memory.len() {
            semaphore::BYTES => Ok(Self { memory }),
            _ => Err(BootstrapError::Protocol.into()),
        }
    }

    /// Adds one, and wakes whoever waits (`sem_post`).
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the value is the highest that there is.
    pub fn post(&self) -> Result<(), Overflow> {
        let value = self.value_word();
        let higher = |value| (value < MAX_VALUE).then(|| value + 1);
        value
            .fetch_update(SeqCst, Relaxed, higher)
            .map_err(|_| Overflow)?;
        // Whoever waits said so before it looked at the value for the last time.
        if self.waiters_word().load(SeqCst) > 0 {
            futex::wake(value, futex::Flags::empty(), MAX_VALUE).ok();
        }
        Ok(())
    }

    /// Takes one away, if there is one (`sem_trywait`).
    #[must_use]
    pub fn try_wait(&self) -> bool {
        let lower = |value: u32| value.checked_sub(1);
        self.value_word()
            .fetch_update(SeqCst, SeqCst, lower)
            .is_ok()
    }

    /// Takes one away, and waits for it if there is none (`sem_wait`, `sem_timedwait`). Signals do not
    /// end it.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`]
    pub fn wait(&self, timeout: Timeout) -> Result<(), WaitError> {
        if self.try_wait() {
            return Ok(());
        }
        // A time that is too long for the clock is as good as none.
        let deadline = timeout.duration();
        let deadline = deadline.and_then(|wait| Instant::now().checked_add(wait));
        let waiters = self.waiters_word();
        waiters.fetch_add(1, SeqCst);
        let waited = self.wait_until(deadline);
        waiters.fetch_sub(1, SeqCst);
        waited
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        loop {
            if self.try_wait() {
                return Ok(());
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(WaitError::TimedOut);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let word = self.value_word();
            match futex::wait(word, futex::Flags::empty(), 0, left.as_ref()) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                Err(errno) => return Err(WaitError::System(errno.into())),
            }
        }
    }

    /// The value at the moment (`sem_getvalue`): how often it could be waited for. A member that writes
    /// to the memory of the semaphore by itself can make it anything.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.value_word().load(Relaxed)
    }

    fn value_word(&self) -> &AtomicU32 {
        self.word(semaphore::VALUE)
    }

    fn waiters_word(&self) -> &AtomicU32 {
        self.word(semaphore::WAITERS)
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        let word = self.memory.word(index * size_of::<u32>());
        word.expect("the length was compared with that of a semaphore")
    }
}

/// Takes a name away (`sem_unlink`). Who has the semaphore keeps it; the name is free.
///
/// # Errors
///
/// Those of [`Semaphore::open`].
pub fn unlink(bootstrap: &Bootstrap, name: &ObjectName) -> Result<(), BootstrapError> {
    named::unlink(bootstrap, KIND, name)
}

/// The semaphores that have a name and may be known to this program, in the order of the names. They
/// have no size.
///
/// # Errors
///
/// [`BootstrapError`]
pub fn list(bootstrap: &Bootstrap) -> Result<Vec<ObjectInfo>, BootstrapError> {
    named::list(bootstrap, KIND)
}

/// A semaphore cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refuses it, or cannot be asked.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The memory that was handed out cannot be used.
    #[error("the memory of the semaphore cannot be used")]
    System(#[from] io::Error),
}

/// The value of a semaphore is as high as it can be, [`MAX_VALUE`] or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the value of the semaphore is as high as it can be")]
pub struct Overflow;

/// Nothing was taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Nobody has posted in time.
    #[error("nobody has posted in time")]
    TimedOut,
    /// The kernel cannot wait.
    #[error("cannot wait for the semaphore")]
    System(#[source] io::Error),
}
