//! Jobs: what the supervisor decides is done here, and what happens is told to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use portolan_port::{Debts, Message, SendOnceRight};
use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;
use rustix::event::epoll::{self, EventFlags};

use super::answer::Refused;
use super::door::DoorKey;
use super::store::Kind;
use super::{Server, Source, Workshop};
use crate::launch::{self, Instance};
use crate::log::JobLog;
use crate::registry::{JobKey, PortKey};
use crate::sockets::Listeners;
use crate::supervisor::{Action, Exit, Reason, Supervisor, Warning, Watch};

/// The most starts of one job that are remembered for `portolan blame`.
pub(super) const MAX_STARTS: usize = portolan_wire::jobs::MAX_STARTS;

/// The jobs of a server, and what they are made of.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) supervisor: Supervisor,
    pub(super) parts: HashMap<JobKey, Parts>,
    pub(super) workshop: Option<Workshop>,
    pub(super) by_pid: HashMap<u32, JobKey>,
    /// Those with the beginning of a line that is to be written some time.
    logs_due: BTreeSet<JobKey>,
    /// Who wants to know what came of a start.
    waiters: Vec<(JobKey, SendOnceRight)>,
    /// How processes ended whose parent was a server before this one.
    pub(super) exits: BTreeMap<u32, Exit>,
    ends: bool,
}

/// What one job is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// What its file is called.
    pub(super) path: String,
    /// What tells that file from another version of it.
    pub(super) digest: u64,
    pub(super) log: JobLog,
    pub(super) listeners: Listeners,
    /// The ports that are made: those of the services that somebody has asked for.
    pub(super) services: BTreeMap<ServiceName, PortKey>,
    /// The names that its file has and somebody else has too.
    pub(super) left_out: Vec<ServiceName>,
    pub(super) run: Option<Run>,
    pub(super) starts: VecDeque<Started>,
    pub(super) watch: Watch,
    pub(super) set_aside: u32,
}

/// An instance that runs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) instance: Instance,
    pub(super) door: DoorKey,
    pub(super) number: u64,
    /// Answers to requests from ports that it has let go of.
    pub(super) debts: Vec<Debts>,
}

/// A start that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) why: Reason,
    pub(super) at: Duration,
}

impl Jobs {
    pub(super) fn new(workshop: Option<Workshop>) -> Self {
        let seed = launch::random_instance().unwrap_or(1);
        Self {
            supervisor: Supervisor::new(seed),
            parts: HashMap::new(),
            workshop,
            by_pid: HashMap::new(),
            logs_due: BTreeSet::new(),
            waiters: Vec::new(),
            exits: BTreeMap::new(),
            ends: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// False if the end has begun before.
    pub(super) fn begin_to_end(&mut self) -> bool {
        !std::mem::replace(&mut self.ends, true)
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ends
    }

    /// How long until something is to be done though nothing happens.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let timer = self.supervisor.next_timer();
        let timer = timer.map(|due| due.saturating_sub(now));
        let wall = SystemTime::now();
        let logs = self.logs_due.iter().filter_map(|job| self.parts.get(job));
        let logs = logs.filter_map(|parts| parts.log.due(wall));
        timer.into_iter().chain(logs).min()
    }

    pub(super) fn drain_log(&mut self, job: JobKey) {
        let wall = SystemTime::now();
        let Some(parts) = self.parts.get_mut(&job) else {
            return;
        };
        parts.log.drain(wall);
        match parts.log.due(wall) {
            Some(_) => self.logs_due.insert(job),
            None => self.logs_due.remove(&job),
        };
    }

    /// Takes away what the server has put into its directory for jobs.
    pub(super) fn close_workshop(&mut self) {
        if let Some(shop) = self.workshop.take()
            && let Err(error) = shop.notices.remove()
        {
            tracing::debug!(%error, "cannot remove the socket for notices");
        }
    }

    /// Writes down what jobs have written so far, before the server ends.
    pub(super) fn flush_logs(&mut self) {
        let wall = SystemTime::now();
        self.parts
            .values_mut()
            .for_each(|parts| parts.log.flush(wall));
    }

    /// Writes down what jobs have written that a server before this one did not come to.
    pub(super) fn drain_logs(&mut self) {
        let jobs: Vec<_> = self.parts.keys().copied().collect();
        jobs.into_iter().for_each(|job| self.drain_log(job));
    }

    fn drain_due_logs(&mut self) {
        let wall = SystemTime::now();
        let is_due = |job: &&JobKey| {
            let parts = self.parts.get(job);
            parts.is_none_or(|parts| parts.log.due(wall).is_none_or(|due| due.is_zero()))
        };
        let due: Vec<_> = self.logs_due.iter().filter(is_due).copied().collect();
        for job in due {
            self.logs_due.remove(&job);
            self.drain_log(job);
        }
    }

    pub(super) fn note_exits(&mut self) {
        let Some(exits) = self.workshop.as_mut().and_then(|shop| shop.exits.as_mut()) else {
            return;
        };
        while let Ok(Some(exit)) = exits.take() {
            if self.by_pid.contains_key(&exit.pid) {
                self.exits.insert(exit.pid, exit_of_stranger(exit.status));
            }
        }
    }

    pub(super) fn wait_for_start(&mut self, job: JobKey, reply: SendOnceRight) {
        self.waiters.push((job, reply));
    }

    /// Tells those who wait for a start what came of it.
    pub(super) fn tell_waiters(&mut self, job: JobKey, outcome: impl Fn() -> Message) {
        let waiters = std::mem::take(&mut self.waiters);
        for (wanted, reply) in waiters {
            match wanted == job {
                // Whoever does not wait any more need not know.
                true => drop(reply.send(outcome())),
                false => self.waiters.push((wanted, reply)),
            }
        }
    }

    /// The number under which the paths of a job are watched.
    pub(super) fn token(job: JobKey, purpose: Purpose) -> u64 {
        job.0 << 2 | purpose as u64
    }

    pub(super) fn leave_out(&mut self, job: JobKey, name: ServiceName) {
        if let Some(parts) = self.parts.get_mut(&job) {
            parts.left_out.push(name);
        }
    }

    pub(super) fn note(&mut self, job: JobKey, text: &str) {
        if let Some(parts) = self.parts.get_mut(&job) {
            parts.log.note(text, SystemTime::now());
        }
    }
}

/// Why a path is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Change = 0,
    Queue = 1,
    State = 2,
    Program = 3,
}

