//! Memory for large payloads that its owner lends to a receiver and uses again.
//!
//! The owner writes the bytes in place. The receiver copies them out, all at once or piece by piece,
//! each byte once, so it does not matter what the owner does to them meanwhile. Then it returns the
//! memory. What is never returned is lost to the owner alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use portolan_wire::packet::MAX_MESSAGE_BYTES;

use crate::channel::{Channel, lock};
use crate::mapping::{OwnMemory, PeerMemory};

/// The most pieces of memory that one right has lent at a time.
const MAX_LENT: usize = 16;

/// The most bytes that one right keeps for its next messages.
const MAX_KEPT_BYTES: usize = 32 << 20;

/// Memory is made in multiples of this, so that messages of similar lengths share it.
const STEP_BYTES: usize = 256 << 10;

/// The most bytes of one piece of memory.
const LONGEST: usize = MAX_MESSAGE_BYTES.next_multiple_of(STEP_BYTES);

/// The most bytes that one right has lent at a time. With more of its memory kept by a receiver, it
/// makes memory for each message that is the receiver's to free.
const MAX_LENT_BYTES: usize = 128 << 20;

/// The memory that one right lends.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    last_number: u32,
    free: Vec<OwnMemory>,
    lent: HashMap<u32, Lent>,
}

#[derive(Debug)]
enum Lent {
    /// In a message that is being sent.
    Going,
    /// The same, and the receiver was faster.
    Back,
    Out(OwnMemory),
}

impl Lender {
    /// Memory for `len` bytes.
    ///
    /// # Errors
    ///
    /// What the kernel says, or `WouldBlock` if too much is lent.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> io::Result<Loan> {
        let memory = match lock(&self.pool).reuse(len)? {
            Some(memory) => memory,
            None => OwnMemory::create(len.next_multiple_of(STEP_BYTES))?,
        };
        Ok(Loan {
            store: Store::Memory(memory, Arc::clone(self)),
            len,
        })
    }

    /// The receiver has returned memory. False if it has not been lent.
    pub(crate) fn returned(&self, number: u32) -> bool {
        let mut pool = lock(&self.pool);
        match pool.lent.remove(&number) {
            Some(Lent::Out(memory)) => pool.keep(memory),
            Some(Lent::Going) => drop(pool.lent.insert(number, Lent::Back)),
            Some(Lent::Back) | None => return false,
        }
        true
    }

    fn announce(&self) -> u32 {
        let mut pool = lock(&self.pool);
        loop {
            pool.last_number = pool.last_number.wrapping_add(1);
            let number = pool.last_number;
            if let Entry::Vacant(vacant) = pool.lent.entry(number) {
                vacant.insert(Lent::Going);
                return number;
            }
        }
    }

    fn gone(&self, number: u32, memory: OwnMemory) {
        let mut pool = lock(&self.pool);
        match pool.lent.remove(&number) {
            Some(Lent::Back) => pool.keep(memory),
            _ => drop(pool.lent.insert(number, Lent::Out(memory))),
        }
    }

    /// Nobody will return anything any more.
    pub(crate) fn port_died(&self) {
        let mut pool = lock(&self.pool);
        pool.free.clear();
        pool.lent.clear();
    }

    fn stayed(&self, number: u32) {
        lock(&self.pool).lent.remove(&number);
    }

    fn keep(&self, memory: OwnMemory) {
        lock(&self.pool).keep(memory);
    }
}

impl Pool {
    /// The smallest free memory that is large enough. Of several, the one that came back last, which
    /// is most likely to be in a cache.
    fn reuse(&mut self, len: usize) -> io::Result<Option<OwnMemory>> {
        let fitting = self.free.iter().enumerate().rev();
        let fitting = fitting.filter(|(_, memory)| memory.len() >= len);
        let smallest = fitting.min_by_key(|(_, memory)| memory.len());
        match smallest.map(|(at, _)| at) {
            Some(at) => Ok(Some(self.free.swap_remove(at))),
            None if self.has_lent_too_much() => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(None),
        }
    }

    fn has_lent_too_much(&self) -> bool {
        let bytes = self.lent.values().map(|lent| match lent {
            Lent::Out(memory) => memory.len(),
            Lent::Going | Lent::Back => 0,
        });
        self.lent.len() >= MAX_LENT || bytes.sum::<usize>() >= MAX_LENT_BYTES
    }

    fn keep(&mut self, memory: OwnMemory) {
        let kept: usize = self.free.iter().map(|memory| memory.len()).sum();
        if kept + memory.len() <= MAX_KEPT_BYTES && self.free.len() < MAX_LENT {
            self.free.push(memory);
        }
    }
}

/// Bytes to be written in place and then sent with
/// [`Message::with_loan`](crate::Message::with_loan), see
/// [`SendRight::lend`](crate::SendRight::lend).
///
/// The receiver sees all of the memory behind it, which is longer than the loan and still has in it
/// what was written there for earlier messages of the same right. In a forked child it is empty.
pub struct Loan {
    store: Store,
    len: usize,
}

