//! Packets of a channel: one `SOCK_SEQPACKET` packet each, so bytes and descriptors never part.
//!
//! ```text
//! 0        24                  24 + 24 r
//! | Header | r × RightDescriptor | payload, unless it travels out of line |
//! ```
//!
//! Everything is little-endian. A packet's descriptors are, in this order: the memory with the payload
//! if [`Flags::OUT_OF_LINE`] or [`Flags::LENT`] is set, then for each right descriptor as many as its
//! `fds` says.

use thiserror::Error;

use crate::port_id::PortId;

/// Version of this layout, in every header.
pub const VERSION: u8 = 1;

/// Bytes of an encoded [`Header`].
pub const HEADER_BYTES: usize = 24;

/// Bytes of an encoded [`RightDescriptor`].
pub const RIGHT_BYTES: usize = 24;

/// The most bytes one message can carry, in line or out of line.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The most rights one message can carry.
pub const MAX_MESSAGE_RIGHTS: usize = 128;

/// The most descriptors one right can need: a send right needs one, a receive right one for each
/// few thousand senders.
pub const MAX_RIGHT_FDS: u8 = 16;

/// Bytes in line of a packet with [`Flags::LENT`].
pub const LENT_BYTES: usize = size_of::<u32>();

/// Descriptors of a [`Kind::Promote`] packet.
pub const PROMOTE_FDS: usize = 5;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holder to receiver: a message for the port.
    Message,
    /// Holder to receiver: the one descriptor is the receiver's end of a new channel to the port.
    Mint,
    /// Holder to receiver: an offer of shared memory. The descriptors are the memory, the two
    /// ends of the pipe that is the receiver's bell, and those of the holder's.
    Promote,
    /// The last packet of this side that is not announced: from here on, everything goes through
    /// the shared memory or is announced there. The holder sends it, and the receiver sends it back.
    Switch,
    /// Holder to receiver: nothing but the credentials that the kernel attaches.
    Hello,
    /// Receiver to holder: the answer for the reply slot.
    Reply,
    /// Receiver to holder: the reply right for the slot was dropped unused. The payload is why, if
    /// that is known: a [`StartFailure`](crate::failure::StartFailure).
    NoReply,
    /// Receiver to holder: the answer for the slot comes on the socket in the one descriptor.
    Redirect,
    /// Receiver to holder: the lent memory whose number is in the slot is not used any more.
    Returned,
    /// Receiver to holder: the port is dead, only answers that are still owed will come.
    PortDied,
}

impl Kind {
    const ALL: [(u8, Self); 10] = [
        (1, Self::Message),
        (2, Self::Mint),
        (3, Self::Promote),
        (4, Self::Switch),
        (5, Self::Hello),
        (16, Self::Reply),
        (17, Self::NoReply),
        (18, Self::Redirect),
        (19, Self::PortDied),
        (20, Self::Returned),
    ];

    /// Descriptors that a packet of this kind has for itself.
    #[must_use]
    pub const fn descriptors(self) -> usize {
        match self {
            Self::Mint | Self::Redirect => 1,
            Self::Promote => PROMOTE_FDS,
            _ => 0,
        }
    }

    fn code(self) -> u8 {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or(0, |(code, _)| *code)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::BY_CODE.get(usize::from(code)).copied().flatten()
    }

    const BY_CODE: [Option<Self>; 21] = {
        let mut by_code = [None; 21];
        let mut at = 0;
        while at < Self::ALL.len() {
            by_code[Self::ALL[at].0 as usize] = Some(Self::ALL[at].1);
            at += 1;
        }
        by_code
    };
}

/// Modifiers of a packet, a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No modifiers.
    pub const NONE: Self = Self(0);
    /// The payload is the first descriptor, a sealed memfd of exactly `length` bytes.
    pub const OUT_OF_LINE: Self = Self(1);
    /// The last right of the message is the one to answer it with.
    pub const REPLY_RIGHT: Self = Self(2);

    /// The payload is in the first descriptor, memory that the sender lends, and may go on writing
    /// to. It has `length` bytes at least. In line there is the number under which the memory is
    /// returned, [`LENT_BYTES`] long.
    pub const LENT: Self = Self(4);

    const KNOWN: u8 = 7;

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some bit of `other` is set.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These bits and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fixed head of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Byte 0. Byte 1 is [`VERSION`].
    pub kind: Kind,
    /// Byte 2. Byte 3 is zero.
    pub flags: Flags,
    /// Bytes 4 to 5: right descriptors that follow, at most [`MAX_MESSAGE_RIGHTS`].
    /// Bytes 6 to 7 are zero.
    pub rights: u16,
    /// Bytes 8 to 11: the message id, opaque.
    pub id: i32,
    /// Bytes 12 to 15: the reply slot of a request or of its answer; 0 for none.
    pub slot: u32,
    /// Bytes 16 to 23: payload bytes, at most [`MAX_MESSAGE_BYTES`].
    pub length: u64,
}

