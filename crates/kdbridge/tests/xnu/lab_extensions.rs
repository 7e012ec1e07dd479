//! Extensions that are loaded, and that come and go while a debugger is connected.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::bridge::{self, Bridge};
use crate::build::Built;
use crate::command::Command;
use crate::debugger;
use crate::front::Kernel;
use crate::machine::Machine;

const SLIDE: u64 = 0xf60_0000;
const PATIENCE: Duration = Duration::from_secs(20);

/// `kdbridge` in front of a kernel.
struct Lab {
    command: Command,
    traps: Arc<Mutex<BTreeSet<u64>>>,
    stale: Arc<AtomicU64>,
    misses: Arc<AtomicU64>,
    _reached: Reached,
    built: Built,
}

/// How the kernel is reached.
#[expect(dead_code, reason = "it ends with this")]
enum Reached {
    Stub(Bridge),
    Kdp(Kernel),
}

impl Lab {
    /// Behind a stub, with so many extensions loaded.
    fn stub(extensions: u32) -> Self {
        Self::new(true, extensions, &[])
    }

    /// Over KDP; the kernel looks in now and then.
    fn kdp(extensions: u32) -> Self {
        Self::new(false, extensions, &["--interrupt-every", "50"])
    }

    fn new(stub: bool, extensions: u32, more: &[&str]) -> Self {
        let built = Built::new();
        let machine = Machine::with_extensions(&built, SLIDE, stub, extensions);
        Self::of(built, machine, stub, more)
    }

    fn of(built: Built, machine: Machine, stub: bool, more: &[&str]) -> Self {
        let traps = Arc::clone(&machine.traps);
        let (stale, misses) = (Arc::clone(&machine.stale), Arc::clone(&machine.misses));
        let (place, reached) = match stub {
            true => {
                let bridge = Bridge::start(machine, Box::new(|_| None));
                (bridge.place(), Reached::Stub(bridge))
            }
            false => {
                let kernel = Kernel::of(machine);
                (kernel.place(), Reached::Kdp(kernel))
            }
        };
        let mut command = Command::serve(&built, &place, more);
        assert!(command.is_ready().is_some());
        Self {
            command,
            traps,
            stale,
            misses,
            _reached: reached,
            built,
        }
    }

    /// What gdb says, which is given no file.
    fn gdb(&self, commands: &[&str]) -> String {
        let pending = ["set breakpoint pending on"];
        let socket = self.command.folder.path().join("bridge");
        bridge::gdb(&socket, &[&pending, commands].concat())
    }

    /// What lldb says, which is given the kernel and the extension.
    fn lldb(&self, commands: &[&str]) -> String {
        let extension = format!("target modules add {}", self.built.kext().display());
        let socket = self.command.folder.path().join("bridge");
        debugger::lldb(&self.built.kernel(), &socket, &[&extension], commands)
    }

    fn traps(&self) -> BTreeSet<u64> {
        self.traps.lock().expect("traps").clone()
    }

    /// The kernel has no breakpoints, soon; nor did memory of an extension when it was freed.
    #[track_caller]
    fn assert_is_left_alone(&self) {
        let start = Instant::now();
        while !self.traps().is_empty() {
            assert!(start.elapsed() < PATIENCE, "{:x?}", self.traps());
            thread::park_timeout(Duration::from_millis(2));
        }
        assert_eq!(self.stale.load(Ordering::Relaxed), 0);
    }
}

/// Everything is there, in this order, and no trap that nobody has set.
#[track_caller]
fn assert_said(said: &str, expected: &[&str]) {
    let rest = expected
        .iter()
        .try_fold(said, |rest, part| Some(rest.split_once(part)?.1));
    assert!(rest.is_some(), "not {expected:?} in\n{said}");
    assert!(!said.contains("SIGTRAP"), "{said}");
}

fn each_way(extensions: u32, play: impl Fn(&Lab)) {
    for lab in [Lab::stub(extensions), Lab::kdp(extensions)] {
        play(&lab);
    }
}

