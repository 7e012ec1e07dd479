//! What is said between a debugger and a kernel over a bad network.

mod network;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kdbridge::kdp::packet::{Code, Head};
use kdbridge::kdp::{AttachError, Client, KdpTarget, Link, Reentry};
use kdbridge::target::{Cpu, Memory, Stop, Target, TargetError, Trap};
use network::{BASE, Fate, Way, Wire, World};

/// Numbers that look random, from a seed.
fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// One packet in five is lost, and as many come twice or late.
fn bad(seed: u64) -> impl FnMut(Way, &[u8]) -> Fate {
    let mut roll = dice(seed);
    move |_, _| match roll() % 10 {
        0 | 1 => Fate::Lost,
        2 => Fate::Twice,
        3 => Fate::Late,
        _ => Fate::Delivered,
    }
}

fn good(_: Way, _: &[u8]) -> Fate {
    Fate::Delivered
}

fn attach(world: &Rc<RefCell<World>>) -> KdpTarget<Wire> {
    KdpTarget::attach(Wire(Rc::clone(world))).expect("a kernel that answers")
}

fn head(packet: &[u8]) -> Head {
    Head::split(packet).expect("a packet").0
}

#[test]
fn k12_ten_thousand_reads_over_a_bad_network_are_exact_and_done_once() {
    let world = World::new(bad(12));
    let mut kernel = attach(&world);
    let before = world.borrow_mut().server.target().reads;
    let memory = world.borrow_mut().server.target().memory.clone();
    let mut roll = dice(7);
    for _ in 0..10_000 {
        let length = 1 + roll() as usize % 1024;
        let at = roll() as usize % (memory.len() - length);
        let mut bytes = vec![0; length];
        kernel.read(BASE + at as u64, &mut bytes).expect("memory");
        assert_eq!(bytes, memory[at..at + length]);
    }
    assert_eq!(world.borrow_mut().server.target().reads - before, 10_000);
    let world = world.borrow();
    let to_kernel = world.log.iter().filter(|(way, _)| *way == Way::ToKernel);
    assert!(to_kernel.count() > 12_000);
}

#[test]
fn k12_writes_breakpoints_and_runs_over_a_bad_network_are_done_once() {
    for seed in 0..20 {
        let world = World::new(bad(seed));
        let mut kernel = attach(&world);
        for turn in 1..=100u64 {
            kernel.write(BASE + turn, &[turn as u8]).expect("memory");
            kernel.set(BASE + 0x200, Trap::Software).expect("a place");
            world.borrow_mut().server.target().registers.rip = BASE + 0x200;
            world.borrow_mut().server.target().stop = Some(Stop::Breakpoint(Cpu(0)));
            kernel.resume().expect("it runs");
            let stop = kernel.wait(Duration::from_secs(60)).expect("a link");
            assert_eq!(stop, Some(Stop::Breakpoint(Cpu(0))), "{seed} {turn}");
            assert_eq!(
                kernel.registers(Cpu(0)).expect("registers").rip,
                BASE + 0x200
            );
            kernel
                .clear(BASE + 0x200, Trap::Software)
                .expect("it is there");
            let mut world = world.borrow_mut();
            let machine = world.server.target();
            assert_eq!(
                (machine.resumes, machine.writes),
                (turn as usize, turn as usize)
            );
            assert!(machine.traps.is_empty());
        }
    }
}

#[test]
fn k14_a_conversation_begins_at_zero() {
    let world = World::new(good);
    let _kernel = attach(&world);
    let world = world.borrow();
    let sent = world.log.iter().filter(|(way, _)| *way == Way::ToKernel);
    let sent: Vec<_> = sent.map(|(_, packet)| head(packet)).collect();
    assert_eq!((sent[0].code, sent[0].sequence), (Code::Connect, 0));
    for (at, head) in sent.iter().enumerate() {
        assert_eq!(usize::from(head.sequence), at);
    }
}

