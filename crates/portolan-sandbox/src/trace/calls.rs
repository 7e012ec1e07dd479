//! The calls that are looked at.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use portolan_sys::confine::Instruction;
use portolan_sys::notify::Listener;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::filter::Architecture;

/// What an argument is about. The numbers are those of arguments: first that of the descriptor that a
/// relative path begins at, if there is one, then that of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
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

/// Where the flags of an open are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    Argument(u8),
    /// At the beginning of the memory that an argument points to.
    Pointer(u8),
    /// Those of creat(2).
    Creat,
}

use Step::{Bind, Change, Connect, Execute, Make, Open, Remove, Socket};

const CALLS: &[(&str, &[Step])] = &[
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

/// What the arguments of a call are about; nothing for one that is not looked at.
pub(super) fn steps(architecture: u32, number: u32) -> &'static [Step] {
    let here = Architecture::current().filter(|here| here.token() == architecture);
    let known = here.and_then(|here| {
        let mut calls = CALLS.iter();
        calls.find(|(name, _)| here.number(name) == Some(number))
    });
    known.map_or(&[], |(_, steps)| steps)
}

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const WAIT: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn program(architecture: Architecture) -> Vec<Instruction> {
    let numbers = CALLS
        .iter()
        .filter_map(|(name, _)| architecture.number(name));
    let numbers: Vec<u32> = numbers.collect();
    let step = |code, operand| skip(code, 0, 0, operand);
    // The jumps lead over what is left of the comparisons, which are fewer than 255.
    let left = |at: usize| (numbers.len() - at) as u8;
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        skip(JUMP_EQUAL, 0, left(0) + 1, architecture.token()),
        step(LOAD, NUMBER),
    ];
    for (at, number) in numbers.iter().enumerate() {
        program.push(skip(JUMP_EQUAL, left(at), 0, *number));
    }
    program.extend([step(RETURN, ALLOW), step(RETURN, WAIT)]);
    program
}

fn skip(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

/// Makes the calls of this thread wait, and of whatever it becomes, and hands the listener to whoever
/// has the other end of the socket. Nothing is gained any more by executing set-user-ID programs.
///
/// # Errors
///
/// `Unsupported` if there are no filters for this architecture, else what the kernel says.
pub fn install(socket: impl AsFd) -> io::Result<()> {
    let architecture = Architecture::current().ok_or(io::ErrorKind::Unsupported)?;
    rustix::thread::set_no_new_privs(true)?;
    let listener = Listener::install(&program(architecture))?;
    let handed = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&handed));
    let bytes = [IoSlice::new(b"l")];
    sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
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

    /// As the kernel runs it.
    fn answer(program: &[Instruction], token: u32, number: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            } = program[at];
            at += 1;
            match (code, operand) {
                (LOAD, NUMBER) => loaded = number,
                (LOAD, ARCHITECTURE) => loaded = token,
                (JUMP_EQUAL, _) if loaded == operand => at += usize::from(jump_true),
                (JUMP_EQUAL, _) => at += usize::from(jump_false),
                _ => return operand,
            }
        }
    }

    #[test]
    fn those_calls_wait_and_no_others() {
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let program = program(architecture);
            for number in 0..1000 {
                let mut calls = CALLS.iter();
                let waits = calls.any(|(name, _)| architecture.number(name) == Some(number));
                let expected = if waits { WAIT } else { ALLOW };
                let token = architecture.token();
                assert_eq!(answer(&program, token, number), expected, "{number}");
                assert_eq!(answer(&program, 0, number), ALLOW, "{number}");
            }
        }
    }
}
