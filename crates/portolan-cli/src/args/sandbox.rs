//! The commands about walls.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
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

#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// Only in this tier, which must be there.
    #[arg(long)]
    pub(crate) tier: Option<Tier>,
    /// As if user namespaces were off on this machine, so that there is no T2.
    #[arg(long)]
    pub(crate) no_namespaces: bool,
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
