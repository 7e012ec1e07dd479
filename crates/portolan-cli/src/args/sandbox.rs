//! `portolan sandbox`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portolan::JobLabel;
use portolan_sandbox::profile::Isolation;

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// Tell whether a confined program may do something, by which rule, and what would let it.
    ///
    /// The operations are `mach-register` and `mach-lookup` on a name; `ipc-posix-shm` and
    /// `ipc-posix-sem` on memory and semaphores of a group; `file-read`, `file-write` and
    /// `process-exec` on a path; `network-outbound` and `network-inbound` on nothing; and
    /// `network-outbound` and `network-bind` on a socket in a group's container, which is named
    /// `<group>/<path>`. Nothing is tried: what the owner and the mode of a file forbid is not looked
    /// at. The exit code is 0 if the program may, and 1 if not.
    Check(Check),
    /// Tell what a confined program has: its containers, groups, names, files and network, how it is
    /// locked in on this machine, and what is missing for a stronger wall.
    Explain(Explain),
    /// Print what was refused to confined programs, and the entitlement that would have allowed it.
    ///
    /// These are the refusals of the bootstrap server, which keeps the last 128 of each program. Those of
    /// the kernel, such as of the opening of a file, are there for programs that `portolan run --report`
    /// runs, and for jobs with `ReportRefusals`.
    Log(Violations),
    /// Try every known way out of the walls on this machine.
    ///
    /// Each attempt is made outside first, because what fails everywhere proves nothing, and then
    /// confined without entitlements in each tier that there is. The lines are the attempt, and what
    /// came of it outside and in each tier: `out`, the error that the kernel gave, or the signal that
    /// ended it. An attempt that is refused outside as well is `unproven`. What it takes root to
    /// do outside, of this machine or of a user namespace, is marked with a star. A test that root
    /// starts runs everything else as the user 65534.
    ///
    /// If an attempt got out that is not known to (the six leaks of T1), or something that must work
    /// did not, the exit code is 1.
    Selftest(Selftest),
}

/// Which program is meant.
#[derive(Debug, Args)]
pub(crate) struct About {
    /// A file with entitlements, for a program that does not run.
    #[arg(long, value_name = "FILE")]
    pub(crate) entitlements: Option<PathBuf>,
    /// With `--entitlements`: what the program is called; the name of the file if not given.
    #[arg(long, requires = "entitlements")]
    pub(crate) label: Option<JobLabel>,
    /// With `--entitlements`: where the program is.
    #[arg(long, requires = "entitlements")]
    pub(crate) program: Option<PathBuf>,
    /// With `--entitlements`: how it is locked in, as with `portolan run`.
    #[arg(long, default_value_t, value_name = "TIER", requires = "entitlements")]
    pub(crate) isolation: Isolation,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) about: About,
    /// The name is one that is found with the id of a process only.
    #[arg(long)]
    pub(crate) per_pid: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The label of a job, or of a program that `portolan run` runs, or a job file, unless there is
    /// `--entitlements`; the operation; and what it is on.
    #[arg(required = true, num_args = 1..=3, value_names = ["LABEL|FILE", "OPERATION", "NAME"])]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) about: About,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The label of a job, or of a program that `portolan run` runs, or a job file.
    #[arg(
        value_name = "LABEL|FILE",
        required_unless_present = "entitlements",
        conflicts_with = "entitlements"
    )]
    pub(crate) subject: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Violations {
    /// Go on with what is refused from now on.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print JSON, one line for each refusal.
    #[arg(long)]
    pub(crate) json: bool,
    /// The only program that is of interest.
    pub(crate) label: Option<JobLabel>,
}

#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// Only in this tier, which must be there.
    #[arg(long)]
    pub(crate) tier: Option<Tier>,
    /// As if user namespaces were off on this machine, so that only root's jobs have T2.
    #[arg(long)]
    pub(crate) no_namespaces: bool,
    /// With what is refused being reported, as by `portolan run --report`: to nobody, here.
    #[arg(long)]
    pub(crate) report: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the names of attempts, and what each result means.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Only the attempts with these names.
    pub(crate) attempts: Vec<String>,
}

/// A tier, by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Tier {
    /// Landlock and a filter of system calls.
    #[value(name = "T1")]
    T1,
    /// Namespaces too.
    #[value(name = "T2")]
    T2,
}
