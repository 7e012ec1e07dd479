//! The shortest part of a failing sequence that still fails.

use super::step::Step;
use super::world::Violation;

/// Removes chunks, large ones first, for as long as the same rule is broken (Zeller's ddmin, without
/// its complements).
pub(crate) fn shrink(steps: &[Step], run: impl Fn(&[Step]) -> Result<(), Violation>) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let rule = |steps: &[Step]| run(steps).err().map(|violation| violation.rule);
    let broken = rule(&steps);
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && !steps.is_empty() {
        let before = steps.len();
        let mut at = 0;
        while at < steps.len() {
            let end = (at + chunk).min(steps.len());
            let without = [&steps[..at], &steps[end..]].concat();
            if rule(&without) == broken {
                steps = without;
            } else {
                at = end;
            }
        }
        chunk = match chunk {
            1 if steps.len() < before => 1,
            chunk => chunk / 2,
        };
    }
    steps
}
