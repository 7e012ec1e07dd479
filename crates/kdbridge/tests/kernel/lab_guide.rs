//! The sessions that the guide shows of Linux.

use std::process::Stdio;

use crate::bridge::guarded;
use crate::machine::{Machine, Options, release, vmlinux};
use crate::transcripts::{assert_transcript, normalised};

/// Debian's packages are built here.
const SOURCES: &str = "/build/reproducible-path/";

/// Where a processor of the machine waits for something to do.
const IDLE: &str = "native_safe_halt";

struct Session {
    machine: Machine,
}

impl Session {
    /// With one processor, which is always the one that stops, and idle nearly always.
    fn new() -> Self {
        let mut machine = Machine::boot_with(&Options {
            cpus: 1,
            ..Options::default()
        });
        machine.run("{ while :; do sleep 1; cat /proc/uptime; done >/dev/null; } & :");
        Self { machine }
    }

    /// What a debugger says that `kdbridge` starts, and the machine goes on.
    fn play(&mut self, debugger: &[&str], shown: &str) -> String {
        let mut kdbridge = guarded(env!("CARGO_BIN_EXE_kdbridge"));
        kdbridge.arg("--target").arg(self.machine.stub());
        let output = kdbridge
            .arg("--")
            .args(debugger)
            .stdin(Stdio::null())
            .output();
        let output = output.unwrap();
        self.machine.run("true");
        let said = String::from_utf8_lossy(&output.stdout);
        let vmlinux = vmlinux().display().to_string();
        let names = [
            (vmlinux.as_str(), "vmlinux"),
            (&release(), "6.1.0-48-cloud-amd64"),
            (SOURCES, ""),
        ];
        let said = normalised(&format!("$ {shown}\n{said}"), &names);
        // The numbers of lines are those of one version of the kernel.
        let digits = |c: char| c.is_ascii_digit() || c == ':';
        let marks = [".c:", ".S:", ".h:", ", line "];
        let said = marks
            .iter()
            .fold(said, |said, mark| without(&said, mark, digits));
        without(&said, "unix-connect://", |c| c != '\n')
    }
}

/// Behind each `mark`, what `is_special` is left out.
fn without(said: &str, mark: &str, is_special: impl Fn(char) -> bool) -> String {
    let mut parts = said.split(mark);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += mark;
        plain += "…";
        plain += part.trim_start_matches(&is_special);
    }
    plain
}

/// Tries again where the machine was just not idle when it was stopped.
fn idle(mut session: impl FnMut() -> String) -> String {
    let mut said = String::new();
    for _ in 0..10 {
        said = session();
        if said.contains(IDLE) {
            return said;
        }
    }
    panic!("never in {IDLE}: {said}");
}

#[test]
fn k28_the_session_with_linux_in_gdb() {
    let mut session = Session::new();
    let vmlinux = vmlinux();
    let mut gdb = vec!["gdb", "-nx", "-q", "-batch"];
    let commands = [
        "print init_task.comm",
        "break do_sys_openat2",
        "continue",
        "backtrace 7",
        "info args",
        "detach",
    ];
    let echoed = commands.map(|command| format!("echo (gdb) {command}\\n"));
    for (echo, command) in echoed.iter().zip(commands) {
        gdb.extend(["-ex", echo, "-ex", command]);
    }
    gdb.push(vmlinux.to_str().unwrap());
    let said = idle(|| session.play(&gdb, "kdbridge -- gdb vmlinux"));
    assert_transcript("linux-gdb.txt", &said);
}

#[test]
fn k28_the_session_with_linux_in_lldb() {
    let mut session = Session::new();
    let vmlinux = vmlinux();
    let mut lldb = vec!["lldb-19", "-X", "-b"];
    for command in [
        "p init_task.comm",
        "breakpoint set --name do_sys_openat2",
        "continue",
        "p filename",
        "detach",
    ] {
        lldb.extend(["-o", command]);
    }
    lldb.push(vmlinux.to_str().unwrap());
    let said = idle(|| session.play(&lldb, "kdbridge -- lldb vmlinux"));
    assert_transcript("linux-lldb.txt", &said);
}
