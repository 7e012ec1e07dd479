//! The types of a kernel's variables, and values of them as text.

mod btf;
mod show;

use std::cell::Cell;
use std::collections::HashMap;

use btf::{Btf, Kind};

pub use btf::BtfError;
pub use show::Show;

/// Types that are made of types are never followed further than this.
const DEEPEST: usize = 64;
/// So many types are looked at for one, which may be made of the same ones again and again.
const MOST_STEPS: usize = 4096;
/// The numbers of types that come from elsewhere than the kernel's BTF begin here.
const OWN: u32 = 1 << 30;

/// The number of a type in [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

impl TypeId {
    /// No type: what `void *` points at.
    pub const VOID: Self = Self(0);
}

/// What a value of some type is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// An integer.
    Int {
        /// As C has it.
        name: String,
        /// In bytes.
        size: u64,
        /// How it reads.
        encoding: Encoding,
    },
    /// A floating-point number.
    Float {
        /// As C has it.
        name: String,
        /// In bytes.
        size: u64,
    },
    /// The address of a value.
    Pointer(TypeId),
    /// Values in a row.
    Array {
        /// Of what.
        element: TypeId,
        /// How many; `None` if that is left open.
        count: Option<u64>,
    },
    /// A structure or a union.
    Record {
        /// Its tag; empty if it has none.
        name: String,
        /// Whether its members share their place.
        union: bool,
        /// In bytes.
        size: u64,
        /// In the order of the source.
        members: Vec<Member>,
    },
    /// Names for numbers.
    Enum {
        /// Its tag; empty if it has none.
        name: String,
        /// In bytes.
        size: u64,
        /// Whether a number may be negative.
        signed: bool,
        /// The names and their numbers.
        values: Vec<(String, i128)>,
    },
    /// Another name for a type.
    Named {
        /// The name.
        name: String,
        /// The type.
        target: TypeId,
    },
    /// The same type with a word before it: `const`, `volatile`.
    Qualified(&'static str, TypeId),
    /// Code.
    Function {
        /// What it returns.
        result: TypeId,
        /// What it takes.
        parameters: Vec<TypeId>,
    },
    /// A structure or a union of which no more than the tag is known.
    Unfinished {
        /// Its tag.
        name: String,
        /// Whether it is a union.
        union: bool,
    },
    /// Nothing at all.
    Void,
}

/// How an integer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As a number.
    Number {
        /// Whether it may be negative.
        signed: bool,
    },
    /// As a number and a character.
    Char {
        /// Whether the number may be negative.
        signed: bool,
    },
    /// As `true` or `false`.
    Bool,
}

/// A part of a structure or a union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Empty for a structure whose members count as those of the one around it.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Where it begins, in bits.
    pub offset: u64,
    /// How many bits it has, if it is a bit field.
    pub bits: Option<u32>,
}

/// All types of a kernel and its modules.
#[derive(Debug, Default)]
pub struct Types {
    kernel: Option<Btf>,
    own: Vec<Type>,
    /// What was looked up before.
    found: HashMap<(Tag, String), TypeId>,
}

/// What kind of name a type has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tag {
    /// `struct x`.
    Struct,
    /// `union x`.
    Union,
    /// `enum x`.
    Enum,
    /// `x`: a typedef, or a type of the language.
    Plain,
}

impl Types {
    /// The types in a kernel's BTF.
    ///
    /// # Errors
    ///
    /// [`BtfError`] if that is damaged.
    pub fn of_btf(bytes: Vec<u8>) -> Result<Self, BtfError> {
        Ok(Self {
            kernel: Some(Btf::parse(bytes)?),
            ..Self::default()
        })
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kernel.is_none() && self.own.is_empty()
    }

    /// Adds a type that is none of the kernel's BTF.
    pub fn add(&mut self, ty: Type) -> TypeId {
        let number = OWN + self.own.len() as u32;
        self.own.push(ty);
        TypeId(number)
    }

    /// Says what a type is that was added before.
    pub fn set(&mut self, id: TypeId, ty: Type) {
        let number = id.0.checked_sub(OWN);
        if let Some(place) = number.and_then(|it| self.own.get_mut(it as usize)) {
            *place = ty;
        }
    }

