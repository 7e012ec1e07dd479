//! Modules that are loaded and unloaded while a debugger is connected.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::bridge::{Bridge, read_until};
use crate::machine::{Machine, root, vmlinux};

/// Loads a module that calls a function of its own, `dummy_setup`, when it starts.
const LOAD: &str = "insmod /modules/dummy.ko numdummies=1";
const UNLOAD: &str = "rmmod dummy";

/// What a debugger has said when the machine gets its orders.
const READY: &str = "it may load";

fn serve(machine: &Machine) -> Bridge {
    let symbols = root().join("usr/lib/debug");
    Bridge::serve(machine, &["--files", symbols.to_str().unwrap()])
}

/// What a debugger prints after it was ready. The machine stands still then, and carries `orders` out as
/// soon as it runs.
fn during(machine: &mut Machine, mut debugger: Command, orders: &str) -> String {
    debugger.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut debugger = debugger.spawn().unwrap();
    let output = debugger.stdout.as_mut().unwrap();
    let mut said = read_until(output, READY);
    machine.send(orders);
    output.read_to_string(&mut said).unwrap();
    let rest = debugger.wait_with_output().unwrap();
    said + &String::from_utf8_lossy(&rest.stderr)
}

/// Nothing stops the machine where modules are loaded and unloaded.
fn is_left_alone(machine: &mut Machine) {
    machine.run(&format!("{{ {UNLOAD}; :; }} && {LOAD} && {UNLOAD}"));
}

#[test]
fn k07_a_module_that_is_loaded_while_gdb_is_connected_has_its_breakpoints_hit() {
    let mut machine = Machine::boot();
    let bridge = serve(&machine);
    let ready = format!("echo {READY}\\n");
    let commands = [
        "set breakpoint pending on",
        "break dummy_init_module",
        "break dummy_setup",
        &ready,
        "continue",
        "bt 2",
        "continue",
        "bt 1",
        "continue",
        "info breakpoints",
    ];
    let gdb = bridge.gdb_command(Some(&vmlinux()), &commands);
    // The last one is to be hit where the module has started, and what only its start needed is gone.
    let orders = format!("{LOAD} && ip link add name d type dummy && {UNLOAD}");
    let gdb = during(&mut machine, gdb, &orders);
    assert!(gdb.contains("Breakpoint 2 (dummy_setup) pending"), "{gdb}");
    assert!(gdb.contains("Breakpoint 1, dummy_init_module ("), "{gdb}");
    assert!(gdb.contains("in do_one_initcall ("), "{gdb}");
    let hits = gdb.matches("Breakpoint 2, dummy_setup (dev=").count();
    assert_eq!(hits, 2, "{gdb}");
    assert!(gdb.contains("drivers/net/dummy.c:"), "{gdb}");
    assert!(!gdb.contains("SIGTRAP"), "{gdb}");
    machine.run("true");
    is_left_alone(&mut machine);
}

#[test]
fn k07_a_module_that_is_loaded_while_lldb_is_connected_has_its_breakpoints_hit() {
    let mut machine = Machine::boot();
    let bridge = serve(&machine);
    let ready = format!("script print('{READY}', flush=True)");
    let commands = [
        "b dummy_init_module",
        "b dummy_setup",
        &ready,
        "continue",
        "continue",
        "continue",
        "continue",
        "continue",
    ];
    let lldb = bridge.lldb_command(None, &commands);
    let orders = format!("{LOAD} && ip link add name d type dummy && {UNLOAD} && {LOAD}");
    let lldb = during(&mut machine, lldb, &orders);
    assert!(
        lldb.contains("Breakpoint 2: no locations (pending)"),
        "{lldb}"
    );
    let started = lldb.matches("dummy.ko`dummy_init_module at dummy.c:");
    assert_eq!(started.count(), 2, "{lldb}");
    let hits = lldb.matches("stop reason = breakpoint 2.");
    assert_eq!(hits.count(), 3, "{lldb}");
    machine.run("true");
    is_left_alone(&mut machine);
}

#[test]
fn k07_a_module_that_is_unloaded_is_gone_for_gdb_until_it_is_loaded_again() {
    let mut machine = Machine::boot();
    machine.run(LOAD);
    let bridge = serve(&machine);
    let ready = format!("echo {READY}\\n");
    let look = "python print('found:', len(gdb.lookup_static_symbols('dummy_netdev_ops')))";
    let commands = [
        "break dummy_setup",
        "break free_module",
        look,
        &ready,
        "continue",
        look,
        "continue",
        look,
    ];
    let gdb = bridge.gdb_command(Some(&vmlinux()), &commands);
    let gdb = during(&mut machine, gdb, &format!("{UNLOAD} && {LOAD}"));
    let wanted = [
        "found: 1",
        "Breakpoint 2, free_module (mod=",
        "found: 0",
        "Breakpoint 1, dummy_setup (dev=",
        "found: 1",
    ];
    let found = wanted.iter().try_fold(gdb.as_str(), |rest, wanted| {
        rest.split_once(wanted).map(|(_, rest)| rest)
    });
    assert!(found.is_some(), "{gdb}");
    machine.run("true");
    is_left_alone(&mut machine);
}
