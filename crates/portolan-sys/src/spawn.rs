//! Starting a program from a large process with many threads.
//!
//! `fork` copies the page tables, which takes milliseconds in a process with much memory, and
//! `std::process` falls back to it as soon as anything out of the ordinary is asked for. Here the
//! child shares the memory of its parent until it is another program (`CLONE_VM`, `CLONE_VFORK`),
//! and its parent's thread waits for that, as in glibc's `posix_spawn`. What went wrong in the
//! child is known when [`spawn`] returns.
//!
//! A program starts with nothing of its parent's but what [`Spawn`] names: all signals have their
//! default action and none is blocked, and every other descriptor is closed, close-on-exec or not.
//!
//! The table of descriptors is copied up to the highest of the descriptors that the program gets:
//! a process with very many starts programs faster if it hands on low numbers. This needs
//! `close_range` (Linux 5.9).
//!
//! Under another [`Identity`], the child is that user's from its last system call but one until it
//! is the program. Two things follow. The kernel makes the memory of the parent undumpable for good
//! (`PR_SET_DUMPABLE`, prctl(2)); else that user could trace the child and so write to the parent.
//! And a SIGSTOP of that user which hits the child between the two calls holds up the parent's
//! thread until a SIGCONT.
//!
//! # Safety
//!
//! The parent's thread stands still from the clone until the child has become a program or has
//! ended, so the child is the only user of the `Plan` and of its stack, which both belong to the
//! parent. Until it has a table of descriptors of its own, which it makes first, it changes nothing
//! in the one it shares. It runs with all signals blocked until none has a handler any more, so
//! nothing else of the parent's code runs in it.
#![allow(
    unsafe_code,
    reason = "clone with CLONE_VM and the signal mask around it"
)]

mod child;
mod clone;

use std::error::Error;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, WaitId, WaitIdOptions};
use rustix::thread::CapabilitySet;

/// A program and what it starts with.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// Where it is. `PATH` is not looked at.
    pub program: &'a CStr,
    /// Its arguments; the first is its name.
    pub arguments: &'a [CString],
    /// Its environment, as `NAME=value`.
    pub environment: &'a [CString],
    /// A variable that is added to the environment with the program's process id as its value.
    pub pid_variable: Option<&'a CStr>,
    /// Where it runs; where its parent does if not given.
    pub directory: Option<&'a CStr>,
    /// Its descriptors 0, 1, 2 and so on. It has no others.
    pub descriptors: &'a [Descriptor<'a>],
    /// The permissions that its files do not get.
    pub umask: Option<Mode>,
    /// Its nice value, -20 to 19.
    pub nice: Option<i8>,
    /// Whether the scheduler takes it for a batch job (`SCHED_BATCH`, sched(7)).
    pub batch: bool,
    /// Its resource limits; the others are its parent's.
    pub limits: &'a [Limit],
    /// Who it is; who its parent is if not given.
    pub identity: Option<&'a Identity>,
    /// Whether it leads a session of its own and not only a process group.
    pub session: bool,
    /// The directory of the cgroup, of version 2, that it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A descriptor for a program.
#[derive(Clone, Copy, Debug)]
pub enum Descriptor<'a> {
    /// One of the parent's.
    Inherited(BorrowedFd<'a>),
    /// A file that is opened for the program: as its user, and relative to its directory. If it is
    /// a FIFO without a process at its other end, that is not waited for.
    File {
        /// The file.
        path: &'a CStr,
        /// How it is opened.
        flags: OFlags,
        /// Its permissions if it is made.
        mode: Mode,
    },
}

/// A limit on what a program uses, see setrlimit(2). What is not given stays as it is, but no soft
/// limit is above its hard one. [`u64::MAX`] is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The limit that the program may raise, up to the hard one.
    pub soft: Option<u64>,
    /// The limit that the program cannot raise.
    pub hard: Option<u64>,
}

/// User and groups of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The real, effective and saved user id.
    pub uid: u32,
    /// The real, effective and saved group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Privileges of its parent's that the program begins with: it can use them and give them up.
    /// That user cannot trace it as long as it has them, but decides what it does by whatever else
    /// of that user's it believes: so its environment must not be that user's.
    pub capabilities: CapabilitySet,
}

/// A program that was started. It is a child of this process, which has to wait for it.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id, which is also its process group's and, if it was given one, its session's.
    pub pid: Pid,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// What is done to start a program, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Making the process.
    Process,
    /// Making it the leader of a group or of a session.
    Group,
    /// Moving it to its cgroup.
    Cgroup,
    /// Setting the nice value and the scheduler's policy.
    Priority,
    /// Taking on user and groups.
    Identity,
    /// Going to the directory.
    Directory,
    /// Opening the file that becomes this descriptor.
    File(usize),
    /// Putting the descriptors in their places and closing the others.
    Descriptors,
    /// Setting a resource limit.
    Limits,
    /// Executing the program.
    Exec,
}

