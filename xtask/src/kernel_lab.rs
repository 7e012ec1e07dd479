//! What the tests of `kdbridge` with a real kernel need: programs, a kernel with debug information,
//! and a small system for it to run. All of it is Debian's.
//!
//! The lab is the folder that `KDBRIDGE_LAB` names, `target/kernel-lab` else. Below `root` in it, files
//! have the paths that Debian gives them.

pub(crate) mod initramfs;
mod lldb;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command::{self, say};
use crate::kernels::package;
use crate::packages::{megabytes, unpack};
use crate::setup::{self, Tool};

/// Read by the tests of `kdbridge` too.
const VARIABLE: &str = "KDBRIDGE_LAB";

/// The name of the package with the kernel, but for the release in its middle.
const PREFIX: &str = "linux-image-";

/// The kernels that will do: the ones for virtual machines have the smallest debug information.
const SERIES: &str = "6.1.0-";
const FLAVOUR: &str = "-cloud-amd64";

/// The version of another kernel, which has no debug information here.
const OTHER: &str = "6.12";

/// Modules that tests load; the last one needs the one before it.
const MODULES: &[&str] = &[
    "drivers/net/dummy.ko",
    "drivers/block/loop.ko",
    "fs/fat/fat.ko",
    "fs/fat/vfat.ko",
];

const TOOLS: &[Tool] = &[
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "is the virtual machine that kdbridge is tested with",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
        why: "is the system inside the virtual machine",
    },
    Tool {
        program: "gdb",
        package: "gdb",
        why: "is a debugger that kdbridge is tested with",
    },
    Tool {
        program: "gdb-multiarch",
        package: "gdb-multiarch",
        why: "is a debugger that kdbridge is tested with, for a processor that is not x86-64",
    },
    Tool {
        program: "gdbserver",
        package: "gdbserver",
        why: "is a stub that kdbridge is tested with",
    },
    Tool {
        program: "lldb-19",
        package: "lldb-19",
        why: "is a debugger that kdbridge is tested with",
    },
    Tool {
        program: "lldb-server-19",
        package: "lldb-19",
        why: "is a stub that kdbridge is tested with",
    },
    Tool {
        program: "clang-19",
        package: "clang-19",
        why: "compiles the synthetic kernel that kdbridge is tested with",
    },
    Tool {
        program: "ld64.lld-19",
        package: "lld-19",
        why: "links the synthetic kernel that kdbridge is tested with",
    },
    Tool {
        program: "dsymutil-19",
        package: "llvm-19",
        why: "makes the debug information of the synthetic kernel",
    },
];

/// Brings the lab up, or leaves it as it is if nothing is missing.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    setup::ensure(TOOLS)?;
    let lab = Lab::of(root);
    fs::create_dir_all(&lab.0).with_context(|| format!("cannot make {:?}", lab.0))?;
    if !lab.has_kernel() {
        lab.fetch_kernel()?;
    }
    if !lab.has_other_kernel() {
        package::kernel(&lab.other(), &package::newest(OTHER)?)?;
    }
    if !lab.has_lldbs() {
        lab.fetch(lldb::packages().collect())?;
    }
    let release = lab.release().context("the lab has no kernel")?;
    initramfs::build(&lab, &release)?;
    say(&format!("{}: Linux {release} is ready", lab.0.display()));
    Ok(())
}

/// Whether the tests that need the lab can run.
pub(crate) fn is_there(root: &Path) -> bool {
    let lab = Lab::of(root);
    let kernels = lab.has_kernel() && lab.has_other_kernel();
    let complete = kernels && lab.has_lldbs() && lab.initramfs().exists();
    complete && setup::missing_tools(TOOLS).is_empty()
}

/// The folder.
struct Lab(PathBuf);

impl Lab {
    fn of(root: &Path) -> Self {
        let named = env::var_os(VARIABLE).map(PathBuf::from);
        Self(named.unwrap_or_else(|| root.join("target/kernel-lab")))
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs.cpio")
    }

    /// `6.1.0-48-cloud-amd64`; written when everything else is there.
    fn release(&self) -> Option<String> {
        let release = fs::read_to_string(self.0.join("release")).ok()?;
        Some(release.trim().to_owned())
    }

