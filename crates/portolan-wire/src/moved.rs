//! What goes with each channel of a receive right that moves: its receiver's end is the
//! descriptor, the rest is this record.

use thiserror::Error;

/// Bytes of an encoded [`MovedChannel`].
pub const RECORD_BYTES: usize = 32;

/// One channel of a receive right on its way to another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedChannel {
    /// Bytes 0 to 7, little-endian: the number that the receiver attached to the channel.
    pub badge: u64,
    /// Byte 8, bit 0: the channel belongs to a send-once right. Bytes 9 to 15 are zero.
    pub once: bool,
    /// Byte 8, bit 3: a process that an owner did not trust may know the memory of this channel.
    pub is_known: bool,
    /// Byte 8, bit 1: the channel shares memory; five descriptors more belong to it, the memory
    /// and the two ends of the receiver's bell and of the holder's. Zeros in the last 16 bytes if not.
    pub memory: Option<MovedMemory>,
}

/// How far the receiver has come in the shared memory of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MovedMemory {
    /// Bytes 16 to 23, little-endian: bytes of requests taken.
    pub taken: u64,
    /// Byte 8, bit 2: everything goes through the memory. Else it has been accepted, but the holder
    /// has not said yet that it went over to it.
    pub in_use: bool,
    /// Bytes 24 to 31, little-endian: bytes of answers written.
    pub written: u64,
}

impl MovedChannel {
    /// The most descriptors that one channel has.
    pub const MAX_FDS: usize = 6;

    /// How many descriptors the channel has.
    #[must_use]
    pub const fn fds(&self) -> usize {
        if self.memory.is_some() {
            Self::MAX_FDS
        } else {
            1
        }
    }

    /// The bytes of this record.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&self.badge.to_le_bytes());
        out[8] = u8::from(self.once) | (u8::from(self.is_known) << 3);
        if let Some(memory) = self.memory {
            let MovedMemory {
                taken,
                in_use,
                written,
            } = memory;
            out[8] |= 2 | (u8::from(in_use) << 2);
            out[16..24].copy_from_slice(&taken.to_le_bytes());
            out[24..].copy_from_slice(&written.to_le_bytes());
        }
        out
    }
}

/// Bytes that are not a sequence of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a list of moved channels")]
pub struct MovedError;

/// Takes a sequence of records apart.
///
/// # Errors
///
/// [`MovedError`] for a partial record or one that [`MovedChannel::encode`] would not write.
pub fn decode(bytes: &[u8]) -> Result<Vec<MovedChannel>, MovedError> {
    let (records, rest) = bytes.as_chunks::<RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(MovedError);
    }
    records.iter().map(decode_one).collect()
}

fn decode_one(record: &[u8; RECORD_BYTES]) -> Result<MovedChannel, MovedError> {
    let (words, _) = record.as_chunks::<8>();
    let [badge, flags, taken, written] = words else {
        return Err(MovedError);
    };
    let [badge, flags, taken, written] =
        [badge, flags, taken, written].map(|w| u64::from_le_bytes(*w));
    let in_use = flags & 4 != 0;
    let memory = match (flags & 2 != 0, in_use, taken, written) {
        (true, ..) => Some(MovedMemory {
            taken,
            in_use,
            written,
        }),
        (false, false, 0, 0) => None,
        (false, ..) => return Err(MovedError),
    };
    if flags > 15 {
        return Err(MovedError);
    }
    Ok(MovedChannel {
        badge,
        once: flags & 1 != 0,
        is_known: flags & 8 != 0,
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_round_trip() {
        let memory = Some(MovedMemory {
            taken: 7,
            in_use: true,
            written: u64::MAX,
        });
        let records = [(3, false, None), (u64::MAX, true, None), (0, false, memory)].map(
            |(badge, once, memory)| MovedChannel {
                badge,
                once,
                is_known: once,
                memory,
            },
        );
        let bytes = records.map(|record| record.encode()).concat();
        assert_eq!(decode(&bytes).expect("decode"), records);
        assert_eq!(records.map(|record| record.fds()), [1, 1, 6]);
    }

    #[test]
    fn partial_and_unknown_records_are_refused() {
        let bytes = MovedChannel {
            badge: 1,
            once: false,
            is_known: false,
            memory: None,
        }
        .encode();
        assert_eq!(decode(&bytes[..31]), Err(MovedError));
        for (at, value) in [(8, 4), (8, 16), (15, 1), (16, 1), (31, 1)] {
            let mut bad = bytes;
            bad[at] = value;
            assert_eq!(decode(&bad), Err(MovedError));
        }
    }
}
