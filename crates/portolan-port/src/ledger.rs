//! What a receiver owes to whom, where whoever comes after it can read it.
//!
//! A receiver that is killed has requests in its hands that nobody will answer. So it writes each into
//! memory that its keeper has too, before it takes the request, and crosses it out when it was
//! answered. Both sides trust each other: what is written here is read by the keeper of the port
//! alone, and all that it does with it is to tell the port's own clients that no answer will come.

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::channel::lock;
use crate::mapping::SharedWords;

/// The most requests that are written down at once, which is as many as 128 channels can be owed. Callers
/// beyond that learn of the receiver's end by their own time-outs. The memory is 2 MiB, of which there
/// is only what has ever been used.
const MAX_ENTRIES: u32 = 1 << 17;

/// The first word is 1 once the receiver let go of the port and answers what it owes itself, the second
/// is how many of the entries have ever been used, the third how many messages have been received. Behind
/// them, each entry has two words: the channel, 0 for none, and the slot with its kind.
const WORDS: usize = FIRST_ENTRY + 2 * MAX_ENTRIES as usize;

const RETURNED: usize = 0;
const USED: usize = 1;
const RECEIVED: usize = 2;
const FIRST_ENTRY: usize = 3;

/// In the second word of an entry: nobody waits for an answer to this request any more, and it is not
/// to be served.
const VOID: u64 = 1 << 32;

/// In the second word of an entry: there was no room yet to tell whoever waits that no answer will come.
const REFUSAL: u64 = 1 << 33;

/// The channel of an entry, by the number that the kernel gives its socket.
pub(crate) type Cookie = u64;

/// The memory.
#[derive(Debug)]
pub(crate) struct Ledger {
    words: SharedWords,
    free: Mutex<Free>,
}

/// Entries that are not used: those that were given back, some of those that somebody else has used before
/// this process, and all from `fresh` on.
#[derive(Debug, Default)]
struct Free {
    back: Vec<u32>,
    unseen: Range<u32>,
    fresh: u32,
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u32,
    pub(crate) channel: Cookie,
    pub(crate) slot: u32,
    pub(crate) is_void: bool,
    pub(crate) is_refusal: bool,
}

impl Ledger {
    /// Makes an empty one.
    pub(crate) fn create() -> io::Result<Self> {
        Ok(Self {
            words: SharedWords::create(WORDS)?,
            free: Mutex::default(),
        })
    }

    /// Makes the memory of an empty one, which is opened later.
    pub(crate) fn make() -> io::Result<OwnedFd> {
        SharedWords::make(WORDS)
    }

