//! Both halves of a ring to whose memory others may write.

use std::collections::VecDeque;

use portolan_ring::{
    Consumer, Corrupt, Producer, PushError, Region, Run, record_bytes, split_record,
};

use super::Input;

/// Does what honest sides do, in whatever order it is told to, and checks what must hold whatever is
/// written to the memory. As long as nobody writes to it, every byte must be right.
pub(super) struct Pair {
    region: Region,
    producer: Producer,
    consumer: Consumer,
    honest: bool,
    pushed: VecDeque<Vec<u8>>,
    published: VecDeque<Vec<u8>>,
    /// The records taken since the last release, each with the position that it was taken at.
    taken: Vec<(u64, Vec<u8>)>,
    /// The consumer's position when it released last.
    released: u64,
    /// What the producer and the consumer refuse with.
    refused: [Option<Corrupt>; 2],
}

impl Pair {
    /// How many kinds of operations there are.
    pub(super) const KINDS: u8 = 12;

    pub(super) fn new(region: Region) -> Self {
        Self {
            producer: Producer::new(region.clone()),
            consumer: Consumer::new(region.clone()),
            region,
            honest: true,
            pushed: VecDeque::new(),
            published: VecDeque::new(),
            taken: Vec::new(),
            released: 0,
            refused: [None; 2],
        }
    }

    /// Somebody writes to positions or records.
    pub(super) fn distrust(&mut self) {
        self.honest = false;
    }

    /// How far the consumer has come.
    pub(super) fn position(&self) -> u64 {
        self.consumer.position()
    }

    /// Does one operation, `kind` less than [`KINDS`](Self::KINDS). How much of the input that uses up
    /// depends on nothing but `kind`. `meanwhile` runs while a record is being taken.
    pub(super) fn step(
        &mut self,
        kind: u8,
        size: u8,
        input: &mut Input<'_>,
        meanwhile: impl FnOnce(),
    ) {
        match kind {
            0 | 1 => self.push(&input.payload()),
            2 => self.push_run(size, &input.payload()),
            3 => self.publish(),
            4 => self.publish_quietly(),
            5 => self.pop(size.into(), meanwhile),
            6 => self.run(usize::from(input.byte()) * 4),
            7 => self.rewind(size.into()),
            8 => self.release(),
            9 => self.prepare_sleeps(input.byte().into()),
            10 => self.awake(),
            _ => self.resume(),
        }
        // Published is no more than the capacity beyond what was released, and taken no more than that.
        let unreleased = self.consumer.position().wrapping_sub(self.released);
        assert!(unreleased <= self.capacity());
    }

    fn push(&mut self, payload: &[u8]) {
        let bytes = record_bytes(payload.len() as u32);
        match self.producer.push(7, &[payload]) {
            Ok(()) => {
                assert!(bytes <= self.capacity() / 2);
                self.pushed.push_back(payload.to_vec());
            }
            Err(PushError::Full { missing }) => assert!((1..=bytes).contains(&missing)),
            Err(PushError::Corrupt(corrupt)) => self.refuses(0, corrupt),
            Err(PushError::TooLarge { len, max }) => assert!(len > max as usize),
            Err(other) => panic!("{other}"),
        }
    }

    fn push_run(&mut self, count: u8, payload: &[u8]) {
        let mut run = Run::default();
        for _ in 0..count {
            // Longer ones are left out.
            run.push(7, &[payload], self.producer.max_payload()).ok();
        }
        let before = run.len() as u64;
        if let Err(corrupt) = self.producer.push_run(&mut run) {
            assert_eq!(run.len() as u64, before);
            return self.refuses(0, corrupt);
        }
        let (pushed, bytes) = (
            before - run.len() as u64,
            record_bytes(payload.len() as u32),
        );
        assert!(pushed <= self.capacity() && pushed.is_multiple_of(bytes));
        let left = (!run.is_empty()).then_some(payload.len() as u32);
        assert_eq!(run.next_len(), left);
        (0..pushed / bytes).for_each(|_| self.pushed.push_back(payload.to_vec()));
    }

    fn publish(&mut self) {
        let _bell = self.producer.publish();
        self.published.append(&mut self.pushed);
    }

    fn publish_quietly(&mut self) {
        self.producer.publish_quietly();
        self.published.append(&mut self.pushed);
    }

