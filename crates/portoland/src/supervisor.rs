//! When which job runs: the job state machine of one domain, without I/O.
//!
//! The driver tells what happened, each time with the time since the server's start, and then
//! carries out what [`next_action`](Supervisor::next_action) gives until there is nothing left.
//! Neither a clock nor a process is touched here, and jitter comes from a seed, so that the same
//! events have the same effects.
//!
//! What a job does is not stored but follows: it has an instance or not, something asks for it or
//! not, and from when on it may be started. After each event that is worked out anew for each job
//! that the event concerns, which is why no demand can be forgotten in some state.
//!
//! # When a job is started
//!
//! By a message at one of its services, a connection, a path, an interval, the calendar,
//! `RunAtLoad`, `KeepAlive`, the user, or a job that requires it. Looking a service up starts
//! nothing. What asks for a start while an instance runs is left to it, but for changes of a path,
//! after which it runs once more.
//!
//! # When it has to wait
//!
//! Only failed runs have a price. A run has failed if it could not be started, ended by an exit
//! status or a signal that the server did not ask for, did not check in within `TimeOut`, or left
//! messages at a service that it never checked in or that it did not take a single one from.
//!
//! | after | the next start is |
//! | --- | --- |
//! | a good run | at once |
//! | a good run, by `KeepAlive`, a path or a job that requires it | `ThrottleInterval` (10 s) after the last start |
//! | a failed run, with a `ThrottleInterval` in the job file | that long after the last start, as launchd has it |
//! | a failed run, without one | 0.1 s after its end, and twice that after each further failure, up to 10 s and on to 60 s, a fifth more or less |
//! | 20 failed runs in a row | 10 minutes later, or when the user or a program that appears asks for it |
//! | 20 starts by a socket in 2 s | when the 2 s are over |
//!
//! A run of a minute or longer starts the count anew. While a job has failed, those who wait for
//! it are told why at once, and so is everybody who comes.
//!
//! # How it ends
//!
//! SIGTERM; SIGKILL to all of its processes after `ExitTimeOut` (20 s; 0 is for ever); and when
//! its first process has exited, whatever is left of it is killed, unless `AbandonProcessGroup` is
//! set. An end that the server asked for is no failure, and counts as a success for `KeepAlive`.

mod action;
mod calendar;
mod entry;
mod error;
mod order;
mod outcome;
mod services;
mod throttle;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;

pub use crate::registry::JobKey;
pub use action::{Action, Signal, Warning, Watch};
pub use calendar::{Civil, next as next_time};
pub use error::{CommandError, LoadError};
pub use outcome::{Exit, Failure, JobState, Reason, StartFailure, Status, Unfinished};
pub use services::POISON_CRASHES;
pub use throttle::{LONGEST_DELAY, PROBE, START_LIMIT};

use crate::job::{Job, KeepAlive, MachService};
use entry::{Appointment, Block, Entry, Instance, NextStep, Shown, Stop, StopReason};
use services::{End, Handling, Services};
use throttle::Random;

/// The most jobs that one supervisor has.
pub const MAX_JOBS: usize = 1 << 14;

/// How long after SIGKILL an instance is left behind when the server ends.
const LEAVE_BEHIND: Duration = Duration::from_secs(4);

/// How far a clock may be set back before the calendar is worked out anew: summer time ends by
/// less.
const SMALL_STEP: i64 = 3 * 3600;

/// What asks for a job, besides messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A connection or a datagram at the socket with this key.
    Socket(String),
    /// One of `WatchPaths` has changed, a queue directory is not empty, or the file of
    /// `StandardInPath` is readable.
    Path(PathBuf),
}

/// What a job did under a server that is gone, for [`Supervisor::restore`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Whether the user has disabled it.
    pub disabled: bool,
    /// The process that still runs.
    pub pid: Option<u32>,
    /// What that process has checked in.
    pub checked_in: Vec<ServiceName>,
    /// Whether it was ready.
    pub ready: bool,
    /// How often it was started.
    pub runs: u64,
    /// How its last instance ended.
    pub last_exit: Option<Exit>,
    /// Whether that server ended it because it was about to end itself, so that `RunAtLoad` starts it
    /// again.
    pub ended_with_server: bool,
}

