//! A stub of a machine with a page of memory, which shows the breakpoints that are set in it.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::target::{Cpu, End, Memory, Stop, Target, TargetError, Trap};
use rustix::event::{PollFd, PollFlags, poll};

use crate::debugger::Debugger;
use crate::processors::registers;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the memory is, and how much of it there is.
const PLACE: u64 = 0xffff_8000_0000_0000;
const LENGTH: usize = 4096;

/// What a breakpoint puts in the place of an instruction.
const TRAP: u8 = 0xcc;

struct Machine {
    memory: Vec<u8>,
    /// What stands in the place of an instruction is this long.
    instruction: usize,
    rip: u64,
}

impl Machine {
    fn new(instruction: usize) -> Self {
        Self {
            memory: vec![0x90; LENGTH],
            instruction,
            rip: PLACE,
        }
    }

    fn answer(&mut self, request: &[u8]) -> Say {
        match request {
            _ if request.starts_with(b"qSupported") => {
                "PacketSize=1000;QStartNoAckMode+;qXfer:features:read+".into()
            }
            b"QStartNoAckMode" | b"Hg1" => "OK".into(),
            _ if request.starts_with(b"qXfer:features:read:target.xml:0,") => {
                match self.instruction {
                    1 => "l<target><architecture>i386:x86-64</architecture></target>".into(),
                    _ => "l<target><architecture>arm</architecture></target>".into(),
                }
            }
            b"?" => "T05thread:1;".into(),
            b"vCont;c" => Say::Silence,
            b"\x03" => "T02thread:1;".into(),
            b"vCont?" => "vCont;c;C;s;S".into(),
            b"g" => registers(self.rip),
            b"vCont;s:1" => {
                self.rip += 1;
                "T05thread:1;".into()
            }
            [b'm', place @ ..] => self.memory(place),
            [b'M', rest @ ..] => self.write(rest),
            [b'Z', b'0', b',', place @ ..] => self.fill(place, TRAP),
            [b'z', b'0', b',', place @ ..] => self.fill(place, 0x90),
            _ => "".into(),
        }
    }

    fn at(&mut self, place: &[u8]) -> Option<&mut [u8]> {
        let (at, length) = hex::pair(place)?;
        let start = at.checked_sub(PLACE)? as usize;
        self.memory.get_mut(start..start + length as usize)
    }

    fn memory(&mut self, place: &[u8]) -> Say {
        let bytes = self.at(place);
        bytes.map_or("E14".into(), |bytes| {
            Say::Packet(hex::encode(bytes).into_bytes())
        })
    }

    fn write(&mut self, request: &[u8]) -> Say {
        let mut parts = request.split(|&byte| byte == b':');
        let (place, data) = (parts.next().unwrap(), parts.next().unwrap());
        self.at(place)
            .unwrap()
            .copy_from_slice(&hex::decode(data).unwrap());
        "OK".into()
    }

    /// A stub takes a breakpoint where nothing is.
    fn fill(&mut self, place: &[u8], byte: u8) -> Say {
        if let Some(bytes) = self.at(place) {
            bytes.fill(byte);
        }
        "OK".into()
    }
}

/// A target, and what its stub is told.
fn target(mut machine: Machine) -> (Stub, RspTarget, Receiver<String>) {
    let (told, heard) = channel();
    let (stub, line) = Stub::play(move |request| {
        // Nobody listens at the end of the test.
        let text = String::from_utf8_lossy(request).into_owned();
        told.send(text).ok();
        machine.answer(request)
    });
    (stub, RspTarget::over(line, PATIENCE).unwrap(), heard)
}

/// A target whose stub answers one request otherwise.
fn target_with(
    otherwise: &'static [u8],
    mut answer: impl FnMut() -> Say + Send + 'static,
) -> (Stub, RspTarget) {
    let mut machine = Machine::new(1);
    let (stub, line) = Stub::play(move |request| match request == otherwise {
        true => answer(),
        false => machine.answer(request),
    });
    (stub, RspTarget::over(line, PATIENCE).unwrap())
}

