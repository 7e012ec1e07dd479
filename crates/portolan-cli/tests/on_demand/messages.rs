//! Messages to a service start its job, and what was not read is there for the next instance.

use std::time::{Duration, Instant};

use portolan::bootstrap::jobs::JobState;
use portolan::{Message, ReplyError};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::in_both_flavours;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::actor::Verb;
use crate::director::{Director, PATIENCE, send, wait_for_death};

const SERVICE: &str = "MachServices.'test.a' = true";

/// `ThrottleInterval = 1` in the job files below.
const THROTTLE: Duration = Duration::from_secs(1);

in_both_flavours!(s58_the_first_message_starts_the_job_and_a_look_up_does_not);
fn s58_the_first_message_starts_the_job_and_a_look_up_does_not(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let right = director.right("test.a", flavour);
    let runs = director.runs("job");
    for _ in 0..3 {
        director.look_up("test.a").expect("look up");
    }
    assert_eq!(director.state("job"), JobState::Idle);
    assert_eq!(director.runs("job"), runs);
    send(&right, [1, 2]);
    let actor = director.actor();
    assert_eq!(director.runs("job"), runs + 1);
    actor.check_in("test.a");
    assert_eq!([actor.receive("test.a"), actor.receive("test.a")], [1, 2]);
    send(&right, [3]);
    assert_eq!(actor.receive("test.a"), 3);
    director.nobody_else_came();
}

in_both_flavours!(s59_what_was_not_read_is_there_for_the_next_instance);
fn s59_what_was_not_read_is_there_for_the_next_instance(flavour: Flavour) {
    let director = Director::new();
    director.load("job", &format!("{SERVICE}\nThrottleInterval = 1"));
    let right = director.right("test.a", flavour);
    let before = Instant::now();
    send(&right, [1]);
    let actor = director.actor();
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
    send(&right, [2, 3, 4]);
    actor.kill(Signal::KILL);

    assert_eq!(director.state("job"), JobState::Throttled);
    assert_eq!(director.queued("job", "test.a"), 3);
    assert!(!right.is_dead());
    let found = director.look_up("test.a").expect("look up");
    assert_eq!(found.port(), right.port());
    send(&right, [5]);
    let next = director.actor();
    assert!(before.elapsed() >= THROTTLE, "{:?}", before.elapsed());
    next.check_in("test.a");
    assert_eq!([(); 4].map(|()| next.receive("test.a")), [2, 3, 4, 5]);
    send(&right, [6]);
    assert_eq!(next.receive("test.a"), 6);
}

in_both_flavours!(the_caller_of_a_message_that_was_read_is_told_and_others_are_not);
fn the_caller_of_a_message_that_was_read_is_told_and_others_are_not(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let right = director.right("test.a", flavour);
    let ask = |id| right.begin_request(Message::new(id), PATIENCE);
    let (read, unread) = (ask(1).expect("send"), ask(2).expect("send"));
    let actor = director.actor();
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
    actor.kill(Signal::KILL);
    let told = read.wait(PATIENCE).expect_err("nobody answers");
    assert!(!matches!(told, ReplyError::TimedOut), "{told}");
    let next = director.actor();
    next.check_in("test.a");
    assert_eq!(next.receive("test.a"), 2);
    drop(unread);
}

in_both_flavours!(s60_a_service_that_is_reset_is_a_new_port_with_nothing_queued);
fn s60_a_service_that_is_reset_is_a_new_port_with_nothing_queued(flavour: Flavour) {
    let director = Director::new();
    director.load("job", "MachServices.'test.a'.ResetAtClose = true");
    let (right, actor) = director.serving("test.a", flavour);
    send(&right, [2, 3]);
    actor.kill(Signal::KILL);

    // Whoever sees the process end, or the port, finds the new one.
    let new = director.look_up("test.a").expect("look up");
    wait_for_death(&right);
    assert_ne!(new.port(), right.port());
    assert_eq!(director.queued("job", "test.a"), 0);
    send(&new, [4]);
    let next = director.actor();
    next.check_in("test.a");
    assert_eq!(next.receive("test.a"), 4);
    assert_eq!(next.receive_all("test.a"), [0; 0]);
}

in_both_flavours!(s62_messages_that_an_instance_did_not_care_for_start_the_next_one);
fn s62_messages_that_an_instance_did_not_care_for_start_the_next_one(flavour: Flavour) {
    let director = Director::new();
    director.load("job", &format!("{SERVICE}\nThrottleInterval = 1"));
    let right = director.right("test.a", flavour);
    let before = Instant::now();
    send(&right, [1, 2]);
    director.actor().exit(0);
    assert_eq!(director.state("job"), JobState::Throttled);
    assert_eq!(director.queued("job", "test.a"), 2);
    send(&right, [3]);
    let next = director.actor();
    assert!(before.elapsed() >= THROTTLE, "{:?}", before.elapsed());
    next.check_in("test.a");
    assert_eq!([(); 3].map(|()| next.receive("test.a")), [1, 2, 3]);
}

in_both_flavours!(a_crash_drops_the_messages_that_the_job_file_says);
fn a_crash_drops_the_messages_that_the_job_file_says(flavour: Flavour) {
    for (drain, left) in [("One", [2, 3].as_slice()), ("All", &[])] {
        let director = Director::new();
        let keys = format!("MachServices.'test.a'.DrainMessagesOnCrash = '{drain}'");
        director.load("job", &keys);
        let (right, actor) = director.serving("test.a", flavour);
        send(&right, [1, 2, 3]);
        actor.kill(Signal::ABORT);
        assert_eq!(director.queued("job", "test.a") as usize, left.len());
        send(&right, [4]);
        let next = director.actor();
        next.check_in("test.a");
        for id in left.iter().chain(&[4]) {
            assert_eq!(next.receive("test.a"), *id, "{drain}");
        }
    }
}

