//! When jobs run: each rule by itself, with a driver that does what it is asked and no more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use portoland::job::{Drain, Job, Reading};
use portoland::supervisor::{
    Action, Civil, CommandError, Exit, Failure, JobKey, JobState, LoadError, PROBE, Past, Reason,
    START_LIMIT, Signal, StartFailure, Status, Supervisor, Trigger, Warning, Watch,
};
use rustix::io::Errno;

const SECOND: Duration = Duration::from_secs(1);
const SEGV: Exit = Exit::Signal(11);
const FAILURE: Exit = Exit::Status(1);
const SUCCESS: Exit = Exit::Status(0);

fn label(text: &str) -> JobLabel {
    text.parse().expect("label")
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("name")
}

fn job(text: &str) -> Job {
    let reading = Reading::of(format!("Program = \"/bin/job\"\n{text}").as_bytes());
    reading
        .job
        .unwrap_or_else(|| panic!("{:?}", reading.errors))
}

/// A supervisor, its clock, and what it has asked for.
struct World {
    supervisor: Supervisor,
    now: Duration,
    pids: u32,
}

impl World {
    fn new() -> Self {
        Self {
            supervisor: Supervisor::new(1),
            now: 100 * SECOND,
            pids: 1000,
        }
    }

    /// A world with one job, whose label and service are `echo`.
    fn with(keys: &str) -> (Self, JobKey) {
        let mut world = Self::new();
        let key = world.load(&echo(keys));
        (world, key)
    }

    fn load(&mut self, text: &str) -> JobKey {
        self.try_load(text).expect("loads")
    }

    fn try_load(&mut self, text: &str) -> Result<JobKey, LoadError> {
        self.supervisor.load(job(text), self.now)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.supervisor.next_action()).collect()
    }

    /// The jobs that are to be started, each of which is.
    fn starts(&mut self) -> Vec<JobKey> {
        let actions = self.actions();
        let starts = actions.iter().filter_map(|action| match action {
            Action::Start(key) => Some(*key),
            _ => None,
        });
        let starts: Vec<_> = starts.collect();
        for key in &starts {
            self.pids += 1;
            self.supervisor.started(*key, self.pids, self.now);
        }
        starts
    }

    fn must_start(&mut self, key: JobKey) {
        assert_eq!(self.starts(), [key]);
    }

    fn demand(&mut self, service: &str) {
        self.supervisor.demand(&name(service), self.now);
    }

    fn check_in(&mut self, key: JobKey, service: &str) {
        self.supervisor.checked_in(key, &name(service), self.now);
    }

    fn exit(&mut self, key: JobKey, exit: Exit, left: &[(&str, u64)]) {
        let left: Vec<_> = left.iter().map(|(text, id)| (name(text), *id)).collect();
        self.supervisor.exited(key, exit, &left, self.now);
    }

    fn fail_to_start(&mut self, key: JobKey) -> Failure {
        assert!(self.actions().contains(&Action::Start(key)));
        let failure = StartFailure {
            errno: Errno::NOENT,
            path: "/bin/job".into(),
            other: None,
        };
        let told = failure.clone().into();
        self.supervisor.start_failed(key, failure, self.now);
        told
    }

    /// Lets time pass, with a timer whenever one is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.supervisor.next_timer().filter(|due| *due <= end) {
            self.now = due;
            self.supervisor.timer(due);
        }
        self.now = end;
    }

    /// Lets time pass to the next timer.
    fn next(&mut self) -> Duration {
        let due = self.supervisor.next_timer().expect("something is due");
        let waited = due - self.now;
        self.pass(waited);
        waited
    }

    fn status(&self, key: JobKey) -> Status {
        self.supervisor.status(key).expect("loaded")
    }

    fn state(&self, key: JobKey) -> JobState {
        self.status(key).state
    }
}

fn echo(keys: &str) -> String {
    format!("Label = \"echo\"\nMachServices.echo = true\n{keys}")
}

#[test]
fn a_message_starts_a_job_once() {
    let (mut world, key) = World::with("");
    assert_eq!(world.actions(), [Action::Watch(key, Watch::Everything)]);
    world.demand("echo");
    world.demand("echo");
    let expected = [Action::Start(key), Action::Watch(key, Watch::Off)];
    assert_eq!(world.actions(), expected);
    assert_eq!(world.state(key), JobState::Starting);
    world.supervisor.started(key, 7, world.now);
    assert_eq!(world.actions(), [Action::Watch(key, Watch::Services)]);
    let status = world.status(key);
    assert_eq!((status.state, status.pid), (JobState::Running, Some(7)));
    assert_eq!(status.asked, Some(Reason::Demand(name("echo"))));
    assert_eq!(status.not_checked_in, [name("echo")]);
    world.check_in(key, "echo");
    assert_eq!(world.status(key).not_checked_in, []);
}

