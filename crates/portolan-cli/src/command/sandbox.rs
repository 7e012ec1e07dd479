//! `portolan sandbox`: what confined programs may do, what they were refused, and whether their walls
//! hold.

mod check;
mod explain;
mod log;
mod selftest;
mod subject;

use std::process::ExitCode;

use crate::args::sandbox::Sandbox;

pub(crate) fn run(command: &Sandbox) -> anyhow::Result<ExitCode> {
    match command {
        Sandbox::Check(options) => check::run(options),
        Sandbox::Explain(options) => explain::run(options).map(|()| ExitCode::SUCCESS),
        Sandbox::Log(options) => log::run(options).map(|()| ExitCode::SUCCESS),
        Sandbox::Selftest(options) => selftest::run(options).map(|()| ExitCode::SUCCESS),
    }
}