impl Header {
    /// A header without rights, payload or flags.
    #[must_use]
    pub const fn control(kind: Kind, slot: u32) -> Self {
        Self {
            kind,
            flags: Flags::NONE,
            rights: 0,
            id: 0,
            slot,
            length: 0,
        }
    }

    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = self.kind.code();
        out[1] = VERSION;
        out[2] = self.flags.0;
        out[4..6].copy_from_slice(&self.rights.to_le_bytes());
        out[8..12].copy_from_slice(&self.id.to_le_bytes());
        out[12..16].copy_from_slice(&self.slot.to_le_bytes());
        out[16..24].copy_from_slice(&self.length.to_le_bytes());
        out
    }
}

/// What a right descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RightKind {
    /// A send right: the holder's end of a channel of its own.
    Send,
    /// A send-once right: the same, good for one message.
    SendOnce,
    /// A receive right: sockets in which the receiver's ends of its channels lie queued.
    Receive,
    /// A right whose port died before it was sent.
    Dead,
    /// No right to a port, but the descriptor itself. The port of it is zero.
    Descriptor,
}

impl RightKind {
    const ALL: [(u8, Self); 5] = [
        (1, Self::Send),
        (2, Self::SendOnce),
        (3, Self::Receive),
        (4, Self::Dead),
        (5, Self::Descriptor),
    ];

    fn code(self) -> u8 {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or(0, |(code, _)| *code)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == code)
            .map(|(_, kind)| *kind)
    }

    fn allows_fds(self, fds: u8) -> bool {
        match self {
            Self::Send | Self::SendOnce | Self::Descriptor => fds == 1,
            Self::Receive => fds <= MAX_RIGHT_FDS,
            Self::Dead => fds == 0,
        }
    }
}

/// One right in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RightDescriptor {
    /// Byte 0.
    pub kind: RightKind,
    /// Byte 1: how many of the packet's descriptors belong to it. Bytes 2 to 7 are zero.
    pub fds: u8,
    /// Bytes 8 to 23: which port it is a right to. Identity, never authority.
    pub port: PortId,
}

impl RightDescriptor {
    /// The bytes of this descriptor.
    #[must_use]
    pub fn encode(&self) -> [u8; RIGHT_BYTES] {
        let mut out = [0; RIGHT_BYTES];
        out[0] = self.kind.code();
        out[1] = self.fds;
        out[8..24].copy_from_slice(self.port.as_bytes());
        out
    }

    fn decode(bytes: &[u8; RIGHT_BYTES]) -> Result<Self, PacketError> {
        let [code, fds, reserved @ ..] = *bytes;
        let kind = RightKind::from_code(code).ok_or(PacketError::RightKind { code })?;
        if reserved[..6] != [0; 6] {
            return Err(PacketError::Reserved);
        }
        if !kind.allows_fds(fds) {
            return Err(PacketError::RightFds { kind, fds });
        }
        let mut port = [0; 16];
        port.copy_from_slice(&bytes[8..]);
        Ok(Self {
            kind,
            fds,
            port: PortId::from_bytes(port),
        })
    }
}

/// A packet taken apart; the payload is a range of the bytes given to [`decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The head.
    pub header: Header,
    /// The rights, in order.
    pub rights: Vec<RightDescriptor>,
    /// The payload; empty when it travels out of line.
    pub inline: &'a [u8],
}

impl Packet<'_> {
    /// How many descriptors the packet must have come with.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let elsewhere = Flags::OUT_OF_LINE.with(Flags::LENT);
        let payload = usize::from(self.header.flags.meets(elsewhere));
        let kind = self.header.kind.descriptors();
        let rights: usize = self.rights.iter().map(|right| usize::from(right.fds)).sum();
        payload + kind + rights
    }
}

/// Why bytes are not a packet. The sender broke the protocol; its channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Shorter than its header and its right descriptors.
    #[error("packet ends after {len} bytes")]
    Short {
        /// Bytes there are.
        len: usize,
    },
    /// Written for another version of the layout.
    #[error("packet has layout version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// No such kind of packet.
    #[error("no packet kind {code}")]
    Kind {
        /// The code found.
        code: u8,
    },
    /// A bit that this version does not define is set.
    #[error("reserved bits are set")]
    Reserved,
    /// More rights or bytes than a message may carry.
    #[error("{rights} rights and {length} bytes are over the limit")]
    Limit {
        /// Rights announced.
        rights: u16,
        /// Bytes announced.
        length: u64,
    },
    /// The announced length is not the length there is.
    #[error("{announced} bytes announced, {found} there")]
    Length {
        /// Bytes announced.
        announced: u64,
        /// Bytes there are.
        found: usize,
    },
    /// No such kind of right.
    #[error("no right kind {code}")]
    RightKind {
        /// The code found.
        code: u8,
    },
    /// A right of that kind cannot have that many descriptors.
    #[error("{fds} descriptors for a {kind:?} right")]
    RightFds {
        /// The kind of right.
        kind: RightKind,
        /// Descriptors announced.
        fds: u8,
    },
}

