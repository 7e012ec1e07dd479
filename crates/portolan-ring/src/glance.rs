use crate::Region;
use crate::region::Word;
use crate::sync::{AtomicU64, Ordering};

/// A look at a ring beside its two halves, for whoever waits for it or is waited for.
///
/// It needs no exclusive access, and what it tells is a hint: the consumer checks positions when it
/// reads, and the other side may say any place it likes.
#[derive(Debug)]
pub struct Glance {
    region: Region,
    /// What was last said here, so that the other side's cache line is left alone.
    said: AtomicU64,
}

impl Glance {
    /// Looks at this region.
    pub fn new(region: Region) -> Self {
        Self {
            region,
            said: AtomicU64::new(0),
        }
    }

    /// Whether the producer has published something behind `position`, or something that is wrong.
    #[inline]
    pub fn is_beyond(&self, position: u64) -> bool {
        self.region.load(Word::Published, Ordering::Relaxed) != position
    }

    /// Notes for a successor of the consumer that everything before `position` is taken.
    #[inline]
    pub fn keep(&self, position: u64) {
        // Positions are multiples of 8.
        self.region
            .store(Word::Kept, position | 1, Ordering::Release);
    }

    /// What a former consumer has [kept](Self::keep) here, if any has. The other side may have put
    /// anything there, so it is checked like any claim of its.
    pub fn kept(&self) -> Option<u64> {
        let word = self.region.load(Word::Kept, Ordering::Acquire);
        (word & 1 == 1).then_some(word & !7)
    }

    /// Notes for a successor that the consumer is about to fetch something from elsewhere that belongs to
    /// the record before `position`, and what tells it from others.
    pub fn fetch(&self, position: u64, mark: u64) {
        self.region.store(Word::Fetched, mark, Ordering::Relaxed);
        // The mark is there for whoever sees the position.
        self.region
            .store(Word::Fetching, position | 1, Ordering::Release);
    }

    /// What a former consumer was about to [fetch](Self::fetch) for the record before this position, if
    /// it came to that record. A claim like [`kept`](Self::kept).
    pub fn fetching(&self, position: u64) -> Option<u64> {
        let word = self.region.load(Word::Fetching, Ordering::Acquire);
        let mark = self.region.load(Word::Fetched, Ordering::Relaxed);
        (word == position | 1).then_some(mark)
    }

    /// How far the producer has published, as it says.
    pub fn published(&self) -> u64 {
        self.region.load(Word::Published, Ordering::Acquire)
    }

    /// Says on the producer's side on which processor it runs.
    #[inline]
    pub fn say_place(&self, place: u32) {
        let word = u64::from(place) + 1;
        if self.said.load(Ordering::Relaxed) != word {
            self.said.store(word, Ordering::Relaxed);
            self.region.store(Word::Place, word, Ordering::Relaxed);
        }
    }

    /// On which processor the producer said that it ran; `None` if it never did.
    #[inline]
    pub fn place(&self) -> Option<u32> {
        let word = self.region.load(Word::Place, Ordering::Relaxed);
        word.checked_sub(1).map(|place| place as u32)
    }
}
