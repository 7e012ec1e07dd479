//! The machine, and who controls it.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::cache::Cache;
use super::client::Id;
use super::dialect::Dialect;
use super::{Options, Whereabouts};
use crate::modules::library_list;
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
    pub(super) whereabouts: Option<Whereabouts>,
    pub(super) traps: BTreeSet<(u64, Trap)>,
    pub(super) stop: Option<Stop>,
    pub(super) options: Options,
    controller: Option<Id>,
    running: bool,
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
            whereabouts: None,
            traps: BTreeSet::new(),
            stop: None,
            options,
            controller: None,
            running: false,
        };
        machine.look_around()?;
        // One that nothing can stop has to wait for its debugger.
        if machine.target.can_interrupt() {
            machine.resume()?;
        }
        Ok(machine)
    }

    fn look_around(&mut self) -> Result<(), TargetError> {
        self.cache.clear();
        self.cpus = self.target.cpus()?;
        let description = self
            .target
            .forward(Cpu(0), b"qXfer:features:read:target.xml:0,10")?;
        self.native = description.is_some_and(|xml| matches!(xml.first(), Some(b'm' | b'l')));
        if !self.native {
            // Without a description, and with other registers: the target's packets as they are.
            self.native = self.target.registers(Cpu(0)).is_err();
        }
        self.whereabouts = (self.options.locate)(&mut self.target);
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// What is readable when the machine, which runs, may have stopped.
    pub(super) fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.target.readiness()
    }

    /// Makes the machine stand still, for the first debugger.
    pub(super) fn begin(&mut self) -> Result<(), TargetError> {
        self.halt()?;
        self.look_around()
    }

    fn halt(&mut self) -> Result<(), TargetError> {
        if !self.running {
            return Ok(());
        }
        self.target.interrupt()?;
        let stop = self.target.wait(STOP_PATIENCE)?;
        self.stop = Some(stop.ok_or(TargetError::Silent(STOP_PATIENCE))?);
        self.running = false;
        Ok(())
    }

    /// Whether the machine has stopped.
    pub(super) fn look(&mut self) -> Result<bool, TargetError> {
        if !self.running {
            // What a target says while it stands still is of no interest, but must not be left unread.
            self.target.wait(Duration::ZERO)?;
            return Ok(false);
        }
        let Some(stop) = self.target.wait(Duration::ZERO)? else {
            return Ok(false);
        };
        self.running = false;
        self.stop = Some(stop);
        Ok(true)
    }

    /// The modules, as a debugger of this dialect reads them.
    pub(super) fn libraries(&mut self, dialect: Dialect) -> String {
        let libraries = (self.options.modules)(&mut self.target);
        let listed = libraries.iter().filter_map(|library| match dialect {
            Dialect::Gdb => Some((library.file.to_str()?, library.sections.as_slice())),
            Dialect::Lldb => {
                let (path, base) = library.copy.as_ref()?;
                Some((path.to_str()?, std::slice::from_ref(base)))
            }
        });
        library_list(listed)
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
        self.target.resume()?;
        self.running = true;
        Ok(())
    }

    pub(super) fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.cache.clear();
        self.target.step(cpu)?;
        self.running = true;
        Ok(())
    }

    /// Only who made it run may stop it.
    pub(super) fn interrupt(&mut self, id: Id) -> Result<(), TargetError> {
        if self.running && self.controller == Some(id) {
            self.target.interrupt()?;
        }
        Ok(())
    }

    pub(super) fn set(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        self.target.set(at, trap)?;
        self.traps.insert((at, trap));
        Ok(())
    }

    pub(super) fn clear(&mut self, at: u64, trap: Trap) -> Result<(), TargetError> {
        if self.traps.remove(&(at, trap)) {
            self.target.clear(at, trap)?;
        }
        Ok(())
    }

    /// Takes everything off that this debugger has set.
    pub(super) fn release(&mut self, id: Id) -> Result<(), TargetError> {
        if self.controller != Some(id) {
            return Ok(());
        }
        self.controller = None;
        if self.traps.is_empty() {
            return Ok(());
        }
        let ran = self.running;
        if ran && !self.target.can_interrupt() {
            // They come off when it meets one of them.
            return Ok(());
        }
        self.halt()?;
        self.clear_all()?;
        if ran { self.resume() } else { Ok(()) }
    }

    fn clear_all(&mut self) -> Result<(), TargetError> {
        for (at, trap) in std::mem::take(&mut self.traps) {
            self.target.clear(at, trap)?;
        }
        Ok(())
    }

    /// Lets the machine run on, as if nobody had been there.
    pub(super) fn leave_alone(&mut self) -> Result<(), TargetError> {
        if let Some(id) = self.controller {
            self.release(id)?;
        }
        if self.running {
            return Ok(());
        }
        self.clear_all()?;
        self.resume()
    }
}
