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
    let stopped = match run_to(target, at, patience) {
        Err(why @ (TrapError::NotHit(_) | TrapError::Told)) => match stop(target) {
            Ok(()) => Err(why),
            Err(error) => return Err(TrapError::Left(why.into(), error)),
        },
        stopped => stopped,
    };
    target.clear(at, trap)?;
    let cpu = stopped?;
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

fn run_to(target: &mut dyn Target, at: u64, patience: Patience<'_>) -> Result<Cpu, TrapError> {
    let start = Instant::now();
    target.resume()?;
    loop {
        let left = patience.time.saturating_sub(start.elapsed());
        match target.wait(left.min(GLANCE))? {
            None if patience.told.load(Ordering::Relaxed) => return Err(TrapError::Told),
            None if left.is_zero() => return Err(TrapError::NotHit(patience.time)),
            None => {}
            Some(Stop::Watchpoint(cpu, _)) => return Ok(cpu),
            Some(Stop::Breakpoint(cpu)) if target.registers(cpu)?.rip == at => return Ok(cpu),
            Some(_) => target.resume()?,
        }
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
