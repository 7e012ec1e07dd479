//! How long a waiting side looks again before it sleeps.
//!
//! Where both sides are on one processor, looking again means to let the other side run first, and
//! [`Courtesy`] decides whether that is worth a system call. Anywhere else it means spinning.
//!
//! Spinning pays where the other side runs on another processor and answers within microseconds,
//! and only then. On one processor it keeps the other side from running at all. Which of the two it
//! is cannot be asked and changes when the scheduler moves a thread, so it is found out by trying,
//! and trying has to be paid for:
//!
//! - A spin may only be as long as the credit there is. The credit starts at [`INITIAL_CREDIT`].
//! - A spin that hits earns [`HIT_SAVES`], about what falling asleep and being woken costs.
//! - A spin that misses costs its length.
//! - After `k` misses in a row, a sleep shorter than [`SHORT_SLEEP`] earns its length divided by
//!   2^k, `k` being at least 1 and at most [`MAX_MISSES`]. This is the rule "after k misses skip
//!   the next 2^k - 1 spins", counted in time, so that waits of any length give the same bound.
//! - A longer sleep earns nothing, and after two in a row no spin is tried until a sleep has been
//!   short again: what takes that long is not waited for by spinning, on any placement.
//!
//! So the time wasted is at most `INITIAL_CREDIT + HIT_SAVES * hits + slept / 2`, and where spins
//! never hit it tends to 1/128 of the time slept.

/// The longest spin, in nanoseconds.
pub const MAX_SPIN: u64 = 25_000;

/// The shortest spin worth trying, in nanoseconds: an awake peer on another processor answers a
/// small request in less than half of it.
pub const MIN_SPIN: u64 = 2_000;

/// A sleep up to this long, in nanoseconds, may have hidden an answer that a spin would have
/// caught: two wake-ups across processors take up to some 50 µs on a virtual machine.
pub const SHORT_SLEEP: u64 = 100_000;

/// What a spin that hits earns, in nanoseconds.
pub const HIT_SAVES: u64 = 5_000;

/// The credit to begin with, in nanoseconds.
pub const INITIAL_CREDIT: u64 = 2 * MAX_SPIN;

/// The most credit that is kept, in nanoseconds.
pub const MAX_CREDIT: u64 = 4 * MAX_SPIN;

/// After how many misses in a row sleeping stops to earn less.
pub const MAX_MISSES: u32 = 7;

const LONG_SLEEPS_IN_A_ROW: u32 = 2;

/// What to do first in a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Go to sleep at once.
    Block,
    /// Look again and again for this long before going to sleep.
    Spin {
        /// How long, in nanoseconds.
        nanos: u64,
    },
}

/// Decides for one waiting side of one channel. It has no clock: the caller tells it how long
/// things took.
///
/// Each wait is `begin`, then `spin_hit` or `spin_missed` if the plan was to spin, then `slept` if
/// the side went to sleep.
#[derive(Clone, Debug)]
pub struct Governor {
    credit: u64,
    /// Misses since the last hit.
    misses: u32,
    /// Sleeps since the last short one.
    long_sleeps: u32,
    /// The last short sleep: an answer was there by then at the latest.
    last_sleep: u64,
    /// How long to try next while spinning does not pay; climbs from [`MIN_SPIN`] to `last_sleep`
    /// and starts over, so that a fast peer is found soon and a slower one in the end.
    rung: u64,
    planned: u64,
}

impl Governor {
    /// A governor that knows nothing of the other side yet.
    pub const fn new() -> Self {
        Self {
            credit: INITIAL_CREDIT,
            misses: 0,
            long_sleeps: 0,
            last_sleep: MAX_SPIN,
            rung: MIN_SPIN,
            planned: 0,
        }
    }

    /// A wait begins: nothing was there when last looked.
    pub fn begin(&mut self) -> Plan {
        let nanos = match self.misses {
            0 => MAX_SPIN,
            _ => self.rung.min(self.last_sleep).clamp(MIN_SPIN, MAX_SPIN),
        };
        self.planned = nanos;
        if self.long_sleeps >= LONG_SLEEPS_IN_A_ROW || nanos > self.credit {
            return Plan::Block;
        }
        Plan::Spin { nanos }
    }

    /// What was waited for came while spinning, after `nanos`. Where that is longer than planned,
    /// the spinner was off its processor meanwhile, and the spin counts as a miss.
    pub fn spin_hit(&mut self, nanos: u64) {
        if nanos > self.planned {
            return self.spin_missed(nanos);
        }
        self.misses = 0;
        self.long_sleeps = 0;
        self.rung = MIN_SPIN;
        self.credit = MAX_CREDIT.min(self.credit + HIT_SAVES);
    }

