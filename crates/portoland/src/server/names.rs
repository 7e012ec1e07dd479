//! Publishing and finding names.

use std::os::fd::AsFd;
use std::sync::Arc;

use portolan_port::{Message, MintError, ReceiveRight, Right, SendRight};
use portolan_sandbox::{Entitlements, Filter, Identity, Operation, Verdict, sandbox_check};
use portolan_wire::bootstrap::{Flags, Reply, ServiceInfo};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use rustix::event::epoll::{self, EventFlags};
use rustix::process::Pid;

use super::answer::{Caller, Offered, Refused, done, only_send};
use super::door::Whose;
use super::service::{Name, Port, Service};
use super::{Server, Source};
use crate::launch::{Leader, random_instance};
use crate::registry::{Namespace, Offer, Owner, PortKey, Scope};

impl Server {
    pub(super) fn register(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
        rights: Vec<Right>,
    ) -> Result<Message, Refused> {
        let per_pid = flags.contains(Flags::PER_PID_SERVICE);
        let scope = caller.scope(per_pid.then_some(caller.pid));
        let sandbox = self.check(caller, Operation::MachRegister, scope, &name);
        let key = self.next_port();
        let offered = only_send(rights)?;
        let offer = match &offered {
            Offered::Nothing => Offer::Nothing,
            Offered::Dead => Offer::Dead,
            Offered::Right(_) => Offer::Port(key),
        };
        let named = (scope, name.clone());
        let owner = self.owner(caller)?;
        let freed = self
            .registry
            .register(owner, named, offer, sandbox)
            .map_err(|code| self.refuse_name(caller, owner, &name, code))?;
        if let Some(freed) = freed {
            self.undeclared(freed, &name);
        }
        if let Offered::Right(right) = offered {
            let mut service = Service::elsewhere(right);
            service.names = vec![note(owner, scope, &name)];
            self.keep(key, service)?;
        }
        Ok(done(&Reply::Done))
    }

    /// Says whose the name is, to whoever may know, or which limit is reached.
    fn refuse_name(
        &self,
        caller: &Caller,
        owner: Owner,
        name: &ServiceName,
        code: BootstrapCode,
    ) -> Refused {
        let limit = self.registry.limit_of(owner);
        if let (BootstrapCode::NO_MEMORY, Some(limit)) = (code, limit) {
            return Refused::because(code, limit.to_string());
        }
        match self.jobs.supervisor.owner(name) {
            Some(job) if caller.must_not_be_confined().is_ok() => {
                let label = self.label(job);
                let why =
                    format!("{name} belongs to the job {label}, and only its program serves it");
                Refused::because(code, why)
            }
            _ => code.into(),
        }
    }

    /// The job of a declared name does not want it any more.
    fn undeclared(&mut self, port: PortKey, name: &ServiceName) {
        let now = self.now();
        let job = self.jobs.supervisor.owner(name);
        if let Some(parts) = job.and_then(|job| self.jobs.parts.get_mut(&job)) {
            parts.services.remove(name);
        }
        self.jobs.supervisor.undeclared(name, now);
        self.let_go(port);
    }

    pub(super) fn check_in(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
    ) -> Result<Message, Refused> {
        let scope = caller.scope(None);
        let sandbox = self.check(caller, Operation::MachRegister, scope, &name);
        let strict = flags.contains(Flags::STRICT_CHECKIN);
        let fresh = self.next_port();
        let named = (scope, name.clone());
        let owner = self.owner(caller)?;
        let key = self
            .registry
            .check_in(owner, named, strict, fresh, sandbox)
            .map_err(|code| self.refuse_name(caller, owner, &name, code))?;
        if key != fresh {
            self.make_declared(key, &name)
                .inspect_err(|_| self.registry.returned(key))?;
            return self.lend(key);
        }
        let made = ReceiveRight::new()
            .ok()
            .and_then(|port| Some((port.make_send().ok()?, port)));
        let Some((right, port)) = made else {
            self.registry.port_died(key);
            return Err(BootstrapCode::NO_MEMORY.into());
        };
        let mut service = Service::elsewhere(right);
        service.names = vec![note(owner, scope, &name)];
        self.keep(key, service)?;
        Ok(done(&Reply::Done).with_right(port))
    }

    /// Hands the receive right of a declared name to its job.
    fn lend(&mut self, key: PortKey) -> Result<Message, Refused> {
        let lent = self
            .take_out(key)
            .and_then(|service| self.lend_port(key, service));
        let Some((port, declared)) = lent else {
            self.not_lent(key);
            return Err(BootstrapCode::NO_MEMORY.into());
        };
        let now = self.now();
        self.jobs
            .supervisor
            .checked_in(declared.job, &declared.name, now);
        self.note_run(declared.job);
        Ok(done(&Reply::Done).with_right(port))
    }

