//! Names and addresses, in both directions.

use std::borrow::Cow;

use crate::elf::SHF_EXECINSTR;

use super::bytes::{Bytes, text_at};
use super::elf::{ElfError, ElfFile, Section};
use crate::target::KERNEL_HALF;

const STT_NOTYPE: u8 = 0;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;
const STB_LOCAL: u8 = 0;
const SHN_UNDEF: u16 = 0;
const SHN_ABS: u16 = 0xfff1;
const SHN_RESERVED: u16 = 0xff00;
const SYMBOL_BYTES: usize = 24;

/// The section whose variables each processor has for itself.
const PER_CPU_SECTION: &str = ".data..percpu";

/// No more marks without a length are passed over in search of what they are in.
const MOST_MARKS: usize = 256;

/// What a symbol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Code.
    Function,
    /// Anything else at a fixed address.
    Data,
    /// A variable that each processor has for itself; its address is an offset into a
    /// processor's area.
    PerCpu,
}

/// A name of something in a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// As the kernel's source has it.
    pub name: Cow<'a, str>,
    /// Where it is linked to be.
    pub address: u64,
    /// How long it is; 0 if nobody wrote that down.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Whether all of the kernel sees it.
    pub global: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    size: u32,
    name: u32,
    kind: Kind,
    global: bool,
}

/// The symbols of a kernel or of a module.
#[derive(Debug, Default)]
pub struct SymbolTable {
    /// Ordered by address; per-CPU variables are in `per_cpu`.
    entries: Vec<Entry>,
    per_cpu: Vec<Entry>,
    names: Vec<u8>,
}

impl SymbolTable {
    /// Reads the symbols of a linked file.
    ///
    /// # Errors
    ///
    /// [`ElfError`] if the tables do not lie in the file. A file without symbols has an empty
    /// table.
    pub fn of_file(elf: &ElfFile) -> Result<Self, ElfError> {
        Self::of_file_at(elf, |_| 0)
    }

    /// Reads the symbols of a file whose sections are where `base` says, by the number of the
    /// section: what is to be added to a symbol's value.
    ///
    /// # Errors
    ///
    /// Those of [`SymbolTable::of_file`].
    pub fn of_file_at(elf: &ElfFile, base: impl Fn(usize) -> u64) -> Result<Self, ElfError> {
        let Some(symbols) = elf.sections().iter().find(|it| it.is_symbols()) else {
            return Ok(Self::default());
        };
        let names = elf.sections().get(symbols.link as usize);
        let names = names.ok_or(ElfError::Short)?;
        let mut table = Self {
            names: elf.bytes(names)?,
            ..Self::default()
        };
        for raw in elf.bytes(symbols)?.chunks_exact(SYMBOL_BYTES) {
            table.add_raw(raw, elf.sections(), &base);
        }
        table.sort();
        Ok(table)
    }

    /// Adds a symbol; [`SymbolTable::sort`] must follow before the table is used.
    pub(crate) fn push(&mut self, symbol: &Symbol<'_>) {
        let name = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.extend(symbol.name.bytes().chain([0]));
        self.add(Entry {
            address: symbol.address,
            size: u32::try_from(symbol.size).unwrap_or(u32::MAX),
            name,
            kind: symbol.kind,
            global: symbol.global,
        });
    }

    /// Brings the symbols into the order in which they are looked up.
    pub(crate) fn sort(&mut self) {
        self.entries.sort_by_key(|entry| entry.address);
        self.per_cpu.sort_by_key(|entry| entry.address);
    }

    /// The same symbols `distance` further up; those of each processor stay if they are linked at 0.
    #[must_use]
    pub(crate) fn moved(mut self, distance: u64) -> Self {
        let of_cpu = self.per_cpu.iter_mut();
        let of_cpu = of_cpu.filter(|it| it.address >= KERNEL_HALF);
        for entry in self.entries.iter_mut().chain(of_cpu) {
            entry.address = entry.address.wrapping_add(distance);
        }
        self
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.per_cpu.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All symbols, ordered by address; those of each processor come last.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        let all = self.entries.iter().chain(&self.per_cpu);
        all.map(|entry| self.symbol(entry))
    }

