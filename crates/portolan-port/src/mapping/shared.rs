//! Memory that several processes use together.
//!
//! # Safety
//!
//! Any of them may write to it at any time, so it is reached through a `portolan_ring::Slate` alone,
//! which copies and has atomics. A file that could shrink is refused, so no access can fault.
#![allow(unsafe_code, reason = "mmap and munmap of shared memory")]

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use portolan_ring::Slate;
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// All of a file in memory, to read and to write together with others who have it.
///
/// Nobody is kept from writing at the same time: for each byte that is read there is some value that
/// was there. A forked child has the same memory.
pub struct SharedMapping {
    slate: Slate,
}

impl SharedMapping {
    /// Maps all of `file`, which nobody may be able to shrink.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file is not sealed against that, or is empty; otherwise what fcntl(2),
    /// fstat(2) or mmap(2) say.
    pub fn new(file: impl AsFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let size = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || size == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, flags, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping is valid for reads and writes until it is dropped with the slate; the
        // file cannot shrink; this process reaches it through the slate only.
        let slate = unsafe { Slate::new(start, len) };
        Ok(Self { slate })
    }

    /// How many bytes there are, never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.slate.len()
    }

    /// Copies the bytes from `at` on into all of `into`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        self.slate.read(at, into);
    }

    /// Copies all of `from` to the bytes from `at` on.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn write(&self, at: usize, from: &[u8]) {
        self.slate.write(at, from);
    }

    /// The four bytes at `at` as one number. `None` if they are not there, or not aligned to four.
    #[must_use]
    pub fn word(&self, at: usize) -> Option<&AtomicU32> {
        self.slate.word(at)
    }

    /// Where the bytes begin, for whoever knows what others do with them. They are there as long as
    /// this value is.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.slate.base().as_ptr()
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        let start = self.slate.base().as_ptr().cast();
        // SAFETY: unmaps just what `new` mapped, once; the slate is not used any more.
        let result = unsafe { rustix::mm::munmap(start, self.slate.len()) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

impl fmt::Debug for SharedMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMapping")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::Ordering::Relaxed;

    fn memory(len: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("test", flags).expect("memfd_create");
        ftruncate(&file, len).expect("ftruncate");
        fcntl_add_seals(&file, seals).expect("seal");
        file
    }

    #[test]
    fn two_mappings_are_the_same_memory() {
        let file = memory(5000, SealFlags::SHRINK);
        let (one, other) = (SharedMapping::new(&file), SharedMapping::new(&file));
        let (one, other) = (one.expect("map"), other.expect("map"));
        assert_eq!(one.len(), 5000);
        one.write(4998, b"ab");
        one.word(8).expect("a word").store(7, Relaxed);
        let mut read = [0; 2];
        other.read(4998, &mut read);
        assert_eq!(&read, b"ab");
        assert_eq!(other.word(8).map(|word| word.load(Relaxed)), Some(7));
    }

    #[test]
    fn memory_that_could_go_away_is_refused() {
        for (len, seals) in [(4096, SealFlags::GROW), (0, SealFlags::SHRINK)] {
            let error = SharedMapping::new(memory(len, seals)).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
        }
        let null = std::fs::File::open("/dev/null").expect("open");
        assert!(SharedMapping::new(null).is_err());
    }
}
