//! The ring against a model, and against a peer that writes anything anywhere.
#![cfg(not(loom))]

mod memory;
mod ops;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memory::Memory;
use portolan_ring::{
    Bell, Consumer, Corrupt, Glance, HEADER_BYTES, Producer, PushError, RegionError, record_bytes,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_halves_agree_with_a_queue(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        ops::model::check(&input);
    }

    #[test]
    fn a_peer_that_scribbles_gets_no_further_than_corruption(
        input in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        ops::hostile::check(&input);
    }

    #[test]
    fn a_peer_that_scribbles_meanwhile_breaks_no_ring_but_its_own(
        input in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        ops::race::check(&input);
    }
}

#[test]
fn a_record_of_any_length_comes_through_at_each_offset() {
    const CAPACITY: usize = 256;
    for offset in (0..CAPACITY).step_by(8) {
        for len in 0..=CAPACITY as u32 / 2 - 8 {
            let memory = Memory::new(CAPACITY);
            let mut producer = Producer::resume(memory.region(), 0);
            let mut consumer = Consumer::new(memory.region());
            let mut bytes = Vec::new();
            for _ in 0..offset / 8 {
                producer.push(0, &[]).unwrap();
                assert_eq!(producer.publish(), Bell::Quiet);
                assert!(consumer.pop(&mut bytes).unwrap().is_some());
                assert_eq!(consumer.release(), Bell::Quiet);
            }
            let payload: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            let (a, b) = payload.split_at(payload.len() / 2);
            producer.push(len, &[a, b]).unwrap();
            assert_eq!(producer.publish(), Bell::Quiet);
            assert_eq!(consumer.pop(&mut bytes).unwrap().unwrap().tag, len);
            assert_eq!(bytes, payload, "offset {offset}");
        }
    }
}

#[test]
fn a_ring_goes_on_where_its_halves_left_off_even_past_the_end_of_counting() {
    let memory = Memory::new(64);
    let start = 0u64.wrapping_sub(32);
    memory.scribble(0, start);
    memory.scribble(16, start);
    let mut producer = Producer::resume(memory.region(), start);
    let mut consumer = Consumer::resume(memory.region(), start);
    let mut bytes = Vec::new();
    for number in 0..20u8 {
        producer.push(1, &[&[number; 20]]).unwrap();
        producer.push(2, &[&[!number; 3]]).unwrap();
        assert_eq!(producer.publish(), Bell::Quiet);
        assert_eq!(producer.free(), Ok(64 - 48));
        assert!(consumer.pop(&mut bytes).unwrap().is_some());
        assert_eq!(bytes, [number; 20]);
        assert!(consumer.pop(&mut bytes).unwrap().is_some());
        assert_eq!(bytes, [!number; 3]);
        assert_eq!(consumer.release(), Bell::Quiet);
    }
    assert_eq!(consumer.position(), start.wrapping_add(20 * 48));
    assert_eq!(producer.position(), consumer.position());
}

const PUBLISHED: usize = 0;
const RELEASED: usize = 16;
const FIRST_RECORD: usize = HEADER_BYTES / 8;

#[test]
fn a_false_position_of_the_producer_is_refused_for_good() {
    for claimed in [4, 8 * 9, 1 << 40, u64::MAX - 7, 1 << 63] {
        let memory = Memory::new(64);
        let mut consumer = Consumer::new(memory.region());
        memory.scribble(PUBLISHED, claimed);
        let corrupt = Corrupt::Position { claimed, own: 0 };
        assert_eq!(consumer.ready(), Err(corrupt));
        memory.scribble(PUBLISHED, 0);
        assert_eq!(consumer.ready(), Err(corrupt));
        assert_eq!(consumer.pop(&mut Vec::new()), Err(corrupt));
        assert_eq!(consumer.prepare_sleep(), Err(corrupt));
        assert_eq!(consumer.release(), Bell::Quiet);
    }
}

