//! The kernel over KDP, with a real socket between.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use kdbridge::discover::xnu::{self, Hints, Method};
use kdbridge::kdp::{Identity, KdpTarget, Link, Reentry, SerialLink, Server, serial};
use kdbridge::macho::MachFile;
use kdbridge::target::{Cpu, Memory, Stop, Target, TargetError, Trap};

use crate::build::Built;
use crate::front::Kernel;
use crate::machine::{self, Machine};

const CPU: Cpu = Cpu(0);
const SLIDE: u64 = 0xf60_0000;
const PATIENCE: Duration = Duration::from_secs(20);

fn at(built: &Built, name: &str) -> u64 {
    machine::address(built, name) + SLIDE
}

/// Where frames return to, by the chain of frame pointers.
fn frames(kernel: &mut dyn Target) -> Vec<u64> {
    let registers = kernel.registers(CPU).expect("registers");
    let mut word = |at: u64| {
        let mut bytes = [0; 8];
        kernel.read(at, &mut bytes).expect("a stack");
        u64::from_le_bytes(bytes)
    };
    // At the first instruction of a function its frame is not there yet.
    let mut frames = vec![registers.rip, word(registers.general[7])];
    let mut frame = registers.general[6];
    while frame != 0 {
        frames.push(word(frame + 8));
        frame = word(frame);
    }
    frames
}

/// The function that each address is in.
fn names(built: &Built, addresses: &[u64]) -> Vec<String> {
    let file = MachFile::open(&built.kernel()).expect("a kernel");
    let symbols = file.symbols().expect("symbols").into_iter();
    let symbols: BTreeMap<u64, String> = symbols.map(|it| (it.address + SLIDE, it.name)).collect();
    let name = |at: &u64| symbols.range(..=at).next_back().map(|it| it.1.clone());
    addresses.iter().filter_map(name).collect()
}

fn reentry(built: &Built, every: Duration) -> Reentry {
    let handler = at(built, "_kdp_ml_enter_debugger");
    Reentry {
        deadline: at(built, "_kdp_reentry_deadline"),
        handler: handler..handler + 16,
        every,
    }
}

#[test]
fn a_breakpoint_in_the_kernel_is_hit_and_the_stack_is_there() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut target = kernel.attach();
    let pc = target.registers(CPU).expect("registers").rip;
    let banner = target.banner().to_vec();
    let hints = Hints {
        banner: Some(&banner),
        pc: Some(pc),
    };
    let found = xnu::find(&mut target, hints).expect("a kernel");
    assert_eq!(found.method, Method::Banner);
    let forkproc = at(&built, "_forkproc");
    for turn in 1..4u32 {
        target.set(forkproc, Trap::Software).expect("a place");
        target.resume().expect("it runs");
        let stop = target.wait(PATIENCE).expect("a link");
        assert_eq!(stop, Some(Stop::Breakpoint(CPU)));
        let registers = target.registers(CPU).expect("registers");
        assert_eq!(registers.rip, forkproc);
        // The parent is launchd.
        assert_eq!(registers.general[5], at(&built, "_initproc"));
        let stack = frames(&mut target);
        let expected = [
            "_forkproc",
            "_cloneproc",
            "_fork1",
            "_fork",
            "_unix_syscall64",
            "_idle_thread",
            "_call_continuation",
            "_kernel_bootstrap",
        ];
        assert_eq!(names(&built, &stack)[..8], expected);
        target.clear(forkproc, Trap::Software).expect("it is there");
        target.step(CPU).expect("it runs");
        let stop = target.wait(PATIENCE).expect("a link");
        assert_eq!(stop, Some(Stop::Stepped(CPU)));
        let after = target.registers(CPU).expect("registers").rip;
        assert!((forkproc + 1..forkproc + 16).contains(&after));
        let mut processes = [0; 4];
        target
            .read(at(&built, "_nprocs"), &mut processes)
            .expect("memory");
        assert_eq!(u32::from_le_bytes(processes), 1 + turn);
    }
    target.detach().expect("a link");
}

#[test]
fn k15_a_thousand_real_ticks_are_no_stop() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut target = kernel.attach();
    target.interrupt_by(reentry(&built, Duration::from_millis(2)));
    target.resume().expect("it runs");
    let start = Instant::now();
    while kernel.ticks.load(Ordering::Relaxed) < 1000 {
        assert_eq!(
            target.wait(Duration::from_millis(100)).expect("a link"),
            None
        );
        assert!(start.elapsed() < Duration::from_secs(100));
    }
}

