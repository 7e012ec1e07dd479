//! Times of the journal on this machine, in nanoseconds of processor time per operation: the best of
//! several rounds and their median. Run it with `cargo bench -p portoland --bench journal`.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Duration;

use portoland::journal::{Entries, Journal, Key, memory, replay};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 9;
const COUNT: u64 = 100_000;

fn main() {
    // `cargo test` runs benchmarks too, with this argument and no wish for figures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    row("put 64 B, 100 000 keys", || with_entries(64, 0, |_| {}).put);
    row("put 64 B and 2 descriptors, 100 000 keys", || {
        with_entries(64, 2, |_| {}).put
    });
    row("put 64 B again and again, compacting", again_and_again);
    row("put 1 MiB", || with_entries(1 << 20, 0, |_| {}).put);
    row("replay, per entry of 100 000", || {
        with_entries(64, 1, |journal| {
            black_box(replay(&*journal).expect("replay"));
        })
        .then
    });
    row("compact, per entry of 100 000", || {
        with_entries(64, 1, |journal| journal.compact().expect("compact")).then
    });
}

#[allow(clippy::print_stdout, reason = "a program that prints its results")]
fn row(name: &str, mut round: impl FnMut() -> f64) {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[ROUNDS / 2]);
    println!("{name:44} best {best:9.1} ns  median {median:9.1} ns");
}

struct Times {
    put: f64,
    then: f64,
}

/// Puts entries of so many bytes and descriptors, then does something with all of them.
fn with_entries(length: usize, descriptors: usize, then: impl FnOnce(&mut Journal)) -> Times {
    let bytes = vec![0x5a; length];
    let count = COUNT.min((64 << 20) / length as u64);
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let fds = vec![null.as_fd(); descriptors];
    let mut journal = journal();
    let put = timed(count, || {
        for id in 0..count {
            journal.put(Key { kind: 1, id }, &bytes, &fds).expect("put");
        }
    });
    let then = timed(count, || then(&mut journal));
    drop(journal.into_memory());
    Times { put, then }
}

fn again_and_again() -> f64 {
    let mut journal = journal();
    let time = timed(COUNT, || {
        for id in 0..COUNT {
            let key = Key {
                kind: 1,
                id: id % 64,
            };
            journal.put(key, &[0x5a; 64], &[]).expect("put");
        }
    });
    drop(journal.into_memory());
    time
}

fn journal() -> Journal {
    Journal::resume(memory().expect("memory"), &Entries::default()).expect("resume")
}

fn timed(count: u64, work: impl FnOnce()) -> f64 {
    let start = now();
    work();
    (now() - start).as_nanos() as f64 / count as f64
}

fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("after the start")
}
