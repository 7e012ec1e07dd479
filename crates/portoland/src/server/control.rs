//! What people ask of jobs: load, start, stop, look at.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use portolan_wire::bootstrap::{Page, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;

use super::answer::{Answer, Caller, Refused, done};
use super::jobs::{self, Parts};
use super::store::Kind;
use super::{Ended, Server};
use crate::job::{Job, Reading, is_in_container};
use crate::log::JobLog;
use crate::registry::JobKey;
use crate::sockets::Listeners;
use crate::supervisor::{CommandError, JobState, LoadError};

/// How many findings in a job file one answer names.
const MAX_NAMED: usize = 8;

const NO_IDENTITY: &str =
    "UserName and GroupName have no effect: only root's server runs a job as somebody else";

impl Server {
    pub(super) fn control(&mut self, caller: &Caller, request: Request) -> Result<Answer, Refused> {
        // An instance may speak of itself, confined or not.
        match request {
            Request::TryExit => return self.try_exit(caller).map(Answer::Now),
            Request::Ready => return self.ready(caller).map(Answer::Now),
            _ => caller.must_not_be_confined()?,
        }
        let now = self.now();
        let supervisor = &mut self.jobs.supervisor;
        match request {
            Request::Shutdown => {
                tracing::info!(pid = caller.pid, "told to end");
                self.told_to_end();
            }
            Request::Restart => {
                if self.holder.is_none() {
                    let why = "this server has no parent that would start it again";
                    return Err(Refused::because(BootstrapCode::UNSUPPORTED, why));
                }
                tracing::info!(pid = caller.pid, "told to restart");
                self.ended = Some(Ended::ForRestart);
            }
            Request::Load { enable, path, file } => self.load(&path, file, enable)?,
            Request::Unload { label } => {
                let key = supervisor.find(&label);
                supervisor.unload(&label, now)?;
                // The next server ends it too, if this one does not come to it.
                key.into_iter().for_each(|key| self.write_tally_down(key));
            }
            // A job that is not loaded will be found so when it is.
            Request::Enable { label } => {
                supervisor.enable(&label, now).ok();
                self.switch(&label, false);
            }
            Request::Disable { label } => {
                supervisor.disable(&label, now).ok();
                self.switch(&label, true);
            }
            Request::Kickstart { kill, wait, label } => {
                supervisor.kickstart(&label, kill, caller.pid, now)?;
                let key = supervisor.find(&label);
                key.into_iter().for_each(|key| self.write_tally_down(key));
                return self.kickstarted(&label, kill, wait);
            }
            Request::Stop { label } => {
                let key = supervisor.find(&label);
                let pid = key.and_then(|key| supervisor.status(key)?.pid);
                supervisor.stop(&label, now)?;
                key.into_iter().for_each(|key| self.stopped(key));
                if pid.is_none() {
                    let why = format!("no instance of {label} runs");
                    return Err(Refused::because(BootstrapCode::JOB_NOT_RUNNING, why));
                }
            }
            Request::Jobs { after } => {
                return Ok(Answer::Now(done(&Reply::Jobs(
                    self.page_of_jobs(after.as_ref()),
                ))));
            }
            Request::Job { label } => {
                let key = self.find(&label)?;
                let status = self.job_status(key).ok_or(BootstrapCode::NO_MEMORY)?;
                return Ok(Answer::Now(done(&Reply::Job(Box::new(status)))));
            }
            Request::Bounds { label } => return Ok(Answer::Now(self.bounds(&label)?)),
            Request::Violations { wait, after } => {
                return Ok(match wait && !self.violations.has_any(after) {
                    true => Answer::WhenRefused(after),
                    false => Answer::Now(self.violations.answer(after)),
                });
            }
            Request::Blame { after } => {
                return Ok(Answer::Now(done(&Reply::Blame(self.blame(after.as_ref())))));
            }
            _ => return Err(BootstrapCode::BAD_OPERATION.into()),
        }
        // What was asked for has happened when the answer comes.
        self.carry_out();
        Ok(Answer::Now(done(&Reply::Done)))
    }

