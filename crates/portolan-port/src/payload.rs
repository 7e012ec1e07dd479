//! The bytes of a message, wherever they are.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::mapping::Mapping;

/// Longest payload that is copied through the socket; longer ones travel as a sealed memfd.
///
/// Copying wins at every length that fits (docs/design/002-inline-threshold.md), so this is what
/// fits: the default socket buffer limits a packet to 212,960 bytes, and the header and the most
/// right descriptors take 3,096 of them.
pub(crate) const INLINE_MAX: usize = 192 << 10;

/// Bytes of a message: on the heap, or in a sealed memfd as they arrived.
#[derive(Debug)]
pub(crate) enum Payload {
    Heap(Vec<u8>),
    Sealed(Mapping),
}

impl Payload {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Sealed(mapping) => mapping,
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Sealed(mapping) => mapping.to_vec(),
        }
    }

    /// Moves bytes that are longer than this into a sealed memfd.
    ///
    /// # Errors
    ///
    /// What `memfd_create(2)`, `write(2)` or `fcntl(2)` say; the payload is unchanged then.
    pub(crate) fn make_portable(&mut self, inline_max: usize) -> io::Result<()> {
        if self.as_slice().len() > inline_max {
            self.make_sealed()
        } else {
            Ok(())
        }
    }

    /// Moves bytes into a sealed memfd if they are not in one; there must be some.
    ///
    /// # Errors
    ///
    /// Those of [`make_portable`](Self::make_portable).
    pub(crate) fn make_sealed(&mut self) -> io::Result<()> {
        if let Self::Heap(bytes) = self {
            *self = Self::Sealed(Mapping::of_sealed(seal(bytes)?, bytes.len())?);
        }
        Ok(())
    }
}

fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = create_memory()?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(n..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(&file, Mapping::seals() | SealFlags::SEAL)?;
    Ok(file)
}

/// An empty file in memory that can be sealed.
pub(crate) fn create_memory() -> io::Result<OwnedFd> {
    /// Kernels before 6.3 do not know `MFD_NOEXEC_SEAL`; later ones log a warning without it.
    static NOEXEC: AtomicBool = AtomicBool::new(true);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if NOEXEC.load(Ordering::Relaxed) {
        match rustix::fs::memfd_create("portolan", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => NOEXEC.store(false, Ordering::Relaxed),
            other => return Ok(other?),
        }
    }
    Ok(rustix::fs::memfd_create("portolan", flags)?)
}
