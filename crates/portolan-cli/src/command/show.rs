//! What is told of jobs: `portolan jobs`, `print`, `blame` and `dump`.

use std::fmt;

use anyhow::Context as _;
use portolan::BootstrapCode;
use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::jobs::{JobService, JobStatus, JobSummary, LastExit, Start};
use serde::Serialize;

use super::names::{Service, word};
use crate::args;
use crate::output;

pub(crate) fn jobs(options: &args::Jobs) -> anyhow::Result<()> {
    let jobs = Bootstrap::from_env()?.jobs()?;
    if options.json {
        let jobs: Vec<_> = jobs.iter().map(Summary::from).collect();
        return output::json(&jobs);
    }
    for job in jobs {
        let (pid, exit) = (pid(job.pid), exit_word(&job.last_exit));
        let (state, label) = (job.state, job.label);
        output::line(format_args!("{pid:>7}  {exit:<9}  {state:<9}  {label}"));
    }
    Ok(())
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

fn exit_word(exit: &LastExit) -> String {
    match exit {
        LastExit::None => "-".to_owned(),
        LastExit::Status(status) => status.to_string(),
        LastExit::Signal(signal) => signal.to_string(),
        LastExit::NotStarted { .. } => "no start".to_owned(),
        _ => "?".to_owned(),
    }
}

pub(crate) fn print(options: &args::Print) -> anyhow::Result<()> {
    let label = &options.label;
    let job = Bootstrap::from_env()?
        .job(label)
        .with_context(|| format!("cannot print {label}"))?;
    if options.json {
        return output::json(&Job::from(&job));
    }
    print_job(&job);
    Ok(())
}

fn print_job(job: &JobStatus) {
    let summary = &job.summary;
    output::line(&summary.label);
    let pid = summary.pid.map(|pid| format!(", pid {pid}"));
    row(
        "state",
        &format!("{}{}", summary.state, pid.unwrap_or_default()),
    );
    row("file", &job.path);
    row("last exit", &summary.last_exit.to_string());
    row("runs", &runs(job));
    if let Some(ms) = job.next_start_ms {
        row("next start", &format!("in {}", Time(ms)));
    }
    if let Some(start) = &job.started {
        row("started", &said(start));
    }
    for service in &job.services {
        row("service", &said_of_service(service));
    }
    for socket in &job.sockets {
        row("socket", socket);
    }
    row("log", &job.log);
    row("confined", &job.confinement);
    row("note", &job.note);
}

/// A key and what it is, which may be nothing, or several lines.
fn row(key: &str, text: &str) {
    let plain = output::plain(text);
    for line in plain.lines().filter(|line| !line.is_empty()) {
        output::line(format_args!("    {key:<10}  {line}"));
    }
}

fn runs(job: &JobStatus) -> String {
    match job.failures {
        0 => job.runs.to_string(),
        failures => format!("{}, the last {failures} failed", job.runs),
    }
}

fn said(start: &Start) -> String {
    let by = start.by.map(|pid| format!(", asked for by process {pid}"));
    let (ago, reason) = (Time(start.ms_ago), &start.reason);
    format!("{ago} ago: {reason}{}", by.unwrap_or_default())
}

fn said_of_service(service: &JobService) -> String {
    let (name, status) = (service.name.as_str().escape_debug(), word(service.status));
    let checked_in = if service.checked_in {
        ""
    } else {
        ", not checked in"
    };
    format!("{name}: {status}, {} queued{checked_in}", service.queued)
}

/// Milliseconds, in the unit that suits them.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        match seconds {
            0..60 => write!(f, "{seconds}.{} s", self.0 % 1000 / 100),
            60..3600 => write!(f, "{} min", seconds / 60),
            3600..86_400 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} d", seconds / 86_400),
        }
    }
}

pub(crate) fn blame(options: &args::Blame) -> anyhow::Result<()> {
    let mut starts = Bootstrap::from_env()?.blame()?;
    if let Some(label) = &options.label {
        starts.retain(|blame| blame.label == *label);
    }
    if options.json {
        #[derive(Serialize)]
        struct Blame<'a> {
            label: &'a str,
            #[serde(flatten)]
            start: Started<'a>,
        }
        let starts: Vec<_> = starts
            .iter()
            .map(|blame| Blame {
                label: blame.label.as_str(),
                start: Started::from(&blame.start),
            })
            .collect();
        return output::json(&starts);
    }
    for blame in starts {
        let said = output::plain(&said(&blame.start)).replace('\n', " ");
        output::line(format_args!("{}  {said}", blame.label));
    }
    Ok(())
}

