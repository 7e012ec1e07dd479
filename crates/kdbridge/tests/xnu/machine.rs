//! A machine that runs the synthetic kernel: an interpreter for the instructions that are in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::{ConditionCode, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use kdbridge::discover::xnu::image_at;
use kdbridge::macho::MachFile;
use kdbridge::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};

use crate::build::{self, Built, FILE_BASE};

const CPU: Cpu = Cpu(0);
const LC_SEGMENT_64: u32 = 0x19;

/// The page where a kernel says where it is.
const LOWGLO: u64 = 0xffff_ff80_0000_2000;

const STACK: u64 = 0xffff_ff92_0000_0000;
const STACK_BYTES: usize = 0x4000;

/// What is at physical address 0.
const PHYSICAL: u64 = 0xffff_ff80_0000_0000;

/// The flag that lets interrupts through.
const INTERRUPTS: u64 = 0x200;

const RAX: usize = 0;
const RSP: usize = 7;
const RBP: usize = 6;

const SIGILL: u8 = 4;
const SIGTRAP: u8 = 5;
const SIGSEGV: u8 = 11;

#[derive(Debug, Clone)]
struct Region {
    base: u64,
    bytes: Vec<u8>,
}

/// The extension's name.
const EXTENSION: &str = "com.example.counter";

/// How far above the kernel it is, and how far apart from where it was before.
const TO_EXTENSION: u64 = 0x200_0000;
const EXTENSION_STEP: u64 = 0x10_0000;

const KMOD_INFO_BYTES: usize = 196;

/// An extension that the machine can load.
#[derive(Debug, Clone)]
struct Extension {
    image: Vec<u8>,
    /// Where it is when it is loaded for the first time.
    base: u64,
    load_tag: u32,
    /// Where its functions to start and to stop, and what the kernel is to know of it, are linked to.
    functions: [u64; 2],
    info: u64,
    /// Where the kernel has a pointer to that, and the extension's place in its list.
    object: u64,
    summary: u64,
}

impl Extension {
    fn new(built: &Built, slide: u64) -> Self {
        let image = built.kext();
        let at = |name: &str| address_in(&image, name);
        Self {
            base: FILE_BASE + slide + TO_EXTENSION,
            load_tag: 0,
            functions: [at("_example_start"), at("_example_stop")],
            info: at("_kmod_info"),
            object: address(built, "_example_kext") + slide + 88,
            summary: address(built, "_loaded_kext_summaries") + slide + 16,
            image: fs::read(&image).expect("an extension"),
        }
    }

    fn address(&self) -> u64 {
        self.base + (u64::from(self.load_tag) - 1) * EXTENSION_STEP
    }
}

/// The machine. It stands still first, as boot-arg `debug=1` makes a kernel do.
#[derive(Debug)]
pub(crate) struct Machine {
    regions: Vec<Region>,
    registers: Registers,
    /// The breakpoints that are set.
    pub(crate) traps: Arc<Mutex<BTreeSet<u64>>>,
    /// How many of them lay in an extension when its memory was freed.
    pub(crate) stale: Arc<AtomicU64>,
    /// The variables that are watched, with how many bytes they have, and one that was written to.
    watches: BTreeSet<(u64, u8)>,
    written: Option<u64>,
    extension: Extension,
    running: bool,
    stepping: bool,
    interrupt: bool,
    /// When the kernel wants to look in.
    timer: Option<Instant>,
    deadline_variable: u64,
    timer_handler: u64,
    /// Whether it can be stopped from outside, as a machine can, and a kernel cannot.
    listens: bool,
    pub(crate) slide: u64,
    pub(crate) uuid: String,
    /// How often the kernel looked in.
    pub(crate) ticks: Arc<AtomicU64>,
    /// How often memory was read that is not there.
    pub(crate) misses: Arc<AtomicU64>,
}

impl Machine {
    /// The machine with the kernel `slide` bytes above where it is linked to.
    pub(crate) fn new(built: &Built, slide: u64, listens: bool) -> Self {
        Self::with_extensions(built, slide, listens, 1)
    }

