//! From one server to the next: what is written down, and a server that is made of it.
//!
//! The numbers of ports, doors, clients and jobs stay what they were, so that an entry that names
//! another one by its number is right in the new server too.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use portolan_port::{ChannelId, ChannelParts, Custody, PortId, PortParts, ReceiveRight, SendRight};
use portolan_sandbox::{Entitlements, Identity};
use portolan_wire::label::JobLabel;
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::door::{Door, DoorEntry, DoorKey, PUBLIC, Whose};
use super::jobs::{Parts, Run};
use super::process::ClientEntry;
use super::service::{Declared, Name, Port, Service};
use super::store::{Kind, Store, owner_of};
use super::{Server, ServerError, Workshop};
use crate::holder::Recovered;
use crate::job::{Job, Reading};
use crate::journal::{Journal, Key};
use crate::log::JobLog;
use crate::registry::{ClientKey, JobKey, Namespace, Offer, Owner, PortKey, ProgramKey, Sandbox};
use crate::sockets::Listeners;
use crate::supervisor::{Exit, Past};

/// What a server has from the one before it, and leaves to the one after it.
#[derive(Debug)]
pub struct Legacy {
    /// Where to write down what the next one is to know.
    pub journal: Journal,
    /// What the last one wrote down.
    pub recovered: Recovered,
    /// Readable when nobody would start the next server any more.
    pub holder: OwnedFd,
    /// Whether the last one ended its jobs before it ended, so that they are to be started as at a
    /// first start.
    pub jobs_were_ended: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServerEntry {
    has_notices: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct JobEntry {
    path: String,
    /// The names of its sockets, whose descriptors come after those of its log.
    sockets: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Tally {
    disabled: bool,
    runs: u64,
    /// Whether it was a signal, and its number or the status.
    last_exit: Option<(bool, u8)>,
    /// What was asked of it and is not done.
    run_at_load: bool,
    kickstart: Option<u32>,
    stop: bool,
    unload: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct RunEntry {
    pid: i32,
    number: u64,
    door: u64,
    ready: bool,
    checked_in: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServiceEntry {
    port: [u8; 16],
    /// It is lent, if it is declared.
    lent: bool,
    declared: Option<(u64, String)>,
    names: Vec<Name>,
    /// Requests in the queue that were refused.
    refused: Vec<(u64, u32)>,
}

impl Server {
    /// Makes a server with jobs that the next one can go on from.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel has no more descriptors for this process.
    pub fn with_jobs(workshop: Workshop, legacy: Legacy) -> Result<Self, ServerError> {
        let mut server = Self::bare(Store::new(legacy.journal), Some(workshop))?;
        server.open_door(PUBLIC, Whose::anybody())?;
        server.wait_for_holder(legacy.holder)?;
        Ok(server)
    }

    /// Makes a server that goes on where the last one was. `None` if that was not far enough to
    /// listen.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel has no more descriptors for this process.
    pub fn resume(
        runtime: &Path,
        exits: crate::holder::Exits,
        legacy: Legacy,
    ) -> Result<Self, ServerError> {
        let Legacy {
            journal,
            recovered,
            holder,
            jobs_were_ended,
        } = legacy;
        let mut estate = Estate::new(recovered, jobs_were_ended);
        let own = estate.take(Kind::Server, 0);
        let (listener, notices) = match own {
            Some((ServerEntry { has_notices }, mut fds)) => {
                let notices = fds.pop().filter(|_| has_notices);
                (fds.pop(), notices)
            }
            None => (None, None),
        };
        let workshop = match notices {
            Some(notices) => Workshop::resume(runtime, Some(exits), notices)?,
            None => Workshop::new(runtime, Some(exits))?,
        };
        let mut server = Self::bare(Store::new(journal), Some(workshop))?;
        server.goes_on = true;
        server.wait_for_holder(holder)?;
        estate.sort_channels();
        server.restore_clients(&mut estate);
        server.restore_jobs(&mut estate);
        server.restore_runs(&mut estate);
        server.restore_services(&mut estate);
        server.restore_subsets(&mut estate);
        server.restore_doors(&mut estate)?;
        server.restore_violations(&estate);
        server.restore_objects(&mut estate);
        if let Some(listener) = listener {
            server.listen(listener)?;
        }
        server.forget_orphaned_channels(&estate);
        server.jobs.drain_logs();
        server.tell_time_of_day();
        Ok(server)
    }

    /// Whether clients can connect to it.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    fn wait_for_holder(&mut self, holder: OwnedFd) -> Result<(), ServerError> {
        self.wait_for(&holder, super::Source::Holder)?;
        self.holder = Some(holder);
        Ok(())
    }

    pub(super) fn write_itself_down(&self) {
        let notices = self.jobs.workshop.as_ref().map(|shop| shop.notices.as_fd());
        let entry = ServerEntry {
            has_notices: notices.is_some(),
        };
        let mut fds: Vec<_> = self.listener.iter().map(AsFd::as_fd).collect();
        fds.extend(notices);
        self.store.put(Kind::Server, 0, &entry, &fds);
    }

    pub(super) fn write_job_down(&self, key: JobKey) {
        let Some(parts) = self.jobs.parts.get(&key) else {
            return;
        };
        self.write_tally_down(key);
        let sockets = parts.listeners.names_and_fds();
        let entry = JobEntry {
            path: parts.path.clone(),
            sockets: sockets.map(|(name, _)| name.to_owned()).collect(),
        };
        let mut fds = parts.log.descriptors().to_vec();
        fds.extend(parts.listeners.names_and_fds().map(|(_, fd)| fd));
        self.store.put(Kind::Job, key.0, &entry, &fds);
    }

    /// Writes down what has become of a job.
    pub(super) fn write_tally_down(&self, key: JobKey) {
        let Some(status) = self.jobs.supervisor.status(key) else {
            return;
        };
        let unfinished = self.jobs.supervisor.unfinished(key);
        let tally = Tally {
            run_at_load: unfinished.run_at_load,
            kickstart: unfinished.kickstart,
            stop: unfinished.stop,
            unload: unfinished.unload,
            disabled: self.jobs.supervisor.is_disabled(key),
            runs: status.runs,
            last_exit: status.last_exit.and_then(|exit| match exit {
                Exit::Status(status) => Some((false, status)),
                Exit::Signal(signal) => Some((true, signal)),
                Exit::Unknown => None,
            }),
        };
        self.store.put(Kind::Tally, key.0, &tally, &[]);
    }

    /// Writes down what an instance has come to.
    pub(super) fn note_run(&self, job: JobKey) {
        let parts = self.jobs.parts.get(&job);
        let Some((parts, run)) = parts.and_then(|parts| Some((parts, parts.run.as_ref()?))) else {
            return;
        };
        let is_lent = |key: &PortKey| {
            let service = self.services.get(key);
            service.is_some_and(|service| matches!(service.port, Port::Lent(_)))
        };
        let served = parts.services.iter().filter(|(_, key)| is_lent(key));
        let entry = RunEntry {
            pid: run.instance.pid().as_raw_pid(),
            number: run.number,
            door: run.door.0,
            ready: self.jobs.supervisor.is_ready(job),
            checked_in: served.map(|(name, _)| name.as_str().to_owned()).collect(),
        };
        self.store
            .put(Kind::Run, job.0, &entry, &[run.instance.pidfd()]);
        self.write_tally_down(job);
    }

    pub(super) fn write_service_down(&self, key: PortKey, service: &Service) {
        let refused = match &service.port {
            Port::Here(port) => port.refused(),
            Port::Elsewhere(_) | Port::Lent(_) => Vec::new(),
        };
        let (port, lent, fds) = match &service.port {
            Port::Elsewhere(right) => (right.port(), false, vec![right.as_fd()]),
            Port::Here(port) => (port.id(), false, Vec::new()),
            Port::Lent(custody) => (custody.id(), true, custody.descriptors().to_vec()),
        };
        let declared = service.declared.as_ref();
        let entry = ServiceEntry {
            port: *port.as_bytes(),
            lent,
            declared: declared.map(|known| (known.job.0, known.name.as_str().to_owned())),
            names: service.names.clone(),
            refused: refused.into_iter().map(|(id, slot)| (id.0, slot)).collect(),
        };
        self.store.put(Kind::Service, key.0, &entry, &fds);
    }

    fn restore_clients(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Client) {
            let Some((entry, mut fds)) = estate.take::<ClientEntry>(Kind::Client, id) else {
                continue;
            };
            let (Some(process), Ok(label)) = (fds.pop(), entry.label.parse()) else {
                continue;
            };
            let client = ClientKey(id);
            let data = super::Source::Process(client).data();
            let flags = rustix::event::epoll::EventFlags::IN;
            rustix::event::epoll::add(&self.deaths, &process, data, flags).ok();
            self.processes.restore(client, entry.pid, process);
            self.registry.client_appeared(client, label, entry.pid);
            if let Some(program) = entry.program {
                self.registry.client_joined(client, ProgramKey(program));
            }
        }
    }

    fn restore_jobs(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Job) {
            let Some((entry, fds)) = estate.take::<JobEntry>(Kind::Job, id) else {
                continue;
            };
            let path = entry.path.clone();
            if self.restore_job(JobKey(id), entry, fds, estate).is_none() {
                tracing::error!(%path, "a job was lost");
                self.store.remove(Kind::Job, id);
                self.store.remove(Kind::JobFile, id);
            }
        }
    }

    fn restore_job(
        &mut self,
        key: JobKey,
        entry: JobEntry,
        fds: Vec<OwnedFd>,
        estate: &Estate,
    ) -> Option<()> {
        let tally: Tally = estate.look(Kind::Tally, key.0).unwrap_or_default();
        let file = estate.recovered.bytes(Kind::JobFile.key(key.0))?.to_vec();
        let job = Reading::of(&file).job?;
        let job = Job {
            disabled: tally.disabled,
            ..job
        };
        let mut fds = fds.into_iter();
        let shop = self.jobs.workshop.as_ref()?;
        let log = JobLog::resume(
            &shop.logs,
            &job.label,
            [fds.next()?, fds.next()?, fds.next()?],
        )
        .ok()?;
        let listeners = Listeners::resume(&job, entry.sockets.into_iter().zip(fds).collect());
        let run: Option<RunEntry> = estate.look(Kind::Run, key.0);
        let past = Past {
            disabled: tally.disabled,
            pid: run.as_ref().map(|run| run.pid.cast_unsigned()),
            checked_in: run
                .iter()
                .flat_map(|run| &run.checked_in)
                .filter_map(|name| name.parse().ok())
                .collect(),
            ready: run.is_some_and(|run| run.ready),
            ended_with_server: estate.jobs_were_ended || tally.run_at_load,
            runs: tally.runs,
            last_exit: tally.last_exit.map(|(signal, number)| match signal {
                false => Exit::Status(number),
                true => Exit::Signal(number),
            }),
        };
        let (now, label) = (self.now(), job.label.clone());
        self.jobs.supervisor.restore(key, job, &past, now).ok()?;
        self.furnish(key, Parts::new(entry.path, &file, log, listeners));
        self.go_on_with(&label, &tally);
        Some(())
    }

    /// Does what the last server was asked for and did not come to. SIGTERM is sent once more, for
    /// how long the instance has had it is not known.
    fn go_on_with(&mut self, label: &JobLabel, tally: &Tally) {
        let now = self.now();
        let supervisor = &mut self.jobs.supervisor;
        // None of these fails but for a job that has been disabled since.
        if tally.stop {
            supervisor.stop(label, now).ok();
        }
        if let Some(asker) = tally.kickstart {
            supervisor.kickstart(label, tally.stop, asker, now).ok();
        }
        if tally.unload {
            supervisor.unload(label, now).ok();
        }
    }

    fn restore_runs(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Run) {
            let job = JobKey(id);
            let Some(known) = self.jobs.supervisor.job(job) else {
                self.store.remove(Kind::Run, id);
                continue;
            };
            let label = known.label.clone();
            let Some((entry, mut fds)) = estate.take::<RunEntry>(Kind::Run, id) else {
                continue;
            };
            let (Some(pid), Some(pidfd)) = (Pid::from_raw(entry.pid), fds.pop()) else {
                continue;
            };
            let Some(shop) = &self.jobs.workshop else {
                continue;
            };
            let instance = shop.launcher.adopt(pid, pidfd, &label, entry.number);
            let run = Run {
                instance,
                door: DoorKey(entry.door),
                number: entry.number,
                debts: Vec::new(),
            };
            self.adopt(job, run);
        }
    }

    fn restore_services(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Service) {
            let key = PortKey(id);
            self.last_port = self.last_port.max(id);
            let Some((entry, fds)) = estate.take::<ServiceEntry>(Kind::Service, id) else {
                continue;
            };
            if self.restore_service(key, entry, fds, estate).is_none() {
                self.store.remove(Kind::Service, id);
            }
        }
        // Of a port that was not made, nothing is written down.
        for job in self.jobs.supervisor.keys() {
            self.declare_services(job);
        }
    }

