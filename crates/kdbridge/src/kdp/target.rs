//! A kernel behind KDP as a [`Target`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::client::{AskError, AttachError, Client, Resumption};
use super::link::Link;
use super::packet::{Exception, MAX_DATA_BYTES, Malformed, Reply, Request, Status};
use super::state::{self, EXC_BREAKPOINT, INT3, SINGLE_STEP};
use crate::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};

/// The one processor that can be seen: whichever met the exception.
const CPU: Cpu = Cpu(0);

/// Places for breakpoints in the kernel.
const MAX_BREAKPOINTS: u32 = 100;

/// The first version of the protocol that reads physical memory.
const PHYSICAL_VERSION: u32 = 12;

/// Any processor will do.
const ANY_CPU: u16 = 0xFFFE;

const NO_INTERRUPT: &str = "while an XNU kernel runs, it does not listen. Press the power key or trigger \
    an NMI in the machine (boot-arg debug=0x44 has both), or let the bridge make the kernel look in: \
    --interrupt-every MS, which needs the kernel's symbols";

/// How to stop a kernel that runs: it can be told to enter its debugger again after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reentry {
    /// Where the kernel has the variable `kdp_reentry_deadline`.
    pub deadline: u64,
    /// The function `kdp_ml_enter_debugger`, which the kernel calls then.
    pub handler: Range<u64>,
    /// How often that is to happen; a kernel counts in milliseconds.
    pub every: Duration,
}

/// A kernel behind KDP.
#[derive(Debug)]
pub struct KdpTarget<L> {
    client: Client<L>,
    /// The most that is read or written at once.
    chunk: usize,
    version: u32,
    /// What the kernel says of itself.
    banner: Vec<u8>,
    /// Our breakpoints and what they stand in the place of.
    breakpoints: BTreeMap<u64, u8>,
    reentry: Option<Reentry>,
    state: State,
    /// An interrupt was asked for.
    interrupted: bool,
}

/// What a kernel says when it is attached to.
struct Met {
    chunk: usize,
    version: u32,
    banner: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Stopped,
    Running {
        resumption: Option<Resumption>,
        stepping: bool,
    },
}

impl<L: Link> KdpTarget<L> {
    /// Attaches to the kernel at the other end of `link`, which stands still from then on.
    ///
    /// # Errors
    ///
    /// [`AttachError`] with what to look for.
    pub fn attach(link: L) -> Result<Self, AttachError> {
        Self::attach_heeding(link, None)
    }

    /// The same, until what is given is set; a kernel that has answered by then is let go on.
    ///
    /// # Errors
    ///
    /// [`AttachError::BrokenOff`] then, and those of [`KdpTarget::attach`].
    pub fn attach_heeding(link: L, told: Option<Arc<AtomicBool>>) -> Result<Self, AttachError> {
        let mut client = Client::attach_heeding(link, told)?;
        match Self::meet(&mut client) {
            Err(AttachError::BrokenOff) => {
                client.heed(None);
                client.disconnect()?;
                Err(AttachError::BrokenOff)
            }
            met => met.map(|met| Self::with(client, met)),
        }
    }

    fn meet(client: &mut Client<L>) -> Result<Met, AttachError> {
        let version = match attached(client.ask(&Request::Version))? {
            Reply::Version { version, .. } => version,
            _ => 0,
        };
        match attached(client.ask(&Request::HostInfo))? {
            Reply::HostInfo { cpu_type, .. } if cpu_type == state::CPU_TYPE_X86_64 => {}
            Reply::HostInfo { cpu_type, .. } => return Err(AttachError::Processor(cpu_type)),
            _ => return Err(Malformed::Length.into()),
        }
        let chunk = match attached(client.ask(&Request::MaxBytes))? {
            Reply::MaxBytes(most) => (most as usize).clamp(1, MAX_DATA_BYTES),
            _ => MAX_DATA_BYTES,
        };
        let banner = match attached(client.ask(&Request::KernelVersion))? {
            Reply::Text(_, text) => text.to_vec(),
            _ => Vec::new(),
        };
        Ok(Met {
            chunk,
            version,
            banner,
        })
    }

