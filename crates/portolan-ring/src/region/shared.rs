//! # Safety
//!
//! The memory may be written by other processes at any moment, so Rust's rules for references can
//! never hold for it, and no reference to it but `&AtomicU64` to one header word is ever made.
//! Header words and record headers are accessed through `AtomicU64`; payload goes through
//! [`copy`](crate::copy), which acts as byte-wise relaxed atomic accesses. Bounds follow from two
//! facts: the contract of [`Region::new`] gives `HEADER_BYTES + capacity` bytes, and [`Cut`] never
//! yields a run that leaves the `capacity` bytes behind the header. The pieces of a wrapped run are
//! covered by the model test at each offset (tests/ring.rs).
#![allow(
    unsafe_code,
    reason = "this file is the only door to the mapped memory"
)]

use std::ptr::NonNull;

use super::{Cut, HEADER_BYTES, RegionError, Word, region_bytes};
use crate::copy;
use crate::sync::{AtomicU64, Ordering};

/// The memory of one ring, mapped by the caller. A copy of a region names the same memory.
#[derive(Clone, Debug)]
pub struct Region {
    base: NonNull<u8>,
    capacity: usize,
}

// SAFETY: every access is an atomic one or a copy that acts like one, so it does not matter which
// thread makes it, nor how many do.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Takes `len` bytes of memory at `base` as a ring: [`HEADER_BYTES`] and a power of two. The
    /// memory must be all zero when the first half is made of it, or that half and its peer will
    /// find each other [`Corrupt`](crate::Corrupt).
    ///
    /// # Errors
    ///
    /// [`RegionError`] where the length or the alignment is not that of a ring.
    ///
    /// # Safety
    ///
    /// As long as the region, a copy of it, or a half made of it exists, `base` must be valid for
    /// reads and writes of `len` bytes, and no reference that is not to an atomic may exist to
    /// any of them. A mapped file must be unable to shrink. Other processes, and other regions of
    /// this one, may write to the memory at any time.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Result<Self, RegionError> {
        let capacity = len.checked_sub(HEADER_BYTES).ok_or(RegionError::Capacity)?;
        region_bytes(capacity)?;
        if base.addr().get().is_multiple_of(64) {
            Ok(Self { base, capacity })
        } else {
            Err(RegionError::Alignment)
        }
    }

    /// How many bytes of records fit, headers and padding included.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(crate) fn load(&self, word: Word, order: Ordering) -> u64 {
        self.word(word as usize).load(order)
    }

    #[inline]
    pub(crate) fn store(&self, word: Word, value: u64, order: Ordering) {
        self.word(word as usize).store(value, order);
    }

    /// Stores a position and orders it before the loads behind it, if they are `SeqCst`.
    ///
    /// A swap is one instruction where a store and a fence are two. Being `SeqCst`, it and the load
    /// behind it have their places in one order with the fence of the other side.
    #[inline]
    pub(crate) fn publish(&self, word: Word, value: u64) {
        self.word(word as usize).swap(value, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn swap(&self, word: Word, value: u64, order: Ordering) -> u64 {
        self.word(word as usize).swap(value, order)
    }

    /// Reads the record header at `position`, a multiple of 8.
    #[inline]
    pub(crate) fn read_header(&self, position: u64) -> u64 {
        self.word(self.header_offset(position))
            .load(Ordering::Relaxed)
    }

    /// Writes a record header at `position`, a multiple of 8.
    #[inline]
    pub(crate) fn write_header(&self, position: u64, value: u64) {
        self.word(self.header_offset(position))
            .store(value, Ordering::Relaxed);
    }

    /// Copies `bytes` into the ring at `position`.
    #[inline]
    pub(crate) fn write(&self, position: u64, bytes: &[u8]) {
        let Cut {
            offset,
            first,
            rest,
        } = Cut::new(self.capacity, position, bytes.len());
        let (head, tail) = bytes.split_at(first);
        // SAFETY: `head` is valid for reads, and `offset + first` is within the capacity.
        unsafe { copy::into_shared(head.as_ptr(), self.record_ptr(offset), first) };
        if rest != 0 {
            // SAFETY: `tail` is valid for reads, and `rest` is within the capacity.
            unsafe { copy::into_shared(tail.as_ptr(), self.record_ptr(0), rest) };
        }
    }

    /// Copies `into.len()` bytes out of the ring.
    #[inline]
    pub(crate) fn read(&self, position: u64, into: &mut [u8]) {
        // SAFETY: `into` is valid for writes of its length.
        unsafe { self.read_raw(position, into.as_mut_ptr(), into.len()) };
    }

    /// Appends `len` bytes of the ring to `into`.
    #[inline]
    pub(crate) fn append(&self, position: u64, len: usize, into: &mut Vec<u8>) {
        into.reserve(len);
        let spare = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: at least `len` bytes were reserved behind the initialised ones.
        unsafe { self.read_raw(position, spare, len) };
        let filled = into.len() + len;
        // SAFETY: `read_raw` has just initialised the `len` bytes behind the old length.
        unsafe { into.set_len(filled) };
    }

    /// # Safety
    ///
    /// `into` must be valid for writes of `len` bytes and outside of the region.
    #[inline]
    unsafe fn read_raw(&self, position: u64, into: *mut u8, len: usize) {
        let Cut {
            offset,
            first,
            rest,
        } = Cut::new(self.capacity, position, len);
        // SAFETY: `offset + first` is within the capacity, and `into` takes `len >= first` bytes.
        unsafe { copy::out_of_shared(self.record_ptr(offset), into, first) };
        if rest != 0 {
            let into = into.wrapping_add(first);
            // SAFETY: `rest` is within the capacity, and `into` had `len - first` bytes left.
            unsafe { copy::out_of_shared(self.record_ptr(0), into, rest) };
        }
    }

    #[inline]
    fn header_offset(&self, position: u64) -> usize {
        HEADER_BYTES + Cut::new(self.capacity, position & !7, 8).offset
    }

    #[inline]
    fn record_ptr(&self, offset: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(HEADER_BYTES + offset)
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        let word = self.base.as_ptr().wrapping_add(offset).cast::<u64>();
        // SAFETY: callers give an offset of the header or of `header_offset`, which is a multiple
        // of 8 and at least 8 bytes before the end of the region; `base` is aligned to 64, and the
        // region is valid for as long as `self` is borrowed, by the contract of `new`.
        unsafe { AtomicU64::from_ptr(word) }
    }
}
