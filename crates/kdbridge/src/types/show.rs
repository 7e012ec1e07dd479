//! Values as text, in the way that GDB writes them, so that what is known of the one can be read in
//! the other.

use super::{Encoding, Member, Type, TypeId, Types};
use crate::symbols::bytes::Bytes;
use crate::target::Memory;

/// Of more equal elements in a row than this, the number is written instead.
const REPEATS: usize = 10;
/// As many elements of an array, or characters of a string, are written.
const MOST_ELEMENTS: usize = 200;
/// No more text than this is made of one value.
const MOST_TEXT: usize = 4 << 20;
/// Values in values are followed this far.
const DEEPEST: usize = 64;

/// What a value is written with.
pub struct Show<'a> {
    /// What its parts are.
    pub types: &'a Types,
    /// The name of what is at an address, as `<name+offset>`.
    pub symbol: &'a dyn Fn(u64) -> Option<String>,
    /// Where strings are that it points at.
    pub memory: &'a mut dyn Memory,
}

impl std::fmt::Debug for Show<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Show").finish_non_exhaustive()
    }
}

impl Show<'_> {
    /// A value of type `ty` that consists of `bytes` and lies at `at`. What is pointed at is named
    /// with its type.
    pub fn value(&mut self, ty: TypeId, bytes: &[u8], at: u64) -> String {
        let mut text = String::new();
        if let Type::Pointer(target) = self.types.bare(ty)
            && self.character(target).is_none()
        {
            text = format!("({}) ", self.types.name(ty));
        }
        self.put(&mut text, ty, bytes, at, 0);
        text
    }

    /// A number that stands in a bit field or in a register.
    pub fn number(&mut self, ty: TypeId, value: u64, bits: u32) -> String {
        let mut text = String::new();
        self.put_number(&mut text, ty, value, bits);
        text
    }

    fn put(&mut self, text: &mut String, ty: TypeId, bytes: &[u8], at: u64, depth: usize) {
        if text.len() > MOST_TEXT || depth > DEEPEST {
            text.push_str("...");
            return;
        }
        match self.types.bare(ty) {
            Type::Record { members, .. } => self.put_record(text, &members, bytes, at, depth),
            Type::Array { element, count } => match count {
                Some(count) if count > 0 => self.put_array(text, element, bytes, at, depth),
                _ => self.put_pointer(text, element, at),
            },
            Type::Pointer(target) => {
                self.put_pointer(text, target, bytes.u64(0).unwrap_or_default());
            }
            Type::Float { size, .. } => put_float(text, size, bytes),
            Type::Function { .. } => {
                let name = (self.symbol)(at).unwrap_or_default();
                put(
                    text,
                    format_args!("{{{}}} {at:#x} {name}", self.types.name(ty)),
                );
            }
            Type::Void => text.push_str("void"),
            Type::Unfinished { .. } => text.push_str("<incomplete type>"),
            _ => {
                let bits = bytes.len().min(8) as u32 * 8;
                self.put_number(text, ty, bytes.number(), bits);
            }
        }
    }

    fn put_record(
        &mut self,
        text: &mut String,
        members: &[Member],
        bytes: &[u8],
        at: u64,
        depth: usize,
    ) {
        if members.is_empty() {
            text.push_str("{<No data fields>}");
            return;
        }
        text.push('{');
        for (number, member) in members.iter().enumerate() {
            if number > 0 {
                text.push_str(", ");
            }
            if !member.name.is_empty() {
                put(text, format_args!("{} = ", member.name));
            }
            self.put_member(text, member, bytes, at, depth);
        }
        text.push('}');
    }

    fn put_member(
        &mut self,
        text: &mut String,
        member: &Member,
        bytes: &[u8],
        at: u64,
        depth: usize,
    ) {
        if let Some(bits) = member.bits {
            let value = bit_field(bytes, member.offset, bits);
            self.put_number(text, member.ty, value, bits);
            return;
        }
        let offset = member.offset / 8;
        let size = self.types.size(member.ty).unwrap_or_default();
        let begin = offset as usize;
        let part = begin.checked_add(size as usize);
        match part.and_then(|end| bytes.get(begin..end)) {
            Some(part) => self.put(text, member.ty, part, at.wrapping_add(offset), depth + 1),
            None => text.push_str("<outside>"),
        }
    }

    fn put_array(
        &mut self,
        text: &mut String,
        element: TypeId,
        bytes: &[u8],
        at: u64,
        depth: usize,
    ) {
        if self.character(element).is_some() {
            put_string(text, strip_last_zero(bytes), false);
            return;
        }
        let size = self.types.size(element).unwrap_or_default() as usize;
        if size == 0 {
            put(text, format_args!("{at:#x}"));
            return;
        }
        text.push('{');
        let mut rest = bytes;
        let mut left = MOST_ELEMENTS;
        while let Some(first) = rest.get(..size).filter(|_| left > 0) {
            if rest.len() < bytes.len() {
                text.push_str(", ");
            }
            let same = rest
                .chunks_exact(size)
                .take_while(|it| *it == first)
                .count();
            let done = (bytes.len() - rest.len()) as u64;
            self.put(text, element, first, at.wrapping_add(done), depth + 1);
            let taken = if same > REPEATS { same } else { 1 };
            if taken > 1 {
                put(text, format_args!(" <repeats {same} times>"));
            }
            left = left.saturating_sub(taken.min(REPEATS));
            rest = &rest[taken * size..];
        }
        text.push_str(if rest.len() >= size { "...}" } else { "}" });
    }

    fn put_pointer(&mut self, text: &mut String, target: TypeId, to: u64) {
        put(text, format_args!("{to:#x}"));
        if let Some(name) = (self.symbol)(to) {
            put(text, format_args!(" {name}"));
        }
        if self.character(target).is_some() && to != 0 {
            match self.string(to) {
                Some((string, is_cut)) => {
                    text.push(' ');
                    put_string(text, &string, is_cut);
                }
                None => put(
                    text,
                    format_args!(" <error: Cannot access memory at address {to:#x}>"),
                ),
            }
        }
    }

    fn put_number(&mut self, text: &mut String, ty: TypeId, value: u64, bits: u32) {
        match self.types.bare(ty) {
            Type::Int { encoding, .. } => put_int(text, encoding, value, bits),
            Type::Enum { signed, values, .. } => {
                let value = if signed {
                    extended(value, bits).into()
                } else {
                    value.into()
                };
                put_enum(text, &values, value);
            }
            Type::Pointer(target) => self.put_pointer(text, target, value),
            _ => put(text, format_args!("{value}")),
        }
    }

    /// Whether characters are of this type, and whether they may be negative.
    fn character(&self, ty: TypeId) -> Option<bool> {
        match self.types.bare(ty) {
            Type::Int {
                encoding: Encoding::Char { signed },
                ..
            } => Some(signed),
            _ => None,
        }
    }

    /// The string at an address, and whether it goes on.
    fn string(&mut self, at: u64) -> Option<(Vec<u8>, bool)> {
        let mut string = Vec::new();
        while string.len() < MOST_ELEMENTS {
            let mut byte = [0];
            match self
                .memory
                .read(at.wrapping_add(string.len() as u64), &mut byte)
            {
                Ok(()) if byte == [0] => return Some((string, false)),
                Ok(()) => string.extend(byte),
                Err(_) if string.is_empty() => return None,
                Err(_) => return Some((string, true)),
            }
        }
        Some((string, true))
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.push_str(&arguments.to_string());
}

