//! What a server knows, written down as it changes, so that the next server can go on from there.
//!
//! A journal is a table in a memfd: each [`Key`] has bytes, and descriptors by their numbers. The
//! memfd and the descriptors outlive the server because its parent has them too, see
//! [`holder`](crate::holder).
//!
//! A change is one record at the end, written with one call. A server that is killed meanwhile
//! leaves a record that is cut off, or none, and the change has not happened. The bytes of a record
//! are described in `journal/record.rs`.
//!
//! To whoever writes: open a descriptor before the entry that names it, and close it after that entry
//! is gone. In between the number could be another descriptor's.

mod record;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::{DupFlags, Errno};
use thiserror::Error;

use record::Operation;
pub use record::VERSION;

/// The most bytes that an entry has.
pub const MAX_BYTES: usize = 1 << 20;

/// The most descriptors that an entry has.
pub const MAX_DESCRIPTORS: usize = 1024;

/// A journal that is shorter than this is not worth compacting.
const MIN_COMPACTED: u64 = 64 << 10;

/// [`Journal::compact`] reads the records that begin in as many bytes at once.
const WINDOW: u64 = 256 << 10;

/// What the memfd is called in `/proc`.
const NAME: &str = "portolan-journal";

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What kind of thing the entry is about, as the server numbers them.
    pub kind: u16,
    /// Which one.
    pub id: u64,
}

/// A journal that is being written, by one process at a time.
///
/// Dropping it closes nothing, for the memfd has to outlive the server.
#[derive(Debug)]
pub struct Journal {
    memory: ManuallyDrop<OwnedFd>,
    /// The bytes of all records.
    length: u64,
    /// The record of each entry.
    live: HashMap<Key, Range<u64>>,
    /// The bytes of those.
    live_length: u64,
    /// Of the record that is being put together; kept for its memory.
    buffer: Vec<u8>,
}

/// What a journal says, at the time it was replayed.
#[derive(Debug, Default)]
pub struct Entries {
    image: Vec<u8>,
    /// Where in the image the record of an entry is.
    records: BTreeMap<Key, Range<usize>>,
    /// The end of the last whole record.
    end: usize,
}

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What was put.
    pub bytes: &'a [u8],
    /// The numbers of the descriptors that were put with it, in their order.
    pub descriptors: Vec<u32>,
}

/// A journal cannot be replayed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It was written by another version of the server.
    #[error("the journal has format {found}, and this server reads format {VERSION}")]
    OtherVersion {
        /// Its format.
        found: u16,
    },
    /// A record that is not the last one is damaged.
    #[error("the journal is damaged at byte {offset}")]
    Damaged {
        /// Where that record begins.
        offset: usize,
    },
    /// It could not be read.
    #[error("cannot read the journal")]
    System(#[source] io::Error),
}

/// An entry could not be changed. The journal is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PutError {
    /// The entry is too long.
    #[error("an entry of {length} bytes, of {MAX_BYTES} at most")]
    TooLong {
        /// Its bytes.
        length: usize,
    },
    /// The entry has too many descriptors.
    #[error("an entry of {count} descriptors, of {MAX_DESCRIPTORS} at most")]
    TooManyDescriptors {
        /// Its descriptors.
        count: usize,
    },
    /// The kernel has no memory for it.
    #[error("cannot write to the journal")]
    System(#[source] io::Error),
}

/// Memory for a journal that is empty.
///
/// # Errors
///
/// What memfd_create(2) says.
pub fn memory() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?)
}

/// What the journal in this memfd says now. A last record that is cut off is left out.
///
/// # Errors
///
/// [`JournalError`]
pub fn replay(memory: impl AsFd) -> Result<Entries, JournalError> {
    Entries::of(read(memory).map_err(|errno| JournalError::System(errno.into()))?)
}

impl Journal {
    /// Goes on with the journal in this memfd, from the entries that were replayed from it. What is
    /// behind the last whole record is cut away; with no entries ([`Entries::default`]) that is all.
    ///
    /// # Errors
    ///
    /// What ftruncate(2) says.
    pub fn resume(memory: OwnedFd, entries: &Entries) -> io::Result<Self> {
        let memory = ManuallyDrop::new(memory);
        rustix::fs::ftruncate(&*memory, entries.end as u64)?;
        let records = entries.records.iter();
        let live: HashMap<_, _> = records
            .map(|(&key, at)| (key, at.start as u64..at.end as u64))
            .collect();
        Ok(Self {
            memory,
            length: entries.end as u64,
            live_length: live.values().map(length).sum(),
            live,
            buffer: Vec::new(),
        })
    }

    /// Stops writing, and gives the memfd back.
    pub fn into_memory(self) -> OwnedFd {
        ManuallyDrop::into_inner(self.memory)
    }

    /// Puts an entry in the place of the one that has this key, if there is one.
    ///
    /// # Errors
    ///
    /// [`PutError`]
    pub fn put(
        &mut self,
        key: Key,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), PutError> {
        if bytes.len() > MAX_BYTES {
            let length = bytes.len();
            return Err(PutError::TooLong { length });
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            let count = descriptors.len();
            return Err(PutError::TooManyDescriptors { count });
        }
        let numbers = descriptors.iter().map(|fd| fd.as_raw_fd().cast_unsigned());
        record::write(&mut self.buffer, Operation::Put, key, numbers, bytes);
        let at = self.append()?;
        self.live_length += length(&at);
        if let Some(old) = self.live.insert(key, at) {
            self.live_length -= length(&old);
        }
        self.compact_if_due();
        Ok(())
    }

