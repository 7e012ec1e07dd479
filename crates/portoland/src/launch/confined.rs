//! A program that is confined and was not started by the server.

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use portolan_wire::instance;
use portolan_wire::label::JobLabel;

use super::processes::{self, Family};

/// The process that asked to be confined or to have something confined, which stands for the
/// program, with all that come of it. The session and the group that it is in are its caller's, who
/// may have others in them: the next program of a pipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leader {
    pid: i32,
    /// In clock ticks since the system was started.
    start: u64,
    instance: u64,
}

impl Leader {
    /// Nothing if the process is gone.
    #[must_use]
    pub fn new(pid: Pid, instance: u64) -> Option<Self> {
        Some(Self {
            pid: pid.as_raw_pid(),
            start: processes::start_of(pid)?,
            instance,
        })
    }

    /// Whether a process is one of the program's, which has this label; nothing if that has ended and
    /// left no trace.
    #[must_use]
    pub fn has(&self, pid: Pid, label: &JobLabel) -> Option<bool> {
        let first = Pid::from_raw(self.pid);
        let first = first.filter(|first| processes::start_of(*first) == Some(self.start));
        let mark = instance::mark(label, self.instance);
        let family = Family {
            first,
            session: None,
            mark: &mark,
        };
        processes::is_of(pid, &family)
    }
}
