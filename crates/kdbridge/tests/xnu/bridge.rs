//! The bridge in front of a kernel, and debuggers that connect to it.

use std::path::{Path, PathBuf};

use kdbridge::serve::Locate;
use kdbridge::target::Target;

use crate::build::Built;
use crate::debugger;
use crate::serving::Serving;

/// A bridge on a socket with a path; it ends with this.
pub(crate) struct Bridge(Serving);

impl Bridge {
    pub(crate) fn start<T: Target + Send + 'static>(target: T, locate: Locate) -> Self {
        Self(Serving::start(target, locate))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.socket()
    }

    /// As `kdbridge` calls it.
    pub(crate) fn place(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub(crate) fn gdb(&self, commands: &[&str]) -> String {
        gdb(&self.socket(), commands)
    }

    /// What lldb says. On Linux it looks for extensions among the files that it knows.
    pub(crate) fn lldb(&self, built: &Built, commands: &[&str]) -> String {
        let extension = format!("target modules add {}", built.kext().display());
        debugger::lldb(&built.kernel(), &self.socket(), &[&extension], commands)
    }
}

/// What gdb says to these commands after it has connected. It is given no file.
pub(crate) fn gdb(socket: &Path, commands: &[&str]) -> String {
    debugger::gdb("gdb", None, socket, commands)
}
