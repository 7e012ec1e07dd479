//! The system inside the virtual machine: busybox, a few modules, and a shell on the serial line
//! that says nothing of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Lab;
use crate::cpio::Archive;

/// What the kernel starts. A test reads `lab ready` from one serial line and then writes commands to
/// the other, each of which is run as it is read. No prompt and no echo come in between.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ifconfig lo up
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -onlcr
exec 3</dev/ttyS1
stty -echo <&3
echo lab ready
while read -r line <&3; do eval \"$line\"; done
";

pub(super) fn build(lab: &Lab, release: &str) -> anyhow::Result<()> {
    let mut archive = Archive::new(Vec::new());
    for folder in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        archive.folder(folder)?;
    }
    archive.program("init", INIT.as_bytes())?;
    archive.program("bin/busybox", &read(&busybox()?)?)?;
    for module in super::MODULES {
        let file = lab
            .root()
            .join(format!("lib/modules/{release}/kernel/{module}"));
        let name = file.file_name().context("a module without a name")?;
        archive.program(&format!("modules/{}", name.display()), &read(&file)?)?;
    }
    // Tests may be reading the old one.
    let new = lab.0.join(format!("initramfs-{}", std::process::id()));
    fs::write(&new, archive.finish()?)?;
    fs::rename(&new, lab.initramfs())?;
    Ok(())
}

pub(crate) fn busybox() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("busybox"));
    files
        .find(|file| file.exists())
        .context("busybox is missing")
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {file:?}"))
}
