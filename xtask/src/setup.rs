//! Programs that chores need and that do not come with Rust.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::command::{self, say, succeeds};

/// A program, the Debian package that has it, and what needs it.
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// Add a line here when a test or a chore starts a program that a machine with only Rust does not have.
const TOOLS: &[Tool] = &[
    Tool {
        program: "c++",
        package: "g++",
        why: "compiles the fuzzing engine for `cargo xtask fuzz` and `lint`",
    },
    Tool {
        program: "python3",
        package: "python3",
        why: "is a foreign daemon, a service manager, and a program that runs inside the walls, in tests",
    },
    Tool {
        program: "nginx",
        package: "nginx-light",
        why: "is a foreign daemon in tests with real jobs",
    },
    Tool {
        program: "curl",
        package: "curl",
        why: "runs inside the walls in the tests of portolan-sandbox",
    },
    Tool {
        program: "sqlite3",
        package: "sqlite3",
        why: "runs inside the walls in the tests of portolan-sandbox",
    },
];

/// Components of the Rust toolchain: cargo subcommands that cannot be had from Debian.
const COMPONENTS: &[&str] = &["fmt", "clippy"];

/// Sees to it that every tool is there.
pub(crate) fn run() -> anyhow::Result<()> {
    for component in COMPONENTS {
        if !succeeds(Command::new("cargo").args([component, "--version"])) {
            say(&format!(
                "cargo {component} is missing: `rustup component add` brings it"
            ));
        }
    }
    ensure(TOOLS)
}

/// Sees to it that these are there: installs what is missing where that is possible, and names what
/// still is. In CI that is an error.
pub(crate) fn ensure(tools: &[Tool]) -> anyhow::Result<()> {
    let wanted = missing_tools(tools);
    if wanted.is_empty() {
        return Ok(());
    }
    if is_root() && Path::new("/etc/debian_version").exists() {
        install(&wanted)?;
    }
    let still = missing_tools(tools);
    for tool in &still {
        say(&format!(
            "missing: {} (Debian package {}): {}",
            tool.program, tool.package, tool.why
        ));
    }
    if !still.is_empty() && env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("{} programs are missing", still.len());
    }
    Ok(())
}

fn install(tools: &[&Tool]) -> anyhow::Result<()> {
    command::run(Command::new("apt-get").args(["update", "-q"]))?;
    command::run(
        Command::new("apt-get")
            .args(["install", "-q", "-y", "--no-install-recommends"])
            .args(tools.iter().map(|tool| tool.package))
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Those that no folder of `PATH` has.
pub(crate) fn missing_tools(tools: &[Tool]) -> Vec<&Tool> {
    missing(tools, &env::var_os("PATH").unwrap_or_default())
}

fn missing<'a>(tools: &'a [Tool], path: &OsStr) -> Vec<&'a Tool> {
    let found = |tool: &&Tool| {
        env::split_paths(path).any(|folder| is_executable(&folder.join(tool.program)))
    };
    tools.iter().filter(|tool| !found(tool)).collect()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Files that a process makes carry its uid; `/proc/self` does too, and needs no system call crate.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absent_programs_are_missing() {
        let tools = [
            Tool {
                program: "sh",
                package: "dash",
                why: "there on every machine",
            },
            Tool {
                program: "no-such-program",
                package: "none",
                why: "nowhere",
            },
        ];
        let names: Vec<_> = missing(&tools, OsStr::new("/nowhere:/bin"))
            .iter()
            .map(|tool| tool.program)
            .collect();
        assert_eq!(names, ["no-such-program"]);
    }
}
