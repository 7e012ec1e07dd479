//! Rights in a forked child, also in one that signals end or that is another user's.
//!
//! Here because forking needs `unsafe`, which this crate may use and `portolan-port` may not.

#![allow(unsafe_code, reason = "fork, waitpid, _exit, signal and setresuid")]

#[path = "fork/bells.rs"]
mod bells;
#[path = "fork/memory.rs"]
mod memory;
#[path = "fork/users.rs"]
mod users;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use portolan_port::{
    Message, MintError, PendingReply, PortSet, ReceiveError, ReceiveRight, ReplyError,
    RequestError, Right, SendErrorKind, SendOnceRight, SendRight, Timeout,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(LONG);
const LONG: Duration = Duration::from_secs(20);

/// A forked child, to be waited for.
#[must_use]
struct Child(libc::pid_t);

/// `None` in the child.
fn fork() -> Option<Child> {
    // SAFETY: the child runs the code of one test and ends in `end`. It takes no lock that another
    // thread of the parent could have held, unless the test is about that: it writes to descriptors
    // and not to `std`'s handles, and glibc makes the allocator usable after fork(2).
    match unsafe { libc::fork() } {
        0 => None,
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        child => Some(Child(child)),
    }
}

/// Plays the child's part and ends the child.
fn end(part: impl FnOnce()) -> ! {
    let (say, code) = match panic::catch_unwind(AssertUnwindSafe(part)) {
        Ok(()) => ("", 0),
        Err(_) => ("what the child asserted did not hold\n", 1),
    };
    rustix::io::write(rustix::stdio::stderr(), say.as_bytes()).ok();
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

impl Child {
    fn finish(self) {
        assert_eq!(self.status(), 0, "the child failed");
    }

    /// How it ended, after waitpid(2). One that does not end is killed.
    fn status(self) -> libc::c_int {
        let pid = Pid::from_raw(self.0).expect("a child");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("not yet waited for");
        let time = Timespec::try_from(LONG).expect("short");
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&time)).expect("poll") == 0 {
            kill_process(pid, Signal::KILL).expect("not yet waited for");
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place for the result.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(waited, self.0);
        status
    }
}

/// From now on, writing to what nobody reads ends this process, as it does with most programs that
/// are not written in Rust.
fn end_by_broken_pipes() {
    // SAFETY: the default action calls no code of this process.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

/// Makes this process, which must be root's, another user's for good.
fn become_user(uid: u32) {
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0, "setresuid");
}

fn port() -> (ReceiveRight, SendRight) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    (port, right)
}

fn is_foreign(kind: &SendErrorKind) -> bool {
    matches!(kind, SendErrorKind::ForeignProcess)
}

fn refuses_mint<T>(result: Result<T, MintError>) -> bool {
    matches!(result, Err(MintError::ForeignProcess))
}

fn refuses_receive(result: Result<Message, ReceiveError>) -> bool {
    matches!(result, Err(ReceiveError::ForeignProcess))
}

fn socket() -> OwnedFd {
    pair(SocketType::SEQPACKET).0
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    pair.expect("socketpair")
}

/// One of everything.
struct Rights<'a> {
    port: ReceiveRight,
    set: PortSet,
    right: SendRight,
    once: SendOnceRight,
    reply: SendOnceRight,
    pending: PendingReply<'a>,
    other: PendingReply<'a>,
    fresh: SendRight,
}

/// What a child does with its parent's rights, by accident.
fn misuse(rights: Rights<'_>) {
    let Rights { port, set, .. } = &rights;
    assert!(refuses_receive(port.receive(Timeout::POLL)));
    assert!(refuses_receive(set.receive(Timeout::POLL)));
    assert!(refuses_mint(port.make_send()));
    assert!(refuses_mint(port.make_send_once()));
    assert!(refuses_mint(port.adopt(socket(), 0)));
    assert!(!set.remove(port), "the set is the parent's too");
    let (own, to_own) = self::port();
    set.insert(&own).expect_err("not into the parent's set");
    port.request_no_senders(0);
    misuse_send_right(&rights.right);
    for parents in [
        Right::from(rights.right),
        rights.once.into(),
        rights.port.into(),
    ] {
        let error = to_own
            .send(Message::new(1).with_right(parents), PATIENCE)
            .expect_err("foreign");
        assert!(is_foreign(error.kind()), "{error}");
    }
    let error = rights.reply.send(Message::new(1)).expect_err("foreign");
    assert!(is_foreign(error.kind()));
    let waited = rights.pending.wait(Timeout::POLL);
    assert!(matches!(waited, Err(ReplyError::ForeignProcess)));
    drop(rights.other);
    rights.fresh.into_socket().expect_err("foreign");
    use_own(&own, &to_own);
}