#[test]
fn messages_that_a_crash_leaves_start_the_next_instance() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    world.must_start(key);
    world.check_in(key, "echo");
    world.exit(key, SEGV, &[("echo", 3)]);
    assert_eq!(world.starts(), []);
    let waited = world.next();
    assert!(waited >= SECOND * 8 / 100 && waited <= SECOND * 12 / 100);
    world.must_start(key);
}

#[test]
fn an_interval_that_is_given_counts_from_start_to_start() {
    let (mut world, key) = World::with("ThrottleInterval = 5");
    world.demand("echo");
    world.must_start(key);
    world.check_in(key, "echo");
    world.pass(2 * SECOND);
    world.exit(key, Exit::Signal(9), &[("echo", 1)]);
    let due = world.now + 3 * SECOND;
    assert_eq!(world.state(key), JobState::Throttled { due });
    assert_eq!(world.status(key).next_start, Some(due));
    assert_eq!(world.next(), 3 * SECOND);
    world.must_start(key);
}

#[test]
fn a_helper_that_ends_well_is_never_throttled() {
    let (mut world, key) = World::with("");
    for k in 0..60 {
        world.demand("echo");
        world.must_start(key);
        world.check_in(key, "echo");
        world.exit(key, SUCCESS, &[]);
        assert_eq!(world.status(key).failures_in_a_row, 0, "run {k}");
        assert_eq!(world.supervisor.next_timer(), None);
    }
    assert_eq!(world.status(key).runs, 60);
}

#[test]
fn a_run_that_leaves_its_messages_alone_has_failed() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    world.must_start(key);
    world.exit(key, SUCCESS, &[("echo", 1)]);
    assert_eq!(world.status(key).last_failure, Some(Failure::LeftUnread));
    assert_eq!(world.starts(), [], "it did not check in");
    world.next();
    world.must_start(key);
    world.check_in(key, "echo");
    world.exit(key, SUCCESS, &[("echo", 1)]);
    assert_eq!(world.status(key).failures_in_a_row, 2, "the same is first");
    world.next();
    world.must_start(key);
    world.check_in(key, "echo");
    world.exit(key, SUCCESS, &[("echo", 2)]);
    world.must_start(key);
}

#[test]
fn delays_grow_until_the_job_has_failed_and_it_recovers() {
    let (mut world, key) = World::with("KeepAlive = true");
    world.must_start(key);
    let (mut before, begun) = (Duration::ZERO, world.now);
    for run in 1..START_LIMIT {
        world.exit(key, FAILURE, &[]);
        assert_eq!(world.status(key).failures_in_a_row, run);
        let waited = world.next();
        if run <= 10 {
            assert!(waited > before, "{waited:?} after run {run}");
        }
        before = waited;
        world.must_start(key);
    }
    world.exit(key, FAILURE, &[]);
    let (failure, probe) = (Failure::Ended(FAILURE), Some(world.now + PROBE));
    let failed = JobState::Failed {
        failure: failure.clone(),
        probe,
    };
    assert_eq!(world.state(key), failed);
    let warning = Warning::Failed {
        runs: START_LIMIT,
        failure: failure.clone(),
    };
    let actions = world.actions();
    for expected in [
        Action::Warn(key, warning),
        Action::TellWaiting(key, failure.clone()),
        Action::Watch(key, Watch::Arrivals),
    ] {
        assert!(actions.contains(&expected), "{expected:?} in {actions:?}");
    }
    assert!(world.now - begun < 15 * 60 * SECOND);

    world.pass(PROBE / 2);
    world.demand("echo");
    assert_eq!(world.actions(), [Action::TellWaiting(key, failure)]);
    assert_eq!(world.next(), PROBE / 2);
    world.must_start(key);
    world.exit(key, FAILURE, &[]);
    assert_eq!(world.next(), PROBE, "one more is enough");
    world.must_start(key);
    world.check_in(key, "echo");
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.status(key).failures_in_a_row, 0);
}

#[test]
fn a_missing_program_is_told_at_once_and_started_when_it_appears() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    let failure = world.fail_to_start(key);
    let actions = world.actions();
    assert!(actions.contains(&Action::TellWaiting(key, failure.clone())));
    let text = "cannot execute /bin/job: No such file or directory (os error 2)";
    assert_eq!(failure.to_string(), text);
    world.supervisor.program_appeared(key, world.now);
    world.must_start(key);
}

#[test]
fn a_start_that_failed_is_tried_again_though_nothing_is_queued() {
    let mut world = World::new();
    let key = world.load("Label = \"tool\"\nRunAtLoad = true");
    world.fail_to_start(key);
    world.next();
    world.must_start(key);
    assert_eq!(world.status(key).asked, Some(Reason::Retry));
    world.exit(key, FAILURE, &[]);
    assert_eq!(world.state(key), JobState::Idle, "it has run");
}

