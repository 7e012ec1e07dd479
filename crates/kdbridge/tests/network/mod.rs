//! A kernel behind a network that loses, repeats and reorders packets, with a clock that moves only
//! while somebody waits.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kdbridge::kdp::{Identity, Link, Server};
use kdbridge::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};

/// Where the memory of [`Machine`] begins.
pub(crate) const BASE: u64 = 0xffff_ff80_0020_0000;

/// A machine without a processor: memory, registers, and stops that come as they are told.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) memory: Vec<u8>,
    pub(crate) registers: Registers,
    pub(crate) traps: Vec<u64>,
    pub(crate) running: bool,
    /// What stops it next.
    pub(crate) stop: Option<Stop>,
    /// How often each kind of thing was done to it.
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    pub(crate) resumes: usize,
    pub(crate) steps: usize,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            memory: (0..=u16::MAX).map(|at| (at ^ (at >> 8)) as u8).collect(),
            registers: Registers {
                rip: BASE + 0x100,
                rflags: 0x202,
                segments: [8, 16, 0, 0, 0, 0x47],
                ..Registers::default()
            },
            ..Self::default()
        }
    }

    fn range(&self, at: u64, length: usize) -> Result<std::ops::Range<usize>, TargetError> {
        let start = at.checked_sub(BASE).ok_or(TargetError::Unreadable(at))?;
        let end = start + length as u64;
        if end > self.memory.len() as u64 {
            return Err(TargetError::Unreadable(
                at.max(BASE + self.memory.len() as u64),
            ));
        }
        Ok(start as usize..end as usize)
    }
}

impl Memory for Machine {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.reads += 1;
        let range = self.range(at, into.len())?;
        into.copy_from_slice(&self.memory[range]);
        Ok(())
    }
}

impl Target for Machine {
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(vec![Cpu(0)])
    }

    fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
        Ok(self.registers)
    }

    fn set_registers(&mut self, _: Cpu, registers: &Registers) -> Result<(), TargetError> {
        self.registers = *registers;
        Ok(())
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        self.writes += 1;
        let range = self.range(at, from.len())?;
        self.memory[range].copy_from_slice(from);
        Ok(())
    }

    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read(BASE + at, into)
    }

    fn set(&mut self, at: u64, _: Trap) -> Result<(), TargetError> {
        self.range(at, 1)?;
        self.traps.push(at);
        Ok(())
    }

    fn clear(&mut self, at: u64, _: Trap) -> Result<(), TargetError> {
        self.traps.retain(|&trap| trap != at);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.resumes += 1;
        self.running = true;
        Ok(())
    }

    fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.steps += 1;
        self.running = true;
        self.registers.rip += 1;
        self.stop = Some(Stop::Stepped(cpu));
        Ok(())
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        Err(TargetError::CannotInterrupt("it does not listen"))
    }

    fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
        let stop = self.stop.take().filter(|_| self.running);
        self.running = stop.is_none();
        Ok(stop)
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        Ok(())
    }
}

/// What the network does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Late,
    Twice,
    Delivered,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToKernel,
    ToDebugger,
}

type Fates = Box<dyn FnMut(Way, &[u8]) -> Fate>;

/// The kernel, the network, and the time.
pub(crate) struct World {
    pub(crate) server: Server<Machine>,
    now: Instant,
    fates: Fates,
    to_kernel: Vec<(Instant, Vec<u8>)>,
    to_debugger: Vec<(Instant, Vec<u8>)>,
    exception_due: Instant,
    exceptions_sent: u32,
    /// What somebody sends the debugger again and again, a packet each millisecond.
    pub(crate) flood: Option<Vec<u8>>,
    /// Everything that either side sent.
    pub(crate) log: Vec<(Way, Vec<u8>)>,
}

/// How long a packet takes.
const FLIGHT: Duration = Duration::from_millis(1);

/// How much longer one takes that is overtaken.
const DETOUR: Duration = Duration::from_millis(40);

impl World {
    pub(crate) fn new(fates: impl FnMut(Way, &[u8]) -> Fate + 'static) -> Rc<RefCell<Self>> {
        let now = Instant::now();
        let identity = Identity {
            banner: b"Darwin Kernel Version 0".to_vec(),
        };
        Rc::new(RefCell::new(Self {
            server: Server::new(Machine::new(), identity),
            now,
            fates: Box::new(fates),
            to_kernel: Vec::new(),
            to_debugger: Vec::new(),
            exception_due: now,
            exceptions_sent: 0,
            flood: None,
            log: Vec::new(),
        }))
    }

    fn put(&mut self, way: Way, packet: &[u8]) {
        self.log.push((way, packet.to_vec()));
        let fate = (self.fates)(way, packet);
        let arrivals = match fate {
            Fate::Lost => &[][..],
            Fate::Late => &[DETOUR],
            Fate::Twice => &[FLIGHT, DETOUR],
            Fate::Delivered => &[FLIGHT],
        };
        let queue = match way {
            Way::ToKernel => &mut self.to_kernel,
            Way::ToDebugger => &mut self.to_debugger,
        };
        queue.extend(
            arrivals
                .iter()
                .map(|&after| (self.now + after, packet.to_vec())),
        );
    }

    /// Lets the kernel do what it can at this time.
    fn kernel(&mut self) {
        if self.server.is_running() {
            self.server.run(Duration::ZERO).expect("a machine");
            (self.exception_due, self.exceptions_sent) = (self.now, 0);
        }
        if let Some(exception) = self.server.exception()
            && self.now >= self.exception_due
            && self.exceptions_sent < 101
        {
            self.put(Way::ToDebugger, &exception.packet);
            self.exceptions_sent += 1;
            self.exception_due = self.now + Duration::from_millis(150);
        }
        while let Some(packet) = take_due(&mut self.to_kernel, self.now) {
            // A kernel that runs does not listen.
            if !self.server.is_running()
                && let Some(answer) = self.server.packet(&packet).expect("a machine")
            {
                self.put(Way::ToDebugger, &answer.packet);
            }
        }
    }
}

fn take_due(queue: &mut Vec<(Instant, Vec<u8>)>, now: Instant) -> Option<Vec<u8>> {
    let first = (0..queue.len()).min_by_key(|&at| queue[at].0)?;
    (queue[first].0 <= now).then(|| queue.remove(first).1)
}

/// The debugger's end.
pub(crate) struct Wire(pub(crate) Rc<RefCell<World>>);

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Link for Wire {
    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().put(Way::ToKernel, packet);
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        let mut world = self.0.borrow_mut();
        if let Some(packet) = world.flood.clone() {
            world.now += Duration::from_millis(1);
            into[..packet.len()].copy_from_slice(&packet);
            return Ok(Some(packet.len()));
        }
        loop {
            world.kernel();
            let now = world.now;
            if let Some(packet) = take_due(&mut world.to_debugger, now) {
                into[..packet.len()].copy_from_slice(&packet);
                return Ok(Some(packet.len()));
            }
            if now >= deadline {
                return Ok(None);
            }
            world.now += Duration::from_millis(1);
        }
    }

    fn now(&self) -> Instant {
        self.0.borrow().now
    }

    fn port(&self) -> u16 {
        41140
    }
}
