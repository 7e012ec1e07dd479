//! What the child does before it is a program.
//!
//! # Safety
//!
//! All of this runs in the memory of the parent, whose other threads go on: it makes system calls
//! on what is in the [`Plan`], and does nothing else. It does not allocate, take a lock, or panic.
//! System calls that the C library makes for all threads of a process (`setuid` and the like) are
//! made directly, because the threads are the parent's. `errno` is that of the parent's waiting
//! thread.

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use super::{Descriptor, Failure, Identity, Limit, Plan, Step};

/// Room for the decimal digits of a process id and the byte that ends them.
pub(super) const PID_BYTES: usize = 11;

/// The child's first function. Returns only if the program could not be executed, with the reason
/// in the plan.
pub(super) extern "C" fn main(plan: *mut c_void) -> libc::c_int {
    // SAFETY: `clone::start` passes a pointer to a `Plan` that its parent does not touch while
    // this process shares its memory.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    let Err(failure) = become_program(plan);
    plan.failure = Some(failure);
    127
}

/// User and groups change in three parts: the groups first, while that is allowed; then what counts
/// for opening files; and the ids by which that user may send signals right before the program.
/// Limits come after the descriptors, which they could forbid, and before the privilege to raise
/// them is gone.
fn become_program(plan: &mut Plan<'_>) -> Result<std::convert::Infallible, Failure> {
    let spawn = plan.spawn;
    reset_signals();
    let cgroup = spawn.cgroup.filter(|_| plan.moves_to_cgroup);
    let cgroup = cgroup.map_or(-1, |cgroup| cgroup.as_raw_fd());
    own_descriptors(plan.sources.iter().copied().fold(cgroup, libc::c_int::max))?;
    lead(spawn.session)?;
    if cgroup >= 0 {
        enter_cgroup(cgroup)?;
    }
    if let Some(umask) = spawn.umask {
        // SAFETY: takes no pointers, and cannot fail.
        unsafe { libc::umask(umask.bits()) };
    }
    set_priority(spawn.nice, spawn.batch)?;
    if let Some(identity) = spawn.identity {
        take_groups(identity)?;
        open_files_as(identity.uid)?;
    }
    if let Some(directory) = spawn.directory {
        // SAFETY: a string that ends.
        check(Step::Directory, unsafe { libc::chdir(directory.as_ptr()) })?;
    }
    open_files(spawn.descriptors, &mut plan.sources)?;
    arrange(&mut plan.sources)?;
    for limit in spawn.limits {
        set_limit(limit)?;
    }
    write_pid(&mut plan.pid_variable, &mut plan.environment);
    let (arguments, environment) = (plan.arguments.as_ptr(), plan.environment.as_ptr());
    unblock_signals();
    if let Some(identity) = spawn.identity {
        take_user(identity)?;
    }
    // SAFETY: a string that ends, and two arrays of such strings that end with a null pointer.
    unsafe { libc::execve(spawn.program.as_ptr(), arguments, environment) };
    Err(Failure::now(Step::Exec))
}

fn check(step: Step, result: impl Into<i64>) -> Result<(), Failure> {
    if result.into() < 0 {
        Err(Failure::now(step))
    } else {
        Ok(())
    }
}

impl Failure {
    fn now(step: Step) -> Self {
        let errno = io::Error::last_os_error().raw_os_error();
        Self {
            step,
            errno: errno.unwrap_or(libc::EIO),
        }
    }
}

/// The number of the last signal, on every architecture that Rust's libc knows but MIPS.
const LAST_SIGNAL: libc::c_int = 64;

/// Gives every signal its default action, also those that the parent ignores.
///
/// The C library's function refuses its own signals. What the kernel takes for an action differs
/// between architectures, but zeroes are the default action everywhere.
fn reset_signals() {
    let default = [0u64; 8];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: `default` is longer than the kernel's `struct sigaction`. It refuses SIGKILL and
        // SIGSTOP, whose action is always the default one.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<c_void>(),
                size_of::<u64>(),
            )
        };
    }
}

