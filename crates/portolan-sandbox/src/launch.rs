//! The launcher: from being started to being another program.
//!
//! It is started as `portolan-launch NUMBER NAME ARGUMENTS…`: the number of the descriptor with the
//! sealed profile, the name that the program gets for its own, and its arguments. What it hands on
//! is told by the environment: the bootstrap right by `PORTOLAN_BOOTSTRAP_FD`, sockets by
//! `LISTEN_FDS`. As `portolan-launch --trace SOCKET NUMBER NAME ARGUMENTS…` it confines nothing, and the
//! calls of the program are looked at through the socket. As `portolan-launch --report RIGHT NUMBER NAME
//! ARGUMENTS…` it stays as the parent of the program and reports what is refused to that. As
//! `portolan-launch --probe` it tries the tiers and prints what it found.
//!
//! It has one thread, but for reporting, and never any input but the profile.

mod containers;
mod failure;
mod inherited;
mod privileges;
mod relay;
mod reporter;
mod rights;
mod root;
mod tiers;

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::sync::atomic::Ordering;

use crate::calls;
use crate::filter::{self, Architecture, filter};
use crate::places::{self, Access, Granted, Place};
use crate::probe::{LAUNCHER, OWN_LAUNCHER, PROBE, Part};
use crate::profile::{Profile, Tier};
use crate::report::REPORT;
use crate::trace::{self, TRACE};
use portolan_sys::notify::Listener;
use portolan_sys::{confine, inherit};
use portolan_wire::container::GROUP_CONTAINERS;

use failure::Failure;
use inherited::Inherited;

/// Is the launcher, if this process was started by its name. A program that calls this before
/// anything else needs no launcher beside it, see [`launcher`](crate::probe::launcher).
pub fn instead() -> Option<ExitCode> {
    OWN_LAUNCHER.store(true, Ordering::Relaxed);
    let mut arguments = env::args_os();
    let name = PathBuf::from(arguments.next()?);
    let is_launcher = name.file_name().is_some_and(|name| name == LAUNCHER);
    is_launcher.then(|| run(arguments.collect()))
}

/// Is the launcher, with the arguments after its name. Returns only if there is no program that it
/// could become, and has said why then.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let result = match arguments.as_slice() {
        [only] if only.to_str() == Some(PROBE) => tiers::report(),
        [option, socket, number, name, arguments @ ..] if option.to_str() == Some(TRACE) => {
            trace(socket, number, name, arguments).map(|never| match never {})
        }
        [option, right, number, name, arguments @ ..] if option.to_str() == Some(REPORT) => {
            reported(right, number, name, arguments).map(|never| match never {})
        }
        [number, name, arguments @ ..] => {
            launch(None, number, name, arguments).map(|never| match never {})
        }
        _ => Err(Failure::Usage),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            failure.code()
        }
    }
}

fn reported(
    right: &OsString,
    number: &OsString,
    name: &OsString,
    arguments: &[OsString],
) -> Result<Infallible, Failure> {
    let right = inherit::take(self::number(right)?).map_err(Failure::Report)?;
    launch(Some(right), number, name, arguments)
}

/// With a right to report with, what is refused to the program is reported.
fn launch(
    right: Option<OwnedFd>,
    number: &OsString,
    name: &OsString,
    arguments: &[OsString],
) -> Result<Infallible, Failure> {
    refuse_root()?;
    let profile = profile(number)?;
    let inherited = Inherited::take()?;
    containers::make(&profile)?;
    let inherited = match right {
        Some(right) => reporter::stay_outside(&profile, inherited, right)?,
        None => inherited,
    };
    let program = places::program(&profile);
    let mut command = Command::new(&program);
    command.arg0(name).args(arguments);
    set_environment(&mut command, &profile, &inherited);
    match profile.tier {
        Tier::T1 => {
            confine::give_up_terminal().map_err(Failure::Terminal)?;
            let granted = granted(&profile, &program)?;
            let directory = directory(&profile, &granted.places);
            become_program(command, &profile, &granted.places, &directory, &inherited)
        }
        Tier::T2 => {
            let inside = relay::enter_namespaces(profile.client || profile.server)?;
            // The kernel forgets it with the credentials that this process had before.
            if let Some(reporter) = inherited.reporter() {
                relay::die_with_parent(reporter).map_err(Failure::Process)?;
            }
            let own = relay::first_process(inside, inherited)?;
            // What was opened before is in other mounts, which cannot be cloned.
            let granted = granted(&profile, &program)?;
            let directory = directory(&profile, &granted.places);
            root::build(&granted)?;
            let inherited = own.program()?;
            become_program(command, &profile, &granted.places, &directory, &inherited)
        }
    }
}

