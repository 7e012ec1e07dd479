//! Programs that know the bootstrap server: a shell script, and a service in Rust.

use std::path::PathBuf;

use crate::world::World;
use crate::{eventually, job_file, load, pid, print, signal, wait_until_idle};
use rustix::process::Signal;

/// An example that cargo has built beside the command.
fn example(name: &str) -> PathBuf {
    let command = PathBuf::from(env!("CARGO_BIN_EXE_portolan"));
    let path = command.with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    path
}

#[test]
fn a_shell_script_serves_from_the_first_message_on() {
    let world = World::new();
    let command = env!("CARGO_BIN_EXE_portolan");
    let script = format!("#!/bin/sh\nexec {command} serve test.upper -- tr a-z A-Z\n");
    let script = job_file(&world, "upper.sh", &script);
    let job = format!(
        "Label = 'test.upper'\nProgramArguments = ['/bin/sh', '{}']\n\
         MachServices.'test.upper' = true\n",
        script.display()
    );
    load(&world, "upper.toml", &job).ok();
    world.run(["lookup", "test.upper"]).ok();
    assert_eq!(pid(&world, "test.upper"), None, "a look-up starts nothing");
    for round in 1..=3 {
        assert_eq!(world.feed(["call", "test.upper"], b"hello").ok(), b"HELLO");
        let running = pid(&world, "test.upper").expect("it runs");
        assert_eq!(print(&world, "test.upper")["runs"], round);
        signal(running, Signal::KILL);
        eventually("its end", || {
            (pid(&world, "test.upper") != Some(running)).then_some(())
        });
    }
}

#[test]
fn messages_wait_for_a_script_that_is_not_there_yet() {
    let world = World::new();
    let script = world.path("late.sh");
    let job = format!(
        "Label = 'test.late'\nProgramArguments = ['{}']\nMachServices.'test.late' = true\n",
        script.display()
    );
    load(&world, "late.toml", &job).ok();
    let says = format!(
        "job test.late cannot execute {}: No such file or directory",
        script.display()
    );
    world.run(["call", "test.late"]).fails(6, &says);
    assert_eq!(
        print(&world, "test.late")["last_exit"]["kind"],
        "not_started"
    );
    let command = env!("CARGO_BIN_EXE_portolan");
    let text = format!("#!/bin/sh\nexec {command} serve test.late --echo\n");
    // It appears as a whole and executable, as an installed program does.
    let fresh = job_file(&world, "fresh.sh", &text);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&fresh, executable).expect("permissions");
    std::fs::rename(fresh, script).expect("rename");
    let answer = eventually("an answer", || {
        let ran = world.feed(["call", "test.late"], b"now");
        (ran.code == Some(0)).then_some(ran.stdout)
    });
    assert_eq!(answer, b"now");
}

#[test]
fn a_rust_service_ends_when_it_is_idle_and_keeps_nobody_waiting() {
    let world = World::new();
    let job = format!(
        "Label = 'test.counter'\nProgram = '{}'\nMachServices.'org.example.counter' = true\n",
        example("on-demand").display()
    );
    load(&world, "counter.toml", &job).ok();
    let count = || {
        let answer = world.run(["call", "org.example.counter"]).ok();
        let text = String::from_utf8(answer).expect("text");
        text.trim().parse::<u32>().expect("a number")
    };
    // How many it serves before it is idle depends on the machine, and none may be lost.
    let answers: Vec<_> = (0..40).map(|_| count()).collect();
    for pair in answers.windows(2) {
        assert!(pair[1] == pair[0] + 1 || pair[1] == 1, "{answers:?}");
    }
    wait_until_idle(&world, "test.counter");
    let runs = print(&world, "test.counter")["runs"].as_u64();
    assert_eq!(count(), 1, "the next instance");
    assert_eq!(print(&world, "test.counter")["failures"], 0);
    assert_eq!(
        print(&world, "test.counter")["runs"].as_u64(),
        runs.map(|runs| runs + 1)
    );
}