#[test]
fn memory_shows_what_was_in_the_place_of_a_breakpoint() {
    for instruction in [1, 4] {
        let (_stub, mut target, _heard) = target(Machine::new(instruction));
        target.set(PLACE + 100, Trap::Software).unwrap();
        for start in [0, 99, 100, 101, 103, 104] {
            let mut bytes = [0; 8];
            target.read(PLACE + start, &mut bytes).unwrap();
            assert_eq!(bytes, [0x90; 8], "{instruction} at {start}");
        }
        let mut all = Vec::new();
        let mut piece = |bytes: &[u8]| all.extend_from_slice(bytes);
        target.read_in_pieces(PLACE, LENGTH, &mut piece).unwrap();
        assert_eq!(all, [0x90; LENGTH], "{instruction}");
    }
}

#[test]
fn a_stub_is_not_told_of_a_breakpoint_where_nothing_is() {
    let (_stub, mut target, heard) = target(Machine::new(1));
    let error = target.set(PLACE + LENGTH as u64, Trap::Software);
    assert!(
        matches!(error, Err(TargetError::Unreadable(_))),
        "{error:?}"
    );
    assert_eq!(heard.try_iter().find(|it| it.starts_with('Z')), None);
}

#[test]
fn a_step_over_a_breakpoint_stays_behind_it() {
    let (_stub, mut target, heard) = target(Machine::new(1));
    target.set(PLACE, Trap::Software).unwrap();
    target.step(Cpu(0)).unwrap();
    assert_eq!(target.wait(PATIENCE).unwrap(), Some(Stop::Stepped(Cpu(0))));
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, PLACE + 1);
    assert_eq!(heard.try_iter().find(|it| it.starts_with('G')), None);
}

#[test]
fn the_end_of_what_stands_is_noticed() {
    let (_stub, mut target) = target_with(b"m0,1", || Say::Packets(&[b"E14", b"W07"]));
    target.read(0, &mut [0]).unwrap_err();
    let error = target.wait(Duration::ZERO);
    let expected = matches!(error, Err(TargetError::Ended(End::Exit(7))));
    assert!(expected, "{error:?}");
}

#[test]
fn a_wait_ends_though_packets_go_on_to_come() {
    let flood = b"$OK#9a".repeat(500);
    let (_stub, mut target) = target_with(b"vCont;c", move || Say::Flood(flood.clone()));
    target.resume().unwrap();
    let line = target.readiness().unwrap();
    poll(&mut [PollFd::new(&line, PollFlags::IN)], None).unwrap();
    assert_eq!(target.wait(Duration::ZERO).unwrap(), None);
}

#[test]
fn a_monitor_that_prints_without_end_is_refused() {
    let flood = b"$O6869#2c".repeat(500);
    let (_stub, mut target) = target_with(b"qRcmd,3f", move || Say::Flood(flood.clone()));
    let error = target.monitor(Cpu(0), b"qRcmd,3f").unwrap_err();
    let expected = "the target broke the protocol: a monitor that prints without end";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_was_written_is_read() {
    let mut machine = Machine::new(1);
    let (_stub, line) = Stub::play(move |request| machine.answer(request));
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start(target, Box::new(|_| None));
    let mut debugger = Debugger::connect(&bridge);
    let at = format!("{:x},4", PLACE + 16);
    assert_eq!(debugger.ask(&format!("m{at}")), "90909090");
    assert_eq!(debugger.ask(&format!("M{at}:01020304")), "OK");
    assert_eq!(debugger.ask(&format!("m{at}")), "01020304");
}

#[test]
fn k24_who_only_reads_does_not_write() {
    let mut machine = Machine::new(1);
    let (_stub, line) = Stub::play(move |request| machine.answer(request));
    let target = RspTarget::over(line, PATIENCE).unwrap();
    let bridge = Serving::start(target, Box::new(|_| None));
    let mut first = Debugger::connect(&bridge);
    let mut second = Debugger::connect(&bridge);
    let at = format!("{:x},1", PLACE + 16);
    assert_eq!(first.ask(&format!("M{at}:01")), "OK");
    let registers = first.ask("g");
    let requests = [
        &format!("M{at}:02"),
        &format!("X{at}:2"),
        &format!("Z0,{at}"),
        &format!("G{registers}"),
        "P0=0000000000000000",
        "vCont;c",
        "vCont;s:1",
        "c",
        "s",
    ];
    for request in requests {
        let refused = second.ask(request);
        assert_eq!(
            refused,
            "E.debugger 1 controls this machine until it leaves"
        );
    }
    assert_eq!(second.ask(&format!("m{at}")), "01");
    assert_eq!(second.ask("g"), registers);
}
