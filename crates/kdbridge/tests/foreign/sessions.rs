//! What debuggers do with the program, whatever stub it is behind.

use kdbridge::rsp::RspTarget;
use kdbridge::serve::ServeError;
use kdbridge::target::{End, TargetError};

use crate::debugger;
use crate::program::{Program, Stub, assert_said};
use crate::serving::Serving;

/// Puts the program behind a stub.
type Behind = fn(&Program) -> (Stub, RspTarget);

/// The bridge in front of a stub that has a program and no kernel.
pub(crate) fn bridge(target: RspTarget) -> Serving {
    Serving::start(target, Box::new(|_| panic!("there is no kernel")))
}

pub(crate) fn gdb(behind: Behind) {
    let program = Program::build();
    let (_stub, target) = behind(&program);
    let mut bridge = bridge(target);
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
    let said = debugger::gdb("gdb", Some(&program.file()), &bridge.socket(), &session);
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

pub(crate) fn lldb(behind: Behind) {
    let program = Program::build();
    let (_stub, target) = behind(&program);
    let mut bridge = bridge(target);
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
    let said = debugger::lldb(&program.file(), &bridge.socket(), &[], &session);
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
