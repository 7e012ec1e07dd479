//! Telling a process from the child that it forked.
//!
//! A forked child holds copies of its parent's descriptors and must not use them by accident.
//! [`epoch`] is a number that differs between the two and costs one load from memory: it lives in
//! a page that the kernel zeroes in the child (`MADV_WIPEONFORK`, madvise(2)).
//!
//! # Safety
//!
//! The page is mapped once, is never unmapped, and is only ever seen as an `AtomicU64` that starts
//! at its first byte.
#![allow(unsafe_code, reason = "one page with MADV_WIPEONFORK")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A number of this process that a forked child does not share.
///
/// It never changes in a process that does not fork, and is never 0.
pub fn epoch() -> u64 {
    let Some(page) = PAGE.get_or_init(map_page) else {
        return u64::from(std::process::id());
    };
    match page.load(Ordering::Relaxed) {
        0 => renew(page),
        epoch => epoch,
    }
}

static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
/// Ordinary memory, so a child goes on counting where its parent was.
static LAST: AtomicU64 = AtomicU64::new(0);

#[cold]
fn renew(page: &AtomicU64) -> u64 {
    let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => fresh,
        Err(first) => first,
    }
}

/// `None` where the kernel cannot wipe on fork (before 4.14); [`epoch`] is then the process id.
fn map_page() -> Option<&'static AtomicU64> {
    let size = rustix::param::page_size();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh anonymous mapping touches no memory that exists.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE) };
    let page = page.ok()?;
    // SAFETY: `page` is the whole mapping made above.
    if unsafe { rustix::mm::madvise(page, size, Advice::LinuxWipeOnFork) }.is_err() {
        return None;
    }
    // SAFETY: page-aligned, zeroed, never unmapped, and reached through this reference only.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_stable_and_a_child_has_another() {
        let before = epoch();
        assert_eq!(before, epoch());
        // SAFETY: the child calls only functions that are async-signal-safe here (a load, a
        // compare-exchange and _exit), never returns, and allocates nothing.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(epoch() == before);
            // SAFETY: _exit takes no pointers and does not return.
            unsafe { libc::_exit(code) }
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the result.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        assert!(libc::WIFEXITED(status));
        assert_eq!(
            libc::WEXITSTATUS(status),
            0,
            "the child saw its parent's epoch"
        );
        assert_eq!(before, epoch());
    }
}
