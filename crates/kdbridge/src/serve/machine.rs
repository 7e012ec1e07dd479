//! The machine, and who controls it.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::cache::Cache;
use super::client::Id;
use super::hooks::Hooks;
use super::{Options, Whereabouts};
use crate::target::{Cpu, Stop, Target, TargetError, Trap};

/// How long a machine may take to stop. A virtual machine takes less than a millisecond, on a busy
/// computer more.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A target with what has been read of it.
pub(super) struct Machine<T> {
    pub(super) target: T,
    pub(super) cache: Cache,
    pub(super) cpus: Vec<Cpu>,
    /// The target describes its registers, and debuggers get its own packets with them.
    pub(super) native: bool,
    /// The target is LLDB's stub, which describes them as LLDB alone understands.
    pub(super) of_lldb: bool,
    /// The processors are x86-64 ones.
    pub(super) amd64: bool,
    pub(super) whereabouts: Option<Whereabouts>,
    pub(super) traps: BTreeSet<(u64, Trap)>,
    /// Those on processors of another architecture, as debuggers ask for them.
    foreign_traps: BTreeSet<String>,
    pub(super) stop: Option<Stop>,
    pub(super) options: Options,
    pub(super) hooks: Hooks,
    pub(super) controller: Option<Id>,
    pub(super) running: bool,
}

impl<T> std::fmt::Debug for Machine<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut machine = f.debug_struct("Machine");
        machine
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// Somebody else controls the machine.
#[derive(Debug)]
pub(super) struct NotYours(pub(super) Id);

impl<T: Target> Machine<T> {
    pub(super) fn new(target: T, options: Options) -> Result<Self, TargetError> {
        let mut machine = Self {
            target,
            cache: Cache::default(),
            cpus: Vec::new(),
            native: false,
            of_lldb: false,
            amd64: true,
            whereabouts: None,
            traps: BTreeSet::new(),
            foreign_traps: BTreeSet::new(),
            stop: None,
            options,
            hooks: Hooks::default(),
            controller: None,
            running: false,
        };
        machine.meet_or_leave()?;
        Ok(machine)
    }

    fn meet_or_leave(&mut self) -> Result<(), TargetError> {
        let met = self.meet();
        if met.is_err() {
            self.target.detach().ok();
        }
        met
    }

    /// Looks at the machine for the first time, and lets it run.
    fn meet(&mut self) -> Result<(), TargetError> {
        self.look_around()?;
        // One that nothing can stop has to wait for its debugger, as a program does that has not begun.
        if self.target.can_interrupt() && !self.target.is_program() {
            self.resume()?;
        }
        Ok(())
    }

    fn look_around(&mut self) -> Result<(), TargetError> {
        self.cache.clear();
        self.cpus = self.target.cpus()?;
        let first = self.first_cpu();
        let description = self
            .target
            .forward(first, b"qXfer:features:read:target.xml:0,200")?
            .unwrap_or_default();
        self.of_lldb = String::from_utf8_lossy(&description).contains(">x86_64<");
        self.amd64 = self.target.is_amd64() && self.target.registers(first).is_ok();
        // Without a description, and with other registers: the target's packets as they are.
        self.native = matches!(description.first(), Some(b'm' | b'l')) || !self.amd64;
        self.whereabouts = match self.may_have_kernel() {
            true => (self.options.locate)(&mut self.target),
            false => None,
        };
        Ok(())
    }

    /// Takes another target in the place of one that is gone, and lets it run. Nothing is known of it.
    pub(super) fn replace(&mut self, target: T) -> Result<(), TargetError> {
        self.target = target;
        self.traps.clear();
        self.foreign_traps.clear();
        self.hooks = Hooks::default();
        self.stop = None;
        self.controller = None;
        self.running = false;
        self.meet_or_leave()
    }

    /// One to look from, if nothing says which.
    pub(super) fn first_cpu(&self) -> Cpu {
        self.cpus.first().copied().unwrap_or(Cpu(0))
    }

