//! A server with jobs, in a directory of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::jobs::{JobState, JobStatus};
use portolan::{JobLabel, Message, ReplyError, RequestError, SendRight, ServiceName, Timeout};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, waitpid};

use portolan_testkit::usage::children;
use portolan_testkit::wait;

use crate::part::{ECHO, PART, PLACE, SERVICE};
use crate::world::{Running, World, wait_for_line};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const TIME: Duration = Duration::from_secs(30);
pub(crate) const PATIENCE: Timeout = Timeout::after(TIME);

/// The service of the one job that most tests have; the label of that job is the same.
pub(crate) const NAME: &str = "org.example.job";

/// Waits until something holds.
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    wait::until(TIME, what, holds);
}

/// Shows a figure. It is no more than that: what must hold is asserted.
#[expect(clippy::print_stderr, reason = "a figure that the test measured")]
pub(crate) fn show(figure: &str) {
    eprintln!("{figure}");
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The median; where others want the processors too, the shortest time, for most of the others is then
/// what the test has waited for them.
pub(crate) fn typical(times: Vec<Duration>) -> Duration {
    let load = fs::read_to_string("/proc/loadavg").expect("/proc");
    let load: f64 = load
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .expect("proc_loadavg(5)");
    let processors = thread::available_parallelism().expect("processors").get();
    match load < processors as f64 {
        true => median(times),
        false => times.into_iter().min().expect("a time"),
    }
}

pub(crate) fn label() -> JobLabel {
    NAME.parse().expect("label")
}

pub(crate) fn name() -> ServiceName {
    NAME.parse().expect("name")
}

/// A server and a connection to it. Dropping it ends the server with its jobs.
pub(crate) struct Site {
    pub(crate) bootstrap: Bootstrap,
    world: World,
    holder: Running,
    /// The server that has become the holder since.
    successor: Option<Pid>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let log = fs::File::create(world.path("log")).expect("log");
        let mut command = world.command(["bootstrap"]);
        command.stderr(log).stdout(Stdio::null());
        let mut holder = Running::start(&mut command);
        let mut bootstrap = None;
        until("the server listens", || {
            assert!(holder.child.try_wait().expect("wait").is_none(), "it ended");
            bootstrap = Bootstrap::connect(&world.runtime()).ok();
            // Whoever connects while it comes up may be too early.
            bootstrap.as_ref().is_some_and(|found| found.jobs().is_ok())
        });
        Self {
            bootstrap: bootstrap.expect("a connection"),
            world,
            holder,
            successor: None,
        }
    }

    /// A server with one job.
    pub(crate) fn with(part: &str, keys: &str) -> Self {
        let site = Self::new();
        site.load(&site.file(NAME, part, &format!("MachServices.'{NAME}' = true\n{keys}")));
        site
    }

    /// The text of a job file. `keys` come before all tables.
    pub(crate) fn file(&self, label: &str, part: &str, keys: &str) -> String {
        let own = std::env::current_exe().expect("this program");
        self.file_of(&own, label, part, keys)
    }

    pub(crate) fn file_of(&self, program: &Path, label: &str, part: &str, keys: &str) -> String {
        let place = self.world.path("");
        format!(
            "Label = '{label}'\n\
             ProgramArguments = ['{}', '--exact', 'play_a_part', '--nocapture', '--test-threads=1']\n\
             SoftResourceLimits.Core = 0\n\
             EnvironmentVariables.{PART} = '{part}'\n\
             EnvironmentVariables.{PLACE} = '{}'\n\
             EnvironmentVariables.{SERVICE} = '{NAME}'\n\
             {keys}\n",
            program.display(),
            place.display(),
        )
    }

    pub(crate) fn load(&self, file: &str) {
        let loaded = self.bootstrap.load(&self.path("job.toml"), file.as_bytes());
        loaded.expect("load");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        self.world.write(name, text)
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The lines that parts have left in a file.
    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn look_up(&self) -> SendRight {
        self.bootstrap.look_up(&name()).expect("look up")
    }

    pub(crate) fn job(&self) -> JobStatus {
        self.bootstrap.job(&label()).expect("the job")
    }

    pub(crate) fn state(&self) -> JobState {
        self.job().summary.state
    }

    pub(crate) fn pid(&self) -> u32 {
        self.job().summary.pid.expect("it runs")
    }

    pub(crate) fn until_state(&self, state: JobState) {
        until(&format!("the job is {state}"), || self.state() == state);
    }

    /// A process that plays a part and is no job. It has said that it is ready.
    pub(crate) fn play(&self, part: &str) -> Running {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "play_a_part", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(PLACE, self.path("senders"))
            .env(SERVICE, NAME)
            .env("PORTOLAN_RUNTIME_DIR", self.world.runtime())
            .env_remove("PORTOLAN_BOOTSTRAP_FD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running::start(&mut command);
        wait_for_line(&mut running.child, "ready");
        running
    }

    /// The process that has what the server has, and starts it again.
    pub(crate) fn holder(&self) -> u32 {
        let successor = self.successor.map(|pid| pid.as_raw_pid().cast_unsigned());
        successor.unwrap_or_else(|| self.holder.pid())
    }

    /// Kills the holder, and waits until the server is the holder of another one, which answers.
    pub(crate) fn kill_holder(&mut self) {
        set_child_subreaper(Some(getpid())).expect("prctl");
        let server = self.server().expect("a server");
        match self.successor {
            Some(holder) => {
                rustix::process::kill_process(holder, Signal::KILL).expect("kill");
                waitpid(Some(holder), WaitOptions::empty()).expect("wait");
            }
            None => {
                self.holder.child.kill().expect("kill");
                self.holder.child.wait().expect("wait");
            }
        }
        self.successor = Some(server);
        until("there is another server", || self.server().is_some());
        self.bootstrap.jobs().expect("the jobs");
    }

    /// The server itself. There may be none for a moment.
    pub(crate) fn server(&self) -> Option<Pid> {
        let program = fs::canonicalize(env!("CARGO_BIN_EXE_portolan")).expect("the program");
        let is_server = |pid: &u32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|exe| exe == program)
        };
        let server = children(self.holder()).into_iter().find(is_server)?;
        Pid::from_raw(server.cast_signed())
    }

    pub(crate) fn signal_server(&self, signal: Signal) -> Pid {
        let server = self.server().expect("a server");
        rustix::process::kill_process(server, signal).expect("signal");
        server
    }
}

