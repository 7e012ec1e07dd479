//! Source lines and inlined functions from debug information, a compilation unit at a time.
//!
//! A kernel has 160 MB of `.debug_info` in some 2500 units, of which a backtrace touches twenty. So
//! only the first entry of each unit is read at first, for the addresses it covers, and the units
//! that are asked for are read and parsed then.

use std::collections::HashMap;
use std::sync::Arc;

use addr2line::Context;
use gimli::constants::DW_AT_type;
use gimli::{
    AbbreviationsCache, AttributeValue, DebugAbbrev, DebugAddr, DebugLineStr, DebugStr,
    DebugStrOffsets, DwarfFileType, LocationLists, RangeLists, UnitOffset,
};
use thiserror::Error;

use super::build_id::BuildId;
use super::cache::Cache;
use super::elf::{ElfError, ElfFile};
use super::relocate::Placement;
use crate::types::{Tag, TypeId, Types};
use names::{Names, Space, address_of, announced, name_of};
use sections::{Piece, Sections, piece};
use types::Taken;
use units::{Units, unit_length};

mod names;
mod sections;
mod types;
mod units;

/// As many units are kept as they were parsed.
const MOST_KEPT: usize = 64;
/// What is kept on disk, with the version of each.
const UNITS: &str = "units-1";
const NAMES: &str = "names-2";

/// A function in the place of an address, be it in its own right or inlined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFrame {
    /// The function's name, if the debug information has one.
    pub function: Option<String>,
    /// Source file, relative to where the kernel was built.
    pub file: Option<String>,
    /// Line in that file.
    pub line: Option<u32>,
    /// Whether it was inlined in the one that follows.
    pub inlined: bool,
}

/// The debug information of a kernel or of a module.
pub struct DebugInfo {
    sections: Sections,
    tables: Tables,
    units: Units,
    /// By their place in `.debug_info`; `None` for one that cannot be parsed.
    kept: HashMap<u64, Option<Context<Piece>>>,
    names: Option<Names>,
    taken: Taken,
    id: Option<BuildId>,
    cache: Cache,
}

/// A unit on its own.
#[derive(Debug)]
struct Unit {
    place: u64,
    dwarf: gimli::Dwarf<Piece>,
    unit: gimli::Unit<Piece>,
}

/// What all units share.
#[derive(Debug)]
struct Tables {
    abbrev: DebugAbbrev<Piece>,
    addr: DebugAddr<Piece>,
    line_str: DebugLineStr<Piece>,
    str: DebugStr<Piece>,
    str_offsets: DebugStrOffsets<Piece>,
    ranges: RangeLists<Piece>,
}

impl DebugInfo {
    /// Reads which addresses the units of a linked file cover, or what `cache` has about that.
    ///
    /// # Errors
    ///
    /// [`DwarfError::Missing`] if the file has no debug information, and others if it is damaged.
    pub fn open(elf: ElfFile, cache: &Cache) -> Result<Self, DwarfError> {
        let id = elf.build_id();
        let sections = Sections::linked(elf)?;
        let tables = Tables::load(&sections)?;
        let known = id.as_ref().and_then(|id| cache.load_words(id, UNITS));
        let units = match known.and_then(|words| Units::from_words(&words)) {
            Some(units) => units,
            None => {
                let units = Units::scan(&sections, &tables)?;
                if let Some(id) = &id {
                    cache.store_words(id, UNITS, &units.to_words());
                }
                units
            }
        };
        Ok(Self {
            id,
            cache: cache.clone(),
            ..Self::new(sections, tables, units)
        })
    }

    /// The same of a module whose sections are where `placement` says.
    ///
    /// # Errors
    ///
    /// Those of [`DebugInfo::open`].
    pub fn of_module(elf: ElfFile, placement: Placement) -> Result<Self, DwarfError> {
        let sections = Sections::placed(elf, placement)?;
        let tables = Tables::load(&sections)?;
        let units = Units::scan(&sections, &tables)?;
        Ok(Self::new(sections, tables, units))
    }

