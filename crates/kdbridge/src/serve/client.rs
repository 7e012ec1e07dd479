//! A debugger's connection.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::dialect::Dialect;
use crate::rsp::hex;
use crate::rsp::link::Stream;
use crate::rsp::packet::{Decoder, Encoder, Item};
use crate::target::Cpu;

/// The most answers, in bytes, that wait for a debugger that does not read.
const MAX_WAITING: usize = 16 << 20;

/// How much is taken from a debugger in its turn.
const TURN: usize = 1 << 16;

/// How much of an answer is sent while the rest is being made.
const PIECE: usize = 1 << 14;

/// Which of the debuggers; numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

/// A debugger, and what is to be remembered of the conversation with it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: Id,
    stream: Stream,
    /// Something has come from it.
    begun: bool,
    decoder: Decoder,
    out: Vec<u8>,
    /// The last answer, as long as it may have to be sent again.
    last: Vec<u8>,
    acks: bool,
    /// It has left, or is to be hung up on.
    pub(super) closed: bool,
    /// Why it is to be sent away, and whether it was told.
    unwelcome: Option<(String, bool)>,
    pub(super) talk: Talk,
}

/// What the conversation has settled.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) dialect: Dialect,
    /// The thread that requests are about.
    pub(super) cpu: Option<Cpu>,
    /// Requests about registers end with their thread.
    pub(super) suffix: bool,
    /// Stops list all threads.
    pub(super) list_threads: bool,
    /// Errors may have a text.
    pub(super) error_texts: bool,
    /// Memory that is asked for is physical.
    pub(super) physical: bool,
    /// Which state of the list of modules it has asked for last, if for any.
    pub(super) knows_libraries: Option<u64>,
    /// The copies of modules that it was told of, if it is LLDB.
    pub(super) copies: Vec<(PathBuf, u64)>,
    /// The list of modules that it reads in pieces.
    pub(super) libraries: String,
    /// It waits to be told of a stop.
    pub(super) waits: bool,
}

impl Talk {
    /// Says whether all copies can be told of at once. LLDB takes what comes for loaded before it has let
    /// go of what is gone, and loses both if they are at the same place; so it is told of what stays first.
    pub(super) fn takes_copies(&mut self, now: Vec<(PathBuf, u64)>) -> bool {
        let before = self.copies.len();
        self.copies.retain(|copy| now.contains(copy));
        let all = self.copies.len() == before || self.copies == now;
        if all {
            self.copies = now;
        }
        all
    }
}

/// A connection that is of no more use.
#[derive(Debug)]
pub(super) struct Closed;

impl Client {
    pub(super) fn new(id: Id, stream: Stream) -> Self {
        Self {
            id,
            stream,
            begun: false,
            decoder: Decoder::of_requests(),
            out: Vec::new(),
            last: Vec::new(),
            acks: true,
            closed: false,
            unwelcome: None,
            talk: Talk::default(),
        }
    }

