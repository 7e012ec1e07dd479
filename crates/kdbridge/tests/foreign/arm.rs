//! A program on an ARMv4T processor, behind the stub of the crate `gdbstub`.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use armv4t_emu::{Cpu, ExampleMem, Memory, Mode, reg};
use gdbstub::common::Signal;
use gdbstub::conn::{Connection, ConnectionExt};
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind,
};
use gdbstub::target::{Target, TargetResult};
use gdbstub_arch::arm::reg::ArmCoreRegs;
use gdbstub_arch::arm::{ArmBreakpointKind, Armv4t};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Stream;
use tempfile::TempDir;

const SOURCE: &str = "\
int counter = 41;
int add(int a, int b) {
    counter += a;
    return a + b;
}
void _start(void) {
    int sum = 7;
    for (;;)
        sum = add(1, sum);
}
";

/// Where the program is linked to be, and its stack.
const BASE: u32 = 0x8000;
const STACK: u32 = 0x10_0000;

const PATIENCE: Duration = Duration::from_secs(20);

/// The program's files.
pub(crate) struct Firmware(TempDir);

impl Firmware {
    pub(crate) fn build() -> Self {
        let firmware = Self(tempfile::tempdir().unwrap());
        let folder = firmware.0.path();
        fs::write(folder.join("firmware.c"), SOURCE).unwrap();
        run(
            folder,
            "clang-19 --target=armv4t-none-eabi -marm -g -O0 -c firmware.c",
        );
        run(
            folder,
            "ld.lld-19 --image-base=0x8000 -N -Ttext=0x8000 -o firmware firmware.o",
        );
        run(folder, "llvm-objcopy-19 -O binary firmware memory");
        firmware
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("firmware")
    }

    /// The address of the function `add`, which is the first in the file.
    pub(crate) fn add(&self) -> u64 {
        BASE.into()
    }

    /// The address of its first instruction.
    fn entry(&self) -> u32 {
        let elf = fs::read(self.file()).unwrap();
        u32::from_le_bytes(elf[24..28].try_into().unwrap())
    }

    /// Behind the stub, which stands still from then on.
    pub(crate) fn start(&self) -> (Stub, RspTarget) {
        let mut board = Board {
            cpu: Cpu::new(),
            memory: ExampleMem::new(),
            breakpoints: Vec::new(),
            watched: Vec::new(),
            stepping: false,
        };
        let bytes = fs::read(self.0.path().join("memory")).unwrap();
        for (at, byte) in (BASE..).zip(bytes) {
            board.memory.w8(at, byte);
        }
        for (register, value) in [(reg::SP, STACK), (reg::PC, self.entry()), (reg::CPSR, 0x10)] {
            board.cpu.reg_set(Mode::User, register, value);
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || GdbStub::new(theirs).run_blocking::<Loop>(&mut board));
        let stub = Stub(thread);
        let target = RspTarget::over(Stream::Unix(ours).prepare().unwrap(), PATIENCE).unwrap();
        (stub, target)
    }
}

fn run(folder: &Path, line: &str) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let status = command.args(words).current_dir(folder).status().unwrap();
    assert!(status.success(), "{line}");
}

type Ended = Result<DisconnectReason, gdbstub::stub::GdbStubError<&'static str, std::io::Error>>;

/// The stub in its thread, which ends when it is hung up on.
pub(crate) struct Stub(JoinHandle<Ended>);

impl Stub {
    /// Waits for the end, and what came of it.
    pub(crate) fn ends(self) -> Ended {
        self.0.join().unwrap()
    }
}

struct Board {
    cpu: Cpu,
    memory: ExampleMem,
    breakpoints: Vec<u32>,
    watched: Vec<(u32, u32)>,
    stepping: bool,
}

impl Board {
    /// Executes one instruction.
    fn step(&mut self) -> Option<SingleThreadStopReason<u32>> {
        let before = self.watched_words();
        self.cpu.step(&mut self.memory);
        let changed = before.iter().zip(self.watched_words());
        let changed = changed
            .zip(&self.watched)
            .find(|((old, new), _)| *old != new);
        if let Some((_, &(addr, _))) = changed {
            return Some(SingleThreadStopReason::Watch {
                tid: (),
                kind: WatchKind::Write,
                addr,
            });
        }
        let pc = self.cpu.reg_get(Mode::User, reg::PC);
        if self.breakpoints.contains(&pc) {
            return Some(SingleThreadStopReason::SwBreak(()));
        }
        self.stepping.then_some(SingleThreadStopReason::DoneStep)
    }