    /// Nothing came within `nanos` of spinning.
    pub fn spin_missed(&mut self, nanos: u64) {
        self.rung = if self.planned < self.rung {
            MIN_SPIN
        } else {
            (self.rung * 2).min(MAX_SPIN)
        };
        self.misses = MAX_MISSES.min(self.misses + 1);
        self.credit = self.credit.saturating_sub(nanos);
    }

    /// The side slept, and the whole wait since `begin` took `nanos`.
    pub fn slept(&mut self, nanos: u64) {
        if nanos > SHORT_SLEEP {
            self.long_sleeps = self.long_sleeps.saturating_add(1);
            return;
        }
        self.long_sleeps = 0;
        self.last_sleep = nanos;
        self.credit = MAX_CREDIT.min(self.credit + (nanos >> self.misses.max(1)));
    }
}

/// Decides whether a side gives up its processor to another that waits for the same one, before it
/// sleeps. Going to sleep and being woken costs more than that, but it may be somebody else who
/// gets the processor, and keep it.
///
/// Time that was lost so has to be paid for: for [`PENANCE`] times as long the side goes to sleep at
/// once, so that no more than that share of the time is lost. It has no clock; all times are
/// nanoseconds of one clock of the caller's.
#[derive(Clone, Debug, Default)]
pub struct Courtesy {
    barred_until: u64,
}

/// How much longer than a loss it is until the next may be risked.
pub const PENANCE: u64 = 8;

/// Having waited longer than this, in nanoseconds, counts as a loss even where what was waited for
/// was there in the end: being woken would not have taken as long.
pub const LONG_COURTESY: u64 = 50_000;

impl Courtesy {
    /// Whether to give way now.
    pub fn may_give_way(&self, now: u64) -> bool {
        now >= self.barred_until
    }

    /// Giving way took `nanos` until `now`, and it was worth it or not.
    pub fn gave_way(&mut self, now: u64, nanos: u64, hit: bool) {
        if !hit || nanos > LONG_COURTESY {
            self.barred_until = now.saturating_add(nanos.saturating_mul(PENANCE));
        }
    }
}

