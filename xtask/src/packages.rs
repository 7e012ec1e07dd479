//! Debian's packages, which are downloaded and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::command;

/// How large a package is that apt knows.
pub(crate) fn megabytes(package: &str) -> anyhow::Result<u64> {
    let record =
        command::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let record = String::from_utf8_lossy(&record);
    let size = record.lines().find_map(|line| line.strip_prefix("Size: "));
    let bytes: u64 = size.context("a package without a size")?.trim().parse()?;
    Ok(bytes / 1_000_000)
}

/// Takes the named files out of a package: the whole one would be gigabytes.
pub(crate) fn unpack(
    downloads: &Path,
    package: &str,
    root: &Path,
    files: impl Iterator<Item = String>,
) -> anyhow::Result<()> {
    fs::create_dir_all(root)?;
    let mut packer = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive(downloads, package)?)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let tar = packer.stdout.take().context("dpkg-deb has no output")?;
    let status = Command::new("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(root)
        .args(files.map(|file| format!("./{file}")))
        .stdin(tar)
        .status()?;
    packer.wait()?;
    if !status.success() {
        bail!("{package} does not have the files that it should have");
    }
    Ok(())
}

fn archive(downloads: &Path, package: &str) -> anyhow::Result<PathBuf> {
    let start = format!("{package}_");
    for entry in fs::read_dir(downloads)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            return Ok(entry.path());
        }
    }
    bail!("{package} was not downloaded")
}
