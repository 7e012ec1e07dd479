//! `portolan run`: programs that are known by their entitlements.

use crate::world::{World, ran};

const GROUP: &str = "\"com.apple.security.app-sandbox\" = true\n\
                     \"com.apple.security.application-groups\" = [\"group.a\"]\n";

/// Runs a shell script in the command's place, confined.
fn script(world: &World, entitlements: &str, script: &str) -> crate::world::Ran {
    let file = world.write("entitlements.toml", entitlements);
    let portolan = env!("CARGO_BIN_EXE_portolan");
    let file = file.to_str().expect("path");
    let command = [
        "run",
        "--entitlements",
        file,
        "--label",
        "test.app",
        "--",
        "sh",
        "-c",
        script,
    ];
    ran(world
        .command(command)
        .env("portolan", portolan)
        .output()
        .expect("run"))
}

#[test]
fn a_member_of_the_group_publishes_and_calls_names_of_the_group() {
    let world = World::new();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let ran = script(&world, GROUP, "echo hello | $portolan call group.a.echo");
    assert!(ran.stderr.contains("not locked in"), "{}", ran.stderr);
    assert_eq!(ran.ok(), b"hello\n");
}

#[test]
fn s69_names_outside_the_group_are_refused() {
    let world = World::new();
    for name in [
        "group.a",
        "group.ax",
        "other.group.a.x",
        "E030B15B-3EC6-4A21-A415-668AD0CB1B52",
    ] {
        let serve = format!("$portolan serve --echo {name}");
        script(&world, GROUP, &serve).fails(4, "Permission denied (1100)");
    }
    let log = world.log();
    for part in [
        "test.app",
        "mach-register",
        "other.group.a.x",
        "application-groups",
    ] {
        assert!(log.contains(part), "{part:?} is missing in {log}");
    }
}

#[test]
fn s70_existing_and_missing_names_are_refused_alike() {
    let world = World::new();
    let _server = world.serve(["--echo", "outside.exists"]);
    script(&world, GROUP, "$portolan lookup outside.exists").fails(4, "Permission denied (1100)");
    script(&world, GROUP, "$portolan lookup outside.missing").fails(4, "Permission denied (1100)");
    let list = String::from_utf8(script(&world, GROUP, "$portolan list").ok()).expect("text");
    assert!(!list.contains("outside.exists"), "{list}");
}

#[test]
fn s71_exceptions_match_as_their_kind_does() {
    let world = World::new();
    let entitlements = "\"com.apple.security.app-sandbox\" = true\n\
        \"com.apple.security.temporary-exception.mach-register.global-name\" = \"a.b*\"\n\
        \"com.apple.security.temporary-exception.mach-lookup.global-name\" = [\"a.b*\"]\n";
    for name in ["a.b", "a.bc"] {
        let serve = format!("exec $portolan serve --echo {name}");
        let file = world.write("entitlements.toml", entitlements);
        let arguments = [
            "run",
            "--entitlements",
            file.to_str().expect("path"),
            "--",
            "sh",
            "-c",
            &serve,
        ];
        let portolan = env!("CARGO_BIN_EXE_portolan");
        let mut command = world.command(arguments);
        let running = crate::world::Running::serving(command.env("portolan", portolan));
        assert_eq!(world.feed(["call", name], b"x").ok(), b"x");
        running.kill();
        script(&world, entitlements, &format!("$portolan lookup {name}"))
            .fails(4, "Permission denied (1100)");
    }
    script(&world, entitlements, "$portolan lookup 'a.b*'").fails(3, "Unknown service name");
}

#[test]
fn s73_a_program_that_is_not_sandboxed_may_use_any_name() {
    let world = World::new();
    let _server = world.serve(["--echo", "any.name.at.all"]);
    let without = "\"com.apple.security.application-groups\" = [\"group.a\"]\n";
    script(&world, without, "$portolan lookup any.name.at.all").ok();
}

#[test]
fn a_confined_program_can_neither_end_the_server_nor_make_itself_another_identity() {
    let world = World::new();
    world.run(["list"]).ok();
    script(&world, GROUP, "$portolan shutdown").fails(4, "Permission denied (1100)");
    let free = world.write("free.toml", "");
    // Without its inherited right it would be a program that is not confined: locking it in at the
    // operating system is what keeps it from that.
    script(
        &world,
        GROUP,
        &format!("$portolan run --entitlements {} -- true", free.display()),
    )
    .fails(4, "Permission denied (1100)");
}

#[test]
fn the_children_of_a_confined_program_share_its_right_and_not_its_answers() {
    let world = World::new();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let many = "for k in 1 2 3 4 5 6 7 8; do (echo $k | $portolan call group.a.echo) & done; wait";
    let answers = String::from_utf8(script(&world, GROUP, many).ok()).expect("text");
    let mut answers: Vec<_> = answers.lines().collect();
    answers.sort_unstable();
    assert_eq!(answers, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}