    /// The same with so many extensions loaded, one or none; the kernel has as many as its variable
    /// `wanted_kexts` says when it runs next.
    pub(crate) fn with_extensions(
        built: &Built,
        slide: u64,
        listens: bool,
        extensions: u32,
    ) -> Self {
        let kernel = fs::read(built.kernel()).expect("a kernel");
        let at = |name: &str| address(built, name) + slide;
        let base = FILE_BASE + slide;
        let mut machine = Self {
            regions: loaded(&kernel, slide),
            registers: Registers {
                rip: at("_kernel_bootstrap"),
                rflags: 0x202,
                segments: [8, 0x10, 0, 0, 0, 0],
                ..Registers::default()
            },
            traps: Arc::default(),
            stale: Arc::default(),
            watches: BTreeSet::new(),
            written: None,
            extension: Extension::new(built, slide),
            running: true,
            stepping: false,
            interrupt: false,
            timer: None,
            deadline_variable: at("_kdp_reentry_deadline"),
            timer_handler: at("_hndl_timer"),
            listens,
            slide,
            uuid: uuid(&kernel),
            ticks: Arc::default(),
            misses: Arc::default(),
        };
        machine.regions.push(Region {
            base: STACK,
            bytes: vec![0; STACK_BYTES],
        });
        machine.registers.general[RSP] = STACK + STACK_BYTES as u64 - 128;
        machine.add_lowglo(base, at("_version"));
        if extensions != 0 {
            machine.load_extension().expect("room");
        }
        let extensions = extensions.to_le_bytes();
        for variable in [at("_loaded_kext_summaries") + 8, at("_wanted_kexts")] {
            machine.write(variable, &extensions).expect("room");
        }
        let stop = machine.wait(Duration::from_secs(10));
        assert!(matches!(stop, Ok(Some(Stop::Signal(..)))), "{stop:?}");
        machine
    }

    /// Gives back the memory of the names, as a kernel does that was not told to keep them.
    pub(crate) fn forget_names(&mut self) {
        let base = FILE_BASE + self.slide;
        let kernel = image_at(self, base).expect("a kernel");
        let linker = kernel.segment("__LINKEDIT").expect("a segment").address;
        self.regions.retain(|region| region.base != linker);
    }

    /// What it answers to KDP's question for its version.
    pub(crate) fn banner(&self) -> String {
        let (uuid, base) = (&self.uuid, FILE_BASE + self.slide);
        format!("Darwin Kernel Version 24.6.0: Synthetic; UUID={uuid}; stext={base:#x}")
    }

