//! The lab itself.

use std::os::unix::net::UnixStream;

use crate::machine::{Machine, release, vmlinux};

#[test]
fn a_machine_runs_the_kernel_that_the_lab_names() {
    let mut machine = Machine::boot();
    assert_eq!(machine.run("uname -r").trim(), release());
    assert!(vmlinux().exists());
    assert!(machine.folder().exists());
    assert!(machine.uptime() > 0.0);
    UnixStream::connect(machine.stub()).unwrap();
    assert!(machine.is_alive());
}
