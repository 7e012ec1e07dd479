//! The program under test, and the debuggers that use it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{Machine, root};
use crate::relay::Relay;

/// How many seconds a debugger may take for a script; reading `vmlinux` is most of it, and takes
/// LLDB twenty on a processor of its own.
const PATIENCE: &str = "200";

/// A running `kdbridge serve` or `kdbridge kill-guard`; it ends when this is dropped, and if the test is killed.
pub(crate) struct Bridge {
    child: Child,
    /// As it says itself.
    address: String,
}

impl Bridge {
    /// In front of `machine`, at a path in its folder.
    pub(crate) fn serve(machine: &Machine, arguments: &[&str]) -> Self {
        let socket = machine.folder().join("bridge");
        Self::serve_at(machine, &format!("unix:{}", socket.display()), arguments)
    }

    /// In front of `relay`, which is in front of `machine`.
    pub(crate) fn behind(relay: &Relay, machine: &Machine) -> Self {
        let listen = format!("unix:{}", machine.folder().join("bridge").display());
        Self::start("serve", relay.socket(), &listen, &[])
    }

    pub(crate) fn serve_at(machine: &Machine, listen: &str, arguments: &[&str]) -> Self {
        Self::start("serve", &machine.stub(), listen, arguments)
    }

    /// The guard alone in front of `machine`, at a path in its folder.
    pub(crate) fn guard(machine: &Machine) -> Self {
        let socket = machine.folder().join("guard");
        Self::start(
            "kill-guard",
            &machine.stub(),
            &format!("unix:{}", socket.display()),
            &[],
        )
    }

    /// In front of whatever listens at `stub`.
    pub(crate) fn start(command: &str, stub: &Path, listen: &str, arguments: &[&str]) -> Self {
        let mut child = guarded(env!("CARGO_BIN_EXE_kdbridge"))
            .arg(command)
            .arg(stub)
            .args(["--listen", listen])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("debuggers connect to ");
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address }
    }

    /// Where debuggers connect.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The path at which they do.
    pub(crate) fn socket(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix:").expect("a path"))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// What GDB prints that connects and runs `commands`, with the symbols of `file` if there is one.
    pub(crate) fn gdb(&self, file: Option<&Path>, commands: &[&str]) -> String {
        gdb(self.socket(), file, commands)
    }

    /// GDB that still has to be started; it ends with its commands.
    pub(crate) fn gdb_command(&self, file: Option<&Path>, commands: &[&str]) -> Command {
        gdb_command(self.socket(), file, commands)
    }

    /// The same for LLDB.
    pub(crate) fn lldb(&self, file: Option<&Path>, commands: &[&str]) -> String {
        let output = self.lldb_command(file, commands).output().unwrap();
        shown(&output.stdout, &output.stderr)
    }

    /// LLDB that still has to be started; it ends with its commands.
    pub(crate) fn lldb_command(&self, file: Option<&Path>, commands: &[&str]) -> Command {
        self.lldb_at(Path::new("lldb-19"), file, commands)
    }

    /// What a version of LLDB prints, of which the newest is installed and the others are in the lab.
    pub(crate) fn lldb_of_version(&self, version: u32, file: &Path, commands: &[&str]) -> String {
        let in_lab = root().join(format!("usr/lib/llvm-{version}/bin/lldb"));
        let mut lldb = if in_lab.exists() {
            self.lldb_at(&in_lab, Some(file), commands)
        } else {
            let installed = format!("lldb-{version}");
            self.lldb_at(Path::new(&installed), Some(file), commands)
        };
        lldb.env("LD_LIBRARY_PATH", root().join("usr/lib/x86_64-linux-gnu"));
        let output = lldb.output().unwrap();
        shown(&output.stdout, &output.stderr)
    }

    fn lldb_at(&self, program: &Path, file: Option<&Path>, commands: &[&str]) -> Command {
        let mut lldb = guarded("timeout");
        lldb.args(["-k", "1", PATIENCE]);
        lldb.arg(program).args(["--no-lldbinit", "-b"]).args(file);
        let connect = format!(
            "process connect -p gdb-remote unix-connect://{}",
            self.socket().display()
        );
        for command in [&[connect.as_str()], commands].concat() {
            lldb.args(["-o", command]);
        }
        lldb.stdin(Stdio::null());
        lldb
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What GDB prints that connects to `socket`.
pub(crate) fn gdb(socket: &Path, file: Option<&Path>, commands: &[&str]) -> String {
    let output = gdb_command(socket, file, commands).output().unwrap();
    shown(&output.stdout, &output.stderr)
}

fn gdb_command(socket: &Path, file: Option<&Path>, commands: &[&str]) -> Command {
    let mut gdb = guarded("timeout");
    gdb.args(["-k", "1", PATIENCE, "gdb", "-nx", "-q", "-batch"]);
    gdb.args(file);
    let connect = format!("target remote {}", socket.display());
    for command in [&[connect.as_str()], commands].concat() {
        gdb.args(["-ex", command]);
    }
    gdb.stdin(Stdio::null());
    gdb
}

/// GDB that is given its commands one after the other; it ends with the test.
pub(crate) struct Session {
    gdb: Child,
    output: ChildStdout,
}

impl Session {
    /// GDB that has run `commands`.
    pub(crate) fn start(commands: &[&str]) -> Self {
        let mut gdb = guarded("timeout")
            .args(["-k", "1", PATIENCE, "gdb", "-nx", "-q"])
            .args(["-ex", "set pagination off", "-ex", "set width 0"])
            .args(["-ex", "set confirm off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = gdb.stdout.take().unwrap();
        let mut session = Self { gdb, output };
        for command in commands {
            session.run(command);
        }
        session
    }

    /// What it prints.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let input = self.gdb.stdin.as_mut().unwrap();
        writeln!(input, "{command}\necho it has ended\\n").unwrap();
        read_until(&mut self.output, "it has ended\n")
    }

    /// Leaves the machine to itself.
    pub(crate) fn end(mut self) {
        drop(self.gdb.stdin.take());
        self.gdb.wait().unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        self.gdb.kill().ok();
        self.gdb.wait().ok();
    }
}

/// The kernel promises to end it when the test's thread ends.
pub(crate) fn guarded(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// Reads what a program prints until `wanted` has come, and gives all of it.
pub(crate) fn read_until(output: &mut ChildStdout, wanted: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(wanted) {
        let mut buffer = [0; 4096];
        let count = output.read(&mut buffer).unwrap();
        let so_far = String::from_utf8_lossy(&read);
        assert_ne!(count, 0, "{wanted:?} does not come: {so_far}");
        read.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn shown(output: &[u8], errors: &[u8]) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(output) + &text(errors)
}
