//! Who has published which name: the state of the bootstrap server, without I/O.
//!
//! It follows launchd 842 (`job_mig_register2`, `job_mig_check_in2`, `job_mig_look_up2`), where a
//! name that another process has is refused as *not privileged* and not as *in use*. Rights and
//! processes are numbers to it; whoever drives it keeps what they stand for. Whether the sandbox
//! allows a call is decided before and comes in as an argument, and it is looked at before the
//! table is, so that a refusal does not tell whether a name exists.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_wire::bootstrap::{ServiceInfo, ServiceStatus};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;

/// The most names that one process can have.
pub const MAX_NAMES_PER_CLIENT: usize = 4096;

/// The most names that there can be.
pub const MAX_NAMES: usize = 1 << 17;

/// A process that has spoken to the server. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// A published port. The numbers are given out by the driver, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey(pub u64);

/// Where a name is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// By everybody.
    Global,
    /// By those who name the process that published it (`BOOTSTRAP_PER_PID_SERVICE`).
    PerPid(u32),
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

type Key = (Scope, ServiceName);

/// The table of names.
#[derive(Debug, Default)]
pub struct Registry {
    clients: HashMap<ClientKey, Client>,
    names: BTreeMap<Key, Entry>,
    ports: HashMap<PortKey, BTreeSet<Key>>,
}

#[derive(Debug)]
struct Client {
    label: JobLabel,
    pid: u32,
    names: BTreeSet<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    owner: ClientKey,
    port: PortKey,
}

impl Registry {
    /// Makes a process known. Its label is what [`list`](Self::list) shows.
    pub fn client_appeared(&mut self, client: ClientKey, label: JobLabel, pid: u32) {
        let names = BTreeSet::new();
        self.clients.insert(client, Client { label, pid, names });
    }

    /// The process has exited: its names are free, whoever has the ports now.
    ///
    /// Returns the ports that have no name any more.
    pub fn client_exited(&mut self, client: ClientKey) -> Vec<PortKey> {
        let Some(client) = self.clients.remove(&client) else {
            return Vec::new();
        };
        client
            .names
            .iter()
            .filter_map(|key| self.forget(key))
            .collect()
    }

    /// The port has died: all its names are free.
    pub fn port_died(&mut self, port: PortKey) {
        for key in self.ports.get(&port).cloned().unwrap_or_default() {
            self.withdraw(&key);
        }
    }

    /// Publishes a port under a name.
    ///
    /// # Errors
    ///
    /// 1100 if the sandbox denies it or another process has the name; 1103 if this one has it;
    /// 1105 for a dead right, and beyond [`MAX_NAMES_PER_CLIENT`] and [`MAX_NAMES`].
    pub fn register(
        &mut self,
        client: ClientKey,
        (scope, name): (Scope, ServiceName),
        offer: Offer,
        sandbox: Sandbox,
    ) -> Result<(), BootstrapCode> {
        sandbox.check()?;
        let key = (scope, name);
        self.check_free(client, &key)?;
        match offer {
            Offer::Nothing => Ok(()),
            Offer::Dead => Err(BootstrapCode::NO_MEMORY),
            Offer::Port(port) => self.publish(client, key, port),
        }
    }

    /// Gives a process the receive right of a name: a name that does not exist is created with
    /// `port`, for which the driver makes the right.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register); with `strict`, 1102 for a name that does not exist.
    pub fn check_in(
        &mut self,
        client: ClientKey,
        name: ServiceName,
        strict: bool,
        port: PortKey,
        sandbox: Sandbox,
    ) -> Result<(), BootstrapCode> {
        sandbox.check()?;
        let key = (Scope::Global, name);
        if strict && !self.names.contains_key(&key) {
            return Err(BootstrapCode::UNKNOWN_SERVICE);
        }
        self.check_free(client, &key)?;
        self.publish(client, key, port)
    }

    /// The port that has a name.
    ///
    /// # Errors
    ///
    /// 1100 if the sandbox denies it, whether there is such a name or not; 1102 if there is none.
    pub fn look_up(
        &self,
        (scope, name): (Scope, ServiceName),
        sandbox: Sandbox,
    ) -> Result<PortKey, BootstrapCode> {
        sandbox.check()?;
        let entry = self
            .names
            .get(&(scope, name))
            .ok_or(BootstrapCode::UNKNOWN_SERVICE)?;
        Ok(entry.port)
    }

    /// Whether the service of a name is active.
    ///
    /// # Errors
    ///
    /// Those of [`look_up`](Self::look_up).
    pub fn status(
        &self,
        name: ServiceName,
        sandbox: Sandbox,
    ) -> Result<ServiceStatus, BootstrapCode> {
        self.look_up((Scope::Global, name), sandbox)
            .map(|_| ServiceStatus::Active)
    }

    /// All services for which `visible` says so, in the order of scope and name.
    pub fn list(&self, visible: impl Fn(Scope, &ServiceName) -> bool) -> Vec<ServiceInfo> {
        let seen = self
            .names
            .iter()
            .filter(|((scope, name), _)| visible(*scope, name));
        seen.filter_map(|(key, entry)| self.describe(key, entry))
            .collect()
    }

    fn describe(&self, (scope, name): &Key, entry: &Entry) -> Option<ServiceInfo> {
        let owner = self.clients.get(&entry.owner)?;
        Some(ServiceInfo {
            pid: owner.pid,
            status: ServiceStatus::Active,
            per_pid: *scope != Scope::Global,
            name: name.clone(),
            owner: owner.label.clone(),
        })
    }

    fn check_free(&self, client: ClientKey, key: &Key) -> Result<(), BootstrapCode> {
        match self.names.get(key) {
            None => Ok(()),
            Some(entry) if entry.owner == client => Err(BootstrapCode::SERVICE_ACTIVE),
            Some(_) => Err(BootstrapCode::NOT_PRIVILEGED),
        }
    }

    fn publish(&mut self, owner: ClientKey, key: Key, port: PortKey) -> Result<(), BootstrapCode> {
        let client = self
            .clients
            .get_mut(&owner)
            .ok_or(BootstrapCode::NO_MEMORY)?;
        if self.names.len() >= MAX_NAMES || client.names.len() >= MAX_NAMES_PER_CLIENT {
            return Err(BootstrapCode::NO_MEMORY);
        }
        client.names.insert(key.clone());
        self.ports.entry(port).or_default().insert(key.clone());
        self.names.insert(key, Entry { owner, port });
        Ok(())
    }

    fn withdraw(&mut self, key: &Key) {
        if let Some(entry) = self.names.get(key)
            && let Some(owner) = self.clients.get_mut(&entry.owner)
        {
            owner.names.remove(key);
        }
        self.forget(key);
    }

    /// Takes a name out of the table. Returns its port if that was its last name.
    fn forget(&mut self, key: &Key) -> Option<PortKey> {
        let port = self.names.remove(key)?.port;
        let names = self.ports.get_mut(&port)?;
        names.remove(key);
        if !names.is_empty() {
            return None;
        }
        self.ports.remove(&port);
        Some(port)
    }
}
