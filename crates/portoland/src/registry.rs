//! Who has published which name: the state of the bootstrap server, without I/O.
//!
//! It follows launchd 842 (`job_mig_register2`, `job_mig_check_in2`, `job_mig_look_up2`), where a
//! name that another process has is refused as *not privileged* and not as *in use*. Rights and
//! processes are numbers to it; whoever drives it keeps what they stand for. Whether the sandbox
//! allows a call is decided before and comes in as an argument, and it is looked at before the
//! table is, so that a refusal does not tell whether a name exists.
//!
//! A name belongs to a process or to a job. What a process has is gone when it exits; what a job
//! has stays when its process exits, until the port dies or the job is unloaded. Only a job has
//! *declared* names: the driver holds the receive right of one until the job checks it in.

mod entry;
mod limit;

use std::collections::{BTreeSet, HashMap, hash_map};

use portolan_wire::bootstrap::{ServiceInfo, ServiceStatus};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;

use entry::{Entry, Holder, Key, Left, Names, Service, Subset};

pub use limit::Limit;

/// The most names that one process or job can have, or all processes of a confined program.
pub const MAX_NAMES_PER_CLIENT: usize = 4096;

/// The most processes of a confined program that can have names.
pub const MAX_CLIENTS_PER_PROGRAM: usize = 256;

/// The most names that there can be.
pub const MAX_NAMES: usize = 1 << 17;

/// The most namespaces that there can be besides the outermost.
pub const MAX_SUBSETS: usize = 4096;

/// How many namespaces can be within each other, the outermost not counted.
pub const MAX_DEPTH: usize = 100;

/// A process that has spoken to the server. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// A confined program that is no job. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgramKey(pub u64);

/// A loaded job. The numbers are given out by the supervisor, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey(pub u64);

/// A published port. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey(pub u64);

/// A namespace within another (`bootstrap_subset`). The numbers are given out by the driver, each
/// once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(pub u64);

/// Whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process that the server did not start.
    Client(ClientKey),
    /// A job, whichever instance of it runs.
    Job(JobKey),
}

impl From<ClientKey> for Owner {
    fn from(client: ClientKey) -> Self {
        Self::Client(client)
    }
}

impl From<JobKey> for Owner {
    fn from(job: JobKey) -> Self {
        Self::Job(job)
    }
}

/// Where a name is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// By everybody.
    Global,
    /// By those who name the process that published it (`BOOTSTRAP_PER_PID_SERVICE`).
    PerPid(u32),
    /// By those in a namespace, and in those within it that do not have the name themselves.
    Subset(Namespace),
}

/// What a client offers to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A port.
    Port(PortKey),
    /// A right whose port is dead (`MACH_PORT_DEAD`).
    Dead,
    /// Nothing (`MACH_PORT_NULL`): take the declaration back.
    Nothing,
}

/// When a declared name can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// As soon as it is declared.
    Always,
    /// While the job has it checked in (`HideUntilCheckIn`).
    WhileActive,
}

/// The outcome of the sandbox for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// It allows the name.
    Allows,
    /// It does not.
    Denies,
}

impl Sandbox {
    fn check(self) -> Result<(), BootstrapCode> {
        match self {
            Self::Allows => Ok(()),
            Self::Denies => Err(BootstrapCode::NOT_PRIVILEGED),
        }
    }
}

/// The table of names.
#[derive(Debug, Default)]
pub struct Registry {
    holders: HashMap<Owner, Holder>,
    programs: HashMap<ProgramKey, BTreeSet<ClientKey>>,
    names: HashMap<Key, Entry>,
    ports: HashMap<PortKey, Names>,
    subsets: HashMap<Namespace, Subset>,
    requestors: HashMap<PortKey, BTreeSet<Namespace>>,
}

impl Registry {
    /// Makes a process known. Its label is what [`list`](Self::list) shows.
    pub fn client_appeared(&mut self, client: ClientKey, label: JobLabel, pid: u32) {
        let holder = Holder::new(label, pid);
        self.holders.insert(client.into(), holder);
    }

    /// Counts a process and its names to a confined program: what one process cannot have, it cannot
    /// have by means of children. It stays with the first that it is counted to.
    pub fn client_joined(&mut self, client: ClientKey, program: ProgramKey) {
        if let Some(holder) = self.holders.get_mut(&client.into())
            && holder.program.is_none()
        {
            holder.program = Some(program);
            self.programs.entry(program).or_default().insert(client);
        }
    }

    /// The process has exited: its names are free, whoever has the ports now.
    ///
    /// Returns the ports that have no name any more.
    pub fn client_exited(&mut self, client: ClientKey) -> Vec<PortKey> {
        self.leave_program(client);
        self.remove(client.into())
    }

