//! What asks for a job: messages, connections, paths, and what it says of itself.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::event::epoll::{self, EventFlags};

use super::jobs::{Jobs, Purpose};
use super::service::Port;
use super::{Server, Source};
use crate::job::{Job, KeepAlive};
use crate::notify::Notice;
use crate::registry::{JobKey, PortKey};
use crate::supervisor::{Trigger, Watch};
use crate::watch::{State, What};

impl Server {
    pub(super) fn watch_paths(&mut self, job: JobKey, known: &Job) {
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

    pub(super) fn path_fired(&mut self, job: JobKey, path: &Path, state: State) {
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

    pub(super) fn is_watched(&self, job: JobKey) -> bool {
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
                self.note_run(job);
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

    pub(super) fn listen_to(&self, key: PortKey, flags: EventFlags) {
        if let Some(Port::Here(port)) = self.services.get(&key).map(|service| &service.port) {
            let data = Source::Demand(key).data();
            epoll::modify(&self.events, port, data, flags).ok();
        }
    }

    pub(super) fn watch(&mut self, job: JobKey, watch: Watch) {
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

    pub(super) fn watch_port(&mut self, port: PortKey, watch: Watch) {
        match watch {
            Watch::Off => self.listen_to(port, EventFlags::empty()),
            Watch::Everything | Watch::Services => {
                self.listen_to(port, EventFlags::IN);
                self.message_came(port);
            }
            Watch::Arrivals => self.listen_to(port, EventFlags::IN | EventFlags::ET),
        }
    }

    pub(super) fn look_at_sockets(&mut self, job: JobKey) {
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

    pub(super) fn look_at_queues(&mut self, job: JobKey) {
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
}

fn is_readable(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec::default();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}