#[test]
fn callers_that_were_told_start_nothing() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    world.fail_to_start(key);
    world.supervisor.emptied(&name("echo"), world.now);
    assert_eq!(world.state(key), JobState::Idle);
    assert_eq!(world.supervisor.next_timer(), None);
}

#[test]
fn kickstart_starts_a_job_that_has_failed() {
    let (mut world, key) = World::with("KeepAlive = true");
    world.must_start(key);
    world.exit(key, FAILURE, &[]);
    world
        .supervisor
        .kickstart(&label("echo"), false, 42, world.now)
        .expect("loaded");
    world.must_start(key);
    assert_eq!(world.status(key).asked, Some(Reason::Kickstart(42)));
    assert_eq!(world.status(key).failures_in_a_row, 0);

    world
        .supervisor
        .kickstart(&label("echo"), false, 42, world.now)
        .expect("runs");
    assert_eq!(world.actions().len(), 1, "only what it watches has changed");
    world
        .supervisor
        .kickstart(&label("echo"), true, 43, world.now)
        .expect("runs");
    assert!(
        world
            .actions()
            .contains(&Action::Signal(key, Signal::Terminate))
    );
    world.exit(key, Exit::Signal(15), &[]);
    world.must_start(key);
    assert_eq!(world.status(key).asked, Some(Reason::Kickstart(43)));
    assert_eq!(world.status(key).failures_in_a_row, 0);
}

#[test]
fn an_instance_that_does_not_check_in_is_stopped() {
    let (mut world, key) = World::with("TimeOut = 3");
    world.demand("echo");
    world.must_start(key);
    world.actions();
    assert_eq!(world.next(), 3 * SECOND);
    let expected = [
        Action::TellWaiting(key, Failure::NotCheckedIn),
        Action::Signal(key, Signal::Terminate),
        Action::Watch(key, Watch::Off),
    ];
    assert_eq!(world.actions(), expected);
    world.exit(key, Exit::Signal(15), &[]);
    assert_eq!(world.status(key).last_failure, Some(Failure::NotCheckedIn));
}

#[test]
fn nobody_has_to_check_in_what_nobody_waits_for() {
    let (mut world, key) =
        World::with("TimeOut = 3\nRunAtLoad = true\nSockets.a.SockPathName = \"/a\"");
    world.must_start(key);
    assert_eq!(world.supervisor.next_timer(), None);
    world.pass(10 * SECOND);
    world.demand("echo");
    assert_eq!(world.next(), 3 * SECOND);
    assert_eq!(world.state(key), JobState::Stopping);
}

#[test]
fn what_does_not_end_is_killed() {
    let (mut world, key) = World::with("RunAtLoad = true\nExitTimeOut = 7");
    world.must_start(key);
    world
        .supervisor
        .stop(&label("echo"), world.now)
        .expect("loaded");
    assert!(
        world
            .actions()
            .contains(&Action::Signal(key, Signal::Terminate))
    );
    assert_eq!(world.next(), 7 * SECOND);
    assert_eq!(world.actions(), [Action::Signal(key, Signal::Kill)]);
    assert_eq!(world.supervisor.next_timer(), None);
    world.exit(key, Exit::Signal(9), &[]);
    assert!(world.actions().contains(&Action::Sweep(key)));
    let status = world.status(key);
    assert_eq!(
        (status.state, status.failures_in_a_row),
        (JobState::Idle, 0)
    );
}

#[test]
fn a_time_out_of_zero_is_none() {
    let (mut world, key) = World::with("RunAtLoad = true\nExitTimeOut = 0\nTimeOut = 0");
    world.must_start(key);
    world.demand("echo");
    assert_eq!(world.supervisor.next_timer(), None);
    world
        .supervisor
        .stop(&label("echo"), world.now)
        .expect("loaded");
    assert_eq!(world.supervisor.next_timer(), None);
}

#[test]
fn a_group_that_is_abandoned_is_not_swept() {
    let (mut world, key) = World::with("RunAtLoad = true\nAbandonProcessGroup = true");
    world.must_start(key);
    world.exit(key, SUCCESS, &[]);
    assert!(!world.actions().contains(&Action::Sweep(key)));
}

#[test]
fn a_message_that_is_first_at_three_crashes_is_set_aside() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    for crash in 1..=3 {
        world.must_start(key);
        world.check_in(key, "echo");
        world.exit(key, FAILURE, &[("echo", 5)]);
        if crash < 3 {
            world.next();
        }
    }
    let actions = world.actions();
    assert!(actions.contains(&Action::SetAside(key, name("echo"))));
    assert!(actions.contains(&Action::Watch(key, Watch::Everything)));
    world.demand("echo");
    assert!(matches!(world.state(key), JobState::Throttled { .. }));
    world.next();
    world.must_start(key);
}

