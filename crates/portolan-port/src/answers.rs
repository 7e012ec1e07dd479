//! What a receiver owes the holder of one channel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use portolan_wire::packet::Kind;

use crate::error::SendErrorKind;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::message::Message;
use crate::socket::{Full, Outgoing, Refusal};
use crate::transfer;

/// The most requests of one channel that may wait for their answers at once.
pub(crate) const MAX_OWED: usize = 1024;

/// The most bytes of answers kept for a client that does not fetch them; then its channel is
/// closed.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// What a right in an answer counts as beside its bytes, so that at most 256 are kept.
const BYTES_PER_KEPT_RIGHT: usize = 64 << 10;

/// What a word without bytes counts as, so that some hundred thousand are kept.
const BYTES_PER_KEPT_WORD: usize = size_of::<Kept>();

/// Slots that are owed an answer, and answers that there was no room for.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Slots that a reply right or an answer that is kept exists for. Most often there is one.
    owed: Vec<Owed>,
    /// Where they are written down, if they are.
    ledger: Option<Arc<Ledger>>,
    /// Oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
}

/// A slot that is owed an answer.
#[derive(Debug)]
struct Owed {
    slot: u32,
    /// Where that is written down.
    entry: Option<u32>,
}

/// Something that a client is to be told.
#[derive(Debug)]
pub(crate) enum Kept {
    Answer(u32, Message),
    NoReply(u32),
    /// The request will not be served, for a reason that this side has put into bytes.
    Failed(u32, Arc<[u8]>),
    /// Lent memory with this number is not used any more.
    Returned(u32),
    /// The answer comes on another channel, of which this is the client's end.
    Redirect(u32, OwnedFd),
}

/// How far the kept answers went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    All,
    /// There is no room for the next.
    Stuck(Full),
    /// The client cannot even be told that an answer was lost.
    Broken,
}

impl Answers {
    /// Notes that a reply right for this slot exists. False if there is one or there are too many.
    ///
    /// `entry` is where that is written down.
    pub(crate) fn owe(&mut self, slot: u32, entry: Option<u32>) -> bool {
        let is_known = self.owed.iter().any(|owed| owed.slot == slot);
        let admitted = self.owed.len() < MAX_OWED && !is_known;
        if admitted {
            self.owed.push(Owed { slot, entry });
        }
        admitted
    }

    /// Has what is owed crossed out in this ledger once it is settled.
    pub(crate) fn write_down_in(&mut self, ledger: Option<Arc<Ledger>>) {
        self.ledger = ledger;
    }

    /// Notes that the slot has its answer.
    pub(crate) fn settle(&mut self, slot: u32) {
        let Some(at) = self.owed.iter().position(|owed| owed.slot == slot) else {
            return;
        };
        let entry = self.owed.swap_remove(at).entry;
        if let (Some(ledger), Some(entry)) = (&self.ledger, entry) {
            ledger.cross_out(entry);
        }
    }

    /// The slots that are owed an answer, as a list of little-endian numbers.
    pub(crate) fn owed(&self) -> Vec<u8> {
        self.owed
            .iter()
            .flat_map(|owed| owed.slot.to_le_bytes())
            .collect()
    }

    pub(crate) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether the client has left more unfetched than it may.
    pub(crate) fn are_too_many(&self) -> bool {
        self.kept_bytes > MAX_KEPT_BYTES
    }

    pub(crate) fn keep(&mut self, what: Kept) {
        self.kept_bytes += what.bytes();
        self.kept.push_back(what);
    }

    /// Takes out the slots whose clients are still to be told that no answer will come.
    pub(crate) fn take_refusals(&mut self) -> Vec<u32> {
        let is_refusal = |kept: &Kept| matches!(kept, Kept::NoReply(_) | Kept::Failed(..));
        let kept = std::mem::take(&mut self.kept);
        let (refusals, rest): (VecDeque<_>, _) = kept.into_iter().partition(is_refusal);
        self.kept = rest;
        let bytes: usize = refusals.iter().map(Kept::bytes).sum();
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
        refusals.iter().map(Kept::slot).collect()
    }

    /// Sends what was kept, as far as there is room.
    pub(crate) fn flush(&mut self, link: Link<'_>) -> Flushed {
        while let Some(mut kept) = self.kept.pop_front() {
            let (slot, bytes) = (kept.slot(), kept.bytes());
            let mut full = None;
            let sent = kept.send(link, &mut full);
            if let (Err(SendErrorKind::TimedOut), Some(full)) = (&sent, full) {
                self.kept.push_front(kept);
                return Flushed::Stuck(full);
            }
            self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
            match (sent, kept) {
                (Ok(()) | Err(SendErrorKind::DeadName), Kept::Returned(_)) => {}
                (Ok(()) | Err(SendErrorKind::DeadName), _) => self.settle(slot),
                // Whoever answered believes that it is on its way, so the client has to know.
                (Err(_), Kept::NoReply(_) | Kept::Returned(_)) => return Flushed::Broken,
                (Err(_), _) => self.kept.push_front(Kept::NoReply(slot)),
            }
        }
        Flushed::All
    }
}

impl Kept {
    fn slot(&self) -> u32 {
        match self {
            Self::Answer(slot, _)
            | Self::NoReply(slot)
            | Self::Failed(slot, _)
            | Self::Redirect(slot, _) => *slot,
            Self::Returned(_) => 0,
        }
    }

    /// What it counts towards [`MAX_KEPT_BYTES`].
    fn bytes(&self) -> usize {
        match self {
            Self::Answer(_, message) => {
                message.bytes().len() + message.rights().len() * BYTES_PER_KEPT_RIGHT
            }
            Self::NoReply(_) | Self::Returned(_) => BYTES_PER_KEPT_WORD,
            Self::Failed(_, reason) => BYTES_PER_KEPT_WORD + reason.len(),
            Self::Redirect(..) => BYTES_PER_KEPT_RIGHT,
        }
    }

    fn send(&mut self, link: Link<'_>, full: &mut Option<Full>) -> Result<(), SendErrorKind> {
        match self {
            Self::Answer(slot, message) => deliver(link, *slot, message, full),
            Self::Returned(number) => tell(link, &Outgoing::control(Kind::Returned, *number), full),
            Self::NoReply(slot) => tell(link, &Outgoing::control(Kind::NoReply, *slot), full),
            Self::Failed(slot, reason) => tell(link, &Outgoing::no_reply(*slot, reason), full),
            Self::Redirect(slot, end) => {
                let fds = [end.as_fd()];
                let packet = Outgoing {
                    fds: &fds,
                    ..Outgoing::control(Kind::Redirect, *slot)
                };
                tell(link, &packet, full)
            }
        }
    }
}

/// Sends a prepared answer without waiting, and tells what is full if it times out. Ports in it are
/// left paused then.
pub(crate) fn deliver(
    link: Link<'_>,
    slot: u32,
    message: &mut Message,
    full: &mut Option<Full>,
) -> Result<(), SendErrorKind> {
    transfer::deliver_or_leave(link, (Kind::Reply, slot), message, &mut |what| {
        *full = Some(what);
        Ok(false)
    })
}

fn tell(
    link: Link<'_>,
    packet: &Outgoing<'_>,
    full: &mut Option<Full>,
) -> Result<(), SendErrorKind> {
    link.try_send(packet).map_err(|refusal| {
        if let Refusal::Full(what) = refusal {
            *full = Some(what);
        }
        transfer::send_error(refusal)
    })
}
