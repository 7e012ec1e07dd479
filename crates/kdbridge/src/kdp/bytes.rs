//! Little-endian fields, taken off the front of a body and put at the end of one.

use super::packet::Malformed;

/// What is left of a body.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// A port number is the one thing that has the network's order.
    pub(super) fn port(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// All that is left, which has to be `length` bytes.
    pub(super) fn exactly(&mut self, length: u32) -> Result<&'a [u8], Malformed> {
        if self.0.len() as u64 == u64::from(length) {
            Ok(self.rest())
        } else {
            Err(Malformed::Length)
        }
    }

    /// All that is left, which has to be a string and the zero that ends it.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let (end, text) = self.rest().split_last().ok_or(Malformed::Short)?;
        if *end != 0 || text.contains(&0) {
            return Err(Malformed::Text);
        }
        Ok(text)
    }

    /// Text up to its zero, or to the end: kernels are not strict about what they send.
    pub(super) fn text(&mut self) -> &'a [u8] {
        let rest = self.rest();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Length)
        }
    }
}

/// A body that grows.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn port(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `text` and the zero that ends it.
    pub(super) fn string(&mut self, text: &[u8]) -> &mut Self {
        self.bytes(text).bytes(&[0])
    }
}