/// The jobs of one domain.
#[derive(Debug)]
pub struct Supervisor {
    jobs: HashMap<JobKey, Entry>,
    labels: HashMap<JobLabel, JobKey>,
    services: HashMap<ServiceName, JobKey>,
    /// Jobs that name another one, by its label.
    dependents: HashMap<JobLabel, BTreeSet<JobKey>>,
    timers: BTreeSet<(Duration, JobKey)>,
    appointments: BTreeSet<(Civil, JobKey)>,
    calendar_jobs: BTreeSet<JobKey>,
    civil: Option<Civil>,
    /// Jobs for which what follows is to be worked out anew.
    unsettled: BTreeSet<JobKey>,
    actions: VecDeque<Action>,
    random: Random,
    last_key: u64,
    instances: usize,
    now: Duration,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Begun,
    Done,
}

impl Supervisor {
    /// A supervisor without jobs. The seed decides on the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            jobs: HashMap::new(),
            labels: HashMap::new(),
            services: HashMap::new(),
            dependents: HashMap::new(),
            timers: BTreeSet::new(),
            appointments: BTreeSet::new(),
            calendar_jobs: BTreeSet::new(),
            civil: None,
            unsettled: BTreeSet::new(),
            actions: VecDeque::new(),
            random: Random::new(seed),
            last_key: 0,
            instances: 0,
            now: Duration::ZERO,
            ending: Ending::No,
        }
    }

    /// What is to be done next. The driver takes all actions after each event.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`timer`](Self::timer) is to be called, if nothing happens before.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// At which civil time [`calendar`](Self::calendar) is to be called.
    #[must_use]
    pub fn next_calendar(&self) -> Option<Civil> {
        self.appointments.first().map(|(due, _)| *due)
    }

    /// The key of a label.
    #[must_use]
    pub fn find(&self, label: &JobLabel) -> Option<JobKey> {
        self.labels.get(label).copied()
    }

    /// The job with a service, unless that was left out.
    #[must_use]
    pub fn owner(&self, service: &ServiceName) -> Option<JobKey> {
        self.services.get(service).copied()
    }

    /// The job file's keys, except for its services ([`services`](Self::services)).
    #[must_use]
    pub fn job(&self, key: JobKey) -> Option<&Job> {
        self.jobs.get(&key).map(|entry| &entry.job)
    }

    /// The services of a job that were not left out.
    pub fn services(&self, key: JobKey) -> impl Iterator<Item = &ServiceName> {
        let entry = self.jobs.get(&key).into_iter();
        entry.flat_map(|entry| entry.services.names())
    }

    /// What the job file says of a service that was not left out.
    #[must_use]
    pub fn service(&self, key: JobKey, name: &ServiceName) -> Option<&MachService> {
        self.jobs.get(&key)?.services.options(name)
    }

    /// What a job does.
    #[must_use]
    pub fn status(&self, key: JobKey) -> Option<Status> {
        let entry = self.jobs.get(&key)?;
        Some(entry.status(self.others_hold(entry), self.now))
    }

    /// Whether the user has disabled a job.
    #[must_use]
    pub fn is_disabled(&self, key: JobKey) -> bool {
        self.jobs.get(&key).is_some_and(|entry| entry.disabled)
    }

    /// What was asked of a job by [`load`](Self::load), [`kickstart`](Self::kickstart),
    /// [`stop`](Self::stop) and [`unload`](Self::unload), and has not come to pass.
    #[must_use]
    pub fn unfinished(&self, key: JobKey) -> Unfinished {
        let entry = self.jobs.get(&key);
        entry.map(Entry::unfinished).unwrap_or_default()
    }

    /// Whether an instance runs and has said that it is ready, or checked in all services.
    #[must_use]
    pub fn is_ready(&self, key: JobKey) -> bool {
        let instance = self
            .jobs
            .get(&key)
            .and_then(|entry| entry.instance.as_ref());
        instance.is_some_and(|instance| instance.ready)
    }

    /// All jobs, in the order in which they were loaded.
    #[must_use]
    pub fn keys(&self) -> Vec<JobKey> {
        let mut keys: Vec<_> = self.jobs.keys().copied().collect();
        keys.sort();
        keys
    }

    /// Loads a job.
    ///
    /// # Errors
    ///
    /// [`LoadError`]. A service whose name another job has is left out with a warning.
    pub fn load(&mut self, job: Job, now: Duration) -> Result<JobKey, LoadError> {
        self.at(now);
        let key = self.next_key();
        self.insert(key, job, None)?;
        self.settle();
        Ok(key)
    }

    /// Loads jobs at once, so that the order in which they come does not matter to `After`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] for each that is not loaded.
    pub fn load_all(&mut self, jobs: Vec<Job>, now: Duration) -> Vec<Result<JobKey, LoadError>> {
        self.at(now);
        let load = |job| {
            let key = self.next_key();
            self.insert(key, job, None).map(|()| key)
        };
        let loaded = jobs.into_iter().map(load).collect();
        self.settle();
        loaded
    }

    /// Loads a job as it was under a server that is gone, with the key that it had there. A process
    /// that still runs is adopted; `RunAtLoad` is done, unless [`Past::ended_with_server`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`LoadError`]
    pub fn restore(
        &mut self,
        key: JobKey,
        job: Job,
        past: &Past,
        now: Duration,
    ) -> Result<(), LoadError> {
        self.at(now);
        self.insert(key, job, Some(past))?;
        self.settle();
        Ok(())
    }

    /// Forgets a job, once its instance has ended.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoSuchJob`]
    pub fn unload(&mut self, label: &JobLabel, now: Duration) -> Result<(), CommandError> {
        self.at(now);
        let key = self.must_find(label)?;
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.removing = true;
        }
        self.stop_instance(key, StopReason::Asked);
        self.settle_after(key);
        Ok(())
    }

    /// Lets a job be started again.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoSuchJob`]
    pub fn enable(&mut self, label: &JobLabel, now: Duration) -> Result<(), CommandError> {
        self.set_disabled(label, false, now)
    }

    /// Has a job not be started by anything. An instance that runs goes on.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoSuchJob`]
    pub fn disable(&mut self, label: &JobLabel, now: Duration) -> Result<(), CommandError> {
        self.set_disabled(label, true, now)
    }

    fn set_disabled(
        &mut self,
        label: &JobLabel,
        disabled: bool,
        now: Duration,
    ) -> Result<(), CommandError> {
        self.at(now);
        let key = self.must_find(label)?;
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.disabled = disabled;
            entry.restart_interval(now);
        }
        self.settle_after(key);
        Ok(())
    }

    /// Starts a job now, whatever happened to it before; with `kill`, ends its instance first.
    /// `asker` is the process of the user who wants it. Without `kill`, a job that runs is left
    /// alone.
    ///
    /// # Errors
    ///
    /// [`CommandError`]
    pub fn kickstart(
        &mut self,
        label: &JobLabel,
        kill: bool,
        asker: u32,
        now: Duration,
    ) -> Result<(), CommandError> {
        self.at(now);
        let key = self.must_find(label)?;
        if let Some(entry) = self.jobs.get_mut(&key) {
            if entry.removing {
                return Err(CommandError::Unloading(label.clone()));
            }
            if entry.disabled {
                return Err(CommandError::Disabled(label.clone()));
            }
            let runs = entry.instance.as_ref();
            if kill || runs.is_none_or(|instance| instance.stop.is_some()) {
                entry.throttle.forgive();
                entry.ask(Reason::Kickstart(asker));
            }
        }
        if kill {
            self.stop_instance(key, StopReason::Asked);
        }
        self.settle_after(key);
        Ok(())
    }

    /// Ends the instance of a job. If something asks for the job then, it is started again.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoSuchJob`]
    pub fn stop(&mut self, label: &JobLabel, now: Duration) -> Result<(), CommandError> {
        self.at(now);
        let key = self.must_find(label)?;
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.pending = None;
        }
        self.stop_instance(key, StopReason::Asked);
        self.settle_after(key);
        Ok(())
    }

    /// Ends all instances, those first that others do not wait for, and then says
    /// [`Action::Done`]. Nothing is started any more.
    pub fn shut_down(&mut self, now: Duration) {
        self.at(now);
        if self.ending == Ending::No {
            self.ending = Ending::Begun;
        }
        self.unsettled.extend(self.jobs.keys());
        self.settle();
    }

    /// A message is queued at a service that nobody has checked in.
    pub fn demand(&mut self, service: &ServiceName, now: Duration) {
        self.at(now);
        let Some(key) = self.owner(service) else {
            return;
        };
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.services.message_came(service);
            entry.tell = true;
        }
        self.settle_after(key);
    }

    /// No message is queued at a service any more, because the driver has taken them.
    pub fn emptied(&mut self, service: &ServiceName, now: Duration) {
        self.at(now);
        let Some(key) = self.owner(service) else {
            return;
        };
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.services.emptied(service);
        }
        self.settle_after(key);
    }

    /// Something other than a message asks for a job.
    pub fn triggered(&mut self, key: JobKey, trigger: Trigger, now: Duration) {
        self.at(now);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        match trigger {
            _ if entry.disabled => {}
            Trigger::Path(path) => entry.ask(Reason::Path(path)),
            // The sockets are the instance's. What it leaves there is reported after its end.
            Trigger::Socket(_) if entry.instance.is_some() => {}
            Trigger::Socket(socket) => entry.ask(Reason::Socket(socket)),
        }
        entry.tell = true;
        self.settle_after(key);
    }

    /// Whether a path exists that `KeepAlive.PathState` of a job names.
    pub fn path_state(&mut self, key: JobKey, path: &Path, exists: bool, now: Duration) {
        self.at(now);
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.path_is(path, exists);
        }
        self.settle_after(key);
    }

    /// A file that was missing when a job was to be started is there now.
    pub fn program_appeared(&mut self, key: JobKey, now: Duration) {
        self.at(now);
        if let Some(entry) = self.jobs.get_mut(&key)
            && matches!(entry.throttle.last, Some(Failure::Start(_)))
        {
            entry.throttle.forgive();
        }
        self.settle_after(key);
    }

    /// An instance has been started.
    pub fn started(&mut self, key: JobKey, pid: u32, now: Duration) {
        self.at(now);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let ready = entry.services.is_empty();
        let Some(instance) = entry.instance.as_mut().filter(|found| found.pid.is_none()) else {
            return;
        };
        instance.pid = Some(pid);
        instance.ready = ready;
        if let Some(stop) = instance.stop.take() {
            self.stop_instance(key, stop.why);
        }
        self.settle_after(key);
    }

    /// An instance could not be started. Those who wait for it are told.
    pub fn start_failed(&mut self, key: JobKey, failure: StartFailure, now: Duration) {
        self.at(now);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let starting = |instance: &mut Instance| instance.pid.is_none();
        let Some(instance) = entry.instance.take_if(starting) else {
            return;
        };
        self.instances -= 1;
        if !matches!(entry.asked, Some(Reason::Demand(_) | Reason::KeepAlive)) {
            entry.ask(Reason::Retry);
        }
        let reset = entry.services.reset_all();
        let failure = Failure::from(failure);
        self.run_failed(key, failure.clone(), instance.since);
        self.actions.push_back(Action::TellWaiting(key, failure));
        self.handle(key, reset);
        self.settle_after(key);
    }

    /// The instance has checked in a service of its job.
    pub fn checked_in(&mut self, key: JobKey, service: &ServiceName, now: Duration) {
        self.at(now);
        if let Some(entry) = self.jobs.get_mut(&key)
            && let Some(instance) = &mut entry.instance
        {
            entry.services.check_in(service);
            instance.ready |= entry.services.are_served();
        }
        self.settle_after(key);
    }

    /// The receive right of a service came back from an instance that goes on.
    pub fn returned(
        &mut self,
        key: JobKey,
        service: &ServiceName,
        has_messages: bool,
        now: Duration,
    ) {
        self.at(now);
        if let Some(entry) = self.jobs.get_mut(&key) {
            let handling = entry.services.came_back(service, has_messages);
            self.handle(key, handling);
        }
        self.settle_after(key);
    }

    /// A service does not belong to its job any more: the job has taken the name back, or the
    /// registry did not give it.
    pub fn undeclared(&mut self, service: &ServiceName, now: Duration) {
        self.at(now);
        let Some(key) = self.services.remove(service) else {
            return;
        };
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.services.undeclare(service);
        }
        self.settle_after(key);
    }

    /// The instance has said that it is ready (`READY=1`).
    pub fn ready(&mut self, key: JobKey, now: Duration) {
        self.at(now);
        if let Some(entry) = self.jobs.get_mut(&key)
            && let Some(instance) = &mut entry.instance
        {
            instance.ready = true;
        }
        self.settle_after(key);
    }

    /// The instance asks whether it may exit because it has nothing to do. If it may, it is
    /// started again for whatever comes from now on, as soon as it has ended.
    #[must_use]
    pub fn try_exit(&mut self, key: JobKey, nothing_queued: bool, now: Duration) -> bool {
        self.at(now);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return true;
        };
        let runs = entry.instance.as_ref();
        if runs.is_none_or(|instance| instance.stop.is_some()) {
            return true;
        }
        if !nothing_queued || entry.services.demand().is_some() {
            return false;
        }
        self.stop_instance(key, StopReason::Idle);
        self.settle_after(key);
        true
    }

    /// The first process of the instance has exited, and all receive rights that it had are back.
    /// `left` has each service of the job with a message in its queue, and a number by which the
    /// first message there is known again.
    pub fn exited(&mut self, key: JobKey, exit: Exit, left: &[(ServiceName, u64)], now: Duration) {
        self.at(now);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let runs = |instance: &mut Instance| instance.pid.is_some();
        let Some(instance) = entry.instance.take_if(runs) else {
            return;
        };
        self.instances -= 1;
        let why = instance.stop.map(|stop| stop.why);
        let end = match why {
            None if exit.is_crash() => End::Crashed,
            None if exit.is_failure() => End::Failed,
            _ => End::Well,
        };
        let failure = match why {
            Some(StopReason::NotCheckedIn) => Some(Failure::NotCheckedIn),
            None if end != End::Well => Some(Failure::Ended(exit)),
            None if entry.services.are_neglected(left) => Some(Failure::LeftUnread),
            _ => None,
        };
        let handling = entry.services.ended(left, end);
        entry.ends(exit, why.is_some() && failure.is_none());
        entry.removing |= entry.job.launch_only_once;
        if !entry.job.abandon_process_group {
            self.actions.push_back(Action::Sweep(key));
        }
        match failure {
            None => entry.throttle.succeeded(instance.since),
            Some(failure) => self.run_failed(key, failure, instance.since),
        }
        self.handle(key, handling);
        self.release(key);
        self.settle_after(key);
    }

    /// Time has passed: does what is due.
    pub fn timer(&mut self, now: Duration) {
        self.at(now);
        let due = self.timers.iter().take_while(|(due, _)| *due <= now);
        let due: Vec<JobKey> = due.map(|(_, key)| *key).collect();
        for key in due {
            self.tick(key);
            self.unsettled.insert(key);
        }
        self.settle();
    }

    /// Tells what the clock on the wall shows: at the start, when
    /// [`next_calendar`](Self::next_calendar) has come, and when the clock has been set. Runs that
    /// were missed count as one.
    pub fn calendar(&mut self, civil: Civil, now: Duration) {
        self.at(now);
        self.civil = Some(civil);
        let due = self
            .appointments
            .iter()
            .take_while(|(due, _)| *due <= civil);
        let due: Vec<JobKey> = due.map(|(_, key)| *key).collect();
        for key in due {
            if let Some(entry) = self.jobs.get_mut(&key)
                && entry.instance.is_none()
                && !entry.disabled
            {
                entry.ask(Reason::Calendar);
            }
            self.make_appointment(key, civil);
            self.unsettled.insert(key);
        }
        for key in self.calendar_jobs.clone() {
            if self.is_outdated(key, civil) {
                self.make_appointment(key, civil);
            }
        }
        self.settle();
    }

    /// Time does not run backwards here.
    fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn must_find(&self, label: &JobLabel) -> Result<JobKey, CommandError> {
        let key = self.find(label);
        key.ok_or_else(|| CommandError::NoSuchJob(label.clone()))
    }

    fn next_key(&self) -> JobKey {
        JobKey(self.last_key + 1)
    }

    fn insert(&mut self, key: JobKey, job: Job, past: Option<&Past>) -> Result<(), LoadError> {
        self.check_loadable(&job)?;
        self.last_key = self.last_key.max(key.0);
        let label = job.label.clone();
        let mut entry = Entry::new(job, past, self.now);
        self.declare(key, &mut entry);
        if let Some(past) = past {
            self.adopt(&mut entry, past);
        }
        for other in named(&entry.job) {
            let dependents = self.dependents.entry(other.clone()).or_default();
            dependents.insert(key);
        }
        entry.shown = self.shown_by(&entry, self.others_hold(&entry));
        if !entry.job.start_calendar_interval.is_empty() {
            self.calendar_jobs.insert(key);
        }
        self.jobs.insert(key, entry);
        if let Some(civil) = self.civil {
            self.make_appointment(key, civil);
        }
        let dependents = self.dependents.get(&label);
        self.unsettled.extend(dependents.into_iter().flatten());
        self.labels.insert(label, key);
        self.unsettled.insert(key);
        Ok(())
    }

    fn check_loadable(&self, job: &Job) -> Result<(), LoadError> {
        if self.ending != Ending::No {
            return Err(LoadError::Ending);
        }
        if self.labels.contains_key(&job.label) {
            return Err(LoadError::Duplicate(job.label.clone()));
        }
        if self.jobs.len() >= MAX_JOBS {
            return Err(LoadError::TooMany);
        }
        let waits = |label: &JobLabel| {
            let loaded = self.find(label).and_then(|key| self.job(key));
            let found = if *label == job.label {
                Some(job)
            } else {
                loaded
            };
            let waits = found.map(|job| job.requires.iter().chain(&job.after));
            waits.into_iter().flatten().collect()
        };
        match order::cycle(&job.label, waits) {
            None => Ok(()),
            Some(cycle) => Err(LoadError::Cycle(cycle)),
        }
    }

    fn declare(&mut self, key: JobKey, entry: &mut Entry) {
        let mut own = Vec::new();
        for (name, options) in std::mem::take(&mut entry.job.mach_services) {
            if let Some(other) = self.services.get(&name).and_then(|key| self.job(*key)) {
                let owner = other.label.clone();
                let warning = Warning::NameTaken { name, owner };
                self.actions.push_back(Action::Warn(key, warning));
            } else {
                self.services.insert(name.clone(), key);
                own.push((name, options));
            }
        }
        entry.services = Services::declared(own);
    }

    fn adopt(&mut self, entry: &mut Entry, past: &Past) {
        let Some(pid) = past.pid else {
            return;
        };
        for name in &past.checked_in {
            entry.services.check_in(name);
        }
        let mut instance = Instance::new(Some(pid), self.now);
        instance.ready = past.ready || entry.services.are_served();
        entry.instance = Some(instance);
        self.instances += 1;
    }

    /// Makes the instance end, if there is one that does not end already.
    fn stop_instance(&mut self, key: JobKey, why: StopReason) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let Some(instance) = &mut entry.instance else {
            return;
        };
        let idle = |stop: Stop| stop.why == StopReason::Idle && why != StopReason::Idle;
        if instance.stop.is_some_and(|stop| !idle(stop)) {
            return;
        }
        let seconds = entry.job.exit_time_out;
        let patience = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let started = instance.pid.is_some();
        let kill = patience.map(|patience| (self.now + patience, NextStep::Kill));
        let next = kill.filter(|_| started);
        instance.stop = Some(Stop { why, next });
        if started && why != StopReason::Idle {
            let signal = Action::Signal(key, Signal::Terminate);
            self.actions.push_back(signal);
        }
    }

    fn run_failed(&mut self, key: JobKey, failure: Failure, started: Duration) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let throttle = &mut entry.throttle;
        throttle.failed(failure.clone(), started, self.now, &mut self.random);
        let runs = throttle.in_a_row;
        if throttle.has_failed() {
            let warning = Warning::Failed { runs, failure };
            self.actions.push_back(Action::Warn(key, warning));
        }
    }

    fn handle(&mut self, key: JobKey, handling: impl IntoIterator<Item = Handling>) {
        let actions = handling.into_iter().map(|handling| match handling {
            Handling::SetAside(name) => Action::SetAside(key, name),
            Handling::Drain(name, drain) => Action::Drain(key, name, drain),
            Handling::Reset(name) => Action::Reset(key, name),
        });
        self.actions.extend(actions);
    }

    /// Lets the jobs end that had to wait for this one to end.
    fn release(&mut self, key: JobKey) {
        if self.ending == Ending::No {
            return;
        }
        if let Some(entry) = self.jobs.get(&key) {
            let named = named(&entry.job).filter_map(|label| self.labels.get(label));
            self.unsettled.extend(named);
        }
    }

    /// Does what is due for a job.
    fn tick(&mut self, key: JobKey) {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if entry.interval_is_over(now) && entry.instance.is_none() && !entry.disabled {
            entry.ask(Reason::Interval);
        }
        if entry.throttle.probe.is_some_and(|probe| probe <= now) {
            entry.throttle.try_again();
        }
        if entry.is_late(now) {
            let late = Action::TellWaiting(key, Failure::NotCheckedIn);
            self.actions.push_back(late);
            return self.stop_instance(key, StopReason::NotCheckedIn);
        }
        let stop = entry
            .instance
            .as_mut()
            .and_then(|found| found.stop.as_mut());
        match stop.and_then(|stop| stop.next.take_if(|(due, _)| *due <= now)) {
            None => {}
            Some((_, NextStep::Kill)) => self.kill(key),
            Some((_, NextStep::LeaveBehind)) => {
                let warning = Action::Warn(key, Warning::LeftBehind);
                self.actions.push_back(warning);
                self.exited(key, Exit::Unknown, &[], now);
            }
        }
    }

    fn kill(&mut self, key: JobKey) {
        let kill = Action::Signal(key, Signal::Kill);
        self.actions.push_back(kill);
        if self.ending != Ending::No {
            self.leave_behind_if_killed(key);
        }
    }

    fn is_outdated(&self, key: JobKey, civil: Civil) -> bool {
        let Some(entry) = self.jobs.get(&key) else {
            return false;
        };
        let Some(appointment) = entry.appointment else {
            return true;
        };
        let back = appointment.from.seconds() - civil.seconds();
        back > SMALL_STEP || back > 0 && calendar::is_hourly(&entry.job.start_calendar_interval)
    }

    fn make_appointment(&mut self, key: JobKey, from: Civil) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let due = calendar::next(&entry.job.start_calendar_interval, from);
        let old = entry.appointment.replace(Appointment { due, from });
        if let Some(old) = old.and_then(|old| old.due) {
            self.appointments.remove(&(old, key));
        }
        self.appointments.extend(due.map(|due| (due, key)));
    }

    fn settle_after(&mut self, key: JobKey) {
        self.unsettled.insert(key);
        self.settle();
    }

    /// Works out what follows from what has happened, for each job that it concerns.
    fn settle(&mut self) {
        while let Some(key) = self.unsettled.pop_first() {
            self.settle_job(key);
        }
        if self.ending == Ending::Begun && self.instances == 0 {
            self.ending = Ending::Done;
            self.actions.push_back(Action::Done);
        }
    }

    fn settle_job(&mut self, key: JobKey) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if entry.instance.is_none() && entry.removing {
            return self.forget(key);
        }
        entry.note_awaited(self.now);
        if self.ending == Ending::No {
            self.start_if_wanted(key);
        } else {
            self.stop_if_unneeded(key);
        }
        self.tell(key);
    }

    fn start_if_wanted(&mut self, key: JobKey) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let wanted = entry.wanted(self.others_hold(entry));
        let due = wanted.filter(|(gate, _)| *gate <= self.now && !entry.throttle.has_failed());
        let block = match &due {
            None => None,
            Some((_, reason)) => self.block(entry, reason),
        };
        match (due, block) {
            (Some((_, reason)), None) => self.start(key, reason),
            (_, block) => self.set_block(key, block),
        }
    }

    fn start(&mut self, key: JobKey, reason: Reason) {
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.starts(reason, self.now);
            self.instances += 1;
            self.actions.push_back(Action::Start(key));
        }
    }

    /// What is in the way of a start for this reason.
    fn block(&self, entry: &Entry, reason: &Reason) -> Option<Block> {
        let requires = entry.job.requires.iter();
        if let Some(block) = requires.filter_map(|label| self.requirement(label)).next() {
            return Some(block);
        }
        let first = matches!(reason, Reason::RunAtLoad | Reason::KeepAlive) && entry.runs == 0;
        let mut after = entry.job.after.iter().filter(|_| first);
        let ahead = after.find(|label| self.shown(label).is_some_and(|shown| shown.coming_up));
        ahead.map(|label| Block::Until(label.clone()))
    }

    fn requirement(&self, label: &JobLabel) -> Option<Block> {
        match self.shown(label) {
            Some(shown) if shown.ready => None,
            Some(shown) if shown.hopeless.is_none() && shown.enabled => {
                Some(Block::Until(label.clone()))
            }
            _ => Some(Block::Hopeless(Failure::Requires(label.clone()))),
        }
    }

    fn shown(&self, label: &JobLabel) -> Option<&Shown> {
        let entry = self.jobs.get(self.labels.get(label)?)?;
        Some(&entry.shown)
    }

    /// Notes what is in the way, and asks for the jobs that are required.
    fn set_block(&mut self, key: JobKey, block: Option<Block>) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        entry.block = block;
        if entry.block.is_none() {
            return;
        }
        let (label, requires) = (entry.job.label.clone(), entry.job.requires.clone());
        for required in requires {
            self.require(&required, &label);
        }
    }

    fn require(&mut self, required: &JobLabel, label: &JobLabel) {
        let Some(key) = self.find(required) else {
            return;
        };
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let known = match &mut entry.instance {
            Some(instance) => std::mem::replace(&mut instance.required, true),
            None => entry.pending.is_some(),
        };
        if !known {
            if entry.instance.is_none() {
                entry.ask(Reason::Required(label.clone()));
            }
            self.unsettled.insert(key);
        }
    }

    fn stop_if_unneeded(&mut self, key: JobKey) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let dependents = self.dependents.get(&entry.job.label).into_iter().flatten();
        let needed = dependents
            .filter_map(|key| self.jobs.get(key))
            .any(|other| other.instance.is_some() && waits_for(&other.job, &entry.job.label));
        if needed {
            return;
        }
        self.stop_instance(key, StopReason::Asked);
        self.leave_behind_if_killed(key);
    }

    /// An instance that was killed and is still there is not waited for much longer.
    fn leave_behind_if_killed(&mut self, key: JobKey) {
        let leave = (self.now + LEAVE_BEHIND, NextStep::LeaveBehind);
        if let Some(entry) = self.jobs.get_mut(&key)
            && entry.job.exit_time_out > 0
            && let Some(instance) = entry.instance.as_mut()
            && instance.pid.is_some()
            && let Some(stop) = &mut instance.stop
        {
            stop.next.get_or_insert(leave);
        }
    }

    /// Tells the driver and other jobs what is new about a job.
    fn tell(&mut self, key: JobKey) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let others = self.others_hold(entry);
        let watch = match self.ending {
            Ending::No => entry.wanted_watch(others),
            Ending::Begun | Ending::Done => Watch::Off,
        };
        let deadline = entry
            .wanted_deadline(others)
            .filter(|_| self.ending == Ending::No || entry.instance.is_some());
        let shown = self.shown_by(entry, others);
        self.set_deadline(key, deadline);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let tell = std::mem::take(&mut entry.tell);
        if let Some(failure) = &shown.hopeless
            && (tell || entry.shown.hopeless != shown.hopeless)
        {
            let failure = Action::TellWaiting(key, failure.clone());
            self.actions.push_back(failure);
        }
        if entry.watch != watch {
            entry.watch = watch;
            self.actions.push_back(Action::Watch(key, watch));
        }
        if entry.shown != shown {
            entry.shown = shown;
            let dependents = self.dependents.get(&entry.job.label);
            self.unsettled.extend(dependents.into_iter().flatten());
        }
    }

    fn shown_by(&self, entry: &Entry, others: bool) -> Shown {
        let instance = entry.instance.as_ref();
        let hopeless = entry.hopeless();
        let waits = instance.is_none() && entry.wanted(others).is_some();
        let first = waits && entry.throttle.in_a_row == 0 && entry.runs == 0;
        Shown {
            enabled: !entry.disabled && !entry.removing,
            active: instance.is_some_and(|instance| instance.pid.is_some()),
            ready: instance.is_some_and(Instance::is_ready),
            coming_up: hopeless.is_none() && first
                || instance.is_some_and(|instance| instance.pid.is_none()),
            hopeless,
        }
    }

    fn set_deadline(&mut self, key: JobKey, deadline: Option<Duration>) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut entry.deadline, deadline);
        if old != deadline {
            if let Some(old) = old {
                self.timers.remove(&(old, key));
            }
            self.timers.extend(deadline.map(|due| (due, key)));
        }
    }

    /// Whether a condition of `KeepAlive` on other jobs holds.
    fn others_hold(&self, entry: &Entry) -> bool {
        let KeepAlive::While(conditions) = &entry.job.keep_alive else {
            return false;
        };
        let holds =
            |label: &JobLabel, state: fn(&Shown) -> bool| self.shown(label).is_some_and(state);
        let mut enabled = conditions.other_job_enabled.iter();
        let mut active = conditions.other_job_active.iter();
        enabled.any(|(label, wanted)| holds(label, |shown| shown.enabled) == *wanted)
            || active.any(|(label, wanted)| holds(label, |shown| shown.active) == *wanted)
    }

    fn forget(&mut self, key: JobKey) {
        self.set_deadline(key, None);
        let Some(entry) = self.jobs.remove(&key) else {
            return;
        };
        let label = &entry.job.label;
        self.labels.remove(label);
        for name in entry.services.names() {
            self.services.remove(name);
        }
        for other in named(&entry.job) {
            if let Some(dependents) = self.dependents.get_mut(other) {
                dependents.remove(&key);
                if dependents.is_empty() {
                    self.dependents.remove(other);
                }
            }
        }
        self.calendar_jobs.remove(&key);
        if let Some(due) = entry.appointment.and_then(|found| found.due) {
            self.appointments.remove(&(due, key));
        }
        self.actions.push_back(Action::CloseServices(key));
        self.actions.push_back(Action::Forget(key));
        let dependents = self.dependents.get(label);
        self.unsettled.extend(dependents.into_iter().flatten());
    }
}

/// The labels of jobs that this one looks at.
fn named(job: &Job) -> impl Iterator<Item = &JobLabel> {
    let conditions = match &job.keep_alive {
        KeepAlive::While(conditions) => Some(conditions),
        KeepAlive::Always(_) => None,
    };
    let kept = conditions.into_iter().flat_map(|conditions| {
        let enabled = conditions.other_job_enabled.keys();
        enabled.chain(conditions.other_job_active.keys())
    });
    job.requires.iter().chain(&job.after).chain(kept)
}

fn waits_for(job: &Job, label: &JobLabel) -> bool {
    job.requires.contains(label) || job.after.contains(label)
}