/// A program was not started. Nothing is left of it.
#[derive(Debug)]
pub struct SpawnError {
    /// What failed.
    pub step: Step,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Process => "make a process",
            Step::Group => "make a process group",
            Step::Cgroup => "enter the cgroup",
            Step::Priority => "set the priority",
            Step::Identity => "take on user and groups",
            Step::Directory => "enter the working directory",
            Step::File(number) => return write!(f, "cannot open the file for descriptor {number}"),
            Step::Descriptors => "arrange the descriptors",
            Step::Limits => "set a resource limit",
            Step::Exec => "execute the program",
        };
        write!(f, "cannot {what}")
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Starts a program and returns when it runs.
///
/// # Errors
///
/// [`SpawnError`], with the step that failed and the kernel's reason. A child that was made is
/// gone by then.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    let at_start = |source| SpawnError {
        step: Step::Process,
        source,
    };
    let mut plan = Plan::new(spawn);
    let stack = clone::Stack::new().map_err(at_start)?;
    let child = {
        let _blocked = BlockedSignals::new().map_err(at_start)?;
        clone::start(&mut plan, &stack, spawn.cgroup)?
    };
    let Some(failure) = plan.failure else {
        return Ok(child);
    };
    let id = WaitId::PidFd(child.pidfd.as_fd());
    // Where SIGCHLD is ignored there is nothing to wait for: the kernel has reaped the child.
    rustix::io::retry_on_intr(|| rustix::process::waitid(id.clone(), WaitIdOptions::EXITED)).ok();
    Err(SpawnError {
        step: failure.step,
        source: io::Error::from_raw_os_error(failure.errno),
    })
}

/// What the child works from. All memory that it needs is in here, because it must not allocate.
struct Plan<'a> {
    spawn: &'a Spawn<'a>,
    /// The child finds itself outside of its cgroup and has to move there, if there is one.
    moves_to_cgroup: bool,
    /// Ends with a null pointer.
    arguments: Vec<*const c_char>,
    /// Ends with a null pointer; in front of that another one if there is a `pid_variable`, whose
    /// place it is.
    environment: Vec<*const c_char>,
    /// `NAME=` and zeroes: room for the process id and the byte that ends the string.
    pid_variable: Vec<u8>,
    /// The number of the descriptor that goes to each place, -1 for a file that is not open yet.
    sources: Vec<libc::c_int>,
    failure: Option<Failure>,
}

#[derive(Clone, Copy)]
struct Failure {
    step: Step,
    errno: libc::c_int,
}

impl<'a> Plan<'a> {
    fn new(spawn: &'a Spawn<'a>) -> Self {
        let null = ptr::null();
        let pointers = |texts: &[CString]| -> Vec<_> { texts.iter().map(|t| t.as_ptr()).collect() };
        let mut arguments = pointers(spawn.arguments);
        arguments.push(null);
        let mut environment = pointers(spawn.environment);
        environment.push(null);
        let mut pid_variable = Vec::new();
        if let Some(name) = spawn.pid_variable {
            environment.push(null);
            pid_variable.extend_from_slice(name.to_bytes());
            pid_variable.push(b'=');
            pid_variable.resize(pid_variable.len() + child::PID_BYTES, 0);
        }
        let sources = spawn.descriptors.iter().map(|one| match one {
            Descriptor::Inherited(descriptor) => descriptor.as_raw_fd(),
            Descriptor::File { .. } => -1,
        });
        Self {
            spawn,
            moves_to_cgroup: false,
            arguments,
            environment,
            pid_variable,
            sources: sources.collect(),
            failure: None,
        }
    }
}

/// All signals are blocked in this thread, also those that the C library keeps for itself.
struct BlockedSignals(u64);

impl BlockedSignals {
    fn new() -> io::Result<Self> {
        let mut before = 0;
        set_signal_mask(u64::MAX, &mut before)?;
        Ok(Self(before))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let restored = set_signal_mask(self.0, &mut 0);
        debug_assert!(restored.is_ok(), "the mask was in force before");
    }
}

/// The kernel's set of signals has 64 bits on every architecture that Rust's libc knows but MIPS.
/// The C library's function would leave its own signals unblocked.
fn set_signal_mask(mask: u64, before: &mut u64) -> io::Result<()> {
    // SAFETY: both pointers are valid for the 8 bytes that are announced. Tested by
    // `signals_are_as_before` and `signals_have_their_default_action`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut *before,
            size_of::<u64>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
