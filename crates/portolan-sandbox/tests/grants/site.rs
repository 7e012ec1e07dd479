//! A user with a home, and the launcher for programs of that user.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use portolan_sandbox::Entitlements;
use portolan_sandbox::probe::Tiers;
use portolan_sandbox::profile::{Home, Profile, Tier};
use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_portolan-launch");

/// Who runs the programs if the tests are root's: `nobody`, who has no files.
const NOBODY: u32 = 65534;

/// What a program is called if that does not matter.
pub(crate) const LABEL: &str = "org.example.granted";

pub(crate) struct Site {
    directory: TempDir,
    pub(crate) kept_out: Vec<PathBuf>,
    /// What the program is called that is run next.
    pub(crate) label: &'static str,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self {
            directory: TempDir::new().expect("a directory"),
            kept_out: Vec::new(),
            label: LABEL,
        };
        site.give(site.directory.path());
        site.directory("home");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Makes a directory of the user's, with those above it.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let missing = path.ancestors().take_while(|path| !path.exists());
        let missing: Vec<_> = missing.map(Path::to_owned).collect();
        for path in missing.iter().rev() {
            fs::create_dir(path).expect("mkdir");
            self.give(path);
        }
        path
    }

    /// Writes a file of the user's.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let name = Path::new(name);
        self.directory(name.parent().and_then(Path::to_str).expect("a name"));
        fs::write(&path, text).expect("write");
        if is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        path
    }

    /// Makes it the user's.
    pub(crate) fn give(&self, path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("chmod");
        if is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }

    /// Runs a script of the shell with these entitlements besides `app-sandbox`.
    pub(crate) fn shell(&self, tier: Tier, entitlements: &str, script: &str) -> Output {
        self.run(tier, entitlements, "/bin/sh", &["-c", script])
    }

    pub(crate) fn run(
        &self,
        tier: Tier,
        entitlements: &str,
        program: &str,
        arguments: &[&str],
    ) -> Output {
        let command = self.command(tier, entitlements, program, arguments);
        let (mut command, profile) = command;
        let output = command.output().expect("portolan-launch");
        drop(profile);
        output
    }

    /// The launcher, and what has to stay open until it is started.
    pub(crate) fn command(
        &self,
        tier: Tier,
        entitlements: &str,
        program: &str,
        arguments: &[&str],
    ) -> (Command, impl Sized + use<>) {
        let text = format!("\"com.apple.security.app-sandbox\" = true\n{entitlements}");
        let entitlements = Entitlements::parse(text.as_bytes()).expect("entitlements");
        let label = self.label.parse().expect("a label");
        let home = Home::new(self.home(), None);
        let program = Path::new(program);
        let profile = Profile::resolve(&entitlements, &label, program, &home, tier);
        let mut profile = profile.expect("a profile");
        profile.kept_out.extend(self.kept_out.iter().cloned());
        let memory = profile.seal().expect("memory");
        fcntl_setfd(&memory, FdFlags::empty()).expect("fcntl");
        let mut command = as_user(Command::new(LAUNCHER));
        command
            .arg(memory.as_raw_fd().to_string())
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null());
        (command, memory)
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_user(mut command: Command) -> Command {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The tiers that there are. A machine without any cannot test grants.
pub(crate) fn tiers() -> Vec<Tier> {
    let user = is_root().then_some((NOBODY, NOBODY));
    let tiers = Tiers::probe(Path::new(LAUNCHER), user).expect("a launcher");
    let found = [(Tier::T1, tiers.t1), (Tier::T2, tiers.t2)];
    let found: Vec<Tier> = found
        .into_iter()
        .filter_map(|(tier, there)| there.ok().map(|()| tier))
        .collect();
    assert!(!found.is_empty(), "{tiers}");
    found
}

pub(crate) fn output(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
