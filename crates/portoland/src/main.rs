//! The bootstrap server of this user.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use portoland::daemon::{self, Mode};

/// The bootstrap server of this user: publishes names and hands out rights to them.
#[derive(Debug, Parser)]
#[command(name = "portoland", version)]
struct Arguments {
    /// The directory of the socket; where clients look for it if not given.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Go to the background.
    #[arg(long, hide = true)]
    detach: bool,
    /// Already in the background.
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mode = match (arguments.detach, arguments.detached) {
        (true, _) => Mode::Detach,
        (_, true) => Mode::Detached,
        _ => Mode::Foreground,
    };
    daemon::log_to_stderr();
    let directory = arguments.directory.unwrap_or_else(daemon::directory);
    match daemon::run(&directory, mode) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{}", daemon::chain(&error));
            ExitCode::FAILURE
        }
    }
}
