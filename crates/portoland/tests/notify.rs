//! `sd_notify` in both directions, against real sockets.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use portolan_sys::ancillary;
use portolan_testkit::process;
use portoland::notify::{Inherited, Notice, Notified, Notifier, NotifyError, NotifySocket};
use rustix::event::{PollFd, PollFlags, Timespec};

/// A service manager's socket and who notifies it.
fn manager() -> (UnixDatagram, Notifier, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    let notifier = Notifier::to(path.as_os_str()).expect("a notifier");
    assert!(notifier.is_there());
    (socket, notifier, directory)
}

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    socket.set_nonblocking(true).expect("fcntl");
    let len = socket.recv(&mut buffer).expect("a notification");
    String::from_utf8(buffer[..len].to_vec()).expect("UTF-8")
}

#[test]
fn the_service_manager_is_told_in_its_words() {
    let (socket, notifier, _directory) = manager();
    notifier.ready().expect("send");
    assert_eq!(told(&socket), "READY=1\n");
    notifier.status("3 jobs,\nnone failed").expect("send");
    assert_eq!(told(&socket), "STATUS=3 jobs, none failed\n");
    notifier.stopping().expect("send");
    assert_eq!(told(&socket), "STOPPING=1\n");
    notifier.main_pid(12).expect("send");
    assert_eq!(told(&socket), "MAINPID=12\n");
    notifier.remove("journal").expect("send");
    assert_eq!(told(&socket), "FDSTOREREMOVE=1\nFDNAME=journal\n");
    notifier.reloading().expect("send");
    let text = told(&socket);
    let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let micros: u64 = micros
        .expect("a time")
        .trim_end()
        .parse()
        .expect("a number");
    let uptime = std::fs::read_to_string("/proc/uptime").expect("uptime");
    let uptime: f64 = uptime
        .split(' ')
        .next()
        .expect("seconds")
        .parse()
        .expect("a number");
    let seconds = micros / 1_000_000;
    assert!(
        (seconds as f64) <= uptime && (seconds as f64) > uptime - 100.0,
        "{text}"
    );
}

#[test]
fn a_descriptor_is_stored() {
    let (socket, notifier, _directory) = manager();
    let (mut reader, writer) = io::pipe().expect("pipe");
    notifier.store("journal", writer.as_fd()).expect("send");
    let mut buffer = [0; 4096];
    let mut received = ancillary::receive(&socket, &mut buffer).expect("receive");
    assert_eq!(
        &buffer[..received.len],
        b"FDSTORE=1\nFDNAME=journal\nFDPOLL=0\n"
    );
    let mut stored = File::from(received.descriptors.pop().expect("a descriptor"));
    drop(writer);
    stored.write_all(b"x").expect("write");
    drop(stored);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "x");
    for name in ["", "a:b", "a\nREADY=1", &"x".repeat(256)] {
        let error = notifier.store(name, socket.as_fd()).expect_err(name);
        assert!(matches!(error, NotifyError::Name(_)), "{error:?}");
    }
}

