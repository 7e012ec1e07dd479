//! A stub as a Linux kernel has it with kgdb: no features, processors beside tasks in the list of threads,
//! and nothing is heard while the kernel runs.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

struct Kgdb {
    /// The kernel stops when it is told to.
    stops: Receiver<()>,
    /// Parts of the list of threads that are still to be sent.
    parts: Vec<&'static str>,
    registers: Vec<u8>,
}

impl Kgdb {
    fn new(stops: Receiver<()>) -> Self {
        Self {
            stops,
            parts: Vec::new(),
            registers: b"10".repeat(164),
        }
    }

    fn answer(&mut self, request: &[u8]) -> Say {
        match request {
            b"?" => "S05".into(),
            b"qC" => "QC01".into(),
            b"qfThreadInfo" => {
                self.parts = vec!["m02,"];
                "mfffffffe,fffffffd,01,".into()
            }
            b"qsThreadInfo" => self.parts.pop().unwrap_or("l").into(),
            b"qThreadExtraInfo,fffffffd" => text("shadowCPU1"),
            b"qThreadExtraInfo,02" => text("kthreadd"),
            b"g" => Say::Packet(self.registers.clone()),
            b"c" => match self.stops.recv() {
                Ok(()) => "T05thread:01;".into(),
                Err(_) => Say::Silence,
            },
            [b'G', registers @ ..] => {
                self.registers = registers.to_vec();
                "OK".into()
            }
            [b'm', ..] => "90".into(),
            [b'Z' | b'z', b'0', ..] | [b'H', b'g', ..] => "OK".into(),
            _ => "".into(),
        }
    }
}

/// A kernel behind the bridge. What stops it is dropped before the stub is, which may wait for it.
struct Played {
    stop: Sender<()>,
    bridge: Serving,
    _stub: Stub,
}

/// `instead` answers what the kernel is not to.
fn play(
    patience: Duration,
    mut instead: impl FnMut(&[u8]) -> Option<Say> + Send + 'static,
) -> Played {
    let (stop, stops) = mpsc::channel();
    let mut kgdb = Kgdb::new(stops);
    let (stub, line) =
        Stub::play(move |request| instead(request).unwrap_or_else(|| kgdb.answer(request)));
    let target = RspTarget::over(line, patience).unwrap();
    Played {
        stop,
        bridge: Serving::start(target, Box::new(|_| None)),
        _stub: stub,
    }
}

fn text(text: &str) -> Say {
    Say::Packet(hex::encode(text.as_bytes()).into_bytes())
}

#[test]
fn k25_a_kernel_with_kgdb_waits_for_its_debugger_and_says_how_it_is_stopped() {
    let Played { stop, bridge, .. } = &play(PATIENCE, |_| None);

    let mut first = Debugger::connect(bridge);
    assert!(first.ask("qSupported:swbreak+").contains("PacketSize"));
    assert_eq!(first.ask("qfThreadInfo"), "m1,2,3,4");
    assert_eq!(first.ask("qThreadExtraInfo,2"), hex::encode(b"shadowCPU1"));
    assert_eq!(first.ask("qThreadExtraInfo,4"), hex::encode(b"kthreadd"));
    first.send("c");
    first.interrupt();
    let said = first.hear();
    let said = hex::decode(said.strip_prefix('O').unwrap().as_bytes()).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("echo g > /proc/sysrq-trigger"), "{said}");
    drop(first);

    // Until it is noticed that the first has left, that one is the reason.
    let (_, sent_away) = connect_until(bridge, |answer| answer.contains("cannot be interrupted"));
    assert!(sent_away.contains("/proc/sysrq-trigger"), "{sent_away}");

    stop.send(()).unwrap();
    let (mut second, _) = connect_until(bridge, |answer| answer.contains("PacketSize"));
    assert_eq!(second.ask("?"), "T05thread:3;");
}

#[test]
fn k25_a_processor_that_kgdb_leaves_behind_a_breakpoint_is_at_it() {
    let Played { stop, bridge, .. } = &play(PATIENCE, |_| None);

    let mut debugger = Debugger::connect(bridge);
    assert!(debugger.ask("qSupported:swbreak+").contains("PacketSize"));
    assert_eq!(debugger.ask("p10"), "1010101010101010");
    assert_eq!(debugger.ask("Z0,101010101010100f,1"), "OK");
    stop.send(()).unwrap();
    assert_eq!(debugger.ask("c"), "T05thread:3;swbreak:;");
    assert_eq!(debugger.ask("p10"), "0f10101010101010");
}

