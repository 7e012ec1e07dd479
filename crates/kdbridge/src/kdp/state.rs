//! The registers of an x86-64 kernel thread as KDP has them: 21 words, without ss, ds and es.

use crate::symbols::bytes::Bytes;
use crate::target::Registers;

/// The instruction that a breakpoint is.
pub(super) const INT3: u8 = 0xCC;

/// The flag that makes the processor stop after one instruction.
pub(super) const SINGLE_STEP: u64 = 0x100;

/// Mach's number of the exception at both.
pub(super) const EXC_BREAKPOINT: u32 = 6;

/// Which registers: Mach's `x86_THREAD_STATE64`.
pub(super) const THREAD_STATE64: u32 = 4;

/// `x86_FLOAT_STATE64`, of which a kernel tells zeros only.
pub(super) const FLOAT_STATE64: u32 = 5;

/// The bytes of `x86_FLOAT_STATE64`.
pub(super) const FLOAT_STATE64_BYTES: usize = 524;

/// Mach's number of the processor.
pub(super) const CPU_TYPE_X86_64: u32 = 0x0100_0007;

/// Where rax, rbx, rcx, rdx, rdi, rsi, rbp, rsp, r8 to r15 stand in [`Registers::general`].
const ORDER: [usize; 16] = [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

const BYTES: usize = 21 * 8;

pub(super) fn decode(state: &[u8]) -> Option<Registers> {
    let words: Vec<u64> = state
        .first_chunk::<BYTES>()?
        .chunks_exact(8)
        .map(Bytes::number)
        .collect();
    let mut registers = Registers {
        rip: words[16],
        rflags: words[17],
        ..Registers::default()
    };
    for (&at, &word) in ORDER.iter().zip(&words) {
        registers.general[at] = word;
    }
    let [cs, .., fs, gs] = &mut registers.segments;
    [*cs, *fs, *gs] = [words[18] as u32, words[19] as u32, words[20] as u32];
    Some(registers)
}

pub(super) fn encode(registers: &Registers) -> Vec<u8> {
    let [cs, _, _, _, fs, gs] = registers.segments.map(u64::from);
    let general = ORDER.iter().map(|&at| registers.general[at]);
    general
        .chain([registers.rip, registers.rflags, cs, fs, gs])
        .flat_map(u64::to_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_the_order_of_the_kernel() {
        let state: Vec<u8> = (0..21u64).flat_map(u64::to_le_bytes).collect();
        let registers = decode(&state).expect("enough words");
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, rest @ ..] = registers.general;
        assert_eq!(
            [rax, rbx, rcx, rdx, rdi, rsi, rbp, rsp],
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(rest, [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((registers.rip, registers.rflags), (16, 17));
        assert_eq!(registers.segments, [18, 0, 0, 0, 19, 20]);
        assert_eq!(encode(&registers), state);
        assert_eq!(decode(&state[1..]), None);
    }
}
