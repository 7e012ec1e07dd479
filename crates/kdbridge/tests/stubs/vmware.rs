//! A stub as VMware has it: no description of registers, every packet acknowledged, breakpoints in debug
//! registers only.

use std::collections::BTreeSet;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::serve::Whereabouts;

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the kernel of the imitation is.
const TEXT: u64 = 0xffff_ff80_0020_0000;

#[derive(Default)]
struct Vmware {
    breakpoints: BTreeSet<Vec<u8>>,
}

impl Vmware {
    fn answer(&mut self, request: &[u8]) -> Say {
        match request.split_at_checked(2).unwrap_or((request, b"")) {
            (b"qS", _) => "PacketSize=4000".into(),
            (b"?" | b"\x03", _) => "T02thread:1;".into(),
            (b"qf", _) => "m1,2".into(),
            (b"qs", _) => "l".into(),
            (b"Hg", _) => "OK".into(),
            (b"vC", b"ont?") => "vCont;c;C;s;S".into(),
            (b"vC", _) => Say::Silence,
            (b"g", _) => Say::Packet(registers().into_bytes()),
            (b"Z1", place) => self.insert(place),
            (b"z1", place) if self.breakpoints.remove(place) => "OK".into(),
            ([b'm', _], _) => memory(&request[1..]),
            _ => "".into(),
        }
    }

    fn insert(&mut self, place: &[u8]) -> Say {
        if self.breakpoints.len() == 4 {
            return "E01".into();
        }
        self.breakpoints.insert(place.to_vec());
        "OK".into()
    }
}

/// The general registers, each with its number in it, and nothing behind them.
fn registers() -> String {
    let general = (0..17u64).map(|number| hex::encode(&(0x1000 + number).to_le_bytes()));
    general
        .chain((0..7u32).map(|number| hex::encode(&number.to_le_bytes())))
        .collect()
}

/// A page of what the low bytes of its addresses are.
fn memory(place: &[u8]) -> Say {
    let (at, length) = hex::pair(place).unwrap();
    if !(TEXT..TEXT + 0x1000).contains(&at) {
        return "E01".into();
    }
    let bytes: Vec<u8> = (at..at + length).map(|at| at as u8).collect();
    Say::Packet(hex::encode(&bytes).into_bytes())
}

#[test]
fn k26_a_vmware_stub_is_driven_and_the_fifth_breakpoint_names_the_limit() {
    let mut vmware = Vmware::default();
    let (_stub, line) = Stub::play(move |request| vmware.answer(request));
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start(
        target,
        Box::new(|_| {
            Some(Whereabouts {
                text: TEXT,
                slide: 0x1000,
                file: None,
            })
        }),
    );
    let mut debugger = Debugger::connect(&bridge);
    let mut ask = |request: &str| debugger.ask(request);
    assert!(ask("qSupported:swbreak+").contains("qXfer:features:read+"));
    let description = ask("qXfer:features:read:target.xml:0,4000");
    assert!(
        description.contains("<reg name=\"rip\" bitsize=\"64\""),
        "{description}"
    );
    assert!(ask("g").starts_with("0010000000000000"));
    assert_eq!(ask("p10"), "1010000000000000");
    assert_eq!(ask(&format!("m{TEXT:x},4")), "00010203");
    assert_eq!(ask("m10,4"), "E14");
    assert_eq!(ask("qOffsets"), format!("TextSeg={TEXT:x}"));
    for place in 0..4 {
        assert_eq!(ask(&format!("Z1,{:x},1", TEXT + place)), "OK");
    }
    let refused = ask(&format!("Z1,{:x},1", TEXT + 4));
    assert!(refused.contains("room for 4 breakpoints only"), "{refused}");
    assert_eq!(ask(&format!("z1,{TEXT:x},1")), "OK");
    assert_eq!(ask(&format!("Z1,{:x},1", TEXT + 4)), "OK");
}
