//! How a stub says that the machine stopped.

use std::time::Duration;

use super::{Deadline, RspTarget, State, hex};
use crate::target::{Cpu, Stop, Target as _, TargetError, Trap};

const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;

impl RspTarget {
    pub(super) fn wait_for_stop(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Stop>, TargetError> {
        if self.state == State::Stopped {
            return Ok(self.stop.take());
        }
        let deadline = Deadline::after(patience);
        while let Some(reply) = self.link.receive(deadline)? {
            if is_end(&reply) {
                return Err(TargetError::Gone);
            }
            // Others are output of a console, or an answer that came too late.
            if is_stop(&reply) {
                let stepping = self.state == State::Stepping;
                self.state = State::Stopped;
                return self.stopped(&reply, stepping).map(Some);
            }
        }
        Ok(None)
    }

    fn stopped(&mut self, reply: &[u8], stepping: bool) -> Result<Stop, TargetError> {
        let signal = reply.get(1..3).and_then(hex::number).unwrap_or_default() as u8;
        let fields = reply
            .get(3..)
            .unwrap_or_default()
            .split(|&byte| byte == b';');
        let fields = fields.filter_map(|field| {
            let colon = field.iter().position(|&byte| byte == b':')?;
            Some((&field[..colon], &field[colon + 1..]))
        });
        let mut cpu = Cpu(0);
        let mut watched = None;
        for (key, value) in fields {
            match key {
                b"thread" => cpu = self.cpu(value),
                b"watch" | b"rwatch" | b"awatch" => watched = hex::number(value),
                _ => {}
            }
        }
        match (signal, watched) {
            (SIGTRAP, Some(at)) => Ok(Stop::Watchpoint(cpu, at)),
            (SIGTRAP, None) => self.trapped(cpu, stepping),
            (SIGINT, _) => Ok(Stop::Interrupted(cpu)),
            // QEMU's word for a machine that was paused.
            (0, _) => Ok(Stop::Interrupted(cpu)),
            _ => Ok(Stop::Signal(cpu, signal)),
        }
    }

    /// A stop after a step may be at a breakpoint as well.
    fn trapped(&mut self, cpu: Cpu, stepping: bool) -> Result<Stop, TargetError> {
        let breakpoints = self.traps.keys();
        let mut breakpoints =
            breakpoints.filter(|(_, trap)| matches!(trap, Trap::Software | Trap::Hardware));
        if breakpoints.next().is_none() || !self.amd64 {
            let stop = if stepping {
                Stop::Stepped
            } else {
                Stop::Breakpoint
            };
            return Ok(stop(cpu));
        }
        let rip = self.registers(cpu)?.rip;
        let at = |trap| self.traps.contains_key(&(rip, trap));
        let hit = at(Trap::Software) || at(Trap::Hardware);
        Ok(match (hit, stepping) {
            (false, true) => Stop::Stepped(cpu),
            (true, _) => Stop::Breakpoint(cpu),
            (false, false) => Stop::Signal(cpu, SIGTRAP),
        })
    }

    fn cpu(&self, thread: &[u8]) -> Cpu {
        let found = self
            .threads
            .iter()
            .position(|known| is_same(known.as_bytes(), thread));
        Cpu(found.unwrap_or(0) as u32)
    }
}

/// QEMU writes `01` here and `1` there.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let number = |thread: &[u8]| hex::number(thread);
    one == other || number(one).is_some_and(|one| number(other) == Some(one))
}

/// `T05…` or `S05`.
pub(super) fn is_stop(reply: &[u8]) -> bool {
    matches!(reply, [b'T' | b'S', signal @ ..] if signal.len() >= 2 && hex::number(&signal[..2]).is_some())
}

/// `W00` or `X09`: what was debugged has ended.
pub(super) fn is_end(reply: &[u8]) -> bool {
    matches!(reply, [b'W' | b'X', status @ ..] if status.len() >= 2 && hex::number(&status[..2]).is_some())
}

/// `1`, `p1.2`; nothing that would end or change a request.
pub(super) fn is_thread(id: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'p' | b'.');
    !id.is_empty() && id.len() <= 40 && id.iter().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_from_other_answers() {
        assert!(is_stop(b"T02thread:01;"));
        assert!(is_stop(b"S05"));
        assert!(!is_stop(b"E14"));
        assert!(!is_stop(b"Text"));
        assert!(!is_stop(b"TextSeg=0"));
        assert!(is_end(b"W00"));
        assert!(!is_end(b"X"));
    }

    #[test]
    fn threads_are_compared_as_numbers() {
        assert!(is_same(b"01", b"1"));
        assert!(is_same(b"p1.2", b"p1.2"));
        assert!(!is_same(b"p1.2", b"p1.1"));
        assert!(!is_thread(b"p1.-1"));
        assert!(is_thread(b"p1.2"));
    }
}
