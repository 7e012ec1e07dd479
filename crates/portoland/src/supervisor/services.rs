//! The services of one job: which of them wait for it, and which message is first in their queues.

use std::collections::{BTreeMap, BTreeSet};

use portolan_wire::name::ServiceName;

use crate::job::{Drain, MachService};

/// At how many crashes in a row a message must have been first to be set aside.
pub const POISON_CRASHES: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Services {
    declared: BTreeMap<ServiceName, MachService>,
    /// The instance has the receive right.
    checked_in: BTreeSet<ServiceName>,
    /// The instance has, or had, the receive right.
    served: BTreeSet<ServiceName>,
    /// Nobody has checked them in, and messages are queued there.
    queued: BTreeSet<ServiceName>,
    /// What was first when the last instance ended.
    heads: BTreeMap<ServiceName, Head>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    message: u64,
    crashes: u32,
}

/// How an instance ended, as far as its services are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Well,
    /// With an exit status, or by a signal, that the server did not ask for.
    Failed,
    /// By a signal that tells of a fault.
    Crashed,
}

/// What is to be done with a service whose right has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    SetAside(ServiceName),
    Drain(ServiceName, Drain),
    Reset(ServiceName),
}

impl Services {
    pub(super) fn declared(declared: Vec<(ServiceName, MachService)>) -> Self {
        Self {
            // All at once, because that fills the nodes of the tree; one by one fills half of each.
            declared: declared.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(super) fn options(&self, name: &ServiceName) -> Option<&MachService> {
        self.declared.get(name)
    }

    pub(super) fn undeclare(&mut self, name: &ServiceName) {
        self.declared.remove(name);
        self.checked_in.remove(name);
        self.served.remove(name);
        self.queued.remove(name);
        self.heads.remove(name);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.declared.keys()
    }

    pub(super) fn not_checked_in(&self) -> impl Iterator<Item = &ServiceName> {
        let names = self.declared.keys();
        names.filter(|name| !self.checked_in.contains(*name))
    }

    /// A service with messages that nobody has checked in.
    pub(super) fn demand(&self) -> Option<&ServiceName> {
        self.queued.first()
    }

    /// Whether the instance has checked in every service.
    pub(super) fn are_served(&self) -> bool {
        self.served.len() == self.declared.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.declared.is_empty()
    }

    pub(super) fn message_came(&mut self, name: &ServiceName) {
        if self.declared.contains_key(name) && !self.checked_in.contains(name) {
            self.queued.insert(name.clone());
        }
    }

    pub(super) fn emptied(&mut self, name: &ServiceName) {
        self.queued.remove(name);
    }

    pub(super) fn check_in(&mut self, name: &ServiceName) {
        if self.declared.contains_key(name) {
            self.queued.remove(name);
            self.checked_in.insert(name.clone());
            self.served.insert(name.clone());
        }
    }

    /// The instance has closed the receive right.
    pub(super) fn came_back(&mut self, name: &ServiceName, has_messages: bool) -> Option<Handling> {
        if !self.checked_in.remove(name) {
            return None;
        }
        if self.is_reset(name) {
            self.heads.remove(name);
            return Some(Handling::Reset(name.clone()));
        }
        if has_messages {
            self.queued.insert(name.clone());
        }
        None
    }

    /// Whether one of the messages that are left is at a service that the instance never checked
    /// in, or was left by the one before it as well.
    pub(super) fn are_neglected(&self, left: &[(ServiceName, u64)]) -> bool {
        left.iter().any(|(name, message)| {
            let declared = self.declared.contains_key(name);
            let known = self.heads.get(name).map(|head| head.message);
            declared && (!self.served.contains(name) || known == Some(*message))
        })
    }

    /// The instance has ended. `left` has the services with messages, and which is the first.
    pub(super) fn ended(&mut self, left: &[(ServiceName, u64)], end: End) -> Vec<Handling> {
        let checked_in = std::mem::take(&mut self.checked_in);
        let reset = checked_in.into_iter().filter(|name| self.is_reset(name));
        let reset: BTreeSet<ServiceName> = reset.collect();
        let served = std::mem::take(&mut self.served);
        let mut before = std::mem::take(&mut self.heads);
        self.queued.clear();
        let mut handling: Vec<_> = reset.iter().cloned().map(Handling::Reset).collect();
        for (name, message) in left {
            if reset.contains(name) || !self.declared.contains_key(name) {
                continue;
            }
            let crashes = match before.remove(name) {
                _ if end == End::Well || !served.contains(name) => 0,
                Some(head) if head.message == *message => head.crashes + 1,
                _ => 1,
            };
            let message = *message;
            handling.extend(self.left(name, Head { message, crashes }, end));
        }
        handling
    }

    fn left(&mut self, name: &ServiceName, head: Head, end: End) -> Option<Handling> {
        let options = self.declared.get(name)?;
        if let Some(drain) = options.drain_messages_on_crash
            && end == End::Crashed
        {
            return Some(Handling::Drain(name.clone(), drain));
        }
        if head.crashes >= POISON_CRASHES {
            return Some(Handling::SetAside(name.clone()));
        }
        self.heads.insert(name.clone(), head);
        self.queued.insert(name.clone());
        None
    }

    /// The program cannot be executed: those who wait for a service that would be reset by its
    /// end are not kept waiting.
    pub(super) fn reset_all(&mut self) -> Vec<Handling> {
        let reset = self.declared.keys().filter(|name| self.is_reset(name));
        let reset: Vec<_> = reset.cloned().collect();
        for name in &reset {
            self.queued.remove(name);
            self.heads.remove(name);
        }
        reset.into_iter().map(Handling::Reset).collect()
    }

    fn is_reset(&self, name: &ServiceName) -> bool {
        let options = self.declared.get(name);
        options.is_some_and(|options| options.reset_at_close)
    }
}
