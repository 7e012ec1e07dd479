//! `portolan run`: programs that are known by their entitlements.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;

use portolan::bootstrap::Bootstrap;
use portolan::{BootstrapCode, SendRight, Timeout};
use portolan_testkit::usage::children;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::world::{Running, World, ran, wait_for_line};

const GROUP: &str = "\"com.apple.security.app-sandbox\" = true\n\
                     \"com.apple.security.application-groups\" = [\"group.a\"]\n";

/// Runs a shell script in the command's place, confined.
fn script(world: &World, entitlements: &str, script: &str) -> crate::world::Ran {
    let mut command = world.confined("best", &world.entitlements(entitlements));
    ran(command.args(["sh", "-c", script]).output().expect("run"))
}

#[test]
fn a_member_of_the_group_publishes_and_calls_names_of_the_group() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let ran = script(&world, GROUP, "echo hello | $portolan call group.a.echo");
    assert!(ran.stderr.contains("locked in (T"), "{}", ran.stderr);
    assert_eq!(ran.ok(), b"hello\n");
}

#[test]
fn s69_names_outside_the_group_are_refused() {
    let world = World::of_a_user();
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
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "outside.exists"]);
    script(&world, GROUP, "$portolan lookup outside.exists").fails(4, "Permission denied (1100)");
    script(&world, GROUP, "$portolan lookup outside.missing").fails(4, "Permission denied (1100)");
    let list = String::from_utf8(script(&world, GROUP, "$portolan list").ok()).expect("text");
    assert!(!list.contains("outside.exists"), "{list}");
}

#[test]
fn s71_exceptions_match_as_their_kind_does() {
    let world = World::of_a_user();
    let entitlements = "\"com.apple.security.app-sandbox\" = true\n\
        \"com.apple.security.temporary-exception.mach-register.global-name\" = \"a.b*\"\n\
        \"com.apple.security.temporary-exception.mach-lookup.global-name\" = [\"a.b*\"]\n";
    for name in ["a.b", "a.bc"] {
        let serve = format!("exec $portolan serve --echo {name}");
        let mut command = world.confined("best", &world.entitlements(entitlements));
        let running = Running::serving(command.args(["sh", "-c", &serve]));
        assert_eq!(world.feed(["call", name], b"x").ok(), b"x");
        running.kill();
        script(&world, entitlements, &format!("$portolan lookup {name}"))
            .fails(4, "Permission denied (1100)");
    }
    script(&world, entitlements, "$portolan lookup 'a.b*'").fails(3, "Unknown service name");
}

#[test]
fn s73_a_program_that_is_not_sandboxed_may_use_any_name() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "any.name.at.all"]);
    let without = "\"com.apple.security.application-groups\" = [\"group.a\"]\n";
    script(&world, without, "$portolan lookup any.name.at.all").ok();
}

#[test]
fn a_confined_program_can_neither_end_the_server_nor_make_itself_another_identity() {
    let world = World::of_a_user();
    world.run(["list"]).ok();
    script(&world, GROUP, "$portolan shutdown").fails(4, "Permission denied (1100)");
    script(
        &world,
        GROUP,
        ": > $HOME/free.toml; $portolan run --entitlements $HOME/free.toml -- true",
    )
    .fails(4, "Permission denied (1100)");
}

/// Without its inherited right it would be a program that is not confined, but for the wall.
#[test]
fn a_confined_program_does_not_reach_the_door_that_all_share() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "any.name.at.all"]);
    let around = "unset PORTOLAN_BOOTSTRAP_FD; $portolan lookup any.name.at.all";
    let ran = script(&world, GROUP, around);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
}

