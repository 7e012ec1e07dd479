//! Jobs: what the supervisor decides is done here, and what happens is told to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use portolan_port::{Debts, Message, ReceiveRight, SendOnceRight};
use portolan_sandbox::Identity;
use portolan_wire::bootstrap::Reply;
use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;
use rustix::event::epoll::{self, EventFlags};

use super::answer::{Refused, done};
use super::door::{DoorKey, Whose};
use super::failure;
use super::service::{Declared, Port, Service};
use super::store::Kind;
use super::{Server, Source, Workshop};
use crate::job::{Drain, Job, KeepAlive};
use crate::launch::{self, Inheritance, Instance, StartError};
use crate::log::JobLog;
use crate::notify::Notice;
use crate::registry::{JobKey, Owner, PortKey, Scope, Visibility};
use crate::sockets::Listeners;
use crate::supervisor::{
    Action, Exit, Failure, Reason, Signal, StartFailure, Supervisor, Trigger, Warning, Watch,
};
use crate::watch::{State, What};

/// The most starts of one job that are remembered for `portolan blame`.
const MAX_STARTS: usize = portolan_wire::jobs::MAX_STARTS;

/// The jobs of a server, and what they are made of.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) supervisor: Supervisor,
    pub(super) parts: HashMap<JobKey, Parts>,
    pub(super) workshop: Option<Workshop>,
    by_pid: HashMap<u32, JobKey>,
    /// Those with the beginning of a line that is to be written some time.
    logs_due: BTreeSet<JobKey>,
    /// Who wants to know what came of a start.
    waiters: Vec<(JobKey, SendOnceRight)>,
    /// How processes ended whose parent was a server before this one.
    exits: BTreeMap<u32, Exit>,
    kept_open: Vec<OwnedFd>,
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
    watch: Watch,
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
            kept_open: Vec::new(),
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

    /// Keeps a descriptor for as long as the server runs.
    pub(super) fn keep_open(&mut self, fd: OwnedFd) {
        self.kept_open.push(fd);
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
    fn tell_waiters(&mut self, job: JobKey, outcome: impl Fn() -> Message) {
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
    fn token(job: JobKey, purpose: Purpose) -> u64 {
        job.0 << 2 | purpose as u64
    }

    fn leave_out(&mut self, job: JobKey, name: ServiceName) {
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
enum Purpose {
    Change = 0,
    Queue = 1,
    State = 2,
    Program = 3,
}

impl Purpose {
    fn of(token: u64) -> Self {
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

    /// Declares the services of a job that are not declared yet. Their ports are made when somebody
    /// asks for them.
    pub(super) fn declare_services(&mut self, job: JobKey) {
        let names: Vec<_> = self.jobs.supervisor.services(job).cloned().collect();
        for name in names {
            let named = (Scope::Global, name.clone());
            if self.registry.owner(named) == Some(Owner::Job(job)) {
                continue;
            }
            let (key, visibility) = (self.next_port(), self.visibility(job, &name));
            let declared = self.registry.declare(job, name.clone(), visibility, key);
            if let Err(code) = declared {
                let label = self.label(job);
                tracing::warn!(%label, %name, %code, "a service is left out");
                let note = format!("the name {name:?} belongs to somebody else");
                self.jobs.note(job, &note);
                self.jobs.leave_out(job, name.clone());
                let now = self.now();
                self.jobs.supervisor.undeclared(&name, now);
            }
        }
    }

    /// Makes the port of a declared name, if nobody has asked for it before.
    pub(super) fn make_declared(
        &mut self,
        key: PortKey,
        name: &ServiceName,
    ) -> Result<(), Refused> {
        if self.services.contains_key(&key) {
            return Ok(());
        }
        let owner = self.registry.owner((Scope::Global, name.clone()));
        let Some(Owner::Job(job)) = owner else {
            return Err(BootstrapCode::UNKNOWN_SERVICE.into());
        };
        let port = self.make_port(key)?;
        self.keep_declared(job, name, key, port)?;
        let watch = self.jobs.parts.get(&job).map(|parts| parts.watch);
        self.watch_port(key, watch.unwrap_or(Watch::Off));
        Ok(())
    }

    pub(super) fn visibility(&self, job: JobKey, name: &ServiceName) -> Visibility {
        let service = self.jobs.supervisor.service(job, name);
        match service.is_some_and(|service| service.hide_until_check_in) {
            true => Visibility::WhileActive,
            false => Visibility::Always,
        }
    }

    fn make_port(&mut self, key: PortKey) -> Result<ReceiveRight, Refused> {
        let witness = self.store.witness(Kind::Service, key.0);
        let made = portolan_port::PortParts::fresh()
            .and_then(|parts| ReceiveRight::witnessed(parts, witness));
        made.map_err(|_| BootstrapCode::NO_MEMORY.into())
    }

    fn keep_declared(
        &mut self,
        job: JobKey,
        name: &ServiceName,
        key: PortKey,
        port: ReceiveRight,
    ) -> Result<(), Refused> {
        let declared = Declared {
            job,
            name: name.clone(),
        };
        self.keep(key, Service::of_job(port, declared))?;
        if let Some(parts) = self.jobs.parts.get_mut(&job) {
            parts.services.insert(name.clone(), key);
        }
        Ok(())
    }

    fn watch_paths(&mut self, job: JobKey, known: &Job) {
        let mut fired = Vec::new();
        let Some(shop) = &mut self.jobs.workshop else {
            return;
        };
        let queues = known.queue_directories.iter();
        let changes = known.watch_paths.iter();
        let states = match &known.keep_alive {
            KeepAlive::While(conditions) => conditions.path_state.keys().collect(),
            KeepAlive::Always(_) => Vec::new(),
        };
        let all = queues
            .map(|path| (Purpose::Queue, What::Queue, path))
            .chain(changes.map(|path| (Purpose::Change, What::Change, path)))
            .chain(
                states
                    .into_iter()
                    .map(|path| (Purpose::State, What::Existence, path)),
            );
        for (purpose, what, path) in all {
            match shop.watches.add(Jobs::token(job, purpose), what, path) {
                Ok(state) => fired.push((path.clone(), state)),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(label = %known.label, %path, %error, "cannot watch a path");
                }
            }
        }
        for (path, state) in fired {
            if !matches!(state, State::Changed { .. }) {
                self.path_fired(job, &path, state);
            }
        }
    }

    fn path_fired(&mut self, job: JobKey, path: &Path, state: State) {
        let now = self.now();
        let supervisor = &mut self.jobs.supervisor;
        match state {
            State::Changed { .. } | State::Filled(true) => {
                supervisor.triggered(job, Trigger::Path(path.to_path_buf()), now);
            }
            State::Exists(exists) => supervisor.path_state(job, path, exists, now),
            State::Filled(false) => {}
        }
    }

    pub(super) fn paths_changed(&mut self) {
        let Some(shop) = &mut self.jobs.workshop else {
            return;
        };
        for fired in shop.watches.take() {
            let job = JobKey(fired.token >> 2);
            match Purpose::of(fired.token) {
                Purpose::Program if fired.state == State::Exists(true) => {
                    let now = self.now();
                    self.jobs.supervisor.program_appeared(job, now);
                }
                Purpose::Program => {}
                Purpose::Queue if !self.is_watched(job) => {}
                _ => self.path_fired(job, &fired.path, fired.state),
            }
        }
    }

    fn is_watched(&self, job: JobKey) -> bool {
        let parts = self.jobs.parts.get(&job);
        parts.is_some_and(|parts| matches!(parts.watch, Watch::Everything | Watch::Arrivals))
    }

    pub(super) fn notices_came(&mut self) {
        let Some(shop) = &self.jobs.workshop else {
            return;
        };
        let notices = shop.notices.take().unwrap_or_default();
        let now = self.now();
        for notified in notices {
            let job = self.jobs.by_pid.get(&notified.pid).copied();
            if let (Some(job), Notice::Ready) = (job, &notified.notice) {
                self.jobs.supervisor.ready(job, now);
            }
        }
    }

    pub(super) fn connection_came(&mut self, job: JobKey, index: u16) {
        let Some(parts) = self.jobs.parts.get(&job) else {
            return;
        };
        let name = parts.listeners.fds().nth(usize::from(index));
        if let (Some((name, _)), true) = (name, parts.watch != Watch::Off) {
            let trigger = Trigger::Socket(name.to_owned());
            let now = self.now();
            self.jobs.supervisor.triggered(job, trigger, now);
        }
    }

    /// A message may have come to a port that nobody serves.
    pub(super) fn message_came(&mut self, key: PortKey) {
        let Some(service) = self.services.get(&key) else {
            return;
        };
        let (Port::Here(port), Some(declared)) = (&service.port, &service.declared) else {
            return;
        };
        if !matches!(port.has_message(), Ok(true)) {
            return;
        }
        let parts = self.jobs.parts.get(&declared.job);
        let name = declared.name.clone();
        if parts.is_none_or(|parts| parts.watch != Watch::Arrivals) {
            self.listen_to(key, EventFlags::empty());
        }
        let now = self.now();
        self.jobs.supervisor.demand(&name, now);
    }

    fn listen_to(&self, key: PortKey, flags: EventFlags) {
        if let Some(Port::Here(port)) = self.services.get(&key).map(|service| &service.port) {
            let data = Source::Demand(key).data();
            epoll::modify(&self.events, port, data, flags).ok();
        }
    }

    fn watch(&mut self, job: JobKey, watch: Watch) {
        let Some(parts) = self.jobs.parts.get_mut(&job) else {
            return;
        };
        parts.watch = watch;
        let ports: Vec<_> = parts.services.values().copied().collect();
        for port in ports {
            self.watch_port(port, watch);
        }
        if watch == Watch::Everything {
            self.look_at_sockets(job);
            self.look_at_queues(job);
        }
    }

    fn watch_port(&mut self, port: PortKey, watch: Watch) {
        match watch {
            Watch::Off => self.listen_to(port, EventFlags::empty()),
            Watch::Everything | Watch::Services => {
                self.listen_to(port, EventFlags::IN);
                self.message_came(port);
            }
            Watch::Arrivals => self.listen_to(port, EventFlags::IN | EventFlags::ET),
        }
    }

    fn look_at_sockets(&mut self, job: JobKey) {
        let Some(parts) = self.jobs.parts.get(&job) else {
            return;
        };
        let ready = parts
            .listeners
            .fds()
            .find(|(_, socket)| is_readable(*socket));
        if let Some((name, _)) = ready {
            let trigger = Trigger::Socket(name.to_owned());
            let now = self.now();
            self.jobs.supervisor.triggered(job, trigger, now);
        }
    }

    fn look_at_queues(&mut self, job: JobKey) {
        let Some(shop) = &self.jobs.workshop else {
            return;
        };
        let token = Jobs::token(job, Purpose::Queue);
        let filled = shop.watches.states(token);
        let filled: Vec<_> = filled
            .filter(|fired| fired.state == State::Filled(true))
            .collect();
        for fired in filled {
            self.path_fired(job, &fired.path, fired.state);
        }
    }

    fn start(&mut self, job: JobKey) {
        let now = self.now();
        match self.try_start(job) {
            Ok(pid) => {
                self.jobs.by_pid.insert(pid, job);
                self.registry.job_started(job, pid);
                self.note_run(job);
                self.jobs.supervisor.started(job, pid, now);
                let started = || done(&Reply::Kickstarted(Some(pid)));
                self.jobs.tell_waiters(job, started);
            }
            Err(error) => self.start_failed(job, &error),
        }
    }

    fn try_start(&mut self, job: JobKey) -> Result<u32, StartError> {
        let label = self.jobs.supervisor.job(job).map(|job| job.label.clone());
        let door = self.doors.next_key();
        let whose = self.whose(job);
        let right = self
            .open_door(door, whose)
            .map_err(|_| StartError::Bootstrap)?;
        let socket = right.into_socket().map_err(|_| StartError::Bootstrap)?;
        let started = self.start_with(job, door, &socket);
        match (&started, label) {
            (Ok(pid), Some(label)) => {
                tracing::debug!(%label, pid, "started");
                self.jobs.note(job, &format!("started, process {pid}"));
            }
            _ => drop(self.doors.close(door, &self.store)),
        }
        started
    }

    /// Who comes through the door of an instance.
    pub(super) fn whose(&self, job: JobKey) -> Whose {
        let known = self.jobs.supervisor.job(job);
        let confined = known.and_then(|known| {
            let entitlements = known.entitlements.clone()?;
            Some(Identity::new(known.label.clone(), entitlements.into()))
        });
        Whose {
            identity: confined.unwrap_or(Identity::Unsandboxed),
            label: known.map(|known| known.label.clone()),
            job: Some(job),
            ..Whose::anybody()
        }
    }

    fn start_with(
        &mut self,
        job: JobKey,
        door: DoorKey,
        bootstrap: &OwnedFd,
    ) -> Result<u32, StartError> {
        let missing = || StartError::Bootstrap;
        let number = launch::random_instance().map_err(|_| missing())?;
        let now = self.now();
        let known = self.jobs.supervisor.job(job).ok_or_else(missing)?;
        let shop = self.jobs.workshop.as_ref().ok_or_else(missing)?;
        let parts = self.jobs.parts.get_mut(&job).ok_or_else(missing)?;
        let sockets = parts.listeners.names_and_fds();
        let sockets: Vec<_> = sockets
            .map(|(name, socket)| (name.to_owned(), socket))
            .collect();
        let notify = shop.notices.path().to_string_lossy().into_owned();
        let instance = shop.launcher.start(
            known,
            &Inheritance {
                bootstrap: bootstrap.as_fd(),
                standard_in: None,
                standard_out: Some(parts.log.input()),
                standard_error: Some(parts.log.input()),
                sockets: &sockets,
                environment: &[("NOTIFY_SOCKET".to_owned(), notify)],
                instance: number,
            },
        )?;
        let pid = instance.pid().as_raw_pid().cast_unsigned();
        parts.log.set_pid(Some(pid));
        let why = self
            .jobs
            .supervisor
            .status(job)
            .and_then(|status| status.asked);
        parts.starts.extend(why.map(|why| Started { why, at: now }));
        while parts.starts.len() > MAX_STARTS {
            parts.starts.pop_front();
        }
        let data = Source::Instance(job).data();
        epoll::add(&self.deaths, instance.pidfd(), data, EventFlags::IN).ok();
        parts.run = Some(Run {
            instance,
            door,
            number,
            debts: Vec::new(),
        });
        Ok(pid)
    }

    fn start_failed(&mut self, job: JobKey, error: &StartError) {
        let label = self.label(job);
        let why = error.reason();
        tracing::warn!(%label, "{why}");
        self.jobs.note(job, &why);
        let path = error.path().map(Path::to_path_buf);
        if let (Some(shop), Some(path)) = (&mut self.jobs.workshop, &path) {
            let token = Jobs::token(job, Purpose::Program);
            shop.watches.remove(token);
            // Without it, the job is tried again by itself all the same.
            shop.watches.add(token, What::Existence, path).ok();
        }
        let failure = StartFailure {
            errno: error.errno(),
            path: path.unwrap_or_default(),
            other: (!error.is_of_program()).then_some(why),
        };
        let told = self.to_callers(job, &Failure::Start(failure.clone()));
        let now = self.now();
        self.jobs.supervisor.start_failed(job, failure, now);
        if let Some(told) = told {
            self.jobs
                .tell_waiters(job, || Refused::start(told.clone()).into_message());
        }
    }

    fn to_callers(
        &self,
        job: JobKey,
        why: &Failure,
    ) -> Option<portolan_wire::failure::StartFailure> {
        let job = self.jobs.supervisor.job(job)?;
        let label = &job.label;
        let advice = format!("portolan print {label} and portolan log {label} tell more");
        Some(failure::to_callers(job, why, &advice))
    }

    fn signal(&mut self, job: JobKey, signal: Signal) {
        let Some(run) = self
            .jobs
            .parts
            .get(&job)
            .and_then(|parts| parts.run.as_ref())
        else {
            return;
        };
        let sent = match signal {
            Signal::Terminate => run.instance.signal(rustix::process::Signal::TERM),
            Signal::Kill => run.instance.kill_everything().map(drop),
        };
        if let Err(error) = sent {
            let label = self.label(job);
            tracing::error!(%label, %error, "cannot end the job");
        }
    }

    /// The first process of an instance has exited: everything that is left of it ends too, and its
    /// ports are back.
    pub(super) fn instance_ended(&mut self, job: JobKey) {
        let abandons = self.jobs.supervisor.job(job);
        let abandons = abandons.is_some_and(|job| job.abandon_process_group);
        let Some(run) = self
            .jobs
            .parts
            .get_mut(&job)
            .and_then(|parts| parts.run.take())
        else {
            return;
        };
        if !abandons {
            end_all(&run.instance);
        }
        self.jobs.note_exits();
        let pid = run.instance.pid().as_raw_pid().cast_unsigned();
        let exit = self.exit_of(pid, &run.instance);
        self.stop_watching(run.instance.pidfd());
        self.jobs.by_pid.remove(&pid);
        self.doors.close(run.door, &self.store);
        self.store.remove(Kind::Run, job.0);
        run.debts.into_iter().for_each(Debts::fail);
        self.jobs.note(job, &format!("process {pid}: {exit}"));
        for port in self.registry.job_exited(job) {
            self.let_go(port);
        }
        self.take_ports_back(job);
        let left = self.left_at(job);
        let now = self.now();
        self.jobs.supervisor.exited(job, exit, &left, now);
        self.write_tally_down(job);
    }

    fn exit_of(&mut self, pid: u32, instance: &Instance) -> Exit {
        let known = self.jobs.exits.remove(&pid);
        match (instance.reap(), known) {
            (_, Some(known)) => known,
            (Ok(Some(launch::Exit::Status(status))), None) => Exit::Status(status as u8),
            (Ok(Some(launch::Exit::Signal { signal, .. })), None) => Exit::Signal(signal as u8),
            _ => Exit::Unknown,
        }
    }

    fn take_ports_back(&mut self, job: JobKey) {
        let Some(parts) = self.jobs.parts.get(&job) else {
            return;
        };
        let ports: Vec<_> = parts.services.values().copied().collect();
        for key in ports {
            self.take_port_back(key);
        }
    }

    /// Takes a port back that was lent. False if it was not, or is lost.
    fn take_port_back(&mut self, key: PortKey) -> bool {
        let is_lent = |service: &Service| matches!(service.port, Port::Lent(_));
        if !self.services.get(&key).is_some_and(is_lent) {
            return false;
        }
        let Some(service) = self.take_out(key) else {
            return false;
        };
        let Port::Lent(custody) = service.port else {
            return false;
        };
        self.registry.returned(key);
        let port = match custody.take_back() {
            Ok((port, debts)) => {
                self.leave_debts(service.declared.as_ref(), debts);
                port
            }
            Err(error) => {
                tracing::error!(%error, "a port was lost");
                self.registry.port_died(key);
                return false;
            }
        };
        let service = Service {
            port: Port::Here(port),
            ..service
        };
        self.keep(key, service).is_ok()
    }

    /// What an instance that runs still owes it answers itself; at its end, the rest is refused.
    fn leave_debts(&mut self, declared: Option<&Declared>, debts: Debts) {
        let parts = declared.and_then(|declared| self.jobs.parts.get_mut(&declared.job));
        match parts.and_then(|parts| parts.run.as_mut()) {
            Some(run) if !debts.are_settled() => run.debts.push(debts),
            _ => debts.fail(),
        }
    }

    /// A job has let go of a port, or has ended and will be seen to.
    pub(super) fn port_came_back(&mut self, key: PortKey) {
        if !self.take_port_back(key) {
            return;
        }
        let Some(declared) = self
            .services
            .get(&key)
            .and_then(|service| service.declared.clone())
        else {
            return;
        };
        let has_message = self.has_message(key);
        let now = self.now();
        self.jobs
            .supervisor
            .returned(declared.job, &declared.name, has_message, now);
        self.note_run(declared.job);
        let parts = self.jobs.parts.get(&declared.job);
        if let Some(watch) = parts.map(|parts| parts.watch) {
            self.watch_port(key, watch);
        }
    }

    pub(super) fn has_message(&self, key: PortKey) -> bool {
        match self.services.get(&key).map(|service| &service.port) {
            Some(Port::Here(port)) => matches!(port.has_message(), Ok(true)),
            _ => false,
        }
    }

    /// Whether something is queued at a port, whoever receives from it.
    pub(super) fn has_unread(&self, key: PortKey) -> bool {
        match self.services.get(&key).map(|service| &service.port) {
            Some(Port::Lent(custody)) => custody.has_unread(),
            _ => self.has_message(key),
        }
    }

    /// The services of a job with a message, and what that is known by.
    fn left_at(&self, job: JobKey) -> Vec<(ServiceName, u64)> {
        let Some(parts) = self.jobs.parts.get(&job) else {
            return Vec::new();
        };
        let heads = parts.services.iter().filter_map(|(name, key)| {
            let Port::Here(port) = &self.services.get(key)?.port else {
                return None;
            };
            let head = port.head().ok()??;
            Some((name.clone(), head.digest()))
        });
        heads.collect()
    }

    fn port_of(&self, job: JobKey, name: &ServiceName) -> Option<PortKey> {
        self.jobs.parts.get(&job)?.services.get(name).copied()
    }

    fn tell_waiting(&mut self, job: JobKey, failure: &Failure) {
        let Some(told) = self.to_callers(job, failure) else {
            return;
        };
        let services = self
            .jobs
            .parts
            .get(&job)
            .map(|parts| parts.services.clone());
        for (name, key) in services.unwrap_or_default() {
            if let Some(Port::Here(port)) = self.services.get(&key).map(|service| &service.port) {
                port.refuse_waiting(&told);
            }
            if let Some(service) = self.services.get(&key) {
                self.write_service_down(key, service);
            }
            if !self.has_message(key) {
                let now = self.now();
                self.jobs.supervisor.emptied(&name, now);
            }
        }
        self.jobs
            .tell_waiters(job, || Refused::start(told.clone()).into_message());
    }

    fn set_aside(&mut self, job: JobKey, name: &ServiceName) {
        let key = self.port_of(job, name);
        let taken = key.and_then(|key| match &self.services.get(&key)?.port {
            Port::Here(port) => port.receive_head(port.head().ok()??).ok()?,
            _ => None,
        });
        let (Some(mut message), Some(key)) = (taken, key) else {
            return;
        };
        let told = self.jobs.supervisor.job(job);
        let told = told.map(|job| failure::set_aside(&job.label));
        if let (Some(reply), Some(told)) = (message.take_reply(), told) {
            reply.fail(&told);
        }
        let sender = message.sender().and_then(|sender| sender.pid());
        let note = format!(
            "message {} of {} bytes at {name}, from process {}, is set aside: it was first at three \
             crashes",
            message.id(),
            message.bytes().len(),
            sender.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
        );
        tracing::warn!(label = %self.label(job), "{note}");
        self.jobs.note(job, &note);
        if let Some(parts) = self.jobs.parts.get_mut(&job) {
            parts.set_aside += 1;
        }
        self.report_queue(key, name);
    }

    fn drain(&mut self, job: JobKey, name: &ServiceName, how: Drain) {
        let Some(key) = self.port_of(job, name) else {
            return;
        };
        if let Some(Port::Here(port)) = self.services.get(&key).map(|service| &service.port) {
            // No more than there are now: a sender could go on for ever.
            let count = match how {
                Drain::One => 1,
                Drain::All => port.queued(),
            };
            for _ in 0..count {
                if port.receive(portolan_port::Timeout::POLL).is_err() {
                    break;
                }
            }
        }
        self.report_queue(key, name);
    }

    fn report_queue(&mut self, key: PortKey, name: &ServiceName) {
        let now = self.now();
        match self.has_message(key) {
            true => self.jobs.supervisor.demand(name, now),
            false => self.jobs.supervisor.emptied(name, now),
        }
    }

    /// Has the senders of a service find it dead, and everybody who asks anew a new one.
    fn reset(&mut self, job: JobKey, name: &ServiceName) {
        let Some(old) = self.port_of(job, name) else {
            return;
        };
        let new = self.next_port();
        match self.make_port(new) {
            Ok(port) => {
                self.registry.replace(old, new);
                if self.keep_declared(job, name, new, port).is_ok() {
                    let watch = self.jobs.parts.get(&job).map(|parts| parts.watch);
                    self.watch_port(new, watch.unwrap_or(Watch::Off));
                }
            }
            Err(refused) => tracing::error!(?refused, %name, "cannot make a new port"),
        }
        self.let_go(old);
    }

    fn close_services(&mut self, job: JobKey) {
        let Some(parts) = self.jobs.parts.get_mut(&job) else {
            return;
        };
        let services = std::mem::take(&mut parts.services);
        for port in services.into_values() {
            self.let_go(port);
        }
        for port in self.registry.job_unloaded(job) {
            self.let_go(port);
        }
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

    /// Notes that an instance of an earlier server runs.
    pub(super) fn adopt(&mut self, job: JobKey, run: Run) {
        let pid = run.instance.pid().as_raw_pid().cast_unsigned();
        let data = Source::Instance(job).data();
        epoll::add(&self.deaths, run.instance.pidfd(), data, EventFlags::IN).ok();
        self.jobs.by_pid.insert(pid, job);
        self.registry.job_started(job, pid);
        if let Some(parts) = self.jobs.parts.get_mut(&job) {
            parts.log.set_pid(Some(pid));
            parts.run = Some(run);
        }
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

/// How often processes are killed of which not all have ended.
const MAX_KILLS: u32 = 4;

/// Ends what is left of an instance. Each try waits for half a second at most.
fn end_all(instance: &Instance) {
    for _ in 0..MAX_KILLS {
        match instance.kill_everything() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return tracing::error!(%error, "cannot end all processes of a job"),
        }
    }
    tracing::error!("processes of a job are left, which the kernel does not end");
}

fn is_readable(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec::default();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

fn exit_of_stranger(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(status), _) => Exit::Status(status as u8),
        (None, Some(signal)) => Exit::Signal(signal as u8),
        (None, None) => Exit::Unknown,
    }
}