    /// The symbol of this name; a global one before others.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Symbol<'_>> {
        let mut found: Option<&Entry> = None;
        for entry in self.entries.iter().chain(&self.per_cpu) {
            if self.is_named(entry, name) && found.is_none_or(|it| entry.global && !it.global) {
                found = Some(entry);
            }
        }
        found.map(|entry| self.symbol(entry))
    }

    /// The symbol that `address` belongs to: the nearest one before it that has not ended there. One
    /// whose length nobody wrote down reaches to the next one, but may be a mark inside another, which
    /// is preferred then. Among several at one address, a function is preferred, and a global one.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|it| it.address <= address);
        let mut before = self.entries[..after].iter().rev().take(MOST_MARKS);
        let sized = before.find(|it| it.size > 0);
        let sized = sized.filter(|it| address - it.address < u64::from(it.size));
        let nearest = self.entries.get(after.checked_sub(1)?)?;
        let is_last = after == self.entries.len();
        let found = match sized {
            Some(sized) => sized,
            None if nearest.size > 0 || (is_last && nearest.address != address) => return None,
            None => nearest,
        };
        let same = self.entries[..after].iter().rev();
        let same = same.skip_while(|it| it.address > found.address);
        let same = same.take_while(|it| it.address == found.address);
        let same = same.filter(|it| (it.size > 0) == (found.size > 0));
        let best = same.max_by_key(|it| (it.kind == Kind::Function, it.global));
        best.map(|it| self.symbol(it))
    }

    fn add(&mut self, entry: Entry) {
        match entry.kind {
            Kind::PerCpu => self.per_cpu.push(entry),
            Kind::Function | Kind::Data => self.entries.push(entry),
        }
    }

    fn add_raw(&mut self, raw: &[u8], sections: &[Section], base: &impl Fn(usize) -> u64) {
        if let Some(entry) = raw_entry(raw, sections, base) {
            self.add(entry);
        }
    }

    fn is_named(&self, entry: &Entry, name: &str) -> bool {
        let rest = self.names.get(entry.name as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| matches!(rest.first(), None | Some(0)))
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        Symbol {
            name: text_at(&self.names, entry.name as usize),
            address: entry.address,
            size: entry.size.into(),
            kind: entry.kind,
            global: entry.global,
        }
    }
}

/// `None` for what names no place: files, sections, constants, what other files define.
fn raw_entry(raw: &[u8], sections: &[Section], base: &impl Fn(usize) -> u64) -> Option<Entry> {
    let (info, number) = (*raw.get(4)?, raw.u16(6)?);
    if number == SHN_UNDEF || (number >= SHN_RESERVED && number != SHN_ABS) {
        return None;
    }
    let section = sections.get(usize::from(number));
    let kind = match info & 0xf {
        _ if section.is_some_and(|it| it.name == PER_CPU_SECTION) => Kind::PerCpu,
        STT_FUNC => Kind::Function,
        STT_OBJECT => Kind::Data,
        STT_NOTYPE if section.is_some_and(is_code) => Kind::Function,
        STT_NOTYPE => Kind::Data,
        _ => return None,
    };
    let name = raw.u32(0)?;
    let moved = section.map_or(0, |_| base(number.into()));
    (name != 0).then_some(Entry {
        address: raw.u64(8)?.wrapping_add(moved),
        size: u32::try_from(raw.u64(16)?).unwrap_or(u32::MAX),
        name,
        kind,
        global: info >> 4 != STB_LOCAL,
    })
}

fn is_code(section: &Section) -> bool {
    section.flags & SHF_EXECINSTR != 0
}

#[cfg(test)]
mod tests {
    use super::super::testing::Elf;
    use super::*;

