//! Looking through folders for files, and opening them.

use std::fs::{self, File, FileType};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// No folder is looked into deeper than this. A kernel debug kit has its bundles six folders down.
const DEEPEST: usize = 12;

/// No more files and folders than this are met in one search; a kernel's own folder has 150 000 after it was
/// built.
pub(crate) const MOST_ENTRIES: usize = 4_000_000;

/// Opens a file to read it. What is none (a pipe, a device) is neither waited for nor read.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}

/// Shows all files below `folder` to `see`, until that breaks off: those of a folder before those of the
/// folders in it. `left` is how many files and folders may be met, and is counted down. Links to folders are
/// not followed.
pub(crate) fn walk(
    folder: &Path,
    left: &mut usize,
    see: &mut dyn FnMut(&Path) -> ControlFlow<()>,
) -> ControlFlow<()> {
    walk_within(folder, DEEPEST, left, see)
}

fn walk_within(
    folder: &Path,
    depth: usize,
    left: &mut usize,
    see: &mut dyn FnMut(&Path) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(fewer) = left.checked_sub(1) else {
            return ControlFlow::Continue(());
        };
        *left = fewer;
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            folders.push(entry.path());
        } else if is_file(&entry.path(), kind) {
            see(&entry.path())?;
        }
    }
    let Some(depth) = depth.checked_sub(1) else {
        return ControlFlow::Continue(());
    };
    folders.sort();
    let mut folders = folders.iter();
    folders.try_for_each(|it| walk_within(it, depth, left, see))
}

/// Whether it is a regular file, or a link to one.
fn is_file(path: &Path, kind: FileType) -> bool {
    kind.is_file() || kind.is_symlink() && path.is_file()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    fn seen(folder: &Path, mut left: usize, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let flow = walk(folder, &mut left, &mut |path| {
            seen.push(path.strip_prefix(folder).unwrap().display().to_string());
            match path.ends_with(last) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert_eq!(flow.is_break(), seen.iter().any(|it| it.ends_with(last)));
        seen
    }

    #[test]
    fn files_come_before_those_of_folders_until_there_are_enough() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        for file in ["top", "b/middle", "b/c/low", "a/other"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/round")).unwrap();
        let all = seen(folder.path(), 100, "nowhere");
        assert_eq!(all.first().unwrap(), "top");
        assert_eq!(&all[2..], ["b/middle", "b/c/low"]);
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(seen(folder.path(), 100, "top"), ["top"]);
        assert_eq!(seen(folder.path(), 0, "nowhere").len(), 0);
    }
    #[test]
    fn what_is_no_file_is_neither_shown_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("vmlinux"), folder.path().join("file"));
        mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(&pipe, folder.path().join("to-pipe")).unwrap();
        let mut all = seen(folder.path(), 100, "nowhere");
        all.sort();
        assert_eq!(all, ["file", "link"]);
        open_file(&file).unwrap();
        for none in [&pipe, Path::new("/dev/null"), folder.path()] {
            let error = open_file(none).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file");
        }
    }
}
