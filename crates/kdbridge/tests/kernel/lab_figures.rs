//! Figures of a release build, measured with a real machine: how long things take.
//!
//! `cargo xtask test` runs these by themselves, built with optimisation and one after the other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kdbridge::discover::linux::{self, Image, Method, NotFound};
use kdbridge::rsp::link::{Address, Deadline, Link, Stream};
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::{ElfFile, SymbolTable};
use kdbridge::target::{Stop, Target};
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::lab_bridge::client;
use crate::lab_memory::places;
use crate::lab_symbols::{address, busy_machine};
use crate::lab_target::connect;
use crate::machine::{Machine, Options, release, root, vmlinux};

/// How often a kernel is booted to be found.
const BOOTS: usize = 50;

/// How often a command is run to be quick once.
const TRIES: u32 = 16;

const COMMANDS: [&[&str]; 2] = [&["info"], &["bt", "--all"]];

/// How much is read, as GDB reads it.
const LENGTH: u64 = 16 << 20;

/// How often it is read in each way, of which the fastest counts: other work can only slow it down.
const ROUNDS: usize = 7;

#[test]
fn k17_linux_is_found_in_every_boot() {
    let elf = ElfFile::open(&vmlinux()).unwrap();
    let image = Image::of(&elf, &SymbolTable::of_file(&elf).unwrap()).unwrap();
    let found = (0..BOOTS).map(|_| find_while_it_boots(&image));
    let (slides, mut times): (BTreeSet<_>, Vec<_>) = found.unzip();
    assert!(slides.len() > BOOTS / 2, "{slides:x?}");
    times.sort();
    assert!(times[BOOTS / 2] <= Duration::from_millis(50), "{times:?}");
}

/// The slide, and how long it took to find it once it could be found.
fn find_while_it_boots(image: &Image) -> (u64, Duration) {
    let machine = Machine::start(&Options {
        cpus: 1,
        ..Options::default()
    });
    let mut target = connect(&machine);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut slide = None;
    loop {
        let start = Instant::now();
        match linux::locate(&mut target, image) {
            Ok(kernel) => {
                let took = start.elapsed();
                assert_eq!(kernel.release(), release());
                assert_eq!(kernel.build_id.as_ref(), Some(image.build_id()));
                assert!(kernel.reads <= 600);
                assert_eq!(*slide.get_or_insert(kernel.slide), kernel.slide);
                // Before the kernel has made its table, its banner can be found already.
                if kernel.method == Method::InterruptTable {
                    return (kernel.slide, took);
                }
                assert!(Instant::now() < deadline);
            }
            Err(NotFound::NoKernel(_)) => assert!(Instant::now() < deadline),
            Err(error) => panic!("{error}"),
        }
        target.resume().unwrap();
        target.wait(Duration::from_millis(100)).unwrap();
        target.interrupt().unwrap();
        target.wait(PATIENCE).unwrap();
    }
}

/// The command, with room for 300 000 KiB: of addresses, so no more can be in memory.
fn kdbridge(machine: &Machine, cache: &Path, arguments: &[&OsStr]) -> Output {
    let mut command = Command::new("sh");
    let limited = "ulimit -v 300000; exec \"$0\" \"$@\"";
    command
        .args(["-c", limited, env!("CARGO_BIN_EXE_kdbridge")])
        .args(arguments)
        .args(["--target", &address(machine).to_string()])
        .env("XDG_CACHE_HOME", cache);
    command.output().unwrap()
}

/// The shortest time of several tries, for others use the processors too; no more are made once one was as short
/// as it has to be.
fn time(limit: Duration, mut what: impl FnMut() -> Output) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        let output = what();
        shortest = shortest.min(start.elapsed());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        if shortest <= limit {
            break;
        }
    }
    shortest
}

#[test]
fn k18_info_and_bt_are_quick_and_small() {
    const COLD: Duration = Duration::from_secs(1);
    const WARM: Duration = Duration::from_millis(200);
    let machine = busy_machine(2);
    let (root, vmlinux) = (root(), vmlinux());
    let files: [&[&OsStr]; 3] = [
        &["--vmlinux".as_ref(), vmlinux.as_ref()],
        &["--symbols".as_ref(), root.as_ref()],
        &["--no-files".as_ref()],
    ];
    for (command, files) in COMMANDS
        .iter()
        .flat_map(|it| files.map(|files| (*it, files)))
    {
        let command = command.iter().map(OsStr::new);
        let arguments: Vec<&OsStr> = command.chain(files.iter().copied()).collect();
        let folder = TempDir::new().unwrap();
        let cold = time(COLD, || {
            std::fs::remove_dir_all(folder.path().join("kdbridge")).ok();
            kdbridge(&machine, folder.path(), &arguments)
        });
        let warm = time(WARM, || kdbridge(&machine, folder.path(), &arguments));
        assert!(cold <= COLD, "{arguments:?} for the first time: {cold:?}");
        assert!(warm <= WARM, "{arguments:?} again: {warm:?}");
    }
}

#[test]
fn k22_an_interrupt_stops_the_machine_within_two_milliseconds() {
    let machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let mut client = client(&bridge);
    let mut times: Vec<_> = (0..100)
        .map(|_| {
            client.resume().unwrap();
            client.wait(Duration::from_millis(5)).unwrap();
            let start = Instant::now();
            client.interrupt().unwrap();
            let stop = client.wait(PATIENCE).unwrap();
            assert!(matches!(stop, Some(Stop::Interrupted(_))), "{stop:?}");
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[50] <= Duration::from_millis(2), "{times:?}");
}

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
        best(&through) * 4 <= best(&direct) * 5,
        "directly {direct:?}, through the bridge {through:?}"
    );
}
