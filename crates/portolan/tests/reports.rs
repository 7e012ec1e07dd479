//! The right to report with, and what it is not good for.

use std::time::{Duration, Instant};

use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::sandbox::Violation;
use portolan::{BootstrapCode, JobLabel, Message, SendRight, Timeout};
use portolan_wire::bootstrap::Request;
use portolan_wire::sandbox::Report;

fn label() -> JobLabel {
    "org.example.reported".parse().expect("a label")
}

fn report(name: &str, left_out: u32) -> Message {
    let report = Report {
        pid: Some(7),
        left_out,
        operation: "file-read".into(),
        name: name.into(),
        key: "a.key".into(),
        value: "".into(),
    };
    let request = Request::Report(Box::new(report));
    Message::new(request.operation().id()).with_bytes(request.encode())
}

/// As many as there are to be, once they are there.
fn violations(server: &Bootstrap, count: usize) -> Vec<Violation> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let known = server.violations(0).expect("violations");
        if known.len() >= count {
            return known;
        }
        assert!(Instant::now() < deadline, "{known:?}");
    }
}

fn confined(server: &Bootstrap) -> SendRight {
    let entitlements = b"\"com.apple.security.app-sandbox\" = true\n";
    let confined = server.confine(&label(), entitlements);
    confined.expect("a confined right").right
}

#[test]
fn what_is_reported_is_told_of_the_program() {
    let server = Bootstrap::private().expect("a server");
    let right = server.reporter(&label()).expect("a right");
    right.send(report("/a", 0), Timeout::NEVER).expect("send");
    right.send(report("/b", 3), Timeout::NEVER).expect("send");
    let known = violations(&server, 2);
    let told: Vec<_> = { known.iter() }
        .map(|one| (&one.label, &one.refusal))
        .map(|(label, one)| (label.clone(), one.pid, &*one.name, one.left_out))
        .collect();
    let expected = [("/a", 0), ("/b", 3)];
    let expected = expected.map(|(name, left_out)| (label(), Some(7), name, left_out));
    assert_eq!(told, expected);
    assert_eq!(
        (&*known[0].refusal.key, &*known[0].refusal.value),
        ("a.key", "")
    );
}

#[test]
fn a_right_to_report_does_nothing_else_and_no_other_reports() {
    let server = Bootstrap::private().expect("a server");
    let reporter = server.reporter(&label()).expect("a right");
    let reporter = Bootstrap::from_right(reporter);
    let code = |refused: portolan::bootstrap::BootstrapError| refused.code();
    let name = "a.b".parse().expect("a name");
    for refused in [
        reporter.list().map(drop).map_err(code),
        reporter.look_up(&name).map(drop).map_err(code),
        reporter.violations(0).map(drop).map_err(code),
        reporter.reporter(&label()).map(drop).map_err(code),
        reporter.shutdown().map_err(code),
    ] {
        assert_eq!(refused, Err(Some(BootstrapCode::NOT_PRIVILEGED)));
    }
    // Neither who is confined nor who is not.
    let confined = confined(&server);
    let anybody = server.copy().expect("a copy").into_right();
    for right in [&confined, &anybody] {
        right.send(report("/a", 0), Timeout::NEVER).expect("send");
    }
    let refused = Bootstrap::from_right(confined).reporter(&label());
    let refused = refused.map(drop).map_err(code);
    assert_eq!(refused, Err(Some(BootstrapCode::NOT_PRIVILEGED)));
    Bootstrap::from_right(anybody)
        .reporter(&label())
        .expect("it was heard");
    assert!(
        server
            .violations(0)
            .expect("violations")
            .iter()
            .all(|one| one.refusal.name.is_empty())
    );
}

#[test]
fn what_is_no_report_is_ignored() {
    let server = Bootstrap::private().expect("a server");
    let right = server.reporter(&label()).expect("a right");
    let whole = report("/a", 0);
    for cut in 0..whole.bytes().len() {
        let message = Message::new(whole.id()).with_bytes(&whole.bytes()[..cut]);
        right.send(message, Timeout::NEVER).expect("send");
    }
    for id in [0, 1, 6, 28, 30, i32::MIN] {
        let message = Message::new(id).with_bytes(whole.bytes());
        right.send(message, Timeout::NEVER).expect("send");
    }
    right
        .send(report("/last", 0), Timeout::NEVER)
        .expect("send");
    let known = violations(&server, 1);
    assert_eq!(known.len(), 1);
    assert_eq!(&*known[0].refusal.name, "/last");
}
