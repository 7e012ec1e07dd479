//! ELF files of 64 bits for x86-64: the numbers that stand in them, and the records as they are written.

pub(crate) const FILE_HEADER_BYTES: u64 = 64;
pub(crate) const PROGRAM_HEADER_BYTES: u64 = 56;
pub(crate) const SECTION_HEADER_BYTES: u64 = 64;
pub(crate) const SYMBOL_BYTES: usize = 24;

pub(crate) const ET_REL: u16 = 1;
pub(crate) const ET_EXEC: u16 = 2;
pub(crate) const ET_DYN: u16 = 3;

pub(crate) const SHT_NULL: u32 = 0;
pub(crate) const SHT_PROGBITS: u32 = 1;
pub(crate) const SHT_SYMTAB: u32 = 2;
pub(crate) const SHT_STRTAB: u32 = 3;
pub(crate) const SHT_RELA: u32 = 4;
pub(crate) const SHT_NOTE: u32 = 7;
pub(crate) const SHT_NOBITS: u32 = 8;

pub(crate) const SHF_WRITE: u64 = 1;
pub(crate) const SHF_ALLOC: u64 = 2;
pub(crate) const SHF_EXECINSTR: u64 = 4;
pub(crate) const SHF_COMPRESSED: u64 = 1 << 11;

/// From here on, numbers of sections mean something else.
pub(crate) const RESERVED_SECTION: u16 = 0xff00;

pub(crate) const PF_EXECUTE: u32 = 1;
pub(crate) const PF_WRITE: u32 = 2;
pub(crate) const PF_READ: u32 = 4;

/// What a file begins with. Its program headers stand right behind it.
pub(crate) struct FileHeader {
    /// `ET_…`.
    pub(crate) kind: u16,
    pub(crate) entry: u64,
    pub(crate) sections_at: u64,
    pub(crate) programs: u16,
    pub(crate) sections: u16,
    /// Which section has the names of sections.
    pub(crate) names: u16,
}

impl FileHeader {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const EM_X86_64: u16 = 62;
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend([self.kind, EM_X86_64].map(u16::to_le_bytes).concat());
        bytes.extend(1u32.to_le_bytes());
        let places = [self.entry, FILE_HEADER_BYTES, self.sections_at];
        bytes.extend(places.map(u64::to_le_bytes).concat());
        bytes.extend(0u32.to_le_bytes());
        let sizes = [
            FILE_HEADER_BYTES as u16,
            PROGRAM_HEADER_BYTES as u16,
            self.programs,
            SECTION_HEADER_BYTES as u16,
            self.sections,
            self.names,
        ];
        bytes.extend(sizes.map(u16::to_le_bytes).concat());
        bytes
    }
}

/// A part of the file that is loaded.
pub(crate) struct ProgramHeader {
    /// `PF_…`.
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) alignment: u64,
}

impl ProgramHeader {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const PT_LOAD: u32 = 1;
        let mut bytes = [PT_LOAD, self.flags].map(u32::to_le_bytes).concat();
        let words = [
            self.offset,
            self.address,
            self.address,
            self.file_bytes,
            self.memory_bytes,
            self.alignment,
        ];
        bytes.extend(words.map(u64::to_le_bytes).concat());
        bytes
    }
}

/// An entry of the table of sections.
pub(crate) struct SectionHeader {
    /// Where its name is among the names.
    pub(crate) name: u32,
    /// `SHT_…`.
    pub(crate) kind: u32,
    /// `SHF_…`.
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: u32,
    pub(crate) info: u32,
    pub(crate) alignment: u64,
    pub(crate) entry_bytes: u64,
}

impl SectionHeader {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.name, self.kind].map(u32::to_le_bytes).concat();
        let words = [self.flags, self.address, self.offset, self.size];
        bytes.extend(words.map(u64::to_le_bytes).concat());
        bytes.extend([self.link, self.info].map(u32::to_le_bytes).concat());
        let words = [self.alignment, self.entry_bytes];
        bytes.extend(words.map(u64::to_le_bytes).concat());
        bytes
    }
}
