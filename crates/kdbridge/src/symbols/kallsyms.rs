//! The names that a Linux kernel carries in its own memory (`CONFIG_KALLSYMS`), found without
//! knowing the name of anything.
//!
//! The kernel has them compressed: 256 *tokens*, each a few characters, and for each symbol the
//! numbers of its tokens. No pointer leads to these tables from a known place, but they betray
//! themselves: digits stand for themselves among the tokens, so `0\01\02\0…9\0` is in memory, and the
//! index of the tokens lies behind.
//! Before the tokens lie the *markers*, the offset of every 256th name, and before them the names,
//! preceded by their number. The addresses come before that number in kernels before 6.4, and after
//! the tokens in later ones, in one of several forms; they are in order in the right one.

use std::ops::Range;

use thiserror::Error;

use super::bytes::Bytes;
use super::table::{Kind, Symbol, SymbolTable};
use crate::pages::PAGE;
use crate::target::{Memory, TargetError};

/// How much of a kernel's memory is searched.
const SEARCHED: u64 = 32 << 20;
const CHUNK: usize = 64 << 10;
/// As many symbols has no kernel; one with everything built in has half a million.
const MOST_SYMBOLS: usize = 4 << 20;
const PER_MARKER: usize = 256;
/// The tables of a kernel whose markers are fewer than this are not found.
const FEWEST_MARKERS: usize = 4;
const MOST_MARKERS: usize = MOST_SYMBOLS / PER_MARKER;
/// Longer are all names of a kernel together not.
const MOST_NAME_BYTES: u64 = 64 << 20;
/// What is longer is no name, and all names together are no longer than `MOST_TEXT`.
const LONGEST_NAME: usize = 1024;
const MOST_TEXT: usize = 256 << 20;
/// In so many places digits may stand in a row without being tokens.
const MOST_PLACES: usize = 256;
/// No 256 names take up more than this.
const MOST_BETWEEN_MARKERS: u64 = 64 * PER_MARKER as u64;
const LOWEST_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// Reads the symbols of the kernel from its memory. `near` is an address in its read-only data, as
/// `linux_banner` is; what lies behind it is searched.
///
/// # Errors
///
/// [`KallsymsError`] if there are none, or if they contradict each other.
pub fn kallsyms(memory: &mut dyn Memory, near: u64) -> Result<SymbolTable, KallsymsError> {
    let tokens = search(memory, near)?;
    let markers = Markers::read(memory, tokens.begin)?;
    let names = Names::read(memory, &markers)?;
    let addresses = addresses(memory, &names, &tokens)?;
    let mut texts = Vec::with_capacity(names.number);
    let mut length = 0;
    let mut rest = names.bytes.as_slice();
    for _ in &addresses {
        let (name, after) = split_name(rest).ok_or(KallsymsError::Contradictory)?;
        rest = after;
        let text = tokens.join(name);
        length += text.len();
        if length > MOST_TEXT {
            return Err(KallsymsError::Contradictory);
        }
        texts.push(text);
    }
    let parts = Parts::of(&texts, &addresses);
    let mut table = SymbolTable::default();
    for (text, &address) in texts.iter().zip(&addresses) {
        if let Some(symbol) = parts.symbol(text, address) {
            table.push(&symbol);
        }
    }
    table.sort();
    Ok(table)
}

/// Tables of characters have the digits in a row too, so each place is tried.
fn search(memory: &mut dyn Memory, near: u64) -> Result<Tokens, KallsymsError> {
    const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
    let begin = near & !0xfff;
    let mut chunk = vec![0; CHUNK + DIGITS.len()];
    let mut tried = 0;
    for offset in (0..SEARCHED).step_by(CHUNK) {
        let at = begin.wrapping_add(offset);
        if memory.read(at, &mut chunk).is_err() && memory.read(at, &mut chunk[..CHUNK]).is_err() {
            continue;
        }
        let windows = chunk.windows(DIGITS.len()).enumerate();
        let places = windows.filter(|(_, it)| *it == DIGITS);
        let mut places = places.take(MOST_PLACES - tried).inspect(|_| tried += 1);
        let tokens =
            places.find_map(|(it, _)| Tokens::read(memory, at.wrapping_add(it as u64)).ok());
        if let Some(tokens) = tokens {
            return Ok(tokens);
        }
    }
    Err(KallsymsError::Missing)
}

