//! The bridge in front of a kernel, and debuggers that connect to it.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use kdbridge::rsp::link::Address;
use kdbridge::serve::{Listener, Locate, Options, Server};
use kdbridge::target::Target;
use tempfile::TempDir;

use crate::build::Built;

/// A bridge on a socket with a path; it ends with this.
pub(crate) struct Bridge {
    folder: TempDir,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
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
        let thread = thread::spawn(move || server.serve(theirs.as_fd()).expect("a machine"));
        Self {
            folder,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("bridge")
    }

    pub(crate) fn gdb(&self, commands: &[&str]) -> String {
        gdb(&self.socket(), commands)
    }

    /// What lldb says. On Linux it looks for extensions among the files that it knows.
    pub(crate) fn lldb(&self, built: &Built, commands: &[&str]) -> String {
        let socket = self.socket();
        let extension = format!("target modules add {}", built.kext().display());
        let connect = format!(
            "process connect -p gdb-remote unix-connect://{}",
            socket.display()
        );
        let mut lldb = Command::new("lldb-19");
        lldb.args(["-X", "-b"]).arg(built.kernel());
        for command in [extension.as_str(), &connect].iter().chain(commands) {
            lldb.args(["-o", command]);
        }
        said(lldb)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking());
    }
}

/// What gdb says to these commands after it has connected. It is given no file.
pub(crate) fn gdb(socket: &Path, commands: &[&str]) -> String {
    let connect = format!("target remote {}", socket.display());
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", &connect]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    said(gdb)
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
