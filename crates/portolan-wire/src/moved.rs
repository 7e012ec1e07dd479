//! What goes with each channel of a receive right that moves: its receiver's end is the
//! descriptor, the rest is this record.

use thiserror::Error;

/// Bytes of an encoded [`MovedChannel`].
pub const RECORD_BYTES: usize = 16;

/// One channel of a receive right on its way to another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedChannel {
    /// Bytes 0 to 7, little-endian: the number that the receiver attached to the channel.
    pub badge: u64,
    /// Byte 8, 0 or 1: the channel belongs to a send-once right. Bytes 9 to 15 are zero.
    pub once: bool,
}

impl MovedChannel {
    /// The bytes of this record.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&self.badge.to_le_bytes());
        out[8] = u8::from(self.once);
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
    let [b0, b1, b2, b3, b4, b5, b6, b7, once, reserved @ ..] = *record;
    if once > 1 || reserved != [0; 7] {
        return Err(MovedError);
    }
    let badge = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    Ok(MovedChannel {
        badge,
        once: once == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_round_trip() {
        let records =
            [(3, false), (u64::MAX, true)].map(|(badge, once)| MovedChannel { badge, once });
        let bytes = records.map(|record| record.encode()).concat();
        assert_eq!(decode(&bytes).expect("decode"), records);
    }

    #[test]
    fn partial_and_unknown_records_are_refused() {
        let bytes = MovedChannel {
            badge: 1,
            once: false,
        }
        .encode();
        assert_eq!(decode(&bytes[..15]), Err(MovedError));
        for (at, value) in [(8, 2), (15, 1)] {
            let mut bad = bytes;
            bad[at] = value;
            assert_eq!(decode(&bad), Err(MovedError));
        }
    }
}
