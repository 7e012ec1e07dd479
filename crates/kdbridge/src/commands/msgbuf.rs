//! `kdbridge log` of XNU: one ring of text, without times (`bsd/sys/msgbuf.h`).

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::kernel::Kernel;
use crate::symbols::bytes::Bytes;
use crate::target::{Memory, TargetError};

const MAGIC: u32 = 0x06_3061;
const HEADER_BYTES: usize = 24;

/// A kernel has 128 KiB, and more where the boot-arg `msgbuf` says so.
const MOST_BYTES: u32 = 1 << 24;

/// What the kernel has printed and still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Lines {
    /// The oldest first.
    pub lines: Vec<Line>,
}

/// A line that the kernel has printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it says.
    pub text: String,
}

/// Reads what the kernel has printed.
///
/// # Errors
///
/// [`MsgbufError`] if where it is is not known, or it cannot be read.
pub fn msgbuf(memory: &mut dyn Memory, kernel: &Kernel) -> Result<Lines, MsgbufError> {
    let pointer = kernel.address_of("msgbufp").ok_or(MsgbufError::Unknown)?;
    let at = memory.word(pointer)?;
    let mut header = [0; HEADER_BYTES];
    memory.read(at, &mut header)?;
    let field = |at| header.u32(at).unwrap_or_default();
    let (magic, size, next) = (field(0), field(4), field(8));
    if magic != MAGIC || size > MOST_BYTES || next > size {
        return Err(MsgbufError::Damaged);
    }
    let mut ring = vec![0; size as usize];
    memory.read(header.u64(16).unwrap_or_default(), &mut ring)?;
    ring.rotate_left(next as usize);
    ring.retain(|&byte| byte != 0);
    let text = String::from_utf8_lossy(&ring);
    let lines = text.lines().map(|text| Line { text: text.into() });
    Ok(Lines {
        lines: lines.collect(),
    })
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.lines.iter();
        lines.try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

/// Why what the kernel has printed cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MsgbufError {
    /// Neither a file nor the kernel says where it is.
    #[error("where this kernel keeps what it prints is not known: that takes its file")]
    Unknown,
    /// It contradicts itself.
    #[error("what the kernel keeps of what it printed is damaged")]
    Damaged,
    /// The memory with it cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}
