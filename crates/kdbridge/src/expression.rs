//! A small part of C: what `kdbridge print` is asked for.

mod parse;
mod token;

use thiserror::Error;

use crate::symbols::bytes::Bytes;
use crate::target::{Memory, TargetError};
use crate::types::{Encoding, Tag, Type, TypeId, Types};
use parse::{Node, NodeKind, TypeName, parse};

/// A value is at most this long.
const MOST_BYTES: u64 = 1 << 20;

/// What the names in an expression stand for.
pub trait Scope {
    /// The address of a variable or a function, and its type if that is known. A variable that each
    /// processor has for itself is that of `cpu`, or of the processor the scope was made for.
    ///
    /// # Errors
    ///
    /// [`ProblemKind`] if there is none, or if it cannot be told where it is.
    fn variable(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        cpu: Option<u32>,
    ) -> Result<(u64, Option<TypeId>), ProblemKind>;

    /// The type of a name.
    fn named_type(&mut self, tag: Tag, name: &str) -> Option<TypeId>;

    /// Types in general.
    fn types(&mut self) -> &mut Types;
}

/// What an expression comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub ty: TypeId,
    /// Where it is.
    pub place: Place,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory(u64),
    /// In memory, from this bit on, this many.
    Bits(u64, u64, u32),
    /// Nowhere; it was worked out.
    Computed(u64),
}

/// Works out an expression.
///
/// # Errors
///
/// [`Problem`] says what is wrong with it, and where.
pub fn evaluate(
    text: &str,
    scope: &mut dyn Scope,
    memory: &mut dyn Memory,
) -> Result<Value, Problem> {
    let mut is_type = |name: &str| scope.named_type(Tag::Plain, name).is_some();
    let node = parse(text, &mut is_type)?;
    Evaluation { scope, memory }.value(&node)
}

/// The number that a value is; of a function, an array, or what has no known type, where it is.
///
/// # Errors
///
/// [`ProblemKind`] if it is no number, or cannot be read.
pub fn number_of(
    value: Value,
    scope: &mut dyn Scope,
    memory: &mut dyn Memory,
) -> Result<u64, ProblemKind> {
    let mut evaluation = Evaluation { scope, memory };
    let value = evaluation.decayed(value);
    match (evaluation.scope.types().bare(value.ty), value.place) {
        (Type::Void, Place::Memory(address)) => Ok(address),
        _ => evaluation.load(value),
    }
}

struct Evaluation<'a> {
    scope: &'a mut dyn Scope,
    memory: &'a mut dyn Memory,
}

