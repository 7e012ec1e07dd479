//! The sessions of the articles about VMware Fusion, lldb and the kernel of a Mac, on Linux.

use std::fs;
use std::process::Stdio;

use crate::bridge::Bridge;
use crate::build::Built;
use crate::command::Command;
use crate::debugger::{said, within_a_minute};
use crate::front::Kernel;
use crate::machine::Machine;
use crate::transcripts::{assert_transcript, normalised};

const SLIDE: u64 = 0xf60_0000;

/// What the article is played with.
struct Session {
    built: Built,
    command: Command,
    port: String,
    started: String,
}

impl Session {
    /// `place` stands in the transcript for where the kernel is.
    fn new(built: Built, place: (&str, &str), more: &[&str]) -> Self {
        let (real, shown) = place;
        let mut command = Command::serve_at_a_port(&built, real, more);
        let address = command.is_ready().expect("a bridge");
        let (_, port) = address.rsplit_once(':').expect("a port");
        let port = port.to_owned();
        let more = more.iter().map(|it| format!(" {it}"));
        let more: String = more.collect();
        let remarks = command.remarks(2);
        let started = format!(
            "$ kdbridge serve {shown} --files KDK{more}\n{remarks}debuggers connect to {address}\n"
        );
        Self {
            built,
            command,
            port,
            started,
        }
    }

    /// The session as it is to be shown, with what started it.
    fn shown(&self, program: &str, said: &str) -> String {
        let kit = self.built.folder().display().to_string();
        let cache = self.command.folder.path().display().to_string();
        let names = [
            (kit.as_str(), "KDK"),
            (&cache, "~/.cache"),
            (&format!(":{}", self.port), ":2345"),
            (&format!(" {}\n", self.port), " 2345\n"),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/xnu/"), ""),
        ];
        normalised(&format!("{}$ {program}\n{said}", self.started), &names)
    }

    fn lldb(&self, commands: &[&str]) -> String {
        let mut lldb = within_a_minute();
        lldb.args(["lldb-19", "-X", "-b"]);
        // As where the sources of the kernel are not at hand.
        for part in ["before", "after"] {
            lldb.args(["-O", &format!("settings set stop-line-count-{part} 0")]);
        }
        let kit = self.built.folder().display().to_string();
        for command in commands {
            let command = command.replace("KDK", &kit).replace("2345", &self.port);
            lldb.args(["-o", &command]);
        }
        let said = said(lldb);
        let first = commands.first().expect("a command");
        let (first, _) = first.split_once(' ').expect("a file");
        let from = said.find(&format!("(lldb) {first}")).expect("a session");
        self.shown("lldb", &said[from..])
    }

    fn gdb(&self, commands: &[&str]) -> String {
        let script = self.built.folder().join("interrupt.py");
        fs::write(&script, INTERRUPT).expect("room");
        let mut gdb = within_a_minute();
        gdb.args(["gdb", "-nx", "-batch", "-x"]).arg(script);
        for command in commands {
            let real = command.replace("2345", &self.port);
            gdb.args(["-ex", &format!("echo (gdb) {command}\\n"), "-ex", &real]);
        }
        let output = gdb.stdin(Stdio::null()).output().expect("gdb");
        self.shown("gdb", &String::from_utf8_lossy(&output.stdout))
    }
}

/// Presses Control-C where the kernel runs and no breakpoint is left. gdb takes the signal only once
/// it waits, which nothing tells.
const INTERRUPT: &str = "\
import os, signal, threading

def interrupt():
    print('^C', flush=True)
    os.kill(os.getpid(), signal.SIGINT)

def resumed(event):
    if not gdb.breakpoints():
        threading.Timer(0.3, interrupt).start()

gdb.events.cont.connect(resumed)
";

/// The kernel behind a stub.
struct Stub {
    session: Session,
    _bridge: Bridge,
}

impl Stub {
    fn new() -> Self {
        let built = Built::new();
        let machine = Machine::new(&built, SLIDE, true);
        let bridge = Bridge::start(machine, Box::new(|_| None));
        let place = bridge.place();
        Self {
            session: Session::new(built, (&place, ":8864"), &[]),
            _bridge: bridge,
        }
    }
}

/// The first session in which the kernel stood in its idle loop whenever it was stopped, as kernels
/// nearly always do, behind its `hlt`: as often as `place` is said.
fn idle(place: &str, times: usize, mut session: impl FnMut() -> String) -> String {
    let mut said = String::new();
    for _ in 0..100 {
        said = session();
        if said.matches(place).count() == times {
            return said;
        }
    }
    panic!("never {times} times {place}: {said}");
}