    /// The functions at `address`, the innermost first; none if it belongs to no unit, or to one
    /// that is damaged.
    pub fn frames(&mut self, address: u64) -> Vec<SourceFrame> {
        let Some(place) = self.units.of(address) else {
            return Vec::new();
        };
        if self.kept.len() >= MOST_KEPT && !self.kept.contains_key(&place) {
            self.kept.clear();
        }
        let (sections, tables) = (&self.sections, &self.tables);
        let unit = self.kept.entry(place);
        let unit = unit.or_insert_with(|| parse(sections, tables, place).ok());
        let frames = unit.as_ref().and_then(|it| frames(it, address).ok());
        frames.unwrap_or_default()
    }

    /// The type of the variable of this name at `address`, taken over into `types`. If none is there,
    /// that of another variable of this name.
    ///
    /// # Errors
    ///
    /// [`DwarfError`] if the debug information is damaged.
    pub fn variable(
        &mut self,
        name: &str,
        address: u64,
        types: &mut Types,
    ) -> Result<Option<TypeId>, DwarfError> {
        let mut found = None;
        let mut places = self.places(Space::Variable, name)?;
        if places.is_empty() {
            places = self.places(Space::Announced, name)?;
        }
        for place in places {
            let unit = self.unit_around(place)?;
            let offset = unit.offset(place);
            if !unit.is_named(offset, name)? {
                continue;
            }
            let is_it = address_of(&unit, &unit.unit.entry(offset)?) == Some(address);
            if is_it || found.is_none() {
                found = Some((unit, offset));
            }
            if is_it {
                break;
            }
        }
        let Some((unit, offset)) = found else {
            return Ok(None);
        };
        let ty = unit.type_of(offset)?;
        ty.map(|ty| self.taken.take(&unit, ty, types)).transpose()
    }

    /// The type of this name, taken over into `types`.
    ///
    /// # Errors
    ///
    /// [`DwarfError`] if the debug information is damaged.
    pub fn find_type(
        &mut self,
        tag: Tag,
        name: &str,
        types: &mut Types,
    ) -> Result<Option<TypeId>, DwarfError> {
        let space = match tag {
            Tag::Struct => Space::Struct,
            Tag::Union => Space::Union,
            Tag::Enum => Space::Enum,
            Tag::Plain => Space::Plain,
        };
        for place in self.places(space, name)? {
            let unit = self.unit_around(place)?;
            let offset = unit.offset(place);
            if unit.is_named(offset, name)? {
                return self.taken.take(&unit, offset, types).map(Some);
            }
        }
        Ok(None)
    }

    fn new(sections: Sections, tables: Tables, units: Units) -> Self {
        Self {
            sections,
            tables,
            units,
            kept: HashMap::new(),
            names: None,
            taken: Taken::default(),
            id: None,
            cache: Cache::none(),
        }
    }

    /// Where something of this name may be described; at the first time, all units are read for it.
    fn places(&mut self, space: Space, name: &str) -> Result<Vec<u64>, DwarfError> {
        if self.names.is_none() {
            self.names = Some(self.load_names()?);
        }
        let names = self.names.as_ref().into_iter();
        Ok(names.flat_map(|it| it.places(space, name)).collect())
    }

    fn load_names(&self) -> Result<Names, DwarfError> {
        let id = self.id.as_ref();
        let known = id.and_then(|id| self.cache.load_words(id, NAMES));
        if let Some(names) = known.and_then(|words| Names::from_words(&words)) {
            return Ok(names);
        }
        let names = Names::scan(&self.sections, &self.tables, &self.units)?;
        if let Some(id) = id {
            self.cache.store_words(id, NAMES, &names.to_words());
        }
        Ok(names)
    }

    fn unit_around(&self, place: u64) -> Result<Unit, DwarfError> {
        let places = &self.units.places;
        let after = places.partition_point(|&unit| unit <= place);
        let unit = after.checked_sub(1).and_then(|it| places.get(it));
        Unit::load(
            &self.sections,
            &self.tables,
            *unit.ok_or(DwarfError::Layout)?,
        )
    }
}

impl Unit {
    fn load(sections: &Sections, tables: &Tables, place: u64) -> Result<Self, DwarfError> {
        let length = unit_length(&sections.info(place, 4)?)?;
        let dwarf = tables.with(sections, sections.info(place, length)?)?;
        let header = dwarf.units().next()?.ok_or(DwarfError::Layout)?;
        let unit = dwarf.unit(header)?;
        Ok(Self { place, dwarf, unit })
    }

