//! What the bootstrap protocol says of jobs against committed bytes, round trips and arbitrary
//! bytes.

mod decoders;
mod golden;

use portolan_wire::bootstrap::{DecodeError, Operation, Page, Reply, Request, ServiceStatus};
use portolan_wire::bounded::{Text, TextError};
use portolan_wire::code::BootstrapCode;
use portolan_wire::failure::{FailureKind, Refusal, StartFailure};
use portolan_wire::jobs::{
    Blame, JobService, JobState, JobStatus, JobSummary, LastExit, MAX_JOB_BYTES, MAX_PAGE,
    MAX_PATH_BYTES, Start,
};
use portolan_wire::label::{JobLabel, LabelError};
use portolan_wire::signal::Signal;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[test]
fn requests_have_the_committed_bytes() {
    let label = || label("com.example.a");
    let cases = [
        (
            include_str!("golden/request-load.hex"),
            Request::Load {
                enable: true,
                path: "jobs/a.toml".into(),
                file: b"x = 1".to_vec(),
            },
        ),
        (
            include_str!("golden/request-unload.hex"),
            Request::Unload { label: label() },
        ),
        (
            include_str!("golden/request-kickstart.hex"),
            Request::Kickstart {
                kill: true,
                wait: false,
                label: label(),
            },
        ),
        (
            include_str!("golden/request-jobs.hex"),
            Request::Jobs {
                after: Some(label()),
            },
        ),
        (
            include_str!("golden/request-jobs-first.hex"),
            Request::Jobs { after: None },
        ),
    ];
    for (golden, request) in cases {
        let (id, bytes) = golden::parse(golden);
        assert_eq!(request.operation().id(), id, "{request:?}");
        assert_eq!(request.encode(), bytes, "{request:?}");
        assert_eq!(Request::decode(id, &bytes), Ok(request));
    }
}

#[test]
fn requests_of_one_shape_differ_in_their_numbers() {
    let about = |id| {
        Request::decode(
            id,
            &golden::parse(include_str!("golden/request-unload.hex")).1,
        )
    };
    let label = label("com.example.a");
    let after = Some(label.clone());
    assert_eq!(
        about(10),
        Ok(Request::Enable {
            label: label.clone()
        })
    );
    assert_eq!(
        about(11),
        Ok(Request::Disable {
            label: label.clone()
        })
    );
    assert_eq!(
        about(13),
        Ok(Request::Stop {
            label: label.clone()
        })
    );
    assert_eq!(about(15), Ok(Request::Job { label }));
    assert_eq!(about(16), Ok(Request::Blame { after }));
    let bare = |id| Request::decode(id, &[]);
    assert_eq!(bare(17), Ok(Request::TryExit));
    assert_eq!(bare(18), Ok(Request::Ready));
    assert_eq!(bare(19), Ok(Request::Restart));
    assert_eq!(bare(20), Ok(Request::Subset));
    assert_eq!(bare(21), Ok(Request::Parent));
}

