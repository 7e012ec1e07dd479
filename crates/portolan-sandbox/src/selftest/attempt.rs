//! An attempt to get out, what should come of it, and what has.

use std::io;

use rustix::io::Errno;

use super::errno;
use super::outside::Outside;
use crate::profile::Tier;

/// An attempt to get out, or something that must work inside.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// A word for it, without spaces.
    pub name: &'static str,
    /// What is attempted.
    pub what: &'static str,
    /// What the program is granted beside its own container.
    pub granted: Granted,
    /// The statement of docs/reference/statements.md that it is about.
    pub statement: u8,
    pub(super) t1: Want,
    pub(super) t2: Want,
    pub(super) control: Control,
    pub(super) run: Run,
}

pub(super) type Run = fn(&Outside) -> Result<(), Refusal>;

/// What a program is granted beside its own container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Granted {
    /// Nothing.
    Nothing,
    /// An application group.
    Group,
    /// `com.apple.security.network.client`
    Client,
    /// `com.apple.security.network.server`
    Server,
    /// A directory with programs of others.
    Programs,
    /// Nothing, but it is started in a terminal.
    Terminal,
}

/// What should come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It fails.
    Refused,
    /// It succeeds, and tells what is known and documented, and nothing more.
    Leak,
    /// It may succeed, because it reaches nobody.
    Harmless,
    /// It succeeds.
    Works,
}

/// How it is made outside, where it should succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// As the user.
    User,
    /// As the user, and then as root.
    Root,
    /// Not at all: it would harm others.
    None,
}

impl Attempt {
    pub(super) const fn new(
        statement: u8,
        name: &'static str,
        what: &'static str,
        run: Run,
    ) -> Self {
        Self {
            name,
            what,
            granted: Granted::Nothing,
            statement,
            t1: Want::Refused,
            t2: Want::Refused,
            control: Control::User,
            run,
        }
    }

    pub(super) const fn want(mut self, t1: Want, t2: Want) -> Self {
        (self.t1, self.t2) = (t1, t2);
        self
    }

    pub(super) const fn works(self) -> Self {
        self.want(Want::Works, Want::Works)
    }

    pub(super) const fn leaks(self) -> Self {
        self.want(Want::Leak, Want::Refused)
    }

    pub(super) const fn control(mut self, control: Control) -> Self {
        self.control = control;
        self
    }

    pub(super) const fn granted(mut self, granted: Granted) -> Self {
        self.granted = granted;
        self
    }

    /// What should come of it in a tier.
    #[must_use]
    pub fn wanted(&self, tier: Tier) -> Want {
        match tier {
            Tier::T1 => self.t1,
            Tier::T2 => self.t2,
        }
    }
}

/// Why an attempt did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The kernel said so.
    Errno(Errno),
    /// The kernel said nothing, and nothing came of it.
    Nothing,
    /// There is nothing here to attempt it on.
    Absent,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::Nothing, Self::Errno)
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It succeeded.
    Out,
    /// The kernel refused it.
    Refused(Errno),
    /// Nothing came of it.
    Nothing,
    /// There is nothing on this machine to attempt it on.
    Absent,
    /// The process was killed for it, by this signal.
    Killed(i32),
    /// It took longer than ten seconds, and was ended.
    Hung,
    /// It was not made, as its process or the launcher said.
    Lost(String),
}

impl Outcome {
    /// What a process that made an attempt has to say.
    pub(super) fn of(result: Result<(), Refusal>) -> Self {
        match result {
            Ok(()) => Self::Out,
            Err(Refusal::Errno(errno)) => Self::Refused(errno),
            Err(Refusal::Nothing) => Self::Nothing,
            Err(Refusal::Absent) => Self::Absent,
        }
    }

    /// As [`Display`](std::fmt::Display) writes those that a process can tell of itself.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text.trim_end() {
            "out" => Some(Self::Out),
            "nothing" => Some(Self::Nothing),
            "absent" => Some(Self::Absent),
            name => errno::by_name(name).map(Self::Refused),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Out => f.pad("out"),
            Self::Refused(errno) => f.pad(&errno::name(*errno)),
            Self::Nothing => f.pad("nothing"),
            Self::Absent => f.pad("absent"),
            Self::Killed(31) => f.pad("SIGSYS"),
            Self::Killed(number) => f.pad(&format!("signal{number}")),
            Self::Hung => f.pad("hung"),
            Self::Lost(_) => f.pad("lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_as_they_are_written() {
        for outcome in [
            Outcome::Out,
            Outcome::Nothing,
            Outcome::Absent,
            Outcome::Refused(Errno::PERM),
            Outcome::Refused(Errno::from_raw_os_error(4000)),
        ] {
            assert_eq!(Outcome::read(&format!("{outcome}\n")), Some(outcome));
        }
        assert_eq!(Outcome::read("SIGSYS"), None);
    }
}
