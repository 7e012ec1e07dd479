//! The calls on jobs against a server that is a thread of the test and answers as it is told.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use portolan::bootstrap::jobs::{
    Blame, FailureKind, JobState, JobStatus, JobSummary, Kickstart, LastExit, Refusal, Start,
    StartFailure,
};
use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{BootstrapCode, JobLabel, Message, ReceiveError, ReceiveRight, Right, Timeout};
use portolan_wire::bootstrap::{Page, Reply, Request};
use portolan_wire::jobs::MAX_PAGE;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that ends when its bootstrap right is dropped.
struct Fake {
    thread: JoinHandle<Vec<Request>>,
}

impl Fake {
    /// Answers each request with what `answer` makes of it and of its rights.
    fn start(
        answer: impl Fn(&Request, Vec<Right>) -> Message + Send + 'static,
    ) -> (Bootstrap, Self) {
        let port = ReceiveRight::new().expect("a port");
        let right = port.make_send().expect("a send right");
        port.request_no_senders(1);
        let thread = thread::spawn(move || serve(&port, answer));
        (Bootstrap::from_right(right), Self { thread })
    }

    /// What it was asked.
    fn asked(self, bootstrap: Bootstrap) -> Vec<Request> {
        drop(bootstrap);
        self.thread.join().expect("the server's thread")
    }
}

fn serve(port: &ReceiveRight, answer: impl Fn(&Request, Vec<Right>) -> Message) -> Vec<Request> {
    let mut asked = Vec::new();
    loop {
        let mut message = match port.receive(PATIENCE) {
            Ok(message) if message.notification().is_some() => return asked,
            Ok(message) => message,
            Err(ReceiveError::TimedOut) => panic!("nobody asks"),
            Err(error) => panic!("{error}"),
        };
        let request = Request::decode(message.id(), message.bytes()).expect("a request");
        let answer = answer(&request, message.take_rights());
        let reply = message.take_reply().expect("a reply right");
        reply.send(answer).expect("answer");
        asked.push(request);
    }
}

fn done(reply: &Reply) -> Message {
    Message::new(0).with_bytes(reply.encode())
}

fn refuse(code: BootstrapCode, why: &Refusal) -> Message {
    Message::new(code.raw()).with_bytes(why.encode())
}

fn label(text: &str) -> JobLabel {
    text.parse().expect("a label")
}

fn summary(text: &str) -> JobSummary {
    JobSummary {
        label: label(text),
        state: JobState::Running,
        pid: Some(7),
        last_exit: LastExit::None,
    }
}

#[test]
fn each_call_asks_what_it_says() {
    let (bootstrap, fake) = Fake::start(|_, _| done(&Reply::Done));
    let job = label("a");
    let load = |enable| Request::Load {
        enable,
        path: "jobs/a.toml".into(),
        file: b"text".to_vec(),
    };
    let path = Path::new("jobs/a.toml");
    bootstrap.load(path, b"text").expect("load");
    bootstrap.load_enabled(path, b"text").expect("load");
    bootstrap.unload(&job).expect("unload");
    bootstrap.enable(&job).expect("enable");
    bootstrap.disable(&job).expect("disable");
    bootstrap.stop(&job).expect("stop");
    bootstrap.ready().expect("ready");
    bootstrap.restart().expect("restart");
    let expected = [
        load(false),
        load(true),
        Request::Unload { label: job.clone() },
        Request::Enable { label: job.clone() },
        Request::Disable { label: job.clone() },
        Request::Stop { label: job },
        Request::Ready,
        Request::Restart,
    ];
    assert_eq!(fake.asked(bootstrap), expected);
}

#[test]
fn a_kickstart_waits_if_told_to() {
    let (bootstrap, fake) = Fake::start(|request, _| {
        let waits = matches!(request, Request::Kickstart { wait: true, .. });
        done(&Reply::Kickstarted(waits.then_some(12)))
    });
    let how = |kill, wait| Kickstart { kill, wait };
    let job = label("a");
    let start = |how| bootstrap.kickstart(&job, how).expect("kickstart");
    assert_eq!(start(how(false, None)), None);
    assert_eq!(start(how(true, Some(Timeout::after(PATIENCE)))), Some(12));
    let asked = |kill, wait| Request::Kickstart {
        kill,
        wait,
        label: label("a"),
    };
    let expected = [asked(false, false), asked(true, true)];
    assert_eq!(fake.asked(bootstrap), expected);
}

#[test]
fn a_refusal_comes_with_its_words() {
    let (bootstrap, fake) = Fake::start(|request, _| match request {
        Request::Stop { .. } => Message::new(BootstrapCode::JOB_NOT_RUNNING.raw()),
        Request::Enable { .. } => Message::new(1205).with_bytes(b"\xff".as_slice()),
        _ => {
            let why = Refusal::Text("a.toml:3:1: Programm: unknown key".into());
            refuse(BootstrapCode::BAD_JOB_FILE, &why)
        }
    });
    let error = bootstrap.load(Path::new("a.toml"), b"").expect_err("bad");
    assert_eq!(error.code(), Some(BootstrapCode::BAD_JOB_FILE));
    assert_eq!(
        error.to_string(),
        "The job file cannot be used (1202): a.toml:3:1: Programm: unknown key"
    );
    let bare = bootstrap.stop(&label("a")).expect_err("not running");
    assert_eq!(bare.to_string(), "The job is not running (1204)");
    // The code is told also where the words cannot be.
    let garbled = bootstrap.enable(&label("a")).expect_err("unsupported");
    assert!(matches!(
        garbled,
        BootstrapError::Refused(BootstrapCode::UNSUPPORTED)
    ));
    fake.asked(bootstrap);
}

