//! Shared memory and semaphores, at a server in this process.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::semaphore::{self, MAX_VALUE, Overflow, Semaphore, WaitError};
use portolan::shm::{self, ObjectName, OpenError, SharedMemory};
use portolan::{BootstrapCode, Message, Right, SharedMapping, Timeout};
use portolan_wire::bootstrap::{Operation, Request};
use portolan_wire::object::{ObjectKind, semaphore as layout};
use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;
use rustix::thread::futex;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

fn private() -> Bootstrap {
    Bootstrap::private().expect("a bootstrap server")
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("a name")
}

fn code(error: &OpenError) -> Option<BootstrapCode> {
    match error {
        OpenError::Bootstrap(error) => error.code(),
        _ => None,
    }
}

fn member(bootstrap: &Bootstrap, label: &str, groups: &str) -> Bootstrap {
    let entitlements = format!(
        "\"com.apple.security.app-sandbox\" = true\n\
         \"com.apple.security.application-groups\" = [{groups}]\n"
    );
    let label = label.parse().expect("a label");
    let right = bootstrap.confine(&label, entitlements.as_bytes());
    Bootstrap::from_right(right.expect("a door").right)
}

#[test]
fn memory_is_the_same_for_all_who_open_it() {
    let bootstrap = private();
    let x = name("group.a/x");
    let made = SharedMemory::create(&bootstrap, &x, 10_000).expect("make");
    assert!(made.is_new() && made.len() == 10_000);
    let found = SharedMemory::create(&bootstrap, &x, 10_000).expect("find");
    assert!(!found.is_new());
    let opened = SharedMemory::open(&bootstrap, &x).expect("open");
    let maps = [made, found, opened].map(|memory| memory.map().expect("map"));
    maps[0].write(9_990, b"0123456789");
    for map in &maps {
        let mut read = [0; 10];
        map.read(9_990, &mut read);
        assert_eq!(&read, b"0123456789");
    }
}

#[test]
fn a_size_is_final() {
    let bootstrap = private();
    let x = name("group.a/x");
    SharedMemory::create_new(&bootstrap, &x, 100).expect("make");
    let exists = SharedMemory::create_new(&bootstrap, &x, 100).expect_err("it is there");
    assert_eq!(code(&exists), Some(BootstrapCode::NAME_IN_USE));
    let other = SharedMemory::create(&bootstrap, &x, 101).expect_err("another size");
    assert!(
        matches!(other, OpenError::OtherLength { len: 100 }),
        "{other}"
    );
    let none = SharedMemory::create(&bootstrap, &name("group.a/y"), 0).expect_err("no bytes");
    assert_eq!(code(&none), Some(BootstrapCode::BAD_ARGUMENTS));
}

#[test]
fn an_unlinked_name_is_free_and_the_memory_stays() {
    let bootstrap = private();
    let x = name("group.a/x");
    let old = SharedMemory::create(&bootstrap, &x, 4).expect("make");
    old.map().expect("map").write(0, b"old!");
    shm::unlink(&bootstrap, &x).expect("unlink");
    let missing = SharedMemory::open(&bootstrap, &x).expect_err("it has no name");
    assert_eq!(code(&missing), Some(BootstrapCode::UNKNOWN_SERVICE));
    let again = shm::unlink(&bootstrap, &x).expect_err("it has no name");
    assert_eq!(again.code(), Some(BootstrapCode::UNKNOWN_SERVICE));
    let new = SharedMemory::create_new(&bootstrap, &x, 4).expect("it is free");
    let mut read = [[1; 4]; 2];
    old.map().expect("map").read(0, &mut read[0]);
    new.map().expect("map").read(0, &mut read[1]);
    assert_eq!(&read, &[*b"old!", [0; 4]]);
}

#[test]
fn a_member_cannot_take_memory_away_from_others_or_change_their_descriptors() {
    let bootstrap = private();
    let x = name("group.a/x");
    let own: OwnedFd = SharedMemory::create(&bootstrap, &x, 4096)
        .expect("make")
        .into();
    let hostile: OwnedFd = SharedMemory::open(&bootstrap, &x).expect("open").into();
    for len in [0, 4095, 4097] {
        assert_eq!(
            rustix::fs::ftruncate(&hostile, len),
            Err(Errno::PERM),
            "{len}"
        );
    }
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        assert_eq!(
            rustix::fs::fcntl_add_seals(&hostile, seal),
            Err(Errno::PERM)
        );
    }
    let flags = OFlags::NONBLOCK | OFlags::APPEND;
    rustix::fs::fcntl_setfl(&hostile, flags).expect("its own flags");
    let (mut own, mut hostile) = (File::from(own), File::from(hostile));
    hostile.seek(SeekFrom::Start(7)).expect("its own position");
    assert_eq!(own.stream_position().expect("a position"), 0);
    let own_flags = rustix::fs::fcntl_getfl(&own).expect("flags");
    assert!(!own_flags.intersects(flags), "{own_flags:?}");
}

