//! What came of all attempts.

use super::attempt::{Attempt, Outcome, Want};
use crate::profile::Tier;

/// What came of one attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The attempt.
    pub attempt: &'static Attempt,
    /// Outside: `None` if it was not made there, because it would harm others.
    pub outside: Option<Outcome>,
    /// Whether it took root, of the machine or of a user namespace, to make it outside.
    pub privileged: bool,
    /// Inside, in each tier.
    pub inside: Vec<(Tier, Outcome)>,
}

/// What that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// What succeeds outside is refused inside.
    Held,
    /// It is refused inside, and outside as well, so that nothing is shown.
    Unproven,
    /// It tells what is documented to be told.
    Leak,
    /// It succeeds, and reaches nobody.
    Harmless,
    /// It must work, and does.
    Works,
    /// It must work, and does not.
    Broken,
    /// It got out.
    Escape,
}

impl Verdict {
    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unproven => "unproven",
            Self::Leak => "leak",
            Self::Harmless => "harmless",
            Self::Works => "works",
            Self::Broken => "BROKEN",
            Self::Escape => "ESCAPE",
        }
    }

    /// Whether it is as it should be.
    #[must_use]
    pub fn is_good(self) -> bool {
        !matches!(self, Self::Broken | Self::Escape)
    }
}

impl Row {
    /// What it means in a tier, if it was made there.
    #[must_use]
    pub fn verdict(&self, tier: Tier) -> Option<Verdict> {
        let (_, inside) = self.inside.iter().find(|(made, _)| *made == tier)?;
        Some(match (self.attempt.wanted(tier), inside) {
            // Whatever it was, nobody knows what came of it.
            (_, Outcome::Hung | Outcome::Lost(_)) => Verdict::Broken,
            (Want::Works, Outcome::Out) => Verdict::Works,
            (Want::Works, _) => Verdict::Broken,
            (Want::Leak, Outcome::Out) => Verdict::Leak,
            (Want::Harmless, Outcome::Out) => Verdict::Harmless,
            (Want::Refused, Outcome::Out) => Verdict::Escape,
            (Want::Refused | Want::Leak | Want::Harmless, _) => match self.outside {
                Some(Outcome::Out) => Verdict::Held,
                _ => Verdict::Unproven,
            },
        })
    }
}

/// A process that is none of a confined program's business was not left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The tier whose attempts did it.
    pub tier: Tier,
    /// What it was like.
    pub before: String,
    /// What it was like afterwards.
    pub after: String,
}

/// What came of all attempts.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Each attempt.
    pub rows: Vec<Row>,
    /// What the process outside has noticed of those that were confined.
    pub changes: Vec<Change>,
    /// Whether it has noticed those that were not, as it should if they were made.
    pub noticed: bool,
}

impl Report {
    /// How often something means this.
    #[must_use]
    pub fn count(&self, tier: Tier, verdict: Verdict) -> usize {
        let verdicts = self.rows.iter().map(|row| row.verdict(tier));
        { verdicts }.filter(|one| *one == Some(verdict)).count()
    }

    /// Whether the walls hold, and what must work does.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let mut verdicts = self.rows.iter().flat_map(|row| {
            let tiers = row.inside.iter().map(|(tier, _)| *tier);
            tiers.filter_map(|tier| row.verdict(tier))
        });
        self.changes.is_empty() && verdicts.all(Verdict::is_good)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attempts::attempts;
    use super::*;
    use rustix::io::Errno;

    fn verdict(name: &str, tier: Tier, outside: Outcome, inside: Outcome) -> Verdict {
        let attempt = attempts().find(|attempt| attempt.name == name);
        let row = Row {
            attempt: attempt.expect("an attempt"),
            outside: Some(outside),
            privileged: false,
            inside: vec![(tier, inside)],
        };
        let report = Report {
            rows: vec![row.clone()],
            ..Report::default()
        };
        let verdict = row.verdict(tier).expect("it was made");
        assert_eq!(report.is_good(), verdict.is_good());
        assert_eq!(report.count(tier, verdict), 1);
        verdict
    }

    #[test]
    fn a_wall_is_shown_by_what_succeeds_without_it() {
        let refused = Outcome::Refused(Errno::PERM);
        let out = Outcome::Out;
        let verdict = |outside: &Outcome, inside: &Outcome| {
            verdict("read_passwd", Tier::T1, outside.clone(), inside.clone())
        };
        assert_eq!(verdict(&out, &refused), Verdict::Held);
        assert_eq!(verdict(&out, &Outcome::Killed(31)), Verdict::Held);
        assert_eq!(verdict(&refused, &refused), Verdict::Unproven);
        assert_eq!(verdict(&out, &out), Verdict::Escape);
        assert_eq!(verdict(&out, &Outcome::Hung), Verdict::Broken);
    }

    #[test]
    fn a_leak_is_one_in_t1_only() {
        let (out, name) = (Outcome::Out, "stat_outside");
        assert_eq!(
            verdict(name, Tier::T1, out.clone(), out.clone()),
            Verdict::Leak
        );
        assert_eq!(verdict(name, Tier::T2, out.clone(), out), Verdict::Escape);
    }

    #[test]
    fn what_must_work_is_broken_if_it_does_not() {
        let out = Outcome::Out;
        let verdict = |inside| verdict("bootstrap", Tier::T2, out.clone(), inside);
        assert_eq!(verdict(Outcome::Out), Verdict::Works);
        assert_eq!(verdict(Outcome::Nothing), Verdict::Broken);
    }
}
