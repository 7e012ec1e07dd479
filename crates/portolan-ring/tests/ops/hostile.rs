//! Both halves, and a peer that writes between their operations.

use std::collections::VecDeque;

use portolan_ring::{Consumer, Corrupt, Producer, PushError, Run, record_bytes, split_record};

use super::Input;
use crate::memory::Memory;

/// The peer writes anything anywhere between any two operations. Neither half may panic or hang;
/// lengths stay within their limits; a half that found corruption stays with it; and as long as
/// nobody has scribbled, every byte is right.
pub(crate) fn check(input: &[u8]) {
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