/// Statement 6 with a real server: an exception for the directory of its socket grants nothing there.
#[test]
fn w06_an_exception_does_not_lead_to_the_servers_socket() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let runtime = world.runtime();
    let socket = runtime.join("bootstrap");
    let granted = format!(
        "{GROUP}\"com.apple.security.temporary-exception.files.absolute-path.read-write\" = \
         [\"{0}/\", \"{0}/bootstrap\"]\n",
        runtime.display()
    );
    let connect = format!(
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect({socket:?})"
    );
    for isolation in ["T1", "best"] {
        let file = world.write("entitlements.toml", &granted);
        let mut command = world.confined(isolation, &file);
        let ran = ran(command
            .args(["python3", "-c", &connect])
            .output()
            .expect("run"));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("is not granted"), "{}", ran.stderr);
        assert!(ran.stderr.contains("Error: [Errno"), "{}", ran.stderr);
    }
}

#[test]
fn a_program_that_inherits_is_what_its_parent_is() {
    const INHERIT: &str = "\"com.apple.security.app-sandbox\" = true\n\
                           \"com.apple.security.inherit\" = true\n";
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let secret = world.write("secret", "secret");
    for isolation in ["T1", "best"] {
        let script = format!(
            "printf '%s' '{INHERIT}' > $HOME/inherit.toml
             exec $portolan run --entitlements $HOME/inherit.toml -- sh -c '\
             echo hello | $portolan call group.a.echo; cd $HOME && ls inherit.toml
             $portolan lookup outside; cat {}'",
            secret.display()
        );
        let mut command = world.confined(isolation, &world.entitlements(GROUP));
        let ran = ran(command.args(["sh", "-c", &script]).output().expect("run"));
        assert_eq!(ran.stdout, b"hello\ninherit.toml\n", "{}", ran.stderr);
        assert!(ran.stderr.contains("(1100)"), "{}", ran.stderr);
        assert!(ran.stderr.contains("cat: "), "{}", ran.stderr);
    }
    let file = world.write(
        "inherit.toml",
        INHERIT.replace("\\n", "\n").replace('\\', ""),
    );
    let file = file.to_str().expect("path");
    let ran = world.run(["run", "--entitlements", file, "--", "true"]);
    ran.fails(78, "who starts the program is not confined");
}

#[test]
fn what_has_no_effect_is_said_when_a_program_is_run() {
    let world = World::of_a_user();
    let text = format!("{GROUP}\"com.apple.security.files.user-selected.read-only\" = true\n");
    let ran = script(&world, &text, "true");
    let said = "com.apple.security.files.user-selected.read-only has no effect";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let relative =
        "\"com.apple.security.temporary-exception.files.absolute-path.read-only\" = \"x\"";
    let file = world.write("wrong.toml", format!("{GROUP}{relative}\n"));
    let ran = world.run([
        "run",
        "--entitlements",
        file.to_str().expect("path"),
        "--",
        "true",
    ]);
    ran.fails(78, "wrong.toml:3:1");
}

#[test]
fn a_confined_program_has_its_container_for_a_home() {
    let world = World::of_a_user();
    world.write("secret", "x");
    let secret = world.path("secret");
    for isolation in ["T1", "best"] {
        let file = world.write("entitlements.toml", GROUP);
        let script = format!("echo kept > $HOME/file; cat {}", secret.display());
        let mut command = world.confined(isolation, &file);
        let ran = ran(command.args(["sh", "-c", &script]).output().expect("run"));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        let kept = "data/portolan/Containers/test.app/Data/file";
        let kept = std::fs::read_to_string(world.path(kept)).expect("it was written");
        assert_eq!(kept, "kept\n");
    }
}

#[test]
fn root_confines_no_programs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    let file = world.write("entitlements.toml", GROUP);
    let file = file.to_str().expect("path");
    let ran = world.run(["run", "--entitlements", file, "--", "true"]);
    ran.fails(78, "a user that is not root");
}

