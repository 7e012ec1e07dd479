//! `portolan sandbox`: what is known about walls.

mod selftest;

use crate::args::sandbox::Sandbox;

pub(crate) fn run(command: &Sandbox) -> anyhow::Result<()> {
    match command {
        Sandbox::Selftest(options) => selftest::run(options),
    }
}
