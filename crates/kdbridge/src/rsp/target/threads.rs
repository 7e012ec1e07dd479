//! What a stub calls threads: the processors of a virtual machine, the tasks of a kernel with kgdb, the
//! threads of a program.

use std::collections::{BTreeMap, BTreeSet};

use super::hex;
use crate::target::{Cpu, TargetError};

/// The most at one time.
pub(super) const MAX: usize = 4096;

/// Which number each has here. It keeps it, and what has ended leaves a gap.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// How the stub calls them, by number.
    names: Vec<String>,
    numbers: BTreeMap<String, Cpu>,
    live: BTreeSet<Cpu>,
}

impl Threads {
    /// Takes a new list of all that there are, [`MAX`] at most.
    pub(super) fn update(&mut self, list: Vec<String>) {
        if self.names.len() + list.len() > 2 * MAX {
            // Numbers of what has ended long ago are given anew.
            *self = Self::default();
        }
        self.live.clear();
        for name in list {
            let next = Cpu(self.names.len() as u32);
            let cpu = *self.numbers.entry(name.clone()).or_insert(next);
            if cpu == next {
                self.names.push(name);
            }
            self.live.insert(cpu);
        }
    }

    pub(super) fn live(&self) -> Vec<Cpu> {
        self.live.iter().copied().collect()
    }

    pub(super) fn name(&self, cpu: Cpu) -> Result<&str, TargetError> {
        let name = self.names.get(cpu.0 as usize);
        let name = name.filter(|_| self.live.contains(&cpu));
        name.map(String::as_str)
            .ok_or(TargetError::Refused("have that processor"))
    }

    /// The one that the stub calls so, perhaps in other words.
    pub(super) fn find(&self, name: &[u8]) -> Option<Cpu> {
        let same = |known: &String| is_same(known.as_bytes(), name);
        let mut live = self.live.iter();
        live.find(|cpu| self.names.get(cpu.0 as usize).is_some_and(same))
            .copied()
    }
}

/// QEMU writes `01` here and `1` there.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || hex::number(one).is_some_and(|one| hex::number(other) == Some(one))
}

/// `1`, `p1.2`; nothing that would end or change a request.
pub(super) fn is_thread(id: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'p' | b'.');
    !id.is_empty() && id.len() <= 40 && id.iter().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn threads_are_compared_as_numbers() {
        assert!(is_same(b"01", b"1"));
        assert!(is_same(b"p1.2", b"p1.2"));
        assert!(!is_same(b"p1.2", b"p1.1"));
        assert!(!is_thread(b"p1.-1"));
        assert!(is_thread(b"p1.2"));
    }

    #[test]
    fn a_thread_keeps_its_number() {
        let mut threads = Threads::default();
        threads.update(list(&["fffffffe", "01", "1f"]));
        threads.update(list(&["fffffffe", "1f", "2a"]));
        assert_eq!(threads.live(), [Cpu(0), Cpu(2), Cpu(3)]);
        assert_eq!(threads.name(Cpu(3)).unwrap(), "2a");
        assert!(threads.name(Cpu(1)).is_err());
        assert_eq!(threads.find(b"0000001f"), Some(Cpu(2)));
        assert_eq!(threads.find(b"01"), None);
    }

    #[test]
    fn numbers_have_an_end() {
        let mut threads = Threads::default();
        for turn in 0..5 {
            let first = turn * MAX;
            let names = (first..first + MAX).map(|number| format!("{number:x}"));
            threads.update(names.collect());
            assert!(threads.live().iter().all(|cpu| cpu.0 < 2 * MAX as u32));
        }
    }
}
