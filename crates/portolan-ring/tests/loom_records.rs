//! What the consumer sees of records that the producer is writing.
#![cfg(loom)]

use loom::{model, thread};
use portolan_ring::{Bell, Consumer, Producer, PushError, Record, Region};

fn halves(capacity: usize) -> (Producer, Consumer) {
    let region = Region::heap(capacity).expect("a capacity");
    (Producer::new(region.clone()), Consumer::new(region))
}

/// Moves both halves forward by `bytes`, a multiple of 16, so that what follows wraps.
fn advance(producer: &mut Producer, consumer: &mut Consumer, bytes: usize) {
    for _ in 0..bytes / 16 {
        producer.push(0, &[&[0xee; 8]]).expect("honest");
        assert_eq!(producer.publish(), Bell::Quiet);
        assert!(consumer.pop(&mut Vec::new()).expect("honest").is_some());
        assert_eq!(consumer.release(), Bell::Quiet);
    }
}

fn expect(consumer: &mut Consumer, next: &mut u8) -> bool {
    let mut bytes = Vec::new();
    let Some(record) = consumer.pop(&mut bytes).expect("honest") else {
        return false;
    };
    assert_eq!(
        record,
        Record {
            len: 12,
            tag: u32::from(*next)
        }
    );
    assert_eq!(bytes, [*next; 12]);
    *next += 1;
    true
}

fn push(producer: &mut Producer, number: u8) -> Result<(), PushError> {
    producer.push(u32::from(number), &[&[number; 5], &[number; 7]])
}

#[test]
fn loom_nothing_is_read_before_it_is_published_nor_torn() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        let writer = thread::spawn(move || {
            for number in 0..2 {
                push(&mut producer, number).expect("honest");
                assert_eq!(producer.publish(), Bell::Quiet);
            }
        });
        let mut next = 0;
        for _ in 0..3 {
            expect(&mut consumer, &mut next);
        }
        writer.join().expect("honest");
        while expect(&mut consumer, &mut next) {}
        assert_eq!(next, 2);
    });
}

#[test]
fn loom_a_record_that_wraps_is_whole() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        advance(&mut producer, &mut consumer, 48);
        let writer = thread::spawn(move || {
            push(&mut producer, 0).expect("honest");
            assert_eq!(producer.publish(), Bell::Quiet);
        });
        let mut next = 0;
        expect(&mut consumer, &mut next);
        expect(&mut consumer, &mut next);
        writer.join().expect("honest");
        while expect(&mut consumer, &mut next) {}
        assert_eq!(next, 1);
    });
}

#[test]
fn loom_a_batch_is_seen_as_a_whole() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        let writer = thread::spawn(move || {
            push(&mut producer, 0).expect("honest");
            push(&mut producer, 1).expect("honest");
            assert_eq!(producer.publish(), Bell::Quiet);
        });
        let mut next = 0;
        if expect(&mut consumer, &mut next) {
            assert!(
                expect(&mut consumer, &mut next),
                "the rest of the batch is there"
            );
        }
        writer.join().expect("honest");
    });
}

/// The ring holds two of these records. Neither may a full ring be written over before the
/// consumer has copied, nor released space be written before the release is seen.
#[test]
fn loom_a_full_ring_is_not_written_over() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        push(&mut producer, 0).expect("honest");
        push(&mut producer, 1).expect("honest");
        assert_eq!(producer.publish(), Bell::Quiet);
        let writer = thread::spawn(move || {
            let mut next = 2;
            for _ in 0..3 {
                match push(&mut producer, next) {
                    Ok(()) => next += 1,
                    Err(PushError::Full { missing }) => assert!((8..=24).contains(&missing)),
                    Err(other) => panic!("{other}"),
                }
                assert_eq!(producer.publish(), Bell::Quiet);
            }
            next
        });
        let mut next = 0;
        for _ in 0..3 {
            expect(&mut consumer, &mut next);
            assert_eq!(consumer.release(), Bell::Quiet);
        }
        let pushed = writer.join().expect("honest");
        while expect(&mut consumer, &mut next) {}
        assert_eq!(next, pushed);
    });
}
