//! Ports of jobs: here while nobody serves them, lent to an instance, and back with what is unread.

use portolan_port::{Debts, ReceiveRight};
use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;

use super::Server;
use super::answer::Refused;
use super::failure;
use super::service::{Declared, Port, Service};
use super::store::Kind;
use crate::job::Drain;
use crate::registry::{JobKey, Owner, PortKey, Scope, Visibility};
use crate::supervisor::{Failure, Watch};

impl Server {
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

    pub(super) fn make_port(&mut self, key: PortKey) -> Result<ReceiveRight, Refused> {
        let witness = self.store.witness(Kind::Service, key.0);
        let made = portolan_port::PortParts::fresh()
            .and_then(|parts| ReceiveRight::witnessed(parts, witness));
        made.map_err(|_| BootstrapCode::NO_MEMORY.into())
    }

    pub(super) fn keep_declared(
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
        self.keep(key, Service::of_job(Port::Here(port), declared))?;
        if let Some(parts) = self.jobs.parts.get_mut(&job) {
            parts.services.insert(name.clone(), key);
        }
        Ok(())
    }

    /// A port that its job wanted is here still, or it is lost.
    pub(super) fn not_lent(&mut self, key: PortKey) {
        let Some(service) = self.services.get(&key) else {
            return self.replace_lost(key);
        };
        let job = service.declared.as_ref().map(|declared| declared.job);
        self.registry.returned(key);
        let parts = job.and_then(|job| self.jobs.parts.get(&job));
        if let Some(watch) = parts.map(|parts| parts.watch) {
            self.watch_port(key, watch);
        }
    }

    /// What was queued at a port of a job is lost with it, but not its name: whoever asks for that finds
    /// a new port.
    fn replace_lost(&mut self, key: PortKey) {
        self.registry.port_died(key);
        self.store.remove(Kind::Service, key.0);
        let mut all = self.jobs.parts.iter_mut();
        let lost = all.find_map(|(job, parts)| {
            let mut services = parts.services.iter();
            let (name, _) = services.find(|(_, port)| **port == key)?;
            Some((*job, name.clone()))
        });
        let Some((job, name)) = lost else {
            return;
        };
        if let Some(parts) = self.jobs.parts.get_mut(&job) {
            parts.services.remove(&name);
        }
        let now = self.now();
        self.jobs.supervisor.returned(job, &name, false, now);
        self.jobs.supervisor.emptied(&name, now);
        self.declare_services(job);
    }

    pub(super) fn take_ports_back(&mut self, job: JobKey) {
        let Some(parts) = self.jobs.parts.get(&job) else {
            return;
        };
        let ports: Vec<_> = parts.services.values().copied().collect();
        for key in ports {
            self.take_port_back(key);
        }
    }

    /// Takes a port back that was lent. False if it was not, or is lost.
    pub(super) fn take_port_back(&mut self, key: PortKey) -> bool {
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
        let (port, settled) = match custody.take_back() {
            Ok((port, debts)) => (port, self.leave_debts(service.declared.as_ref(), debts)),
            Err(error) => {
                tracing::error!(%error, "a port was lost");
                self.replace_lost(key);
                return false;
            }
        };
        let service = Service {
            port: Port::Here(port),
            ..service
        };
        let is_kept = self.keep(key, service).is_ok();
        // The journal has named its descriptors until now.
        drop(settled);
        if !is_kept {
            self.replace_lost(key);
        }
        is_kept
    }

    /// What an instance that runs still owes it answers itself; at its end, the rest is refused. Gives
    /// debts that are settled.
    fn leave_debts(&mut self, declared: Option<&Declared>, debts: Debts) -> Option<Debts> {
        let parts = declared.and_then(|declared| self.jobs.parts.get_mut(&declared.job));
        match parts.and_then(|parts| parts.run.as_mut()) {
            Some(run) if !debts.are_settled() => {
                run.debts.push(debts);
                None
            }
            _ => {
                debts.fail();
                Some(debts)
            }
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
    pub(super) fn left_at(&self, job: JobKey) -> Vec<(ServiceName, u64)> {
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

    pub(super) fn port_of(&self, job: JobKey, name: &ServiceName) -> Option<PortKey> {
        self.jobs.parts.get(&job)?.services.get(name).copied()
    }

    pub(super) fn tell_waiting(&mut self, job: JobKey, failure: &Failure) {
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

    pub(super) fn to_callers(
        &self,
        job: JobKey,
        why: &Failure,
    ) -> Option<portolan_wire::failure::StartFailure> {
        let job = self.jobs.supervisor.job(job)?;
        let label = &job.label;
        let advice = format!("portolan print {label} and portolan log {label} tell more");
        Some(failure::to_callers(job, why, &advice))
    }

    pub(super) fn set_aside(&mut self, job: JobKey, name: &ServiceName) {
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

    pub(super) fn drain(&mut self, job: JobKey, name: &ServiceName, how: Drain) {
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

    pub(super) fn report_queue(&mut self, key: PortKey, name: &ServiceName) {
        let now = self.now();
        match self.has_message(key) {
            true => self.jobs.supervisor.demand(name, now),
            false => self.jobs.supervisor.emptied(name, now),
        }
    }

    /// Has the senders of a service find it dead, and everybody who asks anew a new one.
    pub(super) fn reset(&mut self, job: JobKey, name: &ServiceName) {
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

    pub(super) fn close_services(&mut self, job: JobKey) {
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
}
