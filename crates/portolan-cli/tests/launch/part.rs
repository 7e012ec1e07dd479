//! What the jobs of these tests do, and other processes that send to them.

use std::env;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process;
use std::sync::Barrier;
use std::thread;

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::group_socket::{self, SocketError, SocketKind};
use portolan::shm::SharedMemory;
use portolan::{
    BootstrapCode, Message, ReceiveError, ReceiveRight, SendErrorKind, SendRight, Timeout,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::senders;
use crate::site::{PATIENCE, TIME, until};

/// The environment variable that says which part a process plays, in words.
pub(crate) const PART: &str = "PORTOLAN_LAUNCH_PART";

/// The environment variable that names the directory where parts leave word.
pub(crate) const PLACE: &str = "PORTOLAN_LAUNCH_PLACE";

/// The environment variable that names the service.
pub(crate) const SERVICE: &str = "PORTOLAN_LAUNCH_SERVICE";

/// Answered with the pid of the job and what was sent.
pub(crate) const ECHO: i32 = 1;
/// Written down, with who sent it.
pub(crate) const NOTE: i32 = 2;
/// The job crashes when it has received it.
pub(crate) const CRASH: i32 = 3;
/// Answered; then the job exits well.
pub(crate) const EXIT: i32 = 4;
/// Answered; when the file `gate` is there, the job receives two more messages and crashes.
pub(crate) const READ_TWO_AND_CRASH: i32 = 5;
/// Counted: a sender's number and that of the message, four and eight bytes.
pub(crate) const TALLY: i32 = 6;
/// Answered with how many were counted; a gap or a double among them is a crash.
pub(crate) const REPORT: i32 = 7;
/// Answered when the file `gate` is there, and nothing is received before.
pub(crate) const HOLD: i32 = 8;

/// What this process is to do.
pub(crate) struct Part {
    words: Vec<String>,
    place: PathBuf,
}

impl Part {
    pub(crate) fn of_this_process() -> Option<Self> {
        let words = env::var(PART).ok()?;
        let place = env::var_os(PLACE).expect(PLACE);
        Some(Self {
            words: words.split(' ').map(str::to_owned).collect(),
            place: place.into(),
        })
    }

    pub(crate) fn play(&self) {
        self.note("started", &format!("{}", process::id()));
        let number = |at: usize| self.words[at].parse::<u32>().expect("a number");
        match self.words[0].as_str() {
            "serve" => self.serve(),
            "idle" => self.serve_until_idle(),
            "few" => self.serve_few(number(1)),
            "fragile" => self.crash_unread(number(1)),
            "accept" => accept(number(1)),
            "ask-and-exit" => senders::ask_and_exit(),
            "register-many" => senders::register_many(&self.words[1], number(2)),
            "register" => senders::register(&self.words[1]),
            "reuse-numbers" => {
                let again = senders::reuse_numbers();
                assert!(
                    again > 100,
                    "only {again} numbers were used again by another program"
                );
                self.note("numbers", &again.to_string());
            }
            "borrow" => self.borrow(number(1)),
            "fail-while" => self.fail_while(),
            "ask" => ask(number(1)),
            "send" => send(number(1), number(2)),
            "send-at-gate" => self.send_at_gate(number(1), number(2)),
            "flood" => self.flood(),
            "share" => self.share(),
            other => panic!("no part {other}"),
        }
    }

    /// Adds a line to a file.
    fn note(&self, file: &str, line: &str) {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .append(true)
            .open(self.place.join(file));
        // One write, so that lines of several processes do not mix. Not all have such a place.
        if let Ok(mut file) = file {
            file.write_all(format!("{line}\n").as_bytes())
                .expect("write");
        }
    }

    /// Asks with the bootstrap right of a process that is a job's, and notes the answers.
    fn borrow(&self, pid: u32) {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
        let right = rustix::process::pidfd_getfd(process, 3, PidfdGetfdFlags::empty());
        let right = SendRight::from_socket(right.expect("a right")).expect("a right");
        // The descriptor itself is in use: as in a child, a right of one's own is made of it.
        let bootstrap = Bootstrap::from_right(right.copy(PATIENCE).expect("a copy"));
        let name = "thief.a".parse().expect("a name");
        let port = ReceiveRight::new().expect("a port");
        let send = port.make_send().expect("a right");
        let code = |error: BootstrapError| error.code().map_or(0, BootstrapCode::raw);
        let answers = [
            ("look-up", bootstrap.look_up(&name).err()),
            ("register", bootstrap.register(&name, send).err()),
            ("list", bootstrap.list().err()),
        ];
        let words = answers.map(|(asked, error)| format!("{asked} {}", error.map_or(-1, code)));
        self.note("borrowed", &words.join("\n"));
    }

    fn has(&self, file: &str) -> bool {
        self.place.join(file).exists()
    }

    fn serve(&self) {
        let port = check_in();
        let mut tally = Tally::default();
        loop {
            let message = port.receive(Timeout::NEVER).expect("receive");
            self.handle(&port, message, &mut tally);
        }
    }

    fn handle(&self, port: &ReceiveRight, mut message: Message, tally: &mut Tally) {
        match message.id() {
            ECHO => echo(&mut message),
            NOTE => self.note_sender(&message),
            CRASH => process::abort(),
            EXIT => {
                echo(&mut message);
                process::exit(0);
            }
            READ_TWO_AND_CRASH => {
                echo(&mut message);
                until("the gate is open", || self.has("gate"));
                for _ in 0..2 {
                    let read = port.receive(PATIENCE).expect("receive");
                    self.note_sender(&read);
                }
                process::abort();
            }
            HOLD => {
                until("the gate is open", || self.has("gate"));
                echo(&mut message);
            }
            TALLY => tally.count(message.bytes()),
            REPORT => {
                let reply = message.take_reply().expect("a reply right");
                let total = tally.total.to_le_bytes();
                reply.send(Message::new(0).with_bytes(total)).ok();
            }
            other => panic!("no message {other}"),
        }
    }

    fn note_sender(&self, message: &Message) {
        let sender = message.sender().expect("a sender");
        let (uid, pid) = (sender.uid(), sender.pid().expect("a process"));
        let text = String::from_utf8_lossy(message.bytes());
        self.note("received", &format!("{uid} {pid} {text}"));
    }

    /// Exits as soon as there is nothing to do and the server agrees.
    fn serve_until_idle(&self) {
        let bootstrap = bootstrap();
        let port = check_in();
        loop {
            match port.receive(Timeout::POLL) {
                Ok(message) => self.handle(&port, message, &mut Tally::default()),
                Err(ReceiveError::TimedOut) => {
                    if bootstrap.try_exit().expect("an instance") {
                        process::exit(0);
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Exits well after so many messages, whatever is left.
    fn serve_few(&self, count: u32) {
        let port = check_in();
        for _ in 0..count {
            let message = port.receive(Timeout::NEVER).expect("receive");
            self.handle(&port, message, &mut Tally::default());
        }
        process::exit(0);
    }

    /// Crashes so many times, counted over all instances, while a message is queued and unread.
    fn crash_unread(&self, times: u32) {
        let port = check_in();
        let file = self.place.join("crashes");
        let crashes = std::fs::read_to_string(file).unwrap_or_default();
        if crashes.lines().count() < times as usize {
            let mut queued = [rustix::event::PollFd::new(
                &port,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut queued, None).expect("poll");
            self.note("crashes", "unread");
            process::abort();
        }
        drop(port);
        self.serve();
    }

    fn fail_while(&self) {
        if self.has("cause") {
            process::exit(1);
        }
        self.serve();
    }

    /// Sends when the file `gate` is there, and ends.
    fn send_at_gate(&self, from: u32, to: u32) {
        let bootstrap = bootstrap();
        let right = look_up(&bootstrap);
        self.note("ready", "");
        until("the gate is open", || self.has("gate"));
        send_notes(&right, from, to);
        process::exit(0);
    }

    /// Says what becomes of its wishes for memory and for a socket of a group, and waits.
    fn share(&self) {
        let bootstrap = bootstrap();
        let name = "group.a/memory".parse().expect("a name");
        let memory = SharedMemory::create(&bootstrap, &name, 7);
        let memory = memory.map(|memory| (memory.is_new(), memory.len()));
        self.note("shared", &format!("{:?}", memory.expect("memory")));
        let group = "group.a".parse().expect("a group");
        let socket = group_socket::connect(&bootstrap, &group, "x", SocketKind::Stream);
        match socket.expect_err("none is there") {
            SocketError::Bootstrap(error) => {
                let code = error.code().map(BootstrapCode::raw);
                self.note("shared", &format!("refused {code:?}"));
            }
            other => self.note("shared", &other.to_string()),
        }
        until("the gate is open", || self.has("gate"));
        process::exit(0);
    }

    /// Fills the service's queues with bytes and with descriptors, as far as it can, for ever.
    fn flood(&self) {
        let bootstrap = bootstrap();
        let rights: Vec<_> = (0..16).map(|_| look_up(&bootstrap)).collect();
        let (bytes, descriptors) = rights.split_at(8);
        let mut full = false;
        loop {
            for right in bytes {
                while right.send_bytes(NOTE, &[b'x'; 4096], Timeout::POLL).is_ok() {}
            }
            for right in descriptors {
                while send_descriptor(right).is_ok() {}
            }
            if !full {
                self.note("full", "");
                full = true;
            }
            thread::yield_now();
        }
    }
}

fn send_descriptor(to: &SendRight) -> Result<(), SendErrorKind> {
    let port = ReceiveRight::new().map_err(|error| SendErrorKind::System(error.0))?;
    let right = port.make_send().expect("send right");
    let message = Message::new(NOTE).with_right(right);
    to.send(message, Timeout::POLL)
        .map_err(|error| match error.kind() {
            SendErrorKind::RightsInFlight => SendErrorKind::RightsInFlight,
            _ => SendErrorKind::TimedOut,
        })
}

/// What came from each sender.
#[derive(Default)]
struct Tally {
    next: Vec<u64>,
    total: u64,
}

impl Tally {
    fn count(&mut self, bytes: &[u8]) {
        let (sender, number) = bytes.split_first_chunk().expect("a sender");
        let sender = u32::from_le_bytes(*sender) as usize;
        let number = u64::from_le_bytes(number.try_into().expect("a number"));
        if self.next.len() <= sender {
            self.next.resize(sender + 1, 0);
        }
        assert_eq!(number, self.next[sender], "from sender {sender}");
        self.next[sender] += 1;
        self.total += 1;
    }
}

fn bootstrap() -> Bootstrap {
    Bootstrap::from_env().expect("bootstrap right")
}

fn service() -> portolan::ServiceName {
    let name = env::var(SERVICE).expect(SERVICE);
    name.parse().expect("name")
}

fn check_in() -> ReceiveRight {
    bootstrap().check_in_strict(&service()).expect("check in")
}

fn look_up(bootstrap: &Bootstrap) -> SendRight {
    bootstrap.look_up(&service()).expect("look up")
}

fn echo(message: &mut Message) {
    let mut bytes = process::id().to_le_bytes().to_vec();
    bytes.extend(message.bytes());
    if let Some(reply) = message.take_reply() {
        // Who asked may have been killed.
        reply.send(Message::new(0).with_bytes(bytes)).ok();
    }
}

/// Looks the service up in so many threads, says so, and when standard input ends sends one request
/// in each.
fn ask(threads: u32) {
    let bootstrap = bootstrap();
    let ready = Barrier::new(threads as usize + 1);
    let go = Barrier::new(threads as usize + 1);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let right = look_up(&bootstrap);
                ready.wait();
                go.wait();
                let answer = right.request(Message::new(ECHO), TIME, TIME);
                answer.expect("an answer");
            });
        }
        ready.wait();
        wait_for_word();
        go.wait();
    });
}

/// Looks the service up, says so, and sends when standard input ends.
fn send(from: u32, to: u32) {
    let right = look_up(&bootstrap());
    wait_for_word();
    send_notes(&right, from, to);
}

fn send_notes(right: &SendRight, from: u32, to: u32) {
    for number in from..to {
        let message = Message::new(NOTE).with_bytes(number.to_string());
        right.send(message, PATIENCE).expect("send");
    }
}

fn wait_for_word() {
    std::io::stderr().write_all(b"ready\n").expect("stderr");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("stdin");
}

/// Accepts so many connections at the inherited socket, echoes a byte on each, and exits well.
fn accept(count: u32) {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let own = own.expect("this process");
    let listener = rustix::process::pidfd_getfd(own, 3, PidfdGetfdFlags::empty());
    let listener = std::os::unix::net::UnixListener::from(listener.expect("the socket"));
    listener.set_nonblocking(false).expect("blocking");
    for _ in 0..count {
        let (mut client, _) = listener.accept().expect("accept");
        let mut byte = [0];
        // Some hang up at once.
        if client.read(&mut byte).is_ok_and(|n| n == 1) {
            client.write_all(&byte).ok();
        }
    }
    process::exit(0);
}