/// Takes a packet apart.
///
/// # Errors
///
/// [`PacketError`] for anything that [`Header::encode`] and [`RightDescriptor::encode`] would not
/// have written. Nothing is allocated before the announced counts are checked.
pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, PacketError> {
    let short = PacketError::Short { len: bytes.len() };
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
    let header = decode_header(head)?;
    let table = usize::from(header.rights) * RIGHT_BYTES;
    let (table, inline) = rest.split_at_checked(table).ok_or(short)?;
    let (entries, _) = table.as_chunks::<RIGHT_BYTES>();
    let rights = entries
        .iter()
        .map(RightDescriptor::decode)
        .collect::<Result<_, _>>()?;
    check_length(&header, inline.len())?;
    Ok(Packet {
        header,
        rights,
        inline,
    })
}

/// Reads the fixed head of a packet.
///
/// # Errors
///
/// [`PacketError`] for a head that [`Header::encode`] would not have written.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, PacketError> {
    let [code, version, flags, zero, r0, r1, z0, z1, rest @ ..] = *bytes;
    if version != VERSION {
        return Err(PacketError::Version { version });
    }
    let kind = Kind::from_code(code).ok_or(PacketError::Kind { code })?;
    let both = Flags::OUT_OF_LINE.with(Flags::LENT);
    if flags & !Flags::KNOWN != 0 || Flags(flags).contains(both) || [zero, z0, z1] != [0; 3] {
        return Err(PacketError::Reserved);
    }
    let [i0, i1, i2, i3, s0, s1, s2, s3, length @ ..] = rest;
    let header = Header {
        kind,
        flags: Flags(flags),
        rights: u16::from_le_bytes([r0, r1]),
        id: i32::from_le_bytes([i0, i1, i2, i3]),
        slot: u32::from_le_bytes([s0, s1, s2, s3]),
        length: u64::from_le_bytes(length),
    };
    let (rights, length) = (header.rights, header.length);
    if usize::from(rights) > MAX_MESSAGE_RIGHTS || length > MAX_MESSAGE_BYTES as u64 {
        return Err(PacketError::Limit { rights, length });
    }
    Ok(header)
}

/// A message with nothing in it but bytes, as most are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainMessage<'a> {
    /// As in [`Header`].
    pub id: i32,
    /// As in [`Header`].
    pub slot: u32,
    /// The payload.
    pub bytes: &'a [u8],
}

impl<'a> PlainMessage<'a> {
    /// The head of such a message.
    #[must_use]
    #[inline]
    pub fn head(id: i32, slot: u32, length: usize) -> [u8; HEADER_BYTES] {
        let mut head = PLAIN_HEAD;
        head[8..12].copy_from_slice(&id.to_le_bytes());
        head[12..16].copy_from_slice(&slot.to_le_bytes());
        head[16..24].copy_from_slice(&(length as u64).to_le_bytes());
        head
    }

    /// Takes a packet apart that came without descriptors. `None` if it is no such message, which
    /// does not say that it is a wrong one: [`decode`] does.
    #[must_use]
    #[inline]
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        let (head, bytes) = packet.split_first_chunk::<HEADER_BYTES>()?;
        let (fixed, rest) = head.split_first_chunk::<8>()?;
        let [i0, i1, i2, i3, s0, s1, s2, s3, length @ ..] = *rest.first_chunk::<16>()?;
        let length = u64::from_le_bytes(length);
        let is_plain = PLAIN_HEAD.first_chunk() == Some(fixed)
            && length == bytes.len() as u64
            && bytes.len() <= MAX_MESSAGE_BYTES;
        is_plain.then_some(Self {
            id: i32::from_le_bytes([i0, i1, i2, i3]),
            slot: u32::from_le_bytes([s0, s1, s2, s3]),
            bytes,
        })
    }
}

/// What [`Header::encode`] makes of a message without an id, a slot and a payload.
const PLAIN_HEAD: [u8; HEADER_BYTES] = {
    let mut head = [0; HEADER_BYTES];
    head[0] = Kind::ALL[0].0;
    head[1] = VERSION;
    head
};