    pub(super) fn find(&self, label: &JobLabel) -> Result<JobKey, Refused> {
        let key = self.jobs.supervisor.find(label);
        key.ok_or_else(|| CommandError::NoSuchJob(label.clone()).into())
    }

    fn load(&mut self, path: &str, file: Vec<u8>, enable: bool) -> Result<(), Refused> {
        let (job, parts) = self.prepare(path, &file)?;
        let job = match enable {
            true => {
                self.switch(&job.label, false);
                Job {
                    disabled: false,
                    ..job
                }
            }
            false => job,
        };
        self.tell_time_of_day();
        let (label, now) = (job.label.clone(), self.now());
        let loaded = self.jobs.supervisor.load(job, now);
        self.loaded(&label, (parts, &file), loaded)
    }

    /// Reads a job file, and makes what the job needs.
    fn prepare(&self, path: &str, file: &[u8]) -> Result<(Job, Parts), Refused> {
        let job = read(path, file)?;
        let parts = self.make_parts(path, file, &job)?;
        let disabled = self.is_switched_off(&job.label).unwrap_or(job.disabled);
        Ok((Job { disabled, ..job }, parts))
    }

    fn loaded(
        &mut self,
        label: &JobLabel,
        (parts, file): (Parts, &[u8]),
        loaded: Result<JobKey, LoadError>,
    ) -> Result<(), Refused> {
        let key = match loaded {
            Ok(key) => key,
            Err(error) => {
                parts.listeners.remove();
                return Err(Refused::from_load(label, &error));
            }
        };
        self.furnish(key, parts);
        self.declare_services(key);
        self.store.put_bytes(Kind::JobFile, key.0, file);
        self.write_job_down(key);
        self.warn_of_identity(key);
        tracing::debug!(%label, "loaded");
        Ok(())
    }

    /// As with launchd, the server of a user runs each job as that user, whatever its file says.
    fn warn_of_identity(&mut self, key: JobKey) {
        let job = self.jobs.supervisor.job(key);
        let names_one = job.is_some_and(|job| job.user_name.is_some() || job.group_name.is_some());
        if names_one && !rustix::process::geteuid().is_root() {
            let label = self.label(key);
            tracing::warn!(%label, "{NO_IDENTITY}");
            self.jobs.note(key, NO_IDENTITY);
        }
    }

    fn make_parts(&self, path: &str, file: &[u8], job: &Job) -> Result<Parts, Refused> {
        let Some(shop) = &self.jobs.workshop else {
            let why = "a server inside another program has no jobs";
            return Err(Refused::because(BootstrapCode::UNSUPPORTED, why));
        };
        if self.jobs.supervisor.find(&job.label).is_some() {
            return Err(Refused::from_load(
                &job.label,
                &LoadError::Duplicate(job.label.clone()),
            ));
        }
        let log = JobLog::open(&shop.logs, &job.label).map_err(|_| BootstrapCode::NO_MEMORY)?;
        let listeners = Listeners::open(job).map_err(|error| {
            let why = format!("{path}: {}", crate::daemon::chain(&error));
            Refused::because(BootstrapCode::BAD_JOB_FILE, why)
        })?;
        Ok(Parts::new(path.to_owned(), file, log, listeners))
    }

