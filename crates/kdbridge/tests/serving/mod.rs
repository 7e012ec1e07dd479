//! The server in a thread of a test.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use kdbridge::rsp::link::Address;
use kdbridge::serve::{Listener, Locate, NoModules, Options, Reconnect, ServeError, Server};
use kdbridge::target::Target;
use tempfile::TempDir;

/// A server on a socket with a path; it ends with this.
pub(crate) struct Serving {
    folder: TempDir,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Serving {
    pub(crate) fn start<T: Target + Send + 'static>(target: T, locate: Locate) -> Self {
        Self::start_with(target, locate, None)
    }

    /// One that may connect to its machine anew.
    pub(crate) fn start_with<T: Target + Send + 'static>(
        target: T,
        locate: Locate,
        reconnect: Option<Reconnect<T>>,
    ) -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("bridge");
        let listener = Listener::bind(&Address::Unix(socket)).expect("a socket");
        let options = Options {
            locate,
            modules: Box::new(NoModules),
            allow_kill: false,
            remark: Box::new(|_| ()),
        };
        let mut server = Server::new(target, listener, options).expect("a machine");
        if let Some(reconnect) = reconnect {
            server.reconnect_by(reconnect);
        }
        let (end, theirs) = UnixStream::pair().expect("a pair");
        let thread = thread::spawn(move || server.serve(theirs.as_fd()));
        Self {
            folder,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("bridge")
    }

    /// Asks it to end; what comes of it.
    pub(crate) fn stop(&mut self) -> Result<(), ServeError> {
        drop(self.end.take());
        let thread = self.thread.take().expect("that it was not stopped before");
        thread.join().expect("no panic")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.stop().expect("a machine that lives");
        }
    }
}