    /// Makes a job known. Its label is what [`list`](Self::list) shows.
    pub fn job_loaded(&mut self, job: JobKey, label: JobLabel) {
        self.holders.insert(job.into(), Holder::new(label, 0));
    }

    /// An instance of the job runs now.
    pub fn job_started(&mut self, job: JobKey, pid: u32) {
        if let Some(holder) = self.holders.get_mut(&job.into()) {
            holder.pid = pid;
        }
    }

    /// The instance has exited: only names that are found by its pid go with it. For what it had
    /// checked in, see [`returned`](Self::returned).
    ///
    /// Returns the ports that have no name any more.
    pub fn job_exited(&mut self, job: JobKey) -> Vec<PortKey> {
        let Some(holder) = self.holders.get_mut(&job.into()) else {
            return Vec::new();
        };
        holder.pid = 0;
        let per_pid = |key: &&Key| matches!(key.0, Scope::PerPid(_));
        let gone: Vec<Key> = holder.names.iter().filter(per_pid).cloned().collect();
        gone.iter().filter_map(|key| self.withdraw(key)).collect()
    }

    /// The job is not loaded any more: all its names are free.
    ///
    /// Returns the ports that have no name any more.
    pub fn job_unloaded(&mut self, job: JobKey) -> Vec<PortKey> {
        self.remove(job.into())
    }

    fn remove(&mut self, owner: Owner) -> Vec<PortKey> {
        let Some(holder) = self.holders.remove(&owner) else {
            return Vec::new();
        };
        let names = holder.names.iter();
        names.filter_map(|key| self.forget(key)).collect()
    }

    /// The port has died: all its names are free, and the namespaces that were made for it are
    /// gone with all in them.
    ///
    /// Returns the other ports that have no name any more.
    pub fn port_died(&mut self, port: PortKey) -> Vec<PortKey> {
        let names: Vec<Key> = self.names_of(port).cloned().collect();
        for key in names {
            self.withdraw(&key);
        }
        let mut gone = Vec::new();
        for namespace in self.requestors.remove(&port).unwrap_or_default() {
            self.remove_subset(namespace, &mut gone);
        }
        gone
    }

    /// Declares a name of a job. `port` is the driver's, which holds its receive right.
    ///
    /// # Errors
    ///
    /// 1101 if the name is taken; 1105 for a job that is not known, and beyond
    /// [`MAX_NAMES_PER_CLIENT`] and [`MAX_NAMES`].
    pub fn declare(
        &mut self,
        job: JobKey,
        name: ServiceName,
        visibility: Visibility,
        port: PortKey,
    ) -> Result<(), BootstrapCode> {
        let key = (Scope::Global, name);
        if self.names.contains_key(&key) {
            return Err(BootstrapCode::NAME_IN_USE);
        }
        let active = false;
        let service = Service::Declared { active, visibility };
        self.publish(job.into(), key, port, service)
    }

    /// The receive right of a declared name has come back to the driver, because the job closed it
    /// or exited: the name is inactive.
    pub fn returned(&mut self, port: PortKey) {
        let names = self.ports.get(&port).into_iter();
        for key in names.flat_map(Names::iter) {
            if let Some(Entry {
                service: Service::Declared { active, .. },
                ..
            }) = self.names.get_mut(key)
            {
                *active = false;
            }
        }
    }

    /// Puts another port in the place of one (`ResetAtClose`), before the driver closes the old
    /// one, so that whoever sees it die finds the new one.
    pub fn replace(&mut self, old: PortKey, new: PortKey) {
        let Some(keys) = self.ports.remove(&old) else {
            return;
        };
        for key in keys.iter() {
            if let Some(entry) = self.names.get_mut(key) {
                entry.port = new;
            }
        }
        self.ports.insert(new, keys);
    }

    /// Publishes a port under a name, or takes back a declared name that is not active.
    ///
    /// Returns a port that has no name any more.
    ///
    /// # Errors
    ///
    /// 1100 if the sandbox denies it, if somebody else has the name, and for a port under a name
    /// that the owner has to check in; 1103 if the owner has it; 1102 for a namespace that is
    /// gone; 1105 for a dead right, and beyond [`MAX_NAMES_PER_CLIENT`] and [`MAX_NAMES`].
    pub fn register(
        &mut self,
        owner: impl Into<Owner>,
        (scope, name): (Scope, ServiceName),
        offer: Offer,
        sandbox: Sandbox,
    ) -> Result<Option<PortKey>, BootstrapCode> {
        sandbox.check()?;
        let (owner, key) = (owner.into(), (scope, name));
        let waiting = self.check_access(owner, &key)?;
        match offer {
            Offer::Nothing => Ok(self.withdraw(&key)),
            Offer::Port(_) | Offer::Dead if waiting.is_some() => Err(BootstrapCode::NOT_PRIVILEGED),
            Offer::Dead => Err(BootstrapCode::NO_MEMORY),
            Offer::Port(port) => {
                self.publish(owner, key, port, Service::Registered)?;
                Ok(None)
            }
        }
    }

