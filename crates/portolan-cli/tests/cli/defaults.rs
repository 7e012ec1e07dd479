//! `portolan defaults`.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use serde_json::json;

use crate::world::{Running, World, wait_for_line};

const GROUP: &str = "group.a";

fn container(world: &World) -> PathBuf {
    world.path("data/portolan/Group Containers/group.a")
}

fn read_json(world: &World) -> serde_json::Value {
    let text = world.run(["defaults", "read", "--json", GROUP]).ok();
    serde_json::from_slice(&text).expect("JSON")
}

fn write(world: &World, key: &str, value: &[&str]) {
    let arguments = [&["defaults", "write", GROUP, key], value].concat();
    crate::world::ran(world.command(arguments).output().expect("run")).ok();
}

#[test]
fn each_kind_is_written_and_read() {
    let world = World::new();
    assert_eq!(read_json(&world), json!({}));
    assert!(!container(&world).exists(), "made without need");
    write(&world, "text", &["-3 of\tthem"]);
    write(&world, "string", &["-string", "-int"]);
    write(&world, "int", &["-int", "-3"]);
    write(&world, "float", &["-float", "2"]);
    write(&world, "bool", &["-bool", "YES"]);
    write(&world, "data", &["-data", "00fF"]);
    write(&world, "date", &["-date", "2026-03-01T12:00:00Z"]);
    write(&world, "array", &["-array", "a", "-int", "1"]);
    write(&world, "none", &["-array"]);
    write(&world, "dict", &["-dict", "k", "-bool", "no", "l", "m"]);
    write(&world, "deep", &["--json", r#"{"a": [1, {"b": 0.5}]}"#]);

    let expected = json!({
        "text": "-3 of\tthem", "string": "-int", "int": -3, "float": 2.0, "bool": true,
        "data": "00ff", "date": "2026-03-01T12:00:00Z", "array": ["a", 1], "none": [],
        "dict": {"k": false, "l": "m"}, "deep": {"a": [1, {"b": 0.5}]},
    });
    assert_eq!(read_json(&world), expected);
    let lines = "array = [\"a\",1]\nbool = true\ndata = <00ff>\ndate = 2026-03-01T12:00:00Z\n\
                 deep = {\"a\":[1,{\"b\":0.5}]}\ndict = {\"k\":false,\"l\":\"m\"}\nfloat = 2.0\nint = -3\n\
                 none = []\nstring = \"-int\"\ntext = \"-3 of\\tthem\"\n";
    let read = world.run(["defaults", "read", GROUP]).ok();
    assert_eq!(String::from_utf8_lossy(&read), lines);
    assert_eq!(
        world.run(["defaults", "read", GROUP, "text"]).ok(),
        b"-3 of\tthem\n"
    );
    assert_eq!(
        world
            .run(["defaults", "read", "--json", GROUP, "text"])
            .ok(),
        b"\"-3 of\\tthem\"\n"
    );
}

#[test]
fn the_folders_are_this_users_alone() {
    let world = World::new();
    write(&world, "k", &["v"]);
    let preferences = container(&world).join("Library/Preferences");
    for path in [&container(&world), &preferences] {
        let mode = fs::metadata(path).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    let file = preferences.join("group.a.defaults");
    let mode = fs::metadata(file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_deleted_is_gone() {
    let world = World::new();
    write(&world, "a", &["1"]);
    write(&world, "b", &["2"]);
    write(&world, "c", &["3"]);
    world.run(["defaults", "delete", GROUP, "a"]).ok();
    let missing = "group.a has no value for \"a\"";
    world
        .run(["defaults", "delete", GROUP, "a"])
        .fails(3, missing);
    world
        .run(["defaults", "read", GROUP, "a"])
        .fails(3, missing);
    assert_eq!(read_json(&world), json!({"b": "2", "c": "3"}));
    world.run(["defaults", "delete", GROUP]).ok();
    assert_eq!(read_json(&world), json!({}));
}

#[test]
fn a_value_that_is_none_is_refused() {
    let world = World::new();
    for (value, says) in [
        (&["-int", "x"][..], "\"x\" is not what -int takes"),
        (&["-int"], "a value is missing"),
        (&["-data", "0"], "is not what -data takes"),
        (&["-date", "today"], "is not what -date takes"),
        (&["-dict", "k"], "a value is missing"),
        (&["-array", "-array"], "-array is no kind of value here"),
        (&["-strnig", "x"], "-strnig is no kind of value here"),
        (&["a", "b"], "\"b\" follows the value"),
        (&["--json", "{"], "not JSON"),
        (&["--json", "[null]"], "null is no value"),
    ] {
        let arguments = [&["defaults", "write", GROUP, "k"], value].concat();
        let output = world.command(arguments).output().expect("run");
        crate::world::ran(output).fails(2, says);
    }
    assert_eq!(read_json(&world), json!({}));
    let own = world.run(["defaults", "read", "NSGlobalDomain"]);
    own.fails(2, "an application group id is");
}

#[test]
fn a_file_that_is_none_is_refused_and_can_be_deleted() {
    let world = World::new();
    write(&world, "k", &["v"]);
    let file = container(&world).join("Library/Preferences/group.a.defaults");
    fs::write(&file, "junk").expect("write");
    let read = world.run(["defaults", "read", GROUP]);
    read.fails(
        1,
        "the file of the group's defaults is broken: not a file of defaults",
    );
    let written = world.run(["defaults", "write", GROUP, "k", "w"]);
    written.fails(1, "is not set: the file of the group's defaults is broken");
    assert_eq!(fs::read(&file).expect("read"), b"junk");
    world.run(["defaults", "delete", GROUP]).ok();
    assert_eq!(read_json(&world), json!({}));
}

#[test]
fn a_link_on_the_way_is_not_followed() {
    let world = World::new();
    write(&world, "k", &["v"]);
    let library = container(&world).join("Library");
    fs::rename(&library, world.path("moved")).expect("rename");
    symlink(world.path("moved"), &library).expect("link");
    let says = "a folder of the group's container is a link";
    world.run(["defaults", "read", GROUP]).fails(1, says);
    world
        .run(["defaults", "write", GROUP, "k", "w"])
        .fails(1, says);
    fs::remove_file(&library).expect("remove");
    fs::rename(world.path("moved"), &library).expect("rename");
    fs::set_permissions(library.join("Preferences"), Permissions::from_mode(0o777)).expect("chmod");
    world.run(["defaults", "read", GROUP]).fails(1, says);
}

#[test]
fn changes_are_watched() {
    let world = World::new();
    let watch = ["defaults", "watch", "-n", "3", GROUP];
    let mut all = Running::start(&mut world.command(watch));
    let watch = ["defaults", "watch", "--json", "-n", "2", GROUP, "b"];
    let mut one = Running::start(&mut world.command(watch));
    for watcher in [&mut all, &mut one] {
        wait_for_line(&mut watcher.child, "watching group.a");
    }
    write(&world, "a\n", &["-int", "1"]);
    write(&world, "b", &["two"]);
    world.run(["defaults", "delete", GROUP, "b"]).ok();
    let told = all.finish().ok();
    assert_eq!(
        String::from_utf8_lossy(&told),
        "a\\n = 1\nb = \"two\"\nb removed\n"
    );
    let told = one.finish().ok();
    let expected = "{\"key\":\"b\",\"value\":\"two\"}\n{\"key\":\"b\",\"value\":null}\n";
    assert_eq!(String::from_utf8_lossy(&told), expected);
}

/// A confined member finds its watchers, and those of others find it, by names of the group alone.
#[test]
fn confined_members_watch_each_other() {
    let world = World::of_a_user();
    let entitlements = "\"com.apple.security.app-sandbox\" = true\n\
                        \"com.apple.security.application-groups\" = [\"group.a\"]\n";
    let entitlements = world.write("entitlements.toml", entitlements);
    let confined = |isolation, arguments: &[&str]| {
        let entitlements = entitlements.to_str().expect("a path");
        let portolan = world.program().to_str().expect("a path");
        let run = [
            "run",
            "--isolation",
            isolation,
            "--entitlements",
            entitlements,
            "--",
            portolan,
            "defaults",
        ];
        world.command([&run, arguments].concat())
    };
    let mut watcher = Running::start(&mut confined("T1", &["watch", "-n", "2", GROUP]));
    wait_for_line(&mut watcher.child, "watching group.a");
    let written = confined("best", &["write", GROUP, "k", "1"]).output();
    crate::world::ran(written.expect("run")).ok();
    write(&world, "k", &["2"]);
    let mut lines = BufReader::new(watcher.child.stdout.take().expect("stdout")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!([line(), line()], ["k = \"1\"", "k = \"2\""]);

    for isolation in ["T1", "best"] {
        let outside = confined(isolation, &["watch", "group.b"]).output();
        crate::world::ran(outside.expect("run")).fails(4, "the watcher's name cannot be published");
        let outside = confined(isolation, &["write", "group.b", "k", "1"]).output();
        crate::world::ran(outside.expect("run")).fails(1, "is not set");
    }
}
