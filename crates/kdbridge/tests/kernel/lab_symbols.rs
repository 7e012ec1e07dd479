//! Names, stacks and values of a real kernel, beside those that GDB has for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kdbridge::commands::bt::{Backtrace, Function, bt};
use kdbridge::discover::linux::{self, Image};
use kdbridge::kernel::{Kernel, Sources};
use kdbridge::pages::Pages;
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::symbols::{Cache, ElfFile, Index, SymbolTable};
use kdbridge::target::{Target, TargetError};
use tempfile::TempDir;

use crate::machine::{Machine, Options, root, vmlinux};

/// What a machine does so that its stacks are not all those of an idle kernel.
const WORK: &str =
    "(while :; do ls -lR /sys; cat /proc/meminfo /proc/self/maps; done) >/dev/null &";

pub(crate) fn busy_machine(cpus: u32) -> Machine {
    let options = Options {
        cpus,
        ..Options::default()
    };
    let mut machine = Machine::boot_with(&options);
    for _ in 0..cpus {
        machine.send(WORK);
    }
    machine
}

pub(crate) fn address(machine: &Machine) -> Address {
    Address::Unix(machine.stub())
}

/// Connects, which stops the machine. It stays stopped when the connection is dropped.
fn stop(machine: &Machine) -> RspTarget {
    RspTarget::connect(&address(machine), PATIENCE).unwrap()
}

/// Goes on without the file of the kernel if `index` has none.
fn kernel(target: &mut RspTarget, index: Index, cache: &Path) -> Kernel {
    let file = ElfFile::open(&vmlinux()).unwrap();
    let image = Image::of(&file, &SymbolTable::of_file(&file).unwrap()).unwrap();
    let mut memory = Pages::new(target);
    let found = linux::locate(&mut memory, &image).unwrap();
    let sources = Sources {
        index,
        cache: Cache::at(cache.to_owned()),
        progress: &mut |_| {},
    };
    Kernel::open(&mut memory, found, sources).unwrap()
}

fn with_file(target: &mut RspTarget, cache: &Path) -> Kernel {
    kernel(target, Index::only(vec![root()]), cache)
}

fn stacks(target: &mut RspTarget, kernel: &mut Kernel) -> Result<Vec<Backtrace>, TargetError> {
    let cpus = target.cpus()?;
    bt(target, kernel, &cpus)
}

