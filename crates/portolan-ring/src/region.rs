use std::{error, fmt};

#[cfg(loom)]
mod modelled;
#[cfg(not(loom))]
mod shared;

#[cfg(loom)]
pub use modelled::Region;
#[cfg(not(loom))]
pub use shared::Region;

/// Bytes of a region that come before its records.
pub const HEADER_BYTES: usize = 768;

/// The smallest capacity, in bytes.
pub const MIN_CAPACITY: usize = 64;

/// The largest capacity, in bytes: lengths of records fit in 32 bits with room to spare.
pub const MAX_CAPACITY: usize = 1 << 30;

/// Where the word of the header is that says how far the producer has published.
pub const PUBLISHED_OFFSET: usize = Word::Published as usize;

/// Where the word of the header is that [`Glance::keep`](crate::Glance::keep) writes.
pub const KEPT_OFFSET: usize = Word::Kept as usize;

/// How long the memory of a ring of `capacity` bytes is.
///
/// # Errors
///
/// [`RegionError::Capacity`] unless `capacity` is a power of two from [`MIN_CAPACITY`] to
/// [`MAX_CAPACITY`].
pub fn region_bytes(capacity: usize) -> Result<usize, RegionError> {
    if capacity.is_power_of_two() && (MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
        Ok(HEADER_BYTES + capacity)
    } else {
        Err(RegionError::Capacity)
    }
}

/// Why memory cannot hold a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionError {
    /// What comes after the header is not a power of two from [`MIN_CAPACITY`] to
    /// [`MAX_CAPACITY`] bytes long.
    Capacity,
    /// The memory does not start at a multiple of 64.
    Alignment,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "the capacity of a ring is a power of two from 64 bytes to 1 GiB",
            Self::Alignment => "the memory of a ring starts at a multiple of 64",
        })
    }
}

impl error::Error for RegionError {}

/// A word of the header, by its offset in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Published = 0,
    Released = 128,
    ConsumerSleeps = 256,
    ProducerSleeps = 384,
    /// The processor that the producer says it runs on, plus 1; 0 if it has not said so.
    Place = 512,
    /// How far the consumer has come as far as a successor is concerned, plus 1; 0 if that was never
    /// noted.
    Kept = 640,
    /// Behind which record's end the consumer was when it last began to fetch something from elsewhere
    /// that belongs to the record, plus 1; 0 if it never has.
    Fetching = 648,
    /// What tells the thing that was to be fetched from others.
    Fetched = 656,
}

/// A run of bytes at a position, cut where the ring wraps: offset and length up to the end, and
/// length from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    offset: usize,
    first: usize,
    rest: usize,
}

impl Cut {
    /// # Panics
    ///
    /// If `len` is more than the capacity, which no checked record is.
    fn new(capacity: usize, position: u64, len: usize) -> Self {
        assert!(len <= capacity, "a run of bytes fits in the ring");
        let offset = (position & (capacity as u64 - 1)) as usize;
        let first = len.min(capacity - offset);
        Self {
            offset,
            first,
            rest: len - first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_within_the_limits_are_capacities() {
        assert_eq!(region_bytes(MIN_CAPACITY), Ok(HEADER_BYTES + 64));
        assert_eq!(region_bytes(MAX_CAPACITY), Ok(HEADER_BYTES + (1 << 30)));
        for bad in [0, 1, 32, 96, MAX_CAPACITY * 2, usize::MAX] {
            assert_eq!(region_bytes(bad), Err(RegionError::Capacity));
        }
    }

    #[test]
    fn a_run_is_cut_at_the_end() {
        assert_eq!(
            Cut::new(64, 64 * 5 + 48, 24),
            Cut {
                offset: 48,
                first: 16,
                rest: 8
            }
        );
        assert_eq!(
            Cut::new(64, 0, 64),
            Cut {
                offset: 0,
                first: 64,
                rest: 0
            }
        );
        assert_eq!(
            Cut::new(64, u64::MAX - 7, 8),
            Cut {
                offset: 56,
                first: 8,
                rest: 0
            }
        );
    }
}
