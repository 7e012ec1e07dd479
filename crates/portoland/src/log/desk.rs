//! What a job has written and is not in its file yet, where a kill of the server does not lose it.
//!
//! Bytes that a server has read from a pipe are gone with the server. So they are moved from the
//! pipe to a memfd by the kernel, which a kill cannot come between, and taken off it once they are in
//! the file: the offset of the memfd's open file, which the next server shares, says how far that is.
//! What is killed after the write and before that has written the last lines twice, and none is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

/// Bytes that are done with before their memory is given back.
const MIN_FREED: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Desk {
    memory: OwnedFd,
    /// Up to where the bytes were handed out.
    seen: u64,
    /// The end of all bytes.
    end: u64,
    /// Up to where their memory was given back.
    freed: u64,
}

impl Desk {
    /// Memory for an empty one.
    pub(super) fn memory() -> io::Result<OwnedFd> {
        Ok(rustix::fs::memfd_create(
            "portolan-log",
            MemfdFlags::CLOEXEC,
        )?)
    }

    /// What is on it is handed out again from where it was last done with.
    pub(super) fn resume(memory: OwnedFd) -> io::Result<Self> {
        let end = rustix::fs::fstat(&memory)?.st_size.cast_unsigned();
        let done = rustix::fs::tell(&memory)?;
        let mut desk = Self {
            memory,
            seen: done,
            end,
            freed: 0,
        };
        if done >= end {
            desk.clear();
        }
        Ok(desk)
    }

    /// The next bytes, of those that are left here and those that the pipe has; as many as there is
    /// room for in `buffer`.
    pub(super) fn take<'a>(&mut self, pipe: &OwnedFd, buffer: &'a mut [u8]) -> &'a [u8] {
        if self.end.saturating_sub(self.seen) < buffer.len() as u64 {
            self.fetch(pipe, buffer.len());
        }
        let bytes =
            rustix::io::retry_on_intr(|| rustix::io::pread(&self.memory, &mut *buffer, self.seen));
        let bytes = &buffer[..bytes.unwrap_or(0)];
        self.seen += bytes.len() as u64;
        bytes
    }

    fn fetch(&mut self, pipe: &OwnedFd, count: usize) {
        let flags = SpliceFlags::NONBLOCK;
        let (memory, mut end) = (&self.memory, self.end);
        let moved = rustix::pipe::splice(pipe, None, memory, Some(&mut end), count, flags);
        // Otherwise there is nothing, or it was interrupted: the pipe stays readable if there is
        // something.
        self.end += moved.unwrap_or(0) as u64;
    }

    /// All that was handed out is done with, but for the last `rest` bytes.
    pub(super) fn done_but(&mut self, rest: usize) {
        let done = self.seen.saturating_sub(rest as u64);
        if done == 0 {
            return;
        }
        if done == self.end {
            return self.clear();
        }
        // Fails for a descriptor that is no file only, which `resume` would have refused.
        rustix::fs::seek(&self.memory, SeekFrom::Start(done)).ok();
        if done - self.freed >= MIN_FREED && self.free(done).is_ok() {
            self.freed = done;
        }
    }

    fn free(&self, done: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.memory, flags, 0, done)
    }

    /// In this order: an offset behind the end is one of an empty desk.
    fn clear(&mut self) {
        if rustix::fs::ftruncate(&self.memory, 0).is_ok() {
            (self.seen, self.end, self.freed) = (0, 0, 0);
            rustix::fs::seek(&self.memory, SeekFrom::Start(0)).ok();
        }
    }
}

impl AsFd for Desk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}