    /// The threads that debuggers see, as lists name them.
    pub(super) fn threads(&self) -> String {
        let threads = self.cpus.iter().map(|cpu| format!("{:x}", cpu.0 + 1));
        threads.collect::<Vec<_>>().join(",")
    }

    /// Whether this may be a machine with a kernel that is known here, and with its modules. A program
    /// has libraries instead.
    pub(super) fn may_have_kernel(&self) -> bool {
        self.amd64 && !self.target.is_program()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn is_program(&self) -> bool {
        self.target.is_program()
    }

    /// What is readable when the machine, which runs, may have stopped.
    pub(super) fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.target.readiness()
    }

    /// Makes the machine stand still, for the first debugger; where that fails it goes on.
    pub(super) fn begin(&mut self) -> Result<(), TargetError> {
        let ran = self.running;
        self.halt()?;
        // What a debugger has left that could not be taken off before, and may stay.
        let cleared = self.clear_all().or_else(TargetError::survived);
        let looked = cleared.and_then(|()| self.look_around());
        if looked.is_err() && ran {
            self.resume()?;
        }
        looked
    }

    /// Whether a stop that nobody waits for was meant: nothing stops this machine but what happens in it,
    /// and it is no trap of a debugger that has left.
    pub(super) fn stopped_by_itself(&self) -> bool {
        let trapped = matches!(self.stop, Some(Stop::Breakpoint(_) | Stop::Watchpoint(..)));
        let others = self.traps.is_empty() && !self.hooks.are_set();
        !self.target.can_interrupt() && (others || !trapped)
    }

    fn halt(&mut self) -> Result<(), TargetError> {
        if !self.running {
            return Ok(());
        }
        self.target.interrupt()?;
        let stop = self.target.wait(STOP_PATIENCE)?;
        self.stopped(stop.ok_or(TargetError::Silent(STOP_PATIENCE))?)
    }

    fn stopped(&mut self, stop: Stop) -> Result<(), TargetError> {
        self.running = false;
        self.stop = Some(stop);
        // Tasks and the threads of programs begin and end.
        self.cpus = self.target.cpus()?;
        Ok(())
    }

    /// Whether the machine has stopped for a debugger to know of.
    pub(super) fn look(&mut self) -> Result<bool, TargetError> {
        if !self.running {
            // What a target says while it stands still is of no interest, but must not be left unread.
            self.target.wait(Duration::ZERO)?;
            return Ok(false);
        }
        let Some(stop) = self.target.wait(Duration::ZERO)? else {
            return Ok(false);
        };
        self.stopped(stop)?;
        Ok(!self.goes_on(stop)?)
    }

    /// Asks for control, which whoever asks first has until it leaves.
    pub(super) fn control(&mut self, id: Id) -> Result<(), NotYours> {
        match self.controller {
            Some(other) if other != id => Err(NotYours(other)),
            _ => {
                self.controller = Some(id);
                Ok(())
            }
        }
    }

    pub(super) fn resume(&mut self) -> Result<(), TargetError> {
        self.cache.clear();
        self.hooks.steps = false;
        if self.pass_hook()? {
            return Ok(());
        }
        self.run()
    }

    pub(super) fn run(&mut self) -> Result<(), TargetError> {
        self.target.resume()?;
        self.runs();
        if self.hooks.interrupted {
            self.target.interrupt()?;
        }
        Ok(())
    }

