//! `portolan run`.

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use portolan::bootstrap::Bootstrap;
use portolan::{BootstrapCode, JobLabel, SendRight};
use portolan_sandbox::probe::{LAUNCHER, Tiers, launcher};
use portolan_sandbox::profile::{Home, Isolation, Profile, Tier};
use portolan_sandbox::report::REPORT;
use portolan_sandbox::{Entitlements, Ineffective};
use rustix::io::FdFlags;

use crate::args::Run;
use crate::{exit, output};

/// The environment variable that tells a program where its bootstrap right is.
pub(super) const INHERITED_FD: &str = "PORTOLAN_BOOTSTRAP_FD";

pub(crate) fn run(options: &Run) -> anyhow::Result<()> {
    let (program, arguments) = options.program.split_first().context("no program")?;
    let label = match &options.label {
        Some(label) => label.clone(),
        None => label_of(Path::new(program))?,
    };
    // Read here first, so that what is wrong with the file is said with its position.
    let file = options.entitlements.as_deref().context("no entitlements")?;
    let read = Entitlements::read_with_text(file);
    let (reading, text) = read.map_err(exit::configuration)?;
    let entitlements = reading.entitlements;
    for Ineffective { key, reason, .. } in reading.ineffective {
        output::remark(format_args!("{label}: {key} {reason}"));
    }
    if entitlements.inherit {
        return inherit(&label, &text, program, arguments);
    }
    let confined = match entitlements.app_sandbox {
        true => Some(confine(&entitlements, &label, program, options.isolation)?),
        false => None,
    };
    let server = Bootstrap::from_env()?;
    let known = server
        .confine(&label, &text)
        .with_context(|| format!("cannot get a bootstrap right for {label}"))?;
    let (variable, instance) = known.variable();
    let instance = also_of(env::var(variable).ok(), instance);
    let reporter = match options.report && confined.is_some() {
        true => Some(left_open(server.reporter(&label)?)?),
        false => None,
    };
    let socket = left_open(known.right)?;
    let mut command = match &confined {
        Some(confined) => confined.command(program, reporter.as_ref())?,
        None => {
            output::remark(format_args!(
                "{label}: without com.apple.security.app-sandbox, any name may be used and \
                 nothing is locked in"
            ));
            Command::new(program)
        }
    };
    let number = socket.as_raw_fd().to_string();
    let error = command
        .args(arguments)
        .envs([(INHERITED_FD, number), (variable, instance)])
        .exec();
    Err(exit::not_executed(program, error))
}

/// Executes a program that is what this one is. The kernel sees to that; that there is something to
/// inherit only the server can say.
fn inherit(
    label: &JobLabel,
    entitlements: &[u8],
    program: &OsString,
    arguments: &[OsString],
) -> anyhow::Result<()> {
    match Bootstrap::from_env()?.confine(label, entitlements) {
        Err(error) if error.code() == Some(BootstrapCode::NOT_PRIVILEGED) => {
            let error = Command::new(program).args(arguments).exec();
            Err(exit::not_executed(program, error))
        }
        Err(error) if error.code() == Some(BootstrapCode::BAD_ARGUMENTS) => {
            Err(exit::configuration(error))
        }
        Err(error) => Err(error.into()),
        Ok(_) => anyhow::bail!("the server gave a right to a program that inherits its own"),
    }
}

/// The descriptor of a right, for the program that this one becomes.
fn left_open(right: SendRight) -> anyhow::Result<OwnedFd> {
    let Ok(socket) = right.into_socket() else {
        anyhow::bail!("the bootstrap right is in use")
    };
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    Ok(socket)
}

/// A program that a job runs is of that job too, and ends with it.
fn also_of(outer: Option<String>, instance: &str) -> String {
    let all = outer.iter().map(String::as_str).chain([instance]);
    all.collect::<Vec<_>>().join("\n")
}

/// What confines a program.
struct Confined {
    launcher: PathBuf,
    profile: OwnedFd,
}

impl Confined {
    /// The launcher, which becomes the program with this name, or starts it and reports.
    fn command(&self, name: &OsString, reporter: Option<&OwnedFd>) -> anyhow::Result<Command> {
        rustix::io::fcntl_setfd(&self.profile, FdFlags::empty())?;
        let mut command = Command::new(&self.launcher);
        command.arg0(LAUNCHER);
        if let Some(right) = reporter {
            command.arg(REPORT).arg(right.as_raw_fd().to_string());
        }
        command.arg(self.profile.as_raw_fd().to_string()).arg(name);
        Ok(command)
    }
}

fn confine(
    entitlements: &Entitlements,
    label: &JobLabel,
    program: &OsString,
    isolation: Isolation,
) -> anyhow::Result<Confined> {
    let missing = || exit::not_executed(program, std::io::ErrorKind::NotFound.into());
    let path = find(Path::new(program)).ok_or_else(missing)?;
    let launcher = launcher().context("cannot find portolan-launch")?;
    let tiers = Tiers::probe(&launcher, None)?;
    let tier = tiers.choose(isolation).map_err(exit::configuration)?;
    output::remark(format_args!("{label}: locked in ({tier})"));
    if let (Tier::T1, Isolation::Best, Err(missing)) = (tier, isolation, tiers.t2) {
        output::remark(format_args!("{label}: {missing}"));
    }
    let home = own_home()?;
    let profile = Profile::resolve(entitlements, label, &path, &home, tier);
    let mut profile = profile.map_err(exit::configuration)?;
    profile.kept_out.extend(portoland::daemon::own_places());
    Ok(Confined {
        launcher,
        profile: profile.seal()?,
    })
}

/// The home of this user, as the environment has it.
pub(super) fn own_home() -> anyhow::Result<Home> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    Ok(Home::new(home.into(), data))
}

/// A name without a slash is looked for in `PATH`.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return std::path::absolute(program).ok();
    }
    let search = env::var_os("PATH")?;
    let candidates = env::split_paths(&search).map(|directory| directory.join(program));
    let found = { candidates }.find(|path| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    });
    std::path::absolute(found?).ok()
}

pub(super) fn label_of(program: &Path) -> anyhow::Result<JobLabel> {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.parse()
        .with_context(|| format!("{} is no label; give one", program.display()))
}
