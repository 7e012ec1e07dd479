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
//! An [`OwnMemory`] hands out `&mut [u8]` to memory that other processes map. `F_SEAL_FUTURE_WRITE`,
//! put on after it was mapped here, keeps them from mapping it for writing and from `write(2)`, so
//! this process alone writes to it. Whoever borrows it holds it as a [`PeerMemory`], which is read
//! through a `portolan_ring::Window` alone, by copying.
//!
//! A [`RingMemory`] is mapped for writing and the peer writes to it at any time, so it is given to
//! `portolan_ring` alone, which makes no reference to it. Its file is sealed against shrinking, so
//! no access can fault, and is of the exact length. The halves that use the memory are made here
//! and live in one value with it ([`Rings`]), which drops them first.
#![allow(unsafe_code, reason = "mmap and munmap of shared memory")]

mod shared;

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use portolan_ring::{Consumer, Glance, Producer, Region, Window};
use rustix::fs::{FallocateFlags, SealFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::channel::lock;

pub use shared::SharedMapping;

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
        if sealed_length(&file, Self::seals())? != len {
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

/// Memory that this process writes and others can only read: its file is sealed against every new
/// way to write to it.
#[derive(Debug)]
pub(crate) struct OwnMemory {
    start: NonNull<u8>,
    len: usize,
    file: OwnedFd,
    epoch: u64,
}

impl OwnMemory {
    /// Makes `len` bytes, which must not be 0.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EINVAL` from kernels before 5.1.
    pub(crate) fn create(len: usize) -> io::Result<Self> {
        let file = crate::payload::create_memory()?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let flags = flags | MapFlags::POPULATE;
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, flags, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let epoch = portolan_sys::fork::epoch();
        let memory = Self {
            start,
            len,
            file,
            epoch,
        };
        // SAFETY: the mapping just made, whole. A child has no use for it.
        unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, Advice::LinuxDontFork) }?;
        rustix::fs::fcntl_add_seals(&memory.file, PeerMemory::seals() | SealFlags::SEAL)?;
        Ok(memory)
    }

    /// In a forked child the mapping does not exist, and something else may be there.
    pub(crate) fn is_foreign(&self) -> bool {
        self.epoch != portolan_sys::fork::epoch()
    }

    /// The file, for lending it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Deref for OwnMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.is_foreign() {
            return &[];
        }
        // SAFETY: `start` is the beginning of a live mapping of `len` bytes, which no other process
        // can write (test `lent_memory_can_be_written_by_its_owner_alone`), and this one writes only
        // through `deref_mut`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for OwnMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.is_foreign() {
            return &mut [];
        }
        // SAFETY: as in `deref`, and the borrow of `self` is exclusive. That others may read
        // meanwhile is no matter of this process's.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        if !self.is_foreign() {
            // SAFETY: unmaps just what `create` mapped, once, and no borrow of it is left.
            let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
            debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
        }
    }
}

// SAFETY: the memory belongs to the value, like that of a vector.
unsafe impl Send for OwnMemory {}
// SAFETY: as above; a shared reference allows reading only.
unsafe impl Sync for OwnMemory {}

/// Memory that another process lends: it may write to it at any time, and this one copies out of it.
#[derive(Debug)]
pub(crate) struct PeerMemory {
    window: Window,
    start: NonNull<u8>,
    len: usize,
    identity: (u64, u64),
}

impl PeerMemory {
    /// The seals without which memory is not mapped. Its pages can then neither go away nor come
    /// into being on this process's account: a file that nobody new may write to cannot be punched.
    pub(crate) fn seals() -> SealFlags {
        SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW
    }

    /// What tells the memory of `file` from all other that is mapped now.
    pub(crate) fn identity(file: &OwnedFd) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(file)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Maps all of `file`, which must be sealed, without holes and not longer than `longest`.
    ///
    /// # Errors
    ///
    /// `InvalidData` when seals, contents or length are not as required; otherwise what the kernel says.
    pub(crate) fn map(file: &OwnedFd, longest: usize) -> io::Result<Self> {
        let len = sealed_length(file, Self::seals())?;
        if len > longest {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, ProtFlags::READ, flags, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            // SAFETY: the mapping is valid for reads until it is dropped with the window; the file
            // cannot shrink; this process cannot write to it.
            window: unsafe { Window::new(start, len) },
            start,
            len,
            identity: Self::identity(file)?,
        })
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    pub(crate) fn is(&self, identity: (u64, u64)) -> bool {
        self.identity == identity
    }
}