#[test]
fn a_message_is_set_aside_only_for_crashes_in_a_row_that_had_it() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    let runs = [
        (FAILURE, 5, true),
        (FAILURE, 5, true),
        (FAILURE, 6, true),
        (FAILURE, 6, true),
        (SUCCESS, 6, true),
        (FAILURE, 6, true),
        (FAILURE, 6, true),
        (FAILURE, 6, false),
    ];
    for (exit, first, checks_in) in runs {
        world.must_start(key);
        if checks_in {
            world.check_in(key, "echo");
        }
        world.exit(key, exit, &[("echo", first)]);
        let due = world.supervisor.next_timer();
        world.pass(due.map_or(Duration::ZERO, |due| due - world.now));
    }
    assert!(
        !world
            .actions()
            .contains(&Action::SetAside(key, name("echo")))
    );
}

#[test]
fn messages_are_drained_after_a_fault_only() {
    for (exit, drains) in [(SEGV, true), (FAILURE, false), (Exit::Signal(9), false)] {
        let (mut world, key) = World::with("MachServices.all.DrainMessagesOnCrash = \"All\"");
        world.demand("all");
        world.must_start(key);
        world.check_in(key, "all");
        world.exit(key, exit, &[("all", 1)]);
        let drain = Action::Drain(key, name("all"), Drain::All);
        assert_eq!(world.actions().contains(&drain), drains, "{exit}");
    }
}

#[test]
fn a_right_that_comes_back_is_reset_once() {
    let (mut world, key) = World::with("MachServices.reset.ResetAtClose = true");
    let reset = Action::Reset(key, name("reset"));
    world.demand("reset");
    world.must_start(key);
    world.check_in(key, "reset");
    world
        .supervisor
        .returned(key, &name("reset"), true, world.now);
    assert_eq!(world.actions().iter().filter(|&it| *it == reset).count(), 1);
    world.exit(key, SUCCESS, &[]);
    assert!(!world.actions().contains(&reset));
    assert_eq!(world.state(key), JobState::Idle);

    world.demand("reset");
    world.must_start(key);
    world.check_in(key, "reset");
    world.exit(key, SEGV, &[("reset", 4)]);
    assert!(world.actions().contains(&reset));
    assert_eq!(world.state(key), JobState::Idle, "what was queued is gone");

    world.demand("reset");
    world.next();
    world.fail_to_start(key);
    assert!(world.actions().contains(&reset));
}

#[test]
fn a_right_that_comes_back_with_messages_is_demand_after_the_end() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    world.must_start(key);
    world.check_in(key, "echo");
    world
        .supervisor
        .returned(key, &name("echo"), true, world.now);
    assert_eq!(world.starts(), []);
    world.exit(key, SUCCESS, &[("echo", 2)]);
    world.must_start(key);
}

#[test]
fn an_idle_exit_loses_no_demand() {
    let (mut world, key) = World::with("");
    world.demand("echo");
    world.must_start(key);
    assert!(
        !world.supervisor.try_exit(key, true, world.now),
        "not checked in"
    );
    world.check_in(key, "echo");
    assert!(!world.supervisor.try_exit(key, false, world.now));
    assert!(world.supervisor.try_exit(key, true, world.now));
    assert_eq!(world.state(key), JobState::Stopping);
    assert!(
        !world
            .actions()
            .contains(&Action::Signal(key, Signal::Terminate))
    );
    world.exit(key, SUCCESS, &[("echo", 9)]);
    world.must_start(key);
    assert_eq!(world.status(key).failures_in_a_row, 0);
}

#[test]
fn an_idle_exit_that_does_not_come_is_enforced() {
    let (mut world, key) = World::with("RunAtLoad = true");
    world.must_start(key);
    assert!(world.supervisor.try_exit(key, true, world.now));
    world.actions();
    assert_eq!(world.next(), 20 * SECOND);
    assert_eq!(world.actions(), [Action::Signal(key, Signal::Kill)]);
}

#[test]
fn an_idle_exit_does_not_put_off_being_stopped() {
    let (mut world, key) = World::with("RunAtLoad = true");
    world.must_start(key);
    assert!(world.supervisor.try_exit(key, true, world.now));
    world.pass(SECOND);
    let stopped = world.supervisor.stop(&label("echo"), world.now);
    stopped.expect("loaded");
    let terminate = Action::Signal(key, Signal::Terminate);
    assert!(world.actions().contains(&terminate));
    assert_eq!(world.next(), 20 * SECOND);
}

