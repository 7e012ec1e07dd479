//! Requests for memory.

use super::dialect::Dialect;
use super::requests::{Answer, Conversation, Refusal};
use crate::rsp::hex;
use crate::target::{Target, TargetError};

/// The most that is read at once; debuggers ask for less than a packet can be long.
const MAX_READ: u64 = 0x1_0000;

impl<T: Target> Conversation<'_, T> {
    /// `m` in digits, `x` as it is.
    pub(super) fn read_memory(&mut self, kind: u8, rest: &[u8]) -> Result<Answer, Refusal> {
        let (at, length) = hex::pair(rest).ok_or(Refusal::Malformed)?;
        if kind == b'x' && length == 0 {
            // LLDB asks so whether the request is known.
            return Ok("OK".into());
        }
        self.standing()?;
        let mut bytes = vec![0; length.min(MAX_READ) as usize];
        let count = self.read(at, &mut bytes)?;
        bytes.truncate(count);
        if bytes.is_empty() && length > 0 {
            return Ok("E14".into());
        }
        Ok(match (kind, self.talk.dialect) {
            (b'm', _) => hex::encode(&bytes).into(),
            (_, Dialect::Gdb) => Answer::Packet([b"b", bytes.as_slice()].concat()),
            (_, Dialect::Lldb) => Answer::Packet(bytes),
        })
    }

    /// How many bytes are there.
    pub(super) fn read(&mut self, at: u64, into: &mut [u8]) -> Result<usize, TargetError> {
        let cpu = self.cpu();
        if self.talk.physical {
            self.machine.target.read_physical(at, into)?;
            return Ok(into.len());
        }
        self.machine
            .cache
            .read(&mut self.machine.target, cpu, at, into)
    }

    /// `M` in digits, `X` as it is.
    pub(super) fn write_memory(&mut self, kind: u8, rest: &[u8]) -> Result<Answer, Refusal> {
        let colon = rest.iter().position(|&byte| byte == b':');
        let (place, data) = rest.split_at(colon.ok_or(Refusal::Malformed)?);
        let data = data.get(1..).unwrap_or_default();
        let (at, length) = hex::pair(place).ok_or(Refusal::Malformed)?;
        let bytes = match kind {
            b'M' => hex::decode(data).ok_or(Refusal::Malformed)?,
            _ => data.to_vec(),
        };
        if bytes.len() as u64 != length {
            return Err(Refusal::Malformed);
        }
        self.standing()?;
        self.machine.control(self.id)?;
        if bytes.is_empty() {
            return Ok("OK".into());
        }
        self.machine.cache.clear();
        self.machine.target.look_from(self.cpu())?;
        self.machine.target.write(at, &bytes)?;
        Ok("OK".into())
    }
}
