//! A virtual machine, from its start to its end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::command::say;

/// What the self-test came to, in each way that it was run.
pub(super) type Results = BTreeMap<String, Ran>;

#[derive(Default)]
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) lines: Vec<String>,
}

impl Ran {
    pub(super) fn has_line(&self, is_it: impl Fn(&str) -> bool) -> bool {
        self.lines.iter().any(|line| is_it(line))
    }
}

/// Ends with its owner.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // After an error it must not stay behind; one that has ended cannot be killed.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The longest that a machine may take. It is emulated, because KVM inside of virtual machines cannot be
/// relied on, and so takes about thirty times as long as this one.
const SECONDS: &str = "1800";

/// Runs the tests of the image under this kernel, and prints what they print.
pub(super) fn run(kernel: &Path, image: &Path) -> anyhow::Result<Results> {
    let mut command = Command::new("timeout");
    command
        .args([
            SECONDS,
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2"])
        .args([
            "-serial",
            "stdio",
            "-no-reboot",
            "-append",
            "console=ttyS0 quiet panic=-1",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let child = command
        .spawn()
        .context("qemu-system-x86 is not installed")?;
    let mut machine = Machine(child);
    let output = machine.0.stdout.take().context("no output")?;
    read(BufReader::new(output).lines())
}

fn read(lines: impl Iterator<Item = std::io::Result<String>>) -> anyhow::Result<Results> {
    let mut results = Results::new();
    let mut way = None;
    for line in lines {
        let line = line?;
        let line = line.trim_end();
        say(line);
        match (line.strip_prefix("@ "), &way) {
            (Some(mark), _) if mark.starts_with("begin ") => {
                way = mark.strip_prefix("begin ").map(str::to_owned);
            }
            (Some(mark), Some(name)) => {
                let code = mark.strip_prefix("end ").context("an unknown mark")?;
                results.entry(name.clone()).or_default().code = code.parse()?;
                way = None;
            }
            (Some(_), None) => {}
            (None, Some(name)) => {
                let ran = results.entry(name.clone()).or_default();
                ran.lines.push(line.to_owned());
            }
            (None, None) => {}
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_other_lines() {
        let text =
            "noise\r\n@ kernel 6.1\n@ begin on root\nT1: x\n@ end 0\n@ begin off user\n@ end 78\n";
        let results = read(text.lines().map(|line| Ok(line.to_owned()))).expect("results");
        assert_eq!(results["on root"].lines, ["T1: x"]);
        assert_eq!(results["off user"].code, 78);
        assert_eq!(results.len(), 2);
    }
}