impl Purpose {
    pub(super) fn of(token: u64) -> Self {
        match token & 3 {
            0 => Self::Change,
            1 => Self::Queue,
            2 => Self::State,
            _ => Self::Program,
        }
    }
}

impl Server {
    /// Does what the supervisor has asked for.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.jobs.supervisor.next_action() {
            self.act(action);
        }
        self.expect_calendar();
    }

    pub(super) fn see_to_time(&mut self) {
        let now = self.now();
        let is_due = |due: Duration| due <= now;
        if self.jobs.supervisor.next_timer().is_some_and(is_due) {
            self.jobs.supervisor.timer(now);
        }
        self.jobs.drain_due_logs();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(job) => self.start(job),
            Action::Signal(job, signal) => self.signal(job, signal),
            // Everything was ended when the first process was.
            Action::Sweep(_) => {}
            Action::TellWaiting(job, failure) => self.tell_waiting(job, &failure),
            Action::Watch(job, watch) => self.watch(job, watch),
            Action::SetAside(job, name) => self.set_aside(job, &name),
            Action::Drain(job, name, how) => self.drain(job, &name, how),
            Action::Reset(job, name) => self.reset(job, &name),
            Action::CloseServices(job) => self.close_services(job),
            Action::Forget(job) => self.forget(job),
            Action::Warn(job, warning) => {
                let label = self.label(job);
                tracing::warn!(%label, "{warning}");
                self.jobs.note(job, &warning.to_string());
                if let Warning::NameTaken { name, .. } = warning {
                    self.jobs.leave_out(job, name);
                }
            }
            Action::Done => self.ended = Some(super::Ended::ForGood),
        }
    }

    pub(super) fn label(&self, job: JobKey) -> String {
        let job = self.jobs.supervisor.job(job);
        job.map(|job| job.label.to_string()).unwrap_or_default()
    }

    /// Looks after all that starts a job that was just loaded.
    pub(super) fn furnish(&mut self, job: JobKey, parts: Parts) {
        let Some(known) = self.jobs.supervisor.job(job).cloned() else {
            return;
        };
        self.registry.job_loaded(job, known.label.clone());
        let data = Source::Log(job).data();
        epoll::add(&self.events, &parts.log, data, EventFlags::IN).ok();
        let edge = EventFlags::IN | EventFlags::ET;
        for (index, (_, socket)) in (0..).zip(parts.listeners.fds()) {
            let data = Source::Socket(job, index).data();
            epoll::add(&self.events, socket, data, edge).ok();
        }
        self.jobs.parts.insert(job, parts);
        self.watch_paths(job, &known);
    }

    fn forget(&mut self, job: JobKey) {
        if let Some(shop) = &mut self.jobs.workshop {
            for purpose in [
                Purpose::Change,
                Purpose::Queue,
                Purpose::State,
                Purpose::Program,
            ] {
                shop.watches.remove(Jobs::token(job, purpose));
            }
        }
        self.store.remove(Kind::Job, job.0);
        self.store.remove(Kind::Tally, job.0);
        self.store.remove(Kind::JobFile, job.0);
        self.jobs.logs_due.remove(&job);
        self.jobs.tell_waiters(job, || {
            let why = "it was unloaded before it was started";
            Refused::because(BootstrapCode::JOB_NOT_FOUND, why).into_message()
        });
        let Some(mut parts) = self.jobs.parts.remove(&job) else {
            return;
        };
        parts.log.note("unloaded", SystemTime::now());
        epoll::delete(&self.events, &parts.log).ok();
        for (_, socket) in parts.listeners.fds() {
            epoll::delete(&self.events, socket).ok();
        }
        parts.listeners.remove();
    }
}

impl Parts {
    pub(super) fn new(path: String, file: &[u8], log: JobLog, listeners: Listeners) -> Self {
        Self {
            path,
            digest: digest(file),
            log,
            listeners,
            services: BTreeMap::new(),
            left_out: Vec::new(),
            run: None,
            starts: VecDeque::new(),
            watch: Watch::Off,
            set_aside: 0,
        }
    }
}

/// What tells one version of a file from others, within one process.
pub(super) fn digest(file: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(file);
    hasher.finish()
}

fn exit_of_stranger(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(status), _) => Exit::Status(status as u8),
        (None, Some(signal)) => Exit::Signal(signal as u8),
        (None, None) => Exit::Unknown,
    }
}
