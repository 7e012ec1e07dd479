//! Requests to the bootstrap server and its answers, as the bytes of ordinary messages.
//!
//! A request travels as a message whose id is [`Operation::id`] and whose bytes are
//! [`Request::encode`]; an answer as a message whose id is a
//! [`BootstrapCode`] and whose bytes are
//! [`Reply::encode`] on success and nothing otherwise. Rights travel beside the bytes:
//!
//! | operation | with the request | with the answer |
//! | --- | --- | --- |
//! | [`Register`](Operation::Register) | a send right to publish; none to undeclare; or a dead name | |
//! | [`CheckIn`](Operation::CheckIn) | | the receive right |
//! | [`LookUp`](Operation::LookUp) | | a send right |
//! | [`Confine`](Operation::Confine) | | a send right to this server |
//! | the others | | |
//!
//! All integers are little-endian and nothing is padded. A *string* is its length in bytes as a
//! `u16`, then its bytes, without a terminator.

use crate::code::BootstrapCode;
use crate::cursor::{Cursor, Truncated};
use crate::label::{JobLabel, LabelError};
use crate::name::{NameError, ServiceName};

/// What a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Publish a port under a name, or take a name back.
    Register,
    /// Take the receive right of a name.
    CheckIn,
    /// Get a send right to what is published under a name.
    LookUp,
    /// Ask whether a name is active.
    Status,
    /// List what is published.
    List,
    /// End the server.
    Shutdown,
    /// Make a bootstrap right for a confined program.
    Confine,
}

impl Operation {
    const ALL: [Self; 7] = [
        Self::Register,
        Self::CheckIn,
        Self::LookUp,
        Self::Status,
        Self::List,
        Self::Shutdown,
        Self::Confine,
    ];

    /// The message id of the request.
    pub const fn id(self) -> i32 {
        match self {
            Self::Register => 1,
            Self::CheckIn => 2,
            Self::LookUp => 3,
            Self::Status => 4,
            Self::List => 5,
            Self::Shutdown => 6,
            Self::Confine => 7,
        }
    }

    /// The operation of a message id, if there is one.
    pub fn from_id(id: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.id() == id)
    }
}

/// Flags of a request, with the values of Apple's `bootstrap_priv.h`.
///
/// A flag that means nothing to the operation it comes with is ignored, as launchd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The service belongs to one process and is found only by its pid.
    pub const PER_PID_SERVICE: Self = Self(0x01);
    /// Accepted and without effect, as in launchd 842.
    pub const ALLOW_LOOKUP: Self = Self(0x02);
    /// Give out the right only when the server that answers runs as root.
    pub const PRIVILEGED_SERVER: Self = Self(0x08);
    /// Do not create a name by checking it in.
    pub const STRICT_CHECKIN: Self = Self(0x40);
    /// Do not ask the servers above this one.
    pub const STRICT_LOOKUP: Self = Self(0x80);

    const KNOWN: u32 = Self::PER_PID_SERVICE.0
        | Self::ALLOW_LOOKUP.0
        | Self::PRIVILEGED_SERVER.0
        | Self::STRICT_CHECKIN.0
        | Self::STRICT_LOOKUP.0;

    /// Takes the bits of a request.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownFlags`] when a bit is set that is none of the constants: what the
    /// client relies on cannot be granted.
    pub const fn from_bits(bits: u32) -> Result<Self, DecodeError> {
        match bits & !Self::KNOWN {
            0 => Ok(Self(bits)),
            unknown => Err(DecodeError::UnknownFlags { bits: unknown }),
        }
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A request, without the rights that travel with it.
///
/// The fields are documented with their place in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// See [`Operation::Register`].
    Register {
        /// At 4: string.
        name: ServiceName,
        /// At 0: `u32`.
        flags: Flags,
    },
    /// See [`Operation::CheckIn`].
    CheckIn {
        /// At 4: string.
        name: ServiceName,
        /// At 0: `u32`.
        flags: Flags,
    },
    /// See [`Operation::LookUp`].
    LookUp {
        /// At 8: string.
        name: ServiceName,
        /// At 0: `u32`.
        flags: Flags,
        /// At 4: `u32`. The process whose service is meant; looked at only with
        /// [`Flags::PER_PID_SERVICE`], and 0 otherwise.
        pid: u32,
    },
    /// See [`Operation::Status`].
    Status {
        /// At 0: string.
        name: ServiceName,
    },
    /// See [`Operation::List`]. No bytes.
    List,
    /// See [`Operation::Shutdown`]. No bytes.
    Shutdown,
    /// See [`Operation::Confine`].
    Confine {
        /// At 0: string. What the program is called in the log and the list.
        label: JobLabel,
        /// The rest: the text of an entitlement file, TOML or property list, at most
        /// [`MAX_ENTITLEMENT_BYTES`].
        entitlements: Vec<u8>,
    },
}

