//! How fast memory is read through the bridge, and how often the target is asked for it.

use std::path::Path;
use std::time::{Duration, Instant};

use kdbridge::discover::linux::{self, Image};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::{Address, Deadline, Link, Stream};
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::{ElfFile, SymbolTable};
use kdbridge::target::Memory;

use crate::bridge::{Bridge, Session};
use crate::lab_target::connect;
use crate::machine::{Machine, vmlinux};
use crate::relay::Relay;

const LENGTH: u64 = 16 << 20;

/// How often it is read in each way, of which the fastest counts: other work can only slow it down.
const ROUNDS: usize = 7;

/// Without optimisation the bridge is slower, and QEMU is not.
const SLOWER: u32 = if cfg!(debug_assertions) { 4 } else { 1 };

/// A debugger that reads as GDB does: it asks for as much as one packet has room for, and waits.
struct Reader {
    link: Link,
    chunk: u64,
}

impl Reader {
    fn connect(address: Address, chunk: u64) -> Self {
        let stream = Stream::connect(&address, PATIENCE).unwrap();
        let mut link = Link::new(stream);
        let mut ask = |request: &[u8]| {
            link.send(&[request], Deadline::after(PATIENCE)).unwrap();
            // QEMU says first that the machine stands still.
            while link.receive(Deadline::after(PATIENCE)).unwrap().unwrap() != b"1" {}
        };
        ask(b"qAttached");
        Self { link, chunk }
    }

    fn time(mut self, from: u64) -> Duration {
        let start = Instant::now();
        for at in (from..from + LENGTH).step_by(self.chunk as usize) {
            let request = format!("m{at:x},{:x}", self.chunk);
            let deadline = Deadline::after(4 * PATIENCE);
            self.link.send(&[request.as_bytes()], deadline).unwrap();
            let reply = self.link.receive(deadline).unwrap().unwrap();
            assert_eq!(reply.len() as u64, self.chunk * 2, "{at:#x}");
        }
        start.elapsed()
    }
}

/// Where a kernel is, and where it has all of the machine's memory, which is elsewhere in each boot too.
fn places(target: &mut RspTarget) -> (u64, u64) {
    let elf = ElfFile::open(&vmlinux()).unwrap();
    let symbols = SymbolTable::of_file(&elf).unwrap();
    let image = Image::of(&elf, &symbols).unwrap();
    let slide = linux::locate(target, &image).unwrap().slide;
    let symbol = symbols.by_name("page_offset_base").unwrap();
    let memory = target.word(symbol.address + slide).unwrap();
    (slide, memory)
}

#[test]
fn k23_sixteen_mib_are_read_about_as_fast_as_directly() {
    let machine = Machine::boot();
    let (_, memory) = places(&mut connect(&machine));
    // All of it is ordinary memory there.
    let from = memory + (256 << 20);
    let round = |_| {
        // What GDB asks each of them for.
        let direct = Reader::connect(Address::Unix(machine.stub()), 0x800).time(from);
        let bridge = Bridge::serve(&machine, &[]);
        let address = Address::Unix(bridge.socket().to_owned());
        let through = Reader::connect(address, 0x1_0000).time(from);
        assert!(bridge.stop().success());
        (direct, through)
    };
    let (direct, through): (Vec<_>, Vec<_>) = (0..ROUNDS).map(round).unzip();
    let best = |times: &[Duration]| *times.iter().min().unwrap();
    assert!(
        best(&through) * 4 <= best(&direct) * 5 * SLOWER,
        "directly {direct:?}, through the bridge {through:?}"
    );
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
    let listen = format!("unix:{}", machine.folder().join("bridge").display());
    let bridge = Bridge::start("serve", relay.socket(), &listen, &[]);
    let through = reads_of_a_stack(bridge.socket(), &relay, &symbols);
    drop(bridge);
    assert!(through < directly, "{through} of {directly}");
}
