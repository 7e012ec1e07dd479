//! Looking again for a while before going to sleep.

use std::cell::Cell;
use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use portolan_ring::wait::{Governor, Plan};

use crate::channel::lock;

/// How a right waits for its other side once both share memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitPolicy {
    /// Looks again for some microseconds where that has paid lately, and sleeps where it has not.
    /// Never spins on a process with one usable processor.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Block,
    /// Looks again and again until the time-out. Burns a processor.
    Spin,
}

/// The policy of one waiting side, and what it has learnt.
#[derive(Debug, Default)]
pub(crate) struct Spinner {
    policy: AtomicU8,
    governor: Mutex<Governor>,
}

/// How a spin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spun {
    /// What was waited for is there.
    Hit,
    /// It is time to sleep; the wait began then.
    Sleep { since: Instant },
    /// Look at everything else and come back.
    Again,
}

/// Turns between two looks at the clock.
const TURNS: u32 = 32;

/// With [`WaitPolicy::Spin`], what is not in memory is looked at this often.
const SPIN_SLICE: Duration = Duration::from_micros(50);

impl Spinner {
    pub(crate) fn set_policy(&self, policy: WaitPolicy) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    /// Waits for `ready` as the policy says.
    pub(crate) fn spin(&self, ready: impl FnMut() -> bool) -> Spun {
        let since = Instant::now();
        if self.policy.load(Ordering::Relaxed) == WaitPolicy::Spin as u8 {
            return match turn(since, SPIN_SLICE, ready) {
                true => Spun::Hit,
                false => Spun::Again,
            };
        }
        let blocks = self.policy.load(Ordering::Relaxed) == WaitPolicy::Block as u8;
        if blocks || !may_spin() {
            return Spun::Sleep { since };
        }
        let Plan::Spin { nanos } = lock(&self.governor).begin() else {
            return Spun::Sleep { since };
        };
        let hit = turn(since, Duration::from_nanos(nanos), ready);
        let spent = nanos_since(since);
        let mut governor = lock(&self.governor);
        if hit {
            governor.spin_hit(spent);
            return Spun::Hit;
        }
        governor.spin_missed(spent);
        Spun::Sleep { since }
    }

    /// Tells how long a wait took that ended in sleep.
    pub(crate) fn slept(&self, since: Instant) {
        if self.policy.load(Ordering::Relaxed) == WaitPolicy::Adaptive as u8 {
            lock(&self.governor).slept(nanos_since(since));
        }
    }
}

fn nanos_since(instant: Instant) -> u64 {
    u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn turn(since: Instant, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    loop {
        for _ in 0..TURNS {
            if ready() {
                return true;
            }
            hint::spin_loop();
        }
        if since.elapsed() >= limit {
            return false;
        }
    }
}

/// Whether this thread may use two processors at least. Its affinity counts, not the machine; it is
/// asked for again now and then, because it can be changed from outside.
fn may_spin() -> bool {
    const ASK_AFTER: u32 = 512;
    thread_local! {
        static KNOWN: Cell<(u32, bool)> = const { Cell::new((0, false)) };
    }
    KNOWN.with(|known| {
        let (left, answer) = known.get();
        if left > 0 {
            known.set((left - 1, answer));
            return answer;
        }
        let answer = rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.count() > 1);
        known.set((ASK_AFTER, answer));
        answer
    })
}
