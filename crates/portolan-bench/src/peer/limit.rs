//! What the machine can do at best: memory that both sides have, and nothing else.
//!
//! Client and server are threads of one process here, because memory that two processes have
//! cannot be reached in safe Rust. That spares the kernel a change of address space on one core,
//! so these figures are, if anything, a little better than two processes could have.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::thread;

use anyhow::bail;
use rustix::thread::futex;

use super::{Client, Peer};
use crate::cell::{Action, Cell, Sample};
use crate::payload::Source;
use crate::{measure, place};

/// Measures both sides; `begin` returns when the measured part may start.
pub(crate) fn run(cell: &Cell, begin: impl FnMut()) -> anyhow::Result<Sample> {
    if cell.peer == Peer::LimitMemcpy {
        let mut copy = Copy {
            from: vec![0; cell.task.bytes],
            to: vec![0; cell.task.bytes],
        };
        return measure::run(&mut copy, cell, begin);
    }
    let patience = match cell.peer {
        Peer::LimitSpin => Patience::Spin,
        Peer::LimitFutex => Patience::Sleep,
        _ => Patience::SpinThenSleep,
    };
    let shared = Shared::new(cell.task.bytes, cell.task.action);
    thread::scope(|scope| {
        let server = scope.spawn(|| -> std::io::Result<()> {
            if let Some((_, server)) = cell.cpus {
                place::pin(server)?;
            }
            serve(&shared, cell.task.action, patience);
            Ok(())
        });
        let mut client = Threads {
            shared: &shared,
            patience,
            sent: 0,
            room: shared.slots(),
        };
        let sample = measure::run(&mut client, cell, begin);
        client.finish();
        match server.join() {
            Ok(result) => result?,
            Err(_) => bail!("the server's thread panicked"),
        }
        sample
    })
}

/// How a side waits for the other.
#[derive(Clone, Copy)]
enum Patience {
    Spin,
    Sleep,
    /// 400 turns, then sleep.
    SpinThenSleep,
}

/// A number that one side counts up and the other waits for. On cache lines of its own.
#[repr(align(128))]
struct Count {
    number: AtomicU32,
    /// 1 while the other side sleeps. It sleeps on this word and not on the number, so that
    /// clearing it late cannot leave it asleep.
    sleeping: AtomicU32,
}

impl Count {
    fn new() -> Self {
        Self {
            number: AtomicU32::new(0),
            sleeping: AtomicU32::new(0),
        }
    }

    fn set(&self, number: u32, patience: Patience) {
        self.number.store(number, Ordering::Release);
        if matches!(patience, Patience::Spin) {
            return;
        }
        // Between this store and the look at `sleeping`, as in `wait` the other way round.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) == 1
            && self.sleeping.swap(0, Ordering::Relaxed) == 1
        {
            // Nobody to wake is no failure.
            futex::wake(&self.sleeping, futex::Flags::empty(), 1).ok();
        }
    }

    /// Waits until the number is another than `old`.
    fn wait(&self, old: u32, patience: Patience) -> u32 {
        let mut turns = match patience {
            Patience::Spin => u32::MAX,
            Patience::Sleep => 0,
            Patience::SpinThenSleep => 400,
        };
        loop {
            let number = self.number.load(Ordering::Acquire);
            if number != old {
                return number;
            }
            if turns > 0 {
                turns -= u32::from(!matches!(patience, Patience::Spin));
                spin_loop();
                continue;
            }
            self.sleeping.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.number.load(Ordering::Acquire) == old {
                // It may wake early or not sleep at all; the loop looks again.
                futex::wait(&self.sleeping, futex::Flags::empty(), 1, None).ok();
            }
            self.sleeping.store(0, Ordering::Relaxed);
        }
    }
}

/// Words that share a cache line with no others. Every message is some of these.
#[repr(align(64))]
struct Line([AtomicU64; 8]);

impl Line {
    const BYTES: usize = 64;

    fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 8])
    }
}

struct Shared {
    /// Messages from the client, one behind the other.
    lines: Vec<Line>,
    per_message: usize,
    answer: Line,
    sent: Count,
    received: Count,
    /// The number of messages after which the server ends or answers with the total.
    end: AtomicU64,
}

impl Shared {
    fn new(bytes: usize, action: Action) -> Self {
        let slots = match (action, bytes) {
            (Action::Stream, ..=64) => 4096,
            (Action::Stream, _) => 256,
            _ => 1,
        };
        Self {
            lines: (0..slots * bytes / Line::BYTES)
                .map(|_| Line::new())
                .collect(),
            per_message: bytes / Line::BYTES,
            answer: Line::new(),
            sent: Count::new(),
            received: Count::new(),
            end: AtomicU64::new(u64::MAX),
        }
    }

