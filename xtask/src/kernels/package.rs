//! Kernels from Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command::{output, run, say};
use crate::packages::{megabytes, unpack};

/// The release of the newest kernel of a version, such as `6.1.0-57-cloud-amd64`.
pub(crate) fn newest(version: &str) -> anyhow::Result<String> {
    let names = output(Command::new("apt-cache").args(["pkgnames", PREFIX]))?;
    let names = String::from_utf8(names)?;
    let releases = names.lines().filter_map(|name| name.strip_prefix(PREFIX));
    let start = format!("{version}.");
    let ours = releases.filter(|name| name.starts_with(&start) && name.ends_with(FLAVOUR));
    let newest = ours.max_by_key(|name| numbers(name));
    newest.map(str::to_owned).with_context(|| {
        format!("apt knows no kernel {version}: is this Debian 12, and is `apt-get update` done?")
    })
}

const PREFIX: &str = "linux-image-";

/// The smallest ones, for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";

fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|number| number.parse().ok()).collect()
}

/// The kernel of this release, which is downloaded if it has not been.
pub(crate) fn kernel(directory: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let file = format!("boot/vmlinuz-{release}");
    let kernel = directory.join(&file);
    if kernel.exists() {
        return Ok(kernel);
    }
    let package = format!("{PREFIX}{release}");
    say(&format!(
        "{package}: {} MB to download",
        megabytes(&package)?
    ));
    let downloads = directory.join(format!("download-{release}"));
    fs::create_dir_all(&downloads)?;
    let mut download = Command::new("apt-get");
    run(download
        .args(["download", "-q", &package])
        .current_dir(&downloads))?;
    unpack(&downloads, &package, directory, [file].into_iter())?;
    fs::remove_dir_all(&downloads)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("6.1.0-9-cloud-amd64") < numbers("6.1.0-10-cloud-amd64"));
        assert!(numbers("6.12.107+deb12-cloud-amd64") < numbers("6.12.117+deb12-cloud-amd64"));
    }
}
