//! Application groups.

use std::sync::Arc;

use crate::text::name_traits;

/// The id of an application group: `group.<name>` or `<team>.<name>`.
///
/// At most 126 bytes, so that the shortest name of the group, its id and a period, is still a
/// service name; letters, digits, `-` and `_` of ASCII in two or more parts with single periods
/// between them, so that an id is also the name of a directory and nothing else.
///
/// ```
/// use portolan_wire::group::{GroupError, GroupId};
///
/// assert!(GroupId::try_from("group.com.example").is_ok());
/// assert!(GroupId::try_from("A1B2C3D4E5.com.example.suite").is_ok());
///
/// assert_eq!(GroupId::try_from(""), Err(GroupError::Empty));
/// assert_eq!(GroupId::try_from("group"), Err(GroupError::OnePart));
/// assert_eq!(GroupId::try_from("group.a."), Err(GroupError::EmptyPart { at: 8 }));
/// assert_eq!(GroupId::try_from("group..a"), Err(GroupError::EmptyPart { at: 6 }));
/// assert_eq!(GroupId::try_from("group.a/b"), Err(GroupError::Character { at: 7 }));
/// assert_eq!(
///     GroupId::try_from(format!("group.{}", "x".repeat(121)).as_str()),
///     Err(GroupError::TooLong { len: 127 })
/// );
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 126;

    /// Checks bytes that arrived from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`GroupError`]; of several faults, the first in its order is reported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GroupError> {
        if bytes.is_empty() {
            return Err(GroupError::Empty);
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(GroupError::TooLong { len: bytes.len() });
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if let Some(at) = bytes.iter().position(|&byte| !legal(byte)) {
            return Err(GroupError::Character { at });
        }
        let text = String::from_utf8_lossy(bytes);
        if let Some(at) = empty_part(&text) {
            return Err(GroupError::EmptyPart { at });
        }
        if !text.contains('.') {
            return Err(GroupError::OnePart);
        }
        Ok(Self(text.into()))
    }

    /// Whether `name` belongs to the group: it begins with the id and a period.
    ///
    /// What follows the period may be empty, as in the prefix rule of Apple's `application.sb`.
    ///
    /// ```
    /// # use portolan_wire::group::GroupId;
    /// let group = GroupId::try_from("group.a")?;
    /// assert!(group.contains("group.a.x"));
    /// assert!(group.contains("group.a.x.y"));
    /// assert!(group.contains("group.a."));
    ///
    /// assert!(!group.contains("group.a"));
    /// assert!(!group.contains("group.ax"));
    /// assert!(!group.contains("other.group.a.x"));
    /// assert!(!group.contains("Group.a.x"));
    /// # Ok::<(), portolan_wire::group::GroupError>(())
    /// ```
    pub fn contains(&self, name: &str) -> bool {
        name.strip_prefix(self.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    }
}

name_traits!(GroupId, GroupError);

/// Why some text is not a [`GroupId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is nothing in it.
    #[error("an application group id cannot be empty")]
    Empty,
    /// It is longer than [`GroupId::MAX_BYTES`].
    #[error(
        "an application group id has at most {max} bytes, this one has {len}",
        max = GroupId::MAX_BYTES
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It contains something else than ASCII letters, digits, `-`, `_` and periods.
    #[error(
        "an application group id has letters, digits, `-`, `_` and periods only (see byte {at})"
    )]
    Character {
        /// Where the first such byte is, in bytes from the start.
        at: usize,
    },
    /// It begins or ends with a period, or has two in a row.
    #[error("an application group id cannot have an empty part (at byte {at})")]
    EmptyPart {
        /// Where the first empty part is, in bytes from the start.
        at: usize,
    },
    /// It has no period.
    #[error("an application group id is `group.<name>` or `<team>.<name>`")]
    OnePart,
}

fn empty_part(text: &str) -> Option<usize> {
    let mut start = 0;
    for part in text.split('.') {
        if part.is_empty() {
            return Some(start);
        }
        start += part.len() + 1;
    }
    None
}