impl Site {
    pub(crate) fn has_ended(&mut self) -> bool {
        match self.successor {
            Some(holder) => !matches!(waitpid(Some(holder), WaitOptions::NOHANG), Ok(None)),
            None => !matches!(self.holder.child.try_wait(), Ok(None)),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(self.path("log")).unwrap_or_default();
            std::io::stderr().write_all(&log).ok();
        }
        if let Some(server) = self.server() {
            // A test that failed may have left it stopped.
            rustix::process::kill_process(server, Signal::CONT).ok();
        }
        self.world.run(["shutdown"]);
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < TIME {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Asks a job, and gives its pid.
pub(crate) fn ask(right: &SendRight) -> Result<u32, ReplyError> {
    request(right, ECHO, b"").map(|(pid, _)| pid)
}

/// Sends a request, and gives the pid of the job and what it sent back.
pub(crate) fn request(
    right: &SendRight,
    id: i32,
    bytes: &[u8],
) -> Result<(u32, Vec<u8>), ReplyError> {
    let message = Message::new(id).with_bytes(bytes);
    match right.request(message, PATIENCE, PATIENCE) {
        Ok(answer) => Ok(parse(&answer)),
        Err(RequestError::Reply(error)) => Err(error),
        Err(RequestError::Send(error)) => panic!("{error}"),
    }
}

/// The parts of an answer to [`ECHO`].
pub(crate) fn parse(answer: &Message) -> (u32, Vec<u8>) {
    let (pid, rest) = answer.bytes().split_first_chunk().expect("a pid");
    (u32::from_le_bytes(*pid), rest.to_vec())
}
