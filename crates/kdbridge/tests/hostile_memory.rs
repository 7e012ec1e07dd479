//! Memory that says anything, to all that reads memory.

use kdbridge::discover::{linux, xnu};
use kdbridge::kernel::{Kernel, Sources};
use kdbridge::symbols::{Cache, Index, kallsyms};
use kdbridge::target::{Memory, TargetError};
use kdbridge::types::{Tag, TypeId, Types};
use kdbridge::xnu::live_names;
use proptest::prelude::*;

const IMAGE: u64 = 0xffff_ffff_8100_0000;
const PAGE: u64 = 4096;

/// More than this nothing reads that looks for a kernel.
const MOST_READ: u64 = 2 << 30;

/// Pages whose content follows from a number and from where they are.
struct Anything {
    seed: u64,
    read: u64,
}

impl Anything {
    fn of(seed: u64) -> Self {
        Self { seed, read: 0 }
    }

    /// The page at `at`; `None` if there is none.
    fn page(&self, at: u64) -> Option<Vec<u8>> {
        let mut random = Random(self.seed ^ at.rotate_left(17));
        let bait: &[u8] = match random.next() % 12 {
            0 => return None,
            1 => return Some(vec![0; PAGE as usize]),
            2 => return Some(random.words(|random| random.next())),
            // Pointers, mostly to other pages of these.
            3 => return Some(random.words(|random| IMAGE + random.next() % (64 << 20))),
            4 => return Some(random.words(|random| random.next() % 1000)),
            5 => return Some(vec![0x48; PAGE as usize]),
            6 => return Some(vec![0xff; PAGE as usize]),
            7 => b"Linux version 6.1.0 (a@b) #1\0\0\0\0",
            8 => b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00",
            9 => b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0",
            10 => b"\xcf\xfa\xed\xfe\x07\0\0\x01\x03\0\0\0\x02\0\0\0\xff\0\0\0\xff\x0f\0\0",
            _ => b"Linux version 6.1.0 ( # )\0\0\0\0\0\0\0",
        };
        let shift = random.next() as usize % bait.len();
        let repeated = bait.iter().cycle().skip(shift);
        let mut page: Vec<u8> = repeated.copied().take(PAGE as usize).collect();
        // A few of its bytes are others.
        for _ in 0..random.next() % 8 {
            let place = random.next() as usize % page.len();
            page[place] = random.next() as u8;
        }
        Some(page)
    }
}

impl Memory for Anything {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read += into.len() as u64;
        assert!(self.read <= MOST_READ, "it reads on and on");
        let mut done = 0;
        while done < into.len() {
            let next = at.wrapping_add(done as u64);
            let offset = (next % PAGE) as usize;
            let page = self.page(next - offset as u64);
            let page = page.ok_or(TargetError::Unreadable(next))?;
            let rest = &mut into[done..];
            let count = rest.len().min(PAGE as usize - offset);
            rest[..count].copy_from_slice(&page[offset..offset + count]);
            done += count;
        }
        Ok(())
    }
}

/// Numbers that look random: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = (self.0 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn words(&mut self, word: impl Fn(&mut Self) -> u64) -> Vec<u8> {
        let words = (0..PAGE / 8).map(|_| word(self).to_le_bytes());
        words.flatten().collect()
    }
}

/// An address near which something may be: in an image, anywhere, at either end.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => IMAGE..IMAGE + (64 << 20),
        1 => any::<u64>(),
        1 => u64::MAX - 0x1_0000..=u64::MAX,
        1 => 0..0x1_0000u64,
    ]
}

/// Types that are made of each other in any way: `members` numbers of types to each.
fn types(kinds: &[(u8, u16)]) -> Vec<u8> {
    let mut types = Vec::new();
    for &(kind, target) in kinds {
        let count = kinds.len() as u16 + 1;
        let target = u32::from(target % count);
        let (kind, members) = match kind % 8 {
            0 => (2, 0),
            1 => (3, 0),
            2 => (4, 3),
            3 => (8, 0),
            4 => (10, 0),
            5 => (13, 3),
            6 => (5, 2),
            _ => (14, 0),
        };
        let words: &[u32] = match kind {
            3 => &[target, target, 3],
            4 | 5 => &[0, target, 0, 0, target / 2, 8, 0, target, 64][..members * 3],
            13 => &[0, target, 0, target / 2, 0, target],
            14 => &[0],
            _ => &[],
        };
        let head = [0, kind << 24 | members as u32, target];
        types.extend(head.iter().chain(words).flat_map(|it| it.to_le_bytes()));
    }
    let length = types.len() as u32;
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    let header = [24, 0, length, length, 8];
    btf.extend(header.iter().flat_map(|it: &u32| it.to_le_bytes()));
    [btf, types, b"\0name\0\0\0".to_vec()].concat()
}

/// Asks all that can be asked of a type.
fn look(all: &Types, id: TypeId) {
    let known = (all.size(id), all.member(id, "name"));
    let text = format!("{known:?} {}", all.name(id));
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
}

#[test]
fn a_type_that_is_twice_in_itself_has_an_end() {
    let all = Types::of_btf(types(&[(2, 1)])).unwrap();
    look(&all, TypeId(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn names_are_found_or_not(seed: u64, near in place()) {
        kallsyms(&mut Anything::of(seed), near).ok();
    }

    #[test]
    fn linux_is_found_or_not(seed: u64) {
        let mut memory = Anything::of(seed);
        if let Ok(found) = linux::find(&mut memory, &Cache::none()) {
            let sources = Sources {
                index: Index::only(Vec::new()),
                cache: Cache::none(),
                progress: &mut |_| {},
            };
            memory.read = 0;
            Kernel::open(&mut memory, found, sources).ok();
        }
    }

    #[test]
    fn xnu_is_found_or_not(seed: u64, pc in place(), list in place()) {
        let mut memory = Anything::of(seed);
        let hints = xnu::Hints { pc: Some(pc), ..xnu::Hints::default() };
        if let Ok(found) = xnu::find(&mut memory, hints) {
            live_names(&mut memory, &found).ok();
        }
        for kext in xnu::kexts(&mut memory, list).unwrap_or_default() {
            xnu::segments(&mut memory, &kext).ok();
        }
        xnu::image_at(&mut memory, list).ok();
    }

}

proptest! {
    #[test]
    fn types_that_are_made_of_each_other_have_an_end(
        kinds in proptest::collection::vec(any::<(u8, u16)>(), 1..20)
    ) {
        let all = Types::of_btf(types(&kinds)).unwrap();
        for number in 0..=kinds.len() as u32 {
            look(&all, TypeId(number));
        }
    }

    #[test]
    fn types_of_any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), kinds: Vec<(u8, u16)>
    ) {
        Types::of_btf(bytes.clone()).ok();
        // Something of what is right is something else.
        let mut right = types(&kinds);
        for (number, byte) in bytes.iter().enumerate().take(8) {
            let place = number * 37 % right.len();
            right[place] ^= byte;
        }
        if let Ok(mut all) = Types::of_btf(right) {
            all.find(Tag::Struct, "name");
            for number in 0..64 {
                look(&all, TypeId(number));
            }
        }
    }
}
