//! A kernel whose memory says what is not so.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kdbridge::commands::bt::bt;
use kdbridge::commands::info::info;
use kdbridge::commands::log::log;
use kdbridge::commands::print::print;
use kdbridge::discover::linux;
use kdbridge::kernel::{Kernel, Sources};
use kdbridge::rsp::RspTarget;
use kdbridge::symbols::{Cache, Index};
use kdbridge::target::{Cpu, Memory, Registers, Stop, Target, TargetError, Trap};
use tempfile::TempDir;

use crate::lab_target::connect;
use crate::machine::{Machine, root};

const PAGE: u64 = 4096;

/// More than this no command reads of a kernel.
const MOST_READ: u64 = 1 << 30;

/// How long it goes on: a round takes a second or two.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

const REFUSED: TargetError = TargetError::Refused("do that");

/// A number that looks random: the end of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// A machine that stands still, of whose memory one word in `rate` is wrong, always the same ones and in the
/// same way.
struct Lying {
    target: RspTarget,
    pages: HashMap<u64, Option<Vec<u8>>>,
    seed: u64,
    rate: u64,
    read: u64,
}

impl Lying {
    fn about(target: RspTarget) -> Self {
        Self {
            target,
            pages: HashMap::new(),
            seed: 0,
            rate: u64::MAX,
            read: 0,
        }
    }

    fn lie(&mut self, seed: u64, rate: u64) {
        (self.seed, self.rate, self.read) = (seed, rate, 0);
    }

    fn page(&mut self, at: u64) -> Option<&[u8]> {
        let target = &mut self.target;
        let page = self.pages.entry(at).or_insert_with(|| {
            let mut page = vec![0; PAGE as usize];
            target.read(at, &mut page).is_ok().then_some(page)
        });
        page.as_deref()
    }

    fn told(&mut self, at: u64) -> Option<[u8; 8]> {
        let offset = (at % PAGE) as usize;
        let word: [u8; 8] = self.page(at - offset as u64)?[offset..offset + 8]
            .try_into()
            .unwrap();
        let chance = mixed(mixed(self.seed) ^ at);
        if !chance.is_multiple_of(self.rate) {
            return Some(word);
        }
        let word = u64::from_le_bytes(word);
        let chance = chance / self.rate;
        let lie = match chance % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => chance,
            3 => word ^ 1 << (chance % 64),
            4 => word.wrapping_add(1),
            // Lists that bite their tails.
            5 => at,
            6 => word & !0xffff_ffff | 0x7fff_ffff,
            _ => word << 32 | 0xffff_ffff,
        };
        Some(lie.to_le_bytes())
    }
}

impl Memory for Lying {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.read += into.len() as u64;
        assert!(self.read <= MOST_READ, "it reads on and on");
        let mut done = 0;
        while done < into.len() {
            let next = at.wrapping_add(done as u64);
            let offset = (next % 8) as usize;
            let word = self.told(next - offset as u64);
            let word = word.ok_or(TargetError::Unreadable(next))?;
            let rest = &mut into[done..];
            let count = rest.len().min(8 - offset);
            rest[..count].copy_from_slice(&word[offset..offset + count]);
            done += count;
        }
        Ok(())
    }
}

impl Target for Lying {
    fn cpus(&mut self) -> Result<Vec<Cpu>, TargetError> {
        self.target.cpus()
    }

    fn registers(&mut self, cpu: Cpu) -> Result<Registers, TargetError> {
        self.target.registers(cpu)
    }

    fn set_registers(&mut self, _: Cpu, _: &Registers) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn read_physical(&mut self, _: u64, _: &mut [u8]) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn set(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn clear(&mut self, _: u64, _: Trap) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn resume(&mut self) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn step(&mut self, _: Cpu) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn interrupt(&mut self) -> Result<(), TargetError> {
        Err(REFUSED)
    }

    fn wait(&mut self, _: Duration) -> Result<Option<Stop>, TargetError> {
        Err(REFUSED)
    }

    fn detach(&mut self) -> Result<(), TargetError> {
        Err(REFUSED)
    }
}

/// Asks all that can be asked, and gives what had no answer.
fn ask_everything(
    target: &mut Lying,
    found: &linux::Kernel,
    index: Index,
    cache: Cache,
) -> Vec<&'static str> {
    const EXPRESSIONS: [&str; 3] = ["init_task", "*init_task.active_mm", "modules"];
    let sources = Sources {
        index,
        cache,
        progress: &mut |_| {},
    };
    let Ok(mut kernel) = Kernel::open(target, found.clone(), sources) else {
        return vec!["open"];
    };
    let cpus = target.cpus().unwrap();
    let mut answered = vec![
        ("info", info(target, &mut kernel).is_ok()),
        ("bt", bt(target, &mut kernel, &cpus).is_ok()),
        ("log", log(target, &mut kernel).is_ok()),
        ("modules", kernel.list_modules(target).is_ok()),
    ];
    answered.extend(EXPRESSIONS.map(|it| (it, print(target, &mut kernel, it, 0).is_ok())));
    let failed = answered.into_iter().filter(|(_, answered)| !answered);
    failed.map(|(what, _)| what).collect()
}

#[test]
fn memory_that_lies_is_survived() {
    let mut machine = Machine::boot();
    machine.run("insmod /modules/dummy.ko");
    let mut target = Lying::about(connect(&machine));
    let found = linux::find(&mut target, &Cache::none()).unwrap();
    let folder = TempDir::new().unwrap();
    let cache = || Cache::at(folder.path().to_owned());
    let file = || Index::only(vec![root()]);
    let none = || Index::only(Vec::new());
    let failed = ask_everything(&mut target, &found, file(), cache());
    assert_eq!(failed, [""; 0]);
    ask_everything(&mut target, &found, none(), cache());

    let start = Instant::now();
    for seed in 0.. {
        // Few lies leave a table that is nearly right, many are met at once.
        for rate in [3, 50, 1_000, 100_000] {
            target.lie(seed, rate);
            // Discovery itself.
            drop(linux::find(&mut target, &Cache::none()));
            // Names and types as they are in memory, and as they were before it lied.
            ask_everything(&mut target, &found, none(), Cache::none());
            ask_everything(&mut target, &found, none(), cache());
        }
        target.lie(seed, 20);
        ask_everything(&mut target, &found, file(), cache());
        if start.elapsed() > LONG_ENOUGH {
            break;
        }
    }
}
