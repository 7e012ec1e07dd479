//! What the bootstrap server's answers say of jobs.
//!
//! In the bytes, the fields of each struct stand in the order in which they are declared here, with
//! the types that their documentation names. Integers are little-endian; a *string* is as in
//! [`bootstrap`](crate::bootstrap), a *list* is the number of its items as a `u32` and then the
//! items, and what is *optional* is a `u8`, 0 or 1, followed by the value if it is 1. A process
//! that need not be there is a `u32`, 0 for none.

use std::fmt;
use std::io;

use crate::bootstrap::{DecodeError, ServiceStatus};
use crate::bounded::Text;
use crate::cursor::Cursor;
use crate::field::{
    put_bool, put_list, put_optional, put_pid, put_string, take_bool, take_label, take_list,
    take_name, take_optional, take_pid, take_text,
};
use crate::label::JobLabel;
use crate::name::ServiceName;
use crate::signal::Signal;

/// The longest job file, in bytes.
pub const MAX_JOB_BYTES: usize = 256 << 10;

/// The most jobs of a server.
pub const MAX_JOBS: usize = 65_536;

/// The most starts of one job that are remembered.
pub const MAX_STARTS: usize = 8;

/// The most items in one answer to [`Jobs`](crate::bootstrap::Operation::Jobs) or
/// [`Blame`](crate::bootstrap::Operation::Blame).
pub const MAX_PAGE: usize = 1024;

/// The most services, and the most sockets, of one job. No job file of [`MAX_JOB_BYTES`] has more.
pub const MAX_JOB_SERVICES: usize = 65_536;

/// The longest path, in bytes; a longer one is cut.
pub const MAX_PATH_BYTES: usize = 4096;

/// The longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 4096;

/// The longest reason of a start, and the longest description of a socket or of what a job may do,
/// in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// What a job does at the moment.
///
/// Each state is documented with its number, a `u8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// 0: nothing runs, and something will start it.
    Idle,
    /// 1: nothing runs, and nothing starts it.
    Disabled,
    /// 2: it is to be started when the jobs are ready that it waits for.
    Waiting,
    /// 3: its program is being executed.
    Starting,
    /// 4: it runs.
    Running,
    /// 5: it was told to end.
    Stopping,
    /// 6: it failed, and is started again after a while.
    Throttled,
    /// 7: it failed again and again. It is tried seldom, or when somebody says so.
    Failed,
}

impl JobState {
    const ALL: [Self; 8] = [
        Self::Idle,
        Self::Disabled,
        Self::Waiting,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Throttled,
        Self::Failed,
    ];

