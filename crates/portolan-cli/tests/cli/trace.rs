//! `portolan run --trace`: with what is printed a program works, and without it does not.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use crate::world::{Ran, Running, World, ran, wait_for_line};

const TIERS: [&str; 2] = ["T1", "best"];

fn traced(world: &World, program: &[&str]) -> (Ran, String) {
    let learned = world.path("learned.toml");
    let mut command = world.command(["run", "--label", "test.app", "--trace", "--output"]);
    command.arg(&learned).arg("--").args(program);
    let command = command.env("portolan", world.program());
    let ran = ran(command.output().expect("run"));
    let text = fs::read_to_string(learned);
    (ran, text.unwrap_or_default())
}

fn confined(world: &World, entitlements: &str, isolation: &str, program: &[&str]) -> Ran {
    let file = world.write("entitlements.toml", entitlements);
    let mut command = world.confined(isolation, &file);
    ran(command.args(program).output().expect("run"))
}

/// The text without each of the values of an entitlement that has several, and without each of the
/// others.
fn reduced(entitlements: &str) -> Vec<String> {
    let lines: Vec<_> = entitlements.lines().collect();
    let is_one =
        |line: &&str| line.starts_with("    ") || line.ends_with("true") || line.ends_with("\"]");
    let without = |left_out: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != left_out);
        kept.flat_map(|(_, line)| [line, "\n"]).collect()
    };
    let ones = lines.iter().enumerate().filter(|(_, line)| is_one(line));
    let ones = ones.filter(|(_, line)| !line.contains("app-sandbox"));
    ones.map(|(at, _)| without(at)).collect()
}

/// A directory of the user's.
fn directory(world: &World, name: &str) -> PathBuf {
    let path = world.path(name);
    fs::create_dir(&path).expect("mkdir");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).expect("chown");
    }
    path
}

/// A server that says one byte to whoever connects, for as long as the test runs.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"x").ok();
        }
    });
    port
}

fn works_with_exactly(world: &World, learned: &str, program: &[&str], expected: &[u8]) {
    for isolation in TIERS {
        let ran = confined(world, learned, isolation, program);
        assert_eq!(ran.code, Some(0), "{}\n{learned}", ran.stderr);
        assert_eq!(ran.stdout, expected);
        for less in reduced(learned) {
            let ran = confined(world, &less, isolation, program);
            assert_ne!(ran.code, Some(0), "it works with less: {less}");
        }
    }
}

#[test]
fn what_a_shell_script_needs_is_learned() {
    let world = World::of_a_user();
    let _server = world.serve(["--echo", "org.example.echo"]);
    let _member = world.serve(["--echo", "group.test.echo"]);
    let (read, written) = (directory(&world, "read"), directory(&world, "written"));
    fs::write(read.join("in"), "text\n").expect("write");
    let (read, written) = (read.display(), written.display());
    let script = format!(
        "set -e\n\
         cat {read}/in\n\
         cat {read}/in > {written}/out\n\
         rm {written}/out\n\
         echo kept > \"$HOME/kept\"; cat \"$HOME/kept\"; ls /usr > /dev/null\n\
         test ! -e {read}/none || cat {read}/none\n\
         cat {read}/none 2> /dev/null || true\n\
         echo a | \"$portolan\" call org.example.echo\n\
         echo b | \"$portolan\" call group.test.echo\n"
    );
    let file = world.write("script", script);
    let program = ["sh", file.to_str().expect("path")];
    let (ran, learned) = traced(&world, &program);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = b"text\nkept\na\nb\n";
    assert_eq!(ran.stdout, expected);
    for part in [
        "mach-lookup.global-name\" = [\"org.example.echo\"]",
        "application-groups\" = [\"group.test\"]",
        "home-relative-path.read-write\" = [\"/written/\"]",
        "\"/read/in\"",
    ] {
        assert!(learned.contains(part), "{part} is not in\n{learned}");
    }
    assert!(!learned.contains("network"), "{learned}");
    works_with_exactly(&world, &learned, &program, expected);
}

