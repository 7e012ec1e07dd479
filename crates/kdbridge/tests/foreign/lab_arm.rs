//! A processor that the bridge knows nothing of.

use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::target::{Stop, Target, Trap};

use crate::arm::Firmware;
use crate::debugger::gdb;
use crate::program::assert_said;
use crate::serving::Serving;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn k25_gdb_debugs_an_arm_processor() {
    let firmware = Firmware::build();
    let (stub, target) = firmware.start();
    let mut bridge = Serving::start(target, Box::new(|_| panic!("there is no kernel")));
    let session = [
        "info registers cpsr",
        "break add",
        "continue",
        "bt",
        "print counter = 5",
        "stepi",
        "print $r0 = 3",
        "print $r0",
        "next",
        "print counter",
        "delete",
        "watch counter",
        "continue",
        "detach",
    ];
    let file = firmware.file();
    let said = gdb("gdb-multiarch", Some(&file), &bridge.socket(), &session);
    let wanted = [
        "cpsr           0x10",
        "Breakpoint 1, add (a=1, b=",
        "#0  add (a=1, b=",
        "in _start () at",
        "$1 = 5",
        "$2 = 3",
        "$3 = 3",
        "$4 = 6",
        "Old value = 6",
        "New value = 7",
        "detached",
    ];
    assert_said(&said, &wanted);

    bridge.stop().unwrap();
    assert!(stub.ends().is_err(), "hung up on");
}

#[test]
fn k25_breakpoints_on_an_arm_processor_come_off_when_the_debugger_is_gone() {
    let firmware = Firmware::build();
    let (_stub, target) = firmware.start();
    let bridge = Serving::start(target, Box::new(|_| None));
    let connect = || RspTarget::connect(&Address::Unix(bridge.socket()), PATIENCE).unwrap();
    let mut first = connect();
    first.set(firmware.add(), Trap::Software).unwrap();
    first.resume().unwrap();
    let stop = first.wait(PATIENCE).unwrap();
    assert!(matches!(stop, Some(Stop::Breakpoint(_))), "{stop:?}");
    drop(first);

    let mut second = connect();
    second.resume().unwrap();
    assert_eq!(second.wait(Duration::from_millis(100)).unwrap(), None);
    second.interrupt().unwrap();
    let stop = second.wait(PATIENCE).unwrap();
    assert!(matches!(stop, Some(Stop::Interrupted(_))), "{stop:?}");
}
