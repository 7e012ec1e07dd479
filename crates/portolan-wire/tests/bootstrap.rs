//! The bootstrap protocol against committed bytes, round trips and arbitrary bytes.

mod golden;

use portolan_wire::bootstrap::{
    DecodeError, Flags, Operation, Reply, Request, ServiceInfo, ServiceStatus,
};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use portolan_wire::name::{NameError, ServiceName};
use proptest::prelude::*;

#[test]
fn requests_have_the_committed_bytes() {
    let cases = [
        (
            include_str!("golden/request-register.hex"),
            Request::Register {
                name: name("group.a.x"),
                flags: Flags::PER_PID_SERVICE,
            },
        ),
        (
            include_str!("golden/request-check-in.hex"),
            Request::CheckIn {
                name: name("group.a.x"),
                flags: Flags::STRICT_CHECKIN,
            },
        ),
        (
            include_str!("golden/request-look-up.hex"),
            Request::LookUp {
                name: name("grüße"),
                flags: Flags::PER_PID_SERVICE | Flags::STRICT_LOOKUP | Flags::PRIVILEGED_SERVER,
                pid: 0x0102_0304,
            },
        ),
        (
            include_str!("golden/request-status.hex"),
            Request::Status {
                name: name("group.a.x"),
            },
        ),
        (include_str!("golden/request-list.hex"), Request::List),
        (
            include_str!("golden/request-shutdown.hex"),
            Request::Shutdown,
        ),
        (
            include_str!("golden/request-confine.hex"),
            Request::Confine {
                label: JobLabel::from_bytes(b"app").expect("a valid sample"),
                entitlements: b"x = 1".to_vec(),
            },
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
fn replies_have_the_committed_bytes() {
    let list = Reply::List(vec![
        ServiceInfo {
            pid: 0x0102_0304,
            status: ServiceStatus::Active,
            per_pid: true,
            name: name("group.a.x"),
            owner: label("com.example.a"),
        },
        ServiceInfo {
            pid: 0,
            status: ServiceStatus::OnDemand,
            per_pid: false,
            name: name("b"),
            owner: label("com.example.b"),
        },
    ]);
    let cases = [
        (
            include_str!("golden/reply-done.hex"),
            Operation::LookUp,
            Reply::Done,
        ),
        (
            include_str!("golden/reply-status.hex"),
            Operation::Status,
            Reply::Status(ServiceStatus::OnDemand),
        ),
        (include_str!("golden/reply-list.hex"), Operation::List, list),
        (
            include_str!("golden/reply-confined.hex"),
            Operation::Confine,
            Reply::Confined(0x0102_0304_0506_0708),
        ),
    ];
    for (golden, operation, reply) in cases {
        let (id, bytes) = golden::parse(golden);
        assert_eq!(BootstrapCode::from_raw(id), BootstrapCode::SUCCESS);
        assert_eq!(reply.encode(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(operation, &bytes), Ok(reply));
    }
}

#[test]
fn an_unknown_operation_is_refused() {
    for id in [0, 30, -1, i32::MIN, i32::MAX] {
        let error = Request::decode(id, &[]).unwrap_err();
        assert_eq!(error, DecodeError::UnknownOperation { id });
        assert_eq!(error.code(), BootstrapCode::BAD_OPERATION);
    }
}

#[test]
fn an_unknown_flag_is_refused() {
    let mut bytes = Request::CheckIn {
        name: name("a"),
        flags: Flags::NONE,
    }
    .encode();
    bytes[0] = 0x01 | 0x04 | 0x20;
    let error = Request::decode(Operation::CheckIn.id(), &bytes).unwrap_err();
    assert_eq!(error, DecodeError::UnknownFlags { bits: 0x24 });
    assert_eq!(error.code(), BootstrapCode::BAD_ARGUMENTS);
}

#[test]
fn every_shorter_and_longer_request_is_refused() {
    let request = Request::LookUp {
        name: name("group.a.x"),
        flags: Flags::NONE,
        pid: 0,
    };
    let id = request.operation().id();
    let whole = request.encode();
    for len in 0..whole.len() {
        assert_eq!(
            Request::decode(id, &whole[..len]),
            Err(DecodeError::Truncated)
        );
    }
    let longer = [&whole[..], b"\0"].concat();
    assert_eq!(
        Request::decode(id, &longer),
        Err(DecodeError::TrailingBytes { count: 1 })
    );
}

#[test]
fn a_name_that_is_none_is_refused() {
    let status = |text: &[u8]| {
        let mut bytes = u16::try_from(text.len())
            .expect("a valid sample")
            .to_le_bytes()
            .to_vec();
        bytes.extend(text);
        Request::decode(Operation::Status.id(), &bytes)
    };
    let refused = |error: NameError| Err(DecodeError::Name(error));
    assert_eq!(status(b""), refused(NameError::Empty));
    assert_eq!(status(b"a\0b"), refused(NameError::Nul { at: 1 }));
    assert_eq!(status(b"ab\xff"), refused(NameError::NotUtf8 { at: 2 }));
    assert_eq!(
        status(&[b'x'; 200]),
        refused(NameError::TooLong { len: 200 })
    );
}

#[test]
fn numbers_without_a_meaning_are_refused() {
    for value in [3, 7, u32::MAX] {
        assert_eq!(
            Reply::decode(Operation::Status, &value.to_le_bytes()),
            Err(DecodeError::UnknownStatus { value })
        );
    }
    let (_, mut list) = golden::parse(include_str!("golden/reply-list.hex"));
    let per_pid = 4 + 4 + 4;
    for value in [2, 7, u8::MAX] {
        list[per_pid] = value;
        assert_eq!(
            Reply::decode(Operation::List, &list),
            Err(DecodeError::NotBool { value })
        );
    }
}

#[test]
fn a_list_that_promises_more_than_it_holds_is_refused() {
    let mut bytes = Reply::List(Vec::new()).encode();
    bytes.fill(0xff);
    assert_eq!(
        Reply::decode(Operation::List, &bytes),
        Err(DecodeError::Truncated)
    );
}

proptest! {
    #[test]
    fn requests_survive_the_round_trip(request in request()) {
        let decoded = Request::decode(request.operation().id(), &request.encode());
        prop_assert_eq!(decoded, Ok(request));
    }

    #[test]
    fn lists_survive_the_round_trip(services in prop::collection::vec(service(), 0..8)) {
        let reply = Reply::List(services);
        let decoded = Reply::decode(Operation::List, &reply.encode());
        prop_assert_eq!(decoded, Ok(reply));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        id in -1..29i32,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(request) = Request::decode(id, &bytes) {
            prop_assert_eq!(request.encode(), bytes.clone());
        }
        if let Some(operation) = Operation::from_id(id)
            && let Ok(reply) = Reply::decode(operation, &bytes)
        {
            prop_assert_eq!(reply.encode(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_never_panics(
        services in prop::collection::vec(service(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = Reply::List(services).encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(reply) = Reply::decode(Operation::List, &bytes) {
            prop_assert_eq!(reply.encode(), bytes);
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any_name(), flags()).prop_map(|(name, flags)| Request::Register { name, flags }),
        (any_name(), flags()).prop_map(|(name, flags)| Request::CheckIn { name, flags }),
        (any_name(), flags(), any::<u32>()).prop_map(|(name, flags, pid)| Request::LookUp {
            name,
            flags,
            pid
        }),
        any_name().prop_map(|name| Request::Status { name }),
        Just(Request::List),
        Just(Request::Shutdown),
        proptest::collection::vec(any::<u8>(), 0..50).prop_map(|entitlements| Request::Confine {
            label: JobLabel::from_bytes(b"app").expect("a valid sample"),
            entitlements,
        }),
    ]
}

fn service() -> impl Strategy<Value = ServiceInfo> {
    (
        any::<u32>(),
        0..3u32,
        any::<bool>(),
        any_name(),
        any_label(),
    )
        .prop_map(|(pid, status, per_pid, name, owner)| ServiceInfo {
            pid,
            status: ServiceStatus::from_raw(status).expect("a valid sample"),
            per_pid,
            name,
            owner,
        })
}

fn flags() -> impl Strategy<Value = Flags> {
    any::<u32>().prop_map(|bits| Flags::from_bits(bits & 0xcb).expect("a valid sample"))
}

fn any_name() -> impl Strategy<Value = ServiceName> {
    "[^\\x00]{1,31}".prop_map(|text| name(&text))
}

fn any_label() -> impl Strategy<Value = JobLabel> {
    "[^\\x00-\\x1f\\x7f-\\x9f]{1,31}".prop_map(|text| label(&text))
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("a valid sample")
}

fn label(text: &str) -> JobLabel {
    text.parse().expect("a valid sample")
}
