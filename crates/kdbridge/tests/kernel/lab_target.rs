//! QEMU's stub as a target.

use std::io::ErrorKind;
use std::time::Duration;

use kdbridge::discover::linux;
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::Cache;
use kdbridge::target::{Memory, Stop, Target, TargetError, Trap};

use crate::machine::{Machine, Options, release};

/// The interrupt descriptor table, which is at the same place in every boot.
const IDT: u64 = 0xffff_fe00_0000_0000;

pub(crate) fn connect(machine: &Machine) -> RspTarget {
    let address = Address::Unix(machine.stub());
    loop {
        match RspTarget::connect(&address, 4 * PATIENCE) {
            // The socket is there before somebody listens at it.
            Err(TargetError::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                std::thread::yield_now();
            }
            target => return target.unwrap(),
        }
    }
}

/// Where the kernel handles page faults.
pub(crate) fn page_fault(target: &mut RspTarget) -> u64 {
    let mut gate = [0; 16];
    target.read(IDT + 14 * 16, &mut gate).unwrap();
    let part = |range: std::ops::Range<usize>| {
        gate[range]
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    part(8..12) << 32 | part(6..8) << 16 | part(0..2)
}

#[test]
fn k16_a_machine_is_read_stepped_and_left_running() {
    let mut machine = Machine::boot();
    let mut target = connect(&machine);
    let cpus = target.cpus().unwrap();
    assert_eq!(cpus.len(), 2);

    let handler = page_fault(&mut target);
    let mut code = [0; 5000];
    target.read(handler, &mut code).unwrap();
    assert!(code.iter().any(|&byte| byte != 0));

    for &cpu in &cpus {
        let before = target.registers(cpu).unwrap();
        assert!(before.rip > 1 << 40);
    }
    let before = target.registers(cpus[0]).unwrap();
    target.step(cpus[0]).unwrap();
    assert_eq!(target.wait(PATIENCE).unwrap(), Some(Stop::Stepped(cpus[0])));
    assert_ne!(target.registers(cpus[0]).unwrap().rip, before.rip);

    target.set(handler, Trap::Software).unwrap();
    target.resume().unwrap();
    machine.send("ls /proc >/dev/null");
    let stop = target.wait(PATIENCE).unwrap();
    let Some(Stop::Breakpoint(cpu)) = stop else {
        panic!("{stop:?}");
    };
    assert_eq!(target.registers(cpu).unwrap().rip, handler);
    let mut shown = [0; 16];
    target.read(handler, &mut shown).unwrap();
    assert_eq!(shown, code[..16]);

    target.clear(handler, Trap::Software).unwrap();
    target.resume().unwrap();
    assert_eq!(target.wait(Duration::ZERO).unwrap(), None);
    target.interrupt().unwrap();
    assert!(matches!(
        target.wait(PATIENCE),
        Ok(Some(Stop::Interrupted(_)))
    ));

    target.detach().unwrap();
    assert_eq!(machine.run("echo alive").trim(), "alive");
}

#[test]
fn a_breakpoint_where_nothing_is_is_refused() {
    let machine = Machine::boot();
    let mut target = connect(&machine);
    let error = target
        .set(0xffff_ffff_0000_0000, Trap::Software)
        .unwrap_err();
    assert!(matches!(
        error,
        TargetError::Unreadable(0xffff_ffff_0000_0000)
    ));
}

#[test]
fn kernel_memory_is_read_though_all_processors_are_in_user_mode() {
    for cpu_model in ["qemu64", "max"] {
        let mut machine = Machine::boot_with(&Options {
            append: "pti=on",
            cpu_model,
            ..Options::default()
        });
        machine.run("for i in 1 2; do while :; do :; done & done");
        let mut target = connect(&machine);
        let cpus = target.cpus().unwrap();
        // An interrupt may have been on its way.
        while cpus
            .iter()
            .any(|&cpu| target.registers(cpu).unwrap().segments[0] & 3 == 0)
        {
            target.resume().unwrap();
            target.interrupt().unwrap();
            target.wait(PATIENCE).unwrap();
        }
        let kernel = linux::find(&mut target, &Cache::none()).unwrap();
        assert_eq!(kernel.release(), release());
        let mut code = [0; 64];
        let beyond = target.read(0xffff_ffff_0000_0000, &mut code).unwrap_err();
        assert!(matches!(beyond, TargetError::Unreadable(_)));
    }
}
