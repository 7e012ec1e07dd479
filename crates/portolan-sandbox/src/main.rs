//! `portolan-launch`: confines itself by a profile, and becomes the program that it is for. See
//! [`portolan_sandbox::launch`].

use std::process::ExitCode;

fn main() -> ExitCode {
    portolan_sandbox::launch::run(std::env::args_os().skip(1).collect())
}
