//! What a debugger asks, and what it is told.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::client::{Id, Talk};
use super::dialect::{self, Dialect};
use super::machine::{Machine, NotYours};
use super::memory::Stretch;
use super::xml::Owner;
use super::{lldb, xml};
use crate::rsp::hex;
use crate::target::{Cpu, Target, TargetError, Trap};

/// The longest packet that debuggers may send.
const PACKET_SIZE: usize = 0x2_0000;

/// What stubs of programs tell that those of machines have nothing of.
const PASSED: [&str; 3] = ["qXfer:auxv:read:", LIBRARIES, "qXfer:memory-map:read:"];
const LIBRARIES: &str = "qXfer:libraries-svr4:read:";
const EXEC_FILE: &str = "qXfer:exec-file:read:";

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Answer {
    Packet(Vec<u8>),
    /// What is to be printed, and how it ended.
    Packets(Vec<Vec<u8>>),
    /// So much memory, as it comes.
    Memory(Stretch),
    /// `OK`, and nothing is acknowledged from then on.
    WithoutAcks,
    /// Once the machine has stopped.
    Later,
    /// A last word, and the connection ends.
    Leave(Option<&'static [u8]>),
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Self::Packet(text.as_bytes().to_vec())
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::Packet(text.into_bytes())
    }
}

/// Why a request has no answer but an error.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It makes no sense.
    Malformed,
    NotYours(NotYours),
    Target(TargetError),
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<NotYours> for Refusal {
    fn from(error: NotYours) -> Self {
        Self::NotYours(error)
    }
}

/// Answers a request.
///
/// # Errors
///
/// Those of the target after which nothing can be answered any more.
pub(super) fn answer<T: Target>(
    machine: &mut Machine<T>,
    id: Id,
    talk: &mut Talk,
    request: &[u8],
) -> Result<Answer, TargetError> {
    if let Some(dialect) = Dialect::of(request) {
        talk.dialect = dialect;
    }
    talk.error_texts |= dialect::takes_error_texts(request);
    let mut conversation = Conversation { machine, id, talk };
    match conversation.answer(request) {
        Ok(answer) => Ok(answer),
        Err(Refusal::Target(error)) if error.is_final() => Err(error),
        Err(refusal) => Ok(refusal.to_answer(conversation.talk, request)),
    }
}

/// The answer to a request that the target has failed at.
pub(super) fn failure(error: &TargetError, talk: &Talk) -> Vec<u8> {
    error_packet(0x0e, &error.to_string(), talk)
}

impl Refusal {
    fn to_answer(&self, talk: &Talk, request: &[u8]) -> Answer {
        let (code, text) = match self {
            Self::Malformed => (0x16, "a request that makes no sense".to_owned()),
            Self::NotYours(NotYours(other)) => (
                1,
                format!("debugger {} controls this machine until it leaves", other.0),
            ),
            Self::Target(error) => (0x0e, error.to_string()),
        };
        if talk.dialect == Dialect::Gdb && !talk.error_texts {
            match request {
                // It would take the text for memory, or for a name in digits.
                [b'm' | b'x', ..] => return format!("E{code:02x}").into(),
                _ if request.starts_with(b"qThreadExtraInfo,") => return "".into(),
                // It prints what comes before.
                _ if request.starts_with(b"qRcmd,") => {
                    let text = hex::encode(format!("{text}\n").as_bytes());
                    return Answer::Packets(vec![format!("O{text}").into(), b"E01".to_vec()]);
                }
                _ => {}
            }
        }
        Answer::Packet(error_packet(code, &text, talk))
    }
}

fn error_packet(code: u8, text: &str, talk: &Talk) -> Vec<u8> {
    let packet = match talk.dialect {
        Dialect::Gdb => format!("E.{text}"),
        Dialect::Lldb if talk.error_texts => {
            format!("E{code:02x};{}", hex::encode(text.as_bytes()))
        }
        Dialect::Lldb => format!("E{code:02x}"),
    };
    packet.into_bytes()
}

pub(super) struct Conversation<'a, T> {
    pub(super) machine: &'a mut Machine<T>,
    pub(super) id: Id,
    pub(super) talk: &'a mut Talk,
}

