//! The walls: every known attempt to get out of them, in each way that they are built, and what
//! works inside.
//!
//! If the tests are root's, programs are run as `nobody`, started by root and again by `nobody`;
//! else as the user of the tests.

mod statements;
mod ways;
mod world;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use world::{World, as_user, available, mode};

const CLIENT: &str = "\"com.apple.security.network.client\" = true\n";

#[test]
fn a_client_gets_its_answer_and_shells_and_databases_work() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let tiers = available();
    let count = tiers.len();
    let server = std::thread::spawn(move || {
        for _ in 0..count {
            let (mut connection, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let read = connection.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET / "));
            let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            connection.write_all(answer).expect("an answer");
        }
    });
    for tier in tiers {
        let world = World::new();
        let script = format!(
            "curl -sS http://{address}/; cat <<X\n here\nX\n\
             sqlite3 $HOME/a.db 'create table t(x); insert into t values(2); select x from t'"
        );
        let output = world.confined(tier, CLIENT, "/bin/sh", &["-c", &script]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"hi here\n2\n", "{tier} {errors}");
    }
    server.join().expect("all clients came");
}

#[test]
fn a_python_program_runs_unchanged() {
    for tier in available() {
        let program = ["-c", include_str!("program.py")];
        let output = World::new().confined(tier, "", "/usr/bin/python3", &program);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"unchanged\n", "{tier} {errors}");
    }
}

#[test]
fn containers_are_their_owners_only() {
    let tier = available()[0];
    let world = World::new();
    world.confined(tier, "", "/bin/true", &[]);
    let container = world
        .home()
        .container(&"org.example.wall".parse().expect("a label"));
    for directory in [container.join("tmp"), container] {
        assert_eq!(mode(&directory), 0o700, "{directory:?}");
    }
}

#[test]
fn a_program_ends_as_it_does_without_walls() {
    for tier in available() {
        let world = World::new();
        let ended = |script| {
            let arguments = ["-c", script];
            world.confined(tier, "", "/bin/sh", &arguments).status
        };
        let status = ended("exit 7");
        assert_eq!(status.code(), Some(7), "{tier} {status}");
        assert_eq!(ended("kill -TERM $$").signal(), Some(15), "{tier}");
        assert_eq!(ended("kill -KILL $$").signal(), Some(9), "{tier}");
        let missing = world.confined(tier, "", "/no/such/program", &[]);
        assert_eq!(missing.status.code(), Some(127), "{tier}");
        let sentence = String::from_utf8_lossy(&missing.stderr);
        assert!(sentence.contains("/no/such/program"), "{sentence}");
    }
}

#[test]
fn a_profile_that_can_be_changed_is_refused() {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open("/dev/null").expect("open");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("fcntl");
    let number = file.as_raw_fd().to_string();
    let output = as_user(Command::new(ways::LAUNCHER))
        .args([&number, "x"])
        .output();
    assert_eq!(output.expect("portolan-launch").status.code(), Some(71));
}
