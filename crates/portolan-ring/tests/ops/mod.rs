//! Two bodies that take a list of operations as bytes, so that a fuzzer and a property test run the
//! same code.

use std::collections::VecDeque;

use portolan_ring::{
    Bell, Consumer, Corrupt, Producer, PushError, Readiness, Record, Run, record_bytes,
    split_record,
};

use crate::memory::Memory;

/// Both halves behave: what comes out is what went in, in order, and nothing unpublished; a side
/// that may sleep has nothing to do, and is rung for when that changes.
pub(crate) fn model(input: &[u8]) {
    let mut input = Input(input);
    let capacity = 64usize << (input.byte() % 5);
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
        match op % 10 {
            0..3 => self.push(u32::from(input.byte()), &input.payload()),
            3 => self.publish(),
            4 => self.pop(usize::from(op / 10)),
            5 => self.release(),
            6 => self.consumer_sleep(),
            7 => self.run(usize::from(input.byte()) * 4, usize::from(op / 10)),
            8 => self.push_run(usize::from(op / 10), input),
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

/// The peer writes anything anywhere between any two operations. Neither half may panic or hang;
/// lengths stay within their limits; a half that found corruption stays with it; and as long as
/// nobody has scribbled, every byte is right.
pub(crate) fn hostile(input: &[u8]) {
    let mut input = Input(input);
    let capacity = 64usize << (input.byte() % 5);
    let memory = Memory::new(capacity);
    let mut pair = Pair {
        producer: Producer::new(memory.region()),
        consumer: Consumer::new(memory.region()),
        memory: &memory,
        capacity: capacity as u64,
        expected: VecDeque::new(),
        honest: true,
        refused: [None; 2],
    };
    while let Some(op) = input.next() {
        pair.step(op, &mut input);
    }
}

struct Pair<'a> {
    producer: Producer,
    consumer: Consumer,
    memory: &'a Memory,
    capacity: u64,
    expected: VecDeque<Vec<u8>>,
    honest: bool,
    /// What the producer and the consumer refuse with.
    refused: [Option<Corrupt>; 2],
}

impl Pair<'_> {
    fn step(&mut self, op: u8, input: &mut Input<'_>) {
        match op % 12 {
            0 | 1 => self.push(&input.payload()),
            2 => drop(self.producer.publish()),
            3 if op < 128 => self.pop(usize::from(op / 12), None),
            3 => {
                let word = usize::from(input.byte()) << 8 | usize::from(input.byte());
                self.pop(usize::from(op / 12), Some((word, input.word())));
            }
            4 => drop(self.consumer.release()),
            5 => self.prepare_sleeps(u32::from(input.byte())),
            6 => {
                let word = usize::from(input.byte()) << 8 | usize::from(input.byte());
                self.scribble(word, input.word());
            }
            7 => self.scribble(usize::from(op / 12 % 4) * 16, input.word()),
            8 => self.nudge(usize::from(op / 12 % 4) * 16, input.byte()),
            9 => self.run(usize::from(input.byte()) * 4, op < 128),
            10 => self.push_run(&input.payload()),
            _ => {
                self.producer.awake();
                self.consumer.awake();
            }
        }
    }

    fn scribble(&mut self, word: usize, value: u64) {
        self.honest = false;
        self.memory.scribble(word, value);
    }

    /// Moves a word by a little, which a checked position survives more often than a random one.
    fn nudge(&mut self, word: usize, by: u8) {
        let by = i64::from(by as i8) * 8;
        self.scribble(word, self.memory.peek(word).wrapping_add_signed(by));
    }

    fn push(&mut self, payload: &[u8]) {
        match self.producer.push(7, &[payload]) {
            Ok(()) => {
                assert!(record_bytes(payload.len() as u32) <= self.capacity / 2);
                self.expected.push_back(payload.to_vec());
            }
            Err(PushError::Full { missing }) => {
                assert!((1..=self.capacity / 2).contains(&missing));
            }
            Err(PushError::Corrupt(corrupt)) => self.refuses(0, corrupt),
            Err(PushError::TooLarge { len, max }) => assert!(len > max as usize),
            Err(other) => panic!("{other}"),
        }
    }

    fn push_run(&mut self, payload: &[u8]) {
        let mut run = Run::default();
        for _ in 0..3 {
            // Longer ones are left out.
            run.push(7, &[payload], self.producer.max_payload()).ok();
        }
        let before = run.len();
        if let Err(corrupt) = self.producer.push_run(&mut run) {
            return self.refuses(0, corrupt);
        }
        let pushed = (before - run.len()) as u64 / record_bytes(payload.len() as u32);
        (0..pushed).for_each(|_| self.expected.push_back(payload.to_vec()));
    }

    /// Takes a record in two pieces, between which the peer may write.
    fn pop(&mut self, head: usize, scribble: Option<(usize, u64)>) {
        let mut head = vec![0; head];
        let mut bytes = Vec::new();
        let taken = self.consumer.incoming().map(|incoming| {
            let mut incoming = incoming?;
            let copied = incoming.copy_to(&mut head);
            bytes.extend_from_slice(&head[..copied]);
            if let Some((word, value)) = scribble {
                self.memory.scribble(word, value);
            }
            incoming.append_to(&mut bytes);
            Some(incoming.record())
        });
        let record = match taken {
            Ok(None) => return,
            Ok(Some(record)) => record,
            Err(corrupt) => return self.refuses(1, corrupt),
        };
        assert_eq!(bytes.len(), record.len as usize);
        assert!(record_bytes(record.len) <= self.capacity / 2);
        self.honest &= scribble.is_none();
        if self.honest {
            assert_eq!((Some(bytes), record.tag), (self.expected.pop_front(), 7));
        }
    }

    /// Takes a run, and puts it back or not.
    fn run(&mut self, limit: usize, back: bool) {
        let (start, mut run) = (self.consumer.position(), Vec::new());
        let taken = match self.consumer.take_run(&mut run, limit) {
            Ok(taken) => taken,
            Err(corrupt) => return self.refuses(1, corrupt),
        };
        assert!(taken <= limit && taken == run.len());
        if back {
            return self.consumer.rewind(start);
        }
        let mut rest = run.as_slice();
        while let Some((record, payload, behind)) = split_record(rest) {
            assert!(record_bytes(record.len) <= self.capacity / 2);
            if self.honest {
                let expected = self.expected.pop_front();
                assert_eq!((Some(payload), record.tag), (expected.as_deref(), 7));
            }
            rest = behind;
        }
        assert_eq!(rest, b"", "nothing but whole records");
    }

    fn prepare_sleeps(&mut self, len: u32) {
        if let Err(corrupt) = self.producer.prepare_sleep(len) {
            self.refuses(0, corrupt);
        }
        if let Err(corrupt) = self.consumer.prepare_sleep() {
            self.refuses(1, corrupt);
        }
        match self.producer.free() {
            Ok(free) => assert!(free <= self.capacity),
            Err(corrupt) => self.refuses(0, corrupt),
        }
    }

    fn refuses(&mut self, half: usize, corrupt: Corrupt) {
        assert!(!self.honest, "{corrupt}");
        assert_eq!(*self.refused[half].get_or_insert(corrupt), corrupt);
        let all = [self.producer.free().err(), self.consumer.ready().err()];
        assert_eq!(all[half], Some(corrupt));
    }
}

/// The bytes of an op list; zeros once they are used up, but no further operation.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// Up to 543 bytes that depend on the first two of the input, all different from their
    /// neighbours. Mostly short.
    fn payload(&mut self) -> Vec<u8> {
        let (len, seed) = (usize::from(self.byte()), self.byte());
        let len = if len < 224 { len / 4 } else { (len - 224) * 17 };
        (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
    }
}
