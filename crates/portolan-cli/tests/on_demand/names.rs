//! Names of jobs: whose they are, who finds them, and when they go.

use std::time::Duration;

use portolan::bootstrap::jobs::JobState;
use portolan::bootstrap::{LookUp, ServiceStatus};
use portolan::{Message, NameError, ReceiveRight, ServiceName};
use portolan_wire::bootstrap::Operation;
use rustix::process::Signal;

use crate::actor::Verb;
use crate::director::{Director, PATIENCE, code, label, name, send, wait_for_death, wait_until};

const SERVICE: &str = "MachServices.'test.a' = true";

#[test]
fn s55_the_names_of_a_job_are_refused_to_others_and_active_for_itself() {
    let director = Director::new();
    director.load("job", SERVICE);
    director.load("other", "");
    let (job, other) = (director.kickstart("job"), director.kickstart("other"));
    let port = ReceiveRight::new().expect("port");
    let register = || {
        let right = port.make_send().expect("right");
        director.bootstrap.register(&name("test.a"), right)
    };
    let all_are_refused = || {
        assert_eq!(code(register()), 1100);
        assert_eq!(code(director.bootstrap.check_in(&name("test.a"))), 1100);
        assert_eq!(code(director.bootstrap.unregister(&name("test.a"))), 1100);
        assert_eq!(other.code(Verb::Register, "test.a"), 1100);
        assert_eq!(other.code(Verb::CheckIn, "test.a"), 1100);
    };
    all_are_refused();
    assert_eq!(job.code(Verb::Register, "test.a"), 1100, "to be checked in");
    job.check_in("test.a");
    assert_eq!(job.code(Verb::CheckIn, "test.a"), 1103);
    assert_eq!(job.code(Verb::Register, "test.a"), 1103);
    all_are_refused();
}

#[test]
fn s56_a_name_that_a_job_registered_goes_with_the_port() {
    let director = Director::new();
    director.load("job", "");
    for ends in [true, false] {
        let actor = director.kickstart("job");
        assert_eq!(actor.code(Verb::Register, "test.own"), 0);
        let right = director.look_up("test.own").expect("look up");
        assert_eq!(code(director.bootstrap.check_in(&name("test.own"))), 1100);
        match ends {
            true => actor.kill(Signal::KILL),
            false => assert_eq!(actor.code(Verb::Close, "test.own"), 0),
        }
        assert_eq!(code(director.look_up("test.own")), 1102);
        wait_for_death(&right);
        let port = director.bootstrap.check_in(&name("test.own"));
        drop(port.expect("it is free for others"));
    }
}

#[test]
fn s57_a_name_that_a_job_registered_outlives_its_process() {
    let director = Director::new();
    director.load("job", "");
    let actor = director.kickstart("job");
    for text in ["test.dies", "test.stays"] {
        assert_eq!(actor.code(Verb::Register, text), 0);
    }
    let [dies, stays] = ["test.dies", "test.stays"].map(|text| actor.give(text));
    actor.exit(0);
    let right = director.look_up("test.dies").expect("the port lives");
    send(&right, [57]);
    assert_eq!(dies.receive(PATIENCE).expect("a message").id(), 57);
    drop(dies);
    assert_eq!(code(director.look_up("test.dies")), 1102);
    director.look_up("test.stays").expect("the other one lives");
    director.bootstrap.unload(&label("job")).expect("unload");
    assert_eq!(code(director.look_up("test.stays")), 1102);
    drop(stays);
}

#[test]
fn s61_a_hidden_name_is_not_found_before_its_job_checks_it_in() {
    let director = Director::new();
    director.load("job", "MachServices.'test.a'.HideUntilCheckIn = true");
    let is_listed = || {
        let all = director.bootstrap.list().expect("list");
        all.iter().any(|service| service.name.as_str() == "test.a")
    };
    let is_hidden = || {
        assert_eq!(code(director.look_up("test.a")), 1102);
        assert_eq!(code(director.bootstrap.status(&name("test.a"))), 1102);
        assert!(!is_listed());
    };
    is_hidden();
    let actor = director.kickstart("job");
    is_hidden();
    actor.check_in("test.a");
    let right = director.look_up("test.a").expect("look up");
    assert!(is_listed());
    send(&right, [61]);
    assert_eq!(actor.receive("test.a"), 61);
    actor.exit(0);
    is_hidden();
    assert!(!right.is_dead(), "hidden is not gone");
}