    /// Takes an entry out. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// [`PutError::System`]
    pub fn remove(&mut self, key: Key) -> Result<bool, PutError> {
        if !self.live.contains_key(&key) {
            return Ok(false);
        }
        let none = std::iter::empty();
        record::write(&mut self.buffer, Operation::Remove, key, none, &[]);
        self.append()?;
        if let Some(old) = self.live.remove(&key) {
            self.live_length -= length(&old);
        }
        self.compact_if_due();
        Ok(true)
    }

    /// Writes all entries to a new memfd and puts that in the place of the old one. Whoever looks at
    /// the descriptor sees the old journal or the new one, whole.
    ///
    /// It is done when more than half of a journal is of no use any more.
    ///
    /// # Errors
    ///
    /// [`PutError::System`]; the old journal is in its place then.
    pub fn compact(&mut self) -> Result<(), PutError> {
        self.rewrite().map_err(system)
    }

    fn rewrite(&mut self) -> Result<(), Errno> {
        let fresh = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?;
        let mut entries: Vec<_> = self.live.iter().collect();
        entries.sort_unstable_by_key(|(_, at)| at.start);
        let mut live = HashMap::with_capacity(entries.len());
        let (mut old, mut new, mut end) = (Vec::new(), Vec::new(), 0);
        for window in entries.chunk_by(|(_, a), (_, b)| a.start / WINDOW == b.start / WINDOW) {
            let (first, last) = (window[0].1, window[window.len() - 1].1);
            old.resize(size(last.end - first.start), 0);
            read_exactly(&*self.memory, &mut old, first.start)?;
            new.clear();
            for (key, at) in window {
                let begin = end + new.len() as u64;
                live.insert(**key, begin..begin + length(at));
                new.extend_from_slice(&old[size(at.start - first.start)..][..size(length(at))]);
            }
            write_whole(&fresh, &new, end)?;
            end += new.len() as u64;
        }
        rustix::io::dup3(&fresh, &mut self.memory, DupFlags::CLOEXEC)?;
        (self.live, self.length, self.live_length) = (live, end, end);
        Ok(())
    }

    fn compact_if_due(&mut self) {
        if self.length > MIN_COMPACTED && self.length / 2 > self.live_length {
            // What was asked for is done, and the next change tries this again.
            self.compact().ok();
        }
    }

    /// Writes what is in the buffer behind the last record. Returns where.
    fn append(&mut self) -> Result<Range<u64>, PutError> {
        let at = self.length..self.length + self.buffer.len() as u64;
        if let Err(errno) = write_whole(&*self.memory, &self.buffer, at.start) {
            // What was written of it would be in the way of the next record.
            rustix::fs::ftruncate(&*self.memory, at.start).map_err(system)?;
            return Err(system(errno));
        }
        self.length = at.end;
        Ok(at)
    }
}

/// The descriptor of the memfd, which stays the same.
impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Entries {
    fn of(image: Vec<u8>) -> Result<Self, JournalError> {
        let mut records = BTreeMap::new();
        let mut end = 0;
        while let Some(record) = record::read(&image, end)? {
            let at = end..end + record.length;
            end = at.end;
            match record.operation {
                Operation::Put => records.insert(record.key, at),
                Operation::Remove => records.remove(&record.key),
            };
        }
        Ok(Self {
            image,
            records,
            end,
        })
    }

    /// All keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.records.keys().copied()
    }

    /// The entry that has this key.
    pub fn get(&self, key: Key) -> Option<Entry<'_>> {
        let at = self.records.get(&key)?.start;
        let record = record::read(&self.image, at).ok()??;
        Some(Entry {
            bytes: record.bytes,
            descriptors: record.descriptors().collect(),
        })
    }

    /// Leaves an entry out.
    pub fn forget(&mut self, key: Key) {
        self.records.remove(&key);
    }

    /// All entries, those that were put last before the others.
    pub fn newest_first(&self) -> impl Iterator<Item = (Key, Entry<'_>)> {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(at.start));
        let keys = records.into_iter().map(|(&key, _)| key);
        keys.filter_map(|key| Some((key, self.get(key)?)))
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Entry<'_>)> {
        self.keys().filter_map(|key| Some((key, self.get(key)?)))
    }
}

fn system(errno: Errno) -> PutError {
    PutError::System(errno.into())
}

fn length(at: &Range<u64>) -> u64 {
    at.end - at.start
}

/// What is in memory has a `usize` for its length, and what is in a journal was in memory.
fn size(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn read(memory: impl AsFd) -> Result<Vec<u8>, Errno> {
    let length = rustix::fs::fstat(&memory)?.st_size;
    let mut image = vec![0; usize::try_from(length).unwrap_or(0)];
    read_exactly(memory, &mut image, 0)?;
    Ok(image)
}

/// Fails with `EIO` if there are fewer bytes.
fn read_exactly(memory: impl AsFd, bytes: &mut [u8], start: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        match rustix::io::retry_on_intr(|| {
            rustix::io::pread(&memory, &mut *rest, start + done as u64)
        })? {
            0 => return Err(Errno::IO),
            count => done += count,
        }
    }
    Ok(())
}

/// One call, unless memory runs out in the middle of it.
fn write_whole(memory: impl AsFd, bytes: &[u8], start: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let at = start + done as u64;
        done += rustix::io::retry_on_intr(|| rustix::io::pwrite(&memory, rest, at))?;
    }
    Ok(())
}
