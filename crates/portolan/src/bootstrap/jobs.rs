//! Programs that the bootstrap server starts when they are needed.
//!
//! A *job* is a program with a label, described by a job file in launchd's keys. The calls are
//! methods of [`Bootstrap`]; what they tell of jobs are the types here. A call that is refused for
//! a reason of the job's says it in words ([`BootstrapError::Explained`]).
//!
//! A program that is a job itself needs nothing of this to serve: it checks in its services
//! ([`Bootstrap::check_in`]) and answers. If it wants to exit when it has nothing to do, it asks
//! [`Bootstrap::try_exit`] first, because a message may be on its way.

use std::path::Path;

use portolan_port::Timeout;
use portolan_wire::bootstrap::{Page, Reply, Request};
use portolan_wire::label::JobLabel;

use super::{Bootstrap, BootstrapError, read};

pub use portolan_wire::failure::{FailureKind, Refusal, StartFailure};
pub use portolan_wire::jobs::{
    Blame, JobService, JobState, JobStatus, JobSummary, LastExit, MAX_JOB_BYTES, MAX_JOBS,
    MAX_STARTS, Start,
};
pub use portolan_wire::signal::Signal;

/// How a job is started by [`Bootstrap::kickstart`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kickstart {
    /// End the instance that runs first. Without this, one that runs is left alone.
    pub kill: bool,
    /// Wait so long until it runs or could not be started; without this, the answer comes at once.
    pub wait: Option<Timeout>,
}

impl Bootstrap {
    /// Makes a job known, and starts it if its file says so (`RunAtLoad`, `KeepAlive`).
    ///
    /// `file` is the text of a job file, at most [`MAX_JOB_BYTES`]; `path` is what it is called in
    /// messages. The server does not open it.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::BAD_JOB_FILE`] (1202) with the place of the fault,
    /// [`BootstrapCode::JOB_LOADED`] (1201), or [`BootstrapCode::JOB_DISABLED`] (1203) if it was
    /// disabled; [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this process is confined, as for all
    /// calls that change a job.
    ///
    /// [`BootstrapCode::BAD_JOB_FILE`]: crate::BootstrapCode::BAD_JOB_FILE
    /// [`BootstrapCode::JOB_LOADED`]: crate::BootstrapCode::JOB_LOADED
    /// [`BootstrapCode::JOB_DISABLED`]: crate::BootstrapCode::JOB_DISABLED
    /// [`BootstrapCode::NOT_PRIVILEGED`]: crate::BootstrapCode::NOT_PRIVILEGED
    pub fn load(&self, path: &Path, file: &[u8]) -> Result<(), BootstrapError> {
        self.load_as(path, file, false)
    }

    /// Enables a job and makes it known, whatever its file or an earlier
    /// [`disable`](Self::disable) says.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load).
    pub fn load_enabled(&self, path: &Path, file: &[u8]) -> Result<(), BootstrapError> {
        self.load_as(path, file, true)
    }

    fn load_as(&self, path: &Path, file: &[u8], enable: bool) -> Result<(), BootstrapError> {
        let request = Request::Load {
            enable,
            path: path.display().to_string().into(),
            file: file.to_vec(),
        };
        self.call(&request, None).map(drop)
    }

    /// Ends a job and forgets it, with its names and what is queued at them.
    ///
    /// The answer comes at once; an instance that runs has the time that its file gives it.
    ///
    /// # Errors
    ///
    /// [`JOB_NOT_FOUND`](crate::BootstrapCode::JOB_NOT_FOUND) (1200), as for all calls with a
    /// label.
    pub fn unload(&self, label: &JobLabel) -> Result<(), BootstrapError> {
        let label = label.clone();
        self.call(&Request::Unload { label }, None).map(drop)
    }

