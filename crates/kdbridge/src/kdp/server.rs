//! The kernel's side of the conversation, in front of any [`Target`]: what XNU's `kdp_udp.c` does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::packet::{Code, Exception, Head, MAX_DATA_BYTES, Region, Reply, Request, Status};
use super::state::{self, EXC_BREAKPOINT, INT3, SINGLE_STEP};
use crate::target::{Cpu, Registers, Stop, Target, TargetError, Trap};

/// The version of the protocol that has all requests.
const VERSION: u32 = 12;

/// The kernel keeps the breakpoints.
const KEEPS_BREAKPOINTS: u32 = 1;

const MAX_BREAKPOINTS: usize = 100;

/// What XNU tells beside a breakpoint (`EXC_I386_BPTFLT`).
const BREAKPOINT_CODE: u32 = 3;

/// Registers of any x86-64 processor.
const CPU_SUBTYPE_ALL: u32 = 3;

/// What a kernel answers to the question for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its version, and for a debugger on a Mac its UUID and where its text begins:
    /// `…; UUID=…; stext=0x…`.
    pub banner: Vec<u8>,
}

/// A packet and the port at the debugger that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The port.
    pub port: u16,
    /// The packet.
    pub packet: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    key: u32,
    reply_port: u16,
    exception_port: u16,
}

/// A kernel that stands still or runs, and its conversation with a debugger.
#[derive(Debug)]
pub struct Server<T> {
    target: T,
    identity: Identity,
    session: Option<Session>,
    /// The number that the next request has to have.
    expected: u8,
    /// The last answer.
    saved: Option<Outgoing>,
    /// What the debugger has not confirmed yet.
    exception: Option<Exception>,
    exception_sequence: u8,
    running: bool,
    breakpoints: BTreeSet<u64>,
    single_step: bool,
    cpu: Cpu,
}

impl<T: Target> Server<T> {
    /// A kernel that stands still and waits for a debugger.
    pub fn new(target: T, identity: Identity) -> Self {
        Self {
            target,
            identity,
            session: None,
            expected: 0,
            saved: None,
            exception: None,
            exception_sequence: 0,
            running: false,
            breakpoints: BTreeSet::new(),
            single_step: false,
            cpu: Cpu(0),
        }
    }

    /// The kernel itself.
    pub fn target(&mut self) -> &mut T {
        &mut self.target
    }

    /// Whether the kernel runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Lets a kernel run that runs, for as long as `patience` says unless something stops it.
    ///
    /// # Errors
    ///
    /// What the target has.
    pub fn run(&mut self, patience: Duration) -> Result<(), TargetError> {
        let Some(stop) = self.target.wait(patience)? else {
            return Ok(());
        };
        self.running = false;
        let (cpu, exception) = match stop {
            Stop::Signal(cpu, 11) => (cpu, 1),
            Stop::Signal(cpu, 4) => (cpu, 2),
            Stop::Signal(cpu, 8) => (cpu, 3),
            Stop::Interrupted(cpu)
            | Stop::Breakpoint(cpu)
            | Stop::Watchpoint(cpu, _)
            | Stop::Stepped(cpu)
            | Stop::Signal(cpu, _) => (cpu, EXC_BREAKPOINT),
        };
        self.cpu = cpu;
        if matches!(stop, Stop::Breakpoint(_)) {
            let mut registers = self.target.registers(cpu)?;
            registers.rip = registers.rip.wrapping_add(1);
            self.target.set_registers(cpu, &registers)?;
        }
        self.exception = self.session.map(|_| Exception {
            cpu: 0,
            exception,
            code: BREAKPOINT_CODE,
            subcode: 0,
        });
        self.expected = self.session.map_or(0, |_| self.expected);
        Ok(())
    }

    /// Tells whoever wants a session while the kernel runs that it is to stop; a kernel that cannot
    /// be interrupted goes on.
    ///
    /// # Errors
    ///
    /// What the target has.
    pub fn knock(&mut self, packet: &[u8]) -> Result<(), TargetError> {
        let wants_in = Head::split(packet).is_ok_and(|(head, _)| {
            matches!(head.code, Code::Connect | Code::Reattach) && !head.is_reply
        });
        if !wants_in || self.session.is_some() {
            return Ok(());
        }
        match self.target.interrupt() {
            Err(TargetError::CannotInterrupt(_)) => Ok(()),
            result => result,
        }
    }

