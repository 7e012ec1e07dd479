//! One job: what it does, what asks for it, and what follows from that alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Past;
use super::action::Watch;
use super::calendar::Civil;
use super::outcome::{Exit, Failure, JobState, Reason, Status, Unfinished};
use super::services::Services;
use super::throttle::Throttle;
use crate::job::{Job, KeepAlive};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Job,
    pub(super) disabled: bool,
    /// It is forgotten as soon as no instance is left.
    pub(super) removing: bool,
    pub(super) services: Services,
    pub(super) instance: Option<Instance>,
    pub(super) throttle: Throttle,
    /// What asks for a start besides queued messages and `KeepAlive`.
    pub(super) pending: Option<Reason>,
    pub(super) runs: u64,
    pub(super) asked: Option<Reason>,
    pub(super) last_exit: Option<Exit>,
    /// Whether the last run was a success for `SuccessfulExit`.
    succeeded: Option<bool>,
    /// It was needed at least once (`AfterInitialDemand`).
    demanded: bool,
    /// Paths of `PathState`, and whether they exist.
    paths: BTreeMap<PathBuf, bool>,
    interval_due: Option<Duration>,
    pub(super) appointment: Option<Appointment>,
    /// The job that it waits for, or that makes it fail.
    pub(super) block: Option<Block>,
    /// What was asked of the driver last.
    pub(super) watch: Watch,
    pub(super) shown: Shown,
    pub(super) deadline: Option<Duration>,
    /// Callers that have come are to be told if it is hopeless.
    pub(super) tell: bool,
}

/// A process of the job, from the request to start it on.
#[derive(Debug)]
pub(super) struct Instance {
    /// Nothing while it is being started.
    pub(super) pid: Option<u32>,
    pub(super) since: Duration,
    pub(super) ready: bool,
    pub(super) stop: Option<Stop>,
    /// Since when somebody waits for it to check in.
    awaited: Option<Duration>,
    /// Another job waits for it to be ready.
    pub(super) required: bool,
}

impl Instance {
    pub(super) fn new(pid: Option<u32>, since: Duration) -> Self {
        Self {
            pid,
            since,
            ready: false,
            stop: None,
            awaited: None,
            required: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.pid.is_some() && self.ready && self.stop.is_none()
    }
}

/// The instance is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) why: StopReason,
    pub(super) next: Option<(Duration, NextStep)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The user, an unload or the end of the server wants it.
    Asked,
    /// It said that it has nothing to do.
    Idle,
    /// It has not checked in in time.
    NotCheckedIn,
}

/// What is done if an instance does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Kill,
    LeaveBehind,
}

/// Another job is in the way of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// It will be ready, or not.
    Until(portolan_wire::label::JobLabel),
    /// It will not.
    Hopeless(Failure),
}

/// What other jobs see of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) enabled: bool,
    pub(super) active: bool,
    pub(super) ready: bool,
    /// Its first start is still to come, or under way.
    pub(super) coming_up: bool,
    pub(super) hopeless: Option<Failure>,
}

/// A time of `StartCalendarInterval`, and when it was worked out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appointment {
    pub(super) due: Option<Civil>,
    pub(super) from: Civil,
}

impl Entry {
    pub(super) fn new(job: Job, past: Option<&Past>, now: Duration) -> Self {
        let last_exit = past.and_then(|past| past.last_exit);
        let mut entry = Self {
            disabled: past.map_or(job.disabled, |past| past.disabled),
            removing: false,
            services: Services::default(),
            instance: None,
            throttle: Throttle::new(job.throttle_interval),
            pending: None,
            runs: past.map_or(0, |past| past.runs),
            asked: None,
            last_exit,
            succeeded: last_exit.map(|exit| !exit.is_failure()),
            demanded: past.is_some_and(|past| past.runs > 0),
            paths: BTreeMap::new(),
            interval_due: None,
            appointment: None,
            block: None,
            watch: Watch::Off,
            shown: Shown::default(),
            deadline: None,
            tell: false,
            job,
        };
        let is_first = past.is_none_or(|past| past.ended_with_server);
        if is_first && entry.job.run_at_load {
            entry.pending = Some(Reason::RunAtLoad);
        }
        entry.restart_interval(now);
        entry
    }

    pub(super) fn restart_interval(&mut self, now: Duration) {
        let interval = self.job.start_interval.map(u64::from);
        self.interval_due = interval.map(|seconds| now + Duration::from_secs(seconds));
    }

