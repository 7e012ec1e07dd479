//! `kdbridge log`: what the kernel has printed, out of its memory.
//!
//! Since 5.10 the kernel keeps it in a ring of descriptors, each with a number that only grows, and
//! a ring of texts. A descriptor says where its text is, and its state in the upper two bits of a
//! word says whether that is whole.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::kernel::Kernel;
use crate::symbols::bytes::Bytes;
use crate::target::{Memory, TargetError};
use crate::types::{Tag, TypeId, Types};

/// No ring has more descriptors, or longer texts, than this.
const MOST_BITS: u32 = 26;
/// No ring takes up more.
const MOST_BYTES: usize = 128 << 20;
const STATE_SHIFT: u32 = 62;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// What the kernel has printed and still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Log {
    /// The oldest first.
    pub messages: Vec<Message>,
}

/// Something that the kernel has printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Its number.
    pub number: u64,
    /// When it was printed, in nanoseconds since the start.
    pub nanoseconds: u64,
    /// From 0, the machine is unusable, to 7, for debugging.
    pub level: u8,
    /// Who says so: 0 is the kernel.
    pub facility: u8,
    /// What it says.
    pub text: String,
}

/// Reads what the kernel has printed.
///
/// # Errors
///
/// [`LogError`] if it is kept in another way, or cannot be read.
pub fn log(memory: &mut dyn Memory, kernel: &mut Kernel) -> Result<Log, LogError> {
    let ring = kernel.find_type(Tag::Struct, "printk_ringbuffer");
    let ring = ring.ok_or(LogError::Unknown)?;
    let layout = Layout::of(kernel.types(), ring).ok_or(LogError::Unknown)?;
    let at = kernel.address_of("prb").ok_or(LogError::Unknown)?;
    let mut pointer = [0; 8];
    memory.read(at, &mut pointer)?;
    Ring::read(memory, &layout, u64::from_le_bytes(pointer))?.messages(&layout)
}

/// Where the parts of the rings are, as the kernel's own types say.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// In a `struct printk_ringbuffer`.
    count_bits: u64,
    descriptors: u64,
    infos: u64,
    head: u64,
    tail: u64,
    size_bits: u64,
    texts: u64,
    /// A descriptor: its size, its state, and where its text begins and ends.
    descriptor: [usize; 4],
    /// An info: its size, number, time, length of the text, and facility; the level's bits.
    info: [usize; 5],
    level: u64,
}

impl Layout {
    fn of(types: &Types, ring: TypeId) -> Option<Self> {
        let inner = |name| types.member(ring, name);
        let (descriptors, texts) = (inner("desc_ring")?, inner("text_data_ring")?);
        let descriptor = types.pointed(types.member(descriptors.ty, "descs")?.ty)?;
        let info = types.pointed(types.member(descriptors.ty, "infos")?.ty)?;
        let place = types.member(descriptor, "text_blk_lpos")?;
        let at = |outer: &crate::types::Member, name| {
            Some(outer.offset / 8 + types.offset(outer.ty, name)?)
        };
        let of_info = |name| types.offset(info, name).map(|it| it as usize);
        Some(Self {
            count_bits: at(&descriptors, "count_bits")?,
            descriptors: at(&descriptors, "descs")?,
            infos: at(&descriptors, "infos")?,
            head: at(&descriptors, "head_id")?,
            tail: at(&descriptors, "tail_id")?,
            size_bits: at(&texts, "size_bits")?,
            texts: at(&texts, "data")?,
            descriptor: [
                types.size(descriptor)? as usize,
                types.offset(descriptor, "state_var")? as usize,
                at(&place, "begin")? as usize,
                at(&place, "next")? as usize,
            ],
            info: [
                types.size(info)? as usize,
                of_info("seq")?,
                of_info("ts_nsec")?,
                of_info("text_len")?,
                of_info("facility")?,
            ],
            level: types.member(info, "level")?.offset,
        })
    }
}

