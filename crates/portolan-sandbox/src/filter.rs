//! The filter of system calls: one table, and a program for the kernel made of it.
//!
//! It is a list of what is allowed. What is known and forbidden gives `EPERM`, what is unknown
//! `ENOSYS`; a call by the numbers of another architecture, of x32 for one, kills the process.

mod assemble;
mod table;
#[cfg(test)]
mod tests;

use portolan_sys::confine::Instruction;

use crate::calls;

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
        self.one_of(*numbers)
    }

    fn one_of(self, numbers: table::Numbers) -> Option<u32> {
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
    assemble::assemble(architecture, allowances, |_| Wait::Never)
}

/// What of a call somebody is asked about, instead of the kernel seeing to it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Never,
    /// What is allowed, because Landlock may still refuse it.
    Allowed,
    /// What would be allowed with an entitlement for the network.
    Lacking,
}

/// The same filter for a program of which somebody is told what is refused to it: calls wait that
/// Landlock judges, and those that an entitlement for the network would allow. What they are to be
/// answered with says [`verdict`].
pub(crate) fn reporting(architecture: Architecture, allowances: Allowances) -> Vec<Instruction> {
    let waits = |name: &str| match calls::of(name) {
        [] => Wait::Never,
        steps if steps.iter().any(|step| step.is_of_a_socket()) => Wait::Lacking,
        _ => Wait::Allowed,
    };
    assemble::assemble(architecture, allowances, waits)
}

/// What the filter says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Refused(u16),
}

impl Verdict {
    /// That on a call which is not known.
    pub(crate) const UNKNOWN: Self = Self::Refused(table::ENOSYS);
}

/// What the ordinary filter says of a call: of its number and arguments, which no program changes once
/// it has made it.
pub(crate) fn verdict(
    architecture: Architecture,
    allowances: Allowances,
    number: u32,
    arguments: &[u64; 6],
) -> Verdict {
    let mut calls = table::CALLS.iter();
    let known = calls.find(|(_, numbers, _)| architecture.one_of(*numbers) == Some(number));
    let Some((_, _, rule)) = known else {
        return Verdict::UNKNOWN;
    };
    let allows = |case: &table::Case| {
        case.needs.are_met(allowances)
            && case
                .conditions
                .iter()
                .all(|condition| condition.holds(arguments))
    };
    match rule.cases.iter().any(allows) {
        true => Verdict::Allowed,
        false => Verdict::Refused(rule.errno),
    }
}
