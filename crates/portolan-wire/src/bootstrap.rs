//! Requests to the bootstrap server and its answers, as the bytes of ordinary messages.
//!
//! A request travels as a message whose id is [`Operation::id`] and whose bytes are
//! [`Request::encode`]; an answer as a message whose id is a
//! [`BootstrapCode`] and whose bytes are [`Reply::encode`] on success and
//! [`Refusal::encode`](crate::failure::Refusal::encode) otherwise. Rights travel beside the bytes:
//!
//! | operation | with the request | with the answer |
//! | --- | --- | --- |
//! | [`Register`](Operation::Register) | a send right to publish; none to undeclare; or a dead name | |
//! | [`CheckIn`](Operation::CheckIn) | | the receive right |
//! | [`LookUp`](Operation::LookUp) | | a send right |
//! | [`Confine`](Operation::Confine) | | a send right to this server |
//! | [`Subset`](Operation::Subset) | a send right whose port's death ends the subset; or none | a send right to the subset |
//! | [`Parent`](Operation::Parent) | | a send right to the server above |
//! | [`OpenObject`](Operation::OpenObject) | | a descriptor of the memory |
//! | [`GroupSocket`](Operation::GroupSocket) | | the socket, if there is no error |
//! | [`Reporter`](Operation::Reporter) | | a send right to this server |
//! | the others | | |
//!
//! All integers are little-endian and nothing is padded. A *string* is its length in bytes as a
//! `u16`, then its bytes, without a terminator.

use crate::bounded::{Text, TextError};
use crate::code::BootstrapCode;
use crate::cursor::{Cursor, Truncated};
use crate::field::{
    expect_end, put_bool, put_list, put_optional, put_optional_label, put_pid, put_string,
    take_bool, take_label, take_list, take_name, take_optional, take_optional_label, take_pid,
    take_rest, take_string, take_text,
};
use crate::group::{GroupError, GroupId};
use crate::group_socket::{MAX_SOCKET_PATH_BYTES, SocketKind, SocketUse};
use crate::jobs::{Blame, JobStatus, JobSummary, MAX_JOB_BYTES, MAX_PAGE, MAX_PATH_BYTES};
use crate::label::{JobLabel, LabelError};
use crate::name::{NameError, ServiceName};
use crate::object::{Creation, ObjectInfo, ObjectKind, ObjectName, ObjectNameError, take_object};
use crate::sandbox::{Bounds, Report, Violations};

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
    /// Make a job of a job file known, and start it if the file says so.
    Load,
    /// End a job and forget it.
    Unload,
    /// Let a job be started again.
    Enable,
    /// Let nothing start a job.
    Disable,
    /// Start a job now, whatever it waits for.
    Kickstart,
    /// End the instance of a job that runs.
    Stop,
    /// List the jobs, a page at a time.
    Jobs,
    /// Tell everything of one job.
    Job,
    /// List who asked for the last starts of jobs, a page at a time.
    Blame,
    /// Ask whether the caller, an instance of a job, may exit because nothing waits for it.
    TryExit,
    /// Say that the caller, an instance of a job, is ready.
    Ready,
    /// Go on in a new process image, with every name, message and job.
    Restart,
    /// Make a namespace below this one.
    Subset,
    /// Get the bootstrap right of the namespace above.
    Parent,
    /// Tell what binds a program, a job or another that was given a bootstrap right of its own.
    Bounds,
    /// Tell what was refused to confined programs.
    Violations,
    /// Get shared memory or a semaphore, and make it first if it is not there.
    OpenObject,
    /// Take the name of shared memory or of a semaphore away.
    UnlinkObject,
    /// List shared memory or semaphores, a page at a time.
    Objects,
    /// Get a socket that is connected to one in a group's container, or that listens there.
    GroupSocket,
    /// Make a bootstrap right with which it is reported what the kernel refuses to a program, and
    /// nothing else is done.
    Reporter,
    /// Report what the kernel has refused. There is no answer.
    Report,
}