#[test]
fn s63_per_pid_names_of_a_job_are_its_processes_and_go_with_it() {
    let director = Director::new();
    director.load("job", "");
    director.load("other", "");
    let look_up = |pid| {
        let which = LookUp {
            per_pid: Some(pid),
            ..LookUp::default()
        };
        director.bootstrap.look_up_with(&name("test.mine"), which)
    };
    let actors = [director.kickstart("job"), director.kickstart("other")];
    let pids = [0, 1].map(|k: usize| actors[k].pid());
    for (k, actor) in (0..).zip(&actors) {
        assert_eq!(code(look_up(actor.pid())), 1102);
        assert_eq!(actor.code(Verb::RegisterPerPid, "test.mine"), 0);
        send(&look_up(actor.pid()).expect("its own"), [k]);
        assert_eq!(actor.receive("test.mine"), k);
    }
    assert_eq!(code(director.look_up("test.mine")), 1102);
    assert_eq!(actors[0].code(Verb::LookUp, "test.mine"), 1102);
    assert_eq!(code(look_up(std::process::id())), 1102);
    let ports = actors.map(|actor| {
        let port = actor.give("test.mine");
        actor.exit(0);
        port
    });
    for pid in pids {
        assert_eq!(code(look_up(pid)), 1102);
    }
    drop(ports);
}

#[test]
fn s64_a_name_that_a_job_creates_by_checking_it_in_does_not_come_back() {
    let director = Director::new();
    director.load("job", SERVICE);
    let actor = director.kickstart("job");
    assert_eq!(actor.code(Verb::CheckInStrict, "test.new"), 1102);
    assert_eq!(code(director.look_up("test.new")), 1102);
    assert_eq!(
        actor.code(Verb::CheckInStrict, "test.a"),
        0,
        "it is declared"
    );
    actor.check_in("test.new");
    let right = director.look_up("test.new").expect("look up");
    send(&right, [64, 65]);
    assert_eq!(actor.receive("test.new"), 64);
    actor.kill(Signal::KILL);
    wait_for_death(&right);
    assert_eq!(code(director.look_up("test.new")), 1102);
    director.look_up("test.a").expect("it is declared");
    director.nobody_else_came();
}

#[test]
fn s65_a_job_takes_a_name_back_that_it_has_not_checked_in() {
    let director = Director::new();
    director.load("job", "MachServices = { 'test.a' = true, 'test.b' = true }");
    let right = director.look_up("test.a").expect("look up");
    let actor = director.kickstart("job");
    actor.check_in("test.b");
    assert_eq!(actor.code(Verb::Unregister, "test.b"), 1103, "it is active");
    send(&right, [1]);
    assert_eq!(actor.code(Verb::Unregister, "test.a"), 0);
    wait_for_death(&right);
    assert_eq!(code(director.look_up("test.a")), 1102);
    for unknown in ["test.a", "test.unknown"] {
        assert_eq!(actor.code(Verb::Unregister, unknown), 0);
    }
    let port = director.bootstrap.check_in(&name("test.a"));
    let port = port.expect("it is free for others");
    assert_eq!(director.services("job"), ["test.b"]);
    actor.exit(0);
    assert_eq!(director.state("job"), JobState::Idle);
    drop(port);
}

