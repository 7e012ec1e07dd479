//! Looking through folders for files.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// No folder is looked into deeper than this. A kernel debug kit has its bundles six folders down.
const DEEPEST: usize = 12;

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
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        } else {
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

#[cfg(test)]
mod tests {
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
        assert_eq!(&all[3..], ["b/middle", "b/c/low"]);
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(seen(folder.path(), 100, "top"), ["top"]);
        assert_eq!(seen(folder.path(), 0, "nowhere").len(), 0);
    }
}
