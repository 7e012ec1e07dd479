//! Packets: `$`, a payload, `#` and a checksum of two digits. Between them stand acknowledgements and the
//! byte that interrupts.

use thiserror::Error;

use super::hex::{digit, value};

/// The longest payload that is taken: both debuggers stay far below, and no stub needs more.
pub const MAX_PAYLOAD: usize = 1 << 20;

const ESCAPE: u8 = b'}';
const ESCAPED: u8 = 0x20;

/// What a stream of bytes contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A packet whose checksum is right.
    Packet(Vec<u8>),
    /// A packet whose checksum is wrong: the other side is to send it again.
    Damaged,
    /// `+`: the last packet arrived.
    Ack,
    /// `-`: the last packet is to be sent again.
    Nack,
    /// The byte 3, outside of a packet.
    Interrupt,
}

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload is longer than [`MAX_PAYLOAD`], run lengths counted.
    #[error("a packet longer than {MAX_PAYLOAD} bytes")]
    TooLong,
    /// A run length without anything before it, or below the smallest.
    #[error("a run length that is none")]
    Run,
}

/// Makes items of bytes, in whatever pieces these arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    payload: Vec<u8>,
    sum: u8,
    /// The byte that a run repeats, as it stood in the packet: a run may follow an escaped byte.
    last: Option<u8>,
    escaped: bool,
    runs: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Between,
    /// A notification, of which nothing is kept.
    Skipped,
    Payload,
    /// A `*` came.
    Run,
    Sum,
    /// With the first digit, if it was one.
    SumLow(Option<u8>),
}

impl Decoder {
    /// A decoder for what debuggers send: a `*` is an ordinary byte there.
    #[must_use]
    pub fn of_requests() -> Self {
        Self::default()
    }

    /// A decoder for what stubs send: a `*` and another byte repeat the one before.
    #[must_use]
    pub fn of_replies() -> Self {
        Self {
            runs: true,
            ..Self::default()
        }
    }

    /// Takes the next byte; gives an item if it was the last one of it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the other side does not keep to the protocol; then nothing that follows makes
    /// sense.
    pub fn push(&mut self, byte: u8) -> Result<Option<Item>, DecodeError> {
        match self.state {
            State::Between => return Ok(self.between(byte)),
            State::Skipped if byte == b'#' => self.state = State::Between,
            State::Skipped => {}
            State::Payload => self.inside(byte)?,
            State::Run => self.run(byte)?,
            State::Sum => self.state = State::SumLow(value(byte)),
            State::SumLow(high) => return Ok(Some(self.finish(high, byte))),
        }
        Ok(None)
    }

    /// Takes the bytes at the beginning of `bytes` that only are payload, as most bytes are; gives how
    /// many these were. The next one is for [`Decoder::push`].
    pub fn push_plain(&mut self, bytes: &[u8]) -> usize {
        if !matches!(self.state, State::Payload) || self.escaped {
            return 0;
        }
        let room = MAX_PAYLOAD - self.payload.len();
        let plain = plain(bytes.get(..room).unwrap_or(bytes));
        self.sum = sum(self.sum, plain);
        self.last = plain.last().copied().or(self.last);
        self.payload.extend_from_slice(plain);
        plain.len()
    }

    fn between(&mut self, byte: u8) -> Option<Item> {
        match byte {
            b'$' => self.start(),
            b'%' => self.state = State::Skipped,
            b'+' => return Some(Item::Ack),
            b'-' => return Some(Item::Nack),
            3 => return Some(Item::Interrupt),
            _ => {}
        }
        None
    }

    fn start(&mut self) {
        self.state = State::Payload;
        self.payload.clear();
        self.sum = 0;
        self.last = None;
        self.escaped = false;
    }

    fn inside(&mut self, byte: u8) -> Result<(), DecodeError> {
        match byte {
            b'#' => {
                self.state = State::Sum;
                return Ok(());
            }
            // A packet that was cut off: the next one starts here.
            b'$' => {
                self.start();
                return Ok(());
            }
            _ => {}
        }
        self.sum = self.sum.wrapping_add(byte);
        if byte == b'*' && self.runs && !self.escaped {
            self.state = State::Run;
            return Ok(());
        }
        self.last = Some(byte);
        self.keep(byte)
    }

    fn keep(&mut self, byte: u8) -> Result<(), DecodeError> {
        if byte == ESCAPE && !self.escaped {
            self.escaped = true;
            return Ok(());
        }
        if self.payload.len() == MAX_PAYLOAD {
            return Err(DecodeError::TooLong);
        }
        let mask = if self.escaped { ESCAPED } else { 0 };
        self.escaped = false;
        self.payload.push(byte ^ mask);
        Ok(())
    }

    fn run(&mut self, byte: u8) -> Result<(), DecodeError> {
        self.sum = self.sum.wrapping_add(byte);
        self.state = State::Payload;
        let count = byte.checked_sub(29).ok_or(DecodeError::Run)?;
        let last = self.last.ok_or(DecodeError::Run)?;
        (0..count).try_for_each(|_| self.keep(last))
    }

    fn finish(&mut self, high: Option<u8>, low: u8) -> Item {
        self.state = State::Between;
        let claimed = high.zip(value(low)).map(|(high, low)| high << 4 | low);
        if claimed == Some(self.sum) {
            Item::Packet(std::mem::take(&mut self.payload))
        } else {
            Item::Damaged
        }
    }
}

