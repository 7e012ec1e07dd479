//! Real debuggers, in front of the kernel by both ways.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kdbridge::discover::xnu::{self, Hints};
use kdbridge::kdp::{KdpTarget, UdpLink};
use kdbridge::rsp::packet::{self, Decoder, Item};
use kdbridge::serve::{Locate, Whereabouts};
use kdbridge::xnu::{Places, Symbols};

use crate::bridge::{self, Bridge};
use crate::build::Built;
use crate::command::Command;
use crate::front::Kernel;
use crate::machine::Machine;

const SLIDE: u64 = 0xf60_0000;
const TICK: Duration = Duration::from_millis(250);

fn places(built: &Built) -> Places {
    Places {
        search: vec![built.folder().to_owned()],
        cache: built.folder().join("copies"),
    }
}

fn locate(places: Places) -> Locate {
    Box::new(move |target| {
        let kernel = xnu::find(target, Hints::default()).ok()?;
        let symbols = Symbols::of(&kernel, &places).ok()?;
        Some(Whereabouts {
            text: kernel.base,
            slide: symbols.slide,
            file: Some(symbols.elf),
        })
    })
}

/// The kernel over KDP, which looks in at intervals if it is told to.
fn over_kdp(built: &Built, kernel: &Kernel, every: Option<Duration>) -> KdpTarget<UdpLink> {
    let mut target = kernel.attach();
    if let Some(every) = every {
        let found = xnu::find(&mut target, Hints::default()).expect("a kernel");
        let symbols = Symbols::of(&found, &places(built)).expect("files");
        target.interrupt_by(symbols.reentry(every).expect("it can"));
    }
    target
}

/// Everything is there, in this order.
#[track_caller]
fn assert_said(said: &str, expected: &[&str]) {
    let mut rest = said;
    for part in expected {
        let at = rest.find(part);
        rest = match at {
            Some(at) => &rest[at + part.len()..],
            None => panic!("no {part:?} in the rest of\n{said}"),
        };
    }
}

const GDB_SESSION: [&str; 4] = [
    "break forkproc",
    "continue",
    "backtrace",
    "print *(struct proc *)$rdi",
];

const GDB_SAYS: [&str; 8] = [
    "Breakpoint 1, forkproc (parent_proc=0xffffff800f80",
    "#0  forkproc (parent_proc=0xffffff800f80",
    "in cloneproc (parent_proc=0xffffff800f80",
    "in unix_syscall64 (p=0xffffff800f80",
    "kernel.c:",
    "in kernel_bootstrap ()",
    "p_pid = 1",
    "p_comm = \"launchd",
];

const LLDB_SESSION: [&str; 4] = [
    "breakpoint set --name forkproc",
    "continue",
    "thread backtrace",
    "p *(struct proc *)$rdi",
];

const LLDB_SAYS: [&str; 9] = [
    "Breakpoint 1: where = kernel`forkproc",
    "stop reason = breakpoint 1.1",
    "forkproc(parent_proc=0xffffff800f80",
    "frame #1: 0xffffff800f80",
    "cloneproc(parent_proc=0xffffff800f80",
    "unix_syscall64(p=0xffffff800f80",
    "kernel_bootstrap at kernel.c:",
    "p_pid = 1",
    "[0] = 'l'",
];

fn lldb_connects(built: &Built) -> Vec<String> {
    let kernel = fs::read(built.kernel()).expect("a kernel");
    vec![
        format!("Kernel UUID: {}", crate::machine::uuid(&kernel)),
        "Load Address: 0xffffff800f800000".to_owned(),
        "Kernel slid 0xf600000 in memory.".to_owned(),
        "Loading 1 kext modules".to_owned(),
    ]
}

#[track_caller]
fn assert_lldb(built: &Built, said: &str) {
    let connects = lldb_connects(built);
    let connects: Vec<&str> = connects.iter().map(String::as_str).collect();
    assert_said(said, &[&connects[..], &LLDB_SAYS].concat());
    assert!(!said.contains("Failed to load"), "{said}");
}

