//! Text for people, of bounded length.

use std::fmt;
use std::ops::Deref;

/// UTF-8 of at most `MAX` bytes, which is read by people and not compared with anything.
///
/// Text that is made here is cut where it is too long; text that arrives too long is refused.
/// Control characters are legal in it: whoever shows it to a terminal escapes them.
///
/// ```
/// use portolan_wire::bounded::Text;
///
/// assert_eq!(&*Text::<8>::from("short"), "short");
/// assert_eq!(&*Text::<8>::from("a long one"), "a lon…");
/// assert_eq!(&*Text::<8>::from("grüüüße"), "grü…");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Text<const MAX: usize>(String);

/// What stands for the part that was cut off.
const CUT: &str = "…";

impl<const MAX: usize> Text<MAX> {
    /// A length is sent as a `u16`, and the mark of a cut must fit.
    const BOUNDS: () = assert!(CUT.len() <= MAX && MAX <= u16::MAX as usize);

    /// Checks bytes that arrived from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`TextError`]; of several faults, the first in its order is reported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > MAX {
            let len = bytes.len();
            return Err(TextError::TooLong { len, max: MAX });
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self(text.to_owned())),
            Err(error) => Err(TextError::NotUtf8 {
                at: error.valid_up_to(),
            }),
        }
    }
}

impl<const MAX: usize> From<String> for Text<MAX> {
    fn from(mut text: String) -> Self {
        let () = Self::BOUNDS;
        if text.len() > MAX {
            text.truncate(text.floor_char_boundary(MAX - CUT.len()));
            text.push_str(CUT);
        }
        Self(text)
    }
}

impl<const MAX: usize> From<&str> for Text<MAX> {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why bytes are not a [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// There are more than it may have.
    #[error("a text of {len} bytes where {max} are the most")]
    TooLong {
        /// Bytes there are.
        len: usize,
        /// Bytes there may be.
        max: usize,
    },
    /// They are not UTF-8.
    #[error("a text must be UTF-8 (invalid from byte {at})")]
    NotUtf8 {
        /// Where the first invalid byte is, in bytes from the start.
        at: usize,
    },
}
