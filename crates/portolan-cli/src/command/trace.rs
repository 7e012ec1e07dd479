//! `portolan run --trace`.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, anyhow};
use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::relay::{Relay, Used};
use portolan::{JobLabel, SendRight};
use portolan_sandbox::profile::{Home, Profile, Tier};
use portolan_sandbox::trace::{Findings, Learned, TRACE, Trace};
use portolan_sandbox::{Entitlements, Filter, Operation, probe};
use rustix::io::FdFlags;

use super::run::{INHERITED_FD, find, label_of, own_home};
use crate::args::Run;
use crate::{exit, output};

pub(crate) fn run(options: &Run) -> anyhow::Result<ExitCode> {
    let program = options.program.first().context("no program")?;
    let label = match &options.label {
        Some(label) => label.clone(),
        None => label_of(Path::new(program))?,
    };
    let missing = || exit::not_executed(program, std::io::ErrorKind::NotFound.into());
    let path = find(Path::new(program)).ok_or_else(missing)?;
    let home = own_home()?;
    let profile = Profile::resolve(&Entitlements::default(), &label, &path, &home, Tier::T1);
    let mut profile = profile.map_err(exit::configuration)?;
    profile.kept_out.extend(portoland::daemon::own_places());
    let (relay, right) = Relay::new(Bootstrap::from_env()?)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = start(options, &profile, right, theirs.into())?;
    let Some(trace) = Trace::begin(&ours)? else {
        return Ok(code_of(child.wait()?));
    };
    let (findings, status) = follow(trace, relay, child)?;
    let text = described(&label, &findings, &profile, &home)?;
    match &options.output {
        Some(file) => {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?
        }
        None => output::finding(text.trim_end().to_owned()),
    }
    Ok(code_of(status))
}

/// The launcher, which becomes the program.
fn start(
    options: &Run,
    profile: &Profile,
    right: SendRight,
    socket: OwnedFd,
) -> anyhow::Result<Child> {
    let launcher = probe::launcher().context("cannot find portolan-launch")?;
    let Ok(right) = right.into_socket() else {
        return Err(anyhow!("the bootstrap right is in use"));
    };
    let sealed = profile.seal()?;
    for descriptor in [&right, &sealed, &socket] {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    let mut command = Command::new(launcher);
    command.arg0(probe::LAUNCHER).arg(TRACE);
    command.args([&socket, &sealed].map(|fd| fd.as_raw_fd().to_string()));
    command.args(&options.program);
    command.env(INHERITED_FD, right.as_raw_fd().to_string());
    Ok(command.spawn()?)
}

/// What all processes of the program do, to their end, and how the first one ended.
fn follow(trace: Trace, relay: Relay, mut child: Child) -> anyhow::Result<(Findings, ExitStatus)> {
    // Its right may be somebody else's by the time that the program ends, who is not waited for.
    let names = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&names);
    thread::spawn(move || {
        let note = |used| {
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(used)
        };
        relay.run(note)
    });
    // Up to Linux 6.10 a process that has ended is filtered until it has been waited for.
    let ended = thread::spawn(move || child.wait());
    let watched = trace.watch();
    // If that went wrong, its calls must not wait any more.
    drop(trace);
    let status = ended.join().map_err(|_| anyhow!("the program is lost"))??;
    let mut findings = watched.context("cannot look at the program's calls")?;
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.iter().for_each(|used| add(&mut findings, used));
    Ok((findings, status))
}

fn add(findings: &mut Findings, used: &Used) {
    let (name, registered, per_pid) = match used {
        Used::Name {
            name,
            registered,
            per_pid,
        } => (name, registered, per_pid),
        Used::Group(group) => return findings.add_group(group.clone()),
        _ => return,
    };
    let operation = match registered {
        true => Operation::MachRegister,
        false => Operation::MachLookup,
    };
    let filter = match per_pid {
        true => Filter::LocalName,
        false => Filter::GlobalName,
    };
    findings.add_name(operation, filter, name.as_str());
}

/// An entitlement file, in which what is no entitlement is a comment.
fn described(
    label: &JobLabel,
    findings: &Findings,
    profile: &Profile,
    home: &Home,
) -> anyhow::Result<String> {
    let Learned {
        entitlements,
        remarks,
        ..
    } = findings.learned(profile, home)?;
    let mut text = format!("# What {label} has used.\n");
    for remark in &remarks {
        text.push_str(&format!("# {}\n", output::plain(remark).replace('\n', " ")));
    }
    text.push_str(&entitlements.to_toml()?);
    Ok(text)
}

/// As a shell has it.
fn code_of(status: ExitStatus) -> ExitCode {
    const SIGNALLED: i32 = 128;
    let code = status.code();
    let code = code.or_else(|| status.signal().map(|signal| SIGNALLED + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
