//! Why a program was not started, and the exit code that says so.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::places::PlaceError;
use crate::probe::Part;
use crate::profile::{Tier, UnsealError};
use thiserror::Error;

/// A program was not started. Nothing of it has run.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("it is started by portolan and by portoland: portolan-launch NUMBER NAME ARGUMENTS...")]
    Usage,
    #[error("a program of root's is not confined: give the job a UserName")]
    Root,
    #[error("there is no profile")]
    NoProfile(#[source] io::Error),
    #[error("cannot use the profile")]
    Profile(#[from] UnsealError),
    #[error("{tier} needs {part}")]
    Missing {
        tier: Tier,
        part: Part,
        source: io::Error,
    },
    #[error("descriptor {number} is {what}, which would lead out")]
    Leads { number: u32, what: &'static str },
    #[error("cannot hand on the descriptors")]
    Descriptors(#[source] io::Error),
    #[error("cannot make {}", path.display())]
    Container { path: PathBuf, source: io::Error },
    #[error("cannot give up the terminal")]
    Terminal(#[source] io::Error),
    #[error("cannot make the process")]
    Process(#[source] io::Error),
    #[error("cannot grant {}", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Granted(#[from] PlaceError),
    #[error("cannot enter {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot drop privileges")]
    Privileges(#[source] io::Error),
    #[error("cannot have the program's calls looked at")]
    Trace(#[source] io::Error),
    #[error("cannot report what is refused to the program")]
    Report(#[source] io::Error),
    #[error("cannot execute {}", program.display())]
    Exec { program: PathBuf, source: io::Error },
}

impl Failure {
    /// Those of a shell for a program that cannot be executed, else as in `sysexits.h`:
    /// `EX_CONFIG` for what has to be changed on the machine or in a file, `EX_USAGE`, `EX_OSERR`.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            Self::Root | Self::Missing { .. } | Self::Leads { .. } => 78,
            Self::Usage => 64,
            _ => 71,
        })
    }

    /// Says so on standard error, in one line. If that is closed there is nobody to tell.
    pub(crate) fn report(&self) {
        let mut line = format!("portolan-launch: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line.push('\n');
        io::stderr().write_all(line.as_bytes()).ok();
    }
}
