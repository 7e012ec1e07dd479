//! An ELF file for what a debugger needs of a Mach-O image: gdb on Linux does not read Mach-O.
//!
//! Addresses stay those for which the image is linked, so what is slid is slid as any other program.
//! Symbols lose the underscore in front that C has on a Mac. The UUID becomes the build-id.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::elf::{
    ET_EXEC, FILE_HEADER_BYTES, FileHeader, PROGRAM_HEADER_BYTES, ProgramHeader, RESERVED_SECTION,
    SECTION_HEADER_BYTES, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS, SHT_NOTE, SHT_PROGBITS,
    SHT_STRTAB, SHT_SYMTAB, SYMBOL_BYTES, SectionHeader,
};

use super::file::{FileError, MachFile, Symbol};
use super::image::{Image, Section, Segment};

const PROTECTION_WRITE: u32 = 2;
const PROTECTION_EXECUTE: u32 = 4;

const PAGE: u64 = 4096;

/// Sections that are farther apart are not in one segment.
const MOST_GAP: u64 = 1 << 20;

/// Why a file was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// What it is made from.
    #[error("the image cannot be read")]
    File(#[from] FileError),
    /// Reading or writing.
    #[error("the copy cannot be written")]
    Io(#[from] io::Error),
    /// Sections lie over each other.
    #[error("its sections are longer than the file")]
    Long,
    /// More sections than an ELF file has room for.
    #[error("too many sections")]
    Sections,
}

/// Writes an ELF file with the sections and symbols of `image`, and the debug information of
/// `dwarf`, which may be the same.
///
/// # Errors
///
/// [`ConvertError`].
pub fn to_elf(image: &MachFile, dwarf: &MachFile, to: &mut impl Write) -> Result<(), ConvertError> {
    let mut elf = Elf::default();
    let length = |file: &MachFile| file.length().map_err(FileError::from);
    let mut room = length(image)?.saturating_add(length(dwarf)?);
    let mut programs = Vec::new();
    for segment in loaded(image) {
        let first = elf.sections.len();
        for section in &segment.sections {
            let part = loaded_section(image, segment, section)?;
            elf.add_within(&mut room, part)?;
        }
        if let Some(part) = elf.sections.get_mut(first) {
            part.lead = part.address.checked_sub(segment.address);
        }
        programs.push((segment, first..elf.sections.len()));
    }
    let symbols = match image.symbols()? {
        symbols if symbols.is_empty() => dwarf.symbols()?,
        symbols => symbols,
    };
    for section in debug_sections(dwarf) {
        elf.add_within(&mut room, debug_section(dwarf, section)?)?;
    }
    if let Some(uuid) = image.image().uuid {
        elf.add(build_id(&uuid.0));
    }
    elf.add_symbols(&symbols, image);
    if elf.sections.len() + 2 >= usize::from(RESERVED_SECTION) {
        return Err(ConvertError::Sections);
    }
    elf.write(&programs, to)
}

/// The segments that are in memory, each of which is one of the copy.
fn loaded(file: &MachFile) -> impl Iterator<Item = &Segment> {
    loaded_segments(file.image())
}

/// The same of what an image says of itself.
pub(crate) fn loaded_segments(image: &Image) -> impl Iterator<Item = &Segment> {
    let skipped = ["__PAGEZERO", "__LINKEDIT", "__DWARF"];
    let segments = image.segments.iter();
    segments.filter(move |segment| !skipped.contains(&segment.name.as_str()))
}

fn debug_sections(file: &MachFile) -> impl Iterator<Item = &Section> {
    let segments = file.image().segments.iter();
    let sections = segments.filter(|segment| segment.name == "__DWARF");
    sections
        .flat_map(|segment| &segment.sections)
        .filter(|section| section.name.starts_with("__debug_"))
}

/// A section of the ELF file.
struct Part {
    name: String,
    kind: u32,
    flags: u64,
    address: u64,
    size: u64,
    bytes: Vec<u8>,
    link: u32,
    info: u32,
    alignment: u64,
    entry_bytes: u64,
    /// How far from the beginning of its segment it is, if it is the first one there.
    lead: Option<u64>,
}

impl Part {
    fn new(name: String, kind: u32, bytes: Vec<u8>) -> Self {
        Self {
            name,
            kind,
            flags: 0,
            address: 0,
            size: bytes.len() as u64,
            bytes,
            link: 0,
            info: 0,
            alignment: 1,
            entry_bytes: 0,
            lead: None,
        }
    }
}

fn loaded_section(
    file: &MachFile,
    segment: &Segment,
    section: &Section,
) -> Result<Part, ConvertError> {
    let contents = file.contents(section)?;
    let kind = if contents.is_some() {
        SHT_PROGBITS
    } else {
        SHT_NOBITS
    };
    let name = loaded_name(&segment.name, &section.name);
    let mut part = Part::new(name, kind, contents.unwrap_or_default());
    let can = |protection: u32| segment.protection & protection != 0;
    let write = if can(PROTECTION_WRITE) { SHF_WRITE } else { 0 };
    let execute = if can(PROTECTION_EXECUTE) {
        SHF_EXECINSTR
    } else {
        0
    };
    part.flags = SHF_ALLOC | write | execute;
    (part.address, part.size) = (section.address, section.size);
    Ok(part)
}

/// What a linker of ELF calls the section, where it has such a one.
fn loaded_name(segment: &str, section: &str) -> String {
    match (segment, section) {
        ("__TEXT", "__text") => ".text".to_owned(),
        ("__TEXT", "__eh_frame") => ".eh_frame".to_owned(),
        ("__TEXT", "__const") => ".rodata".to_owned(),
        ("__DATA", "__data") => ".data".to_owned(),
        ("__DATA", "__bss") => ".bss".to_owned(),
        _ => format!("{segment}.{section}"),
    }
}

fn debug_section(file: &MachFile, section: &Section) -> Result<Part, ConvertError> {
    let name = match section.name.trim_start_matches('_') {
        // A name has sixteen bytes there.
        "debug_str_offs" => ".debug_str_offsets".to_owned(),
        name => format!(".{name}"),
    };
    let bytes = file.contents(section)?.unwrap_or_default();
    Ok(Part::new(name, SHT_PROGBITS, bytes))
}

fn build_id(id: &[u8; 16]) -> Part {
    let mut note = [4u32, 16, 3].map(u32::to_le_bytes).concat();
    note.extend(b"GNU\0");
    note.extend(id);
    let mut part = Part::new(".note.gnu.build-id".to_owned(), SHT_NOTE, note);
    part.alignment = 4;
    part
}

#[derive(Default)]
struct Elf {
    /// Without the one that every file has at the beginning.
    sections: Vec<Part>,
}

impl Elf {
    fn add(&mut self, part: Part) {
        self.sections.push(part);
    }

    /// Takes what the part has of the room that is left.
    fn add_within(&mut self, room: &mut u64, part: Part) -> Result<(), ConvertError> {
        let left = room.checked_sub(part.bytes.len() as u64);
        *room = left.ok_or(ConvertError::Long)?;
        self.add(part);
        Ok(())
    }

    fn add_symbols(&mut self, symbols: &[Symbol], image: &MachFile) {
        let places = self.places(image);
        let mut sorted: Vec<&Symbol> = symbols.iter().collect();
        // The format wants those first that only their own file sees.
        sorted.sort_by_key(|symbol| (symbol.is_global, symbol.address));
        let (mut table, mut strings) = (vec![0; SYMBOL_BYTES], vec![0]);
        for symbol in &sorted {
            let place = places.get(symbol.section).copied().flatten();
            table.extend(self.symbol(symbol, place, strings.len() as u32));
            strings.extend(symbol.c_name().as_bytes());
            strings.push(0);
        }
        let locals = sorted.iter().filter(|symbol| !symbol.is_global).count();
        let mut part = Part::new(".symtab".to_owned(), SHT_SYMTAB, table);
        part.link = self.sections.len() as u32 + 2;
        part.info = locals as u32 + 1;
        (part.alignment, part.entry_bytes) = (8, SYMBOL_BYTES as u64);
        self.add(part);
        self.add(Part::new(".strtab".to_owned(), SHT_STRTAB, strings));
    }

    /// For each section of the image, the index of ours.
    fn places(&self, image: &MachFile) -> Vec<Option<u16>> {
        let mut next = 1;
        let segments = image.image().segments.iter();
        segments
            .flat_map(|segment| segment.sections.iter().map(move |_| segment))
            .map(|segment| {
                let taken = loaded(image).any(|it| std::ptr::eq(it, segment));
                let place = next;
                next += u16::from(taken);
                taken.then_some(place)
            })
            .collect()
    }

    fn symbol(&self, symbol: &Symbol, place: Option<u16>, name: u32) -> Vec<u8> {
        const ABSOLUTE: u16 = 0xfff1;
        let section = place.and_then(|place| self.sections.get(usize::from(place) - 1));
        let executes = section.is_some_and(|section| section.flags & SHF_EXECINSTR != 0);
        let kind = if executes { 2 } else { 1 };
        let binding = if symbol.is_global { 0x10 } else { 0 };
        let mut entry = name.to_le_bytes().to_vec();
        entry.extend([binding | kind, 0]);
        entry.extend(place.unwrap_or(ABSOLUTE).to_le_bytes());
        entry.extend(symbol.address.to_le_bytes());
        entry.extend(0u64.to_le_bytes());
        entry
    }

    fn write(
        mut self,
        programs: &[(&Segment, std::ops::Range<usize>)],
        to: &mut impl Write,
    ) -> Result<(), ConvertError> {
        let (names, starts) = self.names();
        self.add(Part::new(".shstrtab".to_owned(), SHT_STRTAB, names));
        let head = FILE_HEADER_BYTES + PROGRAM_HEADER_BYTES * programs.len() as u64;
        let (offsets, end) = self.layout(head);
        to.write_all(&self.header(programs.len() as u16, end))?;
        for (segment, range) in programs {
            let (offset, file_bytes) = self.place(range, &offsets).unwrap_or((head, 0));
            to.write_all(&program(segment, offset, file_bytes))?;
        }
        let mut at = head;
        for (part, &offset) in self.sections.iter().zip(&offsets) {
            pad(offset - at, to)?;
            to.write_all(&part.bytes)?;
            at = offset + part.bytes.len() as u64;
        }
        pad(end - at, to)?;
        to.write_all(&[0; SECTION_HEADER_BYTES as usize])?;
        for ((part, offset), name) in self.sections.iter().zip(offsets).zip(starts) {
            to.write_all(&section_header(part, offset, name))?;
        }
        Ok(())
    }

    /// All names, and where each begins; the last one is that of the names themselves.
    fn names(&self) -> (Vec<u8>, Vec<u32>) {
        let (mut all, mut starts) = (vec![0], Vec::new());
        let sections = self.sections.iter().map(|part| part.name.as_str());
        for name in sections.chain([".shstrtab"]) {
            starts.push(all.len() as u32);
            all.extend(name.as_bytes());
            all.push(0);
        }
        (all, starts)
    }

    /// Where the bytes of each section stand, and where the table of sections begins. In one segment
    /// they stand as far from each other as in memory, as a program header says of them.
    fn layout(&self, head: u64) -> (Vec<u64>, u64) {
        let mut at = head;
        let mut end_in_memory = 0;
        let mut offsets = Vec::new();
        for part in &self.sections {
            if part.flags & SHF_ALLOC == 0 {
                at = at.next_multiple_of(part.alignment);
            } else {
                let gap = part
                    .lead
                    .is_none()
                    .then_some(part.address.wrapping_sub(end_in_memory));
                let lead = part
                    .lead
                    .filter(|&lead| lead < MOST_GAP)
                    .unwrap_or_default();
                let page = (part.address - lead).wrapping_sub(at) % PAGE + lead;
                at += gap.filter(|&gap| gap < MOST_GAP).unwrap_or(page);
                end_in_memory = part.address.wrapping_add(part.bytes.len() as u64);
            }
            offsets.push(at);
            at += part.bytes.len() as u64;
        }
        (offsets, at.next_multiple_of(8))
    }

    /// Where in the file a segment begins, and how much of it is there.
    fn place(&self, range: &std::ops::Range<usize>, offsets: &[u64]) -> Option<(u64, u64)> {
        let parts = self.sections.iter().zip(offsets);
        let parts = parts.take(range.end).skip(range.start);
        let (first, at) = parts.clone().next()?;
        let start = at
            - first
                .lead
                .filter(|&lead| lead < MOST_GAP)
                .unwrap_or_default();
        let filled = parts.filter(|(part, _)| !part.bytes.is_empty());
        let end = filled
            .map(|(part, offset)| offset + part.bytes.len() as u64)
            .max();
        Some((start, end.map_or(0, |end| end - start)))
    }

    fn header(&self, programs: u16, sections_at: u64) -> Vec<u8> {
        let sections = self.sections.len() as u16 + 1;
        let code = self
            .sections
            .iter()
            .find(|part| part.flags & SHF_EXECINSTR != 0);
        let header = FileHeader {
            kind: ET_EXEC,
            entry: code.map_or(0, |part| part.address),
            sections_at,
            programs,
            sections,
            names: sections - 1,
        };
        header.bytes()
    }
}

fn pad(bytes: u64, to: &mut impl Write) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(bytes), to).map(drop)
}

fn program(segment: &Segment, offset: u64, file_bytes: u64) -> Vec<u8> {
    let protection = segment.protection;
    // The bits have the opposite order there.
    let flags = (protection & 1) << 2 | (protection & 2) | (protection & 4) >> 2;
    let header = ProgramHeader {
        flags,
        offset,
        address: segment.address,
        file_bytes,
        memory_bytes: segment.size.max(file_bytes),
        alignment: PAGE,
    };
    header.bytes()
}

fn section_header(part: &Part, offset: u64, name: u32) -> Vec<u8> {
    let header = SectionHeader {
        name,
        kind: part.kind,
        flags: part.flags,
        address: part.address,
        offset,
        size: part.size,
        link: part.link,
        info: part.info,
        alignment: part.alignment,
        entry_bytes: part.entry_bytes,
    };
    header.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_that_are_the_same_part_of_a_file_are_too_long() {
        let mut elf = Elf::default();
        let part = || Part::new(".text".to_owned(), SHT_PROGBITS, vec![0; 6]);
        let mut room = 10;
        elf.add_within(&mut room, part()).unwrap();
        let error = elf.add_within(&mut room, part()).unwrap_err();
        assert!(matches!(error, ConvertError::Long), "{error}");
    }
}
