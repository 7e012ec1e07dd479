//! A server, jobs that are loaded there, and their processes as the test sees them.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use portolan::bootstrap::jobs::{JobState, JobStatus, Kickstart};
use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{
    JobLabel, Message, ReceiveError, ReceiveRight, Right, SendErrorKind, SendRight, ServiceName,
    Timeout,
};
use portolan_testkit::flavour::{Flavour, memories};
use portolan_testkit::wait;
use portolan_wire::place;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::actor::{DIRECTOR, VARIABLE, Verb};
use crate::world::World;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> ServiceName {
    text.parse().expect("name")
}

pub(crate) fn label(text: &str) -> JobLabel {
    text.parse().expect("label")
}

/// The code with which a call was refused.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, BootstrapError>) -> i32 {
    let error = result.expect_err("it was not refused");
    error.code().unwrap_or_else(|| panic!("{error}")).raw()
}

/// Waits for what comes at some time.
pub(crate) fn wait_until(is_so: impl FnMut() -> bool) {
    wait::until(PATIENCE, "it is so", is_so);
}

/// Sends messages with these ids.
pub(crate) fn send(right: &SendRight, ids: impl IntoIterator<Item = i32>) {
    for id in ids {
        right.send(Message::new(id), PATIENCE).expect("send");
    }
}

/// Starts the server that the command contains. A `portoland` beside it, which clients prefer, may be
/// an older one.
fn start_server(world: &World) {
    fs::create_dir(world.runtime()).expect("directory");
    let file = |name| File::create(world.runtime().join(name)).expect("file");
    let mut command = world.command(["bootstrap", "--detach"]);
    command.stdin(file(place::LOCK)).stderr(file(place::LOG));
    let mut child = command.spawn().expect("start a server");
    let mut ready = [0; 6];
    let mut output = child.stdout.take().expect("standard output");
    output.read_exact(&mut ready).expect("it listens");
    assert_eq!(ready, *b"ready\n");
    assert!(child.wait().expect("wait").success());
}

/// A server whose jobs tell this test that they are there.
pub(crate) struct Director {
    introductions: ReceiveRight,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) world: World,
}

impl Director {
    pub(crate) fn new() -> Self {
        let world = World::new();
        start_server(&world);
        let bootstrap = Bootstrap::connect(&world.runtime()).expect("connect");
        let introductions = bootstrap.check_in(&name(DIRECTOR)).expect("check in");
        Self {
            introductions,
            bootstrap,
            world,
        }
    }

