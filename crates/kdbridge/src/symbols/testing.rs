//! Small ELF files for tests.

use std::io::Write;

use tempfile::NamedTempFile;

use crate::elf::{FileHeader, SHF_COMPRESSED, SectionHeader};
use crate::target::{Memory, TargetError};

/// Memory in which nothing is.
pub(crate) struct Nothing;

impl Memory for Nothing {
    fn read(&mut self, at: u64, _: &mut [u8]) -> Result<(), TargetError> {
        Err(TargetError::Unreadable(at))
    }
}

/// Sections that become a file.
pub(crate) struct Elf {
    kind: u16,
    sections: Vec<Given>,
}

struct Given {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    bytes: Vec<u8>,
    link: u32,
    info: u32,
}

impl Elf {
    /// A linked file.
    pub(crate) fn new() -> Self {
        Self {
            kind: 2,
            sections: Vec::new(),
        }
    }

    pub(crate) fn section(
        mut self,
        name: &'static str,
        kind: u32,
        address: u64,
        bytes: &[u8],
    ) -> Self {
        self.sections.push(Given {
            name,
            kind,
            flags: 0,
            address,
            bytes: bytes.to_vec(),
            link: 0,
            info: 0,
        });
        self
    }

    /// Says of the last section that it is loaded with these further flags.
    pub(crate) fn loaded(mut self, flags: u64) -> Self {
        self.last().flags = 2 | flags;
        self
    }

    /// Says of the last section that it is compressed.
    pub(crate) fn compressed(mut self) -> Self {
        self.last().flags = SHF_COMPRESSED;
        self
    }

    /// Says with which section the last one belongs, and which one it is about.
    pub(crate) fn linked(mut self, link: u32, info: u32) -> Self {
        let last = self.last();
        (last.link, last.info) = (link, info);
        self
    }

    pub(crate) fn write(&self) -> NamedTempFile {
        Self::file(&self.bytes())
    }

    pub(crate) fn file(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The sections' bytes, then the table of sections, then their names.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        let mut headers = vec![vec![0; 64]];
        let mut names = vec![0];
        for given in &self.sections {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            headers.push(given.header(names.len(), bytes.len()));
            bytes.extend(&given.bytes);
            names.extend(given.name.bytes().chain([0]));
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table = bytes.len();
        let names_at = table + (headers.len() + 1) * 64;
        headers.push(Given::names(&names).header(0, names_at));
        bytes.extend(headers.iter().flatten());
        bytes.extend(names);
        bytes[..64].copy_from_slice(&self.header(table, headers.len()));
        bytes
    }

    fn header(&self, table: usize, count: usize) -> Vec<u8> {
        let header = FileHeader {
            kind: self.kind,
            entry: 0,
            sections_at: table as u64,
            programs: 0,
            sections: count as u16,
            names: count as u16 - 1,
        };
        header.bytes()
    }

    fn last(&mut self) -> &mut Given {
        self.sections.last_mut().expect("a section comes first")
    }
}

impl Given {
    fn names(names: &[u8]) -> Self {
        Self {
            name: "",
            kind: 3,
            flags: 0,
            address: 0,
            bytes: names.to_vec(),
            link: 0,
            info: 0,
        }
    }

    fn header(&self, name: usize, at: usize) -> Vec<u8> {
        let header = SectionHeader {
            name: name as u32,
            kind: self.kind,
            flags: self.flags,
            address: self.address,
            offset: at as u64,
            size: self.bytes.len() as u64,
            link: self.link,
            info: self.info,
            alignment: 8,
            entry_bytes: 0,
        };
        header.bytes()
    }
}

/// Memory with something at one place and nothing elsewhere.
pub(crate) struct Image {
    base: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn new(base: u64, bytes: Vec<u8>) -> Self {
        Self { base, bytes }
    }
}

impl Memory for Image {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let begin = usize::try_from(at.wrapping_sub(self.base)).unwrap_or(usize::MAX);
        let found = begin
            .checked_add(into.len())
            .and_then(|end| self.bytes.get(begin..end));
        into.copy_from_slice(found.ok_or(TargetError::Unreadable(at))?);
        Ok(())
    }
}
