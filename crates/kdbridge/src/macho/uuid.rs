//! The number by which a kernel and the files about it know each other.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A UUID, as text in capital letters, as lldb writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

/// Where the hyphens stand, counted in bytes.
const GROUPS: [std::ops::Range<usize>; 5] = [0..4, 4..6, 6..8, 8..10, 10..16];

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in GROUPS.into_iter().enumerate() {
            if index != 0 {
                f.write_str("-")?;
            }
            let bytes = self.0.get(group).unwrap_or_default();
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
        }
        Ok(())
    }
}

/// A text that is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a UUID")]
pub struct NotUuid;

impl FromStr for Uuid {
    type Err = NotUuid;

    /// 32 digits, with hyphens anywhere.
    fn from_str(text: &str) -> Result<Self, NotUuid> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|&c| c != '-')
            .map(|c| c.to_digit(16).map(|digit| digit as u8).ok_or(NotUuid))
            .collect::<Result<_, _>>()?;
        let digits: &[u8; 32] = digits.as_slice().try_into().map_err(|_| NotUuid)?;
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| value << 4 | digit);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes() {
        let text = "C75BDFDD-9F27-3694-BB80-73CF991C13D8";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!((uuid.0[0], uuid.0[15]), (0xC7, 0xD8));
        assert_eq!(uuid.to_string(), text);
        assert_eq!(text.to_lowercase().replace('-', "").parse(), Ok(uuid));
        assert_eq!("C75BDFDD".parse::<Uuid>(), Err(NotUuid));
        assert_eq!(format!("{text}0").parse::<Uuid>(), Err(NotUuid));
    }
}
