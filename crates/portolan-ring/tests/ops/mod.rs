//! Bodies that take a list of operations as bytes, so that a fuzzer and a property test run the same
//! code.

pub(crate) mod hostile;
pub(crate) mod model;
mod pair;
pub(crate) mod race;

/// The bytes of an op list; zeros once they are used up, but no further operation.
#[derive(Clone)]
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// Any word of a small memory.
    fn place(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn capacity(&mut self) -> usize {
        64 << (self.byte() % 5)
    }

    /// Up to 543 bytes that depend on the first two of the input, all different from their
    /// neighbours. Mostly short.
    fn payload(&mut self) -> Vec<u8> {
        let (len, seed) = (usize::from(self.byte()), self.byte());
        let len = if len < 224 { len / 4 } else { (len - 224) * 17 };
        (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
    }
}