    fn with(client: Client<L>, met: Met) -> Self {
        Self {
            client,
            chunk: met.chunk,
            version: met.version,
            banner: met.banner,
            breakpoints: BTreeMap::new(),
            reentry: None,
            state: State::Stopped,
            interrupted: false,
        }
    }

    /// What the kernel answers to the question for its version: text, its UUID, and, if it is slid,
    /// where its text begins.
    #[must_use]
    pub fn banner(&self) -> &[u8] {
        &self.banner
    }

    /// Makes [`Target::interrupt`] work, by a kernel that looks in at intervals while it runs.
    pub fn interrupt_by(&mut self, reentry: Reentry) {
        self.reentry = Some(reentry);
    }

    fn ask(&mut self, request: &Request<'_>) -> Result<Reply<'_>, TargetError> {
        if matches!(self.state, State::Running { .. }) {
            return Err(TargetError::Refused("listen while its kernel runs"));
        }
        self.client.ask(request).map_err(target_error)
    }

    fn status(&mut self, request: &Request<'_>) -> Result<Status, TargetError> {
        match self.ask(request)? {
            Reply::Status(_, status) => Ok(status),
            _ => Err(TargetError::Protocol("an answer without a status")),
        }
    }

    /// Reads memory as the kernel has it, our breakpoints included.
    fn read_as_it_is(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let mut at = at;
        for part in into.chunks_mut(self.chunk) {
            let length = part.len() as u32;
            self.read_part(&Request::ReadMem64 { at, length }, at, part)?;
            at = at.wrapping_add(u64::from(length));
        }
        Ok(())
    }

    fn read_part(
        &mut self,
        request: &Request<'_>,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), TargetError> {
        match self.ask(request)? {
            Reply::Data(_, Status::OK, data) if data.len() == into.len() => {
                into.copy_from_slice(data);
                Ok(())
            }
            Reply::Data(_, Status::OK, _) => Err(TargetError::Protocol(
                "another number of bytes than was asked for",
            )),
            Reply::Data(_, _, before) => {
                let valid = before.len().min(into.len().saturating_sub(1));
                Err(TargetError::Unreadable(at.wrapping_add(valid as u64)))
            }
            _ => Err(TargetError::Protocol("an answer without data")),
        }
    }

    fn mask(&self, at: u64, bytes: &mut [u8]) {
        let end = at.saturating_add(bytes.len() as u64);
        for (&place, &original) in self.breakpoints.range(at..end) {
            if let Some(byte) = bytes.get_mut((place - at) as usize) {
                *byte = original;
            }
        }
    }

    fn write_part(&mut self, at: u64, data: &[u8]) -> Result<(), TargetError> {
        match self.status(&Request::WriteMem64 { at, data })? {
            Status::OK => Ok(()),
            _ => Err(TargetError::Unreadable(at)),
        }
    }

    fn state_of(&mut self) -> Result<Vec<u8>, TargetError> {
        let request = Request::ReadRegs {
            cpu: CPU.0,
            flavor: state::THREAD_STATE64,
        };
        match self.ask(&request)? {
            Reply::Data(_, Status::OK, state) => Ok(state.to_vec()),
            _ => Err(TargetError::Refused("give its registers")),
        }
    }

    fn read_registers(&mut self) -> Result<Registers, TargetError> {
        let state = self.state_of()?;
        state::decode(&state).ok_or(TargetError::Protocol("registers that are too few"))
    }

    fn write_registers(&mut self, registers: &Registers) -> Result<(), TargetError> {
        let request = Request::WriteRegs {
            cpu: CPU.0,
            flavor: state::THREAD_STATE64,
            state: &state::encode(registers),
        };
        match self.status(&request)? {
            Status::OK => Ok(()),
            _ => Err(TargetError::Refused("take registers")),
        }
    }

    fn run(&mut self, stepping: bool) -> Result<(), TargetError> {
        if let Some(reentry) = self.reentry.clone().filter(|_| !stepping) {
            let milliseconds = u32::try_from(reentry.every.as_millis()).unwrap_or(u32::MAX);
            self.write_part(reentry.deadline, &milliseconds.max(1).to_le_bytes())?;
        }
        let resumption = Some(self.client.resume().map_err(target_error)?);
        self.state = State::Running {
            resumption,
            stepping,
        };
        Ok(())
    }

    /// What an exception is to the debugger; `None` if only the bridge is meant.
    fn stopped(
        &mut self,
        exception: Exception,
        stepping: bool,
    ) -> Result<Option<Stop>, TargetError> {
        self.state = State::Stopped;
        let mut registers = self.read_registers()?;
        let behind = registers.rip.wrapping_sub(1);
        let is_trap = exception.exception == EXC_BREAKPOINT;
        if is_trap && self.has_looked_in(behind) {
            let asked = std::mem::take(&mut self.interrupted);
            return Ok(asked.then_some(Stop::Interrupted(CPU)));
        }
        if stepping {
            registers.rflags &= !SINGLE_STEP;
        }
        let stop = if !is_trap {
            Stop::Signal(CPU, signal(exception.exception))
        } else if self.breakpoints.contains_key(&behind) {
            registers.rip = behind;
            Stop::Breakpoint(CPU)
        } else if stepping {
            Stop::Stepped(CPU)
        } else {
            return Ok(Some(Stop::Signal(CPU, SIGTRAP)));
        };
        self.write_registers(&registers)?;
        Ok(Some(stop))
    }

    fn has_looked_in(&self, at: u64) -> bool {
        let handler = self.reentry.as_ref().map(|it| &it.handler);
        handler.is_some_and(|handler| handler.contains(&at))
    }

    /// Waits for the next exception.
    fn next_exception(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<(Exception, bool)>, TargetError> {
        let State::Running {
            resumption,
            stepping,
        } = &mut self.state
        else {
            return Ok(None);
        };
        let exception = self
            .client
            .wait(resumption, deadline)
            .map_err(target_error)?;
        Ok(exception.map(|exception| (exception, *stepping)))
    }

    fn set_software(&mut self, at: u64) -> Result<(), TargetError> {
        if self.breakpoints.len() >= MAX_BREAKPOINTS as usize {
            return Err(TargetError::TooMany(MAX_BREAKPOINTS));
        }
        let mut original = [0];
        self.read_as_it_is(at, &mut original)?;
        match self.status(&Request::Breakpoint64Set { at })? {
            Status::OK => {}
            Status::TABLE_FULL => return Err(TargetError::TooMany(MAX_BREAKPOINTS)),
            Status::TRAP_THERE => {
                return Err(TargetError::Refused(
                    "set a breakpoint where a trap is already",
                ));
            }
            _ => return Err(TargetError::Unreadable(at)),
        }
        // A kernel says that it set one also where it could not write.
        let mut there = [0];
        self.read_as_it_is(at, &mut there)?;
        if there != [INT3] {
            self.status(&Request::Breakpoint64Remove { at })?;
            return Err(TargetError::Refused(
                "set a breakpoint in memory that cannot be written",
            ));
        }
        self.breakpoints.insert(at, original[0]);
        Ok(())
    }
}

impl<L: Link> Memory for KdpTarget<L> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read_as_it_is(at, into)?;
        self.mask(at, into);
        Ok(())
    }
}

