//! The bootstrap server's rules for names, between processes. Tests are named after the numbered
//! statements of docs/reference/statements.md.

use std::time::Duration;

use portolan::bootstrap::{Bootstrap, BootstrapError, LookUp, ServiceStatus};
use portolan::{BootstrapCode, Message, ReceiveRight, Right, ServiceName};

use crate::parts::{Part, play};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> ServiceName {
    text.parse().expect("name")
}

fn code<T: std::fmt::Debug>(result: Result<T, BootstrapError>) -> i32 {
    let error = result.expect_err("it was not refused");
    error.code().unwrap_or_else(|| panic!("{error}")).raw()
}

/// A world with a server, and this process as a client of it.
fn client() -> (World, Bootstrap) {
    let world = World::new();
    world.run(["list"]).ok();
    let bootstrap = Bootstrap::connect(&world.runtime()).expect("connect");
    (world, bootstrap)
}

#[test]
fn s54_unknown_name() {
    let (_world, bootstrap) = client();
    assert_eq!(code(bootstrap.look_up(&name("test.none"))), 1102);
    assert_eq!(code(bootstrap.status(&name("test.none"))), 1102);
    assert_eq!(
        BootstrapCode::UNKNOWN_SERVICE.to_string(),
        "Unknown service name"
    );
}

#[test]
fn s55_a_name_of_another_process_is_refused_and_an_own_one_is_active() {
    let (world, bootstrap) = client();
    let _other = world.serve(["--echo", "test.other"]);
    let port = ReceiveRight::new().expect("port");
    let right = || port.make_send().expect("send right");
    assert_eq!(code(bootstrap.register(&name("test.other"), right())), 1100);
    assert_eq!(code(bootstrap.check_in(&name("test.other"))), 1100);
    bootstrap
        .register(&name("test.own"), right())
        .expect("register");
    assert_eq!(code(bootstrap.register(&name("test.own"), right())), 1103);
    assert_eq!(code(bootstrap.check_in(&name("test.own"))), 1103);
    assert_eq!(
        bootstrap.status(&name("test.own")).expect("status"),
        ServiceStatus::Active
    );
}

#[test]
fn s56_a_name_is_free_when_its_port_dies_or_its_owner_exits() {
    let (world, bootstrap) = client();
    let port = ReceiveRight::new().expect("port");
    for name in ["test.first", "test.second"] {
        bootstrap
            .register(&self::name(name), port.make_send().expect("right"))
            .expect("register");
    }
    drop(port);
    assert_eq!(code(bootstrap.look_up(&name("test.first"))), 1102);
    assert_eq!(code(bootstrap.look_up(&name("test.second"))), 1102);
    world.serve(["--echo", "test.first"]).kill();
    bootstrap
        .check_in(&name("test.first"))
        .expect("it is free again");
}

#[test]
fn s57_a_name_goes_with_the_process_that_registered_it_though_the_port_lives() {
    let (world, bootstrap) = client();
    let collector = bootstrap
        .check_in(&name("test.collector"))
        .expect("check in");
    let giver = play(&world, Part::GiveAway);
    let mut gift = collector
        .receive(PATIENCE)
        .expect("the other's receive right");
    let Some(Right::Receive(port)) = gift.take_rights().pop() else {
        panic!("no receive right")
    };
    let right = bootstrap
        .look_up(&name("test.given"))
        .expect("the owner is still there");
    gift.take_reply()
        .expect("it waits")
        .send(Message::new(0))
        .expect("let it go");
    assert!(giver.finish().code == Some(0));
    assert_eq!(code(bootstrap.look_up(&name("test.given"))), 1102);
    right
        .send(Message::new(57), PATIENCE)
        .expect("the port lives");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 57);
}

