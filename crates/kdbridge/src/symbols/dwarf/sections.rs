//! The sections of debug information, where a kernel or a module really is.

use std::sync::Arc;

use gimli::{EndianArcSlice, LittleEndian};

use crate::symbols::elf::{ElfError, ElfFile, Section};
use crate::symbols::relocate::{Placement, relocate};

/// Some bytes of debug information.
pub(crate) type Piece = EndianArcSlice<LittleEndian>;

/// A file with debug information.
#[derive(Debug)]
pub(super) struct Sections {
    elf: ElfFile,
    placement: Option<Placement>,
    /// Those that are read in parts and can only be had as a whole: they are compressed, or must be relocated.
    whole: Vec<(&'static str, Vec<u8>)>,
}

/// The sections that are read in parts.
const IN_PARTS: [&str; 2] = [".debug_info", ".debug_line"];

impl Sections {
    /// What is in a linked file is where that says; its relocations were applied when it was linked,
    /// and stand there for who wants to move it.
    pub(super) fn linked(elf: ElfFile) -> Result<Self, ElfError> {
        Self::new(elf, None)
    }

    pub(super) fn placed(elf: ElfFile, placement: Placement) -> Result<Self, ElfError> {
        Self::new(elf, Some(placement))
    }

    fn new(elf: ElfFile, placement: Option<Placement>) -> Result<Self, ElfError> {
        let mut sections = Self {
            elf,
            placement,
            whole: Vec::new(),
        };
        for name in IN_PARTS {
            let section = sections.elf.section(name);
            if sections.placement.is_some() || section.is_some_and(Section::is_compressed) {
                let bytes = sections.bytes(name)?;
                sections.whole.push((name, bytes));
            }
        }
        Ok(sections)
    }

    /// The whole section; empty if there is none.
    pub(super) fn whole(&self, name: &str) -> Result<Piece, ElfError> {
        Ok(piece(self.bytes(name)?.into()))
    }

    /// How long `.debug_info` is.
    pub(super) fn info_length(&self) -> u64 {
        match self.whole_of(".debug_info") {
            Some(whole) => whole.len() as u64,
            None => self.elf.section(".debug_info").map_or(0, |it| it.size),
        }
    }

    /// A part of a section that is read in parts, or less where that ends.
    pub(super) fn part(&self, name: &str, begin: u64, length: u64) -> Result<Vec<u8>, ElfError> {
        if let Some(whole) = self.whole_of(name) {
            let end = begin.saturating_add(length).min(whole.len() as u64);
            let part = whole.get(begin as usize..end as usize);
            return Ok(part.unwrap_or_default().to_vec());
        }
        match self.elf.section(name) {
            Some(section) => self.elf.piece(section, begin, length),
            None => Ok(Vec::new()),
        }
    }

    /// A part of `.debug_info`.
    pub(super) fn info(&self, begin: u64, length: u64) -> Result<Vec<u8>, ElfError> {
        self.part(".debug_info", begin, length)
    }

    fn whole_of(&self, name: &str) -> Option<&[u8]> {
        let found = self.whole.iter().find(|(it, _)| *it == name);
        found.map(|(_, whole)| whole.as_slice())
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ElfError> {
        let named = self.elf.sections().iter().enumerate();
        let Some((number, section)) = named.clone().find(|(_, it)| it.name == name) else {
            return Ok(Vec::new());
        };
        let mut bytes = self.elf.bytes(section)?;
        if let Some(placement) = &self.placement {
            relocate(&self.elf, number, &mut bytes, placement)?;
        }
        Ok(bytes)
    }
}

pub(super) fn piece(bytes: Arc<[u8]>) -> Piece {
    Piece::new(bytes, LittleEndian)
}
