//! What the supervisor asks its driver to do.

use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use thiserror::Error;

use super::outcome::Failure;
use crate::job::Drain;
use crate::registry::JobKey;

/// One thing to do, in the order in which they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Start an instance, and tell by [`started`](super::Supervisor::started) or
    /// [`start_failed`](super::Supervisor::start_failed) what came of it.
    Start(JobKey),
    /// Make the instance end.
    Signal(JobKey, Signal),
    /// The instance's first process has exited: kill what is left of it.
    Sweep(JobKey),
    /// Tell all who wait for a service of the job, with a message queued or by a call, that
    /// they wait in vain. What the driver takes out of a queue to do so, it reports by
    /// [`emptied`](super::Supervisor::emptied).
    TellWaiting(JobKey, Failure),
    /// Report other demand from now on.
    Watch(JobKey, Watch),
    /// Take the first message out of the service's queue and keep it for the user to look at: it
    /// has been first at three crashes in a row. Its sender gets an error.
    SetAside(JobKey, ServiceName),
    /// Drop messages that are queued at the service (`DrainMessagesOnCrash`).
    Drain(JobKey, ServiceName, Drain),
    /// Put a new port in the place of the service's, then close the old one (`ResetAtClose`).
    Reset(JobKey, ServiceName),
    /// Close all ports and sockets of the job.
    CloseServices(JobKey),
    /// The job is not loaded any more. Nothing is asked for it after this.
    Forget(JobKey),
    /// Tell the user.
    Warn(JobKey, Warning),
    /// All instances have ended after [`shut_down`](super::Supervisor::shut_down).
    Done,
}

/// How an instance is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM to its first process.
    Terminate,
    /// SIGKILL to all of its processes.
    Kill,
}

/// Which demand is to be reported. Whatever it says of services holds for those whose receive
/// right the driver has, and changes of `WatchPaths` are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// None.
    Off,
    /// What is there at each service, socket and queue directory, or comes: once each.
    Everything,
    /// What is there at a service, or comes: once each, and again when a right comes back.
    Services,
    /// Each message and connection that comes, not what is there already.
    Arrivals,
}

/// What the user should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Warning {
    /// A service is left out, because another job has its name.
    #[error("the name {name:?} belongs to the job {owner}")]
    NameTaken {
        /// The name.
        name: ServiceName,
        /// The job that has it.
        owner: JobLabel,
    },
    /// No more starts for now.
    #[error("failed {runs} times in a row, and is tried again in {} minutes: {failure}", super::PROBE.as_secs() / 60)]
    Failed {
        /// How often.
        runs: u32,
        /// Why the last time.
        failure: Failure,
    },
    /// The kernel has not ended it in time after SIGKILL, and the server ends without it.
    #[error("it does not end, and is left behind")]
    LeftBehind,
}