    /// Gives the receive right of a name. A name that does not exist is created with `port`, for
    /// which the driver makes the right.
    ///
    /// Returns the port of which it is: `port`, or that of the declared name, which is active from
    /// now on.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register); with `strict`, 1102 for a name that does not exist.
    /// A job's own declared name is not denied by the sandbox.
    pub fn check_in(
        &mut self,
        owner: impl Into<Owner>,
        (scope, name): (Scope, ServiceName),
        strict: bool,
        port: PortKey,
        sandbox: Sandbox,
    ) -> Result<PortKey, BootstrapCode> {
        let (owner, key) = (owner.into(), (scope, name));
        let own = self.names.get(&key).is_some_and(|entry| {
            entry.owner == owner && matches!(entry.service, Service::Declared { .. })
        });
        if !own {
            sandbox.check()?;
        }
        if strict && !self.names.contains_key(&key) {
            return Err(BootstrapCode::UNKNOWN_SERVICE);
        }
        if let Some(entry) = self.check_access(owner, &key)? {
            return Ok(entry.activate());
        }
        self.publish(owner, key, port, Service::Registered)?;
        Ok(port)
    }

    /// The port that has a name.
    ///
    /// # Errors
    ///
    /// 1100 if the sandbox denies it, whether there is such a name or not; 1102 if there is none,
    /// or it is hidden.
    pub fn look_up(
        &self,
        (scope, name): (Scope, ServiceName),
        sandbox: Sandbox,
    ) -> Result<PortKey, BootstrapCode> {
        sandbox.check()?;
        let entry = self.find(scope, name);
        entry
            .map(|entry| entry.port)
            .ok_or(BootstrapCode::UNKNOWN_SERVICE)
    }

    /// Whether the service of a name is active. Asking changes nothing, and everybody gets the same
    /// answer, where launchd's library says *active* of what the caller cannot check in.
    ///
    /// # Errors
    ///
    /// Those of [`look_up`](Self::look_up).
    pub fn status(
        &self,
        (scope, name): (Scope, ServiceName),
        sandbox: Sandbox,
    ) -> Result<ServiceStatus, BootstrapCode> {
        sandbox.check()?;
        let entry = self.find(scope, name);
        entry
            .map(Entry::status)
            .ok_or(BootstrapCode::UNKNOWN_SERVICE)
    }

    /// Who has a name in this scope itself, also if it is hidden.
    #[must_use]
    pub fn owner(&self, (scope, name): (Scope, ServiceName)) -> Option<Owner> {
        self.names.get(&(scope, name)).map(|entry| entry.owner)
    }

    /// All services that are not hidden and for which `visible` says so, in the order of scope and
    /// name.
    pub fn list(&self, visible: impl Fn(Scope, &ServiceName) -> bool) -> Vec<ServiceInfo> {
        let seen = self
            .names
            .iter()
            .filter(|((scope, name), entry)| !entry.is_hidden() && visible(*scope, name));
        let mut seen: Vec<_> = seen.collect();
        seen.sort_unstable_by_key(|(key, _)| *key);
        seen.into_iter()
            .filter_map(|(key, entry)| self.describe(key, entry))
            .collect()
    }

    /// Makes a namespace within another, for as long as the requestor's port lives.
    ///
    /// # Errors
    ///
    /// 1100 without a requestor, or if it is dead; 1102 for a namespace that is gone; 1105 for one
    /// that is deeper than [`MAX_DEPTH`], and beyond [`MAX_SUBSETS`].
    pub fn subset(
        &mut self,
        parent: Option<Namespace>,
        namespace: Namespace,
        requestor: Offer,
    ) -> Result<(), BootstrapCode> {
        let Offer::Port(requestor) = requestor else {
            return Err(BootstrapCode::NOT_PRIVILEGED);
        };
        let depth = 1 + match parent {
            None => 0,
            Some(parent) => self.subset_of(parent)?.depth,
        };
        if depth > MAX_DEPTH || self.subsets.len() >= MAX_SUBSETS {
            return Err(BootstrapCode::NO_MEMORY);
        }
        if let Some(parent) = parent.and_then(|parent| self.subsets.get_mut(&parent)) {
            parent.children.insert(namespace);
        }
        let subset = Subset::new(parent, depth, requestor);
        self.subsets.insert(namespace, subset);
        let made = self.requestors.entry(requestor).or_default();
        made.insert(namespace);
        Ok(())
    }

