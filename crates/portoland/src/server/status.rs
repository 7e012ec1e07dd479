//! What `portolan print`, `list` and `blame` are told.

use std::time::Duration;

use portolan_port::Message;
use portolan_wire::bootstrap::{Reply, ServiceStatus};
use portolan_wire::code::BootstrapCode;
use portolan_wire::jobs::{self, JobService, JobStatus, JobSummary, LastExit, Start};
use portolan_wire::label::JobLabel;
use portolan_wire::sandbox::{BoundJob, Bounds};
use portolan_wire::signal::Signal;

use super::Server;
use super::answer::{Refused, done};
use super::jobs::{Parts, Started};
use super::service::Port;
use crate::launch;
use crate::registry::JobKey;
use crate::supervisor::{Exit, Failure, JobState, Reason, Status};

impl Server {
    pub(super) fn summary(&self, key: JobKey) -> Option<JobSummary> {
        let status = self.jobs.supervisor.status(key)?;
        Some(summary_of(&status))
    }

    pub(super) fn starts(&self, key: JobKey) -> Vec<jobs::Blame> {
        let Some(job) = self.jobs.supervisor.job(key) else {
            return Vec::new();
        };
        let parts = self.jobs.parts.get(&key);
        let starts = parts.into_iter().flat_map(|parts| &parts.starts);
        let blame = |started| jobs::Blame {
            label: job.label.clone(),
            start: self.start_of(started),
        };
        starts.map(blame).collect()
    }

    fn start_of(&self, started: &Started) -> Start {
        let (reason, by) = words(&started.why);
        Start {
            reason: reason.into(),
            by,
            ms_ago: millis(self.now().saturating_sub(started.at)),
        }
    }

    pub(super) fn job_status(&self, key: JobKey) -> Option<JobStatus> {
        let status = self.jobs.supervisor.status(key)?;
        let job = self.jobs.supervisor.job(key)?;
        let parts = self.jobs.parts.get(&key)?;
        let runs = status.pid.is_some();
        let services = self.jobs.supervisor.services(key).map(|name| {
            let port = parts.services.get(name);
            let service = port.and_then(|port| self.services.get(port));
            let (queued, checked_in) = match service.map(|service| &service.port) {
                None => (0, false),
                Some(Port::Here(port)) => (port.queued(), false),
                Some(Port::Lent(_) | Port::Elsewhere(_)) => (0, true),
            };
            JobService {
                name: name.clone(),
                status: service_status(checked_in, &status.state),
                queued: u32::try_from(queued).unwrap_or(u32::MAX),
                checked_in: checked_in && runs,
            }
        });
        let sockets = parts.listeners.names_and_fds();
        let sockets = sockets.map(|(name, fd)| describe_socket(name, fd).into());
        Some(JobStatus {
            summary: summary_of(&status),
            path: parts.path.as_str().into(),
            runs: u32::try_from(status.runs).unwrap_or(u32::MAX),
            failures: status.failures_in_a_row,
            next_start_ms: status.next_start.map(|at| self.ms_until(at)),
            started: parts.starts.back().map(|started| self.start_of(started)),
            services: services.collect(),
            sockets: sockets.collect(),
            log: log_of(job, parts).into(),
            confinement: confinement_of(job).into(),
            note: self.note_on(&status, parts).into(),
        })
    }

    /// What binds a job, or else a program that was given a right of its own.
    pub(super) fn bounds(&self, label: &JobLabel) -> Result<Message, Refused> {
        let job = self.jobs.supervisor.find(label);
        let job = job.and_then(|key| self.jobs.supervisor.job(key));
        let bounds = match (job, self.doors.entitlements_of(label)) {
            (Some(job), _) => bounds_of(job)?,
            (None, Some(entitlements)) => Bounds {
                job: None,
                entitlements: entitlements.to_vec(),
            },
            (None, None) => {
                let why = format!("{label} is neither a job that is loaded, nor has it a right");
                return Err(Refused::because(BootstrapCode::JOB_NOT_FOUND, why));
            }
        };
        Ok(done(&Reply::Bounds(Box::new(bounds))))
    }

    fn ms_until(&self, at: Duration) -> u64 {
        millis(at.saturating_sub(self.now()))
    }