impl<T: Target> Conversation<'_, T> {
    fn answer(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        let Some((&kind, rest)) = request.split_first() else {
            return Ok("".into());
        };
        match kind {
            b'?' => Ok(self.machine.stop_reply(self.talk)?.into()),
            b'H' => self.choose_thread(rest),
            b'T' => self.thread(rest).map(|_| "OK".into()),
            b'g' | b'G' | b'p' | b'P' => self.registers(kind, rest),
            b'm' | b'x' => self.read_memory(kind, rest),
            b'M' | b'X' => self.write_memory(kind, rest),
            b'Z' | b'z' => self.trap(kind, rest),
            b'c' | b'C' | b's' | b'S' => self.act(request),
            b'D' => Ok(Answer::Leave(Some(b"OK"))),
            b'k' => self.kill(None),
            b'v' => self.verbose(request),
            b'q' | b'Q' => self.query(request),
            _ => Ok("".into()),
        }
    }

    /// The processor that requests are about.
    pub(super) fn cpu(&self) -> Cpu {
        let stopped = self.machine.stop.map(|stop| stop.cpu());
        let mut cpus = self.talk.cpu.into_iter().chain(stopped);
        let there = cpus.find(|cpu| self.machine.cpus.contains(cpu));
        there.unwrap_or(self.machine.first_cpu())
    }

    fn choose_thread(&mut self, rest: &[u8]) -> Result<Answer, Refusal> {
        let (operation, thread) = rest.split_first().ok_or(Refusal::Malformed)?;
        let cpu = match thread {
            b"-1" | b"0" => None,
            _ => Some(self.thread(thread)?),
        };
        if *operation == b'g' && cpu.is_some() {
            self.talk.cpu = cpu;
        }
        Ok("OK".into())
    }

    /// Threads are processors, counted from 1.
    pub(super) fn thread(&self, id: &[u8]) -> Result<Cpu, Refusal> {
        let number = hex::number(id).and_then(|number| number.checked_sub(1));
        let number = number.and_then(|number| u32::try_from(number).ok());
        let cpu = number
            .map(Cpu)
            .filter(|cpu| self.machine.cpus.contains(cpu));
        cpu.ok_or(Refusal::Malformed)
    }

    fn registers(&mut self, kind: u8, rest: &[u8]) -> Result<Answer, Refusal> {
        self.standing()?;
        let (rest, cpu) = self.suffix(rest)?;
        if matches!(kind, b'G' | b'P') {
            self.machine.control(self.id)?;
            self.machine.cache.clear();
        }
        if self.native() {
            return self.native_registers(kind, rest, cpu);
        }
        let mut packet = xml::packet(&self.machine.target.registers(cpu)?, self.owner());
        match kind {
            b'g' => return Ok(packet.into()),
            b'p' => {
                let place = hex::number(rest).and_then(xml::place);
                let register = place.and_then(|place| packet.get(place));
                return Ok(register.ok_or(Refusal::Malformed)?.into());
            }
            b'G' => packet = String::from_utf8_lossy(rest).into_owned(),
            _ => {
                let equals = rest.iter().position(|&byte| byte == b'=');
                let (number, digits) = rest.split_at(equals.ok_or(Refusal::Malformed)?);
                let place = hex::number(number).and_then(xml::place);
                let place = place.filter(|place| place.len() + 1 == digits.len());
                let digits = digits.get(1..).filter(|digits| digits.is_ascii());
                let (place, digits) = place.zip(digits).ok_or(Refusal::Malformed)?;
                packet.replace_range(place, &String::from_utf8_lossy(digits));
            }
        }
        let registers = xml::registers(packet.as_bytes()).ok_or(Refusal::Malformed)?;
        self.machine.target.set_registers(cpu, &registers)?;
        Ok("OK".into())
    }

    /// The target's own packets. QEMU takes any number for a place in its tables, so that only those go
    /// there which its registers have.
    fn native_registers(&mut self, kind: u8, rest: &[u8], cpu: Cpu) -> Result<Answer, Refusal> {
        let target = &mut self.machine.target;
        let mut parts = rest.splitn(2, |&byte| byte == b'=');
        let number = parts.next().and_then(hex::number);
        let size = number.and_then(|number| target.size_of_register(number));
        let fits = match kind {
            b'g' => rest.is_empty(),
            b'p' => size.is_some() && parts.next().is_none(),
            b'P' => size.zip(parts.next()).is_some_and(is_value),
            _ => {
                let all = target.forward(cpu, b"g")?.unwrap_or_default();
                is_value((all.len() / 2, rest))
            }
        };
        if !fits {
            return Err(Refusal::Malformed);
        }
        let reply = target.forward(cpu, &[&[kind], rest].concat())?;
        Ok(Answer::Packet(reply.unwrap_or_default()))
    }

    /// Takes `;thread:1;` off, if that was settled.
    fn suffix<'a>(&self, rest: &'a [u8]) -> Result<(&'a [u8], Cpu), Refusal> {
        const SUFFIX: &[u8] = b";thread:";
        let at = rest.windows(SUFFIX.len()).position(|part| part == SUFFIX);
        let Some(at) = at.filter(|_| self.talk.suffix) else {
            return Ok((rest, self.cpu()));
        };
        let (rest, suffix) = rest.split_at(at);
        let thread = suffix.get(SUFFIX.len()..).unwrap_or_default();
        let thread = thread.strip_suffix(b";").unwrap_or(thread);
        Ok((rest, self.thread(thread)?))
    }

    fn trap(&mut self, kind: u8, rest: &[u8]) -> Result<Answer, Refusal> {
        let Some((&[number, b','], rest)) = rest.split_first_chunk() else {
            return Err(Refusal::Malformed);
        };
        let rest = rest.split(|&byte| byte == b';').next().unwrap_or_default();
        let (at, size) = hex::pair(rest).ok_or(Refusal::Malformed)?;
        let size = u8::try_from(size).map_err(|_| Refusal::Malformed)?;
        let trap = match number {
            b'0' => Trap::Software,
            b'1' => Trap::Hardware,
            b'2' => Trap::Write(size),
            b'3' => Trap::Read(size),
            b'4' => Trap::Access(size),
            _ => return Ok("".into()),
        };
        self.standing()?;
        self.machine.control(self.id)?;
        if !self.machine.amd64 {
            let operands = format!("{},{at:x},{size:x}", char::from(number));
            let reply = self.machine.set_foreign(self.cpu(), kind, operands)?;
            return Ok(Answer::Packet(reply));
        }
        if kind == b'Z' {
            self.machine.target.look_from(self.cpu())?;
            self.machine.set(at, trap)?;
        } else {
            self.machine.clear(at, trap)?;
        }
        Ok("OK".into())
    }

    /// Does what the actions of a `vCont` say, all of it or nothing.
    fn act(&mut self, actions: &[u8]) -> Result<Answer, Refusal> {
        let actions = actions.split(|&byte| byte == b';').map(Action::read);
        let Some(actions) = actions.collect::<Option<Vec<Action<'_>>>>() else {
            return Ok("".into());
        };
        let step = actions.iter().find(|action| action.steps);
        let step = step.map(|step| self.thread_of(step)).transpose()?;
        let signalled = actions.iter().find(|action| action.signal != 0);
        let signal = signalled
            .map(|action| Ok::<_, Refusal>((self.thread_of(action)?, action.signal)))
            .transpose()?;
        self.standing()?;
        self.machine.control(self.id)?;
        if let Some(news) = self.machine.rest_of_libraries(self.talk)? {
            return Ok(news.into());
        }
        if let Some((cpu, signal)) = signal.filter(|_| self.machine.target.is_program()) {
            self.machine.target.deliver(cpu, signal);
        }
        match step {
            Some(cpu) => self.machine.step(cpu)?,
            None => self.resume()?,
        }
        Ok(Answer::Later)
    }

    fn thread_of(&self, action: &Action<'_>) -> Result<Cpu, Refusal> {
        match action.thread {
            None | Some(b"-1" | b"0") => Ok(self.cpu()),
            Some(thread) => self.thread(thread),
        }
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        if self.talk.knows_libraries.is_some() {
            self.machine.hook()?;
        }
        self.machine.resume()
    }

    pub(super) fn standing(&self) -> Result<(), Refusal> {
        if self.machine.is_running() {
            return Err(TargetError::Refused("answer while its kernel runs").into());
        }
        Ok(())
    }

    /// Debuggers kill what they debug when they leave in a hurry. That is seldom meant.
    fn kill(&mut self, word: Option<&'static [u8]>) -> Result<Answer, Refusal> {
        if self.machine.options.allow_kill {
            self.machine.control(self.id)?;
            self.machine.target.kill()?;
        }
        Ok(Answer::Leave(word))
    }

    fn verbose(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        if request == b"vCont?" {
            return Ok("vCont;c;C;s;S".into());
        }
        if request.starts_with(b"vKill") {
            return self.kill(Some(b"OK"));
        }
        let Some(actions) = request.strip_prefix(b"vCont;") else {
            return Ok("".into());
        };
        self.act(actions)
    }

    fn query(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        if request.starts_with(b"qSupported") {
            return Ok(self.features(Dialect::of(request)).into());
        }
        if let Some(file) = request.strip_prefix(b"qXfer:features:read:") {
            return self.description(request, file);
        }
        if let Some(range) = request.strip_prefix(EXEC_FILE.as_bytes()) {
            return self.file(request, range);
        }
        if let Some(range) = request.strip_prefix(b"qXfer:libraries:read::") {
            return self.libraries(range);
        }
        if let Some(thread) = request.strip_prefix(b"qThreadExtraInfo,") {
            return self.thread_name(thread);
        }
        match request {
            b"QStartNoAckMode" => Ok(Answer::WithoutAcks),
            b"qC" => Ok(format!("QC{:x}", self.cpu().0 + 1).into()),
            b"qAttached" => Ok("1".into()),
            b"qfThreadInfo" => Ok(format!("m{}", self.machine.threads()).into()),
            b"qsThreadInfo" => Ok("l".into()),
            b"qOffsets" => self.offsets(),
            b"qqemu.Supported" if self.machine.target.has_physical() => Ok("PhyMemMode".into()),
            b"Qqemu.PhyMemMode:1" | b"Qqemu.PhyMemMode:0" if self.machine.target.has_physical() => {
                self.talk.physical = request.ends_with(b"1");
                Ok("OK".into())
            }
            _ => match lldb::query(self, request)? {
                Some(answer) => Ok(answer),
                None => self.pass(request),
            },
        }
    }

    fn features(&self, dialect: Option<Dialect>) -> String {
        let mut features = format!(
            "PacketSize={PACKET_SIZE:x};QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;binary-upload+"
        );
        let passed = PASSED.iter().filter(|request| self.knows(request));
        let mut offers: Vec<&str> = passed.copied().collect();
        if self.machine.of_lldb && dialect == Some(Dialect::Gdb) {
            // It lacks what GDB wants of each library; GDB finds them by itself.
            offers.retain(|offer| *offer != LIBRARIES);
        }
        if self.machine.may_have_kernel() {
            offers.push("qXfer:libraries:read:");
        }
        // gdb takes it for a broken promise if there is none then.
        if self.kernel_file().is_some() || self.knows(EXEC_FILE) {
            offers.push(EXEC_FILE);
        }
        for offer in offers {
            features += &format!(";{}+", offer.trim_end_matches(':'));
        }
        features
    }

    /// Whether the target promises to answer this.
    fn knows(&self, request: &str) -> bool {
        let feature = format!("{}+", request.trim_end_matches(':'));
        self.machine.target.has_feature(&feature)
    }

    /// Whether the target's own packets with registers are for this debugger.
    fn native(&self) -> bool {
        self.machine.native && (self.talk.dialect == Dialect::Lldb || !self.machine.of_lldb)
    }

    /// The answer that makes both debuggers move all symbols. They understand each other's not.
    fn offsets(&mut self) -> Result<Answer, Refusal> {
        let Some(kernel) = &self.machine.whereabouts else {
            return self.forward(b"qOffsets");
        };
        let offsets = match self.talk.dialect {
            Dialect::Gdb => format!("TextSeg={:x}", kernel.text),
            Dialect::Lldb => format!("Text={0:x};Data={0:x};Bss={0:x}", kernel.slide),
        };
        Ok(offsets.into())
    }

    fn description(&mut self, request: &[u8], file: &[u8]) -> Result<Answer, Refusal> {
        let (name, range) = transfer(file)?;
        if self.native() {
            return self.forward(request);
        }
        if name != b"target.xml" {
            return Ok("E00".into());
        }
        Ok(piece(xml::description(self.owner()).as_bytes(), range))
    }

    fn owner(&self) -> Owner {
        match self.machine.target.is_program() {
            true => Owner::Program,
            false => Owner::Machine,
        }
    }

    /// The path of the kernel's file, for one process or for all; else of the program's.
    fn file(&mut self, request: &[u8], range: &[u8]) -> Result<Answer, Refusal> {
        let (_, range) = transfer(range)?;
        match self.kernel_file() {
            Some(path) => Ok(piece(path.as_os_str().as_bytes(), range)),
            None if self.knows(EXEC_FILE) => self.forward(request),
            None => Ok("".into()),
        }
    }

    fn kernel_file(&self) -> Option<&Path> {
        let kernel = self.machine.whereabouts.as_ref();
        kernel.and_then(|kernel| kernel.file.as_deref())
    }

    fn libraries(&mut self, range: &[u8]) -> Result<Answer, Refusal> {
        let range = hex::pair(range).ok_or(Refusal::Malformed)?;
        self.standing()?;
        if range.0 == 0 {
            self.talk.libraries = self.machine.libraries(self.talk)?;
        }
        Ok(piece(self.talk.libraries.as_bytes(), range))
    }

    fn thread_name(&mut self, thread: &[u8]) -> Result<Answer, Refusal> {
        let cpu = self.thread(thread)?;
        self.standing()?;
        let name = self.machine.target.name(cpu)?;
        Ok(hex::encode(name.as_bytes()).into())
    }

    /// What the target may know. What would change how it speaks is not passed on.
    fn pass(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        let command = request.starts_with(b"qRcmd,");
        if !command {
            let mut passed = PASSED.iter().filter(|request| self.knows(request));
            let Some(file) = passed.find_map(|known| request.strip_prefix(known.as_bytes())) else {
                return Ok("".into());
            };
            transfer(file)?;
            return self.forward(request);
        }
        self.standing()?;
        self.machine.control(self.id)?;
        self.machine.cache.clear();
        let packets = self.machine.target.monitor(self.cpu(), request)?;
        Ok(Answer::Packets(packets))
    }

    pub(super) fn forward(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        self.standing()?;
        let reply = self.machine.target.forward(self.cpu(), request)?;
        Ok(Answer::Packet(reply.unwrap_or_default()))
    }
}