impl Operation {
    const ALL: [Self; 29] = [
        Self::Register,
        Self::CheckIn,
        Self::LookUp,
        Self::Status,
        Self::List,
        Self::Shutdown,
        Self::Confine,
        Self::Load,
        Self::Unload,
        Self::Enable,
        Self::Disable,
        Self::Kickstart,
        Self::Stop,
        Self::Jobs,
        Self::Job,
        Self::Blame,
        Self::TryExit,
        Self::Ready,
        Self::Restart,
        Self::Subset,
        Self::Parent,
        Self::Bounds,
        Self::Violations,
        Self::OpenObject,
        Self::UnlinkObject,
        Self::Objects,
        Self::GroupSocket,
        Self::Reporter,
        Self::Report,
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
            Self::Load => 8,
            Self::Unload => 9,
            Self::Enable => 10,
            Self::Disable => 11,
            Self::Kickstart => 12,
            Self::Stop => 13,
            Self::Jobs => 14,
            Self::Job => 15,
            Self::Blame => 16,
            Self::TryExit => 17,
            Self::Ready => 18,
            Self::Restart => 19,
            Self::Subset => 20,
            Self::Parent => 21,
            Self::Bounds => 22,
            Self::Violations => 23,
            Self::OpenObject => 24,
            Self::UnlinkObject => 25,
            Self::Objects => 26,
            Self::GroupSocket => 27,
            Self::Reporter => 28,
            Self::Report => 29,
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
    /// See [`Operation::Load`].
    Load {
        /// At 0: `u8`, 0 or 1. Whether the job is enabled first, if it was disabled by its file or
        /// by request.
        enable: bool,
        /// At 1: string. What the file is called in messages.
        path: Text<MAX_PATH_BYTES>,
        /// The rest: the bytes of the job file, at most [`MAX_JOB_BYTES`].
        file: Vec<u8>,
    },
    /// See [`Operation::Unload`].
    Unload {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Enable`].
    Enable {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Disable`].
    Disable {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Kickstart`].
    Kickstart {
        /// At 0: `u8`, 0 or 1. Whether the instance that runs is ended first. Without it, one that
        /// runs is left alone.
        kill: bool,
        /// At 1: `u8`, 0 or 1. Whether the answer comes when an instance runs or could not be
        /// started, and not at once.
        wait: bool,
        /// At 2: string.
        label: JobLabel,
    },
    /// See [`Operation::Stop`].
    Stop {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Jobs`].
    Jobs {
        /// At 0: string, empty for none. The answer has the jobs whose labels come after it,
        /// compared byte by byte.
        after: Option<JobLabel>,
    },
    /// See [`Operation::Job`].
    Job {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Blame`].
    Blame {
        /// At 0: string, empty for none. The answer has the jobs whose labels come after it,
        /// compared byte by byte.
        after: Option<JobLabel>,
    },
    /// See [`Operation::TryExit`]. No bytes.
    TryExit,
    /// See [`Operation::Ready`]. No bytes.
    Ready,
    /// See [`Operation::Restart`]. No bytes.
    Restart,
    /// See [`Operation::Subset`]. No bytes.
    Subset,
    /// See [`Operation::Parent`]. No bytes.
    Parent,
    /// See [`Operation::Bounds`].
    Bounds {
        /// At 0: string.
        label: JobLabel,
    },
    /// See [`Operation::Violations`].
    Violations {
        /// At 0: `u8`, 0 or 1. Whether the answer is to come when there are some.
        wait: bool,
        /// At 1: `u64`. The number of the last one that is known, 0 for none.
        after: u64,
    },
    /// See [`Operation::OpenObject`].
    OpenObject {
        /// At 0: `u8`.
        kind: ObjectKind,
        /// At 1: `u8`, 0 or 1, and with 1 the fields of [`Creation`].
        create: Option<Creation>,
        /// The rest: string.
        name: ObjectName,
    },
    /// See [`Operation::UnlinkObject`].
    UnlinkObject {
        /// At 0: `u8`.
        kind: ObjectKind,
        /// At 1: string.
        name: ObjectName,
    },
    /// See [`Operation::Objects`].
    Objects {
        /// At 0: `u8`.
        kind: ObjectKind,
        /// At 1: `u8`, 0 or 1, and with 1 a string. The answer has the objects whose names come after
        /// it, compared byte by byte.
        after: Option<ObjectName>,
    },
    /// See [`Operation::GroupSocket`].
    GroupSocket {
        /// At 0: `u8`.
        kind: SocketKind,
        /// At 1: `u32`.
        purpose: SocketUse,
        /// At 5: string.
        group: GroupId,
        /// Then: the path below the group's container, at most [`MAX_SOCKET_PATH_BYTES`].
        path: Vec<u8>,
    },
    /// See [`Operation::Reporter`].
    Reporter {
        /// At 0: string. What the program is called in the log.
        label: JobLabel,
    },
    /// See [`Operation::Report`].
    Report(Box<Report>),
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
            Self::Load { .. } => Operation::Load,
            Self::Unload { .. } => Operation::Unload,
            Self::Enable { .. } => Operation::Enable,
            Self::Disable { .. } => Operation::Disable,
            Self::Kickstart { .. } => Operation::Kickstart,
            Self::Stop { .. } => Operation::Stop,
            Self::Jobs { .. } => Operation::Jobs,
            Self::Job { .. } => Operation::Job,
            Self::Blame { .. } => Operation::Blame,
            Self::TryExit => Operation::TryExit,
            Self::Ready => Operation::Ready,
            Self::Restart => Operation::Restart,
            Self::Subset => Operation::Subset,
            Self::Parent => Operation::Parent,
            Self::Bounds { .. } => Operation::Bounds,
            Self::Violations { .. } => Operation::Violations,
            Self::OpenObject { .. } => Operation::OpenObject,
            Self::UnlinkObject { .. } => Operation::UnlinkObject,
            Self::Objects { .. } => Operation::Objects,
            Self::GroupSocket { .. } => Operation::GroupSocket,
            Self::Reporter { .. } => Operation::Reporter,
            Self::Report(_) => Operation::Report,
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
            Self::List
            | Self::Shutdown
            | Self::TryExit
            | Self::Ready
            | Self::Restart
            | Self::Subset
            | Self::Parent => {}
            Self::Confine {
                label,
                entitlements,
            } => {
                put_string(&mut out, label.as_str());
                out.extend(entitlements);
            }
            Self::Load { enable, path, file } => {
                put_bool(&mut out, *enable);
                put_string(&mut out, path);
                out.extend(file);
            }
            Self::Unload { label }
            | Self::Enable { label }
            | Self::Disable { label }
            | Self::Stop { label }
            | Self::Job { label }
            | Self::Bounds { label }
            | Self::Reporter { label } => put_string(&mut out, label.as_str()),
            Self::Violations { wait, after } => {
                put_bool(&mut out, *wait);
                out.extend(after.to_le_bytes());
            }
            Self::Kickstart { kill, wait, label } => {
                put_bool(&mut out, *kill);
                put_bool(&mut out, *wait);
                put_string(&mut out, label.as_str());
            }
            Self::Jobs { after } | Self::Blame { after } => {
                put_optional_label(&mut out, after.as_ref());
            }
            Self::OpenObject { kind, create, name } => {
                out.push(kind.raw());
                put_optional(&mut out, create.as_ref(), Creation::encode);
                put_string(&mut out, name.as_str());
            }
            Self::UnlinkObject { kind, name } => {
                out.push(kind.raw());
                put_string(&mut out, name.as_str());
            }
            Self::Objects { kind, after } => {
                out.push(kind.raw());
                put_optional(&mut out, after.as_ref(), |name, out| {
                    put_string(out, name.as_str());
                });
            }
            Self::GroupSocket {
                kind,
                purpose,
                group,
                path,
            } => {
                out.push(kind.raw());
                out.extend(purpose.raw().to_le_bytes());
                put_string(&mut out, group.as_str());
                out.extend(path);
            }
            Self::Report(report) => report.encode(&mut out),
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
        let request = Self::take(operation, &mut cursor)?;
        expect_end(&cursor)?;
        Ok(request)
    }

    fn take(operation: Operation, cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(match operation {
            Operation::Register => Self::Register {
                flags: take_flags(cursor)?,
                name: take_name(cursor)?,
            },
            Operation::CheckIn => Self::CheckIn {
                flags: take_flags(cursor)?,
                name: take_name(cursor)?,
            },
            Operation::LookUp => Self::LookUp {
                flags: take_flags(cursor)?,
                pid: cursor.u32()?,
                name: take_name(cursor)?,
            },
            Operation::Status => Self::Status {
                name: take_name(cursor)?,
            },
            Operation::List => Self::List,
            Operation::Shutdown => Self::Shutdown,
            Operation::Confine => Self::Confine {
                label: take_label(cursor)?,
                entitlements: take_rest(cursor, MAX_ENTITLEMENT_BYTES)?,
            },
            Operation::Load => Self::Load {
                enable: take_bool(cursor)?,
                path: take_text(cursor)?,
                file: take_rest(cursor, MAX_JOB_BYTES)?,
            },
            Operation::Kickstart => Self::Kickstart {
                kill: take_bool(cursor)?,
                wait: take_bool(cursor)?,
                label: take_label(cursor)?,
            },
            Operation::Jobs => Self::Jobs {
                after: take_optional_label(cursor)?,
            },
            Operation::Blame => Self::Blame {
                after: take_optional_label(cursor)?,
            },
            Operation::Unload => Self::Unload {
                label: take_label(cursor)?,
            },
            Operation::Enable => Self::Enable {
                label: take_label(cursor)?,
            },
            Operation::Disable => Self::Disable {
                label: take_label(cursor)?,
            },
            Operation::Stop => Self::Stop {
                label: take_label(cursor)?,
            },
            Operation::Job => Self::Job {
                label: take_label(cursor)?,
            },
            Operation::TryExit => Self::TryExit,
            Operation::Ready => Self::Ready,
            Operation::Restart => Self::Restart,
            Operation::Subset => Self::Subset,
            Operation::Parent => Self::Parent,
            Operation::Bounds => Self::Bounds {
                label: take_label(cursor)?,
            },
            Operation::Violations => Self::Violations {
                wait: take_bool(cursor)?,
                after: cursor.u64()?,
            },
            Operation::OpenObject => Self::OpenObject {
                kind: ObjectKind::from_raw(cursor.u8()?)?,
                create: take_optional(cursor, Creation::decode)?,
                name: take_object(cursor)?,
            },
            Operation::UnlinkObject => Self::UnlinkObject {
                kind: ObjectKind::from_raw(cursor.u8()?)?,
                name: take_object(cursor)?,
            },
            Operation::Objects => Self::Objects {
                kind: ObjectKind::from_raw(cursor.u8()?)?,
                after: take_optional(cursor, take_object)?,
            },
            Operation::GroupSocket => Self::GroupSocket {
                kind: SocketKind::from_raw(cursor.u8()?)?,
                purpose: SocketUse::from_raw(cursor.u32()?),
                group: GroupId::from_bytes(take_string(cursor)?)?,
                path: take_rest(cursor, MAX_SOCKET_PATH_BYTES)?,
            },
            Operation::Reporter => Self::Reporter {
                label: take_label(cursor)?,
            },
            Operation::Report => Self::Report(Box::new(Report::decode(cursor)?)),
        })
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
    /// To [`Operation::Kickstart`]. At 0: `u32`, 0 for none. The process that runs now.
    Kickstarted(Option<u32>),
    /// To [`Operation::Jobs`].
    Jobs(Page<JobSummary>),
    /// To [`Operation::Job`].
    Job(Box<JobStatus>),
    /// To [`Operation::Blame`]. Of one job there can be up to
    /// [`MAX_STARTS`](crate::jobs::MAX_STARTS) starts, the oldest first, all on one page.
    Blame(Page<Blame>),
    /// To [`Operation::TryExit`]. At 0: `u8`, 0 or 1. With yes, nothing more is handed to the
    /// caller, and what comes starts the next instance when this one is gone.
    TryExit(bool),
    /// To [`Operation::Confine`]. At 0: `u64`. The number of the instance, by which processes of the
    /// program show that they are of it.
    Confined(u64),
    /// To [`Operation::Bounds`].
    Bounds(Box<Bounds>),
    /// To [`Operation::Violations`].
    Violations(Violations),
    /// To [`Operation::OpenObject`]. At 0: `u8`, 0 or 1. Whether it was made by this request.
    Opened(bool),
    /// To [`Operation::Objects`].
    Objects(Page<ObjectInfo>),
    /// To [`Operation::GroupSocket`]. At 0: `i32`, 0 for none. The kernel's error number, and then
    /// there is no socket.
    Socket(i32),
}

/// Items in the order of their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// At 0: `u8`, 0 or 1. Whether there are more, which a request `after` the last label of these
    /// brings; a page with more after it is not empty.
    pub more: bool,
    /// At 1: the number of items, `u32`, at most [`MAX_PAGE`]; at 5: the items.
    pub items: Vec<T>,
}

impl Reply {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Done => {}
            Self::Status(status) => out.extend(status.raw().to_le_bytes()),
            Self::List(services) => put_list(&mut out, services, u32::MAX, ServiceInfo::encode),
            Self::Kickstarted(pid) => put_pid(&mut out, *pid),
            Self::Jobs(page) => page.encode(&mut out, JobSummary::encode),
            Self::Job(job) => job.encode(&mut out),
            Self::Blame(page) => page.encode(&mut out, Blame::encode),
            Self::Confined(instance) => out.extend(instance.to_le_bytes()),
            Self::Bounds(bounds) => bounds.encode(&mut out),
            Self::Violations(violations) => violations.encode(&mut out),
            Self::TryExit(answer) | Self::Opened(answer) => put_bool(&mut out, *answer),
            Self::Objects(page) => page.encode(&mut out, ObjectInfo::encode),
            Self::Socket(errno) => out.extend(errno.to_le_bytes()),
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
            Operation::List => Self::List(take_list(&mut cursor, u32::MAX, ServiceInfo::decode)?),
            Operation::Kickstart => Self::Kickstarted(take_pid(&mut cursor)?),
            Operation::Jobs => Self::Jobs(Page::decode(&mut cursor, JobSummary::decode)?),
            Operation::Job => Self::Job(Box::new(JobStatus::decode(&mut cursor)?)),
            Operation::Blame => Self::Blame(Page::decode(&mut cursor, Blame::decode)?),
            Operation::TryExit => Self::TryExit(take_bool(&mut cursor)?),
            Operation::Confine => Self::Confined(cursor.u64()?),
            Operation::Bounds => Self::Bounds(Box::new(Bounds::decode(&mut cursor)?)),
            Operation::Violations => Self::Violations(Violations::decode(&mut cursor)?),
            Operation::OpenObject => Self::Opened(take_bool(&mut cursor)?),
            Operation::Objects => Self::Objects(Page::decode(&mut cursor, ObjectInfo::decode)?),
            Operation::GroupSocket => Self::Socket(cursor.i32()?),
            Operation::Register
            | Operation::CheckIn
            | Operation::LookUp
            | Operation::Shutdown
            | Operation::Load
            | Operation::Unload
            | Operation::Enable
            | Operation::Disable
            | Operation::Stop
            | Operation::Ready
            | Operation::Restart
            | Operation::Subset
            | Operation::Parent
            | Operation::UnlinkObject
            | Operation::Reporter
            | Operation::Report => Self::Done,
        };
        expect_end(&cursor)?;
        Ok(reply)
    }
}

impl<T> Page<T> {
    /// As many items as go on a page.
    pub fn fill(items: impl IntoIterator<Item = T>) -> Self {
        let mut left = items.into_iter();
        let items = left.by_ref().take(MAX_PAGE).collect();
        let more = left.next().is_some();
        Self { more, items }
    }

    fn encode(&self, out: &mut Vec<u8>, put: impl Fn(&T, &mut Vec<u8>)) {
        put_bool(out, self.more);
        put_list(out, &self.items, MAX_PAGE as u32, put);
    }

    fn decode(
        cursor: &mut Cursor<'_>,
        take: impl Fn(&mut Cursor<'_>) -> Result<T, DecodeError>,
    ) -> Result<Self, DecodeError> {
        Ok(Self {
            more: take_bool(cursor)?,
            items: take_list(cursor, MAX_PAGE as u32, take)?,
        })
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
            owner: take_label(cursor)?,
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
    /// The state of a job is none of those that there are.
    #[error("unknown state {value} of a job")]
    UnknownState {
        /// The number.
        value: u8,
    },
    /// A job has ended in none of the ways that there are.
    #[error("unknown end {value} of a job")]
    UnknownExit {
        /// The number.
        value: u8,
    },
    /// An object or a socket is of none of the kinds that there are.
    #[error("unknown kind {value}")]
    UnknownKind {
        /// The number.
        value: u8,
    },
    /// A job has failed in none of the ways that there are.
    #[error("unknown failure {value} of a job")]
    UnknownFailure {
        /// The number.
        value: u8,
    },
    /// A list is longer than it may be.
    #[error("a list of {count} where {max} are the most")]
    TooMany {
        /// Items it promises.
        count: u32,
        /// Items it may have.
        max: u32,
    },
    /// An entitlement or job file, or the path of a socket, is longer than it may be.
    #[error("{len} bytes where {max} are the most")]
    FileTooLong {
        /// Bytes there are.
        len: usize,
        /// Bytes there may be.
        max: usize,
    },
    /// A text is not one.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A label is not one.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The name of an object is not one.
    #[error(transparent)]
    Object(#[from] ObjectNameError),
    /// The id of a group is not one.
    #[error(transparent)]
    Group(#[from] GroupError),
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

fn take_flags(cursor: &mut Cursor<'_>) -> Result<Flags, DecodeError> {
    Flags::from_bits(cursor.u32()?)
}
