//! Messages start jobs, and wait for them.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use portolan::bootstrap::jobs::{FailureKind, JobState};
use portolan::{Message, PendingReply, ReplyError, SendErrorKind, SendRight};
use portolan_testkit::flavour::{Flavour, memories};
use portolan_testkit::in_both_flavours;
use rustix::process::Signal;

use crate::part::{CRASH, ECHO, NOTE, READ_TWO_AND_CRASH};
use crate::site::{NAME, PATIENCE, Site, ask, parse, request, show, typical, until};

#[test]
fn l30_look_up_starts_nothing_and_the_first_message_starts_the_job_once() {
    let site = Site::with("serve", "");
    let mut senders: Vec<_> = (0..8).map(|_| site.play("ask 125")).collect();
    let job = site.job();
    assert_eq!((job.summary.state, job.runs), (JobState::Idle, 0));
    for sender in &mut senders {
        drop(sender.child.stdin.take());
    }
    for sender in senders {
        let ran = sender.finish();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(site.job().runs, 1);
    assert_eq!(site.lines("started"), [site.pid().to_string()]);
}

#[test]
fn l31_what_was_sent_before_the_start_arrives_in_order_with_its_senders() {
    let site = Site::with("serve", "");
    let own = rustix::process::getuid();
    let uids = [
        own.as_raw(),
        if own.is_root() { NOBODY } else { own.as_raw() },
    ];
    let mut other = site.play("send 0 100");
    let pids = [other.pid(), start_sender(&site, own.is_root(), "100 200")];
    let server = site.signal_server(Signal::STOP);
    drop(other.child.stdin.take());
    assert_eq!(other.finish().code, Some(0));
    site.write("gate", "");
    until("both have sent and exited", || has_exited(pids[1]));
    assert_eq!(
        site.lines("started"),
        [pids[1].to_string()],
        "the job runs already"
    );
    rustix::process::kill_process(server, Signal::CONT).expect("signal");

    until("all came", || site.lines("received").len() >= 200);
    let mut received: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in site.lines("received") {
        let (sender, number) = line.rsplit_once(' ').expect("a line");
        received
            .entry(sender.to_owned())
            .or_default()
            .push(number.to_owned());
    }
    let numbers = |from: u32| (from..from + 100).map(|number| number.to_string());
    let sent = (0..2).map(|at| {
        let sender = format!("{} {}", uids[at], pids[at]);
        (sender, numbers([0, 100][at]).collect())
    });
    assert_eq!(received, sent.collect());
    assert_eq!(site.job().runs, 1);
}

const NOBODY: u32 = 65534;

/// Starts a job that sends at the gate, as another user if this one may do that.
fn start_sender(site: &Site, as_nobody: bool, range: &str) -> u32 {
    // Another user can neither look into the directory of this program nor into that of the test.
    let program = site.path("sender");
    let label = "org.example.sender";
    let mut keys = "RunAtLoad = true\n".to_owned();
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    if as_nobody {
        keys.push_str("UserName = 'nobody'\n");
        let directory = program.parent().expect("directory");
        std::fs::set_permissions(directory, Permissions::from_mode(0o777)).expect("permissions");
    }
    site.load(&site.file_of(&program, label, &format!("send-at-gate {range}"), &keys));
    let label = label.parse().expect("label");
    let job = || site.bootstrap.job(&label).expect("the sender").summary;
    until("the sender is ready", || !site.lines("ready").is_empty());
    job().pid.expect("it runs")
}

/// Whether a process has exited, though its parent has not seen it yet.
fn has_exited(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.starts_with('Z'));
    state.unwrap_or(true)
}

in_both_flavours!(l32_the_next_instance_gets_exactly_what_a_crash_left);
fn l32_the_next_instance_gets_exactly_what_a_crash_left(flavour: Flavour) {
    let site = Site::with("serve", "");
    let right = right_to_job(&site, flavour);
    let (first, _) = request(&right, READ_TWO_AND_CRASH, b"").expect("it runs");
    let pending: Vec<_> = (0..5).map(|number| begin(&right, ECHO, number)).collect();
    site.write("gate", "");

    let mut answers = pending.into_iter().map(|pending| pending.wait(PATIENCE));
    for _ in 0..2 {
        let answer = answers.next().expect("a request that was read");
        assert!(matches!(answer, Err(ReplyError::NoReply)), "{answer:?}");
    }
    let read = site.lines("received");
    let read = read.iter().map(|line| line.rsplit(' ').next());
    assert_eq!(read.collect::<Vec<_>>(), [Some("0"), Some("1")]);
    for number in 2..5 {
        let answer = answers.next().expect("one that was not").expect("answer");
        let (pid, bytes) = parse(&answer);
        assert_ne!(pid, first);
        assert_eq!(bytes, number.to_string().as_bytes());
    }
    assert_eq!(site.job().runs, 2);
}

