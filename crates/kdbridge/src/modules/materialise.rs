//! A module's file as if it had been linked where the module is.
//!
//! LLDB makes up addresses for the sections of a file that is not linked, whatever it is told about
//! them. So it gets a copy: of a shared library, because it takes a linked program for the kernel.
//! What takes up memory is copied from there, the debug information is relocated, and the symbols
//! have the addresses where things are.

use thiserror::Error;

use super::Module;
use crate::elf::{
    ET_DYN, FILE_HEADER_BYTES, FileHeader, PF_EXECUTE, PF_READ, PF_WRITE, PROGRAM_HEADER_BYTES,
    ProgramHeader, RESERVED_SECTION, SHF_ALLOC, SHF_COMPRESSED, SHF_EXECINSTR, SHF_WRITE, SHT_NULL,
    SHT_PROGBITS, SYMBOL_BYTES, SectionHeader,
};
use crate::symbols::bytes::Bytes;
use crate::symbols::{ElfError, ElfFile, Placement, Section, relocate};
use crate::target::Memory;

const HEADER: usize = FILE_HEADER_BYTES as usize;
const SEGMENT: usize = PROGRAM_HEADER_BYTES as usize;

/// No section of a module is longer than this; the kernel has 1 GiB for all modules.
const MOST_LIVE: u64 = 1 << 28;
/// Nor is a whole one longer than this.
const MOST_BYTES: usize = 1 << 30;

/// What dropped sections are said to be at is a multiple of this.
const APART: u64 = 0x1000;

/// A copy of a module's file.
#[derive(Debug)]
pub struct Materialised {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The lowest address that something in it has.
    pub base: u64,
}

/// Makes a copy of `elf`, the file of `module`, with the addresses that its sections have now.
///
/// # Errors
///
/// [`MaterialiseError`] if the file is damaged, or none of it is in memory.
pub fn materialise(
    memory: &mut dyn Memory,
    module: &Module,
    elf: &ElfFile,
) -> Result<Materialised, MaterialiseError> {
    let placement = module.placement(elf);
    let places = Places {
        of_references: with_places_for_dropped(elf, &placement),
        of_sections: placement,
    };
    let names = u16::try_from(elf.name_section()).unwrap_or(0);
    let mut copies = Vec::new();
    let mut length = 0;
    for (number, section) in elf.sections().iter().enumerate() {
        let copy = copy(memory, elf, number, section, &places)?;
        // Sections of a damaged file may all be the same part of it.
        length += copy.bytes.len();
        if length > MOST_BYTES {
            return Err(ElfError::Short.into());
        }
        copies.push(copy);
    }
    let loaded = copies.iter().filter(|it| it.section.address != 0);
    let base = loaded.map(|it| it.section.address).min();
    Ok(Materialised {
        bytes: write(&mut copies, names),
        base: base.ok_or(MaterialiseError::NotLoaded)?,
    })
}

/// A file with nothing in it, and the address of that, where no module and no program is.
pub(super) fn nothing() -> Materialised {
    const BASE: u64 = 0x1000;
    let section = Section {
        name: String::new(),
        name_at: 0,
        kind: SHT_PROGBITS,
        flags: SHF_ALLOC,
        address: BASE,
        offset: 0,
        size: 16,
        link: 0,
        info: 0,
        alignment: 1,
        entry_size: 0,
    };
    let bytes = vec![0; 16];
    Materialised {
        bytes: write(&mut [Copy { section, bytes }], 0),
        base: BASE,
    }
}

struct Places {
    /// 0 for sections that are dropped.
    of_sections: Placement,
    /// What lines and variables of dropped sections are said to be at.
    of_references: Placement,
}

/// Gives dropped sections addresses behind all others. LLDB forgets all of a source file that says
/// it has something at 0.
fn with_places_for_dropped(elf: &ElfFile, placement: &Placement) -> Placement {
    let sections = || elf.sections().iter().enumerate();
    let ends = sections().map(|(number, section)| match placement.of(number) {
        0 => 0,
        at => at.saturating_add(section.size),
    });
    let mut next = ends.max().unwrap_or_default();
    let places = sections().map(|(number, section)| match placement.of(number) {
        0 if section.is_loaded() => {
            let at = next.checked_next_multiple_of(APART).unwrap_or_default();
            next = at.saturating_add(section.size).saturating_add(1);
            at
        }
        at => at,
    });
    Placement(places.collect())
}

/// A section of the copy and what is in it.
struct Copy {
    section: Section,
    bytes: Vec<u8>,
}

