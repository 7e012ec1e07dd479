//! Bootstrap ports: who may ask through which.
//!
//! Unconfined clients share one door. Each confined program, each instance of a job and each subset has
//! a door of its own, and whoever comes through it is known by it.

use std::collections::HashMap;

use portolan_port::{CreateError, PortId, PortParts, ReceiveRight};
use portolan_sandbox::Identity;
use portolan_wire::label::JobLabel;
use serde::{Deserialize, Serialize};

use super::store::{Kind, Store};
use crate::launch::Leader;
use crate::registry::{JobKey, Namespace};

/// The number of a door, given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DoorKey(pub(super) u64);

/// The door that all unconfined clients share.
pub(super) const PUBLIC: DoorKey = DoorKey(0);

/// A bootstrap port.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) key: DoorKey,
    pub(super) port: ReceiveRight,
    pub(super) whose: Whose,
}

/// Who comes through a door.
#[derive(Clone, Debug)]
pub(super) struct Whose {
    pub(super) identity: Identity,
    /// What the program is called, if it is not known by its process.
    pub(super) label: Option<JobLabel>,
    /// The text that the identity was made of.
    pub(super) entitlements: Option<Vec<u8>>,
    pub(super) job: Option<JobKey>,
    /// The process that stands for the program, if it is confined and no job.
    pub(super) leader: Option<Leader>,
    /// Where its names are.
    pub(super) namespace: Option<Namespace>,
    /// The user, if it is neither this server's nor root: such a one may look names up.
    pub(super) guest: Option<u32>,
    /// What the program is called of which it is reported what is refused to it. Nothing else is done
    /// through such a door.
    pub(super) reports: Option<JobLabel>,
}

impl Whose {
    pub(super) fn anybody() -> Self {
        Self {
            identity: Identity::Unsandboxed,
            label: None,
            entitlements: None,
            job: None,
            leader: None,
            namespace: None,
            guest: None,
            reports: None,
        }
    }

    /// Who reports what is refused to a program.
    pub(super) fn reporter(label: JobLabel) -> Self {
        Self {
            reports: Some(label),
            ..Self::anybody()
        }
    }

    /// Whether it is whoever is in a subset, and not a program that is confined there.
    pub(super) fn is_subset(&self) -> bool {
        self.namespace.is_some() && self.entitlements.is_none()
    }

    /// Who comes through the door of another user.
    pub(super) fn guest(uid: u32) -> Self {
        Self {
            guest: Some(uid),
            ..Self::anybody()
        }
    }
}

/// A door in the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DoorEntry {
    pub(super) port: [u8; 16],
    pub(super) label: Option<String>,
    pub(super) entitlements: Option<Vec<u8>>,
    pub(super) job: Option<u64>,
    pub(super) leader: Option<Leader>,
    pub(super) namespace: Option<u64>,
    pub(super) guest: Option<u32>,
    pub(super) reports: Option<String>,
}

/// All doors.
#[derive(Debug, Default)]
pub(super) struct Doors {
    by_port: HashMap<PortId, Door>,
    by_key: HashMap<DoorKey, PortId>,
    last: u64,
}

impl Doors {
    /// Makes a door.
    pub(super) fn open(
        &mut self,
        key: DoorKey,
        whose: Whose,
        store: &Store,
    ) -> Result<&Door, CreateError> {
        let parts = PortParts {
            ledger: Some(PortParts::make_ledger().map_err(CreateError)?),
            ..PortParts::fresh()?
        };
        let port = ReceiveRight::witnessed(parts, store.witness(Kind::Door, key.0))?;
        Ok(self.add(Door { key, port, whose }, store))
    }

    fn write_down(door: &Door, store: &Store) {
        let whose = &door.whose;
        let entry = DoorEntry {
            port: *door.port.id().as_bytes(),
            label: whose.label.as_ref().map(ToString::to_string),
            entitlements: whose.entitlements.clone(),
            job: whose.job.map(|job| job.0),
            leader: whose.leader.clone(),
            namespace: whose.namespace.map(|namespace| namespace.0),
            guest: whose.guest,
            reports: whose.reports.as_ref().map(ToString::to_string),
        };
        let ledger: Vec<_> = door.port.ledger().into_iter().collect();
        store.put(Kind::Door, door.key.0, &entry, &ledger);
    }

    pub(super) fn add(&mut self, door: Door, store: &Store) -> &Door {
        Self::write_down(&door, store);
        let id = door.port.id();
        self.last = self.last.max(door.key.0);
        self.by_key.insert(door.key, id);
        self.by_port.entry(id).or_insert(door)
    }

    pub(super) fn next_key(&mut self) -> DoorKey {
        self.last += 1;
        DoorKey(self.last)
    }

    pub(super) fn get(&self, port: PortId) -> Option<&Door> {
        self.by_port.get(&port)
    }

    pub(super) fn public(&self) -> Option<&Door> {
        self.by_port.get(self.by_key.get(&PUBLIC)?)
    }

    /// How many there are besides the public one.
    pub(super) fn own(&self) -> usize {
        self.by_port.len().saturating_sub(1)
    }

    /// The door of a namespace itself, not of a program that is confined in it.
    pub(super) fn of_namespace(&self, namespace: Namespace) -> Option<&Door> {
        let mut doors = self.by_port.values();
        doors.find(|door| door.whose.namespace == Some(namespace) && door.whose.is_subset())
    }

    /// The door of another user.
    pub(super) fn of_guest(&self, uid: u32) -> Option<&Door> {
        let mut doors = self.by_port.values();
        doors.find(|door| door.whose.guest == Some(uid))
    }

    /// What binds the program with this label that was the last to get a door.
    pub(super) fn entitlements_of(&self, label: &JobLabel) -> Option<&[u8]> {
        let doors = self.by_port.values();
        let named = doors.filter(|door| door.whose.label.as_ref() == Some(label));
        let last = named.max_by_key(|door| door.key)?;
        last.whose.entitlements.as_deref()
    }

    /// How many other users have a door.
    pub(super) fn guests(&self) -> usize {
        let doors = self.by_port.values();
        doors.filter(|door| door.whose.guest.is_some()).count()
    }

    /// The doors of subsets.
    pub(super) fn of_subsets(&self) -> Vec<(DoorKey, Namespace)> {
        let doors = self.by_port.values();
        let found = doors.filter_map(|door| Some((door.key, door.whose.namespace?)));
        found.collect()
    }

    /// Closes a door, and forgets it.
    pub(super) fn close(&mut self, key: DoorKey, store: &Store) -> Option<Door> {
        let id = self.by_key.remove(&key)?;
        store.remove(Kind::Door, key.0);
        self.by_port.remove(&id)
    }
}
