//! What stands in a packet. Layout and numbers are those of XNU's `osfmk/kdp/kdp_protocol.h`.

use thiserror::Error;

use super::bytes::{Reader, Writer};

/// Bytes of the head: code and direction, sequence number, length of all, session key.
pub const HEAD_BYTES: usize = 8;

/// The most memory that travels in one packet.
pub const MAX_DATA_BYTES: usize = 1024;

const IS_REPLY: u8 = 0x80;

/// The requests, in the order of their numbers, which begin at 0.
macro_rules! codes {
    ($($name:ident,)*) => {
        /// Which request, or whose answer, a packet is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are the protocol's own")]
        pub enum Code {
            $($name,)*
        }

        impl Code {
            /// All of them; each stands at the index that is its number.
            pub const ALL: [Self; 32] = [$(Self::$name,)*];
        }
    };
}

codes! {
    Connect,
    Disconnect,
    HostInfo,
    Version,
    MaxBytes,
    ReadMem,
    WriteMem,
    ReadRegs,
    WriteRegs,
    Load,
    ImagePath,
    Suspend,
    ResumeCpus,
    Exception,
    Termination,
    BreakpointSet,
    BreakpointRemove,
    Regions,
    Reattach,
    HostReboot,
    ReadMem64,
    WriteMem64,
    Breakpoint64Set,
    Breakpoint64Remove,
    KernelVersion,
    ReadPhysMem64,
    WritePhysMem64,
    ReadIoPort,
    WriteIoPort,
    ReadMsr64,
    WriteMsr64,
    DumpInfo,
}

/// What a request did, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// It was done.
    pub const OK: Self = Self(0);
    /// Another debugger is connected.
    pub const ALREADY_CONNECTED: Self = Self(1);
    /// More bytes than fit into a packet.
    pub const BAD_LENGTH: Self = Self(2);
    /// There are no registers of that kind.
    pub const BAD_FLAVOR: Self = Self(3);
    /// Memory that is not there, or a request that this machine cannot serve.
    pub const BAD_ACCESS: Self = Self(4);
    /// All places for breakpoints are taken.
    pub const TABLE_FULL: Self = Self(100);
    /// There is no breakpoint.
    pub const NOT_FOUND: Self = Self(101);
    /// There is a trap already.
    pub const TRAP_THERE: Self = Self(102);
}

/// What happened to one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Which processor.
    pub cpu: u32,
    /// Mach's number of the exception; 6 is a breakpoint.
    pub exception: u32,
    /// What is told beside it, depending on the exception.
    pub code: u32,
    /// The same.
    pub subcode: u32,
}

/// A stretch of memory that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub at: u32,
    /// How many bytes it has.
    pub size: u32,
    /// 1 to read, 2 to write, 4 to execute.
    pub protection: u32,
}

/// Where and what the kernel writes when it panics. The texts end with a zero; what stands behind it
/// has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpInfo {
    /// The name of the file.
    pub name: [u8; 50],
    /// The address of the machine that takes it, as text.
    pub server: [u8; 16],
    /// The address of the router on the way there, as text.
    pub router: [u8; 16],
    /// The port of the machine that takes it.
    pub port: u32,
    /// What to do, and what to write.
    pub kind: u32,
}

/// What a debugger asks, or, with [`Request::Exception`] and [`Request::Termination`], what a kernel
/// tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the protocol's own")]
pub enum Request<'a> {
    Connect {
        reply_port: u16,
        exception_port: u16,
        greeting: &'a [u8],
    },
    Disconnect,
    HostInfo,
    Version,
    MaxBytes,
    ReadMem {
        at: u32,
        length: u32,
    },
    WriteMem {
        at: u32,
        data: &'a [u8],
    },
    ReadRegs {
        cpu: u32,
        flavor: u32,
    },
    WriteRegs {
        cpu: u32,
        flavor: u32,
        state: &'a [u8],
    },
    Load {
        arguments: &'a [u8],
    },
    ImagePath,
    Suspend,
    ResumeCpus {
        mask: u32,
    },
    Exception(Vec<Exception>),
    Termination {
        reason: u32,
        exit_code: u32,
    },
    BreakpointSet {
        at: u32,
    },
    BreakpointRemove {
        at: u32,
    },
    Regions,
    Reattach {
        reply_port: u16,
    },
    HostReboot,
    ReadMem64 {
        at: u64,
        length: u32,
    },
    WriteMem64 {
        at: u64,
        data: &'a [u8],
    },
    Breakpoint64Set {
        at: u64,
    },
    Breakpoint64Remove {
        at: u64,
    },
    KernelVersion,
    ReadPhysMem64 {
        at: u64,
        length: u32,
        cpu: u16,
    },
    WritePhysMem64 {
        at: u64,
        cpu: u16,
        data: &'a [u8],
    },
    ReadIoPort {
        cpu: u16,
        port: u16,
        length: u16,
    },
    WriteIoPort {
        cpu: u16,
        port: u16,
        data: &'a [u8],
    },
    ReadMsr64 {
        msr: u32,
        cpu: u16,
    },
    WriteMsr64 {
        msr: u32,
        cpu: u16,
        value: u64,
    },
    DumpInfo(DumpInfo),
}