impl Default for Governor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How the other side behaves, in nanoseconds.
    #[derive(Clone, Copy, Debug)]
    struct Peer {
        /// When a spinning side sees the answer; `None` where spinning keeps the peer from running.
        answers: Option<u64>,
        /// How long the wait is for a side that goes to sleep at once.
        sleep: u64,
    }

    const APART: Peer = Peer {
        answers: Some(500),
        sleep: 14_000,
    };
    const SAME_CORE: Peer = Peer {
        answers: None,
        sleep: 2_500,
    };
    const RARE: Peer = Peer {
        answers: Some(10_000_000),
        sleep: 10_014_000,
    };

    #[derive(Debug, Default)]
    struct Tally {
        waits: u64,
        spins: u64,
        hits: u64,
        wasted: u64,
        slept: u64,
        /// Everything: spins, hit or missed, and sleeps.
        waited: u64,
    }

    impl Tally {
        fn run(&mut self, governor: &mut Governor, peer: Peer, waits: u64) {
            for _ in 0..waits {
                self.wait(governor, peer);
            }
        }

        fn wait(&mut self, governor: &mut Governor, peer: Peer) {
            self.waits += 1;
            let spun = match governor.begin() {
                Plan::Block => 0,
                Plan::Spin { nanos } => {
                    self.spins += 1;
                    if let Some(answer) = peer.answers.filter(|answer| *answer <= nanos) {
                        self.hits += 1;
                        self.waited += answer;
                        return governor.spin_hit(answer);
                    }
                    governor.spin_missed(nanos);
                    nanos
                }
            };
            // On one core the peer starts only when the spin is over.
            let total = if peer.answers.is_none() {
                spun + peer.sleep
            } else {
                peer.sleep
            };
            governor.slept(total);
            self.wasted += spun;
            self.slept += total;
            self.waited += total;
        }
    }

    fn tally(governor: &mut Governor, peer: Peer, waits: u64) -> Tally {
        let mut tally = Tally::default();
        tally.run(governor, peer, waits);
        tally
    }

    #[test]
    fn a_peer_that_answers_at_once_is_always_spun_for() {
        let tally = tally(&mut Governor::new(), APART, 10_000);
        assert_eq!((tally.spins, tally.hits, tally.wasted), (10_000, 10_000, 0));
    }

    #[test]
    fn a_peer_on_the_same_core_is_almost_never_spun_for() {
        let mut governor = Governor::new();
        let start = tally(&mut governor, SAME_CORE, 2_000);
        assert!(
            start.wasted * 100 < start.waited * 3,
            "from a cold start: {start:?}"
        );
        let steady = tally(&mut governor, SAME_CORE, 100_000);
        assert!(
            steady.wasted * 100 < steady.waited,
            "once known: {steady:?}"
        );
        assert!(steady.spins * 100 < steady.waits, "once known: {steady:?}");
    }

    #[test]
    fn a_change_of_placement_is_found_out_within_40_waits() {
        let mut governor = Governor::new();
        for _ in 0..50 {
            tally(&mut governor, SAME_CORE, 5_000);
            let search = tally(&mut governor, APART, 40);
            assert!(search.hits > 0, "{search:?}");
            let found = tally(&mut governor, APART, 1_000);
            assert_eq!(found.hits, 1_000, "{found:?}");
            let back = tally(&mut governor, SAME_CORE, 40);
            assert!(
                back.wasted <= MAX_CREDIT + 40 * SAME_CORE.sleep / 2,
                "{back:?}"
            );
            let settled = tally(&mut governor, SAME_CORE, 1_000);
            assert!(settled.wasted * 100 < settled.waited * 3, "{settled:?}");
        }
    }

    #[test]
    fn rare_messages_are_not_spun_for() {
        let mut governor = Governor::new();
        let first = tally(&mut governor, RARE, 2);
        assert!(first.wasted <= INITIAL_CREDIT, "{first:?}");
        assert_eq!(tally(&mut governor, RARE, 10_000).spins, 0);
    }

    #[test]
    fn a_burst_after_a_pause_is_spun_for_after_one_sleep_at_most() {
        let mut governor = Governor::new();
        tally(&mut governor, APART, 1_000);
        for pauses in 1..5 {
            tally(&mut governor, RARE, pauses);
            let burst = tally(&mut governor, APART, 100);
            assert!(burst.hits >= 99, "after {pauses}: {burst:?}");
        }
    }

    #[test]
    fn a_peer_that_takes_8_microseconds_is_found_in_the_end() {
        let mut governor = Governor::new();
        tally(&mut governor, SAME_CORE, 5_000);
        let slow = Peer {
            answers: Some(8_000),
            sleep: 22_000,
        };
        let search = tally(&mut governor, slow, 250);
        assert!(search.hits > 0, "{search:?}");
    }

    #[test]
    fn a_hit_that_took_longer_than_planned_is_a_miss() {
        let mut governor = Governor::new();
        assert_eq!(governor.begin(), Plan::Spin { nanos: MAX_SPIN });
        governor.spin_hit(4_000_000);
        governor.slept(2_500);
        assert_eq!(governor.begin(), Plan::Block);
    }

    #[test]
    fn no_more_than_a_share_of_the_time_is_lost_by_giving_way() {
        let mut courtesy = Courtesy::default();
        let (mut now, mut lost) = (0, 0);
        for wait in 0..100_000u64 {
            // One in three is answered, but only after somebody else has used up a time slice.
            let (nanos, hit) = (1_000 + wait % 7 * 1_000_000, wait % 3 == 0);
            if courtesy.may_give_way(now) {
                now += nanos;
                courtesy.gave_way(now, nanos, hit);
                lost += if hit && nanos < LONG_COURTESY {
                    0
                } else {
                    nanos
                };
            }
            now += 5_000;
        }
        assert!(
            lost > 0 && lost * PENANCE <= now + 7_000_000 * PENANCE,
            "{lost} of {now}"
        );
    }

    #[test]
    fn giving_way_to_who_answers_is_never_barred() {
        let mut courtesy = Courtesy::default();
        for now in 1..1000 {
            assert!(courtesy.may_give_way(now * 3_000));
            courtesy.gave_way(now * 3_000, 3_000, true);
        }
    }

    fn any_peer() -> impl Strategy<Value = Peer> {
        let answers = proptest::option::of(prop_oneof![0..30_000u64, 0..200_000u64]);
        (answers, 0..200_000u64).prop_map(|(answers, extra)| Peer {
            answers,
            sleep: answers.unwrap_or(0) + extra,
        })
    }

    proptest! {
        #[test]
        fn whatever_the_peer_does_the_waste_is_bounded(
            phases in proptest::collection::vec((any_peer(), 1..200u64), 1..50)
        ) {
            let (mut governor, mut all) = (Governor::new(), Tally::default());
            for (peer, waits) in phases {
                all.run(&mut governor, peer, waits);
                let bound = INITIAL_CREDIT + HIT_SAVES * all.hits + all.slept / 2;
                prop_assert!(all.wasted <= bound, "{peer:?} {all:?}");
            }
        }

        #[test]
        fn spins_that_never_hit_waste_a_hundredth_in_the_end(sleep in 1_000..SHORT_SLEEP) {
            let (mut governor, peer) = (Governor::new(), Peer { answers: None, sleep });
            tally(&mut governor, peer, 5_000);
            let steady = tally(&mut governor, peer, 20_000);
            prop_assert!(steady.wasted * 100 <= steady.waited, "{steady:?}");
        }
    }
}
