//! The bytes of a message, read once.

use std::io::{self, BufRead, Read};

use crate::payload::Payload;

/// So many bytes of memory that is the sender's are copied at a time: few enough to stay in the
/// processor's first cache while they are worked on.
const PIECE_BYTES: usize = 8 << 10;

/// The bytes of a message, to be read once from the front: see
/// [`Message::take_body`](crate::Message::take_body).
///
/// A large message lies in memory of its sender's, who may go on writing there. Each byte is copied
/// from it once, so what was read does not change any more.
#[derive(Debug)]
pub struct Body {
    payload: Payload,
    at: usize,
    /// Bytes from `at` on that were copied.
    piece: Vec<u8>,
    /// How many of them have been read.
    read: usize,
}

impl Body {
    pub(crate) fn new(payload: Payload) -> Self {
        Self {
            payload,
            at: 0,
            piece: Vec::new(),
            read: 0,
        }
    }

    /// How many bytes have not been read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.payload.len() - self.at - self.read
    }

    fn copied(&self) -> &[u8] {
        self.piece.get(self.read..).unwrap_or_default()
    }

    /// Copies the next piece if there is none.
    fn copy_piece(&mut self) {
        if self.copied().is_empty() {
            self.at += self.read;
            self.read = 0;
            let left = self.payload.len() - self.at;
            self.piece.resize(left.min(PIECE_BYTES), 0);
            self.payload.read(self.at, &mut self.piece);
        }
    }
}

impl Read for Body {
    /// Never fails; 0 means that everything has been read.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.fill_buf()?;
        let count = rest.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Body {
    /// Never fails; nothing means that everything has been read.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if matches!(self.payload, Payload::Borrowed(_)) {
            self.copy_piece();
            return Ok(self.copied());
        }
        let rest = self.payload.as_slice().get(self.at..);
        Ok(rest.unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        match self.payload {
            Payload::Borrowed(_) => self.read = self.piece.len().min(self.read + count),
            _ => self.at = self.payload.len().min(self.at + count),
        }
    }
}
