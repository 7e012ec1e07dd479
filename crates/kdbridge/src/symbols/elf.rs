//! ELF files of 64 bits and little-endian byte order, read a piece at a time: a kernel with debug
//! information has half a gigabyte, and a backtrace needs a few hundred kilobytes of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::elf::{ET_REL, SHF_ALLOC, SHF_COMPRESSED, SHT_NOBITS, SHT_NOTE, SHT_RELA, SHT_SYMTAB};
use crate::folders::open_file;

use super::build_id::BuildId;
use super::bytes::{Bytes, text_at};
use super::compressed::decompressed;

const NT_GNU_BUILD_ID: u32 = 3;

/// A file with more sections than this is no kernel; a module with `-ffunction-sections` has a few
/// thousand.
const MOST_SECTIONS: usize = 1 << 20;
/// No section that is read whole is longer than this.
pub(super) const MOST_BYTES: u64 = 1 << 30;
/// Where a build-id stands is never longer than this.
const MOST_NOTES: u64 = 1 << 16;

/// An open ELF file and where its sections are.
#[derive(Debug)]
pub struct ElfFile {
    path: PathBuf,
    file: File,
    length: u64,
    kind: u16,
    names: usize,
    sections: Vec<Section>,
}

/// A section of an [`ElfFile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name; empty if the file has none for it.
    pub name: String,
    /// Where its name is among the names.
    pub(crate) name_at: u32,
    /// What is in it, an `SHT_…`.
    pub kind: u32,
    /// `SHF_…`.
    pub flags: u64,
    /// Where it is linked to be; 0 in a relocatable file.
    pub address: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// How many bytes it has, in memory and, unless it is empty there, in the file.
    pub size: u64,
    /// The section it belongs with.
    pub link: u32,
    /// For relocations, the section they change.
    pub info: u32,
    /// What its address is a multiple of.
    pub alignment: u64,
    /// How long each of its entries is, if they are of one length.
    pub(crate) entry_size: u64,
}

impl Section {
    /// Whether it takes up memory when it is loaded.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.flags & SHF_ALLOC != 0
    }

    /// Whether the file has its bytes.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        self.kind != SHT_NOBITS
    }

    /// Whether the file has its bytes compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & SHF_COMPRESSED != 0
    }

    /// Whether it lists relocations of another section.
    #[must_use]
    pub fn is_relocations(&self) -> bool {
        self.kind == SHT_RELA
    }

    /// Whether it is the table of symbols.
    #[must_use]
    pub fn is_symbols(&self) -> bool {
        self.kind == SHT_SYMTAB
    }
}

impl ElfFile {
    /// Opens a file and reads its table of sections.
    ///
    /// # Errors
    ///
    /// [`ElfError`] if it cannot be read or is no such file.
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        let file = open_file(path)?;
        let length = file.metadata()?.len();
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).map_err(short)?;
        if header.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
            return Err(ElfError::NotElf);
        }
        let mut elf = Self {
            path: path.to_owned(),
            file,
            length,
            kind: header.u16(16).unwrap_or_default(),
            names: 0,
            sections: Vec::new(),
        };
        (elf.names, elf.sections) = elf.read_sections(&header)?;
        Ok(elf)
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is not linked yet, as a module is.
    #[must_use]
    pub fn is_relocatable(&self) -> bool {
        self.kind == ET_REL
    }

    /// All sections, in the order of the file; number 0 is the empty one.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The number of the section with the names of all sections.
    #[must_use]
    pub fn name_section(&self) -> usize {
        self.names
    }

    /// The first section of this name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All bytes of a section, decompressed; none if the file has none for it.
    ///
    /// # Errors
    ///
    /// [`ElfError`] if it does not lie in the file, or is not what it says.
    pub fn bytes(&self, section: &Section) -> Result<Vec<u8>, ElfError> {
        if !section.is_in_file() {
            return Ok(Vec::new());
        }
        let bytes = self.read(section.offset, section.size)?;
        match section.is_compressed() {
            true => decompressed(&bytes),
            false => Ok(bytes),
        }
    }

    /// `length` bytes of a section that is not compressed from `begin` on, or fewer where it ends.
    ///
    /// # Errors
    ///
    /// [`ElfError`] if it does not lie in the file.
    pub fn piece(&self, section: &Section, begin: u64, length: u64) -> Result<Vec<u8>, ElfError> {
        let length = length.min(section.size.saturating_sub(begin));
        let offset = section.offset.checked_add(begin).ok_or(ElfError::Short)?;
        self.read(offset, length)
    }

    /// The build-id in the notes of the file.
    #[must_use]
    pub fn build_id(&self) -> Option<BuildId> {
        let notes = self.sections.iter().filter(|it| it.kind == SHT_NOTE);
        notes
            .filter(|notes| notes.is_in_file())
            .filter_map(|notes| self.piece(notes, 0, MOST_NOTES).ok())
            .find_map(|notes| build_id_in(&notes))
    }

    /// The number of the section with the names of sections, and all of them.
    fn read_sections(&self, header: &[u8]) -> Result<(usize, Vec<Section>), ElfError> {
        let table = header.u64(40).unwrap_or_default();
        let size = usize::from(header.u16(58).unwrap_or_default());
        let mut count = usize::from(header.u16(60).unwrap_or_default());
        let mut names = u32::from(header.u16(62).unwrap_or_default());
        if table == 0 || size < 64 {
            return Err(ElfError::NoSections);
        }
        let first = self.read(table, 64)?;
        if count == 0 {
            count = usize::try_from(first.u64(32).unwrap_or_default()).unwrap_or(usize::MAX);
        }
        if names == 0xffff {
            names = first.u32(40).unwrap_or_default();
        }
        if count > MOST_SECTIONS {
            return Err(ElfError::Short);
        }
        let bytes = self.read(table, (count * size) as u64)?;
        let raw: Vec<_> = bytes.chunks_exact(size).filter_map(raw_section).collect();
        Ok((names as usize, self.with_names(raw, names as usize)?))
    }

    fn with_names(&self, raw: Vec<Section>, names: usize) -> Result<Vec<Section>, ElfError> {
        let names = match raw.get(names) {
            Some(names) => self.bytes(names)?,
            None => Vec::new(),
        };
        let named = raw.into_iter().map(|section| Section {
            name: text_at(&names, section.name_at as usize).into_owned(),
            ..section
        });
        Ok(named.collect())
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, ElfError> {
        let end = offset.checked_add(length).ok_or(ElfError::Short)?;
        if end > self.length || length > MOST_BYTES {
            return Err(ElfError::Short);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| ElfError::Short)?];
        self.file.read_exact_at(&mut bytes, offset).map_err(short)?;
        Ok(bytes)
    }
}

