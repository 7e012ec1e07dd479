//! `kdbridge break` and `kdbridge watch`: waiting until the kernel comes to a place, or changes one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;

use super::bt::{Backtrace, bt};
use super::hex;
use crate::kernel::Kernel;
use crate::target::{Cpu, Stop, Target, TargetError, Trap};

/// How often it is looked whether somebody has lost patience.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a machine may take to stop when it was asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// A stop at a trap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Where the trap is.
    #[serde(serialize_with = "hex")]
    pub at: u64,
    /// What is there.
    pub name: Option<String>,
    /// How the processor got there.
    pub backtrace: Backtrace,
}

/// A variable that was written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The stop, behind the instruction that wrote.
    #[serde(flatten)]
    pub hit: Hit,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}

/// How long to wait for a trap.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// As long as this at most.
    pub time: Duration,
    /// Not any longer once this is set.
    pub told: &'a AtomicBool,
}

impl Patience<'_> {
    /// How much of it there is.
    fn left_since(self, start: Instant) -> Result<Duration, TrapError> {
        if self.told.load(Ordering::Relaxed) {
            return Err(TrapError::Told);
        }
        let left = self.time.checked_sub(start.elapsed());
        left.ok_or(TrapError::NotHit(self.time))
    }
}

/// Sets a trap, lets the machine run until it is hit, and takes it off again. The machine stands still
/// afterwards; at other stops it is made to go on.
///
/// # Errors
///
/// [`TrapError`] if the trap cannot be set, or is not hit while there is patience.
pub fn wait_for(
    target: &mut dyn Target,
    kernel: &mut Kernel,
    (at, trap): (u64, Trap),
    patience: Patience<'_>,
) -> Result<Hit, TrapError> {
    leave(target, at, trap)?;
    target.set(at, trap)?;
    let stopped = run_to(target, at, patience);
    let cleared = target.clear(at, trap);
    let cpu = match (stopped, cleared) {
        // It stands still all the same.
        (Err(TrapError::Left(why, _)), Ok(())) => return Err(*why),
        (Err(left @ TrapError::Left(..)), Err(_)) => return Err(left),
        (stopped, cleared) => {
            cleared?;
            stopped?
        }
    };
    let backtrace = bt(target, kernel, &[cpu])?.pop();
    Ok(Hit {
        at,
        name: kernel.shown_at(at),
        backtrace: backtrace.ok_or(TargetError::Protocol("a stop of no processor"))?,
    })
}

/// A processor that stands where a breakpoint is to be would be there at once.
fn leave(target: &mut dyn Target, at: u64, trap: Trap) -> Result<(), TargetError> {
    if !trap.is_breakpoint() {
        return Ok(());
    }
    for cpu in target.cpus()? {
        if target.registers(cpu)?.rip == at {
            target.step(cpu)?;
            target
                .wait(STOPS_WITHIN)?
                .ok_or(TargetError::Silent(STOPS_WITHIN))?;
        }
    }
    Ok(())
}

/// The machine stands still afterwards, unless it cannot be stopped.
fn run_to(target: &mut dyn Target, at: u64, patience: Patience<'_>) -> Result<Cpu, TrapError> {
    let start = Instant::now();
    let mut runs = false;
    loop {
        let left = match patience.left_since(start) {
            Err(why) if runs => return Err(stopped_for(target, why)),
            left => left?,
        };
        if !runs {
            target.resume()?;
            runs = true;
        }
        match target.wait(left.min(GLANCE)) {
            Ok(None) | Err(TargetError::BrokenOff) => {}
            Ok(Some(Stop::Watchpoint(cpu, _))) => return Ok(cpu),
            Ok(Some(Stop::Breakpoint(cpu))) if target.registers(cpu)?.rip == at => return Ok(cpu),
            Ok(Some(_)) => runs = false,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Stops a machine that runs, and gives `why`.
fn stopped_for(target: &mut dyn Target, why: TrapError) -> TrapError {
    target.heed(None);
    match stop(target) {
        Ok(()) => why,
        Err(error) => TrapError::Left(why.into(), error),
    }
}

fn stop(target: &mut dyn Target) -> Result<(), TargetError> {
    target.interrupt()?;
    let stopped = target.wait(STOPS_WITHIN)?;
    stopped.map(drop).ok_or(TargetError::Silent(STOPS_WITHIN))
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or_default();
        writeln!(f, "hit {:#x} {name}", self.at)?;
        self.backtrace.fmt(f)
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (&self.before, &self.after);
        writeln!(f, "was {before}, is {after}")?;
        self.hit.fmt(f)
    }
}

/// Why a trap was not hit.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrapError {
    /// Time has passed.
    #[error("not hit within {} s", .0.as_secs_f64())]
    NotHit(Duration),
    /// Somebody has lost patience.
    #[error("told to end before it was hit")]
    Told,
    /// It was not hit, and the machine cannot be stopped to take the trap off.
    #[error("{0}, and the trap stays until the kernel comes to it")]
    Left(Box<TrapError>, #[source] TargetError),
    /// The target did not do what it was asked.
    #[error(transparent)]
    Target(#[from] TargetError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Memory, Registers};

    const SECOND: Duration = Duration::from_secs(1);

    /// A machine that stops elsewhere as soon as it runs.
    #[derive(Default)]
    struct Restless {
        runs: bool,
        stops: u32,
    }

    impl Memory for Restless {
        fn read(&mut self, at: u64, _: &mut [u8]) -> Result<(), TargetError> {
            Err(TargetError::Unreadable(at))
        }
    }

    impl Target for Restless {
        fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
            Ok(vec![Cpu(0)])
        }

        fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
            Ok(Registers::default())
        }

        fn set_registers(&mut self, _: Cpu, _: &Registers) -> Result<(), TargetError> {
            Ok(())
        }

        fn write(&mut self, at: u64, _: &[u8]) -> Result<(), TargetError> {
            Err(TargetError::Unreadable(at))
        }

        fn read_physical(&mut self, at: u64, _: &mut [u8]) -> Result<(), TargetError> {
            Err(TargetError::Unreadable(at))
        }

        fn set(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
            Ok(())
        }

        fn clear(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
            Ok(())
        }

        fn resume(&mut self) -> Result<(), TargetError> {
            self.runs = true;
            Ok(())
        }

        fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
            Ok(())
        }

        fn interrupt(&mut self) -> Result<(), TargetError> {
            Ok(())
        }

        fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
            self.stops += 1;
            assert!(self.stops < 1_000_000_000, "it is let go on without end");
            let stop = Stop::Breakpoint(Cpu(0));
            Ok(std::mem::take(&mut self.runs).then_some(stop))
        }

        fn detach(&mut self) -> Result<(), TargetError> {
            Ok(())
        }
    }

    fn wait(machine: &mut Restless, time: Duration, told: bool) -> Result<Cpu, TrapError> {
        let told = &AtomicBool::new(told);
        run_to(machine, 0x1000, Patience { time, told })
    }

    #[test]
    fn stops_elsewhere_without_end_end_with_the_patience() {
        let mut machine = Restless::default();
        let start = Instant::now();
        let waited = wait(&mut machine, SECOND / 10, false);
        assert!(matches!(waited, Err(TrapError::NotHit(_))), "{waited:?}");
        assert!(start.elapsed() >= SECOND / 10);
        assert!(machine.stops > 1);
        assert!(!machine.runs, "it stands still");
        let waited = wait(&mut machine, 3600 * SECOND, true);
        assert!(matches!(waited, Err(TrapError::Told)), "{waited:?}");
    }
}