fn bit_field(bytes: &[u8], offset: u64, bits: u32) -> u64 {
    let begin = (offset / 8) as usize;
    let bytes = bytes.get(begin..).unwrap_or_default();
    let around = bytes.iter().take(9).rev();
    let around = around.fold(0, |value: u128, byte| value << 8 | u128::from(*byte));
    let mask = (1u128 << bits.min(64)) - 1;
    (around >> (offset % 8) & mask) as u64
}

fn extended(value: u64, bits: u32) -> i64 {
    let unused = 64 - bits.clamp(1, 64);
    (value << unused).cast_signed() >> unused
}

fn put_int(text: &mut String, encoding: Encoding, value: u64, bits: u32) {
    match encoding {
        Encoding::Bool if value == 0 => text.push_str("false"),
        Encoding::Bool if value == 1 => text.push_str("true"),
        Encoding::Number { signed: true } => put(text, format_args!("{}", extended(value, bits))),
        Encoding::Char { signed } => {
            if signed {
                put(text, format_args!("{}", extended(value, bits)));
            } else {
                put(text, format_args!("{value}"));
            }
            text.push_str(" '");
            put_character(text, value as u8, b'\'');
            text.push('\'');
        }
        _ => put(text, format_args!("{value}")),
    }
}

/// One name, or for flags the names of those that are set.
fn put_enum(text: &mut String, values: &[(String, i128)], value: i128) {
    if let Some((name, _)) = values.iter().find(|(_, it)| *it == value) {
        text.push_str(name);
        return;
    }
    if !are_flags(values) || value == 0 {
        put(text, format_args!("{value}"));
        return;
    }
    let set = values
        .iter()
        .filter(|(_, it)| *it != 0 && value & it == *it);
    let rest = set.clone().fold(value, |rest, (_, it)| rest & !it);
    let mut names: Vec<String> = set.map(|(name, _)| name.clone()).collect();
    if rest != 0 {
        names.push(format!("unknown: {rest:#x}"));
    }
    put(text, format_args!("({})", names.join(" | ")));
}

