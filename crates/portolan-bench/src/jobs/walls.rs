//! What walls cost: starting a program in each tier, beside starting it without walls and with
//! bubblewrap and the same mounts. All take turns, so that whatever else the machine does is the same
//! for each.

use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use portolan::{Message, ReceiveRight, Right, SendRight};
use portolan_sandbox::Entitlements;
use portolan_sandbox::places::{self, Access};
use portolan_sandbox::probe::{LAUNCHER, Tiers};
use portolan_sandbox::profile::{Home, Profile, Tier};
use rustix::io::{FdFlags, fcntl_setfd};

use super::part::Part;
use super::row::{Row, Unit};
use super::usage::middle_and_99th;
use super::world::PATIENCE;
use super::{Chapter, Plan};
use crate::report::time;
use crate::rounds::progress;

/// What is started: it does nothing, so that nothing else is measured.
const PROGRAM: &str = "/bin/true";

const BUBBLEWRAP: &str = "bwrap";

const ENTITLEMENTS: &str = "\"com.apple.security.app-sandbox\" = true\n\
                            \"com.apple.security.application-groups\" = \"group.portolan.bench\"\n";

/// What a launch in a tier may take beyond one without walls.
const MOST_MORE: [(Tier, f64); 2] = [(Tier::T1, 2e6), (Tier::T2, 5e6)];

/// Who runs the programs if this is root's, for those of root's own are not confined.
const NOBODY: u32 = 65534;

/// Rounds that do not count.
const WARM_UP: usize = 10;

/// The environment variable that tells a program where the right is that it has inherited.
pub(super) const INHERITED_FD: &str = "PORTOLAN_BOOTSTRAP_FD";

pub(super) fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    progress("walls");
    let place = Place::new(plan)?;
    let mut rows = launches(plan, &place)?;
    progress("walls, and messages through them");
    rows.extend(round_trips(plan, &place)?);
    Ok(rows)
}

/// Where programs are confined, and how this machine can do so.
struct Place {
    launcher: PathBuf,
    home: PathBuf,
    tiers: Tiers,
}

impl Place {
    fn new(plan: &Plan) -> anyhow::Result<Self> {
        let launcher = plan.portolan.with_file_name(LAUNCHER);
        let home = plan.directory.0.join("walls");
        fs::create_dir(&home)?;
        let user = rustix::process::geteuid().is_root().then_some(NOBODY);
        if user.is_some() {
            fs::set_permissions(&plan.directory.0, Permissions::from_mode(0o755))?;
            chown(&home, user, user)?;
        }
        let tiers = Tiers::probe(&launcher, user.map(|user| (user, user)))?;
        Ok(Self {
            launcher,
            home,
            tiers,
        })
    }

    /// Those that there are.
    fn tiers(&self) -> impl Iterator<Item = Tier> {
        let all = [(Tier::T1, self.tiers.t1), (Tier::T2, self.tiers.t2)];
        let found = all.into_iter().filter(|(_, there)| there.is_ok());
        found.map(|(tier, _)| tier)
    }

    fn profile(&self, program: &Path, tier: Tier) -> anyhow::Result<Profile> {
        let entitlements = Entitlements::parse(ENTITLEMENTS.as_bytes())?;
        let label = "org.example.walls".parse()?;
        let home = Home::new(self.home.clone(), None);
        Ok(Profile::resolve(
            &entitlements,
            &label,
            program,
            &home,
            tier,
        )?)
    }

    /// The launcher, and what has to stay open until it is started for the last time.
    fn confined(&self, program: &Path, tier: Tier) -> anyhow::Result<(Command, OwnedFd)> {
        let memory = self.profile(program, tier)?.seal()?;
        fcntl_setfd(&memory, FdFlags::empty())?;
        let mut command = as_user(Command::new(&self.launcher));
        command.arg(memory.as_raw_fd().to_string()).arg(program);
        Ok((command, memory))
    }
}

fn launches(plan: &Plan, place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut ways = ways(place)?;
    let rounds = if plan.quick { 60 } else { 1000 };
    for round in 0..rounds + WARM_UP {
        for way in &mut ways {
            let start = Instant::now();
            let status = way.command.status().context(way.name.clone())?;
            let taken = start.elapsed().as_nanos() as u64;
            ensure!(status.success(), "{}: {status}", way.name);
            if round >= WARM_UP {
                way.times.push(taken);
            }
        }
    }
    Ok(rows(ways))
}

/// A way to start the program.
struct Way {
    name: String,
    tier: Option<Tier>,
    command: Command,
    times: Vec<u64>,
    /// Open for as long as the command is run.
    _profile: Option<OwnedFd>,
}

impl Way {
    fn new(name: &str, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            tier: None,
            command,
            times: Vec::new(),
            _profile: None,
        }
    }
}

fn ways(place: &Place) -> anyhow::Result<Vec<Way>> {
    let mut ways = vec![Way::new("without walls", as_user(Command::new(PROGRAM)))];
    for tier in place.tiers() {
        let (mut command, profile) = place.confined(Path::new(PROGRAM), tier)?;
        // The first one makes the containers.
        ensure!(command.status()?.success(), "{tier} does not work");
        ways.push(Way {
            tier: Some(tier),
            _profile: Some(profile),
            ..Way::new(&format!("in {tier}"), command)
        });
    }
    if let (Some(bubblewrap), Ok(())) = (find(BUBBLEWRAP), place.tiers.t2) {
        let profile = place.profile(Path::new(PROGRAM), Tier::T2)?;
        ways.push(Way::new("with bubblewrap", wrapped(&bubblewrap, &profile)?));
    }
    Ok(ways)
}