    /// The namespace around one, nothing for the outermost.
    ///
    /// # Errors
    ///
    /// 1102 for a namespace that is gone.
    pub fn parent(&self, namespace: Namespace) -> Result<Option<Namespace>, BootstrapCode> {
        self.subset_of(namespace).map(|subset| subset.parent)
    }

    fn subset_of(&self, namespace: Namespace) -> Result<&Subset, BootstrapCode> {
        let subset = self.subsets.get(&namespace);
        subset.ok_or(BootstrapCode::UNKNOWN_SERVICE)
    }

    /// No deeper than [`MAX_DEPTH`].
    fn remove_subset(&mut self, namespace: Namespace, gone: &mut Vec<PortKey>) {
        let Some(subset) = self.subsets.remove(&namespace) else {
            return;
        };
        for child in subset.children {
            self.remove_subset(child, gone);
        }
        if let Some(parent) = subset.parent.and_then(|key| self.subsets.get_mut(&key)) {
            parent.children.remove(&namespace);
        }
        if let Some(made) = self.requestors.get_mut(&subset.requestor) {
            made.remove(&namespace);
            if made.is_empty() {
                self.requestors.remove(&subset.requestor);
            }
        }
        for name in subset.names {
            gone.extend(self.withdraw(&(Scope::Subset(namespace), name)));
        }
    }

    fn find(&self, mut scope: Scope, name: ServiceName) -> Option<&Entry> {
        let mut key = (scope, name);
        loop {
            let entry = self.names.get(&key);
            if let Some(entry) = entry.filter(|entry| !entry.is_hidden()) {
                return Some(entry);
            }
            let Scope::Subset(namespace) = scope else {
                return None;
            };
            let parent = self.subsets.get(&namespace)?.parent;
            scope = parent.map_or(Scope::Global, Scope::Subset);
            key.0 = scope;
        }
    }

    fn describe(&self, (scope, name): &Key, entry: &Entry) -> Option<ServiceInfo> {
        let owner = self.holders.get(&entry.owner)?;
        Some(ServiceInfo {
            pid: owner.pid,
            status: entry.status(),
            per_pid: matches!(scope, Scope::PerPid(_)),
            name: name.clone(),
            owner: owner.label.clone(),
        })
    }

    /// Nothing for a name that is free, and the owner's own declared name if it is inactive.
    fn check_access(
        &mut self,
        owner: Owner,
        key: &Key,
    ) -> Result<Option<&mut Entry>, BootstrapCode> {
        if let Scope::Subset(namespace) = key.0 {
            self.subset_of(namespace)?;
        }
        match self.names.get_mut(key) {
            None => Ok(None),
            Some(entry) if entry.owner != owner => Err(BootstrapCode::NOT_PRIVILEGED),
            Some(entry) if entry.is_active() => Err(BootstrapCode::SERVICE_ACTIVE),
            Some(entry) => Ok(Some(entry)),
        }
    }

    fn publish(
        &mut self,
        owner: Owner,
        key: Key,
        port: PortKey,
        service: Service,
    ) -> Result<(), BootstrapCode> {
        if self.limit_of(owner).is_some() {
            return Err(BootstrapCode::NO_MEMORY);
        }
        let holder = self.holders.get_mut(&owner);
        let holder = holder.ok_or(BootstrapCode::NO_MEMORY)?;
        holder.names.insert(key.clone());
        if let Scope::Subset(namespace) = key.0
            && let Some(subset) = self.subsets.get_mut(&namespace)
        {
            subset.names.insert(key.1.clone());
        }
        match self.ports.entry(port) {
            hash_map::Entry::Vacant(port) => drop(port.insert(Names::One(key.clone()))),
            hash_map::Entry::Occupied(mut port) => port.get_mut().insert(key.clone()),
        }
        let entry = Entry {
            owner,
            port,
            service,
        };
        self.names.insert(key, entry);
        Ok(())
    }

    fn withdraw(&mut self, key: &Key) -> Option<PortKey> {
        if let Some(entry) = self.names.get(key)
            && let Some(owner) = self.holders.get_mut(&entry.owner)
        {
            owner.names.remove(key);
        }
        self.forget(key)
    }

    /// Takes a name out of the table. Returns its port if that was its last name.
    fn forget(&mut self, key: &Key) -> Option<PortKey> {
        let port = self.names.remove(key)?.port;
        if let Scope::Subset(namespace) = key.0
            && let Some(subset) = self.subsets.get_mut(&namespace)
        {
            subset.names.remove(&key.1);
        }
        let names = self.ports.get_mut(&port)?;
        if names.remove(key) == Left::Some {
            return None;
        }
        self.ports.remove(&port);
        Some(port)
    }

    fn names_of(&self, port: PortKey) -> impl Iterator<Item = &Key> {
        self.ports.get(&port).into_iter().flat_map(Names::iter)
    }
}
