//! User defaults that the members of an application group share.
//!
//! [`Defaults`] are typed values under keys, in one small file in the group's container, after
//! `UserDefaults(suiteName:)` with the id of the group as the name of the suite. Any number of
//! processes read and write them at once: a write is done or not done at whatever moment its process
//! is killed, and readers never wait. [`Watch`] receives each change once and in order.
//!
//! ```
//! use portolan::bootstrap::Bootstrap;
//! use portolan::defaults::{Change, Defaults};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bootstrap = Bootstrap::private()?;
//! # let folder = std::env::temp_dir().join(format!("portolan-doc-{}", std::process::id()));
//! # std::fs::create_dir(&folder)?;
//! # let group = "group.org.example".parse()?;
//! let defaults = Defaults::open_in(&folder, &group, bootstrap);
//! let mut watch = defaults.watch(None)?;
//!
//! defaults.set("volume", 11)?;
//! assert_eq!(defaults.get_as::<i64>("volume")?, Some(11));
//!
//! let expected = Change { key: "volume".to_owned(), value: Some(11.into()) };
//! assert_eq!(watch.receive(Duration::from_secs(5))?, expected);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from UserDefaults
//!
//! * What is written is in the file when the call returns. There is no copy in memory that comes
//!   later, and a value that cannot be written is an error.
//! * Only the group's own values are found: there is no list of domains to look through, and no
//!   values that a program registers for keys that are missing.
//! * A value of another kind is an error and is not converted.
//! * The global domain and a program's own are no groups, so they have no [`GroupId`].

mod folder;
mod watch;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use portolan_wire::container::{self, Surroundings};
use portolan_wire::defaults::Image;
use portolan_wire::group::GroupId;
use thiserror::Error;

use crate::bootstrap::{Bootstrap, ConnectError};
use folder::{Folder, ReplaceError};
use watch::Servers;

pub use folder::ReadError;
pub use portolan_wire::defaults::{
    Change, ImageError, KeyError, LimitError, MAX_BYTES, MAX_DEPTH, MAX_KEY_BYTES, MAX_VALUES,
    Value, WrongKind,
};
pub use watch::{NextError, TellError, Watch, WatchError};

/// The shared defaults of a group.
///
/// Nothing is kept in it but where they are: each call opens the file. What is missing of the folders
/// is made by whoever writes or watches first.
#[derive(Debug)]
pub struct Defaults {
    folder: Folder,
    servers: Servers,
}

impl Defaults {
    /// The defaults of a group of this user.
    ///
    /// They are in `Library/Preferences` in the group's container, which is in the first of:
    /// `$PORTOLAN_GROUP_CONTAINERS`, `$XDG_DATA_HOME/portolan/Group Containers`,
    /// `$HOME/.local/share/portolan/Group Containers`. Whether this program is a member decides who
    /// can open the folder.
    ///
    /// # Errors
    ///
    /// [`OpenError`]
    pub fn open(group: &GroupId) -> Result<Self, OpenError> {
        let around = Surroundings {
            portolan: env::var_os(container::GROUP_CONTAINERS),
            xdg: env::var_os("XDG_DATA_HOME"),
            home: env::var_os("HOME"),
        };
        let place = around.group_container(group).ok_or(OpenError::NoHome)?;
        let below = place.below.into_iter();
        let below = below.chain(container::PREFERENCES.map(str::to_owned));
        Ok(Self {
            folder: Folder::new(place.base, below.collect(), group),
            servers: Servers::of_process(group),
        })
    }