#[test]
fn the_children_of_a_confined_program_share_its_right_and_not_its_answers() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "group.a.echo"]);
    let many = "for k in 1 2 3 4 5 6 7 8; do (echo $k | $portolan call group.a.echo) & done; wait";
    let answers = String::from_utf8(script(&world, GROUP, many).ok()).expect("text");
    let mut answers: Vec<_> = answers.lines().collect();
    answers.sort_unstable();
    assert_eq!(answers, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn w23_the_right_of_a_confined_program_is_refused_to_another_process() {
    let world = World::of_a_user();
    let mut command = world.confined("best", &world.entitlements(GROUP));
    command.args(["sh", "-c", "echo ready >&2; exec sleep 1000"]);
    let mut program = Running::start(&mut command);
    wait_for_line(&mut program.child, "ready");
    let right = right_of(last_descendant(program.pid()));
    let right = SendRight::from_socket(right).expect("its right");
    let bootstrap = Bootstrap::from_right(right.copy(Timeout::NEVER).expect("a copy"));
    let name = "group.a.x".parse().expect("a name");
    let refused = bootstrap.look_up(&name).expect_err("it is another's");
    assert_eq!(refused.code(), Some(BootstrapCode::NOT_PRIVILEGED));
    let log = world.log();
    let line = "uses the bootstrap right of test.app: refused";
    assert!(log.contains(line), "{log}");
}

/// The bootstrap right of a process.
fn right_of(pid: u32) -> OwnedFd {
    // A process has no environment in the middle of an exec.
    let number = loop {
        match number_of_right(pid) {
            Some(number) => break number,
            None => std::thread::yield_now(),
        }
    };
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let right = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty());
    right.expect("its right")
}

fn number_of_right(pid: u32) -> Option<i32> {
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("/proc");
    let mut variables = environment
        .split('\0')
        .filter_map(|one| one.split_once('='));
    let number = variables.find(|(name, _)| *name == "PORTOLAN_BOOTSTRAP_FD")?;
    number.1.parse().ok()
}

#[test]
fn w23_the_group_of_a_confined_program_is_not_the_program() {
    let world = World::of_a_user();
    let mut command = world.confined("best", &world.entitlements(GROUP));
    command.args(["sh", "-c", "echo ready >&2; exec sleep 1000"]);
    let mut program = Running::start(command.process_group(0));
    wait_for_line(&mut program.child, "ready");
    let group = program.pid().cast_signed();
    let mut neighbour = world.command(["list"]);
    neighbour
        .process_group(group)
        .stdin(right_of(last_descendant(program.pid())));
    let neighbour = neighbour.env("PORTOLAN_BOOTSTRAP_FD", "0");
    ran(neighbour.output().expect("run")).fails(4, "another program's");
}

/// A daemon has left its parents, its session and its group, and is known by what it was given.
#[test]
fn w23_the_daemons_of_a_confined_program_use_its_right() {
    let world = World::of_a_user();
    let daemon = "while kill -0 $0 2> /dev/null; do :; done; $portolan list; echo code $? >&2";
    let script = "sh -c 'setsid sh -c \"$daemon\" $$ &'";
    let mut command = world.confined("T1", &world.entitlements(GROUP));
    command.args(["sh", "-c", script]).env("daemon", daemon);
    let mut program = Running::start(&mut command);
    wait_for_line(&mut program.child, "code 0");
}

/// The process that has been started last of all that come of this one.
fn last_descendant(pid: u32) -> u32 {
    children(pid).last().copied().map_or(pid, last_descendant)
}

#[test]
fn the_command_alone_confines_programs() {
    let world = World::of_a_user();
    std::fs::remove_file(world.path("bin/portolan-launch")).expect("the launcher's copy");
    let ran = script(&world, GROUP, "echo $HOME; cat /etc/shadow");
    assert!(ran.stderr.contains("locked in (T"), "{}", ran.stderr);
    let home = String::from_utf8(ran.stdout).expect("text");
    assert!(home.ends_with("/Containers/test.app/Data\n"), "{home}");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    // The self-test starts it by another way.
    let prober = world.program().with_file_name("portolan-probe");
    let built = std::path::Path::new(env!("CARGO_BIN_EXE_portolan"));
    std::fs::copy(built.with_file_name("portolan-probe"), prober).expect("a prober");
    world.run(["sandbox", "selftest", "choose_signal"]).ok();
}
