//! Whether a program is refused what it uses, and what would grant it.

use std::path::PathBuf;

use crate::calls::Used;
use crate::decision::{Reach, Remedy, Use, remedy_for_file};
use crate::filter::Verdict;
use crate::key;
use crate::places::PlaceError;
use crate::profile::{Home, Profile};

/// What a program has, found out once as the launcher does.
#[derive(Debug)]
pub(super) struct Judge {
    profile: Profile,
    home: Home,
    reach: Reach,
}

/// What is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// As `portolan sandbox check` calls it.
    pub(super) operation: &'static str,
    /// The path or the address.
    pub(super) name: String,
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    File(PathBuf, Use),
    Network(&'static str),
}

impl Judge {
    pub(super) fn new(profile: Profile) -> Result<Self, PlaceError> {
        Ok(Self {
            reach: Reach::of(&profile)?,
            home: profile.home(),
            profile,
        })
    }

    /// `None` if it is not refused. The filter says of sockets whether they are, and of files nothing.
    pub(super) fn look_at(&self, used: Used, verdict: Verdict) -> Option<Refused> {
        let is_refused = verdict != Verdict::Allowed;
        match used {
            Used::Read(path) => self.file("file-read", path, Use::Read),
            Used::List(path) if self.reach.lists(&path) => None,
            Used::List(path) => self.file("file-read", path, Use::Read),
            Used::Write(path) => self.file("file-write", path, Use::Write),
            Used::Execute(path) => self.file("process-exec", path, Use::Execute),
            Used::Entry { path, directory } => {
                let name = path.display().to_string();
                let refused = self.file("file-write", directory, Use::Write)?;
                Some(Refused { name, ..refused })
            }
            Used::Socket { .. } => {
                is_refused.then(|| network("network-outbound", "", key::NETWORK_CLIENT))
            }
            Used::Connect(to) => {
                is_refused.then(|| network("network-outbound", to, key::NETWORK_CLIENT))
            }
            Used::Bind(to) => {
                is_refused.then(|| network("network-inbound", to, key::NETWORK_SERVER))
            }
            Used::UnixSocket(_) => None,
        }
    }

    fn file(&self, operation: &'static str, path: PathBuf, wanted: Use) -> Option<Refused> {
        let is_granted = self.reach.grants(&path, wanted);
        (!is_granted).then(|| Refused {
            operation,
            name: path.display().to_string(),
            wanted: Wanted::File(path, wanted),
        })
    }

    /// What would grant it, if anything would.
    pub(super) fn remedy(&self, refused: &Refused) -> Option<Remedy> {
        match &refused.wanted {
            Wanted::Network(key) => Some(Remedy { key, value: None }),
            Wanted::File(path, wanted) => {
                let path = crate::places::exceptions::real(path);
                let found = remedy_for_file(&self.profile, &self.home, &path, *wanted);
                found.ok()?.ok()
            }
        }
    }
}

fn network(operation: &'static str, address: impl ToString, key: &'static str) -> Refused {
    Refused {
        operation,
        name: address.to_string(),
        wanted: Wanted::Network(key),
    }
}
