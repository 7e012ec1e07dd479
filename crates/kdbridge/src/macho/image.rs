//! The header and the load commands of an image of 64 bits.

use thiserror::Error;

use super::file::SYMBOL_BYTES;
use super::uuid::Uuid;
use crate::symbols::bytes::{Bytes, text_at};

/// The bytes in front of the load commands.
pub const HEADER_BYTES: usize = 32;

const MAGIC: u32 = 0xfeed_facf;
const CPU_X86_64: u32 = 0x0100_0007;

/// What dyld is to link is no kernel.
const MH_DYLDLINK: u32 = 0x4;

const LC_SYMTAB: u32 = 0x2;
const LC_SEGMENT_64: u32 = 0x19;
const LC_UUID: u32 = 0x1b;

const SEGMENT_BYTES: usize = 72;
const SECTION_BYTES: usize = 80;

/// In memory no kernel has more symbols, or longer names together.
const MOST_LIVE_SYMBOLS: u32 = 1 << 18;
const MOST_LIVE_STRINGS: u32 = 1 << 24;

const PROTECTION_EXECUTE: u32 = 4;

/// The load commands of a kernel have 10 KiB.
const MOST_COMMAND_BYTES: usize = 1 << 20;

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u32);

impl Kind {
    /// A program, or a kernel.
    pub const EXECUTE: Self = Self(0x2);
    /// Debug information of another image.
    pub const DSYM: Self = Self(0xa);
    /// A kernel extension.
    pub const KEXT: Self = Self(0xb);
}

/// What the load commands say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is for.
    pub kind: Kind,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// What of it is in memory.
    pub segments: Vec<Segment>,
    /// Where its symbols are.
    pub symbols: Option<SymbolTable>,
    flags: u32,
}

/// A part of an image that is loaded in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name, like `__TEXT`.
    pub name: String,
    /// Where it is in memory.
    pub address: u64,
    /// How many bytes it has there.
    pub size: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// How many bytes it has there.
    pub file_size: u64,
    /// 1 to read, 2 to write, 4 to execute.
    pub protection: u32,
    /// Its parts.
    pub sections: Vec<Section>,
}

/// A part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, like `__text`.
    pub name: String,
    /// Where it is in memory.
    pub address: u64,
    /// How many bytes it has.
    pub size: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// Whether its bytes are all zero and not in the file.
    pub is_zero: bool,
}

/// Where the symbols are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolTable {
    pub(super) offset: u64,
    pub(super) count: u32,
    pub(super) strings: u64,
    pub(super) string_bytes: u32,
}

/// Why bytes are no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// They do not begin as one.
    #[error("not a Mach-O image of 64 bits")]
    NotMachO,
    /// It is for another processor.
    #[error("an image for another processor than x86-64")]
    Processor,
    /// A load command is not as long as it says.
    #[error("a load command that is cut off")]
    Command,
}

impl Image {
    /// How many bytes header and load commands have, as the header says.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotMachO`], or [`ImageError::Command`] if they are more than a megabyte.
    pub fn length(header: &[u8; HEADER_BYTES]) -> Result<usize, ImageError> {
        if header.u32(0) != Some(MAGIC) {
            return Err(ImageError::NotMachO);
        }
        let commands = header.u32(20).map_or(0, |bytes| bytes as usize);
        if commands > MOST_COMMAND_BYTES {
            return Err(ImageError::Command);
        }
        Ok(HEADER_BYTES + commands)
    }