    /// What has come, without waiting.
    pub(super) fn receive(&mut self) -> Result<Vec<Item>, Closed> {
        let mut buffer = vec![0; TURN];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(Closed),
            Ok(count) => count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => 0,
                _ => return Err(Closed),
            },
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Some(&first) = bytes.first() {
            if !self.begun && !begins(first) {
                return Err(Closed);
            }
            self.begun = true;
        }
        let mut items = Vec::new();
        for &byte in bytes {
            let item = self.decoder.push(byte).map_err(|_| Closed)?;
            items.extend(item);
        }
        Ok(items)
    }

    pub(super) fn is_unwelcome(&self) -> bool {
        self.unwelcome.is_some()
    }

    /// From here on it is only told why.
    pub(super) fn refuse(&mut self, why: String) {
        self.unwelcome = Some((why, false));
    }

    /// Answers the request about features with the reason, which GDB prints, and hangs up at the next one:
    /// the answer arrives before that.
    pub(super) fn send_away(&mut self, request: &[u8]) {
        self.acknowledge(true);
        match &mut self.unwelcome {
            Some((_, true)) => self.closed = true,
            Some((why, told)) if request.starts_with(b"qSupported") => {
                *told = true;
                let answer = format!("E.{why}");
                self.answer(answer.as_bytes());
            }
            _ => self.answer(b""),
        }
    }

    /// Acknowledges a packet, or asks for it again.
    pub(super) fn acknowledge(&mut self, intact: bool) {
        if self.acks {
            self.out.push(if intact { b'+' } else { b'-' });
        }
    }

    /// Sends the last answer again.
    pub(super) fn again(&mut self) {
        if self.acks && !self.closed {
            self.out.extend_from_slice(&self.last);
            self.bound();
        }
    }

    /// Hangs up on a debugger that asks without reading.
    fn bound(&mut self) {
        if self.out.len() > MAX_WAITING && self.flush().is_err() {
            self.closed = true;
        }
    }

    pub(super) fn acks(&self) -> bool {
        self.acks
    }

    pub(super) fn stop_acks(&mut self) {
        self.acks = false;
    }

    pub(super) fn answer(&mut self, payload: &[u8]) {
        self.answer_in_pieces(|answer| answer.push(payload));
    }

    /// Answers with what is pushed; a debugger that takes no copies has it sent meanwhile.
    pub(super) fn answer_in_pieces<R>(&mut self, make: impl FnOnce(&mut Reply<'_>) -> R) -> R {
        self.last.clear();
        let into = if self.acks {
            &mut self.last
        } else {
            &mut self.out
        };
        let encoder = Encoder::begin(into);
        let mut answer = Reply {
            client: self,
            encoder,
        };
        let result = make(&mut answer);
        let Reply { encoder, .. } = answer;
        if self.acks {
            encoder.end(&mut self.last);
            self.out.extend_from_slice(&self.last);
        } else {
            encoder.end(&mut self.out);
        }
        self.bound();
        result
    }

    /// Has the debugger print a line, which it does only while it waits for a stop.
    pub(super) fn print(&mut self, line: &str) {
        if self.talk.waits {
            let text = format!("kdbridge: {line}\n");
            self.answer(format!("O{}", hex::encode(text.as_bytes())).as_bytes());
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends as much as it takes.
    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    _ => return Err(Closed),
                },
            }
        }
        if self.out.len() > MAX_WAITING {
            return Err(Closed);
        }
        Ok(())
    }
}

/// Whether a debugger begins so. A browser, which a page on the web can have send whatever it likes in a
/// request, begins with the name of a method.
fn begins(first: u8) -> bool {
    matches!(first, b'+' | b'-' | b'$' | 3)
}

/// An answer that is being made.
pub(super) struct Reply<'a> {
    client: &'a mut Client,
    encoder: Encoder,
}

impl Reply<'_> {
    /// Goes on with it.
    pub(super) fn push(&mut self, payload: &[u8]) {
        if self.client.acks {
            return self.encoder.push(payload, &mut self.client.last);
        }
        self.encoder.push(payload, &mut self.client.out);
        if self.client.out.len() >= PIECE {
            // That a debugger has left is noticed when the answer is complete.
            self.client.flush().ok();
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_debugger_that_asks_without_reading_is_hung_up_on() {
        let (line, _debugger) = UnixStream::pair().unwrap();
        let line = Stream::Unix(line).prepare().unwrap();
        let mut client = Client::new(Id(1), line);
        client.answer(&[b'0'; 1 << 17]);
        for _ in 0..2000 {
            client.again();
        }
        assert!(client.closed);
        let most = MAX_WAITING + (1 << 18);
        assert!(
            client.out.capacity() <= 2 * most,
            "{}",
            client.out.capacity()
        );
        assert!(client.out.len() <= most, "{}", client.out.len());
    }
}