#[test]
fn size_is_limited_and_takes_no_memory() {
    let bootstrap = private();
    let total = rustix::system::sysinfo().totalram;
    // A whole group may have an eighth of the memory.
    let half = SharedMemory::create(&bootstrap, &name("group.a/x"), total / 16).expect("make");
    let blocks = rustix::fs::fstat(&half).expect("fstat").st_blocks;
    assert_eq!(blocks, 0, "nobody has written to it");
    half.map().expect("map").write(0, b"x");
    for size in [total / 8, u64::MAX, 1 << 62] {
        let refused = SharedMemory::create(&bootstrap, &name("group.a/y"), size);
        let error = refused.expect_err("too large");
        assert_eq!(code(&error), Some(BootstrapCode::NO_MEMORY));
        assert!(
            error.to_string().contains("an application group"),
            "{error}"
        );
    }
    // What was refused has no name.
    assert_eq!(shm::list(&bootstrap).expect("list").len(), 1);
}

#[test]
fn more_objects_than_there_may_be_are_refused_and_all_are_listed() {
    let bootstrap = private();
    for at in 0..1024 {
        let x = name(&format!("group.a/{at:04}"));
        Semaphore::create(&bootstrap, &x, 0).expect("make");
    }
    let refused = SharedMemory::create(&bootstrap, &name("group.a/x"), 1).expect_err("too many");
    assert_eq!(code(&refused), Some(BootstrapCode::NO_MEMORY));
    SharedMemory::create(&bootstrap, &name("group.b/x"), 1).expect("another group");
    let listed = semaphore::list(&bootstrap).expect("list");
    let names = listed.iter().map(|object| object.name.rest().to_owned());
    assert!(names.eq((0..1024).map(|at| format!("{at:04}"))));
    let listed = shm::list(&bootstrap).expect("list");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].size), ("group.b/x", 1));
}

#[test]
fn only_members_have_what_a_group_shares() {
    let server = private();
    let inside = member(&server, "org.example.inside", "'group.a'");
    let outside = member(&server, "org.example.outside", "'group.b'");
    let (x, missing) = (name("group.a/x"), name("group.a/missing"));
    SharedMemory::create(&inside, &x, 1).expect("a member");
    Semaphore::create(&inside, &x, 1).expect("a member");
    let denied = Some(BootstrapCode::NOT_PRIVILEGED);
    for name in [&x, &missing, &name("org.example.outside/x")] {
        let error = SharedMemory::open(&outside, name).expect_err("no member");
        assert_eq!(code(&error), denied, "{name}");
        let error = SharedMemory::create_new(&outside, name, 1).expect_err("no member");
        assert_eq!(code(&error), denied, "{name}");
        let error = Semaphore::open(&outside, name).expect_err("no member");
        assert!(matches!(&error, semaphore::OpenError::Bootstrap(error) if error.code() == denied));
        for unlinked in [
            shm::unlink(&outside, name),
            semaphore::unlink(&outside, name),
        ] {
            assert_eq!(unlinked.expect_err("no member").code(), denied, "{name}");
        }
    }
    assert!(shm::list(&outside).expect("list").is_empty());
    assert!(semaphore::list(&outside).expect("list").is_empty());
    assert_eq!(shm::list(&inside).expect("list").len(), 1);
    // Whoever is not confined is told all.
    assert_eq!(shm::list(&server).expect("list").len(), 1);
}

#[test]
fn a_semaphore_counts() {
    let bootstrap = private();
    let x = name("group.a/x");
    let one = Semaphore::create_new(&bootstrap, &x, 2).expect("make");
    assert!(Semaphore::create_new(&bootstrap, &x, 2).is_err());
    // Its value is what it was when it was made.
    let other = Semaphore::create(&bootstrap, &x, 99).expect("find");
    assert_eq!(other.value(), 2);
    assert!(one.try_wait() && other.try_wait() && !one.try_wait());
    other.post().expect("post");
    one.wait(Timeout::NEVER).expect("it was posted");
    let start = Instant::now();
    let wait = Duration::from_millis(20);
    let error = one.wait(Timeout::after(wait)).expect_err("nobody posts");
    assert!(matches!(error, WaitError::TimedOut), "{error}");
    assert!(start.elapsed() >= wait);
    assert!(one.wait(Timeout::POLL).is_err());
    semaphore::unlink(&bootstrap, &x).expect("unlink");
    assert!(Semaphore::open(&bootstrap, &x).is_err());
    one.post().expect("post");
    assert!(other.try_wait(), "it is still theirs");
    let high = Semaphore::create(&bootstrap, &name("group.a/y"), MAX_VALUE).expect("make");
    assert_eq!(high.post(), Err(Overflow));
    assert_eq!(high.value(), MAX_VALUE);
}

