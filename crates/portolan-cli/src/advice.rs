//! What to do about an error that does not say it itself.

use portolan::bootstrap::{BootstrapError, ConnectError};
use portolan::{BootstrapCode, ReplyError, RequestError};
use portoland::log::ReadError;

/// What to do.
pub(crate) fn on(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|error| {
        let refused = error.downcast_ref().and_then(on_refusal);
        let unanswered = || error.downcast_ref().and_then(on_silence);
        let unreachable = || error.downcast_ref().and_then(on_no_server);
        let no_log = || error.downcast_ref().and_then(on_no_log);
        refused
            .or_else(unanswered)
            .or_else(unreachable)
            .or_else(no_log)
    })
}

fn on_silence(error: &RequestError) -> Option<&'static str> {
    match error {
        RequestError::Reply(ReplyError::TimedOut) => Some(
            "`portolan status` tells whether anybody serves the name, and `portolan jobs` and \
             `portolan print` what became of the job that is to",
        ),
        _ => None,
    }
}

fn on_no_server(error: &ConnectError) -> Option<&'static str> {
    match error {
        ConnectError::NoServer { .. } => Some(
            "`portolan bootstrap` runs one; without PORTOLAN_AUTOSTART=0, whoever asks first \
             starts one, but for `restart` and `shutdown`",
        ),
        _ => None,
    }
}

fn on_no_log(error: &ReadError) -> Option<&'static str> {
    match error {
        ReadError::NoLog { .. } => Some(
            "the job has written nothing yet, or to a file of its own, or is not loaded: `portolan \
             print` tells",
        ),
        _ => None,
    }
}

fn on_refusal(error: &BootstrapError) -> Option<&'static str> {
    match error {
        BootstrapError::Refused(code) => on_code(*code),
        // What the server says of these does not say what to do.
        BootstrapError::Explained { code, .. } => match *code {
            BootstrapCode::JOB_NOT_FOUND
            | BootstrapCode::JOB_DISABLED
            | BootstrapCode::JOB_NOT_RUNNING => on_code(*code),
            _ => None,
        },
        _ => None,
    }
}

fn on_code(code: BootstrapCode) -> Option<&'static str> {
    match code {
        BootstrapCode::JOB_NOT_FOUND => Some("`portolan jobs` lists the jobs that are loaded"),
        BootstrapCode::JOB_LOADED => Some("`portolan unload` it first to load it anew"),
        BootstrapCode::BAD_JOB_FILE => Some("`portolan job lint` says what is wrong with it"),
        BootstrapCode::JOB_DISABLED => Some("`portolan enable` lets it be started again"),
        BootstrapCode::JOB_NOT_RUNNING => Some("`portolan print` tells how it ended"),
        BootstrapCode::BAD_OPERATION => Some(
            "the server is older than this command; `portolan shutdown` ends it, and the next \
             command starts a new one",
        ),
        _ => None,
    }
}
