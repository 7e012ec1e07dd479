//! What the server writes down for the one after it, entry by entry.
//!
//! Each entry is put when what it stands for has changed and before anybody is told of the change, so
//! that a server which is killed has promised nothing that its successor does not know.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portolan_port::{ChannelId, Witness};
use serde::Serialize;

use crate::journal::{Journal, Key, PutError};

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(super) enum Kind {
    Server = 1,
    Client = 2,
    Door = 3,
    Subset = 4,
    Job = 5,
    Run = 6,
    Service = 7,
    Channel = 8,
    /// What changes of a job.
    Tally = 9,
    /// The bytes of a job's file.
    JobFile = 10,
    /// What was refused to a confined program.
    Violation = 11,
    /// Memory or a semaphore of a group.
    Object = 12,
}

impl Kind {
    pub(super) fn key(self, id: u64) -> Key {
        Key {
            kind: self as u16,
            id,
        }
    }
}

/// The journal, if the server has one. A server inside another program has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Store(Option<Arc<Mutex<Journal>>>);

impl Store {
    pub(super) fn new(journal: Journal) -> Self {
        Self(Some(Arc::new(Mutex::new(journal))))
    }

    /// Puts an entry. Where that fails, the successor of this server will not know, and the log says
    /// so; nothing else is wrong.
    pub(super) fn put(
        &self,
        kind: Kind,
        id: u64,
        value: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) {
        if self.0.is_none() {
            return;
        }
        match serde_json::to_vec(value) {
            Ok(bytes) => self.write(kind.key(id), &bytes, descriptors),
            Err(error) => complain(Err(PutError::System(io::Error::other(error)))),
        }
    }

    /// Puts an entry that is nothing but bytes.
    pub(super) fn put_bytes(&self, kind: Kind, id: u64, bytes: &[u8]) {
        self.write(kind.key(id), bytes, &[]);
    }

    fn write(&self, key: Key, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let Some(mut journal) = self.journal() else {
            return;
        };
        if let Err(error) = journal.put(key, bytes, descriptors) {
            complain(Err(error));
            // What it said before may name descriptors that are about to be closed.
            complain(journal.remove(key).map(drop));
        }
    }

    pub(super) fn remove(&self, kind: Kind, id: u64) {
        if let Some(mut journal) = self.journal() {
            complain(journal.remove(kind.key(id)).map(drop));
        }
    }

    /// Whoever is told of the channels of a port of this owner.
    pub(super) fn witness(&self, kind: Kind, id: u64) -> Arc<dyn Witness> {
        Arc::new(Scribe {
            store: self.clone(),
            owner: (kind as u16, id),
        })
    }

    fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        let journal = self.0.as_ref()?;
        Some(journal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn complain(put: Result<(), PutError>) {
    if let Err(error) = put {
        let error = crate::daemon::chain(&error);
        tracing::error!(%error, "the next server will not know all that this one knows");
    }
}

/// Writes the channels of one port down: whose they are, then what the port says of them.
struct Scribe {
    store: Store,
    owner: (u16, u64),
}

impl Witness for Scribe {
    fn changed(&self, channel: ChannelId, record: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let (kind, id) = self.owner;
        let owner = [&kind.to_le_bytes()[..], &id.to_le_bytes()].concat();
        let entry = [&owner, record].concat();
        self.store
            .write(Kind::Channel.key(channel.0), &entry, descriptors);
    }

    fn gone(&self, channel: ChannelId) {
        self.store.remove(Kind::Channel, channel.0);
    }
}

/// Whose channel an entry is about, and what the port said of it.
pub(super) fn owner_of(entry: &[u8]) -> Option<(u16, u64, &[u8])> {
    let (kind, rest) = entry.split_first_chunk()?;
    let (id, record) = rest.split_first_chunk()?;
    Some((u16::from_le_bytes(*kind), u64::from_le_bytes(*id), record))
}
