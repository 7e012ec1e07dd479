//! Processes as `/proc` shows them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, waitpid,
};

use super::environment::MARK;

/// As much of an environment as is searched for the mark.
const ENVIRONMENT_BYTES: u64 = 1 << 20;

/// As many ancestors of a process as are looked at.
const MAX_GENERATIONS: usize = 64;

/// Makes this process the parent of every descendant whose own parent has ended.
///
/// # Errors
///
/// What prctl(2) says.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// Reaps every child of this process that has ended and for which `is_known` does not answer yes.
/// To be called when a child has ended (SIGCHLD) in a process that is a subreaper. `is_known` has
/// to know the first process of each instance and every child that other code waits for.
///
/// # Errors
///
/// What reading `/proc` says.
pub fn reap_strays(is_known: impl Fn(Pid) -> bool) -> io::Result<()> {
    for child in children()? {
        if is_known(child) {
            continue;
        }
        match waitpid(Some(child), WaitOptions::NOHANG) {
            // Another thread was faster.
            Ok(_) | Err(Errno::CHILD) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn children() -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let list = match fs::read_to_string(thread?.path().join("children")) {
            // The thread has ended, and its children are in another one's list.
            Err(error) if is_gone(&error) => continue,
            other => other?,
        };
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.extend(pids.filter_map(Pid::from_raw));
    }
    Ok(children)
}

/// What tells the processes of an instance from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    /// The first process, as long as nobody else can have its id.
    pub(super) first: Option<Pid>,
    /// The session or group that is the family's alone, as long as nobody else can have its id.
    pub(super) session: Option<Pid>,
    /// The value of [`MARK`].
    pub(super) mark: &'a str,
}

impl Family<'_> {
    /// Whether a process is the first, or in the session or group.
    fn includes(&self, pid: Pid, process: &Process) -> bool {
        let session = self.session.map(Pid::as_raw_pid);
        let is_within = |session| [process.group, process.session].contains(&session);
        self.first == Some(pid) || session.is_some_and(is_within)
    }
}

/// Kills a family, again and again, because members may be made while it is looked at. Whether
/// none was left by `deadline`.
pub(super) fn kill<'a>(
    deadline: Instant,
    family: impl Fn() -> io::Result<Family<'a>>,
) -> io::Result<bool> {
    loop {
        let members = alive(&family()?)?;
        if members.is_empty() {
            return Ok(true);
        }
        for member in &members {
            match pidfd_send_signal(member, Signal::KILL) {
                // One that has become another user's by a set-user-ID program is left, and told of.
                Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for member in &members {
            if !ends_by(member, deadline)? {
                return Ok(false);
            }
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
    }
}

fn ends_by(process: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&left)))?;
    Ok(ready > 0)
}

/// The members of a family that have not ended. This process is never one.
pub(super) fn alive(family: &Family<'_>) -> io::Result<Vec<OwnedFd>> {
    let processes = list()?;
    let members = members(&processes, family, |pid| has_mark(pid, family.mark));
    let mut alive = Vec::new();
    for pid in members {
        // By now the number may be another process's.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && let Some(process) = Process::read(pid)
            && processes
                .get(&pid)
                .is_some_and(|seen| seen.start == process.start)
            && !process.has_ended
        {
            alive.push(pidfd);
        }
    }
    Ok(alive)
}

/// Whether a process is of a family. `None` if it has ended and nothing is left to tell.
///
/// What it asked for before its end says nothing for it then: its number may be anybody's.
pub(super) fn is_of(pid: Pid, family: &Family<'_>) -> Option<bool> {
    let mut next = Some(pid);
    for _ in 0..MAX_GENERATIONS {
        let Some(current) = next else { break };
        let Some(process) = Process::read(current) else {
            // An ancestor that ended meanwhile has left its children to another.
            match current == pid {
                true => return None,
                false => next = Some(pid),
            }
            continue;
        };
        if family.includes(current, &process) || has_mark(current, family.mark) {
            return Some(true);
        }
        next = Pid::from_raw(process.parent).filter(|_| current != getpid());
    }
    Some(false)
}

/// A process and those that it has come of, up to this process at the most.
pub fn with_ancestors(pid: Pid) -> impl Iterator<Item = Pid> {
    let parent = |pid: &Pid| Pid::from_raw(Process::read(*pid)?.parent);
    let line = std::iter::successors(Some(pid), parent);
    line.take_while(|pid| *pid != getpid())
        .take(MAX_GENERATIONS)
}

/// When a process was started, which tells it from a later one with the same number.
pub(super) fn start_of(pid: Pid) -> Option<u64> {
    Process::read(pid).map(|process| process.start)
}

/// A line of `/proc/PID/stat`, see proc(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    has_ended: bool,
    parent: i32,
    group: i32,
    session: i32,
    /// When it was started, in clock ticks since the system was.
    start: u64,
}

impl Process {
    fn read(pid: Pid) -> Option<Self> {
        let path = format!("/proc/{pid}/stat");
        Self::parse(&fs::read(path).ok()?)
    }

    /// The name of a process is in parentheses, and may have some in it, and anything else.
    fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let fields = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let mut fields = fields.split_whitespace();
        Some(Self {
            has_ended: matches!(fields.next()?, "Z" | "X"),
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
            start: fields.nth(15)?.parse().ok()?,
        })
    }
}