    fn watched_words(&mut self) -> Vec<u32> {
        let memory = &mut self.memory;
        self.watched.iter().map(|&(at, _)| memory.r32(at)).collect()
    }
}

impl Target for Board {
    type Arch = Armv4t;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, Armv4t, &'static str> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Board {
    fn read_registers(&mut self, registers: &mut ArmCoreRegs) -> TargetResult<(), Self> {
        for (number, value) in (0..).zip(&mut registers.r) {
            *value = self.cpu.reg_get(Mode::User, number);
        }
        registers.sp = self.cpu.reg_get(Mode::User, reg::SP);
        registers.lr = self.cpu.reg_get(Mode::User, reg::LR);
        registers.pc = self.cpu.reg_get(Mode::User, reg::PC);
        registers.cpsr = self.cpu.reg_get(Mode::User, reg::CPSR);
        Ok(())
    }

    fn write_registers(&mut self, registers: &ArmCoreRegs) -> TargetResult<(), Self> {
        for (number, value) in (0..).zip(registers.r) {
            self.cpu.reg_set(Mode::User, number, value);
        }
        self.cpu.reg_set(Mode::User, reg::SP, registers.sp);
        self.cpu.reg_set(Mode::User, reg::LR, registers.lr);
        self.cpu.reg_set(Mode::User, reg::PC, registers.pc);
        self.cpu.reg_set(Mode::User, reg::CPSR, registers.cpsr);
        Ok(())
    }

    fn read_addrs(&mut self, start: u32, into: &mut [u8]) -> TargetResult<usize, Self> {
        for (at, byte) in (0..).zip(into.iter_mut()) {
            *byte = self.memory.r8(start.wrapping_add(at));
        }
        Ok(into.len())
    }

    fn write_addrs(&mut self, start: u32, from: &[u8]) -> TargetResult<(), Self> {
        for (at, byte) in (0..).zip(from) {
            self.memory.w8(start.wrapping_add(at), *byte);
        }
        Ok(())
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Board {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), &'static str> {
        self.stepping = false;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Board {
    fn step(&mut self, _: Option<Signal>) -> Result<(), &'static str> {
        self.stepping = true;
        Ok(())
    }
}

impl Breakpoints for Board {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Board {
    fn add_sw_breakpoint(&mut self, at: u32, kind: ArmBreakpointKind) -> TargetResult<bool, Self> {
        self.breakpoints.push(at);
        Ok(matches!(kind, ArmBreakpointKind::Arm32))
    }

    fn remove_sw_breakpoint(&mut self, at: u32, _: ArmBreakpointKind) -> TargetResult<bool, Self> {
        let before = self.breakpoints.len();
        self.breakpoints.retain(|place| *place != at);
        Ok(self.breakpoints.len() < before)
    }
}

impl HwWatchpoint for Board {
    fn add_hw_watchpoint(&mut self, at: u32, len: u32, _: WatchKind) -> TargetResult<bool, Self> {
        self.watched.push((at, len));
        Ok(len == 4)
    }

    fn remove_hw_watchpoint(
        &mut self,
        at: u32,
        len: u32,
        _: WatchKind,
    ) -> TargetResult<bool, Self> {
        self.watched.retain(|place| *place != (at, len));
        Ok(true)
    }
}

enum Loop {}

impl BlockingEventLoop for Loop {
    type Target = Board;
    type Connection = UnixStream;
    type StopReason = SingleThreadStopReason<u32>;

    fn wait_for_stop_reason(
        board: &mut Board,
        line: &mut UnixStream,
    ) -> Result<
        Event<Self::StopReason>,
        WaitForStopReasonError<&'static str, <UnixStream as Connection>::Error>,
    > {
        loop {
            let heard = line.peek().map_err(WaitForStopReasonError::Connection)?;
            if heard.is_some() {
                let byte = ConnectionExt::read(line).map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
            for _ in 0..1000 {
                if let Some(stop) = board.step() {
                    return Ok(Event::TargetStopped(stop));
                }
            }
        }
    }

    fn on_interrupt(_: &mut Board) -> Result<Option<Self::StopReason>, &'static str> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}