/// The longest entitlement file.
pub const MAX_ENTITLEMENT_BYTES: usize = 64 << 10;

impl Request {
    /// What is asked for.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Register { .. } => Operation::Register,
            Self::CheckIn { .. } => Operation::CheckIn,
            Self::LookUp { .. } => Operation::LookUp,
            Self::Status { .. } => Operation::Status,
            Self::List => Operation::List,
            Self::Shutdown => Operation::Shutdown,
            Self::Confine { .. } => Operation::Confine,
        }
    }

    /// The bytes of the message; its id is that of [`operation`](Self::operation).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Register { name, flags } | Self::CheckIn { name, flags } => {
                out.extend(flags.bits().to_le_bytes());
                put_string(&mut out, name.as_str());
            }
            Self::LookUp { name, flags, pid } => {
                out.extend(flags.bits().to_le_bytes());
                out.extend(pid.to_le_bytes());
                put_string(&mut out, name.as_str());
            }
            Self::Status { name } => put_string(&mut out, name.as_str()),
            Self::List | Self::Shutdown => {}
            Self::Confine {
                label,
                entitlements,
            } => {
                put_string(&mut out, label.as_str());
                out.extend(entitlements);
            }
        }
        out
    }

    /// Reads a request from a message's id and bytes.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; [`DecodeError::code`] is what to answer.
    pub fn decode(id: i32, bytes: &[u8]) -> Result<Self, DecodeError> {
        let operation = Operation::from_id(id).ok_or(DecodeError::UnknownOperation { id })?;
        let mut cursor = Cursor::new(bytes);
        let request = match operation {
            Operation::Register => Self::Register {
                flags: take_flags(&mut cursor)?,
                name: take_name(&mut cursor)?,
            },
            Operation::CheckIn => Self::CheckIn {
                flags: take_flags(&mut cursor)?,
                name: take_name(&mut cursor)?,
            },
            Operation::LookUp => Self::LookUp {
                flags: take_flags(&mut cursor)?,
                pid: cursor.u32()?,
                name: take_name(&mut cursor)?,
            },
            Operation::Status => Self::Status {
                name: take_name(&mut cursor)?,
            },
            Operation::List => Self::List,
            Operation::Shutdown => Self::Shutdown,
            Operation::Confine => Self::Confine {
                label: JobLabel::from_bytes(take_string(&mut cursor)?)?,
                entitlements: take_entitlements(&mut cursor)?,
            },
        };
        expect_end(&cursor)?;
        Ok(request)
    }
}

/// An answer to a request that succeeded, without the rights that travel with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// To every operation but those below. No bytes.
    Done,
    /// To [`Operation::Status`]. At 0: `u32`.
    Status(ServiceStatus),
    /// To [`Operation::List`]. At 0: the number of services, `u32`; at 4: the services.
    List(Vec<ServiceInfo>),
}

impl Reply {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Done => {}
            Self::Status(status) => out.extend(status.raw().to_le_bytes()),
            Self::List(services) => {
                let count = u32::try_from(services.len()).unwrap_or(u32::MAX);
                out.extend(count.to_le_bytes());
                for service in services.iter().take(count as usize) {
                    service.encode(&mut out);
                }
            }
        }
        out
    }

    /// Reads the answer to a request for `operation`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(operation: Operation, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let reply = match operation {
            Operation::Status => Self::Status(ServiceStatus::from_raw(cursor.u32()?)?),
            Operation::List => Self::List(take_services(&mut cursor)?),
            Operation::Register
            | Operation::CheckIn
            | Operation::LookUp
            | Operation::Shutdown
            | Operation::Confine => Self::Done,
        };
        expect_end(&cursor)?;
        Ok(reply)
    }
}

/// What a service does at the moment, with the numbers of Apple's `bootstrap.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceStatus {
    /// 0: declared, and nothing would start it.
    Inactive,
    /// 1: published, or checked in by its job.
    Active,
    /// 2: declared by a job that has not checked it in, and started by the first message.
    OnDemand,
}

