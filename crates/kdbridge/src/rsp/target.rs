//! A kernel behind a stub that speaks the GDB protocol: QEMU's, VMware's, kgdb, gdbserver.

mod memory;
mod pace;
mod stop;
mod threads;
mod traps;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::hex;
use super::link::{Address, Deadline, Link, Stream};
use super::probe::{Description, Features, MAX_FILES, Pieces};
use super::registers::Layout;
use crate::paging::Root;
use crate::symbols::bytes::Bytes;
use crate::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};
use pace::Pace;
use threads::Threads;

/// How long an answer may take. A stub answers in microseconds; on a busy machine QEMU may not get a turn
/// for a while.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The most that a command of the stub's monitor may print, as digits.
const MAX_OUTPUT: usize = 1 << 20;

/// What is asked first. Where the answer is unmistakable, it is asked again to find out what came of another
/// request: answers come in the order of requests.
const GREETING: &[u8] = b"qSupported:xmlRegisters=i386;swbreak+;hwbreak+;vContSupported+";

/// After which part of its time a request that was not acknowledged may have got lost.
const SOON: u32 = 4;

/// The most packets that an answer may be kept waiting by: unsolicited stops, console output.
const MAX_ASIDES: u32 = 64;

/// What kgdb calls the first processor: beside tasks it lists processors, as if their numbers were below 0.
const KGDB_FIRST: &[u8] = b"fffffffe";

const KGDB_ADVICE: &str = "kgdb does not listen meanwhile; \
    `echo g > /proc/sysrq-trigger` in the machine, or SysRq-G at its console, makes it";

/// How many registers a debugger may assume where none are described, and how large each may be.
const ASSUMED: (u64, usize) = (512, 64);

/// The most packets that a list of threads comes in.
const MAX_LISTS: usize = 4096;

/// How many times as long as one answer all those may take that make up a list or a description.
const WHOLE: u32 = 8;

/// A kernel behind a stub.
#[derive(Debug)]
pub struct RspTarget {
    link: Link,
    patience: Duration,
    features: Features,
    layout: Layout,
    /// The stub has said what that is.
    described: bool,
    amd64: bool,
    /// Reads of physical memory can be asked for.
    physical: bool,
    /// It knows `vCont`.
    vcont: bool,
    /// Requests may follow each other without waiting for answers.
    pipelined: bool,
    threads: Threads,
    /// Threads begin and end, as those of kgdb and of programs do.
    threads_change: bool,
    /// It is a kernel's own stub, which does not listen while that runs.
    kgdb: bool,
    /// How many answers were waited for in vain and may still come.
    owed: usize,
    /// How long answers take, since it has stopped.
    pace: Pace,
    /// The answer to the greeting, if no other one can be taken for it.
    greeting: Vec<u8>,
    /// Somebody else may have let the machine run, which ends with the next request.
    may_run: bool,
    /// Its reads and writes may be of physical memory.
    is_physical: bool,
    /// The processor that the stub was told to look from.
    selected: Option<Cpu>,
    /// The one that memory is read from.
    view: Cpu,
    /// The page tables of `view`, while it stands still.
    root: Option<Root>,
    /// What is set, and what software breakpoints stand in the place of.
    traps: BTreeMap<(u64, Trap), Vec<u8>>,
    state: State,
    /// A step that may have to be asked for again.
    step: Option<Step>,
    /// What a thread gets when it runs on.
    signal: Option<(Cpu, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Running,
    Stepping,
}

/// One instruction of a processor of QEMU's.
#[derive(Debug)]
struct Step {
    cpu: Cpu,
    before: Registers,
    /// How often it may still be asked for.
    tries: u32,
}

impl RspTarget {
    /// Connects to a stub; the machine stands still from then on.
    ///
    /// # Errors
    ///
    /// [`TargetError::Io`] if nobody listens, [`TargetError::Unheard`] if nobody answers,
    /// [`TargetError::SentAway`] if a bridge there cannot serve now, [`TargetError::Slow`] if answering takes
    /// too long, and [`TargetError::Protocol`] if the answers make no sense.
    pub fn connect(address: &Address, patience: Duration) -> Result<Self, TargetError> {
        Self::over(Stream::connect(address, patience)?, patience)
    }

