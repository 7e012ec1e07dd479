//! Times of the ring on this machine, in nanoseconds per operation: the best of several rounds and
//! their median. Run it with `cargo bench -p portolan-ring`.

#[path = "../tests/memory/mod.rs"]
#[allow(dead_code, reason = "nobody scribbles here")]
mod memory;

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::Instant;

use memory::Memory;
use portolan_ring::{Bell, Consumer, Producer};

const CAPACITY: usize = 256 * 1024;
const ROUNDS: usize = 9;
/// At most so many bytes go through in a round, and at most 200 000 records.
const BYTES: usize = 64 << 20;

fn main() {
    // `cargo test` runs benchmarks too, with this argument and no wish for figures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for len in [64, 1024, 4096, 65536] {
        let payload = vec![0x5a; len];
        row(&format!("memcpy twice, {len} B"), || copy_twice(&payload));
        row(&format!("push, publish, pop, release, {len} B"), || {
            one_by_one(&payload)
        });
        if len * 16 <= CAPACITY {
            row(&format!("the same, 8 at once, {len} B"), || {
                in_batches(&payload)
            });
        }
    }
    row("one way between threads, 64 B", || stream(&[0x5a; 64], 1));
    row("one way between threads, 64 B, 8 at once", || {
        stream(&[0x5a; 64], 8)
    });
    row("round trip between spinning threads, 64 B", || {
        round_trips(&[0x5a; 64])
    });
    row("round trip between spinning threads, 4096 B", || {
        round_trips(&[0x5a; 4096])
    });
}

#[allow(clippy::print_stdout, reason = "a program that prints its results")]
fn row(name: &str, mut round: impl FnMut() -> f64) {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[ROUNDS / 2]);
    println!("{name:44} best {best:9.1} ns  median {median:9.1} ns");
}

fn count(len: usize) -> usize {
    (BYTES / len).clamp(1, 200_000) / 8 * 8
}

fn timed(operations: usize, body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_nanos() as f64 / operations as f64
}

/// What a ring cannot be faster than: into memory as large as the ring, and out.
fn copy_twice(payload: &[u8]) -> f64 {
    let len = payload.len();
    let mut ring = vec![0u8; CAPACITY];
    let mut out = vec![0u8; len];
    timed(count(len), || {
        for i in 0..count(len) {
            let at = i * len % CAPACITY;
            let slot = &mut black_box(&mut ring)[at..at + len];
            slot.copy_from_slice(black_box(payload));
            black_box(&mut out).copy_from_slice(black_box(slot));
        }
    })
}

fn one_by_one(payload: &[u8]) -> f64 {
    let memory = Memory::new(CAPACITY);
    let (mut producer, mut consumer) = halves(&memory);
    let mut bytes = Vec::new();
    timed(count(payload.len()), || {
        for _ in 0..count(payload.len()) {
            push(&mut producer, black_box(payload));
            pop(&mut consumer, &mut bytes);
        }
    })
}

fn in_batches(payload: &[u8]) -> f64 {
    let memory = Memory::new(CAPACITY);
    let (mut producer, mut consumer) = halves(&memory);
    let mut bytes = Vec::new();
    timed(count(payload.len()), || {
        for _ in 0..count(payload.len()) / 8 {
            for _ in 0..8 {
                producer.push(1, &[black_box(payload)]).expect("room");
            }
            assert_eq!(producer.publish(), Bell::Quiet);
            for _ in 0..8 {
                assert!(consumer.pop(&mut bytes).expect("honest").is_some());
            }
            assert_eq!(consumer.release(), Bell::Quiet);
        }
    })
}

fn stream(payload: &[u8], batch: usize) -> f64 {
    let memory = Memory::new(CAPACITY);
    let (mut producer, mut consumer) = halves(&memory);
    let records = count(payload.len());
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..records / batch {
                for _ in 0..batch {
                    while producer.push(1, &[payload]).is_err() {
                        assert_eq!(producer.publish(), Bell::Quiet);
                        spin_loop();
                    }
                }
                assert_eq!(producer.publish(), Bell::Quiet);
            }
        });
        let mut bytes = Vec::new();
        timed(records, || {
            for _ in 0..records {
                pop(&mut consumer, &mut bytes);
            }
        })
    })
}

fn round_trips(payload: &[u8]) -> f64 {
    let (there, back) = (Memory::new(CAPACITY), Memory::new(CAPACITY));
    let (mut requests, mut requested) = halves(&there);
    let (mut replies, mut replied) = halves(&back);
    let trips = 20_000;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = Vec::new();
            for _ in 0..trips {
                pop(&mut requested, &mut bytes);
                push(&mut replies, &bytes);
            }
        });
        let mut bytes = Vec::new();
        timed(trips, || {
            for _ in 0..trips {
                push(&mut requests, payload);
                pop(&mut replied, &mut bytes);
            }
        })
    })
}

fn halves(memory: &Memory) -> (Producer, Consumer) {
    (
        Producer::new(memory.region()),
        Consumer::new(memory.region()),
    )
}

fn push(producer: &mut Producer, payload: &[u8]) {
    producer.push(1, &[payload]).expect("room");
    assert_eq!(producer.publish(), Bell::Quiet);
}

fn pop(consumer: &mut Consumer, bytes: &mut Vec<u8>) {
    while consumer.pop(bytes).expect("honest").is_none() {
        spin_loop();
    }
    assert_eq!(consumer.release(), Bell::Quiet);
}
