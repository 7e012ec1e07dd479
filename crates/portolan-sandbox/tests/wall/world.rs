//! A user with a home, and the launcher for any program of that user.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portolan_sandbox::Entitlements;
use portolan_sandbox::probe::{PROBE, Tiers};
use portolan_sandbox::profile::{Home, Profile, Tier};
use portolan_sandbox::selftest::Selftest;
use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

use crate::ways::{LAUNCHER, NOBODY, PROBER, is_root};

pub(crate) struct World {
    directory: TempDir,
    namespaces: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        if is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        Self {
            directory,
            namespaces: true,
        }
    }

    /// As on a machine where user namespaces are off.
    pub(crate) fn without_namespaces() -> Self {
        Self {
            namespaces: false,
            ..Self::new()
        }
    }

    /// What this machine has for the user.
    pub(crate) fn tiers(&self) -> Tiers {
        let output = self
            .launcher()
            .arg(PROBE)
            .output()
            .expect("portolan-launch");
        let text = String::from_utf8(output.stdout).expect("text");
        text.parse().expect("tiers")
    }

    pub(crate) fn home(&self) -> Home {
        Home::new(self.directory.path().to_owned(), None)
    }

    /// Runs a program inside, with app-sandbox and these entitlements.
    pub(crate) fn confined(
        &self,
        tier: Tier,
        entitlements: &str,
        program: &str,
        arguments: &[&str],
    ) -> Output {
        let entitlements = format!("\"com.apple.security.app-sandbox\" = true\n{entitlements}");
        let entitlements = Entitlements::parse(entitlements.as_bytes()).expect("entitlements");
        let label = "org.example.wall".parse().expect("a label");
        let program = Path::new(program);
        let profile = Profile::resolve(&entitlements, &label, program, &self.home(), tier);
        let memory = profile.expect("a profile").seal().expect("memory");
        fcntl_setfd(&memory, FdFlags::empty()).expect("fcntl");
        self.launcher()
            .arg(memory.as_raw_fd().to_string())
            .arg("program")
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("portolan-launch")
    }

    /// The launcher, as the user.
    fn launcher(&self) -> Command {
        if self.namespaces {
            return as_user(Command::new(LAUNCHER));
        }
        let mut command = as_user(Command::new(PROBER));
        command.args(["alone", LAUNCHER]);
        command
    }
}

pub(crate) fn as_user(mut command: Command) -> Command {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The tiers that there are. A machine without any cannot test walls.
pub(crate) fn available() -> Vec<Tier> {
    let selftest = Selftest::new(Path::new(LAUNCHER)).expect("portolan-probe");
    let tiers = selftest.tiers().expect("tiers");
    let found = [(Tier::T1, tiers.t1), (Tier::T2, tiers.t2)];
    let found = found.into_iter().filter(|(_, there)| there.is_ok());
    let found: Vec<Tier> = found.map(|(tier, _)| tier).collect();
    assert!(!found.is_empty(), "{tiers}");
    found
}

/// What a directory in the container of the program lets whom do.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    let found = fs::metadata(path).expect("it was made");
    found.permissions().mode() & 0o7777
}
