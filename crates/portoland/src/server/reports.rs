//! What the kernel refuses to confined programs, as it is reported.
//!
//! The reporter of a program is a process outside of its walls that has a bootstrap right for nothing
//! else. What it says is believed of that program, and of no other.

use std::fmt;
use std::os::fd::OwnedFd;

use portolan_port::Message;
use portolan_wire::bootstrap::{Reply, Request};
use portolan_wire::label::JobLabel;
use portolan_wire::sandbox::Report;

use super::Server;
use super::answer::{Caller, Refused, done};
use super::door::Whose;
use super::violations::Refusal;
use crate::registry::JobKey;

impl Server {
    /// A right to report with, for whoever starts a program.
    pub(super) fn reporter(
        &mut self,
        caller: &Caller,
        label: JobLabel,
    ) -> Result<Message, Refused> {
        caller.must_not_be_confined()?;
        let key = self.doors.next_key();
        let right = self.open_door(key, Whose::reporter(label))?;
        Ok(done(&Reply::Done).with_right(right))
    }

    /// What the launcher of a job reports with. A job for which there is none left is started without.
    pub(super) fn reporter_of(&mut self, job: JobKey) -> Option<OwnedFd> {
        let known = self.jobs.supervisor.job(job)?;
        if !known.report_refusals || !known.is_confined() {
            return None;
        }
        let label = known.label.clone();
        let key = self.doors.next_key();
        let right = self.open_door(key, Whose::reporter(label.clone())).ok();
        let socket = right.and_then(|right| right.into_socket().ok());
        if socket.is_none() {
            tracing::warn!(%label, "what is refused to it is not reported: there are too many rights");
        }
        socket
    }

    /// Takes a report, which nobody waits to be answered. Whatever else comes without a right to answer
    /// with is no request.
    pub(super) fn take_report(&mut self, message: &Message) {
        let door = message.port().and_then(|port| self.doors.get(port));
        let Some(label) = door.and_then(|door| door.whose.reports.clone()) else {
            return;
        };
        if let Ok(Request::Report(report)) = Request::decode(message.id(), message.bytes()) {
            self.note_report(&label, &report);
        }
    }

    fn note_report(&mut self, label: &JobLabel, report: &Report) {
        let refusal = Refusal {
            operation: report.operation.to_string(),
            name: &report.name,
            key: &report.key,
            value: &report.value,
            left_out: report.left_out.into(),
        };
        let pid = report.pid.unwrap_or_default();
        self.note_refusal(label, pid, &refusal, &Line(label, report));
    }
}

/// As the refusals of the server itself are logged.
struct Line<'a>(&'a JobLabel, &'a Report);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(label, report) = self;
        let plain = |text: &str| text.escape_debug().to_string();
        write!(f, "{label}: deny {}", plain(&report.operation))?;
        if !report.name.is_empty() {
            write!(f, " \"{}\"", plain(&report.name))?;
        }
        match (&*report.key, &*report.value) {
            ("", _) => write!(f, "; no entitlement allows it"),
            (key, "") => write!(f, "; allowed by {}", plain(key)),
            (key, value) => write!(f, "; allowed by {} with \"{}\"", plain(key), plain(value)),
        }
    }
}
