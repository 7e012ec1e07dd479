//! Stubs that answer once later than anybody waits.

use std::sync::mpsc;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::target::{Memory, Target, TargetError};

use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(1);

/// What is read; its page is the first.
const PLACE: u64 = 0xffff_8000_0000_1000;

/// A target whose stub takes its time when it is asked for this.
fn target(late: &'static str, features: &'static str) -> (Stub, RspTarget, mpsc::Sender<()>) {
    let (wake, wakes) = mpsc::channel::<()>();
    let mut once = Some(wakes);
    let mut physical = false;
    let (stub, line) = Stub::play(move |request| {
        if request.starts_with(late.as_bytes())
            && let Some(wakes) = once.take()
        {
            wakes.recv().ok();
        }
        match request {
            b"?" => "S05".into(),
            b"qqemu.Supported" => features.into(),
            b"Qqemu.PhyMemMode:1" | b"Qqemu.PhyMemMode:0" => {
                physical = request.ends_with(b"1");
                "OK".into()
            }
            [b'm', place @ ..] => memory(place, physical),
            b"vCont;c" | b"c" => "T05thread:01;".into(),
            _ => "".into(),
        }
    });
    (stub, RspTarget::over(line, PATIENCE).unwrap(), wake)
}

/// Each byte is the page that it is in; physical memory has other ones.
fn memory(place: &[u8], physical: bool) -> Say {
    let (at, length) = hex::pair(place).unwrap();
    let byte = if physical { 0xff } else { (at >> 12) as u8 };
    Say::Packet(hex::encode(&vec![byte; length as usize]).into_bytes())
}

fn is_silent<T: std::fmt::Debug>(result: Result<T, TargetError>) {
    assert!(matches!(result, Err(TargetError::Silent(_))), "{result:?}");
}

#[test]
fn a_late_answer_is_not_taken_for_another_one() {
    for features in ["", "PhyMemMode"] {
        let (_stub, mut target, wake) = target("m", features);
        is_silent(target.read(PLACE, &mut vec![0; 20 * 4096]));
        // It goes on not to answer.
        is_silent(target.read(PLACE, &mut [0; 4]));
        is_silent(target.resume());
        drop(wake);
        let mut bytes = [0; 4];
        target.read(PLACE + 0x6000, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4]);
        target.resume().unwrap();
        assert!(target.wait(PATIENCE).unwrap().is_some());
        target.read(PLACE, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 4]);
    }
}

#[test]
fn memory_is_no_physical_one_after_a_late_answer() {
    for late in ["Qqemu.PhyMemMode:1", "m", "Qqemu.PhyMemMode:0"] {
        let (_stub, mut target, wake) = target(late, "PhyMemMode");
        is_silent(target.read_physical(0, &mut [0; 4]));
        drop(wake);
        let mut bytes = [0; 4];
        target.read(PLACE, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 4], "{late}");
    }
}