fn misuse_send_right(right: &SendRight) {
    let error = right
        .send(Message::new(1), Timeout::POLL)
        .expect_err("foreign");
    assert!(is_foreign(error.kind()));
    let error = right
        .request(Message::new(1), Timeout::POLL, Timeout::POLL)
        .expect_err("foreign");
    assert!(matches!(error, RequestError::Send(error) if is_foreign(error.kind())));
    assert!(refuses_mint(right.copy(Timeout::POLL)));
    assert!(!right.is_dead());
}

fn use_own(own: &ReceiveRight, to_own: &SendRight) {
    let set = PortSet::new().expect("set");
    assert!(set.insert(own).expect("insert"));
    let pending = to_own
        .begin_request(Message::new(5), PATIENCE)
        .expect("send");
    let mut request = set.receive(PATIENCE).expect("receive");
    let sender = request.sender().expect("sender");
    assert_eq!(sender.pid(), Some(std::process::id()));
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(6)).expect("answer");
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 6);
}

#[test]
fn what_a_child_does_with_rights_of_its_parent_changes_nothing() {
    let (port, asker) = self::port();
    let (elsewhere, right) = self::port();
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    let pending = asker
        .begin_request(Message::new(1), PATIENCE)
        .expect("send");
    let other = asker
        .begin_request(Message::new(2), PATIENCE)
        .expect("send");
    let mut request = port.receive(PATIENCE).expect("receive");
    let reply = request.take_reply().expect("reply right");
    let once = port.make_send_once().expect("send-once right");
    let fresh = port.make_send().expect("send right");
    let status = port.status();
    let rights = Rights {
        port,
        set,
        right,
        once,
        reply,
        pending,
        other,
        fresh,
    };
    let Some(child) = fork() else {
        end(|| misuse(rights))
    };
    child.finish();

    let (port, set) = (&rights.port, &rights.set);
    assert_eq!(port.status(), status);
    let mut request = set.receive(PATIENCE).expect("the other request");
    assert_eq!(request.id(), 2);
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(20)).expect("answer");
    rights.reply.send(Message::new(10)).expect("answer");
    assert_eq!(rights.pending.wait(PATIENCE).expect("answer").id(), 10);
    assert_eq!(rights.other.wait(PATIENCE).expect("answer").id(), 20);
    rights.once.send(Message::new(3)).expect("send");
    assert_eq!(port.receive(PATIENCE).expect("receive").id(), 3);
    rights.right.send(Message::new(4), PATIENCE).expect("send");
    assert_eq!(elsewhere.receive(PATIENCE).expect("receive").id(), 4);
    let nothing = set.receive(Timeout::POLL);
    assert!(
        matches!(nothing, Err(ReceiveError::TimedOut)),
        "{nothing:?}"
    );
    assert!(!is_readable(set), "nothing is left to be received");
}

fn is_readable(set: &PortSet) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(set, PollFlags::IN)], Some(&now)).expect("poll") == 1
}

#[test]
fn a_port_that_dies_leaves_its_set_though_a_child_has_its_descriptors() {
    let port = ReceiveRight::new().expect("port");
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    port.request_no_senders(0);
    assert!(is_readable(&set), "there is a notification");
    let (wait, mut go_on) = std::io::pipe().expect("pipe");
    let Some(child) = fork() else {
        end(|| {
            drop(go_on);
            rustix::io::read(&wait, &mut [0_u8; 1]).expect("read");
        })
    };
    drop(port);
    assert!(!is_readable(&set), "of a port that is gone");
    go_on.write_all(b"x").expect("write");
    child.finish();
}