impl Drop for PeerMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps just what `map` mapped, once; the window is not used any more.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

// SAFETY: the memory is reached through the window only, which any thread may use.
unsafe impl Send for PeerMemory {}
// SAFETY: as above.
unsafe impl Sync for PeerMemory {}

/// Words that two processes that trust each other share, each an atomic of its own.
#[derive(Debug)]
pub(crate) struct SharedWords {
    start: NonNull<u64>,
    count: usize,
    file: OwnedFd,
    epoch: u64,
}

impl SharedWords {
    fn seals() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW
    }

    /// Makes `count` words, all 0.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn create(count: usize) -> io::Result<Self> {
        Self::map(Self::make(count)?, count)
    }

    /// Makes the file of `count` words, all 0, for somebody else to [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn make(count: usize) -> io::Result<OwnedFd> {
        let file = crate::payload::create_memory()?;
        rustix::fs::ftruncate(&file, (count * size_of::<u64>()) as u64)?;
        rustix::fs::fcntl_add_seals(&file, Self::seals() | SealFlags::SEAL)?;
        Ok(file)
    }

    /// Maps words that another process made.
    ///
    /// # Errors
    ///
    /// `InvalidData` unless the file has exactly `count` words and cannot shrink; otherwise what the
    /// kernel says.
    pub(crate) fn open(file: OwnedFd, count: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if !seals.contains(Self::seals()) || size != (count * size_of::<u64>()) as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(file, count)
    }

    fn map(file: OwnedFd, count: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let len = count * size_of::<u64>();
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, flags, &file, 0) }?;
        // SAFETY: the mapping just made, whole. A child has no use for it.
        let result = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontFork) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let words = Self {
            start,
            count,
            file,
            epoch: portolan_sys::fork::epoch(),
        };
        result?;
        Ok(words)
    }

    /// The word at `index`. `None` behind the end, and in a forked child, which has no mapping.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.count || self.epoch != portolan_sys::fork::epoch() {
            return None;
        }
        // SAFETY: `index` is below the number of words, so the pointer stays in the mapping.
        let word = unsafe { self.start.add(index) };
        // SAFETY: the mapping is alive and cannot shrink, it begins at a page, and no reference that is
        // not to an atomic is ever made to it (test `words_are_shared_and_bounded`).
        Some(unsafe { AtomicU64::from_ptr(word.as_ptr()) })
    }

    /// The file, for sharing it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        if self.epoch != portolan_sys::fork::epoch() {
            return;
        }
        let len = self.count * size_of::<u64>();
        // SAFETY: unmaps just what `map` mapped, once, and no borrow of it is left.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

// SAFETY: the memory is reached through atomics only.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