#[test]
fn an_abstract_address_is_understood() {
    let name = format!("portolan-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("bind");
    let notifier = Notifier::to(format!("@{name}").as_ref()).expect("a notifier");
    notifier.ready().expect("send");
    assert_eq!(told(&socket), "READY=1\n");
    let error = Notifier::to("vsock:2:1".as_ref()).expect_err("no such address");
    assert!(matches!(error, NotifyError::Address(_)), "{error:?}");
}

#[test]
fn a_service_manager_that_does_not_listen_holds_up_nobody() {
    let (socket, notifier, _directory) = manager();
    let full = (0..10_000).find_map(|_| notifier.ready().err());
    let Some(NotifyError::Send(error)) = full else {
        panic!("{full:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    drop(socket);
    let error = notifier.ready().expect_err("nobody there");
    assert!(matches!(error, NotifyError::Send(_)), "{error:?}");
}

/// Pipes that stand for what was inherited.
fn duplicate(number: u32) -> io::Result<OwnedFd> {
    match number {
        3..=5 => Ok(io::pipe()?.0.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn inherited(pid: &str, number: &str, names: Option<&str>) -> Inherited {
    Inherited {
        pid: Some(pid.into()),
        number: Some(number.into()),
        names: names.map(OsString::from),
    }
}

#[test]
fn inherited_descriptors_have_names() {
    let names = |inherited: &Inherited| -> Vec<String> {
        let taken = inherited.take(12, duplicate).expect("descriptors");
        taken.into_iter().map(|(name, _)| name).collect()
    };
    let three = inherited("12", "3", Some("journal::log"));
    assert_eq!(names(&three), ["journal", "unknown", "log"]);
    assert_eq!(names(&inherited("12", "2", None)), ["unknown", "unknown"]);
    assert_eq!(names(&inherited("12", "1", Some("a:b:c"))), ["a"]);
    for (pid, number) in [
        ("13", "3"),
        ("", "3"),
        ("12", ""),
        ("12", "-1"),
        ("12", "4097"),
    ] {
        assert!(
            names(&inherited(pid, number, None)).is_empty(),
            "{pid} {number}"
        );
    }
    assert!(names(&Inherited::default()).is_empty());
    let missing = inherited("12", "4", None).take(12, duplicate);
    assert_eq!(
        missing.expect_err("no fd 6").kind(),
        io::ErrorKind::NotFound
    );
}

fn wait(socket: &NotifySocket) {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let half_a_minute = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let ready = rustix::event::poll(&mut fds, Some(&half_a_minute)).expect("poll");
    assert_eq!(ready, 1, "no notification");
}

#[test]
fn play_a_part() {
    if let Some((_, socket)) = process::part() {
        let text = b"STATUS=Serving\nREADY=1\nMAINPID=1\nEXTRA=1";
        UnixDatagram::from(socket).send(text).expect("send");
    }
}

#[test]
fn a_job_says_that_it_is_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = NotifySocket::new(directory.path()).expect("a socket");
    assert_eq!(socket.take().expect("take"), []);
    let for_the_job = UnixDatagram::unbound().expect("a socket");
    for_the_job.connect(socket.path()).expect("connect");
    let mut job = process::play("job", for_the_job.into());
    wait(&socket);
    let uid = rustix::process::getuid().as_raw();
    let from_it = |notice| Notified {
        pid: job.id(),
        uid,
        notice,
    };
    assert_eq!(
        socket.take().expect("take"),
        [
            from_it(Notice::Status("Serving".into())),
            from_it(Notice::Ready)
        ]
    );
    job.finish();
    let path = socket.path().to_path_buf();
    socket.remove().expect("remove");
    assert!(!path.exists());
}

#[test]
fn what_a_job_sends_is_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(NotifySocket::new(directory.path()).expect("a socket"));
    let socket = NotifySocket::new(directory.path()).expect("in the place of the old one");
    let job = UnixDatagram::unbound().expect("a socket");
    job.connect(socket.path()).expect("connect");
    job.set_nonblocking(true).expect("fcntl");
    job.send(&b"READY=1\n".repeat(600)).expect("send");
    assert_eq!(socket.take().expect("take"), [], "4800 bytes are too many");
    job.send(&b"READY=1\n".repeat(500)).expect("send");
    assert_eq!(socket.take().expect("take").len(), 32);
    job.send(&[0xff; 1000]).expect("send");
    job.send(b"").expect("send");
    job.send(b"STOPPING=1").expect("send");
    let notices = socket.take().expect("take");
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].notice, Notice::Stopping);
    while job.send(b"READY=1").is_ok() {}
    assert!(socket.take().expect("take").len() <= 64);
}

#[test]
fn descriptors_that_a_job_sends_are_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = NotifySocket::new(directory.path()).expect("a socket");
    let notifier = Notifier::to(socket.path().as_os_str()).expect("a notifier");
    let (mut reader, writer) = io::pipe().expect("pipe");
    notifier.store("x", writer.as_fd()).expect("send");
    drop(writer);
    assert_eq!(socket.take().expect("take"), []);
    let mut nothing = [MaybeUninit::<u8>::uninit(); 1];
    let (read, _) = rustix::io::read(&mut reader, &mut nothing).expect("the end of the pipe");
    assert!(read.is_empty());
}

#[test]
fn the_socket_outlives_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = NotifySocket::new(directory.path()).expect("a socket");
    let job = Notifier::to(first.path().as_os_str()).expect("a notifier");
    job.ready().expect("send");
    let kept = first.as_fd().try_clone_to_owned().expect("dup");
    drop(first);
    let second = NotifySocket::resume(directory.path(), kept);
    job.stopping().expect("send");
    let notices = second.take().expect("take").into_iter();
    let notices: Vec<Notice> = notices.map(|notified| notified.notice).collect();
    assert_eq!(notices, [Notice::Ready, Notice::Stopping]);
}

#[test]
fn a_barrier_waits_until_what_was_told_is_dealt_with() {
    let (socket, notifier, _directory) = manager();
    let nobody = notifier.barrier(Duration::from_millis(1));
    assert!(
        matches!(nobody, Err(NotifyError::Send(error)) if error.kind() == io::ErrorKind::TimedOut)
    );
    let notifier = notifier.patient(Duration::from_secs(20)).expect("fcntl");
    thread::scope(|scope| {
        // More than a socket has room for.
        let told = scope.spawn(|| {
            (0..2000).try_for_each(|_| notifier.ready())?;
            notifier.barrier(Duration::from_secs(20))
        });
        let mut count = 0;
        while count < 2001 {
            let mut buffer = [0; 4096];
            let mut come = [PollFd::new(&socket, PollFlags::IN)];
            rustix::event::poll(&mut come, None).expect("poll");
            let received = ancillary::receive(&socket, &mut buffer).expect("receive");
            // The first one is of the barrier that nobody waits for any more.
            count += usize::from(&buffer[..received.len] != b"BARRIER=1\n" || count > 0);
        }
        told.join().expect("no panic").expect("told");
    });
}
