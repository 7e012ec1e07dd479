//! A peer that writes between the operations of the halves.

use super::Input;
use super::pair::Pair;
use crate::memory::Memory;

const PUBLISHED: usize = 0;

/// The peer writes anything anywhere between any two operations, and while a record is being copied.
pub(crate) fn check(input: &[u8]) {
    let mut input = Input(input);
    let capacity = input.capacity();
    let memory = Memory::new(capacity);
    let mut pair = Pair::new(memory.region());
    // The furthest position that the consumer can have found to be published.
    let mut reach = 0;
    while let Some(op) = input.next() {
        step(&mut pair, &memory, op, &mut input);
        assert!(pair.position() <= reach, "nothing unpublished is taken");
        let claim = memory.peek(PUBLISHED);
        if claim.wrapping_sub(pair.position()) <= capacity as u64 {
            reach = reach.max(claim);
        }
    }
}

fn step(pair: &mut Pair, memory: &Memory, op: u8, input: &mut Input<'_>) {
    let (kind, size) = (op % 16, op / 16);
    if kind < Pair::KINDS {
        return pair.step(kind, size, input, || {});
    }
    pair.distrust();
    let header_word = usize::from(size % 4) * 16;
    match kind {
        12 => memory.scribble(input.place(), input.word()),
        13 => memory.scribble(header_word, input.word()),
        14 => nudge(memory, header_word, input.byte()),
        _ => {
            let (word, value) = (input.place(), input.word());
            let pop = 5;
            pair.step(pop, size, input, || memory.scribble(word, value));
        }
    }
}

/// Moves a word by a little, which a checked position survives more often than a random one.
fn nudge(memory: &Memory, word: usize, by: u8) {
    let by = i64::from(by as i8) * 8;
    memory.scribble(word, memory.peek(word).wrapping_add_signed(by));
}
