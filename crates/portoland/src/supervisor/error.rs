//! What is refused, and why.

use std::fmt;

use portolan_wire::label::JobLabel;
use thiserror::Error;

use super::MAX_JOBS;

/// Why a job is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Another job has the label.
    #[error("a job with the label {0} is loaded already")]
    Duplicate(JobLabel),
    /// Each of these jobs waits for the next, by After or Requires, and the last for the first.
    #[error("jobs wait for each other: {}", Arrows(.0))]
    Cycle(Vec<JobLabel>),
    /// There are [`MAX_JOBS`].
    #[error("there are {MAX_JOBS} jobs already")]
    TooMany,
    /// The server ends.
    #[error("the server ends")]
    Ending,
}

struct Arrows<'a>(&'a [JobLabel]);

impl fmt::Display for Arrows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.0 {
            write!(f, "{label} -> ")?;
        }
        self.0.first().map_or(Ok(()), |first| write!(f, "{first}"))
    }
}

/// Why a command of the user has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No job has the label.
    #[error("no job with the label {0} is loaded")]
    NoSuchJob(JobLabel),
    /// It is not started before it is enabled.
    #[error("the job {0} is disabled")]
    Disabled(JobLabel),
    /// It ends, and is forgotten then.
    #[error("the job {0} is being unloaded")]
    Unloading(JobLabel),
}
