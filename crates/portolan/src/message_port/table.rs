//! The ports of this process, to give out the same object again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use portolan_port::PortId;
use portolan_wire::name::ServiceName;

/// A name, and which of the ports that have had it at some server.
pub(super) type Key = (ServiceName, PortId);

/// Ports by name, held only by their users.
pub(super) struct Table<T>(Mutex<BTreeMap<Key, Weak<T>>>);

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(super) fn find(&self, key: &Key) -> Option<Arc<T>> {
        self.lock().get(key).and_then(Weak::upgrade)
    }

    /// Enters a port, unless there is one under the key that is still `usable`, and returns
    /// whichever is there then.
    pub(super) fn share(&self, key: Key, fresh: Arc<T>, usable: impl Fn(&T) -> bool) -> Arc<T> {
        // Dropped after the guard, since that may be the end of it and call somebody.
        let found;
        let mut ports = self.lock();
        found = ports.get(&key).and_then(Weak::upgrade);
        if let Some(found) = found.as_ref().filter(|port| usable(port)) {
            return Arc::clone(found);
        }
        ports.retain(|_, port| port.strong_count() > 0);
        ports.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_port::PortId;

    use super::{Key, Table};

    fn key(name: &str, id: u8) -> Key {
        (name.parse().expect("a name"), PortId::from_bytes([id; 16]))
    }

    #[test]
    fn a_port_is_shared_while_it_is_held_and_usable() {
        let table = Table::new();
        let first = table.share(key("n", 1), Arc::new(1), |_| true);
        assert_eq!(*table.share(key("n", 1), Arc::new(2), |_| true), 1);
        assert_eq!(*table.share(key("n", 9), Arc::new(3), |_| true), 3);
        assert_eq!(*table.share(key("m", 1), Arc::new(4), |_| true), 4);
        let second = table.share(key("n", 1), Arc::new(5), |_| false);
        assert_eq!((*first, *second), (1, 5));
        drop(second);
        assert_eq!(table.find(&key("n", 1)), None);
    }

    #[test]
    fn what_nobody_holds_leaves_the_table() {
        let table = Table::new();
        for id in 0..100 {
            drop(table.share(key("n", id), Arc::new(id), |_| true));
        }
        assert_eq!(table.lock().len(), 1);
    }
}
