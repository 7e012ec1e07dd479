//! The `kdbridge` command: glue between the command line and the library.

mod args;
mod attach;
mod command;
mod output;
mod place;
mod session;
mod signals;
mod xnu;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::signals::Ended;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match command::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            output::remark(format_args!("{error:#}"));
            let ended = error.downcast_ref::<Ended>();
            ended.map_or(ExitCode::FAILURE, |ended| ended.status().into())
        }
    }
}