    fn restore_service(
        &mut self,
        key: PortKey,
        entry: ServiceEntry,
        fds: Vec<OwnedFd>,
        estate: &mut Estate,
    ) -> Option<()> {
        let id = PortId::from_bytes(entry.port);
        let witness = self.store.witness(Kind::Service, key.0);
        let Some((job, name)) = entry.declared else {
            let right = SendRight::restore(fds.into_iter().next()?, id).ok()?;
            let mut service = Service::elsewhere(right);
            for name in entry.names {
                let owner = match (name.client, name.job) {
                    (Some(client), _) => Owner::Client(ClientKey(client)),
                    (None, Some(job)) => Owner::Job(JobKey(job)),
                    (None, None) => continue,
                };
                let named = (name.scope(), name.name.parse().ok()?);
                let offer = Offer::Port(key);
                // In a subset, it comes once that is there.
                let known = self.registry.register(owner, named, offer, Sandbox::Allows);
                if known.is_ok() || name.subset.is_some() {
                    service.names.push(name);
                }
            }
            return self.keep(key, service).ok();
        };
        let declared = Declared {
            job: JobKey(job),
            name: name.parse().ok()?,
        };
        let visibility = self.visibility(declared.job, &declared.name);
        self.registry
            .declare(declared.job, declared.name.clone(), visibility, key)
            .ok()?;
        let refused = entry.refused.into_iter();
        let refused = refused.map(|(id, slot)| (ChannelId(id), slot));
        let channels = estate.channels(Kind::Service, key.0);
        let port = match <[OwnedFd; 2]>::try_from(fds) {
            Ok(own) if entry.lent => {
                Port::Lent(Custody::restore(id, channels, own, Some(witness)).ok()?)
            }
            _ => {
                let parts = PortParts {
                    id,
                    channels,
                    ledger: None,
                    refused: refused.collect(),
                };
                Port::Here(ReceiveRight::recover(parts, witness, None).ok()?)
            }
        };
        if matches!(port, Port::Lent(_)) {
            let named = (crate::registry::Scope::Global, declared.name.clone());
            let allowed = Sandbox::Allows;
            self.registry
                .check_in(declared.job, named, true, key, allowed)
                .ok()?;
        }
        let parts = self.jobs.parts.get_mut(&declared.job)?;
        parts.services.insert(declared.name.clone(), key);
        self.keep(key, Service::of_job(port, declared)).ok()
    }

