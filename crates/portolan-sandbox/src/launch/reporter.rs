//! The process outside that reports what is refused to the program.
//!
//! It is the one that was started, as that outside of namespaces is in T2: its starter knows its process
//! id, it hands on signals and ends as the program did. All that the program starts comes of it, because
//! where only ancestors may look into a process (Yama), nobody else could.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use portolan_sys::confine::{self, Fork};
use portolan_sys::signals::Blocked;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, setsid,
};

use super::inherited::Inherited;
use super::{Failure, relay};
use crate::profile::{Profile, Tier};
use crate::report;

/// How long what the program has left may take to end.
const TIME_TO_DIE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has, when nothing tells of it.
const GLANCE: Duration = Duration::from_millis(10);

/// Returns in the process that is to become the program, which ends with this one. This one stays
/// outside, and reports with the right until the program has ended.
pub(crate) fn stay_outside(
    profile: &Profile,
    inherited: Inherited,
    right: OwnedFd,
) -> Result<Inherited, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::Report)?;
    let nothing = relay::nothing()?;
    let signals = Blocked::new(relay::SIGNALS).map_err(Failure::Process)?;
    match confine::fork().map_err(Failure::Process)? {
        Fork::Child => {
            drop((ours, right, nothing));
            relay::die_with_parent(&theirs).map_err(Failure::Process)?;
            // What a terminal or a server says to the group of its parent comes through that only.
            setsid().map_err(|error| Failure::Process(error.into()))?;
            signals.give_back().map_err(Failure::Process)?;
            Ok(inherited.with_reporter(theirs))
        }
        Fork::Parent(child) => {
            drop((inherited, theirs));
            let ended = report_on(profile, child, (ours, right, nothing), &signals);
            relay::end_as(ended.map_err(Failure::Report)?, &signals)
        }
    }
}

/// How the program ended.
fn report_on(
    profile: &Profile,
    child: Pid,
    (socket, right, nothing): (UnixStream, OwnedFd, OwnedFd),
    signals: &Blocked,
) -> io::Result<i32> {
    relay::become_bystander(nothing)?;
    set_child_subreaper(Some(getpid()))?;
    let (tier, profile) = (profile.tier, profile.clone());
    // If this goes wrong, no call goes on that waits.
    thread::Builder::new().spawn(move || report::run(socket, right, profile))?;
    let ended = relay::wait(child, signals, |signal| hand_on(tier, child, signal))?;
    end_the_rest(signals)?;
    Ok(ended.as_raw())
}

/// A program in T1 leads a session, and cannot be stopped from a terminal. In T2 the child is another
/// process that hands on.
fn hand_on(tier: Tier, child: Pid, signal: Signal) -> Result<(), Errno> {
    let stops = matches!(signal, Signal::TSTP | Signal::TTIN | Signal::TTOU);
    let handed = match tier {
        Tier::T1 if stops => to_session(child, Signal::STOP),
        Tier::T1 => to_session(child, signal),
        Tier::T2 if stops => kill_process(child, Signal::TSTP),
        Tier::T2 => kill_process(child, signal),
    };
    match stops {
        true => handed.and_then(|()| kill_process(getpid(), Signal::STOP)),
        false => handed,
    }
}

fn to_session(child: Pid, signal: Signal) -> Result<(), Errno> {
    match kill_process_group(child, signal) {
        // It does not lead one yet.
        Err(Errno::SRCH) => kill_process(child, signal),
        other => other,
    }
}

/// Ends what the program has left: nobody would answer its calls. What cannot be ended in time, because it
/// goes on to start others or hangs in the kernel, does not keep this process.
fn end_the_rest(signals: &Blocked) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < TIME_TO_DIE {
        for child in children()? {
            kill_process(child, Signal::KILL).ok();
        }
        if !reap_all()? {
            return Ok(());
        }
        // What one of them leaves is a child of this process when that is told of.
        signals.wait(Some(GLANCE))?;
    }
    Ok(())
}

/// Takes notice of all children that have ended; false if there are no others.
fn reap_all() -> io::Result<bool> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(true),
            Err(Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn children() -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let list = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        let numbers = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.extend(numbers.filter_map(Pid::from_raw));
    }
    Ok(children)
}