#[test]
fn k14_a_debugger_takes_the_place_of_one_that_has_crashed() {
    let world = World::new(good);
    let mut first = attach(&world);
    first.set(BASE, Trap::Software).expect("a place");
    world.borrow_mut().log.clear();
    let mut second = attach(&world);
    let sequence: Vec<_> = world
        .borrow()
        .log
        .iter()
        .map(|(_, packet)| head(packet))
        .map(|head| (head.code, head.is_reply, head.sequence))
        .take(8)
        .collect();
    #[rustfmt::skip]
    assert_eq!(sequence, [
        (Code::Connect, false, 0), (Code::Connect, true, 0),
        (Code::Reattach, false, 0), (Code::Reattach, true, 0),
        (Code::Connect, false, 0), (Code::Connect, true, 0),
        (Code::MaxBytes, false, 1), (Code::MaxBytes, true, 1),
    ]);
    assert!(world.borrow_mut().server.target().traps.is_empty());
    second.read(BASE, &mut [0; 4]).expect("memory");
}

#[test]
fn k14_the_sequence_goes_on_after_255() {
    for seed in 0..8 {
        let world = World::new(bad(seed));
        let mut kernel = attach(&world);
        for _ in 0..1200 {
            kernel.read(BASE, &mut [0; 8]).expect("memory");
        }
    }
}

/// XNU drops a copy of request 255 when it expects 0.
#[test]
fn k14_a_lost_answer_to_255_is_survived_where_the_kernel_does_not_repeat_it() {
    let mut answered = false;
    let world = World::new(move |way, packet| {
        answered &= head(packet).sequence != 1;
        let was_answered = answered;
        answered |= head(packet).sequence == 255 && way == Way::ToDebugger;
        if head(packet).sequence == 255 && (was_answered || way == Way::ToDebugger) {
            Fate::Lost
        } else {
            Fate::Delivered
        }
    });
    let mut kernel = attach(&world);
    for _ in 0..600 {
        kernel.read(BASE, &mut [0; 8]).expect("memory");
    }
}

#[test]
fn k14_an_exception_that_is_sent_again_and_again_is_one_stop() {
    let mut receipts = 0;
    let world = World::new(move |way, packet| {
        let head = head(packet);
        if way == Way::ToKernel && head.code == Code::Exception {
            receipts += 1;
            // Only the last one arrives.
            return if receipts % 101 == 0 {
                Fate::Delivered
            } else {
                Fate::Lost
            };
        }
        Fate::Delivered
    });
    let mut kernel = attach(&world);
    for turn in 0..3 {
        world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 11));
        kernel.resume().expect("it runs");
        let stop = kernel.wait(Duration::from_secs(60)).expect("a link");
        assert_eq!(stop, Some(Stop::Signal(Cpu(0), 11)));
        let world = world.borrow();
        let sent = world.log.iter().filter(|(way, packet)| {
            *way == Way::ToDebugger && head(packet).code == Code::Exception
        });
        assert_eq!(sent.count(), 101 * (turn + 1));
        drop(world);
        assert_eq!(kernel.wait(Duration::from_secs(60)).expect("a link"), None);
    }
}

#[test]
fn copies_of_a_stop_without_end_are_not_waited_for() {
    let world = World::new(good);
    let mut kernel = stopped(&world);
    let copy = last_exception(&world);
    kernel.resume().expect("it runs");
    world.borrow_mut().flood = Some(copy);
    let link = Wire(Rc::clone(&world));
    let start = link.now();
    assert_eq!(kernel.wait(Duration::from_secs(1)).expect("a link"), None);
    assert!(link.now() - start < Duration::from_secs(2));
}

#[test]
fn copies_of_a_stop_without_end_are_no_answer() {
    let world = World::new(good);
    let mut kernel = stopped(&world);
    let copy = last_exception(&world);
    world.borrow_mut().flood = Some(copy);
    let link = Wire(Rc::clone(&world));
    let start = link.now();
    let error = kernel.registers(Cpu(0)).expect_err("no answer");
    assert!(matches!(error, TargetError::Silent(_)), "{error}");
    assert!(link.now() - start < Duration::from_secs(90));
}