    /// The exception that the debugger has yet to confirm. It is to be sent again until it is gone,
    /// or until that has been done often enough for [`Server::give_up`].
    #[must_use]
    pub fn exception(&self) -> Option<Outgoing> {
        let (exception, session) = (self.exception?, self.session?);
        let request = Request::Exception(vec![exception]);
        Some(Outgoing {
            port: session.exception_port,
            packet: request.encode(self.exception_sequence, 0),
        })
    }

    /// Forgets a debugger that is gone, with its breakpoints, and lets the kernel run.
    ///
    /// # Errors
    ///
    /// What the target has.
    pub fn give_up(&mut self) -> Result<(), TargetError> {
        self.exception = None;
        self.leave()?;
        self.resume()
    }

    /// Takes a packet, and gives what is to be sent for it. What is wrong is dropped.
    ///
    /// # Errors
    ///
    /// What the target has, but for what is answered with an error.
    pub fn packet(&mut self, packet: &[u8]) -> Result<Option<Outgoing>, TargetError> {
        let Ok((head, body)) = Head::split(packet) else {
            return Ok(None);
        };
        if head.is_reply {
            self.confirm(head);
            return Ok(None);
        }
        if self.exception.is_some() || self.running {
            return Ok(None);
        }
        let Ok(request) = Request::decode(head.code, body) else {
            return Ok(None);
        };
        let Some(session) = self.session else {
            return Ok(self.wait_for_debugger(head, &request));
        };
        if head.code == Code::Reattach {
            self.expected = head.sequence;
        }
        if head.sequence == self.expected.wrapping_sub(1) && head.code != Code::Connect {
            return Ok(self.saved.clone());
        }
        if let Request::Connect { .. } = request {
            return Ok(Self::connect_again(session, head, &request));
        }
        if head.sequence != self.expected {
            return Ok(None);
        }
        self.serve(session, head, &request)
    }

    fn confirm(&mut self, head: Head) {
        if head.code == Code::Exception
            && head.sequence == self.exception_sequence
            && self.exception.take().is_some()
        {
            self.exception_sequence = self.exception_sequence.wrapping_add(1);
        }
    }

    fn wait_for_debugger(&mut self, head: Head, request: &Request<'_>) -> Option<Outgoing> {
        if head.sequence != 0 {
            return None;
        }
        let (port, reply) = match *request {
            Request::Connect {
                reply_port,
                exception_port,
                ..
            } => {
                self.session = Some(Session {
                    key: head.key,
                    reply_port,
                    exception_port,
                });
                self.expected = 1;
                (reply_port, Reply::Status(head.code, Status::OK))
            }
            Request::Reattach { reply_port } => (reply_port, Reply::Done(head.code)),
            _ => return None,
        };
        let packet = reply.encode(head.sequence, head.key);
        let answer = Some(Outgoing { port, packet });
        self.saved.clone_from(&answer);
        answer
    }

    /// Answers a debugger that connects to a kernel which has one. A copy of the connected one's
    /// request does not set back its numbers.
    fn connect_again(session: Session, head: Head, request: &Request<'_>) -> Option<Outgoing> {
        let &Request::Connect {
            reply_port,
            exception_port,
            ..
        } = request
        else {
            return None;
        };
        let asks = Session {
            key: head.key,
            reply_port,
            exception_port,
        };
        let status = if asks == session && head.sequence == 0 {
            Status::OK
        } else {
            Status::ALREADY_CONNECTED
        };
        let packet = Reply::Status(head.code, status).encode(head.sequence, head.key);
        Some(Outgoing {
            port: reply_port,
            packet,
        })
    }

    fn serve(
        &mut self,
        session: Session,
        head: Head,
        request: &Request<'_>,
    ) -> Result<Option<Outgoing>, TargetError> {
        let Some(packet) = self.reply(request, head)? else {
            return Ok(None);
        };
        let port = match *request {
            Request::Reattach { reply_port } => reply_port,
            _ => session.reply_port,
        };
        self.expected = self.session.map_or(0, |_| self.expected.wrapping_add(1));
        self.saved = Some(Outgoing { port, packet });
        Ok(self.saved.clone())
    }