impl Evaluation<'_> {
    fn value(&mut self, node: &Node) -> Result<Value, Problem> {
        let at = node.at;
        let problem = |kind| Problem { at, kind };
        match &node.kind {
            NodeKind::Number(number) => Ok(self.number(*number)),
            NodeKind::Name(name) => self.variable(name, None).map_err(problem),
            NodeKind::Address(inner) => {
                let value = self.value(inner)?;
                self.address(value).map_err(problem)
            }
            NodeKind::Target(inner) => {
                let value = self.value(inner)?;
                self.target(value).map_err(problem)
            }
            NodeKind::Negative(inner) => {
                let value = self.integer(inner)?;
                Ok(self.number(value.wrapping_neg()))
            }
            NodeKind::Member(inner, name, through) => {
                let mut value = self.value(inner)?;
                if *through || self.is_pointer(value.ty) {
                    value = self.target(value).map_err(problem)?;
                }
                self.member(value, name).map_err(problem)
            }
            NodeKind::Element(inner, index) => {
                let value = self.value(inner)?;
                let index = self.integer(index)?;
                self.element(value, index).map_err(problem)
            }
            NodeKind::Cast(name, inner) => {
                let ty = self.named(name)?;
                let value = self.value(inner)?;
                self.cast(ty, value).map_err(problem)
            }
            NodeKind::Sum(left, right, minus) => {
                let (left, right) = (self.value(left)?, self.integer(right)?);
                let right = if *minus { right.wrapping_neg() } else { right };
                self.sum(left, right).map_err(problem)
            }
            NodeKind::Size(what) => {
                let ty = match what {
                    Ok(name) => self.named(name)?,
                    Err(inner) => self.value(inner)?.ty,
                };
                let size = self.scope.types().size(ty);
                Ok(self.number(size.ok_or_else(|| problem(ProblemKind::NoSize))?))
            }
            NodeKind::PerCpu(variable, number) => {
                let cpu = self.integer(number)?;
                let cpu = u32::try_from(cpu).map_err(|_| problem(ProblemKind::NoCpu(cpu)))?;
                self.on_cpu(variable, cpu)
            }
        }
    }

    /// An expression that begins with a variable of each processor, for one of them.
    fn on_cpu(&mut self, node: &Node, cpu: u32) -> Result<Value, Problem> {
        let at = node.at;
        let problem = |kind| Problem { at, kind };
        match &node.kind {
            NodeKind::Name(name) => self.variable(name, Some(cpu)).map_err(problem),
            NodeKind::Member(inner, name, false) => {
                let value = self.on_cpu(inner, cpu)?;
                self.member(value, name).map_err(problem)
            }
            NodeKind::Element(inner, index) => {
                let value = self.on_cpu(inner, cpu)?;
                let index = self.integer(index)?;
                self.element(value, index).map_err(problem)
            }
            _ => Err(problem(ProblemKind::NotPerCpu)),
        }
    }

    fn variable(&mut self, name: &str, cpu: Option<u32>) -> Result<Value, ProblemKind> {
        let (address, ty) = self.scope.variable(self.memory, name, cpu)?;
        let place = Place::Memory(address);
        let ty = ty.unwrap_or(TypeId::VOID);
        Ok(Value { ty, place })
    }

    fn number(&mut self, number: u64) -> Value {
        Value {
            ty: self.basic("long int", true),
            place: Place::Computed(number),
        }
    }

    fn basic(&mut self, name: &str, signed: bool) -> TypeId {
        if let Some(ty) = self.scope.named_type(Tag::Plain, name) {
            return ty;
        }
        self.scope.types().add(Type::Int {
            name: name.to_owned(),
            size: 8,
            encoding: Encoding::Number { signed },
        })
    }

    fn address(&mut self, value: Value) -> Result<Value, ProblemKind> {
        let Place::Memory(address) = value.place else {
            return Err(ProblemKind::NoAddress);
        };
        let ty = self.scope.types().add(Type::Pointer(value.ty));
        let place = Place::Computed(address);
        Ok(Value { ty, place })
    }

    fn target(&mut self, value: Value) -> Result<Value, ProblemKind> {
        let (ty, address) = match (self.scope.types().bare(value.ty), value.place) {
            (Type::Pointer(target), _) => (target, self.load(value)?),
            (Type::Array { element, .. }, Place::Memory(address)) => (element, address),
            (Type::Function { .. }, Place::Memory(_)) => return Ok(value),
            _ => {
                let name = self.scope.types().name(value.ty);
                return Err(ProblemKind::NotAPointer(name));
            }
        };
        let ty = self.complete(ty);
        let place = Place::Memory(address);
        Ok(Value { ty, place })
    }

    /// A structure of which one unit knows no more than the tag may be known to another.
    fn complete(&mut self, ty: TypeId) -> TypeId {
        let (tag, name) = match self.scope.types().bare(ty) {
            Type::Unfinished { name, union: false } => (Tag::Struct, name),
            Type::Unfinished { name, union: true } => (Tag::Union, name),
            _ => return ty,
        };
        self.scope.named_type(tag, &name).unwrap_or(ty)
    }

    fn member(&mut self, value: Value, name: &str) -> Result<Value, ProblemKind> {
        let types = self.scope.types();
        let member = types
            .member(value.ty, name)
            .ok_or_else(|| match types.bare(value.ty) {
                Type::Record { .. } => ProblemKind::NoMember(types.name(value.ty), name.to_owned()),
                Type::Void => ProblemKind::NoType,
                _ => ProblemKind::NotAStructure(types.name(value.ty)),
            })?;
        let Place::Memory(address) = value.place else {
            return Err(ProblemKind::NoAddress);
        };
        let place = match member.bits {
            Some(bits) => Place::Bits(address, member.offset, bits),
            None => Place::Memory(address.wrapping_add(member.offset / 8)),
        };
        let ty = member.ty;
        Ok(Value { ty, place })
    }

    fn element(&mut self, value: Value, index: u64) -> Result<Value, ProblemKind> {
        let first = self.target(value)?;
        let Place::Memory(address) = first.place else {
            return Err(ProblemKind::NoAddress);
        };
        let size = self.scope.types().size(first.ty);
        let distance = size.ok_or(ProblemKind::NoSize)?.wrapping_mul(index);
        let place = Place::Memory(address.wrapping_add(distance));
        Ok(Value { place, ..first })
    }

    fn cast(&mut self, ty: TypeId, value: Value) -> Result<Value, ProblemKind> {
        let types = self.scope.types();
        let place = match (types.bare(ty), types.bare(value.ty), value.place) {
            (Type::Record { .. } | Type::Array { .. }, _, Place::Computed(_)) => {
                return Err(ProblemKind::NoAddress);
            }
            (Type::Record { .. } | Type::Array { .. }, _, place) => place,
            // An array or a function stands for its address.
            (_, Type::Array { .. } | Type::Function { .. }, Place::Memory(address)) => {
                Place::Computed(address)
            }
            // The name of something without a known type is as good as its address.
            (_, Type::Void, Place::Memory(address)) => Place::Computed(address),
            _ => Place::Computed(self.load(value)?),
        };
        Ok(Value { ty, place })
    }

    /// An array is as good as the address of its first element, and a function as its own.
    fn decayed(&mut self, value: Value) -> Value {
        let types = self.scope.types();
        let target = match types.bare(value.ty) {
            Type::Array { element, .. } => element,
            Type::Function { .. } => value.ty,
            _ => return value,
        };
        let Place::Memory(address) = value.place else {
            return value;
        };
        let place = Place::Computed(address);
        let ty = types.add(Type::Pointer(target));
        Value { ty, place }
    }

    fn sum(&mut self, left: Value, right: u64) -> Result<Value, ProblemKind> {
        let left = self.decayed(left);
        let types = self.scope.types();
        let step = match types.bare(left.ty) {
            Type::Pointer(target) => types.size(target).unwrap_or(1).max(1),
            _ => 1,
        };
        let number = self.load(left)?.wrapping_add(right.wrapping_mul(step));
        let place = Place::Computed(number);
        let ty = left.ty;
        Ok(Value { ty, place })
    }

    fn integer(&mut self, node: &Node) -> Result<u64, Problem> {
        let value = self.value(node)?;
        let at = node.at;
        self.load(value).map_err(|kind| Problem { at, kind })
    }

    /// The number that a value is.
    fn load(&mut self, value: Value) -> Result<u64, ProblemKind> {
        let types = self.scope.types();
        let signed = match types.bare(value.ty) {
            Type::Int { encoding, .. } => matches!(
                encoding,
                Encoding::Number { signed: true } | Encoding::Char { signed: true }
            ),
            Type::Pointer(_) => false,
            Type::Enum { signed, .. } => signed,
            Type::Void => return Err(ProblemKind::NoType),
            _ => return Err(ProblemKind::NotANumber(types.name(value.ty))),
        };
        let size = types.size(value.ty).unwrap_or(8).clamp(1, 8);
        let (number, bits) = match value.place {
            Place::Computed(number) => (number, size as u32 * 8),
            Place::Memory(_) => (whole(&bytes_of(value, size, self.memory)?), size as u32 * 8),
            Place::Bits(address, offset, bits) => {
                (bits_at(self.memory, address, offset, bits)?, bits)
            }
        };
        let unused = 64 - bits.clamp(1, 64);
        let shifted = number << unused;
        Ok(if signed {
            (shifted.cast_signed() >> unused).cast_unsigned()
        } else {
            shifted >> unused
        })
    }

    fn is_pointer(&mut self, ty: TypeId) -> bool {
        matches!(self.scope.types().bare(ty), Type::Pointer(_))
    }

    fn named(&mut self, name: &TypeName) -> Result<TypeId, Problem> {
        let found = match name.name.as_str() {
            "void" => Some(TypeId::VOID),
            text => self.scope.named_type(name.tag, text),
        };
        let mut ty = found.ok_or_else(|| Problem {
            at: name.at,
            kind: ProblemKind::NoSuchType(name.name.clone()),
        })?;
        for _ in 0..name.pointers {
            ty = self.scope.types().add(Type::Pointer(ty));
        }
        Ok(ty)
    }
}