/// Appends a packet with this payload.
pub fn encode(payload: &[u8], into: &mut Vec<u8>) {
    let mut packet = Encoder::begin(into);
    packet.push(payload, into);
    packet.end(into);
}

/// Makes a packet of a payload that comes in pieces.
#[derive(Debug, Default)]
pub struct Encoder {
    sum: u8,
}

impl Encoder {
    /// Appends how a packet begins.
    pub fn begin(into: &mut Vec<u8>) -> Self {
        into.push(b'$');
        Self::default()
    }

    /// Appends a piece of its payload.
    pub fn push(&mut self, payload: &[u8], into: &mut Vec<u8>) {
        let start = into.len();
        let mut rest = payload;
        loop {
            let plain = plain(rest);
            into.extend_from_slice(plain);
            let next = rest.get(plain.len()..).and_then(<[u8]>::split_first);
            let Some((&special, after)) = next else {
                break;
            };
            into.extend([ESCAPE, special ^ ESCAPED]);
            rest = after;
        }
        let pushed = into.get(start..).unwrap_or_default();
        self.sum = sum(self.sum, pushed);
    }

    /// Appends how it ends.
    pub fn end(self, into: &mut Vec<u8>) {
        into.push(b'#');
        into.extend([digit(self.sum >> 4), digit(self.sum & 15)]);
    }
}

fn sum(start: u8, bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(start, |sum, &byte| sum.wrapping_add(byte))
}

/// The beginning of `bytes`, up to what is special. A block is looked at as a whole, which takes a tenth of the
/// time.
fn plain(bytes: &[u8]) -> &[u8] {
    let (blocks, _) = bytes.as_chunks::<32>();
    let is_plain = |block: &[u8; 32]| {
        let special = block
            .iter()
            .fold(false, |any, &byte| any | is_special(byte));
        !special
    };
    let blocks = blocks.iter().take_while(|block| is_plain(block)).count();
    let rest = bytes.get(blocks * 32..).unwrap_or_default();
    let rest = rest.iter().take_while(|&&byte| !is_special(byte)).count();
    bytes.get(..blocks * 32 + rest).unwrap_or_default()
}

/// What means something else than itself within a packet.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'#' | b'$' | b'}' | b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(mut decoder: Decoder, bytes: &[u8]) -> Vec<Item> {
        let items = bytes.iter().map(|&byte| decoder.push(byte).unwrap());
        items.flatten().collect()
    }

    fn replies(bytes: &[u8]) -> Vec<Item> {
        decode(Decoder::of_replies(), bytes)
    }

    fn packet(payload: &[u8]) -> Item {
        Item::Packet(payload.to_vec())
    }

    #[test]
    fn a_packet_and_what_stands_between() {
        assert_eq!(
            replies(b"x+$OK#9a-\x03"),
            [Item::Ack, packet(b"OK"), Item::Nack, Item::Interrupt]
        );
        assert_eq!(replies(b"$OK#9b$OK#zz"), [Item::Damaged, Item::Damaged]);
    }

    #[test]
    fn a_run_repeats_the_byte_before() {
        assert_eq!(replies(b"$0* #7a"), [packet(b"0000")]);
        assert_eq!(decode(Decoder::of_requests(), b"$0* #7a"), [packet(b"0* ")]);
        let mut decoder = Decoder::of_replies();
        decoder.push(b'$').unwrap();
        decoder.push(b'*').unwrap();
        assert_eq!(decoder.push(b' '), Err(DecodeError::Run));
    }

    #[test]
    fn notifications_are_skipped() {
        assert_eq!(replies(b"%Stop:T05#00+"), [Item::Ack]);
    }

    #[test]
    fn a_packet_that_is_cut_off_ends_where_the_next_begins() {
        assert_eq!(replies(b"$abc$OK#9a"), [packet(b"OK")]);
    }

    #[test]
    fn every_payload_comes_back() {
        let payload: Vec<u8> = (0..=255).collect();
        let mut bytes = Vec::new();
        encode(&payload, &mut bytes);
        assert_eq!(decode(Decoder::of_requests(), &bytes), [packet(&payload)]);
        assert_eq!(replies(&bytes), [packet(&payload)]);
    }

    #[test]
    fn payload_is_taken_at_once_up_to_what_is_special() {
        let mut decoder = Decoder::of_replies();
        assert_eq!(decoder.push_plain(b"x"), 0);
        decoder.push(b'$').unwrap();
        assert_eq!(decoder.push_plain(b"00* "), 2);
        let rest = b"* #aa";
        let items = rest.iter().map(|&byte| decoder.push(byte).unwrap());
        assert_eq!(items.flatten().collect::<Vec<_>>(), [packet(b"00000")]);
    }

    #[test]
    fn a_payload_without_end_is_refused() {
        let mut decoder = Decoder::of_replies();
        decoder.push(b'$').unwrap();
        decoder.push(b'0').unwrap();
        let mut runs = std::iter::repeat_n([b'*', b'~'], MAX_PAYLOAD).flatten();
        let error = runs.find_map(|byte| decoder.push(byte).err());
        assert_eq!(error, Some(DecodeError::TooLong));
    }
}
