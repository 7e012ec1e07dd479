//! What the bootstrap server tells of confined programs.
//!
//! The calls are methods of [`Bootstrap`]. Confined programs are not answered.

use portolan_port::{SendRight, Timeout};
use portolan_wire::bootstrap::{Reply, Request};
use portolan_wire::label::JobLabel;

use super::{Bootstrap, BootstrapError, read, take_send};

pub use portolan_wire::sandbox::{BoundJob, Bounds, Report, Violation};

impl Bootstrap {
    /// What binds a program: a job that is loaded, or the last program that was given a right with
    /// this label ([`confine`](Self::confine)).
    ///
    /// # Errors
    ///
    /// [`JOB_NOT_FOUND`](crate::BootstrapCode::JOB_NOT_FOUND) (1200)
    pub fn bounds(&self, label: &JobLabel) -> Result<Bounds, BootstrapError> {
        let label = label.clone();
        match self.ask(&Request::Bounds { label })? {
            Reply::Bounds(bounds) => Ok(*bounds),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// A right with which it is reported what the kernel refuses to the program with this label, and
    /// nothing else is done: for the launcher of that program.
    ///
    /// # Errors
    ///
    /// [`NOT_PRIVILEGED`](crate::BootstrapCode::NOT_PRIVILEGED) (1100) if this process is confined or
    /// belongs to another user.
    pub fn reporter(&self, label: &JobLabel) -> Result<SendRight, BootstrapError> {
        let label = label.clone();
        let mut answer = self.call(&Request::Reporter { label }, None)?;
        take_send(&mut answer)
    }

    /// What was refused to confined programs after the violation with this number, the oldest first;
    /// after 0, all that the server remembers.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn violations(&self, after: u64) -> Result<Vec<Violation>, BootstrapError> {
        let mut all = Vec::new();
        let mut after = after;
        loop {
            let request = Request::Violations { wait: false, after };
            let (more, items) = violations(&request, &self.call(&request, None)?)?;
            // Each page must lead further on, so that a server cannot have this go on for ever.
            let last = items.last().map_or(0, |last| last.number);
            if more && last <= after {
                return Err(BootstrapError::Protocol);
            }
            after = last;
            all.extend(items);
            if !more {
                return Ok(all);
            }
        }
    }

    /// As [`violations`](Self::violations), and waits until there are some.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn next_violations(&self, after: u64) -> Result<Vec<Violation>, BootstrapError> {
        let request = Request::Violations { wait: true, after };
        let answer = self.call_within(Timeout::NEVER, &request, None)?;
        violations(&request, &answer).map(|(_, items)| items)
    }
}

fn violations(
    request: &Request,
    answer: &portolan_port::Message,
) -> Result<(bool, Vec<Violation>), BootstrapError> {
    match read(request, answer)? {
        Reply::Violations(page) if page.items.is_sorted_by_key(|one| one.number) => {
            Ok((page.more, page.items))
        }
        _ => Err(BootstrapError::Protocol),
    }
}