fn copy(
    memory: &mut dyn Memory,
    elf: &ElfFile,
    number: usize,
    section: &Section,
    places: &Places,
) -> Result<Copy, ElfError> {
    let address = places.of_sections.of(number);
    let is_dropped = section.is_loaded() && address == 0;
    if is_dropped || section.is_relocations() {
        let section = Section {
            kind: SHT_NULL,
            flags: 0,
            address: 0,
            size: 0,
            ..section.clone()
        };
        let bytes = Vec::new();
        return Ok(Copy { section, bytes });
    }
    let mut bytes = elf.bytes(section)?;
    if section.is_symbols() {
        place_symbols(&mut bytes, &places.of_sections);
    } else {
        relocate(elf, number, &mut bytes, &places.of_references)?;
    }
    let mut section = Section {
        address,
        ..section.clone()
    };
    if section.is_compressed() {
        section.flags &= !SHF_COMPRESSED;
        section.size = bytes.len() as u64;
    }
    if section.is_loaded() {
        let mut live = vec![0; section.size.min(MOST_LIVE) as usize];
        if memory.read(address, &mut live).is_ok() {
            bytes = live;
            section.kind = match section.is_in_file() {
                true => section.kind,
                false => SHT_PROGBITS,
            };
        }
    }
    section.size = section.size.max(bytes.len() as u64);
    Ok(Copy { section, bytes })
}

/// Symbols of sections that are there get their address; those of others become undefined.
fn place_symbols(symbols: &mut [u8], placement: &Placement) {
    for symbol in symbols.chunks_exact_mut(SYMBOL_BYTES) {
        let section = symbol.u16(6).unwrap_or_default();
        if section == 0 || section >= RESERVED_SECTION {
            continue;
        }
        let base = placement.of(section.into());
        let value = symbol.u64(8).unwrap_or_default().wrapping_add(base);
        let (section, value) = if base == 0 { (0, 0) } else { (section, value) };
        symbol[6..8].copy_from_slice(&section.to_le_bytes());
        symbol[8..16].copy_from_slice(&value.to_le_bytes());
    }
}

/// Header, segments, what is in the sections, and their table.
fn write(copies: &mut [Copy], names: u16) -> Vec<u8> {
    let is_segment = |copy: &&Copy| copy.section.is_loaded() && copy.section.size > 0;
    let segments = copies.iter().filter(is_segment).count();
    let mut bytes = vec![0; HEADER + segments * SEGMENT];
    for copy in copies.iter_mut() {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        copy.section.offset = bytes.len() as u64;
        bytes.extend(&copy.bytes);
    }
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let table = bytes.len() as u64;
    for copy in copies.iter() {
        bytes.extend(section_header(&copy.section));
    }
    let header = FileHeader {
        kind: ET_DYN,
        entry: 0,
        sections_at: table,
        programs: segments as u16,
        sections: copies.len() as u16,
        names,
    };
    bytes[..HEADER].copy_from_slice(&header.bytes());
    let mut loaded: Vec<&Copy> = copies.iter().filter(is_segment).collect();
    loaded.sort_by_key(|copy| copy.section.address);
    for (number, copy) in loaded.iter().enumerate() {
        let at = HEADER + number * SEGMENT;
        bytes[at..at + SEGMENT].copy_from_slice(&segment(copy));
    }
    bytes
}

fn segment(copy: &Copy) -> Vec<u8> {
    let section = &copy.section;
    let allowed = |flag, bit| if section.flags & flag != 0 { bit } else { 0 };
    let header = ProgramHeader {
        flags: PF_READ | allowed(SHF_WRITE, PF_WRITE) | allowed(SHF_EXECINSTR, PF_EXECUTE),
        offset: section.offset,
        address: section.address,
        file_bytes: copy.bytes.len() as u64,
        memory_bytes: section.size,
        alignment: 1,
    };
    header.bytes()
}

fn section_header(section: &Section) -> Vec<u8> {
    let header = SectionHeader {
        name: section.name_at,
        kind: section.kind,
        flags: section.flags,
        address: section.address,
        offset: section.offset,
        size: section.size,
        link: section.link,
        info: section.info,
        alignment: section.alignment,
        entry_bytes: section.entry_size,
    };
    header.bytes()
}