pub(crate) fn dump(options: &args::Dump) -> anyhow::Result<()> {
    let server = Bootstrap::from_env()?;
    let mut jobs = Vec::new();
    for summary in server.jobs()? {
        match server.job(&summary.label) {
            Ok(job) => jobs.push(job),
            // Unloaded since it was listed.
            Err(error) if error.code() == Some(BootstrapCode::JOB_NOT_FOUND) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let services = server.list()?;
    if options.json {
        #[derive(Serialize)]
        struct Dump<'a> {
            jobs: Vec<Job<'a>>,
            services: Vec<Service<'a>>,
        }
        return output::json(&Dump {
            jobs: jobs.iter().map(Job::from).collect(),
            services: services.iter().map(Service::from).collect(),
        });
    }
    jobs.iter().for_each(print_job);
    services.iter().for_each(super::names::print);
    Ok(())
}

#[derive(Serialize)]
struct Summary<'a> {
    label: &'a str,
    state: &'static str,
    pid: Option<u32>,
    last_exit: Option<Exit<'a>>,
}

impl<'a> From<&'a JobSummary> for Summary<'a> {
    fn from(job: &'a JobSummary) -> Self {
        Self {
            label: job.label.as_str(),
            state: job.state.as_str(),
            pid: job.pid,
            last_exit: Exit::of(&job.last_exit),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Exit<'a> {
    Exited {
        status: i32,
    },
    Signalled {
        signal: u32,
    },
    /// Without an error number, the path is the whole reason.
    NotStarted {
        errno: i32,
        path: &'a str,
    },
    Unknown,
}

impl<'a> Exit<'a> {
    fn of(exit: &'a LastExit) -> Option<Self> {
        Some(match exit {
            LastExit::None => return None,
            LastExit::Status(status) => Self::Exited { status: *status },
            LastExit::Signal(signal) => Self::Signalled { signal: signal.0 },
            LastExit::NotStarted { errno, path } => Self::NotStarted {
                errno: *errno,
                path,
            },
            _ => Self::Unknown,
        })
    }
}

#[derive(Serialize)]
struct Started<'a> {
    reason: &'a str,
    by: Option<u32>,
    ms_ago: u64,
}

impl<'a> From<&'a Start> for Started<'a> {
    fn from(start: &'a Start) -> Self {
        Self {
            reason: &start.reason,
            by: start.by,
            ms_ago: start.ms_ago,
        }
    }
}

#[derive(Serialize)]
struct Served<'a> {
    name: &'a str,
    status: &'static str,
    queued: u32,
    checked_in: bool,
}

impl<'a> From<&'a JobService> for Served<'a> {
    fn from(service: &'a JobService) -> Self {
        Self {
            name: service.name.as_str(),
            status: word(service.status),
            queued: service.queued,
            checked_in: service.checked_in,
        }
    }
}

/// A text that is empty in the answer is null here.
#[derive(Serialize)]
struct Job<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    file: &'a str,
    runs: u32,
    failures: u32,
    next_start_ms: Option<u64>,
    started: Option<Started<'a>>,
    services: Vec<Served<'a>>,
    sockets: Vec<&'a str>,
    log: Option<&'a str>,
    confinement: Option<&'a str>,
    note: Option<&'a str>,
}

impl<'a> From<&'a JobStatus> for Job<'a> {
    fn from(job: &'a JobStatus) -> Self {
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        Self {
            summary: Summary::from(&job.summary),
            file: &job.path,
            runs: job.runs,
            failures: job.failures,
            next_start_ms: job.next_start_ms,
            started: job.started.as_ref().map(Started::from),
            services: job.services.iter().map(Served::from).collect(),
            sockets: job.sockets.iter().map(|text| &**text).collect(),
            log: some(&job.log),
            confinement: some(&job.confinement),
            note: some(&job.note),
        }
    }
}