/// The rings as they are in memory.
struct Ring {
    descriptors: Vec<u8>,
    infos: Vec<u8>,
    texts: Vec<u8>,
    head: u64,
    tail: u64,
}

impl Ring {
    fn read(memory: &mut dyn Memory, layout: &Layout, at: u64) -> Result<Self, LogError> {
        let mut word = |offset: u64| {
            let mut bytes = [0; 8];
            memory.read(at.wrapping_add(offset), &mut bytes)?;
            Ok::<_, TargetError>(u64::from_le_bytes(bytes))
        };
        let count_bits = word(layout.count_bits)? as u32;
        let size_bits = word(layout.size_bits)? as u32;
        let (head, tail) = (word(layout.head)?, word(layout.tail)?);
        let places = [layout.descriptors, layout.infos, layout.texts];
        let [descriptors, infos, texts] = [word(places[0])?, word(places[1])?, word(places[2])?];
        if count_bits > MOST_BITS || size_bits > MOST_BITS {
            return Err(LogError::Damaged);
        }
        let mut bytes = |at: u64, size: usize, bits: u32| {
            let length = size.min(1024) << bits;
            if length > MOST_BYTES {
                return Err(LogError::Damaged);
            }
            let mut bytes = vec![0; length];
            memory.read(at, &mut bytes)?;
            Ok(bytes)
        };
        Ok(Self {
            descriptors: bytes(descriptors, layout.descriptor[0], count_bits)?,
            infos: bytes(infos, layout.info[0], count_bits)?,
            texts: bytes(texts, 1, size_bits)?,
            head,
            tail,
        })
    }

    fn messages(&self, layout: &Layout) -> Result<Log, LogError> {
        let count = (self.descriptors.len() / layout.descriptor[0].max(1)) as u64;
        let numbers = mask(self.head.wrapping_sub(self.tail));
        if numbers >= count {
            return Err(LogError::Damaged);
        }
        let ids = (0..=numbers).map(|it| mask(self.tail.wrapping_add(it)));
        let messages = ids.filter_map(|id| self.message(layout, id, (id % count) as usize));
        // No two texts lie in the same place; a byte that is none of a text takes three.
        let mut room = self.texts.len() * 3;
        let messages = messages.take_while(|it| match room.checked_sub(it.text.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        });
        Ok(Log {
            messages: messages.collect(),
        })
    }

    /// The message of a number, if it is whole and that of this number.
    fn message(&self, layout: &Layout, id: u64, place: usize) -> Option<Message> {
        let [size, state, begin, next] = layout.descriptor;
        let descriptor = self.descriptors.get(place * size..)?;
        let state = descriptor.u64(state)?;
        let is_whole = [COMMITTED, FINALIZED].contains(&(state >> STATE_SHIFT));
        if mask(state) != id || !is_whole {
            return None;
        }
        let [size, number, time, length, facility] = layout.info;
        let info = self.infos.get(place * size..)?;
        let length = usize::from(info.u16(length)?);
        let text = self.text(descriptor.u64(begin)?, descriptor.u64(next)?, length);
        let level = *info.get((layout.level / 8) as usize)?;
        Some(Message {
            number: info.u64(number)?,
            nanoseconds: info.u64(time)?,
            level: level >> (layout.level % 8) & 7,
            facility: *info.get(facility)?,
            text: String::from_utf8_lossy(text?).into_owned(),
        })
    }

    /// A text, which follows a word with its number. One that would go over the end begins anew at the
    /// start of the ring. An odd place means that there is none.
    fn text(&self, begin: u64, next: u64, length: usize) -> Option<&[u8]> {
        if begin & 1 != 0 {
            return Some(&[]);
        }
        let size = self.texts.len() as u64;
        let goes_over = begin / size != next.wrapping_sub(1) / size;
        let begin = if goes_over { 0 } else { begin % size } as usize + 8;
        self.texts.get(begin..begin.checked_add(length)?)
    }
}

