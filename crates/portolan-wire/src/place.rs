//! Where the bootstrap server of a user is found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// File name of the server's socket in its directory.
pub const SOCKET: &str = "bootstrap";

/// File name of the lock that is held while a server is being started.
pub const LOCK: &str = "bootstrap.lock";

/// File name of the log of a server that was started by a client.
pub const LOG: &str = "bootstrap.log";

/// Environment variable with the number of the inherited bootstrap descriptor.
pub const INHERITED_FD: &str = "PORTOLAN_BOOTSTRAP_FD";

/// Environment variable with the directory, before all other places.
pub const DIRECTORY: &str = "PORTOLAN_RUNTIME_DIR";

/// The directory of root's server, whose names every user finds.
pub const SYSTEM: &str = "/run/portolan";

/// What decides where the directory is.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The environment variable [`DIRECTORY`].
    pub portolan: Option<OsString>,
    /// The environment variable `XDG_RUNTIME_DIR`.
    pub xdg: Option<OsString>,
    /// The user.
    pub uid: u32,
}

impl Surroundings {
    /// The directory of the bootstrap server.
    ///
    /// It is the first of: what [`DIRECTORY`] says, [`SYSTEM`] for root, `portolan` in
    /// `XDG_RUNTIME_DIR`, `portolan` in `/run/user/UID` if `usable` says so of that, and
    /// `/tmp/portolan-UID`. Empty variables count as missing.
    ///
    /// ```
    /// use portolan_wire::place::Surroundings;
    /// use std::path::Path;
    ///
    /// let around = Surroundings { xdg: Some("/run/user/7".into()), uid: 7, ..Default::default() };
    /// assert_eq!(around.directory(|_| false), Path::new("/run/user/7/portolan"));
    /// let bare = Surroundings { uid: 7, ..Default::default() };
    /// assert_eq!(bare.directory(|_| false), Path::new("/tmp/portolan-7"));
    /// let root = Surroundings { xdg: Some("/run/user/0".into()), ..Default::default() };
    /// assert_eq!(root.directory(|_| true), Path::new("/run/portolan"));
    /// ```
    pub fn directory(&self, usable: impl FnOnce(&Path) -> bool) -> PathBuf {
        let given = |variable: &Option<OsString>| {
            variable
                .as_ref()
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(directory) = given(&self.portolan) {
            return directory;
        }
        if self.uid == 0 {
            return PathBuf::from(SYSTEM);
        }
        if let Some(xdg) = given(&self.xdg) {
            return xdg.join("portolan");
        }
        let run = PathBuf::from(format!("/run/user/{}", self.uid));
        if usable(&run) {
            return run.join("portolan");
        }
        PathBuf::from(format!("/tmp/portolan-{}", self.uid))
    }
}
