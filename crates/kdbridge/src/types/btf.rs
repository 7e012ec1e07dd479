//! BTF: the types of a kernel as it carries them in its own memory (`CONFIG_DEBUG_INFO_BTF`).

use thiserror::Error;

use super::{Encoding, Member, Type, TypeId};
use crate::symbols::bytes::{Bytes, text_at};

/// What is longer is no name.
const LONGEST_NAME: usize = 1024;
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const INT_SIGNED: u32 = 1;
const INT_CHAR: u32 = 2;
const INT_BOOL: u32 = 4;

/// The types of a kernel.
#[derive(Debug, Clone)]
pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type is in `bytes`; the first one has the number 1.
    places: Vec<u32>,
}

/// The head of a type.
struct Head {
    name: u32,
    kind: u32,
    members: usize,
    flag: bool,
    /// Its size, or the type it is made from.
    word: u32,
}

impl Btf {
    /// Reads where the types of a kernel are.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.u16(0) != Some(MAGIC) {
            return Err(BtfError::NotBtf);
        }
        let header = bytes.u32(4).ok_or(BtfError::Damaged)? as usize;
        let word = |at| bytes.u32(at).map(|it| it as usize).ok_or(BtfError::Damaged);
        let (types, types_length) = (word(8)?, word(12)?);
        let (strings, strings_length) = (word(16)?, word(20)?);
        let begin = header.checked_add(types).ok_or(BtfError::Damaged)?;
        let end = begin.checked_add(types_length).ok_or(BtfError::Damaged)?;
        let strings = header.checked_add(strings).ok_or(BtfError::Damaged)?;
        let strings_end = strings.checked_add(strings_length);
        if header < HEADER || end > bytes.len() || strings_end.is_none_or(|it| it > bytes.len()) {
            return Err(BtfError::Damaged);
        }
        let places = places(&bytes, begin, end)?;
        Ok(Self {
            bytes,
            strings,
            places,
        })
    }

    /// The type of a number; `None` if the number is none of these.
    pub(super) fn get(&self, id: TypeId) -> Option<Type> {
        let number = id.0.checked_sub(1)?;
        let at = *self.places.get(number as usize)? as usize;
        let head = head(&self.bytes, at)?;
        let name = self.name(head.name);
        let target = TypeId(head.word);
        let size = u64::from(head.word);
        Some(match head.kind {
            INT => self.int(at, name, size)?,
            PTR => Type::Pointer(target),
            ARRAY => Type::Array {
                element: TypeId(self.bytes.u32(at + 12)?),
                count: Some(self.bytes.u32(at + 20)?.into()),
            },
            STRUCT | UNION => Type::Record {
                name,
                union: head.kind == UNION,
                size,
                members: self.members(at, &head),
            },
            ENUM | ENUM64 => Type::Enum {
                name,
                size,
                signed: head.flag,
                values: self.values(at, &head),
            },
            FWD => Type::Unfinished {
                name,
                union: head.flag,
            },
            TYPEDEF => Type::Named { name, target },
            VOLATILE => Type::Qualified("volatile", target),
            CONST => Type::Qualified("const", target),
            RESTRICT => Type::Qualified("restrict", target),
            TYPE_TAG => Type::Qualified("", target),
            FUNC_PROTO => Type::Function {
                result: target,
                parameters: self.parameters(at, &head),
            },
            FLOAT => Type::Float { name, size },
            _ => return None,
        })
    }

    /// The number of the type of this name that `is` one of the kinds wanted.
    pub(super) fn find(&self, name: &str, is: impl Fn(&Kind) -> bool) -> Option<TypeId> {
        let numbered = (1..).zip(&self.places);
        let mut found = numbered.filter(|&(_, &at)| {
            let head = head(&self.bytes, at as usize);
            head.is_some_and(|head| {
                Kind::of(&head).is_some_and(|kind| is(&kind)) && self.is_named(head.name, name)
            })
        });
        found.next().map(|(number, _)| TypeId(number))
    }

    /// The type of a variable; the kernel's BTF has those that each processor has for itself.
    pub(super) fn variable(&self, name: &str) -> Option<TypeId> {
        let at = self.places.iter().find(|&&at| {
            let head = head(&self.bytes, at as usize);
            head.is_some_and(|head| head.kind == VAR && self.is_named(head.name, name))
        });
        Some(TypeId(head(&self.bytes, *at? as usize)?.word))
    }

    fn name(&self, at: u32) -> String {
        let begin = self.strings.saturating_add(at as usize);
        let rest = self.bytes.get(begin..).unwrap_or_default();
        text_at(rest.get(..LONGEST_NAME).unwrap_or(rest), 0).into_owned()
    }

    /// Whether the name at `at` is this one.
    fn is_named(&self, at: u32, name: &str) -> bool {
        let begin = self.strings.saturating_add(at as usize);
        let rest = self.bytes.get(begin..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn int(&self, at: usize, name: String, size: u64) -> Option<Type> {
        let word = self.bytes.u32(at + 12)?;
        let encoding = match word >> 24 & 0xf {
            it if it & INT_BOOL != 0 => Encoding::Bool,
            it if it & INT_CHAR != 0 || size == 1 => Encoding::Char {
                signed: it & INT_SIGNED != 0,
            },
            it => Encoding::Number {
                signed: it & INT_SIGNED != 0,
            },
        };
        Some(Type::Int {
            name,
            size,
            encoding,
        })
    }

    fn members(&self, at: usize, head: &Head) -> Vec<Member> {
        let member = |number: usize| {
            let at = at + 12 + number * 12;
            let (name, offset) = (self.bytes.u32(at)?, self.bytes.u32(at + 8)?);
            let bits = if head.flag { offset >> 24 } else { 0 };
            let offset = if head.flag {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            Some(Member {
                name: self.name(name),
                ty: TypeId(self.bytes.u32(at + 4)?),
                offset: offset.into(),
                bits: (bits > 0).then_some(bits),
            })
        };
        (0..head.members).map_while(member).collect()
    }

    fn values(&self, at: usize, head: &Head) -> Vec<(String, i128)> {
        let long = head.kind == ENUM64;
        let step = if long { 12 } else { 8 };
        let value = |number: usize| {
            let at = at + 12 + number * step;
            let low = self.bytes.u32(at + 4)?;
            let value = match (long, head.flag) {
                (true, signed) => {
                    let value = self.bytes.u64(at + 4)?;
                    if signed {
                        value.cast_signed().into()
                    } else {
                        value.into()
                    }
                }
                (false, true) => low.cast_signed().into(),
                (false, false) => low.into(),
            };
            Some((self.name(self.bytes.u32(at)?), value))
        };
        (0..head.members).map_while(value).collect()
    }

    fn parameters(&self, at: usize, head: &Head) -> Vec<TypeId> {
        let parameter = |number: usize| self.bytes.u32(at + 16 + number * 8).map(TypeId);
        (0..head.members).map_while(parameter).collect()
    }
}

/// What is searched for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Struct,
    Union,
    Enum,
    /// A typedef or a basic type.
    Plain,
}

impl Kind {
    fn of(head: &Head) -> Option<Self> {
        match head.kind {
            STRUCT => Some(Self::Struct),
            UNION => Some(Self::Union),
            ENUM | ENUM64 => Some(Self::Enum),
            INT | TYPEDEF | FLOAT => Some(Self::Plain),
            _ => None,
        }
    }
}

fn head(bytes: &[u8], at: usize) -> Option<Head> {
    let info = bytes.u32(at + 4)?;
    Some(Head {
        name: bytes.u32(at)?,
        kind: info >> 24 & 0x1f,
        members: (info & 0xffff) as usize,
        flag: info >> 31 != 0,
        word: bytes.u32(at + 8)?,
    })
}

fn places(bytes: &[u8], begin: usize, end: usize) -> Result<Vec<u32>, BtfError> {
    let mut places = Vec::new();
    let mut at = begin;
    while at < end {
        let head = head(bytes, at).ok_or(BtfError::Damaged)?;
        places.push(at as u32);
        let rest = match head.kind {
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION | DATASEC | ENUM64 => head.members * 12,
            ENUM | FUNC_PROTO => head.members * 8,
            PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
            other => return Err(BtfError::Unknown(other)),
        };
        at += 12 + rest;
    }
    Ok(places)
}

/// Why BTF cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BtfError {
    /// It begins otherwise.
    #[error("not BTF of little-endian byte order")]
    NotBtf,
    /// Something in it is said to be where it does not reach.
    #[error("the BTF is damaged or cut short")]
    Damaged,
    /// A newer kernel has kinds of types that are not known here.
    #[error("the BTF has types of a kind that is not known: {0}")]
    Unknown(u32),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes of BTF, a type at a time.
    pub(crate) struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        pub(crate) fn new() -> Self {
            Self {
                types: Vec::new(),
                strings: vec![0],
            }
        }

        pub(crate) fn name(&mut self, name: &str) -> u32 {
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes().chain([0]));
            if name.is_empty() { 0 } else { at }
        }

        pub(crate) fn ty(
            mut self,
            name: &str,
            kind: u32,
            flag: bool,
            word: u32,
            rest: &[[u32; 3]],
        ) -> Self {
            let info = kind << 24 | u32::from(flag) << 31 | rest.len() as u32;
            let words = [self.name(name), info, word];
            let all = words.into_iter().chain(rest.iter().copied().flatten());
            self.types.extend(all.flat_map(u32::to_le_bytes));
            self
        }

        /// What follows the head of a type and is no list of members.
        pub(crate) fn then(mut self, words: &[u32]) -> Self {
            self.types
                .extend(words.iter().flat_map(|it| it.to_le_bytes()));
            self
        }

        pub(crate) fn int(self, name: &str, size: u32, encoding: u32) -> Self {
            self.ty(name, INT, false, size, &[])
                .then(&[(encoding << 24) | (size * 8)])
        }

        pub(crate) fn bytes(self) -> Vec<u8> {
            let mut bytes = vec![0x9f, 0xeb, 1, 0];
            let lengths = (self.types.len() as u32, self.strings.len() as u32);
            for word in [24, 0, lengths.0, lengths.0, lengths.1] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    fn kernel() -> Vec<u8> {
        let mut writer = Writer::new().int("int", 4, INT_SIGNED);
        let [next, flags] = ["next", "flags"].map(|it| writer.name(it));
        writer
            .ty(
                "node",
                STRUCT,
                true,
                16,
                &[[next, 3, 0], [flags, 1, 3 << 24 | 64]],
            )
            .ty("", PTR, false, 2, &[])
            .ty("node_t", TYPEDEF, false, 2, &[])
            .ty("first", VAR, false, 4, &[])
            .then(&[1])
            .bytes()
    }

    #[test]
    fn types_are_read_with_their_members() {
        let btf = Btf::parse(kernel()).unwrap();
        let node = btf.find("node", |kind| *kind == Kind::Struct).unwrap();
        let Some(Type::Record { members, size, .. }) = btf.get(node) else {
            panic!("node is a structure");
        };
        assert_eq!((size, members.len()), (16, 2));
        assert_eq!((members[0].name.as_str(), members[0].offset), ("next", 0));
        assert_eq!(btf.get(members[0].ty), Some(Type::Pointer(node)));
        assert_eq!((members[1].bits, members[1].offset), (Some(3), 64));
        assert_eq!(btf.variable("first"), Some(TypeId(4)));
        assert_eq!(btf.find("node", |kind| *kind == Kind::Union), None);
        assert_eq!(btf.get(TypeId(6)), None);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let whole = kernel();
        let look = |bytes: Vec<u8>| {
            let btf = Btf::parse(bytes)?;
            (0..8).for_each(|it| drop(btf.get(TypeId(it))));
            Ok::<_, BtfError>(btf.find("node", |_| true))
        };
        for end in 0..whole.len() {
            assert!(
                look(whole[..end].to_vec()).is_err(),
                "cut after {end} bytes"
            );
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            drop(look(changed));
        }
    }
}
