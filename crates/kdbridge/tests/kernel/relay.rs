//! What lies between two ends of the GDB protocol and counts.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use kdbridge::rsp::packet::{Decoder, Item};

/// Passes one connection on to a stub, and counts the requests for memory.
pub(crate) struct Relay {
    socket: PathBuf,
    reads: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn to(stub: PathBuf) -> Self {
        let socket = stub.with_extension("relay");
        let listener = UnixListener::bind(&socket).unwrap();
        let reads = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&reads);
        let thread = thread::spawn(move || {
            let (debugger, _) = listener.accept().unwrap();
            pass(debugger, UnixStream::connect(stub).unwrap(), &counted);
        });
        Self {
            socket,
            reads,
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
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
fn pass(debugger: UnixStream, stub: UnixStream, reads: &AtomicUsize) {
    thread::scope(|scope| {
        scope.spawn(|| copy(&stub, &debugger, |_| ()));
        let mut decoder = Decoder::of_requests();
        copy(&debugger, &stub, |bytes| {
            for &byte in bytes {
                if let Ok(Some(Item::Packet(request))) = decoder.push(byte) {
                    let is_read = request.starts_with(b"m");
                    reads.fetch_add(usize::from(is_read), Ordering::Relaxed);
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