/// Why no copy could be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MaterialiseError {
    /// No section of the file is in memory.
    #[error("the kernel does not say where the module's sections are")]
    NotLoaded,
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] ElfError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::SymbolTable;
    use crate::symbols::testing::{Elf, Image};

    const AT: u64 = 0xffff_ffff_c000_0000;

    fn symbol(name: u32, section: u16, value: u64) -> Vec<u8> {
        let mut symbol = name.to_le_bytes().to_vec();
        symbol.extend([0x12, 0]);
        symbol.extend(section.to_le_bytes());
        symbol.extend(value.to_le_bytes());
        symbol.extend(8u64.to_le_bytes());
        symbol
    }

    fn module(sections: &[(&str, u64)]) -> Module {
        Module {
            name: "m".into(),
            at: 0,
            base: AT,
            size: 0x1000,
            others: Vec::new(),
            live: true,
            sections: sections
                .iter()
                .map(|&(it, at)| (it.to_owned(), at))
                .collect(),
            orc: None,
        }
    }

    #[test]
    fn the_copy_is_linked_where_the_module_is() {
        let entry = |at: u64, symbol: u64| [at, symbol << 32 | 1, 4].map(u64::to_le_bytes).concat();
        let entries = [entry(0, 1), entry(8, 2)].concat();
        let symbols = [symbol(0, 0, 0), symbol(1, 1, 4), symbol(5, 3, 0)].concat();
        let file = Elf::new()
            .section(".text", 1, 0, b"from file")
            .loaded(4)
            .section(".debug_info", 1, 0, &[0; 16])
            .section(".init.text", 1, 0, &[0; 8])
            .loaded(4)
            .section(".rela.debug_info", 4, 0, &entries)
            .linked(5, 2)
            .section(".symtab", 2, 0, &symbols)
            .linked(6, 0)
            .section(".strtab", 3, 0, b"\0run\0start\0")
            .write();
        let elf = ElfFile::open(file.path()).unwrap();
        let mut memory = Image::new(AT, b"as loaded".to_vec());
        let made = materialise(&mut memory, &module(&[(".text", AT)]), &elf).unwrap();
        assert_eq!(made.base, AT);
        assert_eq!(made.bytes.u16(16), Some(ET_DYN));
        let copy = Elf::file(&made.bytes);
        let copy = ElfFile::open(copy.path()).unwrap();
        let text = copy.section(".text").unwrap();
        assert_eq!(text.address, AT);
        assert_eq!(copy.bytes(text).unwrap(), b"as loaded");
        let info = copy.bytes(copy.section(".debug_info").unwrap()).unwrap();
        assert_eq!(info.u64(0), Some(AT + 8), "value, address and addend");
        assert_eq!(info.u64(8), Some(AT + APART + 4), "behind what is there");
        let symbols = SymbolTable::of_file(&copy).unwrap();
        assert_eq!(symbols.by_name("run").unwrap().address, AT + 4);
        assert!(symbols.by_name("start").is_none(), "it is gone");
    }

    #[test]
    fn what_is_compressed_in_the_file_is_not_in_the_copy() {
        let text = b"a text that is longer than what it is compressed to ".repeat(9);
        let mut packed = [1u32, 0].map(u32::to_le_bytes).concat();
        packed.extend([text.len() as u64, 1].map(u64::to_le_bytes).concat());
        packed.extend(miniz_oxide::deflate::compress_to_vec_zlib(&text, 6));
        let file = Elf::new()
            .section(".text", 1, 0, b"from file")
            .loaded(4)
            .section(".debug_str", 1, 0, &packed)
            .compressed()
            .write();
        let elf = ElfFile::open(file.path()).unwrap();
        let mut memory = Image::new(AT, b"as loaded".to_vec());
        let made = materialise(&mut memory, &module(&[(".text", AT)]), &elf).unwrap();
        let copy = Elf::file(&made.bytes);
        let copy = ElfFile::open(copy.path()).unwrap();
        let texts = copy.section(".debug_str").unwrap();
        assert!(!texts.is_compressed());
        assert_eq!(copy.bytes(texts).unwrap(), text);
    }

    #[test]
    fn a_file_with_nothing_in_it_has_one_segment() {
        let nothing = nothing();
        assert_eq!(nothing.bytes.u16(16), Some(ET_DYN));
        assert_eq!(nothing.bytes.u16(56), Some(1), "segments");
        assert_eq!(nothing.bytes.u64(HEADER + 16), Some(nothing.base));
    }

    #[test]
    fn a_module_that_is_nowhere_has_no_copy() {
        let file = Elf::new().section(".text", 1, 0, b"code").loaded(4).write();
        let elf = ElfFile::open(file.path()).unwrap();
        let mut memory = Image::new(AT, Vec::new());
        let error = materialise(&mut memory, &module(&[]), &elf).unwrap_err();
        assert!(matches!(error, MaterialiseError::NotLoaded), "{error}");
    }
}
