//! Noticing what the kernel loads and unloads while it runs.
//!
//! A debugger that has asked for modules wants to know when there are others. The server has breakpoints
//! of its own where the kernel loads and unloads, and tells a debugger of a stop there only if the list is
//! another one. The debugger reads the list, puts breakpoints into what is new, and goes on by itself.

use std::collections::BTreeSet;

use super::client::Talk;
use super::dialect::Dialect;
use super::machine::Machine;
use super::{Library, Parts};
use crate::modules::library_list;
use crate::target::{Cpu, Stop, Target, TargetError, Trap};

/// The state of a list that is no more.
const OUTDATED: u64 = u64::MAX;

/// The server's own breakpoints, and the modules when it last looked.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// Somebody wants them, and they were set where that was possible.
    wanted: bool,
    set: BTreeSet<u64>,
    /// One that is off while the processor at it executes the instruction there.
    lifted: Option<Lifted>,
    /// The last stop is one at a hook, and there are other modules.
    news: Option<(Cpu, u64)>,
    /// A debugger has asked for what runs: a step.
    pub(super) steps: bool,
    /// A debugger has asked for a stop, and was not told of one since. A machine that has just stopped at
    /// a hook does not hear of it.
    pub(super) interrupted: bool,
    libraries: Vec<Library>,
    /// How many other lists there were before.
    state: u64,
}

#[derive(Debug)]
struct Lifted {
    at: u64,
    /// Nobody has asked for the step, and the machine runs on after it.
    runs_on: bool,
}

impl Hooks {
    pub(super) fn is_set(&self, at: u64) -> bool {
        self.set.contains(&at)
    }

    pub(super) fn are_set(&self) -> bool {
        !self.set.is_empty()
    }

    /// Whether the processor steps over a hook, and the machine runs on then.
    pub(super) fn pass(&self) -> bool {
        self.lifted.as_ref().is_some_and(|lifted| lifted.runs_on)
    }
}

impl<T: Target> Machine<T> {
    /// The modules, as a debugger reads them.
    pub(super) fn libraries(&mut self, talk: &mut Talk) -> Result<String, TargetError> {
        if talk.dialect == Dialect::Lldb && !self.options.modules.are_for_lldb() {
            return Ok(library_list([]));
        }
        self.list_libraries()?;
        talk.knows_libraries = Some(self.hooks.state);
        if talk.dialect == Dialect::Gdb {
            let libraries = self.hooks.libraries.iter();
            let listed =
                libraries.filter_map(|library| Some((library.file.to_str()?, &library.parts)));
            return Ok(library_list(listed));
        }
        let copies = self.options.modules.copies(&mut self.target);
        if !talk.takes_copies(copies) {
            talk.knows_libraries = Some(OUTDATED);
        }
        let nothing = self.options.modules.nothing();
        let listed = nothing.iter().chain(&talk.copies);
        let listed =
            listed.filter_map(|(path, base)| Some((path.to_str()?, Parts::Sections(vec![*base]))));
        let listed: Vec<_> = listed.collect();
        Ok(library_list(
            listed.iter().map(|(path, parts)| (*path, parts)),
        ))
    }

    /// What a debugger is told that wants to go on and was not told of all modules.
    pub(super) fn rest_of_libraries(
        &mut self,
        talk: &mut Talk,
    ) -> Result<Option<String>, TargetError> {
        if talk.knows_libraries != Some(OUTDATED) {
            return Ok(None);
        }
        // If it does not ask, it is not told again.
        talk.knows_libraries = Some(self.hooks.state);
        let cpu = self.stop.map_or(Cpu(0), Stop::cpu);
        self.library_stop(cpu, talk).map(Some)
    }

    /// Another number whenever the list of modules is another one.
    pub(super) fn libraries_state(&self) -> u64 {
        self.hooks.state
    }

    /// The processor that loads or unloads, if the machine stands still for nothing else.
    pub(super) fn news_of_libraries(&self) -> Option<Cpu> {
        self.hooks.news.map(|(cpu, _)| cpu)
    }

    /// Whether there are other modules than before. No breakpoint stays in those that are gone: debuggers
    /// forget theirs.
    fn list_libraries(&mut self) -> Result<bool, TargetError> {
        let now = self.options.modules.list(&mut self.target);
        if now == self.hooks.libraries {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.hooks.libraries, now);
        self.hooks.state += 1;
        for (at, trap) in self.traps.clone() {
            if trap.is_breakpoint() && is_in(&before, at) && !is_in(&self.hooks.libraries, at) {
                // Where there is no memory any more there is nothing to take off.
                self.clear(at, trap).or_else(TargetError::survived)?;
                self.traps.remove(&(at, trap));
            }
        }
        Ok(true)
    }

    /// Sets the hooks, unless that was done already.
    pub(super) fn hook(&mut self) -> Result<(), TargetError> {
        if !self.may_have_kernel() || std::mem::replace(&mut self.hooks.wanted, true) {
            return Ok(());
        }
        for at in self.options.modules.hooks(&mut self.target) {
            self.set_hook(at)?;
        }
        Ok(())
    }