    /// The same over a socket that is connected. A stub that is not to be waited for any longer is told that
    /// nobody is there.
    ///
    /// # Errors
    ///
    /// As those of [`RspTarget::connect`].
    pub fn over(link: impl Into<Link>, patience: Duration) -> Result<Self, TargetError> {
        let mut target = Self {
            link: link.into(),
            patience,
            features: Features::default(),
            layout: Layout::of_amd64(),
            described: false,
            amd64: true,
            physical: false,
            vcont: false,
            pipelined: false,
            threads: Threads::default(),
            threads_change: false,
            kgdb: false,
            owed: 0,
            pace: Pace::new(patience),
            greeting: Vec::new(),
            may_run: false,
            is_physical: false,
            selected: None,
            view: Cpu(0),
            root: None,
            traps: BTreeMap::new(),
            state: State::Stopped,
            step: None,
            signal: None,
        };
        match target.greet() {
            Err(error @ (TargetError::BrokenOff | TargetError::Slow { .. })) => {
                target.heed(None);
                target.detach()?;
                Err(error)
            }
            Err(error) if !error.is_final() => {
                // QEMU stops its machine for whoever connects, also if it comes to that when nobody is there
                // any more.
                let now = Deadline::after(Duration::ZERO);
                target.link.send(&[b"D"], now).ok();
                Err(error)
            }
            greeted => greeted.map(|()| target),
        }
    }

    fn greet(&mut self) -> Result<(), TargetError> {
        let reply = self.ask(GREETING);
        let reply = reply.map_err(|error| match error {
            TargetError::Silent(patience) => TargetError::Unheard(patience),
            other => other,
        })?;
        if let Some(why) = reply.strip_prefix(b"E.") {
            let why = String::from_utf8_lossy(why).into_owned();
            return Err(TargetError::SentAway(why));
        }
        self.features = Features::read(&reply);
        if self.features.packet.is_some() {
            self.greeting = reply;
        }
        if self.features.no_acks && self.ask(b"QStartNoAckMode")? == b"OK" {
            self.link.stop_acks();
        }
        // What makes the machine stand still where connecting has not.
        let stop = self.ask_for_stop(b"?")?;
        if let Some(end) = stop::end(&stop) {
            return Err(TargetError::Ended(end));
        }
        if self.features.description {
            self.describe()?;
        }
        let qemu = self.ask(b"qqemu.Supported")?;
        self.pipelined = !qemu.is_empty();
        self.threads_change = qemu.is_empty();
        self.physical = contains(&qemu, b"PhyMemMode");
        self.vcont = contains(&self.ask(b"vCont?")?, b";c");
        self.list_threads()?;
        self.kgdb = self.threads.find(KGDB_FIRST).is_some();
        Ok(())
    }

    /// The answer to a request that a stub does not take long for. One that gets lost is sent again.
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, TargetError> {
        self.settle()?;
        let deadline = self.deadline();
        self.request(&[request], deadline)?;
        if self.greeting.is_empty() {
            return self.answer(deadline);
        }
        match self.answer(Deadline::after(self.patience / SOON)) {
            Err(TargetError::Silent(_)) if self.link.is_acknowledged() => self.answer(deadline),
            Err(TargetError::Silent(_)) => match self.greet_again()? {
                Some(reply) => Ok(reply),
                None => {
                    let deadline = self.deadline();
                    self.request(&[request], deadline)?;
                    self.answer(deadline)
                }
            },
            result => result,
        }
    }

    /// Sends what has an answer each.
    fn request(&mut self, requests: &[&[u8]], deadline: Deadline) -> Result<(), TargetError> {
        self.link.send(requests, deadline)?;
        self.owed += requests.len();
        Ok(())
    }

    /// Takes the answers that are late, so that none is taken for another's, and makes a machine stand still
    /// that somebody else has let run.
    fn settle(&mut self) -> Result<(), TargetError> {
        if !self.greeting.is_empty() {
            if self.owed > 0 || self.may_run {
                self.greet_again()?;
            }
            return Ok(());
        }
        self.take_late()
    }

    /// Waits for all that is owed.
    fn take_late(&mut self) -> Result<(), TargetError> {
        let deadline = self.deadline();
        while self.owed > 0 {
            in_time(deadline)?;
            self.answer(deadline)?;
        }
        Ok(())
    }

    /// Takes all that comes before the answer to another greeting, and gives the last answer of that. What
    /// is not among it does not come any more.
    fn greet_again(&mut self) -> Result<Option<Vec<u8>>, TargetError> {
        let deadline = self.deadline();
        self.link.send(&[GREETING], deadline)?;
        let mut last = None;
        loop {
            in_time(deadline)?;
            let reply = self.receive(deadline)?;
            if self.is_greeting(&reply) {
                self.owed = 0;
                self.may_run = false;
                return Ok(last);
            }
            if let Some(end) = stop::end(&reply) {
                return Err(TargetError::Ended(end));
            }
            if !stop::is_stop(&reply) && !is_output(&reply) {
                last = Some(reply);
            }
        }
    }