/// The number without the state.
fn mask(word: u64) -> u64 {
    word & !(3 << STATE_SHIFT)
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for message in &self.messages {
            let microseconds = message.nanoseconds / 1000;
            let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
            for line in message.text.lines() {
                writeln!(f, "[{seconds:>5}.{rest:06}] {line}")?;
            }
        }
        Ok(())
    }
}

/// Why what the kernel has printed cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// Neither a file nor the kernel says how it is kept, or it is kept in an older way.
    #[error(
        "nothing says how this kernel keeps what it prints: that takes its file or its own types, and a version from 5.10 on"
    )]
    Unknown,
    /// It contradicts itself.
    #[error("what the kernel keeps of what it printed is damaged")]
    Damaged,
    /// The memory with it cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        count_bits: 0,
        descriptors: 8,
        infos: 16,
        head: 24,
        tail: 32,
        size_bits: 40,
        texts: 48,
        descriptor: [24, 0, 8, 16],
        info: [24, 0, 8, 16, 18],
        level: 19 * 8 + 5,
    };

    fn descriptor(state: u64, id: u64, begin: u64, next: u64) -> Vec<u8> {
        [state << STATE_SHIFT | id, begin, next]
            .map(u64::to_le_bytes)
            .concat()
    }

    fn info(number: u64, length: u16) -> Vec<u8> {
        let mut info = [number, number * 1_500_000_000]
            .map(u64::to_le_bytes)
            .concat();
        info.extend(length.to_le_bytes());
        info.extend([0, 6 << 5, 0, 0, 0, 0]);
        info
    }

    /// Four descriptors, of which the third message has gone over the end of the texts.
    fn ring() -> Ring {
        let mut texts = vec![0; 32];
        texts[8..11].copy_from_slice(b"new");
        texts[24..28].copy_from_slice(b"old1");
        Ring {
            descriptors: [
                descriptor(FINALIZED, 8, 1, 1),
                descriptor(0, 9, 0, 0),
                descriptor(FINALIZED, 6, 16, 32),
                descriptor(COMMITTED, 7, 32, 48),
            ]
            .concat(),
            infos: [info(8, 0), info(9, 3), info(6, 4), info(7, 3)].concat(),
            texts,
            head: 9,
            tail: 6,
        }
    }

    #[test]
    fn whole_messages_are_read_in_their_order() {
        let log = ring().messages(&LAYOUT).unwrap();
        let texts = log.messages.iter().map(|it| (it.number, it.text.as_str()));
        let texts: Vec<_> = texts.collect();
        assert_eq!(texts, [(6, "old1"), (7, "new"), (8, "")]);
        assert_eq!((log.messages[0].level, log.messages[0].facility), (6, 0));
        let lines = "[    9.000000] old1\n[   10.500000] new\n";
        assert_eq!(log.to_string(), lines);
    }

    #[test]
    fn a_text_that_goes_over_the_end_begins_anew() {
        let mut ring = ring();
        let gone_over = descriptor(FINALIZED, 7, 56, 64 + 16);
        ring.descriptors.splice(72..96, gone_over);
        let log = ring.messages(&LAYOUT).unwrap();
        assert_eq!(log.messages[1].text, "new");
    }

    #[test]
    fn lies_about_the_rings_are_survived() {
        let mut lying = ring();
        lying.head = u64::MAX;
        assert!(lying.messages(&LAYOUT).is_err());
        for at in 0..ring().descriptors.len() {
            let mut changed = ring();
            changed.descriptors[at] ^= 0xff;
            drop(changed.messages(&LAYOUT));
        }
        for at in 0..ring().infos.len() {
            let mut changed = ring();
            changed.infos[at] ^= 0xff;
            drop(changed.messages(&LAYOUT));
        }
    }
}
