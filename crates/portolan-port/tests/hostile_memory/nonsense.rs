//! What peers write that keep to no rules.

use std::io::{Write, stderr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portolan_wire::packet::{Flags, Kind, RightDescriptor, RightKind};
use portolan_wire::port_id::PortId;

use crate::raw_memory::{RawMemory, Word, ring};
use crate::stage::{header, packet};

pub(crate) fn control(kind: Kind) -> [u8; 24] {
    header(kind, 0).encode()
}

/// The bytes of packets that cannot be in memory.
pub(crate) fn wrong_packets() -> Vec<(&'static str, Vec<u8>)> {
    let message = header(Kind::Message, 0);
    let right = |kind, fds| {
        let port = PortId::from_bytes([9; 16]);
        packet(message, &[RightDescriptor { kind, fds, port }], b"")
    };
    let mut flagged = message;
    flagged.flags = Flags::OUT_OF_LINE;
    flagged.length = 10_000;
    let mut short = packet(message, &[], b"abc");
    short.pop();
    let mut long = packet(message, &[], b"abc");
    long.push(0);
    let mut version = packet(message, &[], b"abc");
    version[1] = 9;
    let with_rights = |count: u16| {
        let mut header = message;
        header.rights = count;
        header.encode().to_vec()
    };
    vec![
        ("a send right", right(RightKind::Send, 1)),
        ("a send-once right", right(RightKind::SendOnce, 1)),
        ("a receive right", right(RightKind::Receive, 1)),
        ("bytes out of line", flagged.encode().to_vec()),
        ("a byte too few", short),
        ("a byte too many", long),
        ("another version", version),
        ("a right that is not there", with_rights(1)),
        ("rights that are not there", with_rights(u16::MAX)),
        ("half a header", message.encode()[..12].to_vec()),
        ("nothing", Vec::new()),
        ("noise", vec![0xff; 64]),
        ("a mint", control(Kind::Mint).to_vec()),
        ("an offer", control(Kind::Promote).to_vec()),
        ("a redirection", control(Kind::Redirect).to_vec()),
    ]
}

/// What a test that is not the same each time does.
pub(crate) struct Random(u64);

impl Random {
    /// From `PORTOLAN_TEST_SEED`, or from anywhere. The seed is printed.
    pub(crate) fn new() -> Self {
        let given = std::env::var("PORTOLAN_TEST_SEED").ok();
        let seed = given.map_or_else(
            || {
                let mut bytes = [0; 8];
                let flags = rustix::rand::GetRandomFlags::empty();
                rustix::rand::getrandom(&mut bytes, flags).expect("getrandom");
                u64::from_le_bytes(bytes)
            },
            |text| text.parse().expect("a number"),
        );
        writeln!(stderr(), "PORTOLAN_TEST_SEED={seed}").expect("standard error");
        Self(seed | 1)
    }

    /// Marsaglia's xorshift64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// Writes anything anywhere, but now and then what could be right.
pub(crate) fn scribble(memory: &RawMemory, random: &mut Random) {
    let side = [memory.requests(), memory.replies()][random.below(2) as usize];
    let near = side
        .get(Word::Published)
        .wrapping_sub(side.get(Word::Released))
        % 4096;
    let position = side.get(Word::Released).wrapping_add(near) & !7;
    let value = match random.below(8) {
        0 => random.next(),
        1 => 0,
        2 => position,
        3 => position.wrapping_add(random.below(64) * 8),
        // A record's header, a packet's header, a length.
        4 => random.below(6) << 32 | random.below(64),
        5 => u64::from_le_bytes([1, 1, 0, 0, 0, 0, 0, 0]),
        6 => random.below(32) << 32,
        _ => 1,
    };
    match random.below(4) {
        0 => side.set(Word::ALL[random.below(4) as usize], value),
        1 => side.at(position).store(value, Ordering::Relaxed),
        2 => {
            let near = position.wrapping_add(random.below(32) * 8);
            side.at(near).store(value, Ordering::Relaxed);
        }
        _ => {
            let words = memory.words();
            let word = random.below(words.len() as u64) as usize;
            words[word].store(value, Ordering::Relaxed);
        }
    }
}

/// Runs `honest` while a peer scribbles.
pub(crate) fn beside_a_scribbler(
    memory: &RawMemory,
    random: &mut Random,
    bells: &[OwnedFd; 4],
    honest: impl FnOnce(),
) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..random.below(200) {
                    scribble(memory, random);
                }
                ring(&bells[1]);
                ring(&bells[3]);
            }
        });
        honest();
        stop.store(true, Ordering::Relaxed);
    });
}

/// How long a test goes on that could go on for ever.
pub(crate) const A_WHILE: Duration = Duration::from_millis(800);
