//! `kdbridge serve` in front of the kernel.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::build::Built;

pub(crate) struct Command {
    child: Child,
    pub(crate) folder: TempDir,
}

impl Command {
    /// In front of what is at `place`, at the path `bridge` in its folder.
    pub(crate) fn serve(built: &Built, place: &str, more: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let listen = format!("unix:{}", folder.path().join("bridge").display());
        Self::start(
            folder,
            built,
            place,
            &[&["--listen", &listen], more].concat(),
        )
    }

    /// The same at a port.
    pub(crate) fn serve_at_a_port(built: &Built, place: &str, more: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        Self::start(folder, built, place, &[&["--listen", ":0"], more].concat())
    }

    fn start(folder: TempDir, built: &Built, place: &str, more: &[&str]) -> Self {
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_kdbridge"))
            .args(["serve", place, "--files"])
            .arg(built.folder())
            .args(more)
            .env("XDG_CACHE_HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kdbridge");
        Self { child, folder }
    }

    /// Waits until debuggers can connect; gives where, or nothing if it has ended.
    pub(crate) fn is_ready(&mut self) -> Option<String> {
        let out = self.child.stdout.take().expect("a pipe");
        let line = BufReader::new(out).lines().next()?.expect("text");
        line.strip_prefix("debuggers connect to ")
            .map(str::to_owned)
    }

    /// The first lines of what it remarked, as many as are wanted.
    pub(crate) fn remarks(&mut self, lines: usize) -> String {
        let errors = self.child.stderr.take().expect("a pipe");
        let lines = BufReader::new(errors).lines().take(lines);
        lines.map(|line| line.expect("text") + "\n").collect()
    }

    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        let mut errors = self.child.stderr.take().expect("a pipe");
        errors.read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}
