//! The filter that makes calls wait.

use std::io;
use std::os::fd::AsFd;

use portolan_sys::confine::Instruction;
use portolan_sys::notify::Listener;

use crate::calls::{self, CALLS};
use crate::filter::Architecture;

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
    calls::hand_on(&Listener::install(&program(architecture))?, socket)
}

#[cfg(test)]
mod tests {
    use super::*;

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
