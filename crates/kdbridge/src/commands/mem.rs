//! `kdbridge mem`: what is in memory.

use std::fmt;

use serde::Serialize;

use super::hex;
use crate::target::{Memory, TargetError};

const LINE: usize = 16;

/// Some bytes and where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The address of the first one.
    #[serde(serialize_with = "hex")]
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Reads `length` bytes at an address.
///
/// # Errors
///
/// [`TargetError`] if not all of them can be read.
pub fn mem(memory: &mut dyn Memory, at: u64, length: usize) -> Result<Bytes, TargetError> {
    let mut bytes = vec![0; length];
    memory.read(at, &mut bytes)?;
    Ok(Bytes { at, bytes })
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.bytes.chunks(LINE).enumerate() {
            let at = self.at.wrapping_add((number * LINE) as u64);
            write!(f, "{at:#018x} ")?;
            for place in 0..LINE {
                let gap = if place % 8 == 0 { " " } else { "" };
                match line.get(place) {
                    Some(byte) => write!(f, "{gap}{byte:02x} ")?,
                    None => write!(f, "{gap}   ")?,
                }
            }
            let text = line.iter().map(|&byte| match byte {
                b' '..=b'~' => char::from(byte),
                _ => '.',
            });
            writeln!(f, " |{}|", text.collect::<String>())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_numbers_and_as_text() {
        let bytes = Bytes {
            at: 0xffff_ffff_8100_0ff8,
            bytes: b"Linux version 6.1\0".to_vec(),
        };
        let lines = [
            "0xffffffff81000ff8  4c 69 6e 75 78 20 76 65  72 73 69 6f 6e 20 36 2e  |Linux version 6.|",
            "0xffffffff81001008  31 00                                             |1.|",
        ];
        assert_eq!(
            bytes.to_string(),
            lines.map(|it| it.to_owned() + "\n").concat()
        );
    }
}
