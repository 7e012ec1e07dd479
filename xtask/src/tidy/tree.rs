//! The files of the repository, read once.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::source::RustFile;

/// What nobody has written. In a linked work tree `.git` is a file.
const NOT_WRITTEN: &[&str] = &[".git", "fuzz/corpus", "fuzz/artifacts"];

/// A text file; `path` is relative to the root, with `/` between its parts.
pub(super) struct TextFile {
    pub(super) path: String,
    pub(super) text: String,
}

pub(super) struct Tree {
    files: Vec<TextFile>,
    folders: Vec<String>,
    rust: Vec<RustFile>,
}

impl Tree {
    /// Reads every text file below `root` but those of git, cargo's target folders, and the inputs
    /// that a fuzzer keeps.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self {
            files: Vec::new(),
            folders: Vec::new(),
            rust: Vec::new(),
        };
        tree.read_folder(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        let sources = tree.files.iter().filter(|file| file.path.ends_with(".rs"));
        tree.rust = sources
            .map(|file| RustFile::new(&file.path, &file.text))
            .collect();
        Ok(tree)
    }

    pub(super) fn files(&self) -> &[TextFile] {
        &self.files
    }

    pub(super) fn rust(&self) -> &[RustFile] {
        &self.rust
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        let file = self.files.iter().find(|file| file.path == path)?;
        Some(&file.text)
    }

    /// Whether `path` names a text file or a folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.text(path).is_some() || self.folders.iter().any(|folder| folder == path)
    }

    fn read_folder(&mut self, folder: &Path, path: &str) -> anyhow::Result<()> {
        // Cargo marks its target folders with this file.
        if folder.join("CACHEDIR.TAG").exists() {
            return Ok(());
        }
        self.folders.push(path.to_owned());
        let entries = fs::read_dir(folder).with_context(|| format!("cannot list {path:?}"))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            if NOT_WRITTEN.contains(&path.as_str()) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.read_folder(&entry.path(), &path)?;
            } else if kind.is_file() {
                let bytes =
                    fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                self.files.extend(
                    String::from_utf8(bytes)
                        .ok()
                        .map(|text| TextFile { path, text }),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of the given files, for the tests of the checks.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let files: Vec<TextFile> = files
            .iter()
            .map(|&(path, text)| TextFile {
                path: path.to_owned(),
                text: text.to_owned(),
            })
            .collect();
        let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
        let rust = rust
            .map(|file| RustFile::new(&file.path, &file.text))
            .collect();
        let parents = files.iter().filter_map(|file| file.path.rsplit_once('/'));
        let folders = parents.map(|(folder, _)| folder.to_owned()).collect();
        Self {
            files,
            folders,
            rust,
        }
    }
}
