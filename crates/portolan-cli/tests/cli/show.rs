//! What is told of jobs.

use portolan::bootstrap::ServiceStatus;
use portolan::bootstrap::jobs::{
    Blame, JobService, JobState, JobStatus, JobSummary, LastExit, Signal, Start,
};
use portolan::{BootstrapCode, JobLabel};
use portolan_wire::bootstrap::{Page, Reply, Request, ServiceInfo};
use serde_json::{Value, json};

use crate::fake::{Fake, done, refuse};

fn label(text: &str) -> JobLabel {
    text.parse().expect("label")
}

fn summary(text: &str, state: JobState, pid: Option<u32>, last_exit: LastExit) -> JobSummary {
    JobSummary {
        label: label(text),
        state,
        pid,
        last_exit,
    }
}

fn not_started() -> LastExit {
    LastExit::NotStarted {
        errno: 2,
        path: "/opt/d".into(),
    }
}

fn summaries() -> Vec<JobSummary> {
    vec![
        summary("a", JobState::Running, Some(12), LastExit::None),
        summary("b", JobState::Throttled, None, LastExit::Status(3)),
        summary("c", JobState::Idle, None, LastExit::Signal(Signal(15))),
        summary("d", JobState::Failed, None, not_started()),
        summary("gone", JobState::Stopping, Some(7), LastExit::Unknown),
    ]
}

fn start() -> Start {
    Start {
        reason: "a message to\norg.example.a".into(),
        by: Some(99),
        ms_ago: 4_070,
    }
}

/// Everything there is to say of a job.
fn full() -> JobStatus {
    let service = |name: &str, status, queued, checked_in| JobService {
        name: name.parse().expect("name"),
        status,
        queued,
        checked_in,
    };
    JobStatus {
        summary: summary(
            "a",
            JobState::Running,
            Some(12),
            LastExit::Signal(Signal(11)),
        ),
        path: "/etc/a.toml".into(),
        runs: 7,
        failures: 2,
        next_start_ms: Some(125_000),
        started: Some(start()),
        services: vec![
            service("org.example.a", ServiceStatus::Active, 0, true),
            service("b\x1b", ServiceStatus::OnDemand, 5, false),
        ],
        sockets: vec!["http [::]:80".into()],
        log: "/run/a.log".into(),
        confinement: "app-sandbox".into(),
        note: "first\nsecond \x1b[2J".into(),
    }
}

/// Nothing but what must be said.
fn bare(summary: JobSummary) -> JobStatus {
    JobStatus {
        summary,
        path: "d.toml".into(),
        runs: 0,
        failures: 0,
        next_start_ms: None,
        started: None,
        services: Vec::new(),
        sockets: Vec::new(),
        log: "".into(),
        confinement: "".into(),
        note: "".into(),
    }
}

/// A server with these jobs, of which "gone" is unloaded as soon as it was listed.
fn fake() -> Fake {
    Fake::new(|request| match request {
        Request::Jobs { .. } => done(&Reply::Jobs(Page::fill(summaries()))),
        Request::Job { label } => job(label.as_str()),
        Request::Blame { .. } => {
            let blame = |text| Blame {
                label: label(text),
                start: start(),
            };
            done(&Reply::Blame(Page::fill([blame("a"), blame("b")])))
        }
        Request::List => done(&Reply::List(vec![ServiceInfo {
            pid: 12,
            status: ServiceStatus::Active,
            per_pid: false,
            name: "org.example.a".parse().expect("name"),
            owner: label("a"),
        }])),
        other => panic!("{other:?}"),
    })
}

fn job(label: &str) -> portolan::Message {
    if label == "a" {
        return done(&Reply::Job(Box::new(full())));
    }
    let known = summaries().into_iter().filter(|job| job.pid.is_none());
    match known.into_iter().find(|job| job.label.as_str() == label) {
        Some(summary) => done(&Reply::Job(Box::new(bare(summary)))),
        None => refuse(BootstrapCode::JOB_NOT_FOUND),
    }
}

fn text<const N: usize>(fake: &Fake, arguments: [&str; N]) -> String {
    String::from_utf8(fake.world().run(arguments).ok()).expect("text")
}

fn json<const N: usize>(fake: &Fake, arguments: [&str; N]) -> Value {
    serde_json::from_str(&text(fake, arguments)).expect("JSON")
}

