//! What a group shares besides ports, against committed bytes and round trips.

mod golden;

use portolan_wire::bootstrap::{DecodeError, Operation, Page, Reply, Request};
use portolan_wire::group_socket::{MAX_SOCKET_PATH_BYTES, SocketKind, SocketUse};
use portolan_wire::object::{Creation, ObjectInfo, ObjectKind, ObjectName};
use proptest::prelude::*;

fn name() -> ObjectName {
    "group.a/x".parse().expect("a valid sample")
}

fn open(create: Option<Creation>) -> Request {
    let kind = ObjectKind::Semaphore;
    let name = name();
    Request::OpenObject { kind, create, name }
}

fn socket(path: &[u8]) -> Request {
    Request::GroupSocket {
        kind: SocketKind::SeqPacket,
        purpose: SocketUse::Listen { backlog: 128 },
        group: "group.a".parse().expect("a valid sample"),
        path: path.to_vec(),
    }
}

#[test]
fn requests_have_the_committed_bytes() {
    let created = Creation {
        exclusive: true,
        value: 3,
    };
    let kind = ObjectKind::Memory;
    let (unlink, after) = (name(), Some(name()));
    let cases = [
        (
            include_str!("golden/request-open-object.hex"),
            open(Some(created)),
        ),
        (
            include_str!("golden/request-unlink-object.hex"),
            Request::UnlinkObject { kind, name: unlink },
        ),
        (
            include_str!("golden/request-objects.hex"),
            Request::Objects { kind, after },
        ),
        (
            include_str!("golden/request-group-socket.hex"),
            socket(b"a/b"),
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
    let object = ObjectInfo {
        size: 4096,
        name: name(),
    };
    let page = Page {
        more: false,
        items: vec![object],
    };
    let cases = [
        (
            include_str!("golden/reply-opened.hex"),
            Operation::OpenObject,
            Reply::Opened(true),
        ),
        (
            include_str!("golden/reply-objects.hex"),
            Operation::Objects,
            Reply::Objects(page),
        ),
        (
            include_str!("golden/reply-socket.hex"),
            Operation::GroupSocket,
            Reply::Socket(111),
        ),
    ];
    for (golden, operation, reply) in cases {
        let (_, bytes) = golden::parse(golden);
        assert_eq!(reply.encode(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(operation, &bytes), Ok(reply));
    }
}

#[test]
fn kinds_that_there_are_not_are_refused() {
    for request in [open(None), socket(b"x")] {
        let (id, mut bytes) = (request.operation().id(), request.encode());
        // Of the kinds of sockets, 2 is datagrams.
        for value in [0, 3, 2, 6, 0xff] {
            bytes[0] = value;
            if id == Operation::OpenObject.id() && value == ObjectKind::Semaphore.raw() {
                continue;
            }
            let refused = Err(DecodeError::UnknownKind { value });
            assert_eq!(Request::decode(id, &bytes), refused);
        }
    }
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let (len, max) = (MAX_SOCKET_PATH_BYTES + 1, MAX_SOCKET_PATH_BYTES);
    let request = socket(&vec![b'x'; len]);
    let decoded = Request::decode(request.operation().id(), &request.encode());
    assert_eq!(decoded, Err(DecodeError::FileTooLong { len, max }));
}

proptest! {
    #[test]
    fn requests_survive_the_round_trip(
        exclusive: bool, value: u64, makes: bool, backlog: u32, path in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let created = makes.then_some(Creation { exclusive, value });
        let connect = Request::GroupSocket {
            kind: SocketKind::Stream,
            purpose: SocketUse::from_raw(backlog),
            group: "group.a".parse().expect("a valid sample"),
            path,
        };
        for request in [open(created), connect] {
            let decoded = Request::decode(request.operation().id(), &request.encode());
            prop_assert_eq!(decoded, Ok(request));
        }
    }

    #[test]
    fn a_name_is_a_group_and_the_rest(text in "(group|\\.|/|a|-|\0|ü){0,8}") {
        if let Ok(name) = text.parse::<ObjectName>() {
            prop_assert_eq!(format!("{}/{}", name.group(), name.rest()), text.as_str());
            prop_assert!(name.group().contains('.') && !name.rest().is_empty());
            prop_assert!(!name.rest().contains(['/', '\0']));
        }
    }
}
