//! The two ways in which a channel carries its packets, and tests that run over both.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

/// How a channel carries its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Through its socket, for ever.
    Socket,
    /// Through memory that both sides share.
    Ring,
}

impl Flavour {
    /// The flavour that the descriptor of a right belongs to.
    ///
    /// A right on the socket gives the socket away. One that has gone over to memory has two
    /// things to wait for, its bell and its socket, and so gives an epoll instance away.
    ///
    /// Asking keeps a right that has not gone over yet on the socket, and has one that has gone over
    /// keep its descriptor ready for an event loop.
    ///
    /// # Panics
    ///
    /// If the descriptor is neither.
    #[must_use]
    pub fn of(right: impl AsFd) -> Self {
        let number = right.as_fd().as_raw_fd();
        let link = fs::read_link(format!("/proc/self/fd/{number}")).expect("an open descriptor");
        let link = link.to_string_lossy();
        if link.starts_with("socket:") {
            Self::Socket
        } else {
            assert_eq!(link, "anon_inode:[eventpoll]");
            Self::Ring
        }
    }
}

/// The memories that channels of this process share, by inode.
///
/// # Panics
///
/// If `/proc` is not there.
#[must_use]
pub fn memories() -> BTreeSet<u64> {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    // Other threads may close theirs meanwhile.
    let memories = paths.filter(|path| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:portolan"))
    });
    memories
        .filter_map(|path| Some(fs::metadata(path).ok()?.ino()))
        .collect()
}

/// Makes two tests, `name::socket` and `name::ring`, of a function `name` that takes a
/// [`Flavour`]. It stands where `#[test]` would; a function that it is forgotten for is dead code.
#[macro_export]
macro_rules! in_both_flavours {
    ($name:ident) => {
        mod $name {
            use $crate::flavour::Flavour;

            #[test]
            fn socket() {
                super::$name(Flavour::Socket);
            }

            #[test]
            fn ring() {
                super::$name(Flavour::Ring);
            }
        }
    };
}
