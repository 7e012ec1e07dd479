//! Requests that wait for their answers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portolan_wire::failure::StartFailure;

use crate::message::Message;

/// Requests that wait for their answers.
#[derive(Default)]
pub(super) struct Replies {
    last_slot: u32,
    /// The numbers have begun again.
    has_wrapped: bool,
    pub(super) slots: HashMap<u32, Slot, BuildHasherDefault<SlotHasher>>,
    /// A thread waits for all that wait.
    pub(super) reading: bool,
    /// The threads that it waits for.
    pub(super) followers: usize,
    /// The port said that it is dead, which it can do once.
    pub(super) port_died: bool,
}

impl Replies {
    /// A slot whose number is in no other use; there must be room.
    pub(super) fn open(&mut self) -> u32 {
        loop {
            self.last_slot = self.last_slot.wrapping_add(1);
            let slot = self.last_slot;
            self.has_wrapped |= slot == 0;
            if slot != 0
                && let Entry::Vacant(vacant) = self.slots.entry(slot)
            {
                vacant.insert(Slot::Waiting);
                return slot;
            }
        }
    }

    /// Whether this comes for a request that is settled already and may do so: a receiver that is killed
    /// when it has answered has not written that down yet, so its keeper refuses the request once more; and
    /// what a keeper has refused may be served by the next receiver, if the keeper was killed then.
    pub(super) fn is_late(&self, slot: u32, outcome: &Slot) -> bool {
        let is_settled = matches!(self.slots.get(&slot), None | Some(Slot::Refused(_)));
        self.was_open(slot) && (is_settled || matches!(outcome, Slot::Refused(_)))
    }

    /// Whether there was ever a request with this number.
    fn was_open(&self, slot: u32) -> bool {
        // After so many requests that the numbers begin again, any may have been.
        slot != 0 && (slot <= self.last_slot || self.has_wrapped)
    }

    /// Whether answers will come that nobody waits for.
    pub(super) fn expects_unwanted(&self) -> bool {
        let mut slots = self.slots.values();
        slots.any(|slot| matches!(slot, Slot::Abandoned))
    }
}

/// What is known of one request.
pub(super) enum Slot {
    Waiting,
    Answered(Message),
    /// The reply right was dropped unused, for this reason if there is one.
    Refused(Option<Box<StartFailure>>),
    /// The reply right went to another process, which answers here.
    Redirected(Arc<OwnedFd>),
    /// Nobody waits any more, but the port may still hold the reply right.
    Abandoned,
    /// The port died.
    Dead,
}

/// Slots are numbered by this side, so nobody can choose them to collide.
#[derive(Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // Spread over the high bits, which hash tables look at too.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