impl ServiceStatus {
    /// The number.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Inactive => 0,
            Self::Active => 1,
            Self::OnDemand => 2,
        }
    }

    /// The status of a number.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownStatus`] above 2.
    pub const fn from_raw(raw: u32) -> Result<Self, DecodeError> {
        match raw {
            0 => Ok(Self::Inactive),
            1 => Ok(Self::Active),
            2 => Ok(Self::OnDemand),
            value => Err(DecodeError::UnknownStatus { value }),
        }
    }
}

/// A service in the answer to [`Operation::List`].
///
/// In the bytes, the fields stand in the order in which they are declared here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// `u32`. The process that published it, 0 when none did.
    pub pid: u32,
    /// `u32`.
    pub status: ServiceStatus,
    /// `u8`, 0 or 1. Whether it is found only by [`pid`](Self::pid).
    pub per_pid: bool,
    /// String.
    pub name: ServiceName,
    /// String. The job that it belongs to.
    pub owner: JobLabel,
}

impl ServiceInfo {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.pid.to_le_bytes());
        out.extend(self.status.raw().to_le_bytes());
        out.push(u8::from(self.per_pid));
        put_string(out, self.name.as_str());
        put_string(out, self.owner.as_str());
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            pid: cursor.u32()?,
            status: ServiceStatus::from_raw(cursor.u32()?)?,
            per_pid: take_bool(cursor)?,
            name: take_name(cursor)?,
            owner: JobLabel::from_bytes(take_string(cursor)?)?,
        })
    }
}

/// Why bytes are not a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No operation has this message id.
    #[error("no bootstrap operation has the id {id}")]
    UnknownOperation {
        /// The id.
        id: i32,
    },
    /// The bytes end inside a field.
    #[error("the bytes end inside a field")]
    Truncated,
    /// There are more bytes than fields.
    #[error("{count} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A flag is set that has no meaning.
    #[error("unknown flags {bits:#x}")]
    UnknownFlags {
        /// The bits without a meaning.
        bits: u32,
    },
    /// A status is none of 0, 1 and 2.
    #[error("unknown service status {value}")]
    UnknownStatus {
        /// The number.
        value: u32,
    },
    /// A truth value is neither 0 nor 1.
    #[error("{value} where 0 or 1 is expected")]
    NotBool {
        /// The number.
        value: u8,
    },
    /// An entitlement file is longer than [`MAX_ENTITLEMENT_BYTES`].
    #[error("{len} bytes of entitlements are more than {MAX_ENTITLEMENT_BYTES}")]
    EntitlementsTooLong {
        /// Bytes there are.
        len: usize,
    },
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A label is not one.
    #[error(transparent)]
    Label(#[from] LabelError),
}

impl DecodeError {
    /// What a server answers to a request that it could not read.
    pub const fn code(&self) -> BootstrapCode {
        match self {
            Self::UnknownOperation { .. } => BootstrapCode::BAD_OPERATION,
            _ => BootstrapCode::BAD_ARGUMENTS,
        }
    }
}

impl From<Truncated> for DecodeError {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

/// Names and labels are far shorter than a `u16` can tell.
fn put_string(out: &mut Vec<u8>, text: &str) {
    const {
        assert!(ServiceName::MAX_BYTES <= u16::MAX as usize);
        assert!(JobLabel::MAX_BYTES <= u16::MAX as usize);
    }
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

fn take_string<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], DecodeError> {
    let len = cursor.u16()?;
    Ok(cursor.bytes(len.into())?)
}

fn take_name(cursor: &mut Cursor<'_>) -> Result<ServiceName, DecodeError> {
    Ok(ServiceName::from_bytes(take_string(cursor)?)?)
}

fn take_entitlements(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, DecodeError> {
    match cursor.remaining() {
        len if len > MAX_ENTITLEMENT_BYTES => Err(DecodeError::EntitlementsTooLong { len }),
        len => Ok(cursor.bytes(len)?.to_vec()),
    }
}

fn take_flags(cursor: &mut Cursor<'_>) -> Result<Flags, DecodeError> {
    Flags::from_bits(cursor.u32()?)
}

fn take_bool(cursor: &mut Cursor<'_>) -> Result<bool, DecodeError> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::NotBool { value }),
    }
}

/// Grows with what was read: the count is the peer's word.
fn take_services(cursor: &mut Cursor<'_>) -> Result<Vec<ServiceInfo>, DecodeError> {
    let count = cursor.u32()?;
    (0..count).map(|_| ServiceInfo::decode(cursor)).collect()
}

fn expect_end(cursor: &Cursor<'_>) -> Result<(), DecodeError> {
    match cursor.remaining() {
        0 => Ok(()),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}
