//! Memory for a ring that a test can also write to as a hostile peer would.
//!
//! # Safety
//!
//! Whoever makes a region of this memory keeps the memory for longer. It is made of atomics only,
//! so that a reference to it never conflicts with what a ring does.
#![allow(unsafe_code, reason = "a region is made of a raw pointer")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use portolan_ring::{HEADER_BYTES, Region, RegionError};

/// Zeroed memory for one ring.
pub(crate) struct Memory {
    lines: Vec<Line>,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

impl Memory {
    pub(crate) fn new(capacity: usize) -> Self {
        let lines = (HEADER_BYTES + capacity) / size_of::<Line>();
        Self {
            lines: (0..lines).map(|_| Line::default()).collect(),
        }
    }

    /// The caller drops what it makes of the answer before the memory.
    pub(crate) fn region(&self) -> Region {
        let whole = self.part(0, size_of_val(self.lines.as_slice()));
        whole.expect("the capacity is one of a ring")
    }

    /// The same with `len` bytes of the memory from `skip` on.
    pub(crate) fn part(&self, skip: usize, len: usize) -> Result<Region, RegionError> {
        assert!(skip + len <= size_of_val(self.lines.as_slice()));
        let base = self.lines.as_ptr().cast::<u8>().wrapping_add(skip);
        let base = NonNull::new(base.cast_mut()).expect("memory is not at 0");
        // SAFETY: the lines are valid for reads and writes for as long as `self` is there, and are
        // nothing but atomics; the part was checked to lie within them.
        unsafe { Region::new(base, len) }
    }

    pub(crate) fn words(&self) -> usize {
        self.lines.len() * 8
    }

    /// Writes a word as a hostile peer would.
    pub(crate) fn scribble(&self, word: usize, value: u64) {
        let Line(words) = &self.lines[word / 8 % self.lines.len()];
        words[word % 8].store(value, Ordering::Relaxed);
    }

    /// Reads a word as a hostile peer would.
    pub(crate) fn peek(&self, word: usize) -> u64 {
        let Line(words) = &self.lines[word / 8 % self.lines.len()];
        words[word % 8].load(Ordering::Relaxed)
    }
}
