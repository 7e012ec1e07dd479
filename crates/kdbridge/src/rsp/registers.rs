//! Where registers are in the `g` packet, as a target description says.

use super::hex;
use crate::symbols::bytes::Bytes;
use crate::target::Registers;

/// The registers that a description of one file lists, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout(Vec<Register>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Register {
    name: String,
    number: usize,
    bytes: usize,
    /// Where LLDB's stub says that it begins; else it follows the ones before.
    offset: Option<usize>,
}

/// The order that GDB assumes for a stub that describes nothing.
const DEFAULT: [(&str, usize); 24] = [
    ("rax", 8),
    ("rbx", 8),
    ("rcx", 8),
    ("rdx", 8),
    ("rsi", 8),
    ("rdi", 8),
    ("rbp", 8),
    ("rsp", 8),
    ("r8", 8),
    ("r9", 8),
    ("r10", 8),
    ("r11", 8),
    ("r12", 8),
    ("r13", 8),
    ("r14", 8),
    ("r15", 8),
    ("rip", 8),
    ("eflags", 4),
    ("cs", 4),
    ("ss", 4),
    ("ds", 4),
    ("es", 4),
    ("fs", 4),
    ("gs", 4),
];

/// What GDB and LLDB call the flags.
const FLAGS: [&str; 2] = ["eflags", "rflags"];

impl Layout {
    pub(super) fn of_amd64() -> Self {
        let mut layout = Self::default();
        for (name, bytes) in DEFAULT {
            layout.push(name, None, bytes, None);
        }
        layout
    }

    /// Adds what a file of a description has; unknown text is passed over.
    pub(super) fn add(&mut self, xml: &str) {
        for tag in without_comments(xml).split("<reg ").skip(1) {
            let tag = tag.split('>').next().unwrap_or_default();
            let number = |name| {
                let number = attribute(tag, name)?.parse::<u16>().ok()?;
                Some(usize::from(number))
            };
            let Some((name, bits)) = attribute(tag, "name").zip(number("bitsize")) else {
                continue;
            };
            self.push(name, number("regnum"), bits / 8, number("offset"));
        }
    }

    fn push(&mut self, name: &str, number: Option<usize>, bytes: usize, offset: Option<usize>) {
        let next = self.0.last().map_or(0, |last| last.number + 1);
        self.0.push(Register {
            name: name.to_owned(),
            number: number.unwrap_or(next),
            bytes,
            offset,
        });
    }

    pub(super) fn is_amd64(&self) -> bool {
        self.number("rip").is_some()
    }

    /// The number of the register in the packets that ask for one.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let register = self.0.iter().find(|register| register.name == name)?;
        Some(register.number)
    }

    /// How many bytes the register of this number has.
    pub(super) fn size(&self, number: u64) -> Option<usize> {
        let is_it = |register: &&Register| register.number as u64 == number;
        Some(self.0.iter().find(is_it)?.bytes)
    }

    /// What a `g` packet says; `None` if it is too short to have the general registers. What the target
    /// does not know is 0.
    pub(super) fn read(&self, reply: &[u8]) -> Option<Registers> {
        let value = |name: &str| {
            let (start, bytes) = self.place(name)?;
            let digits = reply.get(start * 2..(start + bytes) * 2)?;
            Some(hex::decode(digits).unwrap_or_default().number())
        };
        let mut registers = Registers {
            rip: value("rip")?,
            rflags: FLAGS
                .iter()
                .find_map(|name| value(name))
                .unwrap_or_default(),
            ..Registers::default()
        };
        for (register, (name, _)) in registers.general.iter_mut().zip(DEFAULT) {
            *register = value(name)?;
        }
        for (register, (name, _)) in registers.segments.iter_mut().zip(&DEFAULT[18..]) {
            *register = value(name).unwrap_or_default() as u32;
        }
        Some(registers)
    }

    /// Puts `registers` into a `g` packet.
    pub(super) fn write(&self, registers: &Registers, packet: &mut [u8]) {
        let mut put = |name: &str, value: u64| {
            let Some((start, bytes)) = self.place(name) else {
                return;
            };
            let digits = hex::encode(value.to_le_bytes().get(..bytes).unwrap_or_default());
            let place = packet.get_mut(start * 2..(start + bytes) * 2);
            if let Some(place) = place.filter(|place| place.len() == digits.len()) {
                place.copy_from_slice(digits.as_bytes());
            }
        };
        for (value, (name, _)) in registers.general.iter().zip(DEFAULT) {
            put(name, *value);
        }
        put("rip", registers.rip);
        FLAGS.iter().for_each(|name| put(name, registers.rflags));
        for (value, (name, _)) in registers.segments.iter().zip(&DEFAULT[18..]) {
            put(name, u64::from(*value));
        }
    }

    /// Where a register begins in the `g` packet, and its size.
    fn place(&self, name: &str) -> Option<(usize, usize)> {
        let register = self.0.iter().find(|register| register.name == name)?;
        let before = self.0.iter();
        let before = before.filter(|other| other.number < register.number);
        let start = register.offset;
        let start = start.unwrap_or_else(|| before.map(|register| register.bytes).sum());
        Some((start, register.bytes))
    }
}

