//! Sealed shared memory as bytes.
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
#![allow(unsafe_code, reason = "mmap and munmap of sealed memory")]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

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
    /// `fcntl(2)`, `fstat(2)` or `mmap(2)` say.
    pub(crate) fn of_sealed(file: OwnedFd, len: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let stat = rustix::fs::fstat(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        // In units of 512 bytes (stat(2)), whatever the page size.
        let is_backed = blocks.saturating_mul(512) >= size;
        let is_sealed = seals.contains(Self::seals());
        if !is_sealed || !is_backed || size != len as u64 || len == 0 {
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
