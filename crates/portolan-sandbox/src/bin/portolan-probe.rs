//! `portolan-probe`: tries to get out of the walls, for `portolan sandbox selftest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    portolan_sandbox::selftest::program(&arguments)
}
