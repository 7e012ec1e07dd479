//! Senders that are not what they say, or are no more.

use std::io::{BufRead as _, BufReader, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use portolan::bootstrap::Bootstrap;
use portolan::{BootstrapCode, JobLabel, Message, SendRight};
use portolan_wire::bootstrap::{Flags, Request};
use portolan_wire::packet::{Header, Kind};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred,
};
use rustix::process::{Gid, Pid, Signal, Uid};

use crate::part::{PART, PLACE};
use crate::site::{PATIENCE, Site, until};

fn entitlements(group: &str) -> String {
    format!(
        "'com.apple.security.app-sandbox' = true\n\
         'com.apple.security.application-groups' = ['{group}']\n"
    )
}

/// A right of a program with this label and this group, which this process is.
fn confine(bootstrap: &Bootstrap, label: &str, group: &str) -> SendRight {
    let label: JobLabel = label.parse().expect("a label");
    let confined = bootstrap.confine(&label, entitlements(group).as_bytes());
    confined.expect("a confined right").right
}

fn look_up(name: &str) -> Request {
    Request::LookUp {
        name: name.parse().expect("a name"),
        flags: Flags::NONE,
        pid: 0,
    }
}

/// Sends a request as another process or user, and gives the number in the answer.
fn ask_as(socket: &OwnedFd, credentials: UCred, request: &Request) -> Result<i32, Errno> {
    let bytes = request.encode();
    let header = Header {
        id: request.operation().id(),
        length: bytes.len() as u64,
        ..Header::control(Kind::Message, 1)
    };
    let packet = [&header.encode()[..], &bytes].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmCredentials(credentials)));
    let packet = IoSlice::new(&packet);
    rustix::net::sendmsg(socket, &[packet], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0; 4096];
    let mut buffers = [std::io::IoSliceMut::new(&mut answer)];
    let mut none = RecvAncillaryBuffer::default();
    let received = rustix::net::recvmsg(socket, &mut buffers, &mut none, RecvFlags::empty())?;
    let packet = portolan_wire::packet::decode(&answer[..received.bytes]).expect("a packet");
    assert_eq!(packet.header.kind, Kind::Reply);
    Ok(packet.header.id)
}

#[test]
fn w24_forged_credentials_are_refused_or_change_nothing() {
    let site = Site::new();
    let own = rustix::process::getpid();
    let first = Pid::from_raw(1).expect("not 0");
    let other = (Uid::from_raw(12345), Gid::from_raw(12345));
    let root = (Uid::ROOT, Gid::ROOT);
    let forgeries = [(first, root), (first, other), (own, other), (own, root)];
    for (pid, (uid, gid)) in forgeries {
        // The kernel notes the process of a channel once, so each lie has one of its own.
        let socket = confine(&site.bootstrap, "test.app", "group.a").into_socket();
        let socket = socket.expect("it is not in use");
        let request = look_up("elsewhere.b");
        let answer = ask_as(&socket, UCred { pid, uid, gid }, &request);
        let expected = match rustix::process::geteuid().is_root() {
            true => Ok(1100),
            false => Err(Errno::PERM),
        };
        assert_eq!(answer, expected, "{pid} {uid:?}");
    }
}

#[test]
fn w26_a_sender_that_is_dead_is_judged_by_its_port() {
    let site = Site::new();
    let right = confine(&site.bootstrap, "test.app", "group.a");
    let server = site.signal_server(Signal::STOP);
    let mut child = part(
        "ask-and-exit",
        right.into_socket().expect("it is not in use"),
    );
    let pid = child.id();
    assert!(child.wait().expect("wait").success());
    rustix::process::kill_process(server, Signal::CONT).expect("signal");
    until("the refusal is logged", || {
        let lines = site.lines("log");
        let mut lines = lines.iter().filter(|line| line.contains("elsewhere.b"));
        lines.any(|line| line.contains("test.app") && line.contains(&pid.to_string()))
    });
    let services = site.bootstrap.list().expect("the services");
    assert!(
        services.is_empty(),
        "nothing stays of a request of the dead: {services:?}"
    );
}

/// Starts a process that plays a part, with this for its bootstrap right.
fn part(words: &str, right: OwnedFd) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "play_a_part", "--nocapture", "--test-threads=1"])
        .env(PART, words)
        .env(PLACE, "/")
        .env("PORTOLAN_BOOTSTRAP_FD", "0")
        .stdin(right)
        .stdout(Stdio::piped());
    command.spawn().expect("this program")
}

/// Sends requests and ends before they are answered.
pub(crate) fn ask_and_exit() {
    let bootstrap = Bootstrap::from_env().expect("a right").into_right();
    let register = Request::Register {
        name: "group.a.x".parse().expect("a name"),
        flags: Flags::NONE,
    };
    let port = portolan::ReceiveRight::new().expect("a port");
    let send = |request: &Request, right| {
        let message = Message::new(request.operation().id()).with_bytes(request.encode());
        let message = match right {
            Some(right) => message.with_right(right),
            None => message,
        };
        std::mem::forget(bootstrap.begin_request(message, PATIENCE).expect("send"));
    };
    send(&look_up("elsewhere.b"), None);
    send(&register, Some(port.make_send().expect("a right")));
}

