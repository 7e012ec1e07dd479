//! Memory of a kernel behind a stub.

use super::{RspTarget, hex};
use crate::pages::PAGE;
use crate::paging::{Place, Root};
use crate::target::{KERNEL_HALF, TargetError};

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

    /// Gives memory as it arrives.
    pub(super) fn read_as_it_arrives(
        &mut self,
        at: u64,
        length: usize,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TargetError> {
        self.select(self.view)?;
        self.ask_for_pieces(at, length, &mut |target, at, bytes| {
            target.hide_traps(at, bytes);
            piece(bytes);
        })
    }

    pub(super) fn read_parts(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let mut rest = into;
        self.ask_for_pieces(at, rest.len(), &mut |_, _, bytes| {
            if let Some(part) = rest.split_off_mut(..bytes.len()) {
                part.copy_from_slice(bytes);
            }
        })
    }

    /// Reads in as many requests as it takes, none of which crosses into another page, and hands on what
    /// comes before the first byte that is not there.
    fn ask_for_pieces(
        &mut self,
        at: u64,
        length: usize,
        take: &mut dyn FnMut(&Self, u64, &mut [u8]),
    ) -> Result<(), TargetError> {
        self.settle()?;
        let pieces = split(at, length, self.chunk());
        let requests = pieces
            .iter()
            .map(|(at, length)| format!("m{at:x},{length:x}"));
        let requests: Vec<String> = requests.collect();
        let requests: Vec<&[u8]> = requests.iter().map(String::as_bytes).collect();
        let ahead = if self.pipelined { AHEAD } else { 1 };
        let mut buffer = [0; PAGE as usize];
        let mut deadline = self.deadline();
        let mut sent = 0;
        let mut failure = None;
        for (index, (at, length)) in pieces.into_iter().enumerate() {
            let until = requests.len().min(index + ahead);
            // While one half of them is answered, the other is on the way.
            if failure.is_none() && sent < until && sent - index <= ahead / 2 {
                deadline = self.deadline();
                let next = requests.get(sent..until).unwrap_or_default();
                self.request(next, deadline)?;
                sent = until;
            }
            // All answers are taken, so that none is taken for another's.
            if index == sent {
                break;
            }
            let reply = self.answer(deadline)?;
            if failure.is_some() {
                continue;
            }
            let part = buffer.get_mut(..length).unwrap_or_default();
            let result = memory_in(&reply, at, part).and_then(|count| {
                if let Some(bytes @ [_, ..]) = part.get_mut(..count) {
                    take(self, at, bytes);
                }
                // A stub may answer with less: what follows may or may not be there.
                let end = at.wrapping_add(count as u64);
                (count == length)
                    .then_some(())
                    .ok_or(TargetError::Unreadable(end))
            });
            failure = result.err();
        }
        failure.map_or(Ok(()), Err)
    }

    /// Reads memory of the kernel though the processor stands in user mode, with page tables that do not
    /// have it.
    fn read_by_tables(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let root = self.root()?.ok_or(TargetError::Unreadable(at))?;
        let mut rest = into;
        for (at, length) in split(at, rest.len(), PAGE as usize) {
            let part = rest.split_off_mut(..length).unwrap_or_default();
            let physical = self.translate(root, at)?;
            self.read_physical_parts(physical, part)?;
        }
        Ok(())
    }

    fn translate(&mut self, root: Root, at: u64) -> Result<u64, TargetError> {
        match self.look_up(root, at)? {
            Place::There(physical) => Ok(physical),
            Place::Hole(_) => Err(TargetError::Unreadable(at)),
        }
    }

    /// What page tables say of an address; all of them are read in one turn in physical mode.
    fn look_up(&mut self, root: Root, at: u64) -> Result<Place, TargetError> {
        self.in_physical_mode(|target| {
            root.look_up(at, |at| {
                let mut entry = [0; 8];
                target.read_parts(at, &mut entry)?;
                Ok::<_, TargetError>(u64::from_le_bytes(entry))
            })
        })
    }

    pub(super) fn read_physical_parts(
        &mut self,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), TargetError> {
        self.in_physical_mode(|target| target.read_parts(at, into))
    }

    /// How large the hole around an address is at which nothing can be read, where page tables tell that.
    pub(super) fn size_of_hole(&mut self, at: u64) -> Result<Option<u64>, TargetError> {
        self.select(self.view)?;
        let Some(root) = self.tables()? else {
            return Ok(None);
        };
        if at >= KERNEL_HALF && root.may_be_without_kernel() {
            return Ok(None);
        }
        match self.look_up(root, at) {
            Ok(Place::Hole(size)) => Ok(Some(size)),
            Ok(Place::There(_)) | Err(TargetError::Unreadable(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The physical address of what is at a virtual one, where page tables tell that.
    pub(super) fn physical_place(&mut self, at: u64) -> Result<Option<u64>, TargetError> {
        let own = self.tables()?;
        let kernel = self.root()?.filter(|_| at >= KERNEL_HALF);
        for root in own.into_iter().chain(kernel) {
            match self.look_up(root, at) {
                Ok(Place::There(physical)) => return Ok(Some(physical)),
                Ok(Place::Hole(_)) | Err(TargetError::Unreadable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The kernel's page tables, if those that the processor uses may be without it.
    fn root(&mut self) -> Result<Option<Root>, TargetError> {
        let root = self.tables()?.filter(|root| root.may_be_without_kernel());
        Ok(root.map(Root::of_the_kernel))
    }

    /// The page tables that the processor uses.
    fn tables(&mut self) -> Result<Option<Root>, TargetError> {
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
        Ok(self.root)
    }

    pub(super) fn in_physical_mode<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, TargetError>,
    ) -> Result<T, TargetError> {
        if !self.physical {
            return Err(TargetError::Refused("read physical memory"));
        }
        self.select(self.view)?;
        // Until it is known to have been left again.
        self.is_physical = true;
        self.ask(b"Qqemu.PhyMemMode:1")?;
        let result = act(self);
        self.leave_physical_mode()?;
        result
    }

    pub(super) fn leave_physical_mode(&mut self) -> Result<(), TargetError> {
        self.ask(b"Qqemu.PhyMemMode:0")?;
        self.is_physical = false;
        Ok(())
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

/// How many bytes, all of them in `into`, an answer has of those that were asked for.
fn memory_in(reply: &[u8], at: u64, into: &mut [u8]) -> Result<usize, TargetError> {
    if reply.first() == Some(&b'E') && reply.len() % 2 == 1 {
        return Err(TargetError::Unreadable(at));
    }
    let count = reply.len() / 2;
    let start = into.get_mut(..count);
    let start = start.ok_or(TargetError::Protocol("more memory than was asked for"))?;
    if !hex::decode_into(reply, start) {
        return Err(TargetError::Protocol("memory that is not hexadecimal"));
    }
    Ok(count)
}

/// Pieces of at most `chunk` bytes, each within a page.
fn split(at: u64, length: usize, chunk: usize) -> Vec<(u64, usize)> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < length {
        let at = at.wrapping_add(done as u64);
        let in_page = (PAGE - at % PAGE) as usize;
        let piece = (length - done).min(chunk).min(in_page);
        pieces.push((at, piece));
        done += piece;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_within_pages() {
        assert_eq!(
            split(0x1ff0, 5000, 2048),
            [(0x1ff0, 16), (0x2000, 2048), (0x2800, 2048), (0x3000, 888)]
        );
    }
}