/// What is answered. [`Code::HostReboot`] has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the protocol's own")]
pub enum Reply<'a> {
    /// To [`Code::Disconnect`], [`Code::Suspend`], [`Code::ResumeCpus`], [`Code::Reattach`],
    /// [`Code::Exception`] and [`Code::Termination`]: that it came.
    Done(Code),
    /// To whatever can fail and brings nothing else.
    Status(Code, Status),
    /// To whatever reads. A read that failed brings what is in front of the fault.
    Data(Code, Status, &'a [u8]),
    HostInfo {
        cpus: u32,
        cpu_type: u32,
        cpu_subtype: u32,
    },
    Version {
        version: u32,
        features: u32,
    },
    MaxBytes(u32),
    Regions(Vec<Region>),
    /// To [`Code::ImagePath`] and [`Code::KernelVersion`].
    Text(Code, &'a [u8]),
    DumpInfo(DumpInfo),
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Something is missing.
    #[error("the packet is too short")]
    Short,
    /// A length in the packet is not that of what came.
    #[error("a length in the packet is wrong")]
    Length,
    /// A number that stands for no request.
    #[error("there is no request {0:#x}")]
    Code(u8),
    /// Text that does not end where it has to.
    #[error("a text in the packet does not end")]
    Text,
}

/// The head of a packet, without its length, which is that of the datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which request.
    pub code: Code,
    /// Whether it is the answer.
    pub is_reply: bool,
    /// Its place in the conversation, modulo 256.
    pub sequence: u8,
    /// What the debugger chose when it connected; 0 for what the kernel tells on its own.
    pub key: u32,
}

impl Head {
    /// The head of `packet` and its body.
    ///
    /// # Errors
    ///
    /// [`Malformed::Short`], [`Malformed::Code`], and [`Malformed::Length`] if the packet does not
    /// have the length that it says.
    pub fn split(packet: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (&[code, sequence, l0, l1, k0, k1, k2, k3], body) =
            packet.split_first_chunk().ok_or(Malformed::Short)?;
        if usize::from(u16::from_le_bytes([l0, l1])) != packet.len() {
            return Err(Malformed::Length);
        }
        let number = code & !IS_REPLY;
        let head = Self {
            code: *Code::ALL
                .get(usize::from(number))
                .ok_or(Malformed::Code(number))?,
            is_reply: code & IS_REPLY != 0,
            sequence,
            key: u32::from_le_bytes([k0, k1, k2, k3]),
        };
        Ok((head, body))
    }

    /// `body` with this head in front.
    ///
    /// # Panics
    ///
    /// If `body` has more than 65527 bytes.
    #[must_use]
    pub fn join(self, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEAD_BYTES + body.len()).expect("a body fits into a datagram");
        let direction = if self.is_reply { IS_REPLY } else { 0 };
        let mut packet = Vec::with_capacity(usize::from(length));
        packet.extend([self.code as u8 | direction, self.sequence]);
        Writer(&mut packet).u16(length).u32(self.key).bytes(body);
        packet
    }
}

