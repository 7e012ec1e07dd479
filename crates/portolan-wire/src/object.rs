//! What the members of an application group share by name, besides ports: memory and semaphores.

use std::sync::Arc;

use crate::bootstrap::DecodeError;
use crate::cursor::Cursor;
use crate::field::{put_bool, put_string, take_bool, take_string};
use crate::group::{GroupError, GroupId};
use crate::text::name_traits;

/// The name of shared memory or of a semaphore: `<group>/<name>`, as on macOS.
///
/// The part behind the slash is not empty and has no other slash and no NUL. In all there are at
/// most 255 bytes, where macOS has 31.
///
/// ```
/// use portolan_wire::object::{ObjectName, ObjectNameError};
///
/// let name = ObjectName::try_from("group.com.example/frames")?;
/// assert_eq!((name.group(), name.rest()), ("group.com.example", "frames"));
///
/// assert_eq!(ObjectName::try_from("group.com.example.frames"), Err(ObjectNameError::NoSlash));
/// assert_eq!(ObjectName::try_from("group.a/"), Err(ObjectNameError::Empty));
/// assert_eq!(ObjectName::try_from("group.a/b/c"), Err(ObjectNameError::Character { at: 9 }));
/// assert_eq!(ObjectName::try_from("group.a/b\0"), Err(ObjectNameError::Character { at: 9 }));
/// assert!(matches!(ObjectName::try_from("/b"), Err(ObjectNameError::Group(_))));
/// assert_eq!(ObjectName::from_bytes(b"group.a/\xff"), Err(ObjectNameError::NotUtf8 { at: 8 }));
/// assert_eq!(
///     ObjectName::try_from(format!("group.a/{}", "x".repeat(248)).as_str()),
///     Err(ObjectNameError::TooLong { len: 256 })
/// );
/// # Ok::<(), ObjectNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks bytes that arrived from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`ObjectNameError`]; of several faults, the first in its order is reported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ObjectNameError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ObjectNameError::TooLong { len: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| ObjectNameError::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        let (group, rest) = text.split_once('/').ok_or(ObjectNameError::NoSlash)?;
        GroupId::try_from(group)?;
        if rest.is_empty() {
            return Err(ObjectNameError::Empty);
        }
        if let Some(at) = rest.bytes().position(|byte| byte == b'/' || byte == 0) {
            let at = group.len() + 1 + at;
            return Err(ObjectNameError::Character { at });
        }
        Ok(Self(text.into()))
    }

    /// The id of the group.
    pub fn group(&self) -> &str {
        self.parts().0
    }

    /// What is behind the slash.
    pub fn rest(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

name_traits!(ObjectName, ObjectNameError);

/// Why some text is not an [`ObjectName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectNameError {
    /// It is longer than [`ObjectName::MAX_BYTES`].
    #[error(
        "a name of shared memory or of a semaphore has at most {max} bytes, this one has {len}",
        max = ObjectName::MAX_BYTES
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It is not UTF-8.
    #[error("a name must be UTF-8 (invalid from byte {at})")]
    NotUtf8 {
        /// Where the first invalid byte is, in bytes from the start.
        at: usize,
    },
    /// It has no slash.
    #[error("a name of shared memory or of a semaphore is `<group>/<name>`")]
    NoSlash,
    /// What is before the slash is not the id of a group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// There is nothing behind the slash.
    #[error("there is no name behind the group's id and the slash")]
    Empty,
    /// There is a second slash, or a NUL.
    #[error("a name cannot contain a second slash or NUL (byte {at})")]
    Character {
        /// Where the first one is, in bytes from the start.
        at: usize,
    },
}

/// What a name is the name of. Each kind has names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ObjectKind {
    /// 1: memory.
    Memory,
    /// 2: a semaphore.
    Semaphore,
}

impl ObjectKind {
    /// The number.
    pub const fn raw(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Semaphore => 2,
        }
    }

    /// The kind of a number.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownKind`] for other numbers than 1 and 2.
    pub const fn from_raw(raw: u8) -> Result<Self, DecodeError> {
        match raw {
            1 => Ok(Self::Memory),
            2 => Ok(Self::Semaphore),
            value => Err(DecodeError::UnknownKind { value }),
        }
    }
}

/// How an object is made, if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creation {
    /// `u8`, 0 or 1. Whether it must not be there already.
    pub exclusive: bool,
    /// `u64`. The bytes of memory, or the value of a semaphore.
    pub value: u64,
}

impl Creation {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bool(out, self.exclusive);
        out.extend(self.value.to_le_bytes());
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            exclusive: take_bool(cursor)?,
            value: cursor.u64()?,
        })
    }
}

/// An object in the answer to [`Operation::Objects`](crate::bootstrap::Operation::Objects).
///
/// In the bytes, the fields stand in the order in which they are declared here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// `u64`. The bytes of memory; 0 for a semaphore.
    pub size: u64,
    /// String.
    pub name: ObjectName,
}

impl ObjectInfo {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.size.to_le_bytes());
        put_string(out, self.name.as_str());
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            size: cursor.u64()?,
            name: take_object(cursor)?,
        })
    }
}

pub(crate) fn take_object(cursor: &mut Cursor<'_>) -> Result<ObjectName, DecodeError> {
    const {
        assert!(ObjectName::MAX_BYTES <= u16::MAX as usize);
    }
    Ok(ObjectName::from_bytes(take_string(cursor)?)?)
}

/// The words of a semaphore's memory, each a `u32` in the order of the machine's bytes, for no other
/// machine sees them.
pub mod semaphore {
    /// How many posts nobody has waited for.
    pub const VALUE: usize = 0;
    /// How many wait. Too many after one of them was killed, which costs a system call for each post.
    pub const WAITERS: usize = 1;
    /// The bytes of the memory.
    pub const BYTES: usize = 2 * size_of::<u32>();
    /// The highest value, `SEM_VALUE_MAX` of Linux.
    pub const MAX_VALUE: u32 = i32::MAX as u32;
}
