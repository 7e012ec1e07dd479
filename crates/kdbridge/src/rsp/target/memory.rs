//! Memory of a kernel behind a stub.

use super::{RspTarget, hex};
use crate::paging::Root;
use crate::target::{KERNEL_HALF, TargetError};

const PAGE: u64 = 4096;

/// How many requests are on the way at once, where that works.
const AHEAD: usize = 16;

impl RspTarget {
    pub(super) fn read_memory(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.select(self.view)?;
        let result = match self.read_parts(at, into) {
            Err(TargetError::Unreadable(_)) if at >= KERNEL_HALF => self.read_by_tables(at, into),
            result => result,
        };
        self.hide_traps(at, into);
        result
    }

    /// The most bytes that one request may be for.
    fn chunk(&self) -> usize {
        let packet = self.features.packet.unwrap_or(400);
        if self.pipelined {
            // QEMU takes half of what it says for any answer, `$` and checksum not counted.
            return (packet / 2).clamp(16, PAGE as usize);
        }
        (packet.saturating_sub(8) / 2).clamp(16, 1 << 14)
    }

    /// Reads in as many requests as it takes, none of which crosses into another page.
    pub(super) fn read_parts(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let mut parts = split(at, into, self.chunk());
        let ahead = if self.pipelined { AHEAD } else { 1 };
        for parts in parts.chunks_mut(ahead) {
            let requests: Vec<String> = parts
                .iter()
                .map(|(at, part)| format!("m{at:x},{:x}", part.len()))
                .collect();
            let requests: Vec<&[u8]> = requests.iter().map(String::as_bytes).collect();
            let deadline = self.deadline();
            self.link.send(&requests, deadline)?;
            let mut failure = None;
            for (at, part) in parts {
                // All answers are taken, so that none is taken for another's.
                let reply = self.answer(deadline)?;
                if let Err(error) = self.take_part(*at, part, &reply) {
                    failure.get_or_insert(error);
                }
            }
            failure.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    fn take_part(&mut self, at: u64, part: &mut [u8], reply: &[u8]) -> Result<(), TargetError> {
        if reply.first() == Some(&b'E') && reply.len() % 2 == 1 {
            return Err(TargetError::Unreadable(at));
        }
        let bytes = hex::decode(reply);
        let bytes = bytes.ok_or(TargetError::Protocol("memory that is not hexadecimal"))?;
        if bytes.len() > part.len() {
            return Err(TargetError::Protocol("more memory than was asked for"));
        }
        let (start, rest) = part.split_at_mut(bytes.len());
        start.copy_from_slice(&bytes);
        if rest.is_empty() {
            return Ok(());
        }
        // A stub may answer with less: what follows may or may not be there.
        Err(TargetError::Unreadable(at.wrapping_add(bytes.len() as u64)))
    }

    /// Reads memory of the kernel though the processor stands in user mode, with page tables that do not
    /// have it.
    fn read_by_tables(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let root = self.root()?.ok_or(TargetError::Unreadable(at))?;
        for (at, part) in split(at, into, PAGE as usize) {
            let physical = self.translate(root, at)?;
            self.read_physical_parts(physical, part)?;
        }
        Ok(())
    }

    fn translate(&mut self, root: Root, at: u64) -> Result<u64, TargetError> {
        let entry = |at| {
            let mut entry = [0; 8];
            self.read_physical_parts(at, &mut entry)?;
            Ok::<_, TargetError>(u64::from_le_bytes(entry))
        };
        root.translate(at, entry)?
            .ok_or(TargetError::Unreadable(at))
    }

    fn read_physical_parts(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.in_physical_mode(|target| target.read_parts(at, into))
    }

    /// The kernel's page tables, if those that the processor uses may be without it.
    fn root(&mut self) -> Result<Option<Root>, TargetError> {
        if !self.physical || !self.amd64 {
            return Ok(None);
        }
        if self.root.is_none() {
            let cr3 = self.control("cr3")?;
            let cr4 = self.control("cr4")?;
            self.root = cr3.zip(cr4).map(|(cr3, cr4)| Root {
                cr3,
                five_levels: cr4 & 1 << 12 != 0,
            });
        }
        let root = self.root.filter(|root| root.may_be_without_kernel());
        Ok(root.map(Root::of_the_kernel))
    }

    pub(super) fn in_physical_mode<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, TargetError>,
    ) -> Result<T, TargetError> {
        if !self.physical {
            return Err(TargetError::Refused("read physical memory"));
        }
        self.select(self.view)?;
        self.ask(b"Qqemu.PhyMemMode:1")?;
        let result = act(self);
        self.ask(b"Qqemu.PhyMemMode:0")?;
        result
    }

    pub(super) fn write_memory(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        self.select(self.view)?;
        let chunk = self.chunk() - 16;
        let mut at = at;
        let mut rest = from;
        while !rest.is_empty() {
            let in_page = (PAGE - at % PAGE) as usize;
            let (part, after) = rest.split_at(rest.len().min(chunk.max(1)).min(in_page));
            self.write_part(at, part)?;
            at = at.wrapping_add(part.len() as u64);
            rest = after;
        }
        Ok(())
    }

    fn write_part(&mut self, at: u64, part: &[u8]) -> Result<(), TargetError> {
        match self.write_as_it_is(at, part) {
            Err(TargetError::Unreadable(_)) if at >= KERNEL_HALF => {
                let root = self.root()?.ok_or(TargetError::Unreadable(at))?;
                let physical = self.translate(root, at)?;
                self.in_physical_mode(|target| target.write_as_it_is(physical, part))
            }
            result => result,
        }
    }

    fn write_as_it_is(&mut self, at: u64, part: &[u8]) -> Result<(), TargetError> {
        let request = format!("M{at:x},{:x}:{}", part.len(), hex::encode(part));
        match self.ask(request.as_bytes())?.as_slice() {
            b"OK" => Ok(()),
            b"" => Err(TargetError::Refused("let memory be written")),
            _ => Err(TargetError::Unreadable(at)),
        }
    }
}

/// Pieces of at most `chunk` bytes, each within a page.
fn split(at: u64, into: &mut [u8], chunk: usize) -> Vec<(u64, &mut [u8])> {
    let mut parts = Vec::new();
    let mut at = at;
    let mut rest = into;
    while !rest.is_empty() {
        let in_page = (PAGE - at % PAGE) as usize;
        let (part, after) = rest.split_at_mut(rest.len().min(chunk).min(in_page));
        let next = at.wrapping_add(part.len() as u64);
        parts.push((at, part));
        at = next;
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_within_pages() {
        let mut memory = [0; 5000];
        let parts = split(0x1ff0, &mut memory, 2048);
        let parts: Vec<_> = parts.iter().map(|(at, part)| (*at, part.len())).collect();
        assert_eq!(
            parts,
            [(0x1ff0, 16), (0x2000, 2048), (0x2800, 2048), (0x3000, 888)]
        );
    }
}