    fn has_kernel(&self) -> bool {
        self.release().is_some_and(|release| {
            let mut files = image_files(&release).chain(debug_files(&release));
            files.all(|file| self.root().join(file).exists())
        })
    }

    /// What belongs to the kernel without debug information.
    fn other(&self) -> PathBuf {
        self.0.join("other")
    }

    fn has_other_kernel(&self) -> bool {
        fs::read_dir(self.other().join("boot")).is_ok_and(|mut files| files.next().is_some())
    }

    fn has_lldbs(&self) -> bool {
        let mut files = lldb::packages().flat_map(|(_, files)| files);
        files.all(|file| self.root().join(file).exists())
    }

    fn fetch_kernel(&self) -> anyhow::Result<()> {
        let release = with_lists(newest_release)?;
        self.fetch(vec![
            (
                format!("{PREFIX}{release}-unsigned"),
                image_files(&release).collect(),
            ),
            (
                format!("{PREFIX}{release}-dbg"),
                debug_files(&release).collect(),
            ),
        ])?;
        fs::write(self.0.join("release"), release + "\n")?;
        Ok(())
    }

    /// Downloads packages and takes these files out of them.
    fn fetch(&self, packages: Vec<(String, Vec<String>)>) -> anyhow::Result<()> {
        for (package, _) in &packages {
            let size = with_lists(|| megabytes(package))?;
            say(&format!("{package}: {size} MB to download"));
        }
        let downloads = tempdir(&self.0)?;
        command::run(
            Command::new("apt-get")
                .args(["download", "-q"])
                .args(packages.iter().map(|(package, _)| package))
                .current_dir(&downloads),
        )?;
        for (package, files) in packages {
            unpack(&downloads, &package, &self.root(), files.into_iter())?;
        }
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }
}

fn image_files(release: &str) -> impl Iterator<Item = String> {
    let modules = format!("lib/modules/{release}/kernel");
    let files = MODULES.iter().map(move |name| format!("{modules}/{name}"));
    files.chain([format!("boot/vmlinuz-{release}")])
}

fn debug_files(release: &str) -> impl Iterator<Item = String> {
    let folder = format!("usr/lib/debug/lib/modules/{release}/kernel");
    let files = MODULES.iter().map(move |name| format!("{folder}/{name}"));
    files.chain([format!("usr/lib/debug/boot/vmlinux-{release}")])
}

/// Asks apt, which may have everything but its lists of packages.
fn with_lists<T>(ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    ask().or_else(|_| {
        command::run(Command::new("apt-get").args(["update", "-q"]))?;
        ask()
    })
}

/// A fresh folder for what is downloaded, below the lab because it takes hundreds of megabytes.
fn tempdir(lab: &Path) -> anyhow::Result<PathBuf> {
    let folder = lab.join(format!("download-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The newest kernel that Debian has debug information for.
fn newest_release() -> anyhow::Result<String> {
    let names = command::output(Command::new("apt-cache").args(["pkgnames", PREFIX]))?;
    let names = String::from_utf8_lossy(&names);
    let releases = names.lines().filter_map(debug_release);
    let newest = releases.max_by_key(|release| build_number(release));
    newest.map(str::to_owned).with_context(|| {
        format!("no package {PREFIX}{SERIES}N{FLAVOUR}-dbg; is this Debian 12, and is `apt-get update` done?")
    })
}

fn debug_release(package: &str) -> Option<&str> {
    let release = package.strip_prefix(PREFIX)?.strip_suffix("-dbg")?;
    build_number(release).map(|_| release)
}

/// 48 in `6.1.0-48-cloud-amd64`.
fn build_number(release: &str) -> Option<u32> {
    let number = release.strip_prefix(SERIES)?.strip_suffix(FLAVOUR)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_the_one_with_the_greatest_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-dbg",
            "linux-image-6.1.0-48-cloud-amd64-dbg",
            "linux-image-6.1.0-50-amd64-dbg",
            "linux-image-6.1.0-51-cloud-amd64-unsigned",
        ];
        let releases = names.into_iter().filter_map(debug_release);
        assert_eq!(
            releases.max_by_key(|release| build_number(release)),
            Some("6.1.0-48-cloud-amd64")
        );
    }
}
