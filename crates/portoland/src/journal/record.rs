//! The bytes of one record, numbers little-endian:
//!
//! | at | bytes | |
//! | ---: | ---: | --- |
//! | 0 | 4 | length of what follows the head |
//! | 4 | 2 | version of the format |
//! | 6 | 2 | operation: 1 put, 2 remove |
//! | 8 | 8 | sum of what follows the head |
//! | 16 | 8 | sum of the 16 bytes before, so that a length can be believed before it is used |
//! | 24 | 8 | id of the key |
//! | 32 | 2 | kind of the key |
//! | 34 | 2 | number of descriptors |
//! | 36 | 4 each | descriptor numbers |
//! | | rest | bytes of the entry |
//!
//! The head means the same in all versions. What a killed server leaves behind is a beginning of a
//! record, because memory of a memfd becomes part of the file only after it was written; a last
//! record with a wrong sum is taken for one nevertheless.
//!
//! The sum is FNV-1a with 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv): four lines without a table, each
//! changed byte changes it, and over a record of 100 bytes it costs less than the call that writes
//! them. It is there against accidents and not against an adversary, who could write the memfd only
//! as the server itself.

use super::{JournalError, Key};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

const HEAD: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put = 1,
    Remove = 2,
}

#[derive(Debug)]
pub(super) struct Record<'a> {
    /// With its head.
    pub(super) length: usize,
    pub(super) operation: Operation,
    pub(super) key: Key,
    pub(super) bytes: &'a [u8],
    numbers: &'a [[u8; 4]],
}

impl Record<'_> {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = u32> {
        self.numbers
            .iter()
            .map(|&number| u32::from_le_bytes(number))
    }
}

/// Makes `buffer` one record. The limits of what is in it are the caller's to check.
pub(super) fn write(
    buffer: &mut Vec<u8>,
    operation: Operation,
    key: Key,
    numbers: impl ExactSizeIterator<Item = u32>,
    bytes: &[u8],
) {
    buffer.clear();
    buffer.resize(HEAD, 0);
    buffer.extend_from_slice(&key.id.to_le_bytes());
    buffer.extend_from_slice(&key.kind.to_le_bytes());
    buffer.extend_from_slice(&(numbers.len() as u16).to_le_bytes());
    buffer.extend(numbers.flat_map(u32::to_le_bytes));
    buffer.extend_from_slice(bytes);
    if let Some((head, body)) = buffer.split_first_chunk_mut() {
        *head = Head {
            length: body.len() as u32,
            version: VERSION,
            operation: operation as u16,
            sum: sum(body),
        }
        .encode();
    }
}

/// The record that begins at `offset`; `None` at the end, and for a last record that is cut off.
pub(super) fn read(image: &[u8], offset: usize) -> Result<Option<Record<'_>>, JournalError> {
    let damaged = JournalError::Damaged { offset };
    let Some((head, rest)) = image.get(offset..).and_then(<[u8]>::split_first_chunk) else {
        return Ok(None);
    };
    let Some(head) = Head::decode(head) else {
        return Err(damaged);
    };
    if head.version != VERSION {
        let found = head.version;
        return Err(JournalError::OtherVersion { found });
    }
    let Some((body, behind)) = rest.split_at_checked(head.length as usize) else {
        return Ok(None);
    };
    if sum(body) != head.sum {
        return if behind.is_empty() {
            Ok(None)
        } else {
            Err(damaged)
        };
    }
    parse(&head, body).map(Some).ok_or(damaged)
}

fn parse<'a>(head: &Head, body: &'a [u8]) -> Option<Record<'a>> {
    let operation = match head.operation {
        1 => Operation::Put,
        2 => Operation::Remove,
        _ => return None,
    };
    let (id, rest) = body.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let count = usize::from(u16::from_le_bytes(*count));
    let (numbers, bytes) = rest.split_at_checked(count * 4)?;
    Some(Record {
        length: HEAD + body.len(),
        operation,
        key: Key {
            kind: u16::from_le_bytes(*kind),
            id: u64::from_le_bytes(*id),
        },
        bytes,
        numbers: numbers.as_chunks().0,
    })
}

struct Head {
    length: u32,
    version: u16,
    operation: u16,
    sum: u64,
}

impl Head {
    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.operation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sum.to_le_bytes());
        let own = sum(&bytes[..16]);
        bytes[16..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// `None` if it is not what was written.
    fn decode(bytes: &[u8; HEAD]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (operation, rest) = rest.split_first_chunk()?;
        let (body, own) = rest.split_first_chunk()?;
        (sum(&bytes[..16]).to_le_bytes() == *own).then(|| Self {
            length: u32::from_le_bytes(*length),
            version: u16::from_le_bytes(*version),
            operation: u16::from_le_bytes(*operation),
            sum: u64::from_le_bytes(*body),
        })
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { kind: 3, id: 4 };

    fn record() -> Vec<u8> {
        let mut buffer = Vec::new();
        write(
            &mut buffer,
            Operation::Put,
            KEY,
            [5, 6].into_iter(),
            b"seven",
        );
        buffer
    }

    /// From the draft's table of test vectors.
    #[test]
    fn the_sum_is_fnv_1a() {
        assert_eq!(sum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(sum(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(sum(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_record_is_what_the_table_says() {
        let record = record();
        assert_eq!(record[..8], [12 + 8 + 5, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(record[8..16], sum(&record[24..]).to_le_bytes());
        assert_eq!(record[16..24], sum(&record[..16]).to_le_bytes());
        assert_eq!(record[24..36], [4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 2, 0]);
        assert_eq!(record[36..], *b"\x05\0\0\0\x06\0\0\0seven");
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = record();
        let (head, _) = bytes.split_first_chunk_mut().expect("a head");
        let mut newer = Head::decode(head).expect("whole");
        newer.version = 7;
        *head = newer.encode();
        let error = read(&bytes, 0).expect_err("newer");
        assert_eq!(
            error.to_string(),
            "the journal has format 7, and this server reads format 1"
        );
    }
}