struct Tokens {
    begin: u64,
    /// Where what follows them begins.
    end: u64,
    texts: Vec<Vec<u8>>,
}

impl Tokens {
    const NUMBER: usize = 256;

    /// Reads the tokens from the address of the token `0` on, and those before it by what the
    /// index behind them says.
    fn read(memory: &mut dyn Memory, digits: u64) -> Result<Self, KallsymsError> {
        const MOST: usize = 16 << 10;
        let mut bytes = vec![0; MOST];
        memory.read(digits, &mut bytes)?;
        let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let behind = Self::NUMBER - usize::from(b'0');
        let (last, _) = ends.nth(behind - 1).ok_or(KallsymsError::Contradictory)?;
        // The assembler fills up to a multiple of 4 or 8, which the index itself tells apart: it
        // begins with 0 and has the offset of `1` two after that of `0`.
        let begin = last + 1 + (digits as usize % 2 + last + 1) % 2;
        let index = (begin..begin + 16).step_by(2).find_map(|at| {
            let index = Self::index(bytes.get(at..)?)?;
            let zero = u64::from(*index.get(usize::from(b'0'))?);
            let end = digits.checked_add((at + Self::NUMBER * 2) as u64)?;
            Some((index, digits.checked_sub(zero)?, end))
        });
        let (index, begin, end) = index.ok_or(KallsymsError::Contradictory)?;
        let mut table = vec![0; usize::from(u16::MAX)];
        let length = (digits - begin) as usize + last + 1;
        table.truncate(length);
        memory.read(begin, &mut table)?;
        let texts = index.iter().map(|&at| text(&table, at.into())).collect();
        Ok(Self { begin, end, texts })
    }

    fn index(bytes: &[u8]) -> Option<Vec<u16>> {
        let index: Option<Vec<u16>> = (0..Self::NUMBER).map(|it| bytes.u16(it * 2)).collect();
        let index = index?;
        let zero = *index.get(usize::from(b'0'))?;
        let is_right = index.first() == Some(&0)
            && index.get(usize::from(b'1')).copied() == zero.checked_add(2)
            && index.is_sorted_by(|before, after| before < after);
        is_right.then_some(index)
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        let tokens = name
            .iter()
            .filter_map(|&it| self.texts.get(usize::from(it)));
        tokens.flatten().copied().take(LONGEST_NAME).collect()
    }
}

fn text(table: &[u8], at: usize) -> Vec<u8> {
    let rest = table.get(at..).unwrap_or_default();
    rest.iter().copied().take_while(|&byte| byte != 0).collect()
}

struct Markers {
    begin: u64,
    offsets: Vec<u32>,
}

impl Markers {
    /// Searches backwards from the tokens: a zero that is followed by numbers that grow as the
    /// offsets of every 256th name do.
    fn read(memory: &mut dyn Memory, tokens: u64) -> Result<Self, KallsymsError> {
        // Kernels 6.2 and 6.3 have three bytes for each symbol in between.
        let most = MOST_SYMBOLS * 4;
        let mut words: Vec<u32> = Vec::new();
        let mut at = tokens & !3;
        for _ in 0..most / 4096 {
            let mut chunk = vec![0; 4096];
            let before = at.checked_sub(chunk.len() as u64);
            at = before.ok_or(KallsymsError::Contradictory)?;
            memory.read(at, &mut chunk)?;
            let mut more: Vec<u32> = (0..1024).filter_map(|it| chunk.u32(it * 4)).collect();
            more.extend(words.iter().take(MOST_MARKERS));
            words = more;
            for begin in (0..1024).rev() {
                let offsets = ascending(words.get(begin..).unwrap_or_default());
                if offsets.len() >= FEWEST_MARKERS {
                    let begin = at + begin as u64 * 4;
                    return Ok(Self { begin, offsets });
                }
            }
        }
        Err(KallsymsError::Contradictory)
    }
}

