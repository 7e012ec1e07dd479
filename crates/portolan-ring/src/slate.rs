//! # Safety
//!
//! The memory is only ever copied to and from, with [`copy`](crate::copy), or reached through atomics,
//! and no other reference to it is made. That what is reached lies within the memory is checked here and by
//! [`Window::run`].
#![allow(unsafe_code, reason = "raw pointers name memory that others write")]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use crate::copy;
use crate::window::Window;

/// Memory that this process and others read and write at any time.
///
/// What is read is for each byte some value that was there; whoever needs more agrees on it with the
/// others, by the [words](Self::word) in it or otherwise.
#[derive(Debug)]
pub struct Slate {
    window: Window,
}

impl Slate {
    /// Uses `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// As long as the slate exists, `base` must be valid for reads and writes of `len` bytes, and this
    /// process must reach them in no other way than atomically. A mapped file must be unable to shrink.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        // SAFETY: the caller promises more than that.
        let window = unsafe { Window::new(base, len) };
        Self { window }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.window.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Where they begin.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.window.base()
    }

    /// Copies the bytes from `at` on into all of `into`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        self.window.read(at, into);
    }

    /// Copies all of `from` to the bytes from `at` on.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn write(&self, at: usize, from: &[u8]) {
        let to = self.window.run(at, from.len());
        // SAFETY: `from.len()` bytes are there, as was just checked.
        unsafe { copy::into_shared(from.as_ptr(), to, from.len()) };
    }

    /// The four bytes at `at` as one number, which others may change at any time. `None` if they are
    /// not there, or not aligned to four.
    #[must_use]
    pub fn word(&self, at: usize) -> Option<&AtomicU32> {
        let end = at.checked_add(size_of::<AtomicU32>())?;
        let word: *mut u32 = self.base().as_ptr().wrapping_add(at).cast();
        if end > self.len() || !word.is_aligned() {
            return None;
        }
        // SAFETY: it is aligned and lies within the memory, which is alive as long as `self` is and is
        // reached atomically only.
        Some(unsafe { AtomicU32::from_ptr(word) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_written_is_read_and_nothing_behind_the_end_is() {
        let mut memory = [0u64; 3];
        let base = NonNull::from(&mut memory).cast();
        // SAFETY: the array outlives the slate, which alone reaches it meanwhile.
        let slate = unsafe { Slate::new(base, 21) };
        slate.write(3, b"abc");
        let mut read = [0; 5];
        slate.read(2, &mut read);
        assert_eq!(&read, b"\0abc\0");
        slate.word(16).expect("the last").store(7, Relaxed);
        slate.read(16, &mut read);
        assert_eq!(u32::from_ne_bytes([read[0], read[1], read[2], read[3]]), 7);
        for nowhere in [1, 2, 18, 20, 24, usize::MAX - 3] {
            assert!(slate.word(nowhere).is_none(), "{nowhere}");
        }
        for (at, len) in [(17, 5), (22, 0), (usize::MAX, 2)] {
            let read = std::panic::catch_unwind(|| slate.read(at, &mut vec![0; len]));
            let written = std::panic::catch_unwind(|| slate.write(at, &vec![0; len]));
            assert!(read.is_err() && written.is_err(), "{at} {len}");
        }
    }
}
