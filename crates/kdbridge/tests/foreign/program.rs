//! A small program that is debugged, and who debugs it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Stream;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// It leaves its number in a file when it has begun, adds two numbers a hundred times a second, and ends when it is told to.
const SOURCE: &str = "\
#include <stdio.h>
#include <unistd.h>
volatile int ended;
int counter = 41;
int add(int a, int b) {
    counter += a;
    return a + b;
}
int main(int count, char **arguments) {
    int sum = 7;
    FILE *file = fopen(arguments[1], \"w\");
    fprintf(file, \"%d\\n\", getpid());
    fclose(file);
    while (!ended) {
        sum = add(1, sum);
        usleep(10000);
    }
    return 3;
}
";

const PATIENCE: Duration = Duration::from_secs(20);

/// The program's file.
pub(crate) struct Program(TempDir);

impl Program {
    pub(crate) fn build() -> Self {
        let program = Self(tempfile::tempdir().unwrap());
        let source = program.0.path().join("program.c");
        fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("clang-19");
        compiler.args(["-g", "-O0", "-o"]).arg(program.file());
        assert!(compiler.arg(source).status().unwrap().success());
        program
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("program")
    }

    fn number(&self) -> PathBuf {
        self.0.path().join("number")
    }

    /// Whether the program has begun, and runs.
    pub(crate) fn runs(&self) -> bool {
        let number = fs::read_to_string(self.number()).unwrap_or_default();
        let process = PathBuf::from(format!("/proc/{}", number.trim()));
        let is_it = fs::read_link(process.join("exe")).is_ok_and(|file| file == self.file());
        let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
        is_it && (state.contains(") S ") || state.contains(") R "))
    }

    /// The program, which has not begun, behind gdbserver.
    pub(crate) fn behind_gdbserver(&self) -> (Stub, RspTarget) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let output = OwnedFd::from(theirs.try_clone().unwrap());
        self.behind(&["gdbserver", "-"], ours, theirs, output.into())
    }

    /// The program, which has not begun, behind LLDB's stub.
    pub(crate) fn behind_lldb_server(&self) -> (Stub, RspTarget) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // What would be the address is passed over.
        let stub = ["lldb-server-19", "gdbserver", "--fd", "0", ":0", "--"];
        self.behind(&stub, ours, theirs, Stdio::null())
    }

    fn behind(
        &self,
        stub: &[&str],
        ours: UnixStream,
        theirs: UnixStream,
        output: Stdio,
    ) -> (Stub, RspTarget) {
        let mut command = Command::new("setpriv");
        let child = command
            .args(["--pdeathsig", "KILL", "--"])
            .args(stub)
            .arg(self.file())
            .arg(self.number())
            .stdin(OwnedFd::from(theirs))
            .stdout(output)
            .spawn()
            .unwrap();
        drop(command);
        let stream = Stream::Unix(ours).prepare().unwrap();
        let target = RspTarget::over(stream, PATIENCE).unwrap();
        (Stub(child), target)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A debugger may have left it running; its stub has gone before.
        let number = fs::read_to_string(self.number()).unwrap_or_default();
        let pid = number.trim().parse().ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.runs()) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// The stub, which ends with this.
pub(crate) struct Stub(Child);

impl Drop for Stub {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What a debugger said has these in it, one after the other.
pub(crate) fn assert_said(said: &str, wanted: &[&str]) {
    let mut rest = said;
    for wanted in wanted {
        let Some((_, after)) = rest.split_once(wanted) else {
            panic!("{wanted:?} is missing: {said}");
        };
        rest = after;
    }
}
