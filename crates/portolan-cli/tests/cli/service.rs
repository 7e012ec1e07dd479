//! Serving, calling, and asking for names.

use std::os::unix::fs::FileTypeExt as _;
use std::thread;

use crate::world::{Running, World};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 253) as u8).collect()
}

#[test]
fn files_of_every_size_come_back_unchanged() {
    let world = World::new();
    let _server = world.serve(["--echo", "test.echo"]);
    for len in [0, 1, 64 << 10, 1 << 20, 16 << 20, 64 << 20] {
        let file = world.write("payload", bytes(len));
        let file = file.to_str().expect("path");
        let answer = world.run(["call", "test.echo", file]).ok();
        assert!(answer == bytes(len), "{len} bytes changed on the way");
    }
}

#[test]
fn a_command_answers() {
    let world = World::new();
    let _server = world.serve(["test.upper", "--", "tr", "a-z", "A-Z"]);
    assert_eq!(
        world.feed(["call", "test.upper"], b"hello server!").ok(),
        b"HELLO SERVER!"
    );
    assert_eq!(
        world.feed(["call", "test.upper", "-"], b"again").ok(),
        b"AGAIN"
    );
}

#[test]
fn a_command_learns_the_message_id_and_the_answer_has_it() {
    let world = World::new();
    let _server = world.serve(["test.id", "--", "sh", "-c", "echo $PORTOLAN_MESSAGE_ID"]);
    let ran = world.run(["call", "test.id", "--id", "-7", "--json"]);
    assert_eq!(ran.stderr.trim(), r#"{"id":-7,"bytes":3}"#);
    assert_eq!(ran.ok(), b"-7\n");
}

#[test]
fn a_command_may_leave_its_input_unread() {
    let world = World::new();
    let _server = world.serve(["test.deaf", "--", "echo", "no"]);
    let big = world.write("big", bytes(4 << 20));
    assert_eq!(
        world
            .run(["call", "test.deaf", big.to_str().expect("path")])
            .ok(),
        b"no\n"
    );
}

#[test]
fn a_command_that_fails_tells_the_caller() {
    let world = World::new();
    let _server = world.serve(["test.fails", "--", "sh", "-c", "exit 3"]);
    world
        .run(["call", "test.fails"])
        .fails(6, "without an answer");
    world
        .run(["call", "test.fails"])
        .fails(6, "without an answer");
}

#[test]
fn messages_without_an_answer_are_delivered() {
    let world = World::new();
    let out = world.path("out");
    let script = format!("cat >> {}", out.display());
    let _server = world.serve(["--jobs", "1", "test.sink", "--", "sh", "-c", &script]);
    for word in ["one ", "two "] {
        world.feed(["send", "test.sink"], word.as_bytes()).ok();
    }
    // Served in order, so once this is answered the others have been.
    world.feed(["call", "test.sink"], b"three").ok();
    assert_eq!(
        std::fs::read_to_string(out).expect("output"),
        "one two three"
    );
}

#[test]
fn names_are_listed_looked_up_and_asked_for() {
    let world = World::new();
    let server = world.serve(["--echo", "test.a"]);
    let list = String::from_utf8(world.run(["list"]).ok()).expect("text");
    assert!(list.contains("test.a") && list.contains("active"), "{list}");
    let json = String::from_utf8(world.run(["list", "--json"]).ok()).expect("text");
    let expected = format!(
        r#"[{{"name":"test.a","owner":"anonymous.portolan","pid":{},"status":"active","per_pid":false}}]"#,
        server.pid()
    );
    assert_eq!(json.trim(), expected);
    let status = world.run(["status", "--json", "test.a"]).ok();
    assert_eq!(
        status,
        b"{\"name\":\"test.a\",\"status\":\"active\",\"code\":1}\n"
    );
    let found = String::from_utf8(world.run(["lookup", "test.a"]).ok()).expect("text");
    assert!(found.starts_with("test.a  port "), "{found}");
    server.kill();
    world
        .run(["lookup", "test.a"])
        .fails(3, "Unknown service name");
}

#[test]
fn a_name_is_free_again_when_its_server_was_killed() {
    let world = World::new();
    world.serve(["--echo", "test.again"]).kill();
    let _server = world.serve(["--echo", "test.again"]);
    assert_eq!(world.feed(["call", "test.again"], b"x").ok(), b"x");
}

#[test]
fn a_name_cannot_be_taken_from_a_living_server() {
    let world = World::new();
    let _server = world.serve(["--echo", "test.mine"]);
    world
        .run(["serve", "--echo", "test.mine"])
        .fails(4, "Permission denied");
}

#[test]
fn many_clients_start_one_server() {
    let world = World::new();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| world.run(["list"]).ok());
        }
    });
    let socket = std::fs::metadata(world.runtime().join("bootstrap")).expect("socket");
    assert!(socket.file_type().is_socket());
    world.run(["shutdown"]).ok();
}

#[test]
fn the_server_in_the_foreground_ends_on_sigterm_and_cleans_up() {
    let world = World::new();
    let mut server = Running::start(&mut world.command(["bootstrap"]));
    let socket = world.runtime().join("bootstrap");
    while !socket.exists() {
        assert!(server.child.try_wait().expect("wait").is_none(), "it ended");
        thread::yield_now();
    }
    // Connecting may come before listening, and then there is no server yet.
    while world
        .command(["list"])
        .env("PORTOLAN_AUTOSTART", "0")
        .output()
        .expect("list")
        .status
        .code()
        == Some(7)
    {}
    world.run(["bootstrap"]).fails(1, "already listens");
    let pid = rustix_pid(server.pid());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
    assert!(server.child.wait().expect("wait").success());
    assert!(!socket.exists());
}

fn rustix_pid(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid")
}

#[test]
fn a_stale_socket_is_replaced() {
    let world = World::new();
    let mut server = Running::start(&mut world.command(["bootstrap"]));
    let socket = world.runtime().join("bootstrap");
    while !socket.exists() {
        assert!(server.child.try_wait().expect("wait").is_none(), "it ended");
        thread::yield_now();
    }
    server.child.kill().expect("kill");
    server.child.wait().expect("wait");
    assert!(socket.exists(), "a killed server cannot clean up");
    world.run(["list"]).ok();
}

#[test]
fn conversations_outlive_the_bootstrap_server() {
    let world = World::new();
    let script = "read line; echo got $line";
    let _server = world.serve(["test.lasting", "--", "sh", "-c", script]);
    let right = {
        let bootstrap = portolan::bootstrap::Bootstrap::connect(&world.runtime()).expect("connect");
        bootstrap
            .look_up(&"test.lasting".parse().expect("name"))
            .expect("look up")
    };
    world.run(["shutdown"]).ok();
    let patience = std::time::Duration::from_secs(20);
    let message = portolan::Message::new(1).with_bytes("hello\n");
    let answer = right.request(message, patience, patience).expect("answer");
    assert_eq!(answer.bytes(), b"got hello\n");
}