/// 64 bytes are published and taken, but not released: no more than 0 can be published now.
#[test]
fn a_producer_cannot_claim_space_that_was_not_released() {
    let memory = Memory::new(64);
    let mut producer = Producer::new(memory.region());
    let mut consumer = Consumer::new(memory.region());
    for _ in 0..2 {
        producer.push(0, &[&[1; 24]]).unwrap();
    }
    assert_eq!(producer.publish(), Bell::Quiet);
    while consumer.pop(&mut Vec::new()).unwrap().is_some() {}
    memory.scribble(PUBLISHED, 72);
    let corrupt = Corrupt::Position {
        claimed: 72,
        own: 64,
    };
    assert_eq!(consumer.ready(), Err(corrupt));
}

#[test]
fn a_false_position_of_the_consumer_is_refused_for_good() {
    for claimed in [4, 0, 16, 40, 1 << 40, u64::MAX - 7] {
        let memory = Memory::new(64);
        let mut producer = Producer::new(memory.region());
        let mut consumer = Consumer::new(memory.region());
        producer.push(0, &[]).unwrap();
        assert_eq!(producer.publish(), Bell::Quiet);
        assert!(consumer.pop(&mut Vec::new()).unwrap().is_some());
        assert_eq!(consumer.release(), Bell::Quiet);
        assert_eq!(producer.free(), Ok(64));
        producer.push(0, &[]).unwrap();
        memory.scribble(RELEASED, claimed);
        let corrupt = Corrupt::Position { claimed, own: 16 };
        assert_eq!(producer.free(), Err(corrupt));
        memory.scribble(RELEASED, 8);
        assert_eq!(producer.fits(0), Err(corrupt));
        assert_eq!(producer.push(0, &[]), Err(PushError::Corrupt(corrupt)));
        assert_eq!(producer.prepare_sleep(24), Err(corrupt));
        assert_eq!(producer.publish(), Bell::Quiet);
    }
}

#[test]
fn a_false_length_is_refused_for_good() {
    // More than is published, more than any record may be, more than the ring, and most of all.
    for (published, claimed) in [
        (16, 9),
        (64, 25),
        (64, 56),
        (64, 57),
        (64, 1 << 20),
        (8, u32::MAX),
    ] {
        let memory = Memory::new(64);
        let mut consumer = Consumer::new(memory.region());
        memory.scribble(FIRST_RECORD, u64::from(claimed) | 5 << 32);
        memory.scribble(PUBLISHED, published);
        let corrupt = Corrupt::Length { claimed, published };
        assert_eq!(consumer.pop(&mut Vec::new()), Err(corrupt));
        memory.scribble(FIRST_RECORD, 0);
        assert_eq!(consumer.pop(&mut Vec::new()), Err(corrupt));
        assert_eq!(consumer.ready(), Err(corrupt));
    }
}

/// The length was copied and checked once: what the peer makes of it later does not count.
#[test]
fn a_length_that_changes_after_the_check_is_not_looked_at_again() {
    let memory = Memory::new(64);
    let mut producer = Producer::new(memory.region());
    let mut consumer = Consumer::new(memory.region());
    producer.push(1, &[&[3; 8]]).unwrap();
    producer.push(2, &[&[4; 8]]).unwrap();
    assert_eq!(producer.publish(), Bell::Quiet);
    let mut incoming = consumer.incoming().unwrap().unwrap();
    memory.scribble(FIRST_RECORD, u64::MAX);
    let mut bytes = Vec::new();
    incoming.append_to(&mut bytes);
    assert_eq!(bytes, [3; 8]);
    drop(incoming);
    assert_eq!(consumer.pop(&mut bytes).unwrap().unwrap().tag, 2);
}

