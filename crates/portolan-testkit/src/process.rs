//! Parts of a test that other processes play.
//!
//! A test file that needs a second process has one test, by convention `play_a_part`, that does
//! nothing unless [`part`] says otherwise; [`play`] runs the test program again for just that test.

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The environment variable that tells a process which part it plays.
const VARIABLE: &str = "PORTOLAN_TEST_PART";

/// A process that plays a part; killed and reaped when it is dropped.
#[derive(Debug)]
pub struct Process(Child);

/// Runs the test `play_a_part` of this program in a process of its own, with `socket` as its
/// standard input.
///
/// # Panics
///
/// If the process cannot be started.
#[must_use]
pub fn play(part: &str, socket: OwnedFd) -> Process {
    let program = env::current_exe().expect("this program");
    let child = Command::new(program)
        .args(["--exact", "play_a_part", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, part)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn();
    Process(child.expect("start this program again"))
}

/// The part that this process plays and its socket; `None` in the process that runs the tests.
///
/// To be called once: the socket is taken away from standard input, so that closing it is seen at
/// the other end.
///
/// # Panics
///
/// If there is a part, but no standard input.
#[must_use]
pub fn part() -> Option<(String, OwnedFd)> {
    let part = env::var(VARIABLE).ok()?;
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let nothing = File::open("/dev/null").expect("/dev/null");
    rustix::stdio::dup2_stdin(nothing).expect("dup2");
    Some((part, socket.expect("standard input")))
}

impl Process {
    /// Its process id, also when it has ended.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// If it failed: what it asserted did not hold. If it has not ended after half a minute.
    pub fn finish(&mut self) {
        let half_a_minute = Duration::from_secs(30);
        assert!(self.ends_within(half_a_minute), "it has not ended");
        let status = self.0.wait().expect("wait");
        assert!(status.success(), "the other process: {status}");
    }

    fn ends_within(&self, time: Duration) -> bool {
        let pid = Pid::from_child(&self.0);
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("not yet waited for");
        let time = Timespec::try_from(time).expect("short");
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut ended, Some(&time)).expect("poll") == 1
    }

    /// Kills it with `SIGKILL`; when this returns it is gone with all its descriptors.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> ExitStatus {
        // Fails only for a process that has ended, and then there is nothing to do.
        self.0.kill().ok();
        self.0.wait().expect("wait")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_end_is_not_waited_for() {
        let cat = Command::new("cat").stdin(Stdio::piped()).spawn();
        let mut process = Process(cat.expect("cat"));
        assert!(!process.ends_within(Duration::from_millis(10)));
        drop(process.0.stdin.take());
        assert!(process.ends_within(Duration::from_secs(20)));
        process.finish();
    }
}