    fn offset(&self, place: u64) -> UnitOffset {
        UnitOffset(place.saturating_sub(self.place) as usize)
    }

    fn is_named(&self, offset: UnitOffset, name: &str) -> Result<bool, DwarfError> {
        let entry = self.unit.entry(offset)?;
        let found = name_of(self, &entry);
        Ok(found.is_some_and(|it| it.bytes() == name.as_bytes()))
    }

    /// The type of a variable, which may stand where that was announced.
    fn type_of(&self, offset: UnitOffset) -> Result<Option<UnitOffset>, DwarfError> {
        let entry = self.unit.entry(offset)?;
        let own = entry.attr_value(DW_AT_type);
        let value = match (own, announced(&entry)) {
            (None, Some(announced)) => self.unit.entry(announced)?.attr_value(DW_AT_type),
            (own, _) => own,
        };
        Ok(match value {
            Some(AttributeValue::UnitRef(offset)) => Some(offset),
            _ => None,
        })
    }
}

impl std::fmt::Debug for DebugInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DebugInfo")
            .field("sections", &self.sections)
            .field("units", &self.units.places.len())
            .finish_non_exhaustive()
    }
}

impl Tables {
    fn load(sections: &Sections) -> Result<Self, DwarfError> {
        if sections.info_length() == 0 {
            return Err(DwarfError::Missing);
        }
        let ranges = sections.whole(".debug_ranges")?.into();
        Ok(Self {
            abbrev: sections.whole(".debug_abbrev")?.into(),
            addr: sections.whole(".debug_addr")?.into(),
            line_str: sections.whole(".debug_line_str")?.into(),
            str: sections.whole(".debug_str")?.into(),
            str_offsets: sections.whole(".debug_str_offsets")?.into(),
            ranges: RangeLists::new(ranges, sections.whole(".debug_rnglists")?.into()),
        })
    }

    /// Debug information with this one unit in it, and with its lines.
    fn with(&self, sections: &Sections, unit: Vec<u8>) -> Result<gimli::Dwarf<Piece>, DwarfError> {
        let mut unit: Arc<[u8]> = unit.into();
        let lines = self.take_lines(sections, &mut unit)?;
        let none = piece(Arc::from([]));
        Ok(gimli::Dwarf {
            debug_abbrev: self.abbrev.clone(),
            debug_addr: self.addr.clone(),
            debug_aranges: none.clone().into(),
            debug_info: piece(unit).into(),
            debug_line: piece(lines.into()).into(),
            debug_line_str: self.line_str.clone(),
            debug_macinfo: none.clone().into(),
            debug_macro: none.clone().into(),
            debug_names: none.clone().into(),
            debug_str: self.str.clone(),
            debug_str_offsets: self.str_offsets.clone(),
            debug_types: none.clone().into(),
            locations: LocationLists::new(none.clone().into(), none.into()),
            ranges: self.ranges.clone(),
            file_type: DwarfFileType::Main,
            sup: None,
            abbreviations_cache: AbbreviationsCache::new(),
        })
    }

    /// The lines of a unit, which is made to say that they begin at 0.
    fn take_lines(&self, sections: &Sections, unit: &mut Arc<[u8]>) -> Result<Vec<u8>, DwarfError> {
        let Some((at, begin)) = self.line_place(piece(unit.clone()))? else {
            return Ok(Vec::new());
        };
        let length = sections.part(".debug_line", begin, 4)?;
        let length = unit_length(&length)?;
        if let Some(place) = Arc::get_mut(unit).and_then(|it| it.get_mut(at..at + 4)) {
            place.fill(0);
        }
        Ok(sections.part(".debug_line", begin, length)?)
    }

    /// Where a unit says where its lines are, and what it says.
    fn line_place(&self, unit: Piece) -> Result<Option<(usize, u64)>, DwarfError> {
        let header = gimli::DebugInfo::from(unit).units().next()?;
        let header = header.ok_or(DwarfError::Layout)?;
        let abbreviations = header.abbreviations(&self.abbrev)?;
        let mut entries = header.entries_raw(&abbreviations, None)?;
        let Some(root) = entries.read_abbreviation()? else {
            return Ok(None);
        };
        for &attribute in root.attributes() {
            let at = entries.next_offset().0;
            let attribute = entries.read_attribute(attribute)?;
            if let AttributeValue::DebugLineRef(offset) = attribute.value() {
                return Ok(Some((at, offset.0 as u64)));
            }
        }
        Ok(None)
    }
}

