//! The filter of system calls: one table, and a program for the kernel made of it.
//!
//! It is a list of what is allowed. What is known and forbidden gives `EPERM`, what is unknown
//! `ENOSYS`; a call by the numbers of another architecture, of x32 for one, kills the process.

mod assemble;
mod table;
#[cfg(test)]
mod tests;

use portolan_sys::confine::Instruction;

/// An architecture that there are filters for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// 64-bit x86, without x32.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

impl Architecture {
    /// What this program runs on, if there are filters for it.
    #[must_use]
    pub fn current() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" if cfg!(target_endian = "little") => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// The number of a call, if this architecture has it.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let (_, numbers, _) = table::CALLS.iter().find(|(known, ..)| *known == name)?;
        match self {
            Self::X86_64 => numbers.x86_64,
            Self::Aarch64 => numbers.aarch64,
        }
    }

    /// `AUDIT_ARCH_…` of `linux/audit.h`.
    pub(crate) fn token(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// What a filter lets through besides what every program may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowances {
    /// Calls that change files by their paths, because there are no paths but those granted.
    pub own_tree: bool,
    /// Connections to addresses of the network.
    pub client: bool,
    /// Connections from the network.
    pub server: bool,
    /// Unix sockets with a path.
    pub group_sockets: bool,
}

/// Makes the filter, which depends on nothing else.
///
/// ```
/// use portolan_sandbox::filter::{Allowances, Architecture, filter};
///
/// let program = filter(Architecture::X86_64, Allowances::default());
/// assert!(program.len() < 4096, "the kernel takes no longer ones");
/// ```
#[must_use]
pub fn filter(architecture: Architecture, allowances: Allowances) -> Vec<Instruction> {
    assemble::assemble(architecture, allowances)
}
