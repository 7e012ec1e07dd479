//! What stubs are to be told, and what not.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kdbridge::rsp::{RspTarget, hex};

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// A stub with these features, of which the second is QEMU's; what it is told is told here too.
fn stub(features: &'static str, qemu: &'static str) -> (Stub, Serving, Receiver<String>) {
    let (told, heard) = channel();
    let (stub, line) = Stub::play(move |request| {
        // Nobody listens at the end of the test.
        told.send(String::from_utf8_lossy(request).into_owned())
            .ok();
        match request {
            _ if request.starts_with(b"qSupported") => features.into(),
            b"qqemu.Supported" => qemu.into(),
            b"?" | b"\x03" => "T02thread:1;".into(),
            b"Hg1" | b"Qqemu.PhyMemMode:0" | b"Qqemu.PhyMemMode:1" => "OK".into(),
            b"vCont?" => "vCont;c;C;s;S".into(),
            b"vCont;c" => Say::Silence,
            [b'm', ..] => "01020304".into(),
            [b'M', ..] => "OK".into(),
            _ if request.starts_with(b"qRcmd,") => Say::Packets(&[b"O61", b"O620a", b"OK"]),
            _ if request.starts_with(b"vCont;") => "T0ethread:1;".into(),
            _ => "".into(),
        }
    });
    let target = RspTarget::over(line, PATIENCE).unwrap();
    (stub, Serving::start(target, Box::new(|_| None)), heard)
}

#[test]
fn k25_a_program_gets_its_signals() {
    let (_stub, bridge, heard) = stub("qXfer:auxv:read+", "");
    let mut debugger = Debugger::connect(&bridge);
    for (asked, told) in [
        ("vCont;C0e:1;c", "vCont;C0e:1;c"),
        ("C0e", "vCont;C0e:1;c"),
        ("vCont;S0e:1", "vCont;S0e:1"),
        ("vCont;s:1", "vCont;s:1"),
    ] {
        assert_eq!(debugger.ask(asked), "T0ethread:1;", "{asked}");
        let last = heard
            .try_iter()
            .filter(|it| it.starts_with("vCont;"))
            .last();
        assert_eq!(last.as_deref(), Some(told), "{asked}");
    }
}

#[test]
fn k25_a_machine_has_no_signals() {
    let (_stub, bridge, heard) = stub("", "");
    let mut debugger = Debugger::connect(&bridge);
    assert_eq!(debugger.ask("vCont;S0e:1"), "T0ethread:1;");
    let last = heard
        .try_iter()
        .filter(|it| it.starts_with("vCont;"))
        .last();
    assert_eq!(last.as_deref(), Some("vCont;s:1"));
}

#[test]
fn k25_nothing_is_written_to_a_physical_address() {
    let (_stub, bridge, heard) = stub("", "PhyMemMode");
    let mut debugger = Debugger::connect(&bridge);
    assert_eq!(debugger.ask("qqemu.Supported"), "PhyMemMode");
    assert_eq!(debugger.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(debugger.ask("m1000,4"), "01020304");
    let refused = debugger.ask("M1000,1:00");
    assert_eq!(
        refused,
        "E.the target does not let physical memory be written"
    );
    assert_eq!(heard.try_iter().find(|it| it.starts_with('M')), None);
    assert_eq!(debugger.ask("Qqemu.PhyMemMode:0"), "OK");
    assert_eq!(debugger.ask("M1000,1:00"), "OK");
}

/// LLDB shows what is printed as text, and an answer that is no such packet as digits.
#[test]
fn k25_what_a_monitor_prints_arrives_as_it_was_sent() {
    let (_stub, bridge, _heard) = stub("", "");
    let mut debugger = Debugger::connect(&bridge);
    assert_eq!(debugger.ask("qRcmd,3f"), "O61");
    assert_eq!(debugger.hear(), "O620a");
    assert_eq!(debugger.hear(), "OK");
    assert_eq!(debugger.ask("M1000,1:00"), "OK");
}

#[test]
fn k25_a_stub_without_physical_memory_offers_none() {
    let (_stub, bridge, _heard) = stub("", "");
    let mut debugger = Debugger::connect(&bridge);
    for request in ["qqemu.Supported", "Qqemu.PhyMemMode:1"] {
        assert_eq!(debugger.ask(request), "");
    }
}

/// GDB before 16 takes a text for memory, and for what a monitor prints.
#[test]
fn k25_errors_have_a_text_where_gdb_prints_it() {
    let (_stub, bridge, _heard) = stub("", "");
    let mut debugger = Debugger::connect(&bridge);
    let mut second = Debugger::connect(&bridge);
    assert_eq!(debugger.ask("M1000,1:00"), "OK");
    debugger.send("vCont;c");
    assert_eq!(second.ask("qC"), "QC1");
    assert_eq!(second.ask("m1000,4"), "E0e");
    assert_eq!(second.ask("qThreadExtraInfo,1"), "");
    let printed = hex::encode(b"the target does not answer while its kernel runs\n");
    assert_eq!(second.ask("qRcmd,3f"), format!("O{printed}"));
    assert_eq!(second.hear(), "E01");
    let text = "E.the target does not answer while its kernel runs";
    assert_eq!(second.ask("g"), text);
    assert!(
        second
            .ask("qSupported:error-message+;swbreak+")
            .contains("PacketSize")
    );
    assert_eq!(second.ask("m1000,4"), text);
    assert_eq!(second.ask("qRcmd,3f"), text);
}
