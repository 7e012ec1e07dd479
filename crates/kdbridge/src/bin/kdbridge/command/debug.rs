//! `kdbridge -- gdb` and `kdbridge -- lldb`

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;

use anyhow::{Context, bail};
use kdbridge::rsp::link::Address;
use kdbridge::serve::{Listener, Options, Server};
use signal_hook::consts::SIGINT;
use signal_hook::low_level::pipe;

use crate::args::Debugger;
use crate::attach;
use crate::output;

pub(crate) fn run(arguments: &Debugger) -> anyhow::Result<ExitCode> {
    let image = attach::image(arguments.kernel.vmlinux.as_deref())?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("kdbridge");
    let mut debugger = command(&arguments.debugger, &socket)?;
    let mut attached = attach::connect(&arguments.target, &arguments.kernel)?;
    attach::check(&mut attached, image.as_ref())?;
    let modules = attach::modules(image.clone(), &arguments.kernel)?;
    let options = Options {
        modules,
        locate: attach::locate(image, attached.xnu),
        allow_kill: false,
        remark: Box::new(|text| output::remark(text)),
    };
    let listener = Listener::bind(&Address::Unix(socket))?;
    let mut server = Server::new(attached.target, listener, options)?;
    let (end, debugger_lives) = UnixStream::pair()?;
    // The debugger gets it too, and knows what it means.
    let (_ignored, signalled) = UnixStream::pair()?;
    pipe::register(SIGINT, signalled)?;
    let status = thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(end.as_fd()));
        let status = debugger.status();
        drop(debugger_lives);
        serving
            .join()
            .map_err(|_| anyhow::anyhow!("the bridge failed"))??;
        status.with_context(|| format!("{:?}", debugger.get_program()))
    })?;
    Ok(code(status))
}

/// The debugger, told first of all to connect; files that it is given are read before that.
fn command(line: &[OsString], socket: &Path) -> anyhow::Result<Command> {
    let (program, arguments) = line.split_first().context("name a debugger after `--`")?;
    let name = PathBuf::from(program);
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let socket = socket.display();
    let connect = if name.contains("lldb") {
        [
            "-o".to_owned(),
            format!("process connect -p gdb-remote unix-connect://{socket}"),
        ]
    } else if name.contains("gdb") {
        ["-ex".to_owned(), format!("target remote {socket}")]
    } else {
        bail!("{name} is neither gdb nor lldb; `kdbridge serve` is for any debugger");
    };
    let mut command = Command::new(program);
    command.args(connect).args(arguments);
    Ok(command)
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