#[test]
fn what_is_no_answer_is_none_however_often_it_comes() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    kernel.registers(Cpu(0)).expect("registers");
    let mut answer = world.borrow().log.last().expect("an answer").1.clone();
    assert!(head(&answer).is_reply);
    // The next request's, but in another conversation.
    answer[1] += 1;
    answer[4] ^= 1;
    for flood in [answer, b"no packet".to_vec()] {
        let link = Wire(Rc::clone(&world));
        let start = link.now();
        world.borrow_mut().flood = Some(flood);
        let error = kernel.registers(Cpu(0)).expect_err("no answer");
        assert!(matches!(error, TargetError::Silent(_)), "{error}");
        assert!(link.now() - start < Duration::from_secs(90));
    }
}

/// One that was told of a stop.
fn stopped(world: &Rc<RefCell<World>>) -> KdpTarget<Wire> {
    let mut kernel = attach(world);
    world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 11));
    kernel.resume().expect("it runs");
    assert!(stops(&mut kernel));
    kernel
}

fn last_exception(world: &RefCell<World>) -> Vec<u8> {
    let world = world.borrow();
    let mut sent = world.log.iter().rev();
    let exception =
        sent.find(|(way, packet)| *way == Way::ToDebugger && head(packet).code == Code::Exception);
    exception.expect("that it was told").1.clone()
}

#[test]
fn k14_a_copy_of_the_last_stop_does_not_stop_what_runs() {
    let mut late = 0;
    let world = World::new(move |way, packet| {
        late += usize::from(way == Way::ToDebugger && head(packet).code == Code::Exception);
        if late > 0 && head(packet).code == Code::Exception {
            Fate::Twice
        } else {
            Fate::Delivered
        }
    });
    let mut kernel = attach(&world);
    for _ in 0..300 {
        world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 5));
        kernel.resume().expect("it runs");
        assert!(stops(&mut kernel));
        kernel.resume().expect("it runs");
        assert_eq!(kernel.wait(Duration::from_secs(1)).expect("a link"), None);
        world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 5));
        assert!(stops(&mut kernel));
    }
}

fn stops(kernel: &mut impl Target) -> bool {
    let stop = kernel.wait(Duration::from_secs(1));
    stop.expect("a link").is_some()
}

#[test]
fn a_kernel_that_runs_although_its_answer_was_lost_is_waited_for() {
    let world = World::new(|way, packet| {
        let lost = way == Way::ToDebugger && head(packet).code == Code::ResumeCpus;
        if lost { Fate::Lost } else { Fate::Delivered }
    });
    let mut kernel = attach(&world);
    kernel.resume().expect("it runs");
    assert_eq!(kernel.wait(Duration::from_secs(60)).expect("a link"), None);
    world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 5));
    assert!(stops(&mut kernel));
    assert_eq!(world.borrow_mut().server.target().resumes, 1);
}

#[test]
fn silence_ends_with_what_to_look_for() {
    let world = World::new(|_, _| Fate::Lost);
    let error = Client::attach(Wire(Rc::clone(&world))).expect_err("nobody answers");
    let AttachError::Silent(time) = error else {
        panic!("{error}")
    };
    assert!((Duration::from_secs(10)..Duration::from_secs(15)).contains(&time));
    for word in ["NMI", "debug", "csrutil", "arm64"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let sent: Vec<_> = world
        .borrow()
        .log
        .iter()
        .map(|(_, packet)| packet.clone())
        .collect();
    assert_eq!(sent.len(), 16);
    assert!(sent.iter().all(|packet| *packet == sent[0]));
}

#[test]
fn k16_breakpoints_do_not_show_in_memory() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let mut before = [0; 64];
    kernel.read(BASE, &mut before).expect("memory");
    for at in [0, 7, 63] {
        kernel.set(BASE + at, Trap::Software).expect("a place");
    }
    let mut with = [0; 64];
    kernel.read(BASE, &mut with).expect("memory");
    assert_eq!(with, before);
    for (at, original) in (BASE..).zip(before) {
        let mut byte = [0];
        kernel.read(at, &mut byte).expect("memory");
        assert_eq!(byte, [original]);
    }
    kernel.write(BASE + 6, &[1, 2, 3]).expect("memory");
    kernel.read(BASE, &mut with).expect("memory");
    assert_eq!(
        (&with[..6], &with[6..9], &with[9..]),
        (&before[..6], &[1, 2, 3][..], &before[9..])
    );
    assert_eq!(world.borrow_mut().server.target().traps.len(), 3);
}

