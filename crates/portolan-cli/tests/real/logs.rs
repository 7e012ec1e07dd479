//! What jobs write, with readers that do not read, and servers and jobs that are killed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;

use portolan_testkit::usage::children;
use rustix::process::Signal;

use crate::world::{Running, World};
use crate::{eventually, load, pid, print, signal, wait_until_idle};

/// Loads a job that runs a shell script once, when it is told to.
fn load_script(world: &World, label: &str, script: &str) {
    let job = format!("Label = '{label}'\nProgramArguments = ['sh', '-c', '''{script}''']\n");
    load(world, &format!("{label}.toml"), &job).ok();
}

fn log(world: &World, label: &str) -> String {
    String::from_utf8(world.run(["log", label]).ok()).expect("text")
}

/// The server that this holder holds at the moment.
fn server_of(holder: u32) -> Option<u64> {
    let command = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).ok();
    let own = command(holder)?;
    let mut children = children(holder).into_iter();
    children
        .find(|pid| command(*pid).as_ref() == Some(&own))
        .map(u64::from)
}

#[test]
fn a_reader_that_never_reads_blocks_nobody() {
    let world = World::new();
    load_script(
        &world,
        "test.noisy",
        "yes 0123456789abcdef0123456789abcde | head -c 50000000",
    );
    load_script(&world, "test.quiet", "echo quiet");
    world.run(["kickstart", "test.quiet"]).ok();
    wait_until_idle(&world, "test.quiet");
    world
        .run(["kickstart", "--timeout", "0", "test.noisy"])
        .ok();
    eventually("the first line", || {
        (world.run(["log", "-n", "1", "test.noisy"]).code == Some(0)).then_some(())
    });
    // Its output is a pipe that nobody empties.
    let _reader = Running::start(&mut world.command(["log", "-f", "test.noisy"]));
    // Others are served meanwhile.
    world.run(["kickstart", "test.quiet"]).ok();
    wait_until_idle(&world, "test.noisy");
    assert_eq!(print(&world, "test.noisy")["last_exit"]["status"], 0);
    let directory = world.runtime().join("log");
    let files = fs::read_dir(directory).expect("files");
    let sizes = files.map(|file| file.expect("a file").metadata().expect("a size").len());
    let kept: u64 = sizes.sum();
    assert!(
        (3 << 20..5 << 20).contains(&kept),
        "{kept} bytes are kept of 50 MB"
    );
}

#[test]
fn no_line_is_lost_when_the_server_is_killed() {
    let world = World::new();
    let holder = Running::start(&mut world.command(["bootstrap"]));
    eventually("the server", || {
        world.runtime().join("bootstrap").exists().then_some(())
    });
    // Each line is written in two pieces, and the last number into a file.
    let (stop, count) = (world.path("stop"), world.path("count"));
    let script = format!(
        "i=0; while [ ! -e {} ]; do printf num; echo \"ber $i\"; i=$((i+1)); done; echo $i > {}",
        stop.display(),
        count.display()
    );
    load_script(&world, "test.count", &script);
    world.run(["kickstart", "test.count"]).ok();
    for _ in 0..8 {
        let server = eventually("a server", || server_of(holder.pid()));
        // It has to come to something between two kills.
        print(&world, "test.count");
        signal(server, Signal::KILL);
        let other = || server_of(holder.pid()).filter(|next| *next != server);
        eventually("the next server", other);
    }
    assert!(pid(&world, "test.count").is_some(), "it was not disturbed");
    fs::write(&stop, "").expect("write");
    wait_until_idle(&world, "test.count");
    let lines = fs::read_to_string(&count).expect("a count");
    let lines: usize = lines.trim().parse().expect("a number");
    // A line may be there twice, if the server was killed right after it was written.
    let log = log(&world, "test.count");
    let mut next = 0;
    // One whose second piece came late is in two.
    for number in log.lines().filter_map(|line| line.split_once("ber ")) {
        let number: usize = number.1.parse().expect("a whole line");
        assert!(number <= next, "line {next} is missing");
        next = next.max(number + 1);
    }
    assert_eq!(next, lines);
    world.run(["shutdown"]).ok();
    assert_eq!(holder.finish().code, Some(0));
}

#[test]
fn what_a_job_wrote_before_it_was_killed_is_there_with_its_unfinished_line() {
    let world = World::new();
    load_script(
        &world,
        "test.crash",
        "seq 1 5000; printf \"and the beginning of a li\"; kill -KILL $$",
    );
    world
        .run(["kickstart", "--timeout", "0", "test.crash"])
        .ok();
    let log = eventually("its end", || {
        let log = world.run(["log", "test.crash"]);
        let text = String::from_utf8(log.stdout).expect("text");
        text.contains("signal 9").then_some(text)
    });
    let said: Vec<_> = log
        .lines()
        .filter_map(|line| {
            let (_, said) = line.split_once(": ")?;
            (!line.contains(" portoland: ")).then_some(said)
        })
        .collect();
    let mut expected: Vec<_> = (1..=5000).map(|number: u32| number.to_string()).collect();
    expected.push("and the beginning of a li".to_owned());
    assert_eq!(said, expected);
    let end = log.lines().last().expect("the last line");
    assert!(end.contains("signal 9"), "{end}");
}

#[test]
fn a_follower_sees_every_line_across_files_that_are_put_away() {
    const LINES: usize = 60_000;
    let world = World::new();
    load_script(&world, "test.long", "echo begin");
    world.run(["kickstart", "test.long"]).ok();
    wait_until_idle(&world, "test.long");
    world.run(["unload", "test.long"]).ok();
    let script = format!("i=0; while [ $i -lt {LINES} ]; do echo \"number $i\"; i=$((i+1)); done");
    load_script(&world, "test.long", &script);
    let mut follower = Running::start(&mut world.command(["log", "-f", "-n", "0", "test.long"]));
    let stdout = follower.child.stdout.take().expect("stdout");
    world.run(["kickstart", "--timeout", "0", "test.long"]).ok();
    let mut expected = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("text");
        if let Some((_, number)) = line.split_once(" number ") {
            assert_eq!(number, expected.to_string());
            expected += 1;
        }
        if expected == LINES {
            break;
        }
    }
    assert_eq!(expected, LINES);
    assert_eq!(follower.kill().signal(), Some(9));
    let first = world.runtime().join("log/test.long.log.1");
    assert!(first.exists(), "no file was put away");
}