    fn lend_port(
        &mut self,
        key: PortKey,
        service: Service,
    ) -> Option<(ReceiveRight, super::service::Declared)> {
        let declared = service.declared.clone()?;
        let Port::Here(port) = service.port else {
            return None;
        };
        let (custody, port) = match port.lend() {
            Ok(lent) => lent,
            Err(error) => {
                tracing::error!(name = %declared.name, "{}", crate::daemon::chain(&error));
                if let Some(port) = error.port {
                    self.keep(key, Service::of_job(Port::Here(port), declared))
                        .ok();
                }
                return None;
            }
        };
        let service = Service {
            port: Port::Lent(custody),
            ..service
        };
        self.keep(key, service).ok()?;
        Some((port, declared))
    }

    /// Takes a service out of the table, and nothing of it is waited for any more.
    pub(super) fn take_out(&mut self, key: PortKey) -> Option<Service> {
        let service = self.services.remove(&key)?;
        self.ignore(&service);
        Some(service)
    }

    /// Keeps a service, and notices when its port dies or comes back.
    pub(super) fn keep(&mut self, key: PortKey, service: Service) -> Result<(), Refused> {
        let watched = match &service.port {
            Port::Here(port) => {
                let data = Source::Demand(key).data();
                epoll::add(&self.events, port, data, EventFlags::empty())
            }
            Port::Elsewhere(_) | Port::Lent(_) => {
                let fd = service.tells_of_its_end();
                let data = Source::Service(key).data();
                fd.map_or(Ok(()), |fd| {
                    epoll::add(&self.deaths, fd, data, EventFlags::IN)
                })
            }
        };
        if watched.is_err() {
            self.registry.port_died(key);
            return Err(BootstrapCode::NO_MEMORY.into());
        }
        self.write_service_down(key, &service);
        self.services.insert(key, service);
        Ok(())
    }

    pub(super) fn look_up(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
        pid: u32,
    ) -> Result<Message, Refused> {
        let per_pid = flags.contains(Flags::PER_PID_SERVICE);
        let scope = caller.scope(per_pid.then_some(pid));
        let sandbox = self.check(caller, Operation::MachLookup, scope, &name);
        let key = self.registry.look_up((scope, name.clone()), sandbox)?;
        self.make_declared(key, &name)?;
        let service = self
            .services
            .get_mut(&key)
            .ok_or(BootstrapCode::UNKNOWN_SERVICE)?;
        let made = service.make_send();
        if matches!(&service.port, Port::Lent(custody) if custody.wants_room()) {
            self.expect_room(key);
        }
        match made {
            Ok(right) => Ok(done(&Reply::Done).with_right(right)),
            // Its death has not been seen to yet.
            Err(MintError::DeadName) => Err(BootstrapCode::UNKNOWN_SERVICE.into()),
            Err(_) => Err(BootstrapCode::NO_MEMORY.into()),
        }
    }

    /// Looks after a port that has not been told of all rights to it, or not any more.
    pub(super) fn expect_room(&self, key: PortKey) {
        let Some(Port::Lent(custody)) = self.services.get(&key).map(|service| &service.port) else {
            return;
        };
        let room = match custody.wants_room() {
            true => EventFlags::OUT,
            false => EventFlags::empty(),
        };
        let data = Source::Service(key).data();
        epoll::modify(&self.deaths, custody.as_fd(), data, EventFlags::IN | room).ok();
    }

    pub(super) fn status_of(
        &mut self,
        caller: &Caller,
        name: ServiceName,
    ) -> Result<Message, Refused> {
        let scope = caller.scope(None);
        let sandbox = self.check(caller, Operation::MachLookup, scope, &name);
        let status = self.registry.status((scope, name), sandbox)?;
        Ok(done(&Reply::Status(status)))
    }

    pub(super) fn list(&self, caller: &Caller) -> Vec<ServiceInfo> {
        self.registry.list(|scope, name| {
            let operation = Operation::MachLookup;
            let identity = &caller.whose.identity;
            let verdict = sandbox_check(identity, operation, filter(scope), name.as_str());
            matches!(verdict, Verdict::Allowed) && self.is_in_sight(caller, scope)
        })
    }

    /// Names of a subset are listed to those in it or within it.
    fn is_in_sight(&self, caller: &Caller, scope: Scope) -> bool {
        let Scope::Subset(wanted) = scope else {
            return true;
        };
        let mut own = caller.whose.namespace;
        while let Some(namespace) = own {
            if namespace == wanted {
                return true;
            }
            own = self.registry.parent(namespace).ok().flatten();
        }
        false
    }