#[test]
fn k16_the_hundred_and_first_breakpoint_is_refused() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    for at in 0..100 {
        kernel
            .set(BASE + 0x400 + at, Trap::Software)
            .expect("a place");
    }
    let error = kernel
        .set(BASE + 0x300, Trap::Software)
        .expect_err("no place");
    assert!(matches!(error, TargetError::TooMany(100)));
    assert!(error.to_string().contains("100 breakpoints"));
    kernel
        .clear(BASE + 0x400, Trap::Software)
        .expect("it is there");
    kernel.set(BASE + 0x300, Trap::Software).expect("a place");
}

#[test]
fn k16_a_breakpoint_where_nothing_is_is_refused_although_the_kernel_takes_it() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let nowhere = 0xffff_ff80_4000_0000;
    let error = kernel
        .set(nowhere, Trap::Software)
        .expect_err("nothing is there");
    assert!(matches!(error, TargetError::Unreadable(at) if at == nowhere));
    assert!(matches!(
        kernel.set(BASE, Trap::Hardware),
        Err(TargetError::Refused(_))
    ));
    assert!(matches!(
        kernel.set(BASE, Trap::Write(8)),
        Err(TargetError::Refused(_))
    ));
}

#[test]
fn a_read_names_the_first_address_that_is_not_there() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let end = BASE + 0x1_0000;
    let error = kernel
        .read(end - 1500, &mut [0; 3000])
        .expect_err("the end");
    assert!(
        matches!(error, TargetError::Unreadable(at) if at == end),
        "{error}"
    );
}

#[test]
fn registers_come_and_go() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let mut registers = kernel.registers(Cpu(0)).expect("registers");
    // KDP tells nothing of ss.
    assert_eq!(registers.segments, [8, 0, 0, 0, 0, 0x47]);
    for (at, value) in registers.general.iter_mut().enumerate() {
        *value = 0x1000 + at as u64;
    }
    kernel.set_registers(Cpu(0), &registers).expect("registers");
    assert_eq!(kernel.registers(Cpu(0)).expect("registers"), registers);
    let there = world.borrow_mut().server.target().registers;
    assert_eq!((there.general, there.segments[1]), (registers.general, 16));
}

#[test]
fn a_step_is_one_instruction() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let before = kernel.registers(Cpu(0)).expect("registers");
    kernel.step(Cpu(0)).expect("it runs");
    let stop = kernel.wait(Duration::from_secs(1)).expect("a link");
    assert_eq!(stop, Some(Stop::Stepped(Cpu(0))));
    let after = kernel.registers(Cpu(0)).expect("registers");
    assert_eq!((after.rip, after.rflags), (before.rip + 1, before.rflags));
    kernel.resume().expect("it runs");
    let stop = kernel.wait(Duration::from_secs(1)).expect("a link");
    assert_eq!(stop, None);
    assert_eq!(world.borrow_mut().server.target().steps, 1);
    assert_eq!(world.borrow_mut().server.target().resumes, 1);
}

