//! How soon a server that is gone is started again.

use std::time::Duration;

/// Servers that are gone in a row and are followed at once.
const AT_ONCE: u32 = 5;

/// After those, the least time from start to start.
const SPACING: Duration = Duration::from_millis(100);

/// A server that has run for so long begins a new row.
const LONG: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    in_a_row: u32,
}

impl Pace {
    /// How long to wait, now that a server is gone which has run for so long.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= LONG {
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row <= AT_ONCE {
            Duration::ZERO
        } else {
            SPACING.saturating_sub(ran)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn five_are_followed_at_once_and_others_ten_times_a_second() {
        let mut pace = Pace::default();
        for _ in 0..5 {
            assert_eq!(pace.after(SHORT), Duration::ZERO);
        }
        for _ in 0..100 {
            assert_eq!(pace.after(SHORT), SPACING - SHORT);
        }
        assert_eq!(pace.after(SPACING), Duration::ZERO, "long enough apart");
        assert_eq!(pace.after(LONG), Duration::ZERO, "a new row");
        assert_eq!(pace.after(SHORT), Duration::ZERO);
    }
}
