//! What to do about an error that does not say it itself.

use portolan::BootstrapCode;
use portolan::bootstrap::BootstrapError;

/// What to do, for an answer of the server that is a mere code.
pub(crate) fn on(error: &anyhow::Error) -> Option<&'static str> {
    let refused = error.chain().find_map(|error| error.downcast_ref());
    let Some(BootstrapError::Refused(code)) = refused else {
        return None;
    };
    match *code {
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