/// Has GDB look at a machine that stands still, and lets that run on.
fn gdb(machine: &Machine, slide: u64, commands: &[String]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set width 0", "-ex"])
        .arg(format!("target remote {}", machine.stub().display()))
        .arg("-ex")
        .arg(format!("symbol-file -o {slide:#x} {}", vmlinux().display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.args(["-ex", "detach"]).env("LC_ALL", "C").output();
    String::from_utf8_lossy(&output.expect("run gdb").stdout).into_owned()
}

/// Has GDB print the stacks of all processors. Functions that have jumped to another are on no stack: GDB
/// works them out from what may have been called, and marks them.
const STACKS: &str = "python
def show(frame):
    while frame:
        if frame.type() != gdb.TAILCALL_FRAME:
            print('frame', frame.name())
        frame = frame.older()
for thread in gdb.selected_inferior().threads():
    thread.switch()
    print('cpu', thread.num - 1)
    try:
        show(gdb.newest_frame())
    except gdb.error as error:
        print(error)
end
";

/// The names of the functions on each stack, as GDB shows them.
fn stacks_of_gdb(text: &str) -> BTreeMap<u32, Vec<String>> {
    let mut stacks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut cpu = 0;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("cpu ") {
            cpu = number.parse().unwrap();
            stacks.entry(cpu).or_default();
        } else if let Some(name) = line.strip_prefix("frame ") {
            stacks.entry(cpu).or_default().push(name.to_owned());
        }
    }
    stacks
}

/// The kernel's assembly has no debug information that GDB could leave it by.
fn is_assembly(frame: &Function) -> bool {
    let file = frame.file.as_deref().unwrap_or_default();
    file.ends_with(".S") || file.ends_with("idtentry.h")
}

/// The functions up to where the kernel was entered, and whether the stack goes as far as that.
fn names(stack: &Backtrace) -> (Vec<String>, bool) {
    let end = stack
        .frames
        .iter()
        .position(|it| it.user || is_assembly(it));
    let length = end.map_or(stack.frames.len(), |end| end + 1);
    let frames = stack.frames[..length].iter().filter(|it| !it.user);
    let names = frames.map(|it| it.function.clone().unwrap_or_default());
    (names.collect(), end.is_some())
}

#[test]
fn k19_stacks_have_the_functions_that_gdb_shows() {
    const CPUS: u32 = 8;
    const STOPS: u32 = 13;
    let machine = busy_machine(CPUS);
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("stacks.gdb");
    std::fs::write(&script, STACKS).unwrap();
    let (mut equal, mut all) = (0, 0);
    let mut different = Vec::new();
    for _ in 0..STOPS {
        let mut target = stop(&machine);
        let mut kernel = with_file(&mut target, folder.path());
        let ours = stacks(&mut target, &mut kernel).unwrap();
        drop(target);
        let slide = kernel.slide();
        let text = gdb(&machine, slide, &[format!("source {}", script.display())]);
        let theirs = stacks_of_gdb(&text);
        assert_eq!(theirs.len(), ours.len(), "{text}");
        for stack in &ours {
            let theirs = &theirs[&stack.processor.cpu];
            let (names, is_whole) = names(stack);
            let rest = theirs.get(names.len()..).unwrap_or_default();
            if !is_whole {
                all += rest.len();
                different.extend(rest.iter().map(|name| format!("nothing, not {name}")));
            }
            for (number, name) in names.into_iter().enumerate() {
                let found = theirs.get(number);
                // GDB finds no way from the handler of an interrupt to the code that called it.
                if found.is_none() && name.starts_with("asm_") {
                    break;
                }
                all += 1;
                match found {
                    Some(other) if *other == name => equal += 1,
                    other => different.push(format!("{name}, not {other:?}")),
                }
            }
        }
    }
    let stops = (STOPS * CPUS) as usize;
    assert!(all > stops, "only {all} functions on {stops} stacks");
    assert!(equal * 100 >= all * 99, "{equal} of {all}: {different:?}");
}

#[test]
fn k20_without_a_file_the_stacks_are_the_same() {
    let machine = busy_machine(4);
    let folder = TempDir::new().unwrap();
    let mut all = 0;
    for _ in 0..25 {
        let mut target = stop(&machine);
        let mut known = with_file(&mut target, folder.path());
        let mut unknown = kernel(&mut target, Index::only(Vec::new()), folder.path());
        assert!(unknown.file().is_none());
        let with = stacks(&mut target, &mut known).unwrap();
        let without = stacks(&mut target, &mut unknown).unwrap();
        for (with, without) in with.iter().zip(&without) {
            let called = with.frames.iter().filter(|it| !it.inlined);
            let called: Vec<&Function> = called.collect();
            let places = |frames: &[&Function]| frames.iter().map(|it| it.at).collect::<Vec<_>>();
            let others: Vec<&Function> = without.frames.iter().collect();
            assert_eq!(places(&called), places(&others));
            for (with, without) in called.iter().zip(&others) {
                all += 1;
                assert!(is_same(&known, with, without), "{with} and {without}");
            }
        }
        target.detach().unwrap();
    }
    assert!(all > 100, "only {all} functions");
}

/// Whether two names are those of one function. Debug information has them as the source does, the
/// kernel as the compiler made them: `link_path_walk.part.0`; and it has those of marks in assembly.
fn is_same(kernel: &Kernel, with: &Function, without: &Function) -> bool {
    let (Some(name), Some(other)) = (&with.function, &without.function) else {
        return with.function == without.function;
    };
    let inside = kernel.address_of(other).and_then(|at| kernel.name_at(at));
    let mark = inside.is_some_and(|(symbol, _)| symbol.name == *name);
    other.split('.').next() == Some(name) || mark || is_alias(kernel, name, other)
}

fn is_alias(kernel: &Kernel, name: &str, other: &str) -> bool {
    let (one, two) = (kernel.address_of(name), kernel.address_of(other));
    one.is_some() && one == two
}

/// Twenty structures of every kind; those that change while nothing runs are none of them.
const VALUES: [&str; 20] = [
    "init_task",
    "init_mm",
    "init_cred",
    "init_nsproxy",
    "init_uts_ns",
    "init_files",
    "init_fs",
    "root_task_group",
    "init_pid_ns",
    "init_signals",
    "init_sighand",
    "init_user_ns",
    "boot_cpu_data",
    "ioport_resource",
    "console_sem",
    "tk_core",
    "platform_bus_type",
    "cgrp_dfl_root",
    "*init_task.sched_class",
    "tcp_prot",
];

#[test]
fn k21_values_read_as_in_gdb() {
    let machine = busy_machine(2);
    let folder = TempDir::new().unwrap();
    let mut target = stop(&machine);
    let mut kernel = with_file(&mut target, folder.path());
    let ours = VALUES.map(|text| {
        let value = kernel.evaluate(&mut target, text, 0).unwrap();
        kernel.show(&mut target, value).unwrap()
    });
    drop(target);
    let commands = VALUES.map(|text| format!("print {text}"));
    let text = gdb(&machine, kernel.slide(), &commands);
    let values = text.lines().filter(|line| line.starts_with('$'));
    let theirs: Vec<&str> = values
        .filter_map(|line| line.split_once(" = "))
        .map(|it| it.1)
        .collect();
    for ((name, ours), theirs) in VALUES.iter().zip(&ours).zip(&theirs) {
        assert_eq!(ours, theirs, "{name}");
    }
    assert_eq!(theirs.len(), VALUES.len(), "{text}");
}

#[test]
fn k21_each_processor_has_variables_of_its_own() {
    const CPUS: u32 = 4;
    let machine = busy_machine(CPUS);
    let folder = TempDir::new().unwrap();
    let mut target = stop(&machine);
    for index in [Index::only(vec![root()]), Index::only(Vec::new())] {
        let mut kernel = kernel(&mut target, index, folder.path());
        for cpu in 0..CPUS {
            for text in ["runqueues.cpu", &format!("per_cpu(runqueues.cpu, {cpu})")] {
                let value = kernel.evaluate(&mut target, text, cpu).unwrap();
                let shown = kernel.show(&mut target, value).unwrap();
                assert_eq!(shown, cpu.to_string(), "{text} of {cpu}");
            }
        }
        let beyond = kernel.evaluate(&mut target, "per_cpu(runqueues, 4)", 0);
        assert!(beyond.is_err(), "there is no processor 4");
    }
    let slide = kernel(&mut target, Index::only(vec![root()]), folder.path()).slide();
    drop(target);
    let text = gdb(&machine, slide, &["print runqueues.cpu".to_owned()]);
    assert!(
        !text.contains("$1 = "),
        "GDB moves them with the kernel: {text}"
    );
}
