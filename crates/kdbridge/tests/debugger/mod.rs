//! What debuggers say that connect to a socket.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

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
pub(crate) fn within_a_minute() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]);
    command
}

/// What a program prints until it ends, errors last.
pub(crate) fn said(mut command: Command) -> String {
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
