//! Requests that get lost, and answers that never come.

use std::sync::mpsc::channel;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::target::{Cpu, Memory, Target, TargetError};

use crate::debugger::Debugger;
use crate::processors::registers;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(2);

/// A stub that has an unmistakable greeting.
fn modest(request: &[u8]) -> Say {
    match request {
        _ if request.starts_with(b"qSupported") => "PacketSize=400".into(),
        b"?" | b"\x03" => "S02".into(),
        b"Hg1" | b"D" => "OK".into(),
        b"g" => registers(0x1000),
        b"m1000,4" => "01020304".into(),
        b"c" => Say::Silence,
        _ => "".into(),
    }
}

/// A target whose stub says this to the first request that begins so.
fn target(begin: &'static str, mut once: Option<Say>) -> (Stub, RspTarget) {
    let (stub, line) = Stub::play(move |request| {
        let say = match request.starts_with(begin.as_bytes()) {
            true => once.take(),
            false => None,
        };
        say.unwrap_or_else(|| modest(request))
    });
    (stub, RspTarget::over(line, PATIENCE).unwrap())
}

#[test]
fn a_request_that_gets_lost_is_sent_again() {
    let (_stub, mut target) = target("g", Some(Say::Deafness));
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, 0x1000);
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for_again() {
    for silence in [Say::Silence, Say::Deafness] {
        let (_stub, mut target) = target("m", Some(silence));
        let mut bytes = [0; 4];
        let error = target.read(0x1000, &mut bytes);
        assert!(matches!(error, Err(TargetError::Silent(_))), "{error:?}");
        target.read(0x1000, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        target.resume().unwrap();
    }
}

#[test]
fn a_stub_that_says_nothing_more_is_detached_from() {
    let (told, heard) = channel();
    let mut silent = false;
    let (_stub, line) = Stub::play(move |request| {
        // Nobody listens at the end of the test.
        told.send(request.to_vec()).ok();
        silent |= request == b"m1000,4";
        if silent {
            Say::Silence
        } else {
            modest(request)
        }
    });
    let target = RspTarget::over(line, Duration::from_millis(200)).unwrap();
    let mut bridge = Serving::start(target, Box::new(|_| None));
    let mut debugger = Debugger::connect(&bridge);
    assert!(debugger.ask("m1000,4").starts_with('E'));
    drop(debugger);
    bridge.stop().unwrap_err();
    assert!(heard.try_iter().any(|request| request == b"D"));
}
