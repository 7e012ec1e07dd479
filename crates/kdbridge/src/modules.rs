//! The modules of a running Linux kernel: what is loaded, and where its sections are.

mod libraries;
mod library;
mod materialise;

use std::collections::BTreeSet;
use std::ops::Range;

use thiserror::Error;

use crate::symbols::bytes::{Bytes, text_at};
use crate::symbols::{BuildId, ElfFile, Kind, Placement, Symbol, SymbolTable, build_id_in};
use crate::target::{Memory, TargetError};
use crate::types::{Type, TypeId, Types};
use crate::unwind::Arrays;

pub use libraries::Libraries;
pub use library::{library_addresses, library_list, library_memory};
pub use materialise::{MaterialiseError, Materialised, materialise};

/// More modules than this no kernel has; a list that goes on is damaged.
const MOST_MODULES: usize = 4096;
const MOST_SECTIONS: u64 = 4096;
const MOST_SYMBOLS: u64 = 1 << 18;
/// All modules together have no more sections, and no more symbols, than these.
const MOST_SECTIONS_OF_ALL: u64 = 1 << 17;
pub(crate) const MOST_SYMBOLS_OF_ALL: u64 = 1 << 20;
const LONGEST_NAME: usize = 256;
const SYMBOL_BYTES: u64 = 24;
/// Kernels have seven.
const MOST_PARTS: u64 = 16;

/// `MODULE_STATE_LIVE`: what only its start needed is gone.
const LIVE: u32 = 0;

/// `MODULE_STATE_UNFORMED`: not there yet, or not any more.
const UNFORMED: u32 = 3;

/// A module that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As `lsmod` shows it.
    pub name: String,
    /// Where the kernel's own account of it is: a `struct module`, or the header of an extension.
    pub at: u64,
    /// Where its code begins.
    pub base: u64,
    /// How long the part is that begins there.
    pub size: u64,
    /// Its other parts: its data, which kernels before 6.4 have in the first one, and while it starts what
    /// only that needs.
    pub others: Vec<Range<u64>>,
    /// Whether it has started.
    pub live: bool,
    /// Its sections, in the order of its file, and where they are; those that only its start needed
    /// are left out once it has started.
    pub sections: Vec<(String, u64)>,
    /// The tables for unwinding.
    pub orc: Option<Arrays>,
}

impl Module {
    /// Whether an address is in the module's code or data.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.parts().any(|part| part.contains(&address))
    }

    /// Where its parts are, the one with its code first.
    pub fn parts(&self) -> impl Iterator<Item = Range<u64>> {
        let first = self.base..self.base.saturating_add(self.size);
        [first].into_iter().chain(self.others.iter().cloned())
    }

    /// Where the sections of its file are.
    #[must_use]
    pub fn placement(&self, elf: &ElfFile) -> Placement {
        let address = |name: &str| self.sections.iter().find(|(it, _)| it == name);
        let addresses = elf.sections().iter().map(|section| {
            let found = address(&section.name).filter(|_| section.is_loaded());
            found.map_or(0, |(_, address)| *address)
        });
        Placement(addresses.collect())
    }

    /// Its build-id, out of its notes in memory.
    #[must_use]
    pub fn build_id(&self, memory: &mut dyn Memory) -> Option<BuildId> {
        let name = ".note.gnu.build-id";
        let (_, at) = self.sections.iter().find(|(it, _)| it == name)?;
        let mut notes = [0; 36];
        memory.read(*at, &mut notes).ok()?;
        build_id_in(&notes)
    }

    /// Whether a file of this name may be the module's: `-` and `_` are the same there.
    #[must_use]
    pub fn may_be_file(&self, file: &str) -> bool {
        let name = file.strip_suffix(".debug").unwrap_or(file);
        let name = name.strip_suffix(".ko").map(|it| it.replace('-', "_"));
        name.as_deref() == Some(&self.name)
    }
}

/// Where the parts of a `struct module` are, as the kernel's own types say.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    list: u64,
    name: u64,
    state: u64,
    parts: Parts,
    sections: Option<SectionLayout>,
    orc: Option<[u64; 3]>,
    symbols: Option<[u64; 4]>,
}

