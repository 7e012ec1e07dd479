//! `portolan demo`.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::world::World;

#[test]
fn the_demo_tells_the_whole_story_in_ten_seconds() {
    let world = World::of_a_user();
    let temporary = world.path("");
    let start = Instant::now();
    let mut command = world.command(["demo", "--rounds", "500"]);
    let ran = crate::world::ran(command.env("TMPDIR", &temporary).output().expect("demo"));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let log = ran.stderr.clone();
    let story = String::from_utf8(ran.ok()).expect("text");
    let group = "group.portolan.demo";
    for line in [
        "The programs below are locked in (T",
        "is refused: 1100 'Permission denied'",
        "server: group.portolan.demo.server is published",
        "client: sends \"Hello server!\"",
        "client: is told: Hello client!",
        "outsider: group.portolan.demo.server is refused: 1100 'Permission denied'",
        "client: the server said: Hello client! I speak first.",
        "| Unix socket (SOCK_SEQPACKET) |",
        "| Portolan port |",
    ] {
        assert!(story.contains(line), "{line:?} is missing in\n{story}");
    }
    for line in ["mach-register", "mach-lookup", "demo.outsider", group] {
        assert!(
            log.contains(line),
            "{line:?} is missing in the server's log\n{log}"
        );
    }
    assert!(!world.runtime().exists(), "the demo's server is private");
    assert_eq!(left_in(&world), ["bin"], "nothing else is left behind");
}

#[test]
fn a_demo_that_ends_early_leaves_nothing_running() {
    let world = ends_with(|child, output| {
        drop(output);
        let status = child.wait().expect("its end");
        assert_eq!(status.code(), Some(1));
    });
    assert_eq!(left_in(&world), ["bin"]);
    ends_with(|child, output| {
        child.kill().expect("a signal");
        child.wait().expect("its end");
        drop(output);
    });
}

fn left_in(world: &World) -> Vec<OsString> {
    let left = std::fs::read_dir(world.path("")).expect("a directory");
    left.map(|entry| entry.expect("an entry").file_name())
        .collect()
}

fn ends_with(end: impl FnOnce(&mut Child, BufReader<ChildStdout>)) -> World {
    let world = World::of_a_user();
    let mut command = world.command(["demo"]);
    command.env("TMPDIR", world.path(""));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("demo");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut said = String::new();
    while !said.contains("server: serving") {
        let read = output.read_line(&mut said).expect("a line");
        assert!(read > 0, "{said}");
    }
    end(&mut child, output);
    // Each process of the demo has this pipe.
    let mut rest = String::new();
    let mut errors = child.stderr.take().expect("a pipe");
    errors.read_to_string(&mut rest).expect("all have ended");
    assert!(!rest.contains("panicked"), "{rest}");
    world
}
