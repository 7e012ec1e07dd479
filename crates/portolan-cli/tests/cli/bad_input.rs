//! What goes wrong has a clear message and an exit code of its own.

use portolan::MAX_MESSAGE_BYTES;

use crate::world::{Running, World, wait_for_line};

#[test]
fn unknown_names() {
    let world = World::new();
    for command in ["lookup", "status", "call", "send"] {
        world
            .run([command, "test.missing"])
            .fails(3, "test.missing: Unknown service name (1102)");
    }
}

#[test]
fn names_that_are_none() {
    let world = World::new();
    world.run(["lookup", ""]).fails(2, "empty");
    world
        .run(["lookup", &"x".repeat(127)])
        .fails(3, "Unknown service name");
    world
        .run(["lookup", &"x".repeat(128)])
        .fails(2, "at most 127 bytes, this one has 128");
    let latin = std::os::unix::ffi::OsStrExt::from_bytes(&b"caf\xe9"[..]);
    let arguments: [&std::ffi::OsStr; 2] = ["lookup".as_ref(), latin];
    let output = world.command(arguments).output().expect("run");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn no_server_and_none_may_be_started() {
    let world = World::new();
    let output = world
        .command(["list"])
        .env("PORTOLAN_AUTOSTART", "0")
        .output()
        .expect("run");
    crate::world::ran(output).fails(7, "no bootstrap server listens at");
    world
        .run(["shutdown"])
        .fails(7, "no bootstrap server listens at");
    assert!(!world.runtime().exists(), "nothing was made");
}

#[test]
fn a_server_that_cannot_start_leaves_its_reason_in_the_log() {
    let world = World::new();
    let output = world
        .command(["list"])
        .env("PORTOLAN_SERVER", "/bin/false")
        .output()
        .expect("run");
    crate::world::ran(output).fails(7, "did not start");
    let output = world
        .command(["list"])
        .env("PORTOLAN_SERVER", "/nonexistent")
        .output()
        .expect("run");
    crate::world::ran(output).fails(7, "cannot connect");
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    std::fs::create_dir(world.runtime()).expect("directory");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(world.runtime(), open).expect("permissions");
    world
        .run(["bootstrap"])
        .fails(1, "nobody else can write to");
    // Nor does a client leave a log or a lock there.
    world.run(["list"]).fails(7, "nobody else can write to");
    let left = std::fs::read_dir(world.runtime()).expect("directory");
    assert_eq!(left.count(), 0);
}

#[test]
fn an_inherited_right_that_is_none() {
    let world = World::new();
    for value in ["99", "x", "-1", "0"] {
        let output = world
            .command(["list"])
            .env("PORTOLAN_BOOTSTRAP_FD", value)
            .output()
            .expect("run");
        crate::world::ran(output).fails(7, "is not an inherited bootstrap right");
    }
}

/// Commands that wait until the test lets them go on, so that none is left behind.
struct Gate(std::path::PathBuf);

impl Gate {
    fn new(world: &World) -> Self {
        let path = world.path("gate");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
            .expect("fifo");
        Self(path)
    }

    /// Shell words that say that they wait, and wait.
    fn script(&self) -> String {
        format!("echo started >&2; cat {} >&2", self.0.display())
    }

    fn open(&self) {
        std::fs::write(&self.0, "go on\n").expect("open the gate");
    }
}

#[test]
fn the_server_is_killed_in_the_middle_of_a_request() {
    let world = World::new();
    let gate = Gate::new(&world);
    let mut server = world.serve(["test.slow", "--", "sh", "-c", &gate.script()]);
    let call = Running::start(&mut world.command(["call", "test.slow"]));
    wait_for_line(&mut server.child, "started");
    server.kill();
    call.finish().fails(6, "died before it answered");
    gate.open();
}

#[test]
fn a_client_is_killed_in_the_middle_of_a_request() {
    let world = World::new();
    let gate = Gate::new(&world);
    let script = format!(
        "read word; if [ $word = wait ]; then {}; fi; echo $word",
        gate.script()
    );
    let mut server = world.serve(["--jobs", "1", "test.wait", "--", "sh", "-c", &script]);
    let file = world.write("wait", "wait\n");
    let client =
        Running::start(&mut world.command(["call", "test.wait", file.to_str().expect("path")]));
    wait_for_line(&mut server.child, "started");
    client.kill();
    gate.open();
    assert_eq!(world.feed(["call", "test.wait"], b"next\n").ok(), b"next\n");
}

#[test]
fn a_call_times_out() {
    let world = World::new();
    let gate = Gate::new(&world);
    let _server = world.serve(["test.slow", "--", "sh", "-c", &gate.script()]);
    world
        .run(["call", "test.slow", "--timeout", "0.05"])
        .fails(5, "no answer came");
    gate.open();
    world
        .run(["call", "test.slow", "--timeout", "soon"])
        .fails(2, "not a number of seconds");
}

#[test]
fn a_message_over_the_limit() {
    let world = World::new();
    let _server = world.serve(["--echo", "test.echo"]);
    let file = world.path("huge");
    let huge = std::fs::File::create(&file).expect("file");
    huge.set_len(MAX_MESSAGE_BYTES as u64 + 1).expect("length");
    world
        .run(["call", "test.echo", file.to_str().expect("path")])
        .fails(8, "67108865 bytes");
}

#[test]
fn an_answer_over_the_limit() {
    let world = World::new();
    let script = format!("head -c {} /dev/zero", MAX_MESSAGE_BYTES + 1);
    let _server = world.serve(["test.huge", "--", "sh", "-c", &script]);
    world
        .run(["call", "test.huge"])
        .fails(6, "without an answer");
}

#[test]
fn programs_that_cannot_be_executed() {
    let world = World::new();
    world
        .run(["serve", "test.x", "--", "/nonexistent"])
        .fails(127, "cannot execute /nonexistent");
    let empty = world.write("empty.toml", "");
    let empty = empty.to_str().expect("path");
    world
        .run(["serve", "test.x", "--", empty])
        .fails(126, "Permission denied (os error 13)");
    world
        .run(["run", "--entitlements", empty, "--", "/nonexistent"])
        .fails(127, "cannot execute /nonexistent");
    world
        .run(["run", "--entitlements", empty, "--", empty])
        .fails(126, "cannot execute");
}

#[test]
fn entitlement_files() {
    let world = World::of_a_user();
    let run = |file: &std::path::Path| {
        world.run([
            "run",
            "--entitlements",
            file.to_str().expect("path"),
            "--",
            "true",
        ])
    };
    run(&world.path("missing.toml")).fails(78, "missing.toml");
    run(&world.write("broken.toml", "a = 1\nb = [\n")).fails(78, "broken.toml");
    let unknown = "\"com.apple.security.app-sandbox\" = true\n\
                   \"com.apple.security.aplication-groups\" = []\n";
    run(&world.write("unknown.toml", unknown)).fails(78, "unknown.toml:2:1");
    run(&world.write("unknown.toml", unknown)).fails(78, "com.apple.security.application-groups");
    let plist = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\">\n<dict>\n\
                 <key>com.apple.security.app-sandbox</key>\n<true/>\n\
                 <key>com.apple.security.sandbox</key>\n<true/>\n</dict>\n</plist>\n";
    run(&world.write("unknown.plist", plist)).fails(78, "unknown.plist:6:");
    let good = plist
        .replace("    ", "")
        .replace("<key>com.apple.security.sandbox</key>\n<true/>\n", "");
    run(&world.write("good.plist", good)).ok();
    assert!(!world.path("missing.toml").exists());
}