/// "Using the VMware Fusion GDB stub for kernel debugging with LLDB".
#[test]
fn k28_the_article_about_the_stub_in_lldb() {
    let stub = Stub::new();
    let said = idle("kernel`machine_idle at kernel.c:180:", 2, || {
        stub.session.lldb(&[
            "file KDK/kernel",
            "target modules add KDK/example",
            "gdb-remote 2345",
            "thread backtrace",
            "breakpoint set --name forkproc",
            "continue",
            "thread backtrace",
            "p *(struct proc *)$rdi",
        ])
    });
    assert_transcript("macos-stub-lldb.txt", &said);
}

#[test]
fn k28_the_article_about_the_stub_in_gdb() {
    let stub = Stub::new();
    let said = idle("\nmachine_idle () at kernel.c:180\n", 2, || {
        stub.session.gdb(&[
            "target remote :2345",
            "backtrace",
            "break forkproc",
            "continue",
            "backtrace 4",
            "print *(struct proc *)$rdi",
            "delete",
            "continue",
            "detach",
        ])
    });
    assert_transcript("macos-stub-gdb.txt", &said);
}

/// "Kernel debugging with LLDB and VMware Fusion".
#[test]
fn k28_the_article_about_kdp_in_lldb() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let place = (kernel.place(), "kdp:192.168.56.10");
    let session = Session::new(built, (&place.0, place.1), &[]);
    let said = session.lldb(&[
        "target create KDK/kernel",
        "target modules add KDK/example",
        "gdb-remote 2345",
        "breakpoint set --name hfs_vnop_setxattr",
        "continue",
        "thread backtrace",
        "p *(struct vnop_setxattr_args *)$rdi",
    ]);
    assert_transcript("macos-kdp-lldb.txt", &said);
}

#[test]
fn k28_the_article_about_kdp_in_gdb_with_interrupts() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let place = (kernel.place(), "kdp:192.168.56.10");
    let more = ["--interrupt-every", "250"];
    let session = Session::new(built, (&place.0, place.1), &more);
    let said = session.gdb(&[
        "target remote :2345",
        "break hfs_vnop_setxattr",
        "continue",
        "backtrace 4",
        "print *(struct vnop_setxattr_args *)$rdi",
        "delete",
        "continue",
        "backtrace 3",
        "detach",
    ]);
    assert_transcript("macos-kdp-gdb.txt", &said);
}

/// What no article has.
#[test]
fn k28_an_extension_that_is_loaded_while_gdb_is_connected() {
    let built = Built::new();
    let machine = Machine::with_extensions(&built, SLIDE, false, 0);
    let kernel = Kernel::of(machine);
    let place = (kernel.place(), "kdp:192.168.56.10");
    let session = Session::new(built, (&place.0, place.1), &[]);
    let said = session.gdb(&[
        "target remote :2345",
        "set breakpoint pending on",
        "break example_start",
        "set variable wanted_kexts = 1",
        "continue",
        "backtrace 2",
        "print ki->name",
        "info sharedlibrary",
        "detach",
    ]);
    assert_transcript("macos-kdp-gdb-extension.txt", &said);
}

#[test]
fn k10_debuggers_that_it_starts_are_given_the_files_of_the_kernel() {
    let built = Built::new();
    let stub = Bridge::start(Machine::new(&built, SLIDE, true), Box::new(|_| None));
    let commands = ["b forkproc", "continue", "bt 3", "p *(struct proc *)$rdi"];
    let play = |debugger: &[&str], option: &str| {
        let mut kdbridge = within_a_minute();
        kdbridge
            .args([
                env!("CARGO_BIN_EXE_kdbridge"),
                "--target",
                &stub.place(),
                "--files",
            ])
            .arg(built.folder());
        kdbridge.arg("--").args(debugger);
        for command in commands {
            kdbridge.args([option, command]);
        }
        said(kdbridge)
    };
    let gdb = play(&["gdb", "-nx", "-batch"], "-ex");
    assert!(
        gdb.contains("Breakpoint 1, forkproc (parent_proc=0x"),
        "{gdb}"
    );
    assert!(gdb.contains("in fork1 (parent_proc=0x"), "{gdb}");
    assert!(gdb.contains("p_pid = 1, "), "{gdb}");
    let lldb = play(&["lldb-19", "-X", "-b"], "-o");
    assert!(lldb.contains("Loading 1 kext modules  done."), "{lldb}");
    assert!(
        lldb.contains("Breakpoint 1: where = kernel`forkproc + "),
        "{lldb}"
    );
    assert!(lldb.contains("kernel`fork1(parent_proc=0x"), "{lldb}");
    assert!(lldb.contains("p_pid = 1\n"), "{lldb}");
}