/// The numbers from a zero on that grow by the length of 256 names.
fn ascending(words: &[u32]) -> Vec<u32> {
    if words.first() != Some(&0) {
        return Vec::new();
    }
    let steps = words.windows(2).take_while(|pair| {
        let length = u64::from(pair[1]).wrapping_sub(pair[0].into());
        (2 * PER_MARKER as u64..MOST_BETWEEN_MARKERS).contains(&length)
    });
    words[..=steps.count()].to_vec()
}

struct Names {
    /// Where their number stands.
    number_at: u64,
    number: usize,
    bytes: Vec<u8>,
}

impl Names {
    fn read(memory: &mut dyn Memory, markers: &Markers) -> Result<Self, KallsymsError> {
        let last = u64::from(*markers.offsets.last().ok_or(KallsymsError::Contradictory)?);
        if last > MOST_NAME_BYTES {
            return Err(KallsymsError::Contradictory);
        }
        let latest = markers.begin.saturating_sub(last) & !3;
        let most = (markers.offsets.len() * PER_MARKER) as u32;
        let numbers = most - PER_MARKER as u32 + 1..=most;
        let earliest = latest.saturating_sub(MOST_BETWEEN_MARKERS);
        let mut bytes = vec![0; (markers.begin - earliest) as usize];
        memory.read(earliest, &mut bytes)?;
        for at in (8..=(latest - earliest) as usize).rev().step_by(4) {
            for before in [4, 8] {
                let Some(number) = bytes.u32(at - before).filter(|it| numbers.contains(it)) else {
                    continue;
                };
                let names = bytes.get(at..).unwrap_or_default();
                if agree(names, &markers.offsets) {
                    return Ok(Self {
                        number_at: earliest + (at - before) as u64,
                        number: number as usize,
                        bytes: names.to_vec(),
                    });
                }
            }
        }
        Err(KallsymsError::Contradictory)
    }
}

/// Whether the names lie where the markers say.
fn agree(names: &[u8], markers: &[u32]) -> bool {
    markers.windows(2).all(|pair| {
        let mut rest = names.get(pair[0] as usize..).unwrap_or_default();
        for _ in 0..PER_MARKER {
            let Some((_, after)) = split_name(rest) else {
                return false;
            };
            rest = after;
        }
        names.len() - rest.len() == pair[1] as usize
    })
}

/// The tokens of the first name, and what follows it. A length of more than 127 has two bytes.
fn split_name(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = names.split_first()?;
    let low = usize::from(first & 0x7f);
    if first & 0x80 == 0 {
        return (low > 0).then(|| rest.split_at_checked(low))?;
    }
    let (&second, rest) = rest.split_first()?;
    rest.split_at_checked(low | usize::from(second) << 7)
}

/// How a kernel writes down where its symbols are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Four bytes for each, and behind them what they are counted from.
    Offsets,
    /// Eight bytes for each, which kernels before 6.11 may be configured to have.
    Addresses,
    /// Four bytes for each, counted from where they stand: kernels since 7.0 or somewhat before.
    Distances,
}

/// The address of each symbol: in which form they are, and whether before the names or behind the tokens,
/// is told by that they are in order.
fn addresses(
    memory: &mut dyn Memory,
    names: &Names,
    tokens: &Tokens,
) -> Result<Vec<u64>, KallsymsError> {
    let number = names.number;
    let before = |bytes: usize| (names.number_at & !7).wrapping_sub(bytes as u64);
    let behind = aligned(tokens.end, 8);
    // Offsets would do for distances too, so these come last.
    let places = [
        (Form::Offsets, before((number * 4).next_multiple_of(8) + 8)),
        (Form::Addresses, before(number * 8)),
        (Form::Offsets, behind),
        (Form::Addresses, behind),
        (Form::Distances, aligned(tokens.end, 4)),
    ];
    for (form, at) in places {
        let found = match form.read(memory, at, number) {
            Err(TargetError::Unreadable(_)) => continue,
            found => found?,
        };
        let last = found.last().copied().unwrap_or_default();
        if found.len() == number && last >= LOWEST_ADDRESS && found.is_sorted() {
            return Ok(found);
        }
    }
    Err(KallsymsError::Contradictory)
}

