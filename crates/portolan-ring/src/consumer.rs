use crate::position::{check_claim, is_past};
use crate::record::{
    ALIGNMENT, RECORD_HEADER_BYTES, Record, max_payload, record_bytes, without_records,
};
use crate::region::Word;
use crate::sync::{Ordering, full_fence};
use crate::{Bell, Corrupt, Readiness, Region};

/// The half that takes records.
#[derive(Debug)]
pub struct Consumer {
    region: Region,
    /// End of the records that are taken.
    taken: u64,
    /// End of the records whose space was given back.
    released: u64,
    /// The producer's position when it was last looked at.
    published: u64,
    corrupt: Option<Corrupt>,
}

impl Consumer {
    /// The consumer of a ring on which nothing has been taken yet.
    pub fn new(region: Region) -> Self {
        Self {
            region,
            taken: 0,
            released: 0,
            published: 0,
            corrupt: None,
        }
    }

    /// The consumer of a ring from which another consumer, which is gone, has taken up to
    /// `position` ([`position`](Self::position)).
    pub fn resume(region: Region, position: u64) -> Self {
        Self {
            taken: position,
            released: position,
            published: position,
            ..Self::new(region)
        }
    }

    /// Bytes taken since the start.
    pub fn position(&self) -> u64 {
        self.taken
    }

    /// Whether a record is published and not yet taken. This is the check to spin on: while it
    /// answers false it reads one word that only a publication changes.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] where the producer's position is false, now or earlier.
    #[inline]
    pub fn ready(&mut self) -> Result<bool, Corrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        if self.taken == self.published {
            self.refresh()?;
        }
        Ok(self.taken != self.published)
    }

    /// Takes the next record and puts its payload into `into`, whose former contents are lost.
    /// The record's space stays taken until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// [`Corrupt`] where the producer's position or the record's length is false, now or earlier.
    #[inline]
    pub fn pop(&mut self, into: &mut Vec<u8>) -> Result<Option<Record>, Corrupt> {
        let Some(mut incoming) = self.incoming()? else {
            return Ok(None);
        };
        into.clear();
        incoming.append_to(into);
        Ok(Some(incoming.record()))
    }

    /// Takes the next record in pieces: a caller with a header of its own can copy that first and
    /// then decide where the rest goes. The record counts as taken when the answer is dropped.
    ///
    /// # Errors
    ///
    /// As for [`pop`](Self::pop).
    #[inline]
    pub fn incoming(&mut self) -> Result<Option<Incoming<'_>>, Corrupt> {
        if !self.ready()? {
            return Ok(None);
        }
        let record = Record::from_word(self.region.read_header(self.taken));
        let published = self.published.wrapping_sub(self.taken);
        let whole = record_bytes(record.len) <= published;
        if whole && record.len <= max_payload(self.region.capacity() as u64) {
            return Ok(Some(Incoming {
                consumer: self,
                record,
                copied: 0,
            }));
        }
        let corrupt = Corrupt::Length {
            claimed: record.len,
            published,
        };
        self.corrupt = Some(corrupt);
        Err(corrupt)
    }

    /// Takes as many whole records as there are in the next `limit` bytes, and appends them to
    /// `into` as they are, headers and padding included; [`split_record`](crate::split_record)
    /// takes them apart. Gives the number of bytes, which is 0 if there is no record or the next
    /// one is longer than `limit`, and then [`incoming`](Self::incoming) says which.
    ///
    /// # Errors
    ///
    /// As for [`ready`](Self::ready).
    pub fn take_run(&mut self, into: &mut Vec<u8>, limit: usize) -> Result<usize, Corrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        self.refresh()?;
        let there = self.published.wrapping_sub(self.taken);
        let start = into.len();
        self.region
            .append(self.taken, there.min(limit as u64) as usize, into);
        let copied = into.get(start..).unwrap_or_default();
        let max = max_payload(self.region.capacity() as u64);
        let whole = copied.len() - without_records(copied, max).len();
        into.truncate(start + whole);
        self.taken = self.taken.wrapping_add(whole as u64);
        Ok(whole)
    }

    /// Puts records back that were taken and not released: the next one is that at `position`.
    ///
    /// # Panics
    ///
    /// If `position` is not one that this half was at since it released last.
    pub fn rewind(&mut self, position: u64) {
        let back = self.taken.wrapping_sub(position);
        assert!(back <= self.taken.wrapping_sub(self.released));
        self.taken = position;
    }

    /// Gives the space of the records taken so far back to the producer, and tells whether it has
    /// to be woken for it. Costs a memory barrier unless nothing was taken, so several records are
    /// better released at once; but a producer may be waiting, so release before doing anything
    /// that takes long.
    #[inline]
    pub fn release(&mut self) -> Bell {
        if self.released == self.taken {
            return Bell::Quiet;
        }
        self.give_back()
    }

    #[inline]
    fn give_back(&mut self) -> Bell {
        if self.corrupt.is_some() {
            return Bell::Quiet;
        }
        self.released = self.taken;
        self.region
            .store(Word::Released, self.released, Ordering::Release);
        // Pairs with the fence in `Producer::prepare_sleep`: either the producer sees the position
        // above, or we see that it sleeps.
        full_fence();
        let enough = self.region.load(Word::ProducerSleeps, Ordering::Relaxed);
        if enough == 0 || !is_past(self.released, enough & !(ALIGNMENT - 1)) {
            return Bell::Quiet;
        }
        match self.region.swap(Word::ProducerSleeps, 0, Ordering::AcqRel) {
            0 => Bell::Quiet,
            _ => Bell::Ring,
        }
    }

    /// Gives the space of everything before this consumer's position back, also what a consumer that
    /// it [resumes](Self::resume) had taken and not released, and tells whether the producer has to
    /// be woken.
    pub fn reclaim(&mut self) -> Bell {
        self.give_back()
    }

    /// Releases what is taken, and announces that this side sleeps until something is published.
    ///
    /// On [`Readiness::Sleep`], ring the producer's bell if told so, wait for this side's bell, and
    /// call [`awake`](Self::awake). The bell must keep a ring that nobody waits for yet, and must
    /// not be reset between this call and the wait.
    ///
    /// # Errors
    ///
    /// As for [`ready`](Self::ready).
    pub fn prepare_sleep(&mut self) -> Result<(Bell, Readiness), Corrupt> {
        let bell = self.release();
        self.region.swap(Word::ConsumerSleeps, 1, Ordering::AcqRel);
        // Pairs with the fence in `Producer::publish`.
        full_fence();
        if self.ready()? {
            self.awake();
            return Ok((bell, Readiness::Ready));
        }
        Ok((bell, Readiness::Sleep))
    }

    /// Takes back what [`prepare_sleep`](Self::prepare_sleep) announced, whatever the reason for
    /// being awake. A bell may still ring afterwards.
    pub fn awake(&mut self) {
        self.region.swap(Word::ConsumerSleeps, 0, Ordering::AcqRel);
    }

    fn refresh(&mut self) -> Result<(), Corrupt> {
        let claimed = self.region.load(Word::Published, Ordering::Acquire);
        // The producer can have filled no more than what was released.
        let unreleased = self.taken.wrapping_sub(self.released);
        let room = self.region.capacity() as u64 - unreleased;
        match check_claim(claimed, self.taken, room, self.taken) {
            Ok(published) => self.published = published,
            Err(corrupt) => self.corrupt = Some(corrupt),
        }
        self.corrupt.map_or(Ok(()), Err)
    }
}