#[test]
fn s67_a_name_of_two_hundred_bytes_is_refused() {
    let director = Director::new();
    let long = "x".repeat(200);
    let refused = NameError::TooLong { len: 200 };
    assert_eq!(long.parse::<ServiceName>(), Err(refused));
    let longest = name(&long[..ServiceName::MAX_BYTES]);
    let _port = director.bootstrap.check_in(&longest).expect("127 bytes");
    director.bootstrap.look_up(&longest).expect("127 bytes");

    // A client that does not check it gets no other name's port.
    let mut bytes = 200_u16.to_le_bytes().to_vec();
    bytes.extend(long.as_bytes());
    bytes.extend([0; 12]);
    let request = Message::new(Operation::LookUp.id()).with_bytes(bytes);
    let server = director.bootstrap.copy().expect("copy").into_right();
    let answer = server.request(request, PATIENCE, PATIENCE).expect("answer");
    assert!(answer.id() < 0, "code {}", answer.id());
    assert!(answer.rights().is_empty());
    let file = format!("Label = 'a'\nProgram = '/bin/true'\nMachServices.'{long}' = true\n");
    let loaded = director.bootstrap.load("a.toml".as_ref(), file.as_bytes());
    assert_eq!(code(loaded), 1202);
}

#[test]
fn s68_asking_for_the_status_starts_and_checks_in_nothing() {
    let director = Director::new();
    director.load("job", SERVICE);
    let status = || director.bootstrap.status(&name("test.a")).expect("status");
    assert_eq!(status(), ServiceStatus::OnDemand);
    assert_eq!(director.runs("job"), 0);
    let actor = director.kickstart("job");
    for _ in 0..2 {
        assert_eq!(actor.number(Verb::Status, "test.a"), 2);
        assert_eq!(status(), ServiceStatus::OnDemand);
    }
    actor.check_in("test.a");
    assert_eq!(actor.number(Verb::Status, "test.a"), 1);
    assert_eq!(status(), ServiceStatus::Active);
    let shown = &director.job("job").services[0];
    assert_eq!(shown.status, ServiceStatus::Active);
    assert!(shown.checked_in);
    actor.exit(0);
    assert_eq!(status(), ServiceStatus::OnDemand);
}

#[test]
fn a_name_that_is_taken_is_left_out_and_the_job_is_loaded() {
    let director = Director::new();
    let taken = director.bootstrap.check_in(&name("test.taken"));
    let taken = taken.expect("check in");
    director.load("first", SERVICE);
    let names = ["test.a", "test.b", "test.taken"].map(|text| format!("'{text}' = true"));
    director.load(
        "second",
        &format!("MachServices = {{ {} }}", names.join(", ")),
    );
    assert_eq!(director.services("second"), ["test.b"]);
    let log = director.world.log();
    for text in ["test.a", "test.taken"] {
        assert!(log.contains(text), "{text} is not in {log}");
    }
    send(&director.look_up("test.taken").expect("look up"), [1]);
    assert_eq!(taken.receive(PATIENCE).expect("a message").id(), 1);
    send(&director.look_up("test.a").expect("look up"), [2]);
    let first = director.actor();
    assert_eq!(director.job("first").summary.pid, Some(first.pid()));
    send(&director.look_up("test.b").expect("look up"), [3]);
    let second = director.actor();
    assert_eq!(second.code(Verb::CheckIn, "test.a"), 1100);
    assert_eq!(second.code(Verb::CheckIn, "test.taken"), 1100);
    second.check_in("test.b");
    assert_eq!(second.receive("test.b"), 3);
}

#[test]
fn a_second_job_of_a_label_is_refused() {
    let director = Director::new();
    director.load("job", SERVICE);
    let file = "Label = 'job'\nProgram = '/bin/true'\n";
    let loaded = director
        .bootstrap
        .load("again.toml".as_ref(), file.as_bytes());
    assert_eq!(code(loaded), 1201);
    director.look_up("test.a").expect("the first one is there");
}

#[test]
fn an_unloaded_job_takes_its_names_and_what_is_queued_along() {
    let director = Director::new();
    director.load("job", SERVICE);
    let right = director.look_up("test.a").expect("look up");
    let unread = right
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let actor = director.actor();
    director.bootstrap.unload(&label("job")).expect("unload");
    actor.wait_for_end();
    wait_until(|| director.bootstrap.jobs().expect("jobs").is_empty());
    unread.wait(Duration::ZERO).expect_err("nobody answers");
    wait_for_death(&right);
    assert_eq!(code(director.look_up("test.a")), 1102);
    director.nobody_else_came();
}
