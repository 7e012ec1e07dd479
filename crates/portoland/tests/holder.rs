//! A server that is killed and restarted, in real processes.
//!
//! Without the usual harness: a process that holds a server must have one thread, and the same
//! program plays it.

#[path = "holder/held.rs"]
mod held;
#[path = "holder/model.rs"]
mod model;
#[path = "holder/server.rs"]
mod server;

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use held::{Begun, Held, own_program};
use model::Model;
use portolan_testkit::soak::for_each_seed;
use rustix::process::Signal;

const TESTS: &[(&str, fn())] = &[
    ("killed_at_any_moment", killed_at_any_moment),
    ("restarted_in_place", restarted_in_place),
    ("an_upgrade_runs_what_is_installed", an_upgrade),
    ("without_a_program_the_old_one_goes_on", no_program),
    ("what_is_not_taken_is_left_to_the_next", not_taken),
    ("children_of_a_killed_server_are_reported", orphaned_child),
    ("a_panic_is_a_crash", panic_is_a_crash),
    ("the_holder_ends_as_the_server_does", endings),
    ("signals_are_passed_on", signals),
    ("a_killed_holder_is_replaced_by_the_server", killed_holder),
    ("without_a_program_the_server_goes_on_alone", alone),
];

#[expect(clippy::print_stdout, reason = "what a harness says")]
fn main() -> ExitCode {
    if let Ok(part) = env::var(held::PART) {
        return server::play(&part);
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let names: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| match (has("--exact"), names.is_empty()) {
        (_, true) => true,
        (true, _) => names.iter().any(|wanted| *wanted == name),
        (false, _) => names.iter().any(|wanted| name.contains(wanted.as_str())),
    };
    for (name, test) in TESTS {
        if has("--list") {
            if !has("--ignored") {
                println!("{name}: test");
            }
        } else if wanted(name) && !has("--ignored") {
            test();
            println!("{name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// Each holder's server is killed five times, which the holder follows at once; twenty holders.
#[expect(clippy::print_stdout, reason = "docs/design/006 has the figures")]
fn killed_at_any_moment() {
    for_each_seed(|seed| {
        let mut random = Random(seed);
        let mut times = Vec::new();
        for _ in 0..20 {
            let mut held = Held::start(&own_program(), "churn");
            let first = held.begun();
            assert_eq!(first.start, "First");
            let mut model = Model::default();
            let mut before = first.clone();
            for _ in 0..5 {
                model.follow(&held, random.below(60));
                let killed = Instant::now();
                held.signal(before.server, Signal::KILL);
                let next = model.follow_to_the_next(&mut held);
                times.push(killed.elapsed());
                assert_eq!(next.start, "Crash");
                assert_ne!(next.server, before.server);
                next.check_same_holder(&first);
                before = next;
            }
        }
        times.sort();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("from kill to recovered: median {median:?}, longest {longest:?}");
        assert!(median < Duration::from_millis(50), "{median:?}");
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    });
}

fn restarted_in_place() {
    let mut held = Held::start(&own_program(), "churn");
    let first = held.begun();
    let mut model = Model::default();
    let mut before = first.clone();
    for round in 0..8 {
        model.follow(&held, 30 + round);
        if round % 2 == 1 {
            // Not by way of the holder, who might pass the signal on to the next one. Most often it is
            // killed before it could end by itself.
            held.signal(before.server, Signal::HUP);
            held.try_signal(before.server, Signal::KILL);
        } else {
            held.signal(held.id(), Signal::HUP);
        }
        let next = model.follow_to_the_next(&mut held);
        assert!(next.start == "InPlace" || round % 2 == 1);
        next.check_same_holder(&first);
        before = next;
    }
}

fn an_upgrade() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (program, newer) = (
        directory.path().join("server"),
        directory.path().join("newer"),
    );
    fs::copy(own_program(), &program).expect("copy");
    let mut held = Held::start(&program, "churn");
    let old = held.begun();
    assert_eq!(old.program, fs::metadata(&program).expect("stat").ino());
    fs::copy(own_program(), &newer).expect("copy");
    fs::rename(&newer, &program).expect("rename");
    let mut model = Model::default();
    model.follow(&held, 50);
    held.signal(held.id(), Signal::HUP);
    let new = model.follow_to_the_next(&mut held);
    assert_eq!(new.start, "InPlace");
    assert_eq!(new.program, fs::metadata(&program).expect("stat").ino());
    assert_ne!(new.program, old.program);
    new.check_same_holder(&old);
}

fn no_program() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = directory.path().join("server");
    fs::copy(own_program(), &program).expect("copy");
    let mut held = Held::start(&program, "churn");
    let old = held.begun();
    fs::remove_file(&program).expect("remove");
    let mut model = Model::default();
    model.follow(&held, 50);
    held.signal(held.id(), Signal::HUP);
    let new = model.follow_to_the_next(&mut held);
    assert_eq!((new.start.as_str(), new.program), ("InPlace", old.program));
    new.check_same_holder(&old);
    model.follow(&held, 50);
    held.signal(new.server, Signal::KILL);
    model.follow_to_the_next(&mut held).check_same_holder(&old);
}

fn not_taken() {
    let mut held = Held::start(&own_program(), "careless");
    held.begun();
    held.say("put");
    assert_eq!(held.hear(), "put");
    for _ in 0..3 {
        held.say("panic");
        assert_eq!(held.begun().entries.len(), 1);
    }
    held.say("take");
    assert_eq!(held.hear(), "taken once");
}

fn orphaned_child() {
    let mut held = Held::start(&own_program(), "careless");
    let first = held.begun();
    held.say("spawn");
    let spawned = held.hear();
    let pid = spawned.strip_prefix("spawned ").expect("a process id");
    held.signal(first.server, Signal::KILL);
    let second = held.begun();
    held.signal(pid.parse().expect("a number"), Signal::TERM);
    assert_eq!(held.hear(), format!("exit {pid} Some(15)"));
    held.signal(second.server, Signal::KILL);
    held.begun();
}

fn panic_is_a_crash() {
    let mut held = Held::start(&own_program(), "careless");
    let first = held.begun();
    held.say("panic");
    let second = held.begun();
    assert_eq!(second.start, "Crash");
    second.check_same_holder(&first);
}

fn endings() {
    for (word, code) in [("done", 0), ("fail", 1)] {
        let mut held = Held::start(&own_program(), "careless");
        held.begun();
        held.say(word);
        assert_eq!(held.finish().code(), Some(code), "{word}");
    }
}

fn signals() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut held = Held::start(&own_program(), "careless");
        held.begun();
        held.signal(held.id(), signal);
        assert_eq!(held.finish().code(), Some(0), "{signal:?}");
    }
}

fn killed_holder() {
    let mut held = Held::start(&own_program(), "churn");
    let mut model = Model::default();
    let mut before = held.begun();
    for round in 0..5 {
        model.follow(&held, 30 + round);
        held.kill_holder(before.server);
        let next = model.follow_to_the_next(&mut held);
        assert_eq!(next.start, "InPlace");
        next.check_holder(before.server, &before);
        model.follow(&held, 30 + round);
        held.signal(next.server, Signal::KILL);
        let last = model.follow_to_the_next(&mut held);
        assert_eq!(last.start, "Crash");
        last.check_same_holder(&next);
        before = last;
    }
}

fn alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = directory.path().join("server");
    fs::copy(own_program(), &program).expect("copy");
    let mut held = Held::start(&program, "careless");
    let first: Begun = held.begun();
    held.say("put");
    assert_eq!(held.hear(), "put");
    fs::remove_file(&program).expect("remove");
    held.kill_holder(first.server);
    assert_eq!(held.hear(), "unprotected NotFound 0");
    held.say("are you there");
    assert_eq!(held.hear(), format!("{}", first.server));
    fs::copy(own_program(), &program).expect("copy");
    held.say("told");
    assert_eq!(held.hear(), "unprotected Interrupted 0");
    held.say("again");
    let next = held.begun();
    assert_eq!((next.holder, next.entries.len()), (first.server, 1));
    held.say("take");
    assert_eq!(held.hear(), "taken once");
}

/// Xorshift (Marsaglia 2003), so that a failing run can be had again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= 0x9e37_79b9_7f4a_7c15;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
