//! How a stub says that the machine stopped.

use std::time::Duration;

use super::{Deadline, MAX_ASIDES, RspTarget, State, Step, hex};
use crate::target::{Cpu, End, Stop, Target as _, TargetError, Trap};

const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;

/// How often a step is asked for that leaves everything as it was.
const MAX_STEPS: u32 = 4;

impl RspTarget {
    pub(super) fn wait_for_stop(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Stop>, TargetError> {
        if self.state == State::Stopped {
            return self.drain().map(|()| None);
        }
        let deadline = Deadline::after(patience);
        let mut asides = 0;
        while let Some(reply) = self.link.receive(deadline)? {
            if let Some(end) = end(&reply) {
                return Err(TargetError::Ended(end));
            }
            // Others are output of a console, or an answer that came too late.
            if is_stop(&reply) {
                let stepping = self.state == State::Stepping;
                self.state = State::Stopped;
                if self.threads_change {
                    self.list_threads()?;
                }
                if stepping && self.step_again(&reply)? {
                    continue;
                }
                return self.stopped(&reply, stepping).map(Some);
            }
            // What has been read is looked at now: nothing will tell that it is there.
            asides += u32::from(deadline.has_passed());
            if asides > 0 && !self.link.has_unread() || asides > MAX_ASIDES {
                break;
            }
        }
        Ok(None)
    }

    /// Where the processor stands that is to step, if QEMU may say too early that it has.
    pub(super) fn step_to_check(&mut self, cpu: Cpu) -> Result<Option<Step>, TargetError> {
        if !self.pipelined || !self.amd64 {
            return Ok(None);
        }
        Ok(Some(Step {
            cpu,
            before: self.registers(cpu)?,
            tries: MAX_STEPS - 1,
        }))
    }

    /// Steps again if nothing was executed, as it happens with QEMU where several processors come to breakpoints.
    /// An instruction that jumps to itself may be executed more than once.
    fn step_again(&mut self, reply: &[u8]) -> Result<bool, TargetError> {
        let Some(step) = self.step.take().filter(|step| step.tries > 0) else {
            return Ok(false);
        };
        if signal(reply) != SIGTRAP || self.registers(step.cpu)? != step.before {
            return Ok(false);
        }
        self.ask_for_step(step.cpu)?;
        let tries = step.tries - 1;
        self.step = Some(Step { tries, ..step });
        Ok(true)
    }

    /// Takes what a machine says that stands still; else its end would never be noticed.
    fn drain(&mut self) -> Result<(), TargetError> {
        for _ in 0..MAX_ASIDES {
            let Some(reply) = self.link.receive(Deadline::after(Duration::ZERO))? else {
                break;
            };
            if let Some(end) = end(&reply) {
                return Err(TargetError::Ended(end));
            }
            if !is_stop(&reply) {
                self.has_answered(&reply);
            }
        }
        Ok(())
    }

    fn stopped(&mut self, reply: &[u8], stepping: bool) -> Result<Stop, TargetError> {
        let signal = signal(reply);
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
                b"thread" => cpu = self.threads.find(value).unwrap_or(cpu),
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
        let has_breakpoints = self.traps.keys().any(|(_, trap)| trap.is_breakpoint());
        if !has_breakpoints || !self.amd64 {
            let stop = if stepping {
                Stop::Stepped
            } else {
                Stop::Breakpoint
            };
            return Ok(stop(cpu));
        }
        let mut registers = self.registers(cpu)?;
        let at = |rip, trap| self.traps.contains_key(&(rip, trap));
        let mut hit = at(registers.rip, Trap::Software) || at(registers.rip, Trap::Hardware);
        let before = registers.rip.wrapping_sub(1);
        if !hit && !stepping && at(before, Trap::Software) {
            // kgdb leaves it behind the breakpoint, where the processor does.
            registers.rip = before;
            self.set_registers(cpu, &registers)?;
            hit = true;
        }
        Ok(match (hit, stepping) {
            (false, true) => Stop::Stepped(cpu),
            (true, _) => Stop::Breakpoint(cpu),
            (false, false) => Stop::Signal(cpu, SIGTRAP),
        })
    }
}

fn signal(stop: &[u8]) -> u8 {
    stop.get(1..3).and_then(hex::number).unwrap_or_default() as u8
}

/// `T05…` or `S05`.
pub(super) fn is_stop(reply: &[u8]) -> bool {
    matches!(reply, [b'T' | b'S', signal @ ..] if signal.len() >= 2 && hex::number(&signal[..2]).is_some())
}

/// `W00` or `X09`: what was debugged has ended.
pub(super) fn end(reply: &[u8]) -> Option<End> {
    let status = reply.get(1..3).and_then(hex::number)? as u8;
    match reply.first() {
        Some(b'W') => Some(End::Exit(status)),
        Some(b'X') => Some(End::Signal(status)),
        _ => None,
    }
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
        assert_eq!(end(b"W03"), Some(End::Exit(3)));
        assert_eq!(end(b"X09;process:1a"), Some(End::Signal(9)));
        assert_eq!(end(b"X"), None);
        assert_eq!(end(b"T05"), None);
    }
}
