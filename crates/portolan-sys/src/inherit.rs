//! Descriptors that a parent left open for this process.
//!
//! # Safety
//!
//! A number from the environment is all there is to name an inherited descriptor. It is only ever
//! given to `fcntl(F_DUPFD_CLOEXEC)`, which fails for a number that is not open; the duplicate is
//! owned, and the original stays as it is for whoever owns it.
#![allow(
    unsafe_code,
    reason = "duplicates a descriptor known by its number only"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A close-on-exec duplicate of the descriptor with this number.
///
/// # Errors
///
/// `EBADF` if no descriptor has this number.
pub fn duplicate(number: u32) -> io::Result<OwnedFd> {
    let number =
        libc::c_int::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: takes no pointers, see the head of this file.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl has just made this descriptor for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_duplicate_is_the_same_pipe() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let number = u32::try_from(writer.as_raw_fd()).expect("a descriptor number");
        let mut copy = std::fs::File::from(duplicate(number).expect("duplicate"));
        drop(writer);
        copy.write_all(b"x").expect("write");
        drop(copy);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, b"x");
    }

    #[test]
    fn numbers_that_are_not_open_are_refused() {
        assert!(duplicate(u32::MAX).is_err());
        assert!(duplicate(1 << 20).is_err());
    }
}