/// The length of a file in memory that has these seals, is not empty and has no holes.
fn sealed_length(file: &OwnedFd, required: SealFlags) -> io::Result<usize> {
    let seals = rustix::fs::fcntl_get_seals(file)?;
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    // A file of huge pages has seals too, but does not know its holes.
    let is_plain = rustix::fs::fstatfs(file)?.f_type == TMPFS_MAGIC;
    if !seals.contains(required) || !is_plain || size == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if rustix::fs::seek(file, SeekFrom::Hole(0))? != size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

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
        Self::over(RingMemory::map(file)?, Side::Holder, Position::default())
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
        Self::over(Self::map_checked(file)?, Side::Receiver, position)
    }

    fn map_checked(file: OwnedFd) -> io::Result<RingMemory> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let size = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(Self::seals()) || u64::try_from(size) != Ok(2 * REGION_BYTES as u64) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        RingMemory::map(file)
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

    /// Notes for a successor how far this side has come.
    pub(crate) fn keep(&self, position: u64) {
        self.incoming_glance.keep(position);
    }

    /// Notes for a successor that everything that was taken so far has been dealt with.
    pub(crate) fn keep_taken(&self) {
        self.keep(self.taken.load(Ordering::Relaxed));
    }

    /// Notes for a successor that the packet is about to be taken out of the socket which belongs to the
    /// record that was taken last.
    pub(crate) fn fetch(&self, mark: u64) {
        let position = self.taken.load(Ordering::Relaxed);
        self.incoming_glance.fetch(position, mark);
    }

    /// The rings of a receiver that is gone, as far as it had come, and whether everything went through
    /// the memory. The file keeps its number, which may be written down for the next receiver.
    ///
    /// # Errors
    ///
    /// As for [`accept`](Self::accept).
    pub(crate) fn revive(file: OwnedFd) -> io::Result<(Self, bool)> {
        let memory = Self::map_checked(file)?;
        let (requests, replies) = memory.regions()?;
        let kept = Glance::new(requests).kept();
        let position = Position {
            taken: kept.unwrap_or(0),
            written: Glance::new(replies).published(),
        };
        let rings = Self::over(memory, Side::Receiver, position)?;
        Ok((rings, kept.is_some()))
    }

    /// The memory's file, for offering it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.memory.file.as_fd()
    }

    fn seals() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW
    }

    fn over(memory: RingMemory, side: Side, at: Position) -> io::Result<Self> {
        let (requests, replies) = memory.regions()?;
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

    /// The holder's outgoing half, and the receiver's.
    fn regions(&self) -> io::Result<(Region, Region)> {
        Ok((self.region(0)?, self.region(REGION_BYTES)?))
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
    fn lent_memory_can_be_written_by_its_owner_alone() {
        let mut own = OwnMemory::create(8192).expect("create");
        let peer = PeerMemory::map(&own.file, 8192).expect("map");
        own[8191] = 7;
        assert_eq!(peer.window().to_vec(8192)[8191], 7);
        let write = rustix::io::pwrite(&own.file, b"x", 0);
        assert_eq!(write, Err(rustix::io::Errno::PERM));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&own.file, punch, 0, 4096);
        assert_eq!(punched, Err(rustix::io::Errno::PERM));
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&own.file)
        );
        let again = std::fs::OpenOptions::new()
            .write(true)
            .read(true)
            .open(path);
        let again: OwnedFd = again.expect("reopen").into();
        let write = rustix::io::pwrite(&again, b"x", 0);
        assert_eq!(write, Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn memory_that_could_go_away_or_grow_is_not_borrowed() {
        for missing in PeerMemory::seals().iter() {
            let file = memory(b"abc", PeerMemory::seals() - missing);
            assert!(
                PeerMemory::map(&file, 8192).is_err(),
                "accepted without {missing:?}"
            );
        }
        assert!(PeerMemory::map(&memory(b"", PeerMemory::seals()), 8192).is_err());
        assert!(PeerMemory::map(&memory(b"abc", PeerMemory::seals()), 3).is_ok());
        assert!(PeerMemory::map(&memory(b"abc", PeerMemory::seals()), 2).is_err());
        let holes = memory(b"", SealFlags::empty());
        rustix::fs::ftruncate(&holes, 8192).expect("truncate");
        rustix::fs::fcntl_add_seals(&holes, PeerMemory::seals()).expect("seal");
        assert!(PeerMemory::map(&holes, 8192).is_err());
    }

    #[test]
    fn words_are_shared_and_bounded() {
        let own = SharedWords::create(4).expect("create");
        let file = own.file().try_clone_to_owned().expect("duplicate");
        let other = SharedWords::open(file, 4).expect("open");
        own.word(3).expect("the last").store(7, Ordering::Relaxed);
        let seen = other.word(3).map(|word| word.load(Ordering::Relaxed));
        assert_eq!(seen, Some(7));
        assert!(own.word(4).is_none());
        let file = own.file().try_clone_to_owned().expect("duplicate");
        assert!(SharedWords::open(file, 5).is_err());
        let unsealed = memory(&[0; 32], SealFlags::empty());
        assert!(SharedWords::open(unsealed, 4).is_err());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        for len in [0, 2, 4] {
            assert!(Mapping::of_sealed(memory(b"abc", Mapping::seals()), len).is_err());
        }
    }
}
