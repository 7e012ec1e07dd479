//! Why a job was not started.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use portolan_sandbox::probe::{Missing, ProbeError};
use portolan_sandbox::profile::ProfileError;
use portolan_sys::spawn::SpawnError;
use rustix::io::Errno;
use thiserror::Error;

/// A job was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// No directory of the job's `PATH` has an executable file with this name.
    #[error("no program {} in {}", name.display(), path.display())]
    NotInPath {
        /// What was looked for.
        name: PathBuf,
        /// The value of `PATH`.
        path: OsString,
    },
    /// The program could not be executed: it is missing, or may not be executed, for example.
    #[error("cannot execute {}", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is a script, and what is to run it is missing.
    #[error("cannot execute {}: its interpreter {} is missing", program.display(), interpreter.display())]
    Interpreter {
        /// The script.
        program: PathBuf,
        /// The interpreter that its first line names.
        interpreter: PathBuf,
    },
    /// `WorkingDirectory` could not be entered.
    #[error("cannot enter the working directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file for standard input, output or errors could not be opened.
    #[error("cannot open {}", path.display())]
    StandardFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no user with the name that `UserName` gives.
    #[error("there is no user {name}: UserName has to be in /etc/passwd")]
    NoUser {
        /// The name.
        name: String,
    },
    /// There is no group with the name that `GroupName` gives.
    #[error("there is no group {name}: GroupName has to be in /etc/group")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The list of users or that of groups could not be read.
    #[error("cannot read {}", path.display())]
    Accounts {
        /// The list.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A text of the job, or of the server's environment, has a NUL in it.
    #[error("a NUL in {text:?}")]
    Nul {
        /// The text.
        text: OsString,
    },
    /// The cgroup of the instance could not be made or entered.
    #[error("cannot use the cgroup {}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server has no descriptors left for what the job inherits.
    #[error("cannot make its bootstrap right")]
    Bootstrap,
    /// It has entitlements and would be root's.
    #[error("a program of root's is not confined: the job needs a UserName")]
    Root,
    /// The tier that it is to be confined in is not there.
    #[error(transparent)]
    Tier(#[from] Missing),
    /// It is not known which tiers there are, or there is nothing to confine it with.
    #[error("cannot find out how to confine it")]
    Probe(#[from] ProbeError),
    /// What its entitlements name cannot be granted.
    #[error("cannot make its profile")]
    Profile(#[from] ProfileError),
    /// There is no memory for its profile, or no launcher, or no home for its container.
    #[error("cannot make its container")]
    Container(#[source] io::Error),
    /// Anything else that is done on the way to the program failed.
    #[error("cannot start {}", program.display())]
    Process {
        /// The program.
        program: PathBuf,
        /// What failed.
        source: SpawnError,
    },
}

impl StartError {
    /// The kernel's number for the reason; that for something that does not exist or is not valid
    /// if the kernel was not asked.
    #[must_use]
    pub fn errno(&self) -> Errno {
        let source = match self {
            Self::NotInPath { .. }
            | Self::Interpreter { .. }
            | Self::NoUser { .. }
            | Self::NoGroup { .. }
            | Self::Probe(_) => return Errno::NOENT,
            Self::Nul { .. } | Self::Profile(_) => return Errno::INVAL,
            Self::Root => return Errno::PERM,
            Self::Tier(missing) => return missing.errno,
            Self::Bootstrap => return Errno::MFILE,
            Self::Exec { source, .. }
            | Self::Directory { source, .. }
            | Self::StandardFile { source, .. }
            | Self::Accounts { source, .. }
            | Self::Container(source)
            | Self::Cgroup { source, .. } => source,
            Self::Process { source, .. } => &source.source,
        };
        Errno::from_io_error(source).unwrap_or(Errno::IO)
    }

    /// The file or directory that it is about, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::NotInPath { name: path, .. }
            | Self::Exec { program: path, .. }
            // The program itself is there.
            | Self::Interpreter {
                interpreter: path, ..
            }
            | Self::Directory { path, .. }
            | Self::StandardFile { path, .. }
            | Self::Accounts { path, .. }
            | Self::Cgroup { path, .. }
            | Self::Process { program: path, .. } => Some(path),
            Self::NoUser { .. }
            | Self::NoGroup { .. }
            | Self::Nul { .. }
            | Self::Bootstrap
            | Self::Root
            | Self::Tier(_)
            | Self::Probe(_)
            | Self::Profile(_)
            | Self::Container(_) => None,
        }
    }

    /// Whether the program could not be executed; otherwise something that the job needs is missing.
    #[must_use]
    pub fn is_of_program(&self) -> bool {
        matches!(self, Self::Exec { .. })
    }

    /// The whole reason in one line: this error and those behind it.
    #[must_use]
    pub fn reason(&self) -> String {
        let mut reason = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        reason
    }
}
