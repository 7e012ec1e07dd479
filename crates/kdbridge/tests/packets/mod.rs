//! The KDP decoders on any bytes, so that a fuzzer and a property test run the same code.

use kdbridge::kdp::packet::{Code, Head, Reply, Request};
use kdbridge::kdp::serial;

/// Nothing panics; what decodes is encoded to what decodes to the same; a packet whose length is not
/// that of the bytes is refused.
pub(crate) fn check(bytes: &[u8]) {
    packet(bytes);
    if let Some(frame) = serial::unwrap(bytes) {
        packet(frame);
    }
    line(bytes);
    for code in Code::ALL {
        request(code, bytes);
        reply(code, bytes);
    }
}

fn packet(bytes: &[u8]) {
    if let Ok((head, body)) = Head::split(bytes) {
        assert_eq!(head.join(body), bytes);
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Head::split(&longer).is_err());
    }
}

fn request(code: Code, body: &[u8]) {
    if let Ok(request) = Request::decode(code, body) {
        assert_eq!(request.code(), code);
        let packet = request.encode(0, 0);
        // There is one encoding of a request only.
        assert_eq!(packet.get(8..), Some(body));
    }
}

fn reply(code: Code, body: &[u8]) {
    if let Ok(reply) = Reply::decode(code, body) {
        assert_eq!(reply.code(), code);
        let packet = reply.encode(0, 0);
        assert_eq!(Reply::decode(code, &packet[8..]), Ok(reply));
    }
}

/// Whatever comes over a serial line, a frame that is sent afterwards arrives.
fn line(bytes: &[u8]) {
    let mut decoder = serial::Decoder::default();
    for &byte in bytes {
        decoder.push(byte);
    }
    let line = serial::encode(bytes.get(..1500).unwrap_or(bytes));
    let frames: Vec<_> = line.iter().filter_map(|&byte| decoder.push(byte)).collect();
    assert_eq!(frames, [bytes.get(..1500).unwrap_or(bytes)]);
}
