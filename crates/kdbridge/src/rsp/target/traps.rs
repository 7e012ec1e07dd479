//! Breakpoints and watchpoints.

use std::ops::RangeInclusive;

use super::RspTarget;
use crate::target::{TargetError, Trap};

impl RspTarget {
    pub(super) fn set_trap(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        if self.traps.contains_key(&(at, trap)) {
            return Ok(());
        }
        // QEMU takes a breakpoint where nothing is, and it is never hit.
        let mut original = vec![0; self.instruction()];
        self.read_memory(at, &mut original)?;
        let request = format!("Z{}", self.operands(at, trap));
        // It is there too if the answer is late.
        self.traps.insert((at, trap), original);
        let reply = self.ask(request.as_bytes())?;
        if reply == b"OK" {
            return Ok(());
        }
        self.traps.remove(&(at, trap));
        Err(match reply.is_empty() {
            true => TargetError::Refused("know such traps"),
            false => self.refusal(trap),
        })
    }

    pub(super) fn clear_trap(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        if !self.traps.contains_key(&(at, trap)) {
            return Err(TargetError::Refused("have such a trap there"));
        }
        self.standing()?;
        let request = format!("z{}", self.operands(at, trap));
        if self.ask(request.as_bytes())? != b"OK" {
            return Err(TargetError::Refused("take the trap off"));
        }
        self.traps.remove(&(at, trap));
        Ok(())
    }

    pub(super) fn clear_traps(&mut self) -> Result<(), TargetError> {
        let traps: Vec<_> = self.traps.keys().copied().collect();
        let clear = |(at, trap)| self.clear_trap(at, trap);
        traps.into_iter().map(clear).fold(Ok(()), Result::and)
    }

    /// Puts what was there before in the place of breakpoints.
    pub(super) fn hide_traps(&self, at: u64, into: &mut [u8]) {
        for ((place, trap), original) in self.traps.range(reach(at, into.len())) {
            if *trap == Trap::Software {
                put_over(into, at, *place, original);
            }
        }
    }

    /// The same of physical memory, as far as page tables tell which place a breakpoint is at. Those of a program
    /// show, but for those of the one that the processor runs.
    pub(super) fn hide_traps_in_physical(
        &mut self,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), TargetError> {
        let software = |((place, trap), original): (&(u64, Trap), &Vec<u8>)| {
            (*trap == Trap::Software).then(|| (*place, original.clone()))
        };
        let traps: Vec<_> = self.traps.iter().filter_map(software).collect();
        for (place, original) in traps {
            if let Some(place) = self.physical_place(place)? {
                put_over(into, at, place, &original);
            }
        }
        Ok(())
    }

    /// Writes to memory. A breakpoint is taken off for that and set again: the stub may put back later what was
    /// there when it was set.
    pub(super) fn write_below_traps(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        let covered = self.traps.range(reach(at, from.len()));
        let covered = covered.map(|(key, _)| *key);
        let covered: Vec<_> = covered.filter(|(_, it)| *it == Trap::Software).collect();
        for &(place, trap) in &covered {
            self.clear_trap(place, trap)?;
        }
        let written = self.write_memory(at, from);
        let set = |(place, trap)| self.set_trap(place, trap);
        let set = covered.into_iter().map(set).fold(Ok(()), Result::and);
        written.and(set)
    }

    /// The size of the instruction that a software breakpoint is.
    fn instruction(&self) -> usize {
        if self.amd64 { 1 } else { 4 }
    }

    fn operands(&self, at: u64, trap: Trap) -> String {
        let (kind, size) = match trap {
            Trap::Software => (0, self.instruction() as u8),
            Trap::Hardware => (1, self.instruction() as u8),
            Trap::Write(size) => (2, size),
            Trap::Read(size) => (3, size),
            Trap::Access(size) => (4, size),
        };
        format!("{kind},{at:x},{size:x}")
    }

    fn refusal(&self, trap: Trap) -> TargetError {
        if trap == Trap::Software {
            return TargetError::Refused("take that breakpoint");
        }
        let taken = self
            .traps
            .keys()
            .filter(|(_, trap)| *trap != Trap::Software);
        TargetError::TooMany(taken.count() as u32)
    }
}

/// The keys of traps whose instructions may reach into this many bytes at `at`.
fn reach(at: u64, length: usize) -> RangeInclusive<(u64, Trap)> {
    /// As long as the longest of them.
    const BEFORE: u64 = 8;
    let last = at.saturating_add((length as u64).saturating_sub(1));
    (at.saturating_sub(BEFORE), Trap::Software)..=(last, Trap::Software)
}

/// Puts `original`, which belongs at `place`, over what was read at `at`.
fn put_over(into: &mut [u8], at: u64, place: u64, original: &[u8]) {
    for (byte, offset) in original.iter().zip(0..) {
        let index = place
            .wrapping_add(offset)
            .checked_sub(at)
            .map(|index| index as usize);
        if let Some(shown) = index.and_then(|index| into.get_mut(index)) {
            *shown = *byte;
        }
    }
}
