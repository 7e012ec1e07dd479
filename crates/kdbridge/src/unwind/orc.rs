//! The kernel's own tables for unwinding (`CONFIG_UNWINDER_ORC`): for each range of instructions,
//! where the caller's stack begins and where the frame pointer was saved.
//!
//! There are two arrays, ordered by address: one of instruction addresses, each as its distance from
//! where it stands, and one of entries of six bytes.

use crate::symbols::ElfFile;
use crate::target::{Memory, TargetError};

const IP_BYTES: u64 = 4;
const ENTRY_BYTES: u64 = 6;

/// `push %rbp`, `mov %rsp, %rbp`, `ret`.
const PUSH_BP: u8 = 0x55;
const SET_BP: [u8; 3] = [0x48, 0x89, 0xe5];
const RETURN: u8 = 0xc3;
/// `endbr64`, with which functions begin that may be called by their address.
const BEGIN: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The number of the stack pointer in [`Format::Renumbered`]; a function's first argument has it in others.
const RENUMBERED_SP: u8 = 3;

/// From what the caller's stack pointer, or its frame pointer, is worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Undefined,
    /// The caller's stack pointer.
    PreviousSp,
    Ax,
    Dx,
    Di,
    Bp,
    Sp,
    R10,
    R13,
    /// What lies where the frame pointer points.
    BpIndirect,
    /// What lies where the stack pointer points.
    SpIndirect,
    Unknown,
}

/// What lies between a function and its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// A return address.
    Call,
    /// All registers of what was interrupted.
    Registers,
    /// Only what the processor itself saves of them.
    Interrupt,
    /// Nothing: here a stack begins.
    End,
    /// Nobody knows.
    Undefined,
}

/// How to get from a function to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sp: (Base, i16),
    pub(super) bp: (Base, i16),
    pub(super) between: Between,
}

impl Entry {
    /// For code without an entry: the frame pointer leads to the caller's and to the return address.
    pub(super) const FRAME_POINTER: Self = Self {
        sp: (Base::Bp, 16),
        bp: (Base::PreviousSp, -16),
        between: Between::Call,
    };

    /// Where a function has saved nothing yet, or all is back as it was.
    pub(super) const UNTOUCHED: Self = Self {
        sp: (Base::Sp, 8),
        bp: (Base::Undefined, 0),
        between: Between::Call,
    };

    /// Where it has saved the caller's frame pointer and not changed its own.
    pub(super) const SAVED: Self = Self {
        sp: (Base::Sp, 16),
        bp: (Base::PreviousSp, -16),
        between: Between::Call,
    };

    /// In the kernel's entry code the frame pointer, less one, leads to all registers of what was
    /// interrupted, in kernels that are built with frame pointers.
    pub(super) const ODD_FRAME_POINTER: Self = Self {
        sp: (Base::Bp, -1),
        bp: (Base::Undefined, 0),
        between: Between::Registers,
    };

    /// What follows from the instruction at `ip`, for code without an entry: the frame pointer is not
    /// the function's own before it is set, and behind where it was given back.
    pub(super) fn of_code(memory: &mut dyn Memory, ip: u64) -> Self {
        let mut code = [0; 5];
        let around = ip.wrapping_sub(1);
        if memory.read(around, &mut code).is_err() {
            return Self::FRAME_POINTER;
        }
        match code {
            [_, RETURN, ..] => Self::UNTOUCHED,
            [_, rest @ ..] if rest == BEGIN => Self::UNTOUCHED,
            [_, PUSH_BP, rest @ ..] if rest == SET_BP => Self::UNTOUCHED,
            [PUSH_BP, rest @ .., _] if rest == SET_BP => Self::SAVED,
            _ => Self::FRAME_POINTER,
        }
    }
}

/// How a kernel writes down what lies between two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Two bits, and a bit for the end of a stack: kernels before 6.4. The bit is the 11th, or the
    /// 12th in 6.3.
    TwoBits {
        /// The number of the bit that marks the end of a stack.
        end: u8,
    },
    /// Three bits, with a value of its own for the end of a stack.
    ThreeBits,
    /// The same, and registers have other numbers, as in kernel 7.3.
    Renumbered,
}

impl Format {
    fn entry(self, bytes: [u8; ENTRY_BYTES as usize]) -> Entry {
        let [sp_low, sp_high, bp_low, bp_high, bases, flags] = bytes;
        Entry {
            sp: (
                self.base(bases & 0xf),
                i16::from_le_bytes([sp_low, sp_high]),
            ),
            bp: (self.base(bases >> 4), i16::from_le_bytes([bp_low, bp_high])),
            between: self.between(flags),
        }
    }

    fn between(self, flags: u8) -> Between {
        match (self, flags & 7) {
            (Self::TwoBits { end }, _) if flags & (1 << (end & 7)) != 0 => Between::End,
            (Self::TwoBits { .. }, kind) => match kind & 3 {
                0 => Between::Call,
                1 => Between::Registers,
                2 => Between::Interrupt,
                _ => Between::Undefined,
            },
            (Self::ThreeBits | Self::Renumbered, kind) => match kind {
                1 => Between::End,
                2 => Between::Call,
                3 => Between::Registers,
                4 => Between::Interrupt,
                _ => Between::Undefined,
            },
        }
    }

