//! `kdbridge regs`: the registers of a processor.

use std::fmt;

use serde::Serialize;

use super::hex;
use crate::kernel::Kernel;
use crate::target::{Cpu, Target, TargetError};

const NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];

/// The registers of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registers {
    /// The processor.
    pub cpu: u32,
    /// In the order of GDB.
    pub registers: Vec<Register>,
}

/// What is in a register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Register {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    #[serde(serialize_with = "hex")]
    pub value: u64,
    /// What is at that address, if it is one of the kernel's.
    pub symbol: Option<String>,
}

/// Looks at the registers of a processor.
///
/// # Errors
///
/// What went wrong on the way to the target.
pub fn regs(target: &mut dyn Target, kernel: &Kernel, cpu: Cpu) -> Result<Registers, TargetError> {
    let values = target.registers(cpu)?;
    let general = NAMES.into_iter().zip(values.general);
    let special = [("rip", values.rip), ("rflags", values.rflags)];
    let segments = SEGMENTS.into_iter().zip(values.segments.map(u64::from));
    let all = general.chain(special).chain(segments);
    let registers = all.map(|(name, value)| Register {
        name,
        value,
        symbol: kernel.shown_at(value),
    });
    Ok(Registers {
        cpu: cpu.0,
        registers: registers.collect(),
    })
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CPU {}", self.cpu)?;
        for Register {
            name,
            value,
            symbol,
        } in &self.registers
        {
            write!(f, "{name:<7}{value:#018x}")?;
            match symbol {
                Some(symbol) => writeln!(f, " {symbol}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
