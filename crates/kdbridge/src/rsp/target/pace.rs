//! How fast a stub answers: each answer may take long, all of them may not.

use std::time::Duration;

use crate::target::TargetError;

/// From how many times as long as one answer may take on.
const LONG: u32 = 12;

/// The part of that time which an answer may then take on the average. A serial line is not slower.
const PART: u32 = 10;

/// What answers have taken.
#[derive(Debug)]
pub(super) struct Pace {
    patience: Duration,
    answers: u32,
    waited: Duration,
}

impl Pace {
    /// Of a stub whose answers may take `patience` each.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            answers: 0,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, waited: Duration) {
        self.answers = self.answers.saturating_add(1);
        self.waited = self.waited.saturating_add(waited);
    }

    /// # Errors
    ///
    /// [`TargetError::Slow`] if it is of no use to ask for more.
    pub(super) fn check(&self) -> Result<(), TargetError> {
        let Self {
            patience,
            answers,
            waited,
        } = *self;
        let long = patience.saturating_mul(LONG);
        let most = (patience / PART).saturating_mul(answers);
        if waited > long.max(most) {
            return Err(TargetError::Slow { answers, waited });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn answers(count: u32, each: Duration) -> Result<(), TargetError> {
        let mut pace = Pace::new(PATIENCE);
        (0..count).for_each(|_| pace.add(each));
        pace.check()
    }

    #[test]
    fn a_stub_that_is_just_in_time_again_and_again_is_given_up_after_a_minute() {
        let just = Duration::from_millis(4900);
        assert!(answers(12, just).is_ok());
        let error = answers(13, just).unwrap_err();
        let said = "the target is too slow: 13 answers took 63 s";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn many_answers_that_take_a_while_are_none_too_many() {
        assert!(answers(10_000, Duration::from_millis(500)).is_ok());
        assert!(answers(10_000, Duration::from_millis(501)).is_err());
    }
}
