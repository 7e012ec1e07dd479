//! Requests for memory.

use std::borrow::Cow;

use super::cache::LONG;
use super::client::Reply;
use super::dialect::Dialect;
use super::machine::Machine;
use super::requests::{Answer, Conversation, Refusal};
use crate::rsp::hex;
use crate::target::{Cpu, Target, TargetError};

/// The most that is read at once; debuggers ask for less than a packet can be long.
const MAX_READ: u64 = 0x1_0000;

const UNREADABLE: &str = "E14";

/// How bytes stand in an answer.
#[derive(Debug, Clone, Copy)]
enum Form {
    Digits,
    /// As they are, with a letter before them that tells them from an error.
    Marked,
    Plain,
}

impl Form {
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Marked => b"b",
            Self::Digits | Self::Plain => b"",
        }
    }

    fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Digits => hex::encode(bytes).into_bytes().into(),
            Self::Marked | Self::Plain => bytes.into(),
        }
    }
}

/// More memory than is kept. It is sent as it arrives, so that bridge, target and debugger are busy at the
/// same time.
#[derive(Debug)]
pub(super) struct Stretch {
    cpu: Cpu,
    at: u64,
    length: usize,
    form: Form,
}

impl Stretch {
    /// Answers with what of it is there.
    ///
    /// # Errors
    ///
    /// [`TargetError::Gone`].
    pub(super) fn read<T: Target>(
        &self,
        machine: &mut Machine<T>,
        answer: &mut Reply<'_>,
    ) -> Result<(), TargetError> {
        let mut mark = self.form.mark();
        let mut begun = false;
        let mut push = |answer: &mut Reply<'_>, bytes: &[u8]| {
            answer.push(std::mem::take(&mut mark));
            answer.push(&self.form.encode(bytes));
        };
        let target = &mut machine.target;
        let result = target.read_in_pieces(self.at, self.length, &mut |bytes| {
            begun = true;
            push(answer, bytes);
        });
        if let Err(TargetError::Gone) = result {
            return Err(TargetError::Gone);
        }
        if begun {
            return Ok(());
        }
        // Page tables may know the way to it.
        let mut bytes = vec![0; self.length];
        match machine.cache.read(target, self.cpu, self.at, &mut bytes) {
            Err(TargetError::Gone) => return Err(TargetError::Gone),
            Ok(count) if count > 0 => push(answer, bytes.get(..count).unwrap_or_default()),
            _ => answer.push(UNREADABLE.as_bytes()),
        }
        Ok(())
    }
}

impl<T: Target> Conversation<'_, T> {
    /// `m` in digits, `x` as it is.
    pub(super) fn read_memory(&mut self, kind: u8, rest: &[u8]) -> Result<Answer, Refusal> {
        let (at, length) = hex::pair(rest).ok_or(Refusal::Malformed)?;
        if kind == b'x' && length == 0 {
            // LLDB asks so whether the request is known.
            return Ok("OK".into());
        }
        self.standing()?;
        let length = length.min(MAX_READ) as usize;
        let form = match (kind, self.talk.dialect) {
            (b'm', _) => Form::Digits,
            (_, Dialect::Gdb) => Form::Marked,
            (_, Dialect::Lldb) => Form::Plain,
        };
        if length >= LONG && !self.talk.physical {
            let cpu = self.cpu();
            self.machine.target.look_from(cpu)?;
            return Ok(Answer::Memory(Stretch {
                cpu,
                at,
                length,
                form,
            }));
        }
        let mut bytes = vec![0; length];
        let count = self.read(at, &mut bytes)?;
        bytes.truncate(count);
        if bytes.is_empty() && length > 0 {
            return Ok(UNREADABLE.into());
        }
        Ok(Answer::Packet([form.mark(), &form.encode(&bytes)].concat()))
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
        if self.talk.physical {
            // The number is no virtual address.
            return Err(TargetError::Refused("let physical memory be written").into());
        }
        self.machine.cache.clear();
        self.machine.target.look_from(self.cpu())?;
        self.machine.target.write(at, &bytes)?;
        Ok("OK".into())
    }
}
