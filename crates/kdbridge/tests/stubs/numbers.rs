//! A stub that takes every number for a place in its tables, as QEMU does.

use std::time::Duration;

use kdbridge::rsp::RspTarget;

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// Its registers are those with the numbers 0 and 13; everything else is the end of it.
fn answer(request: &[u8]) -> Say {
    match request {
        _ if request.starts_with(b"qSupported") => {
            "PacketSize=100;qXfer:features:read+;qXfer:memory-map:read+".into()
        }
        b"qXfer:features:read:target.xml:0,200" | b"qXfer:features:read:target.xml:0,f0" => "l<target>\
             <reg name=\"r0\" bitsize=\"32\"/><reg name=\"sp\" bitsize=\"32\" regnum=\"13\"/></target>"
            .into(),
        b"qXfer:memory-map:read::0,f0" => "l".into(),
        b"?" | b"\x03" => "T02thread:1;".into(),
        b"g" => "0000000001000000".into(),
        b"p0" | b"pd" => "01000000".into(),
        b"P0=01000000" | b"Pd=01" | b"G0000000001000000" | b"G00000000" => "OK".into(),
        b"c" => Say::Silence,
        [b'p' | b'P' | b'G', ..] => panic!("{}", String::from_utf8_lossy(request)),
        _ if request.starts_with(b"qXfer") || request.starts_with(b"qRcmd") => {
            panic!("{}", String::from_utf8_lossy(request))
        }
        _ => "".into(),
    }
}

#[test]
fn k25_a_stub_gets_no_number_that_it_has_no_place_for() {
    let (_stub, line) = Stub::play(answer);
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start(target, Box::new(|_| None));
    let mut debugger = Debugger::connect(&bridge);
    for (request, expected) in [
        ("g", "0000000001000000"),
        ("p0", "01000000"),
        ("pd", "01000000"),
        ("P0=01000000", "OK"),
        ("Pd=01", "OK"),
        ("G0000000001000000", "OK"),
        ("G00000000", "OK"),
        ("qXfer:memory-map:read::0,f0", "l"),
    ] {
        assert_eq!(debugger.ask(request), expected, "{request}");
    }
    for number in [
        "ffffffff80000000",
        "80000000",
        "10000000d",
        "1",
        "e",
        "-1",
        "",
    ] {
        for request in [format!("p{number}"), format!("P{number}=01000000")] {
            assert!(debugger.ask(&request).starts_with('E'), "{request}");
        }
    }
    let long = format!("qRcmd,{}", "61".repeat(0x80));
    assert!(debugger.ask(&long).starts_with('O'));
    assert_eq!(debugger.hear(), "E01");
    for request in [
        "g1",
        "pd=01",
        "P0",
        "P0=",
        "P0=0",
        "P0=0x000000",
        "P0=0100000000",
        "G",
        "G0",
        "Gxxxxxxxx",
        "G000000000100000000",
        "qXfer:features:read:target.xml:80000000,f0",
        "qXfer:features:read:target.xml:0,ffffffffffffffff",
        "qXfer:features:read:target.xml:0",
        "qXfer:features:read:target.xml",
        "qXfer:memory-map:read::ffffffff80000000,1",
    ] {
        assert!(debugger.ask(request).starts_with('E'), "{request}");
    }
}
