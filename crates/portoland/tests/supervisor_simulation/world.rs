//! A driver that is no process: queues, instances and clients as numbers, and the rules.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use portolan_wire::bootstrap::ServiceStatus;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use portoland::job::{Drain, Job, Reading};
use portoland::registry::{
    ClientKey, JobKey, Offer, Owner, PortKey, Registry, Sandbox, Scope, Visibility,
};
use portoland::supervisor::{
    Action, Civil, Exit, Failure, JobState, Reason, Signal, StartFailure, Supervisor, Trigger,
    Watch,
};
use rustix::io::Errno;

use super::step::Step;

/// Job files with every kind of start, end and service, some of which name each other.
const JOBS: [&str; 7] = [
    "Label = \"echo\"\nMachServices.a = true\nMachServices.b = true",
    "Label = \"keeper\"\nKeepAlive = true\nThrottleInterval = 3\nMachServices.c = true",
    "Label = \"reset\"\nTimeOut = 2\nExitTimeOut = 4\n[MachServices]\nd.ResetAtClose = true\n\
     e.DrainMessagesOnCrash = \"All\"\nf.DrainMessagesOnCrash = \"One\"",
    "Label = \"web\"\nRequires = [\"echo\"]\nAfter = [\"keeper\"]\n\
     MachServices.g.HideUntilCheckIn = true\nSockets.http.SockPathName = \"/http\"",
    "Label = \"tool\"\nRunAtLoad = true\nStartInterval = 30\nWatchPaths = [\"/w\"]\n\
     After = [\"web\"]\nStartCalendarInterval = { Minute = 30 }",
    "Label = \"once\"\nLaunchOnlyOnce = true\nMachServices.h = true\nMachServices.a = true",
    "Label = \"picky\"\nExitTimeOut = 0\nTimeOut = 0\nAbandonProcessGroup = true\n\
     MachServices.i = true\n[KeepAlive]\nSuccessfulExit = false\nPathState.\"/flag\" = true\n\
     OtherJobActive.echo = true",
];

const SERVICES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

static LOADED: LazyLock<Vec<Job>> = LazyLock::new(|| {
    let read = |keys: &&str| Reading::of(format!("Program = \"/p\"\n{keys}").as_bytes()).job;
    JOBS.iter().map(|keys| read(keys).expect("a job")).collect()
});

static NAMES: LazyLock<Vec<ServiceName>> = LazyLock::new(|| {
    let names = SERVICES.iter().map(|text| text.parse());
    names.map(|name| name.expect("name")).collect()
});

const CLIENT: ClientKey = ClientKey(1);

/// What the driver does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It reports the demand at a service once and never again.
    NeverRearms,
    /// It leaves out SIGKILL.
    IgnoresKill,
    /// It starts two instances for one request.
    StartsTwice,
}

/// A rule does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    job: Option<JobKey>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)?;
        self.job.map_or(Ok(()), |job| write!(f, " ({job:?})"))
    }
}

type Checked = Result<(), Violation>;

fn rule(holds: bool, rule: &'static str, job: JobKey) -> Checked {
    let job = Some(job);
    holds.then_some(()).ok_or(Violation { rule, job })
}

#[derive(Debug)]
struct Service {
    port: PortKey,
    queue: VecDeque<u64>,
    at_instance: bool,
    /// Checked in by the instance that runs, or ran last.
    served: bool,
    /// Reported since the driver was told to watch.
    reported: bool,
    /// The first message at the last end, and at how many crashes in a row it was the first.
    first: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Instance {
    running: bool,
    since: Duration,
    told_to_end: Option<Duration>,
    idle: bool,
    late: bool,
    killed: bool,
}

#[derive(Debug)]
struct Model {
    label: JobLabel,
    services: BTreeMap<usize, Service>,
    instance: Option<Instance>,
    watch: Watch,
    disabled: bool,
    unloaded: bool,
    runs: u64,
    last_exit: Option<Exit>,
    failures: u32,
    not_before: Duration,
    not_repeated_before: Duration,
}

impl Model {
    fn new(label: JobLabel) -> Self {
        Self {
            label,
            services: BTreeMap::new(),
            instance: None,
            watch: Watch::Off,
            disabled: false,
            unloaded: false,
            runs: 0,
            last_exit: None,
            failures: 0,
            not_before: Duration::ZERO,
            not_repeated_before: Duration::ZERO,
        }
    }