    /// The process that listens.
    pub(crate) fn server(&self) -> Pid {
        let socket = self.world.runtime().join(place::SOCKET);
        let address = rustix::net::SocketAddrUnix::new(socket).expect("an address");
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let probe = rustix::net::socket(family, kind, None).expect("socket");
        rustix::net::connect(&probe, &address).expect("connect");
        let peer = rustix::net::sockopt::socket_peercred(&probe);
        peer.expect("SO_PEERCRED").pid
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// Loads a job with this label whose processes are [`Actor`]s; `keys` are more lines of its file.
    pub(crate) fn load(&self, label: &str, keys: &str) {
        let program = std::env::current_exe().expect("this program");
        let program = program.display();
        let text = format!(
            "Label = '{label}'\n\
             ProgramArguments = ['{program}', '--exact', 'play_a_part', '--nocapture']\n\
             EnvironmentVariables = {{ {VARIABLE} = '1' }}\n\
             HardResourceLimits.Core = 0\n\
             {keys}\n"
        );
        let path = PathBuf::from(format!("{label}.toml"));
        let loaded = self.bootstrap.load(&path, text.as_bytes());
        loaded.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The process of a job that was started last and has not been asked for yet.
    pub(crate) fn actor(&self) -> Actor {
        let introduced = self.introductions.receive(PATIENCE);
        Actor::of(introduced.expect("a job is started"))
    }

    /// Fails the test if a process was started that it has not asked for.
    pub(crate) fn nobody_else_came(&self) {
        let introduced = self.introductions.receive(Timeout::POLL);
        assert!(matches!(introduced, Err(ReceiveError::TimedOut)));
    }

    /// Starts a job that nothing else starts.
    pub(crate) fn kickstart(&self, text: &str) -> Actor {
        let how = Kickstart {
            wait: Some(Timeout::after(PATIENCE)),
            ..Kickstart::default()
        };
        let pid = self.bootstrap.kickstart(&label(text), how);
        let pid = pid.expect("kickstart").expect("it waited");
        let actor = self.actor();
        assert_eq!(actor.pid(), pid);
        actor
    }

    pub(crate) fn job(&self, text: &str) -> JobStatus {
        self.bootstrap.job(&label(text)).expect("the job")
    }

    pub(crate) fn state(&self, text: &str) -> JobState {
        self.job(text).summary.state
    }

    pub(crate) fn runs(&self, text: &str) -> u32 {
        self.job(text).runs
    }

    /// How many messages wait at a service that nobody has checked in.
    pub(crate) fn queued(&self, job: &str, service: &str) -> u32 {
        let status = self.job(job);
        let mut services = status.services.iter();
        let found = services.find(|found| found.name.as_str() == service);
        found.expect("a service of the job").queued
    }

    /// The services that a job has, whether they were declared in its file or not.
    pub(crate) fn services(&self, job: &str) -> Vec<String> {
        let services = self.job(job).services;
        services
            .iter()
            .map(|found| found.name.to_string())
            .collect()
    }

    pub(crate) fn look_up(&self, text: &str) -> Result<SendRight, BootstrapError> {
        self.bootstrap.look_up(&name(text))
    }

    /// A right to a service of a job that does not run, in a flavour.
    ///
    /// One that goes through memory has to be used for that: then the job has had a good run.
    pub(crate) fn right(&self, service: &str, flavour: Flavour) -> SendRight {
        if flavour == Flavour::Ring {
            let (right, actor) = self.serving(service, flavour);
            actor.exit(0);
            return right;
        }
        let right = self.look_up(service).expect("look up");
        // Asking keeps it there.
        assert_eq!(Flavour::of(&right), Flavour::Socket);
        right
    }

    /// A right in a flavour to a service, and the process that its first message has started. That
    /// has checked in, and has received what was sent.
    pub(crate) fn serving(&self, service: &str, flavour: Flavour) -> (SendRight, Actor) {
        let right = self.look_up(service).expect("look up");
        let before = memories();
        send(&right, [0]);
        let actor = self.actor();
        actor.check_in(service);
        assert_eq!(actor.receive(service), 0);
        if flavour == Flavour::Socket {
            assert_eq!(Flavour::of(&right), Flavour::Socket);
            return (right, actor);
        }
        // More than it takes to go over.
        for id in 1..9 {
            send(&right, [id]);
            assert_eq!(actor.receive(service), id);
        }
        assert!(!memories().is_subset(&before), "still on the socket");
        (right, actor)
    }
}

/// A process of a job.
pub(crate) struct Actor {
    pid: Pid,
    pidfd: OwnedFd,
    orders: SendRight,
}

impl Actor {
    fn of(mut introduction: Message) -> Self {
        let pid = introduction.bytes().try_into().map(i32::from_le_bytes);
        let pid = pid.ok().and_then(Pid::from_raw).expect("a process id");
        let Some(Right::Send(orders)) = introduction.take_rights().pop() else {
            panic!("no right for orders")
        };
        // It waits for orders, so it is still there.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("the job's process");
        Self { pid, pidfd, orders }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    fn tell(&self, verb: Verb, text: &str) -> Message {
        let order = Message::new(verb as i32).with_bytes(text);
        let answer = self.orders.request(order, PATIENCE, PATIENCE);
        answer.unwrap_or_else(|error| panic!("{verb:?} {text}: {error}"))
    }

    /// The code of the server's answer, 0 for success.
    pub(crate) fn code(&self, verb: Verb, text: &str) -> i32 {
        self.tell(verb, text).id()
    }

    fn numbers(&self, verb: Verb, text: &str) -> Vec<i32> {
        let answer = self.tell(verb, text);
        assert_eq!(answer.id(), 0, "{verb:?} {text}");
        let (numbers, _) = answer.bytes().as_chunks();
        numbers.iter().map(|n| i32::from_le_bytes(*n)).collect()
    }

    /// The one number of its answer.
    pub(crate) fn number(&self, verb: Verb, text: &str) -> i32 {
        let numbers = self.numbers(verb, text);
        assert_eq!(numbers.len(), 1);
        numbers[0]
    }

    pub(crate) fn check_in(&self, service: &str) {
        assert_eq!(self.code(Verb::CheckIn, service), 0);
    }

    /// The id of the next message.
    pub(crate) fn receive(&self, service: &str) -> i32 {
        self.number(Verb::Receive, service)
    }

    /// The ids of the messages that are there.
    pub(crate) fn receive_all(&self, service: &str) -> Vec<i32> {
        self.numbers(Verb::ReceiveAll, service)
    }

    /// The receive right that it had.
    pub(crate) fn give(&self, service: &str) -> ReceiveRight {
        match self.tell(Verb::Give, service).take_rights().pop() {
            Some(Right::Receive(port)) => port,
            other => panic!("{other:?}"),
        }
    }

    /// A namespace that lasts as long as the process.
    pub(crate) fn subset(&self) -> Bootstrap {
        match self.tell(Verb::Subset, "").take_rights().pop() {
            Some(Right::Send(right)) => Bootstrap::from_right(right),
            other => panic!("{other:?}"),
        }
    }

    /// Has it exit; it has when this returns, and the server takes note before it answers anybody.
    pub(crate) fn exit(self, status: i32) {
        let order = Message::new(Verb::Exit as i32).with_bytes(status.to_string());
        self.orders.send(order, PATIENCE).expect("tell");
        self.wait_for_end();
    }

    /// Kills it with a signal, as [`exit`](Self::exit).
    pub(crate) fn kill(self, signal: Signal) {
        kill_process(self.pid, signal).expect("it is still there");
        self.wait_for_end();
    }

    pub(crate) fn wait_for_end(&self) {
        let patience = Timespec::try_from(PATIENCE).expect("short");
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&patience)), Ok(1), "it has not ended");
    }
}

/// Waits until the port is dead, as an event loop would.
pub(crate) fn wait_for_death(right: &SendRight) {
    let patience = Timespec::try_from(PATIENCE).expect("short");
    while !right.is_dead() {
        let mut dead = [PollFd::from_borrowed_fd(right.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut dead, Some(&patience)), Ok(1), "it lives on");
    }
    let sent = right.send(Message::new(0), PATIENCE);
    let error = sent.expect_err("nobody receives");
    assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
}