fn unblock_signals() {
    let none = 0u64;
    // SAFETY: `none` has the 8 bytes that are announced; such a call cannot fail.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null::<c_void>(),
            size_of::<u64>(),
        )
    };
}

/// From now on the table of descriptors is no longer the parent's, but a copy of it up to the
/// `last` that is needed. (`CLOSE_RANGE_UNSHARE`, Linux 5.9. To copy all of a large table and then
/// close it would take longer than everything else.)
fn own_descriptors(last: libc::c_int) -> Result<(), Failure> {
    let first = last.cast_unsigned().wrapping_add(1);
    let unshare = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: takes no pointers. Nothing is closed in the parent: the copy is made first.
    check(Step::Descriptors, unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, unshare)
    })
}

fn lead(session: bool) -> Result<(), Failure> {
    let result = if session {
        // SAFETY: takes no pointers.
        unsafe { libc::setsid() }
    } else {
        // SAFETY: takes no pointers.
        unsafe { libc::setpgid(0, 0) }
    };
    check(Step::Group, result)
}

fn enter_cgroup(directory: libc::c_int) -> Result<(), Failure> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a string that ends.
    let processes = unsafe { libc::openat(directory, c"cgroup.procs".as_ptr(), flags) };
    check(Step::Cgroup, processes)?;
    // SAFETY: one byte of a string; "0" stands for the process that writes it.
    let written = unsafe { libc::write(processes, c"0".as_ptr().cast(), 1) };
    check(Step::Cgroup, i64::try_from(written).unwrap_or(-1))
}

fn set_priority(nice: Option<i8>, batch: bool) -> Result<(), Failure> {
    if batch {
        let parameters = 0 as libc::c_int;
        // SAFETY: `struct sched_param` of the kernel is one int, which is 0 for SCHED_BATCH.
        let result = unsafe {
            libc::syscall(
                libc::SYS_sched_setscheduler,
                0,
                libc::SCHED_BATCH,
                &raw const parameters,
            )
        };
        check(Step::Priority, result)?;
    }
    if let Some(nice) = nice {
        // SAFETY: takes no pointers.
        let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()) };
        check(Step::Priority, result)?;
    }
    Ok(())
}

fn take_groups(identity: &Identity) -> Result<(), Failure> {
    let groups = &identity.groups;
    // SAFETY: as many group ids as announced.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(Step::Identity, result)?;
    let gid = identity.gid;
    // SAFETY: takes no pointers.
    check(Step::Identity, unsafe {
        libc::syscall(libc::SYS_setresgid, gid, gid, gid)
    })
}

/// From now on files are opened with that user's permissions. The call does not say whether it
/// failed, but what was in force before.
fn open_files_as(uid: u32) -> Result<(), Failure> {
    for _ in 0..2 {
        // SAFETY: takes no pointers.
        let before = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
        if before == libc::c_long::from(uid) {
            return Ok(());
        }
    }
    Err(Failure {
        step: Step::Identity,
        errno: libc::EINVAL,
    })
}

fn take_user(identity: &Identity) -> Result<(), Failure> {
    let (uid, kept) = (identity.uid, identity.capabilities.bits());
    if kept != 0 {
        // SAFETY: takes no pointers. It is about this process only, and until it is a program.
        let result = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) };
        check(Step::Identity, result)?;
    }
    // SAFETY: takes no pointers.
    check(Step::Identity, unsafe {
        libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    })?;
    match kept {
        0 => Ok(()),
        kept => keep(kept),
    }
}