fn parse(sections: &Sections, tables: &Tables, place: u64) -> Result<Context<Piece>, DwarfError> {
    let length = unit_length(&sections.info(place, 4)?)?;
    let unit = sections.info(place, length)?;
    Ok(Context::from_dwarf(tables.with(sections, unit)?)?)
}

fn frames(unit: &Context<Piece>, address: u64) -> Result<Vec<SourceFrame>, DwarfError> {
    let folder = folder(unit, address);
    let mut frames = unit.find_frames(address).skip_all_loads()?;
    let mut found = Vec::new();
    while let Some(frame) = frames.next()? {
        let name = frame.function.as_ref().map(|it| it.raw_name());
        let location = frame.location;
        let file = location.as_ref().and_then(|it| it.file);
        found.push(SourceFrame {
            function: name.transpose()?.map(|it| it.into_owned()),
            file: file.map(|it| it.strip_prefix(&folder).unwrap_or(it).to_owned()),
            line: location.as_ref().and_then(|it| it.line),
            inlined: true,
        });
    }
    if let Some(outermost) = found.last_mut() {
        outermost.inlined = false;
    }
    Ok(found)
}

/// Where the unit was compiled, with a `/` at the end.
fn folder(unit: &Context<Piece>, address: u64) -> String {
    let unit = unit.find_dwarf_and_unit(address).skip_all_loads();
    let folder = unit.and_then(|it| it.comp_dir.clone());
    let folder = folder.map(|it| String::from_utf8_lossy(it.bytes()).into_owned());
    folder.unwrap_or_default() + "/"
}

/// Why debug information cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DwarfError {
    /// The file has none.
    #[error("the file has no debug information")]
    Missing,
    /// It contradicts itself.
    #[error("the debug information is damaged")]
    Damaged(#[from] gimli::Error),
    /// It has a layout that no kernel of 64 bits has.
    #[error("the debug information is damaged, or laid out as that of no kernel")]
    Layout,
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] ElfError),
}

#[cfg(test)]
mod tests {
    use super::super::testing::Elf;
    use super::*;
    use crate::types::{Encoding, Type};
    use tempfile::TempDir;

    /// A unit of DWARF 5 with a variable `x` of the type `int` at 0x2000 and a function `f` from
    /// 0x1000 to 0x1010, in which `g` is inlined from 0x1004 to 0x1008.
    fn sections() -> (Vec<u8>, Vec<u8>) {
        #[rustfmt::skip]
        let abbreviations = [
            // Unit: name, low_pc, high_pc (data4).
            1, 0x11, 1, 0x03, 0x08, 0x11, 0x01, 0x12, 0x06, 0, 0,
            // Base type: name, size, encoding.
            2, 0x24, 0, 0x03, 0x08, 0x0b, 0x0b, 0x3e, 0x0b, 0, 0,
            // Variable: name, type, location.
            3, 0x34, 0, 0x03, 0x08, 0x49, 0x13, 0x02, 0x18, 0, 0,
            // Function that is inlined elsewhere: name, inline.
            4, 0x2e, 0, 0x03, 0x08, 0x20, 0x0b, 0, 0,
            // Function: name, low_pc, high_pc; with children.
            5, 0x2e, 1, 0x03, 0x08, 0x11, 0x01, 0x12, 0x06, 0, 0,
            // Inlined: origin, low_pc, high_pc, line.
            6, 0x1d, 0, 0x31, 0x13, 0x11, 0x01, 0x12, 0x06, 0x59, 0x0b, 0, 0,
            0,
        ];
        let mut unit = vec![5, 0, 1, 8, 0, 0, 0, 0];
        let range = |unit: &mut Vec<u8>, low: u64, length: u32| {
            unit.extend(low.to_le_bytes());
            unit.extend(length.to_le_bytes());
        };
        unit.extend(*b"\x01a.c\0");
        range(&mut unit, 0x1000, 0x10);
        let int = unit.len() as u32 + 4;
        unit.extend(*b"\x02int\0\x04\x05");
        unit.extend(*b"\x03x\0");
        unit.extend(int.to_le_bytes());
        unit.extend([9, 0x03]);
        unit.extend(0x2000u64.to_le_bytes());
        let inlined = unit.len() as u32 + 4;
        unit.extend(*b"\x04g\0\x01");
        unit.extend(*b"\x05f\0");
        range(&mut unit, 0x1000, 0x10);
        unit.push(6);
        unit.extend(inlined.to_le_bytes());
        range(&mut unit, 0x1004, 4);
        unit.extend([33, 0, 0]);
        let mut info = (unit.len() as u32).to_le_bytes().to_vec();
        info.extend(unit);
        (info, abbreviations.to_vec())
    }

