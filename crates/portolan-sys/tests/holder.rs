//! A child that shares the descriptors of its parent.
//!
//! A test has more than one thread, so each forks a parent that has one.

#![allow(unsafe_code, reason = "fork, waitpid and _exit")]

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::panic::{self, AssertUnwindSafe};

use portolan_sys::{holder, inherit};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, WaitIdStatus, getppid, pidfd_send_signal, waitid,
};

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

fn wait(pidfd: BorrowedFd<'_>) -> WaitIdStatus {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).expect("a child");
    status.expect("it has ended")
}

#[test]
fn what_a_killed_child_opened_stays_open() {
    alone(|| {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        let child = holder::start_sharing(move || {
            let mut file = File::from(memfd_create("kept", MemfdFlags::CLOEXEC).expect("memfd"));
            file.write_all(b"still here").expect("write");
            let number = file.as_raw_fd().to_ne_bytes();
            writer.write_all(&number).expect("tell the parent");
            loop {
                std::thread::park();
            }
        });
        let child = child.expect("a child");
        let mut number = [0; 4];
        reader.read_exact(&mut number).expect("the number");
        pidfd_send_signal(&child.pidfd, Signal::KILL).expect("kill");
        let status = wait(child.pidfd.as_fd());
        assert_eq!(status.terminating_signal(), Some(Signal::KILL.as_raw()));
        let kept = inherit::duplicate(u32::from_ne_bytes(number)).expect("it is open here");
        let (mut kept, mut read) = (File::from(kept), String::new());
        kept.rewind().expect("seek");
        kept.read_to_string(&mut read).expect("read");
        assert_eq!(read, "still here");
    });
}

#[test]
fn what_the_parent_opens_later_is_open_in_the_child() {
    alone(|| {
        let (mut from_parent, mut to_child) = io::pipe().expect("pipe");
        let child = holder::start_sharing(move || {
            let mut number = [0; 4];
            from_parent.read_exact(&mut number).expect("a number");
            let file = inherit::duplicate(u32::from_ne_bytes(number)).expect("open");
            let (mut file, mut read) = (File::from(file), Vec::new());
            file.rewind().expect("seek");
            file.read_to_end(&mut read).expect("read");
            read[0]
        });
        let child = child.expect("a child");
        let mut later = File::from(memfd_create("later", MemfdFlags::CLOEXEC).expect("memfd"));
        later.write_all(&[42]).expect("write");
        let number = later.as_raw_fd().to_ne_bytes();
        to_child.write_all(&number).expect("tell the child");
        assert_eq!(wait(child.pidfd.as_fd()).exit_status(), Some(42));
    });
}

#[test]
fn the_child_is_a_process_of_its_own_and_runs_in_a_second_thread() {
    alone(|| {
        let parent = std::process::id();
        let child = holder::start_sharing(move || {
            let is_child = getppid().is_some_and(|pid| pid.as_raw_pid().unsigned_abs() == parent);
            let first = rustix::process::getpid() == rustix::thread::gettid();
            u8::from(is_child && !first)
        });
        let status = wait(child.expect("a child").pidfd.as_fd());
        assert_eq!(status.exit_status(), Some(1));
    });
}

#[test]
fn a_panic_ends_the_child_and_nothing_else() {
    alone(|| {
        let child = holder::start_sharing(|| {
            // Without the message that would be written through std's handle.
            panic::resume_unwind(Box::new(()))
        });
        let status = wait(child.expect("a child").pidfd.as_fd());
        assert_eq!(status.exit_status(), Some(101));
    });
}

#[test]
fn a_process_with_threads_is_refused() {
    let error = holder::start_sharing(|| 0).expect_err("the test runs beside the main thread");
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
}
