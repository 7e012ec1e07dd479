//! Where processes run, how much processor time they took, and what the machine is doing.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CpuSet;
use rustix::time::ClockId;

use crate::cell::Placement;

/// The processors this process may use.
pub(crate) fn usable_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect())
}

/// Where client and server are pinned, `None` if they are not. Fails where there is no such place.
pub(crate) fn choose(placement: Placement, usable: &[usize]) -> Result<Option<(usize, usize)>, ()> {
    match (placement, usable) {
        (Placement::Free, _) => Ok(None),
        (Placement::OneCore, [.., last]) => Ok(Some((*last, *last))),
        (Placement::TwoCores, [first, second, ..]) => Ok(Some((*first, *second))),
        _ => Err(()),
    }
}

/// Pins this thread, and those it starts from now on.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Ends this process when the one that started it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}

/// Goes before other programs where that is allowed, and says with what niceness this process runs.
pub(crate) fn prefer() -> io::Result<i32> {
    if rustix::process::setpriority_process(None, -19).is_err() {
        // Only root may; the page says which niceness it was.
    }
    niceness()
}

pub(crate) fn niceness() -> io::Result<i32> {
    Ok(rustix::process::getpriority_process(None)?)
}

/// Allows as many descriptors as can be had. Fails if that is less than `needed`.
pub(crate) fn raise_descriptor_limit(needed: u64) -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}

/// Processor time of this process so far, all threads.
pub(crate) fn own_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Processor time of another process so far. It lags by up to a timer tick for a thread that runs
/// at the moment; a sleeping thread's time is exact.
pub(crate) fn cpu_ns_of(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        // A thread may have ended since.
        let text = fs::read_to_string(path).unwrap_or_default();
        let on_cpu = text.split_whitespace().next();
        total += on_cpu
            .and_then(|number| number.parse().ok())
            .unwrap_or(0u64);
    }
    Ok(total)
}

/// Those that a process has started and that have not ended.
pub(crate) fn children_of(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        // pid (name) state parent; a name can have anything in it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let parent = after_name.split_whitespace().nth(1);
        if parent.and_then(|parent| parent.parse().ok()) == Some(pid) {
            children.push(number);
        }
    }
    Ok(children)
}

/// Private memory of another process in bytes, and its descriptors.
pub(crate) fn holdings_of(pid: u32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((anonymous * 1024, descriptors as u64))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn places_are_chosen_among_the_usable_processors() {
        assert_eq!(choose(Placement::TwoCores, &[2, 5, 7]), Ok(Some((2, 5))));
        assert_eq!(choose(Placement::OneCore, &[2, 5]), Ok(Some((5, 5))));
        assert_eq!(choose(Placement::TwoCores, &[3]), Err(()));
        assert_eq!(choose(Placement::Free, &[3]), Ok(None));
    }

    #[test]
    fn another_processes_time_is_seen() {
        let before = own_cpu_ns();
        let seen = cpu_ns_of(std::process::id()).expect("a process sees itself");
        assert!(before > 0 && seen > 0);
        let (bytes, descriptors) = holdings_of(std::process::id()).expect("holdings");
        assert!(bytes > 4096 && descriptors > 2);
    }

    #[test]
    fn children_are_found_until_they_end() {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn();
        let mut child = child.expect("cat runs");
        let children = || children_of(std::process::id()).expect("/proc is there");
        assert!(children().contains(&child.id()));
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(!children().contains(&child.id()));
    }
}