#[test]
fn k10_gdb_knows_an_extension_that_is_loaded() {
    each_way(1, |lab| {
        let said = lab.gdb(&[
            "info symbol example_start",
            "print example_count = 7",
            "break example_stop",
            "set variable wanted_kexts = 0",
            "continue",
            "backtrace 2",
            "print ki->name",
            "step",
            "step",
            "print number",
        ]);
        let expected = [
            "example_start in section .text of ",
            "$1 = 7",
            "Breakpoint 1, example_stop (ki=0xffffff80118",
            "data=0x0) at ",
            "example.c:",
            "#0  example_stop (ki=0xffffff80118",
            "#1  0xffffff800f80",
            " in OSKext_unload (kext=0xffffff800f80",
            "$2 = \"com.example.counter\"",
            "example_add (number=-7) at ",
            "$3 = -7",
        ];
        assert_said(&said, &expected);
        lab.assert_is_left_alone();
    });
}

#[test]
fn k10_gdb_watches_variables_of_the_kernel_and_of_an_extension() {
    let lab = Lab::stub(0);
    let said = lab.gdb(&[
        "set can-use-hw-watchpoints 1",
        "watch nprocs",
        "continue",
        "backtrace 1",
        "delete",
        "break example_start",
        "set variable wanted_kexts = 1",
        "continue",
        "watch example_count",
        "continue",
        "backtrace 1",
    ]);
    let expected = [
        "Hardware watchpoint 1: nprocs",
        "Hardware watchpoint 1: nprocs",
        "Old value = ",
        "New value = ",
        "#0  0x",
        " in forkproc (parent_proc=0x",
        "Breakpoint 2, example_start (",
        "Hardware watchpoint 3: example_count",
        "Old value = 0",
        "New value = 1",
        "#0  example_add (number=1) at ",
    ];
    assert_said(&said, &expected);
    lab.assert_is_left_alone();
}

#[test]
fn k10_lldb_watches_a_variable_of_the_kernel() {
    let lab = Lab::stub(1);
    let said = lab.lldb(&[
        "watchpoint set variable nprocs",
        "continue",
        "thread backtrace --count 1",
    ]);
    let expected = [
        "Watchpoint created: Watchpoint 1: addr = 0xffffff800f80",
        "Watchpoint 1 hit:",
        "old value: ",
        "new value: ",
        "kernel`forkproc(parent_proc=0x",
    ];
    assert_said(&said, &expected);
    lab.assert_is_left_alone();
}

#[test]
fn k10_an_extension_needs_no_file_of_a_kernel_that_keeps_its_names() {
    let built = Built::new();
    let machine = Machine::new(&built, SLIDE, true);
    fs::remove_file(built.kernel()).expect("a kernel");
    fs::remove_file(built.dwarf("kernel")).expect("its debug information");
    let lab = Lab::of(built, machine, true, &[]);
    let said = lab.gdb(&[
        "sharedlibrary",
        "info symbol forkproc",
        "break example_add",
        "info breakpoints",
    ]);
    let expected = [
        "Breakpoint 1 at 0xffffff80118",
        "in example_add at ",
        "example.c:",
    ];
    assert_said(&said, &expected);
    assert!(
        said.contains("No symbol \"forkproc\"") || said.contains("No symbol matches forkproc"),
        "{said}"
    );
}

#[test]
fn k07_an_extension_that_is_loaded_while_gdb_is_connected_has_its_breakpoints_hit() {
    each_way(0, |lab| {
        let said = lab.gdb(&[
            "break example_start",
            "break example_add if number == 2",
            "set variable wanted_kexts = 1",
            "continue",
            "backtrace 3",
            "continue",
            "print example_count",
            "tbreak kexts_are_as_wanted",
            "continue",
            "print example_count",
        ]);
        let expected = [
            "Breakpoint 1 (example_start) pending.",
            "Breakpoint 2 (example_add if number == 2) pending.",
            "Breakpoint 1, example_start (ki=0xffffff80118",
            "#0  example_start (ki=0xffffff80118",
            " in OSKext_load (kext=0xffffff800f80",
            " in update_kexts () at ",
            "Breakpoint 2, example_add (number=2) at ",
            "example.c:",
            "$1 = 1",
            "Temporary breakpoint 3, kexts_are_as_wanted () at ",
            "$2 = 6",
        ];
        assert_said(&said, &expected);
        lab.assert_is_left_alone();
    });
}

