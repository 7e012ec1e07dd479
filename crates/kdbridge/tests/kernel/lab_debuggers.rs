//! Real debuggers, with nothing typed but what is wanted of them.

use std::fs;
use std::process::{Command, Stdio};

use kdbridge::symbols::{ElfFile, SymbolTable};

use crate::bridge::{Bridge, read_until};
use crate::machine::{Machine, Options, release, root, vmlinux};
use crate::relay::Relay;

/// What is called again and again once [`keep_busy`] has been.
const BUSY: &str = "do_sys_openat2";

/// Has the machine open files.
pub(crate) fn keep_busy(machine: &mut Machine) {
    machine.run("{ while :; do cat /proc/uptime >/dev/null; done; } & :");
}

/// Where a function of the kernel is, in digits.
fn place_of(machine: &mut Machine, function: &str) -> String {
    let line = machine.run(&format!("grep -m 1 ' {function}$' /proc/kallsyms"));
    line.split(' ').next().unwrap().to_owned()
}

/// The time goes on, and nothing that is called often stops the machine.
pub(crate) fn lives(machine: &mut Machine) {
    let before = machine.uptime();
    machine.run("usleep 100000");
    assert!(machine.uptime() > before);
    assert!(machine.is_alive());
}

#[test]
fn k01_k02_names_are_right_in_three_boots_with_nothing_typed() {
    for _ in 0..3 {
        let machine = Machine::boot();
        let bridge = Bridge::serve(&machine, &[]);
        let banner = format!("Linux version {}", release());

        let gdb = bridge.gdb(
            Some(&vmlinux()),
            &["thread apply all bt 1", "x/s linux_banner"],
        );
        assert!(gdb.contains(&banner), "{gdb}");
        let frames: Vec<_> = gdb.lines().filter(|line| line.starts_with("#0 ")).collect();
        assert_eq!(frames.len(), 2, "{gdb}");
        assert!(
            frames
                .iter()
                .all(|frame| frame.contains(" (") && !frame.contains("??")),
            "{gdb}"
        );

        let commands = ["bt all", "p (char *)linux_banner", "p init_task.comm"];
        let lldb = bridge.lldb(Some(&vmlinux()), &commands);
        assert!(
            lldb.contains(&banner) && lldb.contains("\"swapper/0\""),
            "{lldb}"
        );
        let frames: Vec<_> = lldb
            .lines()
            .filter(|line| line.contains("frame #0:"))
            .collect();
        assert!(frames.len() >= 2, "{lldb}");
        assert!(frames.iter().all(|frame| frame.contains('`')), "{lldb}");
    }
}

#[test]
fn k01_a_kernel_is_found_anew_after_a_reset() {
    let mut machine = Machine::boot_with(&Options {
        may_be_reset: true,
        ..Options::default()
    });
    let bridge = Bridge::serve(&machine, &[]);
    let banner = format!("Linux version {}", release());
    for _ in 0..2 {
        let gdb = bridge.gdb(
            Some(&vmlinux()),
            &["x/s linux_banner", "monitor system_reset"],
        );
        assert!(gdb.contains(&banner), "{gdb}");
        machine.comes_up();
    }
}

/// What a debugger prints that measures how long it takes until a breakpoint is hit: less than 3 seconds.
fn is_hit_in_time(said: &str) -> bool {
    (0..3).any(|seconds| said.contains(&format!("hit within {seconds} seconds")))
}

#[test]
fn k03_a_breakpoint_by_name_is_hit_and_shows_its_caller_and_arguments() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let bridge = Bridge::serve(&machine, &[]);

    let now = "import time; start = time.time()";
    let passed = "print('hit within', int(time.time() - start), 'seconds')";
    let [now_in_gdb, passed_in_gdb] = [now, passed].map(|it| format!("python {it}"));
    let stop = format!("break {BUSY}");
    let gdb = bridge.gdb(
        Some(&vmlinux()),
        &[
            &stop,
            &now_in_gdb,
            "continue",
            &passed_in_gdb,
            "bt",
            "info args",
        ],
    );
    assert!(gdb.contains(&format!("Breakpoint 1, {BUSY} (")), "{gdb}");
    assert!(is_hit_in_time(&gdb), "{gdb}");
    assert!(
        gdb.contains("entry_SYSCALL_64") && gdb.contains("filename = 0x"),
        "{gdb}"
    );
    lives(&mut machine);

    let stop = format!("b {BUSY}");
    let [now_in_lldb, passed_in_lldb] = [now, passed].map(|it| format!("script {it}"));
    let lldb = bridge.lldb(
        Some(&vmlinux()),
        &[
            &stop,
            &now_in_lldb,
            "continue",
            &passed_in_lldb,
            "bt",
            "frame variable",
        ],
    );
    assert!(is_hit_in_time(&lldb), "{lldb}");
    assert!(lldb.contains("stop reason = breakpoint 1.1"), "{lldb}");
    assert!(
        lldb.contains("entry_SYSCALL_64") && lldb.contains("filename = 0x"),
        "{lldb}"
    );
    lives(&mut machine);
}

