//! The bytes of a message, wherever they are.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::lent::{Borrowing, Lender, Loan};
use crate::mapping::Mapping;

/// Longest payload that is copied through the socket; longer ones travel in lent memory.
///
/// Copying wins at every length that fits (docs/design/002-inline-threshold.md), so this is what
/// fits: the default socket buffer limits a packet to 212,960 bytes, and the header and the most
/// right descriptors take 3,096 of them.
pub(crate) const INLINE_MAX: usize = 192 << 10;

/// Bytes of a message.
#[derive(Debug)]
pub(crate) enum Payload {
    Heap(Vec<u8>),
    /// In a sealed memfd, to be sent or as they arrived.
    Sealed(Mapping),
    /// To be sent, written in place.
    Loan(Box<Loan>),
    /// As they arrived, in memory that is the sender's.
    Borrowed(Box<Borrowing>),
}

impl Payload {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Sealed(mapping) => mapping,
            Self::Loan(loan) => loan,
            Self::Borrowed(borrowing) => borrowing.as_slice(),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Sealed(mapping) => mapping.to_vec(),
            Self::Loan(loan) => loan.into_vec(),
            Self::Borrowed(borrowing) => borrowing.into_vec(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Heap(bytes) => bytes.len(),
            Self::Sealed(mapping) => mapping.len(),
            Self::Loan(loan) => loan.len(),
            Self::Borrowed(borrowing) => borrowing.len(),
        }
    }

    /// Copies bytes from `at` on, as many as there are and have room. Where they are still in memory
    /// of the sender's, those before `at` are not looked at again.
    pub(crate) fn read(&self, at: usize, mut into: &mut [u8]) -> usize {
        match self {
            Self::Borrowed(borrowing) => borrowing.read(at, into),
            // Writing to a slice cannot fail.
            _ => into
                .write(self.as_slice().get(at..).unwrap_or_default())
                .unwrap_or(0),
        }
    }

    /// Moves bytes that are longer than this into memory that can be sent: some that the right
    /// lends, or a sealed memfd.
    ///
    /// # Errors
    ///
    /// What `memfd_create(2)`, `write(2)` or `fcntl(2)` say; the payload is unchanged then.
    pub(crate) fn make_portable(
        &mut self,
        inline_max: usize,
        lender: Option<&Arc<Lender>>,
    ) -> io::Result<()> {
        match self {
            Self::Loan(loan) if lender.is_some_and(|lender| loan.is_of(lender)) => return Ok(()),
            Self::Loan(_) | Self::Borrowed(_) => {
                let payload = std::mem::replace(self, Self::Heap(Vec::new()));
                *self = Self::Heap(payload.into_vec());
            }
            Self::Heap(_) | Self::Sealed(_) => {}
        }
        let Self::Heap(bytes) = self else {
            return Ok(());
        };
        if bytes.len() <= inline_max {
            return Ok(());
        }
        // Memory may be short, or the kernel too old to lend any.
        if let Some(Ok(mut loan)) = lender.map(|lender| lender.take(bytes.len())) {
            loan.copy_from_slice(bytes);
            *self = Self::Loan(Box::new(loan));
            return Ok(());
        }
        self.make_sealed()
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
