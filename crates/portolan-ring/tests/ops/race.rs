//! A peer that writes while the halves work.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread;

use portolan_ring::HEADER_BYTES;

use super::Input;
use super::pair::Pair;
use crate::memory::Memory;

const PUBLISHED: usize = 0;
const RELEASED: usize = 16;
const FIRST_RECORD: usize = HEADER_BYTES / 8;

/// The peer, on another thread, writes anything anywhere all the time. A second ring that nobody
/// attacks is led through the same operations.
pub(crate) fn check(input: &[u8]) {
    let mut input = Input(input);
    let capacity = input.capacity();
    let untouched = Memory::new(capacity);
    let attack = Attack::begin(Memory::new(capacity), &mut input);
    let mut attacked = Pair::new(attack.memory.region());
    if !attack.is_harmless() {
        attacked.distrust();
    }
    let mut control = Pair::new(untouched.region());
    while let Some(op) = input.next() {
        let (kind, size) = (op % 16, op / 16);
        if kind >= Pair::KINDS {
            attack.wait_for_a_round();
            continue;
        }
        // Which of them comes first matters to neither.
        attacked.step(kind, size, &mut input.clone(), || {
            if size % 2 == 1 {
                attack.wait_for_a_round();
            }
        });
        control.step(kind, size, &mut input, || {});
    }
}

/// What the peer writes, over and over again, until the value that began it is dropped.
struct Attack {
    memory: Memory,
    strokes: Vec<Stroke>,
    rounds: AtomicU64,
    /// How many rounds somebody waits for.
    awaited: AtomicU64,
    over: AtomicBool,
}

/// The one peer of this process: a thread for each attack would take longer than the attack.
static PEER: LazyLock<Sender<Arc<Attack>>> = LazyLock::new(|| {
    let (sender, attacks) = channel::<Arc<Attack>>();
    thread::spawn(move || attacks.iter().for_each(|attack| attack.run()));
    sender
});

impl Attack {
    fn begin(memory: Memory, input: &mut Input<'_>) -> Begun {
        let count = 1 + input.byte() % 8;
        let attack = Arc::new(Self {
            strokes: (0..count).map(|_| Stroke::new(&memory, input)).collect(),
            memory,
            rounds: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        PEER.send(attack.clone()).expect("the peer waits for more");
        attack.wait_for_a_round();
        Begun(attack)
    }

    /// Nothing is written to but the words of sleepers and what nobody reads.
    fn is_harmless(&self) -> bool {
        let positions = [PUBLISHED, RELEASED];
        let mut places = self.strokes.iter().map(|stroke| stroke.place);
        places.all(|place| place < FIRST_RECORD && !positions.contains(&place))
    }

    fn wait_for_a_round(&self) {
        // One that is under way may have begun earlier.
        let awaited = self.rounds.load(Ordering::Relaxed) + 2;
        self.awaited.store(awaited, Ordering::Relaxed);
        while self.rounds.load(Ordering::Relaxed) < awaited {
            thread::yield_now();
        }
    }

    fn run(&self) {
        for round in 1.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.strokes
                .iter()
                .for_each(|stroke| stroke.write(&self.memory));
            self.rounds.store(round, Ordering::Relaxed);
            // Whoever waits may need this processor.
            if round == self.awaited.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        }
    }
}

/// Ends the attack when it is dropped.
struct Begun(Arc<Attack>);

impl Deref for Begun {
    type Target = Attack;

    fn deref(&self) -> &Attack {
        &self.0
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One word that the peer writes.
struct Stroke {
    place: usize,
    value: Value,
}

enum Value {
    Word(u64),
    /// What is there, and so many bytes more.
    Moved(i64),
}

impl Stroke {
    fn new(memory: &Memory, input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let place = match kind % 4 {
            0 => usize::from(input.byte() % 5) * 16,
            1 => FIRST_RECORD + usize::from(input.byte()),
            _ => input.place(),
        };
        let value = match kind / 4 % 4 {
            0 => Value::Word(input.word()),
            1 => Value::Word(input.byte().into()),
            2 => Value::Word(u64::from(input.byte()) * 8),
            _ => Value::Moved(i64::from(input.byte() as i8) * 8),
        };
        let place = place % memory.words();
        Self { place, value }
    }

    fn write(&self, memory: &Memory) {
        let value = match self.value {
            Value::Word(value) => value,
            Value::Moved(by) => memory.peek(self.place).wrapping_add_signed(by),
        };
        memory.scribble(self.place, value);
    }
}
