//! Backtraces: from the registers of a processor to the function where its stack began.

mod orc;

use crate::target::{KERNEL_HALF, Memory, Registers, TargetError};
use orc::{Base, Between, Entry};

pub use orc::{Arrays, Format, OrcTable};

/// No stack has more frames than this.
const MOST_FRAMES: usize = 256;

const AX: usize = 0;
const DX: usize = 3;
const DI: usize = 5;
const BP: usize = 6;
const SP: usize = 7;
const R10: usize = 10;
const R13: usize = 13;

/// `struct pt_regs`, which the entry code of every kernel lays out alike: where each register of
/// [`Registers::general`] is in it.
const PT_REGS: [u64; 16] = [
    80, 40, 88, 96, 104, 112, 32, 152, 72, 64, 56, 48, 24, 16, 8, 0,
];
const PT_REGS_IP: u64 = 128;

/// A place on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it executes, or will when what it called returns.
    pub ip: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Whether `ip` is where it stands, not where a call returns to.
    pub exact: bool,
    /// Whether it is a program's, not the kernel's.
    pub user: bool,
}

impl Frame {
    /// An address inside the instruction that is executed: a call may be the last thing that a
    /// function does, and then the one it returns to is another's.
    #[must_use]
    pub fn inside(&self) -> u64 {
        if self.exact {
            self.ip
        } else {
            self.ip.wrapping_sub(1)
        }
    }
}

/// What a backtrace is worked out from.
#[derive(Debug)]
pub struct Unwinder<'a> {
    /// The tables of the kernel and of each of its modules, with the addresses they are for.
    pub tables: &'a [(std::ops::Range<u64>, OrcTable)],
    /// How the tables are written.
    pub format: Format,
}

impl Unwinder<'_> {
    /// The frames of a processor, the innermost first. They end where the stack does, where a program
    /// was interrupted, or where nothing can be read.
    pub fn frames(&self, memory: &mut dyn Memory, registers: &Registers) -> Vec<Frame> {
        let mut state = State::new(registers);
        let mut frames: Vec<Frame> = Vec::new();
        while frames.len() < MOST_FRAMES && state.ip != 0 && !frames.contains(&state.frame()) {
            frames.push(state.frame());
            if state.user || !self.step(memory, &mut state).unwrap_or(false) {
                break;
            }
        }
        frames
    }

    /// Goes to the caller; false if there is none.
    fn step(&self, memory: &mut dyn Memory, state: &mut State) -> Result<bool, TargetError> {
        let ip = state.frame().inside();
        let table = self.tables.iter().find(|(range, _)| range.contains(&ip));
        let entry = match table {
            Some((_, table)) => table.find(memory, self.format, ip)?,
            None => None,
        };
        let entry = match entry {
            Some(entry) => entry,
            None => state.entry_of_code(memory),
        };
        let Some(sp) = state.caller_sp(memory, entry.sp)? else {
            return Ok(false);
        };
        match entry.between {
            Between::Call => state.leave_call(memory, sp)?,
            Between::Registers => {
                state.leave_interrupt(memory, sp.wrapping_add(PT_REGS_IP))?;
                state.load_all(memory, sp)?;
            }
            Between::Interrupt => state.leave_interrupt(memory, sp)?,
            Between::End | Between::Undefined => return Ok(false),
        }
        if entry.between != Between::Registers {
            state.load_bp(memory, entry.bp, sp)?;
        }
        // What is no program's and no kernel's is no frame.
        Ok(state.user || ip < KERNEL_HALF || state.ip >= KERNEL_HALF)
    }
}

/// The registers of a frame, as far as they are known.
#[derive(Debug)]
struct State {
    ip: u64,
    sp: u64,
    bp: u64,
    exact: bool,
    user: bool,
    /// All of them, in the frame of an interrupt.
    general: Option<[u64; 16]>,
}

impl State {
    fn new(registers: &Registers) -> Self {
        Self {
            ip: registers.rip,
            sp: registers.general[SP],
            bp: registers.general[BP],
            exact: true,
            user: registers.segments[0] & 3 != 0,
            general: Some(registers.general),
        }
    }

    fn frame(&self) -> Frame {
        Frame {
            ip: self.ip,
            sp: self.sp,
            exact: self.exact,
            user: self.user,
        }
    }

    /// What leads out of code that has no entry.
    fn entry_of_code(&self, memory: &mut dyn Memory) -> Entry {
        let entry = match self.exact {
            true => Entry::of_code(memory, self.ip),
            false => Entry::FRAME_POINTER,
        };
        match entry {
            Entry::FRAME_POINTER if self.bp & 1 != 0 => Entry::ODD_FRAME_POINTER,
            entry => entry,
        }
    }