#[test]
fn replies_have_the_committed_bytes() {
    let cases = [
        (
            include_str!("golden/reply-kickstarted.hex"),
            Operation::Kickstart,
            Reply::Kickstarted(Some(0x0102_0304)),
        ),
        (
            include_str!("golden/reply-try-exit.hex"),
            Operation::TryExit,
            Reply::TryExit(true),
        ),
        (
            include_str!("golden/reply-jobs.hex"),
            Operation::Jobs,
            Reply::Jobs(four_jobs()),
        ),
        (
            include_str!("golden/reply-blame.hex"),
            Operation::Blame,
            Reply::Blame(two_starts()),
        ),
        (
            include_str!("golden/reply-job.hex"),
            Operation::Job,
            Reply::Job(Box::new(job())),
        ),
    ];
    for (golden, operation, reply) in cases {
        let (id, bytes) = golden::parse(golden);
        assert_eq!(BootstrapCode::from_raw(id), BootstrapCode::SUCCESS);
        assert_eq!(reply.encode(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(operation, &bytes), Ok(reply));
    }
}

fn four_jobs() -> Page<JobSummary> {
    let job = |text, state, pid, last_exit| JobSummary {
        label: label(text),
        state,
        pid,
        last_exit,
    };
    Page {
        more: true,
        items: vec![
            job("a", JobState::Running, Some(0x0102_0304), LastExit::None),
            job("b", JobState::Throttled, None, LastExit::Status(7)),
            job(
                "c",
                JobState::Stopping,
                Some(7),
                LastExit::Signal(Signal(15)),
            ),
            job("d", JobState::Failed, None, LastExit::Unknown),
        ],
    }
}

fn two_starts() -> Page<Blame> {
    let blame = |reason: &str, by, ms_ago| Blame {
        label: label("a"),
        start: Start {
            reason: reason.into(),
            by,
            ms_ago,
        },
    };
    Page {
        more: false,
        items: vec![
            blame("kickstart", Some(9), 1000),
            blame("RunAtLoad", None, 60_000),
        ],
    }
}

fn job() -> JobStatus {
    let service = |name: &str, status, queued, checked_in| JobService {
        name: name.parse().expect("a valid sample"),
        status,
        queued,
        checked_in,
    };
    JobStatus {
        summary: JobSummary {
            label: label("com.example.a"),
            state: JobState::Starting,
            pid: Some(0x0708),
            last_exit: LastExit::NotStarted {
                errno: 2,
                path: "/x".into(),
            },
        },
        path: "a.toml".into(),
        runs: 3,
        failures: 2,
        next_start_ms: Some(1500),
        started: Some(Start {
            reason: "demand".into(),
            by: None,
            ms_ago: 65_536,
        }),
        services: vec![
            service("group.a.x", ServiceStatus::OnDemand, 5, false),
            service("b", ServiceStatus::Active, 0, true),
        ],
        sockets: vec!["http [::]:80".into()],
        log: "a.log".into(),
        confinement: "none".into(),
        note: "".into(),
    }
}

#[test]
fn refusals_have_the_committed_bytes() {
    let failure = |kind, text: &str| {
        Refusal::Start(StartFailure {
            label: label("com.example.a"),
            kind,
            text: text.into(),
        })
    };
    let exec = FailureKind::Exec {
        errno: 2,
        path: "/opt/a".into(),
    };
    let cases = [
        (
            include_str!("golden/refusal-text.hex"),
            Refusal::Text("no job".into()),
        ),
        (
            include_str!("golden/failure-exec.hex"),
            failure(exec, "mend it"),
        ),
        (
            include_str!("golden/failure-throttled.hex"),
            failure(FailureKind::Throttled { ms: 3200 }, ""),
        ),
    ];
    for (golden, refusal) in cases {
        let (id, bytes) = golden::parse(golden);
        assert_eq!(refusal.encode(), bytes, "{refusal:?}");
        let decoded = Refusal::decode(BootstrapCode::from_raw(id), &bytes);
        assert_eq!(decoded, Ok(refusal));
    }
}

#[test]
fn a_failure_reads_as_a_sentence() {
    let says = |kind| {
        let failure = StartFailure {
            label: label("a"),
            kind,
            text: "".into(),
        };
        failure.to_string()
    };
    assert_eq!(
        says(FailureKind::Exited { status: 3 }),
        "job a exited with status 3"
    );
    let signal = Signal(11);
    assert_eq!(
        says(FailureKind::Signalled { signal }),
        "job a was ended by SIGSEGV"
    );
    assert_eq!(
        says(FailureKind::Throttled { ms: 3299 }),
        "job a failed and is not started again for 3.2 s"
    );
    assert_eq!(
        says(FailureKind::NotCheckedIn { ms: 30_000 }),
        "job a runs and did not check in within 30.0 s"
    );
    assert_eq!(says(FailureKind::Disabled), "job a is disabled");
    assert_eq!(says(FailureKind::Unloaded), "job a was unloaded");
    assert_eq!(
        says(FailureKind::SetAside),
        "job a crashed each time it read this message"
    );
}

#[test]
fn the_longest_failure_fits() {
    let failure = StartFailure {
        label: label(&"x".repeat(JobLabel::MAX_BYTES)),
        kind: FailureKind::Exec {
            errno: -1,
            path: "p".repeat(10_000).into(),
        },
        text: "t".repeat(10_000).into(),
    };
    let bytes = failure.encode();
    assert!(bytes.len() <= StartFailure::MAX_BYTES);
    assert_eq!(StartFailure::decode(&bytes), Ok(failure));
}

#[test]
fn numbers_without_a_meaning_are_refused() {
    let (_, mut bytes) = golden::parse(include_str!("golden/reply-jobs.hex"));
    let state = 1 + 4 + 2 + 1;
    bytes[state] = 8;
    assert_eq!(
        Reply::decode(Operation::Jobs, &bytes),
        Err(DecodeError::UnknownState { value: 8 })
    );
    bytes[state] = 7;
    bytes[state + 1 + 4] = 5;
    assert_eq!(
        Reply::decode(Operation::Jobs, &bytes),
        Err(DecodeError::UnknownExit { value: 5 })
    );
    let (_, mut bytes) = golden::parse(include_str!("golden/failure-throttled.hex"));
    for value in [0, 9, u8::MAX] {
        bytes[2 + 13] = value;
        assert_eq!(
            StartFailure::decode(&bytes),
            Err(DecodeError::UnknownFailure { value })
        );
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let load = |path: usize, file: usize| {
        let path_bytes = u16::try_from(path).expect("a valid sample").to_le_bytes();
        let bytes = [&[0], &path_bytes[..], &vec![b'p'; path], &vec![b'f'; file]].concat();
        Request::decode(Operation::Load.id(), &bytes)
    };
    assert!(load(MAX_PATH_BYTES, MAX_JOB_BYTES).is_ok());
    let (len, max) = (MAX_JOB_BYTES + 1, MAX_JOB_BYTES);
    assert_eq!(load(0, len), Err(DecodeError::FileTooLong { len, max }));
    let (len, max) = (MAX_PATH_BYTES + 1, MAX_PATH_BYTES);
    let too_long = DecodeError::Text(TextError::TooLong { len, max });
    assert_eq!(load(len, 0), Err(too_long));
    let code = BootstrapCode::JOB_NOT_FOUND;
    assert!(Refusal::decode(code, &[b'x'; 4096]).is_ok());
    let (len, max) = (4097, 4096);
    assert_eq!(
        Refusal::decode(code, &[b'x'; 4097]),
        Err(DecodeError::Text(TextError::TooLong { len, max }))
    );
}

#[test]
fn a_page_holds_so_many_and_promises_no_more_than_it_holds() {
    let summary = |k: usize| JobSummary {
        label: label(&format!("job {k}")),
        state: JobState::Idle,
        pid: None,
        last_exit: LastExit::None,
    };
    let fill = |count| Page::fill((0..count).map(summary));
    assert!(!fill(0).more && !fill(MAX_PAGE).more);
    let page = fill(MAX_PAGE + 1);
    assert!(page.more && page.items.len() == MAX_PAGE);
    let mut bytes = Reply::Jobs(page).encode();
    let count = MAX_PAGE as u32 + 1;
    bytes[1..5].copy_from_slice(&count.to_le_bytes());
    let max = MAX_PAGE as u32;
    assert_eq!(
        Reply::decode(Operation::Jobs, &bytes),
        Err(DecodeError::TooMany { count, max })
    );
    let promised = [0, 0, 4, 0, 0];
    assert_eq!(
        Reply::decode(Operation::Jobs, &promised),
        Err(DecodeError::Truncated)
    );
}

#[test]
fn a_label_that_is_none_is_refused() {
    let refused = |error: LabelError| Err(DecodeError::Label(error));
    let unload = |bytes: &[u8]| Request::decode(Operation::Unload.id(), bytes);
    assert_eq!(unload(b"\0\0"), refused(LabelError::Empty));
    assert_eq!(unload(b"\x02\0a\n"), refused(LabelError::Control { at: 1 }));
    assert_eq!(unload(b""), Err(DecodeError::Truncated));
    assert_eq!(
        unload(b"\x01\0ab"),
        Err(DecodeError::TrailingBytes { count: 1 })
    );
}

proptest! {
    #[test]
    fn requests_survive_the_round_trip(request in request()) {
        let bytes = request.encode();
        prop_assert_eq!(Request::decode(request.operation().id(), &bytes), Ok(request));
    }

    #[test]
    fn replies_survive_the_round_trip((operation, reply) in reply()) {
        let bytes = reply.encode();
        prop_assert_eq!(Reply::decode(operation, &bytes), Ok(reply));
    }

    #[test]
    fn failures_survive_the_round_trip(failure in failure()) {
        let bytes = failure.encode();
        prop_assert_eq!(StartFailure::decode(&bytes), Ok(failure));
    }

    #[test]
    fn what_differs_in_a_byte_or_in_length_never_panics(
        mut bytes in encoded(), at: Index, value: u8, more in 0..3usize, less in 0..3usize,
    ) {
        decoders::check(&bytes);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.resize(bytes.len() + more, 0);
        bytes.truncate(bytes.len().saturating_sub(less));
        decoders::check(&bytes);
    }

    #[test]
    fn text_is_cut_and_stays_text(text in "\\PC{0,40}") {
        let cut = Text::<16>::from(text.as_str());
        prop_assert!(cut.len() <= 16);
        if text.len() <= 16 {
            prop_assert_eq!(&*cut, text.as_str());
        } else {
            prop_assert!(text.starts_with(cut.trim_end_matches('…')));
        }
        prop_assert_eq!(Text::from_bytes(cut.as_bytes()), Ok(cut));
    }
}

fn encoded() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        request().prop_map(|request| request.encode()),
        reply().prop_map(|(_, reply)| reply.encode()),
        failure().prop_map(|failure| failure.encode()),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let after = || prop::option::of(any_label());
    prop_oneof![
        (any::<bool>(), text(), vec(any::<u8>(), 0..50))
            .prop_map(|(enable, path, file)| Request::Load { enable, path, file }),
        any_label().prop_map(|label| Request::Unload { label }),
        any_label().prop_map(|label| Request::Enable { label }),
        any_label().prop_map(|label| Request::Disable { label }),
        any_label().prop_map(|label| Request::Stop { label }),
        any_label().prop_map(|label| Request::Job { label }),
        (any::<bool>(), any::<bool>(), any_label())
            .prop_map(|(kill, wait, label)| Request::Kickstart { kill, wait, label }),
        after().prop_map(|after| Request::Jobs { after }),
        after().prop_map(|after| Request::Blame { after }),
        Just(Request::TryExit),
        Just(Request::Ready),
        Just(Request::Restart),
        Just(Request::Subset),
        Just(Request::Parent),
    ]
}

fn reply() -> impl Strategy<Value = (Operation, Reply)> {
    prop_oneof![
        any_pid().prop_map(|pid| (Operation::Kickstart, Reply::Kickstarted(pid))),
        any::<bool>().prop_map(|may| (Operation::TryExit, Reply::TryExit(may))),
        any::<u64>().prop_map(|instance| (Operation::Confine, Reply::Confined(instance))),
        page(summary()).prop_map(|page| (Operation::Jobs, Reply::Jobs(page))),
        page(blame()).prop_map(|page| (Operation::Blame, Reply::Blame(page))),
        status().prop_map(|job| (Operation::Job, Reply::Job(Box::new(job)))),
    ]
}

fn page<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Page<T>> {
    (any::<bool>(), vec(item, 0..6)).prop_map(|(more, items)| Page { more, items })
}

fn summary() -> impl Strategy<Value = JobSummary> {
    let state = (0..8u8).prop_map(|raw| JobState::from_raw(raw).expect("a valid sample"));
    (any_label(), state, any_pid(), last_exit()).prop_map(|(label, state, pid, last_exit)| {
        JobSummary {
            label,
            state,
            pid,
            last_exit,
        }
    })
}

fn last_exit() -> impl Strategy<Value = LastExit> {
    prop_oneof![
        Just(LastExit::None),
        any::<i32>().prop_map(LastExit::Status),
        any::<u32>().prop_map(|signal| LastExit::Signal(Signal(signal))),
        (any::<i32>(), text()).prop_map(|(errno, path)| LastExit::NotStarted { errno, path }),
        Just(LastExit::Unknown),
    ]
}

fn blame() -> impl Strategy<Value = Blame> {
    (any_label(), start()).prop_map(|(label, start)| Blame { label, start })
}

fn start() -> impl Strategy<Value = Start> {
    (text(), any_pid(), any::<u64>()).prop_map(|(reason, by, ms_ago)| Start { reason, by, ms_ago })
}

fn status() -> impl Strategy<Value = JobStatus> {
    let numbers = (any::<u32>(), any::<u32>(), any::<Option<u64>>());
    let lists = (vec(service(), 0..4), vec(text(), 0..4));
    let texts = (text(), text(), text(), text());
    let started = prop::option::of(start());
    (summary(), numbers, started, lists, texts).prop_map(
        |(summary, (runs, failures, next_start_ms), started, (services, sockets), texts)| {
            let (path, log, confinement, note) = texts;
            JobStatus {
                summary,
                path,
                runs,
                failures,
                next_start_ms,
                started,
                services,
                sockets,
                log,
                confinement,
                note,
            }
        },
    )
}

fn service() -> impl Strategy<Value = JobService> {
    let status = (0..3u32).prop_map(|raw| ServiceStatus::from_raw(raw).expect("a valid sample"));
    ("[^\\x00]{1,31}", status, any::<u32>(), any::<bool>()).prop_map(
        |(name, status, queued, checked_in)| JobService {
            name: name.parse().expect("a valid sample"),
            status,
            queued,
            checked_in,
        },
    )
}

fn failure() -> impl Strategy<Value = StartFailure> {
    let kind = prop_oneof![
        (any::<i32>(), text()).prop_map(|(errno, path)| FailureKind::Exec { errno, path }),
        any::<i32>().prop_map(|status| FailureKind::Exited { status }),
        any::<u32>().prop_map(|signal| FailureKind::Signalled {
            signal: Signal(signal)
        }),
        any::<u64>().prop_map(|ms| FailureKind::Throttled { ms }),
        any::<u64>().prop_map(|ms| FailureKind::NotCheckedIn { ms }),
        Just(FailureKind::Disabled),
        Just(FailureKind::Unloaded),
        Just(FailureKind::SetAside),
    ];
    (any_label(), kind, text()).prop_map(|(label, kind, text)| StartFailure { label, kind, text })
}

fn text<const MAX: usize>() -> impl Strategy<Value = Text<MAX>> {
    any::<String>().prop_map(Text::from)
}

fn any_pid() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(1..=u32::MAX)
}

fn any_label() -> impl Strategy<Value = JobLabel> {
    "[^\\x00-\\x1f\\x7f-\\x9f]{1,31}".prop_map(|text| label(&text))
}

fn label(text: &str) -> JobLabel {
    text.parse().expect("a valid sample")
}
