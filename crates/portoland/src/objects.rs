//! Which memory and which semaphores have a name: without I/O.
//!
//! Each belongs to an application group of a user, and to whoever is a member. A name stays until it
//! is unlinked, whatever becomes of who made it, as POSIX has it. Objects are numbers here; whoever
//! drives the table keeps what they stand for. Whether the sandbox allows a call comes in as an
//! argument and is looked at before the table is, so that a refusal does not tell whether a name exists.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::fmt;
use std::ops::Bound;

use portolan_wire::code::BootstrapCode;
use portolan_wire::object::{Creation, ObjectInfo, ObjectKind, ObjectName, semaphore};
use thiserror::Error;

use crate::registry::Sandbox;

/// Memory is counted in pages of this size, and a semaphore is one.
pub const PAGE: u64 = 4096;

/// An object. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(pub u64);

/// What an object is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The user whose it is: the groups of others are other groups.
    pub user: u32,
    /// Each kind has names of its own.
    pub kind: ObjectKind,
    /// The name.
    pub name: ObjectName,
}

/// Who shares a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// All objects of a group.
    Group,
    /// All groups of a user.
    User,
    /// All users of the server.
    Server,
}

impl Level {
    const ALL: [Self; 3] = [Self::Group, Self::User, Self::Server];

    /// The most objects.
    #[must_use]
    pub const fn max_objects(self) -> u64 {
        match self {
            Self::Group => 1024,
            Self::User => 4096,
            Self::Server => 16384,
        }
    }

    /// The most bytes, of those that the whole server may give names to.
    #[must_use]
    pub const fn max_bytes(self, capacity: u64) -> u64 {
        match self {
            Self::Group => capacity / 4,
            Self::User => capacity / 2,
            Self::Server => capacity,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "an application group",
            Self::User => "a user",
            Self::Server => "a server",
        })
    }
}

/// Why there is no object for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The sandbox denies it.
    #[error("the sandbox denies it")]
    Denied,
    /// There is none of that name.
    #[error("there is none of that name")]
    Missing,
    /// There is one of that name, and it was to be a new one.
    #[error("there is one of that name already")]
    Exists,
    /// Memory without a byte.
    #[error("memory has at least one byte")]
    Empty,
    /// A semaphore cannot begin so high.
    #[error("the value of a semaphore is at most {max}", max = semaphore::MAX_VALUE)]
    Value,
    /// There are as many as there may be.
    #[error("{level} has at most {max} objects", max = level.max_objects())]
    TooMany {
        /// Of whom.
        level: Level,
    },
    /// There would be more bytes than there may be.
    #[error("the objects of {level} have at most {max} bytes")]
    TooLarge {
        /// Of whom.
        level: Level,
        /// As many as that.
        max: u64,
    },
}

impl ObjectError {
    /// What to answer.
    #[must_use]
    pub const fn code(self) -> BootstrapCode {
        match self {
            Self::Denied => BootstrapCode::NOT_PRIVILEGED,
            Self::Missing => BootstrapCode::UNKNOWN_SERVICE,
            Self::Exists => BootstrapCode::NAME_IN_USE,
            Self::Empty | Self::Value => BootstrapCode::BAD_ARGUMENTS,
            Self::TooMany { .. } | Self::TooLarge { .. } => BootstrapCode::NO_MEMORY,
        }
    }
}

/// The table of objects.
#[derive(Debug)]
pub struct Objects {
    entries: BTreeMap<Named, Entry>,
    usage: HashMap<Account, Usage>,
    capacity: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    object: ObjectKey,
    /// Its bytes, if it is memory.
    size: u64,
}

/// Whose usage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    Group(u32, String),
    User(u32),
    Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    objects: u64,
    bytes: u64,
}