    fn caller_sp(
        &self,
        memory: &mut dyn Memory,
        (base, offset): (Base, i16),
    ) -> Result<Option<u64>, TargetError> {
        let offset = i64::from(offset);
        let register = |number: usize| self.general.map(|it| it[number]);
        let plain = match base {
            Base::Sp => Some(self.sp),
            // A program's, which the kernel has not replaced yet.
            Base::Bp if self.ip >= KERNEL_HALF && self.bp < KERNEL_HALF => None,
            Base::Bp => Some(self.bp),
            Base::R10 => register(R10),
            Base::R13 => register(R13),
            Base::Di => register(DI),
            Base::Dx => register(DX),
            Base::Ax => register(AX),
            Base::SpIndirect => {
                return Ok(Some(memory.word(self.sp)?.wrapping_add_signed(offset)));
            }
            Base::BpIndirect => return memory.word(self.bp.wrapping_add_signed(offset)).map(Some),
            Base::Undefined | Base::PreviousSp | Base::Unknown => None,
        };
        Ok(plain.map(|it| it.wrapping_add_signed(offset)))
    }

    fn leave_call(&mut self, memory: &mut dyn Memory, sp: u64) -> Result<(), TargetError> {
        self.ip = memory.word(sp.wrapping_sub(8))?;
        self.sp = sp;
        self.exact = false;
        self.general = None;
        Ok(())
    }

    /// `at` is where the processor saved the address of the next instruction, and behind it the code
    /// segment, the flags and the stack pointer.
    fn leave_interrupt(&mut self, memory: &mut dyn Memory, at: u64) -> Result<(), TargetError> {
        self.ip = memory.word(at)?;
        self.user = memory.word(at.wrapping_add(8))? & 3 != 0;
        self.sp = memory.word(at.wrapping_add(24))?;
        self.exact = true;
        self.general = None;
        Ok(())
    }

    fn load_all(&mut self, memory: &mut dyn Memory, at: u64) -> Result<(), TargetError> {
        let mut general = [0; 16];
        for (register, offset) in general.iter_mut().zip(PT_REGS) {
            *register = memory.word(at.wrapping_add(offset))?;
        }
        self.bp = general[BP];
        self.general = Some(general);
        Ok(())
    }

