//! A stub with two processors, one of which it looks from, as QEMU does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::target::{Cpu, Stop, Target, TargetError};
use rustix::event::{PollFd, PollFlags, poll};

use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where each processor is.
const PLACES: [u64; 2] = [0x1000, 0x2000];

/// It looks from the one that stopped last, or that it was told to look from since.
struct Qemu(usize);

impl Qemu {
    fn answer(&mut self, request: &[u8]) -> Say {
        match request {
            b"?" => "T05thread:01;".into(),
            b"qqemu.Supported" => "PhyMemMode".into(),
            b"vCont?" => "vCont;c;C;s;S".into(),
            b"qfThreadInfo" => "m01,02".into(),
            b"qsThreadInfo" => "l".into(),
            b"Hg01" => self.look_from(0),
            b"Hg02" => self.look_from(1),
            b"vCont;s:01" => self.stop_on(0),
            b"vCont;s:02" | b"vCont;c" => self.stop_on(1),
            b"g" => registers(PLACES[self.0]),
            _ => "".into(),
        }
    }

    fn look_from(&mut self, processor: usize) -> Say {
        self.0 = processor;
        "OK".into()
    }

    fn stop_on(&mut self, processor: usize) -> Say {
        self.0 = processor;
        Say::Packet(format!("T05thread:0{};", processor + 1).into_bytes())
    }
}

/// What a stub says when it is asked for them.
pub(crate) fn registers(rip: u64) -> Say {
    let general = [0; 16].into_iter().chain([rip]);
    let digits: String = general
        .map(|value: u64| hex::encode(&value.to_le_bytes()))
        .chain([0u32; 7].map(|value| hex::encode(&value.to_le_bytes())))
        .collect();
    Say::Packet(digits.into_bytes())
}

#[test]
fn registers_are_those_of_their_processor_after_an_answer_that_is_late() {
    let (wake, wakes) = mpsc::channel::<()>();
    let mut qemu = Qemu(0);
    let mut once = Some(wakes);
    let (_stub, line) = Stub::play(move |request| {
        if let Some(wakes) = once.take_if(|_| request == b"Hg02") {
            wakes.recv().ok();
        }
        qemu.answer(request)
    });
    let mut target = RspTarget::over(line, Duration::from_secs(1)).unwrap();
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, 0x1000);
    let error = target.registers(Cpu(1)).unwrap_err();
    assert!(matches!(error, TargetError::Silent(_)), "{error}");
    drop(wake);
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, 0x1000);
}

#[test]
fn registers_are_those_of_their_processor_after_a_stop_of_another() {
    let mut qemu = Qemu(0);
    let (_stub, line) = Stub::play(move |request| qemu.answer(request));
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    let places = |target: &mut RspTarget| [1, 0].map(|cpu| target.registers(Cpu(cpu)).unwrap().rip);
    assert_eq!(places(&mut target), [0x2000, 0x1000]);
    target.step(Cpu(1)).unwrap();
    assert_eq!(target.wait(PATIENCE).unwrap(), Some(Stop::Stepped(Cpu(1))));
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, 0x1000);
    target.resume().unwrap();
    assert_eq!(
        target.wait(PATIENCE).unwrap(),
        Some(Stop::Breakpoint(Cpu(1)))
    );
    assert_eq!(target.registers(Cpu(0)).unwrap().rip, 0x1000);
    assert_eq!(places(&mut target), [0x2000, 0x1000]);
}

/// One processor, which moves by a byte with each step that is done. So many are told too early.
fn stepped(early: usize) -> (u64, usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let mut rip = 0x1000;
    let (_stub, line) = Stub::play(move |request| match request {
        b"vCont;s:01" => {
            rip += u64::from(count.fetch_add(1, Ordering::Relaxed) >= early);
            "T05thread:01;".into()
        }
        b"g" => registers(rip),
        _ => Qemu(0).answer(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    target.step(Cpu(0)).unwrap();
    assert_eq!(target.wait(PATIENCE).unwrap(), Some(Stop::Stepped(Cpu(0))));
    let rip = target.registers(Cpu(0)).unwrap().rip;
    (rip, asked.load(Ordering::Relaxed))
}

#[test]
fn a_step_that_is_told_too_early_is_asked_for_again() {
    assert_eq!(stepped(0), (0x1001, 1));
    assert_eq!(stepped(1), (0x1001, 2));
    // An instruction that jumps to itself is left at some time.
    assert_eq!(stepped(usize::MAX), (0x1000, 4));
}

#[test]
fn a_stop_is_told_that_comes_together_with_what_is_none() {
    let (_stub, line) = Stub::play(|request| match request {
        b"vCont;c" => Say::Packets(&[b"O6869", b"T05thread:01;"]),
        _ => Qemu(0).answer(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    target.resume().unwrap();
    let line = target.readiness().unwrap();
    poll(&mut [PollFd::from_borrowed_fd(line, PollFlags::IN)], None).unwrap();
    // What has been read and was not looked at would never be readable again.
    let stop = target.wait(Duration::ZERO).unwrap();
    assert_eq!(stop, Some(Stop::Breakpoint(Cpu(0))));
}
