//! What was refused to confined programs, kept for `portolan sandbox log`.
//!
//! Of each program the last refusals are kept, whatever others do, and of those that come faster
//! than the log takes them only the number. They are in the journal, so that the next server has
//! them too; a server that is started anew has none.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use portolan_port::{Message, SendOnceRight};
use portolan_sandbox::Limit;
use portolan_wire::bootstrap::{Operation, Reply};
use portolan_wire::label::JobLabel;
use portolan_wire::sandbox::{self, MAX_VIOLATIONS, Report, Violation};

use super::answer::done;
use super::store::{Kind, Store};

/// The most refusals to one program that are kept.
const MAX_KEPT: usize = 128;

/// The most programs of which some are kept. The one whose last is the oldest is forgotten.
const MAX_PROGRAMS: usize = 128;

/// The most clients that wait for the next. Of more, the one that came first has to ask again.
const MAX_WAITERS: usize = 64;

/// What was refused to all programs.
#[derive(Debug, Default)]
pub(super) struct Violations {
    programs: HashMap<JobLabel, Program>,
    last: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug, Default)]
struct Program {
    kept: VecDeque<Violation>,
    limit: Limit,
    /// Those that were left out since the last one that is kept.
    left_out: u64,
}

#[derive(Debug)]
struct Waiter {
    after: u64,
    reply: SendOnceRight,
}

/// What is refused, and what would have allowed it.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    pub(super) operation: String,
    pub(super) name: &'a str,
    /// The entitlement and its value; empty if there is none.
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    /// Refusals before this one that are not told.
    pub(super) left_out: u64,
}

impl Violations {
    /// Keeps a refusal, and answers those who wait for one. `None` if there were too many of the
    /// same program just before, else how many those were.
    pub(super) fn note(
        &mut self,
        store: &Store,
        label: &JobLabel,
        pid: u32,
        refusal: &Refusal<'_>,
    ) -> Option<u64> {
        self.make_room_for(label, store);
        let program = self.programs.entry(label.clone()).or_default();
        program.left_out += refusal.left_out;
        program.left_out += program.limit.admit()?;
        let left_out = std::mem::take(&mut program.left_out);
        self.last += 1;
        let violation = Violation {
            number: self.last,
            at_ms: now_ms(),
            label: label.clone(),
            refusal: Report {
                pid: Some(pid),
                left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
                operation: refusal.operation.as_str().into(),
                name: refusal.name.into(),
                key: refusal.key.into(),
                value: refusal.value.into(),
            },
        };
        store.put_bytes(Kind::Violation, self.last, &one(violation.clone()));
        program.kept.push_back(violation);
        if program.kept.len() > MAX_KEPT {
            let oldest = program.kept.pop_front();
            oldest.into_iter().for_each(|one| forget(&one, store));
        }
        self.tell_waiters();
        Some(left_out)
    }

    fn make_room_for(&mut self, label: &JobLabel, store: &Store) {
        if self.programs.contains_key(label) || self.programs.len() < MAX_PROGRAMS {
            return;
        }
        let last = |program: &Program| program.kept.back().map(|one| one.number);
        let oldest = self.programs.iter().min_by_key(|(_, known)| last(known));
        let oldest = oldest.map(|(label, _)| label.clone());
        let gone = oldest.and_then(|label| self.programs.remove(&label));
        let gone = gone.into_iter().flat_map(|program| program.kept);
        gone.for_each(|one| forget(&one, store));
    }

    /// Keeps what a server before this one has written down.
    pub(super) fn restore(&mut self, bytes: &[u8]) {
        let Ok(Reply::Violations(known)) = Reply::decode(Operation::Violations, bytes) else {
            return;
        };
        for violation in known.items {
            self.last = self.last.max(violation.number);
            let program = self.programs.entry(violation.label.clone()).or_default();
            let after = |one: &Violation| one.number < violation.number;
            let place = program.kept.partition_point(after);
            program.kept.insert(place, violation);
        }
    }

    /// Those after this one. A number that is not known yet is one of a server that is gone, and its
    /// client knows nothing of this one.
    fn later(&self, after: u64) -> impl Iterator<Item = &Violation> {
        let after = if after > self.last { 0 } else { after };
        let kept = self.programs.values().flat_map(|program| &program.kept);
        kept.filter(move |one| one.number > after)
    }

