use std::{error, fmt};

use crate::position::check_claim;
use crate::record::{RECORD_HEADER_BYTES, Record, Run, max_payload, record_bytes};
use crate::region::Word;
use crate::sync::{Ordering, full_fence};
use crate::{Bell, Corrupt, Readiness, Region};

/// The half that writes records.
#[derive(Debug)]
pub struct Producer {
    region: Region,
    /// End of the records that are written.
    written: u64,
    /// End of the records that the consumer may see.
    published: u64,
    /// The consumer's position when it was last looked at.
    released: u64,
    corrupt: Option<Corrupt>,
}

impl Producer {
    /// The producer of a ring on which nothing has been written yet.
    pub fn new(region: Region) -> Self {
        Self {
            region,
            written: 0,
            published: 0,
            released: 0,
            corrupt: None,
        }
    }

    /// The producer of a ring that another producer, which is gone, has written to up to
    /// `position` ([`position`](Self::position)).
    pub fn resume(region: Region, position: u64) -> Self {
        // What is released is not known; the first claim may lie anywhere in the last lap.
        let released = position.wrapping_sub(region.capacity() as u64);
        Self {
            released,
            written: position,
            published: position,
            ..Self::new(region)
        }
    }

    /// Bytes published since the start.
    pub fn position(&self) -> u64 {
        self.published
    }

    /// The longest payload in bytes that one record can have.
    pub fn max_payload(&self) -> u32 {
        max_payload(self.capacity())
    }

    /// Writes a record whose payload is `parts` one after the other. The consumer does not see it
    /// before [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`PushError::TooLarge`] where the payload is longer than [`max_payload`](Self::max_payload),
    /// [`PushError::Full`] where it does not fit now, [`PushError::Corrupt`] where the consumer's
    /// position is false. Nothing is written then.
    #[inline]
    pub fn push(&mut self, tag: u32, parts: &[&[u8]]) -> Result<(), PushError> {
        let len = self.payload_len(parts)?;
        let bytes = record_bytes(len);
        self.require(bytes)?;
        self.region
            .write_header(self.written, Record { len, tag }.to_word());
        let mut at = self.written.wrapping_add(RECORD_HEADER_BYTES as u64);
        for part in parts {
            self.region.write(at, part);
            at = at.wrapping_add(part.len() as u64);
        }
        self.written = self.written.wrapping_add(bytes);
        Ok(())
    }