/// Whether no two names stand for the same bit, and each for bits side by side.
fn are_flags(values: &[(String, i128)]) -> bool {
    let mut seen: i128 = 0;
    values.iter().all(|(_, value)| {
        let lowest = *value & value.wrapping_neg();
        let is_run = *value == 0 || (*value > 0 && (value + lowest) & value == 0);
        let is_new = seen & value == 0;
        seen |= value;
        is_run && is_new
    })
}

fn put_float(text: &mut String, size: u64, bytes: &[u8]) {
    match size {
        4 => put(
            text,
            format_args!("{}", f32::from_bits(bytes.number() as u32)),
        ),
        8 => put(text, format_args!("{}", f64::from_bits(bytes.number()))),
        _ => text.push_str("<float>"),
    }
}

fn strip_last_zero(bytes: &[u8]) -> &[u8] {
    match bytes.split_last() {
        Some((0, rest)) => rest,
        _ => bytes,
    }
}

/// A string in quotes; a character that is repeated often stands by itself.
fn put_string(text: &mut String, bytes: &[u8], is_cut: bool) {
    if bytes.is_empty() {
        text.push_str("\"\"");
        return;
    }
    let mut left = MOST_ELEMENTS;
    let mut rest = bytes;
    let mut quoted = false;
    while let Some(&first) = rest.first().filter(|_| left > 0) {
        let same = rest.iter().take_while(|it| **it == first).count();
        if same > REPEATS {
            if quoted {
                text.push('"');
            }
            if rest.len() < bytes.len() {
                text.push_str(", ");
            }
            text.push('\'');
            put_character(text, first, b'\'');
            put(text, format_args!("' <repeats {same} times>"));
            quoted = false;
            left = left.saturating_sub(REPEATS);
            rest = &rest[same..];
            continue;
        }
        if !quoted {
            text.push_str(if rest.len() < bytes.len() {
                ", \""
            } else {
                "\""
            });
            quoted = true;
        }
        put_character(text, first, b'"');
        left -= 1;
        rest = &rest[1..];
    }
    if quoted {
        text.push('"');
    }
    if is_cut || !rest.is_empty() {
        text.push_str("...");
    }
}

