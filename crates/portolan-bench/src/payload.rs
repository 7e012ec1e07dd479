//! What is sent: words that are new for every message, which the receiver has to add up.

/// A counter from a seed, so that no message is like the one before.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    next: u64,
    total: u64,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            next: seed,
            total: 0,
        }
    }

    /// The sum of all words written so far, modulo 2^64.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Writes the next words over all of `buffer`, whose length is a multiple of 8.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        let (mut next, mut total) = (self.next, self.total);
        for word in buffer.chunks_exact_mut(8) {
            word.copy_from_slice(&next.to_le_bytes());
            total = total.wrapping_add(next);
            next = next.wrapping_add(1);
        }
        (self.next, self.total) = (next, total);
    }

    /// The next words in a vector of their own.
    pub(crate) fn vector(&mut self, length: usize) -> Vec<u8> {
        let mut vector = vec![0; length];
        self.fill(&mut vector);
        vector
    }

    pub(crate) fn word(&mut self) -> u64 {
        let word = self.next;
        self.next = word.wrapping_add(1);
        self.total = self.total.wrapping_add(word);
        word
    }
}

/// The sum of all words, modulo 2^64.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |total, word| {
        total.wrapping_add(u64::from_le_bytes(*word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_finds_the_senders_sum() {
        let mut source = Source::new(u64::MAX - 3);
        let first = source.vector(64);
        assert_eq!(sum(&first), source.total());
        let second = source.vector(4096);
        assert_ne!(first[..8], second[..8]);
        let both = sum(&first).wrapping_add(sum(&second));
        assert_eq!(both, source.total());
        assert_eq!(both.wrapping_add(source.word()), source.total());
    }
}
