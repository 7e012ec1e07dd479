//! What the bridge promises of itself, measured with a real machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kdbridge::discover::linux::{self};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::Cache;
use kdbridge::target::{Target, TargetError, Trap};

use crate::bridge::{Bridge, gdb};
use crate::machine::{Machine, Options, release, vmlinux};

pub(crate) fn client(bridge: &Bridge) -> RspTarget {
    RspTarget::connect(&Address::Unix(bridge.socket().to_owned()), 4 * PATIENCE).unwrap()
}

#[test]
fn k08_the_kernel_is_readable_though_all_processors_are_in_user_mode() {
    let mut machine = Machine::boot_with(&Options {
        append: "pti=on",
        ..Options::default()
    });
    machine.run("for i in 1 2 3 4; do while :; do :; done & done");
    let bridge = Bridge::serve(&machine, &[]);
    let commands = [
        "thread apply all p $cs",
        "p &linux_banner",
        "x/s linux_banner",
        "p init_task.comm",
    ];
    // A processor may just handle an interrupt.
    let through = (0..20).map(|_| bridge.gdb(Some(&vmlinux()), &commands));
    let in_user_mode = |output: &String| output.matches("= 51").count() == 2;
    let through = through
        .into_iter()
        .find(in_user_mode)
        .expect("both in user mode");
    assert!(
        through.contains(&format!("Linux version {}", release())),
        "{through}"
    );
    assert!(through.contains("\"swapper/0"), "{through}");

    let address = through.split("0x").find_map(|rest| {
        let (address, rest) = rest.split_once(' ')?;
        rest.starts_with("<linux_banner>").then_some(address)
    });
    let read = format!("x/s 0x{}", address.expect("where the banner is"));
    drop(bridge);
    let direct = (0..20).map(|_| gdb(&machine.stub(), None, &["thread apply all p $cs", &read]));
    let direct = direct
        .into_iter()
        .find(in_user_mode)
        .expect("both in user mode");
    assert!(direct.contains("Cannot access memory"), "{direct}");
}

#[test]
fn k24_of_two_debuggers_both_read_and_one_controls() {
    let mut machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let mut first = client(&bridge);
    let kernel = linux::find(&mut first, &Cache::none()).unwrap();
    first.set(kernel.text + 0x1000, Trap::Software).unwrap();

    let second = bridge.gdb(Some(&vmlinux()), &["x/s linux_banner", "stepi"]);
    assert!(
        second.contains(&format!("Linux version {}", release())),
        "{second}"
    );
    assert!(
        second.contains("controls this machine until it leaves"),
        "{second}"
    );
    linux::find(&mut first, &Cache::none()).unwrap();

    drop(first);
    let alone = bridge.gdb(Some(&vmlinux()), &["stepi", "p $pc"]);
    assert!(!alone.contains("controls this machine"), "{alone}");
    assert!(alone.contains("$1 = (void (*)"), "{alone}");
    machine.run("true");
}

#[test]
fn k16_gdb_is_refused_a_breakpoint_where_nothing_is() {
    let machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let commands = ["break *0xffffffff00000000", "continue"];
    let output = bridge.gdb(None, &commands);
    assert!(output.contains("Cannot insert breakpoint 1"), "{output}");
    assert!(
        output.contains("Cannot access memory at address 0xffffffff00000000"),
        "{output}"
    );

    let mut client = client(&bridge);
    let error = client
        .set(0xffff_ffff_0000_0000, Trap::Software)
        .unwrap_err();
    assert!(matches!(
        error,
        TargetError::Unreadable(0xffff_ffff_0000_0000)
    ));
}

#[test]
fn k27_only_the_owner_can_connect_and_the_end_leaves_the_machine_running() {
    let mut machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let mode = fs::metadata(bridge.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = bridge.socket().to_owned();
    client(&bridge);
    assert!(bridge.stop().success());
    assert!(!socket.exists());
    machine.run("true");

    let bridge = Bridge::serve_at(&machine, ":0", &[]);
    assert!(
        bridge.address().starts_with("127.0.0.1:"),
        "{}",
        bridge.address()
    );
}

#[test]
fn what_a_monitor_prints_arrives() {
    let machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let commands = [
        "monitor info registers",
        "monitor info version",
        "monitor info status",
        "p $pc",
    ];
    let output = bridge.gdb(None, &commands);
    assert_eq!(output.matches("XMM15=").count(), 1, "{output}");
    assert!(output.contains("CR3="), "{output}");
    assert!(output.contains("VM status: paused"), "{output}");
    assert!(!output.contains("Ignoring packet error"), "{output}");
    assert!(output.contains("$1 = "), "{output}");
    drop(bridge);
    let directly = gdb(&machine.stub(), None, &["monitor info version"]);
    let mut lines = directly.lines();
    let version = lines
        .find(|line| line.starts_with(|it: char| it.is_ascii_digit()) && !line.starts_with("0x"));
    assert!(output.contains(version.expect("a version")), "{output}");
}