#[test]
fn k03_hundreds_of_stops_of_four_processors_are_each_told_once() {
    const STOPS: u32 = 200;
    let mut machine = Machine::boot_with(&Options {
        cpus: 4,
        ..Options::default()
    });
    (0..8).for_each(|_| keep_busy(&mut machine));
    let place = place_of(&mut machine, BUSY);
    let bridge = Bridge::serve(&machine, &[]);

    // The condition is looked at in each stop.
    let stop = format!("break *0x{place} if $rsp != 0");
    let passed = format!("ignore 1 {}", STOPS - 1);
    let gdb = bridge.gdb(None, &[&stop, &passed, "continue", "info breakpoints"]);
    let hit = format!("breakpoint already hit {STOPS} times");
    assert!(gdb.contains(&hit), "{gdb}");
    lives(&mut machine);

    let stop = format!("breakpoint set -a 0x{place}");
    let passed = format!("breakpoint modify -i {} 1", STOPS - 1);
    let lldb = bridge.lldb(None, &[&stop, &passed, "continue", "breakpoint list"]);
    assert!(lldb.contains("stop reason = breakpoint 1.1"), "{lldb}");
    let hit = format!("hit count = {STOPS}");
    assert!(lldb.contains(&hit), "{lldb}");
    lives(&mut machine);
}

#[test]
fn k31_gdb_knows_the_kernel_of_a_machine_that_was_started_anew() {
    let mut machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &[]);
    let mut gdb = bridge.gdb_command(None, &["echo it waits\\n", "continue"]);
    let gdb = gdb.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut gdb = gdb.spawn().unwrap();
    read_until(gdb.stdout.as_mut().unwrap(), "it waits");
    // It stood still until gdb had it go on.
    machine.run("true");
    machine.restart(&Options::default());
    let said = gdb.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("kdbridge: the "), "{said}");
    assert!(said.contains("Remote connection closed"), "{said}");

    let place = place_of(&mut machine, "linux_banner");
    let commands = ["p &linux_banner", "x/s linux_banner"];
    let gdb = bridge.gdb(Some(&vmlinux()), &commands);
    assert!(gdb.contains(&format!("0x{place} <linux_banner>")), "{gdb}");
    assert!(gdb.contains("Linux version"), "{gdb}");
    lives(&mut machine);
}

#[test]
fn k25_each_version_of_lldb_is_served() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let bridge = Bridge::serve(&machine, &[]);
    // Debug information, which is not the bridge's affair, takes each of them a minute.
    let file = machine.folder().join("vmlinux");
    let mut strip = Command::new("llvm-objcopy-19");
    strip.args(["--strip-debug".as_ref(), vmlinux().as_path(), &file]);
    assert!(strip.status().unwrap().success());
    let stop = format!("b {BUSY}");
    let session = [
        "version",
        "bt all",
        "x/s &linux_banner",
        &stop,
        "continue",
        "bt",
        "register read rdi",
        "detach",
    ];
    let banner = format!("Linux version {}", release());
    for version in [14, 16, 19] {
        let log = machine.folder().join(format!("packets-{version}"));
        let logged = format!("log enable -f {} gdb-remote packets", log.display());
        let session = [&[logged.as_str()], session.as_slice()].concat();
        let said = bridge.lldb_of_version(version, &file, &session);
        let requests = fs::read(&log).unwrap();
        let requests = String::from_utf8_lossy(&requests);
        let requests = requests.matches("send packet: $").count();
        // It looks for room in the address space, which takes 130 if it is told of one page at a time.
        assert!((10..90).contains(&requests), "{version}: {requests}");
        let version = format!("lldb version {version}.");
        let wanted = [
            &version,
            "frame #0: 0xffff",
            &banner,
            "stop reason = breakpoint 1.1",
            BUSY,
            "entry_SYSCALL_64",
            "rdi = 0x00000000ffffff9c",
            "Process 1 detached",
        ];
        let mut rest = said.as_str();
        for wanted in wanted {
            let Some((_, after)) = rest.split_once(wanted) else {
                panic!("{wanted:?} is missing: {said}");
            };
            rest = after;
        }
        lives(&mut machine);
    }
}

#[test]
fn k04_lldb_connects_to_a_running_machine_each_of_twenty_times() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let bridge = Bridge::serve(&machine, &[]);
    for turn in 0..20 {
        let lldb = bridge.lldb(None, &["detach"]);
        assert!(lldb.contains("Process 1 stopped"), "{turn}: {lldb}");
        assert!(lldb.contains("Process 1 detached"), "{turn}: {lldb}");
    }
    lives(&mut machine);
}