/// The bytes of a value of `size`.
///
/// # Errors
///
/// [`ProblemKind`] if it is too long, or cannot be read.
pub fn bytes_of(value: Value, size: u64, memory: &mut dyn Memory) -> Result<Vec<u8>, ProblemKind> {
    if size > MOST_BYTES {
        return Err(ProblemKind::TooLong(size));
    }
    let mut bytes = vec![0; size as usize];
    match value.place {
        Place::Memory(address) => memory.read(address, &mut bytes)?,
        Place::Computed(number) => {
            for (byte, from) in bytes.iter_mut().zip(number.to_le_bytes()) {
                *byte = from;
            }
        }
        Place::Bits(..) => return Err(ProblemKind::NoAddress),
    }
    Ok(bytes)
}

/// So many bits, of which the first is `offset` bits behind the address.
pub(crate) fn bits_at(
    memory: &mut dyn Memory,
    address: u64,
    offset: u64,
    bits: u32,
) -> Result<u64, TargetError> {
    let mut bytes = [0; 8];
    let size = (offset % 8 + u64::from(bits)).div_ceil(8).min(8) as usize;
    memory.read(address.wrapping_add(offset / 8), &mut bytes[..size])?;
    let mask = u64::MAX >> (64 - bits.clamp(1, 64));
    Ok(u64::from_le_bytes(bytes) >> (offset % 8) & mask)
}

