//! Stubs that lie, flood, and say nothing.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::packet::{self, MAX_PAYLOAD};
use kdbridge::target::{Cpu, End, Memory, Target, TargetError, Trap};
use proptest::prelude::*;

use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(5);

/// For stubs that do not answer.
const SHORT: Duration = Duration::from_millis(100);

/// No stub makes an operation last longer, on however busy a machine.
const LONG: Duration = Duration::from_secs(20);

/// What connecting to a stub that answers so comes to.
fn connect(answer: impl FnMut(&[u8]) -> Say + Send + 'static) -> Result<(), TargetError> {
    connect_within(PATIENCE, answer)
}

fn connect_within(
    patience: Duration,
    answer: impl FnMut(&[u8]) -> Say + Send + 'static,
) -> Result<(), TargetError> {
    let (_stub, line) = Stub::play(answer);
    let start = Instant::now();
    let result = RspTarget::over(line, patience).map(drop);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    result
}

/// A stub that knows as little as one can.
fn modest(request: &[u8]) -> Say {
    match request {
        b"?" => "S05".into(),
        b"Hg1" => "OK".into(),
        _ => "".into(),
    }
}

#[test]
fn silence_has_an_end() {
    let error = connect_within(SHORT, |_| Say::Silence).unwrap_err();
    assert!(matches!(error, TargetError::Unheard(SHORT)), "{error}");
    let said = error.to_string();
    assert!(said.contains("another debugger holds the stub"), "{said}");
    let error = connect_within(SHORT, |request| match request {
        b"?" => Say::Silence,
        _ => modest(request),
    });
    assert!(
        matches!(error, Err(TargetError::Silent(SHORT))),
        "{error:?}"
    );
}

#[test]
fn who_is_sent_away_is_told_why() {
    let error = connect(|_| "E.this is not the time".into()).unwrap_err();
    assert_eq!(error.to_string(), "sent away: this is not the time");
}

#[test]
fn answers_that_are_all_just_in_time_are_not_waited_for_for_ever() {
    let (left, was_left) = mpsc::channel();
    let (_stub, line) = Stub::play(move |request| match request {
        [b'm', ..] => {
            thread::sleep(SHORT / 2);
            "00".into()
        }
        b"D" => {
            left.send(()).unwrap();
            "OK".into()
        }
        _ => modest(request),
    });
    let mut target = RspTarget::over(line, SHORT).unwrap();
    let start = Instant::now();
    let failed = (0..LONG.as_secs() * 10).find_map(|at| target.read(at, &mut [0]).err());
    let error = failed.expect("an end");
    assert!(matches!(error, TargetError::Slow { .. }), "{error}");
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    // It can still be left.
    target.detach().unwrap();
    was_left.try_recv().unwrap();
}

#[test]
fn a_stub_that_hangs_up_is_gone() {
    let error = connect(|_| Say::Close).unwrap_err();
    assert!(matches!(error, TargetError::Gone), "{error}");
}

