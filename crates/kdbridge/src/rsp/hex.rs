//! Numbers and bytes as the protocol writes them.

/// Two digits for each byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    for &byte in bytes {
        text.extend_from_slice(&PAIRS[usize::from(byte)]);
    }
    // Digits are text, and the check that they are is fast.
    String::from_utf8(text).unwrap_or_default()
}

/// The bytes of pairs of digits; `None` if it is anything else.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    decode_into(text, &mut bytes).then_some(bytes)
}

/// Fills `into` with the bytes of pairs of digits; false if it is anything else, or another number of them.
#[must_use]
pub fn decode_into(text: &[u8], into: &mut [u8]) -> bool {
    let (pairs, odd) = text.as_chunks::<2>();
    // A bit that no digit has.
    let mut wrong = 0;
    for (byte, &[high, low]) in into.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    wrong < 16 && odd.is_empty() && pairs.len() == into.len()
}

/// A number without a sign or a prefix, the highest digit first.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0, |number: u64, &digit| {
        Some(number << 4 | u64::from(value(digit)?))
    })
}

/// The two numbers of `12,34`.
#[must_use]
pub fn pair(text: &[u8]) -> Option<(u64, u64)> {
    let comma = text.iter().position(|&byte| byte == b',')?;
    let (first, second) = text.split_at(comma);
    Some((number(first)?, number(second.get(1..)?)?))
}

pub(crate) fn digit(value: u8) -> u8 {
    DIGITS[usize::from(value & 15)]
}

pub(crate) fn value(digit: u8) -> Option<u8> {
    let value = VALUES[usize::from(digit)];
    (value < 16).then_some(value)
}

/// What each byte is as a digit; 16 if it is none.
const VALUES: [u8; 256] = {
    let mut values = [16; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        values[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// What each byte is as two digits.
const PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_both_ways() {
        assert_eq!(encode(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(decode(b"007FfF"), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(decode(b"0"), None);
        assert_eq!(decode(b"0x"), None);
        assert!(!decode_into(b"00", &mut [0; 2]));
        assert!(!decode_into(b"0000", &mut [0; 1]));
    }

    #[test]
    fn numbers_have_at_most_sixteen_digits() {
        assert_eq!(number(b"ffffffff81000000"), Some(0xffff_ffff_8100_0000));
        assert_eq!(number(b"0ffffffff81000000"), None);
        assert_eq!(number(b""), None);
        assert_eq!(pair(b"10,2"), Some((16, 2)));
        assert_eq!(pair(b"10"), None);
        assert_eq!(pair(b"10,"), None);
    }
}