#[test]
fn good_runs_that_are_kept_alive_do_not_spin() {
    let (mut world, key) = World::with("KeepAlive = true");
    world.must_start(key);
    world.pass(4 * SECOND);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.next(), 6 * SECOND);
    world.must_start(key);
    world.pass(11 * SECOND);
    world.exit(key, SUCCESS, &[]);
    world.must_start(key);
    world.exit(key, SUCCESS, &[]);
    assert!(
        world
            .actions()
            .contains(&Action::Watch(key, Watch::Everything))
    );
    world.demand("echo");
    world.must_start(key);
}

#[test]
fn a_failed_run_does_not_wait_for_the_interval_of_a_good_one() {
    let (mut world, key) = World::with("KeepAlive = true");
    world.must_start(key);
    world.exit(key, SUCCESS, &[]);
    world.demand("echo");
    world.must_start(key);
    world.check_in(key, "echo");
    world.exit(key, FAILURE, &[]);
    assert!(world.next() < SECOND);
    world.must_start(key);
}

#[test]
fn conditions_of_keep_alive() {
    for (condition, exit, again) in [
        ("SuccessfulExit = true", SUCCESS, true),
        ("SuccessfulExit = true", FAILURE, false),
        ("SuccessfulExit = false", SUCCESS, false),
        ("SuccessfulExit = false", FAILURE, true),
        ("SuccessfulExit = false", SEGV, true),
        ("Crashed = true", SEGV, true),
        ("Crashed = true", FAILURE, false),
        ("Crashed = false", SEGV, false),
        ("Crashed = false", SUCCESS, true),
        ("SuccessfulExit = true, Crashed = true", SEGV, true),
    ] {
        let (mut world, key) = World::with(&format!("KeepAlive = {{ {condition} }}"));
        world.must_start(key);
        world.exit(key, exit, &[]);
        world.pass(20 * SECOND);
        assert_eq!(
            !world.starts().is_empty(),
            again,
            "{condition} after {exit}"
        );
    }
}

#[test]
fn conditions_on_paths_and_other_jobs() {
    let mut world = World::new();
    let key = world.load(
        "Label = \"watcher\"\n[KeepAlive]\nPathState.\"/flag\" = true\n\
         OtherJobEnabled.other = true\nOtherJobActive.third = true",
    );
    assert_eq!(world.state(key), JobState::Idle);
    world
        .supervisor
        .path_state(key, Path::new("/flag"), true, world.now);
    world.must_start(key);
    world
        .supervisor
        .path_state(key, Path::new("/flag"), false, world.now);
    world.pass(20 * SECOND);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.state(key), JobState::Idle);
    world.load("Label = \"other\"");
    world.must_start(key);
    world
        .supervisor
        .disable(&label("other"), world.now)
        .expect("loaded");
    world.pass(20 * SECOND);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.state(key), JobState::Idle);
    let third = world.load("Label = \"third\"\nRunAtLoad = true");
    assert_eq!(world.starts(), [third]);
    assert_eq!(world.starts(), [key]);
}

#[test]
fn conditions_count_after_initial_demand_only() {
    let (mut world, key) =
        World::with("KeepAlive = { SuccessfulExit = true, AfterInitialDemand = true }");
    assert_eq!(world.state(key), JobState::Idle);
    world.demand("echo");
    world.must_start(key);
    world.check_in(key, "echo");
    world.pass(20 * SECOND);
    world.exit(key, SUCCESS, &[]);
    world.must_start(key);
}

#[test]
fn intervals_that_were_missed_count_as_one() {
    let mut world = World::new();
    let key = world.load("Label = \"tool\"\nStartInterval = 10");
    assert_eq!(world.next(), 10 * SECOND);
    world.must_start(key);
    world.pass(15 * SECOND);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.starts(), [], "one that it ran through is missed");
    world.now += 100 * SECOND;
    world.supervisor.timer(world.now);
    world.must_start(key);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.next(), 5 * SECOND);
    world.must_start(key);
}

fn clock(day: u8, hour: u8, minute: u8) -> Civil {
    Civil {
        year: 2026,
        month: 3,
        day,
        hour,
        minute,
        second: 0,
    }
}

#[test]
fn times_of_the_calendar_that_were_missed_count_as_one() {
    let mut world = World::new();
    world.supervisor.calendar(clock(1, 0, 0), world.now);
    let keys = "Label = \"tool\"\nStartCalendarInterval = { Hour = 2, Minute = 30 }";
    let key = world.load(keys);
    assert_eq!(world.supervisor.next_calendar(), Some(clock(1, 2, 30)));
    world.supervisor.calendar(clock(1, 2, 30), world.now);
    world.must_start(key);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.status(key).next_calendar, Some(clock(2, 2, 30)));
    world.supervisor.calendar(clock(9, 12, 0), world.now);
    world.must_start(key);
    assert_eq!(world.supervisor.next_calendar(), Some(clock(10, 2, 30)));
}

