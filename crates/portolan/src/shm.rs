//! Memory that the members of an application group share by name, after `shm_open`.
//!
//! ```
//! use portolan::bootstrap::Bootstrap;
//! use portolan::shm::{self, SharedMemory};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bootstrap = Bootstrap::private()?;
//! let name = "group.org.example/frames".parse()?;
//! let memory = SharedMemory::create(&bootstrap, &name, 1 << 20)?;
//! memory.map()?.write(0, b"hello");
//!
//! let elsewhere = SharedMemory::open(&bootstrap, &name)?.map()?;
//! let mut read = [0; 5];
//! elsewhere.read(0, &mut read);
//! assert_eq!(&read, b"hello");
//!
//! shm::unlink(&bootstrap, &name)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from POSIX
//!
//! * Names are `<group>/<name>`, and for the members of the group alone; for a program that is not
//!   confined, they are of any group of its user.
//! * The size is given when the memory is made and is final. Memory is taken page by page when
//!   somebody writes to it, and not before.
//! * A name lasts until it is unlinked or the bootstrap server is told to end, whatever becomes of the
//!   programs. It outlives a restart of the server, and `kill -9`.
//! * There is a limit for how much has a name ([`BootstrapCode::NO_MEMORY`]).
//! * There are no permissions: whoever can open it can write to it.
//!
//! [`BootstrapCode::NO_MEMORY`]: crate::BootstrapCode::NO_MEMORY

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portolan_wire::object::{Creation, ObjectKind};
use thiserror::Error;

use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::named;

pub use portolan_port::SharedMapping;
pub use portolan_wire::object::{ObjectInfo, ObjectName, ObjectNameError};

const KIND: ObjectKind = ObjectKind::Memory;

/// Memory that has, or had, a name. It is there as long as it has one, is open, or is mapped.
///
/// The descriptor ([`AsFd`]) is that of a memfd, close-on-exec, which neither shrinks nor grows. No other
/// member's flags or file position are the same.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    len: u64,
    is_new: bool,
}

impl SharedMemory {
    /// Opens memory that is there.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this program is confined and no member of the group,
    /// whether there is such memory or not; [`BootstrapCode::UNKNOWN_SERVICE`] (1102) if there is none.
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`]: crate::BootstrapCode::NOT_PRIVILEGED
    /// [`BootstrapCode::UNKNOWN_SERVICE`]: crate::BootstrapCode::UNKNOWN_SERVICE
    pub fn open(bootstrap: &Bootstrap, name: &ObjectName) -> Result<Self, OpenError> {
        Self::ask(bootstrap, name, None)
    }

    /// Opens memory of `len` bytes, and makes it if it is not there; then all bytes are 0.
    ///
    /// # Errors
    ///
    /// [`OpenError::OtherLength`] if it is there and is of another length. Beyond the limits of the
    /// server [`BootstrapCode::NO_MEMORY`] (1105), for a length of 0 `BAD_ARGUMENTS`, and 1100 as for
    /// [`open`](Self::open).
    ///
    /// [`BootstrapCode::NO_MEMORY`]: crate::BootstrapCode::NO_MEMORY
    pub fn create(bootstrap: &Bootstrap, name: &ObjectName, len: u64) -> Result<Self, OpenError> {
        let creation = Creation {
            exclusive: false,
            value: len,
        };
        let memory = Self::ask(bootstrap, name, Some(creation))?;
        match memory.len {
            found if found == len => Ok(memory),
            found => Err(OpenError::OtherLength { len: found }),
        }
    }

    /// Makes memory of `len` bytes, all 0.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NAME_IN_USE`] (1101) if there is memory of this name, and those of
    /// [`create`](Self::create).
    ///
    /// [`BootstrapCode::NAME_IN_USE`]: crate::BootstrapCode::NAME_IN_USE
    pub fn create_new(
        bootstrap: &Bootstrap,
        name: &ObjectName,
        len: u64,
    ) -> Result<Self, OpenError> {
        let creation = Creation {
            exclusive: true,
            value: len,
        };
        Self::ask(bootstrap, name, Some(creation))
    }

    fn ask(
        bootstrap: &Bootstrap,
        name: &ObjectName,
        create: Option<Creation>,
    ) -> Result<Self, OpenError> {
        let (file, is_new) = named::open(bootstrap, KIND, name, create)?;
        let size = rustix::fs::fstat(&file).map_err(io::Error::from)?.st_size;
        let len = u64::try_from(size).unwrap_or(0);
        Ok(Self { file, len, is_new })
    }

    /// How many bytes there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether this call made it. It may be open elsewhere by now all the same.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Maps all of it, to read and to write.
    ///
    /// # Errors
    ///
    /// What mmap(2) says.
    pub fn map(&self) -> io::Result<SharedMapping> {
        SharedMapping::new(&self.file)
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<SharedMemory> for OwnedFd {
    fn from(memory: SharedMemory) -> Self {
        memory.file
    }
}

/// Takes a name away (`shm_unlink`). Who has the memory keeps it; the name is free.
///
/// # Errors
///
/// Those of [`SharedMemory::open`].
pub fn unlink(bootstrap: &Bootstrap, name: &ObjectName) -> Result<(), BootstrapError> {
    named::unlink(bootstrap, KIND, name)
}

/// The memory that has a name and may be known to this program, in the order of the names.
///
/// # Errors
///
/// [`BootstrapError`]
pub fn list(bootstrap: &Bootstrap) -> Result<Vec<ObjectInfo>, BootstrapError> {
    named::list(bootstrap, KIND)
}

/// Shared memory cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refuses it, or cannot be asked.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// It is there, and not of the length that was asked for.
    #[error("it is there already, with {len} bytes")]
    OtherLength {
        /// Its length.
        len: u64,
    },
    /// The memory that was handed out cannot be used.
    #[error("the memory cannot be used")]
    System(#[from] io::Error),
}