    fn restore_subsets(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Subset) {
            let Some(((parent, requestor), _)) =
                estate.take::<(Option<u64>, u64)>(Kind::Subset, id)
            else {
                continue;
            };
            let requestor = PortKey(requestor);
            if !self.services.contains_key(&requestor) {
                self.store.remove(Kind::Subset, id);
                continue;
            }
            let offer = Offer::Port(requestor);
            let parent = parent.map(Namespace);
            self.registry.subset(parent, Namespace(id), offer).ok();
        }
        self.register_in_subsets();
    }

    fn register_in_subsets(&mut self) {
        for (key, service) in &self.services {
            for name in service.names.iter().filter(|name| name.subset.is_some()) {
                let (Some(client), Ok(known)) = (name.client, name.name.parse()) else {
                    continue;
                };
                let owner = Owner::Client(ClientKey(client));
                let offer = Offer::Port(*key);
                let named = (name.scope(), known);
                self.registry
                    .register(owner, named, offer, Sandbox::Allows)
                    .ok();
            }
        }
    }

    fn restore_doors(&mut self, estate: &mut Estate) -> Result<(), ServerError> {
        for id in estate.ids(Kind::Door) {
            let Some((entry, mut fds)) = estate.take::<DoorEntry>(Kind::Door, id) else {
                continue;
            };
            let whose = self.whose_was(&entry);
            let is_stale = match (&whose, entry.job) {
                (None, _) => true,
                (Some(_), Some(job)) => self.door_of(JobKey(job)) != Some(DoorKey(id)),
                (Some(_), None) => false,
            };
            match whose.filter(|_| !is_stale) {
                Some(whose) => {
                    let parts = PortParts {
                        id: PortId::from_bytes(entry.port),
                        channels: estate.channels(Kind::Door, id),
                        ledger: fds.pop(),
                        refused: Vec::new(),
                    };
                    self.restore_door(DoorKey(id), parts, whose)?;
                }
                // Its channels are left over.
                None => self.store.remove(Kind::Door, id),
            }
        }
        if self.doors.public().is_none() {
            self.open_door(PUBLIC, Whose::anybody())?;
        }
        Ok(())
    }

    fn restore_violations(&mut self, estate: &Estate) {
        for id in estate.ids(Kind::Violation) {
            let bytes = estate.recovered.bytes(Kind::Violation.key(id));
            bytes
                .into_iter()
                .for_each(|bytes| self.violations.restore(bytes));
        }
    }

    fn door_of(&self, job: JobKey) -> Option<DoorKey> {
        let parts = self.jobs.parts.get(&job)?;
        parts.run.as_ref().map(|run| run.door)
    }

    fn restore_door(
        &mut self,
        key: DoorKey,
        mut former: PortParts,
        whose: Whose,
    ) -> Result<(), ServerError> {
        // The old ledger is in the journal until everybody in it has been told, and open for as long:
        // its number must not become another descriptor's.
        let journaled = former.ledger.take();
        former.ledger = journaled.as_ref().map(OwnedFd::try_clone).transpose()?;
        let fresh = PortParts::make_ledger()?;
        let witness = self.store.witness(Kind::Door, key.0);
        let port = ReceiveRight::recover(former, witness, Some(fresh))?;
        self.requests.insert(&port)?;
        if key != PUBLIC {
            port.request_no_senders(1);
        }
        self.doors.add(Door { key, port, whose }, &self.store);
        drop(journaled);
        Ok(())
    }

    fn whose_was(&self, entry: &DoorEntry) -> Option<Whose> {
        let label_of = |text: &Option<String>| text.as_ref().map(|text| text.parse()).transpose();
        let (label, reports) = (label_of(&entry.label).ok()?, label_of(&entry.reports).ok()?);
        if let Some(job) = entry.job {
            return Some(self.whose(JobKey(job))).filter(|whose| whose.label.is_some());
        }
        let identity = match (&entry.entitlements, &label) {
            (Some(text), Some(label)) => {
                let entitlements = Entitlements::parse(text).ok()?;
                Identity::new(JobLabel::clone(label), Arc::new(entitlements))
            }
            _ => Identity::Unsandboxed,
        };
        let namespace = entry.namespace.map(Namespace);
        if namespace.is_some_and(|namespace| self.registry.parent(namespace).is_err()) {
            return None;
        }
        Some(Whose {
            identity,
            label,
            entitlements: entry.entitlements.clone(),
            job: None,
            leader: entry.leader.clone(),
            namespace,
            guest: entry.guest,
            reports,
        })
    }

    fn restore_objects(&mut self, estate: &mut Estate) {
        for id in estate.ids(Kind::Object) {
            let Some((entry, mut fds)) = estate.take(Kind::Object, id) else {
                continue;
            };
            let memory = fds.pop();
            if self.objects.restore(id, entry, memory).is_none() {
                self.store.remove(Kind::Object, id);
            }
        }
    }

    fn forget_orphaned_channels(&mut self, estate: &Estate) {
        for id in estate.leftovers() {
            self.store.remove(Kind::Channel, id);
        }
    }
}

