/// Every record starts at a multiple of this many bytes.
pub(crate) const ALIGNMENT: u64 = 8;

/// Bytes that a record takes beside its payload and the padding.
pub const RECORD_HEADER_BYTES: usize = 8;

/// One record may take at most `capacity / MAX_RECORD_FRACTION` bytes. With half the ring as the
/// limit, the next record can be written while the largest one is being read, and a record that
/// has to wait never needs the ring to be empty.
pub const MAX_RECORD_FRACTION: usize = 2;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The payload's length in bytes.
    pub len: u32,
    /// A number for the caller's own use, carried unread.
    pub tag: u32,
}

/// How many bytes of the ring a record with a payload of `len` bytes takes: header, payload and
/// padding.
pub const fn record_bytes(len: u32) -> u64 {
    (RECORD_HEADER_BYTES as u64 + len as u64).next_multiple_of(ALIGNMENT)
}

/// Records that are put together in private memory, for [`Producer::push_run`].
///
/// [`Producer::push_run`]: crate::Producer::push_run
#[derive(Debug, Default)]
pub struct Run {
    bytes: Vec<u8>,
}

impl Run {
    /// Adds a record with this tag, whose payload are the parts one behind the other. Gives the
    /// payload's length back if it is more than `max`.
    ///
    /// # Errors
    ///
    /// The length of the payload, if it is more than `max`.
    #[inline]
    pub fn push(&mut self, tag: u32, parts: &[&[u8]], max: u32) -> Result<(), usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > max as usize {
            return Err(len);
        }
        let record = Record {
            len: len as u32,
            tag,
        };
        let end = self.bytes.len() + record_bytes(record.len) as usize;
        self.bytes.reserve(end - self.bytes.len());
        self.bytes
            .extend_from_slice(&record.to_word().to_ne_bytes());
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.resize(end, 0);
        Ok(())
    }

    /// Bytes of the records, headers and padding included.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The length of the first record's payload; `None` if there are no records.
    pub fn next_len(&self) -> Option<u32> {
        split_record(&self.bytes).map(|(record, ..)| record.len)
    }

    /// The bytes of as many whole records as fit into `room`.
    pub(crate) fn fitting(&self, room: usize) -> &[u8] {
        if self.bytes.len() <= room {
            return &self.bytes;
        }
        let there = self.bytes.get(..room).unwrap_or_default();
        there
            .get(..room - without_records(there, u32::MAX).len())
            .unwrap_or_default()
    }

    /// Takes the first `count` bytes away, which are whole records.
    pub(crate) fn remove(&mut self, count: usize) {
        match count == self.bytes.len() {
            true => self.bytes.clear(),
            false => drop(self.bytes.drain(..count)),
        }
    }
}

/// The first record of a run that [`Consumer::take_run`](crate::Consumer::take_run) copied, its
/// payload, and the rest of the run. `None` at its end.
#[inline]
pub fn split_record(run: &[u8]) -> Option<(Record, &[u8], &[u8])> {
    let (word, behind) = run.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let record = Record::from_word(u64::from_ne_bytes(*word));
    let payload = behind.get(..record.len as usize)?;
    let rest = run.get(usize::try_from(record_bytes(record.len)).ok()?..)?;
    Some((record, payload, rest))
}

/// What is left behind the whole records of a run, none of which is longer than `max`.
pub(crate) fn without_records(mut run: &[u8], max: u32) -> &[u8] {
    while let Some((record, _, rest)) = split_record(run)
        && record.len <= max
    {
        run = rest;
    }
    run
}

impl Record {
    pub(crate) fn from_word(word: u64) -> Self {
        Self {
            len: word as u32,
            tag: (word >> 32) as u32,
        }
    }

    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.tag) << 32 | u64::from(self.len)
    }
}

/// The largest payload that fits in a ring of `capacity` bytes.
pub(crate) fn max_payload(capacity: u64) -> u32 {
    let bytes = capacity / MAX_RECORD_FRACTION as u64 - RECORD_HEADER_BYTES as u64;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_padded_to_the_next_boundary() {
        for (len, bytes) in [(0, 8), (1, 16), (8, 16), (9, 24), (u32::MAX, (1 << 32) + 8)] {
            assert_eq!(record_bytes(len), bytes);
        }
    }

    #[test]
    fn the_header_is_one_word() {
        let record = Record {
            len: 0x0102_0304,
            tag: 0xa0b0_c0d0,
        };
        assert_eq!(record.to_word(), 0xa0b0_c0d0_0102_0304);
        assert_eq!(Record::from_word(record.to_word()), record);
    }
}
