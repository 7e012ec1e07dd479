//! The processes around a program in namespaces of its own.
//!
//! There are three: the one that was started stays outside, has the process id that its starter
//! knows, and hands on signals and the exit status. Its child is the first process of the new
//! namespace, which the kernel wants to have no default actions for signals and to wait for
//! orphans; when it ends, everything inside does. Its child is the program.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use crate::probe::Part;
use crate::profile::Tier;
use portolan_sys::confine::{self, Fork};
use portolan_sys::signals::Blocked;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, kill_process, setrlimit, setsid,
};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::inherited::Inherited;
use super::{Failure, end, privileges};

/// What is handed on, and the signal that a child has ended.
pub(crate) const SIGNALS: &[Signal] = &[
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::WINCH,
    Signal::CHILD,
];

/// This process is in its namespaces, but for that of processes, which its next child is in.
#[derive(Debug)]
pub(crate) struct Entered(());

/// Makes the namespaces. With `network`, that of the network stays what it is. Whoever was given the
/// privilege needs no namespace of users for it.
pub(crate) fn enter_namespaces(network: bool) -> Result<Entered, Failure> {
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if !network {
        flags |= UnshareFlags::NEWNET;
    }
    let own = capabilities(None).map_err(|error| Failure::Privileges(error.into()))?;
    let entered = match own.effective.contains(CapabilitySet::SYS_ADMIN) {
        true => confine::unshare(flags),
        false => enter_as_user(flags),
    };
    entered.map_err(|source| Failure::Missing {
        tier: Tier::T2,
        part: Part::Namespaces,
        source,
    })?;
    Ok(Entered(()))
}

/// The user and the group stay who they are, and are the only ones.
fn enter_as_user(flags: UnshareFlags) -> io::Result<()> {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    confine::unshare(flags | UnshareFlags::NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    let (user, group) = (user.as_raw(), group.as_raw());
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// The first process of the namespace, before it has made the program.
#[derive(Debug)]
pub(crate) struct First {
    inherited: Inherited,
    nothing: OwnedFd,
    signals: Blocked,
    status: OwnedFd,
}

/// Returns in the first process of the namespace. This one hands on signals until that has ended,
/// and ends as the program did.
pub(crate) fn first_process(_: Entered, inherited: Inherited) -> Result<First, Failure> {
    let (reader, status) = io::pipe().map_err(Failure::Process)?;
    // The tree of files is about to be replaced, for both processes.
    let nothing = nothing()?;
    let signals = Blocked::new(SIGNALS).map_err(Failure::Process)?;
    match confine::fork().map_err(Failure::Process)? {
        Fork::Child => {
            drop(reader);
            die_with_parent(&status).map_err(Failure::Process)?;
            Ok(First {
                inherited,
                nothing,
                signals,
                status: status.into(),
            })
        }
        Fork::Parent(child) => {
            drop((inherited, status));
            become_bystander(nothing).map_err(Failure::Process)?;
            let outside = wait(child, &signals, |signal| match signal {
                Signal::TSTP | Signal::TTIN | Signal::TTOU => {
                    kill_process(child, Signal::TSTP)?;
                    kill_process(rustix::process::getpid(), Signal::STOP)
                }
                signal => kill_process(child, signal),
            });
            let first = outside.map_err(Failure::Process)?;
            end_as(said(reader).unwrap_or(first.as_raw()), &signals)
        }
    }
}

pub(crate) fn nothing() -> Result<OwnedFd, Failure> {
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    nothing.map_err(|error| Failure::Process(error.into()))
}

/// If the parent has ended before this was said, nobody has the other end of this.
pub(crate) fn die_with_parent(other: impl AsFd) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut gone = [PollFd::new(&other, PollFlags::empty())];
    match poll(&mut gone, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => end(1),
    }
}

impl First {
    /// Returns in the process that is to become the program. This one waits for it and for orphans,
    /// and ends with it.
    pub(crate) fn program(self) -> Result<Inherited, Failure> {
        let Self {
            inherited,
            nothing,
            signals,
            status,
        } = self;
        match confine::fork().map_err(Failure::Process)? {
            Fork::Child => {
                drop((nothing, status));
                setsid().map_err(|error| Failure::Process(error.into()))?;
                signals.give_back().map_err(Failure::Process)?;
                Ok(inherited)
            }
            Fork::Parent(child) => {
                drop(inherited);
                become_bystander(nothing).map_err(Failure::Process)?;
                // A session of its own cannot be stopped from a terminal.
                let inside = wait(child, &signals, |signal| match signal {
                    Signal::TSTP => kill_process(child, Signal::STOP),
                    signal => kill_process(child, signal),
                });
                let ended = inside.map_err(Failure::Process)?;
                let written = fs::File::from(status).write_all(&ended.as_raw().to_le_bytes());
                written.map_err(Failure::Process)?;
                end(0)
            }
        }
    }
}

/// Holds nothing open that the program has, and can do nothing but wait. It cannot be looked into
/// by processes of the same user.
pub(crate) fn become_bystander(nothing: OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    privileges::drop_all()
}

/// Waits for the child and for whatever becomes one, and hands on signals. How the child ended.
pub(crate) fn wait(
    child: Pid,
    signals: &Blocked,
    hand_on: impl Fn(Signal) -> Result<(), Errno>,
) -> io::Result<WaitStatus> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended == child => return Ok(status),
            Ok(Some(_)) => continue,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        match signals.wait(None)? {
            None | Some(Signal::CHILD) => {}
            Some(signal) => match hand_on(signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// How the program ended. If that is not known, there was no program, and the first process has said
/// why; or the namespace was killed.
fn said(mut reader: io::PipeReader) -> Option<i32> {
    let mut raw = [0; 4];
    let read = reader.read_exact(&mut raw);
    read.ok().map(|()| i32::from_le_bytes(raw))
}

/// Ends this process as another ended.
pub(crate) fn end_as(status: i32, signals: &Blocked) -> ! {
    // As wait(2) has it: the exit status above the signal.
    let signal = status & 0x7f;
    if signal != 0 {
        die_of(signal, signals);
    }
    end((status >> 8 & 0xff) as u8)
}

/// Without a core file: the program's own, if there is to be one, has been written.
fn die_of(signal: i32, signals: &Blocked) {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).ok();
    signals.unblock().ok();
    if let Some(signal) = Signal::from_named_raw(signal) {
        kill_process(rustix::process::getpid(), signal).ok();
    }
}