#[test]
fn k10_lldb_and_gdb_know_the_kernel_behind_a_stub() {
    let built = Built::new();
    let machine = Machine::new(&built, SLIDE, true);
    let bridge = Bridge::start(machine, locate(places(&built)));
    assert_lldb(&built, &bridge.lldb(&built, &LLDB_SESSION));
    let said = bridge.gdb(&GDB_SESSION);
    assert_said(&said, &GDB_SAYS);
    // As in the session that everybody knows, it stands in its idle loop first.
    let mut stacks = (0..20).map(|_| bridge.gdb(&["backtrace"]));
    let said = stacks.find(|said| said.contains("machine_idle ()"));
    let idle = ["in processor_idle (thread=0x0", "in idle_thread"];
    assert_said(&said.expect("an idle kernel"), &idle);
}

#[test]
fn gdb_is_promised_no_file_where_there_is_none() {
    let built = Built::new();
    let machine = Machine::new(&built, SLIDE, true);
    let bridge = Bridge::start(machine, Box::new(|_| None));
    let said = bridge.gdb(&["print $rip"]);
    assert_said(&said, &["$1 = (void (*)()) 0xffffff800f80"]);
    assert!(!said.contains("rror"), "{said}");
}

#[test]
fn k11_gdb_attaches_to_the_kernel_over_kdp() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let bridge = Bridge::start(over_kdp(&built, &kernel, None), locate(places(&built)));
    let said = bridge.gdb(&GDB_SESSION);
    assert_said(&said, &["kdp_ml_enter_debugger ()"]);
    assert_said(&said, &GDB_SAYS);
}

#[test]
fn k11_lldb_attaches_to_the_kernel_over_kdp() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let bridge = Bridge::start(over_kdp(&built, &kernel, None), locate(places(&built)));
    assert_lldb(&built, &bridge.lldb(&built, &LLDB_SESSION));
}

#[test]
fn k11_one_debugger_after_the_other_over_kdp_where_the_kernel_looks_in() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let target = over_kdp(&built, &kernel, Some(Duration::from_millis(50)));
    let bridge = Bridge::start(target, locate(places(&built)));
    for _ in 0..2 {
        assert_said(&bridge.gdb(&GDB_SESSION), &GDB_SAYS);
        assert_lldb(&built, &bridge.lldb(&built, &LLDB_SESSION));
    }
}

#[test]
fn k11_the_command_serves_a_kernel_over_kdp_to_a_gdb_that_knows_nothing() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut command = Command::serve(&built, &kernel.place(), &["--interrupt-every", "50"]);
    assert!(command.is_ready().is_some());
    let socket = command.folder.path().join("bridge");
    for _ in 0..2 {
        assert_said(&bridge::gdb(&socket, &GDB_SESSION), &GDB_SAYS);
    }
    drop(command);
}

#[test]
fn k09_the_command_refuses_files_of_another_kernel() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    let output = command
        .args(["serve", &kernel.place(), "--files"])
        .arg(built.kext())
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .expect("kdbridge");
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).expect("text");
    let uuid = |path| crate::machine::uuid(&fs::read(path).expect("an image"));
    assert_said(&said, &[&uuid(built.kext()), &uuid(built.kernel())]);
    // It was left, not forgotten: it runs, and answers nobody.
    let mut command = Command::serve(&built, &kernel.place(), &["--interrupt-every", "0"]);
    assert_said(&command.errors(), &["--interrupt-every"]);
}

/// A debugger that says no more than is needed.
struct Plain {
    stream: UnixStream,
    decoder: Decoder,
    items: Vec<Item>,
}

impl Plain {
    fn connect(bridge: &Bridge) -> Self {
        let stream = UnixStream::connect(bridge.socket()).expect("a bridge");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a socket");
        let mut plain = Self {
            stream,
            decoder: Decoder::of_replies(),
            items: Vec::new(),
        };
        assert_eq!(plain.ask(b"QStartNoAckMode"), "OK");
        assert!(plain.ask(b"?").starts_with('T'));
        plain
    }

    fn send(&mut self, request: &[u8]) {
        let mut bytes = Vec::new();
        packet::encode(request, &mut bytes);
        self.stream.write_all(&bytes).expect("a bridge");
    }

    fn ask(&mut self, request: &[u8]) -> String {
        self.send(request);
        self.receive()
    }

    fn interrupt(&mut self) {
        self.stream.write_all(&[3]).expect("a bridge");
    }