#[test]
fn the_clock_is_set_back() {
    let mut world = World::new();
    world.supervisor.calendar(clock(20, 2, 45), world.now);
    let fixed = world.load("Label = \"a\"\nStartCalendarInterval = { Hour = 2, Minute = 30 }");
    let hourly = world.load("Label = \"b\"\nStartCalendarInterval = { Minute = 30 }");
    let next = |world: &World, key| world.status(key).next_calendar;
    world.supervisor.calendar(clock(20, 1, 45), world.now);
    assert_eq!(
        next(&world, fixed),
        Some(clock(21, 2, 30)),
        "as summer time ends"
    );
    assert_eq!(next(&world, hourly), Some(clock(20, 2, 30)));
    world.supervisor.calendar(clock(3, 1, 0), world.now);
    assert_eq!(next(&world, fixed), Some(clock(3, 2, 30)), "by somebody");
    assert_eq!(world.starts(), []);
}

#[test]
fn a_path_that_changes_while_it_runs_has_it_run_again() {
    let mut world = World::new();
    let key = world.load("Label = \"tool\"\nWatchPaths = [\"/a\"]");
    let changed = |world: &mut World| {
        let trigger = Trigger::Path(PathBuf::from("/a"));
        world.supervisor.triggered(key, trigger, world.now);
    };
    changed(&mut world);
    world.must_start(key);
    changed(&mut world);
    world.pass(3 * SECOND);
    world.exit(key, SUCCESS, &[]);
    assert_eq!(world.next(), 7 * SECOND);
    world.must_start(key);
}

#[test]
fn connections_that_are_never_accepted_do_not_make_it_spin() {
    let mut world = World::new();
    let key = world.load("Label = \"web\"\nSockets.http.SockServiceName = \"8080\"");
    let mut starts = 0;
    let end = world.now + 10 * SECOND;
    while world.now < end {
        let trigger = Trigger::Socket("http".into());
        world.supervisor.triggered(key, trigger, world.now);
        for key in world.starts() {
            starts += 1;
            world.exit(key, SUCCESS, &[]);
        }
        world.pass(SECOND / 1000);
    }
    assert!((90..=110).contains(&starts), "{starts}");
}

#[test]
fn a_disabled_job_is_not_started_and_callers_are_told() {
    let (mut world, key) = World::with("Disabled = true\nRunAtLoad = true");
    assert_eq!(world.state(key), JobState::Disabled);
    world.actions();
    world.demand("echo");
    let told = [Action::TellWaiting(key, Failure::Disabled)];
    assert_eq!(world.actions(), told);
    let refused = world
        .supervisor
        .kickstart(&label("echo"), false, 1, world.now);
    assert_eq!(refused, Err(CommandError::Disabled(label("echo"))));
    world
        .supervisor
        .enable(&label("echo"), world.now)
        .expect("loaded");
    world.must_start(key);
    world
        .supervisor
        .disable(&label("echo"), world.now)
        .expect("loaded");
    assert_eq!(world.state(key), JobState::Running);
    world.exit(key, SUCCESS, &[]);
    assert!(world.actions().contains(&told[0]));
}

#[test]
fn a_job_is_forgotten_when_it_has_ended() {
    let (mut world, key) = World::with("KeepAlive = true");
    world.must_start(key);
    world
        .supervisor
        .unload(&label("echo"), world.now)
        .expect("loaded");
    assert!(
        world
            .actions()
            .contains(&Action::Signal(key, Signal::Terminate))
    );
    let again = world.try_load(&echo(""));
    assert_eq!(again, Err(LoadError::Duplicate(label("echo"))));
    world.exit(key, Exit::Signal(15), &[("echo", 1)]);
    let expected = [
        Action::Sweep(key),
        Action::CloseServices(key),
        Action::Forget(key),
    ];
    assert_eq!(world.actions(), expected);
    assert_eq!(world.supervisor.status(key), None);
    assert_eq!(world.supervisor.owner(&name("echo")), None);
    let unknown = world.supervisor.unload(&label("echo"), world.now);
    assert_eq!(unknown, Err(CommandError::NoSuchJob(label("echo"))));
    assert_ne!(world.load(&echo("")), key);
}

#[test]
fn a_job_that_is_launched_once_is_forgotten_after_its_run() {
    let (mut world, key) = World::with("LaunchOnlyOnce = true");
    world.demand("echo");
    world.fail_to_start(key);
    world.next();
    world.must_start(key);
    world.exit(key, FAILURE, &[("echo", 1)]);
    assert!(world.actions().contains(&Action::Forget(key)));
}