    /// Lets a job be started again after [`disable`](Self::disable), also one that is not loaded.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn enable(&self, label: &JobLabel) -> Result<(), BootstrapError> {
        let label = label.clone();
        self.call(&Request::Enable { label }, None).map(drop)
    }

    /// Lets nothing start a job, also when it is loaded again later. An instance that runs goes on.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn disable(&self, label: &JobLabel) -> Result<(), BootstrapError> {
        let label = label.clone();
        self.call(&Request::Disable { label }, None).map(drop)
    }

    /// Starts a job now, also one that failed or is throttled. Gives the process that runs, if one
    /// does by then.
    ///
    /// # Errors
    ///
    /// [`START_FAILED`](crate::BootstrapCode::START_FAILED) (1206) with a [`StartFailure`] if it
    /// was waited for, [`JOB_DISABLED`](crate::BootstrapCode::JOB_DISABLED) (1203).
    pub fn kickstart(
        &self,
        label: &JobLabel,
        how: Kickstart,
    ) -> Result<Option<u32>, BootstrapError> {
        let request = Request::Kickstart {
            kill: how.kill,
            wait: how.wait.is_some(),
            label: label.clone(),
        };
        let patience = how.wait.unwrap_or(super::PATIENCE);
        match read(&request, &self.call_within(patience, &request, None)?)? {
            Reply::Kickstarted(pid) => Ok(pid),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Ends the instance of a job that runs. Demand starts the next one.
    ///
    /// The answer comes at once; the instance has the time that its file gives it.
    ///
    /// # Errors
    ///
    /// [`JOB_NOT_RUNNING`](crate::BootstrapCode::JOB_NOT_RUNNING) (1204)
    pub fn stop(&self, label: &JobLabel) -> Result<(), BootstrapError> {
        let label = label.clone();
        self.call(&Request::Stop { label }, None).map(drop)
    }

    /// The jobs, in the order of their labels.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn jobs(&self) -> Result<Vec<JobSummary>, BootstrapError> {
        let next = |after| match self.ask(&Request::Jobs { after })? {
            Reply::Jobs(page) => Ok(page),
            _ => Err(BootstrapError::Protocol),
        };
        pages(next, |job| &job.label)
    }

    /// Everything about one job.
    ///
    /// # Errors
    ///
    /// [`JOB_NOT_FOUND`](crate::BootstrapCode::JOB_NOT_FOUND) (1200)
    pub fn job(&self, label: &JobLabel) -> Result<JobStatus, BootstrapError> {
        let label = label.clone();
        match self.ask(&Request::Job { label })? {
            Reply::Job(job) => Ok(*job),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Why jobs were started lately, in the order of their labels.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn blame(&self) -> Result<Vec<Blame>, BootstrapError> {
        let next = |after| match self.ask(&Request::Blame { after })? {
            Reply::Blame(page) => Ok(page),
            _ => Err(BootstrapError::Protocol),
        };
        pages(next, |blame| &blame.label)
    }

    /// Whether this process, an instance of a job, may exit because nothing waits for it.
    ///
    /// After a yes it gets nothing more: what arrives from then on starts the next instance. After
    /// a no it has something to receive.
    ///
    /// # Errors
    ///
    /// [`JOB_NOT_FOUND`](crate::BootstrapCode::JOB_NOT_FOUND) (1200) if this process is no
    /// instance of a job.
    pub fn try_exit(&self) -> Result<bool, BootstrapError> {
        match self.ask(&Request::TryExit)? {
            Reply::TryExit(may) => Ok(may),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Says that this process, an instance of a job without services, is ready. One that has
    /// services says it by checking them in.
    ///
    /// # Errors
    ///
    /// Those of [`try_exit`](Self::try_exit).
    pub fn ready(&self) -> Result<(), BootstrapError> {
        self.call(&Request::Ready, None).map(drop)
    }

    /// Has the server go on in a new process image, such as that of a newer version, with every
    /// name, message and job.
    ///
    /// # Errors
    ///
    /// [`UNSUPPORTED`](crate::BootstrapCode::UNSUPPORTED) (1205) for a server inside another
    /// program.
    pub fn restart(&self) -> Result<(), BootstrapError> {
        self.call(&Request::Restart, None).map(drop)
    }
}

/// All items of all pages. Each page must lead further on, so that a server cannot have this go on
/// for ever.
fn pages<T>(
    next: impl Fn(Option<JobLabel>) -> Result<Page<T>, BootstrapError>,
    label: impl Fn(&T) -> &JobLabel,
) -> Result<Vec<T>, BootstrapError> {
    let mut all: Vec<T> = Vec::new();
    while all.len() <= MAX_JOBS * MAX_STARTS {
        let after = all.last().map(|item| label(item).clone());
        let page = next(after.clone())?;
        let first = page.items.first().map(&label);
        let leads_on = first > after.as_ref() || (first.is_none() && !page.more);
        if !leads_on || !page.items.is_sorted_by_key(&label) {
            return Err(BootstrapError::Protocol);
        }
        all.extend(page.items);
        if !page.more {
            return Ok(all);
        }
    }
    Err(BootstrapError::Protocol)
}
