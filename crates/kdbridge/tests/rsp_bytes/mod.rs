//! The decoders of the GDB protocol on any bytes, so that a fuzzer and a property test run the same code.

use kdbridge::rsp::hex;
use kdbridge::rsp::packet::{Decoder, Item, MAX_PAYLOAD, encode};

/// Nothing panics; no payload is longer than the limit; what decodes is encoded to what decodes to the
/// same; every payload
/// arrives.
pub(crate) fn check(bytes: &[u8]) {
    for decoder in [Decoder::of_requests, Decoder::of_replies] {
        for item in decode(decoder(), bytes) {
            if let Item::Packet(payload) = item {
                assert!(payload.len() <= MAX_PAYLOAD);
                travels(decoder, &payload);
            }
        }
        travels(decoder, bytes);
    }
    if let Some(decoded) = hex::decode(bytes) {
        assert!(hex::encode(&decoded).eq_ignore_ascii_case(&String::from_utf8_lossy(bytes)));
    }
    if let Some(number) = hex::number(bytes) {
        let digits = format!("{number:0width$x}", width = bytes.len());
        assert!(digits.as_bytes().eq_ignore_ascii_case(bytes));
    }
    assert!(hex::pair(bytes).is_none() || bytes.contains(&b','));
}

fn travels(decoder: fn() -> Decoder, payload: &[u8]) {
    let mut line = Vec::new();
    encode(payload, &mut line);
    assert_eq!(decode(decoder(), &line), [Item::Packet(payload.to_vec())]);
}

/// The items before the stream breaks.
fn decode(mut decoder: Decoder, bytes: &[u8]) -> Vec<Item> {
    let items = bytes.iter().map_while(|&byte| decoder.push(byte).ok());
    items.flatten().collect()
}
