//! Why a job did not serve somebody, in the form in which callers are told.

use portolan_wire::failure::{FailureKind, StartFailure};
use portolan_wire::label::JobLabel;
use portolan_wire::signal::Signal;

use super::status::millis;
use crate::job::Job;
use crate::supervisor::{self, Exit, Failure};

/// What callers are told.
pub(super) fn to_callers(job: &Job, failure: &Failure, advice: &str) -> StartFailure {
    let kind = match failure {
        Failure::Start(start) => {
            let (errno, path) = said_of(start);
            FailureKind::Exec {
                errno,
                path: path.into(),
            }
        }
        Failure::Ended(Exit::Status(status)) => FailureKind::Exited {
            status: i32::from(*status),
        },
        Failure::Ended(Exit::Signal(signal)) => FailureKind::Signalled {
            signal: Signal(u32::from(*signal)),
        },
        Failure::Ended(Exit::Unknown) | Failure::LeftUnread => FailureKind::Exited { status: 0 },
        Failure::NotCheckedIn => FailureKind::NotCheckedIn {
            ms: millis(job.check_in_time().unwrap_or_default()),
        },
        Failure::Disabled => FailureKind::Disabled,
        Failure::Requires(_) => FailureKind::Throttled { ms: 0 },
    };
    let text = match failure {
        Failure::LeftUnread | Failure::Requires(_) => format!("{failure}; {advice}"),
        _ => advice.to_owned(),
    };
    StartFailure {
        label: job.label.clone(),
        kind,
        text: text.into(),
    }
}

/// The kernel's error number and of what it said so, or 0 and the whole reason.
pub(super) fn said_of(failure: &supervisor::StartFailure) -> (i32, String) {
    match &failure.other {
        Some(reason) => (0, reason.clone()),
        None => {
            let path = failure.path.to_string_lossy().into_owned();
            (failure.errno.raw_os_error(), path)
        }
    }
}

pub(super) fn set_aside(label: &JobLabel) -> StartFailure {
    StartFailure {
        label: label.clone(),
        kind: FailureKind::SetAside,
        text: "the next message is served".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Reading;

    #[test]
    fn who_waits_is_told_how_long_the_job_had() {
        for (key, limit) in [("TimeOut = 3", 3000), ("", 30_000)] {
            let file = format!("Label = 'a'\nProgram = '/bin/a'\n{key}");
            let job = Reading::of(file.as_bytes()).job.expect("a job");
            let told = to_callers(&job, &Failure::NotCheckedIn, "");
            assert_eq!(told.kind, FailureKind::NotCheckedIn { ms: limit });
        }
    }
}
