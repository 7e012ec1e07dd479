//! What the registry keeps of a name, of whoever has names, and of a namespace.

use std::collections::BTreeSet;

use portolan_wire::bootstrap::ServiceStatus;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;

use super::{Namespace, Owner, PortKey, ProgramKey, Scope, Visibility};

pub(super) type Key = (Scope, ServiceName);

/// A process or a job.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) label: JobLabel,
    /// 0 while no instance of a job runs.
    pub(super) pid: u32,
    /// The confined program to which it counts.
    pub(super) program: Option<ProgramKey>,
    pub(super) names: BTreeSet<Key>,
}

impl Holder {
    pub(super) fn new(label: JobLabel, pid: u32) -> Self {
        Self {
            label,
            pid,
            program: None,
            names: BTreeSet::new(),
        }
    }
}

/// The names of a port. Most have one, and a set of one takes ten times the memory of it.
#[derive(Debug)]
pub(super) enum Names {
    One(Key),
    Several(BTreeSet<Key>),
}

/// Whether a port has names after one was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    None,
    Some,
}

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        let (one, several) = match self {
            Self::One(key) => (Some(key), None),
            Self::Several(keys) => (None, Some(keys)),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    pub(super) fn insert(&mut self, key: Key) {
        match self {
            Self::One(one) => *self = Self::Several(BTreeSet::from([one.clone(), key])),
            Self::Several(keys) => drop(keys.insert(key)),
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Left {
        let is_empty = match self {
            Self::One(one) => one == key,
            Self::Several(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        };
        if is_empty { Left::None } else { Left::Some }
    }
}

/// A name that is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) port: PortKey,
    pub(super) service: Service,
}

/// How a name came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// By a call of its owner, who has the receive right.
    Registered,
    /// By a job file; the owner has the receive right while it is active.
    Declared {
        active: bool,
        visibility: Visibility,
    },
}

impl Entry {
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.service, Service::Declared { active: false, .. })
    }

    pub(super) fn is_hidden(&self) -> bool {
        let hidden = Service::Declared {
            active: false,
            visibility: Visibility::WhileActive,
        };
        self.service == hidden
    }

    pub(super) fn status(&self) -> ServiceStatus {
        if self.is_active() {
            ServiceStatus::Active
        } else {
            ServiceStatus::OnDemand
        }
    }

    pub(super) fn activate(&mut self) -> PortKey {
        if let Service::Declared { active, .. } = &mut self.service {
            *active = true;
        }
        self.port
    }
}

/// A namespace within another.
#[derive(Debug)]
pub(super) struct Subset {
    /// Nothing if it is within the outermost.
    pub(super) parent: Option<Namespace>,
    pub(super) depth: usize,
    /// The port with which it goes.
    pub(super) requestor: PortKey,
    pub(super) children: BTreeSet<Namespace>,
    pub(super) names: BTreeSet<ServiceName>,
}

impl Subset {
    pub(super) fn new(parent: Option<Namespace>, depth: usize, requestor: PortKey) -> Self {
        Self {
            parent,
            depth,
            requestor,
            children: BTreeSet::new(),
            names: BTreeSet::new(),
        }
    }
}