    /// The defaults of a group in this folder, for programs that keep them elsewhere. Watchers find each other through this bootstrap server.
    #[must_use]
    pub fn open_in(folder: &Path, group: &GroupId, bootstrap: Bootstrap) -> Self {
        Self {
            folder: Folder::new(folder.to_path_buf(), Vec::new(), group),
            servers: Servers::given(group, bootstrap),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn get(&self, key: &str) -> Result<Option<Value>, ReadError> {
        Ok(self.all()?.remove(key))
    }

    /// The value of a key as what it must be: `bool`, `i64`, `f64`, `String`, `Vec<u8>`,
    /// `SystemTime`, `Vec<Value>` or `BTreeMap<String, Value>`.
    ///
    /// # Errors
    ///
    /// [`GetError::Kind`] if it is of another kind.
    pub fn get_as<T>(&self, key: &str) -> Result<Option<T>, GetError>
    where
        T: TryFrom<Value, Error = WrongKind>,
    {
        Ok(self.get(key)?.map(T::try_from).transpose()?)
    }

    /// The keys, in order.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn keys(&self) -> Result<Vec<String>, ReadError> {
        Ok(self.all()?.into_keys().collect())
    }

    /// All values, as they were at one moment.
    ///
    /// # Errors
    ///
    /// [`ReadError`]
    pub fn all(&self) -> Result<BTreeMap<String, Value>, ReadError> {
        Ok(self
            .folder
            .read()?
            .map_or_else(BTreeMap::new, Image::into_values))
    }

    /// Sets the value of a key. To set it to what it is changes nothing.
    ///
    /// When this returns, the value is on the disk, and whoever watches has been told.
    ///
    /// # Errors
    ///
    /// [`SetError`]; nothing was changed.
    pub fn set(&self, key: &str, value: impl Into<Value>) -> Result<(), SetError> {
        let value = value.into();
        self.update(key, |_| Some(value)).map(drop)
    }

    /// Removes a key. Tells whether it was there.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    pub fn remove(&self, key: &str) -> Result<bool, SetError> {
        self.update(key, |_| None)
    }

    /// Sets a key to what `change` makes of its value, or removes it; nobody else writes in between.
    /// Tells whether that changed anything.
    ///
    /// All other writers wait while `change` runs, so it must not write to these defaults itself.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    pub fn update(
        &self,
        key: &str,
        change: impl FnOnce(Option<&Value>) -> Option<Value>,
    ) -> Result<bool, SetError> {
        let locked = self.folder.lock()?;
        let mut image = match locked.read()? {
            Some(image) => image,
            None => folder::fresh()?,
        };
        let value = change(image.values().get(key));
        if !image.set(key, value)? {
            return Ok(false);
        }
        let bytes = image.encode()?;
        let telling = self.servers.announce()?;
        locked.replace(&bytes)?;
        telling.finish();
        Ok(true)
    }

    /// Removes all keys, also if the file is broken.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set).
    pub fn clear(&self) -> Result<(), SetError> {
        let locked = self.folder.lock()?;
        let bytes = folder::fresh()?.encode()?;
        let telling = self.servers.announce()?;
        locked.replace(&bytes)?;
        telling.finish();
        Ok(())
    }

    /// Receives what is changed from now on, of one key or of all.
    ///
    /// The watcher publishes a name of the group, which the writers find, so a bootstrap server is
    /// started if there is none.
    ///
    /// # Errors
    ///
    /// [`WatchError`]
    pub fn watch(&self, key: Option<&str>) -> Result<Watch, WatchError> {
        Watch::start(self.folder.clone(), &self.servers, key)
    }
}

/// The defaults of a group cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither `PORTOLAN_GROUP_CONTAINERS` nor `XDG_DATA_HOME` nor `HOME` is an absolute path.
    #[error("there is no folder for group containers: neither XDG_DATA_HOME nor HOME is a path")]
    NoHome,
}

/// A value was not got as what it must be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GetError {
    /// The defaults cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is of another kind.
    #[error(transparent)]
    Kind(#[from] WrongKind),
}

/// A value was not set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetError {
    /// What is there cannot be read, so it cannot be kept either.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key cannot be one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It would be more than there may be.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Another process writes, and has not ended with it for ten seconds.
    #[error("another process holds the lock of the defaults")]
    Busy,
    /// Those who watch cannot be told.
    #[error(transparent)]
    Tell(#[from] TellError),
    /// The new file cannot be written.
    #[error("the defaults cannot be written")]
    Write(#[source] std::io::Error),
}

impl From<ReplaceError> for SetError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Read(error) => Self::Read(error),
            ReplaceError::Busy => Self::Busy,
            ReplaceError::Write(error) => Self::Write(error),
        }
    }
}

/// A bootstrap right of this process, if a server runs: nobody watches through one that does not.
fn running_server() -> Result<Option<Bootstrap>, ConnectError> {
    if env::var_os(portolan_wire::place::INHERITED_FD).is_some() {
        return Bootstrap::from_env().map(Some);
    }
    match Bootstrap::connect(&crate::bootstrap::directory()) {
        Err(ConnectError::NoServer { .. }) => Ok(None),
        other => other.map(Some),
    }
}
