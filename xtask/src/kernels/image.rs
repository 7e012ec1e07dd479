//! The file system of a virtual machine: an archive that the kernel unpacks into memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command::{output, run};
use crate::cpio::Archive;
use crate::kernel_lab::initramfs::busybox;

const PROGRAMS: &[&str] = &["portolan", "portolan-launch", "portolan-probe"];

const INIT: &str = include_str!("init.sh");
const TEST: &str = include_str!("test.sh");

/// Makes the archive out of the programs in a folder.
pub(super) fn make(programs: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let mut files = Vec::new();
    let mut libraries = BTreeSet::new();
    let stripped = directory.join("stripped");
    for program in PROGRAMS {
        let built = programs.join(program);
        libraries.extend(libraries_of(&built)?);
        run(Command::new("strip").arg("-o").arg(&stripped).arg(&built))?;
        files.push((format!("usr/bin/{program}"), read(&stripped)?));
    }
    fs::remove_file(&stripped)?;
    for library in libraries {
        let name = library.trim_start_matches('/').to_owned();
        files.push((name, read(Path::new(&library))?));
    }
    files.push(("bin/busybox".to_owned(), read(&busybox()?)?));
    files.push(("init".to_owned(), INIT.into()));
    files.push(("test".to_owned(), TEST.into()));
    let image = directory.join("initramfs.cpio");
    fs::write(&image, archive(&files)?)?;
    Ok(image)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The absolute paths that `ldd` prints.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<String>> {
    let listed = String::from_utf8(output(Command::new("ldd").arg(program))?)?;
    let words = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    Ok(words.map(str::to_owned).collect())
}

/// With the folders of the files, and those that something is mounted at.
fn archive(files: &[(String, Vec<u8>)]) -> anyhow::Result<Vec<u8>> {
    let mut folders: BTreeSet<&str> = ["new"].into();
    for (name, _) in files {
        let above = Path::new(name).ancestors().skip(1);
        folders.extend(
            above
                .filter_map(Path::to_str)
                .filter(|name| !name.is_empty()),
        );
    }
    let mut archive = Archive::new(Vec::new());
    for folder in folders {
        archive.folder(folder)?;
    }
    for (name, bytes) in files {
        archive.program(name, bytes)?;
    }
    Ok(archive.finish()?)
}