#[test]
fn a_stub_that_hangs_up_while_the_machine_stands_is_gone() {
    let (_stub, line) = Stub::play(|request| match request {
        b"g" => Say::Close,
        _ => modest(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    assert!(matches!(target.wait(SHORT), Ok(None)));
    let error = target.registers(Cpu(0)).unwrap_err();
    assert!(matches!(error, TargetError::Gone), "{error}");
    let error = target.wait(SHORT).unwrap_err();
    assert!(matches!(error, TargetError::Gone), "{error}");
}

#[test]
fn a_stub_may_have_nothing_to_debug() {
    let connect = |answer: &'static str| {
        connect(move |request| match request {
            b"?" => answer.into(),
            _ => modest(request),
        })
    };
    let error = connect("W07").unwrap_err();
    assert!(matches!(error, TargetError::Ended(End::Exit(7))), "{error}");
    let error = connect("E02").unwrap_err();
    assert!(matches!(error, TargetError::Refused(_)), "{error}");
}

#[test]
fn floods_of_what_is_no_answer_have_an_end() {
    for flood in floods() {
        let error = connect_within(SHORT, move |_| Say::Flood(flood.clone()));
        let expected = matches!(
            error,
            Err(TargetError::Unheard(_) | TargetError::Protocol(_) | TargetError::Io(_))
        );
        assert!(expected, "{error:?}");
    }
}

#[test]
fn floods_while_the_machine_runs_or_stands_have_an_end() {
    for flood in floods() {
        for runs in [false, true] {
            let flood = flood.clone();
            let (_stub, line) = Stub::play(move |request| match request {
                b"c" | b"g" => Say::Flood(flood.clone()),
                // One that is acknowledged would be held up by that.
                b"QStartNoAckMode" => "OK".into(),
                _ if request.starts_with(b"qSupported") => "QStartNoAckMode+".into(),
                _ => modest(request),
            });
            let mut target = RspTarget::over(line, Duration::from_secs(1)).unwrap();
            let start = Instant::now();
            if runs {
                target.resume().unwrap();
            } else {
                target.registers(Cpu(0)).ok();
            }
            target.wait(SHORT).ok();
            assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
        }
    }
}

/// What a stub may say without end; some of it is packets.
fn floods() -> Vec<Vec<u8>> {
    let bytes = ["+", "-", "x", "$", "%Stop:T05#", "$O6869#00"].map(str::as_bytes);
    let mut floods: Vec<Vec<u8>> = bytes.iter().map(|flood| flood.repeat(500)).collect();
    for payload in ["O6869", "T05", "OK"] {
        let mut flood = Vec::new();
        packet::encode(payload.as_bytes(), &mut flood);
        floods.push(flood.repeat(500));
    }
    floods
}

#[test]
fn a_packet_without_end_is_refused() {
    for part in ["a", "0*~"] {
        let flood = format!("${}", part.repeat(MAX_PAYLOAD + 1)).into_bytes();
        let error = connect(move |_| Say::Flood(flood.clone())).unwrap_err();
        assert!(
            matches!(error, TargetError::Protocol("a packet without end")),
            "{error}"
        );
    }
}

#[test]
fn a_line_that_damages_every_packet_is_given_up() {
    let error = connect(|_| Say::Flood(b"$OK#00".to_vec())).unwrap_err();
    assert!(matches!(error, TargetError::Protocol(_)), "{error}");
}

#[test]
fn lists_without_end_are_refused() {
    let error = connect(|request| match request {
        b"qfThreadInfo" | b"qsThreadInfo" => "m1,2,3,4,5,6,7,8,9".into(),
        _ => modest(request),
    });
    assert!(matches!(error, Err(TargetError::Protocol(_))), "{error:?}");
    // A description is cut off instead: it is not needed.
    connect(|request| match request {
        _ if request.starts_with(b"qSupported") => {
            "qXfer:features:read+;PacketSize=ffffffffffffffff".into()
        }
        _ if request.starts_with(b"qXfer") => {
            Say::Packet(b"m<xi:include href=\"a\"/>".repeat(4000))
        }
        _ => modest(request),
    })
    .unwrap();
}

#[test]
fn what_comes_bit_by_bit_comes_in_time_or_not_at_all() {
    for endless in ["qfThreadInfo", "qXfer"] {
        let error = connect_within(SHORT * 3, move |request| {
            if request.starts_with(b"qSupported") {
                return "qXfer:features:read+".into();
            }
            if request.starts_with(endless.as_bytes()) || request == b"qsThreadInfo" {
                thread::sleep(SHORT / 2);
                return "m1".into();
            }
            modest(request)
        });
        assert!(matches!(error, Err(TargetError::Silent(_))), "{error:?}");
    }
}

/// A target whose stub says this to every request for memory.
fn read(reply: &'static str) -> Result<[u8; 4], TargetError> {
    let (_stub, line) = Stub::play(move |request| match request.first() {
        Some(b'm') => reply.into(),
        _ => modest(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    let mut bytes = [0; 4];
    target.read(0x1000, &mut bytes).map(|()| bytes)
}

#[test]
fn memory_is_what_was_asked_for_or_none() {
    assert_eq!(read("01020304").unwrap(), [1, 2, 3, 4]);
    for lie in ["0102030405", "0102030", "zzzzzzzz", "OK"] {
        let error = read(lie).unwrap_err();
        assert!(matches!(error, TargetError::Protocol(_)), "{lie}: {error}");
    }
    assert!(matches!(read("E14"), Err(TargetError::Unreadable(0x1000))));
    assert!(matches!(read("0102"), Err(TargetError::Unreadable(0x1002))));
    assert!(matches!(read(""), Err(TargetError::Unreadable(0x1000))));
}

#[test]
fn registers_that_are_too_few_are_refused() {
    let (_stub, line) = Stub::play(|request| match request {
        b"g" => "0011".into(),
        _ => modest(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    let error = target.registers(Cpu(0)).unwrap_err();
    assert!(matches!(error, TargetError::Protocol(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_answers_end_in_a_target_or_an_error(
        answers in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                "[mlETSXWO][0-9a-f,;:.p]{0,20}".prop_map(String::into_bytes),
            ],
            1..20,
        )
    ) {
        let mut next = answers.into_iter().cycle();
        let (_stub, line) = Stub::play(move |_| next.next().map_or(Say::Silence, Say::Packet));
        if let Ok(mut target) = RspTarget::over(line, SHORT) {
            target.read(u64::MAX - 10, &mut [0; 64]).ok();
            target.registers(Cpu(0)).ok();
            target.set(0x1000, kdbridge::target::Trap::Software).ok();
            target.resume().ok();
            target.wait(SHORT).ok();
        }
    }
}

#[test]
fn a_breakpoint_may_be_at_the_end_of_memory() {
    let mut code = "90";
    let (_stub, line) = Stub::play(move |request| match request {
        [b'm', ..] => code.into(),
        [b'Z', ..] => {
            code = "cc";
            "OK".into()
        }
        _ => modest(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    target.set(u64::MAX, Trap::Software).unwrap();
    let mut code = [0];
    target.read(u64::MAX, &mut code).unwrap();
    assert_eq!(code, [0x90]);
}
