//! The command itself.

mod boot_args;
mod guide;
mod pages;

use std::process::{Command, Output};

fn kdbridge(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    command.args(arguments).output().expect("kdbridge")
}

/// What it prints if all is well.
fn said(arguments: &[&str]) -> String {
    let output = kdbridge(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}
