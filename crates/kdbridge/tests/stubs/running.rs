//! A stub that takes the first byte that comes while its machine runs for one that interrupts, as QEMU does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Stream;
use kdbridge::rsp::packet::{self, Decoder, Item};
use kdbridge::target::TargetError;

use crate::debugger::Debugger;
use crate::processors::registers;
use crate::serving::Serving;
use crate::stub::Say;

const PATIENCE: Duration = Duration::from_secs(20);

/// `cont`, as monitors are told.
const CONT: &[u8] = b"qRcmd,636f6e74";

/// QEMU at the end of a line.
struct Qemu {
    line: UnixStream,
    /// It says by itself that the machine stopped, as it did before 8.1.
    says_stops: bool,
    runs: bool,
    /// What it has sent was not acknowledged.
    waits: bool,
}

impl Qemu {
    /// With a machine that has stopped because somebody has connected.
    fn at(line: UnixStream, says_stops: bool) -> Self {
        Self {
            line,
            says_stops,
            runs: false,
            waits: false,
        }
    }

    /// Plays it until it is hung up on; gives whether the machine runs then.
    fn play(mut self) -> bool {
        let mut decoder = Decoder::of_requests();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.line.read(&mut buffer) {
            for &byte in &buffer[..count] {
                if !self.takes(byte) {
                    continue;
                }
                if let Some(Item::Packet(request)) = decoder.push(byte).unwrap() {
                    self.line.write_all(b"+").ok();
                    self.answer(&request);
                }
            }
        }
        self.runs
    }

    /// Whether a byte is part of a request.
    fn takes(&mut self, byte: u8) -> bool {
        if self.waits {
            self.waits = !matches!(byte, b'+' | b'$');
            if byte != b'$' {
                return false;
            }
        }
        if !self.runs {
            return true;
        }
        self.runs = false;
        if self.says_stops || byte == 3 {
            self.say(b"T02thread:01;");
        }
        false
    }

    fn say(&mut self, payload: &[u8]) {
        let mut bytes = Vec::new();
        packet::encode(payload, &mut bytes);
        self.line.write_all(&bytes).ok();
        self.waits = true;
    }

    fn answer(&mut self, request: &[u8]) {
        let answer: Say = match request {
            _ if request.starts_with(b"qSupported") => "PacketSize=1000".into(),
            b"qqemu.Supported" => "PhyMemMode".into(),
            b"?" => "T02thread:01;".into(),
            b"vCont?" => "vCont;c;C;s;S".into(),
            b"g" => registers(0x1000),
            b"m1000,4" => "01020304".into(),
            b"Hg1" | b"D" | CONT => "OK".into(),
            b"vCont;c" => Say::Silence,
            _ => "".into(),
        };
        self.runs |= matches!(request, b"vCont;c" | b"D" | CONT);
        if let Say::Packet(payload) = answer {
            self.say(&payload);
        }
    }
}

/// With the bridge in front of it.
fn serve(says_stops: bool) -> (JoinHandle<bool>, Serving) {
    let (here, there) = UnixStream::pair().unwrap();
    let qemu = Qemu::at(here, says_stops);
    let qemu = thread::spawn(|| qemu.play());
    let target = RspTarget::over(Stream::Unix(there).prepare().unwrap(), PATIENCE).unwrap();
    (qemu, Serving::start(target, Box::new(|_| None)))
}

#[test]
fn a_machine_that_its_monitor_lets_run_stands_still_for_the_next_request() {
    for says_stops in [true, false] {
        let (qemu, mut bridge) = serve(says_stops);
        let mut debugger = Debugger::connect(&bridge);
        let cont = String::from_utf8_lossy(CONT);
        for _ in 0..2 {
            assert_eq!(debugger.ask(&cont), "OK");
            assert_eq!(debugger.ask("m1000,4"), "01020304");
            assert_eq!(debugger.ask(&cont), "OK");
            assert!(debugger.ask("g").starts_with("00"));
        }
        assert_eq!(debugger.ask(&cont), "OK");
        debugger.send("D");
        let mut debugger = Debugger::connect(&bridge);
        assert_eq!(debugger.ask("m1000,4"), "01020304");
        assert_eq!(debugger.ask(&cont), "OK");
        drop(debugger);
        bridge.stop().unwrap();
        drop(bridge);
        assert!(qemu.join().unwrap(), "the machine stands still");
    }
}

#[test]
fn a_machine_that_stops_for_somebody_who_has_given_up_goes_on() {
    for says_stops in [true, false] {
        let (here, there) = UnixStream::pair().unwrap();
        let line = Stream::Unix(there).prepare().unwrap();
        let error = RspTarget::over(line, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, TargetError::Unheard(_)), "{error}");
        let runs = Qemu::at(here, says_stops).play();
        assert!(runs, "the machine stands still");
    }
}
