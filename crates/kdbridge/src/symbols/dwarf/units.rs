//! Which compilation unit an address belongs to.

use gimli::constants as dw;
use gimli::{AttributeValue, DebugAddrBase, DebugInfo, DebugRngListsBase, UnitHeader};

use super::sections::{Piece, Sections, piece};
use super::{DwarfError, Tables};
use crate::symbols::bytes::Bytes;

/// The first entry of a unit fits in this many bytes; it has no long parts.
const ROOT_BYTES: u64 = 1024;
/// More units than this has no kernel.
const MOST_UNITS: usize = 1 << 18;

/// The ranges of addresses of all units.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Units {
    /// Beginning, end, and the unit's place in `.debug_info`, ordered.
    ranges: Vec<[u64; 3]>,
    /// Where each unit begins, ordered.
    pub(super) places: Vec<u64>,
}

impl Units {
    /// Reads the first entry of every unit.
    pub(super) fn scan(sections: &Sections, tables: &Tables) -> Result<Self, DwarfError> {
        let mut units = Self::default();
        let (mut at, length) = (0, sections.info_length());
        while at < length && units.places.len() < MOST_UNITS {
            let head = sections.info(at, ROOT_BYTES)?;
            let size = unit_length(&head)?;
            units.places.push(at);
            units.add(at, &root(head, size)?, tables)?;
            at += size;
        }
        units.ranges.sort_unstable();
        Ok(units)
    }

    /// The place of the unit that `address` belongs to.
    pub(super) fn of(&self, address: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|[begin, ..]| *begin <= address);
        // A unit may lie inside another's range only if one of the two lies about it.
        let mut before = self.ranges[..after].iter().rev().take(8);
        let found = before.find(|[_, end, _]| address < *end);
        found.map(|[.., unit]| *unit)
    }

    pub(super) fn to_words(&self) -> Vec<u64> {
        let mut words = vec![self.ranges.len() as u64];
        words.extend(self.ranges.iter().flatten());
        words.extend(&self.places);
        words
    }

    pub(super) fn from_words(words: &[u64]) -> Option<Self> {
        let (&count, rest) = words.split_first()?;
        let length = usize::try_from(count).ok()?.checked_mul(3)?;
        let (ranges, places) = rest.split_at_checked(length)?;
        let (ranges, _) = ranges.as_chunks();
        let units = Self {
            ranges: ranges.to_vec(),
            places: places.to_vec(),
        };
        (units.ranges.is_sorted() && units.places.is_sorted()).then_some(units)
    }

    fn add(
        &mut self,
        at: u64,
        header: &UnitHeader<Piece>,
        tables: &Tables,
    ) -> Result<(), DwarfError> {
        let abbreviations = header.abbreviations(&tables.abbrev)?;
        let mut entries = header.entries(&abbreviations);
        let Some(root) = entries.next_dfs()? else {
            return Ok(());
        };
        let addresses = match root.attr_value(dw::DW_AT_addr_base) {
            Some(AttributeValue::DebugAddrBase(base)) => base,
            _ => DebugAddrBase(0),
        };
        let lists = match root.attr_value(dw::DW_AT_rnglists_base) {
            Some(AttributeValue::DebugRngListsBase(base)) => base,
            _ => DebugRngListsBase(0),
        };
        let encoding = header.encoding();
        let address = |value| match value {
            Some(AttributeValue::Addr(address)) => Some(address),
            Some(AttributeValue::DebugAddrIndex(index)) => {
                let size = encoding.address_size;
                tables.addr.get_address(size, addresses, index).ok()
            }
            _ => None,
        };
        let low = address(root.attr_value(dw::DW_AT_low_pc));
        let offset = match root.attr_value(dw::DW_AT_ranges) {
            Some(AttributeValue::RangeListsRef(offset)) => Some(gimli::RangeListsOffset(offset.0)),
            Some(AttributeValue::DebugRngListsIndex(index)) => {
                Some(tables.ranges.get_offset(encoding, lists, index)?)
            }
            _ => None,
        };
        if let Some(offset) = offset {
            let base = low.unwrap_or_default();
            let ranges = &tables.ranges;
            let mut ranges = ranges.ranges(offset, encoding, base, &tables.addr, addresses)?;
            while let Some(range) = ranges.next()? {
                self.push(range.begin, range.end, at);
            }
        } else if let Some(low) = low {
            let high = match root.attr_value(dw::DW_AT_high_pc) {
                Some(AttributeValue::Udata(length)) => Some(low.saturating_add(length)),
                other => address(other),
            };
            self.push(low, high.unwrap_or(low), at);
        }
        Ok(())
    }

    fn push(&mut self, begin: u64, end: u64, unit: u64) {
        // What the linker threw away lies at 0.
        if begin != 0 && begin < end {
            self.ranges.push([begin, end, unit]);
        }
    }
}

/// How long a unit is with the field that says so.
pub(super) fn unit_length(head: &[u8]) -> Result<u64, DwarfError> {
    match head.u32(0) {
        Some(length @ 1..0xffff_fff0) => Ok(u64::from(length) + 4),
        _ => Err(DwarfError::Layout),
    }
}

/// The header of a unit of which only the beginning was read.
fn root(mut head: Vec<u8>, size: u64) -> Result<UnitHeader<Piece>, DwarfError> {
    head.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    let length = (head.len() as u32).saturating_sub(4);
    head[..4].copy_from_slice(&length.to_le_bytes());
    let info = DebugInfo::from(piece(head.into()));
    info.units().next()?.ok_or(DwarfError::Layout)
}