    fn forgive(&mut self) {
        (self.failures, self.not_before) = (0, Duration::ZERO);
    }

    /// When the next start may be, by the table in the supervisor's documentation.
    fn has_failed(&mut self, job: &Job, since: Duration, now: Duration) {
        if now - since >= Duration::from_secs(60) {
            self.failures = 0;
        }
        self.failures += 1;
        let delays = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 20_000, 40_000];
        let delay = delays.get(self.failures as usize - 1).copied();
        let delay = Duration::from_millis(delay.unwrap_or(60_000));
        self.not_before = match (self.failures, job.throttle_interval) {
            (20.., _) => now + Duration::from_secs(600),
            (_, Some(interval)) => since + Duration::from_secs(interval.into()),
            (_, None) => now + delay * 8 / 10,
        };
        self.not_repeated_before = Duration::ZERO;
    }

    fn has_succeeded(&mut self, job: &Job, since: Duration) {
        self.forgive();
        let interval = job.throttle_interval.unwrap_or(10);
        self.not_repeated_before = since + Duration::from_secs(interval.into());
    }

    /// Whether the driver would report demand at this service.
    fn sees(&self, service: &Service) -> bool {
        let watched = matches!(self.watch, Watch::Everything | Watch::Services);
        watched && !service.at_instance && !service.reported && !service.queue.is_empty()
    }
}

pub(crate) struct World {
    fault: Fault,
    supervisor: Supervisor,
    registry: Registry,
    now: Duration,
    civil: Civil,
    jobs: BTreeMap<JobKey, Model>,
    last_number: u64,
    /// Services whose queues the driver has emptied.
    emptied: Vec<usize>,
    done: bool,
}

impl World {
    pub(crate) fn new(fault: Fault) -> Self {
        let mut world = Self {
            fault,
            supervisor: Supervisor::new(1),
            registry: Registry::default(),
            now: Duration::from_secs(1),
            civil: civil(1, 0),
            jobs: BTreeMap::new(),
            last_number: 0,
            emptied: Vec::new(),
            done: false,
        };
        world.client_appears();
        world.supervisor.calendar(world.civil, world.now);
        world
    }

    fn client_appears(&mut self) {
        let label = "client".parse().expect("label");
        self.registry.client_appeared(CLIENT, label, 1);
    }

    /// Takes a step, carries out what follows from it, and checks the rules.
    pub(crate) fn take(&mut self, step: Step) -> Checked {
        self.happens(step)?;
        self.act()?;
        self.check()
    }

    fn happens(&mut self, step: Step) -> Checked {
        match step {
            Step::Load { job } => self.load(usize::from(job) % JOBS.len()),
            Step::Restart => return self.restart(),
            Step::Message { service } => self.send(service),
            Step::Receive { service } => self.receive(service),
            Step::CheckIn { by, service } => self.check_in(by, service),
            Step::Register {
                by,
                service,
                nothing,
            } => self.register(by, service, nothing),
            Step::ClientExits => {
                self.registry.client_exited(CLIENT);
                self.client_appears();
            }
            Step::Close { service } => self.close(service),
            Step::Poll => return self.poll(),
            Step::Answer { pick, succeeds } => self.answer(pick, succeeds),
            Step::Exit { pick, how } => {
                if let Some(key) = self.pick(pick, true) {
                    let exits = [
                        Exit::Status(0),
                        Exit::Status(0),
                        Exit::Status(1),
                        Exit::Signal(11),
                        Exit::Signal(9),
                        Exit::Unknown,
                    ];
                    self.exit(key, exits[usize::from(how) % exits.len()]);
                }
            }
            Step::TryExit { pick } => self.try_exit(pick),
            Step::CrashLoop { pick } => return self.crash_loop(pick),
            Step::Ready { pick } => {
                if let Some(key) = self.pick(pick, true) {
                    self.supervisor.ready(key, self.now);
                }
            }
            Step::Pass { millis } => return self.pass(Duration::from_millis(millis.into())),
            Step::Jump { seconds } => {
                self.now += Duration::from_secs(seconds.into());
                self.supervisor.timer(self.now);
            }
            Step::SetClock { day, minute } => {
                self.civil = civil(day, minute);
                self.supervisor.calendar(self.civil, self.now);
            }
            Step::Unload { job }
            | Step::Enable { job }
            | Step::Disable { job }
            | Step::Stop { job }
            | Step::Kickstart { job, .. }
            | Step::Connection { job }
            | Step::PathChanges { job }
            | Step::PathState { job, .. }
            | Step::ProgramAppears { job } => {
                if let Some(key) = nth(self.jobs.keys().copied(), job) {
                    self.happens_to(key, step);
                }
            }
        }
        Ok(())
    }

