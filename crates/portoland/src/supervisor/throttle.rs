//! When a job may be started again.

use std::time::Duration;

use super::outcome::Failure;

/// The delay after the first failed run.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// `ThrottleInterval` if none is given.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// The longest delay, and how long a run lasts after which the next failure counts as the first.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How many runs in a row may fail.
pub const START_LIMIT: u32 = 20;

/// When a job that has failed is tried again.
pub const PROBE: Duration = Duration::from_secs(600);

/// Starts by sockets within [`SOCKET_WINDOW`] after which the job rests until the window is over.
/// The queue of a socket does not tell whether a run that ended well has taken anything from it.
const SOCKET_STARTS: u32 = 20;
const SOCKET_WINDOW: Duration = Duration::from_secs(2);

/// Numbers for jitter: splitmix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 80 to 120 percent of a delay.
    fn jitter(&mut self, delay: Duration) -> Duration {
        let percent = 80 + u32::try_from(self.next() % 41).unwrap_or(0);
        delay * percent / 100
    }
}

/// What a job's past runs say about its next one. Times before the first run are zero.
#[derive(Debug)]
pub(super) struct Throttle {
    /// `ThrottleInterval`, if given.
    interval: Option<Duration>,
    /// Failed runs since the last that did not.
    pub(super) in_a_row: u32,
    /// No start before, but by the user.
    pub(super) gate: Duration,
    /// No start before that nobody outside asks for.
    pub(super) repeat_gate: Duration,
    /// No start by a socket before.
    pub(super) socket_gate: Duration,
    socket_starts: u32,
    socket_window: Duration,
    /// The failure of the last run.
    pub(super) last: Option<Failure>,
    /// When it is tried again, if too many runs in a row have failed.
    pub(super) probe: Option<Duration>,
}

impl Throttle {
    pub(super) fn new(interval: Option<u32>) -> Self {
        Self {
            interval: interval.map(|seconds| Duration::from_secs(seconds.into())),
            in_a_row: 0,
            gate: Duration::ZERO,
            repeat_gate: Duration::ZERO,
            socket_gate: Duration::ZERO,
            socket_starts: 0,
            socket_window: Duration::ZERO,
            last: None,
            probe: None,
        }
    }

    /// Whether the last run ended the patience.
    pub(super) fn has_failed(&self) -> bool {
        self.probe.is_some()
    }

    pub(super) fn started_by_socket(&mut self, now: Duration) {
        let window = now.saturating_sub(self.socket_window);
        if window >= SOCKET_WINDOW {
            (self.socket_window, self.socket_starts) = (now, 0);
        }
        self.socket_starts += 1;
        if self.socket_starts >= SOCKET_STARTS {
            self.socket_gate = self.socket_window + SOCKET_WINDOW;
        }
    }

    /// A run that began at `started` has ended well.
    pub(super) fn succeeded(&mut self, started: Duration) {
        self.forgive();
        self.repeat_gate = started + self.interval.unwrap_or(DEFAULT_INTERVAL);
    }

    /// What has failed so far does not count any more.
    pub(super) fn forgive(&mut self) {
        self.in_a_row = 0;
        self.gate = Duration::ZERO;
        self.last = None;
        self.probe = None;
    }

    /// A run that began at `started` has failed.
    pub(super) fn failed(
        &mut self,
        failure: Failure,
        started: Duration,
        now: Duration,
        random: &mut Random,
    ) {
        if now.saturating_sub(started) >= LONGEST_DELAY {
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.gate = match self.interval {
            Some(interval) => started + interval,
            None => now + random.jitter(delay(self.in_a_row)),
        };
        self.repeat_gate = Duration::ZERO;
        if self.in_a_row >= START_LIMIT {
            self.probe = Some(now + PROBE);
        }
        self.last = Some(failure);
    }

    /// The time to try again has come. Another failure ends the patience at once.
    pub(super) fn try_again(&mut self) {
        self.probe = None;
        self.gate = Duration::ZERO;
    }
}

/// The delay after so many failed runs in a row.
fn delay(in_a_row: u32) -> Duration {
    let doubled = FIRST_DELAY * (1 << (in_a_row.saturating_sub(1)).min(16));
    // From the interval on the doubling starts anew, so that the interval itself is one of the
    // delays.
    if doubled <= DEFAULT_INTERVAL {
        return doubled;
    }
    let beyond = DEFAULT_INTERVAL * (1 << (in_a_row - BELOW_INTERVAL - 1).min(16));
    beyond.min(LONGEST_DELAY)
}

/// How many delays there are below [`DEFAULT_INTERVAL`].
const BELOW_INTERVAL: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Exit;

    fn fail(throttle: &mut Throttle, started: Duration, now: Duration) {
        let failure = Failure::Ended(Exit::Status(1));
        throttle.failed(failure, started, now, &mut Random::new(7));
    }

    #[test]
    fn delays_double_up_to_the_interval_and_on_to_a_minute() {
        let delays = (1..=12).map(|failures| delay(failures).as_millis());
        let expected = [
            100, 200, 400, 800, 1600, 3200, 6400, 10_000, 20_000, 40_000, 60_000, 60_000,
        ];
        assert_eq!(delays.collect::<Vec<_>>(), expected);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn jitter_is_a_fifth_to_either_side() {
        let mut random = Random::new(1);
        let jittered: Vec<_> = (0..1000)
            .map(|_| random.jitter(Duration::from_secs(1)).as_millis())
            .collect();
        assert_eq!(jittered.iter().min(), Some(&800));
        assert_eq!(jittered.iter().max(), Some(&1200));
    }

    #[test]
    fn an_interval_that_is_given_counts_from_start_to_start() {
        let mut throttle = Throttle::new(Some(5));
        let (started, now) = (Duration::from_secs(100), Duration::from_secs(103));
        for _ in 0..3 {
            fail(&mut throttle, started, now);
            assert_eq!(throttle.gate, Duration::from_secs(105));
        }
    }

    #[test]
    fn twenty_failures_in_a_row_are_too_many() {
        let mut throttle = Throttle::new(None);
        for _ in 1..START_LIMIT {
            fail(&mut throttle, Duration::ZERO, Duration::ZERO);
        }
        assert!(!throttle.has_failed());
        fail(&mut throttle, Duration::ZERO, Duration::ZERO);
        assert_eq!(throttle.probe, Some(PROBE));
        throttle.try_again();
        assert!(!throttle.has_failed());
        fail(&mut throttle, PROBE, PROBE);
        assert_eq!(throttle.probe, Some(PROBE * 2));
        throttle.succeeded(PROBE);
        fail(&mut throttle, PROBE, PROBE);
        assert_eq!((throttle.in_a_row, throttle.probe), (1, None));
    }

    #[test]
    fn a_long_run_starts_the_count_anew() {
        let mut throttle = Throttle::new(None);
        fail(&mut throttle, Duration::ZERO, Duration::ZERO);
        fail(&mut throttle, Duration::ZERO, LONGEST_DELAY);
        assert_eq!(throttle.in_a_row, 1);
    }

    #[test]
    fn starts_by_sockets_come_in_bursts() {
        let mut throttle = Throttle::new(None);
        let start = Duration::from_secs(9);
        for _ in 1..SOCKET_STARTS {
            throttle.started_by_socket(start);
        }
        assert_eq!(throttle.socket_gate, Duration::ZERO);
        throttle.started_by_socket(start);
        assert_eq!(throttle.socket_gate, start + SOCKET_WINDOW);
        let later = throttle.socket_gate;
        throttle.started_by_socket(later);
        assert_eq!(throttle.socket_gate, later, "the next window is open");
    }
}
