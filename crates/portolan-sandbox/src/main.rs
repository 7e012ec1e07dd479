//! `portolan-launch`: confines itself by a profile, and becomes the program that it is for.
//!
//! It is started as `portolan-launch NUMBER NAME ARGUMENTS…`: the number of the descriptor with the
//! sealed profile, the name that the program gets for its own, and its arguments. What it hands on
//! is told by the environment: the bootstrap right by `PORTOLAN_BOOTSTRAP_FD`, sockets by
//! `LISTEN_FDS`. As `portolan-launch --trace SOCKET NUMBER NAME ARGUMENTS…` it confines nothing, and the
//! calls of the program are looked at through the socket. As `portolan-launch --probe` it tries the tiers and prints what it found.
//!
//! It has one thread, and never any input but the profile.

mod launch;

use std::process::ExitCode;

fn main() -> ExitCode {
    launch::run(std::env::args_os().skip(1).collect())
}
