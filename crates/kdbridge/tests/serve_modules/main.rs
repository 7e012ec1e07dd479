//! What debuggers are told of modules that come and go while they are connected, and what they are not.

#![expect(clippy::unwrap_used, reason = "a test may fail in any way it likes")]

mod machine;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kdbridge::rsp::link::{Address, Deadline, Link, Stream};
use kdbridge::serve::{Listener, Options, Server};
use tempfile::TempDir;

use machine::{LOADS, MODULES, Machine, TEXT, UNLOADS, library};

const PATIENCE: Duration = Duration::from_secs(20);

const NEWS: &str = "T05thread:1;library:;";

/// The same for LLDB.
fn news_for_lldb() -> String {
    format!("T00thread:1;library:1;threads:1;thread-pcs:{LOADS:x};")
}

/// A server in front of a machine.
struct Bridge {
    folder: TempDir,
    remarks: Arc<Mutex<Vec<String>>>,
    end: Option<UnixStream>,
    serving: Option<JoinHandle<()>>,
}

impl Bridge {
    fn serve(machine: &Machine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&address(&folder)).unwrap();
        let remarks = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&remarks);
        let options = Options {
            locate: Box::new(|_| None),
            modules: Box::new(machine.clone()),
            allow_kill: false,
            remark: Box::new(move |text| heard.lock().unwrap().push(text.to_owned())),
        };
        let mut server = Server::new(machine.clone(), listener, options).unwrap();
        let (end, ended) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || server.serve(ended.as_fd()).unwrap());
        Self {
            folder,
            remarks,
            end: Some(end),
            serving: Some(serving),
        }
    }

    /// A debugger that has asked for modules.
    fn gdb(&self) -> Debugger {
        let mut debugger = self.debugger();
        debugger.ask("qSupported:swbreak+");
        assert_eq!(debugger.ask("QStartNoAckMode"), "OK");
        debugger.0.stop_acks();
        debugger.libraries();
        debugger
    }

    /// LLDB, which has asked for modules too.
    fn lldb(&self) -> Debugger {
        let mut debugger = self.debugger();
        debugger.ask("QThreadSuffixSupported");
        debugger.ask("QListThreadsInStopReply");
        assert!(debugger.ask("?").contains("library:1;"));
        debugger.libraries();
        debugger
    }

    fn debugger(&self) -> Debugger {
        let stream = Stream::connect(&address(&self.folder), PATIENCE).unwrap();
        Debugger(Link::new(stream))
    }

    fn end(&mut self) {
        drop(self.end.take());
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

fn address(folder: &TempDir) -> Address {
    Address::Unix(folder.path().join("bridge"))
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
    }
}

struct Debugger(Link);

impl Debugger {
    fn ask(&mut self, request: &str) -> String {
        let deadline = Deadline::after(PATIENCE);
        self.0.send(&[request.as_bytes()], deadline).unwrap();
        let reply = self.0.receive(deadline).unwrap();
        String::from_utf8(reply.expect("an answer in time")).unwrap()
    }

    fn libraries(&mut self) -> String {
        self.ask("qXfer:libraries:read::0,1000")
    }

    /// Runs until somebody asks for a stop; nothing else may stop it.
    fn runs_until_interrupted(&mut self) {
        self.send("vCont;c");
        self.interrupt();
        let reply = self.0.receive(Deadline::after(PATIENCE)).unwrap();
        let reply = String::from_utf8(reply.expect("an answer in time")).unwrap();
        assert!(reply.starts_with("T02thread:1;"), "{reply}");
    }

    fn send(&mut self, request: &str) {
        let deadline = Deadline::after(PATIENCE);
        self.0.send(&[request.as_bytes()], deadline).unwrap();
    }

    fn interrupt(&mut self) {
        self.0.interrupt(Deadline::after(PATIENCE)).unwrap();
    }
}

#[test]
fn k07_a_debugger_is_told_of_other_modules_and_of_nothing_else() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    machine.comes(LOADS, None);
    machine.comes(UNLOADS, None);
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    assert_eq!(machine.state().path.len(), 0);
    let list = gdb.libraries();
    assert!(list.contains("/modules/a.ko"), "{list}");
    assert_eq!(
        gdb.ask(&format!("m{LOADS:x},2")),
        "9090",
        "hooks do not show"
    );

    machine.comes(LOADS, None);
    machine.comes(UNLOADS, Some(Vec::new()));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    assert_eq!(gdb.libraries(), "l<library-list></library-list>");
    machine.comes(LOADS, None);
    gdb.runs_until_interrupted();
}