    /// Loads the job files of a directory, all at once. What is wrong with one is logged, and the
    /// others are loaded.
    pub fn load_directory(&mut self, directory: &Path) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "cannot read job files");
                return;
            }
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_job = |path: &std::path::PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("toml" | "plist"))
        };
        let files: BTreeSet<_> = files.filter(is_job).collect();
        let (mut jobs, mut prepared) = (Vec::new(), Vec::new());
        for file in files {
            let shown = file.display().to_string();
            let read = trusted_file(&file)
                .map_err(|error| Refused::because(BootstrapCode::BAD_JOB_FILE, error))
                .and_then(|bytes| match self.is_loaded(&shown, &bytes) {
                    true => Ok(None),
                    false => {
                        let made = self.prepare(&shown, &bytes);
                        made.map(|(job, parts)| Some((job, parts, bytes)))
                    }
                });
            match read {
                Ok(Some((job, parts, bytes))) => {
                    prepared.push((job.label.clone(), parts, bytes));
                    jobs.push(job);
                }
                Ok(None) => {}
                Err(refused) => tracing::warn!(file = %shown, "not loaded: {}", refused.text()),
            }
        }
        self.tell_time_of_day();
        let now = self.now();
        let loaded = self.jobs.supervisor.load_all(jobs, now);
        for ((label, parts, bytes), loaded) in prepared.into_iter().zip(loaded) {
            let file = parts.path.clone();
            if let Err(refused) = self.loaded(&label, (parts, &bytes), loaded) {
                tracing::warn!(%file, "not loaded: {}", refused.text());
            }
        }
        self.carry_out();
    }

    /// Whether a job is from this file, as it is now.
    fn is_loaded(&self, path: &str, file: &[u8]) -> bool {
        let mut parts = self.jobs.parts.values();
        parts.any(|parts| parts.path == path && parts.digest == jobs::digest(file))
    }

    fn kickstarted(&mut self, label: &JobLabel, kill: bool, wait: bool) -> Result<Answer, Refused> {
        let key = self.find(label)?;
        let status = self.jobs.supervisor.status(key);
        let pid = status.as_ref().and_then(|status| status.pid);
        let is_running = status.is_some_and(|status| status.state == JobState::Running);
        match wait && (kill || !is_running) {
            true => Ok(Answer::WhenStarted(key)),
            false => Ok(Answer::Now(done(&Reply::Kickstarted(pid)))),
        }
    }

    /// What asked for the job before does not any more.
    fn stopped(&mut self, key: JobKey) {
        self.write_tally_down(key);
        self.jobs.tell_waiters(key, || {
            let why = "it was stopped before it was started";
            Refused::because(BootstrapCode::JOB_NOT_RUNNING, why).into_message()
        });
    }

    fn try_exit(&mut self, caller: &Caller) -> Result<super::Message, Refused> {
        let job = of_a_job(caller)?;
        let services = self
            .jobs
            .parts
            .get(&job)
            .map(|parts| parts.services.clone());
        let mut ports = services.unwrap_or_default().into_values();
        let is_queued = ports.any(|port| self.has_unread(port));
        let now = self.now();
        let may = self.jobs.supervisor.try_exit(job, !is_queued, now);
        Ok(done(&Reply::TryExit(may)))
    }

    fn ready(&mut self, caller: &Caller) -> Result<super::Message, Refused> {
        let job = of_a_job(caller)?;
        let now = self.now();
        self.jobs.supervisor.ready(job, now);
        self.note_run(job);
        Ok(done(&Reply::Done))
    }

    fn page_of_jobs(&self, after: Option<&JobLabel>) -> Page<portolan_wire::jobs::JobSummary> {
        let keys = self.keys_by_label(after);
        let jobs = keys.into_iter().filter_map(|key| self.summary(key));
        Page::fill(jobs)
    }

    fn blame(&self, after: Option<&JobLabel>) -> Page<portolan_wire::jobs::Blame> {
        let (mut items, mut more) = (Vec::new(), false);
        for key in self.keys_by_label(after) {
            let starts = self.starts(key);
            if items.len() + starts.len() > portolan_wire::jobs::MAX_PAGE {
                more = true;
                break;
            }
            items.extend(starts);
        }
        Page { more, items }
    }

    fn keys_by_label(&self, after: Option<&JobLabel>) -> Vec<JobKey> {
        let jobs = self.jobs.supervisor.keys().into_iter();
        let labelled = jobs.filter_map(|key| {
            let label = self.jobs.supervisor.job(key)?.label.clone();
            after
                .is_none_or(|after| label.as_str() > after.as_str())
                .then_some((label.to_string(), key))
        });
        let mut labelled: Vec<_> = labelled.collect();
        labelled.sort();
        labelled.into_iter().map(|(_, key)| key).collect()
    }

    /// What the user has said about a job, if anything.
    fn is_switched_off(&self, label: &JobLabel) -> Option<bool> {
        let shop = self.jobs.workshop.as_ref()?;
        let text = fs::read_to_string(&shop.switches).ok()?;
        let mut lines = text.lines().rev();
        lines.find_map(|line| match line.split_once(' ')? {
            ("disabled", known) if known == label.as_str() => Some(true),
            ("enabled", known) if known == label.as_str() => Some(false),
            _ => None,
        })
    }

    /// Writes down what the user has said about a job, for servers to come.
    fn switch(&mut self, label: &JobLabel, off: bool) {
        let Some(shop) = &self.jobs.workshop else {
            return;
        };
        let known = fs::read_to_string(&shop.switches).unwrap_or_default();
        let others = known.lines().filter(|line| {
            let about = line.split_once(' ').map(|(_, about)| about);
            about != Some(label.as_str())
        });
        let word = if off { "disabled" } else { "enabled" };
        let mut text: String = others.flat_map(|line| [line, "\n"]).collect();
        text.push_str(&format!("{word} {label}\n"));
        if let Err(error) = replace_file(&shop.switches, text.as_bytes()) {
            let path = shop.switches.display();
            tracing::warn!(%path, %error, "the next server will not know that {label} is {word}");
        }
        if let Some(key) = self.jobs.supervisor.find(label) {
            self.write_tally_down(key);
        }
    }
}