fn whole(bytes: &[u8]) -> u64 {
    let mut word = bytes.to_vec();
    word.resize(8, 0);
    word.u64(0).unwrap_or_default()
}

/// What is wrong with an expression, and at which of its bytes.
#[derive(Debug, Error)]
#[error("{kind}")]
pub struct Problem {
    /// Where, in bytes from the beginning.
    pub at: usize,
    /// What.
    #[source]
    pub kind: ProblemKind,
}

impl Problem {
    /// The expression with a mark below the place that is meant.
    #[must_use]
    pub fn shown_in(&self, text: &str) -> String {
        let before = text.get(..self.at).unwrap_or(text).chars().count();
        format!("{text}\n{}^ {}", " ".repeat(before), self.kind)
    }
}

/// What can be wrong with an expression.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Nothing begins with this character.
    #[error("`{0}` has no meaning here")]
    Character(char),
    /// A word begins with a digit and is no number.
    #[error("`{0}` is no number")]
    Number(String),
    /// Something else should stand here.
    #[error("{0} is expected here")]
    Expected(&'static str),
    /// Expressions in expressions, without end.
    #[error("this goes too deep")]
    TooDeep,
    /// No variable has this name.
    #[error("the kernel has no symbol `{0}`")]
    NoSymbol(String),
    /// No type has this name.
    #[error("the kernel has no type `{0}`")]
    NoSuchType(String),
    /// The structure has no such member.
    #[error("`{0}` has no member `{1}`")]
    NoMember(String, String),
    /// Only a structure has members.
    #[error("`{0}` is neither a structure nor a union")]
    NotAStructure(String),
    /// Only a pointer leads somewhere.
    #[error("`{0}` is no pointer")]
    NotAPointer(String),
    /// Only numbers can be reckoned with.
    #[error("`{0}` is no number")]
    NotANumber(String),
    /// A variable without a known type.
    #[error(
        "its type is not known without debug information: cast its address, as in `*(int *)&x`"
    )]
    NoType,
    /// A type without a known size.
    #[error("its size is not known")]
    NoSize,
    /// What lies in no memory, or in a part of a byte.
    #[error("it has no address")]
    NoAddress,
    /// More than anybody would want to read.
    #[error("it is {0} bytes long, which is too much to print")]
    TooLong(u64),
    /// There is no processor of this number.
    #[error("there is no processor {0}")]
    NoCpu(u64),
    /// `per_cpu` is for variables that each processor has for itself.
    #[error("no variable that each processor has for itself")]
    NotPerCpu,
    /// The debug information could not be used.
    #[error("the debug information cannot be used")]
    DebugInfo(#[source] crate::symbols::DwarfError),
    /// Memory that is needed for it cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Image;
    use crate::types::Member;

    const AT: u64 = 0x1000;

    struct Kernel {
        types: Types,
        named: Vec<(Tag, &'static str, TypeId)>,
        node: TypeId,
    }

    impl Kernel {
        /// `struct node { int value; int low:4; struct node *next; int list[2]; }`
        fn new() -> Self {
            let mut types = Types::default();
            let int = types.add(Type::Int {
                name: "int".into(),
                size: 4,
                encoding: Encoding::Number { signed: true },
            });
            let node = types.add(Type::Void);
            let next = types.add(Type::Pointer(node));
            let count = Some(2);
            let list = types.add(Type::Array {
                element: int,
                count,
            });
            let member = |name: &str, ty, offset: u64, bits| Member {
                name: name.into(),
                ty,
                offset: offset * 8,
                bits,
            };
            types.set(
                node,
                Type::Record {
                    name: "node".into(),
                    union: false,
                    size: 24,
                    members: vec![
                        member("value", int, 0, None),
                        member("low", int, 4, Some(4)),
                        member("next", next, 8, None),
                        member("list", list, 16, None),
                    ],
                },
            );
            let named = vec![(Tag::Struct, "node", node), (Tag::Plain, "int", int)];
            Self { types, named, node }
        }
    }

    impl Scope for Kernel {
        fn variable(
            &mut self,
            _: &mut dyn Memory,
            name: &str,
            cpu: Option<u32>,
        ) -> Result<(u64, Option<TypeId>), ProblemKind> {
            match name {
                "first" => Ok((AT + u64::from(cpu.unwrap_or(0)) * 24, Some(self.node))),
                "untyped" => Ok((AT, None)),
                _ => Err(ProblemKind::NoSymbol(name.into())),
            }
        }

        fn named_type(&mut self, tag: Tag, name: &str) -> Option<TypeId> {
            let mut named = self.named.iter();
            let found = named.find(|it| (it.0, it.1) == (tag, name))?;
            Some(found.2)
        }

        fn types(&mut self) -> &mut Types {
            &mut self.types
        }
    }

    fn node(value: u32, low: u32, next: u64, list: [u32; 2]) -> Vec<u8> {
        let mut node = [value, low].map(u32::to_le_bytes).concat();
        node.extend(next.to_le_bytes());
        node.extend(list.map(u32::to_le_bytes).concat());
        node
    }

    fn memory() -> Image {
        let first = node(7, 0xf3, AT + 24, [10, 11]);
        Image::new(AT, [first, node(8, 0xfd, AT, [20, 21])].concat())
    }

    /// What an expression comes to as a number, or what is wrong with it.
    fn number(text: &str) -> Result<i64, String> {
        let (mut kernel, mut memory) = (Kernel::new(), memory());
        let value = evaluate(text, &mut kernel, &mut memory);
        let value = value.map_err(|it| it.shown_in(text))?;
        let (scope, memory) = (&mut kernel, &mut memory);
        let number = Evaluation { scope, memory }.load(value);
        number.map(u64::cast_signed).map_err(|it| it.to_string())
    }

    #[test]
    fn members_elements_and_pointers_are_followed() {
        assert_eq!(number("first.value"), Ok(7));
        assert_eq!(number("first.next->value"), Ok(8));
        assert_eq!(number("first.next.value"), Ok(8), "as GDB allows it");
        assert_eq!(number("(*first.next).list[1]"), Ok(21));
        assert_eq!(number("*first.list"), Ok(10));
        assert_eq!(number("first.next->next->list[0]"), Ok(10));
    }

    #[test]
    fn bit_fields_keep_their_sign() {
        assert_eq!(number("first.low"), Ok(3));
        assert_eq!(number("first.next->low"), Ok(-3));
    }

    #[test]
    fn numbers_and_addresses_are_reckoned_with() {
        assert_eq!(number("0x10 + 010 - 2"), Ok(22));
        assert_eq!(number("-1"), Ok(-1));
        assert_eq!(number("&first"), Ok(AT as i64));
        assert_eq!(number("&first + 1"), Ok(AT as i64 + 24));
        assert_eq!(number("(&first)[1].value"), Ok(8));
        assert_eq!(number("*(first.list + 1)"), Ok(11));
        assert_eq!(number("sizeof(struct node) + sizeof(first.value)"), Ok(28));
    }

    #[test]
    fn casts_give_a_type_to_what_has_none() {
        assert_eq!(number("((struct node*)0x1018)->value"), Ok(8));
        assert_eq!(number("*(int *)&untyped"), Ok(7));
        assert_eq!(number("(struct node *)untyped"), Ok(AT as i64));
        assert_eq!(number("(*(const struct node *) first.next).value"), Ok(8));
        let error = number("((struct node)0).value").unwrap_err();
        assert!(error.ends_with("^ it has no address"), "{error}");
    }

    #[test]
    fn a_variable_of_another_processor() {
        assert_eq!(number("per_cpu(first, 1).value"), Ok(8));
        assert_eq!(number("per_cpu(first.list[1], 1)"), Ok(21));
        assert!(number("per_cpu(1, 1)").is_err());
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_is() {
        let shown = [
            (
                "first.nothing",
                "     ^ `struct node` has no member `nothing`",
            ),
            (
                "first.value.x",
                "           ^ `int` is neither a structure nor a union",
            ),
            ("1 + nobody", "    ^ the kernel has no symbol `nobody`"),
            ("*(struct x *)1", "  ^ the kernel has no type `x`"),
            (
                "first.list[",
                "           ^ a name, a number or `(` is expected here",
            ),
            ("(first", "      ^ ) is expected here"),
            ("first first", "      ^ the end is expected here"),
            ("1 # 2", "  ^ `#` has no meaning here"),
            ("0x", "^ `0x` is no number"),
            ("", "^ a name, a number or `(` is expected here"),
        ];
        for (text, mark) in shown {
            assert_eq!(number(text).unwrap_err(), format!("{text}\n{mark}"));
        }
        assert!(
            number("untyped.value")
                .unwrap_err()
                .contains("cast its address")
        );
        assert!(number("*0xdead0000").is_err());
        assert!(number("((struct node *)0xdead0000)->value").is_err());
    }

    #[test]
    fn an_expression_without_end_is_refused() {
        for text in ["(", "*", "-", "&"] {
            assert!(number(&text.repeat(100_000)).is_err());
        }
        let long = format!("first{}", ".next".repeat(100_000));
        assert!(number(&long).is_err());
        let long = format!("first{}", ".next".repeat(100));
        assert_eq!(number(&format!("{long}->value")), Ok(7));
    }
}
