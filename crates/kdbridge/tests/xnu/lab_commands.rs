//! What `kdbridge` answers by itself about the kernel, by both ways, with its files and without.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::build::Built;
use crate::front::Kernel;
use crate::machine::{self, Machine};

const SLIDE: u64 = 0xf60_0000;

/// The commands, and what they are asked about.
struct Lab {
    target: String,
    files: Vec<String>,
    cache: TempDir,
}

impl Lab {
    fn new(target: String, files: &[&Path]) -> Self {
        let named = files.iter().map(|path| path.display().to_string());
        let named = named.flat_map(|path| ["--symbols".to_owned(), path]);
        let files = match files {
            [] => vec!["--no-files".to_owned()],
            _ => named.collect(),
        };
        Self {
            target,
            files,
            cache: TempDir::new().expect("a folder"),
        }
    }

    fn kdbridge(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
        command
            .args(arguments)
            .args(["--target", &self.target])
            .args(&self.files)
            .env("XDG_CACHE_HOME", self.cache.path());
        command.output().expect("kdbridge")
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.kdbridge(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        assert_eq!(error, "", "nobody is at a terminal");
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.said(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said).expect("JSON")
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.kdbridge(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

/// The kernel behind a stub, and the commands in front of it.
fn behind_a_stub(built: &Built, files: &[&Path]) -> (Bridge, Lab) {
    let machine = Machine::new(built, SLIDE, true);
    let stub = Bridge::start(machine, Box::new(|_| None));
    let lab = Lab::new(stub.place(), files);
    (stub, lab)
}

/// The same over KDP, where it stands in its debugger.
fn over_kdp(built: &Built, files: &[&Path]) -> (Kernel, Lab) {
    let kernel = Kernel::start(built, SLIDE);
    let lab = Lab::new(kernel.place(), files);
    (kernel, lab)
}

fn hex(address: u64) -> String {
    format!("{address:#x}")
}

fn placed(built: &Built, name: &str) -> String {
    hex(machine::address(built, name) + SLIDE)
}

/// What is the same by both ways, with the files and without.
fn assert_answers(built: &Built, lab: &Lab, more: &[&str]) {
    let json = |arguments: &[&str]| lab.json(&[arguments, more].concat());
    let said = |arguments: &[&str]| lab.said(&[arguments, more].concat());
    let has_files = lab.files[0] == "--symbols";
    let uuid = machine::uuid(&fs::read(built.kernel()).expect("a kernel"));

    let info = json(&["info"]);
    let version = info["version"].as_str().expect("a version");
    assert!(
        version.starts_with("Darwin Kernel Version 24.6.0"),
        "{info}"
    );
    assert_eq!(info["uuid"], uuid);
    assert_eq!(info["build_id"], Value::Null);
    assert_eq!(info["text"], "0xffffff800f800000");
    assert_eq!(info["slide"], hex(SLIDE));
    assert_eq!(info["file"].is_string(), has_files, "{info}");
    assert_eq!(
        (&info["lines"], &info["types"]),
        (&has_files.into(), &has_files.into())
    );
    assert_eq!(info["modules"], 1);
    let text = said(&["info"]);
    assert!(text.contains(&format!("UUID      {uuid}\n")), "{text}");
    assert!(text.contains("slide     0xf600000, by "), "{text}");

    let modules = json(&["modules"]);
    let kext = machine::uuid(&fs::read(built.kext()).expect("an extension"));
    assert_eq!(modules[0]["name"], "com.example.counter");
    assert_eq!(modules[0]["uuid"], kext);
    assert_eq!(modules[0]["base"], "0xffffff8011800000");
    assert_eq!(modules[0]["file"].is_string(), has_files, "{modules}");
    assert!(said(&["modules"]).contains(" com.example.counter, "));

    let symbols = json(&["symbols", "forkproc"]);
    assert_eq!(symbols[0]["at"], placed(built, "_forkproc"));
    assert_eq!(symbols[0]["kind"], "function");
    let forkproc = placed(built, "_forkproc");
    assert!(said(&["symbols", &forkproc]).contains("function forkproc+0x0\n"));

    assert!(said(&["mem", "version", "32"]).contains("|Darwin Kernel Ve|"));
    assert_eq!(
        json(&["mem", "version", "4"])["bytes"],
        serde_json::json!(*b"Darw")
    );
    let lines = ["IOKernelDebuggerKDB: registering debugger"];
    let log = json(&["log"]);
    assert_eq!(
        log[0]["text"], "IOKernelDebuggerKDB: registering debugger",
        "{log}"
    );
    assert_eq!(said(&["log"]).lines().collect::<Vec<_>>(), lines);
}

fn function_names(backtrace: &Value) -> Vec<&str> {
    let frames = backtrace["frames"].as_array().expect("frames");
    let names = frames.iter().map(|frame| frame["function"].as_str());
    names.flatten().collect()
}

/// How the kernel gets to `forkproc`.
const FORKED: [&str; 8] = [
    "forkproc",
    "cloneproc",
    "fork1",
    "fork",
    "unix_syscall64",
    "idle_thread",
    "call_continuation",
    "kernel_bootstrap",
];

#[test]
fn k10_the_commands_know_the_kernel_behind_a_stub() {
    let built = Built::new();
    for files in [&[built.folder()][..], &[]] {
        let (_stub, lab) = behind_a_stub(&built, files);
        assert_answers(&built, &lab, &[]);

        let stacks = lab.json(&["bt"]);
        let idle = function_names(&stacks[0]);
        assert!(idle.ends_with(&FORKED[5..]), "{stacks}");
        for kind in [[].as_slice(), &["--hardware"]] {
            let hit = lab.json(&[["break", "forkproc"].as_slice(), kind].concat());
            assert_eq!(function_names(&hit["backtrace"]), FORKED);
            assert_eq!(hit["at"], placed(&built, "_forkproc"));
        }
        let registers = lab.json(&["regs"]);
        let registers = registers["registers"].as_array().expect("registers");
        let rip = registers.iter().find(|it| it["name"] == "rip");
        let symbol = rip.expect("rip")["symbol"].as_str().expect("a name");
        assert!(symbol.starts_with('<'), "{symbol}");
    }
}

#[test]
fn k10_with_files_there_are_lines_and_values() {
    let built = Built::new();
    let (_stub, lab) = behind_a_stub(&built, &[built.folder()]);
    let hit = lab.said(&["break", "forkproc"]);
    let lines: Vec<&str> = hit.lines().collect();
    assert!(lines[2].contains(" forkproc+0x0 at "), "{hit}");
    assert!(lines[3].contains(" cloneproc+"), "{hit}");
    assert!(lines[3].contains("kernel.c:"), "{hit}");

    let initproc = placed(&built, "_initproc");
    for expression in [
        "initproc",
        "*(struct proc *)&initproc",
        &format!("*(struct proc *){initproc}"),
        "*(proc_t)kernproc.p_next",
    ] {
        let printed = lab.json(&["print", expression]);
        let value = printed["value"].as_str().expect("a value");
        assert!(value.contains("p_pid = 1, p_stat = 2"), "{value}");
        assert!(value.contains("p_comm = \"launchd"), "{value}");
        assert_eq!(printed["address"], initproc);
    }
    let said = lab.said(&["print", "kernproc.p_comm"]);
    assert_eq!(
        said,
        "kernproc.p_comm = \"kernel_task\\000\\000\\000\\000\\000\"\n"
    );
    let said = lab.said(&["print", "gLoadedKextSummaries->numSummaries"]);
    assert_eq!(said, "gLoadedKextSummaries->numSummaries = 1\n");
}

#[test]
fn k10_names_of_an_extension_are_where_it_lies() {
    let built = Built::new();
    let (_stub, lab) = behind_a_stub(&built, &[built.folder()]);
    let found = lab.json(&["symbols", "example_start"]);
    assert_eq!(found[0]["module"], "com.example.counter");
    let at = found[0]["at"].as_str().expect("an address");
    let base = lab.json(&["modules"])[0]["base"].clone();
    let (at, base) = (number(at), number(base.as_str().expect("an address")));
    assert_eq!(
        at - base,
        machine::address_in(&built.kext(), "_example_start")
    );
    let said = lab.said(&["print", "example_count"]);
    assert_eq!(said, "example_count = 0\n");
}

#[test]
fn k10_a_variable_is_watched_behind_a_stub() {
    let built = Built::new();
    let (_stub, lab) = behind_a_stub(&built, &[built.folder()]);
    let hit = lab.json(&["watch", "nprocs"]);
    let value = |when: &str| {
        let text = hit[when].as_str().expect("a value");
        text.parse::<u64>().expect("a number")
    };
    assert_eq!(value("after"), value("before") + 1, "{hit}");
    assert_eq!(hit["at"], placed(&built, "_nprocs"));
    assert_eq!(function_names(&hit["backtrace"]), FORKED);
}

#[test]
fn k11_what_kdp_cannot_watch_is_refused() {
    let built = Built::new();
    let (_kernel, lab) = over_kdp(&built, &[built.folder()]);
    let refused = lab.refused(&["watch", "nprocs", "--stay"]);
    assert!(refused.contains("does not have watchpoints"), "{refused}");
    let hit = lab.json(&["break", "forkproc", "--stay"]);
    assert_eq!(function_names(&hit["backtrace"]), FORKED);
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
}

#[test]
fn k11_the_commands_know_the_kernel_over_kdp_as_often_as_it_is_told_to_stay() {
    let built = Built::new();
    for files in [&[built.folder()][..], &[]] {
        let (_kernel, lab) = over_kdp(&built, files);
        assert_answers(&built, &lab, &["--stay"]);
        let stacks = lab.json(&["bt", "--all", "--stay"]);
        let entered = ["kdp_ml_enter_debugger", "kernel_bootstrap"];
        assert_eq!(function_names(&stacks[0]), entered);
        let hit = lab.json(&["break", "forkproc", "--stay"]);
        assert_eq!(function_names(&hit["backtrace"]), FORKED);
        let registers = lab.said(&["regs", "--stay"]);
        assert!(registers.contains("<forkproc>"), "{registers}");
    }
}

#[test]
fn k11_a_kernel_that_was_let_go_over_kdp_listens_to_no_command() {
    let built = Built::new();
    let (_kernel, lab) = over_kdp(&built, &[]);
    let error = lab.refused(&["break", "kernel_bootstrap", "--timeout", "0.2"]);
    let said = "not hit within 0.2 s, and the trap stays until the kernel comes to it: ";
    assert!(error.contains(said), "{error}");
    let error = lab.refused(&["info"]);
    assert!(error.contains(&lab.target), "{error}");
    assert!(error.contains("no kernel answered within"), "{error}");
}

#[test]
fn k10_what_cannot_be_answered_is_said() {
    let built = Built::new();
    let (_stub, lab) = behind_a_stub(&built, &[]);
    let error = lab.refused(&["print", "initproc.p_pid"]);
    let said = "its type is not known without debug information";
    assert!(error.contains(said), "{error}");
    let error = lab.refused(&["break", "hndl_timer", "--timeout", "0.2"]);
    assert!(error.contains("not hit within 0.2 s"), "{error}");
    let error = lab.refused(&["mem", "0xffffff7f00000000"]);
    assert!(
        error.contains("0xffffff7f00000000 cannot be read"),
        "{error}"
    );

    // Files that were named by themselves must be this kernel's.
    let (_stub, lab) = behind_a_stub(&built, &[&built.kext()]);
    let error = lab.refused(&["info"]);
    let uuid = |path| machine::uuid(&fs::read(path).expect("an image"));
    assert!(error.contains(&uuid(built.kext())), "{error}");
    assert!(error.contains(&uuid(built.kernel())), "{error}");
}

#[test]
fn k10_a_kernel_without_names_in_memory_says_what_would_keep_them() {
    let built = Built::new();
    let mut machine = Machine::new(&built, SLIDE, true);
    machine.forget_names();
    let stub = Bridge::start(machine, Box::new(|_| None));
    let lab = Lab::new(stub.place(), &[]);
    let info = lab.json(&["info"]);
    assert_eq!(
        (&info["symbols"], &info["modules"]),
        (&0.into(), &Value::Null)
    );
    assert_eq!(info["slide"], hex(SLIDE));
    assert!(lab.said(&["info"]).contains("modules   unknown"));
    let frames = lab.json(&["bt"])[0]["frames"].clone();
    assert!(frames.as_array().expect("frames").len() >= 3, "{frames}");
    for command in ["modules", "log"] {
        let error = lab.refused(&[command]);
        assert!(error.contains("is not known"), "{error}");
    }
    assert!(lab.refused(&["modules"]).contains("keepsyms=1"));
    assert!(lab.refused(&["break", "forkproc"]).contains("forkproc"));
}
