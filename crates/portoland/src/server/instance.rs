//! Instances of jobs: how one is started, and what follows from its end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use portolan_port::Debts;
use portolan_sandbox::Identity;
use portolan_wire::bootstrap::Reply;
use rustix::event::epoll::{self, EventFlags};

use super::answer::{Refused, done};
use super::door::{DoorKey, Whose};
use super::jobs::{Jobs, MAX_STARTS, Purpose, Run, Started};
use super::store::Kind;
use super::{Server, Source};
use crate::launch::{self, Inheritance, Instance, StartError};
use crate::registry::JobKey;
use crate::supervisor::{Exit, Failure, Signal, StartFailure};
use crate::watch::What;

impl Server {
    pub(super) fn start(&mut self, job: JobKey) {
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

    pub(super) fn try_start(&mut self, job: JobKey) -> Result<u32, StartError> {
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

    pub(super) fn start_with(
        &mut self,
        job: JobKey,
        door: DoorKey,
        bootstrap: &OwnedFd,
    ) -> Result<u32, StartError> {
        let missing = || StartError::Bootstrap;
        let number = launch::random_instance().map_err(|_| missing())?;
        let reporter = self.reporter_of(job);
        let now = self.now();
        let known = self.jobs.supervisor.job(job).ok_or_else(missing)?;
        let shop = self.jobs.workshop.as_ref().ok_or_else(missing)?;
        let parts = self.jobs.parts.get_mut(&job).ok_or_else(missing)?;
        let sockets = parts.listeners.names_and_fds();
        let sockets: Vec<_> = sockets
            .map(|(name, socket)| (name.to_owned(), socket))
            .collect();
        let reporter = reporter.as_ref().map(AsFd::as_fd);
        let notify = shop.notices.path().to_string_lossy().into_owned();
        let instance = shop.launcher.start(
            known,
            &Inheritance {
                bootstrap: bootstrap.as_fd(),
                reporter,
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

    pub(super) fn start_failed(&mut self, job: JobKey, error: &StartError) {
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
        self.write_tally_down(job);
        if let Some(told) = told {
            self.jobs
                .tell_waiters(job, || Refused::start(told.clone()).into_message());
        }
    }

    pub(super) fn signal(&mut self, job: JobKey, signal: Signal) {
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
        run.debts.iter().for_each(Debts::fail);
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

    pub(super) fn exit_of(&mut self, pid: u32, instance: &Instance) -> Exit {
        let known = self.jobs.exits.remove(&pid);
        match (instance.reap(), known) {
            (_, Some(known)) => known,
            (Ok(Some(launch::Exit::Status(status))), None) => Exit::Status(status as u8),
            (Ok(Some(launch::Exit::Signal { signal, .. })), None) => Exit::Signal(signal as u8),
            _ => Exit::Unknown,
        }
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
