//! Why a request was refused, and why a job was not started.

use std::fmt;
use std::io;

use crate::bootstrap::DecodeError;
use crate::bounded::Text;
use crate::code::BootstrapCode;
use crate::cursor::Cursor;
use crate::field::{expect_end, put_string, take_label, take_text};
use crate::label::JobLabel;
use crate::signal::Signal;

/// The longest text that comes with a refusal, in bytes.
pub const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// The bytes of an answer whose code is not [`BootstrapCode::SUCCESS`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// All bytes: what is wrong, where, and what to do about it. May be empty, and then the code
    /// says everything.
    Text(Text<MAX_REFUSAL_BYTES>),
    /// With [`BootstrapCode::START_FAILED`], and only with that.
    Start(StartFailure),
}

impl Refusal {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Start(failure) => failure.encode(),
        }
    }

    /// Reads what came with a code.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. The code is as good without it.
    pub fn decode(code: BootstrapCode, bytes: &[u8]) -> Result<Self, DecodeError> {
        match code {
            BootstrapCode::START_FAILED => StartFailure::decode(bytes).map(Self::Start),
            _ => Ok(Self::Text(Text::from_bytes(bytes)?)),
        }
    }

    /// Whether it says nothing beyond the code.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Start(failure) => failure.fmt(f),
        }
    }
}

/// Why a job did not serve whoever waited for it.
///
/// It is told to the callers of the job's services in place of an answer, and to whoever asked for
/// the start. In the bytes, the fields stand in the order in which they are declared here.
///
/// ```
/// use portolan_wire::failure::{FailureKind, StartFailure};
///
/// let failure = StartFailure {
///     label: "org.example.server".parse()?,
///     kind: FailureKind::Exec { errno: 2, path: "/opt/server".into() },
///     text: "it is tried again when the file is there".into(),
/// };
/// assert_eq!(
///     failure.to_string(),
///     "job org.example.server cannot execute /opt/server: No such file or directory (os error 2); \
///      it is tried again when the file is there"
/// );
/// assert_eq!(StartFailure::decode(&failure.encode()), Ok(failure));
/// # Ok::<(), portolan_wire::label::LabelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// String. The job.
    pub label: JobLabel,
    /// `u8` and what belongs to it.
    pub kind: FailureKind,
    /// String. What else there is to say, such as what to do; may be empty.
    pub text: Text<{ StartFailure::MAX_TEXT_BYTES }>,
}

/// How a job failed.
///
/// Each kind is documented with its number, and its fields with their types in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// 1: the program could not be executed.
    Exec {
        /// `i32`. The kernel's error number; 0 if `path` is the whole reason.
        errno: i32,
        /// String. The program, or why it was not even tried.
        path: Text<{ StartFailure::MAX_PATH_BYTES }>,
    },
    /// 2: it exited before it answered.
    Exited {
        /// `i32`. The exit status.
        status: i32,
    },
    /// 3: a signal ended it before it answered.
    Signalled {
        /// `u32`.
        signal: Signal,
    },
    /// 4: it failed before, and is not started again yet.
    Throttled {
        /// `u64`. Milliseconds until it is.
        ms: u64,
    },
    /// 5: it runs, and has not asked for the service's receive right in time.
    NotCheckedIn {
        /// `u64`. Milliseconds that it had.
        ms: u64,
    },
    /// 6: it is disabled.
    Disabled,
    /// 7: it was unloaded while the message waited.
    Unloaded,
    /// 8: each instance that read the message crashed.
    SetAside,
}

impl StartFailure {
    /// The most bytes of an encoded failure, which is to fit wherever an answer would go.
    pub const MAX_BYTES: usize = 1 << 10;
    /// The longest path, in bytes; a longer one is cut.
    pub const MAX_PATH_BYTES: usize = 512;
    /// The longest text, in bytes.
    pub const MAX_TEXT_BYTES: usize = 320;

    /// The bytes, no more than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn encode(&self) -> Vec<u8> {
        const {
            let strings = JobLabel::MAX_BYTES + Self::MAX_PATH_BYTES + Self::MAX_TEXT_BYTES;
            assert!(strings + 3 * 2 + 1 + 4 <= Self::MAX_BYTES);
        }
        let mut out = Vec::new();
        put_string(&mut out, self.label.as_str());
        self.kind.encode(&mut out);
        put_string(&mut out, &self.text);
        out
    }

    /// Reads a failure.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let failure = Self {
            label: take_label(&mut cursor)?,
            kind: FailureKind::decode(&mut cursor)?,
            text: take_text(&mut cursor)?,
        };
        expect_end(&cursor)?;
        Ok(failure)
    }
}

impl FailureKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.number());
        match self {
            Self::Exec { errno, path } => {
                out.extend(errno.to_le_bytes());
                put_string(out, path);
            }
            Self::Exited { status } => out.extend(status.to_le_bytes()),
            Self::Signalled { signal } => out.extend(signal.0.to_le_bytes()),
            Self::Throttled { ms } | Self::NotCheckedIn { ms } => out.extend(ms.to_le_bytes()),
            Self::Disabled | Self::Unloaded | Self::SetAside => {}
        }
    }

    const fn number(&self) -> u8 {
        match self {
            Self::Exec { .. } => 1,
            Self::Exited { .. } => 2,
            Self::Signalled { .. } => 3,
            Self::Throttled { .. } => 4,
            Self::NotCheckedIn { .. } => 5,
            Self::Disabled => 6,
            Self::Unloaded => 7,
            Self::SetAside => 8,
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(match cursor.u8()? {
            1 => Self::Exec {
                errno: cursor.i32()?,
                path: take_text(cursor)?,
            },
            2 => Self::Exited {
                status: cursor.i32()?,
            },
            3 => Self::Signalled {
                signal: Signal(cursor.u32()?),
            },
            4 => Self::Throttled { ms: cursor.u64()? },
            5 => Self::NotCheckedIn { ms: cursor.u64()? },
            6 => Self::Disabled,
            7 => Self::Unloaded,
            8 => Self::SetAside,
            value => return Err(DecodeError::UnknownFailure { value }),
        })
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, kind, text } = self;
        match kind {
            FailureKind::Exec { errno: 0, path } => {
                write!(f, "job {label} cannot be started: {path}")
            }
            FailureKind::Exec { errno, path } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "job {label} cannot execute {path}: {error}")
            }
            FailureKind::Exited { status } => write!(f, "job {label} exited with status {status}"),
            FailureKind::Signalled { signal } => write!(f, "job {label} was ended by {signal}"),
            FailureKind::Throttled { ms } => {
                let due = seconds(*ms);
                write!(f, "job {label} failed and is not started again for {due} s")
            }
            FailureKind::NotCheckedIn { ms } => {
                let limit = seconds(*ms);
                write!(f, "job {label} runs and did not check in within {limit} s")
            }
            FailureKind::Disabled => write!(f, "job {label} is disabled"),
            FailureKind::Unloaded => write!(f, "job {label} was unloaded"),
            FailureKind::SetAside => {
                write!(f, "job {label} crashed each time it read this message")
            }
        }?;
        match &**text {
            "" => Ok(()),
            text => write!(f, "; {text}"),
        }
    }
}

impl std::error::Error for StartFailure {}

fn seconds(ms: u64) -> impl fmt::Display {
    std::fmt::from_fn(move |f| write!(f, "{}.{}", ms / 1000, ms % 1000 / 100))
}