#[test]
fn a_name_that_another_job_has_is_left_out() {
    let (mut world, first) = World::with("");
    world.actions();
    let second =
        world.load("Label = \"second\"\nMachServices.echo = true\nMachServices.own = true");
    let warning = Warning::NameTaken {
        name: name("echo"),
        owner: label("echo"),
    };
    assert!(world.actions().contains(&Action::Warn(second, warning)));
    assert_eq!(world.supervisor.owner(&name("echo")), Some(first));
    assert_eq!(
        world.supervisor.services(second).collect::<Vec<_>>(),
        [&name("own")]
    );
    world.demand("echo");
    world.must_start(first);
}

#[test]
fn a_name_that_is_taken_back_starts_nothing() {
    let (mut world, key) = World::with("");
    world.supervisor.undeclared(&name("echo"), world.now);
    world.demand("echo");
    assert_eq!(world.state(key), JobState::Idle);
}

#[test]
fn jobs_that_wait_for_each_other_are_refused() {
    let mut world = World::new();
    world.load("Label = \"a\"\nAfter = [\"b\"]");
    world.load("Label = \"b\"\nRequires = [\"c\"]");
    let error = world
        .try_load("Label = \"c\"\nAfter = [\"x\", \"a\"]")
        .expect_err("a cycle");
    let cycle = ["c", "a", "b"].map(label).to_vec();
    assert_eq!(error, LoadError::Cycle(cycle));
    assert_eq!(
        error.to_string(),
        "jobs wait for each other: c -> a -> b -> c"
    );
    world.load("Label = \"c\"\nAfter = [\"x\"]");
}

#[test]
fn a_job_is_started_after_others_that_are_started_with_it() {
    let mut world = World::new();
    let jobs = [
        "Label = \"late\"\nRunAtLoad = true\nAfter = [\"early\", \"missing\"]",
        "Label = \"early\"\nRunAtLoad = true",
    ];
    let keys = world.supervisor.load_all(jobs.map(job).to_vec(), world.now);
    let [late, early] = [0, 1].map(|k| keys[k].clone().expect("loads"));
    let waiting = JobState::Waiting {
        label: label("early"),
    };
    assert_eq!(world.state(late), waiting);
    assert_eq!(world.starts(), [early]);
    assert_eq!(world.starts(), [late]);
    world.exit(late, FAILURE, &[]);
    world.exit(early, SUCCESS, &[]);
    world
        .supervisor
        .kickstart(&label("late"), false, 1, world.now)
        .expect("loaded");
    assert_eq!(world.starts(), [late], "without the other");
}

#[test]
fn a_failed_start_holds_nobody_up() {
    let mut world = World::new();
    let early = world.load("Label = \"early\"\nRunAtLoad = true");
    let late = world.load("Label = \"late\"\nRunAtLoad = true\nAfter = [\"early\"]");
    world.fail_to_start(early);
    assert_eq!(world.starts(), [late]);
}

#[test]
fn a_job_is_started_when_what_it_requires_is_ready() {
    let (mut world, echo) = World::with("");
    let web = world.load("Label = \"web\"\nRequires = [\"echo\"]\nMachServices.web = true");
    world.demand("web");
    assert_eq!(world.starts(), [echo]);
    assert_eq!(
        world.status(echo).asked,
        Some(Reason::Required(label("web")))
    );
    assert_eq!(
        world.state(web),
        JobState::Waiting {
            label: label("echo")
        }
    );
    assert_eq!(world.starts(), []);
    world.check_in(echo, "echo");
    assert_eq!(world.starts(), [web]);
}

#[test]
fn readiness_can_be_told() {
    let (mut world, echo) = World::with("RunAtLoad = true");
    let web = world.load("Label = \"web\"\nRequires = [\"echo\"]\nRunAtLoad = true");
    assert_eq!(world.starts(), [echo]);
    world.supervisor.ready(echo, world.now);
    assert_eq!(world.starts(), [web]);
}

#[test]
fn what_is_required_has_to_check_in_in_time() {
    let (mut world, echo) = World::with("TimeOut = 3\nRunAtLoad = true");
    world.must_start(echo);
    world.load("Label = \"web\"\nRequires = [\"echo\"]\nRunAtLoad = true");
    assert_eq!(world.next(), 3 * SECOND);
    assert_eq!(world.state(echo), JobState::Stopping);
}

