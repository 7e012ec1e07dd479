//! Modules are not linked: the kernel puts their sections where there is room, and fills in what
//! depends on that. Their files must be treated in the same way before they say anything about the
//! module that is loaded.

use super::bytes::Bytes;
use super::elf::{ElfError, ElfFile};

const R_X86_64_64: u32 = 1;
const R_X86_64_PC32: u32 = 2;
const R_X86_64_PLT32: u32 = 4;
const R_X86_64_32: u32 = 10;
const R_X86_64_32S: u32 = 11;
const R_X86_64_PC64: u32 = 24;
const ENTRY_BYTES: usize = 24;
const SYMBOL_BYTES: usize = 24;

/// Where the sections of a module are, by their number in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement(pub Vec<u64>);

impl Placement {
    /// The address of a section; 0 for one that is not loaded.
    #[must_use]
    pub fn of(&self, section: usize) -> u64 {
        self.0.get(section).copied().unwrap_or_default()
    }
}

/// Fills in what depends on where the sections are in `bytes` of section `number`. What depends on
/// the kernel's own symbols stays as it is.
///
/// # Errors
///
/// [`ElfError`] if the tables for it do not lie in the file.
pub(crate) fn relocate(
    elf: &ElfFile,
    number: usize,
    bytes: &mut [u8],
    placement: &Placement,
) -> Result<(), ElfError> {
    let all = elf.sections().iter().filter(|it| it.is_relocations());
    for section in all.filter(|it| it.info as usize == number) {
        let symbols = elf.sections().get(section.link as usize);
        let symbols = elf.bytes(symbols.ok_or(ElfError::Short)?)?;
        let base = placement.of(number);
        for entry in elf.bytes(section)?.chunks_exact(ENTRY_BYTES) {
            if let Some((at, value)) = change(entry, &symbols, placement, base) {
                put(bytes, at, &value);
            }
        }
    }
    Ok(())
}

/// Where a relocation changes something, and what stands there afterwards.
fn change(
    entry: &[u8],
    symbols: &[u8],
    placement: &Placement,
    base: u64,
) -> Option<(usize, Vec<u8>)> {
    let (at, info, addend) = (entry.u64(0)?, entry.u64(8)?, entry.u64(16)?);
    let symbol = usize::try_from(info >> 32).ok()? * SYMBOL_BYTES;
    let section = symbols.u16(symbol + 6)?;
    if section == 0 {
        return None;
    }
    let value = symbols.u64(symbol + 8)?;
    let value = value.wrapping_add(placement.of(section.into()));
    let value = value.wrapping_add(addend);
    let relative = value.wrapping_sub(base.wrapping_add(at));
    let bytes = match info as u32 {
        R_X86_64_64 => value.to_le_bytes().to_vec(),
        R_X86_64_PC64 => relative.to_le_bytes().to_vec(),
        R_X86_64_32 | R_X86_64_32S => (value as u32).to_le_bytes().to_vec(),
        R_X86_64_PC32 | R_X86_64_PLT32 => (relative as u32).to_le_bytes().to_vec(),
        _ => return None,
    };
    Some((usize::try_from(at).ok()?, bytes))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = at.saturating_add(value.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Elf;
    use super::*;

    const TEXT: u64 = 0xffff_ffff_c000_0000;
    const OTHER: u64 = 0xffff_ffff_c000_2000;

    fn entry(at: u64, symbol: u64, kind: u32, addend: u64) -> Vec<u8> {
        let info = symbol << 32 | u64::from(kind);
        [at, info, addend].map(u64::to_le_bytes).concat()
    }

    fn symbol(section: u16, value: u64) -> Vec<u8> {
        let mut symbol = vec![0; 6];
        symbol.extend(section.to_le_bytes());
        symbol.extend(value.to_le_bytes());
        symbol.extend([0; 8]);
        symbol
    }

    fn relocated(entries: &[Vec<u8>]) -> Vec<u8> {
        let symbols = [symbol(0, 0), symbol(2, 0x10)].concat();
        let file = Elf::new()
            .section(".text", 1, 0, &[0; 16])
            .section(".data", 1, 0, &[0; 32])
            .section(".rela.text", 4, 0, &entries.concat())
            .linked(4, 1)
            .section(".symtab", 2, 0, &symbols)
            .write();
        let elf = ElfFile::open(file.path()).unwrap();
        let mut bytes = elf.bytes(&elf.sections()[1]).unwrap();
        relocate(&elf, 1, &mut bytes, &Placement(vec![0, TEXT, OTHER])).unwrap();
        bytes
    }

    #[test]
    fn addresses_and_distances_are_filled_in() {
        let bytes = relocated(&[
            entry(0, 1, R_X86_64_64, 4),
            entry(8, 1, R_X86_64_PC32, 4),
            entry(12, 1, R_X86_64_32S, 0),
        ]);
        assert_eq!(bytes.u64(0), Some(OTHER + 0x14));
        assert_eq!(bytes.u32(8), Some(0x2014 - 8));
        assert_eq!(bytes.u32(12), Some((OTHER + 0x10) as u32));
    }

    #[test]
    fn what_lies_elsewhere_and_what_is_unknown_stays() {
        let bytes = relocated(&[
            entry(0, 0, R_X86_64_64, 4),
            entry(0, 9, R_X86_64_64, 4),
            entry(0, 1, 77, 4),
            entry(12, 1, R_X86_64_64, 4),
            entry(u64::MAX, 1, R_X86_64_64, 4),
        ]);
        assert_eq!(bytes, [0; 16]);
    }
}
