//! What `kdbridge` answers by itself, with the kernel's file and without.

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::machine::{Machine, root};

struct Lab {
    machine: Machine,
    cache: TempDir,
}

impl Lab {
    fn new() -> Self {
        let mut machine = Machine::boot();
        machine.run("insmod /modules/dummy.ko");
        machine.send("while :; do ls -lR /sys >/dev/null; done &");
        let cache = TempDir::new().unwrap();
        Self { machine, cache }
    }

    fn kdbridge(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
        command
            .args(arguments)
            .arg("--target")
            .arg(format!("unix:{}", self.machine.stub().display()))
            .env("XDG_CACHE_HOME", self.cache.path());
        command.output().unwrap()
    }

    /// What it says when it succeeds, with the kernel's file or without.
    fn said(&self, arguments: &[&str], with_file: bool) -> String {
        let root = root();
        let root = root.to_str().unwrap();
        let files: &[&str] = match with_file {
            true => &["--symbols", root],
            false => &["--no-files"],
        };
        let output = self.kdbridge(&[arguments, files].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        assert_eq!(error, "", "nobody is at a terminal");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str], with_file: bool) -> Value {
        let said = self.said(&[arguments, &["--json"]].concat(), with_file);
        serde_json::from_str(&said).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.kdbridge(&[arguments, &["--no-files"]].concat());
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn every_command_answers_with_a_file_and_without() {
    let mut lab = Lab::new();
    for with_file in [true, false] {
        let info = lab.json(&["info"], with_file);
        assert!(
            info["version"]
                .as_str()
                .unwrap()
                .starts_with("Linux version 6.")
        );
        assert_eq!(info["file"].is_string(), with_file, "{info}");
        assert_eq!(info["lines"], with_file);
        assert_eq!(info["cpus"].as_array().unwrap().len(), 2);

        let modules = lab.json(&["modules"], with_file);
        let dummy = &modules[0];
        let listed = lab.machine.run("cat /sys/module/dummy/sections/.text");
        assert_eq!(dummy["name"], "dummy");
        assert_eq!(dummy["base"], listed.trim());
        assert_eq!(dummy["file"].is_string(), with_file);

        let name = "print ((struct task_struct *)&init_task)->comm";
        let name: Vec<&str> = name.splitn(2, ' ').collect();
        assert!(lab.said(&name, with_file).contains(r#" = "swapper/0\000"#));
        assert!(lab.said(&["log"], with_file).contains("] Linux version 6."));
        assert!(
            lab.said(&["mem", "linux_banner", "32"], with_file)
                .contains("|Linux version 6.|")
        );
        assert!(
            lab.said(&["symbols", "dummy_setup"], with_file)
                .contains("[dummy]")
        );
        assert!(
            lab.said(&["regs", "--cpu", "1"], with_file)
                .contains("rip ")
        );
    }
}

#[test]
fn a_breakpoint_and_a_watchpoint_are_waited_for() {
    let mut lab = Lab::new();
    for kind in [[].as_slice(), &["--hardware"]] {
        let hit = lab.said(
            &[["break", "do_sys_openat2"].as_slice(), kind].concat(),
            true,
        );
        assert!(hit.contains(" do_sys_openat2+0x0 at fs/open.c:"), "{hit}");
        assert!(hit.contains(" do_syscall_64+"), "{hit}");
    }
    let hit = lab.json(&["watch", "jiffies_64"], true);
    let functions = hit["backtrace"]["frames"].as_array().unwrap();
    let mut names = functions.iter().map(|it| it["function"].as_str());
    assert!(
        names.any(|name| name == Some("tick_do_update_jiffies64")),
        "{hit}"
    );
    let number = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&hit["after"]) > number(&hit["before"]), "{hit}");
    assert!(lab.machine.uptime() > 0.0, "it runs on");
}

#[test]
fn a_breakpoint_and_a_watchpoint_in_a_module_are_waited_for() {
    let mut lab = Lab::new();
    lab.machine
        .run("{ while :; do ip link add name d type dummy; ip link del dev d; done; } & :");
    for with_file in [true, false] {
        let hit = lab.json(&["break", "dummy_setup"], with_file);
        let frames = &hit["backtrace"]["frames"];
        assert_eq!(frames[0]["function"], "dummy_setup", "{hit}");
        assert_eq!(frames[0]["module"], "dummy");
        assert_eq!(frames[0]["line"].is_number(), with_file, "{hit}");
        assert_eq!(hit["name"], "<dummy_setup>");
    }
    let kind = lab.said(&["print", "dummy_link_ops.kind"], true);
    assert!(kind.contains("dummy"), "{kind}");

    lab.machine.send("sleep 3; rmmod dummy");
    let hit = lab.json(&["watch", "dummy_link_ops.list.next"], true);
    let frames = hit["backtrace"]["frames"].as_array().unwrap();
    let mut names = frames.iter().map(|it| it["function"].as_str());
    assert!(
        names.any(|name| name == Some("__rtnl_link_unregister")),
        "{hit}"
    );
}

#[test]
fn every_command_answers_in_json() {
    let lab = Lab::new();
    let json = |arguments: &[&str]| lab.json(arguments, false);
    let stacks = json(&["bt", "--all"]);
    assert_eq!(stacks.as_array().unwrap().len(), 2);
    assert!(
        stacks[1]["frames"][0]["at"]
            .as_str()
            .unwrap()
            .starts_with("0x")
    );
    let registers = json(&["regs", "--cpu", "1"]);
    assert_eq!(
        (&registers["cpu"], &registers["registers"][0]["name"]),
        (&1.into(), &"rax".into())
    );
    let symbols = json(&["symbols", "linux_banner"]);
    let banner = symbols[0]["at"].as_str().unwrap();
    let bytes = json(&["mem", banner, "5"]);
    assert_eq!(bytes["bytes"], serde_json::json!(*b"Linux"));
    let named = "((struct task_struct *)&init_task)->pid";
    assert_eq!(json(&["print", named])["value"], "0");
    let log = json(&["log"]);
    assert!(
        log[0]["text"]
            .as_str()
            .unwrap()
            .starts_with("Linux version 6.")
    );
    let hit = json(&["break", "vfs_statx"]);
    assert_eq!(hit["backtrace"]["frames"][0]["function"], "vfs_statx");
}

#[test]
fn what_cannot_be_answered_is_said() {
    let lab = Lab::new();
    let error = lab.refused(&["print", "init_task.no_such"]);
    let said = "its type is not known without debug information";
    assert!(error.contains("init_task.no_such\n         ^ "), "{error}");
    assert!(error.contains(said), "{error}");
    assert!(
        lab.refused(&["symbols", "no_such_symbol"])
            .contains("no symbol no_such_symbol")
    );
    assert!(
        lab.refused(&["bt", "--cpu", "9"])
            .contains("they are 0 to 1")
    );
    let error = lab.refused(&["break", "panic", "--timeout", "0.2"]);
    assert!(error.contains("not hit within 0.2 s"), "{error}");
    assert!(
        lab.refused(&["watch", "runqueues"])
            .contains("only 1, 2, 4 or 8")
    );
    let error = lab.refused(&["watch", "jiffies_64"]);
    assert!(error.contains("jiffies_64\n^ "), "{error}");
    assert!(error.contains(said), "{error}");
    let error = lab.refused(&["watch", "&jiffies_64"]);
    assert!(error.contains("^ it has no address"), "{error}");
    let error = lab.refused(&["mem", "0xffffffff00000000"]);
    assert!(
        error.contains("0xffffffff00000000 cannot be read"),
        "{error}"
    );
}
