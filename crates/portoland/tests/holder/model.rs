//! What a busy server does, step by step, so that its table follows from the number of steps.

use std::collections::BTreeMap;

use super::held::{Begun, Held};

/// What is done in one step, counted from 1.
pub(super) enum Step {
    Put { id: u64 },
    Remove { id: u64 },
}

pub(super) fn step(number: u64) -> Step {
    let id = number % 16;
    if number % 5 == 4 {
        Step::Remove { id }
    } else {
        Step::Put { id }
    }
}

/// The table after so many steps: each entry has the number of the step that put it.
pub(super) fn table(steps: u64) -> BTreeMap<u64, u64> {
    let mut table = BTreeMap::new();
    for number in steps.saturating_sub(15)..=steps {
        match step(number) {
            Step::Put { id } if number > 0 => table.insert(id, number),
            Step::Put { id } | Step::Remove { id } => table.remove(&id),
        };
    }
    table
}

/// What the test knows of a busy server.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The last step that it said was done.
    done: u64,
}

impl Model {
    /// Listens to so many steps.
    pub(super) fn follow(&mut self, held: &Held, steps: u64) {
        for _ in 0..steps {
            let text = held.hear();
            let done = text
                .strip_prefix("done ")
                .unwrap_or_else(|| panic!("{text:?}"));
            self.done = done.parse().expect("a number");
        }
    }

    /// Listens until the next server begins, and checks what that has recovered: all steps that
    /// were said to be done, and at most the one after.
    pub(super) fn follow_to_the_next(&mut self, held: &mut Held) -> Begun {
        loop {
            let text = held.hear();
            match text.strip_prefix("done ") {
                Some(done) => self.done = done.parse().expect("a number"),
                None => return self.check(&text),
            }
        }
    }

    fn check(&mut self, text: &str) -> Begun {
        let begun = Begun::parse(text).unwrap_or_else(|| panic!("{text:?}"));
        if begun.entries != table(self.done) {
            self.done += 1;
            assert_eq!(begun.entries, table(self.done), "after step {}", self.done);
        }
        begun
    }
}
