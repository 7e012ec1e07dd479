//! A kernel of another version than that of all other tests, of which there is nothing but what it has in
//! its memory.

use std::path::Path;

use kdbridge::commands::bt::bt;
use kdbridge::discover::linux::{self, Method};
use kdbridge::kernel::{Kernel, Sources};
use kdbridge::pages::Pages;
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::{Cache, Index};
use kdbridge::target::Target;
use tempfile::TempDir;

use crate::machine::{Machine, Options, other_kernel};

/// What its processors do meanwhile.
const WORK: &str = "(while :; do ls -lR /sys; cat /proc/meminfo; done) >/dev/null 2>&1 &";

/// Symbols of each kind, and of the first and the last part of the kernel.
const NAMES: [&str; 8] = [
    "_text",
    "schedule",
    "vfs_read",
    "start_kernel",
    "linux_banner",
    "init_task",
    "runqueues",
    "_end",
];

/// Where the stack of a task begins, if no program entered the kernel there.
const FIRST: [&str; 2] = ["ret_from_fork_asm", "common_startup_64"];

#[test]
fn k30_another_kernel_without_a_file_has_its_names_stacks_and_types() {
    let mut machine = Machine::boot_with(&Options {
        kernel: other_kernel(),
        ..Options::default()
    });
    let pattern = NAMES.join("|");
    let listed = machine.run(&format!("grep -E ' ({pattern})$' /proc/kallsyms"));
    let release = machine.run("uname -r");
    machine.send(WORK);
    let folder = TempDir::new().unwrap();
    let mut short = 0;
    for _ in 0..10 {
        let mut target = RspTarget::connect(&Address::Unix(machine.stub()), PATIENCE).unwrap();
        let mut kernel = open(&mut target, folder.path());
        has_names(&kernel, &listed);
        short += short_stacks(&mut target, &mut kernel);
        let task = kernel.task(&mut target, 0);
        assert!(task.is_some(), "types and variables of processors");
        assert!(kernel.found().version().contains(release.trim()));
        target.detach().unwrap();
    }
    assert!(short <= 3, "{short} of 20 stacks have no beginning");
}

fn open(target: &mut RspTarget, cache: &Path) -> Kernel {
    let mut memory = Pages::new(target);
    let found = linux::find(&mut memory, &Cache::none()).unwrap();
    assert_eq!(found.method, Method::InterruptTable);
    let sources = Sources {
        index: Index::only(Vec::new()),
        cache: Cache::at(cache.to_owned()),
        progress: &mut |_| {},
    };
    Kernel::open(&mut memory, found, sources).unwrap()
}

/// `listed` is what the kernel itself says, a symbol a line: its address, a letter and its name.
fn has_names(kernel: &Kernel, listed: &str) {
    assert_eq!(listed.lines().count(), NAMES.len(), "{listed}");
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, name] = words[..] else {
            panic!("{line}");
        };
        let address = u64::from_str_radix(address, 16).unwrap();
        assert_eq!(kernel.address_of(name), Some(address), "{name}");
    }
}

/// How many processors were at the first or the last instructions of a system call, where the stack is a
/// program's. All other stacks are whole, with all their names.
fn short_stacks(target: &mut RspTarget, kernel: &mut Kernel) -> usize {
    let cpus = target.cpus().unwrap();
    let mut short = 0;
    for stack in bt(target, kernel, &cpus).unwrap() {
        let mut frames = stack.frames.iter().filter(|it| !it.user);
        assert!(frames.all(|it| it.function.is_some()), "{stack}");
        let first = stack.frames.last().unwrap();
        let name = first.function.as_deref().unwrap_or_default();
        if !first.user && !FIRST.contains(&name) {
            assert_eq!(stack.frames.len(), 1, "{stack}");
            short += 1;
        }
    }
    short
}