    /// The type of this number; nothing for a number that none has.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Type {
        let found = match id.0.checked_sub(OWN) {
            Some(own) => self.own.get(own as usize).cloned(),
            None => self.kernel.as_ref().and_then(|btf| btf.get(id)),
        };
        found.unwrap_or(Type::Void)
    }

    /// The type of this name.
    pub fn find(&mut self, tag: Tag, name: &str) -> Option<TypeId> {
        if let Some(found) = self.found.get(&(tag, name.to_owned())) {
            return Some(*found);
        }
        let wanted = match tag {
            Tag::Struct => Kind::Struct,
            Tag::Union => Kind::Union,
            Tag::Enum => Kind::Enum,
            Tag::Plain => Kind::Plain,
        };
        let found = self.kernel.as_ref()?.find(name, |kind| *kind == wanted)?;
        self.found.insert((tag, name.to_owned()), found);
        Some(found)
    }

    /// The type of a variable that each processor has for itself, as BTF has it.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<TypeId> {
        self.kernel.as_ref()?.variable(name)
    }

    /// The type behind other names and qualifiers.
    #[must_use]
    pub fn bare(&self, id: TypeId) -> Type {
        self.get(self.bare_id(id))
    }

    /// The type of what a pointer leads to; `None` if the type is none of a pointer.
    #[must_use]
    pub fn pointed(&self, pointer: TypeId) -> Option<TypeId> {
        match self.bare(pointer) {
            Type::Pointer(target) => Some(target),
            _ => None,
        }
    }

    /// The number of the type behind other names and qualifiers.
    #[must_use]
    pub fn bare_id(&self, mut id: TypeId) -> TypeId {
        for _ in 0..DEEPEST {
            match self.get(id) {
                Type::Named { target, .. } | Type::Qualified(_, target) => id = target,
                _ => break,
            }
        }
        id
    }

    /// How many bytes a value takes; `None` if that is not known.
    #[must_use]
    pub fn size(&self, id: TypeId) -> Option<u64> {
        self.size_within(id, DEEPEST)
    }

    /// A member of a structure, also of an unnamed one inside it: its type, where it begins in bits,
    /// and how many it has if it is a bit field.
    #[must_use]
    pub fn member(&self, record: TypeId, name: &str) -> Option<Member> {
        self.member_within(record, name, DEEPEST, &Cell::new(MOST_STEPS))
    }

    /// Where a member begins, in bytes.
    #[must_use]
    pub fn offset(&self, record: TypeId, name: &str) -> Option<u64> {
        self.member(record, name).map(|member| member.offset / 8)
    }

    /// The type as C has it: `struct task_struct *`.
    #[must_use]
    pub fn name(&self, id: TypeId) -> String {
        self.declare(id, String::new(), DEEPEST, &Cell::new(MOST_STEPS))
    }

    /// A declaration of `what` as something of this type; pointers and arrays stand around it.
    fn declare(&self, id: TypeId, what: String, depth: usize, steps: &Cell<usize>) -> String {
        let depth = depth.checked_sub(1).filter(|_| is_left(steps));
        let Some(depth) = depth else {
            return "...".to_owned();
        };
        let spaced = |word: &str| match what.chars().next() {
            None => word.to_owned(),
            Some(_) => format!("{word} {what}"),
        };
        match self.get(id) {
            Type::Int { name, .. } | Type::Float { name, .. } | Type::Named { name, .. } => {
                spaced(&name)
            }
            Type::Record { name, union, .. } | Type::Unfinished { name, union } => {
                spaced(&tagged(if union { "union" } else { "struct" }, &name))
            }
            Type::Enum { name, .. } => spaced(&tagged("enum", &name)),
            Type::Void => spaced("void"),
            Type::Qualified(word, target) => match self.get(target) {
                _ if word.is_empty() => self.declare(target, what, depth, steps),
                Type::Pointer(_) => {
                    let inner = if what.is_empty() {
                        word.to_owned()
                    } else {
                        format!("{word} {what}")
                    };
                    self.declare(target, format!(" {inner}"), depth, steps)
                }
                _ => format!("{word} {}", self.declare(target, what, depth, steps)),
            },
            Type::Pointer(target) => match self.bare(target) {
                Type::Array { .. } | Type::Function { .. } => {
                    self.declare(target, format!("(*{what})"), depth, steps)
                }
                _ => self.declare(target, format!("*{what}"), depth, steps),
            },
            Type::Array { element, count } => {
                let count = count.map(|it| it.to_string()).unwrap_or_default();
                self.declare(element, format!("{what}[{count}]"), depth, steps)
            }
            Type::Function { result, parameters } => {
                let names = parameters.iter().map(|it| match it.0 {
                    0 => "...".to_owned(),
                    _ => self.declare(*it, String::new(), depth, steps),
                });
                let names: Vec<String> = names.collect();
                let names = if names.is_empty() {
                    "void".to_owned()
                } else {
                    names.join(", ")
                };
                self.declare(result, format!("{what}({names})"), depth, steps)
            }
        }
    }

    fn size_within(&self, id: TypeId, depth: usize) -> Option<u64> {
        match self.bare(id) {
            Type::Int { size, .. }
            | Type::Float { size, .. }
            | Type::Record { size, .. }
            | Type::Enum { size, .. } => Some(size),
            Type::Pointer(_) => Some(8),
            Type::Array { element, count } => {
                let size = self.size_within(element, depth.checked_sub(1)?)?;
                size.checked_mul(count.unwrap_or_default())
            }
            _ => None,
        }
    }

    fn member_within(
        &self,
        record: TypeId,
        name: &str,
        depth: usize,
        steps: &Cell<usize>,
    ) -> Option<Member> {
        let Type::Record { members, .. } = self.bare(record) else {
            return None;
        };
        if !is_left(steps) {
            return None;
        }
        let mut unnamed = members.iter().filter(|it| it.name.is_empty());
        let own = members.iter().find(|it| it.name == name).cloned();
        own.or_else(|| {
            unnamed.find_map(|around| {
                let inner = self.member_within(around.ty, name, depth.checked_sub(1)?, steps)?;
                Some(Member {
                    offset: around.offset.wrapping_add(inner.offset),
                    ..inner
                })
            })
        })
    }
}

/// Takes one of the steps that are left.
fn is_left(steps: &Cell<usize>) -> bool {
    let left = steps.get().checked_sub(1);
    steps.set(left.unwrap_or_default());
    left.is_some()
}

fn tagged(word: &str, name: &str) -> String {
    let name = if name.is_empty() { "{...}" } else { name };
    format!("{word} {name}")
}
