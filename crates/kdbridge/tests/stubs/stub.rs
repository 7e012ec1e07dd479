//! The other end of a connection to a stub, played by a test.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use kdbridge::rsp::link::Stream;
use kdbridge::rsp::packet::{self, Decoder, Item};

/// What a stub says to a request.
pub(crate) enum Say {
    /// A packet.
    Packet(Vec<u8>),
    /// Several, one after the other.
    Packets(&'static [&'static [u8]]),
    /// These bytes, again and again until nobody listens any more.
    Flood(Vec<u8>),
    /// Nothing.
    Silence,
    /// Nothing, not even that the request came.
    Deafness,
    /// The connection ends.
    Close,
}

impl From<&str> for Say {
    fn from(text: &str) -> Self {
        Self::Packet(text.as_bytes().to_vec())
    }
}

/// A stub that answers as `answer` says, until it is hung up on.
pub(crate) struct Stub(Option<JoinHandle<()>>);

impl Stub {
    /// Gives the debugger's end of the connection too.
    pub(crate) fn play(answer: impl FnMut(&[u8]) -> Say + Send + 'static) -> (Self, Stream) {
        let (here, there) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || play(here, answer));
        (Self(Some(thread)), Stream::Unix(there).prepare().unwrap())
    }

    /// Waits for the debugger to connect.
    pub(crate) fn accept(
        listener: UnixListener,
        answer: impl FnMut(&[u8]) -> Say + Send + 'static,
    ) -> Self {
        let wait = move || play(listener.accept().unwrap().0, answer);
        Self(Some(thread::spawn(wait)))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let played = self.0.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(played, Some(Ok(()))), "the stub failed");
        }
    }
}

fn play(mut line: UnixStream, mut answer: impl FnMut(&[u8]) -> Say) {
    let mut decoder = Decoder::of_requests();
    let mut buffer = [0; 4096];
    loop {
        let count = match line.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{error}"),
        };
        for &byte in &buffer[..count] {
            let request = match decoder.push(byte).unwrap() {
                Some(Item::Packet(request)) => request,
                Some(Item::Interrupt) => vec![3],
                _ => continue,
            };
            let mut bytes = b"+".to_vec();
            match answer(&request) {
                Say::Packet(payload) => packet::encode(&payload, &mut bytes),
                Say::Packets(all) => all
                    .iter()
                    .for_each(|payload| packet::encode(payload, &mut bytes)),
                Say::Flood(flood) => return while line.write_all(&flood).is_ok() {},
                Say::Silence => {}
                Say::Deafness => continue,
                Say::Close => return,
            }
            // Fails only if nobody listens any more, which the next read tells too.
            line.write_all(&bytes).ok();
        }
    }
}