    /// Opens one that somebody else made, and who does not write requests down any more.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        let ledger = Self {
            words: SharedWords::open(file, WORDS)?,
            free: Mutex::default(),
        };
        let fresh = ledger.used();
        *lock(&ledger.free) = Free {
            back: Vec::new(),
            unseen: 0..fresh,
            fresh,
        };
        Ok(ledger)
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.words.file()
    }

    /// Writes a request down. `None` if there is no room.
    pub(crate) fn enter(&self, channel: Cookie, slot: u32) -> Option<u32> {
        self.write(channel, u64::from(slot))
    }

    /// Writes down that a request is not to be served.
    pub(crate) fn enter_void(&self, channel: Cookie, slot: u32) -> Option<u32> {
        self.write(channel, u64::from(slot) | VOID)
    }

    /// Writes down that whoever waits for the answer to a request is still to be told that none will come.
    pub(crate) fn enter_refusal(&self, channel: Cookie, slot: u32) -> Option<u32> {
        self.write(channel, u64::from(slot) | REFUSAL)
    }

    fn write(&self, channel: Cookie, what: u64) -> Option<u32> {
        let at = self.take_free()?;
        let (first, second) = Self::place(at);
        self.words.word(second)?.store(what, Ordering::Relaxed);
        self.words.word(first)?.store(channel, Ordering::Release);
        Some(at)
    }

    /// Crosses an entry out.
    pub(crate) fn cross_out(&self, at: u32) {
        if let Some(word) = self.words.word(Self::place(at).0) {
            word.store(0, Ordering::Release);
            lock(&self.free).back.push(at);
        }
    }

    /// All that is written down.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        (0..self.used()).filter_map(|at| self.read(at)).collect()
    }

    fn used(&self) -> u32 {
        let word = self.words.word(USED);
        let used = word.map_or(0, |word| word.load(Ordering::Acquire));
        u32::try_from(used).unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES)
    }

    fn take_free(&self) -> Option<u32> {
        let mut free = lock(&self.free);
        if let Some(back) = free.back.pop() {
            return Some(back);
        }
        if let Some(unused) = free.unseen.find(|at| self.read(*at).is_none()) {
            return Some(unused);
        }
        let fresh = Some(free.fresh).filter(|fresh| *fresh < MAX_ENTRIES)?;
        free.fresh += 1;
        let used = self.words.word(USED)?;
        used.store(free.fresh.into(), Ordering::Release);
        Some(fresh)
    }

    fn read(&self, at: u32) -> Option<Entry> {
        let (first, second) = Self::place(at);
        let channel = self.words.word(first)?.load(Ordering::Acquire);
        let what = self.words.word(second)?.load(Ordering::Relaxed);
        (channel != 0).then_some(Entry {
            at,
            channel,
            slot: what as u32,
            is_void: what & VOID != 0,
            is_refusal: what & REFUSAL != 0,
        })
    }

    /// Counts messages that were handed out. One thread at a time does that.
    pub(crate) fn count_received(&self, count: u64) {
        if let Some(word) = self.words.word(RECEIVED) {
            let received = word.load(Ordering::Relaxed);
            word.store(received.wrapping_add(count), Ordering::Relaxed);
        }
    }

    /// How many messages were handed out.
    pub(crate) fn received(&self) -> u64 {
        let word = self.words.word(RECEIVED);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Notes that the receiver let go of the port and is still there to answer what it owes.
    pub(crate) fn note_returned(&self) {
        if let Some(word) = self.words.word(RETURNED) {
            word.store(1, Ordering::Release);
        }
    }

    pub(crate) fn is_returned(&self) -> bool {
        let word = self.words.word(RETURNED);
        word.is_some_and(|word| word.load(Ordering::Acquire) != 0)
    }

    fn place(at: u32) -> (usize, usize) {
        let first = FIRST_ENTRY + 2 * at as usize;
        (first, first + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u32, channel: Cookie, slot: u32, is_void: bool) -> Entry {
        Entry {
            at,
            channel,
            slot,
            is_void,
            is_refusal: false,
        }
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let own = Ledger::create().expect("create");
        let first = own.enter(7, 1).expect("room");
        own.enter(8, u32::MAX).expect("room");
        own.enter_void(7, 3).expect("room");
        own.cross_out(first);
        let file = own.file().try_clone_to_owned().expect("duplicate");
        let other = Ledger::open(file).expect("open");
        let expected = [entry(1, 8, u32::MAX, false), entry(2, 7, 3, true)];
        assert_eq!(other.entries(), expected);
        assert!(!other.is_returned());
        own.note_returned();
        assert!(other.is_returned());
        other.enter(9, 4).expect("room");
        assert_eq!(own.entries().len(), 3, "nothing was written over");
    }

    #[test]
    fn whoever_opens_it_uses_what_was_given_back() {
        let own = Ledger::create().expect("create");
        for slot in 0..4 {
            own.enter(7, slot).expect("room");
        }
        own.cross_out(2);
        let file = own.file().try_clone_to_owned().expect("duplicate");
        let other = Ledger::open(file).expect("open");
        assert_eq!(other.enter(8, 0), Some(2));
        assert_eq!(other.enter(8, 1), Some(4));
    }

    #[test]
    fn it_is_full_at_some_point_and_has_room_again() {
        let ledger = Ledger::create().expect("create");
        let all = (0..MAX_ENTRIES).all(|slot| ledger.enter(1, slot).is_some());
        assert!(all);
        assert_eq!(ledger.enter(1, 0), None);
        ledger.cross_out(5);
        assert_eq!(ledger.enter(1, 0), Some(5));
    }
}