fn of_a_job(caller: &Caller) -> Result<JobKey, Refused> {
    let job = caller.whose.job;
    job.ok_or_else(|| {
        let why = "only an instance of a job can say this, through the right that it inherited";
        Refused::because(BootstrapCode::JOB_NOT_FOUND, why)
    })
}

fn read(path: &str, file: &[u8]) -> Result<Job, Refused> {
    let reading = Reading::of(file);
    if let Some(job) = reading.job {
        return Ok(job);
    }
    let errors = reading.errors.iter().take(MAX_NAMED);
    let lines: Vec<_> = errors
        .map(|error| match error.at {
            Some(at) => format!("{path}:{}:{}: {error}", at.line, at.column),
            None => format!("{path}: {error}"),
        })
        .collect();
    Err(Refused::because(
        BootstrapCode::BAD_JOB_FILE,
        lines.join("\n"),
    ))
}

/// The contents of a job file that nobody but its owner, this user or root, can have written.
fn trusted_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::MetadataExt;
    let said = |error: io::Error| error.to_string();
    let file = fs::File::open(path).map_err(said)?;
    if is_in_container(&file).map_err(said)? {
        return Err("it is in a container, whose program could change it".to_owned());
    }
    let found = file.metadata().map_err(said)?;
    let own = rustix::process::getuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return Err(format!("it belongs to user {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Err("others can write to it: chmod go-w".to_owned());
    }
    crate::job::read_opened(file).map_err(said)
}

/// Puts a file in the place of another so that each reader sees one of them, whole.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, path)
}

impl From<CommandError> for Refused {
    fn from(error: CommandError) -> Self {
        let code = match &error {
            CommandError::Disabled(_) => BootstrapCode::JOB_DISABLED,
            _ => BootstrapCode::JOB_NOT_FOUND,
        };
        Self::because(code, error.to_string())
    }
}

impl Refused {
    fn from_load(label: &JobLabel, error: &LoadError) -> Self {
        match error {
            LoadError::Duplicate(_) => {
                let why = format!("{label} is loaded; unload it first");
                Self::because(BootstrapCode::JOB_LOADED, why)
            }
            other => Self::because(BootstrapCode::BAD_JOB_FILE, format!("{label}: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_container_is_not_trusted() {
        let directory = tempfile::TempDir::new().expect("a directory");
        for (place, is_trusted) in [
            ("portolan/Containers/a", false),
            ("portolan/Group Containers/group.a", false),
            ("portolan/jobs", true),
            ("Containers", true),
        ] {
            let place = directory.path().join(place);
            fs::create_dir_all(&place).expect("mkdir");
            let file = place.join("job.toml");
            fs::write(&file, "").expect("write");
            let link = place.join("link.toml");
            std::os::unix::fs::symlink(&file, &link).expect("a link");
            for path in [file, link] {
                assert_eq!(trusted_file(&path).is_ok(), is_trusted, "{path:?}");
            }
        }
    }
}