#[test]
fn k07_lldb_is_told_without_a_reason_to_stop() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut lldb = bridge.lldb();
    assert!(!lldb.ask("?").contains("library"));
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(lldb.ask("vCont;c"), news_for_lldb());
    assert!(lldb.libraries().contains("/copies/a.ko"));
    lldb.runs_until_interrupted();
}

#[test]
fn k07_lldb_is_told_of_what_is_gone_before_it_is_told_of_what_came() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut lldb = bridge.lldb();
    let stays = library("stays", MODULES + 0x2000);
    let (old, new) = (library("old", MODULES), library("new", MODULES));
    machine.comes(LOADS, Some(vec![old, stays.clone()]));
    machine.comes(LOADS, Some(vec![new, stays]));
    let names = |list: String| -> Vec<String> {
        let names = list.split("/copies/").skip(1);
        names
            .map(|it| it.split('"').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(lldb.ask("vCont;c"), news_for_lldb());
    let listed = names(lldb.libraries());
    assert_eq!(listed, ["nothing", "old.ko", "stays.ko"]);
    assert_eq!(lldb.ask("vCont;c"), news_for_lldb());
    assert_eq!(names(lldb.libraries()), ["nothing", "stays.ko"]);
    assert_eq!(lldb.ask("vCont;c"), news_for_lldb());
    let listed = names(lldb.libraries());
    assert_eq!(listed, ["nothing", "new.ko", "stays.ko"]);
    lldb.runs_until_interrupted();
}

#[test]
fn k07_a_breakpoint_of_the_debugger_at_a_hook_is_told_after_the_news() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    let stop = format!("{LOADS:x},1");
    assert_eq!(gdb.ask(&format!("Z0,{stop}")), "OK");
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    gdb.libraries();
    let hit = gdb.ask("vCont;c");
    assert_eq!(hit, "T05thread:1;swbreak:;");
    // As debuggers go on from their breakpoints.
    assert_eq!(gdb.ask(&format!("z0,{stop}")), "OK");
    assert_eq!(gdb.ask("vCont;s:1"), "T05thread:1;");
    machine.comes(LOADS, Some(Vec::new()));
    assert_eq!(gdb.ask("vCont;c"), NEWS, "the hook is still there");
    gdb.libraries();
    gdb.runs_until_interrupted();
}

#[test]
fn k07_a_step_onto_a_hook_and_from_it_moves_by_one_instruction() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    gdb.runs_until_interrupted();
    let before = (LOADS - 1).swap_bytes();
    assert_eq!(gdb.ask(&format!("P10={before:016x}")), "OK");
    for rip in [LOADS, LOADS + 1] {
        assert_eq!(gdb.ask("vCont;s:1"), "T05thread:1;");
        assert_eq!(gdb.ask("p10"), format!("{:016x}", rip.swap_bytes()));
    }
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
}

#[test]
fn k07_no_breakpoint_stays_in_memory_that_is_freed() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    let other = MODULES + 0x2000;
    machine.comes(
        LOADS,
        Some(vec![library("a", MODULES), library("b", other)]),
    );
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    for at in [TEXT + 8, MODULES, other] {
        assert_eq!(gdb.ask(&format!("Z0,{at:x},1")), "OK");
    }
    machine.comes(UNLOADS, Some(vec![library("b", other)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    let traps: Vec<u64> = machine.state().traps.keys().copied().collect();
    assert_eq!(traps, [TEXT + 8, LOADS, UNLOADS, other]);
    // Debuggers take off what they believe to be there.
    assert_eq!(gdb.ask(&format!("z0,{MODULES:x},1")), "OK");
}

#[test]
fn k07_a_breakpoint_is_forgotten_whose_memory_was_freed_before_that_was_noticed() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    assert_eq!(gdb.ask(&format!("Z0,{MODULES:x},1")), "OK");
    machine.state().freed = MODULES..MODULES + 0x1000;
    machine.comes(LOADS, Some(Vec::new()));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    assert_eq!(gdb.ask("D"), "OK");
    while !machine.is_left_alone() {
        thread::yield_now();
    }
    assert!(bridge.gdb().libraries().starts_with('l'));
    let remarks = bridge.remarks.lock().unwrap();
    assert!(remarks.is_empty(), "{remarks:?}");
}

#[test]
fn k07_copies_for_lldb_are_made_when_it_asks() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    assert!(gdb.libraries().contains("/modules/a.ko"));
    assert_eq!(machine.state().copied, 0);
    assert!(bridge.lldb().libraries().contains("/copies/a.ko"));
    assert!(machine.state().copied > 0);
}

