//! A kernel that can be looked into and driven, whatever protocol lies in between.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use thiserror::Error;

/// Where the kernel's half of the address space begins; programs have the other one.
pub(crate) const KERNEL_HALF: u64 = 1 << 63;

/// The memory of a kernel that stands still.
pub trait Memory {
    /// Fills `into` with what is at the virtual address `at`, as the kernel itself would see it.
    ///
    /// # Errors
    ///
    /// [`TargetError::Unreadable`] with the first address that cannot be read, and what went wrong
    /// on the way there.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError>;

    /// The number of eight bytes, the lowest one first, at the virtual address `at`.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    fn word(&mut self, at: u64) -> Result<u64, TargetError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// One processor of the machine; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u32);

/// The general registers of an x86-64 processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15, in the order of GDB's `g` packet.
    pub general: [u64; 16],
    /// Where it executes.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// cs, ss, ds, es, fs, gs: selectors.
    pub segments: [u32; 6],
}

impl Registers {
    /// rbp, rsp and rip, with the numbers that they have in all descriptions of x86-64.
    pub(crate) fn expedited(&self) -> [(u8, u64); 3] {
        let [.., rbp, rsp, _, _, _, _, _, _, _, _] = self.general;
        [(6, rbp), (7, rsp), (16, self.rip)]
    }
}

/// Why a machine stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The debugger asked for it.
    Interrupted(Cpu),
    /// At a breakpoint; the registers say its address, not the one after it.
    Breakpoint(Cpu),
    /// A watchpoint for writes at this address.
    Watchpoint(Cpu, u64),
    /// One instruction was executed.
    Stepped(Cpu),
    /// An exception of another kind, with the number of the signal that GDB has for it.
    Signal(Cpu, u8),
}

impl Stop {
    /// The processor that it happened on.
    #[must_use]
    pub fn cpu(self) -> Cpu {
        match self {
            Self::Interrupted(cpu)
            | Self::Breakpoint(cpu)
            | Self::Watchpoint(cpu, _)
            | Self::Stepped(cpu)
            | Self::Signal(cpu, _) => cpu,
        }
    }
}

/// What is to be watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trap {
    /// Execution, by a changed instruction.
    Software,
    /// Execution, by a debug register.
    Hardware,
    /// Writes to this many bytes.
    Write(u8),
    /// Reads of this many bytes.
    Read(u8),
    /// Reads and writes of this many bytes.
    Access(u8),
}

impl Trap {
    /// Whether it is for execution, not for what is done with memory.
    #[must_use]
    pub fn is_breakpoint(self) -> bool {
        matches!(self, Self::Software | Self::Hardware)
    }
}

