//! Times of shared memory and semaphores on this machine, in nanoseconds for each operation: the best of
//! several rounds and their median. Run it with `cargo bench -p portolan --bench shared`.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Instant;

use portolan::Timeout;
use portolan::bootstrap::Bootstrap;
use portolan::semaphore::Semaphore;
use portolan::shm::{self, ObjectName, SharedMemory};
use rustix::event::{EventfdFlags, eventfd};

const ROUNDS: usize = 9;

fn main() {
    // `cargo test` runs benchmarks too, with this argument and no wish for figures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let bootstrap = Bootstrap::private().expect("a server");
    let [one, other] = ["one", "other"]
        .map(|text| Semaphore::create(&bootstrap, &name(text), 0).expect("a semaphore"));
    row("semaphore: post and wait, nobody else", || {
        timed(1_000_000, || {
            one.post().expect("post");
            assert!(one.try_wait());
        })
    });
    row("semaphore: there and back, two threads", || {
        there_and_back(
            || one.post().expect("post"),
            || one.wait(Timeout::NEVER).expect("wait"),
            || other.post().expect("post"),
            || other.wait(Timeout::NEVER).expect("wait"),
        )
    });
    let [first, second] = [(); 2].map(|()| eventfd(0, EventfdFlags::SEMAPHORE).expect("eventfd"));
    row("eventfd: post and wait, nobody else", || {
        timed(1_000_000, || {
            add(&first);
            take(&first);
        })
    });
    row("eventfd: there and back, two threads", || {
        there_and_back(
            || add(&first),
            || take(&first),
            || add(&second),
            || take(&second),
        )
    });
    let memory = name("memory");
    SharedMemory::create(&bootstrap, &memory, 1 << 20).expect("memory");
    row("memory: open by name", || {
        timed(2000, || {
            drop(SharedMemory::open(&bootstrap, &memory).expect("open"))
        })
    });
    let fresh = name("fresh");
    row("memory: make and unlink", || {
        timed(2000, || {
            SharedMemory::create_new(&bootstrap, &fresh, 1 << 20).expect("make");
            shm::unlink(&bootstrap, &fresh).expect("unlink");
        })
    });
}

fn name(text: &str) -> ObjectName {
    format!("group.bench/{text}").parse().expect("a name")
}

#[allow(clippy::print_stdout, reason = "a program that prints its results")]
fn row(name: &str, mut round: impl FnMut() -> f64) {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[ROUNDS / 2]);
    println!("{name:44} best {best:9.1} ns  median {median:9.1} ns");
}

fn timed(count: u32, mut operation: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| operation());
    start.elapsed().as_nanos() as f64 / f64::from(count)
}

/// Each round is a wake-up in both directions.
fn there_and_back(
    post: impl Fn(),
    wait: impl Fn() + Sync,
    post_back: impl Fn() + Sync,
    wait_back: impl Fn(),
) -> f64 {
    const COUNT: u32 = 20_000;
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..COUNT {
                wait();
                post_back();
            }
        });
        timed(COUNT, || {
            post();
            wait_back();
        })
    })
}

fn add(counter: &OwnedFd) {
    rustix::io::write(counter.as_fd(), &1u64.to_ne_bytes()).expect("write");
}

fn take(counter: &OwnedFd) {
    rustix::io::read(counter.as_fd(), &mut [0; 8]).expect("read");
}