#[test]
fn what_a_python_program_needs_is_learned() {
    let world = World::of_a_user();
    let (read, written) = (directory(&world, "read"), directory(&world, "written"));
    for number in 0..9 {
        fs::write(read.join(number.to_string()), number.to_string()).expect("write");
    }
    fs::write(written.join("kept"), "").expect("write");
    std::os::unix::fs::chown(written.join("kept"), owner(&written), None).expect("chown");
    let code = format!(
        "import os, socket\n\
         texts = [open('{read}/%d' % number).read() for number in range(9)]\n\
         with open('{written}/kept', 'r+') as kept: kept.write('y')\n\
         with socket.create_connection(('127.0.0.1', {port})) as stream: said = stream.recv(1)\n\
         with socket.socket() as server:\n\
         \x20   server.bind(('127.0.0.1', 0)); server.listen()\n\
         print(''.join(texts), said.decode(), os.path.basename(os.environ['HOME']))\n",
        read = read.display(),
        written = written.display(),
        port = greeter(),
    );
    let program = ["/usr/bin/python3", "-I", "-S", "-c", &code];
    let (ran, learned) = traced(&world, &program);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = b"012345678 x Data\n";
    assert_eq!(ran.stdout, expected);
    for part in [
        "network.client\" = true",
        "network.server\" = true",
        "read-only\" = [\"/read/\"]",
        "read-write\" = [\"/written/kept\"]",
    ] {
        assert!(learned.contains(part), "{part} is not in\n{learned}");
    }
    works_with_exactly(&world, &learned, &program, expected);
}

fn owner(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Some(fs::metadata(directory).expect("it is there").uid())
}

#[test]
fn what_is_relative_to_the_start_takes_its_directory() {
    let world = World::of_a_user();
    let here = directory(&world, "here");
    fs::write(here.join("in"), "text\n").expect("write");
    let learned = world.path("learned.toml");
    let mut command = world.command(["run", "--label", "test.app", "--trace", "--output"]);
    command.arg(&learned).args(["--", "cat", "in"]);
    let ran = ran(command.current_dir(&here).output().expect("run"));
    assert_eq!(ran.ok(), b"text\n");
    let learned = fs::read_to_string(learned).expect("it was written");
    let says = "home-relative-path.read-only\" = [\"/here/\"]";
    assert!(learned.contains(says), "{learned}");
}

#[test]
fn memory_with_a_name_takes_its_group() {
    let world = World::of_a_user();
    let script = "\"$portolan\" shm unlink group.test.mem/x; echo tried";
    let (ran, learned) = traced(&world, &["sh", "-c", script]);
    assert_eq!(ran.ok(), b"tried\n");
    let says = "application-groups\" = [\"group.test.mem\"]";
    assert!(learned.contains(says), "{learned}");
}

#[test]
fn who_interrupts_a_program_is_told_nevertheless() {
    use std::os::unix::process::CommandExt as _;
    let world = World::of_a_user();
    let learned = world.path("learned.toml");
    let mut command = world.command(["run", "--trace", "--output"]);
    command.arg(&learned).args(["--", "sh", "-c"]);
    command.arg("echo ready >&2; cat /etc/passwd > /dev/null; exec sleep 60");
    let mut running = Running::start(command.process_group(0));
    wait_for_line(&mut running.child, "ready");
    let group = rustix::process::Pid::from_child(&running.child);
    let signal = rustix::process::Signal::INT;
    rustix::process::kill_process_group(group, signal).expect("kill");
    let ran = running.finish();
    assert_eq!(ran.code, Some(128 + 2), "{}", ran.stderr);
    let learned = fs::read_to_string(learned).expect("it was written");
    assert!(learned.starts_with("# What sh has used."), "{learned}");
}

#[test]
fn how_the_program_ends_is_told_and_what_nothing_grants_is_a_comment() {
    let world = World::of_a_user();
    let script = "cat /proc/version > /dev/null; ls \"$real_home\" > /dev/null; exit 7";
    let mut command = world.command(["run", "--trace", "--", "sh", "-c", script]);
    let output = command.env("real_home", world.path("")).output();
    let ran = ran(output.expect("run"));
    assert_eq!(ran.code, Some(7), "{}", ran.stderr);
    for comment in ["# /proc/version is not granted", "# it wants to list "] {
        assert!(ran.stderr.contains(comment), "{}", ran.stderr);
    }
    let granted: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(granted, ["\"com.apple.security.app-sandbox\" = true"]);
    let killed = world.run(["run", "--trace", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, Some(128 + 9), "{}", killed.stderr);
    world
        .run(["run", "--trace", "--", "/none"])
        .fails(127, "/none");
    world.run(["run", "--", "true"]).fails(2, "--entitlements");
}