    fn is_greeting(&self, reply: &[u8]) -> bool {
        !self.greeting.is_empty() && self.greeting == reply
    }

    /// The next packet that is an answer: QEMU says by itself that the machine stopped when somebody
    /// connects.
    fn answer(&mut self, deadline: Deadline) -> Result<Vec<u8>, TargetError> {
        for _ in 0..MAX_ASIDES {
            let reply = self.receive(deadline)?;
            if !stop::is_stop(&reply) && !self.is_greeting(&reply) {
                self.has_answered(&reply);
                return Ok(reply);
            }
        }
        Err(TargetError::Protocol(
            "stops without end while it stands still",
        ))
    }

    fn has_answered(&mut self, reply: &[u8]) {
        let answered = usize::from(!is_output(reply) && !self.is_greeting(reply));
        self.owed = self.owed.saturating_sub(answered);
    }

    fn ask_for_stop(&mut self, request: &[u8]) -> Result<Vec<u8>, TargetError> {
        let deadline = self.deadline();
        self.link.send(&[request], deadline)?;
        for _ in 0..MAX_ASIDES {
            let reply = self.receive(deadline)?;
            if stop::is_stop(&reply) || stop::end(&reply).is_some() || reply.is_empty() {
                return Ok(reply);
            }
            // LLDB's stub may have been started without a program.
            if reply.first() == Some(&b'E') {
                return Err(TargetError::Refused("have anything to debug"));
            }
        }
        Err(TargetError::Protocol("it does not say why it stands still"))
    }

    fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>, TargetError> {
        self.pace.check()?;
        let start = Instant::now();
        let reply = self.link.receive(deadline)?;
        self.pace.add(start.elapsed());
        reply.ok_or(TargetError::Silent(deadline.patience()))
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    /// When all answers have to be there that make up one thing.
    fn deadline_of_all(&self) -> Deadline {
        Deadline::after(self.patience * WHOLE)
    }

    fn describe(&mut self) -> Result<(), TargetError> {
        let deadline = self.deadline_of_all();
        let mut description = Description::new();
        while let Some(name) = description.next() {
            let file = self.transfer(&format!("features:read:{name}"), deadline)?;
            description.push(&String::from_utf8_lossy(&file));
        }
        if description.layout != Layout::default() {
            self.amd64 = description.amd64 && description.layout.is_amd64();
            self.layout = description.layout;
            self.described = true;
        } else if description.names_architecture {
            // Its registers are those that GDB assumes for it.
            self.amd64 = description.amd64;
        }
        Ok(())
    }

    /// A whole file that is read in pieces.
    fn transfer(&mut self, what: &str, deadline: Deadline) -> Result<Vec<u8>, TargetError> {
        let mut pieces = Pieces::default();
        let most = self.features.packet.unwrap_or(400).clamp(64, 1 << 16) - 16;
        for _ in 0..MAX_PIECES {
            in_time(deadline)?;
            let at = pieces.bytes.len();
            let reply = self.ask(format!("qXfer:{what}:{at:x},{most:x}").as_bytes())?;
            if !pieces.push(&reply) {
                return Ok(pieces.bytes);
            }
        }
        Err(TargetError::Protocol("a description without end"))
    }

    fn list_threads(&mut self) -> Result<(), TargetError> {
        let mut request: &[u8] = b"qfThreadInfo";
        let mut threads = Vec::new();
        let deadline = self.deadline_of_all();
        for _ in 0..MAX_LISTS {
            in_time(deadline)?;
            let reply = self.ask(request)?;
            let Some(list) = reply.strip_prefix(b"m") else {
                break;
            };
            let ids = list.split(|&byte| byte == b',');
            let ids = ids.filter(|id| threads::is_thread(id));
            threads.extend(ids.map(|id| String::from_utf8_lossy(id).into_owned()));
            if threads.len() > threads::MAX {
                return Err(TargetError::Protocol("processors without end"));
            }
            request = b"qsThreadInfo";
        }
        if threads.is_empty() {
            threads.push("1".to_owned());
        }
        self.threads.update(threads);
        self.selected = None;
        Ok(())
    }

    /// Makes the stub look from `cpu`.
    fn select(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.standing()?;
        if self.is_physical {
            self.leave_physical_mode()?;
        }
        if self.selected == Some(cpu) {
            return Ok(());
        }
        // An answer that is late does not say which one it is now.
        self.selected = None;
        let request = format!("Hg{}", self.threads.name(cpu)?);
        // A stub with one processor may not know the request.
        let reply = self.ask(request.as_bytes())?;
        if reply.first() == Some(&b'E') {
            return Err(TargetError::Refused("have that processor"));
        }
        self.selected = Some(cpu);
        Ok(())
    }

    fn standing(&self) -> Result<(), TargetError> {
        match self.state {
            State::Stopped => Ok(()),
            _ => Err(TargetError::Refused("answer while its kernel runs")),
        }
    }

    /// QEMU drops what is longer than it said, and does not answer.
    fn check_length(&self, request: &[u8]) -> Result<(), TargetError> {
        // With `$`, `#` and two digits around it.
        let too_long = |most: usize| request.len() + 4 > most;
        match self.features.packet.is_some_and(too_long) {
            true => Err(TargetError::Refused("take so long a request")),
            false => Ok(()),
        }
    }

    /// That the machine stands still before it is told to go on: QEMU has other doors.
    fn make_sure(&mut self) -> Result<(), TargetError> {
        self.may_run |= self.pipelined;
        self.settle()
    }

    fn leave(&mut self, state: State) {
        self.state = state;
        self.pace = Pace::new(self.patience);
        self.root = None;
        // A stub looks from the processor that stopped, when one does.
        self.selected = None;
    }

    /// Lets `cpu` execute one instruction.
    fn ask_for_step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        let signal = self.signal.take().filter(|(other, _)| *other == cpu);
        let step = signal.map_or("s".to_owned(), |(_, signal)| format!("S{signal:02x}"));
        let request = if self.vcont {
            format!("vCont;{step}:{}", self.threads.name(cpu)?)
        } else {
            // Which one is to step was said before there was vCont.
            let select = format!("Hc{}", self.threads.name(cpu)?);
            self.ask(select.as_bytes())?;
            step
        };
        self.link.send(&[request.as_bytes()], self.deadline())?;
        self.leave(State::Stepping);
        Ok(())
    }