enum Store {
    Heap(Vec<u8>),
    Memory(OwnMemory, Arc<Lender>),
    /// It has been sent.
    Spent,
}

impl Loan {
    pub(crate) fn on_heap(len: usize) -> Self {
        Self {
            store: Store::Heap(vec![0; len]),
            len,
        }
    }

    /// Whether a right that lends through `lender` can send it as it is.
    pub(crate) fn is_of(&self, lender: &Arc<Lender>) -> bool {
        matches!(&self.store, Store::Memory(_, own) if Arc::ptr_eq(own, lender))
    }

    /// The bytes, copied if they are not on the heap.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        match &mut self.store {
            Store::Heap(bytes) => std::mem::take(bytes),
            Store::Memory(..) | Store::Spent => self.to_vec(),
        }
    }

    /// Notes that the loan is about to be sent, under the number that is given.
    pub(crate) fn announce(&self) -> Option<u32> {
        match &self.store {
            Store::Memory(_, lender) => Some(lender.announce()),
            Store::Heap(_) | Store::Spent => None,
        }
    }

    /// It has been sent, or not.
    pub(crate) fn settle(&mut self, number: u32, sent: bool) {
        match std::mem::replace(&mut self.store, Store::Spent) {
            Store::Memory(memory, lender) if sent => lender.gone(number, memory),
            store => {
                if let Store::Memory(_, lender) = &store {
                    lender.stayed(number);
                }
                self.store = store;
            }
        }
    }

    /// The file to send.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.store {
            Store::Memory(memory, _) => Some(memory.file()),
            Store::Heap(_) | Store::Spent => None,
        }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.store {
            Store::Heap(bytes) => bytes,
            Store::Memory(memory, _) => memory.get(..self.len).unwrap_or_default(),
            Store::Spent => &[],
        }
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Heap(bytes) => bytes,
            Store::Memory(memory, _) => memory.get_mut(..self.len).unwrap_or_default(),
            Store::Spent => &mut [],
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.store, Store::Spent) {
            // A thread of the parent may have held the lock when this child was forked.
            Store::Memory(memory, lender) if !memory.is_foreign() => lender.keep(memory),
            _ => {}
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The memory of one sender that is mapped, so that it is mapped once.
#[derive(Debug, Default)]
pub(crate) struct Borrowed(Vec<Arc<PeerMemory>>);

/// The most memory files of one sender that stay mapped.
const MAX_MAPPED: usize = 4;

impl Borrowed {
    pub(crate) fn map(&mut self, file: &OwnedFd) -> io::Result<Arc<PeerMemory>> {
        let identity = PeerMemory::identity(file)?;
        if let Some(known) = self.0.iter().find(|memory| memory.is(identity)) {
            return Ok(Arc::clone(known));
        }
        let memory = Arc::new(PeerMemory::map(file, LONGEST)?);
        if self.0.len() >= MAX_MAPPED {
            self.0.remove(0);
        }
        self.0.push(Arc::clone(&memory));
        Ok(memory)
    }
}

/// A payload in memory that the sender lends.
#[derive(Debug)]
pub(crate) struct Borrowing {
    memory: Arc<PeerMemory>,
    len: usize,
    number: u32,
    channel: Arc<Channel>,
    copy: OnceLock<Vec<u8>>,
    returned: AtomicBool,
}

impl Borrowing {
    /// The first `len` bytes of the memory. `None` if there are not as many.
    pub(crate) fn new(
        memory: Arc<PeerMemory>,
        len: usize,
        number: u32,
        channel: Arc<Channel>,
    ) -> Option<Self> {
        (len <= memory.window().len()).then(|| Self {
            memory,
            len,
            number,
            channel,
            copy: OnceLock::new(),
            returned: AtomicBool::new(false),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All bytes, copied when this is called first.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.copy.get_or_init(|| {
            let bytes = self.memory.window().to_vec(self.len);
            self.give_back();
            bytes
        })
    }

    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        self.as_slice();
        self.copy.take().unwrap_or_default()
    }

    /// Copies the bytes from `at` on; the memory is returned with the last.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len.saturating_sub(at));
        let into = into.get_mut(..count).unwrap_or_default();
        match self.copy.get() {
            Some(bytes) => into.copy_from_slice(bytes.get(at..at + count).unwrap_or_default()),
            None => self.memory.window().read(at, into),
        }
        if at + count >= self.len {
            self.give_back();
        }
        count
    }

    fn give_back(&self) {
        if !self.returned.swap(true, Ordering::Relaxed) {
            self.channel.give_back(self.number);
        }
    }
}

impl Drop for Borrowing {
    fn drop(&mut self) {
        self.give_back();
    }
}