    pub(super) fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.cache.clear();
        self.lift_hook(cpu)?;
        self.hooks.steps = true;
        self.target.step(cpu)?;
        self.runs();
        Ok(())
    }

    /// What it stopped for is of no interest any more.
    pub(super) fn runs(&mut self) {
        self.running = true;
        self.stop = None;
    }

    /// Only who made it run may stop it.
    pub(super) fn interrupt(&mut self, id: Id) -> Result<(), TargetError> {
        if self.controller != Some(id) {
            return Ok(());
        }
        if self.running && !self.hooks.pass() {
            self.target.interrupt()?;
        }
        let runs_for_it = self.running || self.news_of_libraries().is_some();
        self.hooks.interrupted = runs_for_it && self.target.can_interrupt();
        Ok(())
    }

    pub(super) fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        match self.target.set(at, trap) {
            Err(TargetError::TooMany(_)) if self.give_up_hooks()? => self.target.set(at, trap)?,
            result => result?,
        }
        self.traps.insert((at, trap));
        Ok(())
    }

    pub(super) fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        let is_hook = trap == Trap::Software && self.hooks.is_set(at);
        if self.traps.contains(&(at, trap)) && !is_hook {
            self.target.clear(at, trap)?;
        }
        self.traps.remove(&(at, trap));
        Ok(())
    }

    /// Sets or takes off a trap on a processor of another architecture, in the words of the debugger;
    /// gives the target's answer.
    pub(super) fn set_foreign(
        &mut self,
        cpu: Cpu,
        kind: u8,
        operands: String,
    ) -> Result<Vec<u8>, TargetError> {
        let request = [&[kind], operands.as_bytes()].concat();
        let reply = self.target.forward(cpu, &request)?.unwrap_or_default();
        match (kind, reply.as_slice()) {
            (b'Z', b"OK") => drop(self.foreign_traps.insert(operands)),
            (b'z', _) => drop(self.foreign_traps.remove(&operands)),
            _ => {}
        }
        Ok(reply)
    }

    /// Takes everything off that this debugger has set.
    pub(super) fn release(&mut self, id: Id) -> Result<(), TargetError> {
        if self.controller != Some(id) {
            return Ok(());
        }
        self.controller = None;
        let has_traps = !self.traps.is_empty() || !self.foreign_traps.is_empty();
        if !has_traps && !self.hooks.are_set() {
            return Ok(());
        }
        let ran = self.running;
        if ran && !self.target.can_interrupt() {
            // They come off when it meets one of them.
            return Ok(());
        }
        self.halt()?;
        let cleared = self.clear_all();
        if ran {
            self.resume()?;
        }
        cleared
    }

    /// Takes everything off that is not the machine's own. What cannot be taken off is remembered, and does not
    /// keep anything else.
    pub(super) fn clear_all(&mut self) -> Result<(), TargetError> {
        let mut cleared = self.unhook();
        for (at, trap) in self.traps.clone() {
            if matches!(cleared, Err(TargetError::Silent(_))) {
                break;
            }
            cleared = cleared.and(self.clear(at, trap));
        }
        for operands in self.foreign_traps.clone() {
            let reply = self.set_foreign(self.first_cpu(), b'z', operands);
            cleared = cleared.and(reply.map(drop));
        }
        cleared
    }

    /// Leaves the machine for good. A stub would end a program whose debugger only hangs up.
    pub(super) fn part(&mut self) -> Result<(), TargetError> {
        if !self.target.is_program() {
            let left = self.leave_alone();
            if left.as_ref().is_err_and(|error| !error.is_final()) {
                // It may hear that, though it says nothing.
                self.target.detach().ok();
            }
            return left;
        }
        self.controller = None;
        self.halt()?;
        let cleared = self.clear_all();
        self.target.detach()?;
        cleared
    }

    /// Lets the machine run on, as if nobody had been there.
    pub(super) fn leave_alone(&mut self) -> Result<(), TargetError> {
        let released = self.controller.map_or(Ok(()), |id| self.release(id));
        if self.running {
            return released;
        }
        let cleared = self.clear_all();
        self.resume()?;
        released.and(cleared)
    }

    /// The same after a stop; not if what it stopped at stays, and would stop it again at once.
    pub(super) fn pass_by(&mut self) -> Result<(), TargetError> {
        self.clear_all()?;
        self.leave_alone()
    }
}
