//! Waiting for what comes at some time, and looking whether it has come.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits until there is something, which `what` names.
///
/// # Panics
///
/// If there is nothing after this time.
pub fn eventually<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < within, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Waits until something holds.
///
/// # Panics
///
/// If it does not hold after this time.
pub fn until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    eventually(within, what, || holds().then_some(()));
}

/// Whether a descriptor is readable, or is within this time.
///
/// # Panics
///
/// If it cannot be polled.
#[must_use]
pub fn is_readable(fd: impl AsFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).expect("a short time");
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&within)).expect("poll") == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_comes_is_found_and_what_does_not_is_a_panic() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        assert!(!is_readable(&reader, Duration::ZERO));
        thread::spawn(move || writer.write_all(b"x"));
        until(Duration::from_secs(20), "it comes", || {
            is_readable(&reader, Duration::ZERO)
        });
        assert!(is_readable(&reader, Duration::ZERO));
        let in_vain = std::panic::catch_unwind(|| until(Duration::ZERO, "it comes", || false));
        assert!(in_vain.is_err());
    }
}
