//! Breakpoints and watchpoints.

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
        match self.ask(request.as_bytes())?.as_slice() {
            b"OK" => {}
            b"" => return Err(TargetError::Refused("know such traps")),
            _ => return Err(self.refusal(trap)),
        }
        self.traps.insert((at, trap), original);
        Ok(())
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
        let Some(length) = into.len().checked_sub(1) else {
            return;
        };
        let last = at.saturating_add(length as u64);
        let first = at.saturating_sub(8);
        for ((place, trap), original) in self.traps.range((first, Trap::Software)..) {
            if *place > last {
                break;
            }
            if *trap != Trap::Software {
                continue;
            }
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
