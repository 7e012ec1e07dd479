//! What lies between two ends of the GDB protocol and counts.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kdbridge::rsp::packet::{Decoder, Item};

const PATIENCE: Duration = Duration::from_secs(60);

/// Passes one connection on to a stub, and looks at the requests.
pub(crate) struct Relay {
    socket: PathBuf,
    seen: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen, and a bell that rings when there is more.
#[derive(Default)]
struct Watched {
    seen: Mutex<Seen>,
    more: Condvar,
}

#[derive(Default)]
struct Seen {
    /// How many there were for memory.
    reads: usize,
    /// Which breakpoints the stub has, as the requests name them.
    breakpoints: BTreeSet<Vec<u8>>,
}

impl Seen {
    fn look(&mut self, request: &[u8]) {
        match request {
            [b'm', ..] => self.reads += 1,
            [b'Z', place @ ..] => drop(self.breakpoints.insert(place.to_vec())),
            [b'z', place @ ..] => drop(self.breakpoints.remove(place)),
            _ => {}
        }
    }
}

impl Relay {
    pub(crate) fn to(stub: PathBuf) -> Self {
        let socket = stub.with_extension("relay");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::<Watched>::default();
        let looked = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let (debugger, _) = listener.accept().unwrap();
            pass(debugger, UnixStream::connect(stub).unwrap(), &looked);
        });
        Self {
            socket,
            seen,
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn reads(&self) -> usize {
        self.seen.seen.lock().unwrap().reads
    }

    /// How many breakpoints the stub has.
    pub(crate) fn breakpoints(&self) -> usize {
        self.seen.seen.lock().unwrap().breakpoints.len()
    }

    /// Waits until the stub has no breakpoint any more.
    pub(crate) fn is_rid_of_breakpoints(&self) -> bool {
        let Watched { seen, more } = &*self.seen;
        let has_some = |seen: &mut Seen| !seen.breakpoints.is_empty();
        let seen = more.wait_timeout_while(seen.lock().unwrap(), PATIENCE, has_some);
        !seen.unwrap().1.timed_out()
    }
}

impl Drop for Relay {
    /// Whoever was connected has to be gone.
    fn drop(&mut self) {
        if !thread::panicking() {
            self.thread.take().map(JoinHandle::join);
            std::fs::remove_file(&self.socket).unwrap();
        }
    }
}

/// Passes on until one of the ends hangs up.
fn pass(debugger: UnixStream, stub: UnixStream, watched: &Watched) {
    thread::scope(|scope| {
        scope.spawn(|| copy(&stub, &debugger, |_| ()));
        let mut decoder = Decoder::of_requests();
        copy(&debugger, &stub, |bytes| {
            for &byte in bytes {
                if let Ok(Some(Item::Packet(request))) = decoder.push(byte) {
                    watched.seen.lock().unwrap().look(&request);
                    watched.more.notify_all();
                }
            }
        });
    });
}

fn copy(mut from: &UnixStream, mut to: &UnixStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Fails only where the other end is gone already.
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}