impl Objects {
    /// An empty table, for at most this many bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            usage: HashMap::new(),
            capacity,
        }
    }

    /// Finds an object, or gives the name to `fresh`, which the driver then makes. The answer is
    /// `fresh` only if it is new.
    ///
    /// # Errors
    ///
    /// [`ObjectError`]; nothing has changed.
    pub fn open(
        &mut self,
        named: Named,
        create: Option<Creation>,
        fresh: ObjectKey,
        sandbox: Sandbox,
    ) -> Result<ObjectKey, ObjectError> {
        check(sandbox)?;
        match (self.entries.get(&named), create) {
            (Some(_), Some(creation)) if creation.exclusive => Err(ObjectError::Exists),
            (Some(entry), _) => Ok(entry.object),
            (None, None) => Err(ObjectError::Missing),
            (None, Some(creation)) => {
                let size = size_of_new(named.kind, creation.value)?;
                self.admit(&named, size)?;
                self.insert(named, fresh, size);
                Ok(fresh)
            }
        }
    }

    /// Gives a name to an object that had it before, whatever the limits are now.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Exists`] if another has it.
    pub fn restore(
        &mut self,
        named: Named,
        object: ObjectKey,
        size: u64,
    ) -> Result<(), ObjectError> {
        if self.entries.contains_key(&named) {
            return Err(ObjectError::Exists);
        }
        self.insert(named, object, size);
        Ok(())
    }

    /// Takes a name away. Whoever has the object keeps it.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Denied`] and [`ObjectError::Missing`].
    pub fn unlink(&mut self, named: &Named, sandbox: Sandbox) -> Result<ObjectKey, ObjectError> {
        check(sandbox)?;
        let entry = self.entries.remove(named).ok_or(ObjectError::Missing)?;
        for (_, account) in accounts(named) {
            if let hash_map::Entry::Occupied(mut usage) = self.usage.entry(account) {
                let left = usage.get_mut();
                left.objects -= 1;
                left.bytes -= charge(entry.size);
                if left.objects == 0 {
                    usage.remove();
                }
            }
        }
        Ok(entry.object)
    }

    /// The objects of a user after a name, in the order of their names, for whose groups `visible` says so.
    pub fn list(
        &self,
        user: u32,
        kind: ObjectKind,
        after: Option<ObjectName>,
        visible: impl Fn(&ObjectName) -> bool,
    ) -> impl Iterator<Item = ObjectInfo> {
        let start = match after {
            Some(name) => Bound::Excluded(Named { user, kind, name }),
            None => Bound::Unbounded,
        };
        let entries = self.entries.range((start, Bound::Unbounded));
        let own = entries.filter(move |(named, _)| named.user == user && named.kind == kind);
        let seen = own.filter(move |(named, _)| visible(&named.name));
        seen.map(|(named, entry)| ObjectInfo {
            size: entry.size,
            name: named.name.clone(),
        })
    }

    fn admit(&self, named: &Named, size: u64) -> Result<(), ObjectError> {
        for (level, account) in accounts(named) {
            let usage = self.usage.get(&account).copied().unwrap_or_default();
            if usage.objects >= level.max_objects() {
                return Err(ObjectError::TooMany { level });
            }
            let max = level.max_bytes(self.capacity);
            if usage.bytes.saturating_add(charge(size)) > max {
                return Err(ObjectError::TooLarge { level, max });
            }
        }
        Ok(())
    }

    fn insert(&mut self, named: Named, object: ObjectKey, size: u64) {
        for (_, account) in accounts(&named) {
            let usage = self.usage.entry(account).or_default();
            usage.objects += 1;
            usage.bytes += charge(size);
        }
        self.entries.insert(named, Entry { object, size });
    }
}

fn check(sandbox: Sandbox) -> Result<(), ObjectError> {
    match sandbox {
        Sandbox::Allows => Ok(()),
        Sandbox::Denies => Err(ObjectError::Denied),
    }
}

fn size_of_new(kind: ObjectKind, value: u64) -> Result<u64, ObjectError> {
    match kind {
        ObjectKind::Semaphore if value > semaphore::MAX_VALUE.into() => Err(ObjectError::Value),
        ObjectKind::Semaphore => Ok(0),
        _ if value == 0 => Err(ObjectError::Empty),
        _ => Ok(value),
    }
}

/// What an object counts for: whole pages, and one at least.
fn charge(size: u64) -> u64 {
    size.div_ceil(PAGE).max(1).saturating_mul(PAGE)
}

/// Those on whose account an object is.
fn accounts(named: &Named) -> impl Iterator<Item = (Level, Account)> {
    Level::ALL.into_iter().map(|level| {
        let account = match level {
            Level::Group => Account::Group(named.user, named.name.group().to_owned()),
            Level::User => Account::User(named.user),
            Level::Server => Account::Server,
        };
        (level, account)
    })
}
