//! Both halves against a model of queues.

use std::collections::VecDeque;

use portolan_ring::{
    Bell, Consumer, Producer, PushError, Readiness, Record, Run, record_bytes, split_record,
};

use super::Input;
use crate::memory::Memory;

/// Both halves behave: what comes out is what went in, in order, and nothing unpublished; a side
/// that may sleep has nothing to do, and is rung for when that changes.
pub(crate) fn check(input: &[u8]) {
    let mut input = Input(input);
    let capacity = input.capacity();
    let memory = Memory::new(capacity);
    let mut model = Model {
        producer: Producer::new(memory.region()),
        consumer: Consumer::new(memory.region()),
        capacity: capacity as u64,
        pushed: VecDeque::new(),
        published: VecDeque::new(),
        written: 0,
        released: 0,
        taken: 0,
        consumer_sleeps: false,
        producer_wants: None,
    };
    while let Some(op) = input.next() {
        model.step(op, &mut input);
    }
    model.drain();
}

struct Model {
    producer: Producer,
    consumer: Consumer,
    capacity: u64,
    pushed: VecDeque<(u32, Vec<u8>)>,
    published: VecDeque<(u32, Vec<u8>)>,
    /// Bytes pushed, and bytes released, since the start.
    written: u64,
    released: u64,
    /// Bytes taken and not released.
    taken: u64,
    consumer_sleeps: bool,
    /// How much has to be released in all for the producer to be woken.
    producer_wants: Option<u64>,
}

impl Model {
    fn step(&mut self, op: u8, input: &mut Input<'_>) {
        match op % 11 {
            0..3 => self.push(u32::from(input.byte()), &input.payload()),
            3 => self.publish(),
            4 => self.pop(usize::from(op / 11)),
            5 => self.release(),
            6 => self.consumer_sleep(),
            7 => self.run(usize::from(input.byte()) * 4, usize::from(op / 11)),
            8 => self.push_run(usize::from(op / 11), input),
            9 => self.publish_quietly(),
            _ => self.producer_sleep(u32::from(input.byte())),
        }
        let ready = self.consumer.ready();
        assert_eq!(ready, Ok(!self.published.is_empty()));
        assert_eq!(self.producer.free(), Ok(self.free()));
    }

    fn push(&mut self, tag: u32, payload: &[u8]) {
        let len = payload.len();
        let bytes = record_bytes(len as u32);
        let (a, b) = payload.split_at(len / 3);
        let max = self.producer.max_payload();
        let free = self.free();
        let expected = match bytes {
            _ if len > max as usize => Err(PushError::TooLarge { len, max }),
            _ if bytes > free => Err(PushError::Full {
                missing: bytes - free,
            }),
            _ => Ok(()),
        };
        assert_eq!(self.producer.push(tag, &[a, &[], b]), expected);
        if expected.is_ok() {
            self.pushed.push_back((tag, payload.to_vec()));
            self.written += bytes;
        }
    }

    /// Pushes a run of `count` records, of which those have to stay behind that have no room.
    fn push_run(&mut self, count: usize, input: &mut Input<'_>) {
        let (mut run, mut records) = (Run::default(), VecDeque::new());
        let max = self.producer.max_payload();
        for tag in 0..count as u32 {
            let payload = input.payload();
            let pushed = run.push(tag, &[&payload], max);
            if payload.len() > max as usize {
                assert_eq!(pushed, Err(payload.len()));
            } else {
                assert_eq!(pushed, Ok(()));
                records.push_back((tag, payload));
            }
        }
        assert_eq!(self.producer.push_run(&mut run), Ok(()));
        while let Some((_, payload)) = records.front()
            && record_bytes(payload.len() as u32) <= self.free()
        {
            self.written += record_bytes(payload.len() as u32);
            self.pushed.extend(records.pop_front());
        }
        let left: u64 = records
            .iter()
            .map(|(_, p)| record_bytes(p.len() as u32))
            .sum();
        assert_eq!(run.len() as u64, left);
        let next = records.front().map(|(_, payload)| payload.len() as u32);
        assert_eq!(run.next_len(), next);
    }