    fn load_bp(
        &mut self,
        memory: &mut dyn Memory,
        (base, offset): (Base, i16),
        sp: u64,
    ) -> Result<(), TargetError> {
        let from = match base {
            Base::PreviousSp => sp,
            Base::Bp => self.bp,
            _ => return Ok(()),
        };
        self.bp = memory.word(from.wrapping_add_signed(offset.into()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Image;

    const TABLE: u64 = 0x1000;
    const STACK: u64 = 0x8000;
    const CODE: u64 = 0x10_0000;

    /// The tables of functions of 0x100 bytes from `CODE` on, each with the given entry, and a stack.
    struct Machine {
        entries: Vec<[u8; 6]>,
        stack: Vec<u64>,
    }

    impl Machine {
        fn memory(&self) -> Image {
            let mut bytes = Vec::new();
            for number in 0..self.entries.len() as u64 {
                let distance = CODE + number * 0x100 - (TABLE + number * 4);
                bytes.extend((distance as u32).to_le_bytes());
            }
            bytes.extend(self.entries.iter().flatten());
            bytes.resize((STACK - TABLE) as usize, 0);
            bytes.extend(self.stack.iter().flat_map(|it| it.to_le_bytes()));
            bytes.resize(bytes.len() + 0x400, 0);
            Image::new(TABLE, bytes)
        }

        fn table(&self) -> OrcTable {
            let count = self.entries.len() as u64;
            OrcTable::in_memory(Arrays {
                ips: TABLE,
                entries: TABLE + count * 4,
                count,
            })
        }

        fn frames(&self, format: Format, registers: &Registers) -> Vec<Frame> {
            let tables = [(CODE..CODE + 0x1_0000, self.table())];
            let unwinder = Unwinder {
                tables: &tables,
                format,
            };
            unwinder.frames(&mut self.memory(), registers)
        }

        fn ips(&self, format: Format, registers: &Registers) -> Vec<u64> {
            let frames = self.frames(format, registers);
            frames.iter().map(|frame| frame.ip).collect()
        }
    }

    fn entry(sp: (u8, i16), bp: (u8, i16), flags: u8) -> [u8; 6] {
        let ([a, b], [c, d]) = (sp.1.to_le_bytes(), bp.1.to_le_bytes());
        [a, b, c, d, sp.0 | bp.0 << 4, flags]
    }

    const SP_BASE: u8 = 5;
    const OLD: Format = Format::TwoBits { end: 2 };

    fn at(ip: u64, sp: u64) -> Registers {
        let mut registers = Registers {
            rip: ip,
            segments: [0x10; 6],
            ..Registers::default()
        };
        registers.general[SP] = sp;
        registers
    }

    /// f0 called f1 called f2; f2 has pushed two words, f1 one, and f0 begins the stack.
    fn calls(call: u8, end: u8) -> Machine {
        Machine {
            entries: vec![
                entry((SP_BASE, 8), (0, 0), end),
                entry((SP_BASE, 16), (1, -16), call),
                entry((SP_BASE, 24), (0, 0), call),
            ],
            stack: vec![1, 2, CODE + 0x150, 0xbb, CODE + 0x50],
        }
    }

    #[test]
    fn calls_are_followed_to_where_the_stack_begins() {
        let expected = [CODE + 0x210, CODE + 0x150, CODE + 0x50];
        let registers = at(CODE + 0x210, STACK);
        assert_eq!(calls(0, 4).ips(OLD, &registers), expected);
        let new = Format::ThreeBits;
        assert_eq!(calls(2, 1).ips(new, &registers), expected);
        let frames = calls(2, 1).frames(new, &registers);
        assert!(frames[0].exact && !frames[1].exact);
        assert_eq!(frames[1].sp, STACK + 24);
    }

    #[test]
    fn registers_may_have_other_numbers() {
        let sp = 3;
        let machine = Machine {
            entries: vec![
                entry((sp, 8), (0, 0), 1),
                entry((sp, 16), (8, -16), 2),
                entry((sp, 24), (0, 0), 2),
            ],
            ..calls(2, 1)
        };
        let expected = [CODE + 0x210, CODE + 0x150, CODE + 0x50];
        let registers = at(CODE + 0x210, STACK);
        assert_eq!(machine.ips(Format::Renumbered, &registers), expected);
        let mut memory = machine.memory();
        assert!(machine.table().is_renumbered(&mut memory, CODE));
        let old = calls(2, 1);
        assert!(!old.table().is_renumbered(&mut old.memory(), CODE));
    }

    #[test]
    fn a_call_that_ends_a_function_belongs_to_it() {
        let mut machine = calls(0, 4);
        machine.stack[2] = CODE + 0x200;
        let ips = machine.ips(OLD, &at(CODE + 0x210, STACK));
        assert_eq!(ips, [CODE + 0x210, CODE + 0x200, CODE + 0x50]);
    }

    #[test]
    fn an_interrupt_leads_to_what_it_interrupted() {
        let mut machine = calls(0, 4);
        // f3 is entered by an interrupt with all registers saved on the stack.
        machine.entries.push(entry((SP_BASE, 0), (0, 0), 1));
        let interrupted = STACK + 0x100;
        let mut saved = vec![0; 16];
        saved.extend([CODE + 0x210, 0x10, 0x202, interrupted, 0x18]);
        saved.resize(0x20, 0);
        saved.extend(&machine.stack);
        machine.stack = saved;
        let registers = at(CODE + 0x320, STACK);
        let frames = machine.frames(OLD, &registers);
        let ips: Vec<u64> = frames.iter().map(|it| it.ip).collect();
        let expected = [CODE + 0x320, CODE + 0x210, CODE + 0x150, CODE + 0x50];
        assert_eq!(ips, expected);
        assert!(frames[1].exact && frames[1].sp == interrupted);
    }

    #[test]
    fn a_program_that_was_interrupted_is_the_last_frame() {
        let mut machine = calls(0, 4);
        machine.entries.push(entry((SP_BASE, 0), (0, 0), 2));
        machine.stack = vec![0x40_1000, 0x33, 0x202, 0x7ffe_0000, 0x2b];
        let frames = machine.frames(OLD, &at(CODE + 0x320, STACK));
        assert_eq!(frames.len(), 2);
        assert!(frames[1].user && frames[1].ip == 0x40_1000);
    }

    #[test]
    fn code_without_tables_is_left_by_the_frame_pointer() {
        let machine = Machine {
            stack: vec![STACK + 0x20, 0x22_0000, 0, 0, 0, 0],
            ..calls(0, 4)
        };
        let mut registers = at(0x21_0000, STACK);
        registers.general[BP] = STACK;
        assert_eq!(machine.ips(OLD, &registers), [0x21_0000, 0x22_0000]);
    }

    #[test]
    fn at_the_ends_of_a_function_the_frame_pointer_is_the_callers() {
        let code = [0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0xc3];
        let mut bytes = [[0xcc].as_slice(), &code, &[0xcc; 8]].concat();
        // The frame of the caller, whom a fourth one called.
        let stack = [
            0x11_0000,
            STACK + 0x20,
            0x22_0000,
            0,
            STACK + 0x40,
            0x33_0000,
        ];
        bytes.resize(0x1000, 0);
        bytes.extend(stack.iter().flat_map(|it: &u64| it.to_le_bytes()));
        bytes.resize(0x2000, 0);
        let start = STACK - 0x1000 + 1;
        let unwinder = Unwinder {
            tables: &[],
            format: OLD,
        };
        let pushed = STACK + 8;
        for (offset, sp, bp, callers) in [
            (0, STACK + 16, STACK + 0x20, [0x22_0000, 0x33_0000]),
            (1, pushed, STACK + 0x20, [0x22_0000, 0x33_0000]),
            (4, pushed, pushed, [0x22_0000, 0x33_0000]),
            (5, pushed, pushed, [0x22_0000, 0x33_0000]),
            (6, STACK + 16, STACK + 0x20, [0x22_0000, 0x33_0000]),
        ] {
            let mut registers = at(start + offset, sp);
            registers.general[BP] = bp;
            let mut memory = Image::new(STACK - 0x1000, bytes.clone());
            let frames = unwinder.frames(&mut memory, &registers);
            let ips: Vec<u64> = frames.iter().skip(1).map(|it| it.ip).collect();
            assert_eq!(ips, callers, "{offset}");
        }
    }

    #[test]
    fn a_function_that_keeps_no_frame_has_its_caller_at_its_beginning() {
        let mut bytes = [0xcc, 0xf3, 0x0f, 0x1e, 0xfa, 0x8b, 0x47, 0x0c].to_vec();
        bytes.resize(0x1000, 0);
        let stack = [0x22_0000, STACK + 0x40, 0x33_0000, 0];
        bytes.extend(stack.iter().flat_map(|it: &u64| it.to_le_bytes()));
        bytes.resize(0x2000, 0);
        let mut registers = at(STACK - 0x1000 + 1, STACK);
        registers.general[BP] = STACK + 8;
        let unwinder = Unwinder {
            tables: &[],
            format: OLD,
        };
        let mut memory = Image::new(STACK - 0x1000, bytes);
        let frames = unwinder.frames(&mut memory, &registers);
        let ips: Vec<u64> = frames.iter().skip(1).map(|it| it.ip).collect();
        assert_eq!(ips, [0x22_0000, 0x33_0000]);
    }

    #[test]
    fn an_odd_frame_pointer_leads_to_what_was_interrupted() {
        let mut stack = vec![STACK + 0x20 + 1, 0x22_0000, 0, 0];
        stack.extend([0; 16]);
        stack.extend([0x33_0000, 0x10, 0x202, STACK + 0x200, 0x18]);
        stack[4 + 4] = STACK + 0x180;
        stack.resize(0x180 / 8, 0);
        stack.extend([0, 0x44_0000]);
        let machine = Machine {
            stack,
            ..calls(0, 4)
        };
        let mut registers = at(0x21_0000, STACK);
        registers.general[BP] = STACK;
        let frames = machine.frames(OLD, &registers);
        let ips: Vec<u64> = frames.iter().map(|it| it.ip).collect();
        assert_eq!(ips, [0x21_0000, 0x22_0000, 0x33_0000, 0x44_0000]);
        assert!(frames[2].exact && frames[2].sp == STACK + 0x200);
    }

    #[test]
    fn the_frame_pointer_of_a_program_leads_nowhere() {
        const KERNEL: u64 = 0xffff_ffff_8100_0000;
        let stack = [0, 0x40_1000, 0, 0];
        let bytes: Vec<u8> = stack.iter().flat_map(|it: &u64| it.to_le_bytes()).collect();
        for bp in [STACK, KERNEL_HALF] {
            let mut memory = Image::new(bp, bytes.clone());
            let mut registers = at(KERNEL, KERNEL_HALF + 0x100);
            registers.general[BP] = bp;
            let unwinder = Unwinder {
                tables: &[],
                format: OLD,
            };
            assert_eq!(unwinder.frames(&mut memory, &registers).len(), 1, "{bp:#x}");
        }
    }

    #[test]
    fn any_stack_and_any_table_comes_to_an_end() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        for _ in 0..2000 {
            let mut machine = calls(0, 4);
            for entry in &mut machine.entries {
                entry.fill_with(|| random() as u8);
            }
            for word in &mut machine.stack {
                *word = [CODE + random() % 0x400, STACK + random() % 64][random() as usize % 2];
            }
            let mut registers = at(CODE + random() % 0x400, STACK);
            registers.general[BP] = STACK + random() % 64;
            for format in [OLD, Format::ThreeBits, Format::Renumbered] {
                assert!(machine.frames(format, &registers).len() <= MOST_FRAMES);
            }
        }
    }

    #[test]
    fn a_stack_that_turns_in_a_circle_ends() {
        let machine = Machine {
            entries: vec![entry((SP_BASE, 0), (0, 0), 2)],
            stack: vec![CODE + 8, 0x10, 0, STACK, 0],
        };
        let ips = machine.ips(OLD, &at(CODE + 8, STACK));
        assert_eq!(ips, [CODE + 8]);
    }
}