    /// Notes what asks for a start, unless something that is served sooner does already.
    pub(super) fn ask(&mut self, reason: Reason) {
        let later = |old: &Reason| self.gate(&reason) < self.gate(old);
        if self.pending.as_ref().is_none_or(later) {
            self.pending = Some(reason);
        }
    }

    /// Before when a reason starts nothing.
    fn gate(&self, reason: &Reason) -> Duration {
        let throttle = &self.throttle;
        match reason {
            Reason::Kickstart(_) => Duration::ZERO,
            Reason::KeepAlive | Reason::Path(_) | Reason::Required(_) => {
                throttle.gate.max(throttle.repeat_gate)
            }
            Reason::Socket(_) => throttle.gate.max(throttle.socket_gate),
            Reason::RunAtLoad
            | Reason::Demand(_)
            | Reason::Interval
            | Reason::Calendar
            | Reason::Retry => throttle.gate,
        }
    }

    /// What asks for a start soonest, and when it may be. `others` is whether a condition of
    /// `KeepAlive` on other jobs holds.
    pub(super) fn wanted(&self, others: bool) -> Option<(Duration, Reason)> {
        if self.instance.is_some() || self.disabled || self.removing {
            return None;
        }
        let pending = self.pending.clone();
        let demand = self.services.demand().cloned().map(Reason::Demand);
        let kept = self.is_kept_alive(others).then_some(Reason::KeepAlive);
        let reasons = [pending, demand, kept].into_iter().flatten();
        reasons
            .map(|reason| (self.gate(&reason), reason))
            .min_by_key(|(gate, _)| *gate)
    }

    fn is_kept_alive(&self, others: bool) -> bool {
        let conditions = match &self.job.keep_alive {
            KeepAlive::Always(always) => return *always,
            KeepAlive::While(conditions) => conditions,
        };
        if conditions.after_initial_demand == Some(true) && !self.demanded {
            return false;
        }
        let crashed = self.last_exit.is_some_and(Exit::is_crash) && self.succeeded == Some(false);
        let of_last_run = |condition: Option<bool>, held: bool| {
            condition.is_some_and(|wanted| self.succeeded.is_none() || wanted == held)
        };
        let mut paths = conditions.path_state.iter();
        others
            || of_last_run(conditions.successful_exit, self.succeeded == Some(true))
            || of_last_run(conditions.crashed, crashed)
            || paths.any(|(path, wanted)| self.paths.get(path) == Some(wanted))
    }

    /// Whether the path is one of `PathState`.
    pub(super) fn path_is(&mut self, path: &Path, exists: bool) {
        if let KeepAlive::While(conditions) = &self.job.keep_alive
            && conditions.path_state.contains_key(path)
        {
            self.paths.insert(path.to_owned(), exists);
        }
    }

    /// A start for this reason has been asked of the driver.
    pub(super) fn starts(&mut self, reason: Reason, now: Duration) {
        self.instance = Some(Instance::new(None, now));
        self.runs += 1;
        self.demanded |= reason != Reason::KeepAlive;
        if matches!(reason, Reason::Socket(_)) {
            self.throttle.started_by_socket(now);
        }
        self.asked = Some(reason);
        self.pending = None;
        self.block = None;
    }

    /// The instance has ended. `asked` is whether it ended as it was told.
    pub(super) fn ends(&mut self, exit: Exit, asked: bool) {
        self.last_exit = Some(exit);
        self.succeeded = Some(asked || !exit.is_failure());
    }

    /// Why nobody who calls now will be served.
    pub(super) fn hopeless(&self) -> Option<Failure> {
        if self.instance.is_some() {
            return None;
        }
        if self.disabled {
            return Some(Failure::Disabled);
        }
        if self.throttle.has_failed() {
            return self.throttle.last.clone();
        }
        match &self.block {
            Some(Block::Hopeless(failure)) => Some(failure.clone()),
            _ => None,
        }
    }

    /// Which demand is worth a report.
    pub(super) fn wanted_watch(&self, others: bool) -> Watch {
        match &self.instance {
            Some(Instance {
                pid: Some(_),
                stop: None,
                ..
            }) => return Watch::Services,
            Some(_) => return Watch::Off,
            None => {}
        }
        if self.hopeless().is_some() {
            return Watch::Arrivals;
        }
        match self.wanted(others) {
            // Demand would bring nothing forward.
            Some((gate, _)) if gate <= self.throttle.gate => Watch::Off,
            _ => Watch::Everything,
        }
    }

