//! Keeping a log from being filled.

use std::time::{Duration, Instant};

/// Lines that may come at once.
const BURST: u32 = 100;

/// Time after which one more may.
const REFILL: Duration = Duration::from_millis(100);

/// Decides whether an event that somebody can cause at will is logged: a burst of a hundred, then ten
/// a second.
#[derive(Debug)]
pub struct Limit {
    left: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            left: BURST,
            refilled: Instant::now(),
            suppressed: 0,
        }
    }
}

impl Limit {
    /// How many events were not logged before this one, if this one is to be.
    pub fn admit(&mut self) -> Option<u64> {
        let admitted = self.admits_at(Instant::now());
        admitted.then(|| std::mem::take(&mut self.suppressed))
    }

    fn admits_at(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if earned > 0 {
            self.left = u32::try_from(earned)
                .unwrap_or(BURST)
                .saturating_add(self.left)
                .min(BURST);
            self.refilled = now;
        }
        let admitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.suppressed += u64::from(!admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_burst_and_a_trickle() {
        let start = Instant::now();
        let mut limit = Limit {
            left: BURST,
            refilled: start,
            suppressed: 0,
        };
        let burst = (0..10_000).filter(|_| limit.admits_at(start)).count();
        assert_eq!(burst, BURST as usize);
        assert_eq!(limit.suppressed, 10_000 - u64::from(BURST));
        let second = (1..=1000).filter(|ms| limit.admits_at(start + Duration::from_millis(*ms)));
        assert_eq!(second.count(), 10);
    }
}
