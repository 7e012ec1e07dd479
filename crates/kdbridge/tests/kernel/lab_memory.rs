//! How fast memory is read through the bridge, and how often the target is asked for it.

use std::path::Path;

use kdbridge::discover::linux::{self, Image};
use kdbridge::rsp::RspTarget;
use kdbridge::symbols::{ElfFile, SymbolTable};
use kdbridge::target::Memory;

use crate::bridge::{Bridge, Session};
use crate::lab_target::connect;
use crate::machine::{Machine, vmlinux};
use crate::relay::Relay;

/// Where a kernel is, and where it has all of the machine's memory, which is elsewhere in each boot too.
pub(crate) fn places(target: &mut RspTarget) -> (u64, u64) {
    let elf = ElfFile::open(&vmlinux()).unwrap();
    let symbols = SymbolTable::of_file(&elf).unwrap();
    let image = Image::of(&elf, &symbols).unwrap();
    let slide = linux::locate(target, &image).unwrap().slide;
    let symbol = symbols.by_name("page_offset_base").unwrap();
    let memory = target.word(symbol.address + slide).unwrap();
    (slide, memory)
}

/// How many reads GDB that is at `socket` makes of the target for the stack of a system call.
fn reads_of_a_stack(socket: &Path, relay: &Relay, symbols: &str) -> usize {
    let connect = format!("target remote {}", socket.display());
    let mut gdb = Session::start(&[&connect, symbols, "thbreak do_sys_openat2", "continue"]);
    let before = relay.reads();
    let stack = gdb.run("bt");
    let reads = relay.reads() - before;
    assert!(stack.contains("#0  do_sys_openat2"), "{stack}");
    assert!(stack.contains(" do_syscall_64 "), "{stack}");
    gdb.end();
    reads
}

#[test]
fn k23_a_stack_takes_gdb_fewer_reads_than_directly() {
    let mut machine = Machine::boot();
    machine.send("while :; do ls /proc; done >/dev/null &");
    let (slide, _) = places(&mut connect(&machine));
    let symbols = format!("symbol-file -o {slide:#x} {}", vmlinux().display());

    let relay = Relay::to(machine.stub());
    let directly = reads_of_a_stack(relay.socket(), &relay, &symbols);
    drop(relay);

    let relay = Relay::to(machine.stub());
    let bridge = Bridge::behind(&relay, &machine);
    let through = reads_of_a_stack(bridge.socket(), &relay, &symbols);
    drop(bridge);
    assert!(through < directly, "{through} of {directly}");
}
