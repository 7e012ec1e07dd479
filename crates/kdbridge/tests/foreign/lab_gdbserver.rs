//! gdbserver behind the bridge.

use std::time::{Duration, Instant};

use kdbridge::serve::ServeError;
use kdbridge::target::{End, TargetError};

use crate::debugger::gdb;
use crate::program::{Program, assert_said};
use crate::sessions;

#[test]
fn k25_gdb_debugs_a_program_behind_gdbserver() {
    sessions::gdb(Program::behind_gdbserver);
}

/// GDB's number of SIGUSR1.
const SIGUSR1: u8 = 30;

#[test]
fn k25_gdb_has_a_program_go_on_with_a_signal() {
    let program = Program::build();
    let (_stub, target) = program.behind_gdbserver();
    let mut bridge = sessions::bridge(target);
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
    sessions::lldb(Program::behind_gdbserver);
}