    fn add_lowglo(&mut self, base: u64, version: u64) {
        let mut page = vec![0; 0x1000];
        page[..8].copy_from_slice(b"Catfish ");
        for (at, value) in [(0x10, base), (0x18, 0), (0x20, 0), (0x30, version)] {
            page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        self.regions.push(Region {
            base: LOWGLO,
            bytes: page,
        });
    }

    /// Puts the extension into memory, each time somewhere else, and lists it.
    fn load_extension(&mut self) -> Result<(), TargetError> {
        self.extension.load_tag += 1;
        let it = self.extension.clone();
        let address = it.address();
        let regions = loaded(&it.image, address);
        let size = regions.iter().map(|region| region.bytes.len() as u64).sum();
        self.regions.extend(regions);
        let mut info = [0; KMOD_INFO_BYTES];
        let mut entry = [0; 136];
        info[16..][..EXTENSION.len()].copy_from_slice(EXTENSION.as_bytes());
        entry[..EXTENSION.len()].copy_from_slice(EXTENSION.as_bytes());
        entry[64..80].copy_from_slice(&uuid_bytes(&it.image));
        let put = |into: &mut [u8], at: usize, value: u64| {
            into[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        let tag = u64::from(it.load_tag);
        for (at, value) in [(80, address), (88, size), (96, 1), (104, tag)] {
            put(&mut entry, at, value);
        }
        let [start, stop] = it.functions.map(|function| function + address);
        for (at, value) in [(156, address), (164, size), (180, start), (188, stop)] {
            put(&mut info, at, value);
        }
        let info_at = it.info + address;
        self.write(info_at, &info)?;
        self.write(it.object, &info_at.to_le_bytes())?;
        self.write(it.summary, &entry)
    }

    /// Frees its memory, and whatever is there.
    fn unload_extension(&mut self) {
        let start = self.extension.address();
        let inside = |at: u64| (start..start + EXTENSION_STEP).contains(&at);
        self.regions.retain(|region| !inside(region.base));
        let mut traps = self.traps.lock().expect("traps");
        let before = traps.len();
        traps.retain(|&at| !inside(at));
        let stale = (before - traps.len()) as u64;
        self.stale.fetch_add(stale, Ordering::Relaxed);
    }

    fn region(&self, at: u64) -> Option<(usize, usize)> {
        let inside = |region: &Region| at.wrapping_sub(region.base) < region.bytes.len() as u64;
        let index = self.regions.iter().position(inside)?;
        Some((index, (at - self.regions[index].base) as usize))
    }

    fn load(&mut self, at: u64, size: usize) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes[..size])
            .map_err(|_| Fault(SIGSEGV))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, at: u64, size: usize, value: u64) -> Result<(), Fault> {
        let bytes = value.to_le_bytes();
        let end = at + size as u64;
        let mut watches = self.watches.iter();
        let watch = watches.find(|(first, bytes)| *first < end && at < first + u64::from(*bytes));
        self.written = watch.map(|(first, _)| *first).or(self.written);
        self.write(at, &bytes[..size]).map_err(|_| Fault(SIGSEGV))
    }

    fn push(&mut self, value: u64) -> Result<(), Fault> {
        self.registers.general[RSP] -= 8;
        self.store(self.registers.general[RSP], 8, value)
    }

    fn pop(&mut self) -> Result<u64, Fault> {
        let value = self.load(self.registers.general[RSP], 8)?;
        self.registers.general[RSP] += 8;
        Ok(value)
    }

    fn is_timer_due(&self) -> bool {
        let listens = !self.stepping && self.registers.rflags & INTERRUPTS != 0;
        listens && self.timer.is_some_and(|at| Instant::now() >= at)
    }

    /// Calls what the kernel has for its timer.
    fn deliver_timer(&mut self) -> Result<(), Fault> {
        self.timer = None;
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.push(self.registers.rip)?;
        self.push(self.registers.rflags)?;
        self.registers.rflags &= !INTERRUPTS;
        self.registers.rip = self.timer_handler;
        Ok(())
    }

    fn is_trapped(&self, at: u64) -> bool {
        self.traps.lock().expect("traps").contains(&at)
    }

    /// Lets it run until it stops or `deadline` is there.
    fn run(&mut self, deadline: Instant) -> Option<Stop> {
        let mut turns = 0u32;
        loop {
            if self.is_trapped(self.registers.rip) {
                return Some(Stop::Breakpoint(CPU));
            }
            if std::mem::take(&mut self.interrupt) {
                return Some(Stop::Interrupted(CPU));
            }
            if self.is_timer_due() {
                self.deliver_timer().ok()?;
            }
            match self.step_one() {
                Ok(Done::Next) => {}
                Ok(Done::Idle) => {
                    thread::park_timeout(Duration::from_millis(1));
                    turns = 64;
                }
                Ok(Done::Trap) => return Some(Stop::Signal(CPU, SIGTRAP)),
                Err(Fault(signal)) => return Some(Stop::Signal(CPU, signal)),
            }
            if let Some(at) = self.written.take() {
                return Some(Stop::Watchpoint(CPU, at));
            }
            if self.stepping {
                return Some(Stop::Stepped(CPU));
            }
            turns += 1;
            if turns > 64 {
                turns = 0;
                if Instant::now() >= deadline {
                    return None;
                }
            }
        }
    }

    fn step_one(&mut self) -> Result<Done, Fault> {
        let at = self.registers.rip;
        let mut code = [0; 15];
        let (region, offset) = self.region(at).ok_or(Fault(SIGSEGV))?;
        let there = &self.regions[region].bytes[offset..];
        let length = there.len().min(15);
        code[..length].copy_from_slice(&there[..length]);
        let mut decoder = Decoder::with_ip(64, &code[..length], at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        self.registers.rip = instruction.next_ip();
        let done = self.execute(&instruction);
        if done.is_err() {
            self.registers.rip = at;
        }
        done
    }

    fn execute(&mut self, it: &Instruction) -> Result<Done, Fault> {
        match it.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Hlt => return Ok(Done::Idle),
            Mnemonic::Int3 => return Ok(Done::Trap),
            Mnemonic::Vmcall if self.registers.general[RAX] == 0 => self.unload_extension(),
            Mnemonic::Vmcall => self.load_extension().map_err(|_| Fault(SIGSEGV))?,
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.get(it, 1)?;
                self.set_operand(it, 0, value)?;
            }
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let value = sign_extended(self.get(it, 1)?, size(it, 1));
                self.set_operand(it, 0, value)?;
            }
            Mnemonic::Lea => self.set_operand(it, 0, self.address(it, 1))?,
            Mnemonic::Push => {
                let value = self.get(it, 0)?;
                self.push(value)?;
            }
            Mnemonic::Pop => {
                let value = self.pop()?;
                self.set_operand(it, 0, value)?;
            }
            Mnemonic::Popfq => self.registers.rflags = self.pop()?,
            Mnemonic::Call => {
                let target = self.get(it, 0)?;
                self.push(self.registers.rip)?;
                self.registers.rip = target;
            }
            Mnemonic::Ret => self.registers.rip = self.pop()?,
            Mnemonic::Jmp => self.registers.rip = self.get(it, 0)?,
            _ if it.is_jcc_short_or_near() => {
                if self.holds(it.condition_code()) {
                    self.registers.rip = it.near_branch_target();
                }
            }
            _ => self.calculate(it)?,
        }
        Ok(Done::Next)
    }

    fn calculate(&mut self, it: &Instruction) -> Result<(), Fault> {
        if it.mnemonic() == Mnemonic::Imul && it.op_count() == 3 {
            let product = self.get(it, 1)?.wrapping_mul(self.get(it, 2)?);
            return self.set_operand(it, 0, product);
        }
        let bits = size(it, 0) as u32 * 8;
        let (a, b) = (
            self.get(it, 0)?,
            if it.op_count() > 1 {
                self.get(it, 1)?
            } else {
                1
            },
        );
        let value = match it.mnemonic() {
            Mnemonic::Add | Mnemonic::Inc => a.wrapping_add(b),
            Mnemonic::Sub | Mnemonic::Cmp | Mnemonic::Dec => a.wrapping_sub(b),
            Mnemonic::And | Mnemonic::Test => a & b,
            Mnemonic::Or => a | b,
            Mnemonic::Xor => a ^ b,
            Mnemonic::Imul => a.wrapping_mul(b),
            _ => return Err(Fault(SIGILL)),
        };
        self.set_flags(it.mnemonic(), bits, [a, b, value]);
        match it.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => Ok(()),
            _ => self.set_operand(it, 0, value),
        }
    }

    fn set_flags(&mut self, mnemonic: Mnemonic, bits: u32, numbers: [u64; 3]) {
        let [a, b, value] = numbers.map(|number| number << (64 - bits));
        let top = |number: u64| number >> 63;
        let (carry, overflow) = match mnemonic {
            Mnemonic::Add | Mnemonic::Inc => (value < a, top((a ^ value) & (b ^ value))),
            Mnemonic::Sub | Mnemonic::Cmp | Mnemonic::Dec => (a < b, top((a ^ b) & (a ^ value))),
            _ => (false, 0),
        };
        let flags =
            u64::from(carry) | u64::from(value == 0) << 6 | top(value) << 7 | overflow << 11;
        self.registers.rflags = self.registers.rflags & !0x8c1 | flags;
    }

    fn holds(&self, condition: ConditionCode) -> bool {
        let flag = |bit: u32| self.registers.rflags >> bit & 1 != 0;
        let (carry, zero, sign, overflow) = (flag(0), flag(6), flag(7), flag(11));
        match condition {
            ConditionCode::b => carry,
            ConditionCode::ae => !carry,
            ConditionCode::e => zero,
            ConditionCode::ne => !zero,
            ConditionCode::be => carry || zero,
            ConditionCode::a => !carry && !zero,
            ConditionCode::s => sign,
            ConditionCode::ns => !sign,
            ConditionCode::l => sign != overflow,
            ConditionCode::ge => sign == overflow,
            ConditionCode::le => zero || sign != overflow,
            ConditionCode::g => !zero && sign == overflow,
            _ => false,
        }
    }

    fn get(&mut self, it: &Instruction, operand: u32) -> Result<u64, Fault> {
        Ok(match it.op_kind(operand) {
            OpKind::Register => self.register(it.op_register(operand)),
            OpKind::NearBranch64 => it.near_branch_target(),
            OpKind::Memory => self.load(self.address(it, operand), it.memory_size().size())?,
            _ => it.immediate(operand),
        })
    }

    fn set_operand(&mut self, it: &Instruction, operand: u32, value: u64) -> Result<(), Fault> {
        if it.op_kind(operand) == OpKind::Memory {
            return self.store(self.address(it, operand), it.memory_size().size(), value);
        }
        let register = it.op_register(operand);
        let place = &mut self.registers.general[place(register)];
        *place = match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => *place & !0xffff | value & 0xffff,
            _ => *place & !0xff | value & 0xff,
        };
        Ok(())
    }

    fn address(&self, it: &Instruction, operand: u32) -> u64 {
        it.virtual_address(operand, 0, |register, _, _| {
            Some(if register.is_gpr() {
                self.register(register)
            } else {
                0
            })
        })
        .expect("an address")
    }

    fn register(&self, register: Register) -> u64 {
        let value = self.registers.general[place(register)];
        match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => value & 0xffff,
            _ => value & 0xff,
        }
    }
}