impl Form {
    fn read(
        self,
        memory: &mut dyn Memory,
        at: u64,
        number: usize,
    ) -> Result<Vec<u64>, TargetError> {
        let length = if self == Self::Addresses { 8 } else { 4 };
        let end = at.wrapping_add((number * length) as u64);
        // What is not one is told by a word of it.
        let base = match self {
            Self::Offsets => memory.word(aligned(end, 8))?,
            Self::Addresses | Self::Distances => 0,
        };
        // Offsets are counted from where the text begins.
        let is_base = base % PAGE == 0;
        let last = end.wrapping_sub(8);
        if !is_base || self == Self::Addresses && memory.word(last)? < LOWEST_ADDRESS {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; number * length];
        memory.read(at, &mut bytes)?;
        let words = || (0..number).filter_map(|it| bytes.u32(it * 4));
        Ok(match self {
            Self::Offsets => absolute(&words().collect::<Vec<_>>(), base),
            Self::Addresses => (0..number).filter_map(|it| bytes.u64(it * 8)).collect(),
            Self::Distances => {
                let places = (0..).map(|it: u64| at.wrapping_add(it * 4)).zip(words());
                let addresses =
                    places.map(|(at, it)| at.wrapping_add_signed(it.cast_signed().into()));
                addresses.collect()
            }
        })
    }
}

/// The next multiple of `step`, a power of two.
fn aligned(at: u64, step: u64) -> u64 {
    at.wrapping_add(step - 1) & !(step - 1)
}

/// Addresses out of offsets. Kernels whose per-CPU variables are linked at 0 have these as they are, and
/// the distance of all others from the base turned into a negative number.
fn absolute(offsets: &[u32], base: u64) -> Vec<u64> {
    let negative = offsets.iter().filter(|it| it.cast_signed() < 0).count();
    let is_signed = negative > offsets.len() / 2;
    let address = |&offset: &u32| match offset.cast_signed() {
        of_cpu @ 0.. if is_signed => of_cpu.cast_unsigned().into(),
        _ if is_signed => base.wrapping_add(u64::from(!offset)),
        _ => base.wrapping_add(offset.into()),
    };
    offsets.iter().map(address).collect()
}

/// The parts of a kernel in which a symbol is more than data, by the marks at their ends.
struct Parts {
    /// Variables that each processor has for itself: from 0 on in kernels before 6.15, among all others
    /// since.
    of_cpu: Range<u64>,
    /// Code; the second part is for the start alone. Linkers take all data for code if one thing in it is.
    code: Vec<Range<u64>>,
}

impl Parts {
    fn of(texts: &[Vec<u8>], addresses: &[u64]) -> Self {
        let find = |name: &str| {
            let names = texts.iter().map(|it| it.get(1..).unwrap_or_default());
            let found = names.zip(addresses).find(|(it, _)| *it == name.as_bytes());
            found.map(|(_, &address)| address)
        };
        let part = |start, end| Some(find(start)?..find(end)?);
        let code = [("_text", "_etext"), ("_sinittext", "_einittext")];
        let code = code.into_iter().filter_map(|(start, end)| part(start, end));
        Self {
            of_cpu: part("__per_cpu_start", "__per_cpu_end").unwrap_or(0..LOWEST_ADDRESS),
            code: code.collect(),
        }
    }

    /// The first character says what the symbol is, in the way of `nm`.
    fn symbol<'a>(&self, text: &'a [u8], address: u64) -> Option<Symbol<'a>> {
        let (&letter, name) = text.split_first()?;
        let is_code = self.code.iter().any(|part| part.contains(&address));
        let kind = match letter {
            _ if self.of_cpu.contains(&address) => Kind::PerCpu,
            b't' | b'T' | b'w' | b'W' if is_code || self.code.is_empty() => Kind::Function,
            _ => Kind::Data,
        };
        (!name.is_empty()).then(|| Symbol {
            name: String::from_utf8_lossy(name),
            address,
            size: 0,
            kind,
            global: letter.is_ascii_uppercase(),
        })
    }
}

