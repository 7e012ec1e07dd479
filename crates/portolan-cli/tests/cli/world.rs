//! A runtime directory with its server, and the command in it.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use tempfile::TempDir;

/// What a run of the command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless the command succeeded.
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// Fails the test unless the command ended with this code and said this.
    pub(crate) fn fails(self, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(
            self.stderr.contains(says),
            "{says:?} is not in {:?}",
            self.stderr
        );
    }
}

/// A runtime directory. Dropping it ends its server and waits until that is gone.
pub(crate) struct World {
    directory: TempDir,
    program: PathBuf,
    user: Option<u32>,
}

/// A user who is not root and has no files.
const NOBODY: u32 = 65534;

impl World {
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::new().expect("temporary directory"),
            program: env!("CARGO_BIN_EXE_portolan").into(),
            user: None,
        }
    }

    /// One in which the command is not root's, who confines no programs. It is a copy, together
    /// with the launcher and the prober that are built beside it: what is built may be out of that
    /// user's reach.
    pub(crate) fn of_a_user() -> Self {
        let mut world = Self::new();
        let bin = world.path("bin");
        std::fs::create_dir(&bin).expect("mkdir");
        for name in ["portolan", "portolan-launch", "portolan-probe"] {
            let built = world.program.with_file_name(name);
            std::fs::copy(&built, bin.join(name)).expect("cargo build -p portolan-sandbox");
        }
        world.program = bin.join("portolan");
        if rustix::process::geteuid().is_root() {
            let user = Some(NOBODY);
            std::os::unix::fs::chown(world.path(""), user, user).expect("chown");
            world.user = user;
        }
        world
    }

    /// The user and the group that the command is run as.
    pub(crate) fn ids(&self) -> (u32, u32) {
        let ours = (rustix::process::getuid(), rustix::process::getgid());
        let ours = (ours.0.as_raw(), ours.1.as_raw());
        self.user.map_or(ours, |user| (user, user))
    }

    /// Makes a file that user's.
    pub(crate) fn give(&self, file: &Path) {
        let (user, group) = self.ids();
        std::os::unix::fs::chown(file, Some(user), Some(group)).expect("chown");
    }

    /// Where the command is.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The runtime directory of the server.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("runtime")
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write a file");
        path
    }

    /// The command in this world.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        self.other_command(&self.program, arguments)
    }

    /// Another command, as who is in this world.
    pub(crate) fn other_command<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
            .args(arguments)
            .env("PORTOLAN_RUNTIME_DIR", self.runtime())
            .env("XDG_DATA_HOME", self.path("data"))
            .env_remove("PORTOLAN_GROUP_CONTAINERS")
            .env_remove("PORTOLAN_BOOTSTRAP_FD")
            .env_remove("PORTOLAN_AUTOSTART")
            .env_remove("PORTOLAN_LOG")
            .env("PORTOLAN_SERVER", "")
            .env("HOME", self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A file with entitlements of a program that also has the command, which is no part of the system.
    pub(crate) fn entitlements(&self, entitlements: &str) -> PathBuf {
        let bin = self.path("bin/");
        let key = "com.apple.security.temporary-exception.files.absolute-path.read-only";
        let text = format!("{entitlements}\"{key}\" = [{bin:?}]\n");
        self.write("entitlements.toml", text)
    }

    /// `portolan run` with these entitlements, to which the program is to be added. It is known as
    /// `test.app`, and has the command for `$portolan`.
    pub(crate) fn confined(&self, isolation: &str, entitlements: &Path) -> Command {
        let mut command = self.command(["run", "--label", "test.app", "--isolation", isolation]);
        command.arg("--entitlements").arg(entitlements).arg("--");
        command.env("portolan", &self.program);
        command
    }

    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        ran(self.command(arguments).output().expect("run portolan"))
    }

    /// Runs the command with this on its standard input.
    pub(crate) fn feed<const N: usize>(&self, arguments: [&str; N], input: &[u8]) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("run portolan");
        let mut stdin = child.stdin.take().expect("stdin");
        let output = std::thread::scope(|scope| {
            // A command that fails early does not read its input.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output().expect("wait")
        });
        ran(output)
    }

    /// Starts `portolan serve` and waits until it serves.
    pub(crate) fn serve<const N: usize>(&self, arguments: [&str; N]) -> Running {
        Running::serving(&mut self.command(std::iter::once("serve").chain(arguments)))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.runtime().join("bootstrap.log")).expect("the server's log")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.runtime().join("bootstrap").exists() {
            let ended = self.run(["shutdown"]);
            if !std::thread::panicking() {
                // One that the test has told to end may be about to, and then it does not answer.
                assert!(matches!(ended.code, Some(0 | 6 | 7)), "{}", ended.stderr);
                wait_until_gone(&self.runtime().join("bootstrap"));
            }
        }
    }
}

/// The server removes its socket as the last thing it does.
fn wait_until_gone(socket: &Path) {
    let start = std::time::Instant::now();
    while socket.exists() {
        assert!(
            start.elapsed().as_secs() < 20,
            "the server left its socket behind"
        );
        std::thread::yield_now();
    }
}

/// A program that is killed and reaped when the test is done with it.
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self {
            child: command.spawn().expect("start a program"),
        }
    }

    /// Starts a program that ends up as `portolan serve` and waits until it serves.
    pub(crate) fn serving(command: &mut Command) -> Self {
        let mut running = Self::start(command);
        wait_for_line(&mut running.child, "serving ");
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        self.child
            .stdout
            .take()
            .expect("stdout")
            .read_to_end(&mut stdout)
            .expect("read");
        self.child
            .stderr
            .take()
            .expect("stderr")
            .read_to_string(&mut stderr)
            .expect("read");
        let code = self.child.wait().expect("wait").code();
        Ran {
            code,
            stdout,
            stderr,
        }
    }

    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads standard error up to a line with this in it.
pub(crate) fn wait_for_line(child: &mut Child, start: &str) {
    let stderr = child.stderr.as_mut().expect("stderr");
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.contains(start))
        || !text.ends_with(b"\n")
    {
        let n = stderr.read(&mut byte).expect("read");
        assert_eq!(n, 1, "it ended: {}", String::from_utf8_lossy(&text));
        text.extend(byte);
    }
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
