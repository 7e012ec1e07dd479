//! # Safety
//!
//! The shared side is accessed through relaxed `AtomicU8` and, where it is aligned to 8,
//! `AtomicU64`. The private side is ordinary memory. See the parent module for why.
#![allow(
    unsafe_code,
    reason = "raw pointers are the only way to name such memory"
)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// # Safety
///
/// `from` must be valid for reads of `len` bytes by this process alone, `to` must be valid for
/// atomic writes of as many, and the two must not overlap.
#[inline]
pub(crate) unsafe fn into_shared(from: *const u8, to: *mut u8, len: usize) {
    for (offset, whole) in steps(to, len) {
        let (from, to) = (from.wrapping_add(offset), to.wrapping_add(offset));
        if whole {
            // SAFETY: a step that is whole has 8 bytes left on both sides.
            let word = unsafe { from.cast::<u64>().read_unaligned() };
            // SAFETY: as above, and on the shared side it is aligned to 8.
            unsafe { AtomicU64::from_ptr(to.cast()) }.store(word, Relaxed);
        } else {
            // SAFETY: each step has a byte left on both sides.
            let byte = unsafe { from.read() };
            // SAFETY: as above.
            unsafe { AtomicU8::from_ptr(to) }.store(byte, Relaxed);
        }
    }
}

/// # Safety
///
/// `from` must be valid for atomic reads of `len` bytes, `to` must be valid for writes of as many
/// by this process alone, and the two must not overlap.
#[inline]
pub(crate) unsafe fn out_of_shared(from: *const u8, to: *mut u8, len: usize) {
    for (offset, whole) in steps(from, len) {
        let (from, to) = (
            from.cast_mut().wrapping_add(offset),
            to.wrapping_add(offset),
        );
        if whole {
            // SAFETY: a step that is whole has 8 bytes left on both sides, aligned to 8 here.
            let word = unsafe { AtomicU64::from_ptr(from.cast()) }.load(Relaxed);
            // SAFETY: as above, with no alignment asked for.
            unsafe { to.cast::<u64>().write_unaligned(word) };
        } else {
            // SAFETY: each step has a byte left on both sides.
            let byte = unsafe { AtomicU8::from_ptr(from) }.load(Relaxed);
            // SAFETY: as above.
            unsafe { to.write(byte) };
        }
    }
}

/// The offsets at which to copy a word (true) or a byte (false), words where `shared` is aligned.
#[inline]
fn steps(shared: *const u8, len: usize) -> impl Iterator<Item = (usize, bool)> {
    let head = shared.addr().wrapping_neg() % 8;
    let head = head.min(len);
    let words = (len - head) / 8;
    let tail = head + words * 8;
    let bytes = |range: std::ops::Range<usize>| range.map(|offset| (offset, false));
    bytes(0..head)
        .chain((0..words).map(move |word| (head + word * 8, true)))
        .chain(bytes(tail..len))
}
