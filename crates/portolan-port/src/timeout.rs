//! How long an operation may wait.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// How long an operation may wait for something that is not there yet.
///
/// Mach's `MACH_SEND_TIMEOUT` and `MACH_RCV_TIMEOUT` with their argument: no time-out, zero to
/// poll, or a duration. Signals do not stretch it.
///
/// ```
/// use portolan_port::Timeout;
/// use std::time::Duration;
///
/// assert_eq!(Timeout::after(Duration::ZERO), Timeout::POLL);
/// assert_eq!(Timeout::from(Duration::from_secs(5)), Timeout::after(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(Option<Duration>);

impl Timeout {
    /// Wait until it happens or cannot happen any more.
    pub const NEVER: Self = Self(None);
    /// Do not wait.
    pub const POLL: Self = Self(Some(Duration::ZERO));

    /// Wait at most this long.
    #[must_use]
    pub const fn after(duration: Duration) -> Self {
        Self(Some(duration))
    }

    /// How long it is; nothing if it does not end.
    #[must_use]
    pub const fn duration(self) -> Option<Duration> {
        self.0
    }

    #[inline]
    pub(crate) fn deadline(self) -> Deadline {
        match self.0 {
            None => Deadline::Never,
            Some(Duration::ZERO) => Deadline::Passed,
            // A duration too long for the clock is as good as none.
            Some(wait) => Instant::now()
                .checked_add(wait)
                .map_or(Deadline::Never, Deadline::At),
        }
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Self::after(duration)
    }
}

/// A [`Timeout`] from the moment it began to run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    Never,
    Passed,
    At(Instant),
}

impl Deadline {
    /// What is left of it: `None` for ever.
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Passed => Some(Duration::ZERO),
            Self::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
        }
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// For the system calls that wait.
    pub(crate) fn timespec(self) -> Option<Timespec> {
        self.remaining().map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        })
    }
}