#[test]
fn k07_an_extension_that_is_unloaded_is_gone_for_gdb_until_it_is_loaded_elsewhere() {
    each_way(1, |lab| {
        let said = lab.gdb(&[
            "break example_add",
            "break kexts_are_as_wanted",
            "info symbol example_start",
            "set variable wanted_kexts = 0",
            "continue",
            "continue",
            "info sharedlibrary",
            "info symbol example_start",
            "set variable wanted_kexts = 1",
            "continue",
            "print example_start",
        ]);
        let expected = [
            "Breakpoint 1 at 0xffffff80118",
            "example_start in section .text",
            "Breakpoint 1, example_add (number=0) at ",
            "Breakpoint 2, kexts_are_as_wanted () at ",
            "No shared libraries loaded at this time.",
            "Breakpoint 1, example_add (number=1) at ",
            "$1 = {int (struct kmod_info *, void *)} 0xffffff80119",
            "No symbol \"example_start\" in current context.",
        ];
        assert_said(&said, &expected);
        lab.assert_is_left_alone();
    });
}

/// gdb is killed a little after it has made the kernel run, or before.
const DIES: &str = "\
import os, signal, threading

def dies(event=None):
    os.kill(os.getpid(), signal.SIGKILL)

def resumed(event):
    threading.Timer(0.3, dies).start()
";

#[test]
fn k07_nothing_is_left_in_a_kernel_of_extensions_that_gdb_leaves() {
    each_way(1, |lab| {
        let script = lab.built.folder().join("dies.py");
        fs::write(&script, DIES).expect("room");
        let source = format!("source {}", script.display());
        // Nothing is half unloaded where it begins. From then on it is loaded and unloaded all the time, and
        // nothing stops the kernel.
        let begin = [
            source.as_str(),
            "tbreak update_kexts",
            "continue",
            "set variable wanted_kexts = 2",
            "break example_stop",
            "continue",
        ];
        let ways = [
            vec!["detach"],
            vec!["kill"],
            vec!["python dies()"],
            vec![
                "delete",
                "python gdb.events.cont.connect(resumed)",
                "continue",
            ],
        ];
        for way in ways {
            let said = lab.gdb(&[&begin[..], &way].concat());
            assert_said(&said, &["Breakpoint 2, example_stop (ki=0xffffff80"]);
            lab.assert_is_left_alone();
        }
    });
}

#[test]
fn k07_a_kernel_that_runs_over_kdp_takes_off_what_gdb_has_left_when_it_meets_that() {
    let lab = Lab::new(false, 1, &[]);
    let script = lab.built.folder().join("dies.py");
    fs::write(&script, DIES).expect("room");
    let said = lab.gdb(&[
        &format!("source {}", script.display()),
        "set variable wanted_kexts = 2",
        "python gdb.events.cont.connect(resumed)",
        "continue",
    ]);
    assert_said(&said, &[]);
    lab.assert_is_left_alone();
}

#[test]
fn k07_lldb_finds_an_extension_that_is_loaded_by_itself_and_has_no_hooks() {
    let lab = Lab::stub(0);
    let said = lab.lldb(&[
        "breakpoint set --name example_start",
        "process plugin packet send qXfer:libraries:read::0,1000",
        "expression wanted_kexts = 1",
        "continue",
        "thread backtrace --count 2",
    ]);
    let expected = [
        "response: l<library-list></library-list>",
        "Loading 1 kext modules",
        "stop reason = breakpoint 1.1",
        "example_start(ki=0xffffff80118",
        "kernel`OSKext_load(kext=0xffffff800f80",
    ];
    assert_said(&said, &expected);
    lab.assert_is_left_alone();
}

#[test]
fn k10_what_runs_is_not_looked_for_anew_each_time() {
    let lab = Lab::stub(1);
    lab.gdb(&[]);
    let misses = |times: usize| {
        let before = lab.misses.load(Ordering::Relaxed);
        let ask = "maint packet qXfer:libraries:read::0,1000";
        let said = lab.gdb(&vec![ask; times]);
        assert_eq!(
            said.matches("received: \"l<library-list><library ").count(),
            times
        );
        lab.misses.load(Ordering::Relaxed) - before
    };
    // Linux may be in 512 places.
    let (once, often) = (misses(1), misses(11));
    assert!(often < once + 10 * 20, "{once} {often}");
}
