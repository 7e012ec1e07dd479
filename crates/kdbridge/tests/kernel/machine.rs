//! A virtual machine with Linux in it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

/// How long a machine may take for anything that it is asked; it has 5 s of work to do when it starts,
/// and shares the processors with others.
const PATIENCE: Duration = Duration::from_secs(60);

const QEMU_HAS_ENDED: &str = "QEMU has ended";

/// The folder that `cargo xtask kernel-lab` fills, in the way that debuggers write it.
fn lab() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = env::var_os("KDBRIDGE_LAB").map(PathBuf::from);
    let lab = named.unwrap_or_else(|| here.join("../../target/kernel-lab"));
    lab.canonicalize().unwrap_or(lab)
}

/// Where files have the paths that Debian gives them.
pub(crate) fn root() -> PathBuf {
    lab().join("root")
}

/// `uname -r` of the kernel.
pub(crate) fn release() -> String {
    let file = lab().join("release");
    let release = fs::read_to_string(&file);
    let release = release.unwrap_or_else(|_| panic!("no {file:?}: run `cargo xtask kernel-lab`"));
    release.trim().to_owned()
}

/// The kernel with its debug information.
pub(crate) fn vmlinux() -> PathBuf {
    root().join(format!("usr/lib/debug/boot/vmlinux-{}", release()))
}

/// A kernel of another version, of which there is no file with symbols.
pub(crate) fn other_kernel() -> PathBuf {
    let mut files = fs::read_dir(lab().join("other/boot")).expect("run `cargo xtask kernel-lab`");
    files.next().unwrap().unwrap().path()
}

/// A running QEMU; it ends when this is dropped, and if the test is killed.
pub(crate) struct Machine {
    qemu: Child,
    console: ChildStdout,
    /// What came from the console and has not been looked at.
    unread: Vec<u8>,
    folder: TempDir,
}

/// What is special about a machine.
pub(crate) struct Options {
    pub(crate) cpus: u32,
    /// Appended to the kernel's command line.
    pub(crate) append: &'static str,
    pub(crate) cpu_model: &'static str,
    pub(crate) kernel: PathBuf,
    /// Others end when they are reset.
    pub(crate) may_be_reset: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 2,
            append: "",
            cpu_model: "qemu64",
            kernel: root().join(format!("boot/vmlinuz-{}", release())),
            may_be_reset: false,
        }
    }
}

impl Machine {
    /// Starts one and waits for its shell.
    pub(crate) fn boot() -> Self {
        Self::boot_with(&Options::default())
    }

    pub(crate) fn boot_with(options: &Options) -> Self {
        let mut machine = Self::start(options);
        machine.comes_up();
        machine
    }

    /// Waits for its shell.
    pub(crate) fn comes_up(&mut self) {
        self.read_until("lab ready\n");
    }

    /// Starts one and does not wait for anything but its stub.
    pub(crate) fn start(options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (qemu, console) = launch(options, &folder.path().join("stub"));
        Self {
            qemu,
            console,
            unread: Vec::new(),
            folder,
        }
    }

    /// Ends it as a crash would, starts another one in its place, and waits for its shell.
    pub(crate) fn restart(&mut self, options: &Options) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
        fs::remove_file(self.stub()).unwrap();
        self.unread.clear();
        (self.qemu, self.console) = launch(options, &self.stub());
        self.comes_up();
    }

    /// The socket of its GDB stub.
    pub(crate) fn stub(&self) -> PathBuf {
        self.folder.path().join("stub")
    }

    /// A folder that goes with the machine.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Has the shell in the machine run a line; gives what that prints.
    ///
    /// # Panics
    ///
    /// If it fails, or does not end in time.
    pub(crate) fn run(&mut self, line: &str) -> String {
        self.send(&format!("{line}; echo lab status $?"));
        let output = self.read_until("lab status ");
        let status = self.read_until("\n");
        assert_eq!(status.trim(), "0", "{line}: {output}");
        output
    }

    /// Gives the shell in the machine a line and does not wait.
    pub(crate) fn send(&mut self, line: &str) {
        let console = self.qemu.stdin.as_mut().unwrap();
        writeln!(console, "{line}").expect("the console of the machine");
    }

    /// Seconds since it started, as it says itself.
    pub(crate) fn uptime(&mut self) -> f64 {
        let uptime = self.run("cat /proc/uptime");
        uptime.split(' ').next().unwrap().parse().unwrap()
    }

    /// What comes from the console before `end`, which is taken off.
    ///
    /// # Panics
    ///
    /// If it does not come in time, or QEMU ends.
    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.unread.windows(end.len());
            if let Some(at) = found.into_iter().position(|w| w == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                let mut before = std::mem::replace(&mut self.unread, rest);
                before.truncate(at);
                return String::from_utf8_lossy(&before).into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(problem) = self.read_more(left) {
                panic!(
                    "{problem} instead of {end:?}: {}",
                    self.unread.escape_ascii()
                );
            }
        }
    }

    fn read_more(&mut self, time: Duration) -> Result<(), &'static str> {
        let time = Timespec::try_from(time).unwrap();
        let mut console = [PollFd::new(&self.console, PollFlags::IN)];
        if poll(&mut console, Some(&time)).unwrap() == 0 {
            return Err("nothing comes from the machine");
        }
        let mut buffer = [0; 4096];
        let count = self.console.read(&mut buffer).unwrap();
        self.unread.extend_from_slice(&buffer[..count]);
        if count == 0 {
            return Err(QEMU_HAS_ENDED);
        }
        Ok(())
    }

    /// Waits until QEMU has ended.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub(crate) fn ends(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.read_more(left) {
                Ok(()) => {}
                Err(QEMU_HAS_ENDED) => return,
                Err(problem) => panic!("{problem}"),
            }
        }
    }

    /// Whether QEMU still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.qemu.try_wait().unwrap().is_none()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

/// QEMU once it has its stub.
fn launch(options: &Options, stub: &Path) -> (Child, ChildStdout) {
    let mut qemu = qemu(options, stub)
        .spawn()
        .expect("start qemu-system-x86_64");
    let console = qemu.stdout.take().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !stub.exists() {
        assert!(Instant::now() < deadline, "QEMU opens no stub");
        std::thread::yield_now();
    }
    (qemu, console)
}

/// `setpriv` becomes QEMU, with the kernel's promise to end it when the test's thread ends.
fn qemu(options: &Options, stub: &Path) -> Command {
    // On a busy computer the kernel's check of its timer fails.
    let mut append = String::from("console=ttyS0 quiet panic=-1 no_timer_check");
    write!(append, " {}", options.append).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-nodefaults", "-display", "none", "-accel", "tcg"])
        .args((!options.may_be_reset).then_some("-no-reboot"))
        .args(["-m", "512", "-smp", &options.cpus.to_string()])
        .args(["-cpu", options.cpu_model, "-append", &append])
        .arg("-kernel")
        .arg(&options.kernel)
        .arg("-initrd")
        .arg(lab().join("initramfs.cpio"))
        .args(["-chardev", "file,id=out,path=/dev/stdout"])
        .args(["-chardev", "stdio,id=in,signal=off"])
        .args(["-serial", "chardev:out", "-serial", "chardev:in"])
        .arg("-chardev")
        .arg(format!(
            "socket,id=stub,server=on,wait=off,path={}",
            stub.display()
        ))
        .args(["-gdb", "chardev:stub"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}
