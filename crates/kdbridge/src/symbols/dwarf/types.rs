//! Types as debug information describes them, with everything they are made of.

use std::collections::HashMap;

use gimli::constants as dw;
use gimli::{AttributeValue, DebuggingInformationEntry, UnitOffset};

use super::names::name_of;
use super::sections::Piece;
use super::{DwarfError, Unit};
use crate::types::{Encoding, Member, Type, TypeId, Types};

/// More types than this are not taken over from one unit.
const MOST_TYPES: usize = 1 << 20;

type Entry = DebuggingInformationEntry<Piece>;

/// Takes types over from a unit; each of them once.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// By the place of the unit and of the entry in it.
    known: HashMap<u64, TypeId>,
}

impl Taken {
    /// The type at an offset of the unit, and all it is made of.
    pub(super) fn take(
        &mut self,
        unit: &Unit,
        offset: UnitOffset,
        types: &mut Types,
    ) -> Result<TypeId, DwarfError> {
        let mut work = Work {
            unit,
            types,
            known: &mut self.known,
            waiting: Vec::new(),
        };
        let id = work.id(offset);
        while let Some((offset, id)) = work.waiting.pop() {
            let ty = work.describe(offset)?;
            work.types.set(id, ty);
            if work.known.len() > MOST_TYPES {
                return Err(DwarfError::Layout);
            }
        }
        Ok(id)
    }
}

struct Work<'a> {
    unit: &'a Unit,
    types: &'a mut Types,
    known: &'a mut HashMap<u64, TypeId>,
    waiting: Vec<(UnitOffset, TypeId)>,
}