/// What another server has left, as it is handed out.
struct Estate {
    recovered: Recovered,
    /// By the kind and the number of the port's owner.
    channels: HashMap<(u16, u64), BTreeMap<u64, ChannelParts>>,
    jobs_were_ended: bool,
}

impl Estate {
    fn new(recovered: Recovered, jobs_were_ended: bool) -> Self {
        Self {
            recovered,
            jobs_were_ended,
            channels: HashMap::new(),
        }
    }

    fn ids(&self, kind: Kind) -> Vec<u64> {
        let keys = self.recovered.keys();
        let own = keys.filter(|key| key.kind == kind as u16);
        own.map(|key| key.id).collect()
    }

    fn look<T: DeserializeOwned>(&self, kind: Kind, id: u64) -> Option<T> {
        serde_json::from_slice(self.recovered.bytes(kind.key(id))?).ok()
    }

    fn take<T: DeserializeOwned>(&mut self, kind: Kind, id: u64) -> Option<(T, Vec<OwnedFd>)> {
        let value = self.look(kind, id)?;
        let fds = self.recovered.take_fds(kind.key(id))?;
        Some((value, fds))
    }

    fn sort_channels(&mut self) {
        for id in self.ids(Kind::Channel) {
            let key: Key = Kind::Channel.key(id);
            let Some((kind, owner, record)) = self
                .recovered
                .bytes(key)
                .and_then(owner_of)
                .map(|(kind, owner, record)| (kind, owner, record.to_vec()))
            else {
                continue;
            };
            let Some(fds) = self.recovered.take_fds(key) else {
                continue;
            };
            if let Ok(parts) = ChannelParts::new(&record, fds) {
                self.channels
                    .entry((kind, owner))
                    .or_default()
                    .insert(id, parts);
            }
        }
    }

    fn channels(&mut self, kind: Kind, id: u64) -> Vec<ChannelParts> {
        let own = self.channels.remove(&(kind as u16, id));
        own.unwrap_or_default().into_values().collect()
    }

    /// Channels of ports that are not there any more.
    fn leftovers(&self) -> Vec<u64> {
        let channels = self.channels.values();
        channels
            .flat_map(|channels| channels.keys().copied())
            .collect()
    }
}
