//! What is wrong with a job file, and where.

use std::fmt;

use portolan_sandbox::document::{DocumentError, Format, Item, Position, Source};
use portolan_sandbox::{EntitlementsError, Reason};
use portolan_wire::label::LabelError;
use portolan_wire::name::NameError;
use thiserror::Error;

/// The most errors, and the most warnings, that are told of one file.
pub const MAX_FINDINGS: usize = 100;

/// Something that was found in a file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finding<T> {
    /// Where; a binary property list has no positions.
    pub at: Option<Position>,
    /// The key, below those that it stands under: `KeepAlive.Crashed`. Empty for the whole file.
    pub key: String,
    /// What was found.
    pub what: T,
}

/// The key and what was found, without the position.
impl<T: fmt::Display> fmt::Display for Finding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.what.fmt(f)
    }
}

/// Why a file is no job, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JobError {
    /// Not in any of the formats.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no such key.
    #[error("unknown key, {}", Advice(*nearest))]
    UnknownKey {
        /// The key that it is probably meant to be.
        nearest: Option<&'static str>,
    },
    /// There is no such key, and it may be part of the name above it, which TOML has taken apart.
    #[error("unknown key; if it is part of a name, write the name in quotes")]
    UnquotedName,
    /// A key has two values.
    #[error("there twice, keep one of them")]
    Repeated,
    /// There is no label.
    #[error("missing, give the job a label that no other has")]
    NoLabel,
    /// There is nothing to run.
    #[error("missing, give Program or ProgramArguments")]
    NoProgram,
    /// The value is of another type.
    #[error("must be {expected}")]
    WrongType {
        /// What it must be.
        expected: &'static str,
    },
    /// A number is too small or too large.
    #[error("must be from {min} to {max}")]
    OutOfRange {
        /// The smallest.
        min: i128,
        /// The largest.
        max: i128,
    },
    /// The value is none of those that there are.
    #[error("must be one of {}", known.join(", "))]
    UnknownWord {
        /// Those that there are.
        known: Vec<&'static str>,
    },
    /// A text has a NUL in it.
    #[error("has a NUL in it, which no program can be given")]
    Nul,
    /// A path or a name that is empty.
    #[error("must not be empty, take it out or fill it in")]
    Empty,
    /// Not a label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// Not the name of a service.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not the name of an environment variable.
    #[error("cannot be the name of a variable, which has no = in it")]
    Variable,
    /// A socket without an address, or with two.
    #[error("must have one of SockServiceName and SockPathName")]
    SocketAddress,
    /// A protocol that the type of the socket does not have.
    #[error("is not the protocol of this SockType, take it out")]
    SocketProtocol,
    /// A soft limit that is above the hard one.
    #[error("above the hard limit of {hard}, lower it")]
    AboveHardLimit {
        /// The hard limit.
        hard: u64,
    },
    /// A job that waits for itself.
    #[error("a job cannot wait for itself, take its label out")]
    WaitsForItself,
    /// `com.apple.security.inherit`.
    #[error("com.apple.security.inherit is for what a confined program starts, take it out")]
    InheritedSandbox,
    /// What is wrong with the entitlements.
    #[error(transparent)]
    Entitlements(#[from] EntitlementsError),
}

struct Advice(Option<&'static str>);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "did you mean {key}?"),
            None => f.write_str("take it out"),
        }
    }
}

/// What has another effect than it would have under launchd, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Warning {
    /// A key of launchd that means nothing here.
    #[error("has no meaning on Linux and is ignored")]
    NoMeaning,
    /// A key of launchd that could mean something, but does not here.
    #[error("is not supported and is ignored; the job must do without it")]
    NotSupported,
    /// Capital and small letters are not as in the key.
    #[error("is read as {key}, write it so")]
    Spelling {
        /// The key.
        key: &'static str,
    },
    /// A key that another one has replaced.
    #[error("is obsolete; write KeepAlive = {keep_alive} in its place")]
    OnDemand {
        /// The value of the other key that says the same.
        keep_alive: bool,
    },
    /// `false`, which does not keep the name from being served.
    #[error("the name is served although the value is false; take it out if it is not to be")]
    FalseService,
    /// A socket that has only what is not supported.
    #[error("the socket is left out; give it SockPathName or SockServiceName")]
    SocketLeftOut,
    /// An entitlement that asks for something that it does not get.
    #[error("{key} {reason}")]
    Entitlement {
        /// The entitlement.
        key: &'static str,
        /// Where it is.
        at: Option<Position>,
        /// Why it has no effect.
        reason: Reason,
    },
    /// What is refused to a job is to be reported, and nothing is.
    #[error("has no effect without com.apple.security.app-sandbox among the Entitlements")]
    NothingRefused,
    /// A key of a socket in the file system for one in the network, or the other way round.
    #[error("means nothing for this kind of socket, take it out")]
    OtherKindOfSocket,
}

/// A key in a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    key: String,
    offset: Option<usize>,
}

impl Place {
    /// A key that is missing in a document.
    pub(super) fn missing(source: &Source, key: &str) -> Self {
        let has_text = source.format != Format::Binary;
        Self {
            key: key.to_owned(),
            offset: has_text.then_some(0),
        }
    }

    /// A key below this one. One with a dot in it is quoted, as in TOML.
    pub(super) fn below(&self, item: &Item) -> Self {
        let dot = if self.key.is_empty() { "" } else { "." };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        let key = match !item.key.is_empty() && item.key.chars().all(plain) {
            true => format!("{}{dot}{}", self.key, item.key),
            false => format!("{}{dot}{:?}", self.key, item.key),
        };
        let offset = item.offset;
        Self { key, offset }
    }
}

/// Collects what is found in one document.
pub(super) struct Log<'a> {
    pub(super) source: &'a Source,
    errors: Vec<(Place, JobError)>,
    warnings: Vec<(Place, Warning)>,
}

impl<'a> Log<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self {
            source,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, place: &Place, error: impl Into<JobError>) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push((place.clone(), error.into()));
        }
    }

    pub(super) fn warn(&mut self, place: &Place, warning: Warning) {
        if self.warnings.len() < MAX_FINDINGS {
            self.warnings.push((place.clone(), warning));
        }
    }

    /// Both in the order of the document.
    pub(super) fn finish(self) -> (Vec<Finding<JobError>>, Vec<Finding<Warning>>) {
        let mut errors = findings(self.errors, self.source);
        for Finding { at, what, .. } in &mut errors {
            if let JobError::Entitlements(error) = what {
                *at = error.position().or(*at);
            }
        }
        let mut warnings = findings(self.warnings, self.source);
        for Finding { at, what, .. } in &mut warnings {
            if let Warning::Entitlement { at: own, .. } = what {
                *at = own.or(*at);
            }
        }
        (errors, warnings)
    }
}

fn findings<T>(found: Vec<(Place, T)>, source: &Source) -> Vec<Finding<T>> {
    let findings = found.into_iter().map(|(place, what)| Finding {
        at: place.offset.map(|offset| source.position(offset)),
        key: place.key,
        what,
    });
    let mut findings: Vec<_> = findings.collect();
    findings.sort_by_key(|finding| finding.at);
    findings
}