/// What threads, or one of them, are to do.
struct Action<'a> {
    steps: bool,
    /// Zero for none.
    signal: u8,
    thread: Option<&'a [u8]>,
}

impl<'a> Action<'a> {
    /// `c`, `C0e`, `s:1`, `S0e:1`; `None` for all others.
    fn read(action: &'a [u8]) -> Option<Self> {
        let mut parts = action.splitn(2, |&byte| byte == b':');
        let (kind, signal) = parts.next()?.split_first()?;
        let signal = match kind {
            b'c' | b's' => signal.is_empty().then_some(0)?,
            b'C' | b'S' => u8::try_from(hex::number(signal)?).ok()?,
            _ => return None,
        };
        Some(Self {
            steps: matches!(kind, b's' | b'S'),
            signal,
            thread: parts.next(),
        })
    }
}

/// Whether these are digits of so many bytes at most, and of one at least.
fn is_value((most, digits): (usize, &[u8])) -> bool {
    hex::decode(digits).is_some_and(|bytes| (1..=most).contains(&bytes.len()))
}

/// The name of a file and a part of it, as in `target.xml:0,fff`. Stubs keep such numbers as integers of C.
fn transfer(file: &[u8]) -> Result<(&[u8], (u64, u64)), Refusal> {
    const MAX: u64 = i32::MAX as u64;
    let colon = file.iter().position(|&byte| byte == b':');
    let (name, range) = file.split_at(colon.ok_or(Refusal::Malformed)?);
    let range = range.get(1..).and_then(hex::pair);
    let range = range.filter(|(at, length)| *at <= MAX && *length <= MAX);
    Ok((name, range.ok_or(Refusal::Malformed)?))
}

/// A part of a file, and whether it was the last one.
fn piece(file: &[u8], (at, length): (u64, u64)) -> Answer {
    let clamp = |number: u64| {
        usize::try_from(number)
            .unwrap_or(usize::MAX)
            .min(file.len())
    };
    let start = clamp(at);
    let end = clamp(at.saturating_add(length));
    let part = file.get(start..end).unwrap_or_default();
    let kind: &[u8] = if end == file.len() { b"l" } else { b"m" };
    Answer::Packet([kind, part].concat())
}