    const GLOBAL: u8 = 1 << 4;

    fn raw(name: u32, info: u8, section: u16, address: u64, size: u64) -> Vec<u8> {
        let mut raw = name.to_le_bytes().to_vec();
        raw.extend([info, 0]);
        raw.extend(section.to_le_bytes());
        raw.extend(address.to_le_bytes());
        raw.extend(size.to_le_bytes());
        raw
    }

    fn table(symbols: &[Vec<u8>]) -> SymbolTable {
        let names = b"\0local\0panic\0alias\0counter\0";
        let file = Elf::new()
            .section(".text", 1, 0x1000, &[0x90; 64])
            .loaded(4)
            .section(PER_CPU_SECTION, 1, 0, &[0; 64])
            .loaded(1)
            .section(".symtab", 2, 0, &symbols.concat())
            .linked(4, 0)
            .section(".strtab", 3, 0, names)
            .write();
        SymbolTable::of_file(&ElfFile::open(file.path()).unwrap()).unwrap()
    }

    fn name_at(table: &SymbolTable, address: u64) -> Option<String> {
        table.at(address).map(|symbol| symbol.name.into_owned())
    }

    #[test]
    fn the_nearest_symbol_before_an_address() {
        let table = table(&[raw(7, GLOBAL | 2, 1, 0x1010, 8), raw(1, 2, 1, 0x1000, 0)]);
        assert_eq!(name_at(&table, 0xfff), None);
        assert_eq!(name_at(&table, 0x1000).unwrap(), "local");
        assert_eq!(name_at(&table, 0x100f).unwrap(), "local");
        assert_eq!(name_at(&table, 0x1017).unwrap(), "panic");
        assert_eq!(name_at(&table, 0x1018), None, "panic has ended");
    }

    #[test]
    fn a_mark_inside_a_function_is_not_taken_for_one() {
        let table = table(&[raw(7, GLOBAL | 2, 1, 0x1000, 16), raw(1, 0, 1, 0x1008, 0)]);
        assert_eq!(name_at(&table, 0x1008).unwrap(), "panic");
        assert_eq!(name_at(&table, 0x1010), None, "local may end anywhere");
    }

    #[test]
    fn a_global_function_stands_for_others_at_its_address() {
        let both = [raw(13, 2, 1, 0x1000, 8), raw(7, GLOBAL | 2, 1, 0x1000, 8)];
        assert_eq!(name_at(&table(&both), 0x1004).unwrap(), "panic");
        let turned = [both[1].clone(), both[0].clone()];
        assert_eq!(name_at(&table(&turned), 0x1004).unwrap(), "panic");
    }

    #[test]
    fn a_global_symbol_is_meant_by_a_name_that_several_have() {
        let table = table(&[raw(7, 2, 1, 0x1000, 8), raw(7, GLOBAL | 2, 1, 0x1008, 8)]);
        assert_eq!(table.by_name("panic").unwrap().address, 0x1008);
        assert!(table.by_name("pani").is_none());
        assert!(table.by_name("panic2").is_none());
    }

    #[test]
    fn what_each_processor_has_is_at_no_address() {
        let table = table(&[raw(19, GLOBAL | 1, 2, 0x10, 8)]);
        assert_eq!(table.by_name("counter").unwrap().kind, Kind::PerCpu);
        assert_eq!(name_at(&table, 0x10), None);
    }

    #[test]
    fn what_is_defined_elsewhere_is_left_out() {
        assert!(table(&[raw(7, GLOBAL | 2, 0, 0, 0)]).is_empty());
        assert!(table(&[raw(0, 3, 1, 0x1000, 0)]).is_empty());
    }

    #[test]
    fn a_name_outside_the_names_is_empty() {
        let table = table(&[raw(1 << 30, 2, 1, 0x1000, 4)]);
        assert_eq!(name_at(&table, 0x1000).unwrap(), "");
    }
}