/// A kernel that can be stopped and driven. While it runs, only [`Target::interrupt`] and
/// [`Target::wait`] work.
pub trait Target: Memory {
    /// From here on what asks the target fails with [`TargetError::BrokenOff`] as soon as this is set; with
    /// `None`, nothing does. By itself a target does not look at it.
    fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        let _ = told;
    }

    /// Reads memory from here on as `cpu` sees it: processors may have different page tables.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn look_from(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        let _ = cpu;
        Ok(())
    }

    /// Reads as [`Memory::read`] does, and hands what it reads to `piece` as it arrives, in order.
    ///
    /// # Errors
    ///
    /// As for [`Memory::read`]; what comes before that may have been handed on.
    fn read_in_pieces(
        &mut self,
        at: u64,
        length: usize,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TargetError> {
        let mut bytes = vec![0; length];
        self.read(at, &mut bytes)?;
        piece(&bytes);
        Ok(())
    }

    /// Hands a request of the GDB protocol about `cpu` on; gives the answer, which is empty if the target
    /// does not know the request, and `None` if the target does not speak that protocol.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn forward(&mut self, cpu: Cpu, request: &[u8]) -> Result<Option<Vec<u8>>, TargetError> {
        let _ = (cpu, request);
        Ok(None)
    }

    /// How many bytes the register has that requests which are handed on give this number; `None` if there is
    /// none.
    fn size_of_register(&self, number: u64) -> Option<usize> {
        let _ = number;
        None
    }

    /// Has the target's own monitor do what `request`, of the GDB protocol, says. Gives the packets of the
    /// answer: what the monitor prints, and how it ended.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn monitor(&mut self, cpu: Cpu, request: &[u8]) -> Result<Vec<Vec<u8>>, TargetError> {
        Ok(vec![self.forward(cpu, request)?.unwrap_or_default()])
    }

    /// Whether the stub that the target is behind names this feature, as in `qXfer:auxv:read+`.
    fn has_feature(&self, feature: &str) -> bool {
        let _ = feature;
        false
    }

    /// Whether this is a program and not a machine. It has not begun, and waits for its debugger.
    fn is_program(&self) -> bool {
        // What a kernel tells a program when that begins.
        self.has_feature("qXfer:auxv:read+")
    }

    /// Whether the processors are x86-64 ones; of others [`Target::registers`] cannot tell.
    fn is_amd64(&self) -> bool {
        true
    }

    /// How large the part of the address space around `at` is in which nothing can be read: a power of two,
    /// at a multiple of which it begins. `None` if only `at` itself is known not to be readable.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn hole(&mut self, at: u64) -> Result<Option<u64>, TargetError> {
        let _ = at;
        Ok(None)
    }

    /// What a processor, or a task where these are listed as processors, is called.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn name(&mut self, cpu: Cpu) -> Result<String, TargetError> {
        Ok(format!("CPU#{}", cpu.0))
    }

    /// Whether [`Target::interrupt`] stops a machine that runs.
    fn can_interrupt(&self) -> bool {
        true
    }

    /// What is readable when [`Target::wait`] has something to tell; `None` if it has to be asked.
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The processors that can be looked at.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError>;

    /// The registers of `cpu`.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn registers(&mut self, cpu: Cpu) -> Result<Registers, TargetError>;

    /// Sets the registers of `cpu`.
    ///
    /// # Errors
    ///
    /// [`TargetError::Refused`] if the target cannot do that.
    fn set_registers(&mut self, cpu: Cpu, registers: &Registers) -> Result<(), TargetError>;

    /// Writes to virtual memory.
    ///
    /// # Errors
    ///
    /// [`TargetError::Unreadable`] with the first address that is not there.
    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError>;

    /// Fills `into` with what is at the physical address `at`.
    ///
    /// # Errors
    ///
    /// [`TargetError::Refused`] if the target has no way to do that.
    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError>;

    /// Whether the target has a way to do that.
    fn has_physical(&self) -> bool {
        false
    }

    /// Sets a trap. Memory that is read still shows what was there before.
    ///
    /// # Errors
    ///
    /// [`TargetError::Unreadable`] if nothing is there, [`TargetError::TooMany`] if the target has no
    /// room for another.
    fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError>;

    /// Takes a trap off.
    ///
    /// # Errors
    ///
    /// [`TargetError::Refused`] if there is none.
    fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError>;

    /// The signal that a thread of a program gets when it runs on, in the numbers of the stub. Machines
    /// have none.
    fn deliver(&mut self, cpu: Cpu, signal: u8) {
        let _ = (cpu, signal);
    }

    /// Lets all processors run.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn resume(&mut self) -> Result<(), TargetError>;

    /// Lets `cpu` execute one instruction; [`Target::wait`] tells when it has.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn step(&mut self, cpu: Cpu) -> Result<(), TargetError>;

    /// Asks a running machine to stop; [`Target::wait`] tells when it has.
    ///
    /// # Errors
    ///
    /// [`TargetError::CannotInterrupt`] with what to do instead.
    fn interrupt(&mut self) -> Result<(), TargetError>;

    /// Waits until the machine stops; `None` if it still runs after `patience`.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn wait(&mut self, patience: Duration) -> Result<Option<Stop>, TargetError>;

    /// Ends the machine.
    ///
    /// # Errors
    ///
    /// [`TargetError::Refused`] if the target cannot do that.
    fn kill(&mut self) -> Result<(), TargetError> {
        Err(TargetError::Refused("let itself be ended"))
    }

    /// Takes off all traps, lets the machine run and leaves it.
    ///
    /// # Errors
    ///
    /// What went wrong on the way to the target.
    fn detach(&mut self) -> Result<(), TargetError>;
}

impl<T: Memory + ?Sized> Memory for Box<T> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        (**self).read(at, into)
    }
}