/// The files that a description includes.
pub(super) fn includes(xml: &str) -> impl Iterator<Item = &str> {
    let tags = xml.split("<xi:include ").skip(1);
    tags.filter_map(|tag| attribute(tag.split('>').next().unwrap_or_default(), "href"))
}

/// QEMU's description has registers in its comments.
fn without_comments(xml: &str) -> String {
    let mut parts = xml.split("<!--");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once("-->").map_or("", |(_, rest)| rest)
    })
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let start = tag.find(&format!("{name}=\""))? + name.len() + 2;
    tag.get(start..)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        Registers {
            general: std::array::from_fn(|index| 0x1111_1111_1111_1111 * index as u64),
            rip: 0xffff_ffff_8100_0000,
            rflags: 0x246,
            segments: [0x10, 0x18, 0, 0, 0, 0],
        }
    }

    #[test]
    fn the_packet_of_a_stub_without_a_description() {
        let layout = Layout::of_amd64();
        let mut packet = vec![b'0'; (17 * 8 + 7 * 4) * 2];
        layout.write(&registers(), &mut packet);
        assert_eq!(&packet[16..32], b"1111111111111111");
        assert_eq!(layout.read(&packet), Some(registers()));
        assert_eq!(layout.read(&packet[..100]), None);
    }

    #[test]
    fn a_description_says_where_registers_are() {
        let mut layout = Layout::default();
        layout.add(
            "<reg name=\"rip\" bitsize=\"64\"/><reg name=\"eflags\" bitsize=\"32\" type=\"x\"/>",
        );
        layout.add("<!--reg name=\"x\" bitsize=\"64\"/>\n<reg name=\"y\" bitsize=\"64\"/-->");
        layout.add(
            "<reg name=\"cr3\" bitsize=\"64\" regnum=\"40\"/><!-- x --><reg name=\"cr4\" bitsize=\"64\"/>",
        );
        assert_eq!(layout.place("eflags"), Some((8, 4)));
        assert_eq!(layout.number("cr4"), Some(41));
        assert_eq!(layout.size(41), Some(8));
        assert_eq!(layout.size(42), None);
        assert_eq!(layout.place("cr4"), Some((20, 8)));
        assert!(layout.is_amd64());
    }

    #[test]
    fn lldbs_description_has_offsets() {
        let mut layout = Layout::default();
        layout.add(
            "<reg name=\"rax\" bitsize=\"64\" regnum=\"0\" offset=\"80\" />\
             <reg name=\"rip\" bitsize=\"64\" regnum=\"16\" offset=\"128\" />\
             <reg name=\"lie\" bitsize=\"64\" regnum=\"70000\" offset=\"18446744073709551615\" />",
        );
        assert_eq!(layout.place("rax"), Some((80, 8)));
        assert_eq!(layout.place("rip"), Some((128, 8)));
        assert_eq!(layout.place("lie"), Some((16, 8)));
    }

    #[test]
    fn what_is_unknown_is_zero() {
        let layout = Layout::of_amd64();
        let packet = vec![b'x'; (17 * 8 + 7 * 4) * 2];
        assert_eq!(layout.read(&packet), Some(Registers::default()));
    }

    #[test]
    fn included_files_are_found() {
        let xml = "<target><xi:include href=\"a.xml\"/><xi:include href=\"b.xml\"/></target>";
        assert_eq!(includes(xml).collect::<Vec<_>>(), ["a.xml", "b.xml"]);
    }
}
