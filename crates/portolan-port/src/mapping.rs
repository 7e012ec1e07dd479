//! Shared memory: sealed bytes to read, and the two rings of a channel.
//!
//! # Safety
//!
//! A [`Mapping`] hands out `&[u8]`, so nothing may change or remove the memory behind it while it
//! lives. That is upheld by the kernel: [`Mapping::of_sealed`] maps only files that carry
//! `F_SEAL_WRITE`, `F_SEAL_SHRINK` and `F_SEAL_GROW`, checks them *before* it maps, and seals
//! cannot be taken off (fcntl(2)). With `F_SEAL_WRITE` no writable shared mapping exists or can be
//! made, and `write(2)` and hole punching fail; with `F_SEAL_SHRINK` no access can fault.
//! A file with holes is refused too: reading one would allocate memory on this process's account,
//! and fault if there is none.
//! Only files in memory have seals, so no other writer (a disk, a network) is possible.
//!
//! A [`RingMemory`] is mapped for writing and the peer writes to it at any time, so it is given to
//! `portolan_ring` alone, which makes no reference to it. Its file is sealed against shrinking, so
//! no access can fault, and is of the exact length. The halves that use the memory are made here
//! and live in one value with it ([`Rings`]), which drops them first.
#![allow(unsafe_code, reason = "mmap and munmap of shared memory")]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use portolan_ring::{Consumer, Glance, Producer, Region};
use rustix::fs::{SealFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::channel::lock;

/// `linux/magic.h`; where memfds are unless they ask for huge pages.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// A sealed memfd, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    file: OwnedFd,
}

impl Mapping {
    /// The seals that make a file safe to look at.
    pub(crate) fn seals() -> SealFlags {
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW
    }

    /// Maps `file`, which must be sealed, without holes and exactly `len` bytes long; `len` must
    /// not be 0.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the seals, the contents or the length are not as required, otherwise what
    /// `fcntl(2)`, `fstat(2)`, `fstatfs(2)`, `lseek(2)` or `mmap(2)` say.
    pub(crate) fn of_sealed(file: OwnedFd, len: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let stat = rustix::fs::fstat(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if !seals.contains(Self::seals()) || size != len as u64 || len == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // A file of huge pages has seals too, but does not know its holes.
        let is_plain = rustix::fs::fstatfs(&file)?.f_type == TMPFS_MAGIC;
        if !is_plain || rustix::fs::seek(&file, SeekFrom::Hole(0))? != size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flags = MapFlags::SHARED;
        // SAFETY: a mapping at an address of the kernel's choice replaces no other. What makes the
        // bytes readable and constant is argued at the head of this file.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, ProtFlags::READ, flags, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, file })
    }

    /// The file, for sending it on.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is the beginning of a live mapping of `len` bytes, unmapped only in
        // drop, which nobody can change (head of this file; test `a_file_that_can_change_is_refused`).
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps just what `of_sealed` mapped, once, and no borrow of it is left.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

// SAFETY: the memory is constant and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference allows reading only.
unsafe impl Sync for Mapping {}

/// Bytes of records in each direction. Half of it is the longest record, which must hold the
/// longest packet.
const RING_BYTES: usize = 512 << 10;

/// One direction with its header.
const REGION_BYTES: usize = portolan_ring::HEADER_BYTES + RING_BYTES;

/// Which end of a channel a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Holder,
    Receiver,
}

/// The two rings of a channel, one to write and one to read.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) outgoing: Mutex<Producer>,
    pub(crate) incoming: Mutex<Reader>,
    pub(crate) outgoing_glance: Glance,
    pub(crate) incoming_glance: Glance,
    /// How far the reader has come, to be compared with a glance.
    taken: AtomicU64,
    memory: RingMemory,
}

/// The reading half.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) consumer: Consumer,
    /// Bytes taken whose space was not given back.
    pub(crate) unreleased: usize,
}

/// How far a receiver has come in the rings of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Bytes of requests taken.
    pub(crate) taken: u64,
    /// Bytes of answers written.
    pub(crate) written: u64,
}

impl Rings {
    /// Fresh rings for the holder of a channel, who pays for the memory.
    pub(crate) fn create() -> io::Result<Self> {
        let file = crate::payload::create_memory()?;
        rustix::fs::ftruncate(&file, (2 * REGION_BYTES) as u64)?;
        rustix::fs::fcntl_add_seals(&file, Self::seals() | SealFlags::SEAL)?;
        Self::map(file, Side::Holder, Position::default())
    }

