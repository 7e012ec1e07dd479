//! What a server has, while there is neither a server nor a holder: the service manager keeps it.
//!
//! systemd keeps descriptors of a service over a restart of its unit (`FDSTORE=1`) and gives them to
//! the next process as it gives sockets. The journal is stored as [`JOURNAL`], and each descriptor
//! that it names under the number that it had. Numbers are different in the next process, so the
//! journal is written anew there.
//!
//! When a unit is stopped for good, systemd closes what it keeps, which is as if the server had
//! ended without it.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use portolan_sys::inherit;
use portolan_sys::orphans::Orphans;
use rustix::io::Errno;
use thiserror::Error;

use super::named;
use crate::journal::{self, Entries, Journal, JournalError, PutError};
use crate::notify::{Inherited, Notifier, NotifyError};

/// How many descriptors the service manager keeps for this service. systemd says so from version 254
/// on; before that, the unit has to.
const LIMIT: &str = "FDSTORE";

/// What the journal is called there.
const JOURNAL: &str = "portolan-journal";

/// What stands before the number of any other descriptor.
const PREFIX: &str = "portolan-";

/// How long a service manager may leave a message where it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager does not keep what the server has.
#[derive(Debug, Error)]
pub(super) enum KeepError {
    /// The journal is gone or cannot be read.
    #[error("there is no journal")]
    Journal(#[source] io::Error),
    /// It keeps fewer than there are.
    #[error("the service manager keeps {limit} descriptors, and there are {count}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// What it says.
        limit: usize,
    },
    /// It could not be told.
    #[error(transparent)]
    Notify(#[from] NotifyError),
}

/// What was kept cannot be used.
#[derive(Debug, Error)]
pub(super) enum TakeBackError {
    /// It could not be taken.
    #[error("cannot take the descriptors that the service manager has kept")]
    Take(#[source] io::Error),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal cannot be written anew.
    #[error(transparent)]
    Rewrite(#[from] PutError),
}

/// Whether there is a service manager that keeps descriptors.
pub(super) fn is_offered() -> bool {
    let notifier = Notifier::from_environment().unwrap_or_default();
    limit() > 0 && notifier.is_there()
}

fn limit() -> usize {
    let limit = env::var(LIMIT).ok();
    limit.and_then(|limit| limit.parse().ok()).unwrap_or(0)
}

/// Whether the service manager has given this process anything of a server's.
pub(super) fn is_given() -> bool {
    let given = Inherited::from_environment().numbers(std::process::id());
    given.iter().any(|(name, _)| name.starts_with(PREFIX))
}

/// Has the journal with this number kept, and all that it names. When this returns, the service
/// manager has it.
pub(super) fn hand_over(number: u32) -> Result<usize, KeepError> {
    let descriptors = named(number).map_err(KeepError::Journal)?;
    let (count, limit) = (descriptors.len() + 1, limit());
    if count > limit {
        return Err(KeepError::TooMany { count, limit });
    }
    let manager = Notifier::from_environment()?.patient(PATIENCE)?;
    for descriptor in descriptors {
        // One that is closed is missing when it is taken back, and is seen to then.
        if let Ok(copy) = inherit::duplicate(descriptor) {
            manager.store(&format!("{PREFIX}{descriptor}"), copy.as_fd())?;
        }
    }
    // Without it the others are of no use, so nobody takes a part for the whole.
    let journal = inherit::duplicate(number).map_err(KeepError::Journal)?;
    manager.store(JOURNAL, journal.as_fd())?;
    manager.barrier(PATIENCE)?;
    Ok(count)
}

/// The journal, and what it names, that the service manager has kept for this process. `None` if it
/// has kept no journal.
pub(super) fn take_back() -> Result<Option<(OwnedFd, Orphans)>, TakeBackError> {
    let mut kept = BTreeMap::new();
    for (name, number) in Inherited::from_environment().numbers(std::process::id()) {
        if name.starts_with(PREFIX) && name != crate::daemon::LISTENER {
            let taken = inherit::take(number).map_err(TakeBackError::Take)?;
            kept.insert(name, taken);
        }
    }
    let_go(kept.keys());
    let Some(old) = kept.remove(JOURNAL) else {
        return Ok(None);
    };
    let entries = journal::replay(&old)?;
    renumber(&entries, kept).map(Some)
}

/// What is kept twice is not closed when this process closes it.
fn let_go<'a>(names: impl Iterator<Item = &'a String>) {
    let told = Notifier::from_environment()
        .and_then(|manager| manager.patient(PATIENCE))
        .and_then(|manager| {
            let mut names = names;
            names.try_for_each(|name| manager.remove(name))
        });
    if let Err(error) = told {
        let error = crate::daemon::chain(&error);
        tracing::warn!(%error, "the service manager goes on keeping what is in use");
    }
}

/// A journal that says the same of the numbers that the descriptors have here. Entries of which a
/// descriptor is missing are left out.
fn renumber(
    entries: &Entries,
    mut kept: BTreeMap<String, OwnedFd>,
) -> Result<(OwnedFd, Orphans), TakeBackError> {
    let memory = journal::memory().map_err(TakeBackError::Take)?;
    let mut fresh = Journal::resume(memory, &Entries::default()).map_err(TakeBackError::Take)?;
    let mut orphans = Orphans::default();
    let mut lost = 0;
    for (key, entry) in entries.iter() {
        let names = entry.descriptors.iter();
        let owned = names.map(|number| kept.remove(&format!("{PREFIX}{number}")));
        let Some(owned) = owned.collect::<Option<Vec<_>>>() else {
            lost += 1;
            continue;
        };
        let borrowed: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
        fresh.put(key, entry.bytes, &borrowed)?;
        for descriptor in owned {
            orphans.adopt(descriptor);
        }
    }
    if lost > 0 {
        tracing::error!(lost, "the service manager has not kept all descriptors");
    }
    Ok((fresh.into_memory(), orphans))
}

impl From<Errno> for TakeBackError {
    fn from(errno: Errno) -> Self {
        Self::Take(errno.into())
    }
}
