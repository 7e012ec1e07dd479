//! Holders that lend memory as they like.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use portolan_port::MAX_MESSAGE_BYTES;
use portolan_testkit::usage;
use portolan_wire::packet::{Flags, Header, Kind, RecordKind};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::holders::Holder;
use crate::stage::{Stage, header, is_closed, write};

/// Memory as an honest holder lends it.
fn memory(len: usize) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("hostile", flags).expect("memfd");
    // What is allocated and not written is a hole.
    File::from(file.try_clone().expect("duplicate"))
        .write_all(&vec![0; len])
        .expect("write");
    let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_add_seals(&file, seals).expect("seal");
    file
}

/// A message of eight bytes in memory that is to be returned under this number.
fn lending(number: u32) -> Vec<u8> {
    let header = Header {
        flags: Flags::LENT,
        length: 8,
        ..header(Kind::Message, 0)
    };
    [&header.encode()[..], &number.to_le_bytes()].concat()
}

#[test]
fn memory_longer_than_any_message_is_not_borrowed() {
    let mut stage = Stage::new();
    let longest = MAX_MESSAGE_BYTES.next_multiple_of(256 << 10);
    stage.open += 1;
    for (len, is_borrowed) in [(longest, true), (longest + 4096, false)] {
        let memory = memory(len);
        let peer = stage.peer();
        write(&peer, &lending(1), &[memory.as_fd()]).expect("write");
        if is_borrowed {
            let messages = stage.drain();
            assert!(matches!(messages[..], [ref only] if only.bytes() == [0; 8]));
        } else {
            stage.refused(peer, "memory that is too long");
        }
    }
    stage.open -= 1;
    stage.unharmed("memory of any length");
}

/// As many as nobody leaves unread who is to be kept.
const MANY: u32 = 1_000_000;

/// Lends the same memory again and again with `lend`, until that fails.
fn lend_for_ever(stage: &Stage, mut lend: impl FnMut(u32) -> Result<(), Errno>) {
    let before = usage::resident(std::process::id());
    let is_refused = (1..=MANY).any(|number| {
        let lent = lend(number);
        // Each message is dropped, and so its memory returned.
        drop(stage.drain());
        lent.is_err()
    });
    assert!(is_refused, "{MANY} returns are kept for it");
    let grown = usage::resident(std::process::id()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn a_holder_that_never_hears_that_its_memory_is_back_is_cut_off() {
    let stage = Stage::new();
    let (peer, memory) = (stage.peer(), memory(4096));
    lend_for_ever(&stage, |number| {
        write(&peer, &lending(number), &[memory.as_fd()]).map(drop)
    });
    assert!(is_closed(&peer));
    drop((peer, memory));
    stage.unharmed("returns that nobody hears of");
}

#[test]
fn a_holder_that_never_hears_in_memory_that_its_memory_is_back_is_cut_off() {
    let stage = Stage::new();
    let (holder, memory) = (Holder::promoted(&stage), memory(4096));
    lend_for_ever(&stage, |number| {
        write(holder.socket(), &lending(number), &[memory.as_fd()])?;
        holder.record(RecordKind::InSocket.tag(), &[]);
        Ok(())
    });
    drop((holder, memory));
    stage.unharmed("returns that nobody hears of in memory");
}