/// Where a name of the kernel is linked to.
pub(crate) fn address(built: &Built, name: &str) -> u64 {
    address_in(&built.kernel(), name)
}

/// Where a name of an image is linked to.
pub(crate) fn address_in(image: &Path, name: &str) -> u64 {
    let file = MachFile::open(image).expect("an image");
    let symbols = file.symbols().expect("symbols");
    let symbol = symbols.iter().find(|symbol| symbol.name == name);
    symbol.unwrap_or_else(|| panic!("no {name}")).address
}

/// What one instruction led to.
enum Done {
    Next,
    Idle,
    Trap,
}

/// A signal.
struct Fault(u8);

/// Where a register stands in [`Registers::general`].
fn place(register: Register) -> usize {
    [0, 2, 3, 1, RSP, RBP, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15][register.full_register().number()]
}

fn size(it: &Instruction, operand: u32) -> usize {
    match it.op_kind(operand) {
        OpKind::Register => it.op_register(operand).size(),
        _ => it.memory_size().size(),
    }
}

fn sign_extended(value: u64, bytes: usize) -> u64 {
    let unused = 64 - bytes as u32 * 8;
    ((value << unused) as i64 >> unused) as u64
}

fn uuid_bytes(image: &[u8]) -> Vec<u8> {
    let commands = build::load_commands(image);
    let at = commands.iter().find(|it| it.2 == 0x1b).expect("a UUID").0;
    image[at + 8..at + 24].to_vec()
}