    /// Does what is asked. `None` for what a kernel does not answer.
    fn reply(&mut self, request: &Request<'_>, head: Head) -> Result<Option<Vec<u8>>, TargetError> {
        let code = head.code;
        let reply = |reply: Reply<'_>| Ok(Some(reply.encode(head.sequence, head.key)));
        let status = |status| reply(Reply::Status(code, status));
        let read = |read: Read| match read {
            Ok(bytes) => reply(Reply::Data(code, Status::OK, &bytes)),
            Err((status, bytes)) => reply(Reply::Data(code, status, &bytes)),
        };
        match *request {
            Request::ReadMem { at, length } => read(self.read(u64::from(at), length)?),
            Request::ReadMem64 { at, length } => read(self.read(at, length)?),
            Request::ReadPhysMem64 { at, length, .. } => read(self.read_physical(at, length)?),
            Request::ReadRegs { flavor, .. } => read(self.read_registers(flavor)?),
            Request::ReadIoPort { .. } | Request::ReadMsr64 { .. } => {
                read(Err((Status::BAD_ACCESS, Vec::new())))
            }
            Request::WriteMem { at, data } => status(self.write(u64::from(at), data)?),
            Request::WriteMem64 { at, data } => status(self.write(at, data)?),
            Request::WriteRegs { flavor, state, .. } => {
                status(self.write_registers(flavor, state)?)
            }
            Request::WritePhysMem64 { .. }
            | Request::WriteIoPort { .. }
            | Request::WriteMsr64 { .. } => status(Status::BAD_ACCESS),
            Request::BreakpointSet { at } => status(self.set(u64::from(at))?),
            Request::Breakpoint64Set { at } => status(self.set(at)?),
            Request::BreakpointRemove { at } => status(self.remove(u64::from(at))?),
            Request::Breakpoint64Remove { at } => status(self.remove(at)?),
            Request::HostInfo => reply(self.host_info()?),
            Request::Version => reply(Reply::Version {
                version: VERSION,
                features: KEEPS_BREAKPOINTS,
            }),
            Request::MaxBytes => reply(Reply::MaxBytes(MAX_DATA_BYTES as u32)),
            Request::Regions => reply(Reply::Regions(vec![EVERYTHING])),
            Request::KernelVersion => reply(Reply::Text(code, &self.identity.banner)),
            Request::DumpInfo(info) => reply(Reply::DumpInfo(info)),
            Request::Suspend => reply(Reply::Done(code)),
            Request::ResumeCpus { .. } => {
                self.resume()?;
                reply(Reply::Done(code))
            }
            Request::Reattach { .. } => {
                self.leave()?;
                reply(Reply::Done(code))
            }
            Request::Disconnect => {
                self.leave()?;
                self.resume()?;
                reply(Reply::Done(code))
            }
            Request::Connect { .. }
            | Request::Load { .. }
            | Request::ImagePath
            | Request::Exception(_)
            | Request::Termination { .. }
            | Request::HostReboot => Ok(None),
        }
    }