    fn open(info: &[u8], abbreviations: &[u8]) -> Result<DebugInfo, DwarfError> {
        open_with(info, abbreviations, &Cache::none())
    }

    fn open_with(info: &[u8], abbrev: &[u8], cache: &Cache) -> Result<DebugInfo, DwarfError> {
        let mut notes = [4u32, 20, 3].map(u32::to_le_bytes).concat();
        notes.extend(b"GNU\0");
        notes.extend([1; 20]);
        let file = Elf::new()
            .section(".debug_info", 1, 0, info)
            .section(".debug_abbrev", 1, 0, abbrev)
            .section(".notes", 7, 0, &notes)
            .write();
        DebugInfo::open(ElfFile::open(file.path()).unwrap(), cache)
    }

    fn names(debug: &mut DebugInfo, address: u64) -> Vec<String> {
        let frames = debug.frames(address).into_iter();
        frames.filter_map(|frame| frame.function).collect()
    }

    #[test]
    fn inlined_functions_come_before_the_one_they_are_in() {
        let (info, abbreviations) = sections();
        let mut debug = open(&info, &abbreviations).unwrap();
        assert_eq!(names(&mut debug, 0x1000), ["f"]);
        assert_eq!(names(&mut debug, 0x1004), ["g", "f"]);
        let frames = debug.frames(0x1004);
        assert!(frames[0].inlined && !frames[1].inlined);
        assert_eq!(frames[1].line, Some(33));
        assert_eq!(names(&mut debug, 0x1010), [""; 0]);
    }

    #[test]
    fn variables_and_types_are_found_by_name() {
        let (info, abbreviations) = sections();
        let mut debug = open(&info, &abbreviations).unwrap();
        let mut types = Types::default();
        let x = debug.variable("x", 0x2000, &mut types).unwrap().unwrap();
        let int = Type::Int {
            name: "int".into(),
            size: 4,
            encoding: Encoding::Number { signed: true },
        };
        assert_eq!(types.get(x), int);
        assert_eq!(debug.variable("y", 0x2000, &mut types).unwrap(), None);
        let named = debug.find_type(Tag::Plain, "int", &mut types).unwrap();
        assert_eq!(named, Some(x));
    }

    #[test]
    fn what_is_kept_on_disk_says_the_same() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let (info, abbreviations) = sections();
        let mut types = Types::default();
        for _ in 0..2 {
            let mut debug = open_with(&info, &abbreviations, &cache).unwrap();
            assert_eq!(names(&mut debug, 0x1004), ["g", "f"]);
            assert!(debug.variable("x", 0, &mut types).unwrap().is_some());
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 2);
    }

    #[test]
    fn a_file_without_debug_information_says_so() {
        let error = open(&[], &[]).unwrap_err();
        assert!(matches!(error, DwarfError::Missing), "{error}");
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let (info, abbreviations) = sections();
        let look = |info: &[u8], abbreviations: &[u8]| {
            let Ok(mut debug) = open(info, abbreviations) else {
                return;
            };
            debug.frames(0x1004);
            drop(debug.variable("x", 0x2000, &mut Types::default()));
        };
        for end in 0..info.len() {
            look(&info[..end], &abbreviations);
        }
        for at in 0..info.len() {
            let mut changed = info.clone();
            changed[at] ^= 0xff;
            look(&changed, &abbreviations);
        }
        for at in 0..abbreviations.len() {
            let mut changed = abbreviations.clone();
            changed[at] ^= 0x15;
            look(&info, &changed);
        }
    }
}