impl Work<'_> {
    fn id(&mut self, offset: UnitOffset) -> TypeId {
        let place = self.unit.place + offset.0 as u64;
        if let Some(id) = self.known.get(&place) {
            return *id;
        }
        let id = self.types.add(Type::Void);
        self.known.insert(place, id);
        self.waiting.push((offset, id));
        id
    }

    fn describe(&mut self, offset: UnitOffset) -> Result<Type, DwarfError> {
        let entry = self.unit.unit.entry(offset)?;
        let name = self.name(&entry);
        let size = number(&entry, dw::DW_AT_byte_size).unwrap_or_default();
        Ok(match entry.tag() {
            dw::DW_TAG_base_type => base(&entry, name, size),
            dw::DW_TAG_pointer_type => Type::Pointer(self.target(&entry)),
            dw::DW_TAG_structure_type | dw::DW_TAG_union_type => {
                let union = entry.tag() == dw::DW_TAG_union_type;
                if entry.has_attr(dw::DW_AT_declaration) {
                    return Ok(Type::Unfinished { name, union });
                }
                Type::Record {
                    name,
                    union,
                    size,
                    members: self.members(offset)?,
                }
            }
            dw::DW_TAG_enumeration_type => self.enumeration(offset, &entry, name, size)?,
            dw::DW_TAG_array_type => self.array(offset, &entry)?,
            dw::DW_TAG_typedef => Type::Named {
                name,
                target: self.target(&entry),
            },
            dw::DW_TAG_const_type => Type::Qualified("const", self.target(&entry)),
            dw::DW_TAG_volatile_type => Type::Qualified("volatile", self.target(&entry)),
            dw::DW_TAG_restrict_type => Type::Qualified("restrict", self.target(&entry)),
            dw::DW_TAG_atomic_type => Type::Qualified("_Atomic", self.target(&entry)),
            dw::DW_TAG_subroutine_type => Type::Function {
                result: self.target(&entry),
                parameters: self.parameters(offset)?,
            },
            _ => Type::Void,
        })
    }

    fn target(&mut self, entry: &Entry) -> TypeId {
        match entry.attr_value(dw::DW_AT_type) {
            Some(AttributeValue::UnitRef(offset)) => self.id(offset),
            _ => TypeId::VOID,
        }
    }

    fn name(&self, entry: &Entry) -> String {
        let name = name_of(self.unit, entry);
        let name = name.map(|name| String::from_utf8_lossy(name.bytes()).into_owned());
        name.unwrap_or_default()
    }

    fn children(&self, offset: UnitOffset) -> Result<Vec<Entry>, DwarfError> {
        let mut tree = self.unit.unit.entries_tree(Some(offset))?;
        let mut children = tree.root()?.children();
        let mut found = Vec::new();
        while let Some(child) = children.next()? {
            found.push(child.entry().clone());
        }
        Ok(found)
    }

    fn members(&mut self, offset: UnitOffset) -> Result<Vec<Member>, DwarfError> {
        let children = self.children(offset)?;
        let members = children.iter().filter(|it| it.tag() == dw::DW_TAG_member);
        Ok(members.map(|entry| self.member(entry)).collect())
    }

    fn member(&mut self, entry: &Entry) -> Member {
        let bits = number(entry, dw::DW_AT_bit_size);
        let whole = number(entry, dw::DW_AT_data_member_location).unwrap_or_default();
        let whole = whole.wrapping_mul(8);
        let within = match (number(entry, dw::DW_AT_bit_offset), bits) {
            // Until DWARF 4, from the other end of the storage unit.
            (Some(from_end), Some(bits)) => {
                let unit = number(entry, dw::DW_AT_byte_size).unwrap_or(4);
                let unit = unit.wrapping_mul(8);
                unit.wrapping_sub(from_end).wrapping_sub(bits)
            }
            _ => number(entry, dw::DW_AT_data_bit_offset).unwrap_or_default(),
        };
        Member {
            name: self.name(entry),
            ty: self.target(entry),
            offset: whole.wrapping_add(within),
            bits: bits.and_then(|it| u32::try_from(it).ok()),
        }
    }

    fn enumeration(
        &mut self,
        offset: UnitOffset,
        entry: &Entry,
        name: String,
        size: u64,
    ) -> Result<Type, DwarfError> {
        let children = self.children(offset)?;
        let values = children.iter().filter_map(|it| {
            let value = it.attr(dw::DW_AT_const_value)?;
            let signed = value.sdata_value().map(i128::from);
            let value = signed.or_else(|| value.udata_value().map(i128::from))?;
            Some((self.name(it), value))
        });
        let values: Vec<_> = values.collect();
        let signed = match self.underlying(entry) {
            Some(signed) => signed,
            None => values.iter().any(|(_, value)| *value < 0),
        };
        Ok(Type::Enum {
            name,
            size,
            signed,
            values,
        })
    }

    /// Whether the type that an enumeration is stored as may be negative.
    fn underlying(&self, entry: &Entry) -> Option<bool> {
        let AttributeValue::UnitRef(offset) = entry.attr_value(dw::DW_AT_type)? else {
            return None;
        };
        match base(&self.unit.unit.entry(offset).ok()?, String::new(), 4) {
            Type::Int {
                encoding: Encoding::Number { signed } | Encoding::Char { signed },
                ..
            } => Some(signed),
            _ => None,
        }
    }

    /// An array of several dimensions is one of arrays.
    fn array(&mut self, offset: UnitOffset, entry: &Entry) -> Result<Type, DwarfError> {
        let children = self.children(offset)?;
        let ranges = children
            .iter()
            .filter(|it| it.tag() == dw::DW_TAG_subrange_type);
        let counts: Vec<Option<u64>> = ranges.map(count).collect();
        let mut element = self.target(entry);
        let (&first, inner) = counts.split_first().unwrap_or((&None, &[]));
        for &count in inner.iter().rev() {
            element = self.types.add(Type::Array { element, count });
        }
        Ok(Type::Array {
            element,
            count: first,
        })
    }

    fn parameters(&mut self, offset: UnitOffset) -> Result<Vec<TypeId>, DwarfError> {
        let children = self.children(offset)?;
        let parameters = children.iter().filter_map(|it| match it.tag() {
            dw::DW_TAG_formal_parameter => Some(self.target(it)),
            dw::DW_TAG_unspecified_parameters => Some(TypeId::VOID),
            _ => None,
        });
        Ok(parameters.collect())
    }
}

fn number(entry: &Entry, name: gimli::DwAt) -> Option<u64> {
    entry.attr(name)?.udata_value()
}

fn count(range: &Entry) -> Option<u64> {
    let last = |name| range.attr(name).and_then(|it| it.sdata_value());
    number(range, dw::DW_AT_count).or_else(|| {
        let last = last(dw::DW_AT_upper_bound)?;
        u64::try_from(last.checked_add(1)?).ok()
    })
}

fn base(entry: &Entry, name: String, size: u64) -> Type {
    let encoding = match entry.attr_value(dw::DW_AT_encoding) {
        Some(AttributeValue::Encoding(dw::DW_ATE_boolean)) => Encoding::Bool,
        Some(AttributeValue::Encoding(dw::DW_ATE_signed_char)) => Encoding::Char { signed: true },
        Some(AttributeValue::Encoding(dw::DW_ATE_unsigned_char)) => {
            Encoding::Char { signed: false }
        }
        Some(AttributeValue::Encoding(dw::DW_ATE_signed)) => Encoding::Number { signed: true },
        Some(AttributeValue::Encoding(dw::DW_ATE_float)) => return Type::Float { name, size },
        _ => Encoding::Number { signed: false },
    };
    Type::Int {
        name,
        size,
        encoding,
    }
}