/// Where a `struct module` says where a part of the module begins and how long it is, and how far apart it
/// says so of several.
#[derive(Debug, Clone, Copy)]
struct Parts {
    base: u64,
    size: u64,
    size_bytes: usize,
    step: u64,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct SectionLayout {
    /// In a `struct module`.
    pointer: u64,
    /// Where the number of sections stands; kernels since 6.14 have a list that ends with zero.
    count: Option<u64>,
    /// Where the first one is, and how far apart they are.
    first: u64,
    step: u64,
    name: u64,
    address: u64,
}

impl Layout {
    /// Reads it out of the kernel's types; `module` is the `struct module`.
    #[must_use]
    pub fn of(types: &Types, module: TypeId) -> Option<Self> {
        let offset = |name| types.offset(module, name);
        Some(Self {
            list: offset("list")?,
            name: offset("name")?,
            state: offset("state")?,
            parts: Parts::of(types, module)?,
            sections: SectionLayout::of(types, module),
            orc: orc(types, module),
            symbols: symbols(types, module),
        })
    }
}

impl Parts {
    /// `core_layout` and `init_layout` in kernels before 6.4, `mem` since, which begins with the code.
    fn of(types: &Types, module: TypeId) -> Option<Self> {
        let (first, part, step, count) = match types.member(module, "core_layout") {
            Some(core) => {
                let init = types.offset(module, "init_layout");
                let step = init.map(|it| it.wrapping_sub(core.offset / 8));
                (
                    core.offset / 8,
                    core.ty,
                    step.unwrap_or(0),
                    1 + u64::from(step.is_some()),
                )
            }
            None => {
                let all = types.member(module, "mem")?;
                let Type::Array { element, count } = types.bare(all.ty) else {
                    return None;
                };
                (
                    all.offset / 8,
                    element,
                    types.size(element)?,
                    count?.min(MOST_PARTS),
                )
            }
        };
        let size = types.member(part, "size")?;
        Some(Self {
            base: first + types.offset(part, "base")?,
            size: first + size.offset / 8,
            size_bytes: types.size(size.ty)?.clamp(1, 8) as usize,
            step,
            count,
        })
    }