/// Process ids that there are at the least in a namespace of its own.
const FEW: u32 = 301;

/// How often a process is started and ends: each number is used several times.
const ROUNDS: u32 = 1500;

#[test]
fn w25_no_request_is_attributed_to_an_earlier_process_with_the_same_number() {
    let limit = || std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc");
    let before = limit();
    let site = Site::new();
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "play_a_part", "--nocapture", "--test-threads=1"])
        .env(PART, "reuse-numbers")
        .env(PLACE, site.path(""));
    let status = command.status().expect("util-linux");
    assert_eq!(
        limit(),
        before,
        "the limit is the namespace's own since Linux 6.14"
    );
    assert!(status.success());
    assert_eq!(site.lines("numbers").len(), 1);
}

/// In a namespace with few process ids: two programs whose processes come and go, and register names.
/// Gives how many numbers were used again.
pub(crate) fn reuse_numbers() -> u32 {
    assert_eq!(std::process::id(), 1, "a namespace of its own");
    std::fs::write("/proc/sys/kernel/pid_max", FEW.to_string()).expect("Linux 6.14");
    let root = Bootstrap::private().expect("a server");
    let programs = ["a", "b"].map(|one| {
        let right = confine(&root, one, &format!("group.{one}"));
        (one, Bootstrap::from_right(right))
    });
    let mut seen = std::collections::HashMap::new();
    let mut again = 0;
    for round in 0..ROUNDS {
        // Not by turns, or each number might always be the same program's.
        let (label, bootstrap) = &programs[usize::from(round % 5 < 2)];
        let right = bootstrap.copy().expect("a right").into_right();
        let name = format!("group.{label}.n{round}");
        let right = right.into_socket().expect("it is not in use");
        let mut child = part(&format!("register {name}"), right);
        let mut word = [0; 1];
        let mut out = child.stdout.take().expect("its output");
        while word != *b"!" {
            out.read_exact(&mut word).expect("its word");
        }
        let services = root.list().expect("the services");
        let [service] = &services[..] else {
            panic!("{services:?}");
        };
        let found = (service.name.as_str(), service.owner.as_str(), service.pid);
        assert_eq!(found, (name.as_str(), *label, child.id()));
        child.kill().expect("kill");
        child.wait().expect("wait");
        again += u32::from(
            seen.insert(child.id(), *label)
                .is_some_and(|old| old != *label),
        );
    }
    again
}

/// Processes of a program, and what each wants: more names than one program has.
const CHILDREN: u32 = 5;
const NAMES_OF_EACH: u32 = 820;

#[test]
fn children_do_not_give_a_confined_program_more_names() {
    let site = Site::new();
    let bootstrap = Bootstrap::from_right(confine(&site.bootstrap, "test.app", "group.a"));
    let mut children = Vec::new();
    for child in 0..CHILDREN {
        let right = bootstrap.copy().expect("a right").into_right();
        let right = right.into_socket().expect("it is not in use");
        let words = format!("register-many group.a.{child} {NAMES_OF_EACH}");
        children.push(part(&words, right));
    }
    let words: Vec<String> = children.iter_mut().map(last_words).collect();
    let services = site.bootstrap.list().expect("the services");
    for child in &mut children {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    assert_eq!(services.len(), 4096, "{words:?}");
    let refused: Vec<_> = words
        .iter()
        .filter(|words| words.contains("1105"))
        .collect();
    assert!(!refused.is_empty(), "{words:?}");
    for words in refused {
        assert!(
            words.contains("confined program has 4096 names at the most"),
            "{words}"
        );
    }
}

/// What a process says before a `!`.
fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    let mut reader = BufReader::new(child.stdout.take().expect("its output"));
    reader.read_until(b'!', &mut words).expect("its words");
    String::from_utf8(words).expect("text")
}

/// Registers names until one is refused, says why, and stays.
pub(crate) fn register_many(prefix: &str, count: u32) {
    let bootstrap = Bootstrap::from_env().expect("a right");
    let port = portolan::ReceiveRight::new().expect("a port");
    let refused = (0..count).find_map(|number| {
        let name = format!("{prefix}.{number}").parse().expect("a name");
        let right = port.make_send().expect("a right");
        bootstrap.register(&name, right).err()
    });
    let words = refused.map_or_else(String::new, |error| {
        let code = error.code().map(BootstrapCode::raw);
        format!("{code:?} {error}")
    });
    rustix::io::write(
        rustix::stdio::stdout().as_fd(),
        format!("{words}!").as_bytes(),
    )
    .expect("its output");
    loop {
        std::thread::park();
    }
}

/// Registers a name and stays.
pub(crate) fn register(name: &str) {
    let bootstrap = Bootstrap::from_env().expect("a right");
    let port = portolan::ReceiveRight::new().expect("a port");
    let right = port.make_send().expect("a right");
    bootstrap
        .register(&name.parse().expect("a name"), right)
        .expect("register");
    rustix::io::write(rustix::stdio::stdout().as_fd(), b"!").expect("its output");
    loop {
        std::thread::park();
    }
}
