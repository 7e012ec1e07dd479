//! Tests that go on for as long as they are told to.
//!
//! A test named `soak_…` repeats its body for each of the [`rounds`]; a randomised test of a file
//! named `hostile…` for each of the [seeds](for_each_seed). `cargo xtask soak` and `cargo xtask
//! hostile` say for how long, in `PORTOLAN_SOAK_SECONDS`. Without that variable a test runs once, as
//! any other.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

const SECONDS: &str = "PORTOLAN_SOAK_SECONDS";
const SEED: &str = "PORTOLAN_SEED";

/// The numbers, from 0, of the rounds that a test is to run: those that begin before
/// `PORTOLAN_SOAK_SECONDS` seconds have passed since this was called, and at least one.
///
/// # Panics
///
/// If the variable holds no number.
pub fn rounds() -> impl Iterator<Item = u64> {
    rounds_within(Duration::from_secs(number(SECONDS).unwrap_or(0)))
}

/// Calls `body` with one seed for each of the [`rounds`], and when it panics says which seed it was.
///
/// The first seed is 0, so that a test does the same each time it runs once; the others are fresh.
/// `PORTOLAN_SEED` takes the place of all of them.
///
/// # Panics
///
/// If a variable holds no number.
pub fn for_each_seed(body: impl Fn(u64)) {
    let given = number(SEED);
    let fresh = RandomState::new();
    for round in rounds() {
        let own = if round == 0 { 0 } else { fresh.hash_one(round) };
        let seed = Seed(given.unwrap_or(own));
        body(seed.0);
    }
}

fn rounds_within(time: Duration) -> impl Iterator<Item = u64> {
    let start = Instant::now();
    (0..).take_while(move |&round| round == 0 || start.elapsed() < time)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect(variable))
}

/// Dropped by a panic, it names itself.
struct Seed(u64);

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "a test that fails shows it")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{SEED}={} makes it fail again", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_time_there_is_one_round() {
        assert_eq!(rounds_within(Duration::ZERO).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn rounds_begin_until_the_time_has_passed() {
        let (start, time) = (Instant::now(), Duration::from_millis(20));
        assert!(rounds_within(time).count() > 1);
        assert!(start.elapsed() >= time);
        let enough = rounds_within(Duration::from_secs(600)).take(3);
        assert_eq!(enough.collect::<Vec<_>>(), [0, 1, 2]);
    }
}
