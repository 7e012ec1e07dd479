//! The memory of a channel as a peer maps it that keeps to no rules.
//!
//! # Safety
//!
//! The file is as long as the mapping and cannot shrink, or the peer kills itself. The memory is
//! seen as atomics only, so whatever the other side does to it conflicts with no reference.
#![allow(unsafe_code, reason = "mmap, and a slice of what it mapped")]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use portolan_ring::HEADER_BYTES;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::SendFlags;

/// Bytes of records in each direction.
pub(crate) const RING_BYTES: usize = 512 << 10;

/// Two directions with their headers.
pub(crate) const MEMORY_BYTES: usize = 2 * (HEADER_BYTES + RING_BYTES);

/// All of it.
#[derive(Debug)]
pub(crate) struct RawMemory {
    start: NonNull<AtomicU64>,
}

impl RawMemory {
    pub(crate) fn map(file: impl AsFd) -> Self {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), MEMORY_BYTES, access, flags, file, 0) };
        let start = NonNull::new(start.expect("mmap").cast()).expect("not at 0");
        Self { start }
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: a live mapping of so many bytes, aligned to a page, and seen as atomics only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), MEMORY_BYTES / 8) }
    }

    pub(crate) fn requests(&self) -> RawRing<'_> {
        let (words, _) = self.words().split_at(MEMORY_BYTES / 16);
        RawRing { words }
    }

    pub(crate) fn replies(&self) -> RawRing<'_> {
        let (_, words) = self.words().split_at(MEMORY_BYTES / 16);
        RawRing { words }
    }
}

impl Drop for RawMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps just what `map` mapped, once, and no borrow of it is left.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), MEMORY_BYTES) };
        assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

// SAFETY: the memory is atomics and belongs to no thread.
unsafe impl Send for RawMemory {}
// SAFETY: as above.
unsafe impl Sync for RawMemory {}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRing<'a> {
    words: &'a [AtomicU64],
}

/// A word of the header, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Published = 0,
    Released = 16,
    ConsumerSleeps = 32,
    ProducerSleeps = 48,
}

impl Word {
    pub(crate) const ALL: [Self; 4] = [
        Self::Published,
        Self::Released,
        Self::ConsumerSleeps,
        Self::ProducerSleeps,
    ];
}

impl RawRing<'_> {
    pub(crate) fn set(&self, word: Word, value: u64) {
        self.words[word as usize].store(value, Ordering::SeqCst);
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        self.words[word as usize].load(Ordering::SeqCst)
    }

    /// The word of the records at a position.
    pub(crate) fn at(&self, position: u64) -> &AtomicU64 {
        let records = &self.words[HEADER_BYTES / 8..];
        &records[position as usize / 8 % records.len()]
    }

    /// Writes a record whose header says what it likes, without publishing it. Gives the position
    /// behind it.
    pub(crate) fn write(&self, position: u64, (tag, len): (u32, u32), payload: &[u8]) -> u64 {
        let head = u64::from(tag) << 32 | u64::from(len);
        self.at(position).store(head, Ordering::SeqCst);
        let mut position = position + 8;
        for chunk in payload.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.at(position)
                .store(u64::from_le_bytes(word), Ordering::SeqCst);
            position += 8;
        }
        position
    }
}

/// Rings a bell that may be full, or none.
pub(crate) fn ring(bell: &OwnedFd) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // Full is as good as rung.
    rustix::net::send(bell, b"!", flags).ok();
}