    /// The value of a register that only some descriptions have.
    fn control(&mut self, name: &str) -> Result<Option<u64>, TargetError> {
        let Some(number) = self.layout.number(name) else {
            return Ok(None);
        };
        let reply = self.ask(format!("p{number:x}").as_bytes())?;
        let bytes = hex::decode(&reply).filter(|bytes| bytes.len() <= 8);
        Ok(bytes.map(|bytes| bytes.number()))
    }
}

/// The most pieces of a file.
const MAX_PIECES: usize = MAX_FILES * 512;

impl Target for RspTarget {
    fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        self.link.heed(told);
    }

    fn look_from(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.threads.name(cpu)?;
        if self.view != cpu {
            self.view = cpu;
            self.root = None;
        }
        Ok(())
    }

    fn forward(&mut self, cpu: Cpu, request: &[u8]) -> Result<Option<Vec<u8>>, TargetError> {
        self.check_length(request)?;
        self.select(cpu)?;
        self.root = None;
        self.ask(request).map(Some)
    }

    fn size_of_register(&self, number: u64) -> Option<usize> {
        if self.described {
            return self.layout.size(number);
        }
        let (count, bytes) = ASSUMED;
        (number < count).then_some(bytes)
    }

    fn monitor(&mut self, cpu: Cpu, request: &[u8]) -> Result<Vec<Vec<u8>>, TargetError> {
        self.check_length(request)?;
        self.select(cpu)?;
        self.root = None;
        self.settle()?;
        let deadline = self.deadline();
        // It may be told to let the machine run.
        self.may_run = true;
        self.selected = None;
        self.request(&[request], deadline)?;
        let mut packets = Vec::new();
        let mut length = 0;
        while length <= MAX_OUTPUT {
            let packet = self.answer(deadline)?;
            let goes_on = is_output(&packet);
            length += packet.len();
            packets.push(packet);
            if !goes_on {
                return Ok(packets);
            }
        }
        Err(TargetError::Protocol("a monitor that prints without end"))
    }

    fn has_feature(&self, feature: &str) -> bool {
        self.features.named.contains(feature)
    }

    fn is_amd64(&self) -> bool {
        self.amd64
    }