impl<L: Link> Target for KdpTarget<L> {
    fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        self.client.heed(told);
    }

    fn can_interrupt(&self) -> bool {
        self.reentry.is_some()
    }

    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(vec![CPU])
    }

    fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
        self.read_registers()
    }

    fn set_registers(&mut self, _: Cpu, registers: &Registers) -> Result<(), TargetError> {
        self.write_registers(registers)
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        let end = at.saturating_add(from.len() as u64);
        let covered: Vec<u64> = self.breakpoints.range(at..end).map(|it| *it.0).collect();
        // The kernel would put back what was there before.
        for &place in &covered {
            self.clear(place, Trap::Software)?;
        }
        let mut place = at;
        for part in from.chunks(self.chunk) {
            self.write_part(place, part)?;
            place = place.wrapping_add(part.len() as u64);
        }
        covered
            .iter()
            .try_for_each(|&place| self.set_software(place))
    }

    fn has_physical(&self) -> bool {
        self.version >= PHYSICAL_VERSION
    }

    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        if !self.has_physical() {
            return Err(TargetError::Refused("read physical memory"));
        }
        let mut at = at;
        for part in into.chunks_mut(self.chunk) {
            let request = Request::ReadPhysMem64 {
                at,
                length: part.len() as u32,
                cpu: ANY_CPU,
            };
            self.read_part(&request, at, part)?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        match trap {
            Trap::Software if self.breakpoints.contains_key(&at) => Ok(()),
            Trap::Software => self.set_software(at),
            Trap::Hardware => Err(TargetError::Refused("have hardware breakpoints")),
            Trap::Write(_) | Trap::Read(_) | Trap::Access(_) => {
                Err(TargetError::Refused("have watchpoints"))
            }
        }
    }

    fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        if trap != Trap::Software || !self.breakpoints.contains_key(&at) {
            return Err(TargetError::Refused("have that breakpoint"));
        }
        match self.status(&Request::Breakpoint64Remove { at })? {
            // It forgets them all when it takes the debugger for dead.
            Status::OK | Status::NOT_FOUND => {
                self.breakpoints.remove(&at);
                Ok(())
            }
            _ => Err(TargetError::Unreadable(at)),
        }
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.interrupted = false;
        self.run(false)
    }

    fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
        let mut registers = self.read_registers()?;
        registers.rflags |= SINGLE_STEP;
        self.write_registers(&registers)?;
        self.run(true)
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        if self.reentry.is_none() {
            return Err(TargetError::CannotInterrupt(NO_INTERRUPT));
        }
        self.interrupted = true;
        Ok(())
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<Stop>, TargetError> {
        let deadline = self.client.now() + patience;
        while let Some((exception, stepping)) = self.next_exception(deadline)? {
            if let Some(stop) = self.stopped(exception, stepping)? {
                return Ok(Some(stop));
            }
            self.run(stepping)?;
            if self.client.now() > deadline {
                break;
            }
        }
        Ok(None)
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        if matches!(self.state, State::Running { .. }) {
            // It takes its breakpoints off by itself when it meets one and nobody answers.
            return Ok(());
        }
        self.breakpoints.clear();
        Ok(self.client.disconnect()?)
    }
}

const SIGTRAP: u8 = 5;

/// GDB's signal for an exception of Mach.
fn signal(exception: u32) -> u8 {
    match exception {
        1 => 11,
        2 => 4,
        3 => 8,
        _ => SIGTRAP,
    }
}

fn target_error(error: AskError) -> TargetError {
    match error {
        AskError::Silent(time) => TargetError::Silent(time),
        AskError::BrokenOff => TargetError::BrokenOff,
        AskError::Malformed(_) => TargetError::Protocol("a malformed answer"),
        AskError::Io(error) => error.into(),
    }
}

fn attached<T>(answer: Result<T, AskError>) -> Result<T, AttachError> {
    answer.map_err(|error| match error {
        AskError::Silent(time) => AttachError::Silent(time),
        AskError::BrokenOff => AttachError::BrokenOff,
        AskError::Malformed(error) => error.into(),
        AskError::Io(error) => error.into(),
    })
}