    fn host_info(&mut self) -> Result<Reply<'static>, TargetError> {
        let cpus = self.target.cpus()?;
        let bits = cpus.iter().filter_map(|cpu| 1u32.checked_shl(cpu.0));
        Ok(Reply::HostInfo {
            cpus: bits.fold(0, |all, bit| all | bit),
            cpu_type: state::CPU_TYPE_X86_64,
            cpu_subtype: CPU_SUBTYPE_ALL,
        })
    }

    /// Memory with the breakpoints in it, as a kernel has it. A read that fails brings what is in
    /// front of the fault.
    fn read(&mut self, at: u64, length: u32) -> Result<Read, TargetError> {
        if length as usize > MAX_DATA_BYTES {
            return Ok(Err((Status::BAD_LENGTH, Vec::new())));
        }
        let mut bytes = vec![0; length as usize];
        let fault = unreadable(self.target.read(at, &mut bytes))?;
        if let Some(fault) = fault {
            bytes.truncate(fault.saturating_sub(at) as usize);
            if unreadable(self.target.read(at, &mut bytes))?.is_some() {
                bytes.clear();
            }
        }
        let end = at.saturating_add(bytes.len() as u64);
        for &place in self.breakpoints.range(at..end) {
            if let Some(byte) = bytes.get_mut((place - at) as usize) {
                *byte = INT3;
            }
        }
        Ok(match fault {
            Some(_) => Err((Status::BAD_ACCESS, bytes)),
            None => Ok(bytes),
        })
    }

    fn read_physical(&mut self, at: u64, length: u32) -> Result<Read, TargetError> {
        if length as usize > MAX_DATA_BYTES {
            return Ok(Err((Status::BAD_LENGTH, Vec::new())));
        }
        let mut bytes = vec![0; length as usize];
        Ok(match self.target.read_physical(at, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(TargetError::Unreadable(_) | TargetError::Refused(_)) => {
                Err((Status::BAD_ACCESS, Vec::new()))
            }
            Err(error) => return Err(error),
        })
    }

    fn write(&mut self, at: u64, data: &[u8]) -> Result<Status, TargetError> {
        if data.len() > MAX_DATA_BYTES {
            return Ok(Status::BAD_LENGTH);
        }
        let fault = unreadable(self.target.write(at, data))?;
        Ok(fault.map_or(Status::OK, |_| Status::BAD_ACCESS))
    }

    fn read_registers(&mut self, flavor: u32) -> Result<Read, TargetError> {
        Ok(match flavor {
            state::THREAD_STATE64 => {
                let mut registers = self.target.registers(self.cpu)?;
                if self.single_step {
                    registers.rflags |= SINGLE_STEP;
                }
                Ok(state::encode(&registers))
            }
            state::FLOAT_STATE64 => Ok(vec![0; state::FLOAT_STATE64_BYTES]),
            _ => Err((Status::BAD_FLAVOR, Vec::new())),
        })
    }

    fn write_registers(&mut self, flavor: u32, state: &[u8]) -> Result<Status, TargetError> {
        if flavor == state::FLOAT_STATE64 {
            return Ok(Status::OK);
        }
        let Some(new) = state::decode(state).filter(|_| flavor == state::THREAD_STATE64) else {
            return Ok(Status::BAD_FLAVOR);
        };
        let mut registers = self.target.registers(self.cpu)?;
        let [cs, ss, ds, es, ..] = registers.segments;
        let [.., fs, gs] = new.segments;
        self.single_step = new.rflags & SINGLE_STEP != 0;
        registers = Registers {
            rflags: new.rflags & !SINGLE_STEP,
            segments: [cs, ss, ds, es, fs, gs],
            ..new
        };
        self.target.set_registers(self.cpu, &registers)?;
        Ok(Status::OK)
    }

    /// XNU says that it set a breakpoint also where nothing is.
    fn set(&mut self, at: u64) -> Result<Status, TargetError> {
        if self.breakpoints.contains(&at) {
            return Ok(Status::TRAP_THERE);
        }
        if self.breakpoints.len() == MAX_BREAKPOINTS {
            return Ok(Status::TABLE_FULL);
        }
        match self.target.set(at, Trap::Software) {
            Ok(()) => {
                self.breakpoints.insert(at);
                Ok(Status::OK)
            }
            Err(TargetError::Unreadable(_)) => Ok(Status::OK),
            Err(TargetError::TooMany(_)) => Ok(Status::TABLE_FULL),
            Err(TargetError::Refused(_)) => Ok(Status::TRAP_THERE),
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, at: u64) -> Result<Status, TargetError> {
        if !self.breakpoints.remove(&at) {
            return Ok(Status::NOT_FOUND);
        }
        self.target.clear(at, Trap::Software)?;
        Ok(Status::OK)
    }

    /// Ends the session and takes its breakpoints off.
    fn leave(&mut self) -> Result<(), TargetError> {
        self.session = None;
        self.expected = 0;
        for at in std::mem::take(&mut self.breakpoints) {
            self.target.clear(at, Trap::Software)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.running = true;
        if self.single_step {
            self.target.step(self.cpu)
        } else {
            self.target.resume()
        }
    }
}

/// The bytes, or why not and what is in front of the fault.
type Read = Result<Vec<u8>, (Status, Vec<u8>)>;

/// What a kernel on x86 says of its memory.
const EVERYTHING: Region = Region {
    at: 0,
    size: u32::MAX,
    protection: 7,
};

/// The address that cannot be reached, if that is all that is wrong.
fn unreadable(result: Result<(), TargetError>) -> Result<Option<u64>, TargetError> {
    match result {
        Ok(()) => Ok(None),
        Err(TargetError::Unreadable(at)) => Ok(Some(at)),
        Err(error) => Err(error),
    }
}