    /// What happens to a job that is loaded.
    fn happens_to(&mut self, key: JobKey, step: Step) {
        let now = self.now;
        let (supervisor, Some(model)) = (&mut self.supervisor, self.jobs.get_mut(&key)) else {
            return;
        };
        let label = model.label.clone();
        let known = match step {
            Step::Unload { .. } => {
                model.unloaded = true;
                supervisor.unload(&label, now).is_ok()
            }
            Step::Enable { .. } => {
                model.disabled = false;
                supervisor.enable(&label, now).is_ok()
            }
            Step::Disable { .. } => {
                model.disabled = true;
                supervisor.disable(&label, now).is_ok()
            }
            Step::Stop { .. } => supervisor.stop(&label, now).is_ok(),
            Step::Kickstart { kill, .. } => {
                let started = supervisor.kickstart(&label, kill, 1, now).is_ok();
                if started {
                    model.forgive();
                }
                started || model.disabled || model.unloaded
            }
            Step::Connection { .. } => {
                let trigger = Trigger::Socket("http".into());
                supervisor.triggered(key, trigger, now);
                true
            }
            Step::PathChanges { .. } => {
                let trigger = Trigger::Path(PathBuf::from("/w"));
                supervisor.triggered(key, trigger, now);
                true
            }
            Step::PathState { exists, .. } => {
                supervisor.path_state(key, Path::new("/flag"), exists, now);
                true
            }
            _ => {
                model.forgive();
                supervisor.program_appeared(key, now);
                true
            }
        };
        assert!(known, "the job is loaded");
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn load(&mut self, number: usize) {
        let job = LOADED[number].clone();
        let label = job.label.clone();
        let Ok(key) = self.supervisor.load(job, self.now) else {
            return;
        };
        self.registry.job_loaded(key, label.clone());
        let mut model = Model::new(label);
        let names: Vec<_> = self.supervisor.services(key).cloned().collect();
        for name in names {
            let port = PortKey(self.number());
            let options = &LOADED[number].mach_services[&name];
            let visibility = match options.hide_until_check_in {
                true => Visibility::WhileActive,
                false => Visibility::Always,
            };
            let declared = self.registry.declare(key, name.clone(), visibility, port);
            if declared.is_err() {
                self.supervisor.undeclared(&name, self.now);
                continue;
            }
            let service = Service {
                port,
                queue: VecDeque::new(),
                at_instance: false,
                served: false,
                reported: false,
                first: None,
            };
            model.services.insert(index(&name), service);
        }
        self.jobs.insert(key, model);
    }

    /// The end of a server, with all instances, and a new one.
    fn restart(&mut self) -> Checked {
        self.supervisor.shut_down(self.now);
        for _ in 0..100 {
            self.act()?;
            if self.done {
                *self = Self::new(self.fault);
                return Ok(());
            }
            for (key, running) in self.instances() {
                match running {
                    true if self.jobs[&key].instance.is_some_and(ends) => {
                        self.exit(key, Exit::Signal(15));
                    }
                    true => {}
                    false => self.answer_to(key, true),
                }
                self.act()?;
            }
        }
        let (rule, job) = ("all instances end with the server", None);
        Err(Violation { rule, job })
    }

    fn instances(&self) -> Vec<(JobKey, bool)> {
        let instances = self.jobs.iter();
        instances
            .filter_map(|(key, model)| Some((*key, model.instance?.running)))
            .collect()
    }

    fn pick(&self, pick: u8, running: bool) -> Option<JobKey> {
        let instances = self.instances().into_iter();
        let keys: Vec<_> = instances
            .filter(|(_, runs)| *runs == running)
            .map(|(key, _)| key)
            .collect();
        nth(keys.into_iter(), pick)
    }

    /// The job that has a service, and the service.
    fn service(&mut self, service: u8) -> Option<(JobKey, usize, &mut Service)> {
        let number = usize::from(service) % SERVICES.len();
        self.jobs.iter_mut().find_map(|(key, model)| {
            let service = model.services.get_mut(&number)?;
            Some((*key, number, service))
        })
    }

    fn send(&mut self, service: u8) {
        let message = self.number();
        if let Some((_, _, service)) = self.service(service) {
            service.queue.push_back(message);
        }
    }

    fn receive(&mut self, service: u8) {
        if let Some((_, _, service)) = self.service(service)
            && service.at_instance
        {
            service.queue.pop_front();
        }
    }

    fn somebody(&self, by: u8) -> Owner {
        match self.pick(by, true) {
            Some(key) if !by.is_multiple_of(8) => key.into(),
            _ => CLIENT.into(),
        }
    }

    fn check_in(&mut self, by: u8, service: u8) {
        let mut owner = self.somebody(by);
        // Mostly the right one, or hardly anything would ever be checked in.
        if !by.is_multiple_of(4)
            && let Some((key, ..)) = self.service(service)
            && self.jobs[&key].instance.is_some_and(|found| found.running)
        {
            owner = key.into();
        }
        let name = NAMES[usize::from(service) % SERVICES.len()].clone();
        let fresh = PortKey(self.number());
        let key = (Scope::Global, name.clone());
        let port = self
            .registry
            .check_in(owner, key, false, fresh, Sandbox::Allows);
        let (Ok(port), Owner::Job(job)) = (port, owner) else {
            return;
        };
        if port != fresh
            && let Some((_, _, service)) = self.service(service)
        {
            service.at_instance = true;
            service.served = true;
            self.supervisor.checked_in(job, &name, self.now);
        }
    }

    fn register(&mut self, by: u8, service: u8, nothing: bool) {
        let owner = self.somebody(by);
        let number = usize::from(service) % SERVICES.len();
        let offer = match nothing {
            true => Offer::Nothing,
            false => Offer::Port(PortKey(self.number())),
        };
        let key = (Scope::Global, NAMES[number].clone());
        let result = self.registry.register(owner, key, offer, Sandbox::Allows);
        if let (Ok(Some(_)), Owner::Job(job)) = (result, owner) {
            let model = self.jobs.get_mut(&job).expect("it runs");
            model.services.remove(&number);
            self.supervisor.undeclared(&NAMES[number], self.now);
        }
    }

    fn close(&mut self, service: u8) {
        let now = self.now;
        if let Some((key, number, service)) = self.service(service)
            && service.at_instance
        {
            service.at_instance = false;
            service.reported = false;
            let (port, has_messages) = (service.port, !service.queue.is_empty());
            self.registry.returned(port);
            self.supervisor
                .returned(key, &NAMES[number], has_messages, now);
        }
    }

    /// Reports the demand that the driver sees, and carries out what follows.
    fn poll(&mut self) -> Checked {
        for _ in 0..1000 {
            let seen = self.jobs.iter().find_map(|(key, model)| {
                let mut services = model.services.iter();
                let (number, _) = services.find(|(_, service)| model.sees(service))?;
                Some((*key, *number))
            });
            let Some((key, number)) = seen else {
                return Ok(());
            };
            if let Some(model) = self.jobs.get_mut(&key)
                && let Some(service) = model.services.get_mut(&number)
            {
                service.reported = true;
            }
            self.supervisor.demand(&NAMES[number], self.now);
            self.act()?;
        }
        let (rule, job) = ("what is reported once is not reported for ever", None);
        Err(Violation { rule, job })
    }

    fn answer(&mut self, pick: u8, succeeds: bool) {
        if let Some(key) = self.pick(pick, false) {
            self.answer_to(key, succeeds);
        }
    }

    fn answer_to(&mut self, key: JobKey, succeeds: bool) {
        let pid = u32::try_from(self.number()).expect("few");
        let model = self.jobs.get_mut(&key).expect("it is being started");
        let instance = model.instance.as_mut().expect("it is being started");
        if succeeds {
            instance.running = true;
            self.registry.job_started(key, pid);
            return self.supervisor.started(key, pid, self.now);
        }
        let since = instance.since;
        model.instance = None;
        model.has_failed(&LOADED[number_of(&model.label)], since, self.now);
        let (errno, path) = (Errno::NOENT, "/p".into());
        let failure = StartFailure {
            errno,
            path,
            other: None,
        };
        self.supervisor.start_failed(key, failure, self.now);
    }

    fn try_exit(&mut self, pick: u8) {
        let Some(key) = self.pick(pick, true) else {
            return;
        };
        let model = self.jobs.get_mut(&key).expect("it runs");
        let nothing = model.services.values().all(|it| it.queue.is_empty());
        let may = self.supervisor.try_exit(key, nothing, self.now);
        if let Some(instance) = &mut model.instance
            && may
            && instance.told_to_end.is_none()
        {
            instance.told_to_end = Some(self.now);
            instance.idle = true;
        }
    }

    fn exit(&mut self, key: JobKey, exit: Exit) {
        let model = self.jobs.get_mut(&key).expect("it runs");
        let instance = model.instance.take().expect("it runs");
        let asked = instance.told_to_end.is_some() && !instance.late;
        let unasked =
            instance.told_to_end.is_none() && !matches!(exit, Exit::Status(0) | Exit::Unknown);
        let job = &LOADED[number_of(&model.label)];
        let (mut left, mut neglected) = (Vec::new(), false);
        for (number, service) in &mut model.services {
            if service.at_instance {
                self.registry.returned(service.port);
            }
            service.reported = false;
            let reset = service.at_instance && job.mach_services[&NAMES[*number]].reset_at_close;
            service.at_instance = false;
            let known = service.first.map(|(message, _)| message);
            let first = service.queue.front().copied();
            neglected |= first.is_some() && (first == known || !service.served);
            let crashes = match service.first {
                _ if !unasked || !service.served => 0,
                Some((message, crashes)) if first == Some(message) => crashes + 1,
                _ => 1,
            };
            service.first = first.filter(|_| !reset).map(|message| (message, crashes));
            service.served = false;
            left.extend(first.map(|message| (NAMES[*number].clone(), message)));
        }
        if instance.late || unasked || !asked && neglected {
            model.has_failed(job, instance.since, self.now);
        } else {
            model.has_succeeded(job, instance.since);
        }
        model.last_exit = Some(exit);
        self.registry.job_exited(key);
        self.supervisor.exited(key, exit, &left, self.now);
    }

    /// An instance crashes, and so does each that is started instead.
    fn crash_loop(&mut self, pick: u8) -> Checked {
        let Some(key) = self.pick(pick, true) else {
            return Ok(());
        };
        for _ in 0..100 {
            match self.jobs.get(&key).map(|model| model.instance) {
                None => return Ok(()),
                Some(Some(Instance { running: false, .. })) => self.answer_to(key, true),
                Some(Some(_)) => self.exit(key, Exit::Status(1)),
                Some(None) => {
                    let due = self.supervisor.next_timer();
                    self.pass(due.map_or(Duration::ZERO, |due| due - self.now))?;
                }
            }
            self.act()?;
            self.poll()?;
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) -> Checked {
        let end = self.now + time;
        for _ in 0..10_000 {
            let due = self.supervisor.next_timer().filter(|due| *due <= end);
            self.now = self.now.max(due.unwrap_or(end));
            if due.is_none() {
                return Ok(());
            }
            self.supervisor.timer(self.now);
            self.act()?;
            self.check()?;
        }
        let (rule, job) = ("timers do not spin", None);
        Err(Violation { rule, job })
    }

    /// Carries out what the supervisor asks for, and reports what that entails.
    fn act(&mut self) -> Checked {
        loop {
            while let Some(action) = self.supervisor.next_action() {
                self.carry_out(action)?;
            }
            let Some(number) = self.emptied.pop() else {
                return Ok(());
            };
            self.supervisor.emptied(&NAMES[number], self.now);
        }
    }

    fn carry_out(&mut self, action: Action) -> Checked {
        if action == Action::Done {
            self.done = true;
            let (rule, job) = ("the server does not end before its instances", None);
            let none = self.instances().is_empty();
            return none.then_some(()).ok_or(Violation { rule, job });
        }
        let key = subject(&action);
        let now = self.now;
        let Some(model) = self.jobs.get_mut(&key) else {
            return rule(false, "nothing is asked for a job that is forgotten", key);
        };
        match action {
            Action::Start(_) => return self.start(key),
            Action::Signal(_, signal) => {
                let instance = model.instance.as_mut().filter(|it| it.running);
                rule(instance.is_some(), "only what runs gets signals", key)?;
                if let Some(instance) = instance {
                    let fault = self.fault;
                    let patience = LOADED[number_of(&model.label)].exit_time_out;
                    return signal_to(instance, signal, (now, patience), fault, key);
                }
            }
            Action::Sweep(_) => rule(model.instance.is_none(), "only what is left is swept", key)?,
            Action::TellWaiting(_, failure) => self.tell_waiting(key, &failure),
            Action::Watch(_, watch) => {
                model.watch = watch;
                if self.fault != Fault::NeverRearms {
                    model
                        .services
                        .values_mut()
                        .for_each(|it| it.reported = false);
                }
            }
            Action::SetAside(_, name) => {
                let service = model.services.get_mut(&index(&name)).expect("declared");
                let crashes = service.first.take();
                service.queue.pop_front();
                let poison = crashes.is_some_and(|(_, crashes)| crashes >= 3);
                rule(poison, "a message is set aside for three crashes", key)?;
            }
            Action::Drain(_, name, drain) => {
                let crash = matches!(model.last_exit, Some(Exit::Signal(11)));
                rule(crash, "messages are drained after a crash", key)?;
                let service = model.services.get_mut(&index(&name)).expect("declared");
                service.first = None;
                match drain {
                    Drain::All => service.queue.clear(),
                    _ => drop(service.queue.pop_front()),
                }
            }
            Action::Reset(_, name) => self.reset(key, index(&name)),
            Action::CloseServices(_) => {
                let ended = model.instance.is_none();
                rule(ended, "services are not closed under an instance", key)?;
                model.services.clear();
                self.registry.job_unloaded(key);
            }
            Action::Forget(_) => drop(self.jobs.remove(&key)),
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, key: JobKey) -> Checked {
        let now = self.now;
        let asked = self.supervisor.status(key).and_then(|status| status.asked);
        let model = self.jobs.get_mut(&key).expect("known");
        rule(model.instance.is_none(), "a job has one instance", key)?;
        rule(!model.disabled, "a disabled job is not started", key)?;
        rule(
            !model.unloaded,
            "a job that is unloaded is not started",
            key,
        )?;
        let by_user = matches!(asked, Some(Reason::Kickstart(_)));
        let early = !by_user && now < model.not_before;
        rule(!early, "a failed run has its price", key)?;
        let repeats = Some(true)
            == asked.map(|reason| {
                matches!(
                    reason,
                    Reason::KeepAlive | Reason::Path(_) | Reason::Required(_)
                )
            });
        let early = repeats && now < model.not_repeated_before;
        rule(!early, "good runs do not repeat themselves at once", key)?;
        model.runs += 1;
        model.instance = Some(Instance {
            running: false,
            since: now,
            told_to_end: None,
            idle: false,
            late: false,
            killed: false,
        });
        if self.fault == Fault::StartsTwice {
            return self.start(key);
        }
        Ok(())
    }

    /// Every second driver takes the messages of those whom it tells.
    fn tell_waiting(&mut self, key: JobKey, failure: &Failure) {
        let Some(model) = self.jobs.get_mut(&key) else {
            return;
        };
        if let Some(instance) = &mut model.instance {
            instance.late |= *failure == Failure::NotCheckedIn;
        }
        if key.0.is_multiple_of(2) {
            return;
        }
        for (number, service) in &mut model.services {
            if !service.at_instance {
                service.queue.clear();
                self.emptied.push(*number);
            }
        }
    }

    fn reset(&mut self, key: JobKey, number: usize) {
        let new = PortKey(self.number());
        let model = self.jobs.get_mut(&key).expect("known");
        let service = model.services.get_mut(&number).expect("declared");
        let old = std::mem::replace(&mut service.port, new);
        service.queue.clear();
        service.first = None;
        self.registry.replace(old, new);
        self.registry.port_died(old);
    }

    fn check(&self) -> Checked {
        let due = self.supervisor.next_timer();
        if due.is_some_and(|due| due <= self.now) {
            let (rule, job) = ("no timer is in the past", None);
            return Err(Violation { rule, job });
        }
        let next = self.supervisor.next_calendar();
        if next.is_some_and(|next| next <= self.civil) {
            let (rule, job) = ("no appointment is in the past", None);
            return Err(Violation { rule, job });
        }
        for (key, model) in &self.jobs {
            self.check_job(*key, model, due)?;
            self.check_names(*key, model)?;
        }
        Ok(())
    }

    fn check_job(&self, key: JobKey, model: &Model, due: Option<Duration>) -> Checked {
        let status = self.supervisor.status(key);
        rule(
            status.is_some(),
            "a job is loaded until it is forgotten",
            key,
        )?;
        let Some(status) = status else { return Ok(()) };
        rule(status.runs == model.runs, "each start is counted", key)?;
        rule(
            status.last_exit == model.last_exit,
            "each exit is accounted for",
            key,
        )?;
        let fits = match (&status.state, &model.instance) {
            (JobState::Starting, Some(instance)) => !instance.running,
            (JobState::Running, Some(instance)) => {
                instance.running && instance.told_to_end.is_none()
            }
            (JobState::Stopping, Some(instance)) => {
                !instance.running || instance.told_to_end.is_some()
            }
            (JobState::Starting | JobState::Running | JobState::Stopping, None) => false,
            (JobState::Disabled, None) => model.disabled,
            (_, None) => !model.disabled,
            (_, Some(_)) => false,
        };
        rule(fits, "the state is what is the case", key)?;
        let waits = model
            .services
            .values()
            .any(|it| !it.queue.is_empty() && !it.at_instance);
        let seen = model.services.values().any(|it| model.sees(it));
        let kept = match status.state {
            JobState::Throttled { due: start } => due.is_some_and(|due| due <= start),
            JobState::Failed {
                probe: Some(probe), ..
            } => due.is_some_and(|due| due <= probe),
            JobState::Idle => !waits || seen,
            _ => true,
        };
        rule(kept, "no demand is lost", key)?;
        let stop = model
            .instance
            .filter(|instance| instance.running && !instance.killed);
        let patience = LOADED[number_of(&model.label)].exit_time_out;
        let overdue = stop.and_then(|it| it.told_to_end).is_some_and(|since| {
            patience > 0 && self.now >= since + Duration::from_secs(patience.into())
        });
        rule(!overdue, "SIGKILL comes in time", key)
    }

    fn check_names(&self, key: JobKey, model: &Model) -> Checked {
        for (number, service) in &model.services {
            let name = (Scope::Global, NAMES[*number].clone());
            let owner = self.registry.owner(name.clone());
            rule(
                owner == Some(key.into()),
                "a declared name is its job's",
                key,
            )?;
            let owner = self.supervisor.owner(&name.1);
            rule(owner == Some(key), "registry and supervisor agree", key)?;
            let status = self.registry.status(name.clone(), Sandbox::Allows);
            let expected = match service.at_instance {
                true => Ok(ServiceStatus::Active),
                false => Ok(ServiceStatus::OnDemand),
            };
            let hidden = SERVICES[*number] == "g" && !service.at_instance;
            rule(
                hidden || status == expected,
                "a service is active while checked in",
                key,
            )?;
            let found = self.registry.look_up(name, Sandbox::Allows);
            rule(
                hidden || found == Ok(service.port),
                "a name leads to its port",
                key,
            )?;
        }
        Ok(())
    }

    /// From now on everybody does what is expected; in the end no message waits for a job that
    /// could be started.
    pub(crate) fn come_to_rest(mut self) -> Checked {
        for key in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.happens_to(key, Step::Enable { job: 0 });
        }
        for _ in 0..100 {
            self.load(0);
            for _ in 0..3 {
                self.act()?;
                self.poll()?;
                self.behave()?;
            }
            self.act()?;
            self.check()?;
            let due = self.supervisor.next_timer();
            let most = self.now + Duration::from_secs(60);
            self.pass(due.map_or(most, |due| due.min(most)) - self.now)?;
        }
        for (key, model) in &self.jobs {
            let empty = model.services.values().all(|it| it.queue.is_empty());
            rule(empty, "every message is received in the end", *key)?;
        }
        Ok(())
    }

    /// Instances start, check in and receive what there is, and end when they are told to.
    fn behave(&mut self) -> Checked {
        for (key, running) in self.instances() {
            if !running {
                self.answer_to(key, true);
                self.act()?;
                continue;
            }
            if self.jobs[&key].instance.is_some_and(ends) {
                self.exit(key, Exit::Status(0));
                self.act()?;
                continue;
            }
            let numbers: Vec<_> = self.jobs[&key].services.keys().copied().collect();
            for number in numbers {
                let number = number as u8;
                // By the job itself.
                self.check_in(1, number);
                while self
                    .service(number)
                    .is_some_and(|(_, _, it)| it.at_instance && !it.queue.is_empty())
                {
                    self.receive(number);
                }
            }
            self.act()?;
        }
        Ok(())
    }
}

fn ends(instance: Instance) -> bool {
    instance.told_to_end.is_some()
}

fn signal_to(
    instance: &mut Instance,
    signal: Signal,
    (now, patience): (Duration, u32),
    fault: Fault,
    key: JobKey,
) -> Checked {
    if signal == Signal::Terminate {
        let first = instance.told_to_end.is_none() || instance.idle;
        instance.told_to_end = Some(now);
        instance.idle = false;
        return rule(first, "an instance is told to end once", key);
    }
    let due = instance
        .told_to_end
        .map(|since| since + Duration::from_secs(patience.into()));
    instance.killed = fault != Fault::IgnoresKill;
    rule(
        due.is_some_and(|due| now >= due),
        "SIGKILL comes not too early",
        key,
    )
}

fn subject(action: &Action) -> JobKey {
    match action {
        Action::Start(key)
        | Action::Signal(key, _)
        | Action::Sweep(key)
        | Action::TellWaiting(key, _)
        | Action::Watch(key, _)
        | Action::SetAside(key, _)
        | Action::Drain(key, ..)
        | Action::Reset(key, _)
        | Action::CloseServices(key)
        | Action::Forget(key)
        | Action::Warn(key, _) => *key,
        other => panic!("{other:?} is about no job"),
    }
}

fn nth<T>(items: impl Iterator<Item = T>, pick: u8) -> Option<T> {
    let mut items: Vec<_> = items.collect();
    let at = usize::from(pick) % items.len().max(1);
    (!items.is_empty()).then(|| items.swap_remove(at))
}

fn index(name: &ServiceName) -> usize {
    NAMES
        .iter()
        .position(|known| known == name)
        .expect("one of the names")
}

fn number_of(label: &JobLabel) -> usize {
    LOADED
        .iter()
        .position(|job| job.label == *label)
        .expect("one of the jobs")
}

fn civil(day: u8, minute: u16) -> Civil {
    Civil {
        year: 2026,
        month: 3,
        day,
        hour: (minute / 60) as u8,
        minute: (minute % 60) as u8,
        second: 0,
    }
}