fn list() -> io::Result<HashMap<Pid, Process>> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw)
            && let Some(process) = Process::read(pid)
        {
            processes.insert(pid, process);
        }
    }
    Ok(processes)
}

/// The first process, those in the session or group, those with the mark, and the descendants of
/// all of these.
fn members(
    processes: &HashMap<Pid, Process>,
    family: &Family<'_>,
    has_mark: impl Fn(Pid) -> bool,
) -> HashSet<Pid> {
    let mut children: HashMap<i32, Vec<Pid>> = HashMap::new();
    let mut next = Vec::new();
    for (pid, process) in processes {
        children.entry(process.parent).or_default().push(*pid);
        if family.includes(*pid, process) || has_mark(*pid) {
            next.push(*pid);
        }
    }
    let mut members = HashSet::new();
    while let Some(pid) = next.pop() {
        if pid != getpid() && members.insert(pid) {
            next.extend(children.get(&pid.as_raw_pid()).into_iter().flatten());
        }
    }
    members
}

/// A process whose environment may not be read is another user's, and so not of this family.
fn has_mark(pid: Pid, mark: &str) -> bool {
    let mut environment = Vec::new();
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    if file
        .take(ENVIRONMENT_BYTES)
        .read_to_end(&mut environment)
        .is_err()
    {
        return false;
    }
    let value = |variable: &[u8]| {
        let value = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(
            value
                .split(|byte| *byte == b'\n')
                .any(|one| one == mark.as_bytes()),
        )
    };
    environment
        .split(|byte| *byte == 0)
        .any(|variable| value(variable) == Some(true))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).expect("not 0")
    }

    fn process(parent: i32, group: i32, session: i32) -> Process {
        Process {
            has_ended: false,
            parent,
            group,
            session,
            start: 0,
        }
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line =
            b"42 (a ) Z (\xff\n) S 1 40 30 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 99 9\n";
        let expected = Process {
            start: 1234,
            ..process(1, 40, 30)
        };
        assert_eq!(Process::parse(line), Some(expected));
        assert_eq!(Process::parse(b"42 (a) S 1"), None);
        let own = Process::read(getpid()).expect("this process");
        assert!(!own.has_ended);
    }

    #[test]
    fn relatives_of_any_kind_and_their_descendants_are_members() {
        let processes = HashMap::from([
            (pid(10), process(1, 10, 10)),
            (pid(11), process(10, 11, 10)),
            (pid(12), process(11, 12, 12)),
            (pid(20), process(1, 20, 20)),
            (pid(21), process(20, 21, 21)),
            (pid(30), process(1, 30, 30)),
        ]);
        let family = Family {
            first: Some(pid(10)),
            session: Some(pid(10)),
            mark: "",
        };
        let found = |family: &Family<'_>| {
            let found = members(&processes, family, |one| one == pid(20));
            let mut found: Vec<i32> = found.into_iter().map(Pid::as_raw_pid).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(&family), [10, 11, 12, 20, 21]);
        let ended = Family {
            first: None,
            session: None,
            ..family
        };
        assert_eq!(found(&ended), [20, 21]);
    }

    #[test]
    fn a_session_that_others_share_makes_nobody_a_member() {
        let neighbour = process(1, 10, 10);
        let family = Family {
            first: Some(pid(10)),
            session: None,
            mark: "",
        };
        assert!(!family.includes(pid(13), &neighbour));
        assert!(family.includes(pid(10), &process(1, 10, 10)));
        let alone = Family {
            session: Some(pid(10)),
            ..family
        };
        assert!(alone.includes(pid(13), &neighbour));
    }

    #[test]
    fn a_process_is_of_a_family_by_descent_or_by_the_mark() {
        let start = |script: &str, mark: &str| {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", script]).env(MARK, mark);
            shell.stdin(std::process::Stdio::piped());
            shell.spawn().expect("sh")
        };
        let pid_of = |child: &std::process::Child| pid(child.id().cast_signed());
        let mut children = [
            start("sleep 1000 & read never; kill $!", ""),
            start("read never", ""),
            start("read never", "outer/1\na/1"),
        ];
        let [first, stranger, marked] = children.each_ref().map(pid_of);
        let descendant = loop {
            let list = fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
            let found = list.expect("/proc").trim().parse().ok();
            if let Some(found) = found {
                break pid(found);
            }
            std::thread::yield_now();
        };
        // The kernel shows the environment of a new program a moment after it is the program.
        let environ = format!("/proc/{marked}/environ");
        while fs::read(&environ).expect("/proc").is_empty() {
            std::thread::yield_now();
        }
        let family = Family {
            first: Some(first),
            session: None,
            mark: "a/1",
        };
        for (member, expected) in [
            (first, true),
            (descendant, true),
            (stranger, false),
            (marked, true),
            (getpid(), false),
        ] {
            assert_eq!(is_of(member, &family), Some(expected), "{member}");
        }
        for child in &mut children {
            drop(child.stdin.take());
            child.wait().expect("wait");
        }
        assert_eq!(is_of(stranger, &family), None);
    }
}