/// Becomes a program without walls, in the surroundings that it would have with them, whose calls are
/// looked at by whoever has the other end of the socket.
fn trace(
    socket: &OsString,
    number: &OsString,
    name: &OsString,
    arguments: &[OsString],
) -> Result<Infallible, Failure> {
    let socket = inherit::take(self::number(socket)?).map_err(Failure::Trace)?;
    let profile = profile(number)?;
    let inherited = Inherited::take()?;
    containers::make(&profile)?;
    let mut command = Command::new(places::program(&profile));
    command.arg0(name).args(arguments);
    set_environment(&mut command, &profile, &inherited);
    inherited.leave().map_err(Failure::Descriptors)?;
    trace::install(&socket).map_err(Failure::Trace)?;
    let source = command.exec();
    Err(Failure::Exec {
        program: profile.program,
        source,
    })
}

fn profile(number: &OsString) -> Result<Profile, Failure> {
    let memory = inherit::take(self::number(number)?).map_err(Failure::NoProfile)?;
    Ok(Profile::unseal(memory)?)
}

fn number(text: &OsString) -> Result<u32, Failure> {
    let number = text.to_str().and_then(|number| number.parse().ok());
    number.ok_or(Failure::Usage)
}

/// A program that is root's outside of its walls has too many ways around them.
fn refuse_root() -> Result<(), Failure> {
    if rustix::process::getuid().is_root() || rustix::process::geteuid().is_root() {
        return Err(Failure::Root);
    }
    Ok(())
}

/// Says on standard error what is refused; the program is started without it.
fn granted(profile: &Profile, program: &Path) -> Result<Granted, Failure> {
    let granted = places::of(profile, program)?;
    for refused in &granted.refused {
        let line = format!("portolan-launch: {}: {refused}\n", profile.label);
        io::stderr().write_all(line.as_bytes()).ok();
    }
    Ok(granted)
}

/// Where the program begins: here, if it may be here, else in its container.
fn directory(profile: &Profile, places: &[Place]) -> PathBuf {
    let here = env::current_dir().ok();
    let granted = |here: &PathBuf| {
        let mut places = places.iter().filter(|place| place.access != Access::List);
        places.any(|place| here.starts_with(&place.path))
    };
    here.filter(granted)
        .unwrap_or_else(|| profile.container.clone())
}

/// The places of the user's files that a program looks for in its environment are in its container.
fn set_environment(command: &mut Command, profile: &Profile, inherited: &Inherited) {
    command.envs(
        profile
            .environment
            .iter()
            .map(|(name, value)| (name, value)),
    );
    for outside in [
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
    ] {
        command.env_remove(outside);
    }
    if !inherited.has_sockets() {
        for listening in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(listening);
        }
    }
    command
        .env("HOME", &profile.container)
        .env("TMPDIR", profile.container.join("tmp"))
        .env(GROUP_CONTAINERS, &profile.group_containers)
        .env("APP_SANDBOX_CONTAINER_ID", profile.label.as_str());
}

/// The order matters: each step forbids what the ones before it needed.
fn become_program(
    mut command: Command,
    profile: &Profile,
    places: &[Place],
    directory: &PathBuf,
    inherited: &Inherited,
) -> Result<Infallible, Failure> {
    env::set_current_dir(directory).map_err(|source| Failure::Directory {
        path: directory.clone(),
        source,
    })?;
    if inherited.has_sockets() {
        command.env("LISTEN_PID", process::id().to_string());
    }
    inherited.leave().map_err(Failure::Descriptors)?;
    privileges::drop_all().map_err(Failure::Privileges)?;
    rights::restrict(profile, places)?;
    install_filter(profile, inherited.reporter())?;
    let source = command.exec();
    Err(Failure::Exec {
        program: profile.program.clone(),
        source,
    })
}

/// Where calls that wait are told of is handed to the reporter, and to nobody else.
fn install_filter(profile: &Profile, reporter: Option<&UnixStream>) -> Result<(), Failure> {
    let missing = |part| {
        move |source| Failure::Missing {
            tier: profile.tier,
            part,
            source,
        }
    };
    let architecture = Architecture::current().ok_or(io::ErrorKind::Unsupported.into());
    let architecture = architecture.map_err(missing(Part::Architecture))?;
    let allowances = profile.allowances();
    match reporter {
        None => {
            let program = filter(architecture, allowances);
            confine::install_filter(&program).map_err(missing(Part::Filter))
        }
        Some(reporter) => {
            let program = filter::reporting(architecture, allowances);
            let listener = Listener::install(&program).map_err(missing(Part::Filter))?;
            calls::hand_on(&listener, reporter).map_err(Failure::Report)
        }
    }
}

/// Ends this process without what else belongs to the process that it was forked from.
fn end(code: u8) -> ! {
    io::stdout().flush().ok();
    process::exit(code.into())
}