/// Why the names of a kernel could not be read from its memory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KallsymsError {
    /// There are none where they were looked for.
    #[error("the kernel has no names in its memory (it was built without CONFIG_KALLSYMS)")]
    Missing,
    /// They are laid out in a way that is not known, or damaged.
    #[error("the kernel's table of names is laid out in a way that is not known")]
    Contradictory,
    /// The memory with them cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::super::testing::Image;
    use super::*;

    const BASE: u64 = 0xffff_ffff_8200_0000;
    const TEXT: u64 = 0xffff_ffff_8100_0000;

    /// Other read-only data.
    const BEFORE: usize = 32 << 10;

    /// Where the addresses are, and in which form.
    #[derive(Debug, Clone, Copy)]
    enum Order {
        OffsetsFirst,
        SequencesBeforeTokens,
        AddressesFirst,
        OffsetsLast,
        AddressesLast,
        DistancesLast,
    }

    /// As many symbols as four markers need: `T function_0`, …, some data, and one of each processor, whose
    /// part begins at `of_cpu`.
    fn symbols(of_cpu: u64) -> Vec<(String, u64)> {
        let functions = (0..1100).map(|it| (format!("Tfunction_{it}"), TEXT + (it + 1) * 16));
        let marks = [
            ("T_text", TEXT),
            ("T_etext", TEXT + 0x1_0000),
            ("Tdata", TEXT + 0x1_0000),
            ("A__per_cpu_start", of_cpu),
            ("Acounter", of_cpu + 0x40),
            ("A__per_cpu_end", of_cpu + 0x80),
        ];
        let marks = marks.map(|(name, address)| (name.to_owned(), address));
        let mut symbols: Vec<_> = functions.chain(marks).collect();
        symbols.sort_by_key(|(_, address)| *address);
        symbols
    }

    /// Bytes stand for themselves, but for byte 1, which is `function_`.
    fn compressed(name: &str) -> Vec<u8> {
        let tokens = name.replace("function_", "\x01").into_bytes();
        [&[tokens.len() as u8], tokens.as_slice()].concat()
    }

    fn tokens() -> (Vec<u8>, Vec<u8>) {
        let (mut table, mut index) = (Vec::new(), Vec::new());
        for byte in 0..=255u8 {
            index.extend((table.len() as u16).to_le_bytes());
            match byte {
                1 => table.extend(b"function_"),
                0 | 128.. => table.extend(b"xy"),
                it => table.push(it),
            }
            table.push(0);
        }
        (table, index)
    }

    /// What a kernel whose per-CPU variables are linked at 0 has for an address, and one of others.
    fn offset(address: u64, of_cpu: u64) -> u32 {
        match address.checked_sub(TEXT) {
            Some(offset) if of_cpu == 0 => !(offset as u32),
            Some(offset) => offset as u32,
            None => address as u32,
        }
    }

    fn put_addresses(bytes: &mut Vec<u8>, order: Order, of_cpu: u64) {
        for (_, address) in symbols(of_cpu) {
            let here = BASE + bytes.len() as u64;
            match order {
                Order::AddressesFirst | Order::AddressesLast => {
                    bytes.extend(address.to_le_bytes());
                }
                Order::DistancesLast => {
                    bytes.extend((address.wrapping_sub(here) as u32).to_le_bytes());
                }
                _ => bytes.extend(offset(address, of_cpu).to_le_bytes()),
            }
        }
        align(bytes);
        if matches!(
            order,
            Order::OffsetsFirst | Order::SequencesBeforeTokens | Order::OffsetsLast
        ) {
            bytes.extend(TEXT.to_le_bytes());
        }
    }

    fn align(bytes: &mut Vec<u8>) {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }

    fn image(order: Order, of_cpu: u64) -> Image {
        let mut bytes = vec![0; BEFORE];
        let first = matches!(
            order,
            Order::OffsetsFirst | Order::SequencesBeforeTokens | Order::AddressesFirst
        );
        if first {
            put_addresses(&mut bytes, order, of_cpu);
        }
        let symbols = symbols(of_cpu);
        bytes.extend((symbols.len() as u64).to_le_bytes());
        let (mut markers, begin) = (Vec::new(), bytes.len());
        for (number, (name, _)) in symbols.iter().enumerate() {
            if number % PER_MARKER == 0 {
                markers.extend(((bytes.len() - begin) as u32).to_le_bytes());
            }
            bytes.extend(compressed(name));
        }
        align(&mut bytes);
        bytes.extend(markers);
        if matches!(order, Order::SequencesBeforeTokens) {
            align(&mut bytes);
            bytes.extend((0..symbols.len()).flat_map(|it| [0, (it >> 8) as u8, it as u8]));
        }
        align(&mut bytes);
        let (table, index) = tokens();
        bytes.extend(table);
        align(&mut bytes);
        bytes.extend(index);
        if !first {
            put_addresses(&mut bytes, order, of_cpu);
        }
        bytes.resize(bytes.len() + (64 << 10), 0);
        Image::new(BASE, bytes)
    }

    fn is_right(table: &SymbolTable, of_cpu: u64) {
        assert_eq!(table.len(), symbols(of_cpu).len());
        let last = table.by_name("function_1099").unwrap();
        assert_eq!(last.address, TEXT + 1100 * 16);
        assert_eq!((last.kind, last.global), (Kind::Function, true));
        let counter = table.by_name("counter").unwrap();
        assert_eq!(counter.address, of_cpu + 0x40);
        assert_eq!(counter.kind, Kind::PerCpu);
        assert_eq!(table.at(TEXT + 37).unwrap().name, "function_1");
        let data = table.by_name("data").unwrap();
        assert_eq!(data.kind, Kind::Data, "whatever the linker says");
    }

    #[test]
    fn the_tables_of_every_kernel_are_found() {
        for order in [
            Order::OffsetsFirst,
            Order::SequencesBeforeTokens,
            Order::AddressesFirst,
            Order::OffsetsLast,
            Order::AddressesLast,
            Order::DistancesLast,
        ] {
            for of_cpu in [0, TEXT + 0x2_0000] {
                if of_cpu == 0 && matches!(order, Order::DistancesLast) {
                    // Too far away for a distance.
                    continue;
                }
                let table = kallsyms(&mut image(order, of_cpu), BASE + 4096 + 7);
                is_right(
                    &table.unwrap_or_else(|it| panic!("{order:?}: {it}")),
                    of_cpu,
                );
            }
        }
    }

    #[test]
    fn symbols_move_with_their_kernel_unless_they_are_linked_at_0() {
        for (of_cpu, counter) in [(0, 0x40), (TEXT + 0x2_0000, TEXT + 0x12_0040)] {
            let table = kallsyms(&mut image(Order::OffsetsLast, of_cpu), BASE).unwrap();
            let moved = table.moved(0x10_0000);
            assert_eq!(moved.by_name("counter").unwrap().address, counter);
            let function = moved.by_name("function_0").unwrap();
            assert_eq!(function.address, TEXT + 0x10_0010);
        }
    }

    #[test]
    fn digits_that_are_no_tokens_are_passed_over() {
        let mut image = image(Order::OffsetsFirst, 0);
        let digits: Vec<u8> = (b'0'..=b'9').flat_map(|digit| [digit, 0]).collect();
        image.bytes[5000..5080].copy_from_slice(&digits.repeat(4));
        is_right(&kallsyms(&mut image, BASE).unwrap(), 0);
    }

    #[test]
    fn a_kernel_without_names_is_told_apart() {
        let error = kallsyms(&mut Image::new(BASE, vec![0; 1 << 16]), BASE).unwrap_err();
        assert!(matches!(error, KallsymsError::Missing), "{error}");
    }

    #[test]
    fn any_byte_may_lie() {
        for order in [Order::OffsetsFirst, Order::DistancesLast] {
            let whole = image(order, TEXT + 0x2_0000);
            let used = whole.bytes.len() - (64 << 10);
            for at in (BEFORE..used).step_by(61) {
                let mut changed = Image::new(BASE, whole.bytes.clone());
                changed.bytes[at] ^= 0x81;
                drop(kallsyms(&mut changed, BASE));
            }
        }
    }
}