    /// Reads header and load commands.
    ///
    /// # Errors
    ///
    /// [`ImageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let header = bytes.first_chunk().ok_or(ImageError::NotMachO)?;
        let length = Self::length(header)?;
        let word = |at| header.u32(at).unwrap_or_default();
        if word(4) != CPU_X86_64 {
            return Err(ImageError::Processor);
        }
        let mut image = Self {
            kind: Kind(word(12)),
            uuid: None,
            segments: Vec::new(),
            symbols: None,
            flags: word(24),
        };
        let mut rest = bytes.get(HEADER_BYTES..length).ok_or(ImageError::Command)?;
        for _ in 0..word(16) {
            let size = rest.u32(4).ok_or(ImageError::Command)? as usize;
            if size < 8 {
                return Err(ImageError::Command);
            }
            let (command, after) = rest.split_at_checked(size).ok_or(ImageError::Command)?;
            image.add(command).ok_or(ImageError::Command)?;
            rest = after;
        }
        Ok(image)
    }

    /// One that has these segments and nothing else.
    #[cfg(test)]
    pub(crate) fn of_segments(kind: Kind, segments: Vec<Segment>) -> Self {
        Self {
            kind,
            uuid: None,
            segments,
            symbols: None,
            flags: 0,
        }
    }

    /// Takes a command into account; `None` if it is too short for what it is.
    fn add(&mut self, command: &[u8]) -> Option<()> {
        match command.u32(0)? {
            LC_SEGMENT_64 => self.segments.push(segment(command)?),
            LC_UUID => self.uuid = Some(Uuid(command.array(8)?)),
            LC_SYMTAB => {
                self.symbols = Some(SymbolTable {
                    offset: command.u32(8)?.into(),
                    count: command.u32(12)?,
                    strings: command.u32(16)?.into(),
                    string_bytes: command.u32(20)?,
                });
            }
            _ => {}
        }
        Some(())
    }

    /// Whether it is a kernel: a program that dyld has nothing to do with, and that has the segment
    /// of the kernel's linker.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        let linked = self.flags & MH_DYLDLINK != 0;
        self.kind == Kind::EXECUTE && !linked && self.segment("__KLD").is_some()
    }

    /// The segment of this name.
    #[must_use]
    pub fn segment(&self, name: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.name == name)
    }

    /// Where the symbols and their names are in memory, and how many bytes of them: at the end of the
    /// image, where the linker put what it needs. `None` if there are none, or too many to be true.
    #[must_use]
    pub fn symbols_in_memory(&self) -> Option<[(u64, usize); 2]> {
        let (table, linker) = (self.symbols?, self.segment("__LINKEDIT")?);
        if table.count > MOST_LIVE_SYMBOLS || table.string_bytes > MOST_LIVE_STRINGS {
            return None;
        }
        let at = |offset: u64| {
            Some(
                linker
                    .address
                    .wrapping_add(offset.checked_sub(linker.offset)?),
            )
        };
        Some([
            (at(table.offset)?, table.count as usize * SYMBOL_BYTES),
            (at(table.strings)?, table.string_bytes as usize),
        ])
    }

    /// Where its header is in memory, by its own account.
    #[must_use]
    pub fn base(&self) -> Option<u64> {
        self.segment("__TEXT").map(|text| text.address)
    }
}

impl Segment {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.size
    }

    /// Whether it has code.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.protection & PROTECTION_EXECUTE != 0
    }
}

fn segment(command: &[u8]) -> Option<Segment> {
    let sections = command.get(SEGMENT_BYTES..)?.chunks_exact(SECTION_BYTES);
    let count = command.u32(64)? as usize;
    if sections.len() < count {
        return None;
    }
    Some(Segment {
        name: name(command.get(8..24)?),
        address: command.u64(24)?,
        size: command.u64(32)?,
        offset: command.u64(40)?,
        file_size: command.u64(48)?,
        protection: command.u32(60)?,
        sections: sections.take(count).map(section).collect::<Option<_>>()?,
    })
}

fn section(bytes: &[u8]) -> Option<Section> {
    // S_ZEROFILL, S_GB_ZEROFILL and S_THREAD_LOCAL_ZEROFILL.
    let is_zero = matches!(bytes.u32(64)? & 0xff, 0x1 | 0xc | 0x12);
    Some(Section {
        name: name(bytes.get(..16)?),
        address: bytes.u64(32)?,
        size: bytes.u64(40)?,
        offset: bytes.u32(48)?.into(),
        is_zero,
    })
}

fn name(field: &[u8]) -> String {
    text_at(field, 0).into_owned()
}