#[test]
fn k07_lldb_is_told_of_nothing_that_it_finds_by_itself() {
    let machine = Machine::new();
    machine.state().for_lldb = false;
    let bridge = Bridge::serve(&machine);
    let mut lldb = bridge.debugger();
    lldb.ask("QThreadSuffixSupported");
    assert!(!lldb.ask("?").contains("library"));
    assert_eq!(lldb.libraries(), "l<library-list></library-list>");
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    lldb.runs_until_interrupted();
    assert_eq!(machine.state().traps.len(), 0);
    assert!(bridge.gdb().libraries().contains("/modules/a.ko"));
}

#[test]
fn k07_nothing_is_left_in_a_kernel_that_a_debugger_leaves() {
    let machine = Machine::new();
    let mut bridge = Bridge::serve(&machine);
    type Leaves = fn(&mut Bridge, Debugger);
    let ways: [Leaves; 3] = [
        |_, mut gdb| assert_eq!(gdb.ask("D"), "OK"),
        |_, gdb| drop(gdb),
        |bridge, _gdb| bridge.end(),
    ];
    for leaves in ways {
        let mut gdb = bridge.gdb();
        machine.comes(LOADS, Some(vec![library("a", MODULES)]));
        machine.comes(UNLOADS, Some(Vec::new()));
        assert_eq!(gdb.ask("vCont;c"), NEWS);
        assert_eq!(gdb.ask("vCont;c"), NEWS);
        assert_eq!(machine.state().traps.len(), 2);
        gdb.send("vCont;c");
        leaves(&mut bridge, gdb);
        while !machine.is_left_alone() {
            thread::yield_now();
        }
    }
}

#[test]
fn k07_who_does_not_ask_for_modules_has_no_hooks() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.debugger();
    gdb.ask("qSupported:swbreak+");
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    gdb.runs_until_interrupted();
    assert_eq!(machine.state().traps.len(), 0);
}

#[test]
fn k07_an_interrupt_that_meets_the_news_stops_the_machine() {
    let machine = Machine::new();
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    assert_eq!(gdb.ask("vCont;c"), NEWS);
    gdb.interrupt();
    gdb.libraries();
    let stop = gdb.ask("vCont;c");
    assert!(stop.starts_with("T02thread:1;"), "{stop}");
}

#[test]
fn k07_a_breakpoint_that_a_debugger_wants_comes_before_hooks() {
    let machine = Machine::new();
    machine.state().room = 2;
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    gdb.runs_until_interrupted();
    for at in [TEXT + 8, TEXT + 16] {
        assert_eq!(gdb.ask(&format!("Z0,{at:x},1")), "OK");
    }
    let refused = gdb.ask(&format!("Z0,{:x},1", TEXT + 24));
    assert!(refused.contains("room for 2 breakpoints only"), "{refused}");
    machine.comes(LOADS, Some(vec![library("a", MODULES)]));
    gdb.runs_until_interrupted();
    let remarks = bridge.remarks.lock().unwrap();
    assert!(remarks[0].contains("may not be noticed"), "{remarks:?}");
}

#[test]
fn k07_a_breakpoint_that_a_debugger_has_at_a_hook_stays_without_the_hook() {
    let machine = Machine::new();
    machine.state().room = 3;
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    for at in [LOADS, TEXT + 8, TEXT + 16] {
        assert_eq!(gdb.ask(&format!("Z0,{at:x},1")), "OK");
    }
    let traps: Vec<u64> = machine.state().traps.keys().copied().collect();
    assert_eq!(traps, [TEXT + 8, TEXT + 16, LOADS]);
    machine.comes(LOADS, None);
    assert_eq!(gdb.ask("vCont;c"), "T05thread:1;swbreak:;");
}

#[test]
fn k07_a_hook_that_could_not_be_taken_off_is_when_the_kernel_comes_to_it() {
    let machine = Machine::new();
    machine.state().interruptible = false;
    let bridge = Bridge::serve(&machine);
    let mut gdb = bridge.gdb();
    gdb.send("vCont;c");
    drop(gdb);
    let start = Instant::now();
    while !machine.is_left_alone() {
        assert!(start.elapsed() < PATIENCE, "{:?}", machine.state().traps);
        // When the server hears that the debugger is gone is its own affair.
        if machine.state().path.is_empty() {
            machine.comes(LOADS, None);
        }
        thread::yield_now();
    }
}