impl<'a> Request<'a> {
    /// Which request it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Connect { .. } => Code::Connect,
            Self::Disconnect => Code::Disconnect,
            Self::HostInfo => Code::HostInfo,
            Self::Version => Code::Version,
            Self::MaxBytes => Code::MaxBytes,
            Self::ReadMem { .. } => Code::ReadMem,
            Self::WriteMem { .. } => Code::WriteMem,
            Self::ReadRegs { .. } => Code::ReadRegs,
            Self::WriteRegs { .. } => Code::WriteRegs,
            Self::Load { .. } => Code::Load,
            Self::ImagePath => Code::ImagePath,
            Self::Suspend => Code::Suspend,
            Self::ResumeCpus { .. } => Code::ResumeCpus,
            Self::Exception(_) => Code::Exception,
            Self::Termination { .. } => Code::Termination,
            Self::BreakpointSet { .. } => Code::BreakpointSet,
            Self::BreakpointRemove { .. } => Code::BreakpointRemove,
            Self::Regions => Code::Regions,
            Self::Reattach { .. } => Code::Reattach,
            Self::HostReboot => Code::HostReboot,
            Self::ReadMem64 { .. } => Code::ReadMem64,
            Self::WriteMem64 { .. } => Code::WriteMem64,
            Self::Breakpoint64Set { .. } => Code::Breakpoint64Set,
            Self::Breakpoint64Remove { .. } => Code::Breakpoint64Remove,
            Self::KernelVersion => Code::KernelVersion,
            Self::ReadPhysMem64 { .. } => Code::ReadPhysMem64,
            Self::WritePhysMem64 { .. } => Code::WritePhysMem64,
            Self::ReadIoPort { .. } => Code::ReadIoPort,
            Self::WriteIoPort { .. } => Code::WriteIoPort,
            Self::ReadMsr64 { .. } => Code::ReadMsr64,
            Self::WriteMsr64 { .. } => Code::WriteMsr64,
            Self::DumpInfo(_) => Code::DumpInfo,
        }
    }

    /// The request as a packet.
    #[must_use]
    pub fn encode(&self, sequence: u8, key: u32) -> Vec<u8> {
        let mut body = Vec::new();
        self.write(&mut Writer(&mut body));
        let head = Head {
            code: self.code(),
            is_reply: false,
            sequence,
            key,
        };
        head.join(&body)
    }

    fn write(&self, to: &mut Writer<'_>) {
        match *self {
            Self::Disconnect
            | Self::HostInfo
            | Self::Version
            | Self::MaxBytes
            | Self::ImagePath
            | Self::Suspend
            | Self::Regions
            | Self::HostReboot
            | Self::KernelVersion => to,
            Self::Connect {
                reply_port,
                exception_port,
                greeting,
            } => to.port(reply_port).port(exception_port).string(greeting),
            Self::Reattach { reply_port } => to.port(reply_port),
            Self::ReadMem { at, length } => to.u32(at).u32(length),
            Self::WriteMem { at, data } => to.u32(at).u32(data.len() as u32).bytes(data),
            Self::ReadRegs { cpu, flavor } => to.u32(cpu).u32(flavor),
            Self::WriteRegs { cpu, flavor, state } => to.u32(cpu).u32(flavor).bytes(state),
            Self::Load { arguments } => to.string(arguments),
            Self::ResumeCpus { mask } => to.u32(mask),
            Self::Exception(ref exceptions) => {
                to.u32(exceptions.len() as u32);
                exceptions.iter().fold(to, |to, one| {
                    to.u32(one.cpu)
                        .u32(one.exception)
                        .u32(one.code)
                        .u32(one.subcode)
                })
            }
            Self::Termination { reason, exit_code } => to.u32(reason).u32(exit_code),
            Self::BreakpointSet { at } | Self::BreakpointRemove { at } => to.u32(at),
            Self::Breakpoint64Set { at } | Self::Breakpoint64Remove { at } => to.u64(at),
            Self::ReadMem64 { at, length } => to.u64(at).u32(length),
            Self::WriteMem64 { at, data } => to.u64(at).u32(data.len() as u32).bytes(data),
            Self::ReadPhysMem64 { at, length, cpu } => to.u64(at).u32(length).u16(cpu),
            Self::WritePhysMem64 { at, cpu, data } => {
                to.u64(at).u32(data.len() as u32).u16(cpu).bytes(data)
            }
            Self::ReadIoPort { cpu, port, length } => to.u16(cpu).u16(port).u16(length),
            Self::WriteIoPort { cpu, port, data } => {
                to.u16(cpu).u16(port).u16(data.len() as u16).bytes(data)
            }
            Self::ReadMsr64 { msr, cpu } => to.u32(msr).u16(cpu),
            Self::WriteMsr64 { msr, cpu, value } => to.u32(msr).u16(cpu).u64(value),
            Self::DumpInfo(ref info) => info.write(to),
        };
    }

    /// The request of this code with this body.
    ///
    /// # Errors
    ///
    /// [`Malformed`] unless the body is all of the request and nothing else.
    pub fn decode(code: Code, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Reader(body);
        let request = Self::read(code, &mut from)?;
        from.end().map(|()| request)
    }

    fn read(code: Code, from: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match code {
            Code::Connect => Self::Connect {
                reply_port: from.port()?,
                exception_port: from.port()?,
                greeting: from.string()?,
            },
            Code::Disconnect => Self::Disconnect,
            Code::HostInfo => Self::HostInfo,
            Code::Version => Self::Version,
            Code::MaxBytes => Self::MaxBytes,
            Code::ReadRegs => Self::ReadRegs {
                cpu: from.u32()?,
                flavor: from.u32()?,
            },
            Code::WriteRegs => Self::WriteRegs {
                cpu: from.u32()?,
                flavor: from.u32()?,
                state: from.rest(),
            },
            Code::Load => Self::Load {
                arguments: from.string()?,
            },
            Code::ImagePath => Self::ImagePath,
            Code::Suspend => Self::Suspend,
            Code::ResumeCpus => Self::ResumeCpus { mask: from.u32()? },
            Code::Exception => Self::Exception(exceptions(from)?),
            Code::Termination => Self::Termination {
                reason: from.u32()?,
                exit_code: from.u32()?,
            },
            Code::BreakpointSet => Self::BreakpointSet { at: from.u32()? },
            Code::BreakpointRemove => Self::BreakpointRemove { at: from.u32()? },
            Code::Breakpoint64Set => Self::Breakpoint64Set { at: from.u64()? },
            Code::Breakpoint64Remove => Self::Breakpoint64Remove { at: from.u64()? },
            Code::Regions => Self::Regions,
            Code::Reattach => Self::Reattach {
                reply_port: from.port()?,
            },
            Code::HostReboot => Self::HostReboot,
            Code::KernelVersion => Self::KernelVersion,
            Code::DumpInfo => Self::DumpInfo(DumpInfo::read(from)?),
            Code::ReadMem
            | Code::WriteMem
            | Code::ReadMem64
            | Code::WriteMem64
            | Code::ReadPhysMem64
            | Code::WritePhysMem64 => Self::read_access(code, from)?,
            Code::ReadIoPort | Code::WriteIoPort | Code::ReadMsr64 | Code::WriteMsr64 => {
                Self::read_processor(code, from)?
            }
        })
    }

    /// A request about memory.
    fn read_access(code: Code, from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let narrow = matches!(code, Code::ReadMem | Code::WriteMem);
        let at = if narrow {
            u64::from(from.u32()?)
        } else {
            from.u64()?
        };
        let length = from.u32()?;
        Ok(match code {
            Code::ReadMem => Self::ReadMem {
                at: at as u32,
                length,
            },
            Code::WriteMem => Self::WriteMem {
                at: at as u32,
                data: from.exactly(length)?,
            },
            Code::ReadMem64 => Self::ReadMem64 { at, length },
            Code::WriteMem64 => Self::WriteMem64 {
                at,
                data: from.exactly(length)?,
            },
            Code::ReadPhysMem64 => Self::ReadPhysMem64 {
                at,
                length,
                cpu: from.u16()?,
            },
            _ => Self::WritePhysMem64 {
                at,
                cpu: from.u16()?,
                data: from.exactly(length)?,
            },
        })
    }

    /// A request about what only a processor can reach.
    fn read_processor(code: Code, from: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match code {
            Code::ReadIoPort => Self::ReadIoPort {
                cpu: from.u16()?,
                port: from.u16()?,
                length: from.u16()?,
            },
            Code::WriteIoPort => {
                let (cpu, port, length) = (from.u16()?, from.u16()?, from.u16()?);
                let data = from.exactly(u32::from(length))?;
                Self::WriteIoPort { cpu, port, data }
            }
            Code::ReadMsr64 => Self::ReadMsr64 {
                msr: from.u32()?,
                cpu: from.u16()?,
            },
            _ => Self::WriteMsr64 {
                msr: from.u32()?,
                cpu: from.u16()?,
                value: from.u64()?,
            },
        })
    }
}