in_both_flavours!(l32_a_service_that_is_reset_at_close_is_dead_at_once);
fn l32_a_service_that_is_reset_at_close_is_dead_at_once(flavour: Flavour) {
    let site = Site::new();
    let keys = format!("MachServices.'{NAME}'.ResetAtClose = true\nThrottleInterval = 0\n");
    site.load(&site.file(NAME, "serve", &keys));
    let times = (0..9).map(|round| {
        let right = right_to_job(&site, flavour);
        site.write("gate", "");
        std::fs::remove_file(site.path("gate")).expect("gate");
        let held = begin(&right, crate::part::HOLD, 0);
        let unread = begin(&right, ECHO, 1);
        let start = Instant::now();
        kill(site.pid());
        // Whichever of them the job has read.
        for pending in [held, unread] {
            let answer = pending.wait(PATIENCE);
            let is_told = matches!(answer, Err(ReplyError::DeadName | ReplyError::NoReply));
            assert!(is_told, "round {round}: {answer:?}");
        }
        until_dead(&right);
        start.elapsed()
    });
    let times: Vec<_> = times.collect();
    show(&format!("port death after {times:?}"));
    assert!(typical(times) < Duration::from_millis(10));
}

fn until_dead(right: &SendRight) {
    until("the port is dead", || {
        let sent = right.send(Message::new(NOTE), PATIENCE);
        sent.is_err_and(|error| matches!(error.kind(), SendErrorKind::DeadName))
    });
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill");
}

/// A right to the job, which runs afterwards.
fn right_to_job(site: &Site, flavour: Flavour) -> SendRight {
    let right = site.look_up();
    if flavour == Flavour::Socket {
        // Asking keeps it there.
        assert_eq!(Flavour::of(&right), Flavour::Socket);
    }
    let before = memories();
    for _ in 0..8 {
        ask(&right).expect("answer");
    }
    let is_in_memory = !memories().is_subset(&before);
    assert_eq!(is_in_memory, flavour == Flavour::Ring);
    right
}

fn begin(right: &SendRight, id: i32, number: u32) -> PendingReply<'_> {
    let message = Message::new(id).with_bytes(number.to_string());
    right.begin_request(message, PATIENCE).expect("send")
}

#[test]
fn l33_a_message_that_crashes_the_job_three_times_is_set_aside() {
    let site = Site::with("fragile 3", "");
    let right = site.look_up();
    let poison = begin(&right, ECHO, 0);
    let next = begin(&right, ECHO, 1);
    match poison.wait(PATIENCE) {
        Err(ReplyError::Failed(why)) => {
            assert_eq!(why.kind, FailureKind::SetAside);
            assert_eq!(why.label.as_str(), NAME);
        }
        other => panic!("{other:?}"),
    }
    let answer = next.wait(PATIENCE).expect("answer");
    assert_eq!(parse(&answer).1, b"1");
    assert_eq!(site.lines("crashes").len(), 3);
    assert_eq!(site.job().runs, 4);
}

#[test]
fn l33_a_message_that_was_not_read_keeps_its_place_through_two_crashes() {
    let site = Site::with("fragile 2", "");
    let right = site.look_up();
    for number in 0..5 {
        let message = Message::new(NOTE).with_bytes(number.to_string());
        right.send(message, PATIENCE).expect("send");
    }
    ask(&right).expect("answer");
    let received = site.lines("received");
    let numbers = received.iter().filter_map(|line| line.rsplit(' ').next());
    assert_eq!(numbers.collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!(site.job().runs, 3);
}

#[test]
fn l33_a_message_that_was_read_is_refused_and_the_next_one_served() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    for _ in 0..3 {
        let poison = begin(&right, CRASH, 0);
        let next = begin(&right, ECHO, 1);
        let answer = poison.wait(PATIENCE);
        assert!(matches!(answer, Err(ReplyError::NoReply)), "{answer:?}");
        assert_eq!(parse(&next.wait(PATIENCE).expect("answer")).1, b"1");
    }
    assert_eq!(site.job().runs, 4);
}
