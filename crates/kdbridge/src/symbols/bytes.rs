//! Little-endian numbers and texts out of bytes that may be too few.

use std::borrow::Cow;

/// Numbers at an offset; `None` where the bytes end before.
pub(crate) trait Bytes {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// All of them as a number, eight at most.
    fn number(&self) -> u64;

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

impl Bytes for [u8] {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let end = at.checked_add(N)?;
        self.get(at..end)?.try_into().ok()
    }

    fn number(&self) -> u64 {
        let bytes = self.iter().take(8).rev();
        bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
    }
}

/// The text from `at` to the next zero byte or the end; empty if `at` is outside.
pub(crate) fn text_at(bytes: &[u8], at: usize) -> Cow<'_, str> {
    let rest = bytes.get(at..).unwrap_or_default();
    let end = rest.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())])
}
