//! Exit codes, for scripts.

use portolan::bootstrap::{BootstrapError, ConnectError};
use portolan::defaults::SetError;
use portolan::{BootstrapCode, ReplyError, RequestError, SendError, SendErrorKind};

/// For `portolan help` and the man page.
pub(crate) const HELP: &str = "\
Exit codes:
    0  success
    1  anything that has no code of its own; `portolan sandbox check`: the program may not
    2  the command line is wrong, or a name is not valid
    3  no service has the name (bootstrap code 1102), no job the label (1200), or no value the key
    4  the name may not be used: permission denied (1100)
    5  it took longer than the time-out
    6  the service died or dropped the request without an answer
    7  no bootstrap server is there and none could be started
    8  the message is larger than 64 MiB
    9  the name is in use by this program (1103)
   10  the job is loaded already (1201), disabled (1203) or not running (1204)
   11  the job could not be started (1206)
   78  an entitlement or job file is missing or wrong
  126  the program cannot be executed
  127  the program does not exist";

/// Anything that has no code of its own.
const OTHER: u8 = 1;

/// The command line is wrong.
const USAGE: u8 = 2;

/// Nothing has the name.
const NOT_FOUND: u8 = 3;

/// An entitlement or job file is missing or wrong (`EX_CONFIG`).
const CONFIGURATION: u8 = 78;

/// A failure whose exit code is known where it happens.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Coded {}

/// An entitlement or job file is missing or wrong (`EX_CONFIG`).
pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> anyhow::Error {
    Coded {
        code: CONFIGURATION,
        error: error.into(),
    }
    .into()
}

/// The command line is wrong in a way that its parser does not see.
pub(crate) fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let (code, error) = (USAGE, error.into());
    Coded { code, error }.into()
}

/// There is no such thing.
pub(crate) fn not_found(error: anyhow::Error) -> anyhow::Error {
    let code = NOT_FOUND;
    Coded { code, error }.into()
}

/// A program could not be executed, with the codes of a shell.
pub(crate) fn not_executed(program: &std::ffi::OsStr, error: std::io::Error) -> anyhow::Error {
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    let error = anyhow::Error::new(error).context(format!("cannot execute {}", program.display()));
    Coded { code, error }.into()
}

/// The exit code that says why.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(OTHER)
}

fn known(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(coded) = error.downcast_ref::<Coded>() {
        return Some(coded.code);
    }
    if let Some(error) = error.downcast_ref::<BootstrapError>() {
        return match error.code()? {
            BootstrapCode::UNKNOWN_SERVICE | BootstrapCode::JOB_NOT_FOUND => Some(NOT_FOUND),
            BootstrapCode::NOT_PRIVILEGED => Some(4),
            BootstrapCode::SERVICE_ACTIVE => Some(9),
            BootstrapCode::JOB_LOADED
            | BootstrapCode::JOB_DISABLED
            | BootstrapCode::JOB_NOT_RUNNING => Some(10),
            BootstrapCode::START_FAILED => Some(11),
            BootstrapCode::BAD_JOB_FILE => Some(CONFIGURATION),
            _ => None,
        };
    }
    if let Some(SetError::Busy) = error.downcast_ref() {
        return Some(5);
    }
    if error.is::<ConnectError>() {
        return Some(7);
    }
    if let Some(error) = error.downcast_ref::<RequestError>() {
        return match error {
            RequestError::Send(error) => send(error),
            RequestError::Reply(error) => reply(error),
        };
    }
    error.downcast_ref::<SendError>().and_then(send)
}

fn send(error: &SendError) -> Option<u8> {
    match error.kind() {
        SendErrorKind::TimedOut => Some(5),
        SendErrorKind::DeadName => Some(6),
        SendErrorKind::TooLarge { .. } => Some(8),
        _ => None,
    }
}

fn reply(error: &ReplyError) -> Option<u8> {
    match error {
        ReplyError::TimedOut => Some(5),
        ReplyError::NoReply | ReplyError::DeadName | ReplyError::Failed(_) => Some(6),
        _ => None,
    }
}