    fn receive(&mut self) -> String {
        loop {
            let packet = self
                .items
                .iter()
                .position(|item| matches!(item, Item::Packet(_)));
            if let Some(at) = packet
                && let Item::Packet(payload) = self.items.remove(at)
            {
                return String::from_utf8(payload).expect("text");
            }
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes).expect("an answer");
            assert_ne!(length, 0, "the bridge hung up");
            for &byte in &bytes[..length] {
                self.items
                    .extend(self.decoder.push(byte).expect("a packet"));
            }
        }
    }
}

fn text(hex: &str) -> String {
    let digits: Vec<u8> = hex.bytes().collect();
    let pairs = digits
        .chunks(2)
        .filter_map(|pair| std::str::from_utf8(pair).ok());
    let bytes = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok());
    String::from_utf8(bytes.collect()).expect("text")
}

#[test]
fn k15_an_interrupt_without_ticks_is_answered_with_what_to_do_instead() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let bridge = Bridge::start(over_kdp(&built, &kernel, None), locate(places(&built)));
    let mut plain = Plain::connect(&bridge);
    plain.send(b"c");
    let start = Instant::now();
    plain.interrupt();
    let answer = plain.receive();
    assert!(start.elapsed() < Duration::from_millis(100));
    let said = text(answer.strip_prefix('O').expect("a line"));
    assert_said(&said, &["does not listen", "NMI", "--interrupt-every"]);
}

#[test]
fn k15_an_interrupt_with_ticks_stops_and_a_thousand_ticks_are_not_told() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let target = over_kdp(&built, &kernel, Some(Duration::from_millis(2)));
    let bridge = Bridge::start(target, locate(places(&built)));
    let mut plain = Plain::connect(&bridge);
    let before = kernel.ticks.load(Ordering::Relaxed);
    plain.send(b"c");
    let start = Instant::now();
    while kernel.ticks.load(Ordering::Relaxed) < before + 1000 {
        assert!(start.elapsed() < Duration::from_secs(100));
        std::thread::park_timeout(Duration::from_millis(5));
    }
    plain.interrupt();
    // The first thing that it is told is the stop that it asked for.
    assert!(plain.receive().starts_with("T02"));
    assert!(plain.ask(b"g").len() > 300);
}

#[test]
fn k15_control_c_in_gdb_and_lldb_takes_a_tick() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let target = over_kdp(&built, &kernel, Some(TICK));
    let bridge = Bridge::start(target, locate(places(&built)));
    let script = built.folder().join("interrupt-gdb.py");
    fs::write(&script, GDB_SCRIPT).expect("room");
    let said = bridge.gdb(&[
        &format!("source {}", script.display()),
        "continue",
        "python print('after', int((time.time() - start) * 1000), 'ms')",
        "backtrace",
    ]);
    assert_said(
        &said,
        &[
            "received signal SIGINT",
            "after ",
            " ms",
            "kdp_timer_callout",
        ],
    );
    let script = built.folder().join("interrupt.py");
    fs::write(&script, LLDB_SCRIPT).expect("room");
    let import = format!("command script import {}", script.display());
    let session = [
        import.as_str(),
        "script interrupt.run(lldb.debugger)",
        "thread backtrace",
    ];
    let said_too = bridge.lldb(&built, &session);
    assert_said(&said_too, &["after ", " ms", "kdp_timer_callout"]);
    for said in [said, said_too] {
        let (_, rest) = said.split_once("after ").expect("a time");
        let time: u64 = rest
            .split(' ')
            .next()
            .expect("a time")
            .parse()
            .expect("a number");
        // Debuggers take their time themselves, more on a busy machine.
        assert!(time < 250 + 100 + 400, "{said}");
    }
}

/// gdb takes the signal only once it waits, which nothing tells.
const GDB_SCRIPT: &str = "\
import os, signal, threading, time

def interrupt():
    global start
    start = time.time()
    os.kill(os.getpid(), signal.SIGINT)

def resumed(event):
    threading.Timer(0.3, interrupt).start()

gdb.events.cont.connect(resumed)
";

const LLDB_SCRIPT: &str = "\
import lldb, time

def wait(process, state):
    while process.GetState() != state:
        time.sleep(0.002)

def run(debugger):
    debugger.SetAsync(True)
    process = debugger.GetSelectedTarget().GetProcess()
    process.Continue()
    wait(process, lldb.eStateRunning)
    start = time.time()
    process.SendAsyncInterrupt()
    wait(process, lldb.eStateStopped)
    print('after', int((time.time() - start) * 1000), 'ms')
    debugger.SetAsync(False)
";
