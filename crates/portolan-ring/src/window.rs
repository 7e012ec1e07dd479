//! # Safety
//!
//! As for a ring's records: the memory is only ever copied from, with [`copy`](crate::copy), and no
//! reference to it is made. That a run of bytes lies within the memory is checked here.
#![allow(unsafe_code, reason = "raw pointers name memory that others write")]

use std::ptr::NonNull;

use crate::copy;

/// Memory that another process may write at any time, to copy bytes out of.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: every access acts like relaxed atomic loads and stores, so it does not matter who makes it.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Looks at `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// As long as the window exists, `base` must be valid for reads of `len` bytes, and this process
    /// must not write to them other than atomically. A mapped file must be unable to shrink.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Where they begin.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes there are to see.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to see.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the bytes from `at` on into all of `into`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        let from = self.run(at, into.len());
        // SAFETY: `into.len()` bytes are there, as was just checked.
        unsafe { copy::out_of_shared(from, into.as_mut_ptr(), into.len()) };
    }

    /// Copies the first `len` bytes.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    #[must_use]
    pub fn to_vec(&self, len: usize) -> Vec<u8> {
        let from = self.run(0, len);
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: `len` bytes are there, and as many were reserved.
        unsafe { copy::out_of_shared(from, bytes.as_mut_ptr(), len) };
        // SAFETY: they have just been written.
        unsafe { bytes.set_len(len) };
        bytes
    }

    /// Where the bytes from `at` on begin, of which there are `len`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub(crate) fn run(&self, at: usize, len: usize) -> *mut u8 {
        let end = at.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "the bytes are in the window"
        );
        self.base.as_ptr().wrapping_add(at)
    }
}