#[test]
fn a_failed_start_comes_with_its_cause() {
    let failure = StartFailure {
        label: label("a"),
        kind: FailureKind::Exec {
            errno: 2,
            path: "/opt/a".into(),
        },
        text: "".into(),
    };
    let why = Refusal::Start(failure);
    let told = why.clone();
    let (bootstrap, fake) = Fake::start(move |_, _| refuse(BootstrapCode::START_FAILED, &told));
    let how = Kickstart {
        wait: Some(Timeout::after(PATIENCE)),
        ..Kickstart::default()
    };
    match bootstrap.kickstart(&label("a"), how) {
        Err(BootstrapError::Explained { code, why: said }) => {
            assert_eq!((code, said), (BootstrapCode::START_FAILED, why));
        }
        other => panic!("{other:?}"),
    }
    fake.asked(bootstrap);
}

/// Jobs "0000", "0001" and so on after the label.
fn page_after(count: usize, after: Option<&JobLabel>) -> Page<JobSummary> {
    let labels = (0..count).map(|k| format!("{k:04}"));
    let later = labels.filter(|text| after.is_none_or(|after| text.as_str() > after.as_str()));
    Page::fill(later.map(|text| summary(&text)))
}

#[test]
fn all_pages_of_jobs_are_read() {
    for count in [0, 1, MAX_PAGE, MAX_PAGE + 1, 3 * MAX_PAGE - 1] {
        let (bootstrap, fake) = Fake::start(move |request, _| match request {
            Request::Jobs { after } => done(&Reply::Jobs(page_after(count, after.as_ref()))),
            other => panic!("{other:?}"),
        });
        let jobs = bootstrap.jobs().expect("jobs");
        assert_eq!(jobs.len(), count);
        assert!(jobs.is_sorted_by(|a, b| a.label < b.label));
        let pages = count.div_ceil(MAX_PAGE).max(1);
        assert_eq!(fake.asked(bootstrap).len(), pages, "{count} jobs");
    }
}

#[test]
fn pages_that_lead_nowhere_are_no_answer() {
    // The first page, and every other.
    let hostile: [[&[&str]; 2]; 4] = [
        [&[], &[]],
        [&["a", "b"], &["a", "b"]],
        [&["b", "a"], &["c"]],
        [&["c"], &["b", "d"]],
    ];
    for [first, other] in hostile {
        let (bootstrap, fake) = Fake::start(move |request, _| match request {
            Request::Jobs { after } => {
                let labels = if after.is_none() { first } else { other };
                let items = labels.iter().map(|text| summary(text)).collect();
                done(&Reply::Jobs(Page { more: true, items }))
            }
            other => panic!("{other:?}"),
        });
        assert!(matches!(bootstrap.jobs(), Err(BootstrapError::Protocol)));
        assert!(fake.asked(bootstrap).len() <= 2);
    }
}

#[test]
fn several_starts_of_one_job_are_read() {
    let blame = |text, ms_ago| Blame {
        label: label(text),
        start: Start {
            reason: "kickstart".into(),
            by: Some(9),
            ms_ago,
        },
    };
    let all = vec![blame("a", 20), blame("a", 10), blame("b", 5)];
    let told = all.clone();
    let (bootstrap, fake) = Fake::start(move |request, _| match request {
        Request::Blame { after } => {
            let split = if after.is_none() { 0..2 } else { 2..3 };
            let more = after.is_none();
            let items = told[split].to_vec();
            done(&Reply::Blame(Page { more, items }))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(bootstrap.blame().expect("blame"), all);
    fake.asked(bootstrap);
}

#[test]
fn everything_about_a_job_and_whether_one_may_exit() {
    let job = JobStatus {
        summary: summary("a"),
        path: "a.toml".into(),
        runs: 1,
        failures: 0,
        next_start_ms: None,
        started: None,
        services: Vec::new(),
        sockets: Vec::new(),
        log: "".into(),
        confinement: "".into(),
        note: "".into(),
    };
    let told = job.clone();
    let (bootstrap, fake) = Fake::start(move |request, _| match request {
        Request::Job { .. } => done(&Reply::Job(Box::new(told.clone()))),
        Request::TryExit => done(&Reply::TryExit(true)),
        // A list where a job is expected.
        _ => done(&Reply::List(Vec::new())),
    });
    assert_eq!(bootstrap.job(&label("a")).expect("job"), job);
    assert!(bootstrap.try_exit().expect("try to exit"));
    assert!(matches!(bootstrap.blame(), Err(BootstrapError::Protocol)));
    fake.asked(bootstrap);
}

#[test]
fn a_subset_and_a_parent_are_bootstrap_rights() {
    let other = Arc::new(ReceiveRight::new().expect("a port"));
    let behind = Arc::clone(&other);
    let (bootstrap, fake) = Fake::start(move |request, rights| {
        match (request, &rights[..]) {
            (Request::Subset, [Right::Send(_)]) | (Request::Parent, []) => {}
            other => panic!("{other:?}"),
        }
        done(&Reply::Done).with_right(behind.make_send().expect("a send right"))
    });
    let requestor = ReceiveRight::new().expect("a port");
    let requestor = requestor.make_send().expect("a send right");
    let subset = bootstrap.subset(requestor).expect("subset");
    let parent = bootstrap.parent().expect("parent");
    for bootstrap in [subset, parent] {
        assert_eq!(bootstrap.into_right().port(), other.id());
    }
    fake.asked(bootstrap);
}

#[test]
fn an_answer_without_its_right_is_no_answer() {
    let (bootstrap, fake) = Fake::start(|_, _| done(&Reply::Done));
    assert!(matches!(bootstrap.parent(), Err(BootstrapError::Protocol)));
    fake.asked(bootstrap);
}