#[test]
fn a_job_fails_with_what_it_requires_and_recovers_with_it() {
    let mut world = World::new();
    let web = world.load("Label = \"web\"\nRequires = [\"echo\"]\nMachServices.web = true");
    world.demand("web");
    let failure = Failure::Requires(label("echo"));
    let told = Action::TellWaiting(web, failure.clone());
    let failed = JobState::Failed {
        failure,
        probe: None,
    };
    assert_eq!(world.state(web), failed, "it is not loaded");
    assert!(world.actions().contains(&told));
    let echo = world.load(&echo("Disabled = true"));
    assert_eq!(world.state(web), failed, "it is disabled");
    world
        .supervisor
        .enable(&label("echo"), world.now)
        .expect("loaded");
    for _ in 0..START_LIMIT {
        world.must_start(echo);
        world.exit(echo, FAILURE, &[]);
        if !matches!(world.state(echo), JobState::Failed { .. }) {
            world.next();
        }
    }
    assert_eq!(world.state(web), failed, "it has failed");
    assert!(world.actions().contains(&told));
    world.demand("web");
    assert_eq!(world.actions(), [told]);
    world
        .supervisor
        .kickstart(&label("echo"), false, 1, world.now)
        .expect("loaded");
    world.must_start(echo);
    world.check_in(echo, "echo");
    world.must_start(web);
}

#[test]
fn the_end_comes_in_reverse_order() {
    let (mut world, echo) = World::with("RunAtLoad = true\nExitTimeOut = 5");
    world.must_start(echo);
    world.check_in(echo, "echo");
    let web = world.load("Label = \"web\"\nRequires = [\"echo\"]\nRunAtLoad = true");
    world.must_start(web);
    world.actions();
    world.supervisor.shut_down(world.now);
    let stops = |actions: Vec<Action>| -> Vec<Action> {
        let watch = |action: &Action| matches!(action, Action::Watch(..));
        actions
            .into_iter()
            .filter(|action| !watch(action))
            .collect()
    };
    let terminate = |key| Action::Signal(key, Signal::Terminate);
    assert_eq!(stops(world.actions()), [terminate(web)]);
    world.demand("echo");
    world.exit(web, SUCCESS, &[]);
    assert_eq!(
        stops(world.actions()),
        [Action::Sweep(web), terminate(echo)]
    );
    assert_eq!(world.next(), 5 * SECOND);
    assert_eq!(world.actions(), [Action::Signal(echo, Signal::Kill)]);
    assert_eq!(world.next(), 4 * SECOND);
    let expected = [
        Action::Warn(echo, Warning::LeftBehind),
        Action::Sweep(echo),
        Action::Done,
    ];
    assert_eq!(stops(world.actions()), expected);
    let late = world.try_load("Label = \"late\"");
    assert_eq!(late, Err(LoadError::Ending));
}

#[test]
fn the_end_without_instances_is_at_once() {
    let (mut world, _) = World::with("");
    world.actions();
    world.supervisor.shut_down(world.now);
    assert_eq!(world.actions().last(), Some(&Action::Done));
    world.supervisor.shut_down(world.now);
    assert_eq!(world.actions(), []);
}

#[test]
fn an_instance_that_outlived_the_server_is_adopted() {
    let mut world = World::new();
    let past = Past {
        pid: Some(77),
        checked_in: vec![name("echo")],
        runs: 4,
        ..Past::default()
    };
    let keys = echo("RunAtLoad = true\nKeepAlive = true");
    let key = JobKey(7);
    world
        .supervisor
        .restore(key, job(&keys), &past, world.now)
        .expect("loads");
    assert_eq!(world.starts(), []);
    let status = world.status(key);
    assert_eq!((status.state, status.pid), (JobState::Running, Some(77)));
    assert_eq!((status.runs, status.not_checked_in), (4, vec![]));
    world.exit(key, Exit::Unknown, &[("echo", 1)]);
    world.must_start(key);

    let ended = Past {
        runs: 1,
        ..Past::default()
    };
    let once = job("Label = \"once\"\nRunAtLoad = true");
    world
        .supervisor
        .restore(JobKey(3), once, &ended, world.now)
        .expect("loads");
    assert_eq!(world.starts(), [], "it was loaded before");
    let fresh = world
        .supervisor
        .load(job("Label = \"fresh\""), world.now)
        .expect("loads");
    assert_eq!(fresh, JobKey(8), "no number is given out twice");
}

#[test]
fn events_of_jobs_that_are_gone_change_nothing() {
    let (mut world, key) = World::with("");
    world
        .supervisor
        .unload(&label("echo"), world.now)
        .expect("loaded");
    world.actions();
    world.demand("echo");
    world.exit(key, SEGV, &[("echo", 1)]);
    world.check_in(key, "echo");
    world.supervisor.started(key, 1, world.now);
    world.supervisor.program_appeared(key, world.now);
    assert!(world.supervisor.try_exit(key, true, world.now));
    assert_eq!(world.actions(), []);
    assert_eq!(world.supervisor.next_timer(), None);
}