#[test]
fn each_post_ends_one_wait() {
    const THREADS: u32 = 4;
    const EACH: u32 = 500;
    let bootstrap = private();
    let open = |text| Semaphore::create(&bootstrap, &name(text), 0).expect("make");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (there, back) = (open("group.a/there"), open("group.a/back"));
            scope.spawn(move || {
                for _ in 0..EACH {
                    there.wait(PATIENCE).expect("a post for each");
                    back.post().expect("post");
                }
            });
            let (there, back) = (open("group.a/there"), open("group.a/back"));
            scope.spawn(move || {
                for _ in 0..EACH {
                    there.post().expect("post");
                    back.wait(PATIENCE).expect("a post for each");
                }
            });
        }
    });
    assert_eq!(open("group.a/there").value(), 0);
    assert_eq!(open("group.a/back").value(), 0);
}

/// The memory of a semaphore, as a member gets it that does not use this library.
fn memory_of(bootstrap: &Bootstrap, name: &ObjectName) -> SharedMapping {
    let request = Request::OpenObject {
        kind: ObjectKind::Semaphore,
        create: None,
        name: name.clone(),
    };
    let message = Message::new(Operation::OpenObject.id()).with_bytes(request.encode());
    let right = bootstrap.copy().expect("copy").into_right();
    let answer = right.request(message, PATIENCE, PATIENCE);
    match answer.expect("an answer").take_rights().pop() {
        Some(Right::Descriptor(memory)) => SharedMapping::new(memory).expect("map"),
        other => panic!("{other:?}"),
    }
}

/// Takes the wake-up of a post and not the post, as a process does that is killed in between.
#[test]
fn whoever_is_woken_and_takes_nothing_keeps_nobody_waiting() {
    let bootstrap = private();
    let x = name("group.a/x");
    let semaphore = Arc::new(Semaphore::create(&bootstrap, &x, 0).expect("make"));
    let memory = memory_of(&bootstrap, &x);
    let value = memory.word(layout::VALUE * 4).expect("a word");
    let waiters = memory.word(layout::WAITERS * 4).expect("a word");
    for _ in 0..20 {
        let ready = Barrier::new(2);
        thread::scope(|scope| {
            // The first to sleep is the first to be woken.
            scope.spawn(|| {
                waiters.fetch_add(1, SeqCst);
                ready.wait();
                while value.load(SeqCst) == 0 && waiters.load(SeqCst) != 0 {
                    let moment = rustix::event::Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    futex::wait(value, futex::Flags::empty(), 0, Some(&moment)).ok();
                }
                waiters.fetch_sub(1, SeqCst);
            });
            ready.wait();
            let waiting = Arc::clone(&semaphore);
            let waiting = scope.spawn(move || waiting.wait(PATIENCE));
            while waiters.load(SeqCst) < 2 {
                thread::yield_now();
            }
            semaphore.post().expect("post");
            waiting.join().expect("no panic").expect("it was posted");
            // The thief may have come too late to see the post.
            value.store(1, SeqCst);
            futex::wake(value, futex::Flags::empty(), u32::MAX).ok();
        });
        value.store(0, SeqCst);
    }
}

#[test]
fn a_member_that_writes_nonsense_hurts_nobody_beyond_the_semaphore() {
    let bootstrap = private();
    let x = name("group.a/x");
    let semaphore = Semaphore::create(&bootstrap, &x, 0).expect("make");
    let memory = memory_of(&bootstrap, &x);
    let word = |index: usize| memory.word(index * 4).expect("a word");
    for nonsense in [MAX_VALUE, MAX_VALUE + 1, u32::MAX] {
        word(layout::VALUE).store(nonsense, SeqCst);
        word(layout::WAITERS).store(nonsense, SeqCst);
        assert_eq!(semaphore.post(), Err(Overflow));
        assert_eq!(semaphore.value(), nonsense);
        assert!(semaphore.try_wait());
        assert_eq!(semaphore.value(), nonsense - 1);
    }
    word(layout::VALUE).store(0, SeqCst);
    semaphore.post().expect("though all seem to wait");
    semaphore.wait(PATIENCE).expect("it was posted");
    word(layout::WAITERS).store(0, SeqCst);
    let error = semaphore.wait(Timeout::after(Duration::from_millis(5)));
    assert!(error.is_err(), "nobody posts");
    semaphore.post().expect("post");
    semaphore.wait(PATIENCE).expect("it was posted");
}

#[test]
fn what_is_no_request_for_an_object_is_refused() {
    let bootstrap = private();
    let right = bootstrap.copy().expect("copy").into_right();
    let ask = |id, bytes: &[u8]| {
        let answer = right.request(Message::new(id).with_bytes(bytes), PATIENCE, PATIENCE);
        BootstrapCode::from_raw(answer.expect("an answer").id())
    };
    for operation in [
        Operation::OpenObject,
        Operation::UnlinkObject,
        Operation::Objects,
        Operation::GroupSocket,
    ] {
        for bytes in [&[][..], &[0], &[1], &[1; 20], &[0xff; 300]] {
            assert_eq!(
                ask(operation.id(), bytes),
                BootstrapCode::BAD_ARGUMENTS,
                "{operation:?} {bytes:?}"
            );
        }
    }
    let error = shm::unlink(&bootstrap, &name("group.a/x")).expect_err("it still answers");
    assert!(matches!(error, BootstrapError::Explained { .. }), "{error}");
}