fn exceptions(from: &mut Reader<'_>) -> Result<Vec<Exception>, Malformed> {
    let count = from.u32()?;
    if from.0.len() as u64 != u64::from(count) * 16 {
        return Err(Malformed::Length);
    }
    (0..count)
        .map(|_| {
            Ok(Exception {
                cpu: from.u32()?,
                exception: from.u32()?,
                code: from.u32()?,
                subcode: from.u32()?,
            })
        })
        .collect()
}

impl DumpInfo {
    fn write<'w, 'b>(&self, to: &'w mut Writer<'b>) -> &'w mut Writer<'b> {
        to.bytes(&self.name)
            .bytes(&self.server)
            .bytes(&self.router)
            .u32(self.port)
            .u32(self.kind)
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: from.array()?,
            server: from.array()?,
            router: from.array()?,
            port: from.u32()?,
            kind: from.u32()?,
        })
    }
}

impl<'a> Reply<'a> {
    /// What it answers.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Done(code)
            | Self::Status(code, _)
            | Self::Data(code, ..)
            | Self::Text(code, _) => *code,
            Self::HostInfo { .. } => Code::HostInfo,
            Self::Version { .. } => Code::Version,
            Self::MaxBytes(_) => Code::MaxBytes,
            Self::Regions(_) => Code::Regions,
            Self::DumpInfo(_) => Code::DumpInfo,
        }
    }

    /// The answer as a packet.
    #[must_use]
    pub fn encode(&self, sequence: u8, key: u32) -> Vec<u8> {
        let mut body = Vec::new();
        self.write(&mut Writer(&mut body));
        let head = Head {
            code: self.code(),
            is_reply: true,
            sequence,
            key,
        };
        head.join(&body)
    }

    fn write(&self, to: &mut Writer<'_>) {
        match *self {
            Self::Done(_) => to,
            Self::Status(_, status) => to.u32(status.0),
            Self::Data(_, status, data) => to.u32(status.0).bytes(data),
            Self::HostInfo {
                cpus,
                cpu_type,
                cpu_subtype,
            } => to.u32(cpus).u32(cpu_type).u32(cpu_subtype),
            Self::Version { version, features } => to.u32(version).u32(features).u64(0),
            Self::MaxBytes(bytes) => to.u32(bytes),
            Self::Regions(ref regions) => {
                to.u32(regions.len() as u32);
                regions.iter().fold(to, |to, region| {
                    to.u32(region.at).u32(region.size).u32(region.protection)
                })
            }
            Self::Text(_, text) => to.string(text),
            Self::DumpInfo(ref info) => info.write(to),
        };
    }

    /// The answer to a request of this code, with this body.
    ///
    /// # Errors
    ///
    /// [`Malformed`] unless the body is all of the answer and nothing else.
    pub fn decode(code: Code, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Reader(body);
        let reply = Self::read(code, &mut from)?;
        from.end().map(|()| reply)
    }

    fn read(code: Code, from: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match code {
            Code::Disconnect
            | Code::Suspend
            | Code::ResumeCpus
            | Code::Reattach
            | Code::Exception
            | Code::Termination => Self::Done(code),
            Code::Connect
            | Code::WriteMem
            | Code::WriteRegs
            | Code::Load
            | Code::BreakpointSet
            | Code::BreakpointRemove
            | Code::WriteMem64
            | Code::Breakpoint64Set
            | Code::Breakpoint64Remove
            | Code::WritePhysMem64
            | Code::WriteIoPort
            | Code::WriteMsr64 => Self::Status(code, Status(from.u32()?)),
            Code::ReadMem
            | Code::ReadRegs
            | Code::ReadMem64
            | Code::ReadPhysMem64
            | Code::ReadIoPort
            | Code::ReadMsr64 => Self::Data(code, Status(from.u32()?), from.rest()),
            Code::HostInfo => Self::HostInfo {
                cpus: from.u32()?,
                cpu_type: from.u32()?,
                cpu_subtype: from.u32()?,
            },
            Code::Version => Self::read_version(from)?,
            Code::MaxBytes => Self::MaxBytes(from.u32()?),
            Code::Regions => Self::Regions(regions(from)?),
            Code::ImagePath | Code::KernelVersion => Self::Text(code, from.text()),
            Code::DumpInfo => Self::DumpInfo(DumpInfo::read(from)?),
            Code::HostReboot => return Err(Malformed::Code(code as u8)),
        })
    }

    fn read_version(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (version, features) = (from.u32()?, from.u32()?);
        // Two words that no kernel has used for anything.
        from.u64()?;
        Ok(Self::Version { version, features })
    }
}

fn regions(from: &mut Reader<'_>) -> Result<Vec<Region>, Malformed> {
    let count = from.u32()?;
    if from.0.len() as u64 != u64::from(count) * 12 {
        return Err(Malformed::Length);
    }
    (0..count)
        .map(|_| {
            Ok(Region {
                at: from.u32()?,
                size: from.u32()?,
                protection: from.u32()?,
            })
        })
        .collect()
}
