//! Whether who uses a confined program's bootstrap right is that program.
//!
//! A right can be passed on like any other. What a confined program may do is for its own processes:
//! a request of another process is refused, and logged with what both are called. Who the sender is
//! says the kernel, by the credentials of the message and a descriptor of the process.

use std::io;

use portolan_sandbox::Identity;
use portolan_wire::bootstrap::Request;
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use rustix::process::Pid;

use super::Server;
use super::answer::{Caller, Refused};
use super::door::Whose;
use super::process;
use super::violations::Refusal;
use crate::launch;

impl Server {
    /// Refuses what comes through the door of a confined program from another.
    ///
    /// Of a process that has ended and has been reaped nobody can tell whose it was. It is known by
    /// its door like all others, and since nobody waits for the answer, nothing is done for it that
    /// would stay.
    pub(super) fn must_be_of_the_program(
        &mut self,
        caller: &Caller,
        request: &Request,
    ) -> Result<(), Refused> {
        if matches!(caller.whose.identity, Identity::Unsandboxed) {
            return Ok(());
        }
        let is_own = self.is_of(&caller.whose, caller.pid).map_err(|error| {
            tracing::error!(pid = caller.pid, %error, "cannot tell whose process it is");
            BootstrapCode::NO_MEMORY
        })?;
        match is_own.filter(|_| !caller.has_ended()) {
            Some(true) => Ok(()),
            None if stays(request) => Err(BootstrapCode::NOT_PRIVILEGED.into()),
            None => Ok(()),
            Some(false) => {
                self.log_stranger(caller);
                let why = "this bootstrap right is another program's";
                Err(Refused::because(BootstrapCode::NOT_PRIVILEGED, why))
            }
        }
    }

    fn is_of(&self, whose: &Whose, pid: u32) -> io::Result<Option<bool>> {
        let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
            return Ok(Some(false));
        };
        let parts = whose.job.and_then(|job| self.jobs.parts.get(&job));
        match (parts.and_then(|parts| parts.run.as_ref()), &whose.leader) {
            (Some(run), _) => run.instance.has(pid),
            (None, Some(leader)) => Ok(whose
                .label
                .as_ref()
                .and_then(|label| leader.has(pid, label))),
            (None, None) => Ok(Some(false)),
        }
    }

    fn log_stranger(&mut self, caller: &Caller) {
        let Identity::Sandboxed { label, .. } = &caller.whose.identity else {
            return;
        };
        let sender = self.label_of(caller.pid);
        let refusal = Refusal {
            operation: "bootstrap-right".to_owned(),
            name: sender.as_str(),
            key: "",
            value: "",
            left_out: 0,
        };
        let line = format!("{sender} uses the bootstrap right of {label}: refused");
        self.note_refusal(label, caller.pid, &refusal, &line);
    }

    /// The label of the job that a process is of, or what it is called for want of one.
    fn label_of(&self, pid: u32) -> JobLabel {
        let first = Pid::from_raw(pid.cast_signed());
        let mut line = first.into_iter().flat_map(launch::with_ancestors);
        let found = line.find_map(|pid| {
            let number = pid.as_raw_pid().cast_unsigned();
            self.jobs.by_pid.get(&number)
        });
        let job = found.and_then(|job| self.jobs.supervisor.job(*job));
        job.map_or_else(|| process::anonymous_label(pid), |job| job.label.clone())
    }
}

/// Whether more comes of a request than an answer.
fn stays(request: &Request) -> bool {
    !matches!(
        request,
        Request::LookUp { .. } | Request::Status { .. } | Request::List
    )
}