#[test]
#[should_panic(expected = "back <= ")]
fn a_record_whose_space_was_given_back_is_not_put_back() {
    let memory = Memory::new(64);
    let mut producer = Producer::new(memory.region());
    let mut consumer = Consumer::new(memory.region());
    producer.push(1, &[]).unwrap();
    assert_eq!(producer.publish(), Bell::Quiet);
    assert_eq!(consumer.take_run(&mut Vec::new(), 64), Ok(8));
    assert_eq!(consumer.release(), Bell::Quiet);
    consumer.rewind(0);
}

/// A peer on another processor writes random words all over the region while both halves work.
/// Whatever they read, they return, with lengths within the limits.
#[test]
fn a_peer_that_scribbles_while_the_halves_work_neither_stops_nor_breaks_them() {
    const CAPACITY: usize = 1024;
    const ROUNDS: usize = 300;
    for round in 0..ROUNDS {
        let memory = Memory::new(CAPACITY);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| scribble(&memory, round as u64, &done));
            let (pushed, popped) = work(&memory);
            done.store(true, Ordering::Relaxed);
            assert!(pushed <= 2000 && popped <= 2000);
        });
    }
}

fn scribble(memory: &Memory, seed: u64, done: &AtomicBool) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // Some rounds leave the header alone, so that the halves get to look at scribbled records.
    let first = if seed.is_multiple_of(3) { 0 } else { 64 };
    while !done.load(Ordering::Relaxed) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = first + (state >> 40) as usize % (memory.words() - first);
        memory.scribble(word, state >> (state % 64));
    }
}

fn work(memory: &Memory) -> (usize, usize) {
    let mut producer = Producer::new(memory.region());
    let mut consumer = Consumer::new(memory.region());
    let (mut pushed, mut popped, mut bytes) = (0, 0, Vec::new());
    for step in 0..2000usize {
        match producer.push(0, &[&[0x55; 300][..step % 300]]) {
            Ok(()) => pushed += 1,
            Err(PushError::Full { missing }) => assert!(missing <= 512),
            Err(PushError::Corrupt(_)) => {}
            Err(other) => panic!("{other}"),
        }
        if let Err(corrupt) = producer.prepare_sleep(step as u32 % 600) {
            assert_eq!(producer.free(), Err(corrupt));
        }
        match consumer.pop(&mut bytes) {
            Ok(Some(record)) => {
                popped += 1;
                assert_eq!(bytes.len(), record.len as usize);
                assert!(record_bytes(record.len) <= 512);
            }
            Ok(None) => {}
            Err(corrupt) => assert_eq!(consumer.ready(), Err(corrupt)),
        }
        if step % 3 == 0 {
            let _bell = consumer.release();
        }
    }
    (pushed, popped)
}

#[test]
fn memory_that_cannot_hold_a_ring_is_refused() {
    let memory = Memory::new(128);
    for bytes in [0, 64, 640, 768, 768 + 32, 768 + 63, 768 + 65, 768 + 96] {
        let refused = memory.part(0, bytes).unwrap_err();
        assert_eq!(refused, RegionError::Capacity, "{bytes}");
    }
    let refused = memory.part(8, 768 + 64).unwrap_err();
    assert_eq!(refused, RegionError::Alignment);
    assert_eq!(memory.part(64, 768 + 64).unwrap().capacity(), 64);
}

#[test]
fn a_place_is_said_to_the_other_side_and_none_is_not_place_0() {
    let memory = Memory::new(64);
    let (here, there) = (Glance::new(memory.region()), Glance::new(memory.region()));
    assert_eq!(there.place(), None);
    for place in [0, 7, 0, u32::MAX] {
        here.say_place(place);
        assert_eq!(there.place(), Some(place));
    }
}

#[test]
fn what_is_published_is_seen_beside_the_halves() {
    let memory = Memory::new(64);
    let mut producer = Producer::new(memory.region());
    let glance = Glance::new(memory.region());
    producer.push(1, &[b"unpublished"]).expect("room");
    assert!(!glance.is_beyond(0));
    assert_eq!(producer.publish(), Bell::Quiet);
    assert!(glance.is_beyond(0) && !glance.is_beyond(producer.position()));
}
