//! `portolan log`, on files that the test writes in the server's place.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};

use crate::world::{Running, World};

/// A world in which job "a" has written this, and its log.
fn written(text: &str) -> (World, File) {
    let world = World::new();
    let directory = world.runtime().join("log");
    fs::create_dir_all(&directory).expect("directory");
    let mut log = File::create(directory.join("a.log")).expect("file");
    log.write_all(text.as_bytes()).expect("write");
    (world, log)
}

#[test]
fn all_lines_or_the_last() {
    let (world, _log) = written("one\ntwo\nthree\n");
    assert_eq!(world.run(["log", "a"]).ok(), b"one\ntwo\nthree\n");
    assert_eq!(world.run(["log", "-n", "2", "a"]).ok(), b"two\nthree\n");
    assert_eq!(world.run(["log", "-n", "0", "a"]).ok(), b"");
    let missing = world.run(["log", "b"]);
    missing.fails(1, "cannot show the log of b: there is no log at");
}

#[test]
fn what_is_written_later_is_followed() {
    let (world, mut log) = written("one\ntwo\n");
    let mut follower = Running::start(&mut world.command(["log", "-f", "-n", "1", "a"]));
    let stdout = follower.child.stdout.as_mut().expect("stdout");
    let mut read = |expected: &str| {
        let mut text = vec![0; expected.len()];
        stdout.read_exact(&mut text).expect("read");
        assert_eq!(String::from_utf8_lossy(&text), expected);
    };
    read("two\n");
    log.write_all(b"three\n").expect("write");
    read("three\n");
}
