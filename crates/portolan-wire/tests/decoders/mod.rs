//! Everything that decodes, on the same bytes, so that a fuzzer and a property test run the same
//! code.

use portolan_wire::bootstrap::{Operation, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::defaults::Image;
use portolan_wire::failure::{MAX_REFUSAL_BYTES, Refusal, StartFailure};
use portolan_wire::moved::{self, MovedChannel};
use portolan_wire::packet::{
    self, Flags, HEADER_BYTES, Kind, LENT_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_RIGHTS,
    MAX_RIGHT_FDS, PROMOTE_FDS, Packet, PlainMessage,
};

/// Nothing panics, and what decodes is encoded to the same bytes: there is one encoding of each
/// thing.
pub(crate) fn check(bytes: &[u8]) {
    heads(bytes);
    packets(bytes);
    moved_channels(bytes);
    refusals(bytes);
    defaults(bytes);
    for id in -1..=28 {
        requests(id, bytes);
    }
}

fn heads(bytes: &[u8]) {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return assert!(packet::decode(bytes).is_err());
    };
    let whole = packet::decode(bytes).map(|packet| packet.header);
    match packet::decode_header(head) {
        Ok(header) => {
            assert_eq!(header.encode(), *head);
            assert!(whole.is_err() || whole == Ok(header));
        }
        Err(error) => assert_eq!(whole, Err(error)),
    }
}

fn defaults(bytes: &[u8]) {
    if let Ok(image) = Image::decode(bytes) {
        assert_eq!(image.encode().as_deref(), Ok(bytes));
    }
}

fn packets(bytes: &[u8]) {
    let plain = PlainMessage::decode(bytes);
    let Ok(packet) = packet::decode(bytes) else {
        return assert_eq!(plain, None);
    };
    let Packet {
        header,
        rights,
        inline,
    } = &packet;
    let table: Vec<u8> = rights.iter().flat_map(|right| right.encode()).collect();
    assert_eq!([&header.encode()[..], &table, inline].concat(), bytes);
    within_limits(&packet);
    let is_plain = header.kind == Kind::Message && header.flags == Flags::NONE && rights.is_empty();
    let expected = is_plain.then_some(PlainMessage {
        id: header.id,
        slot: header.slot,
        bytes: inline,
    });
    assert_eq!(plain, expected);
    if is_plain {
        let head = PlainMessage::head(header.id, header.slot, inline.len());
        assert_eq!(head, header.encode());
    }
}

fn within_limits(packet: &Packet<'_>) {
    let (flags, length) = (packet.header.flags, packet.header.length);
    let rights = packet.rights.len();
    assert_eq!(rights, usize::from(packet.header.rights));
    assert!(rights <= MAX_MESSAGE_RIGHTS && length <= MAX_MESSAGE_BYTES as u64);
    let inline = match (
        flags.contains(Flags::OUT_OF_LINE),
        flags.contains(Flags::LENT),
    ) {
        (false, false) => length,
        (true, false) => 0,
        (false, true) => LENT_BYTES as u64,
        (true, true) => panic!("the payload is in two places"),
    };
    assert_eq!(packet.inline.len() as u64, inline);
    let most = 1 + PROMOTE_FDS + rights * usize::from(MAX_RIGHT_FDS);
    assert!(packet.descriptors() <= most);
}

fn moved_channels(bytes: &[u8]) {
    if let Ok(channels) = moved::decode(bytes) {
        let encoded: Vec<u8> = channels.iter().flat_map(MovedChannel::encode).collect();
        assert_eq!(encoded, bytes);
        let most = MovedChannel::MAX_FDS;
        assert!(
            channels
                .iter()
                .all(|channel| (1..=most).contains(&channel.fds()))
        );
    }
}

/// Why a job did not start, and what a server says with a code.
fn refusals(bytes: &[u8]) {
    let failure = StartFailure::decode(bytes);
    if let Ok(failure) = &failure {
        assert_eq!(failure.encode(), bytes);
        assert!(bytes.len() <= StartFailure::MAX_BYTES);
    }
    let code = BootstrapCode::START_FAILED;
    assert_eq!(Refusal::decode(code, bytes), failure.map(Refusal::Start));
    if let Ok(refusal) = Refusal::decode(BootstrapCode::JOB_NOT_FOUND, bytes) {
        assert_eq!(refusal.encode(), bytes);
        assert!(bytes.len() <= MAX_REFUSAL_BYTES);
    }
}

/// What a client asks for with this message id, and what a server answers to it.
fn requests(id: i32, bytes: &[u8]) {
    let operation = Operation::from_id(id);
    match Request::decode(id, bytes) {
        Ok(request) => {
            assert_eq!(Some(request.operation()), operation);
            assert_eq!(request.encode(), bytes);
        }
        Err(error) => assert_ne!(error.code(), BootstrapCode::SUCCESS),
    }
    if let Some(operation) = operation
        && let Ok(reply) = Reply::decode(operation, bytes)
    {
        assert_eq!(reply.encode(), bytes);
    }
}
