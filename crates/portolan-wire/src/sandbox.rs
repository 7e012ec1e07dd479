//! What the bootstrap server's answers say of the sandbox: what binds a program, and what was
//! refused.
//!
//! The bytes are as in [`jobs`](crate::jobs).

use crate::bootstrap::DecodeError;
use crate::bounded::Text;
use crate::cursor::Cursor;
use crate::field::{
    put_bool, put_list, put_optional, put_pid, put_string, take_bool, take_label, take_list,
    take_optional, take_pid, take_rest, take_text,
};
use crate::jobs::{MAX_PATH_BYTES, MAX_REASON_BYTES};
use crate::label::JobLabel;

/// The longest entitlements in bytes: those of the longest job file, written anew.
pub const MAX_BOUNDS_BYTES: usize = 4 << 20;

/// The longest name of an operation, in bytes.
pub const MAX_OPERATION_BYTES: usize = 64;

/// The most violations in one answer.
pub const MAX_VIOLATIONS: usize = 512;

/// What binds a program: the answer to [`Bounds`](crate::bootstrap::Operation::Bounds).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Optional. What is known of a job; nothing is of a program that was given a right.
    pub job: Option<BoundJob>,
    /// The rest: entitlements, TOML or a property list, at most [`MAX_BOUNDS_BYTES`].
    pub entitlements: Vec<u8>,
}

/// As whom and what a bound job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundJob {
    /// `u32`. The user.
    pub user: u32,
    /// `u32`. The user's group.
    pub group: u32,
    /// String. The program.
    pub program: Text<MAX_PATH_BYTES>,
    /// String. The home directory.
    pub home: Text<MAX_PATH_BYTES>,
    /// String. Where the containers are.
    pub data: Text<MAX_PATH_BYTES>,
    /// String. The tier that is wanted, as in a job file.
    pub isolation: Text<MAX_REASON_BYTES>,
}

impl Bounds {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_optional(out, self.job.as_ref(), BoundJob::encode);
        out.extend(&self.entitlements);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            job: take_optional(cursor, BoundJob::decode)?,
            entitlements: take_rest(cursor, MAX_BOUNDS_BYTES)?,
        })
    }
}

impl BoundJob {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.user.to_le_bytes());
        out.extend(self.group.to_le_bytes());
        put_string(out, &self.program);
        put_string(out, &self.home);
        put_string(out, &self.data);
        put_string(out, &self.isolation);
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            user: cursor.u32()?,
            group: cursor.u32()?,
            program: take_text(cursor)?,
            home: take_text(cursor)?,
            data: take_text(cursor)?,
            isolation: take_text(cursor)?,
        })
    }
}

/// What was refused to a confined program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `u64`. Later ones have higher numbers.
    pub number: u64,
    /// `u64`. When, in milliseconds since 1970.
    pub at_ms: u64,
    /// String. Who wanted it.
    pub label: JobLabel,
    /// What was refused.
    pub refusal: Report,
}

impl Violation {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.number.to_le_bytes());
        out.extend(self.at_ms.to_le_bytes());
        put_string(out, self.label.as_str());
        self.refusal.encode(out);
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            number: cursor.u64()?,
            at_ms: cursor.u64()?,
            label: take_label(cursor)?,
            refusal: Report::decode(cursor)?,
        })
    }
}

/// A refusal: in a [`Violation`], and when it was the kernel's, in a
/// [`Report`](crate::bootstrap::Operation::Report).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The process that wanted it.
    pub pid: Option<u32>,
    /// `u32`. Refusals to the same program since the last one that is told, which are not told.
    pub left_out: u32,
    /// String. What for, such as `mach-lookup` or `file-read`.
    pub operation: Text<MAX_OPERATION_BYTES>,
    /// String. On what, such as a name or a path; may be empty.
    pub name: Text<MAX_PATH_BYTES>,
    /// String. The entitlement that would have allowed it; empty if none does.
    pub key: Text<MAX_REASON_BYTES>,
    /// String. A value of it that would have; empty for one that is true or false.
    pub value: Text<MAX_PATH_BYTES>,
}

impl Report {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_pid(out, self.pid);
        out.extend(self.left_out.to_le_bytes());
        put_string(out, &self.operation);
        put_string(out, &self.name);
        put_string(out, &self.key);
        put_string(out, &self.value);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            pid: take_pid(cursor)?,
            left_out: cursor.u32()?,
            operation: take_text(cursor)?,
            name: take_text(cursor)?,
            key: take_text(cursor)?,
            value: take_text(cursor)?,
        })
    }
}

/// Violations in the order of their numbers: the answer to
/// [`Violations`](crate::bootstrap::Operation::Violations).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    /// At 0: `u8`, 0 or 1. Whether there are more after these.
    pub more: bool,
    /// List, at most [`MAX_VIOLATIONS`].
    pub items: Vec<Violation>,
}

impl Violations {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bool(out, self.more);
        put_list(out, &self.items, MAX_VIOLATIONS as u32, Violation::encode);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            more: take_bool(cursor)?,
            items: take_list(cursor, MAX_VIOLATIONS as u32, Violation::decode)?,
        })
    }
}
