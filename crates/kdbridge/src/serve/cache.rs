//! Memory that was read since the machine stopped.

use std::collections::HashMap;

use crate::pages::PAGE;
use crate::target::{Cpu, Target, TargetError};

/// Where kernel, modules and their data are. Reading more of it than was asked for does no harm.
const IMAGES: u64 = 0xffff_ffff_8000_0000;

/// Behind it, devices are mapped.
const DEVICES: u64 = 0xffff_ffff_ff00_0000;

/// What is read around an address elsewhere; debuggers read as much for their own caches.
const LINE: u64 = 64;

/// Requests of this length are not kept.
pub(super) const LONG: usize = 1 << 14;

/// The most that is kept.
const MAX_BYTES: usize = 64 << 20;

/// Keeps what it reads until it is told that the machine, or its memory, has changed.
#[derive(Debug, Default)]
pub(super) struct Cache {
    units: HashMap<(Cpu, u64), Vec<u8>>,
    bytes: usize,
}

impl Cache {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.units.clear();
        self.bytes = 0;
    }

    /// Reads memory as `cpu` sees it; gives how many bytes of it are there.
    ///
    /// # Errors
    ///
    /// Those of the target that are about more than this memory.
    pub(super) fn read(
        &mut self,
        target: &mut dyn Target,
        cpu: Cpu,
        at: u64,
        into: &mut [u8],
    ) -> Result<usize, TargetError> {
        if into.len() >= LONG {
            target.look_from(cpu)?;
            return read_some(target, at, into);
        }
        let mut done = 0;
        while done < into.len() {
            let at = at.wrapping_add(done as u64);
            let rest = into.get_mut(done..).unwrap_or_default();
            let count = self.read_unit(target, cpu, at, rest)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    /// Reads up to the end of a unit.
    fn read_unit(
        &mut self,
        target: &mut dyn Target,
        cpu: Cpu,
        at: u64,
        into: &mut [u8],
    ) -> Result<usize, TargetError> {
        let size = unit(at);
        let start = at & !(size - 1);
        let offset = (at - start) as usize;
        let missing = self.missing(cpu, start, offset + into.len());
        let count = into.len().min(size as usize - offset);
        let into = into.get_mut(..count).unwrap_or_default();
        if missing > 0 {
            target.look_from(cpu)?;
            let kept = missing > 1 && self.fetch(target, cpu, start, missing)?;
            if !kept && !self.fetch(target, cpu, start, 1)? {
                return read_some(target, at, into);
            }
        }
        let kept = self
            .units
            .get(&(cpu, start))
            .and_then(|bytes| bytes.get(offset..));
        let kept = kept
            .and_then(|bytes| bytes.get(..count))
            .unwrap_or_default();
        into.copy_from_slice(kept);
        Ok(count)
    }

    /// How many units in a row are to be read, of those that so many bytes from the beginning of one are in.
    fn missing(&self, cpu: Cpu, start: u64, bytes: usize) -> usize {
        let size = unit(start);
        let count = bytes.div_ceil(size as usize) as u64;
        let places = (0..count).map_while(|index| start.checked_add(index * size));
        let missing =
            places.take_while(|&at| unit(at) == size && !self.units.contains_key(&(cpu, at)));
        missing.count()
    }

    /// Reads and keeps units that stand in a row; false if not all of them are there.
    fn fetch(
        &mut self,
        target: &mut dyn Target,
        cpu: Cpu,
        start: u64,
        count: usize,
    ) -> Result<bool, TargetError> {
        let size = unit(start) as usize;
        let mut bytes = vec![0; count * size];
        match target.read(start, &mut bytes) {
            Ok(()) => {}
            Err(TargetError::Unreadable(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        if self.bytes + bytes.len() > MAX_BYTES {
            self.clear();
        }
        self.bytes += bytes.len();
        let units = bytes.chunks(size).map(<[u8]>::to_vec);
        let places = (start..).step_by(size).map(|at| (cpu, at));
        self.units
            .extend(units.zip(places).map(|(unit, at)| (at, unit)));
        Ok(true)
    }
}

/// How much is read around an address: a power of two.
fn unit(at: u64) -> u64 {
    match at {
        IMAGES..DEVICES => PAGE,
        _ => LINE,
    }
}

/// Reads what is there before the first byte that is not.
fn read_some(target: &mut dyn Target, at: u64, into: &mut [u8]) -> Result<usize, TargetError> {
    match target.read(at, into) {
        Ok(()) => return Ok(into.len()),
        Err(TargetError::Unreadable(_)) => {}
        Err(error) => return Err(error),
    }
    // What the error says is where a request failed, which may be before what is not there.
    let in_page = (PAGE - at % PAGE) as usize;
    let Some(first) = into.get_mut(..in_page) else {
        return Ok(0);
    };
    match target.read(at, first) {
        Ok(()) => Ok(in_page),
        Err(TargetError::Unreadable(_)) => Ok(0),
        Err(error) => Err(error),
    }
}
