//! A job that runs.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::cgroup::Leaf;
use super::processes::{self, Family};

/// How long processes are waited for that have been killed. Only one that is inside a system call
/// which cannot be interrupted takes longer.
const TIME_TO_DIE: Duration = Duration::from_millis(500);

/// A program that was started for a job, with all processes that have come of it.
///
/// Its first process is a zombie from its end until [`reap`](Self::reap): that keeps its process
/// id from being used again, which is why the others are to be killed before.
#[derive(Debug)]
pub struct Instance {
    pid: Pid,
    pidfd: OwnedFd,
    mark: String,
    leaf: Option<Leaf>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
    /// It has ended, but was no child of this process.
    Unknown,
}

impl Instance {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, mark: String, leaf: Option<Leaf>) -> Self {
        Self {
            pid,
            pidfd,
            mark,
            leaf,
        }
    }

    /// The id of its first process, which is also that of its session.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that is readable when its first process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal to its first process and the group of that. Does nothing if the first process
    /// has been reaped.
    ///
    /// # Errors
    ///
    /// What kill(2) says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.keeps_its_number()? {
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Kills all its processes, and waits until they have ended, for half a second at most.
    /// Whether that was long enough; if not, it is to be called again.
    ///
    /// Processes that have become children of this one are left as zombies, see
    /// [`reap_strays`](super::reap_strays).
    ///
    /// # Errors
    ///
    /// What reading `/proc` says, or the files of its cgroup.
    pub fn kill_everything(&self) -> io::Result<bool> {
        let deadline = Instant::now() + TIME_TO_DIE;
        match &self.leaf {
            Some(leaf) => leaf.kill(deadline),
            None => processes::kill(deadline, || self.family()),
        }
    }

    /// Whether any of its processes has not ended, the first one included.
    ///
    /// # Errors
    ///
    /// As for [`kill_everything`](Self::kill_everything).
    pub fn has_left_overs(&self) -> io::Result<bool> {
        match &self.leaf {
            Some(leaf) => leaf.is_populated(),
            None => Ok(!processes::alive(&self.family()?)?.is_empty()),
        }
    }

    /// Whether a process is one of its own; nothing if that has ended and left no trace.
    ///
    /// # Errors
    ///
    /// As for [`kill_everything`](Self::kill_everything).
    pub fn has(&self, pid: Pid) -> io::Result<Option<bool>> {
        if pid == self.pid && self.keeps_its_number()? {
            return Ok(Some(true));
        }
        match &self.leaf {
            Some(leaf) => Ok(leaf.has(pid)),
            None => Ok(processes::is_of(pid, &self.family()?)),
        }
    }

    /// How its first process ended, if it has; after that its process id may be another process's.
    /// Once it has been told how, it is [`Exit::Unknown`].
    ///
    /// # Errors
    ///
    /// What waitid(2) says.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        match self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Err(Errno::CHILD) => Ok(self.has_ended()?.then_some(Exit::Unknown)),
            other => Ok(other?),
        }
    }

    fn wait(&self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd()), options))?;
        Ok(status.map(
            |status| match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Exit::Status(status),
                (None, Some(signal)) => Exit::Signal {
                    signal,
                    core: status.dumped(),
                },
                (None, None) => Exit::Unknown,
            },
        ))
    }

    fn has_ended(&self) -> io::Result<bool> {
        let now = Timespec::default();
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&now)))?;
        Ok(ready > 0)
    }

    /// Whether its process id still is its first process's. Somebody else's child may be reaped at
    /// any time after its end.
    fn keeps_its_number(&self) -> io::Result<bool> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match self.wait(look) {
            Err(Errno::CHILD) => Ok(!self.has_ended()?),
            other => Ok(other.map(|_| true)?),
        }
    }

    fn family(&self) -> io::Result<Family<'_>> {
        let first = self.keeps_its_number()?.then_some(self.pid);
        Ok(Family {
            first,
            session: first,
            mark: &self.mark,
        })
    }
}
