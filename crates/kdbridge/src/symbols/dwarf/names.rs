//! Where the variables and types of a kernel are described, by their names.
//!
//! Only a hash of each name is kept, and the name is compared with the description itself: there are
//! a hundred thousand of them.

use std::collections::HashSet;

use gimli::constants as dw;
use gimli::{AttributeValue, DebuggingInformationEntry, DwTag, Operation, UnitOffset};

use super::sections::{Piece, Sections};
use super::units::Units;
use super::{DwarfError, Tables, Unit};
use crate::symbols::cache;

/// What a name is that of. Their order is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Variable,
    /// A variable that is defined by no unit, but by the linker.
    Announced,
    Struct,
    Union,
    Enum,
    /// A typedef, or a type of the language.
    Plain,
}

impl Space {
    fn of(tag: DwTag) -> Option<Self> {
        match tag {
            dw::DW_TAG_variable => Some(Self::Variable),
            dw::DW_TAG_structure_type => Some(Self::Struct),
            dw::DW_TAG_union_type => Some(Self::Union),
            dw::DW_TAG_enumeration_type => Some(Self::Enum),
            dw::DW_TAG_typedef | dw::DW_TAG_base_type => Some(Self::Plain),
            _ => None,
        }
    }
}

/// Hashes of names and the places of what they name, ordered.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<[u64; 2]>);

impl Names {
    /// Reads all units; of types that are described in many of them, the first description is kept.
    pub(super) fn scan(
        sections: &Sections,
        tables: &Tables,
        units: &Units,
    ) -> Result<Self, DwarfError> {
        let mut names = Self::default();
        let mut known = HashSet::new();
        for &place in &units.places {
            let unit = Unit::load(sections, tables, place)?;
            names.add(&unit, &mut known)?;
        }
        names.0.sort_unstable();
        Ok(names)
    }

    /// Where something of this name may be described.
    pub(super) fn places(&self, space: Space, name: &str) -> impl Iterator<Item = u64> {
        let hash = hash(space, name.as_bytes());
        let begin = self.0.partition_point(|[it, _]| *it < hash);
        let rest = self.0[begin..].iter();
        rest.take_while(move |[it, _]| *it == hash)
            .map(|[_, place]| *place)
    }

    pub(super) fn to_words(&self) -> Vec<u64> {
        self.0.iter().flatten().copied().collect()
    }

    pub(super) fn from_words(words: &[u64]) -> Option<Self> {
        let (pairs, rest) = words.as_chunks();
        (rest.is_empty() && pairs.is_sorted()).then(|| Self(pairs.to_vec()))
    }

    fn add(&mut self, unit: &Unit, known: &mut HashSet<u64>) -> Result<(), DwarfError> {
        let mut entries = unit.unit.entries();
        if entries.next_dfs()?.is_none() || entries.next_dfs()?.is_none() {
            return Ok(());
        }
        let mut next = entries.current();
        while let Some(entry) = next {
            if let Some((hash, is_variable)) = hash_of(unit, entry)
                && (is_variable || known.insert(hash))
            {
                let place = unit.place + entry.offset().0 as u64;
                self.0.push([hash, place]);
            }
            next = entries.next_sibling()?;
        }
        Ok(())
    }
}

type Entry = DebuggingInformationEntry<Piece>;

/// The hash of what an entry names, and whether each entry of that name is something else; `None`
/// for what has no name and for types of which no more is known.
fn hash_of(unit: &Unit, entry: &Entry) -> Option<(u64, bool)> {
    let space = match Space::of(entry.tag())? {
        Space::Variable if !entry.has_attr(dw::DW_AT_location) => Space::Announced,
        Space::Variable => Space::Variable,
        _ if entry.has_attr(dw::DW_AT_declaration) => return None,
        other => other,
    };
    let name = name_of(unit, entry)?;
    Some((hash(space, name.bytes()), space == Space::Variable))
}

/// The name of an entry, or that of the one that announced it.
pub(super) fn name_of(unit: &Unit, entry: &Entry) -> Option<Piece> {
    if let Some(name) = entry.attr_value(dw::DW_AT_name) {
        return unit.dwarf.attr_string(&unit.unit, name).ok();
    }
    let announced = announced(entry)?;
    let entry = unit.unit.entry(announced).ok()?;
    let name = entry.attr_value(dw::DW_AT_name)?;
    unit.dwarf.attr_string(&unit.unit, name).ok()
}

pub(super) fn announced(entry: &Entry) -> Option<UnitOffset> {
    match entry.attr_value(dw::DW_AT_specification)? {
        AttributeValue::UnitRef(offset) => Some(offset),
        _ => None,
    }
}

/// The address that a variable is said to have.
pub(super) fn address_of(unit: &Unit, entry: &Entry) -> Option<u64> {
    let AttributeValue::Exprloc(expression) = entry.attr_value(dw::DW_AT_location)? else {
        return None;
    };
    let encoding = unit.unit.encoding();
    match expression.operations(encoding).next().ok()?? {
        Operation::Address { address } => Some(address),
        Operation::AddressIndex { index } => unit.dwarf.address(&unit.unit, index).ok(),
        _ => None,
    }
}

fn hash(space: Space, name: &[u8]) -> u64 {
    let name = name.iter().copied().map(u64::from);
    cache::hash([space as u64].into_iter().chain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_same_hash_next_year() {
        assert_eq!(hash(Space::Struct, b"task_struct"), 0x5cae_a714_ed5e_32f2);
    }
}