#[test]
fn k24_a_debugger_that_connects_while_the_machine_runs_does_not_disturb_it() {
    let Played { stop, bridge, .. } = &play(Duration::from_secs(2), |_| None);

    let mut first = Debugger::connect(bridge);
    assert!(first.ask("qSupported:swbreak+").contains("PacketSize"));
    assert_eq!(first.ask("Z0,1010101010101010,1"), "OK");
    stop.send(()).unwrap();
    assert_eq!(first.ask("c"), "T05thread:3;swbreak:;");
    first.send("c");
    // Answered in turn, so it runs then.
    assert!(first.ask("qC").starts_with("QC"));

    for _ in 0..2 {
        let mut second = Debugger::connect(bridge);
        let answer = second.ask("qSupported:swbreak+");
        assert!(
            answer.starts_with("E.debugger 1 has the machine run"),
            "{answer}"
        );
    }
    stop.send(()).unwrap();
    assert_eq!(first.hear(), "T05thread:3;swbreak:;");
    let mut second = Debugger::connect(bridge);
    assert!(second.ask("qSupported:swbreak+").contains("PacketSize"));
    assert_eq!(second.ask("?"), "T05thread:3;swbreak:;");
    assert_eq!(second.ask("p10"), "1010101010101010");
}

#[test]
fn a_breakpoint_that_stays_keeps_no_other_one_and_stops_the_kernel_once() {
    const STUCK: &str = "0,1010101010101010,1";
    const OTHER: &str = "0,ffffffff81000000,1";
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let mut played = play(PATIENCE, move |request| {
        let text = String::from_utf8_lossy(request).into_owned();
        let stays = text == format!("z{STUCK}");
        writer.lock().unwrap().push(text);
        stays.then(|| "E01".into())
    });
    let Played { stop, bridge, .. } = &mut played;

    let mut first = Debugger::connect(bridge);
    assert!(first.ask("qSupported:swbreak+").contains("PacketSize"));
    assert_eq!(first.ask(&format!("Z{STUCK}")), "OK");
    assert_eq!(first.ask(&format!("Z{OTHER}")), "OK");
    stop.send(()).unwrap();
    assert_eq!(first.ask("c"), "T05thread:3;swbreak:;");
    drop(first);
    let count = |request: &str| {
        let log = log.lock().unwrap();
        log.iter().filter(|said| *said == request).count()
    };
    let deadline = Instant::now() + PATIENCE;
    while count("c") < 2 {
        assert!(Instant::now() < deadline, "the kernel runs on");
        thread::yield_now();
    }
    stop.send(()).unwrap();

    let (mut second, _) = connect_until(bridge, |answer| answer.contains("PacketSize"));
    assert_eq!(second.ask("?"), "T05thread:3;swbreak:;");
    assert!(second.ask(&format!("z{STUCK}")).starts_with('E'));
    assert_eq!(count(&format!("z{OTHER}")), 1);
    assert_eq!(count("c"), 2);
    // What stays there is said.
    assert!(bridge.stop().is_err());
}

#[test]
fn a_debugger_of_a_silent_machine_is_told_and_the_next_one_is_served() {
    let (wake, wakes) = mpsc::channel::<()>();
    let (_stub, line) = Stub::play(move |request| match request {
        b"?" => "S05".into(),
        b"\x03" => {
            // It fails when nobody is left who may tell it to.
            wakes.recv().ok();
            "T02thread:1;".into()
        }
        b"c" => Say::Silence,
        _ => "".into(),
    });
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start(target, Box::new(|_| None));
    let wake = wake;
    let (_, sent_away) = connect_until(&bridge, |_| true);
    assert_eq!(sent_away, "E.no answer from the target within 10000 ms");
    drop(wake);
    connect_until(&bridge, |answer| answer.contains("PacketSize"));
}

/// Connects until the answer to the first request is one that is wanted.
fn connect_until(bridge: &Serving, wanted: impl Fn(&str) -> bool) -> (Debugger, String) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut debugger = Debugger::connect(bridge);
        let answer = debugger.ask("qSupported:swbreak+");
        if wanted(&answer) {
            return (debugger, answer);
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}