/// The UUID of an image as text.
pub(crate) fn uuid(image: &[u8]) -> String {
    let hex: String = uuid_bytes(image)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &hex[range]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// The segments of an image in memory, where a booter puts them: it also moves the addresses in its
/// load commands.
fn loaded(file: &[u8], slide: u64) -> Vec<Region> {
    let mut image = file.to_vec();
    let commands = build::load_commands(file);
    let segments: Vec<usize> = commands
        .iter()
        .filter(|it| it.2 == LC_SEGMENT_64)
        .map(|it| it.0)
        .collect();
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("a word"));
    let start = segments
        .iter()
        .map(|&at| word(at + 24))
        .min()
        .expect("a segment");
    let end = segments
        .iter()
        .map(|&at| word(at + 24) + word(at + 32))
        .max()
        .expect("a segment");
    if start != 0 {
        build::shift_pointers(&mut image, &build::data_of(file), start..end, slide);
    }
    for &at in &segments {
        build::shift_segment(&mut image, at, slide);
    }
    segments
        .iter()
        .map(|&at| {
            let (offset, size) = (word(at + 40) as usize, word(at + 48) as usize);
            let mut bytes = image[offset..offset + size].to_vec();
            bytes.resize(word(at + 32) as usize, 0);
            Region {
                base: word(at + 24) + slide,
                bytes,
            }
        })
        .collect()
}