#[test]
fn jobs_are_listed_with_what_became_of_them() {
    let fake = fake();
    assert_eq!(
        text(&fake, ["jobs"]),
        "     12  -          running    a\n      \
               -  3          throttled  b\n      \
               -  SIGTERM    idle       c\n      \
               -  no start   failed     d\n      \
               7  ?          stopping   gone\n"
    );
    let jobs = json(&fake, ["jobs", "--json"]);
    assert_eq!(
        jobs[0],
        json!({ "label": "a", "state": "running", "pid": 12, "last_exit": null })
    );
    let ends: Vec<_> = (1..5).map(|k| jobs[k]["last_exit"].clone()).collect();
    assert_eq!(
        ends,
        [
            json!({ "kind": "exited", "status": 3 }),
            json!({ "kind": "signalled", "signal": 15 }),
            json!({ "kind": "not_started", "errno": 2, "path": "/opt/d" }),
            json!({ "kind": "unknown" }),
        ]
    );
}

#[test]
fn everything_about_a_job_is_printed() {
    let fake = fake();
    let expected = "\
a
    state       running, pid 12
    file        /etc/a.toml
    last exit   ended by SIGSEGV
    runs        7, the last 2 failed
    next start  in 2 min
    started     4.0 s ago: a message to
    started     org.example.a, asked for by process 99
    service     org.example.a: active, 0 queued
    service     b\\u{1b}: on demand, 5 queued, not checked in
    socket      http [::]:80
    log         /run/a.log
    confined    app-sandbox
    note        first
    note        second \\u{1b}[2J
";
    assert_eq!(text(&fake, ["print", "a"]), expected);
    let expected = "\
d
    state       failed
    file        d.toml
    last exit   cannot execute /opt/d: No such file or directory (os error 2)
    runs        0
";
    assert_eq!(text(&fake, ["print", "d"]), expected);
    let unknown = fake.world().run(["print", "gone"]);
    unknown.fails(3, "cannot print gone: No such job (1200)");
}

#[test]
fn everything_about_a_job_as_json() {
    let fake = fake();
    let expected = json!({
        "label": "a",
        "state": "running",
        "pid": 12,
        "last_exit": { "kind": "signalled", "signal": 11 },
        "file": "/etc/a.toml",
        "runs": 7,
        "failures": 2,
        "next_start_ms": 125_000,
        "started": { "reason": "a message to\norg.example.a", "by": 99, "ms_ago": 4_070 },
        "services": [
            { "name": "org.example.a", "status": "active", "queued": 0, "checked_in": true },
            { "name": "b\u{1b}", "status": "on demand", "queued": 5, "checked_in": false },
        ],
        "sockets": ["http [::]:80"],
        "log": "/run/a.log",
        "confinement": "app-sandbox",
        "note": "first\nsecond \u{1b}[2J",
    });
    assert_eq!(json(&fake, ["print", "--json", "a"]), expected);
    let bare = json(&fake, ["print", "--json", "d"]);
    assert_eq!(
        (&bare["log"], &bare["started"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn who_asked_for_the_starts() {
    let fake = fake();
    let line = |label| {
        format!("{label}  4.0 s ago: a message to org.example.a, asked for by process 99\n")
    };
    assert_eq!(text(&fake, ["blame"]), line("a") + &line("b"));
    assert_eq!(text(&fake, ["blame", "b"]), line("b"));
    assert_eq!(
        json(&fake, ["blame", "--json", "b"]),
        json!([{
            "label": "b", "reason": "a message to\norg.example.a", "by": 99, "ms_ago": 4_070
        }])
    );
}

#[test]
fn a_dump_has_all_jobs_that_are_still_there_and_all_names() {
    let fake = fake();
    let dump = json(&fake, ["dump", "--json"]);
    let labels: Vec<_> = (0..4).map(|k| dump["jobs"][k]["label"].clone()).collect();
    assert_eq!(labels, ["a", "b", "c", "d"]);
    assert_eq!(dump["jobs"].as_array().map(Vec::len), Some(4));
    assert_eq!(dump["services"][0]["name"], "org.example.a");
    let text = text(&fake, ["dump"]);
    assert!(text.starts_with("a\n    state       running"), "{text}");
    let names = "     12  active     a  org.example.a\n";
    assert!(text.ends_with(names), "{text}");
}
