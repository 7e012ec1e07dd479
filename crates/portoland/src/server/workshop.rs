//! What a server needs to have jobs: a server inside another program has none of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::Source;
use crate::holder::Exits;
use crate::launch::Launcher;
use crate::notify::NotifySocket;
use crate::watch::Watches;

/// What a server needs to have jobs.
#[derive(Debug)]
pub struct Workshop {
    pub(super) launcher: Launcher,
    pub(super) watches: Watches,
    pub(super) notices: NotifySocket,
    /// How processes ended that were started by a server before this one.
    pub(super) exits: Option<Exits>,
    /// Where the output of jobs goes.
    pub(super) logs: PathBuf,
    /// Where it is written down which jobs the user has disabled.
    pub(super) switches: PathBuf,
}

impl Workshop {
    /// For a server whose directory is `runtime`.
    ///
    /// # Errors
    ///
    /// What the kernel says, if there are no descriptors left or the directory cannot be written.
    pub fn new(runtime: &Path, exits: Option<Exits>) -> io::Result<Self> {
        let logs = crate::log::directory(runtime);
        let state = logs.parent().unwrap_or(runtime);
        Ok(Self {
            launcher: Launcher::new(),
            watches: Watches::new()?,
            notices: NotifySocket::new(runtime)?,
            exits,
            switches: state.join("disabled-jobs"),
            logs,
        })
    }

    /// Goes on with the socket that jobs speak `sd_notify` to.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn resume(runtime: &Path, exits: Option<Exits>, notices: OwnedFd) -> io::Result<Self> {
        let logs = crate::log::directory(runtime);
        let state = logs.parent().unwrap_or(runtime);
        Ok(Self {
            launcher: Launcher::new(),
            watches: Watches::new()?,
            notices: NotifySocket::resume(runtime, notices),
            exits,
            switches: state.join("disabled-jobs"),
            logs,
        })
    }

    pub(super) fn descriptors(&self) -> Vec<(BorrowedFd<'_>, Source)> {
        let mut all = vec![
            (self.watches.as_fd(), Source::Watches),
            (self.notices.as_fd(), Source::Notices),
        ];
        all.extend(
            self.exits
                .iter()
                .map(|exits| (exits.as_fd(), Source::Exits)),
        );
        all
    }
}
