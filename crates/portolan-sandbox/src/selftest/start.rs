//! Starting a program, confined or not, and waiting for what comes of it.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use portolan_sys::spawn::{Descriptor, Identity, Spawn, Spawned, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use super::SelftestError;
use super::attempt::Outcome;

/// A program and what it starts with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [OsString],
    pub(super) home: &'a Path,
    pub(super) identity: Option<&'a Identity>,
    pub(super) descriptors: &'a [Descriptor<'a>],
}

/// Starts it in a process group of its own, so that a terminal does not interrupt it.
pub(super) fn start(wishes: &Start<'_>) -> Result<Spawned, SelftestError> {
    let text = |text: &[u8]| {
        let nul = |_| SelftestError::Process(io::ErrorKind::InvalidInput.into());
        CString::new(text).map_err(nul)
    };
    let program = text(wishes.program.as_os_str().as_bytes())?;
    let mut arguments = vec![program.clone()];
    for argument in wishes.arguments {
        arguments.push(text(argument.as_bytes())?);
    }
    let mut home = OsString::from("HOME=");
    home.push(wishes.home);
    let environment = [
        text(&home.into_vec())?,
        CString::from(c"PATH=/usr/bin:/bin"),
        CString::from(c"PORTOLAN_BOOTSTRAP_FD=3"),
    ];
    let spawned = spawn(&Spawn {
        program: &program,
        arguments: &arguments,
        environment: &environment,
        pid_variable: None,
        directory: Some(c"/"),
        descriptors: wishes.descriptors,
        umask: None,
        nice: None,
        batch: false,
        limits: &[],
        identity: wishes.identity,
        session: false,
        cgroup: None,
    });
    spawned.map_err(|error| SelftestError::Start {
        program: wishes.program.to_owned(),
        source: error,
    })
}

/// The number of the descriptor with the profile.
pub(super) const PROFILE: u32 = 4;

/// The number of the descriptor of a right to report with, which nobody takes reports from.
pub(super) const REPORTER: u32 = 5;

/// How many descriptors are left open that should not be.
const CARELESS: usize = 100;

/// What a program has come to.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: Option<WaitIdStatus>,
    pub(super) output: String,
    pub(super) errors: String,
}

/// Runs a program to its end, with a bootstrap right that answers, with the profile, and with many
/// descriptors that are none of its business.
pub(super) fn run(
    program: &Path,
    arguments: &[OsString],
    home: &Path,
    identity: Option<&Identity>,
    profile: Option<BorrowedFd<'_>>,
) -> Result<Ended, SelftestError> {
    let failed = |errno: rustix::io::Errno| SelftestError::Process(errno.into());
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(failed)?;
    let out = rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).map_err(failed)?;
    let errors = rustix::fs::memfd_create("errors", MemfdFlags::CLOEXEC).map_err(failed)?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(failed)?;
    let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
    let (_nobody, reporter) = pair.map_err(failed)?;
    let profile = profile.unwrap_or(null.as_fd());
    let mut descriptors = [&null, &out, &errors, &theirs]
        .map(|one| one.as_fd())
        .to_vec();
    descriptors.extend([profile, reporter.as_fd()]);
    descriptors.resize(descriptors.len() + CARELESS, null.as_fd());
    let descriptors: Vec<_> = descriptors.into_iter().map(Descriptor::Inherited).collect();
    let process = start(&Start {
        program,
        arguments,
        home,
        identity,
        descriptors: &descriptors,
    })?;
    drop(descriptors);
    drop(theirs);
    let status = serve(&process, &ours).map_err(SelftestError::Process)?;
    Ok(Ended {
        status,
        output: contents(out).map_err(SelftestError::Process)?,
        errors: contents(errors).map_err(SelftestError::Process)?,
    })
}

const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Answers at the other end of the bootstrap right until the program has ended. `None` if it had to
/// be ended.
fn serve(process: &Spawned, right: &OwnedFd) -> io::Result<Option<WaitIdStatus>> {
    let mut answers = true;
    loop {
        let wanted = if answers {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut polled = [
            PollFd::new(&process.pidfd, PollFlags::IN),
            PollFd::new(right, wanted),
        ];
        let polled = &mut polled[..if answers { 2 } else { 1 }];
        let ready = rustix::io::retry_on_intr(|| poll(polled, Some(&PATIENCE)))?;
        let ended = polled[0].revents().contains(PollFlags::IN);
        if ready == 0 {
            pidfd_send_signal(&process.pidfd, Signal::KILL)?;
        }
        if ended || ready == 0 {
            let id = WaitId::PidFd(process.pidfd.as_fd());
            let status = rustix::io::retry_on_intr(|| waitid(id.clone(), WaitIdOptions::EXITED))?;
            return Ok(status.filter(|_| ended));
        }
        answers = answer(right);
    }
}

/// Whether there will be more.
fn answer(right: &OwnedFd) -> bool {
    let mut question = [0; 16];
    match rustix::net::recv(right, &mut question, RecvFlags::DONTWAIT) {
        Ok((1.., _)) => rustix::net::send(right, b"pong", SendFlags::NOSIGNAL).is_ok(),
        _ => false,
    }
}

fn contents(memory: OwnedFd) -> io::Result<String> {
    let mut file = File::from(memory);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Ended {
    /// What came of the attempt that the program has made.
    pub(super) fn outcome(self) -> Outcome {
        let Some(status) = self.status else {
            return Outcome::Hung;
        };
        if let Some(signal) = status.terminating_signal() {
            return Outcome::Killed(signal);
        }
        let said = self.output.lines().last().and_then(Outcome::read);
        said.unwrap_or_else(|| Outcome::Lost(format!("{}{}", self.output, self.errors)))
    }
}