    /// Those after this one, in their order.
    pub(super) fn page(&self, after: u64) -> sandbox::Violations {
        let mut later: Vec<_> = self.later(after).collect();
        later.sort_by_key(|one| one.number);
        sandbox::Violations {
            more: later.len() > MAX_VIOLATIONS,
            items: later.into_iter().take(MAX_VIOLATIONS).cloned().collect(),
        }
    }

    pub(super) fn has_any(&self, after: u64) -> bool {
        self.later(after).next().is_some()
    }

    /// Answers when there is something to tell.
    pub(super) fn wait(&mut self, after: u64, reply: SendOnceRight) {
        if self.waiters.len() >= MAX_WAITERS {
            self.waiters.pop_front();
        }
        self.waiters.push_back(Waiter { after, reply });
    }

    fn tell_waiters(&mut self) {
        for Waiter { after, reply } in std::mem::take(&mut self.waiters) {
            // One that has gone away does not need it.
            reply.send(self.answer(after)).ok();
        }
    }

    pub(super) fn answer(&self, after: u64) -> Message {
        done(&Reply::Violations(self.page(after)))
    }
}

fn one(violation: Violation) -> Vec<u8> {
    let items = vec![violation];
    Reply::Violations(sandbox::Violations { more: false, items }).encode()
}

fn forget(violation: &Violation, store: &Store) {
    store.remove(Kind::Violation, violation.number);
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(violations: &mut Violations, label: &str, name: &str) -> Option<u64> {
        let refusal = Refusal {
            operation: "mach-lookup".to_owned(),
            name,
            key: "k",
            value: "v",
            left_out: 0,
        };
        let label = label.parse().expect("a label");
        violations.note(&Store::default(), &label, 7, &refusal)
    }

    fn labels(violations: &Violations) -> Vec<String> {
        let items = violations.page(0).items.into_iter();
        items.map(|one| one.label.to_string()).collect()
    }

    #[test]
    fn a_flood_of_one_program_leaves_those_of_others() {
        let mut violations = Violations::default();
        note(&mut violations, "quiet", "a");
        let admitted = (0..10_000).filter(|_| note(&mut violations, "loud", "b").is_some());
        let admitted = admitted.count();
        assert!((100..1000).contains(&admitted), "{admitted}");
        let labels = labels(&violations);
        assert!(labels.len() <= MAX_KEPT + 1, "{}", labels.len());
        assert_eq!(labels.first().map(String::as_str), Some("quiet"));
    }

    #[test]
    fn of_one_program_the_last_are_kept() {
        let mut violations = Violations::default();
        note(&mut violations, "a", "first");
        let first = violations.page(0).items.remove(0);
        for number in 2..=MAX_KEPT as u64 {
            let known = Violation {
                number,
                ..first.clone()
            };
            violations.restore(&one(known));
        }
        note(&mut violations, "a", "last");
        let kept = violations.page(0).items;
        let numbers = kept.first().map(|one| one.number);
        assert_eq!((kept.len(), numbers), (MAX_KEPT, Some(2)));
    }

    #[test]
    fn as_many_programs_are_known_as_were_last_refused_something() {
        let mut violations = Violations::default();
        for number in 0..=MAX_PROGRAMS {
            note(&mut violations, &format!("p{number}"), "a");
        }
        let labels = labels(&violations);
        assert_eq!(labels.len(), MAX_PROGRAMS);
        assert!(!labels.contains(&"p0".to_owned()), "it was the oldest");
    }

    #[test]
    fn what_was_written_down_is_known_again_in_its_order() {
        let mut violations = Violations::default();
        for label in ["a", "b", "a"] {
            note(&mut violations, label, "x");
        }
        let mut next = Violations::default();
        for violation in violations.page(0).items.into_iter().rev() {
            next.restore(&one(violation));
        }
        assert_eq!(next.page(0), violations.page(0));
        note(&mut next, "c", "x");
        assert_eq!(next.page(3).items.len(), 1, "it has a number of its own");
        assert_eq!(next.page(u64::MAX).items.len(), 4, "of another server");
    }
}