fn check_length(header: &Header, found: usize) -> Result<(), PacketError> {
    let inline = if header.flags.contains(Flags::OUT_OF_LINE) {
        0
    } else if header.flags.contains(Flags::LENT) {
        LENT_BYTES as u64
    } else {
        header.length
    };
    if inline != found as u64 {
        return Err(PacketError::Length {
            announced: header.length,
            found,
        });
    }
    Ok(())
}

/// What a record in shared memory is: the tag that the ring carries unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The bytes of a packet without descriptors.
    Packet,
    /// Empty: the next packet of the channel is in the socket.
    InSocket,
    /// Empty, receiver to holder, once: the offered memory is accepted.
    Accept,
    /// Empty, receiver to holder: the channel is closed.
    Closed,
    /// Empty, receiver to holder: the port has a new owner, to whom the kernel should say who the
    /// holder is. A [`Kind::Hello`] packet is the answer.
    WhoAreYou,
}

impl RecordKind {
    const ALL: [Self; 5] = [
        Self::Packet,
        Self::InSocket,
        Self::Accept,
        Self::Closed,
        Self::WhoAreYou,
    ];

    /// The tag.
    #[must_use]
    pub const fn tag(self) -> u32 {
        self as u32
    }

    /// The kind of a tag, if there is one.
    #[must_use]
    pub fn from_tag(tag: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.tag() == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> Vec<u8> {
        let header = Header {
            kind: Kind::Message,
            flags: Flags::NONE,
            rights: 1,
            id: -2,
            slot: 9,
            length: 3,
        };
        let right = RightDescriptor {
            kind: RightKind::Send,
            fds: 1,
            port: PortId::from_bytes([7; 16]),
        };
        [&header.encode()[..], &right.encode(), b"abc"].concat()
    }

    proptest! {
        #[test]
        fn a_plain_message_is_what_decode_says_it_is(
            id: i32, slot: u32, bytes in proptest::collection::vec(any::<u8>(), 0..40),
            at in 0..HEADER_BYTES, value: u8, cut in 0..3usize,
        ) {
            let mut packet = PlainMessage::head(id, slot, bytes.len()).to_vec();
            packet.extend_from_slice(&bytes);
            let bytes = bytes.as_slice();
            prop_assert_eq!(PlainMessage::decode(&packet), Some(PlainMessage { id, slot, bytes }));
            let header = Header { id, slot, length: bytes.len() as u64, ..Header::control(Kind::Message, 0) };
            prop_assert_eq!(&packet[..HEADER_BYTES], &header.encode()[..]);
            // Whatever else it is made into, it is plain only if it is a message of bytes.
            packet[at] = value;
            packet.truncate(packet.len() - cut);
            if let Some(plain) = PlainMessage::decode(&packet) {
                let whole = decode(&packet).expect("a packet");
                prop_assert_eq!(whole.header.kind, Kind::Message);
                prop_assert_eq!((whole.header.id, whole.header.slot), (plain.id, plain.slot));
                prop_assert_eq!((whole.inline, whole.rights.len()), (plain.bytes, 0));
                prop_assert_eq!(whole.header.flags, Flags::NONE);
            }
        }
    }

    #[test]
    fn a_packet_survives_the_round_trip() {
        let bytes = message();
        let packet = decode(&bytes).expect("decode");
        assert_eq!(packet.header.id, -2);
        assert_eq!(packet.header.slot, 9);
        assert_eq!(packet.rights[0].port, PortId::from_bytes([7; 16]));
        assert_eq!(packet.inline, b"abc");
        assert_eq!(packet.descriptors(), 1);
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = message();
        for len in 0..bytes.len() {
            assert!(
                decode(&bytes[..len]).is_err(),
                "{len} bytes were taken for a packet"
            );
        }
    }

    #[test]
    fn lies_about_sizes_are_refused() {
        let mut long = message();
        long.push(0);
        assert!(matches!(decode(&long), Err(PacketError::Length { .. })));
        let mut many = message();
        many[4..6].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(matches!(decode(&many), Err(PacketError::Limit { .. })));
        let mut huge = message();
        huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode(&huge), Err(PacketError::Limit { .. })));
        let mut greedy = message();
        greedy[HEADER_BYTES + 1] = 2;
        assert!(matches!(decode(&greedy), Err(PacketError::RightFds { .. })));
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let golden = include_str!("../tests/golden/packet-message.hex");
        let hex: String = message().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(golden.split_whitespace().collect::<String>(), hex);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
            if bytes.len() > 3 {
                bytes[0] = 1;
                bytes[1] = VERSION;
                bytes[2] &= Flags::KNOWN;
                drop(decode(&bytes));
            }
        }
    }
}
