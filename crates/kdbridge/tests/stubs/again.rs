//! Machines that end, and are started anew.

use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::rsp::link::Stream;
use kdbridge::serve::Whereabouts;

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the kernel is when the machine is started for the first time, and how much higher each time after.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const SLIDE: u64 = 0x20_0000;

/// A machine whose memory is full of `byte`, which ends so when it is told to run on.
fn machine(byte: &'static str, end: fn() -> Say) -> (Stub, Stream) {
    let mut runs = 0;
    Stub::play(move |request| match request {
        b"?" | b"\x03" => "T02thread:1;".into(),
        b"c" => {
            runs += 1;
            // The first time nobody is there yet.
            if runs == 1 { Say::Silence } else { end() }
        }
        [b'm', ..] => byte.into(),
        b"g" => Say::Packet(b"10".repeat(164)),
        _ => "".into(),
    })
}

/// A bridge in front of a machine, which connects to those that are sent to it.
fn serve(line: Stream) -> (Serving, Sender<Stream>) {
    let (start, started) = mpsc::channel();
    let mut boots = 0;
    let locate = move |_: &mut dyn kdbridge::target::Target| {
        boots += 1;
        Some(Whereabouts {
            text: TEXT + boots * SLIDE,
            slide: boots * SLIDE,
            file: None,
        })
    };
    let reconnect = move || Ok(RspTarget::over(started.try_recv()?, PATIENCE)?);
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start_with(target, Box::new(locate), Some(Box::new(reconnect)));
    (bridge, start)
}

fn connect(bridge: &Serving) -> Debugger {
    let mut debugger = Debugger::connect(bridge);
    let features = debugger.ask("qSupported:swbreak+");
    assert!(features.contains("PacketSize"), "{features}");
    // Nothing can be acknowledged to who has hung up.
    debugger.stop_acks();
    debugger
}

#[test]
fn k31_a_machine_that_is_gone_is_told_and_connected_to_when_it_is_back() {
    let (_first, line) = machine("11", || Say::Close);
    let (bridge, start) = serve(line);
    let mut debugger = connect(&bridge);
    let mut other = connect(&bridge);
    let before = debugger.ask("qOffsets");
    assert_eq!(debugger.ask("m1000,1"), "11");

    debugger.send("c");
    let said = debugger.hear();
    let said = hex::decode(said.strip_prefix('O').unwrap().as_bytes()).unwrap();
    assert_eq!(said, b"kdbridge: the target is gone\n");
    assert!(debugger.is_hung_up_on() && other.is_hung_up_on());

    let mut too_early = Debugger::connect(&bridge);
    let why = too_early.ask("qSupported:swbreak+");
    assert!(why.starts_with("E.the machine is gone: "), "{why}");

    let (_second, line) = machine("22", || Say::Close);
    start.send(line).unwrap();
    let mut debugger = connect(&bridge);
    assert_ne!(debugger.ask("qOffsets"), before);
    assert_eq!(debugger.ask("m1000,1"), "22");
    assert!(connect(&bridge).ask("?").starts_with("T02"));
}

#[test]
fn k31_a_machine_that_has_ended_is_told_and_connected_to_when_it_is_back() {
    let (_first, line) = machine("11", || "W00".into());
    let (bridge, start) = serve(line);
    let mut debugger = connect(&bridge);
    debugger.send("c");
    assert_eq!(debugger.hear(), "W00");
    let (_second, line) = machine("22", || Say::Close);
    start.send(line).unwrap();
    assert_eq!(connect(&bridge).ask("m1000,1"), "22");
}

#[test]
fn k31_who_asks_a_machine_that_is_gone_is_told() {
    let (_first, line) = Stub::play(|request| match request {
        b"?" | b"\x03" => "T02thread:1;".into(),
        b"m2000,40" => Say::Close,
        b"c" => Say::Silence,
        _ => "".into(),
    });
    let (bridge, _start) = serve(line);
    assert_eq!(connect(&bridge).ask("m2000,4"), "E.the target is gone");
}
