//! `cargo xtask`: the chores of this repository, so that a person and CI run the same thing.

mod chores;
mod command;
mod cpio;
mod fuzz;
mod kernel_lab;
mod kernels;
mod packages;
mod setup;
mod tidy;

use std::process::ExitCode;

use clap::{Args, Parser, ValueEnum, value_parser};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    max_term_width = 100
)]
enum Chore {
    /// Install, or name, the programs that chores need beside Rust
    Setup,
    /// Run every test: doc tests, unit tests, and the end-to-end tests with their programs
    Test,
    /// Check the rules of the code base that no compiler checks
    Tidy,
    /// Build the documentation of the workspace; a warning is an error
    Doc,
    /// Formatting, clippy, tidy and documentation: all of `ci` that runs nothing
    Lint,
    /// Feed random input to a fuzz target, or to each in turn; needs a C++ compiler
    Fuzz {
        /// A target of fuzz/Cargo.toml
        target: Option<String>,
        #[command(flatten)]
        time: Time,
    },
    /// Run the ring in every interleaving that loom can make of its steps
    Loom,
    /// Repeat the tests under load, or a part of them; `--seconds` is for each
    Soak {
        /// Which of them
        part: Option<SoakPart>,
        #[command(flatten)]
        time: Time,
    },
    /// Repeat the tests with a hostile peer and random input; `--seconds` is for each
    Hostile(Time),
    /// Bring what the tests of kdbridge with a real kernel need: programs, and 430 MB of Debian packages
    KernelLab,
    /// Measure the bootstrap server as a manager of jobs; `portolan-bench` measures messages
    Measure {
        /// Take less than 30 seconds
        #[arg(long)]
        quick: bool,
    },
    /// Run the self-test of the walls under other kernels, in virtual machines; not a part of `ci`
    ///
    /// Needs Debian, qemu-system-x86 and busybox-static, and downloads kernels of about 30 MB each.
    /// The machines are emulated, which takes several minutes for each.
    Kernels {
        /// Only those of these versions, such as 6.12, or another kernel by its path, such as /boot/vmlinuz
        #[arg(value_name = "VERSION|FILE")]
        kernels: Vec<String>,
    },
    /// All that CI does: `test`, a minute of `soak`, `hostile`, `loom` and `fuzz`, then `lint`
    Ci,
}

/// A part of the tests under load.
#[derive(Clone, Copy, ValueEnum)]
enum SoakPart {
    /// The bootstrap server with jobs
    Jobs,
}

#[derive(Args)]
struct Time {
    /// How long to go on
    #[arg(long, default_value_t = 600, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Chore::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> anyhow::Result<()> {
    let root = command::workspace_root()?;
    match chore {
        Chore::Setup => setup::run(),
        Chore::Test => chores::test(&root),
        Chore::Tidy => tidy::run(&root),
        Chore::Doc => chores::doc(&root),
        Chore::Lint => chores::lint(&root),
        Chore::Fuzz { target, time } => fuzz::fuzz(&root, target.as_deref(), time.seconds),
        Chore::Loom => chores::loom(&root),
        Chore::Soak { part: None, time } => chores::soak(&root, time.seconds),
        Chore::Soak {
            part: Some(SoakPart::Jobs),
            time,
        } => chores::soak_jobs(&root, time.seconds),
        Chore::Hostile(time) => chores::hostile(&root, time.seconds),
        Chore::KernelLab => kernel_lab::run(&root),
        Chore::Measure { quick } => chores::measure(&root, *quick),
        Chore::Kernels { kernels } => kernels::test(&root, kernels),
        Chore::Ci => chores::ci(&root),
    }
}
