//! Descriptors that a child in a shared table has left.
//!
//! A test has more than one thread, so each forks a parent that has one.

#![allow(unsafe_code, reason = "fork, waitpid and _exit")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use portolan_sys::holder::{Child, start_sharing};
use portolan_sys::orphans::{Orphans, Own};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Signal, WaitOptions, waitpid};

/// Runs `part` in a forked process, which has one thread.
fn alone(part: impl FnOnce()) {
    // SAFETY: the child runs `part` and ends. It takes no lock that another thread of the parent
    // could have held: it writes to no handle of std's unless it fails, and glibc makes the
    // allocator usable after fork(2).
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = i32::from(panic::catch_unwind(AssertUnwindSafe(part)).is_err());
        // SAFETY: takes no pointers and does not return.
        unsafe { libc::_exit(code) }
    }
    let mut status = -1;
    // SAFETY: `status` is a valid place for the result.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert_eq!(status, 0, "what the process asserted did not hold");
}

fn number(fd: &impl AsRawFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A child that has opened the reader of a pipe with `x` in it and a second descriptor, and was
/// killed; and their numbers.
fn killed() -> (Child, [u32; 2]) {
    let (mut told, mut tell) = io::pipe().expect("pipe");
    let child = start_sharing(move || {
        let (reader, mut writer) = io::pipe().expect("pipe");
        writer.write_all(b"x").expect("write");
        for number in [number(&reader), number(&writer)] {
            tell.write_all(&number.to_ne_bytes()).expect("tell");
        }
        loop {
            thread::park();
        }
    });
    let child = child.expect("a child");
    let mut numbers = [0; 8];
    told.read_exact(&mut numbers).expect("two numbers");
    rustix::process::kill_process(child.pid, Signal::KILL).expect("kill");
    let (_, status) = waitpid(Some(child.pid), WaitOptions::empty())
        .expect("a child")
        .expect("it has ended");
    assert!(status.signaled());
    let (first, second) = numbers.split_first_chunk().expect("eight bytes");
    let second = second.try_into().expect("four bytes");
    (
        child,
        [u32::from_ne_bytes(*first), u32::from_ne_bytes(second)],
    )
}

#[test]
fn what_a_killed_child_has_left_is_taken_once() {
    alone(|| {
        let mine = File::open("/dev/null").expect("/dev/null");
        let own = Own::now(&Orphans::default()).expect("/proc");
        let (child, [reader, writer]) = killed();
        let pidfd = number(&child.pidfd);
        let mut orphans = own.orphans(child).expect("it is gone");
        assert!(orphans.take(number(&mine)).is_none(), "it has an owner");
        assert!(orphans.take(pidfd).is_none(), "it was given back");
        let taken = orphans.take(reader).expect("left");
        assert!(orphans.take(reader).is_none(), "taken before");
        orphans.close_except(|number| number == reader);
        assert!(orphans.take(writer).is_none(), "closed");
        let mut read = Vec::new();
        File::from(taken)
            .read_to_end(&mut read)
            .expect("the writer is closed");
        assert_eq!(read, b"x");
    });
}

#[test]
fn a_child_that_runs_has_left_nothing() {
    alone(|| {
        let own = Own::now(&Orphans::default()).expect("/proc");
        let (wait, go_on) = io::pipe().expect("pipe");
        let child = start_sharing(|| u8::from((&wait).read(&mut [0]).is_err()));
        let error = own.orphans(child.expect("a child")).expect_err("it runs");
        assert_eq!(error.raw_os_error(), Some(Errno::BUSY.raw_os_error()));
        (&go_on).write_all(b"x").expect("write");
        rustix::process::wait(WaitOptions::empty()).expect("a child");
    });
}

#[test]
fn only_what_is_open_across_exec_was_left_by_it() {
    alone(|| {
        let closed = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
        let open = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
        rustix::io::fcntl_setfd(&open, FdFlags::empty()).expect("fcntl");
        let numbers = [0, 1, 2, number(&closed), number(&open), 900];
        let left = std::mem::ManuallyDrop::new(open);
        let mut orphans = Orphans::left_by_exec(numbers);
        for other in [0, 1, 2, number(&closed), 900] {
            assert!(orphans.take(other).is_none(), "{other}");
        }
        let taken = orphans.take(number(&*left)).expect("left");
        assert_eq!(rustix::io::fcntl_getfd(&taken), Ok(FdFlags::CLOEXEC));
    });
}

#[test]
fn what_is_given_up_stays_open_and_is_no_more_this_process_own() {
    alone(|| {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let mut orphans = Orphans::default();
        let number = orphans.adopt(writer.into());
        let own = Own::now(&orphans).expect("/proc");
        orphans.leave().expect("fcntl");
        orphans.close_on_exec();
        drop(orphans);
        let (child, _) = killed();
        let mut orphans = own.orphans(child).expect("it is gone");
        let mut writer = File::from(orphans.take(number).expect("nobody owns it"));
        writer.write_all(b"x").expect("write");
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, b"x");
    });
}
