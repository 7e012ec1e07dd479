//! Names under which services are published.

use std::sync::Arc;

use crate::text::name_traits;

/// The name of a service: 1 to 127 bytes of UTF-8 without NUL, compared byte by byte.
///
/// The length is that of Mach's `name_t` (128 bytes with its terminator). Apple's client stub cuts
/// a longer name short without a word, so that two different names can meet; here a longer name
/// is refused.
///
/// Control characters are legal in a name. Whoever prints one into a line of a log or a table
/// escapes it, for which `Debug` (quoted, escaped) serves.
///
/// ```
/// use portolan_wire::name::{NameError, ServiceName};
///
/// let name = ServiceName::try_from("group.com.example.server")?;
/// assert_eq!(name.as_str(), "group.com.example.server");
/// assert!(ServiceName::try_from("E030B15B-3EC6-4A21-A415-668AD0CB1B52").is_ok());
/// assert!(ServiceName::try_from("a").is_ok());
/// assert!(ServiceName::try_from("dienst für alle").is_ok());
/// assert!(ServiceName::try_from("x".repeat(127).as_str()).is_ok());
///
/// assert_eq!(ServiceName::try_from(""), Err(NameError::Empty));
/// assert_eq!(
///     ServiceName::try_from("x".repeat(128).as_str()),
///     Err(NameError::TooLong { len: 128 })
/// );
/// assert_eq!(ServiceName::try_from("a\0b"), Err(NameError::Nul { at: 1 }));
/// assert_eq!(ServiceName::from_bytes(b"ab\xff"), Err(NameError::NotUtf8 { at: 2 }));
/// # Ok::<(), NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 127;

    /// Checks bytes that arrived from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`NameError`]; of several faults, the first in its order is reported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong { len: bytes.len() });
        }
        if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
            return Err(NameError::Nul { at });
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self(text.into())),
            Err(error) => Err(NameError::NotUtf8 {
                at: error.valid_up_to(),
            }),
        }
    }
}

name_traits!(ServiceName, NameError);

/// Why some text is not a [`ServiceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is nothing in it.
    #[error("a service name cannot be empty")]
    Empty,
    /// It is longer than [`ServiceName::MAX_BYTES`].
    #[error(
        "a service name has at most {max} bytes, this one has {len}",
        max = ServiceName::MAX_BYTES
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It contains a NUL.
    #[error("a service name cannot contain NUL (byte {at})")]
    Nul {
        /// Where the first one is, in bytes from the start.
        at: usize,
    },
    /// It is not UTF-8.
    #[error("a service name must be UTF-8 (invalid from byte {at})")]
    NotUtf8 {
        /// Where the first invalid byte is, in bytes from the start.
        at: usize,
    },
}