/// A character of a text between two of `quote`.
fn put_character(text: &mut String, byte: u8, quote: u8) {
    match byte {
        7 => text.push_str("\\a"),
        8 => text.push_str("\\b"),
        9 => text.push_str("\\t"),
        10 => text.push_str("\\n"),
        11 => text.push_str("\\v"),
        12 => text.push_str("\\f"),
        13 => text.push_str("\\r"),
        27 => text.push_str("\\033"),
        b'\\' => text.push_str("\\\\"),
        it if it == quote => {
            text.push('\\');
            text.push(it.into());
        }
        b' '..=b'~' => text.push(byte.into()),
        _ => put(text, format_args!("\\{byte:03o}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Image;

    const CHAR: Encoding = Encoding::Char { signed: true };
    const INT: Encoding = Encoding::Number { signed: true };

    fn int(types: &mut Types, name: &str, size: u64, encoding: Encoding) -> TypeId {
        let name = name.to_owned();
        types.add(Type::Int {
            name,
            size,
            encoding,
        })
    }

    fn array(types: &mut Types, element: TypeId, count: u64) -> TypeId {
        let count = Some(count);
        types.add(Type::Array { element, count })
    }

    fn shown(types: &Types, ty: TypeId, bytes: &[u8]) -> String {
        let symbol = |at| (at == 0x1000).then(|| "<jiffies>".to_owned());
        let mut memory = Image::new(0x1000, b"hello\0".to_vec());
        let mut show = Show {
            types,
            symbol: &symbol,
            memory: &mut memory,
        };
        show.value(ty, bytes, 0x1000)
    }

    fn member(name: &str, ty: TypeId, offset: u64, bits: Option<u32>) -> Member {
        Member {
            name: name.to_owned(),
            ty,
            offset,
            bits,
        }
    }

    #[test]
    fn numbers_characters_and_truth() {
        let mut types = Types::default();
        let number = int(&mut types, "int", 4, INT);
        assert_eq!(shown(&types, number, &[0xff, 0xff, 0xff, 0xff]), "-1");
        let unsigned = int(&mut types, "u16", 2, Encoding::Number { signed: false });
        assert_eq!(shown(&types, unsigned, &[0xff, 0xff]), "65535");
        let character = int(&mut types, "char", 1, CHAR);
        assert_eq!(shown(&types, character, b"a"), "97 'a'");
        assert_eq!(shown(&types, character, &[0]), r"0 '\000'");
        assert_eq!(shown(&types, character, b"'"), r"39 '\''");
        let truth = int(&mut types, "_Bool", 1, Encoding::Bool);
        assert_eq!(shown(&types, truth, &[1]), "true");
        assert_eq!(shown(&types, truth, &[7]), "7");
    }

    #[test]
    fn repeated_elements_are_counted() {
        let mut types = Types::default();
        let byte = int(&mut types, "int", 4, INT);
        let numbers = array(&mut types, byte, 12);
        assert_eq!(shown(&types, numbers, &[0; 48]), "{0 <repeats 12 times>}");
        let mut bytes = [0; 48];
        bytes[4] = 5;
        let text = "{0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}";
        assert_eq!(shown(&types, numbers, &bytes), text);
        let many = array(&mut types, byte, 300);
        let bytes: Vec<u8> = (0..300u32).flat_map(u32::to_le_bytes).collect();
        assert!(shown(&types, many, &bytes).ends_with("198, 199...}"));
    }

    #[test]
    fn texts_lose_one_zero_and_count_the_others() {
        let mut types = Types::default();
        let character = int(&mut types, "char", 1, CHAR);
        let name = array(&mut types, character, 16);
        let mut bytes = *b"swapper/0\0\0\0\0\0\0\0";
        let text = r#""swapper/0\000\000\000\000\000\000""#;
        assert_eq!(shown(&types, name, &bytes), text);
        bytes[3..].fill(0);
        let text = r#""swa", '\000' <repeats 12 times>"#;
        assert_eq!(shown(&types, name, &bytes), text);
        assert_eq!(shown(&types, name, &[0; 16]), r"'\000' <repeats 15 times>");
        let one = array(&mut types, character, 1);
        assert_eq!(shown(&types, one, &[0]), "\"\"");
    }

    #[test]
    fn pointers_say_where_they_lead() {
        let mut types = Types::default();
        let character = int(&mut types, "char", 1, CHAR);
        let text = types.add(Type::Pointer(character));
        let at = 0x1000u64.to_le_bytes();
        assert_eq!(shown(&types, text, &at), r#"0x1000 <jiffies> "hello""#);
        assert_eq!(shown(&types, text, &[0; 8]), "0x0");
        let nowhere = "0x5000 <error: Cannot access memory at address 0x5000>";
        assert_eq!(shown(&types, text, &0x5000u64.to_le_bytes()), nowhere);
        let number = int(&mut types, "int", 4, INT);
        let pointer = types.add(Type::Pointer(number));
        assert_eq!(shown(&types, pointer, &at), "(int *) 0x1000 <jiffies>");
    }

    #[test]
    fn structures_with_unnamed_parts_and_bit_fields() {
        let mut types = Types::default();
        let number = int(&mut types, "int", 4, INT);
        let inner = types.add(Type::Record {
            name: String::new(),
            union: true,
            size: 4,
            members: vec![member("a", number, 0, None), member("b", number, 0, None)],
        });
        let outer = types.add(Type::Record {
            name: "outer".into(),
            union: false,
            size: 8,
            members: vec![
                member("", inner, 0, None),
                member("low", number, 32, Some(3)),
                member("high", number, 35, Some(5)),
            ],
        });
        let text = "{{a = 9, b = 9}, low = -1, high = 2}";
        assert_eq!(shown(&types, outer, &[9, 0, 0, 0, 0x17, 0, 0, 0]), text);
        assert_eq!(types.member(outer, "b").unwrap().offset, 0);
    }

    #[test]
    fn names_of_numbers_and_of_flags() {
        let mut types = Types::default();
        let mut named = |values: &[(&str, i128)]| {
            let values = values.iter().map(|&(name, it)| (name.to_owned(), it));
            types.add(Type::Enum {
                name: String::new(),
                size: 4,
                signed: false,
                values: values.collect(),
            })
        };
        let flags = named(&[("A", 1), ("B", 2), ("C", 4)]);
        let states = named(&[("X", 0), ("Y", 1), ("Z", 3)]);
        let number = |it: u32| it.to_le_bytes();
        assert_eq!(shown(&types, flags, &number(2)), "B");
        assert_eq!(shown(&types, flags, &number(5)), "(A | C)");
        assert_eq!(shown(&types, flags, &number(9)), "(A | unknown: 0x8)");
        assert_eq!(shown(&types, flags, &number(0)), "0");
        assert_eq!(shown(&types, states, &number(3)), "Z");
        assert_eq!(shown(&types, states, &number(2)), "2");
    }

    #[test]
    fn a_type_that_contains_itself_ends_somewhere() {
        let mut types = Types::default();
        let around = types.add(Type::Void);
        types.set(
            around,
            Type::Record {
                name: "loop".into(),
                union: false,
                size: 8,
                members: vec![member("inner", around, 0, None)],
            },
        );
        assert!(shown(&types, around, &[0; 8]).contains("..."));
        let endless = types.add(Type::Void);
        types.set(endless, Type::Qualified("const", endless));
        assert_eq!(types.size(endless), None);
    }
}