    /// Writes as many whole records of `run` as there is room for, and takes them out of it. They
    /// count as [pushed](Self::push) one by one.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], as for [`free`](Self::free).
    pub fn push_run(&mut self, run: &mut Run) -> Result<(), Corrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        if self.known_free() < run.len() as u64 {
            self.refresh()?;
        }
        let records = run.fitting(usize::try_from(self.known_free()).unwrap_or(usize::MAX));
        let count = records.len();
        self.region.write(self.written, records);
        self.written = self.written.wrapping_add(count as u64);
        run.remove(count);
        Ok(())
    }

    /// Lets the consumer see every record pushed so far, and tells whether it has to be woken for
    /// them. Costs a memory barrier, so several records are better published at once.
    #[inline]
    pub fn publish(&mut self) -> Bell {
        if self.published == self.written || self.corrupt.is_some() {
            return Bell::Quiet;
        }
        self.published = self.written;
        // Pairs with the fence in `Consumer::prepare_sleep`: either the consumer sees the position,
        // or we see that it sleeps.
        self.region.publish(Word::Published, self.published);
        if self.region.load(Word::ConsumerSleeps, Ordering::SeqCst) == 0 {
            return Bell::Quiet;
        }
        // By a swap, so that whoever takes the word off is the one to ring: the consumer may have
        // woken by itself and gone to sleep again since the load.
        match self.region.swap(Word::ConsumerSleeps, 0, Ordering::AcqRel) {
            0 => Bell::Quiet,
            _ => Bell::Ring,
        }
    }

    /// Publishes what was pushed and lets a consumer that sleeps go on sleeping: it finds the records
    /// when it is woken for something else.
    pub fn publish_quietly(&mut self) {
        if self.corrupt.is_none() {
            self.published = self.written;
            self.region
                .store(Word::Published, self.published, Ordering::Release);
        }
    }

    /// Whether the consumer said that it sleeps, so that the next publication will have to wake it.
    /// A hint: it may fall asleep or wake up at any moment.
    #[inline]
    pub fn consumer_sleeps(&self) -> bool {
        self.region.load(Word::ConsumerSleeps, Ordering::Relaxed) != 0
    }

    /// How many bytes of records, headers and padding included, can be pushed now.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] where the consumer's position is false, now or earlier.
    pub fn free(&mut self) -> Result<u64, Corrupt> {
        self.refresh()?;
        Ok(self.known_free())
    }

    /// Whether a record with a payload of `len` bytes can be pushed now.
    ///
    /// # Errors
    ///
    /// As for [`free`](Self::free).
    #[inline]
    pub fn fits(&mut self, len: u32) -> Result<bool, Corrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        let bytes = record_bytes(len);
        Ok(bytes <= self.known_free() || bytes <= self.free()?)
    }

    /// Publishes what is pushed, and announces that this side sleeps until a record with a payload
    /// of `len` bytes fits (lengths beyond [`max_payload`](Self::max_payload) count as that). A
    /// larger `len` than needed is woken for later and less often.
    ///
    /// On [`Readiness::Sleep`], ring the consumer's bell if told so, wait for this side's bell, and
    /// call [`awake`](Self::awake). The bell must keep a ring that nobody waits for yet, and must
    /// not be reset between this call and the wait.
    ///
    /// # Errors
    ///
    /// As for [`free`](Self::free).
    pub fn prepare_sleep(&mut self, len: u32) -> Result<(Bell, Readiness), Corrupt> {
        let bell = self.publish();
        let len = len.min(self.max_payload());
        let enough = self
            .written
            .wrapping_add(record_bytes(len))
            .wrapping_sub(self.capacity());
        self.region
            .swap(Word::ProducerSleeps, enough | 1, Ordering::AcqRel);
        // Pairs with the fence in `Consumer::release`.
        full_fence();
        if self.fits(len)? {
            self.awake();
            return Ok((bell, Readiness::Ready));
        }
        Ok((bell, Readiness::Sleep))
    }

    /// Takes back what [`prepare_sleep`](Self::prepare_sleep) announced, whatever the reason for
    /// being awake. A bell may still ring afterwards.
    pub fn awake(&mut self) {
        self.region.swap(Word::ProducerSleeps, 0, Ordering::AcqRel);
    }

    fn payload_len(&self, parts: &[&[u8]]) -> Result<u32, PushError> {
        let len = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let max = self.max_payload();
        match u32::try_from(len) {
            Ok(len) if len <= max => Ok(len),
            _ => Err(PushError::TooLarge { len, max }),
        }
    }

    #[inline]
    fn require(&mut self, bytes: u64) -> Result<(), PushError> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt.into());
        }
        if bytes <= self.known_free() {
            return Ok(());
        }
        match bytes.saturating_sub(self.free()?) {
            0 => Ok(()),
            missing => Err(PushError::Full { missing }),
        }
    }

    fn refresh(&mut self) -> Result<(), Corrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        let claimed = self.region.load(Word::Released, Ordering::Acquire);
        // The consumer can have released no more than what was published.
        let unreleased = self.published.wrapping_sub(self.released);
        match check_claim(claimed, self.released, unreleased, self.written) {
            Ok(released) => self.released = released,
            Err(corrupt) => self.corrupt = Some(corrupt),
        }
        self.corrupt.map_or(Ok(()), Err)
    }

    #[inline]
    fn known_free(&self) -> u64 {
        // At most `capacity` bytes lie between the two: `push` keeps it so.
        self.capacity() - self.written.wrapping_sub(self.released)
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.region.capacity() as u64
    }
}

/// Why a record was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The payload is longer than any record of this ring can be.
    TooLarge {
        /// The payload's length in bytes.
        len: usize,
        /// The longest that fits.
        max: u32,
    },
    /// The record does not fit until the consumer releases more.
    Full {
        /// How many bytes more have to be released.
        missing: u64,
    },
    /// The consumer broke the protocol.
    Corrupt(Corrupt),
}

impl From<Corrupt> for PushError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len, max } => {
                write!(
                    f,
                    "a payload of {len} bytes is more than a record can hold ({max})"
                )
            }
            Self::Full { missing } => write!(f, "the ring is full, {missing} bytes are missing"),
            Self::Corrupt(corrupt) => corrupt.fmt(f),
        }
    }
}

impl error::Error for PushError {}
