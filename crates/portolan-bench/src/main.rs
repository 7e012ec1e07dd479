//! Portolan and what a user would pick instead, measured in one run.
//!
//! The process that is started measures nothing. For each cell of the table it starts this program
//! again as server and as clients (`role.rs`), tells them when to begin (`session.rs`), and gathers
//! what they found (`report.rs`). All peers of a workload take turns within a round, so each can be
//! compared with the raw socket of the same round.

mod cell;
mod jobs;
mod machine;
mod measure;
mod payload;
mod peer;
mod place;
mod plan;
mod process;
mod report;
mod role;
mod rounds;
mod session;

use std::io::{self, Write};

use clap::{Parser, Subcommand};

use cell::Workload;
use peer::Peer;
use role::Role;

/// Measures Portolan beside other ways to talk between processes, and prints a table.
#[derive(Debug, Parser)]
#[command(
    name = "portolan-bench",
    version,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Measurement>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Take less than 40 seconds: Portolan, Unix sockets and the limits; W1, W3 and W7.
    #[arg(long)]
    quick: bool,
    /// Only these workloads.
    #[arg(long, value_enum, value_delimiter = ',', ignore_case = true)]
    workload: Vec<Workload>,
    /// Only these variants, as the tables name them.
    #[arg(long, value_delimiter = ',')]
    variant: Vec<String>,
    /// Only these peers, and seqpacket, which the others are compared with.
    #[arg(long, value_enum, value_delimiter = ',')]
    peer: Vec<Peer>,
    /// How often each peer has its turn.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each cell is measured, whatever the plan says.
    #[arg(long, hide = true)]
    budget_ms: Option<u64>,
    #[arg(long, hide = true, value_enum, requires = "cell")]
    role: Option<Role>,
    #[arg(long, hide = true)]
    cell: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Measure the bootstrap server as a manager of jobs instead.
    Jobs(jobs::Options),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Measurement::Jobs(options)) = &arguments.command {
        return jobs::run(options);
    }
    if let (Some(role), Some(cell)) = (arguments.role, &arguments.cell) {
        return role::play(role, cell);
    }
    let report = rounds::run(&rounds::Wish {
        quick: arguments.quick,
        workloads: arguments.workload,
        variants: arguments.variant,
        peers: arguments.peer,
        rounds: arguments.rounds,
        budget: arguments.budget_ms.map(std::time::Duration::from_millis),
    })?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{}", report.markdown())?;
    }
    Ok(())
}