    /// The rings in memory that the holder of a channel offers.
    ///
    /// # Errors
    ///
    /// `InvalidData` unless the file is sealed and of the right length; otherwise what the kernel
    /// says.
    pub(crate) fn accept(file: OwnedFd) -> io::Result<Self> {
        Self::resume(file, Position::default())
    }

    /// The rings of a channel that came with a receive right.
    ///
    /// # Errors
    ///
    /// Those of [`accept`](Self::accept).
    pub(crate) fn resume(file: OwnedFd, position: Position) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let size = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(Self::seals()) || u64::try_from(size) != Ok(2 * REGION_BYTES as u64) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(file, Side::Receiver, position)
    }

    /// Whether a record has come, or something that is wrong.
    pub(crate) fn is_ready(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        self.incoming_glance.is_beyond(taken)
    }

    /// To be called after a record was taken.
    pub(crate) fn note_taken(&self, reader: &Reader) {
        self.taken
            .store(reader.consumer.position(), Ordering::Relaxed);
    }

    /// How far this side has come, everything taken and written being let go of.
    pub(crate) fn position(&self) -> Position {
        let written = lock(&self.outgoing).position();
        Position {
            taken: lock(&self.incoming).consumer.position(),
            written,
        }
    }

    /// The memory's file, for offering it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.memory.file.as_fd()
    }

    fn seals() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW
    }

    fn map(file: OwnedFd, side: Side, at: Position) -> io::Result<Self> {
        let memory = RingMemory::map(file)?;
        let (requests, replies) = (memory.region(0)?, memory.region(REGION_BYTES)?);
        let (outgoing, incoming) = match side {
            Side::Holder => (requests, replies),
            Side::Receiver => (replies, requests),
        };
        Ok(Self {
            outgoing_glance: Glance::new(outgoing.clone()),
            incoming_glance: Glance::new(incoming.clone()),
            taken: AtomicU64::new(at.taken),
            outgoing: Mutex::new(Producer::resume(outgoing, at.written)),
            incoming: Mutex::new(Reader {
                consumer: Consumer::resume(incoming, at.taken),
                unreleased: 0,
            }),
            memory,
        })
    }
}

/// Memory that a peer writes to.
#[derive(Debug)]
struct RingMemory {
    start: NonNull<u8>,
    file: OwnedFd,
    epoch: u64,
}

impl RingMemory {
    fn map(file: OwnedFd) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let len = 2 * REGION_BYTES;
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, flags, &file, 0) }?;
        // SAFETY: the mapping just made, whole. A child has no use for it.
        let result = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontFork) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Self {
            start,
            file,
            epoch: portolan_sys::fork::epoch(),
        };
        result?;
        Ok(memory)
    }

    fn region(&self, offset: usize) -> io::Result<Region> {
        // SAFETY: `offset` is 0 or `REGION_BYTES` and the mapping has twice that, so the pointer
        // stays in it.
        let base = unsafe { self.start.add(offset) };
        // SAFETY: the mapping is valid for reads and writes of `REGION_BYTES` from there until it
        // is dropped, which `Rings` does after the halves; the file cannot shrink; no reference
        // to the memory is made in this module.
        let region = unsafe { Region::new(base, REGION_BYTES) };
        region.map_err(io::Error::other)
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // In a forked child the mapping does not exist, and something else may be there.
        if self.epoch != portolan_sys::fork::epoch() {
            return;
        }
        let len = 2 * REGION_BYTES;
        // SAFETY: unmaps just what `map` mapped, once, after the halves that used it are gone.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

// SAFETY: the memory is reached through the halves in `Rings` only, and belongs to no thread.
unsafe impl Send for RingMemory {}
// SAFETY: a shared reference gives nothing but the file.
unsafe impl Sync for RingMemory {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("test", flags).expect("memfd_create");
        rustix::io::write(&file, bytes).expect("write");
        rustix::fs::fcntl_add_seals(&file, seals).expect("seal");
        file
    }

    #[test]
    fn a_sealed_file_reads_as_its_bytes() {
        let mapping = Mapping::of_sealed(memory(b"abc", Mapping::seals()), 3).expect("map");
        assert_eq!(&*mapping, b"abc");
    }

    #[test]
    fn a_file_that_can_change_is_refused() {
        for missing in Mapping::seals().iter() {
            let file = memory(b"abc", Mapping::seals() - missing);
            assert!(
                Mapping::of_sealed(file, 3).is_err(),
                "accepted without {missing:?}"
            );
        }
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        for len in [0, 2, 4] {
            assert!(Mapping::of_sealed(memory(b"abc", Mapping::seals()), len).is_err());
        }
    }
}