    fn publish(&mut self) {
        let wakes = self.consumer_sleeps && !self.pushed.is_empty();
        let bell = self.producer.publish();
        self.published(bell, wakes);
    }

    fn publish_quietly(&mut self) {
        self.producer.publish_quietly();
        self.published.append(&mut self.pushed);
    }

    fn published(&mut self, bell: Bell, wakes: bool) {
        assert_eq!(bell == Bell::Ring, wakes);
        self.published.append(&mut self.pushed);
        if wakes {
            self.consumer_sleeps = false;
            self.consumer.awake();
        }
    }

    fn pop(&mut self, head: usize) {
        let Some((tag, payload)) = self.published.pop_front() else {
            assert_eq!(self.consumer.pop(&mut Vec::new()), Ok(None));
            return;
        };
        let len = payload.len() as u32;
        let mut incoming = self
            .consumer
            .incoming()
            .expect("honest")
            .expect("published");
        assert_eq!(incoming.record(), Record { len, tag });
        let (mut first, mut rest) = (vec![0; head], vec![0xaa]);
        let copied = incoming.copy_to(&mut first);
        first.truncate(copied);
        incoming.append_to(&mut rest);
        assert_eq!(incoming.remaining(), 0);
        assert_eq!([&first, &rest[1..]].concat(), payload);
        drop(incoming);
        self.taken += record_bytes(len);
    }

    /// Takes a run and puts back all but its first `keep` records.
    fn run(&mut self, limit: usize, keep: usize) {
        let (start, mut run) = (self.consumer.position(), vec![0xaa]);
        let taken = self.consumer.take_run(&mut run, limit).expect("honest");
        let mut rest = &run[1..];
        assert_eq!(rest.len(), taken);
        let (mut records, mut kept) = (0, 0);
        while let Some((record, payload, behind)) = split_record(rest) {
            let (tag, expected) = &self.published[records];
            assert_eq!((record.tag, payload), (*tag, expected.as_slice()));
            rest = behind;
            records += 1;
            if records <= keep {
                kept = taken - rest.len();
            }
        }
        assert_eq!(rest, b"", "nothing but whole records");
        let next = self.published.get(records);
        let next = next.map(|(_, payload)| record_bytes(payload.len() as u32));
        assert!(next.is_none_or(|next| taken as u64 + next > limit as u64));
        self.consumer.rewind(start + kept as u64);
        self.published.drain(..keep.min(records));
        self.taken += kept as u64;
    }

    fn release(&mut self) {
        let bell = self.consumer.release();
        self.released(bell);
    }

    fn released(&mut self, bell: Bell) {
        self.released += self.taken;
        let enough = self.producer_wants.is_some_and(|all| all <= self.released);
        let wakes = self.taken > 0 && enough;
        assert_eq!(bell == Bell::Ring, wakes);
        self.taken = 0;
        if wakes {
            self.producer_wants = None;
            self.producer.awake();
        }
    }

    fn consumer_sleep(&mut self) {
        let (bell, readiness) = self.consumer.prepare_sleep().expect("honest");
        self.released(bell);
        self.consumer_sleeps = self.published.is_empty();
        assert_eq!(readiness == Readiness::Sleep, self.consumer_sleeps);
    }

    fn producer_sleep(&mut self, len: u32) {
        let wakes = self.consumer_sleeps && !self.pushed.is_empty();
        let (bell, readiness) = self.producer.prepare_sleep(len).expect("honest");
        self.published(bell, wakes);
        let bytes = record_bytes(len.min(self.producer.max_payload()));
        let sleeps = bytes > self.free();
        assert_eq!(readiness == Readiness::Sleep, sleeps);
        self.producer_wants = sleeps.then(|| self.written + bytes - self.capacity);
    }

    fn free(&self) -> u64 {
        self.capacity + self.released - self.written
    }

    fn drain(&mut self) {
        self.publish();
        while !self.published.is_empty() {
            self.pop(7);
        }
        self.release();
        assert_eq!(self.producer.free(), Ok(self.capacity));
        // An empty ring has room for any record.
        assert_eq!(self.producer_wants, None);
    }
}
