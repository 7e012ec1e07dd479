//! The processes that have spoken to the server.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portolan_wire::label::JobLabel;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::registry::ClientKey;

/// Processes by their id, each held by a descriptor, so that a number that is used again is not
/// taken for the old process.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_pid: HashMap<u32, (ClientKey, OwnedFd)>,
    pids: HashMap<ClientKey, u32>,
    last: u64,
}

/// A process in the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClientEntry {
    pub(super) pid: u32,
    pub(super) label: String,
    /// The confined program to which it counts.
    pub(super) program: Option<u64>,
}

/// Why a process id does not name a process that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It has not spoken before.
    New,
    /// The process that had the number has exited.
    Replaced(ClientKey),
}

impl Processes {
    /// The client with this id that is alive, or was when it sent what is being looked at.
    pub(super) fn find(&self, pid: u32) -> Result<ClientKey, Unknown> {
        match self.by_pid.get(&pid) {
            None => Err(Unknown::New),
            Some((client, process)) if has_exited(process) => Err(Unknown::Replaced(*client)),
            Some((client, _)) => Ok(*client),
        }
    }

    /// Makes a process known and has its end watched. `pidfd` is the kernel's own word for which
    /// process it is; without one, whoever has the number now is taken for it.
    pub(super) fn watch(
        &mut self,
        pid: u32,
        pidfd: Option<BorrowedFd<'_>>,
        watch: impl FnOnce(BorrowedFd<'_>, ClientKey) -> Result<(), Errno>,
    ) -> io::Result<ClientKey> {
        let process = match pidfd {
            Some(pidfd) => pidfd.try_clone_to_owned()?,
            None => open(pid)?,
        };
        let client = ClientKey(self.last + 1);
        watch(process.as_fd(), client)?;
        self.last += 1;
        self.by_pid.insert(pid, (client, process));
        self.pids.insert(client, pid);
        Ok(client)
    }

    /// The descriptor of a process.
    pub(super) fn descriptor(&self, client: ClientKey) -> Option<BorrowedFd<'_>> {
        let pid = self.pids.get(&client)?;
        self.by_pid.get(pid).map(|(_, process)| process.as_fd())
    }

    /// Goes on with a process that another server knew.
    pub(super) fn restore(&mut self, client: ClientKey, pid: u32, process: OwnedFd) {
        self.last = self.last.max(client.0);
        self.by_pid.insert(pid, (client, process));
        self.pids.insert(client, pid);
    }

    /// Forgets a process and gives its descriptor, which is still watched.
    pub(super) fn forget(&mut self, client: ClientKey) -> Option<OwnedFd> {
        let pid = self.pids.remove(&client)?;
        self.by_pid.remove(&pid).map(|(_, process)| process)
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

pub(super) fn has_exited(process: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&now)) == Ok(1)
}

/// What a process without a job is called: its name as the kernel shows it.
pub(super) fn anonymous_label(pid: u32) -> JobLabel {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let label = format!("anonymous.{name}").parse();
    label.expect("the kernel's names have 15 bytes, and no control characters are left")
}
