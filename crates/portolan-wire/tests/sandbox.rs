//! What is said of the sandbox, as bytes.

mod decoders;
mod golden;

use portolan_wire::bootstrap::{DecodeError, Operation, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::sandbox::{BoundJob, Bounds, MAX_VIOLATIONS, Report, Violation, Violations};

fn bounds() -> Bounds {
    Bounds {
        job: Some(BoundJob {
            user: 1000,
            group: 1001,
            program: "/bin/a".into(),
            home: "/home/a".into(),
            data: "/data".into(),
            isolation: "best".into(),
        }),
        entitlements: b"x = 1\n".to_vec(),
    }
}

fn violations() -> Violations {
    Violations {
        more: true,
        items: vec![Violation {
            number: 0x0102_0304_0506_0708,
            at_ms: 1_700_000_000_000,
            label: "a.b".parse().expect("a label"),
            refusal: Report {
                pid: Some(7),
                left_out: 2,
                operation: "mach-lookup".into(),
                name: "c.d".into(),
                key: "k".into(),
                value: "v".into(),
            },
        }],
    }
}

#[test]
fn requests_have_the_committed_bytes() {
    let label = "com.example.a".parse().expect("a label");
    let (_, bytes) = golden::parse(include_str!("golden/request-unload.hex"));
    assert_eq!(Request::decode(22, &bytes), Ok(Request::Bounds { label }));
    let request = Request::Violations {
        wait: true,
        after: 0x0102,
    };
    assert_eq!(request.encode(), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(request.operation().id(), 23);
    assert_eq!(Request::decode(23, &request.encode()), Ok(request));
}

#[test]
fn a_report_has_the_committed_bytes() {
    let (id, bytes) = golden::parse(include_str!("golden/request-report.hex"));
    let report = Report {
        pid: Some(7),
        left_out: 2,
        operation: "file-read".into(),
        name: "/a".into(),
        key: "k".into(),
        value: "v".into(),
    };
    let request = Request::Report(Box::new(report));
    assert_eq!(request.encode(), bytes);
    assert_eq!((request.operation().id(), id), (29, 29));
    assert_eq!(Request::decode(29, &bytes), Ok(request));
    let label = "com.example.a".parse().expect("a label");
    let (_, bytes) = golden::parse(include_str!("golden/request-unload.hex"));
    assert_eq!(Request::decode(28, &bytes), Ok(Request::Reporter { label }));
    decoders::check(&bytes);
}

#[test]
fn replies_have_the_committed_bytes() {
    let cases = [
        (
            include_str!("golden/reply-bounds.hex"),
            Operation::Bounds,
            Reply::Bounds(Box::new(bounds())),
        ),
        (
            include_str!("golden/reply-violations.hex"),
            Operation::Violations,
            Reply::Violations(violations()),
        ),
    ];
    for (golden, operation, reply) in cases {
        let (id, bytes) = golden::parse(golden);
        assert_eq!(BootstrapCode::from_raw(id), BootstrapCode::SUCCESS);
        assert_eq!(reply.encode(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(operation, &bytes), Ok(reply));
        decoders::check(&bytes);
    }
}

#[test]
fn a_list_that_promises_too_much_is_refused() {
    let count = MAX_VIOLATIONS as u32 + 1;
    let bytes = [&[0][..], &count.to_le_bytes()].concat();
    let max = MAX_VIOLATIONS as u32;
    assert_eq!(
        Reply::decode(Operation::Violations, &bytes),
        Err(DecodeError::TooMany { count, max })
    );
}
