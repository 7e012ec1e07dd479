//! Many requests.

use std::time::Duration;

use portolan::Message;
use portolan::bootstrap::Bootstrap;
use portolan_testkit::soak;

use crate::parts::{Part, play};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn ten_clients_with_a_thousand_requests_each_get_their_answers() {
    let world = World::new();
    let _server = world.serve(["--echo", "test.echo"]);
    let clients = [(); 10].map(|()| play(&world, Part::ThousandRequests));
    for client in clients {
        let ran = client.finish();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}

/// Descriptors, threads and resident kilobytes of a process.
#[derive(Clone, Copy, Debug)]
struct Size {
    descriptors: usize,
    threads: usize,
    kilobytes: usize,
}

fn size_of(pid: u32) -> Size {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .expect("a living process")
            .count()
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = resident
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("VmRSS");
    let kilobytes = kilobytes.trim().parse().expect("a number");
    Size {
        descriptors: count("fd"),
        threads: count("task"),
        kilobytes,
    }
}

#[test]
fn soak_a_hundred_thousand_requests_leave_no_trace() {
    let world = World::new();
    let server = world.serve(["--echo", "test.echo"]);
    let bootstrap = Bootstrap::connect(&world.runtime()).expect("connect");
    let name = "test.echo".parse().expect("name");
    let round = |requests: i32| {
        let echo = bootstrap.look_up(&name).expect("look up");
        for id in 0..requests {
            let message = Message::new(id).with_bytes([7; 64]);
            echo.request(message, PATIENCE, PATIENCE).expect("answer");
        }
    };
    let daemon = daemon_of(&world);
    let processes = [
        ("server", server.pid()),
        ("client", std::process::id()),
        ("daemon", daemon),
    ];
    (0..20).for_each(|_| round(500));
    let before = processes.map(|(_, pid)| size_of(pid));
    for _ in soak::rounds() {
        (0..100).for_each(|_| round(1000));
        for ((who, pid), before) in processes.into_iter().zip(before) {
            assert_not_grown(who, before, size_of(pid));
        }
    }
}

fn assert_not_grown(who: &str, before: Size, after: Size) {
    // A right that was just dropped may not have been noticed yet.
    let descriptors = after.descriptors.abs_diff(before.descriptors);
    assert!(descriptors <= 8, "{who}: {before:?} became {after:?}");
    assert_eq!(after.threads, before.threads, "{who}");
    let grown = after.kilobytes.saturating_sub(before.kilobytes);
    assert!(grown < 1024, "{who}: {before:?} became {after:?}");
}

/// The process that owns the listening socket: it is the other end of a fresh connection.
fn daemon_of(world: &World) -> u32 {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .expect("socket");
    let address = SocketAddrUnix::new(world.runtime().join("bootstrap")).expect("address");
    rustix::net::connect(&socket, &address).expect("connect");
    let peer = rustix::net::sockopt::socket_peercred(&socket).expect("credentials");
    u32::try_from(peer.pid.as_raw_nonzero().get()).expect("pid")
}