in_both_flavours!(an_end_that_is_no_crash_drops_nothing);
fn an_end_that_is_no_crash_drops_nothing(flavour: Flavour) {
    let director = Director::new();
    director.load("job", "MachServices.'test.a'.DrainMessagesOnCrash = 'All'");
    let (right, actor) = director.serving("test.a", flavour);
    send(&right, [1]);
    actor.kill(Signal::KILL);
    let next = director.actor();
    next.check_in("test.a");
    send(&right, [2]);
    next.exit(1);
    let last = director.actor();
    last.check_in("test.a");
    assert_eq!([(); 2].map(|()| last.receive("test.a")), [1, 2]);
}

in_both_flavours!(a_right_that_the_job_closes_comes_back_with_what_is_unread);
fn a_right_that_the_job_closes_comes_back_with_what_is_unread(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let (right, actor) = director.serving("test.a", flavour);
    send(&right, [1, 2]);
    assert_eq!(actor.receive("test.a"), 1);
    assert_eq!(actor.code(Verb::Close, "test.a"), 0);
    send(&right, [3]);
    // The same instance may go on with it.
    actor.check_in("test.a");
    assert_eq!([(); 2].map(|()| actor.receive("test.a")), [2, 3]);
    assert_eq!(director.runs("job"), 1);
}

in_both_flavours!(an_instance_exits_only_while_nothing_is_queued);
fn an_instance_exits_only_while_nothing_is_queued(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let (right, actor) = director.serving("test.a", flavour);
    assert_eq!(actor.code(Verb::Close, "test.a"), 0);
    send(&right, [1]);
    assert_eq!(actor.number(Verb::TryExit, ""), 0, "it has something to do");
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
    assert_eq!(actor.code(Verb::Close, "test.a"), 0);
    assert_eq!(actor.number(Verb::TryExit, ""), 1);
    send(&right, [2]);
    director.nobody_else_came();
    actor.exit(0);
    let next = director.actor();
    next.check_in("test.a");
    assert_eq!(next.receive("test.a"), 2);
}

in_both_flavours!(a_message_that_was_first_at_three_crashes_is_set_aside);
fn a_message_that_was_first_at_three_crashes_is_set_aside(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let right = director.right("test.a", flavour);
    let poison = right.begin_request(Message::new(1), PATIENCE);
    let mut poison = poison.expect("send");
    send(&right, [2]);
    for _ in 0..3 {
        let actor = director.actor();
        assert!(matches!(poison.poll(), Err(ReplyError::TimedOut)));
        actor.check_in("test.a");
        actor.kill(Signal::KILL);
    }
    let told = poison.wait(PATIENCE).expect_err("nobody answers");
    assert!(matches!(told, ReplyError::Failed(_)), "{told}");
    let last = director.actor();
    last.check_in("test.a");
    assert_eq!(last.receive("test.a"), 2);
    let note = director.job("job").note.to_string();
    assert!(note.contains("1 messages were set aside"), "{note}");
}

#[test]
fn a_service_that_is_reset_does_not_keep_callers_of_a_missing_program_waiting() {
    let director = Director::new();
    let program = director.path("missing");
    let file = format!(
        "Label = 'job'\nProgram = '{}'\nMachServices.'test.a'.ResetAtClose = true\n",
        program.display()
    );
    let loaded = director
        .bootstrap
        .load("job.toml".as_ref(), file.as_bytes());
    loaded.expect("load");
    let right = director.look_up("test.a").expect("look up");
    send(&right, [1]);
    wait_for_death(&right);
    let new = director.look_up("test.a").expect("look up");
    assert_ne!(new.port(), right.port());
    assert_eq!(director.queued("job", "test.a"), 0);
}

in_both_flavours!(who_let_go_of_a_port_still_answers_what_it_has_received);
fn who_let_go_of_a_port_still_answers_what_it_has_received(flavour: Flavour) {
    let director = Director::new();
    director.load("job", SERVICE);
    let (right, actor) = director.serving("test.a", flavour);
    let begin = |id| {
        right
            .begin_request(Message::new(id), PATIENCE)
            .expect("send")
    };
    let (answered, left) = (begin(1), begin(2));
    assert_eq!([(); 2].map(|()| actor.receive("test.a")), [1, 2]);
    assert_eq!(actor.code(Verb::Close, "test.a"), 0);
    // Once it has the port again, the server has seen that it had let go.
    actor.check_in("test.a");
    assert_eq!(actor.code(Verb::Answer, ""), 0);
    assert_eq!(answered.wait(PATIENCE).expect("answer").id(), 1);
    actor.kill(Signal::KILL);
    assert!(matches!(left.wait(PATIENCE), Err(ReplyError::NoReply)));
}

#[test]
fn messages_outlive_a_lack_of_descriptors() {
    let director = Director::new();
    director.load("job", "MachServices.'test.a' = true");
    let right = director.look_up("test.a").expect("look up");
    send(&right, [1, 2]);
    let actor = director.actor();
    let server = Some(director.server());
    let rest = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..rest
    };
    let before = prlimit(server, Resource::Nofile, none).expect("prlimit");
    assert_eq!(actor.code(Verb::CheckIn, "test.a"), 1105);
    prlimit(server, Resource::Nofile, before).expect("prlimit");
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
    assert_eq!(actor.receive("test.a"), 2);
}
