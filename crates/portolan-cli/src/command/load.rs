//! `portolan load`.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::jobs::MAX_JOB_BYTES;
use portoland::job::is_in_container;

use super::control::each;
use super::job::Linted;
use crate::args::Load;
use crate::{exit, output};

pub(crate) fn run(options: &Load) -> anyhow::Result<()> {
    each(&options.files, |path| load(path, options.enable))
}

/// The server is asked only for a file that is good.
fn load(path: &Path, enable: bool) -> anyhow::Result<()> {
    let file = read(path).map_err(exit::configuration)?;
    let linted = Linted::read(path, &file);
    linted.lines().for_each(output::finding);
    let shown = path.display();
    let Some(job) = &linted.job else {
        return Err(exit::configuration(anyhow!("{shown} cannot be used")));
    };
    let server = Bootstrap::from_env()?;
    let absolute = std::path::absolute(path)?;
    let loaded = match enable {
        true => server.load_enabled(&absolute, &file),
        false => server.load(&absolute, &file),
    };
    loaded.with_context(|| format!("{shown}: {} is not loaded", job.label))
}

/// Looks at the file that is read, and not at whatever has its name a moment later.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    check(path, &file.metadata()?)?;
    anyhow::ensure!(
        !is_in_container(&file)?,
        "{shown} is in a container, whose program could change what is run: load a copy from elsewhere"
    );
    let mut bytes = Vec::new();
    let limit = MAX_JOB_BYTES as u64;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() > MAX_JOB_BYTES {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::FileTooLarge));
        return Err(error.context(format!("{shown} has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Whoever can write to the file decides what is run.
fn check(path: &Path, file: &Metadata) -> anyhow::Result<()> {
    let shown = path.display();
    let own = rustix::process::geteuid().as_raw();
    let uid = file.uid();
    anyhow::ensure!(file.is_file(), "{shown} is not a file");
    anyhow::ensure!(
        uid == own || uid == 0,
        "{shown} belongs to user {uid}, who could change what is run: load a copy of your own, or \
         `chown {own} {shown}`"
    );
    let others = match (file.mode() & 0o020, file.mode() & 0o002) {
        (0, 0) => return Ok(()),
        (_, 0) => "its group",
        _ => "everybody",
    };
    anyhow::bail!(
        "{shown} can be changed by {others}, and with it what is run: `chmod go-w {shown}`"
    )
}
