//! A description of the registers, for a target that has none.

use std::fmt::Write;

use crate::rsp::hex;
use crate::symbols::bytes::Bytes;
use crate::target::Registers;

const GENERAL: [&str; 17] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip",
];
const OTHERS: [&str; 7] = ["eflags", "cs", "ss", "ds", "es", "fs", "gs"];

/// What the registers belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Machine,
    /// A program that Linux runs. GDB looks for its libraries only if there is the number of the system
    /// call that it is in.
    Program,
}

/// The general registers of x86-64, in the order of [`packet`].
pub(super) fn description(owner: Owner) -> String {
    let system = match owner {
        Owner::Machine => "",
        Owner::Program => "<osabi>GNU/Linux</osabi>",
    };
    let mut xml = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
         <architecture>i386:x86-64</architecture>{system}\
         <feature name=\"org.gnu.gdb.i386.core\">",
    );
    let mut put = |name: &str, bits, kind| {
        // A `String` takes everything.
        write!(
            xml,
            "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"
        )
        .ok();
    };
    for name in GENERAL {
        let kind = match name {
            "rbp" | "rsp" => "data_ptr",
            "rip" => "code_ptr",
            _ => "int64",
        };
        put(name, 64, kind);
    }
    for name in OTHERS {
        put(name, 32, "int32");
    }
    // GDB takes no core without them.
    for index in 0..8 {
        put(&format!("st{index}"), 80, "i387_ext");
    }
    for name in [
        "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop",
    ] {
        put(name, 32, "int");
    }
    xml.push_str("</feature>");
    if owner == Owner::Program {
        xml.push_str(
            "<feature name=\"org.gnu.gdb.i386.linux\">\
             <reg name=\"orig_rax\" bitsize=\"64\" type=\"int\"/></feature>",
        );
    }
    xml.push_str("</target>");
    xml
}

/// How many bytes the registers behind the general ones take.
const FLOATS: usize = 8 * 10 + 8 * 4;

/// The `g` packet; registers that nobody can see are `x`.
pub(super) fn packet(registers: &Registers, owner: Owner) -> String {
    let mut packet = String::new();
    for value in registers.general.iter().chain([&registers.rip]) {
        packet += &hex::encode(&value.to_le_bytes());
    }
    packet += &hex::encode(&(registers.rflags as u32).to_le_bytes());
    for value in registers.segments {
        packet += &hex::encode(&value.to_le_bytes());
    }
    let call = match owner {
        Owner::Machine => 0,
        Owner::Program => 8,
    };
    packet + &"x".repeat((FLOATS + call) * 2)
}

/// The registers of a `G` packet.
pub(super) fn registers(digits: &[u8]) -> Option<Registers> {
    let end = (17 * 8 + 7 * 4) * 2;
    let bytes = hex::decode(digits.get(..end)?)?;
    let (longs, shorts) = bytes.split_at(17 * 8);
    let mut longs = longs.chunks_exact(8).map(Bytes::number);
    let mut registers = Registers::default();
    for register in &mut registers.general {
        *register = longs.next()?;
    }
    registers.rip = longs.next()?;
    let mut shorts = shorts.chunks_exact(4).map(Bytes::number);
    registers.rflags = shorts.next()?;
    for register in &mut registers.segments {
        *register = shorts.next()? as u32;
    }
    Some(registers)
}

/// Where register `number` is in the packet, in digits.
pub(super) fn place(number: u64) -> Option<std::ops::Range<usize>> {
    let number = usize::try_from(number).ok()?;
    let (start, bytes) = match number {
        0..17 => (number * 8, 8),
        17..24 => (17 * 8 + (number - 17) * 4, 4),
        24..32 => (164 + (number - 24) * 10, 10),
        32..40 => (244 + (number - 32) * 4, 4),
        40 => (276, 8),
        _ => return None,
    };
    Some(start * 2..(start + bytes) * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_travel_both_ways() {
        let before = Registers {
            general: std::array::from_fn(|index| index as u64 * 0x0101_0101_0101_0101),
            rip: 0xffff_ffff_8100_0000,
            rflags: 0x246,
            segments: [0x10, 0x18, 1, 2, 3, 4],
        };
        let text = packet(&before, Owner::Machine);
        assert_eq!(registers(text.as_bytes()), Some(before));
        assert_eq!(&text[place(16).unwrap()], "00000081ffffffff");
        assert_eq!(&text[place(18).unwrap()], "10000000");
        assert_eq!(place(39).unwrap().end, text.len());
        let text = packet(&before, Owner::Program);
        assert_eq!(place(40).unwrap().end, text.len());
        assert_eq!(place(41), None);
    }
}