#[test]
fn k15_without_ticks_an_interrupt_says_at_once_what_to_do() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    kernel.resume().expect("it runs");
    let before = Wire(Rc::clone(&world)).now();
    let error = kernel.interrupt().expect_err("it does not listen");
    assert_eq!(Wire(world).now(), before);
    for word in ["does not listen", "NMI", "--interrupt-every"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// The kernel looks in as often as it is told to.
#[test]
fn k15_a_thousand_ticks_are_no_stop_and_an_interrupt_is_one() {
    let world = World::new(good);
    let mut kernel = attach(&world);
    let (deadline, handler) = (BASE + 0x800, BASE + 0x900);
    kernel.interrupt_by(Reentry {
        deadline,
        handler: handler..handler + 8,
        every: Duration::from_millis(250),
    });
    let tick = |world: &Rc<RefCell<World>>| {
        let mut world = world.borrow_mut();
        let machine = world.server.target();
        assert_eq!(machine.memory[0x800..0x804], 250u32.to_le_bytes());
        machine.memory[0x800..0x804].fill(0);
        machine.registers.rip = handler + 5;
        machine.stop = Some(Stop::Signal(Cpu(0), 5));
    };
    kernel.resume().expect("it runs");
    for _ in 0..1000 {
        tick(&world);
        let stop = kernel.wait(Duration::from_millis(10)).expect("a link");
        assert_eq!(stop, None);
    }
    kernel.interrupt().expect("it looks in");
    tick(&world);
    let stop = kernel.wait(Duration::from_millis(10)).expect("a link");
    assert_eq!(stop, Some(Stop::Interrupted(Cpu(0))));
    assert_eq!(world.borrow_mut().server.target().resumes, 1001);
    // A trap in the kernel's own code is not taken for one.
    kernel.resume().expect("it runs");
    world.borrow_mut().server.target().registers.rip = BASE + 0x700;
    world.borrow_mut().server.target().stop = Some(Stop::Signal(Cpu(0), 5));
    let stop = kernel.wait(Duration::from_millis(10)).expect("a link");
    assert_eq!(stop, Some(Stop::Signal(Cpu(0), 5)));
}

/// Loses packets to the kernel from the first one of this kind on, and sets `told` then.
fn lost_from(code: Code, told: &Arc<AtomicBool>) -> impl FnMut(Way, &[u8]) -> Fate + use<> {
    let told = Arc::clone(told);
    move |way, packet| {
        if way == Way::ToKernel && head(packet).code == code {
            told.store(true, Ordering::Relaxed);
            return Fate::Lost;
        }
        Fate::Delivered
    }
}

fn sent(world: &Rc<RefCell<World>>) -> Vec<Code> {
    let world = world.borrow();
    let sent = world.log.iter().filter(|(way, _)| *way == Way::ToKernel);
    sent.map(|(_, packet)| head(packet).code).collect()
}

#[test]
fn attaching_can_be_broken_off_and_a_kernel_that_has_answered_is_let_go_on() {
    let told = Arc::new(AtomicBool::new(false));
    let world = World::new(lost_from(Code::Connect, &told));
    let attached = KdpTarget::attach_heeding(Wire(Rc::clone(&world)), Some(Arc::clone(&told)));
    assert!(matches!(attached, Err(AttachError::BrokenOff)));
    assert_eq!(sent(&world), [Code::Connect]);

    told.store(false, Ordering::Relaxed);
    let world = World::new(lost_from(Code::HostInfo, &told));
    let attached = KdpTarget::attach_heeding(Wire(Rc::clone(&world)), Some(told));
    assert!(matches!(attached, Err(AttachError::BrokenOff)));
    let sent = sent(&world);
    assert_eq!(sent.iter().filter(|it| **it == Code::HostInfo).count(), 1);
    assert_eq!(sent.last(), Some(&Code::Disconnect));
}

#[test]
fn a_look_can_be_broken_off_and_the_kernel_is_let_go_on() {
    let told = Arc::new(AtomicBool::new(false));
    let world = World::new(lost_from(Code::ReadMem64, &told));
    let mut kernel = attach(&world);
    kernel.heed(Some(told));
    let read = kernel.read(BASE, &mut [0]);
    assert!(matches!(read, Err(TargetError::BrokenOff)), "{read:?}");
    kernel.heed(None);
    kernel.detach().expect("a link");
    assert_eq!(sent(&world).last(), Some(&Code::Disconnect));
}