/// A method with a body in the trait has to be handed on here too.
impl<T: Target + ?Sized> Target for Box<T> {
    fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        (**self).heed(told);
    }

    fn look_from(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        (**self).look_from(cpu)
    }

    fn read_in_pieces(
        &mut self,
        at: u64,
        length: usize,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TargetError> {
        (**self).read_in_pieces(at, length, piece)
    }

    fn forward(&mut self, cpu: Cpu, request: &[u8]) -> Result<Option<Vec<u8>>, TargetError> {
        (**self).forward(cpu, request)
    }

    fn size_of_register(&self, number: u64) -> Option<usize> {
        (**self).size_of_register(number)
    }

    fn monitor(&mut self, cpu: Cpu, request: &[u8]) -> Result<Vec<Vec<u8>>, TargetError> {
        (**self).monitor(cpu, request)
    }

    fn has_feature(&self, feature: &str) -> bool {
        (**self).has_feature(feature)
    }

    fn is_program(&self) -> bool {
        (**self).is_program()
    }

    fn is_amd64(&self) -> bool {
        (**self).is_amd64()
    }

    fn hole(&mut self, at: u64) -> Result<Option<u64>, TargetError> {
        (**self).hole(at)
    }

    fn name(&mut self, cpu: Cpu) -> Result<String, TargetError> {
        (**self).name(cpu)
    }

    fn can_interrupt(&self) -> bool {
        (**self).can_interrupt()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        (**self).readiness()
    }

    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        (**self).cpus()
    }

    fn registers(&mut self, cpu: Cpu) -> Result<Registers, TargetError> {
        (**self).registers(cpu)
    }

    fn set_registers(&mut self, cpu: Cpu, registers: &Registers) -> Result<(), TargetError> {
        (**self).set_registers(cpu, registers)
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        (**self).write(at, from)
    }

    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        (**self).read_physical(at, into)
    }

    fn has_physical(&self) -> bool {
        (**self).has_physical()
    }

    fn deliver(&mut self, cpu: Cpu, signal: u8) {
        (**self).deliver(cpu, signal);
    }

    fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        (**self).set(at, trap)
    }

    fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        (**self).clear(at, trap)
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        (**self).resume()
    }

    fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        (**self).step(cpu)
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        (**self).interrupt()
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<Stop>, TargetError> {
        (**self).wait(patience)
    }

    fn kill(&mut self) -> Result<(), TargetError> {
        (**self).kill()
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        (**self).detach()
    }
}

impl TargetError {
    /// Whether nothing more can be asked of the target.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Gone | Self::Io(_))
    }

    /// Nothing, unless it is final.
    pub(crate) fn survived(self) -> Result<(), Self> {
        if self.is_final() { Err(self) } else { Ok(()) }
    }
}

/// How what was debugged ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exit(u8),
    /// By this signal, in GDB's numbers.
    Signal(u8),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "with status {status}"),
            Self::Signal(signal) => write!(f, "by signal {signal}"),
        }
    }
}

/// Why a target did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no memory at this address, or the target does not let it be read.
    #[error("memory at {0:#x} cannot be read")]
    Unreadable(u64),
    /// The target has room for this many of them.
    #[error("the target has room for {0} breakpoints only")]
    TooMany(u32),
    /// The target says no, or does not know the request.
    #[error("the target does not {0}")]
    Refused(&'static str),
    /// A machine that runs cannot be stopped from here.
    #[error("a running kernel cannot be interrupted: {0}")]
    CannotInterrupt(&'static str),
    /// No answer came in time.
    #[error("no answer from the target within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Somebody listens there, and says nothing at all.
    #[error(
        "nothing was answered within {} ms; perhaps another debugger holds the stub, which serves one at a time: \
        let that one leave, or have all of them connect to one `kdbridge serve`", .0.as_millis()
    )]
    Unheard(Duration),
    /// Each answer came in time, and all of them together take too long.
    #[error("the target is too slow: {answers} answers took {} s", .waited.as_secs())]
    Slow {
        /// How many there were.
        answers: u32,
        /// How long they were waited for.
        waited: Duration,
    },
    /// Who answers there serves others, and says why not this one.
    #[error("sent away: {0}")]
    SentAway(String),
    /// Somebody does not want to wait any longer.
    #[error("told to end")]
    BrokenOff,
    /// The target sent what its protocol does not allow.
    #[error("the target broke the protocol: {0}")]
    Protocol(&'static str),
    /// What was debugged has ended.
    #[error("what was debugged has ended, {0}")]
    Ended(End),
    /// The machine has ended, or the connection to it has.
    #[error("the target is gone")]
    Gone,
    /// The connection failed.
    #[error("the connection to the target failed")]
    Io(#[from] io::Error),
}