/// A record that is being taken. Its length was checked and is held in private memory; each byte of
/// the payload is copied out once. Dropping it takes the record, with what was not copied.
#[derive(Debug)]
#[must_use = "dropping it takes the record"]
pub struct Incoming<'a> {
    consumer: &'a mut Consumer,
    record: Record,
    copied: u32,
}

impl Incoming<'_> {
    /// The record's length and tag.
    pub fn record(&self) -> Record {
        self.record
    }

    /// How many bytes of the payload are not copied yet.
    pub fn remaining(&self) -> usize {
        (self.record.len - self.copied) as usize
    }

    /// Copies the next bytes of the payload into `into`, as many as there are or as fit, and
    /// answers how many.
    #[inline]
    pub fn copy_to(&mut self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.remaining());
        self.consumer.region.read(self.position(), &mut into[..len]);
        self.copied += len as u32;
        len
    }

    /// Appends what remains of the payload to `into`.
    #[inline]
    pub fn append_to(&mut self, into: &mut Vec<u8>) {
        self.consumer
            .region
            .append(self.position(), self.remaining(), into);
        self.copied = self.record.len;
    }

    /// The position behind the record.
    pub fn end(&self) -> u64 {
        let bytes = record_bytes(self.record.len);
        self.consumer.taken.wrapping_add(bytes)
    }

    /// Leaves the record where it is: the next call of [`Consumer::incoming`] finds it again.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    #[inline]
    fn position(&self) -> u64 {
        let offset = RECORD_HEADER_BYTES as u64 + u64::from(self.copied);
        self.consumer.taken.wrapping_add(offset)
    }
}

impl Drop for Incoming<'_> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.taken = self.end();
    }
}
