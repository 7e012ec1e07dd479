//! The server in a thread of a test, and what debuggers that connect to it say.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use kdbridge::rsp::link::Address;
use kdbridge::serve::{Listener, Locate, Options, ServeError, Server};
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
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("bridge");
        let listener = Listener::bind(&Address::Unix(socket)).expect("a socket");
        let options = Options {
            locate,
            modules: Box::new(|_| Vec::new()),
            allow_kill: false,
            remark: Box::new(|_| ()),
        };
        let mut server = Server::new(target, listener, options).expect("a machine");
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

/// What a gdb says to these commands after it has connected.
pub(crate) fn gdb(program: &str, file: Option<&Path>, socket: &Path, commands: &[&str]) -> String {
    let connect = format!("target remote {}", socket.display());
    let mut gdb = within_a_minute();
    gdb.args([program, "-nx", "-batch"]).args(file);
    for command in [connect.as_str()].iter().chain(commands) {
        gdb.args(["-ex", command]);
    }
    said(gdb)
}

/// What an lldb says that has a file, and commands for before and after it connects.
pub(crate) fn lldb(file: &Path, socket: &Path, before: &[&str], after: &[&str]) -> String {
    let connect = format!(
        "process connect -p gdb-remote unix-connect://{}",
        socket.display()
    );
    let mut lldb = within_a_minute();
    lldb.args(["lldb-19", "-X", "-b"]).arg(file);
    for command in before.iter().chain(&[connect.as_str()]).chain(after) {
        lldb.args(["-o", command]);
    }
    said(lldb)
}

/// For a program and its arguments.
fn within_a_minute() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]);
    command
}

fn said(mut command: Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a debugger");
    let mut errors = child.stderr.take().expect("a pipe");
    let errors = thread::spawn(move || {
        let mut text = String::new();
        errors
            .read_to_string(&mut text)
            .map(|_| text)
            .expect("text")
    });
    let output = child.wait_with_output().expect("a debugger");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text + &errors.join().expect("text")
}
