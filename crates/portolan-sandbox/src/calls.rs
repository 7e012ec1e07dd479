//! The calls that entitlements decide about, and what their arguments are about.

mod listener;
mod target;
mod used;

use crate::filter::Architecture;

pub(crate) use listener::{each, hand_on, take};
pub(crate) use target::process_of;
pub(crate) use used::{Seen, Used, seen};

/// What an argument is about. The numbers are those of arguments: first that of the descriptor that a
/// relative path begins at, if there is one, then that of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file is opened.
    Open(Option<u8>, u8, Flags),
    /// A name is made, which must not be there.
    Make(Option<u8>, u8),
    /// A name is removed, or replaced if it is there.
    Remove(Option<u8>, u8),
    /// Attributes or the length of a file are changed.
    Change(Option<u8>, u8),
    /// A program is executed.
    Execute(Option<u8>, u8),
    /// A socket with this address is connected to.
    Connect(u8),
    /// A socket gets this address.
    Bind(u8),
    /// A socket is made.
    Socket,
}

impl Step {
    /// Whether it is about a socket, and not about a file.
    pub(crate) fn is_of_a_socket(self) -> bool {
        matches!(self, Connect(_) | Bind(_) | Socket)
    }
}

/// Where the flags of an open are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    Argument(u8),
    /// At the beginning of the memory that an argument points to.
    Pointer(u8),
    /// Those of creat(2).
    Creat,
}

use Step::{Bind, Change, Connect, Execute, Make, Open, Remove, Socket};

pub(crate) const CALLS: &[(&str, &[Step])] = &[
    ("open", &[Open(None, 0, Flags::Argument(1))]),
    ("openat", &[Open(Some(0), 1, Flags::Argument(2))]),
    ("openat2", &[Open(Some(0), 1, Flags::Pointer(2))]),
    ("creat", &[Open(None, 0, Flags::Creat)]),
    ("execve", &[Execute(None, 0)]),
    ("execveat", &[Execute(Some(0), 1)]),
    ("mkdir", &[Make(None, 0)]),
    ("mkdirat", &[Make(Some(0), 1)]),
    ("mknod", &[Make(None, 0)]),
    ("mknodat", &[Make(Some(0), 1)]),
    ("symlink", &[Make(None, 1)]),
    ("symlinkat", &[Make(Some(1), 2)]),
    ("link", &[Remove(None, 0), Make(None, 1)]),
    ("linkat", &[Remove(Some(0), 1), Make(Some(2), 3)]),
    ("unlink", &[Remove(None, 0)]),
    ("unlinkat", &[Remove(Some(0), 1)]),
    ("rmdir", &[Remove(None, 0)]),
    ("rename", &[Remove(None, 0), Remove(None, 1)]),
    ("renameat", &[Remove(Some(0), 1), Remove(Some(2), 3)]),
    ("renameat2", &[Remove(Some(0), 1), Remove(Some(2), 3)]),
    ("truncate", &[Change(None, 0)]),
    ("chmod", &[Change(None, 0)]),
    ("fchmodat", &[Change(Some(0), 1)]),
    ("fchmodat2", &[Change(Some(0), 1)]),
    ("chown", &[Change(None, 0)]),
    ("lchown", &[Change(None, 0)]),
    ("fchownat", &[Change(Some(0), 1)]),
    ("utime", &[Change(None, 0)]),
    ("utimes", &[Change(None, 0)]),
    ("futimesat", &[Change(Some(0), 1)]),
    ("utimensat", &[Change(Some(0), 1)]),
    ("setxattr", &[Change(None, 0)]),
    ("lsetxattr", &[Change(None, 0)]),
    ("removexattr", &[Change(None, 0)]),
    ("lremovexattr", &[Change(None, 0)]),
    ("connect", &[Connect(1)]),
    ("bind", &[Bind(1)]),
    ("socket", &[Socket]),
];

/// What the arguments of a call with this name are about; nothing for one that is not looked at.
pub(crate) fn of(name: &str) -> &'static [Step] {
    let known = CALLS.iter().find(|(known, _)| *known == name);
    known.map_or(&[], |(_, steps)| steps)
}

fn steps(architecture: u32, number: u32) -> &'static [Step] {
    let here = Architecture::current().filter(|here| here.token() == architecture);
    let known = here.and_then(|here| {
        let mut calls = CALLS.iter();
        calls.find(|(name, _)| here.number(name) == Some(number))
    });
    known.map_or(&[], |(_, steps)| steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_number_where_it_is_made() {
        for (name, steps) in CALLS {
            assert!(Architecture::X86_64.number(name).is_some(), "{name}");
            assert!(!steps.is_empty(), "{name}");
        }
        assert_eq!(Architecture::Aarch64.number("open"), None);
        assert_eq!(Architecture::Aarch64.number("openat"), Some(56));
        assert_eq!(steps(0, 257), [], "of another architecture");
    }
}