#[test]
fn s63_names_per_process() {
    let (world, bootstrap) = client();
    let collector = bootstrap
        .check_in(&name("test.collector"))
        .expect("check in");
    let others = [play(&world, Part::PerPid), play(&world, Part::PerPid)];
    let waiting = [(); 2].map(|()| collector.receive(PATIENCE).expect("it has registered"));
    let look_up = |pid| {
        let which = LookUp {
            per_pid: Some(pid),
            ..LookUp::default()
        };
        bootstrap.look_up_with(&name("test.mine"), which)
    };
    for other in &others {
        let right = look_up(other.pid()).expect("its own");
        let answer = right
            .request(Message::new(0), PATIENCE, PATIENCE)
            .expect("answer");
        assert_eq!(answer.bytes(), other.pid().to_le_bytes());
    }
    assert_eq!(code(bootstrap.look_up(&name("test.mine"))), 1102);
    assert_eq!(code(look_up(std::process::id())), 1102);
    drop(waiting);
}

#[test]
fn s64_check_in_creates_names_unless_it_is_strict() {
    let (_world, bootstrap) = client();
    assert_eq!(code(bootstrap.check_in_strict(&name("test.new"))), 1102);
    let port = bootstrap.check_in(&name("test.new")).expect("check in");
    let right = bootstrap.look_up(&name("test.new")).expect("look up");
    right.send(Message::new(64), PATIENCE).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 64);
}

#[test]
fn names_of_a_dead_right_and_of_nothing() {
    let (_world, bootstrap) = client();
    let dead = ReceiveRight::new()
        .expect("port")
        .make_send()
        .expect("right");
    assert_eq!(code(bootstrap.register(&name("test.dead"), dead)), 1105);
    bootstrap
        .unregister(&name("test.unknown"))
        .expect("nothing happens");
    let _port = bootstrap.check_in(&name("test.active")).expect("check in");
    assert_eq!(code(bootstrap.unregister(&name("test.active"))), 1103);
}

#[test]
fn the_privileged_server_flag_is_about_the_server() {
    let (world, bootstrap) = client();
    let _server = world.serve(["--echo", "test.a"]);
    let which = LookUp {
        privileged_server: true,
        ..LookUp::default()
    };
    let found = bootstrap.look_up_with(&name("test.a"), which);
    if rustix::process::getuid().is_root() {
        found.expect("the server runs as root");
    } else {
        assert_eq!(code(found), 1100);
    }
}

const TWO_NAMES: &str = "Label = \"test.job\"\nDisabled = true\nProgramArguments = [\"/bin/true\"]\n\
    MachServices = { \"test.asked\" = true, \"test.unasked\" = true }\n";

/// What the server says of the services of `test.job`: name, and messages that wait.
fn services(bootstrap: &Bootstrap) -> Vec<(String, u32)> {
    let job = bootstrap.job(&"test.job".parse().expect("label"));
    let services = job.expect("job").services.into_iter();
    let services = services.map(|service| (service.name.as_str().to_owned(), service.queued));
    services.collect()
}

/// The port of a declared name is made when somebody asks for it.
#[test]
fn a_declared_name_outlives_the_server_whether_it_was_asked_for_or_not() {
    let (world, bootstrap) = client();
    let file = std::path::Path::new("/test.toml");
    bootstrap.load(file, TWO_NAMES.as_bytes()).expect("load");
    let asked = bootstrap.look_up(&name("test.asked")).expect("look up");
    asked.send(Message::new(1), PATIENCE).expect("send");
    let expected = [("test.asked".to_owned(), 1), ("test.unasked".to_owned(), 0)];
    assert_eq!(services(&bootstrap), expected);
    bootstrap.restart().expect("restart");
    let deadline = std::time::Instant::now() + PATIENCE;
    while !world.log().contains("goes on where the last server was") {
        assert!(std::time::Instant::now() < deadline, "it has not restarted");
        std::thread::yield_now();
    }
    let unasked = bootstrap.look_up(&name("test.unasked")).expect("look up");
    assert!(!unasked.is_dead());
    assert_eq!(services(&bootstrap), expected);
    asked
        .send(Message::new(2), PATIENCE)
        .expect("the same port");
}