/// A section header without its name.
fn raw_section(bytes: &[u8]) -> Option<Section> {
    Some(Section {
        name: String::new(),
        name_at: bytes.u32(0)?,
        kind: bytes.u32(4)?,
        flags: bytes.u64(8)?,
        address: bytes.u64(16)?,
        offset: bytes.u64(24)?,
        size: bytes.u64(32)?,
        link: bytes.u32(40)?,
        info: bytes.u32(44)?,
        alignment: bytes.u64(48)?,
        entry_size: bytes.u64(56)?,
    })
}

/// The build-id among the notes of an image, be it of a file or of a kernel in memory.
#[must_use]
pub fn build_id_in(mut notes: &[u8]) -> Option<BuildId> {
    loop {
        let (name, value) = (notes.u32(0)? as usize, notes.u32(4)? as usize);
        let begin = name.checked_next_multiple_of(4)?.checked_add(12)?;
        let end = begin.checked_add(value)?;
        let found = notes.get(begin..end)?;
        if notes.u32(8)? == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0".as_slice()) {
            return BuildId::new(found);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

fn short(error: io::Error) -> ElfError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ElfError::Short,
        _ => ElfError::Io(error),
    }
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ElfError {
    /// It begins otherwise.
    #[error("not an ELF file of 64 bits and little-endian byte order")]
    NotElf,
    /// It has no table of sections.
    #[error("the file has no sections")]
    NoSections,
    /// Something in it is said to be where the file does not reach.
    #[error("the file is damaged or cut short")]
    Short,
    /// A section is compressed in a way that has this number.
    #[error("the file has a section that is compressed in a way that is not known ({0})")]
    Compression(u32),
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::super::testing::Elf;
    use super::*;

    #[test]
    fn sections_and_their_bytes() {
        let file = Elf::new()
            .section(".text", 1, 0x1000, b"code")
            .section(".debug_str", 1, 0, b"names")
            .write();
        let elf = ElfFile::open(file.path()).unwrap();
        let text = elf.section(".text").unwrap();
        assert_eq!((text.address, text.size), (0x1000, 4));
        assert_eq!(elf.bytes(text).unwrap(), b"code");
        let names = elf.section(".debug_str").unwrap();
        assert_eq!(elf.piece(names, 3, 100).unwrap(), b"es");
        assert_eq!(elf.piece(names, 30, 100).unwrap(), b"");
        assert!(elf.section(".data").is_none());
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let mut notes = note(b"Xen\0", 6, b"linux\0");
        notes.extend(note(b"GNU\0", 3, &[0xab; 20]));
        let file = Elf::new().section(".notes", SHT_NOTE, 0, &notes).write();
        let id = ElfFile::open(file.path()).unwrap().build_id().unwrap();
        assert_eq!(id.to_string(), "ab".repeat(20));
    }

    #[test]
    fn a_section_that_leaves_the_file_is_refused() {
        let mut bytes = Elf::new().section(".text", 1, 0, b"code").bytes();
        let table = usize::try_from(bytes.u64(40).unwrap()).unwrap();
        for lie in [u64::MAX, u64::MAX - 63, 1 << 40, 1 << 20] {
            bytes[table + 64 + 32..table + 64 + 40].copy_from_slice(&lie.to_le_bytes());
            let file = Elf::file(&bytes);
            let elf = ElfFile::open(file.path()).unwrap();
            let error = elf.bytes(elf.section(".text").unwrap()).unwrap_err();
            assert!(matches!(error, ElfError::Short), "{error}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let notes = note(b"GNU\0", 3, &[1; 20]);
        let whole = Elf::new().section(".notes", SHT_NOTE, 0, &notes).bytes();
        let look = |bytes: &[u8]| {
            let file = Elf::file(bytes);
            ElfFile::open(file.path()).map(|elf| elf.build_id())
        };
        assert!(look(&whole).unwrap().is_some());
        for end in 0..whole.len() {
            assert!(!matches!(look(&whole[..end]), Ok(Some(_))));
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            drop(look(&changed));
        }
    }

    fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let lengths = [name.len() as u32, value.len() as u32, kind];
        let mut note: Vec<u8> = lengths.iter().flat_map(|it| it.to_le_bytes()).collect();
        note.extend(name);
        note.extend(value);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }
}
