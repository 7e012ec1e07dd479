//! A machine that does nothing but come to places, where breakpoints are bytes in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kdbridge::serve::{Library, Modules, Parts};
use kdbridge::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};

/// Where its code is.
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
pub(crate) const LOADS: u64 = TEXT + 0x100;
pub(crate) const UNLOADS: u64 = TEXT + 0x200;
/// Where modules come to be.
pub(crate) const MODULES: u64 = TEXT + 0x1000;

const SIZE: usize = 0x4000;
const INT3: u8 = 0xcc;

/// A place that the processor comes to, and what is loaded from then on, if that is new.
pub(crate) struct Comes {
    pub(crate) to: u64,
    pub(crate) with: Option<Vec<Library>>,
}

#[derive(Clone)]
pub(crate) struct Machine(Arc<Mutex<State>>);

pub(crate) struct State {
    pub(crate) memory: Vec<u8>,
    pub(crate) traps: BTreeMap<u64, u8>,
    /// So many it has room for.
    pub(crate) room: usize,
    /// It can be stopped while it runs.
    pub(crate) interruptible: bool,
    pub(crate) path: VecDeque<Comes>,
    /// Memory that is there no more.
    pub(crate) freed: Range<u64>,
    /// LLDB does not find the modules by itself.
    pub(crate) for_lldb: bool,
    /// How often copies were asked for.
    pub(crate) copied: u32,
    rip: u64,
    libraries: Vec<Library>,
    motion: Option<Motion>,
    interrupted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Motion {
    Runs,
    Steps,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            memory: vec![0x90; SIZE],
            traps: BTreeMap::new(),
            room: 100,
            interruptible: true,
            path: VecDeque::new(),
            freed: 0..0,
            for_lldb: true,
            copied: 0,
            rip: TEXT,
            libraries: Vec::new(),
            motion: None,
            interrupted: false,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What the processor does when it runs next.
    pub(crate) fn comes(&self, to: u64, with: Option<Vec<Library>>) {
        self.state().path.push_back(Comes { to, with });
    }

    /// Whether nothing in its memory has been changed, and it runs.
    pub(crate) fn is_left_alone(&self) -> bool {
        let state = self.state();
        let is_as_before = state.memory.iter().all(|byte| *byte == 0x90);
        is_as_before && state.traps.is_empty() && state.motion == Some(Motion::Runs)
    }
}

/// A module with two pages at `at`.
pub(crate) fn library(name: &str, at: u64) -> Library {
    Library {
        file: format!("/modules/{name}.ko").into(),
        parts: Parts::Sections(vec![at]),
        memory: vec![at..at + 0x1000, at + 0x1000..at + 0x2000],
    }
}

impl State {
    fn place(&mut self, at: u64, length: usize) -> Result<&mut [u8], TargetError> {
        let start = at.checked_sub(TEXT).map(|start| start as usize);
        let place = start.and_then(|start| self.memory.get_mut(start..start + length));
        place.ok_or(TargetError::Unreadable(at))
    }

    fn is_trapped(&mut self) -> bool {
        let rip = self.rip;
        self.place(rip, 1).unwrap() == [INT3]
    }

    /// Until the next breakpoint, if there is one on the way.
    fn run(&mut self) -> Option<Stop> {
        while !self.is_trapped() {
            let comes = self.path.pop_front()?;
            self.rip = comes.to;
            if let Some(libraries) = comes.with {
                self.libraries = libraries;
            }
        }
        Some(Stop::Breakpoint(Cpu(0)))
    }
}

impl Memory for Machine {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let mut state = self.state();
        into.copy_from_slice(state.place(at, into.len())?);
        for (trap, original) in &state.traps {
            let index = trap.checked_sub(at).map(|index| index as usize);
            if let Some(byte) = index.and_then(|index| into.get_mut(index)) {
                *byte = *original;
            }
        }
        Ok(())
    }
}

impl Target for Machine {
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(vec![Cpu(0)])
    }

    fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
        Ok(Registers {
            rip: self.state().rip,
            ..Registers::default()
        })
    }

    fn set_registers(&mut self, _: Cpu, registers: &Registers) -> Result<(), TargetError> {
        self.state().rip = registers.rip;
        Ok(())
    }

    fn write(&mut self, at: u64, _: &[u8]) -> Result<(), TargetError> {
        Err(TargetError::Unreadable(at))
    }

    fn read_physical(&mut self, _: u64, _: &mut [u8]) -> Result<(), TargetError> {
        Err(TargetError::Refused("read physical memory"))
    }

    fn set(&mut self, at: u64, _: Trap) -> Result<(), TargetError> {
        let mut state = self.state();
        if state.traps.contains_key(&at) {
            return Ok(());
        }
        if state.traps.len() == state.room {
            return Err(TargetError::TooMany(state.room as u32));
        }
        let original = std::mem::replace(&mut state.place(at, 1)?[0], INT3);
        state.traps.insert(at, original);
        Ok(())
    }

    fn clear(&mut self, at: u64, _: Trap) -> Result<(), TargetError> {
        let mut state = self.state();
        let original = state.traps.remove(&at);
        let original = original.ok_or(TargetError::Refused("have such a trap there"))?;
        state.place(at, 1)?[0] = original;
        if state.freed.contains(&at) {
            return Err(TargetError::Unreadable(at));
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.state().motion = Some(Motion::Runs);
        Ok(())
    }

    fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
        self.state().motion = Some(Motion::Steps);
        Ok(())
    }

    fn can_interrupt(&self) -> bool {
        self.state().interruptible
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        let mut state = self.state();
        if !state.interruptible {
            return Err(TargetError::CannotInterrupt("it does not listen"));
        }
        state.interrupted = true;
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
        let mut state = self.state();
        let motion = state.motion;
        let stop = match motion {
            None => None,
            Some(Motion::Runs) => state.run(),
            Some(Motion::Steps) if state.is_trapped() => Some(Stop::Breakpoint(Cpu(0))),
            Some(Motion::Steps) => {
                state.rip += 1;
                let trapped = state.is_trapped();
                let stop = if trapped {
                    Stop::Breakpoint
                } else {
                    Stop::Stepped
                };
                Some(stop(Cpu(0)))
            }
        };
        let interrupted = state.interrupted && state.motion.is_some();
        let stop = stop.or(interrupted.then_some(Stop::Interrupted(Cpu(0))));
        if stop.is_some() {
            state.motion = None;
            state.interrupted = false;
        }
        Ok(stop)
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        self.resume()
    }
}

impl Modules for Machine {
    fn list(&mut self, _: &mut dyn Target) -> Vec<Library> {
        self.state().libraries.clone()
    }

    fn hooks(&mut self, _: &mut dyn Target) -> Vec<u64> {
        vec![LOADS, UNLOADS]
    }

    fn copies(&mut self, _: &mut dyn Target) -> Vec<(PathBuf, u64)> {
        let mut state = self.state();
        state.copied += 1;
        let libraries = state.libraries.iter();
        let copy = |library: &Library| {
            let name = library.file.file_name().unwrap();
            (Path::new("/copies").join(name), library.memory[0].start)
        };
        libraries.map(copy).collect()
    }

    fn are_for_lldb(&self) -> bool {
        self.state().for_lldb
    }

    fn nothing(&self) -> Option<(PathBuf, u64)> {
        Some(("/copies/nothing".into(), 0x1000))
    }
}