    /// Takes a record in three pieces.
    fn pop(&mut self, size: usize, meanwhile: impl FnOnce()) {
        let (start, mut bytes) = (self.position(), vec![0xaa]);
        let taken = self.consumer.incoming().map(|incoming| {
            let mut incoming = incoming?;
            let record = incoming.record();
            for _ in 0..2 {
                let mut piece = vec![0; size];
                let copied = incoming.copy_to(&mut piece);
                bytes.extend_from_slice(&piece[..copied]);
            }
            meanwhile();
            assert_eq!(incoming.remaining(), record.len as usize + 1 - bytes.len());
            incoming.append_to(&mut bytes);
            assert_eq!((incoming.record(), incoming.remaining()), (record, 0));
            Some(record)
        });
        let record = match taken {
            Ok(Some(record)) => record,
            Ok(None) => return assert!(!self.honest || self.published.is_empty()),
            Err(corrupt) => return self.refuses(1, corrupt),
        };
        assert_eq!((bytes.remove(0), bytes.len()), (0xaa, record.len as usize));
        assert_eq!(
            self.position(),
            start.wrapping_add(record_bytes(record.len))
        );
        self.takes(start, record.tag, &bytes);
    }

    /// Takes a run of records.
    fn run(&mut self, limit: usize) {
        let (mut start, mut run) = (self.position(), vec![0xaa]);
        let taken = match self.consumer.take_run(&mut run, limit) {
            Ok(taken) => taken,
            Err(corrupt) => return self.refuses(1, corrupt),
        };
        assert!(taken <= limit && (run.remove(0), run.len()) == (0xaa, taken));
        assert_eq!(self.position(), start.wrapping_add(taken as u64));
        let mut rest = run.as_slice();
        while let Some((record, payload, behind)) = split_record(rest) {
            self.takes(start, record.tag, payload);
            start = start.wrapping_add(record_bytes(record.len));
            rest = behind;
        }
        assert_eq!(rest, b"", "nothing but whole records");
        let next = self
            .published
            .front()
            .map_or(0, |next| record_bytes(next.len() as u32));
        assert!(!self.honest || next == 0 || taken as u64 + next > limit as u64);
    }

    /// The record at `start` came out.
    fn takes(&mut self, start: u64, tag: u32, payload: &[u8]) {
        assert!(record_bytes(payload.len() as u32) <= self.capacity() / 2);
        let expected = self.published.pop_front();
        if self.honest {
            assert_eq!((expected.as_deref(), tag), (Some(payload), 7));
        }
        self.taken.push((start, payload.to_vec()));
    }

    /// Puts the last `count` of the records back that were taken since the last release.
    fn rewind(&mut self, count: usize) {
        let keep = self.taken.len().saturating_sub(count);
        for (start, payload) in self.taken.drain(keep..).rev() {
            self.published.push_front(payload);
            self.consumer.rewind(start);
        }
    }

    fn release(&mut self) {
        let _bell = self.consumer.release();
        self.note_release();
    }

    fn note_release(&mut self) {
        self.released = self.position();
        self.taken.clear();
    }

    fn prepare_sleeps(&mut self, len: u32) {
        if let Err(corrupt) = self.producer.prepare_sleep(len) {
            self.refuses(0, corrupt);
        }
        self.published.append(&mut self.pushed);
        if let Err(corrupt) = self.consumer.prepare_sleep() {
            self.refuses(1, corrupt);
        }
        self.note_release();
        match self.producer.free() {
            Ok(free) => assert!(free <= self.capacity() && free.is_multiple_of(8)),
            Err(corrupt) => self.refuses(0, corrupt),
        }
    }

    fn awake(&mut self) {
        self.producer.awake();
        self.consumer.awake();
    }

    /// Both halves are given up, and others go on where they were.
    fn resume(&mut self) {
        self.publish();
        self.release();
        self.producer = Producer::resume(self.region.clone(), self.producer.position());
        self.consumer = Consumer::resume(self.region.clone(), self.position());
        self.refused = [None; 2];
    }

    fn refuses(&mut self, half: usize, corrupt: Corrupt) {
        assert!(!self.honest, "{corrupt}");
        assert_eq!(*self.refused[half].get_or_insert(corrupt), corrupt);
        let all = [self.producer.free().err(), self.consumer.ready().err()];
        assert_eq!(all[half], Some(corrupt));
        if half == 0 {
            let pushed = self.producer.push(7, &[]);
            assert_eq!(pushed, Err(PushError::Corrupt(corrupt)));
        } else {
            let taken = self.consumer.take_run(&mut Vec::new(), usize::MAX);
            assert_eq!(taken, Err(corrupt));
        }
    }

    fn capacity(&self) -> u64 {
        self.region.capacity() as u64
    }
}