/// Bubblewrap with the same places and namespaces.
fn wrapped(bubblewrap: &Path, profile: &Profile) -> anyhow::Result<Command> {
    let mut command = as_user(Command::new(bubblewrap));
    command.args(["--unshare-all", "--new-session", "--die-with-parent"]);
    command.args(["--cap-drop", "ALL"]);
    for place in places::of(profile, &places::program(profile))?.places {
        if let Ok(target) = fs::read_link(&place.path) {
            command.arg("--symlink").arg(target).arg(&place.path);
            continue;
        }
        match place.access {
            Access::List => continue,
            Access::Processes => command.arg("--proc").arg(&place.path),
            Access::Read => command.arg("--ro-bind-try").args([&place.path; 2]),
            Access::Device => command.arg("--dev-bind-try").args([&place.path; 2]),
            Access::Write | Access::Own => command.arg("--bind-try").args([&place.path; 2]),
        };
    }
    command.arg("--").arg(PROGRAM);
    Ok(command)
}

fn find(program: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&search).map(|directory| directory.join(program));
    { candidates }.find(|path| path.is_file())
}

fn as_user(mut command: Command) -> Command {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.current_dir("/");
    command
}

fn rows(ways: Vec<Way>) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut bare, mut t2) = (0.0, 0.0);
    for mut way in ways {
        let rounds = way.times.len();
        let (middle, last) = middle_and_99th(&mut way.times);
        let best = way.times.first().copied().unwrap_or(0) as f64;
        let tail = format!("99th {}, best {}, of {rounds}", time(last), time(best));
        let row = |what: String, unit, found| Row::new(Chapter::Walls, what, unit, found);
        let what = format!("a program that is started {}", way.name);
        rows.push(row(what, Unit::Nanoseconds, middle).beside(tail));
        match way.tier {
            Some(tier) => {
                let most = MOST_MORE.iter().find(|(of, _)| *of == tier);
                let most = most.map_or(0.0, |(_, most)| *most);
                let what = format!("what {tier} adds");
                rows.push(row(what, Unit::Nanoseconds, middle - bare).at_most(most));
                t2 = middle;
            }
            None if bare == 0.0 => bare = middle,
            None => {
                let what = "T2 to bubblewrap with the same mounts".to_owned();
                rows.push(row(what, Unit::Times, t2 / middle).at_most(1.0));
            }
        }
    }
    rows
}

/// How much longer a round trip may take inside than outside.
const MOST_INSIDE: f64 = 1.03;

/// Round trips of one kind before those of the next one.
const BLOCK: usize = 2000;

/// A program at the other end of a port; killed when it is dropped.
struct Echo {
    name: String,
    child: Child,
    right: SendRight,
    times: Vec<u64>,
}

impl Echo {
    fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let port = ReceiveRight::new()?;
        let Ok(socket) = port.make_send()?.into_socket() else {
            bail!("the right is in use")
        };
        fcntl_setfd(&socket, FdFlags::empty())?;
        command.args(Part::Echo.arguments("", 0));
        let number = socket.as_raw_fd().to_string();
        let child = command.env(INHERITED_FD, number).spawn()?;
        drop(socket);
        match port.receive(PATIENCE)?.take_rights().pop() {
            Some(Right::Send(right)) => Ok(Self {
                name: name.to_owned(),
                child,
                right,
                times: Vec::new(),
            }),
            _ => bail!("{name} did not introduce itself"),
        }
    }

    fn block(&mut self) -> anyhow::Result<()> {
        for _ in 0..BLOCK {
            let start = Instant::now();
            let request = Message::new(1).with_bytes([7; 64]);
            let answer = self.right.request(request, PATIENCE, PATIENCE)?;
            self.times.push(start.elapsed().as_nanos() as u64);
            ensure!(answer.bytes() == [7; 64], "the echo is another");
        }
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself, after an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// As every job is, and every program in T2: the kernel shares processors out among sessions
/// (`sched_autogroup_enabled`), and one that gives way does so to those of its own.
fn in_own_session(command: &Command) -> Command {
    let mut around = as_user(Command::new("setsid"));
    around.arg(command.get_program()).args(command.get_args());
    let set = |(name, value): (_, Option<_>)| Some((name, value?));
    around.envs(command.get_envs().filter_map(set));
    around
}

fn round_trips(plan: &Plan, place: &Place) -> anyhow::Result<Vec<Row>> {
    let program = std::env::current_exe()?;
    let outside = in_own_session(&Command::new(&program));
    let mut echoes = vec![Echo::start("outside", outside)?];
    for tier in place.tiers() {
        let (command, profile) = place.confined(&program, tier)?;
        let command = in_own_session(&command);
        echoes.push(Echo::start(&format!("in {tier}"), command)?);
        drop(profile);
    }
    let blocks = if plan.quick { 5 } else { 50 };
    for echo in &mut echoes {
        echo.block()?;
        echo.times.clear();
    }
    for _ in 0..blocks {
        echoes.iter_mut().try_for_each(Echo::block)?;
    }
    let mut rows = Vec::new();
    let mut outside = None;
    for echo in &mut echoes {
        let (middle, last) = middle_and_99th(&mut echo.times);
        let row = |what: String, unit, found| Row::new(Chapter::Walls, what, unit, found);
        let what = format!("a round trip of 64 B with a program {}", echo.name);
        let beside = format!("99th {}, of {}", time(last), echo.times.len());
        rows.push(row(what, Unit::Nanoseconds, middle).beside(beside));
        match outside {
            None => outside = Some(middle),
            Some(outside) => {
                let what = format!("the same {} to outside", echo.name);
                rows.push(row(what, Unit::Times, middle / outside).at_most(MOST_INSIDE));
            }
        }
    }
    Ok(rows)
}
