//! Labels of jobs.

use std::sync::Arc;

use crate::text::name_traits;

/// The label of a job: 1 to 127 bytes of UTF-8 without control characters.
///
/// A label stands in lines of logs and tables, which is why it cannot break one, and the names
/// `<label>` and `<label>.…` belong to the job, which is why it is no longer than a name.
///
/// ```
/// use portolan_wire::label::{JobLabel, LabelError};
///
/// assert!(JobLabel::try_from("com.example.server").is_ok());
/// assert!(JobLabel::try_from("server 2").is_ok());
///
/// assert_eq!(JobLabel::try_from(""), Err(LabelError::Empty));
/// assert_eq!(JobLabel::try_from("a\nb"), Err(LabelError::Control { at: 1 }));
/// assert_eq!(
///     JobLabel::try_from("x".repeat(128).as_str()),
///     Err(LabelError::TooLong { len: 128 })
/// );
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobLabel(Arc<str>);

impl JobLabel {
    /// The longest label, in bytes.
    pub const MAX_BYTES: usize = 127;

    /// Checks bytes that arrived from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`LabelError`]; of several faults, the first in its order is reported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LabelError> {
        if bytes.is_empty() {
            return Err(LabelError::Empty);
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(LabelError::TooLong { len: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| LabelError::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        match text.find(char::is_control) {
            None => Ok(Self(text.into())),
            Some(at) => Err(LabelError::Control { at }),
        }
    }
}

name_traits!(JobLabel, LabelError);

/// Why some text is not a [`JobLabel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// There is nothing in it.
    #[error("a label cannot be empty")]
    Empty,
    /// It is longer than [`JobLabel::MAX_BYTES`].
    #[error("a label has at most {max} bytes, this one has {len}", max = JobLabel::MAX_BYTES)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It is not UTF-8.
    #[error("a label must be UTF-8 (invalid from byte {at})")]
    NotUtf8 {
        /// Where the first invalid byte is, in bytes from the start.
        at: usize,
    },
    /// It contains a control character, such as a newline.
    #[error("a label cannot contain control characters (byte {at})")]
    Control {
        /// Where the first one is, in bytes from the start.
        at: usize,
    },
}