#[test]
fn k15_with_ticks_an_interrupt_takes_one_at_most() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut target = kernel.attach();
    let tick = Duration::from_millis(250);
    target.interrupt_by(reentry(&built, tick));
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            target.resume().expect("it runs");
            assert_eq!(
                target.wait(Duration::from_millis(70)).expect("a link"),
                None
            );
            let start = Instant::now();
            target.interrupt().expect("it looks in");
            let stop = target.wait(PATIENCE).expect("a link");
            assert_eq!(stop, Some(Stop::Interrupted(CPU)));
            start.elapsed()
        })
        .collect();
    times.sort();
    // A machine with other things to do may be late now and then.
    assert!(times[2] < tick + Duration::from_millis(100), "{times:?}");
    let registers = target.registers(CPU).expect("registers");
    assert_eq!(names(&built, &[registers.rip]), ["_kdp_ml_enter_debugger"]);
}

#[test]
fn k15_without_ticks_the_refusal_comes_at_once() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut target = kernel.attach();
    target.resume().expect("it runs");
    let start = Instant::now();
    let error = target.interrupt().expect_err("it does not listen");
    assert!(start.elapsed() < Duration::from_millis(100));
    assert!(matches!(error, TargetError::CannotInterrupt(_)));
}

#[test]
fn whoever_detaches_leaves_a_kernel_without_breakpoints_that_runs() {
    let built = Built::new();
    let kernel = Kernel::start(&built, SLIDE);
    let mut target = kernel.attach();
    target
        .set(at(&built, "_machine_idle"), Trap::Software)
        .expect("a place");
    target.detach().expect("a link");
    // It runs, so nobody answers until it stops; nothing stops it.
    let mut link = kdbridge::kdp::UdpLink::connect(kernel.address).expect("a link");
    let connect = kdbridge::kdp::packet::Request::Version.encode(1, 0);
    link.send(&connect).expect("a link");
    let deadline = link.now() + Duration::from_millis(200);
    assert_eq!(link.receive(&mut [0; 64], deadline).expect("a link"), None);
}

/// The kernel on a serial line, between what it prints there.
fn serve_line(mut line: UnixStream, mut server: Server<Machine>) {
    let mut decoder = serial::Decoder::default();
    let mut bytes = [0; 256];
    line.set_read_timeout(Some(Duration::from_millis(2)))
        .expect("a socket");
    loop {
        if server.is_running() {
            server.run(Duration::from_millis(2)).expect("a machine");
        }
        if let Some(exception) = server.exception() {
            line.write_all(&serial::encode(&serial::wrap(&exception.packet)))
                .ok();
        }
        match line.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                for &byte in &bytes[..length] {
                    let frame = decoder.push(byte);
                    let packet = frame.as_deref().and_then(serial::unwrap);
                    let answer = packet.map(|packet| server.packet(packet).expect("a machine"));
                    if let Some(answer) = answer.flatten() {
                        let answer = serial::encode(&serial::wrap(&answer.packet));
                        let noise = [b"disk0s2: I/O error\n".as_slice(), &answer].concat();
                        line.write_all(&noise).ok();
                    }
                }
            }
            Err(_) => {}
        }
    }
}

#[test]
fn a_serial_line_will_do() {
    let built = Built::new();
    let machine = Machine::new(&built, SLIDE, false);
    let identity = Identity {
        banner: machine.banner().into_bytes(),
    };
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let server = Server::new(machine, identity);
    let kernel = thread::spawn(move || serve_line(theirs, server));
    let mut target =
        KdpTarget::attach(SerialLink::new(ours).expect("a line")).expect("a kernel that answers");
    let mut version = [0; 21];
    target
        .read(at(&built, "_version"), &mut version)
        .expect("memory");
    assert_eq!(&version, b"Darwin Kernel Version");
    target
        .set(at(&built, "_forkproc"), Trap::Software)
        .expect("a place");
    target.resume().expect("it runs");
    let stop = target.wait(PATIENCE).expect("a line");
    assert_eq!(stop, Some(Stop::Breakpoint(CPU)));
    drop(target);
    kernel.join().expect("it ends with its line");
}

/// Nobody listens there.
#[test]
fn a_port_where_nothing_listens_is_silence() {
    let address: SocketAddr = {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
        socket.local_addr().expect("an address")
    };
    let mut link = kdbridge::kdp::UdpLink::connect(address).expect("a link");
    for _ in 0..3 {
        link.send(b"anybody?").expect("silence");
        let deadline = link.now() + Duration::from_millis(20);
        assert_eq!(link.receive(&mut [0; 64], deadline).expect("silence"), None);
    }
}