    fn base(self, number: u8) -> Base {
        match (self, number) {
            (_, 0) => Base::Undefined,
            (_, 2) => Base::Dx,
            (_, 4) => Base::Bp,
            (_, 6) => Base::R10,
            (_, 7) => Base::R13,
            (Self::Renumbered, 1) => Base::Ax,
            (Self::Renumbered, RENUMBERED_SP) => Base::Sp,
            (Self::Renumbered, 5) => Base::Di,
            (Self::Renumbered, 8) => Base::PreviousSp,
            (Self::Renumbered, 9) => Base::SpIndirect,
            (Self::Renumbered, 10) => Base::BpIndirect,
            (Self::Renumbered, _) => Base::Unknown,
            (_, 1) => Base::PreviousSp,
            (_, 3) => Base::Di,
            (_, 5) => Base::Sp,
            (_, 8) => Base::BpIndirect,
            (_, 9) => Base::SpIndirect,
            _ => Base::Unknown,
        }
    }
}

/// Where the two arrays of a kernel or a module are in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrays {
    /// The addresses.
    pub ips: u64,
    /// The entries.
    pub entries: u64,
    /// How many there are of either.
    pub count: u64,
}

/// The two arrays of a kernel or a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrcTable {
    arrays: Arrays,
    /// Their content, if it need not be asked of the target.
    loaded: Option<(Vec<u8>, Vec<u8>)>,
}

impl OrcTable {
    /// Arrays that are read a few words at a time.
    #[must_use]
    pub fn in_memory(arrays: Arrays) -> Self {
        Self {
            arrays,
            loaded: None,
        }
    }

    /// The arrays in the file of a kernel that was moved by `slide`; `None` if they are not there, or
    /// are not ordered yet, which older kernels do when they start.
    #[must_use]
    pub fn in_file(elf: &ElfFile, slide: u64) -> Option<Self> {
        let ips = elf.section(".orc_unwind_ip")?;
        let entries = elf.section(".orc_unwind")?;
        let table = Self {
            arrays: Arrays {
                ips: ips.address.wrapping_add(slide),
                entries: entries.address.wrapping_add(slide),
                count: (ips.size / IP_BYTES).min(entries.size / ENTRY_BYTES),
            },
            loaded: Some((elf.bytes(ips).ok()?, elf.bytes(entries).ok()?)),
        };
        table.is_ordered().then_some(table)
    }

    /// Whether registers have the numbers of [`Format::Renumbered`], as the entry for the first
    /// instruction of a function shows: all that lies between the stack pointer and the caller's is the
    /// return address there.
    #[must_use]
    pub fn is_renumbered(&self, memory: &mut dyn Memory, function: u64) -> bool {
        let entry = self.raw(memory, function).ok().flatten();
        entry.is_some_and(|[low, high, _, _, bases, _]| {
            [low, high] == [8, 0] && bases & 0xf == RENUMBERED_SP
        })
    }

    /// The entry for the instruction at `ip`; `None` if there is none for it.
    pub(super) fn find(
        &self,
        memory: &mut dyn Memory,
        format: Format,
        ip: u64,
    ) -> Result<Option<Entry>, TargetError> {
        let raw = self.raw(memory, ip)?;
        Ok(raw.map(|it| format.entry(it)))
    }

    fn raw(
        &self,
        memory: &mut dyn Memory,
        ip: u64,
    ) -> Result<Option<[u8; ENTRY_BYTES as usize]>, TargetError> {
        let (mut low, mut high) = (0, self.arrays.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.ip(memory, middle)? <= ip {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(number) = low.checked_sub(1) else {
            return Ok(None);
        };
        let at = number * ENTRY_BYTES;
        Ok(Some(match &self.loaded {
            Some((_, entries)) => loaded(entries, at),
            None => live(memory, self.arrays.entries, at)?,
        }))
    }

    fn ip(&self, memory: &mut dyn Memory, number: u64) -> Result<u64, TargetError> {
        let at = number * IP_BYTES;
        let bytes = match &self.loaded {
            Some((ips, _)) => loaded(ips, at),
            None => live(memory, self.arrays.ips, at)?,
        };
        let distance = i64::from(i32::from_le_bytes(bytes));
        let place = self.arrays.ips.wrapping_add(at);
        Ok(place.wrapping_add_signed(distance))
    }

    fn is_ordered(&self) -> bool {
        let Some((ips, _)) = &self.loaded else {
            return false;
        };
        let (ips, _) = ips.as_chunks::<4>();
        let places = (0..).step_by(IP_BYTES as usize).zip(ips);
        let ips = places.map(|(at, ip)| i64::from(i32::from_le_bytes(*ip)) + at);
        ips.is_sorted()
    }
}

fn loaded<const N: usize>(bytes: &[u8], at: u64) -> [u8; N] {
    let at = at as usize;
    let found = bytes.get(at..at.saturating_add(N));
    found.and_then(|it| it.try_into().ok()).unwrap_or([0; N])
}

fn live<const N: usize>(
    memory: &mut dyn Memory,
    base: u64,
    at: u64,
) -> Result<[u8; N], TargetError> {
    let mut bytes = [0; N];
    memory.read(base.wrapping_add(at), &mut bytes)?;
    Ok(bytes)
}
