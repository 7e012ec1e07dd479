//! What debuggers read through the bridge is what is in memory.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kdbridge::rsp::hex;
use kdbridge::rsp::link::{Address, Deadline, Link, Stream};
use kdbridge::serve::{Listener, NoModules, Options, Server};
use kdbridge::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A few pages each, of a kernel's image and of what is mapped elsewhere.
const IMAGE: u64 = 0xffff_ffff_8100_0000;
const ELSEWHERE: u64 = 0xffff_8880_0000_0000;
const SIZE: usize = 0x6000;

/// A machine whose memory changes with each step.
#[derive(Clone)]
struct Machine {
    memory: Arc<Mutex<[Vec<u8>; 2]>>,
    steps: u8,
    stop: Option<Stop>,
}

impl Machine {
    fn new() -> Self {
        Self {
            memory: Arc::new(Mutex::new([vec![1; SIZE], vec![2; SIZE]])),
            steps: 0,
            stop: None,
        }
    }

    fn with<T>(
        &self,
        at: u64,
        length: usize,
        act: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, TargetError> {
        let (index, start) = if at >= IMAGE {
            (0, IMAGE)
        } else {
            (1, ELSEWHERE)
        };
        let start = at.checked_sub(start).ok_or(TargetError::Unreadable(at))? as usize;
        let mut memory = self.memory.lock().unwrap();
        let place = memory[index].get_mut(start..start + length);
        place.map(act).ok_or(TargetError::Unreadable(at))
    }
}

impl Memory for Machine {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.with(at, into.len(), |memory| into.copy_from_slice(memory))
    }
}

impl Target for Machine {
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        Ok(vec![Cpu(0), Cpu(1)])
    }

    fn registers(&mut self, _: Cpu) -> Result<Registers, TargetError> {
        Ok(Registers::default())
    }

    /// Like the page tables, which a register leads to.
    fn set_registers(&mut self, _: Cpu, registers: &Registers) -> Result<(), TargetError> {
        let byte = registers.general[0] as u8;
        self.memory
            .lock()
            .unwrap()
            .iter_mut()
            .for_each(|part| part.fill(byte));
        Ok(())
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), TargetError> {
        self.with(at, from.len(), |memory| memory.copy_from_slice(from))?;
        // The same memory is mapped elsewhere too.
        let other = if at >= IMAGE {
            at - IMAGE + ELSEWHERE
        } else {
            at - ELSEWHERE + IMAGE
        };
        self.with(other, from.len(), |memory| memory.copy_from_slice(from))
    }

    fn read_physical(&mut self, _: u64, _: &mut [u8]) -> Result<(), TargetError> {
        Err(TargetError::Refused("read physical memory"))
    }

    fn set(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
        Ok(())
    }

    fn clear(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        self.step(Cpu(0))?;
        self.stop = None;
        Ok(())
    }

    fn step(&mut self, cpu: Cpu) -> Result<(), TargetError> {
        self.steps = self.steps.wrapping_add(1);
        let steps = self.steps;
        for part in self.memory.lock().unwrap().iter_mut() {
            part.iter_mut()
                .for_each(|byte| *byte = byte.wrapping_add(steps));
        }
        self.stop = Some(Stop::Stepped(cpu));
        Ok(())
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        self.stop = Some(Stop::Interrupted(Cpu(0)));
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
        Ok(self.stop.take())
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Read(u64, usize),
    Write(u64, u8),
    Step,
    SetRegister(u8),
    Interrupted,
    OtherThread(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = || {
        (
            prop_oneof![Just(IMAGE), Just(ELSEWHERE)],
            0..SIZE as u64 - 300,
        )
            .prop_map(|(a, b)| a + b)
    };
    prop_oneof![
        4 => (place(), 1..300usize).prop_map(|(at, length)| Operation::Read(at, length)),
        // What is kept, and what is sent as it comes.
        2 => (place(), prop_oneof![0x800..0x2000usize, 0x4000..0x5000usize]).prop_map(|(at, length)| {
            let room = SIZE - (at % (SIZE as u64).next_power_of_two()) as usize;
            Operation::Read(at, length.min(room))
        }),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Operation::Write(at, byte)),
        1 => Just(Operation::Step),
        1 => any::<u8>().prop_map(Operation::SetRegister),
        1 => Just(Operation::Interrupted),
        1 => (1..3u8).prop_map(Operation::OtherThread),
    ]
}

struct Debugger(Link);

impl Debugger {
    fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.reply()
    }

    fn send(&mut self, request: &str) {
        self.0
            .send(&[request.as_bytes()], Deadline::after(PATIENCE))
            .unwrap();
    }

    fn reply(&mut self) -> String {
        let reply = self.0.receive(Deadline::after(PATIENCE)).unwrap();
        String::from_utf8(reply.expect("an answer in time")).unwrap()
    }

    fn perform(&mut self, operation: &Operation, machine: &Machine) {
        match *operation {
            Operation::Read(at, length) => {
                let wanted = machine
                    .with(at, length, |memory| hex::encode(memory))
                    .unwrap();
                assert_eq!(self.ask(&format!("m{at:x},{length:x}")), wanted);
            }
            Operation::Write(at, byte) => {
                assert_eq!(self.ask(&format!("M{at:x},1:{byte:02x}")), "OK");
            }
            Operation::Step => assert!(self.ask("vCont;s:1").starts_with("T05thread:1;")),
            Operation::SetRegister(byte) => {
                assert_eq!(self.ask(&format!("P0={byte:02x}00000000000000")), "OK");
            }
            Operation::Interrupted => {
                self.send("vCont;c");
                self.0.interrupt(Deadline::after(PATIENCE)).unwrap();
                assert!(self.reply().starts_with("T02thread:1;"));
            }
            Operation::OtherThread(thread) => {
                assert_eq!(self.ask(&format!("Hg{thread}")), "OK");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn k23_what_was_kept_is_never_shown_after_it_has_changed(
        operations in proptest::collection::vec(operation(), 1..60)
    ) {
        let machine = Machine::new();
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("bridge"));
        let options = Options { locate: Box::new(|_| None), modules: Box::new(NoModules), allow_kill: false, remark: Box::new(|_| ()) };
        let listener = Listener::bind(&address).unwrap();
        let mut server = Server::new(machine.clone(), listener, options).unwrap();
        let (end, ended) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || server.serve(end.as_fd()));
        let mut debugger = Debugger(Link::new(Stream::connect(&address, PATIENCE).unwrap()));
        for operation in &operations {
            debugger.perform(operation, &machine);
        }
        drop(ended);
        serving.join().unwrap().unwrap();
    }
}
