//! What a debugger asks, and what it is told.

use std::os::unix::ffi::OsStrExt;

use super::client::{Id, Talk};
use super::dialect::Dialect;
use super::machine::{Machine, NotYours};
use super::{lldb, xml};
use crate::rsp::hex;
use crate::target::{Cpu, Target, TargetError, Trap};

/// The longest packet that debuggers may send.
const PACKET_SIZE: usize = 0x2_0000;

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Answer {
    Packet(Vec<u8>),
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
    let mut conversation = Conversation { machine, id, talk };
    match conversation.answer(request) {
        Ok(answer) => Ok(answer),
        Err(Refusal::Target(TargetError::Gone)) => Err(TargetError::Gone),
        Err(refusal) => Ok(refusal.to_answer(conversation.talk)),
    }
}

impl Refusal {
    fn to_answer(&self, talk: &Talk) -> Answer {
        let (code, text) = match self {
            Self::Malformed => (0x16, "a request that makes no sense".to_owned()),
            Self::NotYours(NotYours(other)) => (
                1,
                format!("debugger {} controls this machine until it leaves", other.0),
            ),
            Self::Target(error) => (0x0e, error.to_string()),
        };
        match talk.dialect {
            Dialect::Gdb => format!("E.{text}"),
            Dialect::Lldb if talk.error_texts => {
                format!("E{code:02x};{}", hex::encode(text.as_bytes()))
            }
            Dialect::Lldb => format!("E{code:02x}"),
        }
        .into()
    }
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
            b'c' | b'C' => self.resume(),
            b's' | b'S' => self.step(self.cpu()),
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
        self.talk.cpu.or(stopped).unwrap_or(Cpu(0))
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
        if self.machine.native {
            let request = [&[kind], rest].concat();
            let reply = self.machine.target.forward(cpu, &request)?;
            return Ok(Answer::Packet(reply.unwrap_or_default()));
        }
        let mut packet = xml::packet(&self.machine.target.registers(cpu)?);
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
        let (trap, rest) = rest.split_at_checked(2).ok_or(Refusal::Malformed)?;
        let rest = rest.split(|&byte| byte == b';').next().unwrap_or_default();
        let (at, size) = hex::pair(rest).ok_or(Refusal::Malformed)?;
        let size = u8::try_from(size).map_err(|_| Refusal::Malformed)?;
        let trap = match trap {
            b"0," => Trap::Software,
            b"1," => Trap::Hardware,
            b"2," => Trap::Write(size),
            b"3," => Trap::Read(size),
            b"4," => Trap::Access(size),
            _ => return Ok("".into()),
        };
        self.standing()?;
        self.machine.control(self.id)?;
        if kind == b'Z' {
            self.machine.target.look_from(self.cpu())?;
            self.machine.set(at, trap)?;
        } else {
            self.machine.clear(at, trap)?;
        }
        Ok("OK".into())
    }

    fn resume(&mut self) -> Result<Answer, Refusal> {
        self.standing()?;
        self.machine.control(self.id)?;
        self.machine.resume()?;
        Ok(Answer::Later)
    }

    fn step(&mut self, cpu: Cpu) -> Result<Answer, Refusal> {
        self.standing()?;
        self.machine.control(self.id)?;
        self.machine.step(cpu)?;
        Ok(Answer::Later)
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
        for action in actions.split(|&byte| byte == b';') {
            if matches!(action.first(), Some(b's' | b'S')) {
                let thread = action.split(|&byte| byte == b':').nth(1);
                let cpu = thread.map_or(Ok(self.cpu()), |thread| self.thread(thread))?;
                return self.step(cpu);
            }
        }
        self.resume()
    }

    fn query(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        if request.starts_with(b"qSupported") {
            return Ok(self.features().into());
        }
        if let Some(file) = request.strip_prefix(b"qXfer:features:read:") {
            return self.description(request, file);
        }
        if let Some(range) = request.strip_prefix(b"qXfer:exec-file:read:") {
            return self.file(range);
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
            b"qfThreadInfo" => Ok(format!("m{}", self.threads()).into()),
            b"qsThreadInfo" => Ok("l".into()),
            b"qOffsets" => Ok(self.offsets().into()),
            b"qqemu.Supported" => Ok("PhyMemMode".into()),
            b"Qqemu.PhyMemMode:1" | b"Qqemu.PhyMemMode:0" => {
                self.talk.physical = request.ends_with(b"1");
                Ok("OK".into())
            }
            _ => match lldb::query(self, request)? {
                Some(answer) => Ok(answer),
                None => self.pass(request),
            },
        }
    }

    fn features(&self) -> String {
        let kernel = self.machine.whereabouts.as_ref();
        let has_file = kernel.is_some_and(|kernel| kernel.file.is_some());
        // gdb takes it for a broken promise if there is none then.
        let file = if has_file {
            "qXfer:exec-file:read+;"
        } else {
            ""
        };
        format!(
            "PacketSize={PACKET_SIZE:x};QStartNoAckMode+;qXfer:features:read+;qXfer:libraries:read+;{file}vContSupported+;swbreak+;hwbreak+;binary-upload+"
        )
    }

    pub(super) fn threads(&self) -> String {
        let threads = self
            .machine
            .cpus
            .iter()
            .map(|cpu| format!("{:x}", cpu.0 + 1));
        threads.collect::<Vec<_>>().join(",")
    }

    /// The answer that makes both debuggers move all symbols. They understand each other's not.
    fn offsets(&self) -> String {
        let Some(kernel) = &self.machine.whereabouts else {
            return String::new();
        };
        match self.talk.dialect {
            Dialect::Gdb => format!("TextSeg={:x}", kernel.text),
            Dialect::Lldb => format!("Text={0:x};Data={0:x};Bss={0:x}", kernel.slide),
        }
    }

    fn description(&mut self, request: &[u8], file: &[u8]) -> Result<Answer, Refusal> {
        if self.machine.native {
            return self.forward(request);
        }
        let mut parts = file.split(|&byte| byte == b':');
        if parts.next() != Some(b"target.xml") {
            return Ok("E00".into());
        }
        let range = parts.next().and_then(hex::pair).ok_or(Refusal::Malformed)?;
        Ok(piece(xml::description().as_bytes(), range))
    }

    /// The path of the kernel's file, for one process or for all.
    fn file(&self, request: &[u8]) -> Result<Answer, Refusal> {
        let range = request.split(|&byte| byte == b':').nth(1);
        let range = range.and_then(hex::pair).ok_or(Refusal::Malformed)?;
        let kernel = self.machine.whereabouts.as_ref();
        let path = kernel.and_then(|kernel| kernel.file.as_ref());
        Ok(path.map_or("".into(), |path| piece(path.as_os_str().as_bytes(), range)))
    }

    fn libraries(&mut self, range: &[u8]) -> Result<Answer, Refusal> {
        let range = hex::pair(range).ok_or(Refusal::Malformed)?;
        self.standing()?;
        if range.0 == 0 {
            self.talk.knows_libraries = true;
            self.talk.libraries = self.machine.libraries(self.talk.dialect);
        }
        Ok(piece(self.talk.libraries.as_bytes(), range))
    }

    fn thread_name(&mut self, thread: &[u8]) -> Result<Answer, Refusal> {
        let cpu = self.thread(thread)?;
        Ok(hex::encode(format!("CPU#{}", cpu.0).as_bytes()).into())
    }

    /// What the target may know. What would change how it speaks is not passed on.
    fn pass(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        const KNOWN: [&[u8]; 2] = [b"qRcmd,", b"qXfer:auxv:read:"];
        if !KNOWN.iter().any(|known| request.starts_with(known)) {
            return Ok("".into());
        }
        self.standing()?;
        if request.starts_with(b"qRcmd") {
            self.machine.control(self.id)?;
            self.machine.cache.clear();
        }
        self.forward(request)
    }

    fn forward(&mut self, request: &[u8]) -> Result<Answer, Refusal> {
        self.standing()?;
        let reply = self.machine.target.forward(self.cpu(), request)?;
        Ok(Answer::Packet(reply.unwrap_or_default()))
    }
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
