//! Descriptors that a parent left open for this process, or that this process leaves open for the
//! program it is about to become.
//!
//! # Safety
//!
//! A number from the environment or from a file is all there is to name an inherited descriptor.
//! To duplicate it is safe: a number that is not open is refused, and the original stays with
//! whoever owns it. To take it needs that nobody owns it. Everything in this process that opens a
//! descriptor makes it close-on-exec at once, and what lacks that was open before the program
//! began; [`take`] sets it under a lock, so it succeeds once. What [`leave`] and
//! [`leave_numbered`] have made inheritable is remembered and never taken. That leaves code which
//! clears the flag by other means: it must not take what it owns.
#![allow(
    unsafe_code,
    reason = "makes descriptors known by their numbers only into owned ones"
)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

/// The numbers that [`leave`] gave out.
static LEFT: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

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

/// Takes ownership of the descriptor with this number, which was left open over an exec and is
/// close-on-exec from now on.
///
/// # Errors
///
/// `EBADF` if no descriptor has this number, and also if it has an owner: it is close-on-exec, was
/// made inheritable by [`leave`], or is one of the standard streams 0 to 2.
pub fn take(number: u32) -> io::Result<OwnedFd> {
    let refused = || io::Error::from_raw_os_error(libc::EBADF);
    let raw = libc::c_int::try_from(number).map_err(|_| refused())?;
    let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= 2 || left.contains(&number) {
        return Err(refused());
    }
    // SAFETY: takes no pointers; a number that is not open is refused.
    let flags = unsafe { libc::fcntl(raw, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(refused());
    }
    // SAFETY: takes no pointers. `LEFT` is locked, so nobody else can have seen the flag missing
    // and take the descriptor as well.
    if unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and owned by nobody, see the head of this file. Tested by
    // `what_was_left_open_is_taken_once`.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Leaves a descriptor open for the program that this process executes next, and gives the number
/// under which it will be there. Its owner keeps it, in case the program cannot be executed.
///
/// # Errors
///
/// What fcntl(2) says.
pub fn leave(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    let number = descriptor.as_raw_fd().cast_unsigned();
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.insert(number);
    rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(number)
}

/// [`leave`] for a descriptor that is known by its number only. It stays with whoever owns it.
///
/// # Errors
///
/// `EBADF` if no descriptor has this number.
pub fn leave_numbered(number: u32) -> io::Result<()> {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.insert(number);
    set_flags(number, 0)
}

/// Takes [`leave`] and [`leave_numbered`] back: the descriptor is closed on exec.
///
/// # Errors
///
/// `EBADF` if no descriptor has this number.
pub fn close_on_exec(number: u32) -> io::Result<()> {
    set_flags(number, libc::FD_CLOEXEC)
}

fn set_flags(number: u32, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers, and a number that is not open is refused. Whoever owns it still
    // does, and `take` refuses it, see the head of this file. Tested by
    // `what_is_left_by_its_number_stays_with_its_owner`.
    if unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

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

    #[test]
    fn what_was_left_open_is_taken_once() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        // SAFETY: takes no pointers. Nobody owns the duplicate, and it is not close-on-exec.
        let number = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_DUPFD, 500) };
        drop(writer);
        let number = u32::try_from(number).expect("a descriptor number");
        let taken = take(number).expect("take");
        let again = take(number).expect_err("it has an owner");
        assert_eq!(again.raw_os_error(), Some(libc::EBADF));
        let flags = rustix::io::fcntl_getfd(&taken).expect("fcntl");
        assert_eq!(flags, FdFlags::CLOEXEC);
        std::fs::File::from(taken).write_all(b"x").expect("write");
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, b"x");
    }

    #[test]
    fn what_is_left_by_its_number_stays_with_its_owner() {
        let (reader, _writer) = io::pipe().expect("pipe");
        let number = u32::try_from(reader.as_raw_fd()).expect("a descriptor number");
        let flags = || rustix::io::fcntl_getfd(&reader).expect("fcntl");
        leave_numbered(number).expect("leave");
        assert_eq!(flags(), FdFlags::empty());
        assert!(take(number).is_err(), "it has an owner");
        close_on_exec(number).expect("take back");
        assert_eq!(flags(), FdFlags::CLOEXEC);
        assert!(leave_numbered(1 << 20).is_err());
        assert!(close_on_exec(u32::MAX).is_err());
    }

    #[test]
    fn what_somebody_owns_is_not_taken() {
        let (reader, _writer) = io::pipe().expect("pipe");
        let number = u32::try_from(reader.as_raw_fd()).expect("a descriptor number");
        assert!(take(number).is_err(), "it is close-on-exec");
        assert_eq!(leave(reader.as_fd()).expect("leave"), number);
        let flags = rustix::io::fcntl_getfd(&reader).expect("fcntl");
        assert_eq!(flags, FdFlags::empty());
        assert!(take(number).is_err(), "it was left by its owner");
        for stream in 0..3 {
            assert!(take(stream).is_err(), "a standard stream");
        }
    }
}
