//! A child process that shares its parent's table of descriptors.
//!
//! A server that must survive its own crash has a small parent: what the server opens is open in
//! the parent as well, under the same number, and goes on to be when the server is killed. The two
//! share the table (`CLONE_FILES`, clone(2)) and nothing else. What one of them closes is closed
//! for the other; a table is no longer shared once one of them executes a program.
//!
//! # Safety
//!
//! Without `CLONE_VM` the child has a copy of the memory, as after `fork`. The C library does not
//! know of this clone, so its locks could be held by threads that the child does not have: it is
//! made in a process of one thread only. The C library also goes on to take the child's first
//! thread for that of the parent, by its thread id. So this thread does nothing but start another,
//! which has an id of its own, and wait for it.
#![allow(unsafe_code, reason = "clone with CLONE_FILES, and _exit")]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::thread;

use rustix::process::Pid;

/// A child that shares descriptors, to be waited for by its parent.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd, close-on-exec, and as shared as any other descriptor.
    pub pidfd: OwnedFd,
}

/// The exit code of a child that panicked, which is what the standard library makes it.
const PANICKED: u8 = 101;

/// Runs `run` in a child process that shares this process's descriptors, and returns in the parent
/// only. The child exits with the code that `run` returns, or 101 if it panics; no destructor and no
/// exit handler runs there but those of `run`.
///
/// What `run` owns belongs to the child: the parent does not drop it. Every other value is in both
/// processes, and with it the ownership of its descriptors, so each descriptor has to be left alone
/// by one of the two.
///
/// # Errors
///
/// [`io::ErrorKind::ResourceBusy`] if this process has more than one thread. Otherwise what
/// clone(2) says, or reading `/proc/self/task`.
pub fn start_sharing(run: impl FnOnce() -> u8 + Send) -> io::Result<Child> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    let nothing = ptr::null::<libc::c_int>();
    // SAFETY: with no stack given and without CLONE_VM the child goes on here in a copy of this
    // stack. There is no other thread, see the head of this file; `pidfd` is a place for what
    // CLONE_PIDFD writes. Tested by tests/holder.rs.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            nothing,
            &raw mut pidfd,
            nothing,
            nothing,
        )
    };
    match libc::pid_t::try_from(pid) {
        Ok(0) => play(run),
        Ok(pid) if pid > 0 => {
            mem::forget(run);
            // SAFETY: the kernel has just made this descriptor for this clone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Child { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn play(run: impl FnOnce() -> u8 + Send) -> ! {
    let code = thread::scope(|scope| scope.spawn(run).join());
    let code = code.unwrap_or(PANICKED);
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code.into()) }
}