    fn set_hook(&mut self, at: u64) -> Result<(), TargetError> {
        match self.target.set(at, Trap::Software) {
            Ok(()) => {
                self.hooks.set.insert(at);
            }
            Err(TargetError::Gone) => return Err(TargetError::Gone),
            Err(error) => self.remark_hooks(&error),
        }
        Ok(())
    }

    fn remark_hooks(&mut self, why: &dyn std::fmt::Display) {
        let text = format!("modules that are loaded from now on may not be noticed: {why}");
        (self.options.remark)(&text);
    }

    /// Takes the hooks off; they are set again when somebody wants them.
    pub(super) fn unhook(&mut self) -> Result<(), TargetError> {
        let lifted = self.hooks.lifted.take().map(|lifted| lifted.at);
        self.hooks.news = None;
        self.hooks.interrupted = false;
        self.hooks.wanted = false;
        let mut cleared = Ok(());
        for at in std::mem::take(&mut self.hooks.set) {
            let is_theirs = self.traps.contains(&(at, Trap::Software));
            if lifted == Some(at) || is_theirs {
                continue;
            }
            let result = self.target.clear(at, Trap::Software);
            if result.is_err() {
                self.hooks.set.insert(at);
            }
            cleared = cleared.and(result);
        }
        cleared
    }

    /// Makes room for a debugger's breakpoint; says whether there is more of it now.
    pub(super) fn give_up_hooks(&mut self) -> Result<bool, TargetError> {
        if !self.hooks.are_set() {
            return Ok(false);
        }
        let news = self.hooks.news;
        self.unhook()?;
        self.hooks.news = news;
        self.hooks.wanted = true;
        self.remark_hooks(&"the target has no room for more breakpoints");
        Ok(true)
    }

    /// Whether the machine runs again after a stop that concerns nobody but the server.
    pub(super) fn goes_on(&mut self, stop: Stop) -> Result<bool, TargetError> {
        self.hooks.news = None;
        let goes_on = self.is_passed(stop)?;
        self.hooks.interrupted &= goes_on || self.hooks.news.is_some();
        Ok(goes_on)
    }

    fn is_passed(&mut self, stop: Stop) -> Result<bool, TargetError> {
        let stepped = matches!(stop, Stop::Stepped(_));
        if let Some(lifted) = self.hooks.lifted.take() {
            self.set_hook(lifted.at)?;
            if lifted.runs_on && stepped {
                self.run()?;
                return Ok(true);
            }
        }
        let Stop::Breakpoint(cpu) = stop else {
            return Ok(false);
        };
        let Some(at) = self.hook_at(cpu)? else {
            return Ok(false);
        };
        if self.controller.is_none() {
            // Nobody could take it off when the debugger left.
            if let Err(error) = self.clear_all() {
                return error.survived().map(|()| false);
            }
            self.run()?;
            return Ok(true);
        }
        if self.list_libraries()? {
            self.hooks.news = Some((cpu, at));
            return Ok(false);
        }
        if self.hooks.steps || self.is_trapped(at) {
            return Ok(false);
        }
        self.pass(cpu, at)?;
        Ok(true)
    }

    /// The hook that a processor stands at.
    fn hook_at(&mut self, cpu: Cpu) -> Result<Option<u64>, TargetError> {
        if !self.hooks.are_set() {
            return Ok(None);
        }
        let rip = self.target.registers(cpu)?.rip;
        Ok(Some(rip).filter(|at| self.hooks.is_set(*at)))
    }

    /// Whether a debugger wants to know of a processor that comes there.
    fn is_trapped(&self, at: u64) -> bool {
        let traps = [Trap::Software, Trap::Hardware];
        traps.iter().any(|trap| self.traps.contains(&(at, *trap)))
    }

    /// Lets the machine run on from a hook that the debugger was told of; a breakpoint of its own at the
    /// same place is met next.
    pub(super) fn pass_hook(&mut self) -> Result<bool, TargetError> {
        match self.hooks.news.take() {
            Some((cpu, at)) if self.hooks.is_set(at) && !self.is_trapped(at) => {
                self.pass(cpu, at)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Begins to step over a hook.
    fn pass(&mut self, cpu: Cpu, at: u64) -> Result<(), TargetError> {
        self.cache.clear();
        self.lift(at, true)?;
        self.target.step(cpu)?;
        self.runs();
        Ok(())
    }

    /// A step of the debugger's own must not be held by a hook.
    pub(super) fn lift_hook(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.hooks.news = None;
        match self.hook_at(cpu)? {
            Some(at) if !self.traps.contains(&(at, Trap::Software)) => self.lift(at, false),
            _ => Ok(()),
        }
    }

    fn lift(&mut self, at: u64, runs_on: bool) -> Result<(), TargetError> {
        self.target.clear(at, Trap::Software)?;
        self.hooks.set.remove(&at);
        self.hooks.lifted = Some(Lifted { at, runs_on });
        Ok(())
    }
}

fn is_in(libraries: &[Library], at: u64) -> bool {
    let mut memory = libraries.iter().flat_map(|library| &library.memory);
    memory.any(|range| range.contains(&at))
}