    /// When something is to be done though nothing happens.
    pub(super) fn wanted_deadline(&self, others: bool) -> Option<Duration> {
        let next = match &self.instance {
            Some(instance) => instance_deadline(instance, self.job.check_in_time()),
            None if self.throttle.has_failed() => self.throttle.probe,
            None if self.block.is_some() => None,
            None => self.wanted(others).map(|(gate, _)| gate),
        };
        let interval = self.interval_due.filter(|_| !self.disabled);
        next.into_iter().chain(interval).min()
    }

    /// Notes since when somebody waits for the instance to check in.
    pub(super) fn note_awaited(&mut self, now: Duration) {
        let demand = self.services.demand().is_some();
        if let Some(instance) = self.instance.as_mut().filter(|found| found.pid.is_some()) {
            let awaited = demand || instance.required && !instance.ready;
            instance.awaited = awaited.then(|| instance.awaited.unwrap_or(now));
        }
    }

    /// Whether the instance has let somebody wait for too long.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        let instance = self.instance.as_ref().filter(|found| found.stop.is_none());
        let due = instance.and_then(|found| instance_deadline(found, self.job.check_in_time()));
        due.is_some_and(|due| due <= now)
    }

    /// Whether an interval is over; the ones that were missed count as one.
    pub(super) fn interval_is_over(&mut self, now: Duration) -> bool {
        let Some(due) = self.interval_due.filter(|due| *due <= now) else {
            return false;
        };
        let interval = u64::from(self.job.start_interval.unwrap_or(1)).max(1);
        let missed = (now - due).as_secs() / interval;
        self.interval_due = Some(due + Duration::from_secs((missed + 1) * interval));
        true
    }

    pub(super) fn unfinished(&self) -> Unfinished {
        let pending = self.pending.as_ref();
        let stop = self.instance.as_ref().and_then(|found| found.stop);
        Unfinished {
            run_at_load: matches!(pending, Some(Reason::RunAtLoad | Reason::Retry)),
            kickstart: match pending {
                Some(Reason::Kickstart(asker)) => Some(*asker),
                _ => None,
            },
            stop: stop.is_some_and(|stop| stop.why == StopReason::Asked),
            unload: self.removing,
        }
    }

    pub(super) fn state(&self, others: bool, now: Duration) -> JobState {
        match &self.instance {
            Some(Instance { stop: Some(_), .. }) => return JobState::Stopping,
            Some(Instance { pid: None, .. }) => return JobState::Starting,
            Some(_) => return JobState::Running,
            None => {}
        }
        if self.disabled {
            return JobState::Disabled;
        }
        if let Some(failure) = self.hopeless() {
            let probe = self.throttle.probe;
            return JobState::Failed { failure, probe };
        }
        match (self.wanted(others), &self.block) {
            (None, _) => JobState::Idle,
            (Some(_), Some(Block::Until(label))) => JobState::Waiting {
                label: label.clone(),
            },
            (Some((gate, _)), _) => JobState::Throttled { due: gate.max(now) },
        }
    }

    pub(super) fn status(&self, others: bool, now: Duration) -> Status {
        let state = self.state(others, now);
        let instance = self.instance.as_ref();
        let start = match &state {
            JobState::Throttled { due } => Some(*due),
            JobState::Failed { probe, .. } => *probe,
            _ => None,
        };
        let interval = self.interval_due.filter(|_| !self.disabled);
        Status {
            label: self.job.label.clone(),
            pid: instance.and_then(|instance| instance.pid),
            last_exit: self.last_exit,
            last_failure: self.throttle.last.clone(),
            runs: self.runs,
            failures_in_a_row: self.throttle.in_a_row,
            next_start: start.into_iter().chain(interval).min(),
            next_calendar: self.appointment.and_then(|found| found.due),
            asked: self.asked.clone(),
            started_at: instance.map(|instance| instance.since),
            not_checked_in: self.services.not_checked_in().cloned().collect(),
            state,
        }
    }
}

fn instance_deadline(instance: &Instance, check_in: Option<Duration>) -> Option<Duration> {
    match &instance.stop {
        Some(stop) => stop.next.map(|(due, _)| due),
        None => Some(instance.awaited? + check_in?),
    }
}
