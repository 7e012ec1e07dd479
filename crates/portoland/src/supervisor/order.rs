//! `After` and `Requires` among jobs.

use std::collections::HashMap;

use portolan_wire::label::JobLabel;

/// The jobs from `start` on, each of which waits for the next, and the last for `start`. `waits`
/// gives the jobs that one waits for.
pub(super) fn cycle<'a>(
    start: &'a JobLabel,
    waits: impl Fn(&JobLabel) -> Vec<&'a JobLabel>,
) -> Option<Vec<JobLabel>> {
    let mut reached: HashMap<&JobLabel, &JobLabel> = HashMap::new();
    let mut ahead = vec![start];
    while let Some(at) = ahead.pop() {
        for next in waits(at) {
            if next == start {
                return Some(path(start, at, &reached));
            }
            if !reached.contains_key(next) {
                reached.insert(next, at);
                ahead.push(next);
            }
        }
    }
    None
}

fn path<'a>(
    start: &'a JobLabel,
    mut at: &'a JobLabel,
    reached: &HashMap<&'a JobLabel, &'a JobLabel>,
) -> Vec<JobLabel> {
    let mut path = vec![at.clone()];
    while at != start
        && let Some(before) = reached.get(at)
    {
        at = before;
        path.push(at.clone());
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle_in(edges: &[(&str, &str)], start: &str) -> Option<Vec<String>> {
        let label = |text: &str| text.parse::<JobLabel>().expect("label");
        let edges: Vec<_> = edges.iter().map(|(a, b)| (label(a), label(b))).collect();
        let waits = |from: &JobLabel| {
            let out = edges.iter().filter(|(a, _)| a == from);
            out.map(|(_, b)| b).collect()
        };
        let found = cycle(&label(start), waits)?;
        Some(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_labels_of_a_cycle_come_in_order() {
        let edges = [("a", "x"), ("a", "b"), ("b", "c"), ("c", "d"), ("c", "a")];
        let expected = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(cycle_in(&edges, "a"), Some(expected));
        assert_eq!(cycle_in(&[("a", "a")], "a"), Some(vec!["a".into()]));
    }

    #[test]
    fn jobs_that_meet_again_are_no_cycle() {
        let edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")];
        assert_eq!(cycle_in(&edges, "a"), None);
    }

    #[test]
    fn a_cycle_that_does_not_lead_back_is_somebody_elses() {
        let edges = [("a", "b"), ("b", "c"), ("c", "b")];
        assert_eq!(cycle_in(&edges, "a"), None);
    }
}
