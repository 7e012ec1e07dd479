//! How runs of a job begin and end, in the words in which users are told.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use rustix::io::Errno;
use rustix::process::Signal;
use thiserror::Error;

use super::calendar::Civil;

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Exit {
    /// By itself, with this status.
    #[error("it exited with status {0}")]
    Status(u8),
    /// By a signal, with this number.
    #[error("signal {0} ended it")]
    Signal(u8),
    /// It is gone, and nobody knows how: it was started by a server that is gone as well.
    #[error("it ended, and how is not known")]
    Unknown,
}

impl Exit {
    pub(super) fn is_failure(self) -> bool {
        !matches!(self, Self::Status(0) | Self::Unknown)
    }

    /// Whether a signal that tells of a fault ended it: those of launchd.
    #[must_use]
    pub fn is_crash(self) -> bool {
        const FAULTS: [Signal; 7] = [
            Signal::ILL,
            Signal::ABORT,
            Signal::FPE,
            Signal::BUS,
            Signal::SEGV,
            Signal::SYS,
            Signal::TRAP,
        ];
        match self {
            Self::Signal(number) => FAULTS
                .iter()
                .any(|fault| fault.as_raw() == i32::from(number)),
            Self::Status(_) | Self::Unknown => false,
        }
    }
}

/// Why a program could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct StartFailure {
    /// What the kernel said.
    pub errno: Errno,
    /// Of what it said so: the program, or another file that its job names.
    pub path: PathBuf,
    /// The whole reason, unless it is that the program could not be executed.
    pub other: Option<String>,
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.other {
            Some(reason) => f.write_str(reason),
            None => {
                let errno = io::Error::from(self.errno);
                write!(f, "cannot execute {}: {errno}", self.path.display())
            }
        }
    }
}

/// Why nobody serves what a caller waits for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// The program could not be started.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// The last run ended so.
    #[error(transparent)]
    Ended(#[from] Exit),
    /// The last run ended well, and left messages that it should have received.
    #[error("it ended without having received what waits for it")]
    LeftUnread,
    /// An instance did not check in its services within `TimeOut`.
    #[error("it did not check in its services in time")]
    NotCheckedIn,
    /// The job is disabled.
    #[error("it is disabled")]
    Disabled,
    /// A job that it requires is not loaded, is disabled, or has failed itself.
    #[error("it requires {0}, which is not to be had")]
    Requires(JobLabel),
}

/// Who or what asked for a start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The job was loaded.
    RunAtLoad,
    /// `KeepAlive` holds.
    KeepAlive,
    /// A message at the service.
    Demand(ServiceName),
    /// A connection or a datagram at the socket with this key.
    Socket(String),
    /// The path has changed, or the directory is not empty.
    Path(PathBuf),
    /// `StartInterval` is over.
    Interval,
    /// A time of `StartCalendarInterval` has come.
    Calendar,
    /// The user, through the process with this id.
    Kickstart(u32),
    /// The job that requires this one.
    Required(JobLabel),
    /// The program could not be started the last time.
    Retry,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobState {
    /// Nothing starts it.
    Disabled,
    /// Nothing asks for it.
    Idle,
    /// It is to be started, and waits for another job.
    Waiting {
        /// Which.
        label: JobLabel,
    },
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It has been told to end, or has said that it will.
    Stopping,
    /// It is to be started, and not before this time.
    Throttled {
        /// When.
        due: Duration,
    },
    /// Too many runs in a row failed, or a job that it requires has failed.
    Failed {
        /// Why.
        failure: Failure,
        /// When it is tried again by itself; nothing if that is up to the other job.
        probe: Option<Duration>,
    },
}

/// A job as `portolan print` shows it. Times are since the start of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// What it is called.
    pub label: JobLabel,
    /// What it does.
    pub state: JobState,
    /// The process of the instance that runs.
    pub pid: Option<u32>,
    /// How the last instance ended.
    pub last_exit: Option<Exit>,
    /// Why the last run failed, if it did.
    pub last_failure: Option<Failure>,
    /// How often it was started, or that was tried.
    pub runs: u64,
    /// How many runs in a row have failed.
    pub failures_in_a_row: u32,
    /// When it is started next, as far as that is known.
    pub next_start: Option<Duration>,
    /// When it is started next by the calendar.
    pub next_calendar: Option<Civil>,
    /// Who asked for the last start.
    pub asked: Option<Reason>,
    /// When the instance that runs was started.
    pub started_at: Option<Duration>,
    /// Services that nobody has checked in.
    pub not_checked_in: Vec<ServiceName>,
}

/// What was asked of a job, and is not done yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// To be started because it was loaded, for the first time or once more.
    pub run_at_load: bool,
    /// To be started by the user, who asked through this process.
    pub kickstart: Option<u32>,
    /// To end.
    pub stop: bool,
    /// To be forgotten.
    pub unload: bool,
}