    fn note_on(&self, status: &Status, parts: &Parts) -> String {
        let mut notes = Vec::new();
        match &status.state {
            JobState::Failed { failure, probe } => {
                notes.push(format!("it has failed: {failure}"));
                if let Some(probe) = probe {
                    let seconds = self.ms_until(*probe) / 1000;
                    notes.push(format!(
                        "it is tried again in {seconds} s, or with portolan kickstart {}",
                        status.label
                    ));
                }
            }
            JobState::Throttled { due } => {
                let ms = self.ms_until(*due);
                notes.push(format!("throttled, next start in {ms} ms"));
                notes.extend(status.last_failure.as_ref().map(Failure::to_string));
            }
            JobState::Waiting { label } => notes.push(format!("it waits for {label}")),
            _ if status.failures_in_a_row > 0 => {
                let failure = status.last_failure.as_ref();
                notes.extend(failure.map(|failure| format!("the last time: {failure}")));
            }
            _ => {}
        }
        if !parts.left_out.is_empty() {
            let names: Vec<_> = parts.left_out.iter().map(|name| name.as_str()).collect();
            notes.push(format!("somebody else has the name {}", names.join(", ")));
        }
        if !status.not_checked_in.is_empty() && status.pid.is_some() {
            let names: Vec<_> = status
                .not_checked_in
                .iter()
                .map(|name| name.as_str())
                .collect();
            notes.push(format!("it has not checked in {}", names.join(", ")));
        }
        if parts.set_aside > 0 {
            let set_aside = parts.set_aside;
            notes.push(format!("{set_aside} messages were set aside, see the log"));
        }
        notes.join("; ")
    }
}

fn summary_of(status: &Status) -> JobSummary {
    let state = match &status.state {
        JobState::Disabled => jobs::JobState::Disabled,
        JobState::Idle => jobs::JobState::Idle,
        JobState::Waiting { .. } => jobs::JobState::Waiting,
        JobState::Starting => jobs::JobState::Starting,
        JobState::Running => jobs::JobState::Running,
        JobState::Stopping => jobs::JobState::Stopping,
        JobState::Throttled { .. } => jobs::JobState::Throttled,
        JobState::Failed { .. } => jobs::JobState::Failed,
    };
    let last_exit = match (&status.last_failure, status.last_exit) {
        (Some(Failure::Start(start)), _) => {
            let (errno, path) = super::failure::said_of(start);
            LastExit::NotStarted {
                errno,
                path: path.into(),
            }
        }
        (_, Some(Exit::Status(status))) => LastExit::Status(status.into()),
        (_, Some(Exit::Signal(signal))) => LastExit::Signal(Signal(signal.into())),
        (_, Some(Exit::Unknown)) => LastExit::Unknown,
        (_, None) => LastExit::None,
    };
    JobSummary {
        label: status.label.clone(),
        state,
        pid: status.pid,
        last_exit,
    }
}

fn service_status(checked_in: bool, state: &JobState) -> ServiceStatus {
    match (checked_in, state) {
        (true, _) => ServiceStatus::Active,
        (false, JobState::Disabled) => ServiceStatus::Inactive,
        (false, _) => ServiceStatus::OnDemand,
    }
}

/// Why a job was started, and the process that wanted it.
fn words(why: &Reason) -> (String, Option<u32>) {
    let text = match why {
        Reason::RunAtLoad => "it was loaded".to_owned(),
        Reason::KeepAlive => "KeepAlive".to_owned(),
        Reason::Demand(name) => format!("a message to {name}"),
        Reason::Socket(name) => format!("a connection to its socket {name}"),
        Reason::Path(path) => format!("a change of {}", path.display()),
        Reason::Interval => "StartInterval".to_owned(),
        Reason::Calendar => "StartCalendarInterval".to_owned(),
        Reason::Kickstart(pid) => return ("kickstart".to_owned(), Some(*pid)),
        Reason::Required(label) => format!("{label} requires it"),
        Reason::Retry => "it could not be started before".to_owned(),
    };
    (text, None)
}

fn describe_socket(name: &str, fd: std::os::fd::BorrowedFd<'_>) -> String {
    match rustix::net::getsockname(fd) {
        Ok(address) => format!("{name}: {address:?}"),
        Err(_) => name.to_owned(),
    }
}

fn log_of(job: &crate::job::Job, parts: &super::jobs::Parts) -> String {
    match (&job.standard_out_path, &job.standard_error_path) {
        (Some(_), Some(_)) => String::new(),
        _ => parts.log.path().display().to_string(),
    }
}

fn confinement_of(job: &crate::job::Job) -> String {
    match &job.entitlements {
        Some(all) if all.app_sandbox => format!("by its entitlements, isolation {}", job.isolation),
        _ => String::new(),
    }
}

fn bounds_of(job: &crate::job::Job) -> Result<Bounds, Refused> {
    let refused = |why: String| Refused::because(BootstrapCode::BAD_JOB_FILE, why);
    let stance = launch::stance(job).map_err(|error| refused(crate::daemon::chain(&error)))?;
    let text = match &job.entitlements {
        Some(entitlements) => entitlements.to_toml(),
        None => Ok(String::new()),
    };
    let text = text.map_err(|error| refused(error.to_string()))?;
    Ok(Bounds {
        job: Some(BoundJob {
            user: stance.user,
            group: stance.group,
            program: stance.program.display().to_string().into(),
            home: stance.home.path.display().to_string().into(),
            data: stance.home.data.display().to_string().into(),
            isolation: job.isolation.to_string().into(),
        }),
        entitlements: text.into_bytes(),
    })
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
