//! The stand-in for shared memory that loom can follow. Header words are loom's atomics. Records
//! are loom's cells, which is stricter than the relaxed atomic copies of the real region: an access
//! that the protocol does not order is reported, not merely answered with an old value.
//!
//! # Safety
//!
//! Loom stops the model at the first pair of conflicting accesses to a cell, so the dereferences
//! below never race in an execution that goes on.
#![allow(unsafe_code, reason = "loom's cells hand out raw pointers")]

use std::sync::Arc;

use loom::cell::UnsafeCell;

use super::{Cut, RegionError, Word, region_bytes};
use crate::sync::{AtomicU64, Ordering, full_fence};

/// The memory of one ring, on the heap. A copy of a region names the same memory.
#[derive(Clone, Debug)]
pub struct Region {
    memory: Arc<Memory>,
}

#[derive(Debug)]
struct Memory {
    header: [AtomicU64; 8],
    records: Vec<UnsafeCell<u64>>,
}

// SAFETY: loom checks each access to the cells.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Region {
    /// Makes the memory of a ring of `capacity` bytes, to be used inside of one loom model.
    ///
    /// # Errors
    ///
    /// [`RegionError::Capacity`], see [`region_bytes`].
    pub fn heap(capacity: usize) -> Result<Self, RegionError> {
        region_bytes(capacity)?;
        let header = std::array::from_fn(|_| AtomicU64::new(0));
        let records = (0..capacity / 8).map(|_| UnsafeCell::new(0)).collect();
        Ok(Self {
            memory: Arc::new(Memory { header, records }),
        })
    }

    /// How many bytes of records fit, headers and padding included.
    pub fn capacity(&self) -> usize {
        self.memory.records.len() * 8
    }

    pub(crate) fn load(&self, word: Word, order: Ordering) -> u64 {
        self.word(word).load(order)
    }

    pub(crate) fn store(&self, word: Word, value: u64, order: Ordering) {
        self.word(word).store(value, order);
    }

    /// Loom takes a `SeqCst` access for an `AcqRel` one, and would find wake-ups lost that are not; a
    /// fence it knows.
    pub(crate) fn publish(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
        full_fence();
    }

    pub(crate) fn swap(&self, word: Word, value: u64, order: Ordering) -> u64 {
        self.word(word).swap(value, order)
    }

    pub(crate) fn read_header(&self, position: u64) -> u64 {
        self.read_word(self.cut(position, 8).offset)
    }

    pub(crate) fn write_header(&self, position: u64, value: u64) {
        self.write_word(self.cut(position, 8).offset, value);
    }

    pub(crate) fn write(&self, position: u64, bytes: &[u8]) {
        for (at, byte) in (position..).zip(bytes) {
            let offset = self.cut(at, 1).offset;
            let mut word = self.read_word(offset).to_ne_bytes();
            word[offset % 8] = *byte;
            self.write_word(offset, u64::from_ne_bytes(word));
        }
    }

    pub(crate) fn read(&self, position: u64, into: &mut [u8]) {
        for (at, byte) in (position..).zip(into) {
            let offset = self.cut(at, 1).offset;
            *byte = self.read_word(offset).to_ne_bytes()[offset % 8];
        }
    }

    pub(crate) fn append(&self, position: u64, len: usize, into: &mut Vec<u8>) {
        let start = into.len();
        into.resize(start + len, 0);
        self.read(position, &mut into[start..]);
    }

    fn cut(&self, position: u64, len: usize) -> Cut {
        Cut::new(self.capacity(), position, len)
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        &self.memory.header[word as usize / 128 + word as usize % 128 / 8]
    }

    fn read_word(&self, offset: usize) -> u64 {
        // SAFETY: the pointer is to a live cell, and loom has just checked that nobody writes it.
        self.memory.records[offset / 8].with(|word| unsafe { *word })
    }

    fn write_word(&self, offset: usize, value: u64) {
        // SAFETY: as above, and that nobody reads it.
        self.memory.records[offset / 8].with_mut(|word| unsafe { *word = value });
    }
}