    fn hole(&mut self, at: u64) -> Result<Option<u64>, TargetError> {
        self.size_of_hole(at)
    }

    fn name(&mut self, cpu: Cpu) -> Result<String, TargetError> {
        let processor = format!("CPU#{}", cpu.0);
        if !self.threads_change {
            return Ok(processor);
        }
        let processor = if self.is_program() {
            String::new()
        } else {
            processor
        };
        let request = format!("qThreadExtraInfo,{}", self.threads.name(cpu)?);
        let name = hex::decode(&self.ask(request.as_bytes())?).filter(|name| !name.is_empty());
        Ok(name.map_or(processor, |name| {
            String::from_utf8_lossy(&name).into_owned()
        }))
    }

    fn read_in_pieces(
        &mut self,
        at: u64,
        length: usize,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TargetError> {
        self.read_as_it_arrives(at, length, piece)
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.link.as_fd())
    }

    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(self.threads.live())
    }

    fn registers(&mut self, cpu: Cpu) -> Result<Registers, TargetError> {
        self.select(cpu)?;
        let reply = self.ask(b"g")?;
        let registers = self.layout.read(&reply);
        registers.ok_or(TargetError::Protocol(
            "registers that are not those of x86-64",
        ))
    }

    fn set_registers(&mut self, cpu: Cpu, registers: &Registers) -> Result<(), TargetError> {
        self.select(cpu)?;
        self.root = None;
        let mut packet = self.ask(b"g")?;
        self.layout.write(registers, &mut packet);
        packet.insert(0, b'G');
        match self.ask(&packet)?.as_slice() {
            b"OK" => Ok(()),
            _ => Err(TargetError::Refused("let its registers be set")),
        }
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        self.write_below_traps(at, from)
    }

    fn has_physical(&self) -> bool {
        self.physical
    }

    fn read_physical(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read_physical_parts(at, into)?;
        self.hide_traps_in_physical(at, into)
    }

    fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        self.set_trap(at, trap)
    }

    fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        self.clear_trap(at, trap)
    }

    fn deliver(&mut self, cpu: Cpu, signal: u8) {
        self.signal = Some((cpu, signal));
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.standing()?;
        self.make_sure()?;
        let request = match (self.signal.take(), self.vcont) {
            (None, false) => "c".to_owned(),
            (None, true) => "vCont;c".to_owned(),
            (Some((_, signal)), false) => format!("C{signal:02x}"),
            (Some((cpu, signal)), true) => {
                format!("vCont;C{signal:02x}:{};c", self.threads.name(cpu)?)
            }
        };
        self.link.send(&[request.as_bytes()], self.deadline())?;
        self.leave(State::Running);
        Ok(())
    }

    fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.standing()?;
        self.make_sure()?;
        self.step = self.step_to_check(cpu)?;
        self.ask_for_step(cpu)
    }

    fn can_interrupt(&self) -> bool {
        !self.kgdb
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        match self.state {
            State::Stopped => Ok(()),
            _ if self.kgdb => Err(TargetError::CannotInterrupt(KGDB_ADVICE)),
            _ => self.link.interrupt(self.deadline()),
        }
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<Stop>, TargetError> {
        self.wait_for_stop(patience)
    }

    fn kill(&mut self) -> Result<(), TargetError> {
        self.link.send(&[b"k"], self.deadline())
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        // However slow it is, it can be left.
        self.pace = Pace::new(self.patience);
        let settled = match self.greeting.is_empty() {
            true => Ok(()),
            false => self.settle(),
        };
        let cleared = settled.and_then(|()| self.clear_traps());
        // One that has nothing to say may still do what it is told.
        let is_silent = matches!(cleared, Err(TargetError::Silent(_)));
        // Else the next debugger would read physical memory too.
        let left = match self.is_physical && !is_silent {
            true => self.leave_physical_mode(),
            false => Ok(()),
        };
        // A stub that is late with an answer lets the machine run when it comes to this.
        self.request(&[b"D"], self.deadline())?;
        if !is_silent {
            self.take_late()?;
        }
        self.leave(State::Running);
        cleared.and(left)
    }
}

impl Memory for RspTarget {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read_memory(at, into)
    }
}

fn in_time(deadline: Deadline) -> Result<(), TargetError> {
    match deadline.has_passed() {
        true => Err(TargetError::Silent(deadline.patience())),
        false => Ok(()),
    }
}

/// What is printed before an answer.
fn is_output(packet: &[u8]) -> bool {
    packet.first() == Some(&b'O') && packet != b"OK"
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
