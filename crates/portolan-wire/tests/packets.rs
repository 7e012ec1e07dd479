//! Everything that decodes against arbitrary bytes, and against what differs a little from what is
//! encoded.

mod decoders;

use portolan_wire::moved::{MovedChannel, MovedMemory};
use portolan_wire::packet::{
    Flags, Header, Kind, LENT_BYTES, PlainMessage, RightDescriptor, RightKind,
};
use portolan_wire::port_id::PortId;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

proptest! {
    #[test]
    fn what_decodes_is_encoded_to_the_same_bytes(bytes in vec(any::<u8>(), 0..300)) {
        decoders::check(&bytes);
    }

    #[test]
    fn what_differs_in_a_byte_or_in_length_does_too(
        mut bytes in encoded(), at: Index, value: u8, more in 0..3usize, less in 0..3usize,
    ) {
        decoders::check(&bytes);
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.resize(bytes.len() + more, 0);
        bytes.truncate(bytes.len() - less);
        decoders::check(&bytes);
    }
}

fn encoded() -> impl Strategy<Value = Vec<u8>> {
    let plain = vec(any::<u8>(), 0..40)
        .prop_map(|payload| [&PlainMessage::head(-3, 5, payload.len())[..], &payload].concat());
    prop_oneof![
        plain,
        packet(),
        vec(moved(), 1..4).prop_map(|channels| channels.concat())
    ]
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![Kind::Message, Kind::Promote, Kind::PortDied]);
    let places = [Flags::NONE, Flags::OUT_OF_LINE, Flags::LENT];
    let place = prop::sample::select(places.to_vec());
    (kind, place, vec(right(), 0..4), 0..40usize).prop_map(|(kind, flags, rights, length)| {
        let header = Header {
            flags,
            rights: rights.len() as u16,
            length: length as u64,
            ..Header::control(kind, 9)
        };
        let inline = match flags {
            Flags::NONE => length,
            Flags::LENT => LENT_BYTES,
            _ => 0,
        };
        let rights: Vec<u8> = rights.iter().flat_map(RightDescriptor::encode).collect();
        [&header.encode()[..], &rights, &vec![1; inline]].concat()
    })
}

fn right() -> impl Strategy<Value = RightDescriptor> {
    let kinds = [
        (RightKind::Send, 1),
        (RightKind::SendOnce, 1),
        (RightKind::Receive, 16),
        (RightKind::Dead, 0),
        (RightKind::Descriptor, 1),
    ];
    let kind = prop::sample::select(kinds.to_vec());
    (kind, any::<[u8; 16]>()).prop_map(|((kind, fds), port)| RightDescriptor {
        kind,
        fds,
        port: PortId::from_bytes(port),
    })
}

fn moved() -> impl Strategy<Value = Vec<u8>> {
    let memory = (any::<u64>(), any::<bool>(), any::<u64>());
    let memory = memory.prop_map(|(taken, in_use, written)| MovedMemory {
        taken,
        in_use,
        written,
    });
    (any::<u64>(), any::<bool>(), proptest::option::of(memory)).prop_map(|(badge, once, memory)| {
        let channel = MovedChannel {
            badge,
            once,
            is_known: false,
            memory,
        };
        channel.encode().to_vec()
    })
}
