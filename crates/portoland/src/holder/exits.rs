//! How children of the holder ended, told to the server through a pipe.
//!
//! A report has 16 bytes, in the order of the machine: process id (4), status as wait(2) has it (4),
//! nanoseconds of the monotonic clock (8). The pipe divides into reports evenly, so each is written
//! and read whole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitStatus};
use rustix::time::ClockId;

const LENGTH: usize = 16;

/// How a process ended that a server had started and the holder has reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its process id, which may be another's by now.
    pub pid: u32,
    /// Its status.
    pub status: ExitStatus,
    /// When it was reaped, by the monotonic clock.
    pub at: Duration,
}

/// The reports about processes whose parent was an earlier server. Its descriptor is readable when
/// there is one.
///
/// Up to 4096 reports wait for a server. Later ones are lost, and one that was taken by a server
/// which was killed is lost too: who needs to know that a process has ended has its pidfd, and learns
/// here how.
#[derive(Debug)]
pub struct Exits(OwnedFd);

impl Exits {
    /// The next report; `None` if there is none now.
    ///
    /// # Errors
    ///
    /// What read(2) says, but for `EAGAIN`.
    pub fn take(&mut self) -> io::Result<Option<Exit>> {
        let mut bytes = [0; LENGTH];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut bytes)) {
            Ok(LENGTH) => Ok(Some(Exit::decode(&bytes))),
            Ok(_) | Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn of(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Exits {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn pipe() -> io::Result<(Exits, OwnedFd)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reader, writer) = rustix::pipe::pipe_with(flags)?;
    Ok((Exits(reader), writer))
}

/// Never waits for the server.
pub(super) fn report(pipe: &OwnedFd, pid: Pid, status: WaitStatus) {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let exit = Exit {
        pid: pid.as_raw_pid().cast_unsigned(),
        status: ExitStatus::from_raw(status.as_raw()),
        at: Duration::try_from(now).unwrap_or_default(),
    };
    if let Err(errno) = rustix::io::write(pipe, &exit.encode()) {
        tracing::warn!(pid = exit.pid, status = %exit.status, %errno, "nobody is told of an exit");
    }
}

impl Exit {
    fn encode(&self) -> [u8; LENGTH] {
        let nanoseconds = u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.status.into_raw().to_ne_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_ne_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LENGTH]) -> Self {
        let [p0, p1, p2, p3, s0, s1, s2, s3, nanoseconds @ ..] = *bytes;
        Self {
            pid: u32::from_ne_bytes([p0, p1, p2, p3]),
            status: ExitStatus::from_raw(i32::from_ne_bytes([s0, s1, s2, s3])),
            at: Duration::from_nanos(u64::from_ne_bytes(nanoseconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(pid: u32, raw: i32) -> Exit {
        Exit {
            pid,
            status: ExitStatus::from_raw(raw),
            at: Duration::new(5, 6),
        }
    }

    #[test]
    fn reports_come_in_their_order_and_a_full_pipe_takes_no_part_of_one() {
        let (mut exits, writer) = pipe().expect("pipe");
        assert_eq!(exits.take().expect("read"), None);
        let mut count = 0;
        while rustix::io::write(&writer, &exit(count, 7 << 8).encode()).is_ok() {
            count += 1;
        }
        assert_eq!(count, 4096);
        for pid in 0..count {
            assert_eq!(exits.take().expect("read"), Some(exit(pid, 7 << 8)));
        }
        assert_eq!(exits.take().expect("read"), None);
    }
}
