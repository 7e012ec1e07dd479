//! Why a job did not serve somebody, in the form in which callers are told.

use portolan_wire::failure::{FailureKind, StartFailure};
use portolan_wire::label::JobLabel;
use portolan_wire::signal::Signal;

use crate::supervisor::{Exit, Failure};

/// What callers are told.
pub(super) fn to_callers(label: &JobLabel, failure: &Failure, advice: &str) -> StartFailure {
    let kind = match failure {
        Failure::Start(start) => FailureKind::Exec {
            errno: start.errno.raw_os_error(),
            path: start.path.to_string_lossy().into_owned().into(),
        },
        Failure::Ended(Exit::Status(status)) => FailureKind::Exited {
            status: i32::from(*status),
        },
        Failure::Ended(Exit::Signal(signal)) => FailureKind::Signalled {
            signal: Signal(u32::from(*signal)),
        },
        Failure::Ended(Exit::Unknown) | Failure::LeftUnread => FailureKind::Exited { status: 0 },
        Failure::NotCheckedIn => FailureKind::NotCheckedIn { ms: 0 },
        Failure::Disabled => FailureKind::Disabled,
        Failure::Requires(_) => FailureKind::Throttled { ms: 0 },
    };
    let text = match failure {
        Failure::LeftUnread | Failure::Requires(_) => format!("{failure}; {advice}"),
        _ => advice.to_owned(),
    };
    StartFailure {
        label: label.clone(),
        kind,
        text: text.into(),
    }
}

pub(super) fn set_aside(label: &JobLabel) -> StartFailure {
    StartFailure {
        label: label.clone(),
        kind: FailureKind::SetAside,
        text: "the next message is served".into(),
    }
}
