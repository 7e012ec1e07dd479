//! What becomes of a machine when a command is told to end.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::machine::Machine;
use crate::relay::Relay;

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

fn stub(machine: &Machine) -> String {
    format!("unix:{}", machine.stub().display())
}

fn kdbridge(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    command.args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Whether the process has a function for the signal; before, it would just end.
fn takes(child: &Child, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let taken = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let taken = u64::from_str_radix(taken.unwrap().trim(), 16).unwrap();
    taken >> (signal.as_raw() - 1) & 1 == 1
}

fn tell(child: &mut Child, signal: Signal) -> (ExitStatus, String) {
    while child.try_wait().unwrap().is_none() && !takes(child, signal) {
        std::thread::yield_now();
    }
    // It has not been waited for, or has ended by itself, which its errors tell.
    kill_process(Pid::from_child(child), signal).ok();
    let mut errors = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    (child.wait().unwrap(), errors)
}

#[test]
fn a_breakpoint_is_taken_off_when_the_command_is_told_to_end() {
    let mut machine = Machine::boot();
    for signal in SIGNALS {
        let relay = Relay::to(machine.stub());
        let stub = format!("unix:{}", relay.socket().display());
        let place = "__x64_sys_sethostname";
        let mut child = kdbridge(&["break", "--target", &stub, "--no-files", place]);
        while relay.breakpoints() == 0 {
            std::thread::yield_now();
        }
        let (status, errors) = tell(&mut child, signal);
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{errors}");
        assert!(errors.contains("told to end"), "{errors}");
        assert!(relay.is_rid_of_breakpoints());
        // It would stand still there.
        machine.run("hostname other");
    }
}

#[test]
fn a_bridge_ends_and_leaves_the_machine_running_at_each_signal() {
    let mut machine = Machine::boot();
    for signal in SIGNALS {
        let folder = TempDir::new().unwrap();
        let listen = format!("unix:{}/bridge", folder.path().display());
        let bridge = ["serve", &stub(&machine), "--listen", &listen];
        let (status, errors) = tell(&mut kdbridge(&bridge), signal);
        assert!(status.success(), "{errors}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        machine.run("true");
    }
}

#[test]
fn a_debugger_is_told_to_end_with_the_command_that_started_it() {
    let mut machine = Machine::boot();
    let folder = TempDir::new().unwrap();
    let debugger = folder.path().join("gdb");
    fs::write(&debugger, "#!/bin/sh\necho begun\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&debugger, Permissions::from_mode(0o700)).unwrap();
    for signal in [Signal::TERM, Signal::HUP] {
        let debugger = debugger.to_str().unwrap();
        let mut child = kdbridge(&["--target", &stub(&machine), "--", debugger]);
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "begun\n");
        let (status, errors) = tell(&mut child, signal);
        assert!(!status.success(), "{errors}");
        machine.run("true");
    }
}