    /// The number.
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The state of a number.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownState`] above 7.
    pub fn from_raw(value: u8) -> Result<Self, DecodeError> {
        let state = Self::ALL.get(usize::from(value)).copied();
        state.ok_or(DecodeError::UnknownState { value })
    }

    /// A word for people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Disabled => "disabled",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the last instance of a job ended.
///
/// Each kind is documented with its number, a `u8`, and its value follows that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LastExit {
    /// 0: none has.
    None,
    /// 1: it exited; the status, `i32`.
    Status(i32),
    /// 2: a signal ended it; `u32`.
    Signal(Signal),
    /// 3: it could not be executed.
    NotStarted {
        /// `i32`. The kernel's error number; 0 if `path` is the whole reason.
        errno: i32,
        /// String. The program, or why it was not even tried.
        path: Text<MAX_PATH_BYTES>,
    },
    /// 4: it ended while nobody looked.
    Unknown,
}

impl LastExit {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.push(0),
            Self::Status(status) => {
                out.push(1);
                out.extend(status.to_le_bytes());
            }
            Self::Signal(signal) => {
                out.push(2);
                out.extend(signal.0.to_le_bytes());
            }
            Self::NotStarted { errno, path } => {
                out.push(3);
                out.extend(errno.to_le_bytes());
                put_string(out, path);
            }
            Self::Unknown => out.push(4),
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(match cursor.u8()? {
            0 => Self::None,
            1 => Self::Status(cursor.i32()?),
            2 => Self::Signal(Signal(cursor.u32()?)),
            3 => Self::NotStarted {
                errno: cursor.i32()?,
                path: take_text(cursor)?,
            },
            4 => Self::Unknown,
            value => return Err(DecodeError::UnknownExit { value }),
        })
    }
}

impl fmt::Display for LastExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("it has not run"),
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "ended by {signal}"),
            Self::NotStarted { errno: 0, path } => path.fmt(f),
            Self::NotStarted { errno, path } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "cannot execute {path}: {error}")
            }
            Self::Unknown => f.write_str("ended, and nobody saw how"),
        }
    }
}

/// A job in the answer to [`Jobs`](crate::bootstrap::Operation::Jobs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    /// String.
    pub label: JobLabel,
    /// `u8`.
    pub state: JobState,
    /// The process of the instance that runs.
    pub pid: Option<u32>,
    /// `u8` and its value.
    pub last_exit: LastExit,
}

impl JobSummary {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, self.label.as_str());
        out.push(self.state.raw());
        put_pid(out, self.pid);
        self.last_exit.encode(out);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            label: take_label(cursor)?,
            state: JobState::from_raw(cursor.u8()?)?,
            pid: take_pid(cursor)?,
            last_exit: LastExit::decode(cursor)?,
        })
    }
}

/// Why and when a job was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// String. What led to it, such as a message to one of its services.
    pub reason: Text<MAX_REASON_BYTES>,
    /// The process that asked for it, if one did.
    pub by: Option<u32>,
    /// `u64`. Milliseconds since then.
    pub ms_ago: u64,
}

impl Start {
    fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, &self.reason);
        put_pid(out, self.by);
        out.extend(self.ms_ago.to_le_bytes());
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            reason: take_text(cursor)?,
            by: take_pid(cursor)?,
            ms_ago: cursor.u64()?,
        })
    }
}

/// A start in the answer to [`Blame`](crate::bootstrap::Operation::Blame).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// String. The job that was started.
    pub label: JobLabel,
    /// Why and when.
    pub start: Start,
}

impl Blame {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, self.label.as_str());
        self.start.encode(out);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            label: take_label(cursor)?,
            start: Start::decode(cursor)?,
        })
    }
}

/// A service of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobService {
    /// String.
    pub name: ServiceName,
    /// `u32`. [`ServiceStatus::Active`] once an instance has checked it in,
    /// [`ServiceStatus::OnDemand`] while a message would start one, and
    /// [`ServiceStatus::Inactive`] when nothing would.
    pub status: ServiceStatus,
    /// `u32`. Messages that wait at the server for an instance to check in: as many as it could
    /// count, and at least 1 if there are any.
    pub queued: u32,
    /// `u8`, 0 or 1. Whether the instance that runs has checked it in.
    pub checked_in: bool,
}

impl JobService {
    fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, self.name.as_str());
        out.extend(self.status.raw().to_le_bytes());
        out.extend(self.queued.to_le_bytes());
        put_bool(out, self.checked_in);
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: take_name(cursor)?,
            status: ServiceStatus::from_raw(cursor.u32()?)?,
            queued: cursor.u32()?,
            checked_in: take_bool(cursor)?,
        })
    }
}

/// All that is known of a job: the answer to [`Job`](crate::bootstrap::Operation::Job).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The fields of that, one after the other.
    pub summary: JobSummary,
    /// String. The job file that it was loaded from, as the one who loaded it named it.
    pub path: Text<MAX_PATH_BYTES>,
    /// `u32`. Instances that have been started since it was loaded.
    pub runs: u32,
    /// `u32`. Failed runs since the last that did not fail.
    pub failures: u32,
    /// Optional `u64`. Milliseconds until it is started or tried again, if that is certain.
    pub next_start_ms: Option<u64>,
    /// Optional. The start of the last instance.
    pub started: Option<Start>,
    /// List.
    pub services: Vec<JobService>,
    /// List of strings. The sockets that it inherits, each with its address.
    pub sockets: Vec<Text<MAX_REASON_BYTES>>,
    /// String. The file with its output; empty if that goes elsewhere.
    pub log: Text<MAX_PATH_BYTES>,
    /// String. What binds it, such as its entitlements; empty if nothing does.
    pub confinement: Text<MAX_REASON_BYTES>,
    /// String. What else there is to say, such as why it failed and what to do; may be empty.
    pub note: Text<MAX_NOTE_BYTES>,
}

impl JobStatus {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.summary.encode(out);
        put_string(out, &self.path);
        out.extend(self.runs.to_le_bytes());
        out.extend(self.failures.to_le_bytes());
        put_optional(out, self.next_start_ms.as_ref(), |ms, out| {
            out.extend(ms.to_le_bytes());
        });
        put_optional(out, self.started.as_ref(), Start::encode);
        let most = MAX_JOB_SERVICES as u32;
        put_list(out, &self.services, most, JobService::encode);
        put_list(out, &self.sockets, most, |text, out| put_string(out, text));
        put_string(out, &self.log);
        put_string(out, &self.confinement);
        put_string(out, &self.note);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let most = MAX_JOB_SERVICES as u32;
        Ok(Self {
            summary: JobSummary::decode(cursor)?,
            path: take_text(cursor)?,
            runs: cursor.u32()?,
            failures: cursor.u32()?,
            next_start_ms: take_optional(cursor, |cursor| Ok(cursor.u64()?))?,
            started: take_optional(cursor, Start::decode)?,
            services: take_list(cursor, most, JobService::decode)?,
            sockets: take_list(cursor, most, take_text)?,
            log: take_text(cursor)?,
            confinement: take_text(cursor)?,
            note: take_text(cursor)?,
        })
    }
}