    pub(super) fn confine(
        &mut self,
        caller: &Caller,
        label: JobLabel,
        entitlements: Vec<u8>,
    ) -> Result<Message, Refused> {
        caller.must_not_be_confined()?;
        let parsed = Entitlements::parse(&entitlements).map_err(|error| {
            tracing::warn!(pid = caller.pid, %label, %error, "cannot read entitlements");
            BootstrapCode::BAD_ARGUMENTS
        })?;
        if parsed.inherit {
            let why = "com.apple.security.inherit: who starts the program is not confined";
            return Err(Refused::because(BootstrapCode::BAD_ARGUMENTS, why));
        }
        let instance = random_instance().map_err(|_| BootstrapCode::NO_MEMORY)?;
        let asks = Pid::from_raw(caller.pid.cast_signed());
        let leader = asks.and_then(|pid| Leader::new(pid, instance));
        let whose = Whose {
            identity: Identity::new(label.clone(), Arc::new(parsed)),
            label: Some(label),
            entitlements: Some(entitlements),
            // Nobody waits for the answer if there is none.
            leader: Some(leader.ok_or(BootstrapCode::NO_MEMORY)?),
            namespace: caller.whose.namespace,
            ..Whose::anybody()
        };
        let key = self.doors.next_key();
        let right = self.open_door(key, whose)?;
        Ok(done(&Reply::Confined(instance)).with_right(right))
    }

    pub(super) fn subset(
        &mut self,
        caller: &Caller,
        rights: Vec<Right>,
    ) -> Result<Message, Refused> {
        caller.must_not_be_confined()?;
        let requestor = self.next_port();
        let namespace = Namespace(requestor.0);
        let offered = only_send(rights)?;
        let offer = match &offered {
            Offered::Nothing => Offer::Nothing,
            Offered::Dead => Offer::Dead,
            Offered::Right(_) => Offer::Port(requestor),
        };
        self.registry
            .subset(caller.whose.namespace, namespace, offer)?;
        if let Offered::Right(right) = offered {
            self.keep(requestor, Service::elsewhere(right))?;
        }
        let parent = caller.whose.namespace.map(|parent| parent.0);
        let entry = (parent, requestor.0);
        self.store
            .put(super::store::Kind::Subset, namespace.0, &entry, &[]);
        let whose = Whose {
            namespace: Some(namespace),
            ..Whose::anybody()
        };
        let key = self.doors.next_key();
        match self.open_door(key, whose) {
            Ok(right) => Ok(done(&Reply::Done).with_right(right)),
            Err(refused) => {
                self.port_died(requestor);
                Err(refused)
            }
        }
    }

    pub(super) fn parent(&mut self, caller: &Caller) -> Result<Message, Refused> {
        caller.must_not_be_confined()?;
        let around = match caller.whose.namespace {
            Some(namespace) => self.registry.parent(namespace)?,
            None => None,
        };
        let door = match around {
            Some(namespace) => self.doors.of_namespace(namespace),
            None => self.doors.public(),
        };
        let right: Option<SendRight> = door.and_then(|door| door.port.make_send().ok());
        let right = right.ok_or(BootstrapCode::NO_MEMORY)?;
        Ok(done(&Reply::Done).with_right(right))
    }

    /// Closes the doors of subsets that are gone.
    pub(super) fn close_doors_of_subsets(&mut self) {
        for (key, namespace) in self.doors.of_subsets() {
            if self.registry.parent(namespace).is_err() {
                self.store.remove(super::store::Kind::Subset, namespace.0);
                self.doors.close(key, &self.store);
            }
        }
    }
}

/// A name as the journal has it.
pub(super) fn note(owner: Owner, scope: Scope, name: &ServiceName) -> Name {
    let (pid, subset) = match scope {
        Scope::Global => (None, None),
        Scope::PerPid(pid) => (Some(pid), None),
        Scope::Subset(namespace) => (None, Some(namespace.0)),
    };
    let (client, job) = match owner {
        Owner::Client(client) => (Some(client.0), None),
        Owner::Job(job) => (None, Some(job.0)),
    };
    Name {
        name: name.as_str().to_owned(),
        pid,
        subset,
        client,
        job,
    }
}

pub(super) fn filter(scope: Scope) -> Filter {
    match scope {
        Scope::Global | Scope::Subset(_) => Filter::GlobalName,
        Scope::PerPid(_) => Filter::LocalName,
    }
}
