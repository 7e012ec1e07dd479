//! `portolan run`.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use portolan::JobLabel;
use portolan::bootstrap::Bootstrap;
use portolan_sandbox::Entitlements;
use rustix::io::FdFlags;

use crate::args::Run;
use crate::{exit, output};

/// The environment variable that tells a program where its bootstrap right is.
pub(super) const INHERITED_FD: &str = "PORTOLAN_BOOTSTRAP_FD";

pub(crate) fn run(options: &Run) -> anyhow::Result<()> {
    let (program, arguments) = options.program.split_first().context("no program")?;
    let label = match &options.label {
        Some(label) => label.clone(),
        None => label_of(Path::new(program))?,
    };
    // Read here first, so that what is wrong with the file is said with its position.
    let read = Entitlements::read_with_text(&options.entitlements);
    let (entitlements, text) = read.map_err(exit::configuration)?;
    let right = Bootstrap::from_env()?
        .confine(&label, &text)
        .with_context(|| format!("cannot get a bootstrap right for {label}"))?;
    let Ok(socket) = right.into_socket() else {
        anyhow::bail!("the bootstrap right is in use")
    };
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    let checked = match entitlements.app_sandbox {
        true => {
            "names are checked against the entitlements; \
                 the program is not locked in at the operating system"
        }
        false => "without com.apple.security.app-sandbox, any name may be used",
    };
    output::remark(format_args!("{label}: {checked}"));
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket).to_string();
    let error = Command::new(program)
        .args(arguments)
        .env(INHERITED_FD, number)
        .exec();
    Err(exit::not_executed(program, error))
}

fn label_of(program: &Path) -> anyhow::Result<JobLabel> {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.parse()
        .with_context(|| format!("{} is no label; give one", program.display()))
}
