//! `kdbridge -- gdb` and `kdbridge -- lldb`

use std::ffi::{OsStr, OsString};
use std::io;
use std::iter::repeat;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;

use anyhow::{Context, bail};
use kdbridge::kernel::Found;
use kdbridge::rsp::link::Address;
use kdbridge::scratch::Scratch;
use kdbridge::serve::{Listener, Options, Server};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Debugger;
use crate::attach::{self, Attached};
use crate::{output, signals};

pub(crate) fn run(arguments: &Debugger) -> anyhow::Result<ExitCode> {
    let image = attach::image(arguments.kernel.vmlinux.as_deref())?;
    let folder = Scratch::new()?;
    let socket = folder.path().join("kdbridge");
    let (program, rest) = arguments
        .debugger
        .split_first()
        .context("name a debugger after `--`")?;
    let kind = kind(program)?;
    let told = signals::stream_beside_debugger()?;
    let libraries = attach::libraries(&arguments.kernel)?;
    let listener = Listener::bind(&Address::Unix(socket.clone()))?;
    let mut attached = attach::connect(&arguments.target, &arguments.kernel)?;
    let kernel = attach::check(&mut attached, image.as_ref())?;
    let images = kernel.map(|it| images(kind, rest, &mut attached, &it));
    let mut debugger = Command::new(program);
    debugger
        .args(first(kind, &images.unwrap_or_default(), &socket))
        .args(rest);
    let options = Options {
        modules: attach::modules(image.clone(), libraries, attached.xnu.clone()),
        locate: attach::locate(image, attached.xnu),
        allow_kill: false,
        remark: Box::new(|text| output::remark(text)),
    };
    let mut server = Server::new(attached.target, listener, options)?;
    if let Some(reconnect) = attach::again(&arguments.target) {
        server.reconnect_by(reconnect);
    }
    let (end, debugger_lives) = UnixStream::pair()?;
    let status = thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(end.as_fd()));
        let status = run_until(&mut debugger, &told);
        drop(debugger_lives);
        serving
            .join()
            .map_err(|_| anyhow::anyhow!("the bridge failed"))??;
        status.with_context(|| format!("{:?}", debugger.get_program()))
    })?;
    Ok(code(status))
}

/// Runs the debugger, which is told to end when this command is.
fn run_until(debugger: &mut Command, told: &UnixStream) -> io::Result<ExitStatus> {
    let mut child = debugger.spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut either = [
        PollFd::new(told, PollFlags::IN),
        PollFd::new(&pidfd, PollFlags::IN),
    ];
    while let Err(error) = poll(&mut either, None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    if !either[0].revents().is_empty() {
        pidfd_send_signal(&pidfd, Signal::TERM)?;
    }
    child.wait()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gdb,
    Lldb,
}

fn kind(program: &OsStr) -> anyhow::Result<Kind> {
    let name = Path::new(program).file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    if name.contains("lldb") {
        return Ok(Kind::Lldb);
    }
    if name.contains("gdb") {
        return Ok(Kind::Gdb);
    }
    bail!("{name} is neither gdb nor lldb; `kdbridge serve` is for any debugger");
}

/// What lldb has to be given, unless it was given files: XNU's, which gdb is told of when it connects.
fn images(
    kind: Kind,
    arguments: &[OsString],
    attached: &mut Attached,
    kernel: &Found,
) -> Vec<PathBuf> {
    let named = arguments.iter().any(|it| Path::new(it).is_file());
    match kernel {
        Found::Xnu(kernel) if kind == Kind::Lldb && !named => {
            attached.xnu.images(attached.target.as_mut(), kernel)
        }
        _ => Vec::new(),
    }
}

/// What it is told first of all, which is to connect; files that it is given are read before that.
fn first(kind: Kind, images: &[PathBuf], socket: &Path) -> Vec<String> {
    let socket = socket.display();
    if kind == Kind::Gdb {
        return vec!["-ex".to_owned(), format!("target remote {socket}")];
    }
    let verbs = ["target create"]
        .into_iter()
        .chain(repeat("target modules add"));
    let files = images.iter().zip(verbs);
    let files = files.map(|(path, verb)| format!("{verb} '{}'", path.display()));
    let connect = format!("process connect -p gdb-remote unix-connect://{socket}");
    let commands = files.chain([connect]);
    commands.flat_map(|it| ["-o".to_owned(), it]).collect()
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
