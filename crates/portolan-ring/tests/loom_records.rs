//! What the consumer sees of records that the producer is writing.
#![cfg(loom)]

use loom::{model, thread};
use portolan_ring::{
    Bell, Consumer, Producer, PushError, Record, Region, Run, record_bytes, split_record,
};

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

/// What was put back is read again, and its space is not given to the producer before it is
/// released.
#[test]
fn loom_a_record_that_was_put_back_is_not_written_over() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        push(&mut producer, 0).expect("honest");
        push(&mut producer, 1).expect("honest");
        assert_eq!(producer.publish(), Bell::Quiet);
        let writer = thread::spawn(move || {
            let mut next = 2;
            for _ in 0..2 {
                next += u8::from(push(&mut producer, next).is_ok());
                assert_eq!(producer.publish(), Bell::Quiet);
            }
            next
        });
        let mut next = 0;
        for _ in 0..2 {
            keep_one_of_a_run(&mut consumer, &mut next);
            assert_eq!(consumer.release(), Bell::Quiet);
        }
        let pushed = writer.join().expect("honest");
        while expect(&mut consumer, &mut next) {}
        assert_eq!(next, pushed);
    });
}

/// Takes all there is, and puts back all but the first record.
fn keep_one_of_a_run(consumer: &mut Consumer, next: &mut u8) {
    let (start, mut run) = (consumer.position(), Vec::new());
    let taken = consumer.take_run(&mut run, 64).expect("honest");
    let (mut rest, mut number) = (run.as_slice(), *next);
    while let Some((record, payload, behind)) = split_record(rest) {
        assert_eq!(
            (record.tag, payload),
            (number.into(), [number; 12].as_slice())
        );
        (rest, number) = (behind, number + 1);
    }
    if taken != 0 {
        consumer.rewind(start + record_bytes(12));
        *next += 1;
    }
}

/// A run goes into a full ring record by record, as the consumer releases.
#[test]
fn loom_a_run_waits_for_space_record_by_record() {
    model(|| {
        let (mut producer, mut consumer) = halves(64);
        push(&mut producer, 0).expect("honest");
        push(&mut producer, 1).expect("honest");
        assert_eq!(producer.publish(), Bell::Quiet);
        let writer = thread::spawn(move || {
            let mut run = Run::default();
            for number in 2..4u8 {
                let max = producer.max_payload();
                let pushed = run.push(number.into(), &[&[number; 12]], max);
                assert_eq!(pushed, Ok(()));
            }
            for _ in 0..2 {
                assert_eq!(producer.push_run(&mut run), Ok(()));
                assert_eq!(producer.publish(), Bell::Quiet);
            }
            4 - (run.len() as u64 / record_bytes(12)) as u8
        });
        let mut next = 0;
        for _ in 0..2 {
            expect(&mut consumer, &mut next);
            assert_eq!(consumer.release(), Bell::Quiet);
        }
        let pushed = writer.join().expect("honest");
        while expect(&mut consumer, &mut next) {}
        assert_eq!(next, pushed);
    });
}
