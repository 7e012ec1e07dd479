//! The program `portolan-probe`, which plays the other parts of a self-test. It is not for people.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use portolan_sys::confine::{self, Fork};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::thread::UnshareFlags;

use super::attempt::{Attempt, Outcome, Refusal};
use super::attempts::attempts;
use super::outside::{self, Outside};

/// Where this is as [`detached`] needs it: the name that it was started by.
const BY_NAME: usize = 0;

/// Is one of the parts:
///
/// - `outside DIRECTORY`: what is outside of the walls;
/// - `attempt NAME OUTSIDE…`: makes an attempt, and says what came of it;
/// - `privileged NAME OUTSIDE…`: makes it as root, with mounts of its own;
/// - `namespaced NAME OUTSIDE…`: makes it as root of a user namespace, which may have more there;
/// - `detached NAME OUTSIDE…`: makes it in a session of its own;
/// - `alone PROGRAM…`: becomes the program in a user namespace that may have no others;
/// - `terminal PROGRAM…`: runs the program in a terminal of its own.
#[must_use]
pub fn program(arguments: &[OsString]) -> ExitCode {
    let (real, effective) = (rustix::process::getuid(), rustix::process::geteuid());
    if real != effective {
        // The copy that sets its user id exists to find out whether it can, and does nothing else.
        return ExitCode::SUCCESS;
    }
    let (part, rest) = match arguments {
        [_, part, rest @ ..] => (part.to_str().unwrap_or_default(), rest),
        _ => return ExitCode::FAILURE,
    };
    let result = match (part, rest) {
        ("outside", [directory]) => outside::be(Path::new(directory)),
        ("attempt", [name, outside @ ..]) => make(name, outside),
        ("privileged", [name, outside @ ..]) => own_mounts().and_then(|()| make(name, outside)),
        ("namespaced", [name, outside @ ..]) => own_root().and_then(|()| make(name, outside)),
        ("detached", [name, outside @ ..]) => {
            let left = rustix::process::setsid().map_err(io::Error::from);
            left.and_then(|_| make(name, outside))
        }
        ("alone", program) => alone(program),
        ("terminal", program) => terminal(program),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "portolan-probe: {part}: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn by_name(name: &str) -> io::Result<&'static Attempt> {
    let found = attempts().find(|attempt| attempt.name == name);
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn make(name: &OsString, outside: &[OsString]) -> io::Result<()> {
    let attempt = by_name(name.to_str().unwrap_or_default())?;
    let outside = Outside::from_arguments(outside).ok_or(io::ErrorKind::InvalidInput)?;
    let outcome = Outcome::of((attempt.run)(&outside));
    writeln!(io::stdout(), "{outcome}")
}

/// Makes an attempt in a process that has left the session and whose parent has ended.
pub(super) fn detached(outside: &Outside, name: &str) -> Result<(), Refusal> {
    let this = std::env::args_os().nth(BY_NAME).ok_or(Refusal::Nothing)?;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "\"$0\" \"$@\" &"])
        .arg(this)
        .args(["detached", name]);
    command
        .args(outside.to_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut shell = command.spawn()?;
    let mut answer = String::new();
    let read = shell
        .stdout
        .take()
        .map(|mut out| out.read_to_string(&mut answer));
    shell.wait()?;
    read.transpose()?;
    match Outcome::read(&answer) {
        Some(Outcome::Out) => Ok(()),
        Some(Outcome::Refused(errno)) => Err(errno.into()),
        _ => Err(Refusal::Nothing),
    }
}

/// What is mounted from now on is seen by nobody else.
fn own_mounts() -> io::Result<()> {
    confine::unshare(UnshareFlags::NEWNS)?;
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", propagation)?)
}

fn own_root() -> io::Result<()> {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    confine::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
}

/// As on a machine where user namespaces are off. The limit is of the namespace that is made here,
/// so nobody else notices. Root keeps all ids, and is root there.
fn alone(program: &[OsString]) -> io::Result<()> {
    let [name, arguments @ ..] = program else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    if user.is_root() {
        be_alone_with_all()?;
    } else {
        let (user, group) = (user.as_raw(), group.as_raw());
        confine::unshare(UnshareFlags::NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    fs::write("/proc/sys/user/max_user_namespaces", "0")?;
    Err(Command::new(name).args(arguments).exec())
}

/// The ids are written from outside, by who may give out all of them.
fn be_alone_with_all() -> io::Result<()> {
    let this = getpid().as_raw_nonzero();
    let (mut go, ready) = io::pipe()?;
    match confine::fork()? {
        Fork::Child => {
            drop(ready);
            let mut nothing = Vec::new();
            let written = go.read_to_end(&mut nothing).and_then(|_| {
                fs::write(format!("/proc/{this}/uid_map"), "0 0 4294967295")?;
                fs::write(format!("/proc/{this}/gid_map"), "0 0 4294967295")
            });
            std::process::exit(i32::from(written.is_err()))
        }
        Fork::Parent(child) => {
            confine::unshare(UnshareFlags::NEWUSER)?;
            drop((ready, go));
            succeeded(child)
        }
    }
}

fn succeeded(child: Pid) -> io::Result<()> {
    match waitpid(Some(child), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Ends as the program does, and prints what that has written to its terminal.
fn terminal(program: &[OsString]) -> io::Result<()> {
    let [name, arguments @ ..] = program else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    match confine::fork()? {
        Fork::Child => {
            drop(ours);
            take_terminal(&theirs)?;
            Err(Command::new(name).args(arguments).exec())
        }
        Fork::Parent(child) => {
            drop(theirs);
            copy(ours)?;
            end_as(child)
        }
    }
}

fn take_terminal(terminal: &OwnedFd) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(terminal)?;
    rustix::stdio::dup2_stdin(terminal)?;
    rustix::stdio::dup2_stdout(terminal)?;
    Ok(rustix::stdio::dup2_stderr(terminal)?)
}

/// A terminal that nobody has open any more gives `EIO`.
fn copy(terminal: OwnedFd) -> io::Result<()> {
    let mut terminal = File::from(terminal);
    let mut out = io::stdout();
    let mut buffer = [0; 4096];
    loop {
        match terminal.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => out.write_all(&buffer[..length])?,
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn end_as(child: Pid) -> io::Result<()> {
    let Some((_, status)) = waitpid(Some(child), WaitOptions::empty())? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    match status.exit_status() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => Err(io::Error::other("it was killed")),
    }
}