/// Has the program begin with these capabilities, and no others: ambient ones, see capabilities(7).
fn keep(capabilities: u64) -> Result<(), Failure> {
    /// `struct __user_cap_header_struct` of `linux/capability.h`.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    /// `struct __user_cap_data_struct`.
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |bits: u64| {
        let bits = (bits & u64::from(u32::MAX)) as u32;
        Data {
            effective: bits,
            permitted: bits,
            inheritable: bits,
        }
    };
    let data = [half(capabilities), half(capabilities >> 32)];
    // SAFETY: a header of version 3 and the two structs that go with it.
    check(Step::Identity, unsafe {
        libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr())
    })?;
    for number in (0..u64::BITS).filter(|number| capabilities >> number & 1 == 1) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: takes no pointers.
        let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0) };
        check(Step::Identity, result)?;
    }
    Ok(())
}

fn open_files(descriptors: &[Descriptor<'_>], sources: &mut [libc::c_int]) -> Result<(), Failure> {
    for (place, (descriptor, source)) in descriptors.iter().zip(sources).enumerate() {
        if let Descriptor::File { path, flags, mode } = descriptor {
            let flags = flags.bits().cast_signed();
            *source = open_file(Step::File(place), path, flags, mode.bits())?;
        }
    }
    Ok(())
}

/// `O_NONBLOCK` is for opening only, and not for what the program does with the file.
fn open_file(
    step: Step,
    path: &CStr,
    flags: libc::c_int,
    mode: libc::mode_t,
) -> Result<libc::c_int, Failure> {
    let at_first = flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a string that ends.
    let file = unsafe { libc::open(path.as_ptr(), at_first, mode) };
    check(step, file)?;
    // SAFETY: takes no pointers; flags that only opening heeds are ignored.
    check(step, unsafe { libc::fcntl(file, libc::F_SETFL, flags) })?;
    Ok(file)
}

/// Makes the sources the descriptors 0, 1, 2 and so on, and closes all others. A source in the way
/// of another one is moved behind all places first.
fn arrange(sources: &mut [libc::c_int]) -> Result<(), Failure> {
    let step = Step::Descriptors;
    let end = libc::c_int::try_from(sources.len()).unwrap_or(libc::c_int::MAX);
    for (place, source) in (0..end).zip(sources.iter_mut()) {
        if *source < end && *source != place {
            // SAFETY: takes no pointers.
            *source = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, end) };
            check(step, *source)?;
        }
    }
    for (place, source) in (0..end).zip(sources.iter()) {
        let result = if *source == place {
            // SAFETY: takes no pointers.
            unsafe { libc::fcntl(place, libc::F_SETFD, 0) }
        } else {
            // SAFETY: takes no pointers. The table of descriptors is the child's own, and nobody
            // relies on what was at this place in it.
            unsafe { libc::dup2(*source, place) }
        };
        check(step, result)?;
    }
    // SAFETY: takes no pointers; see above.
    check(step, unsafe {
        libc::syscall(libc::SYS_close_range, end, u32::MAX, 0)
    })
}

fn set_limit(limit: &Limit) -> Result<(), Failure> {
    let resource = limit.resource as u32;
    let mut value = [0u64; 2];
    let nothing = ptr::null::<[u64; 2]>();
    // SAFETY: `struct rlimit64` is two 64-bit numbers, the soft limit and the hard one.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, nothing, &raw mut value) };
    check(Step::Limits, result)?;
    let [soft, hard] = value;
    let hard = limit.hard.unwrap_or(hard);
    let value = [limit.soft.unwrap_or(soft).min(hard), hard];
    // SAFETY: as above.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const value, nothing) };
    check(Step::Limits, result)
}

/// Completes the variable and puts it where room was left for it.
fn write_pid(variable: &mut [u8], environment: &mut [*const libc::c_char]) {
    let Some(digits) = variable.last_chunk_mut::<PID_BYTES>() else {
        return;
    };
    // SAFETY: takes no pointers.
    let mut rest = unsafe { libc::getpid() };
    let mut number = [0; PID_BYTES];
    let mut used = 0;
    for digit in &mut number {
        *digit = b'0' + (rest % 10) as u8;
        used += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for (to, from) in digits.iter_mut().zip(number.iter().take(used).rev()) {
        *to = *from;
    }
    if let [.., place, _] = environment {
        *place = variable.as_ptr().cast();
    }
}
