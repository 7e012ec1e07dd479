//! Looking again for a while before going to sleep.

use std::cell::Cell;
use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use portolan_ring::wait::{Courtesy, Governor, Plan};

use crate::channel::lock;

/// How a right waits for its other side once both share memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitPolicy {
    /// Looks again for some microseconds where that has paid lately, and sleeps where it has not.
    /// Never spins on the only processor that it may use while the other side is there too: it lets
    /// the other side run.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Block,
    /// Looks again and again until the time-out. Burns a processor.
    Spin,
}

/// Where the other side runs, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It has not said so.
    Unknown,
    /// On this processor: it cannot run while this side does.
    Here,
    Elsewhere,
}

impl Whereabouts {
    pub(crate) fn new(own: u32, peer: Option<u32>) -> Self {
        match peer {
            None => Self::Unknown,
            Some(peer) if peer == own => Self::Here,
            Some(_) => Self::Elsewhere,
        }
    }

    /// Of several others: spinning pays if it does for one of them.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Elsewhere, _) | (_, Self::Elsewhere) => Self::Elsewhere,
            (Self::Here, _) | (_, Self::Here) => Self::Here,
            _ => Self::Unknown,
        }
    }
}

/// The policy of one waiting side, and what it has learnt.
#[derive(Debug)]
pub(crate) struct Spinner {
    policy: AtomicU8,
    learnt: Mutex<Learnt>,
    made: Instant,
}

#[derive(Debug, Default)]
struct Learnt {
    governor: Governor,
    courtesy: Courtesy,
}

/// How a spin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spun {
    /// What was waited for is there.
    Hit,
    /// It is time to sleep; if it was spun before, the wait began then.
    Sleep { since: Option<Instant> },
    /// Look at everything else and come back.
    Again,
}

/// Turns before the clock is looked at for the first time.
const FIRST_TURNS: u32 = 8;

/// Turns while messages gather.
const GATHERING_TURNS: u32 = 16;

/// Turns between two looks at the clock.
const TURNS: u32 = 32;

/// Giving way takes this long at least if somebody else has run meanwhile.
const SWITCH: Duration = Duration::from_micros(2);

/// How often a side gives way before it sleeps.
const COURTESIES: u32 = 4;

/// The same with [`WaitPolicy::Spin`], before everything else is looked at.
const SPIN_COURTESIES: u32 = 64;

/// With [`WaitPolicy::Spin`], what is not in memory is looked at this often.
const SPIN_SLICE: Duration = Duration::from_micros(50);

impl Default for Spinner {
    fn default() -> Self {
        Self {
            policy: AtomicU8::new(WaitPolicy::default() as u8),
            learnt: Mutex::default(),
            made: Instant::now(),
        }
    }
}

impl Spinner {
    pub(crate) fn set_policy(&self, policy: WaitPolicy) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    /// Waits for `ready`, which the other side at `peer` brings about, as the policy says.
    pub(crate) fn spin(&self, peer: Whereabouts, mut ready: impl FnMut() -> bool) -> Spun {
        let policy = self.policy.load(Ordering::Relaxed);
        if policy == WaitPolicy::Block as u8 {
            return Spun::Sleep { since: None };
        }
        let spins = policy == WaitPolicy::Spin as u8;
        match peer {
            Whereabouts::Here if spins => match give_way(SPIN_COURTESIES, ready) {
                true => Spun::Hit,
                false => Spun::Again,
            },
            Whereabouts::Here => self.spin_here(ready),
            Whereabouts::Unknown if !spins && !may_spin() => Spun::Sleep { since: None },
            // An answer that is on its way needs no clock.
            _ if turn(FIRST_TURNS, &mut ready) => Spun::Hit,
            _ if spins => match turn_until(Instant::now(), SPIN_SLICE, ready).0 {
                true => Spun::Hit,
                false => Spun::Again,
            },
            _ => self.spin_apart(ready),
        }
    }

    /// Leaves a sender on another processor alone for a moment, who does not wait for an answer and
    /// publishes one message after the other. Each look would take the cache line away in which it
    /// publishes.
    pub(crate) fn let_gather(&self, peer: Whereabouts) {
        let blocks = self.policy.load(Ordering::Relaxed) == WaitPolicy::Block as u8;
        if peer == Whereabouts::Elsewhere && !blocks {
            (0..GATHERING_TURNS).for_each(|_| hint::spin_loop());
        }
    }

    fn spin_apart(&self, ready: impl FnMut() -> bool) -> Spun {
        let since = Instant::now();
        let Plan::Spin { nanos } = lock(&self.learnt).governor.begin() else {
            return Spun::Sleep { since: Some(since) };
        };
        let (hit, spent) = turn_until(since, Duration::from_nanos(nanos), ready);
        let mut learnt = lock(&self.learnt);
        if hit {
            learnt.governor.spin_hit(spent);
            return Spun::Hit;
        }
        learnt.governor.spin_missed(spent);
        Spun::Sleep { since: Some(since) }
    }

    fn spin_here(&self, ready: impl FnMut() -> bool) -> Spun {
        let before = nanos_since(self.made);
        if !lock(&self.learnt).courtesy.may_give_way(before) {
            return Spun::Sleep { since: None };
        }
        let hit = give_way(COURTESIES, ready);
        let now = nanos_since(self.made);
        lock(&self.learnt).courtesy.gave_way(now, now - before, hit);
        match hit {
            true => Spun::Hit,
            false => Spun::Sleep { since: None },
        }
    }

    /// Tells how long a wait took that began with a spin and ended in sleep.
    pub(crate) fn slept(&self, since: Instant) {
        lock(&self.learnt).governor.slept(nanos_since(since));
    }
}

fn nanos_since(instant: Instant) -> u64 {
    u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn turn(turns: u32, ready: &mut impl FnMut() -> bool) -> bool {
    for _ in 0..turns {
        if ready() {
            return true;
        }
        hint::spin_loop();
    }
    false
}

/// Looks again and again for as long as the limit, and says how many nanoseconds that took. Others
/// that want this processor have it in between, which does not count.
fn turn_until(since: Instant, limit: Duration, mut ready: impl FnMut() -> bool) -> (bool, u64) {
    let mut others = Duration::ZERO;
    loop {
        let hit = turn(TURNS, &mut ready);
        let before = since.elapsed();
        let own = before.saturating_sub(others);
        if hit || own >= limit {
            return (hit, u64::try_from(own.as_nanos()).unwrap_or(u64::MAX));
        }
        rustix::thread::sched_yield();
        let away = since.elapsed().saturating_sub(before);
        if away >= SWITCH {
            others += away;
        }
    }
}

/// Lets others run on this processor, up to `times` times.
fn give_way(times: u32, mut ready: impl FnMut() -> bool) -> bool {
    (0..times).any(|_| {
        rustix::thread::sched_yield();
        ready()
    })
}

/// The processor that this thread runs on.
pub(crate) fn own_place() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
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