    fn slots(&self) -> u32 {
        (self.lines.len() / self.per_message) as u32
    }

    fn message(&self, number: u32) -> &[Line] {
        let slot = (number % self.slots()) as usize;
        &self.lines[slot * self.per_message..][..self.per_message]
    }

    fn write(&self, number: u32, source: &mut Source) {
        for word in self.message(number).iter().flat_map(|line| &line.0) {
            word.store(source.word(), Ordering::Relaxed);
        }
    }

    fn sum(&self, number: u32) -> u64 {
        sum(self.message(number))
    }
}

fn sum(lines: &[Line]) -> u64 {
    lines.iter().fold(0, |total, line| {
        line.0.iter().fold(total, |total, word| {
            total.wrapping_add(word.load(Ordering::Relaxed))
        })
    })
}

fn serve(shared: &Shared, action: Action, patience: Patience) {
    let (mut done, mut total) = (0, 0u64);
    loop {
        let sent = shared.sent.wait(done, patience);
        if shared.end.load(Ordering::Relaxed) == END {
            return;
        }
        while done != sent {
            total = total.wrapping_add(shared.sum(done));
            match action {
                Action::Stream => {}
                Action::Sum => shared.answer.0[0].store(total, Ordering::Relaxed),
                _ => {
                    let (from, to) = (&shared.message(done)[0], &shared.answer);
                    for (to, from) in to.0.iter().zip(&from.0) {
                        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
            }
            if !matches!(action, Action::Stream) {
                total = 0;
            }
            done = done.wrapping_add(1);
            if shared.end.load(Ordering::Relaxed) == u64::from(done) {
                shared.answer.0[0].store(std::mem::take(&mut total), Ordering::Relaxed);
            }
            shared.received.set(done, patience);
        }
    }
}

/// A value of [`Shared::end`] that no count of messages has.
const END: u64 = 1 << 40;

struct Threads<'a> {
    shared: &'a Shared,
    patience: Patience,
    sent: u32,
    /// Messages that may be sent before the server must have received one.
    room: u32,
}

impl Threads<'_> {
    fn publish(&mut self, source: &mut Source) {
        self.shared.write(self.sent, source);
        self.sent = self.sent.wrapping_add(1);
        self.shared.sent.set(self.sent, self.patience);
    }

    fn wait_for_all(&self) {
        let mut received = self.shared.received.number.load(Ordering::Acquire);
        while received != self.sent {
            received = self.shared.received.wait(received, self.patience);
        }
    }

    fn finish(&self) {
        self.shared.end.store(END, Ordering::Relaxed);
        let sent = self.sent.wrapping_add(1);
        self.shared.sent.set(sent, self.patience);
    }
}

impl Client for Threads<'_> {
    fn round_trip(&mut self, source: &mut Source, _length: usize) -> anyhow::Result<u64> {
        self.publish(source);
        self.wait_for_all();
        Ok(sum(std::slice::from_ref(&self.shared.answer)))
    }

    fn send(&mut self, source: &mut Source, _length: usize) -> anyhow::Result<()> {
        while self.room == 0 {
            let free = self.sent.wrapping_sub(self.shared.slots());
            let received = self.shared.received.wait(free, self.patience);
            self.room = received.wrapping_sub(free);
        }
        self.room -= 1;
        self.publish(source);
        Ok(())
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.wait_for_all();
        self.shared
            .end
            .store(u64::from(self.sent.wrapping_add(1)), Ordering::Relaxed);
        // One more message of zeros carries the question.
        for word in self
            .shared
            .message(self.sent)
            .iter()
            .flat_map(|line| &line.0)
        {
            word.store(0, Ordering::Relaxed);
        }
        self.sent = self.sent.wrapping_add(1);
        self.shared.sent.set(self.sent, self.patience);
        self.wait_for_all();
        self.room = self.shared.slots();
        Ok(self.shared.answer.0[0].load(Ordering::Relaxed))
    }
}

/// No other side at all: write, copy once, add up.
struct Copy {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Client for Copy {
    fn round_trip(&mut self, source: &mut Source, _length: usize) -> anyhow::Result<u64> {
        source.fill(&mut self.from);
        self.to.copy_from_slice(black_box(&self.from));
        Ok(crate::payload::sum(black_box(&self.to)))
    }
}