    /// The parts that are there of the module at `at`, the one with its code first.
    fn read(&self, memory: &mut dyn Memory, at: u64) -> Result<Vec<Range<u64>>, TargetError> {
        let mut parts = Vec::new();
        for number in 0..self.count {
            let at = at.wrapping_add(number.wrapping_mul(self.step));
            let base = memory.word(at.wrapping_add(self.base))?;
            let mut size = [0; 8];
            memory.read(at.wrapping_add(self.size), &mut size[..self.size_bytes])?;
            parts.push(base..base.saturating_add(u64::from_le_bytes(size)));
        }
        Ok(parts)
    }
}

fn orc(types: &Types, module: TypeId) -> Option<[u64; 3]> {
    let arch = types.member(module, "arch")?;
    let offset = |name| Some(arch.offset / 8 + types.offset(arch.ty, name)?);
    Some([
        offset("orc_unwind_ip")?,
        offset("orc_unwind")?,
        offset("num_orcs")?,
    ])
}

/// The pointer to the module's own table of names, and in that the symbols, their number, and names.
fn symbols(types: &Types, module: TypeId) -> Option<[u64; 4]> {
    let pointer = types.member(module, "kallsyms")?;
    let table = types.pointed(pointer.ty)?;
    let offset = |name| types.offset(table, name);
    Some([
        pointer.offset / 8,
        offset("symtab")?,
        offset("num_symtab")?,
        offset("strtab")?,
    ])
}

impl SectionLayout {
    fn of(types: &Types, module: TypeId) -> Option<Self> {
        let pointer = types.member(module, "sect_attrs")?;
        let all = types.pointed(pointer.ty)?;
        let attributes = types.member(all, "attrs")?;
        let Type::Array { element, .. } = types.bare(attributes.ty) else {
            return None;
        };
        let file = types.offset(element, "battr").unwrap_or_default();
        let file_ty = types.member(element, "battr").map_or(element, |it| it.ty);
        let attribute = types.member(file_ty, "attr")?;
        let name = types.offset(attribute.ty, "name")?;
        let private = types.offset(file_ty, "private");
        let address = types.offset(element, "address");
        Some(Self {
            pointer: pointer.offset / 8,
            count: types.offset(all, "nsections"),
            first: attributes.offset / 8,
            step: types.size(element)?,
            name: file + attribute.offset / 8 + name,
            address: address.or(private.map(|it| file + it))?,
        })
    }
}

/// Reads the list that begins at `head`, the kernel's variable `modules`.
///
/// # Errors
///
/// [`ModulesError`] if the list cannot be read or has no end.
pub fn list(
    memory: &mut dyn Memory,
    layout: &Layout,
    head: u64,
) -> Result<Vec<Module>, ModulesError> {
    let mut modules = Vec::new();
    let mut seen = BTreeSet::new();
    let mut room = MOST_SECTIONS_OF_ALL;
    let mut next = memory.word(head)?;
    while next != head {
        if seen.len() == MOST_MODULES || next == 0 || !seen.insert(next) {
            return Err(ModulesError::Endless);
        }
        let at = next.wrapping_sub(layout.list);
        modules.extend(module(memory, layout, at, &mut room)?);
        next = memory.word(next)?;
    }
    Ok(modules)
}

fn module(
    memory: &mut dyn Memory,
    layout: &Layout,
    at: u64,
    room: &mut u64,
) -> Result<Option<Module>, TargetError> {
    let mut state = [0; 4];
    memory.read(at.wrapping_add(layout.state), &mut state)?;
    let state = u32::from_le_bytes(state);
    if state == UNFORMED {
        return Ok(None);
    }
    let mut parts = layout.parts.read(memory, at)?.into_iter();
    let first = parts.next().unwrap_or_default();
    let live = state == LIVE;
    // What cannot be read of one module is missing, and no reason to show none at all.
    let sections = sections(memory, layout, at, live, *room).unwrap_or_default();
    *room = room.saturating_sub(sections.len() as u64);
    Ok(Some(Module {
        name: text(memory, at.wrapping_add(layout.name))?,
        at,
        base: first.start,
        size: first.end - first.start,
        others: parts.filter(|it| !it.is_empty()).collect(),
        live,
        sections,
        orc: arrays(memory, layout, at).ok().flatten(),
    }))
}

fn sections(
    memory: &mut dyn Memory,
    layout: &Layout,
    at: u64,
    live: bool,
    room: u64,
) -> Result<Vec<(String, u64)>, TargetError> {
    let Some(layout) = layout.sections else {
        return Ok(Vec::new());
    };
    let all = memory.word(at.wrapping_add(layout.pointer))?;
    if all == 0 {
        return Ok(Vec::new());
    }
    let count = match layout.count {
        Some(count) => memory.word(all.wrapping_add(count))? & 0xffff_ffff,
        None => MOST_SECTIONS,
    };
    let mut sections = Vec::new();
    for number in 0..count.min(MOST_SECTIONS).min(room) {
        let entry = all.wrapping_add(layout.first);
        let entry = entry.wrapping_add(number.wrapping_mul(layout.step));
        let name = memory.word(entry.wrapping_add(layout.name))?;
        if name == 0 {
            break;
        }
        let name = text(memory, name)?;
        let address = memory.word(entry.wrapping_add(layout.address))?;
        if !(live && name.starts_with(".init")) {
            sections.push((name, address));
        }
    }
    Ok(sections)
}

fn arrays(
    memory: &mut dyn Memory,
    layout: &Layout,
    at: u64,
) -> Result<Option<Arrays>, TargetError> {
    let Some([ips, entries, count]) = layout.orc else {
        return Ok(None);
    };
    Ok(Some(Arrays {
        ips: memory.word(at.wrapping_add(ips))?,
        entries: memory.word(at.wrapping_add(entries))?,
        count: memory.word(at.wrapping_add(count))? & 0xffff_ffff,
    }))
}

/// The names that a module carries itself, at the addresses where they are, no more than there is `room`
/// for.
///
/// # Errors
///
/// [`TargetError`] if they cannot be read.
pub fn symbol_table(
    memory: &mut dyn Memory,
    layout: &Layout,
    module: &Module,
    room: &mut u64,
) -> Result<SymbolTable, TargetError> {
    let mut table = SymbolTable::default();
    let Some([pointer, symbols, count, names]) = layout.symbols else {
        return Ok(table);
    };
    let all = memory.word(module.at.wrapping_add(pointer))?;
    let symbols = memory.word(all.wrapping_add(symbols))?;
    let count = memory.word(all.wrapping_add(count))? & 0xffff_ffff;
    let names = memory.word(all.wrapping_add(names))?;
    let count = count.min(MOST_SYMBOLS).min(*room);
    *room -= count;
    let mut raw = vec![0; (count * SYMBOL_BYTES) as usize];
    memory.read(symbols, &mut raw)?;
    for raw in raw.chunks_exact(SYMBOL_BYTES as usize) {
        let (name, address) = (raw.u32(0).unwrap_or(0), raw.u64(8).unwrap_or(0));
        if name == 0 || !module.contains(address) {
            continue;
        }
        let name = text(memory, names.wrapping_add(name.into()))?;
        table.push(&Symbol {
            name: name.into(),
            address,
            size: raw.u64(16).unwrap_or(0),
            kind: kind(raw[4]),
            global: raw[4] >> 4 != 0,
        });
    }
    table.sort();
    Ok(table)
}

/// The kernel writes a letter over what a symbol is in some versions; a function is a 2 else.
fn kind(info: u8) -> Kind {
    match info & 0xf {
        2 => Kind::Function,
        _ if matches!(info, b't' | b'T' | b'w' | b'W') => Kind::Function,
        _ => Kind::Data,
    }
}

fn text(memory: &mut dyn Memory, at: u64) -> Result<String, TargetError> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST_NAME && !bytes.contains(&0) {
        // Not over the end of a page, behind which there may be nothing.
        let next = at.wrapping_add(bytes.len() as u64);
        let mut part = vec![0; (64 - next % 64) as usize];
        memory.read(next, &mut part)?;
        bytes.extend(part);
    }
    Ok(text_at(&bytes, 0).into_owned())
}

