//! A user with files and a process that are none of a confined program's business, and the ways to
//! run the attempts of `probes.py` with and without walls.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use portolan_sandbox::Entitlements;
use portolan_sandbox::probe::{PROBE, Tiers};
use portolan_sandbox::profile::{Home, Profile, Tier};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tempfile::TempDir;

const PROBES: &str = include_str!("probes.py");
pub(crate) const PYTHON: &str = "/usr/bin/python3";
pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_portolan-launch");

/// Who runs the programs if the tests are root's: `nobody`, who has no files.
const NOBODY: u32 = 65534;

pub(crate) const NOTHING: &str = "\"com.apple.security.app-sandbox\" = true\n";

/// What came of each attempt: `out`, or the reason why not.
pub(crate) type Results = BTreeMap<String, String>;

pub(crate) struct World {
    directory: TempDir,
    victim: Child,
    settings: Vec<(String, String)>,
    /// How the launcher is started, if in a way of its own.
    around: Option<&'static str>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path();
        for made in ["", "home", "other"] {
            let made = path.join(made);
            fs::create_dir_all(&made).expect("mkdir");
            fs::set_permissions(&made, Permissions::from_mode(0o755)).expect("chmod");
        }
        fs::write(path.join("other/readable"), "x").expect("write");
        for theirs in ["", "home"] {
            if is_root() {
                chown(path.join(theirs), Some(NOBODY), Some(NOBODY)).expect("chown");
            }
        }
        if is_root() {
            let program = path.join("setuid-python");
            fs::copy(PYTHON, &program).expect("copy");
            fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("chmod");
        }
        let mut victim = as_user(Command::new(PYTHON));
        victim.args(["-c", PROBES, "victim"]).arg(path);
        let mut victim = victim
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let output = BufReader::new(victim.stdout.take().expect("piped"));
        let settings = output.lines().map(|line| line.expect("a line"));
        let settings: Vec<String> = settings.take_while(|line| line != "ready").collect();
        let settings = settings.iter().flat_map(|line| line.split(' '));
        let settings = settings.map(|setting| {
            let (name, value) = setting.split_once('=').expect("NAME=value");
            (format!("PROBE_{name}"), value.to_owned())
        });
        Self {
            settings: settings.collect(),
            around: None,
            directory,
            victim,
        }
    }

    /// As on a machine where user namespaces are off.
    pub(crate) fn without_namespaces() -> Self {
        Self::around("alone")
    }

    /// Whether the user can make namespaces, found out without the launcher.
    pub(crate) fn user_has_namespaces() -> bool {
        let mut command = as_user(Command::new(PYTHON));
        let output = command.args(["-c", PROBES, "namespaces"]).output();
        output.expect("python3").stdout.starts_with(b"yes")
    }

    /// Started from a terminal.
    pub(crate) fn in_a_terminal() -> Self {
        Self::around("terminal")
    }

    fn around(way: &'static str) -> Self {
        let mut world = Self::new();
        world.around = Some(way);
        world
    }

    /// The launcher, as the user.
    fn launcher(&self) -> Command {
        let Some(way) = self.around else {
            return as_user(Command::new(LAUNCHER));
        };
        let mut command = as_user(Command::new(PYTHON));
        command.args(["-c", PROBES, way, LAUNCHER]);
        command
    }

    /// What this machine has for that user.
    pub(crate) fn tiers(&self) -> Tiers {
        let output = self.launcher().arg(PROBE).output();
        let output = output.expect("portolan-launch");
        let text = String::from_utf8(output.stdout).expect("text");
        text.parse().expect("tiers")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn home(&self) -> Home {
        Home::new(self.path().join("home"), None)
    }

    pub(crate) fn victim_is_alive(&mut self) -> bool {
        self.victim.try_wait().expect("wait").is_none()
    }

    /// Makes the attempts without walls.
    pub(crate) fn outside(&self, names: &[&str]) -> Results {
        let home = self.home().path;
        let mut command = as_user(Command::new(PYTHON));
        self.configure(command.env("HOME", home));
        command
            .args(["-c", PROBES, "probe"])
            .arg(self.path())
            .args(names);
        results(&command.output().expect("python3"))
    }

    /// Makes the attempts inside.
    pub(crate) fn inside(&self, tier: Tier, entitlements: &str, names: &[&str]) -> Results {
        let directory = self.path().to_str().expect("a path");
        let arguments = [&["-c", PROBES, "probe", directory], names].concat();
        results(&self.confined(tier, entitlements, PYTHON, &arguments))
    }

    /// Runs a program inside.
    pub(crate) fn confined(
        &self,
        tier: Tier,
        entitlements: &str,
        program: &str,
        arguments: &[&str],
    ) -> Output {
        let entitlements = Entitlements::parse(entitlements.as_bytes()).expect("entitlements");
        let label = "org.example.wall".parse().expect("a label");
        let program = Path::new(program);
        let home = self.home();
        let profile = Profile::resolve(&entitlements, &label, program, &home, tier);
        let profile = profile.expect("a profile");
        let group = profile.groups.first().cloned().unwrap_or_default();
        let memory = profile.seal().expect("memory");
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a pair");
        let careless: Vec<OwnedFd> = (0..10)
            .map(|_| fs::File::open("/dev/null").expect("open").into())
            .collect();
        for descriptor in careless.iter().chain([&memory, &theirs]) {
            fcntl_setfd(descriptor, FdFlags::empty()).expect("fcntl");
        }
        let mut command = self.launcher();
        self.configure(command.env("PROBE_GROUP", group));
        command
            .arg(memory.as_raw_fd().to_string())
            .arg("program")
            .args(arguments)
            .env("PORTOLAN_BOOTSTRAP_FD", theirs.as_raw_fd().to_string());
        let answering = std::thread::spawn(move || answer(&ours));
        let output = command.output().expect("portolan-launch");
        drop((theirs, memory));
        answering.join().expect("it ends with the other end");
        output
    }

    fn configure(&self, command: &mut Command) {
        let victim = self.victim.id().to_string();
        let settings = self.settings.iter().map(|(name, value)| (name, value));
        command
            .envs(settings)
            .env("PROBE_PID", victim)
            .current_dir("/")
            .stdin(Stdio::null());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.victim.stdin.take());
        self.victim.wait().ok();
    }
}

/// The other end of the bootstrap right.
fn answer(socket: &OwnedFd) {
    let mut buffer = [0; 16];
    while let Ok((_, 1..)) = rustix::net::recv(socket.as_fd(), &mut buffer, RecvFlags::empty()) {
        rustix::net::send(socket, b"pong", SendFlags::NOSIGNAL).ok();
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn as_user(mut command: Command) -> Command {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The tiers that there are. A machine without any cannot test walls.
pub(crate) fn available() -> Vec<Tier> {
    let tiers = World::new().tiers();
    let found = [(Tier::T1, tiers.t1), (Tier::T2, tiers.t2)];
    let found: Vec<Tier> = found
        .into_iter()
        .filter_map(|(tier, there)| there.ok().map(|()| tier))
        .collect();
    assert!(!found.is_empty(), "{tiers}");
    found
}

fn results(output: &Output) -> Results {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().map(|line| {
        let (name, reason) = line.split_once(' ').expect("NAME reason");
        (name.to_owned(), reason.to_owned())
    });
    let results: Results = lines.collect();
    assert!(
        !results.is_empty(),
        "{:?}: {errors:?} {text:?}",
        output.status
    );
    results
}

pub(crate) fn path_of(world: &World, name: &str) -> PathBuf {
    world.path().join(name)
}