impl Memory for Machine {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let (mut at, mut left) = (at, into);
        while !left.is_empty() {
            let Some((region, offset)) = self.region(at) else {
                self.misses.fetch_add(1, Ordering::Relaxed);
                return Err(TargetError::Unreadable(at));
            };
            let there = &self.regions[region].bytes[offset..];
            let length = there.len().min(left.len());
            left[..length].copy_from_slice(&there[..length]);
            left = &mut left[length..];
            at += length as u64;
        }
        Ok(())
    }
}

impl Target for Machine {
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(vec![CPU])
    }

    fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
        Ok(self.registers)
    }

    fn set_registers(&mut self, _: Cpu, registers: &Registers) -> Result<(), TargetError> {
        self.registers = *registers;
        Ok(())
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        self.read(at, &mut vec![0; from.len()])?;
        for (at, &byte) in (at..).zip(from) {
            let (region, offset) = self.region(at).ok_or(TargetError::Unreadable(at))?;
            self.regions[region].bytes[offset] = byte;
        }
        Ok(())
    }

    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read(PHYSICAL + at, into)
    }

    fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        self.read(at, &mut [0])?;
        match trap {
            Trap::Software | Trap::Hardware => {
                self.traps.lock().expect("traps").insert(at);
            }
            Trap::Write(size) => drop(self.watches.insert((at, size))),
            _ => return Err(TargetError::Refused("have that kind of watchpoint")),
        }
        Ok(())
    }

    fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        let was_set = match trap {
            Trap::Write(size) => self.watches.remove(&(at, size)),
            _ => self.traps.lock().expect("traps").remove(&at),
        };
        match was_set {
            true => Ok(()),
            false => Err(TargetError::Refused("have that trap")),
        }
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        (self.running, self.stepping) = (true, false);
        // As XNU does when it leaves its debugger.
        let after = self.load(self.deadline_variable, 4).unwrap_or_default();
        if after != 0 {
            self.timer = Some(Instant::now() + Duration::from_millis(after));
            self.write(self.deadline_variable, &[0; 4])?;
        }
        Ok(())
    }

    fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
        (self.running, self.stepping) = (true, true);
        Ok(())
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        if !self.listens {
            return Err(TargetError::CannotInterrupt("it does not listen"));
        }
        self.interrupt = true;
        Ok(())
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<Stop>, TargetError> {
        if !self.running {
            return Ok(None);
        }
        let stop = self.run(Instant::now() + patience);
        self.running = stop.is_none();
        Ok(stop)
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        self.traps.lock().expect("traps").clear();
        self.watches.clear();
        self.resume()
    }
}