/// Why the modules of a kernel could not be listed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModulesError {
    /// The list goes on and on.
    #[error("the kernel's list of modules has no end: it is damaged, or being changed")]
    Endless,
    /// The memory with it cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Image;

    const BASE: u64 = 0xffff_ffff_c000_0000;
    const HEAD: u64 = BASE + 0x10;

    fn layout() -> Layout {
        Layout {
            list: 8,
            name: 24,
            state: 0,
            parts: Parts {
                base: 88,
                size: 96,
                size_bytes: 4,
                step: 24,
                count: 2,
            },
            sections: Some(SectionLayout {
                pointer: 104,
                count: Some(0),
                first: 8,
                step: 16,
                name: 0,
                address: 8,
            }),
            orc: None,
            symbols: None,
        }
    }

    fn put(image: &mut Image, at: u64, bytes: &[u8]) {
        let at = (at - BASE) as usize;
        image.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_word(image: &mut Image, at: u64, word: u64) {
        put(image, at, &word.to_le_bytes());
    }

    /// Two modules: `one` is starting, `two` has started.
    fn image() -> Image {
        let mut image = Image::new(BASE, vec![0; 0x2000]);
        let modules = [BASE + 0x100, BASE + 0x200];
        put_word(&mut image, HEAD, modules[0] + 8);
        put_word(&mut image, modules[0] + 8, modules[1] + 8);
        put_word(&mut image, modules[1] + 8, HEAD);
        for (number, (at, name)) in modules.into_iter().zip(["one", "two"]).enumerate() {
            put(&mut image, at, &[1 - number as u8]);
            put(&mut image, at + 24, name.as_bytes());
            put_word(&mut image, at + 88, BASE + 0x10_0000 * number as u64);
            put_word(&mut image, at + 96, 0x4000);
            put_word(&mut image, at + 104, BASE + 0x300);
            put_word(&mut image, at + 112, BASE + 0x100_0000);
            put_word(&mut image, at + 120, 0x1000 * number as u64);
        }
        put_word(&mut image, BASE + 0x300, 2);
        for (number, name) in [".text", ".init.text"].iter().enumerate() {
            let (at, text) = (
                BASE + 0x308 + number as u64 * 16,
                BASE + 0x400 + number as u64 * 32,
            );
            put_word(&mut image, at, text);
            put_word(&mut image, at + 8, BASE + 0x1000 * (number as u64 + 1));
            put(&mut image, text, name.as_bytes());
        }
        image
    }

    #[test]
    fn modules_are_listed_with_their_sections() {
        let modules = list(&mut image(), &layout(), HEAD).unwrap();
        let names: Vec<&str> = modules.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        let text = (".text".to_owned(), BASE + 0x1000);
        let init = (".init.text".to_owned(), BASE + 0x2000);
        assert_eq!(modules[0].sections, [text.clone(), init]);
        assert_eq!(modules[1].sections, [text], "it has started");
        assert!(modules[1].contains(BASE + 0x10_3fff));
        assert!(!modules[1].contains(BASE + 0x10_4000));
        assert!(modules[1].contains(BASE + 0x100_0fff), "its data");
        assert!(modules[0].others.is_empty());
    }

    #[test]
    fn a_module_that_is_not_there_yet_is_none() {
        let mut image = image();
        put(&mut image, BASE + 0x100, &[UNFORMED as u8]);
        let modules = list(&mut image, &layout(), HEAD).unwrap();
        let names: Vec<&str> = modules.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["two"]);
    }

    #[test]
    fn a_list_without_end_is_told_apart() {
        let mut image = image();
        put_word(&mut image, BASE + 0x208, BASE + 0x108);
        let error = list(&mut image, &layout(), HEAD).unwrap_err();
        assert!(matches!(error, ModulesError::Endless), "{error}");
        put_word(&mut image, BASE + 0x208, 0);
        assert!(list(&mut image, &layout(), HEAD).is_err());
        put_word(&mut image, BASE + 0x208, 0xdead_0000);
        assert!(list(&mut image, &layout(), HEAD).is_err());
    }

    #[test]
    fn lies_about_sections_cost_little() {
        let mut image = image();
        put_word(&mut image, BASE + 0x300, u64::MAX);
        let modules = list(&mut image, &layout(), HEAD).unwrap();
        assert_eq!(modules.len(), 2);
        put_word(&mut image, BASE + 0x168, 0xdead_0000);
        let modules = list(&mut image, &layout(), HEAD).unwrap();
        assert!(modules[0].sections.is_empty());
    }

    #[test]
    fn sections_that_are_far_apart_are_not_there() {
        let mut layout = layout();
        layout.sections.as_mut().unwrap().step = u64::MAX;
        let modules = list(&mut image(), &layout, HEAD).unwrap();
        assert!(modules[0].sections.is_empty());
    }

    #[test]
    fn all_modules_share_one_room() {
        let mut image = image();
        let module = list(&mut image, &layout(), HEAD).unwrap().remove(0);
        let layout = Layout {
            symbols: Some([112, 0, 8, 16]),
            ..layout()
        };
        let (table, names) = (BASE + 0x1000, BASE + 0x1800);
        put_word(&mut image, BASE + 0x170, BASE + 0x800);
        put_word(&mut image, BASE + 0x800, table);
        put_word(&mut image, BASE + 0x808, 3);
        put_word(&mut image, BASE + 0x810, names);
        put(&mut image, names, b"\0a\0");
        for number in 0..3 {
            put(&mut image, table + number * SYMBOL_BYTES, &[1, 0, 0, 0, 2]);
            put_word(&mut image, table + number * SYMBOL_BYTES + 8, BASE + number);
        }
        let mut room = 5;
        let mut count = || {
            let table = symbol_table(&mut image, &layout, &module, &mut room);
            table.unwrap().len()
        };
        assert_eq!([count(), count(), count()], [3, 2, 0]);
        let one = sections(&mut image, &layout, BASE + 0x100, false, 1);
        assert_eq!(one.unwrap().len(), 1);
    }

    #[test]
    fn files_are_told_by_their_names() {
        let module = Module {
            name: "crc_itu_t".into(),
            ..list(&mut image(), &layout(), HEAD).unwrap().remove(0)
        };
        assert!(module.may_be_file("crc-itu-t.ko"));
        assert!(module.may_be_file("crc_itu_t.ko.debug"));
        assert!(!module.may_be_file("crc-itu-t"));
        assert!(!module.may_be_file("crc.ko"));
    }
}