#[test]
fn k05_a_machine_survives_a_debugger_that_exits_crashes_or_kills() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let relay = Relay::to(machine.stub());
    let bridge = Bridge::behind(&relay, &machine);
    let stop = format!("b {BUSY}");
    // One that the kernel never comes to, so that nobody meets it and takes it off.
    let never = "b panic";

    // A script that fails makes LLDB kill what it debugs.
    let lldb = bridge.lldb(Some(&vmlinux()), &[&stop, never, "no-such-command"]);
    assert!(lldb.contains("Breakpoint 2"), "{lldb}");
    assert!(relay.is_rid_of_breakpoints());
    lives(&mut machine);
    bridge.lldb(None, &["kill"]);
    lives(&mut machine);
    bridge.gdb(None, &["kill"]);
    lives(&mut machine);

    // In the middle of things: the breakpoint is set, the machine runs or has just stopped.
    let mut lldb = bridge.lldb_command(
        Some(&vmlinux()),
        &[&stop, never, "continue", "continue", "continue"],
    );
    let mut lldb = lldb.stdout(Stdio::piped()).spawn().unwrap();
    read_until(
        lldb.stdout.as_mut().unwrap(),
        "stop reason = breakpoint 1.1",
    );
    assert!(relay.breakpoints() > 1);
    lldb.kill().unwrap();
    lldb.wait().unwrap();
    assert!(relay.is_rid_of_breakpoints());
    lives(&mut machine);
}

#[test]
fn k05_a_debugger_may_kill_the_machine_if_that_is_allowed() {
    let mut machine = Machine::boot();
    let bridge = Bridge::serve(&machine, &["--allow-kill"]);
    bridge.gdb(None, &["kill"]);
    machine.ends();
}

#[test]
fn k05_behind_the_guard_a_machine_survives_debuggers_that_know_nothing_of_its_kernel() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let place = place_of(&mut machine, BUSY);
    let guard = Bridge::guard(&machine);
    for turn in 0..20 {
        let lldb = guard.lldb(None, &["kill"]);
        assert!(lldb.contains("Process 1 stopped"), "{turn}: {lldb}");
    }
    lives(&mut machine);
    // Where the kernel was linked to be, which nothing has told it otherwise.
    let gdb = guard.gdb(Some(&vmlinux()), &["info address linux_banner", "kill"]);
    assert!(gdb.contains("at address 0xffffffff8"), "{gdb}");
    let linked = SymbolTable::of_file(&ElfFile::open(&vmlinux()).unwrap()).unwrap();
    let linked = linked.by_name("linux_banner").unwrap().address;
    assert!(gdb.contains(&format!("{linked:x}")), "{gdb}");
    lives(&mut machine);

    let stop = format!("breakpoint set -a 0x{place}");
    let mut lldb = guard.lldb_command(None, &[&stop, "continue", "continue", "continue"]);
    let mut lldb = lldb.stdout(Stdio::piped()).spawn().unwrap();
    read_until(
        lldb.stdout.as_mut().unwrap(),
        "stop reason = breakpoint 1.1",
    );
    lldb.kill().unwrap();
    lldb.wait().unwrap();
    lives(&mut machine);
}

/// Where the machine says that a function of its module `dummy` is.
fn address_in_dummy(machine: &mut Machine, name: &str) -> String {
    let file = format!(
        "usr/lib/debug/lib/modules/{}/kernel/drivers/net/dummy.ko",
        release()
    );
    let elf = ElfFile::open(&root().join(file)).unwrap();
    let offset = SymbolTable::of_file(&elf)
        .unwrap()
        .by_name(name)
        .unwrap()
        .address;
    let text = machine.run("cat /sys/module/dummy/sections/.text");
    let text = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap();
    format!("{:x}", text + offset)
}

#[test]
fn k06_a_module_that_is_loaded_is_where_the_machine_says() {
    let mut machine = Machine::boot();
    machine.run("insmod /modules/dummy.ko numdummies=0");
    let address = address_in_dummy(&mut machine, "dummy_setup");
    machine.run("{ while :; do ip link add name d type dummy; ip link del dev d; done; } & :");
    let symbols = root().join("usr/lib/debug");
    let bridge = Bridge::serve(&machine, &["--files", symbols.to_str().unwrap()]);

    let commands = [
        "info line dummy_setup",
        "break dummy_setup",
        "continue",
        "bt 2",
    ];
    let gdb = bridge.gdb(Some(&vmlinux()), &commands);
    assert!(gdb.contains(&format!("0x{address} <dummy_setup>")), "{gdb}");
    assert!(gdb.contains("Breakpoint 1, dummy_setup (dev="), "{gdb}");
    assert!(gdb.contains("drivers/net/dummy.c:"), "{gdb}");

    let commands = [
        "image lookup -s dummy_setup",
        "b dummy_setup",
        "continue",
        "bt 2",
    ];
    let lldb = bridge.lldb(Some(&vmlinux()), &commands);
    assert!(lldb.contains(&format!("dummy.ko[0x{address}]")), "{lldb}");
    assert!(lldb.contains("stop reason = breakpoint 1.1"), "{lldb}");
    assert!(lldb.contains("dummy.ko`dummy_setup(dev="), "{lldb}");
    assert!(lldb.contains(" at dummy.c:"), "{lldb}");
    machine.run("true");
}
