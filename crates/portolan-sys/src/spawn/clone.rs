//! Making the child, on a stack of its own.
//!
//! # Safety
//!
//! See the head of [`spawn`](super). The child never returns from [`child::main`] into code of its
//! parent: with `libc::clone` the C library ends it then, with [`clone3`] the assembly does.

use std::ffi::c_void;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::Pid;

use super::{Plan, SpawnError, Spawned, Step, child};

/// Memory for the child's stack, with a page below it that cannot be touched.
pub(super) struct Stack {
    start: *mut c_void,
    guard: usize,
}

/// What the child calls needs a few hundred bytes; in a build without optimization, a few
/// thousand.
const STACK_BYTES: usize = 64 << 10;

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        let guard = rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        let len = guard + STACK_BYTES;
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        let stack = Self { start, guard };
        // SAFETY: the first page of the mapping made above, which nothing uses yet.
        unsafe { rustix::mm::mprotect(start, guard, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    fn bottom(&self) -> *mut c_void {
        self.start.wrapping_byte_add(self.guard)
    }

    /// Stacks grow downwards.
    fn top(&self) -> *mut c_void {
        self.bottom().wrapping_byte_add(STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping made in `new`; the child that ran on it has other memory now,
        // or has ended.
        let unmapped = unsafe { rustix::mm::munmap(self.start, self.guard + STACK_BYTES) };
        debug_assert!(unmapped.is_ok(), "this mapping exists");
    }
}

/// The child is a program or has ended when this returns.
pub(super) fn start(
    plan: &mut Plan<'_>,
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Spawned, SpawnError> {
    let plan: *mut Plan<'_> = plan;
    let plan = plan.cast();
    let made = match cgroup {
        Some(cgroup) => match clone3(plan, stack, cgroup) {
            Err(error) if is_unsupported(&error) => clone(plan, stack),
            other => other,
        },
        None => clone(plan, stack),
    };
    made.map_err(|source| SpawnError {
        step: match source.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM) => Step::Process,
            _ if cgroup.is_some() => Step::Cgroup,
            _ => Step::Process,
        },
        source,
    })
}

fn is_unsupported(error: &io::Error) -> bool {
    // A container's filter of system calls says EPERM.
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)
    )
}

/// The child begins by making the table of descriptors its own, which costs it less than clone.
const FLAGS: libc::c_int =
    libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::CLONE_FILES;

/// Makes the child where its parent is; if there is a cgroup, it moves there by itself. That takes
/// the kernel milliseconds, because it has to wait until no process is being made.
fn clone(plan: *mut c_void, stack: &Stack) -> io::Result<Spawned> {
    let mut pidfd = -1;
    // SAFETY: a `Plan` begins to be used by the child here and is not touched by its parent before
    // clone returns.
    unsafe { (*plan.cast::<Plan<'_>>()).moves_to_cgroup = true };
    // SAFETY: `stack` is memory that nobody else uses until clone returns, and that is when the
    // child no longer needs it; `pidfd` is a place for what CLONE_PIDFD writes. Tested by all of
    // tests/spawn.rs.
    let pid = unsafe {
        libc::clone(
            child::main,
            stack.top(),
            FLAGS | libc::SIGCHLD,
            plan,
            &raw mut pidfd,
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    spawned(pid, pidfd)
}

fn spawned(pid: libc::pid_t, pidfd: libc::c_int) -> io::Result<Spawned> {
    // SAFETY: the kernel has just made this descriptor for the clone that gave `pid`.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Spawned { pid, pidfd })
}

/// Makes the child inside the cgroup (`CLONE_INTO_CGROUP`, Linux 5.7), without the wait that moving
/// it costs. The C library has no function for this call.
#[cfg(target_arch = "x86_64")]
fn clone3(plan: *mut c_void, stack: &Stack, cgroup: BorrowedFd<'_>) -> io::Result<Spawned> {
    use std::arch::asm;
    use std::os::fd::AsRawFd as _;

    /// Of `linux/sched.h`; libc's constant is too narrow for it.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;

    /// `struct clone_args` of `linux/sched.h`, in its second revision.
    #[repr(C)]
    struct Arguments {
        flags: u64,
        pidfd: *mut libc::c_int,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: *mut c_void,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }

    let mut pidfd = -1;
    let arguments = Arguments {
        flags: u64::from(FLAGS.cast_unsigned()) | CLONE_INTO_CGROUP,
        pidfd: &raw mut pidfd,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom(),
        stack_size: STACK_BYTES as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd() as u64,
    };
    let main: extern "C" fn(*mut c_void) -> libc::c_int = child::main;
    let result: i64;
    // SAFETY: as for `clone`. The child starts behind the first `syscall` on its own stack, whose
    // top is aligned to 16 bytes as a call needs it, and never gets to the label; the parent goes
    // there at once and finds its registers as they were, but for those that a system call
    // destroys. Tested by `a_cgroup_is_entered`.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, {exit_group}",
            "syscall",
            "ud2",
            "2:",
            exit_group = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") plan,
            in("r13") main,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match libc::pid_t::try_from(result) {
        Ok(pid) if pid > 0 => spawned(pid, pidfd),
        Ok(error) => Err(io::Error::from_raw_os_error(-error)),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// So the child moves to its cgroup by itself.
#[cfg(not(target_arch = "x86_64"))]
fn clone3(_: *mut c_void, _: &Stack, _: BorrowedFd<'_>) -> io::Result<Spawned> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::super::{Failure, Spawn};
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    #[test]
    fn without_clone3_the_child_moves_to_its_cgroup_by_itself() {
        let no_cgroup = std::fs::File::open(std::env::temp_dir()).expect("a directory");
        let spawn = Spawn {
            program: c"/bin/true",
            arguments: &[],
            environment: &[],
            pid_variable: None,
            directory: None,
            descriptors: &[],
            umask: None,
            nice: None,
            batch: false,
            limits: &[],
            identity: None,
            session: false,
            cgroup: Some(no_cgroup.as_fd()),
        };
        let mut plan = Plan::new(&spawn);
        let stack = Stack::new().expect("memory");
        let child = clone((&raw mut plan).cast(), &stack).expect("a child");
        let id = WaitId::PidFd(child.pidfd.as_fd());
        waitid(id, WaitIdOptions::EXITED).expect("it has ended");
        let Some(Failure { step, errno }) = plan.failure else {
            panic!("there is no cgroup.procs")
        };
        assert_eq!((step, errno), (Step::Cgroup, libc::ENOENT));
    }
}
