//! gdbserver behind the bridge.

use std::time::{Duration, Instant};

use kdbridge::serve::ServeError;
use kdbridge::target::{End, TargetError};

use crate::debugger::{gdb, lldb};
use crate::program::{Program, assert_said};
use crate::serving::Serving;

#[test]
fn k25_gdb_debugs_a_program_behind_gdbserver() {
    let program = Program::build();
    let (_stub, target) = program.behind_gdbserver();
    let mut bridge = Serving::start(target, Box::new(|_| panic!("there is no kernel")));
    let session = [
        "break add",
        "continue",
        "bt",
        "print counter = 5",
        "stepi",
        "next",
        "print counter",
        "info sharedlibrary",
        "print ended = 1",
        "delete",
        "continue",
    ];
    let said = gdb("gdb", Some(&program.file()), &bridge.socket(), &session);
    let wanted = [
        "Breakpoint 1, add (a=1, b=7) at",
        "#0  add (a=1, b=7) at",
        "in main (",
        "$1 = 5",
        "$2 = 6",
        "libc.so.6",
        "exited with code 03",
    ];
    assert_said(&said, &wanted);
    assert!(!said.contains("lmid"), "{said}");
    let end = bridge.stop().unwrap_err();
    assert!(
        matches!(end, ServeError::Target(TargetError::Ended(End::Exit(3)))),
        "{end}"
    );
}

/// GDB's number of SIGUSR1.
const SIGUSR1: u8 = 30;

#[test]
fn k25_gdb_has_a_program_go_on_with_a_signal() {
    let program = Program::build();
    let (_stub, target) = program.behind_gdbserver();
    let mut bridge = Serving::start(target, Box::new(|_| panic!("there is no kernel")));
    let session = ["break add", "continue", "signal SIGUSR1"];
    let said = gdb("gdb", Some(&program.file()), &bridge.socket(), &session);
    assert_said(
        &said,
        &["Breakpoint 1, add", "terminated with signal SIGUSR1"],
    );
    let start = Instant::now();
    let end = bridge.stop().unwrap_err();
    // Nobody waits for what has ended.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(
            end,
            ServeError::Target(TargetError::Ended(End::Signal(SIGUSR1)))
        ),
        "{end}"
    );
}

#[test]
fn k25_lldb_debugs_a_program_behind_gdbserver() {
    let program = Program::build();
    let (_stub, target) = program.behind_gdbserver();
    let mut bridge = Serving::start(target, Box::new(|_| panic!("there is no kernel")));
    let session = [
        "breakpoint set -n add",
        "continue",
        "bt",
        "print counter = 5",
        "thread step-inst",
        "next",
        "print counter",
        "detach",
    ];
    let said = lldb(&program.file(), &bridge.socket(), &[], &session);
    let wanted = [
        "stop reason = breakpoint 1.1",
        "program`add(a=1, b=7) at program.c",
        "program`main(",
        "(int) 5",
        "stop reason = instruction step into",
        "(int) 6",
        "detached",
    ];
    assert_said(&said, &wanted);
    assert!(program.runs());
    bridge.stop().unwrap();
    assert!(program.runs(), "the end of the bridge ends the program");
}
