//! The `portolan` command: glue between the command line and the libraries.

mod advice;
mod args;
mod command;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;

fn main() -> ExitCode {
    if let Some(code) = portolan_sandbox::launch::instead() {
        return code;
    }
    let arguments = Arguments::parse();
    match command::run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::from(exit::code(&error))
        }
    }
}
