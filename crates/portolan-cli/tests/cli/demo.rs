//! `portolan demo`.

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
    let left = std::fs::read_dir(temporary).expect("a directory");
    let left: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["bin"], "nothing else is left behind");
}
